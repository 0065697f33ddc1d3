"""Multivariate drift detectors, one file each, and the catalogue that names them."""

from typing import TYPE_CHECKING

from detectors.catalogue import one_of
from detectors.multivariate.base import MultivariateDetector
from detectors.multivariate.domain_classifier import DomainClassifier
from detectors.multivariate.gaussian import GaussianDivergence
from detectors.multivariate.mmd_rff import MaximumMeanDiscrepancy
from detectors.multivariate.pca import PcaReconstructionDrift

MULTIVARIATE: dict[str, type[MultivariateDetector]] = {
    "pca": PcaReconstructionDrift,
    "gaussian": GaussianDivergence,
    "mmd_rff": MaximumMeanDiscrepancy,
    "domain_classifier": DomainClassifier,
}
"""Every multivariate drift method by its name."""

if TYPE_CHECKING:
    MultivariateMethod = MultivariateDetector
else:
    MultivariateMethod = one_of("multivariate method", MULTIVARIATE)
"""Field type of a ModelMonitor: ``gaussian``, or ``{name: gaussian, threshold: 0.5}``."""
