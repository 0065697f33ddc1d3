"""One column of a summary, as a drift detector sees it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from detectors.base import ColumnType
from detectors.statistics.ruler import Ruler

T = TypeVar("T")


@dataclass(frozen=True)
class ColumnSummary:
    """Everything that is known of one column of a window or of the reference.

    A numeric column has its moments always, `values` while every single value is at hand, and `bins` when it was
    counted on a ruler; reference and window share that ruler. A categorical column has `counts`. A numeric column with few
    distinct values in the reference (at most 20, Evidently's limit for treating numbers as categories) has `counts` as well.

    What is derived from it may be kept with it (see `once`): a reference is asked for the same by every window.
    """

    name: str
    type: ColumnType
    count: int
    """How many values there are: neither missing nor non-finite."""
    missing: int = 0
    nonfinite: int = 0
    low: float = math.nan
    """Smallest value; NaN when there is none."""
    high: float = math.nan
    """Largest value; NaN when there is none."""
    mean: float = math.nan
    m2: float = 0.0
    """Sum of the squared distances to the mean."""
    m3: float = 0.0
    m4: float = 0.0
    distinct: int | None = None
    """Number of distinct values; None when it was not counted or there are too many to say exactly."""
    values: NDArray[np.float64] | None = None
    """Every value, sorted ascending; None once there were too many to keep."""
    sample: NDArray[np.float64] | None = None
    """(k,) the finite values of a uniform sample of the rows, sorted ascending; None when no sample was kept."""
    ruler: Ruler | None = None
    bins: NDArray[np.int64] | None = None
    """(ruler.size,) how many values fall into each bin of the ruler; bin j is (mark j-1, mark j]."""
    sums: NDArray[np.float64] | None = None
    """(ruler.size,) their sum."""
    counts: dict[str, int] | dict[float, int] | None = None
    """How often each value occurs (strings of a categorical column, floats of a numeric one)."""
    unlisted: int = 0
    """How many values are not in `counts`, because there were more distinct ones than the cap."""

    def variance(self, ddof: int = 0) -> float:
        """Population variance (``ddof=0``) or sample variance (``ddof=1``); NaN with too few values."""
        return self.m2 / (self.count - ddof) if self.count > ddof else math.nan

    def std(self, ddof: int = 0) -> float:
        """Standard deviation, in the column's own unit."""
        return math.sqrt(self.variance(ddof))


def once(read: Callable[[ColumnSummary], T]) -> Callable[[ColumnSummary], T]:
    """What a function reads off a column, computed at the first call and kept with that column.

    As `functools.cached_property`, for what other modules make of a column; so nobody may change what is returned.
    """
    key = f"{read.__module__}.{read.__qualname__}"

    @wraps(read)
    def kept(column: ColumnSummary) -> T:
        derived = vars(column)
        try:
            known: T = derived[key]
        except KeyError:
            known = derived[key] = read(column)
        return known

    return kept
