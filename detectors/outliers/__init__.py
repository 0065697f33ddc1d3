"""The catalogue of outlier detectors: one line each. Nothing registers itself on import."""
