"""What stock Evidently has of our drift methods: the catalogue may hold more."""

import warnings

from detectors.drift import DRIFT

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from evidently.legacy.calculations.stattests import registry
    from evidently.legacy.core import ColumnType

KINDS = {"numeric": ColumnType.Numerical, "categorical": ColumnType.Categorical}
ONLY_TEXT = {"perc_text_content_drift", "abs_text_content_drift"}
REGISTERED = registry._registered_stat_tests.keys() - ONLY_TEXT
METHODS = {name: method for name, method in DRIFT.items() if name in REGISTERED}
"""Those of ours that are in Evidently's registry."""


def methods_for(kind: str) -> list[str]:
    """Those for columns of one type."""
    return [name for name, method in METHODS.items() if kind in method.applies_to]


def stock(name: str):
    """Evidently's own test of this name."""
    return next(iter(registry._registered_stat_tests[name].values()))
