"""Detectors of adversarial and abusive traffic, one file each, and the catalogue that names them.

Queries that follow a model's decision boundary also stand out by the scores of outlier models (`detectors.outliers`), which a
baseline learns and a monitor watches for drift as columns of their own: the reconstruction scores of single requests are judged there.
"""

from typing import TYPE_CHECKING

from detectors.catalogue import one_of
from detectors.traffic.base import TrafficDetector
from detectors.traffic.extraction import Extraction
from detectors.traffic.near_duplicates import NearDuplicates

TRAFFIC: dict[str, type[TrafficDetector]] = {
    "extraction": Extraction,
    "near_duplicates": NearDuplicates,
}
"""Every traffic detector by its name."""

if TYPE_CHECKING:
    TrafficMethod = TrafficDetector
else:
    TrafficMethod = one_of("traffic detector", TRAFFIC)
"""Field type of a ModelMonitor: ``extraction``, or ``{name: extraction, rows: 128}``."""
