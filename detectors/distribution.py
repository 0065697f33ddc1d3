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
from detectors.statistics.column import ColumnSummary


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

    @classmethod
    def of(cls, column: ColumnSummary) -> "Ramps":
        """From the counts of a column that has at least one value: by value when there are few, else by the ruler.

        Raises
        ------
        NotApplicable
            When the column was counted on no ruler.
        """
        if column.counts and not column.unlisted:
            values, times = np.array(sorted(column.counts.items()), np.float64).T
            return cls(values, values, times, times, exact=True)
        if column.bins is None or column.sums is None or column.ruler is None:
            msg = f"column {column.name!r} has neither its values nor ruler counts: build a baseline first"
            raise NotApplicable(msg)
        filled = np.flatnonzero(column.bins)
        counts = column.bins[filled].astype(np.float64)
        marks = np.concatenate(([-np.inf], column.ruler.marks, [np.inf]))
        # Values are above the lower mark and at or below the upper one.
        low = np.maximum(np.nextafter(marks[filled], np.inf), column.low)
        high = np.minimum(marks[filled + 1], column.high)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = column.sums[filled] / counts
            mean = np.clip(np.where(np.isfinite(mean), mean, low / 2 + high / 2), low, high)
            # A mean that is off its bin's upper end only by rounding (a ruler divides a bin by 2^20) is there.
            rounding = 4 * np.finfo(np.float64).eps * np.maximum(np.abs(low), np.abs(high)) * np.sqrt(counts)
            mean = np.where(high - mean <= np.maximum(rounding, (high - low) * 1e-6), high, mean)
            half = np.where(counts > 1, np.minimum(mean - low, high - mean), 0.0)
            start, end = np.maximum(mean - half, low), np.minimum(mean + half, high)
            return cls(start, end, counts, np.where(mean == marks[filled + 1], counts, 0.0))

    @cached_property
    def _before(self) -> NDArray[np.float64]:
        return np.concatenate(([0.0], np.cumsum(self.counts)))

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
    x = np.unique(np.concatenate((a.corners, b.corners)))
    left = a.upto(x[:-1]) / a.total - b.upto(x[:-1]) / b.total
    right = a.below(x[1:]) / a.total - b.below(x[1:]) / b.total
    if power == 1:
        # A straight line from left to right; where it crosses zero, two triangles.
        size = np.abs(left) + np.abs(right)
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = (left**2 + right**2) / (2 * size)
        return x, np.where(left * right < 0, crossing, size / 2)
    return x, (left**2 + left * right + right**2) / 3


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
