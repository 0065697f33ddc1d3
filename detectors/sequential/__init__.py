"""Sequential change detectors, one file each, and the catalogue that names them."""

from typing import TYPE_CHECKING, Any

from detectors.catalogue import one_of
from detectors.sequential.adwin import Adwin
from detectors.sequential.base import SequentialDetector
from detectors.sequential.cusum import Cusum
from detectors.sequential.ddm import Ddm
from detectors.sequential.eddm import Eddm
from detectors.sequential.hddm_a import HddmA
from detectors.sequential.hddm_w import HddmW
from detectors.sequential.kswin import Kswin
from detectors.sequential.page_hinkley import PageHinkley

SEQUENTIAL: dict[str, type[SequentialDetector[Any]]] = {
    "cusum": Cusum,
    "page_hinkley": PageHinkley,
    "adwin": Adwin,
    "kswin": Kswin,
    "ddm": Ddm,
    "eddm": Eddm,
    "hddm_a": HddmA,
    "hddm_w": HddmW,
}
"""Every sequential detector by its name."""

if TYPE_CHECKING:
    SequentialMethod = SequentialDetector[Any]
else:
    SequentialMethod = one_of("sequential detector", SEQUENTIAL)
"""Field type of a ModelMonitor: ``adwin``, or ``{name: adwin, delta: 0.01}``."""
