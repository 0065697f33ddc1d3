"""A load generator: rows of a table as requests, sent when they are due, changed on purpose where that is asked for."""
