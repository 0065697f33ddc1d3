"""Drift detectors, one file each, and the catalogue that names them."""

from typing import TYPE_CHECKING

from detectors.base import ColumnType, DriftDetector
from detectors.catalogue import one_of
from detectors.drift.anderson import AndersonDarling
from detectors.drift.chisquare import ChiSquare
from detectors.drift.cramer_von_mises import CramerVonMises
from detectors.drift.ed import EnergyDistance
from detectors.drift.empirical_mmd import EmpiricalMMD
from detectors.drift.es import EppsSingleton
from detectors.drift.fisher_exact import FisherExact
from detectors.drift.g_test import GTest
from detectors.drift.hellinger import Hellinger
from detectors.drift.jensenshannon import JensenShannon
from detectors.drift.kl_div import KullbackLeibler
from detectors.drift.ks import KolmogorovSmirnov
from detectors.drift.mannw import MannWhitney
from detectors.drift.psi import PopulationStability
from detectors.drift.t_test import StudentT
from detectors.drift.tvd import TotalVariation
from detectors.drift.wasserstein import Wasserstein
from detectors.drift.z import ProportionsZ
from detectors.for_evidently import SHORTHAND, StatTestFunction
from detectors.frequencies import union_distinct
from detectors.statistics.column import ColumnSummary

DRIFT: dict[str, type[DriftDetector]] = {
    "wasserstein": Wasserstein,
    "ks": KolmogorovSmirnov,
    "jensenshannon": JensenShannon,
    "kl_div": KullbackLeibler,
    "psi": PopulationStability,
    "hellinger": Hellinger,
    "chisquare": ChiSquare,
    "z": ProportionsZ,
    "fisher_exact": FisherExact,
    "g_test": GTest,
    "TVD": TotalVariation,
    "anderson": AndersonDarling,
    "cramer_von_mises": CramerVonMises,
    "mannw": MannWhitney,
    "t_test": StudentT,
    "ed": EnergyDistance,
    "es": EppsSingleton,
    "empirical_mmd": EmpiricalMMD,
    "callable": StatTestFunction,
}
"""Every drift method by its name, which is Evidently's where Evidently has it."""

if TYPE_CHECKING:
    DriftMethod = DriftDetector
else:
    DriftMethod = one_of("drift method", DRIFT, SHORTHAND)
"""Field type of a ModelMonitor: ``ks``, or ``{name: ks, threshold: 0.01}``, or ``mypackage.tests:my_stattest``."""

_SMALL_REFERENCE = 1000
_FEW_VALUES = 5
_TWO_VALUES = 2


DEFAULTS: dict[ColumnType, frozenset[str]] = {
    "numeric": frozenset({"ks", "wasserstein", "jensenshannon", "chisquare", "z"}),
    "categorical": frozenset({"jensenshannon", "chisquare", "z"}),
}
"""Names of the methods that `default_method` may choose for a type of column."""


def default_method(reference: ColumnSummary, window: ColumnSummary) -> DriftDetector:
    """The method that Evidently would choose for this column, with its default threshold.

    By the size of the reference, and by how many distinct values occur in reference and window together: a numeric column with at most 5
    is treated as categorical, so `chisquare` and `z` come to numeric columns in this way only.
    """
    categorical = reference.type == "categorical"
    small = reference.count <= _SMALL_REFERENCE
    if not small and categorical:
        return JensenShannon()
    distinct = union_distinct(reference, window)
    if not categorical and distinct > _FEW_VALUES:
        return KolmogorovSmirnov() if small else Wasserstein()
    if not small:
        return JensenShannon()
    return ChiSquare() if distinct > _TWO_VALUES else ProportionsZ()
