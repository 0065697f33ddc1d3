"""An allowed range for each numeric column: where it lies in the reference, and the instances that leave it."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.base import Flagged
from detectors.cells import outside
from detectors.distribution import Ramps
from detectors.statistics.block import Block
from detectors.statistics.column import ColumnSummary

_WORST = 1e300
"""No contribution is larger, so that those of one row can be added up."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is allowed in one column, and how a value outside of it is scored; as it is: everything is allowed."""

    low: float = -np.inf
    """Smaller values are flagged."""
    high: float = np.inf
    """Larger values are flagged."""
    left: float = -np.inf
    """From where the distance of a small value is measured."""
    right: float = np.inf
    """From where the distance of a large value is measured."""
    unit: float = 1.0
    """What a distance is divided by: positive, in the column's own unit."""


@dataclass(frozen=True)
class FittedLimits:
    """The limits of all numeric columns.

    Contribution of a cell outside of its limits: ``offset + distance / unit``, and at least the threshold.
    """

    name: str
    threshold: float
    offset: float
    low: NDArray[np.float64]
    """(numeric columns,) as are all that follow, which `Limits` explains."""
    high: NDArray[np.float64]
    left: NDArray[np.float64]
    right: NDArray[np.float64]
    unit: NDArray[np.float64]

    @classmethod
    def of(cls, name: str, threshold: float, limits: Iterable[Limits], offset: float = 0.0) -> "FittedLimits":
        """From the limits of one numeric column after the other."""
        with np.errstate(over="ignore", invalid="ignore"):
            rows = [(one.low, one.high, one.left, one.right, one.unit) for one in limits]
        return cls(name, threshold, offset, *np.array(rows, np.float64).reshape(-1, 5).T)

    def flag(self, block: Block) -> Flagged:
        """Instances with a finite number outside of its limits."""
        x = block.numeric
        rows, columns = outside(x, self.low, self.high)
        if len(rows) == 0:
            return Flagged.nothing(self.threshold)
        value, low, high = x[rows, columns], self.low[columns], self.high[columns]
        with np.errstate(over="ignore"):
            far = np.maximum(self.left[columns] - value, value - self.right[columns]) / self.unit[columns]
        return Flagged.cells(
            self.threshold,
            rows,
            columns,
            np.clip(self.offset + far, self.threshold, _WORST),
            np.where(np.isfinite(low), low, np.nan),
            np.where(np.isfinite(high), high, np.nan),
        )


def quantiles(column: ColumnSummary, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """(k,) the values that these shares of a column's values lie below; the column has at least one.

    From all values: numpy's, linear between two neighbours. From ruler counts the values of a bin count as evenly spread in it, so that
    each result lies between the same two marks as the true one: the share below it is off by at most what that bin holds.

    Parameters
    ----------
    shares
        (k,) in [0, 1].
    """
    if column.values is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            between = np.quantile(column.values, shares)
        # Between two neighbours that are further apart than the largest float, the lower one.
        return np.where(np.isfinite(between), between, np.quantile(column.values, shares, method="lower"))
    known = Ramps.of(column)
    upto = np.cumsum(known.counts)
    rank = shares * upto[-1]
    at = np.minimum(np.searchsorted(upto, rank), len(upto) - 1)
    part = np.clip(1 - (upto[at] - rank) / known.counts[at], 0.0, 1.0)
    found = known.starts[at] * (1 - part) + known.ends[at] * part
    return np.where(shares == 0, column.low, np.where(shares == 1, column.high, found))


def median_deviation(column: ColumnSummary, median: float) -> float:
    """Median distance of a column's values to their median (MAD), not scaled; the column has at least one.

    From ruler counts the values of a bin count as evenly spread in it: the share of values within one MAD is one half to within the mass of
    three bins (about 1/1024 each).
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if column.values is not None:
            return float(np.median(np.abs(column.values - median)))
        known = Ramps.of(column)
        # What is left of the median is folded over to the right; a ramp across it becomes two.
        left = np.clip((median - known.starts) / (known.ends - known.starts), 0.0, 1.0)
        left = np.where(known.ends > known.starts, left, known.starts < median)
        near = np.concatenate((median - np.minimum(known.ends, median), np.maximum(known.starts, median) - median))
        far = np.concatenate((median - np.minimum(known.starts, median), np.maximum(known.ends, median) - median))
        counts = np.concatenate((known.counts * left, known.counts * (1 - left)))

        def within(distance: float, *, closed: bool) -> float:
            """How many values are nearer to the median, or as near."""
            at_it = distance >= near if closed else distance > near
            part = np.where(far > near, np.clip((distance - near) / (far - near), 0.0, 1.0), at_it)
            return float(part @ counts)

        # Between two neighbours of these distances the number is a straight line; at each there may be a step.
        steps = np.unique(np.concatenate((near, far))).tolist()
        half = known.total / 2
        at = bisect_left(range(len(steps)), x=half, key=lambda i: within(steps[i], closed=True))
        at = min(at, len(steps) - 1)
        if at == 0 or within(steps[at], closed=False) <= half:
            return float(steps[at])
        before, until = within(steps[at - 1], closed=True), within(steps[at], closed=False)
        return float(steps[at - 1] + (half - before) / (until - before) * (steps[at] - steps[at - 1]))
