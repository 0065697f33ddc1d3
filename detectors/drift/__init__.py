"""The catalogue of drift detectors: one line each. Nothing registers itself on import."""
