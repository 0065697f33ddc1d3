"""From the answers about single columns to one about the data set."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from detectors.base import Direction
from detectors.frequencies import largest

_SMALLEST_P = 1e-300
_LARGEST = 1e300
"""So that the evidence of many columns can be added up."""


def adjusted(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Benjamini-Hochberg adjusted p-values: calling drifted what is at most q keeps the expected share of false calls at most q.

    It holds for independent tests and for positively dependent ones, as those of correlated features mostly are.

    Examples
    --------
    >>> adjusted([0.01, 0.04, 0.03, 0.5]).round(4).tolist()
    [0.04, 0.0533, 0.0533, 0.5]

    References
    ----------
    Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57(1); Benjamini & Yekutieli (2001), Ann. Stat. 29(4) for dependence.
    """
    if not p_values:
        return np.empty(0)
    return np.asarray(stats.false_discovery_control(np.asarray(p_values, np.float64)))


def evidence(score: float, threshold: float, direction: Direction) -> float:
    """How far a score goes towards or beyond its threshold, on one scale for all methods: at 1 it is drift.

    A distance in thresholds, none where it is negative, as a function of the user's may be; a p-value as the logarithm of it over that of its threshold.

    >>> evidence(0.3, 0.1, "distance").__round__(6), evidence(0.0025, 0.05, "p-value").__round__(6)
    (3.0, 2.0)
    """
    if not math.isfinite(score):
        return 0.0
    if direction == "distance":
        return min(max(score / threshold, 0.0), _LARGEST) if threshold > 0 else 0.0
    if threshold >= 1:
        return 0.0
    return math.log(min(max(score, _SMALLEST_P), 1.0)) / math.log(threshold)


def explained(by_column: Mapping[str, float]) -> dict[str, float]:
    """The columns with most evidence as shares of all evidence, largest first; at most five."""
    names = list(by_column)
    return largest(np.array(list(by_column.values())), lambda i: names[i])
