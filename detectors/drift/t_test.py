import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.special import stdtr
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Score
from detectors.distribution import distribution
from detectors.errors import NotApplicable
from detectors.frequencies import differences
from detectors.statistics.column import ColumnSummary

_ROUNDING = 8 * float(np.finfo(np.float64).eps)
_SMALLEST_SQUARES, _LARGEST_SQUARES = 1e-280, 1e300
"""Outside of these a sum of squares has lost digits to the range of floats."""


class StudentT(DriftDetector):
    """Student's two-sample t-test of equal means, two-sided, for samples of one common variance.

    ``t = (mean_ref - mean_win) / (s sqrt(1/n + 1/m))`` with ``s^2 = (m2_ref + m2_win) / (n + m - 2)``, m2 the sum of squared distances to
    the mean; p-value from Student's distribution with ``n + m - 2`` degrees of freedom. As in Evidently the variances are pooled (it is
    not Welch's test).

    Computed from count, mean and m2, which are exact at any size. Only numbers so large or so small that their squares leave the range
    of floats are scaled and taken from the values or from the ruler.

    One value on each side gives p = 1. So do means that differ by no more than their rounding (eight units in the last place), a constant
    column that stays what it was among them, of which scipy makes NaN or, from rounding alone, certain drift. A constant that changes
    gives p = 0.

    Parameters
    ----------
    threshold
        Drift is declared below it. A probability.

    Notes
    -----
    Misleads when the drift is not in the mean: a feature may spread out or split in two unseen. In small windows of heavy-tailed
    features one value decides; in large ones it finds differences too small to matter. With unequal sizes and unequal variances the
    p-value is wrong in either direction. Nearest neighbours: `mannw`, which compares ranks and looks one way only; `wasserstein`, which
    is at least the difference of the means and does not depend on the sample size.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> old = ColumnSummary("x", "numeric", 5, low=1.0, high=5.0, mean=3.0, m2=10.0)
    >>> new = ColumnSummary("x", "numeric", 5, low=3.0, high=7.0, mean=5.0, m2=10.0)
    >>> round(StudentT().compare(old, new).score, 4)
    0.0805

    References
    ----------
    Student (1908), Biometrika 6(1); Fisher (1925), Metron 5(3).
    """

    direction: ClassVar[Direction] = "p-value"
    strict: ClassVar[bool] = True
    unit: ClassVar[str] = "probability"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric"})

    name: Literal["t_test"] = "t_test"
    threshold: float = Field(0.05, gt=0, le=1)

    @override
    def score(self, reference: ColumnSummary, window: ColumnSummary) -> Score:
        n, m = reference.count, window.count
        freedom = n + m - 2
        if freedom == 0:
            return Score(1.0)
        apart, squares, exact = _apart(reference, window)
        if apart == 0:
            value = 1.0
        elif squares == 0:
            value = 0.0
        else:
            value = 2 * float(stdtr(freedom, -apart / math.sqrt(squares / freedom * (1 / n + 1 / m))))
        return Score(value, exact, _explanation(reference, window))


def _apart(reference: ColumnSummary, window: ColumnSummary) -> tuple[float, float, bool]:
    """How far the means are apart, the sum of both m2, in one unit; and whether they are exact."""
    columns = (reference, window)
    constant = [column.low == column.high for column in columns]
    squares = sum(column.m2 for column, same in zip(columns, constant, strict=True) if not same)
    if all(constant) or _SMALLEST_SQUARES < squares < _LARGEST_SQUARES:
        means = [column.low if same else column.mean for column, same in zip(columns, constant, strict=True)]
        return _difference(*means), squares, True
    unit = max(abs(end) for column in columns for end in (column.low, column.high))
    scaled = [_scaled(column, unit) for column in columns]
    return _difference(scaled[0][0], scaled[1][0]), scaled[0][1] + scaled[1][1], all(exact for *_, exact in scaled)


def _difference(a: float, b: float) -> float:
    """Without a sign; 0 where it may be all rounding. A mean of millions of values is good to a few units in its last place."""
    size = max(abs(a), abs(b))
    apart = abs(a - b)
    return 0.0 if apart <= _ROUNDING * size else min(apart, float(np.finfo(np.float64).max))


def _scaled(column: ColumnSummary, unit: float) -> tuple[float, float, bool]:
    known = distribution(column)
    x = known.middles / unit
    mean = float(np.average(x, weights=known.weights))
    return mean, float(known.weights @ (x - mean) ** 2), known.exact


def _explanation(reference: ColumnSummary, window: ColumnSummary) -> dict[str, float]:
    try:
        return differences(reference, window)
    except NotApplicable:  # the moments are enough for a score, but do not say where the values are
        return {}
