"""Detectors of adversarial and abusive traffic, one file each, and the catalogue that names them.

The third sign of abuse, inputs unlike any natural one, needs no detector of its own here: the scores of outlier models (the
reconstruction error of an autoencoder among them) are columns derived from each request, and drift detectors watch them.
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
