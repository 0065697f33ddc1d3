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

_MANY_TIMES = 4
"""From a sample so many times as large as the other one on, it is quicker not to walk through it value by value."""
_TINY = 5e-324
"""The smallest float above zero."""


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
    def low(self) -> float:
        """The first corner."""

    @property
    @abstractmethod
    def high(self) -> float:
        """The last corner."""

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
    def low(self) -> float:
        return float(self.values[0])

    @property
    @override
    def high(self) -> float:
        return float(self.values[-1])

    @cached_property
    def risen(self) -> NDArray[np.float64]:
        """(n,) a quarter of the integral of the cumulative share from each value to the next; 0 for the last one."""
        quarters = self.values / 4
        return np.append((quarters[1:] - quarters[:-1]) * (np.arange(1, self.total) / self.total), 0.0)

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
    """(k,) values spread evenly from start to end. An empty bin between others is 0 of them, at its upper mark."""
    at_ends: NDArray[np.float64]
    """(k,) the same counts where all values lie at the upper mark of their bin, else 0."""
    exact: bool = False
    ruler: Ruler | None = None
    """That they were counted on; None when they were counted by value."""
    first: int = 0
    """Which bin of the ruler is the first of these k."""

    @classmethod
    def of(cls, column: ColumnSummary) -> "Ramps":
        """From the counts of a column that has at least one value: by value when there are few, else by the ruler.

        Raises
        ------
        NotApplicable
            When the column was counted on no ruler.
        """
        return _ramps(column)

    @property
    def last(self) -> int:
        """Which bin of the ruler is the last of these k."""
        return self.first + len(self.counts) - 1

    @cached_property
    def before(self) -> NDArray[np.float64]:
        """(k + 1,) how many values are in all earlier ones, and how many in all."""
        before = np.zeros(len(self.counts) + 1)
        np.cumsum(self.counts, out=before[1:])
        return before

    @cached_property
    def on_ruler(self) -> tuple[NDArray[np.float64], ...]:
        """(bins of the ruler,) starts, ends, shares, and the shares of all that is in earlier bins; what is empty is at its upper mark."""
        assert self.ruler is not None
        low, high = self.ruler.ceilings[: self.first], self.ruler.ceilings[self.last + 1 :]
        none, nothing = np.zeros(len(low)), np.zeros(len(high))
        return (
            np.concatenate((low, self.starts, high)),
            np.concatenate((low, self.ends, high)),
            np.concatenate((none, self.counts / self.total, nothing)),
            np.concatenate((none, self.before[:-1] / self.total, nothing + 1)),
        )

    @property
    @override
    def total(self) -> int:
        return int(self.before[-1])

    @override
    def below(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._count(x, "left")

    @override
    def upto(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._count(x, "right")

    def _count(self, x: NDArray[np.float64], side: Literal["left", "right"]) -> NDArray[np.float64]:
        i = np.searchsorted(self.ends, x, side=side)
        if self.exact:
            return self.before[i]
        at = np.minimum(i, len(self.ends) - 1)
        start, end = self.starts[at], self.ends[at]
        inside = (i < len(self.ends)) & (x > start)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if math.isfinite(float(self.ends[-1]) - float(self.starts[0])):
                part = (x - start) / (end - start)
            else:  # a width may be too large for a float, its half is not
                part = (x / 2 - start / 2) / (end / 2 - start / 2)
        counted: NDArray[np.float64] = self.before[i] + np.where(inside, part, 0.0) * self.counts[at]
        return counted

    @property
    @override
    def corners(self) -> NDArray[np.float64]:
        if self.exact:
            return self.starts
        x = np.empty(2 * len(self.starts))
        x[::2], x[1::2] = self.starts, self.ends
        return x[np.concatenate(([True], x[1:] != x[:-1]))]

    @property
    @override
    def low(self) -> float:
        return float(self.starts[0])

    @property
    @override
    def high(self) -> float:
        return float(self.ends[-1])

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
    first = int(filled[0]) if len(filled) else 0
    some = slice(first, int(filled[-1]) + 1 if len(filled) else 0)  # nothing where every value is missing
    counts = column.bins[some].astype(np.float64)
    mark = column.ruler.ceilings[some]
    low = np.maximum(column.ruler.floors[some], column.low)
    high = np.minimum(mark, column.high)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mean = column.sums[some] / counts
        known = np.isfinite(mean)
        if not known.all():
            mean = np.where(known, mean, np.where(counts > 0, low / 2 + high / 2, high))
        mean = np.minimum(np.maximum(mean, low), high)
        # A mean that is off its bin's upper end only by rounding (a ruler divides a bin by 2^20) is there.
        rounding = 4 * np.finfo(np.float64).eps * np.maximum(np.abs(low), np.abs(high)) * np.sqrt(counts)
        mean = np.where(high - mean <= np.maximum(rounding, (high - low) * 1e-6), high, mean)
        half = np.where(counts > 1, np.minimum(mean - low, high - mean), 0.0)
        start, end = np.maximum(mean - half, low), np.minimum(mean + half, high)
    at_ends = np.where(mean == mark, counts, 0.0)
    return Ramps(start, end, counts, at_ends, ruler=column.ruler, first=first)


def distribution(column: ColumnSummary) -> Distribution:
    """Where the values lie: every single one when they are at hand, else from the ruler."""
    return Ramps.of(column) if column.values is None else _steps(column)


@once
def _steps(column: ColumnSummary) -> Steps:
    assert column.values is not None
    return Steps(column.values)


def pair(reference: ColumnSummary, window: ColumnSummary) -> tuple[Distribution, Distribution]:
    """Both columns alike: all values of both, else what the ruler counted of the one that is not whole.

    Once the window is not whole, what the same ruler counted of the reference is the better companion, since its errors are alike.
    """
    if window.values is None and (reference.bins is not None or reference.counts):
        return Ramps.of(reference), Ramps.of(window)
    return distribution(reference), distribution(window)


def apart(a: Distribution, b: Distribution, power: int, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral of abs(A(x) - B(x))**power over each bin, A and B the cumulative shares; a quarter of it, since a range may be too large for a float.

    Parameters
    ----------
    power
        1 or 2.
    edges
        (k + 1,) ascending, from the first corner of both to the last.

    Returns
    -------
    parts
        (k,)
    """
    if power == 1 and isinstance(a, Steps) and isinstance(b, Steps):
        if a.total > _MANY_TIMES * b.total:
            return _between_samples(a, b, edges)
        if b.total > _MANY_TIMES * a.total:
            return _between_samples(b, a, edges)
    x, means = difference(a, b, power)
    if len(means) == 0:
        return np.zeros(len(edges) - 1)
    quarters = x / 4
    parts = means * (quarters[1:] - quarters[:-1])
    inner = np.minimum(np.maximum(edges, x[0]), x[-1])
    at = np.minimum(np.searchsorted(x, inner, side="right") - 1, len(parts) - 1)
    # What lies before an edge in the piece that it cuts.
    cut = (inner / 4 - quarters[at]) * means[at]
    moved: NDArray[np.float64] = np.maximum(_sums(parts, at) + (cut[1:] - cut[:-1]), 0.0)
    return moved


def _sums(parts: NDArray[np.float64], at: NDArray[np.int64]) -> NDArray[np.float64]:
    """(k,) sum of the parts from each of k + 1 ascending places up to the next one."""
    sums: NDArray[np.float64] = np.where(at[1:] > at[:-1], np.add.reduceat(parts, at)[:-1], 0.0)
    return sums


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
    x = common_corners(a, b)
    if a.exact and b.exact:
        return x, np.abs(a.upto(x[:-1]) / a.total - b.upto(x[:-1]) / b.total) ** power
    left = a.upto(x[:-1]) / a.total - b.upto(x[:-1]) / b.total
    right = a.below(x[1:]) / a.total - b.below(x[1:]) / b.total
    return x, _mean_power(left, right, power)


def common_corners(a: Distribution, b: Distribution) -> NDArray[np.float64]:
    """The corners of both, ascending, each once."""
    x = np.concatenate((a.corners, b.corners))
    x.sort(kind="stable")  # merges what is sorted already
    return x[np.concatenate(([True], x[1:] != x[:-1]))]


def _mean_power(left: NDArray[np.float64], right: NDArray[np.float64], power: int) -> NDArray[np.float64]:
    """Mean of the power of the size of what goes straight from left to right."""
    product = left * right
    squares = left * left + right * right
    means: NDArray[np.float64]
    if power == 2:
        means = (squares + product) / 3
        return means
    # Half of |left| + |right| where both are on one side of zero, else two triangles: both in one formula.
    size = np.abs(left) + np.abs(right)
    means = (squares + product + np.abs(product)) / np.maximum(2 * size, _TINY)
    return means


def _on_one_ruler(a: Ramps, b: Ramps, power: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As `difference`, bin by bin: each has four corners, and nothing need be sorted or looked up."""
    span = slice(min(a.first, b.first), max(a.last, b.last) + 1)
    start_a, end_a, share_a, before_a = (known[span] for known in a.on_ruler)
    start_b, end_b, share_b, before_b = (known[span] for known in b.on_ruler)
    x = np.empty((4, len(start_a)))
    np.minimum(start_a, start_b, out=x[0])
    later, sooner = np.maximum(start_a, start_b), np.minimum(end_a, end_b)
    np.minimum(later, sooner, out=x[1])
    np.maximum(later, sooner, out=x[2])
    np.maximum(end_a, end_b, out=x[3])
    # There is no mark above the overflow.
    np.minimum(x[:, -1], max(a.ends[-1], b.ends[-1]), out=x[:, -1])
    begin = before_a - before_b
    left, right = _within(x, start_a, end_a, share_a)
    left_b, right_b = _within(x, start_b, end_b, share_b)
    left -= left_b
    left += begin
    right -= right_b
    right += begin
    # From the last corner of a bin to the first of the next, nothing changes.
    means = np.empty((len(begin), 4))
    means[:, :3] = _mean_power(left, right, power).T
    means[:-1, 3] = np.abs(begin[1:]) ** power
    return x.T.ravel(), means.ravel()[:-1]


def _within(
    x: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64], share: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(3, k) how much of k ramps lies at or below three corners, and how much lies below the corners that follow them.

    Parameters
    ----------
    x
        (4, k) corners of each bin, ascending; no ramp starts before the first or ends after the last.
    share
        (k,) what each ramp holds.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if math.isfinite(float(x[3, -1]) - float(x[0, 0])):
            part = (x[1:3] - start) / (end - start)
        else:  # a width may be too large for a float, its half is not
            part = (x[1:3] / 2 - start / 2) / (end / 2 - start / 2)
    left, right = np.empty((3, len(share))), np.empty((3, len(share)))
    left[0] = end <= x[0]
    right[2] = start < x[3]
    # Where a ramp is a single point, a part at it is NaN: all is at or below it, and nothing below.
    np.fmax(np.fmin(part, 1.0), 0.0, out=left[1:])
    np.fmin(np.fmax(part, 0.0), 1.0, out=right[:2])
    left *= share
    right *= share
    return left, right


def _between_steps(a: Steps, b: Steps, power: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As `difference`, by merging two sorted samples; a value that occurs again gives a gap without width."""
    from_b = np.zeros(a.total + b.total, np.bool_)
    from_b[np.searchsorted(a.values, b.values, side="right") + np.arange(b.total)] = True
    x = np.empty(len(from_b))
    x[from_b], x[~from_b] = b.values, a.values
    seen = np.cumsum(from_b)
    gap = np.abs((np.arange(1, len(x) + 1) - seen) / a.total - seen / b.total)[:-1]
    return x, gap if power == 1 else gap**2


def _between_samples(a: Steps, b: Steps, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """As `apart` with power 1; quick where b has far fewer values: between two of them its share stands still, and that of a crosses it once."""
    x, n, m = a.values, a.total, b.total
    inner = np.minimum(np.maximum(edges, min(a.low, b.low)), max(a.high, b.high))
    stops = np.concatenate((b.values, inner))
    stops.sort(kind="stable")
    seen = np.searchsorted(b.values, stops[:-1], side="right")
    upto = np.searchsorted(x, stops, side="right")
    # From the value of a at which its share is at least that of b, if that is between the stops, the sign is another one.
    crossed = np.minimum(np.maximum(-(-seen * n // m), upto[:-1]), upto[1:])
    turn = np.where(crossed > upto[:-1], x[np.maximum(crossed - 1, 0)], stops[:-1])
    at, k = np.empty(2 * len(stops) - 1), np.empty(2 * len(stops) - 1, np.int64)
    at[::2], at[1::2] = stops / 4, turn / 4
    k[::2], k[1::2] = upto, crossed
    # Each piece: up to the first value of a in it, from there to the last one, and from there on.
    share = np.repeat(seen / m, 2)
    start, end, before, after = at[:-1], at[1:], k[:-1], k[1:]
    some = after > before
    first = np.where(some, x[np.minimum(before, n - 1)] / 4, end)
    last = np.where(some, x[np.maximum(after - 1, 0)] / 4, end)
    middle = np.empty(2 * len(before), np.int64)
    middle[::2], middle[1::2] = np.minimum(before, n - 1), np.maximum(after - 1, 0)
    risen = np.where(after > before + 1, np.add.reduceat(a.risen, middle)[::2], 0.0)
    parts = np.abs(
        (first - start) * (before / n - share) + (risen - share * (last - first)) + (end - last) * (after / n - share)
    )
    return _sums(np.append(parts, 0.0), 2 * np.searchsorted(stops, inner))


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
