"""Outlier detectors, one file each, and the catalogue that names them."""

from typing import TYPE_CHECKING

from detectors.base import LearnedOutlierDetector, OutlierDetector
from detectors.catalogue import one_of
from detectors.outliers.autoencoder import Autoencoder
from detectors.outliers.bounds import Bounds
from detectors.outliers.isolation_forest import IsolationForest
from detectors.outliers.k_sigma import KSigma
from detectors.outliers.mad import MedianAbsoluteDeviation
from detectors.outliers.mahalanobis import Mahalanobis
from detectors.outliers.missing import Missing
from detectors.outliers.nonfinite import NonFinite
from detectors.outliers.pca_reconstruction import PcaReconstruction
from detectors.outliers.percentiles import Percentiles
from detectors.outliers.tukey import Tukey
from detectors.outliers.unseen_category import UnseenCategory
from detectors.outliers.wrong_type import WrongType

OUTLIERS: dict[str, type[OutlierDetector]] = {
    "bounds": Bounds,
    "percentiles": Percentiles,
    "k_sigma": KSigma,
    "tukey": Tukey,
    "mad": MedianAbsoluteDeviation,
    "unseen_category": UnseenCategory,
    "missing": Missing,
    "nonfinite": NonFinite,
    "wrong_type": WrongType,
    "mahalanobis": Mahalanobis,
    "pca_reconstruction": PcaReconstruction,
    "isolation_forest": IsolationForest,
    "autoencoder": Autoencoder,
}
"""Every outlier detector by its name."""

LEARNED = tuple(name for name, detector in OUTLIERS.items() if issubclass(detector, LearnedOutlierDetector))
"""Those that learn a model from the reference's rows when the baseline is built."""

if TYPE_CHECKING:
    OutlierMethod = OutlierDetector
else:
    OutlierMethod = one_of("outlier detector", OUTLIERS)
"""Field type of a ModelMonitor: ``k_sigma``, or ``{name: k_sigma, k: 4}``."""
