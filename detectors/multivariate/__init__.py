"""Multivariate drift detectors, one file each."""

from detectors.multivariate.base import MultivariateDetector
MULTIVARIATE: dict[str, type[MultivariateDetector]] = {}
MultivariateMethod = MultivariateDetector
