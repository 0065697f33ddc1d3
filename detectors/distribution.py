"""Where the values of one column lie, from every single value or from what a ruler counted."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from detectors.errors import NotApplicable
from detectors.statistics.column import ColumnSummary, once
from detectors.statistics.ruler import Ruler


class Distribution(ABC):
    """The empirical distribution of a column's values."""

    exact: bool
    """Whether every single value is at hand."""

    @property
    @abstractmethod
    def total(self) -> int:
        """How many values there are."""

    @abstractmethod
    def below(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many values are smaller than each x."""

    @abstractmethod
    def upto(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many values are at most each x."""

    @property
    @abstractmethod
    def corners(self) -> NDArray[np.float64]:
        """Ascending; `below` and `upto` are straight lines between two corners."""

    @property
    @abstractmethod
    def middles(self) -> NDArray[np.float64]:
        """(k,) ascending: each value, or the mean of some."""

    @property
    @abstractmethod
    def weights(self) -> NDArray[np.float64]:
        """(k,) how many values each of `middles` stands for."""


@dataclass(frozen=True)
class Steps(Distribution):
    """Every single value."""

    values: NDArray[np.float64]
    """(n,) sorted ascending."""
    exact: bool = True

    @property
    @override
    def total(self) -> int:
        return len(self.values)

    @override
    def below(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.searchsorted(self.values, x, side="left").astype(np.float64)

    @override
    def upto(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.searchsorted(self.values, x, side="right").astype(np.float64)

    @property
    @override
    def corners(self) -> NDArray[np.float64]:
        return self.values

    @property
    @override
    def middles(self) -> NDArray[np.float64]:
        return self.values

    @property
    @override
    def weights(self) -> NDArray[np.float64]:
        return np.ones(len(self.values))


@dataclass(frozen=True)
class Ramps(Distribution):
    """Values known by how often each occurs, or by the count and the sum of each bin of a ruler.

    In each bin they are taken as evenly spread over the widest interval around their mean that the bin can hold: the
    whole bin when the mean is in its middle, a single point when it is at the end, which is where the marks of a
    discrete feature are. A value that is alone in its bin is known from the sum. Counts and means of all bins are kept, so integrals over a bin stay exact.
    """

    starts: NDArray[np.float64]
    """(k,) ascending."""
    ends: NDArray[np.float64]
    """(k,) ascending; each at least its start and at most the next start."""
    counts: NDArray[np.float64]
    """(k,) values spread evenly from start to end."""
    at_ends: NDArray[np.float64]
    """(k,) the same counts where all values lie at the upper mark of their bin, else 0."""
    exact: bool = False
    ruler: Ruler | None = None
    """That they were counted on; None when they were counted by value."""
    bins: NDArray[np.int64] | None = None
    """(k,) ascending: which bin of the ruler each is."""

    @classmethod
    def of(cls, column: ColumnSummary) -> "Ramps":
        """From the counts of a column that has at least one value: by value when there are few, else by the ruler.

        Raises
        ------
        NotApplicable
            When the column was counted on no ruler.
        """
        return _ramps(column)

    @cached_property
    def _before(self) -> NDArray[np.float64]:
        return np.concatenate(([0.0], np.cumsum(self.counts)))

    @cached_property
    def _on_ruler(self) -> NDArray[np.float64]:
        """(4, bins of the ruler) start, end, count, and how many values are in earlier bins; where there is nothing, the bin's upper mark twice."""
        assert self.ruler is not None
        laid = np.zeros((4, self.ruler.size))
        laid[:2] = self.ruler.ceilings
        laid[:3, self.bins] = self.starts, self.ends, self.counts
        laid[3, 1:] = np.cumsum(laid[2, :-1])
        return laid

    @property
    @override
    def total(self) -> int:
        return int(self._before[-1])

    @override
    def below(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._count(x, "left")

    @override
    def upto(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._count(x, "right")

    def _count(self, x: NDArray[np.float64], side: Literal["left", "right"]) -> NDArray[np.float64]:
        i = np.searchsorted(self.ends, x, side=side)
        at = np.minimum(i, len(self.ends) - 1)
        start, end = self.starts[at], self.ends[at]
        inside = (i < len(self.ends)) & (x > start)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            part = (x - start) / (end - start)
            # Halves, where the width of a bin is too large for a float.
            part = np.where(np.isfinite(part), part, (x / 2 - start / 2) / (end / 2 - start / 2))
        part = np.where(inside, np.clip(part, 0.0, 1.0), 0.0)
        counted: NDArray[np.float64] = self._before[i] + part * self.counts[at]
        return counted

    @property
    @override
    def corners(self) -> NDArray[np.float64]:
        return np.unique(np.concatenate((self.starts, self.ends)))

    @property
    @override
    def middles(self) -> NDArray[np.float64]:
        return self.starts / 2 + self.ends / 2

    @property
    @override
    def weights(self) -> NDArray[np.float64]:
        return self.counts


@once
def _ramps(column: ColumnSummary) -> Ramps:
    if column.counts and not column.unlisted:
        values, times = np.array(sorted(column.counts.items()), np.float64).T
        return Ramps(values, values, times, times, exact=True)
    if column.bins is None or column.sums is None or column.ruler is None:
        msg = f"column {column.name!r} has neither its values nor ruler counts: build a baseline first"
        raise NotApplicable(msg)
    filled = np.flatnonzero(column.bins)
    counts = column.bins[filled].astype(np.float64)
    mark = column.ruler.ceilings[filled]
    low = np.maximum(column.ruler.floors[filled], column.low)
    high = np.minimum(mark, column.high)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = column.sums[filled] / counts
        known = np.isfinite(mean)
        if not known.all():
            mean = np.where(known, mean, low / 2 + high / 2)
        mean = np.minimum(np.maximum(mean, low), high)
        # A mean that is off its bin's upper end only by rounding (a ruler divides a bin by 2^20) is there.
        rounding = 4 * np.finfo(np.float64).eps * np.maximum(np.abs(low), np.abs(high)) * np.sqrt(counts)
        mean = np.where(high - mean <= np.maximum(rounding, (high - low) * 1e-6), high, mean)
        half = np.where(counts > 1, np.minimum(mean - low, high - mean), 0.0)
        start, end = np.maximum(mean - half, low), np.minimum(mean + half, high)
    return Ramps(start, end, counts, np.where(mean == mark, counts, 0.0), ruler=column.ruler, bins=filled)


def distribution(column: ColumnSummary) -> Distribution:
    """Where the values lie: every single one when they are at hand, else from the ruler."""
    return Ramps.of(column) if column.values is None else Steps(column.values)


def pair(reference: ColumnSummary, window: ColumnSummary) -> tuple[Distribution, Distribution]:
    """Both columns alike: all values of both, else what the ruler counted of the one that is not whole.

    Once the window is not whole, what the same ruler counted of the reference is the better companion, since its errors are alike.
    """
    if window.values is None and (reference.bins is not None or reference.counts):
        return Ramps.of(reference), Ramps.of(window)
    return distribution(reference), distribution(window)


def difference(a: Distribution, b: Distribution, power: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of abs(A(x) - B(x))**power between neighbouring corners, A and B the cumulative shares.

    Parameters
    ----------
    power
        1 or 2.

    Returns
    -------
    corners
        (k,) ascending.
    means
        (k - 1,) the mean from one corner to the next; times its width, the integral.
    """
    if isinstance(a, Steps) and isinstance(b, Steps):
        return _between_steps(a, b, power)
    if isinstance(a, Ramps) and isinstance(b, Ramps) and a.ruler is not None and a.ruler is b.ruler:
        return _on_one_ruler(a, b, power)
    x = np.unique(np.concatenate((a.corners, b.corners)))
    left = a.upto(x[:-1]) / a.total - b.upto(x[:-1]) / b.total
    right = a.below(x[1:]) / a.total - b.below(x[1:]) / b.total
    return x, _mean_power(left, right, power)


def _mean_power(left: NDArray[np.float64], right: NDArray[np.float64], power: int) -> NDArray[np.float64]:
    """Mean of the power of the size of what goes straight from left to right."""
    if power == 2:
        return (left * left + left * right + right * right) / 3
    # Where it crosses zero, two triangles.
    size = np.abs(left) + np.abs(right)
    means: NDArray[np.float64] = size / 2
    crossing = left * right < 0
    if crossing.any():
        p, q = left[crossing], right[crossing]
        means[crossing] = (p * p + q * q) / (2 * size[crossing])
    return means


def _on_one_ruler(a: Ramps, b: Ramps, power: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As `difference`, bin by bin: each has four corners, and nothing need be sorted or looked up.

    In a bin that has values of one only the upper mark takes the place of the other's corners.
    """
    assert a.bins is not None
    assert b.bins is not None
    some = slice(min(a.bins[0], b.bins[0]), max(a.bins[-1], b.bins[-1]) + 1)
    start_a, end_a, count_a, before_a = a._on_ruler[:, some]  # noqa: SLF001
    start_b, end_b, count_b, before_b = b._on_ruler[:, some]  # noqa: SLF001
    x = np.empty((4, len(start_a)))
    np.minimum(start_a, start_b, out=x[0])
    later, sooner = np.maximum(start_a, start_b), np.minimum(end_a, end_b)
    np.minimum(later, sooner, out=x[1])
    np.maximum(later, sooner, out=x[2])
    np.maximum(end_a, end_b, out=x[3])
    # Nor is there a mark above the overflow.
    np.minimum(x[:, -1], max(a.ends[-1], b.ends[-1]), out=x[:, -1])
    begin = before_a / a.total - before_b / b.total
    left_a, right_a = _parts(x, start_a, end_a)
    left_b, right_b = _parts(x, start_b, end_b)
    share_a, share_b = count_a / a.total, count_b / b.total
    left = begin + (share_a * left_a - share_b * left_b)
    right = begin + (share_a * right_a - share_b * right_b)
    # From the last corner of a bin to the first of the next, nothing changes.
    means = np.empty((len(begin), 4))
    means[:, :3] = _mean_power(left, right, power).T
    means[:-1, 3] = np.abs(begin[1:]) ** power
    return x.T.ravel(), means.ravel()[:-1]


def _parts(
    x: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Which part of k ramps lies at or below three corners, and which lies below the corners that follow them.

    Parameters
    ----------
    x
        (4, k) ascending in each bin.
    """
    if not np.isfinite(x[-1, -1] - x[0, 0]):
        x, start, end = x / 2, start / 2, end / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.minimum(np.maximum((x - start) / (end - start), 0.0), 1.0)
    at = np.isnan(part)  # where a ramp is a single point
    return np.where(at[:3], 1.0, part[:3]), np.where(at[1:], 0.0, part[1:])


def _between_steps(a: Steps, b: Steps, power: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As `difference`, by merging two sorted samples; a value that occurs again gives a gap without width."""
    from_b = np.zeros(a.total + b.total, np.bool_)
    from_b[np.searchsorted(a.values, b.values, side="right") + np.arange(b.total)] = True
    x = np.empty(len(from_b))
    x[from_b], x[~from_b] = b.values, a.values
    seen = np.cumsum(from_b)
    gap = np.abs((np.arange(1, len(x) + 1) - seen) / a.total - seen / b.total)[:-1]
    return x, gap if power == 1 else gap**2


def spread(column: ColumnSummary) -> float:
    """Population standard deviation of at least one value, also where squares are too large for a float."""
    std = column.std()
    if math.isfinite(std):
        return std
    known = distribution(column)
    unit = max(abs(column.low), abs(column.high))
    middle = known.middles / unit
    mean = np.average(middle, weights=known.weights)
    return float(np.sqrt(np.average((middle - mean) ** 2, weights=known.weights)) * unit)
