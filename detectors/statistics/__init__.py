"""Sufficient statistics that add: ``a + b`` is the summary of both, whatever the partitioning."""
