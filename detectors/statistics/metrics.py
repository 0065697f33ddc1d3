"""The catalogue of statistics: each is read off the summary of one column, one line each."""

import math
from collections.abc import Callable

import numpy as np

from detectors.statistics.column import ColumnSummary

Metric = Callable[[ColumnSummary], float]


def _sum(c: ColumnSummary) -> float:
    return c.count * c.mean if c.count else 0.0


def _pow2sum(c: ColumnSummary) -> float:
    """Sum of the squares: m2 + n mean^2."""
    return c.m2 + c.count * c.mean * c.mean if c.count else 0.0


def _ratio(above: np.float64, below: np.float64) -> float:
    """NaN where the moments are zero or beyond the range of floats: then there is no answer."""
    return float(above / below) if below > 0 and np.isfinite(above) and np.isfinite(below) else math.nan


def _skewness(c: ColumnSummary) -> float:
    """Population skewness g1 = sqrt(n) m3 / m2^1.5, as scipy.stats.skew; NaN for a constant column."""
    return _ratio(math.sqrt(c.count) * np.float64(c.m3), np.float64(c.m2) ** 1.5)


def _kurtosis(c: ColumnSummary) -> float:
    """Population excess kurtosis g2 = n m4 / m2^2 - 3, as scipy.stats.kurtosis; NaN for a constant column."""
    return _ratio(np.float64(c.count) * c.m4, np.float64(c.m2) ** 2) - 3


def _share(part: int, c: ColumnSummary) -> float:
    """NaN of no rows."""
    rows = c.count + c.missing + c.nonfinite
    return part / rows if rows else math.nan


METRICS: dict[str, Metric] = {
    "min": lambda c: c.low,
    "max": lambda c: c.high,
    "sum": _sum,
    "pow2sum": _pow2sum,
    "avg": lambda c: c.mean,
    "mean": lambda c: c.mean,
    "stddev": lambda c: c.std(ddof=1),
    "stddevPopulation": lambda c: c.std(ddof=0),
    "variance": lambda c: c.variance(ddof=1),
    "skewness": _skewness,
    "kurtosis": _kurtosis,
}
"""Of numeric columns. `avg` is `mean` under the name that older configurations use; `stddev` and `variance` are those of
a sample (n - 1), `stddevPopulation` divides by n."""

SHARES: dict[str, Metric] = {
    "missingShare": lambda c: _share(c.missing, c),
    "nonfiniteShare": lambda c: _share(c.nonfinite, c),
}
"""Of all columns: a part of the rows, 0 to 1."""
