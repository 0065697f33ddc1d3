"""Ruler counts: how many values fall between the marks of a fixed ruler that the baseline carries.

Whole numbers on fixed marks add exactly, so the same rows give bit-equal counts under any partitioning, batch size or
restart, and a drift score can be audited by replay. The cumulative distribution is exact at the marks; between two
marks it is known up to the mass of that one bin, which is the error bound of every distance built on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

DEFAULT_RESOLUTION = 1024
_TAIL_STEPS = 64
_TAIL_REACH = 1e9
_MAX_DISCRETE = 20
"""Up to so many distinct values, drift detectors compare value by value instead of in bins."""
_PLACES = 2.0**20
"""How finely a bin is divided for its mean."""
_FURTHEST = 2.0**31
"""Where a place in the under- or overflow saturates, so that 2^32 rows cannot overflow their sum."""
_TINY = 5e-324
_CELLS = 4096
"""Over the range of the reference, from which the search for a value's bin begins."""


@dataclass(frozen=True)
class Ruler:
    """The marks of one numeric column.

    Bin ``j`` counts ``mark[j-1] < x <= mark[j]``; bin 0 is the underflow, the last bin the overflow.
    """

    marks: NDArray[np.float64]
    """(k,) strictly ascending, finite, k >= 1."""

    @property
    def size(self) -> int:
        """Number of bins, under- and overflow included."""
        return len(self.marks) + 1

    @classmethod
    def of(cls, values: NDArray[np.float64], resolution: int = DEFAULT_RESOLUTION) -> "Ruler":
        """The ruler of a reference column.

        Parameters
        ----------
        values
            (n,) finite values, sorted ascending.
        resolution
            The reference's own quantiles at 1/resolution become marks, so that a bin holds about 1/resolution of its mass
            (or one atom, when a single value is more common than that). A column with at most `resolution` distinct
            values gets a mark for each of them.

        Besides, there is a mark at every edge that Sturges' rule may ask for, so that histograms over the range of the
        reference are exact, and there are some among its outermost values.

        Beyond the reference's range the marks widen geometrically, so that values far outside are still told apart;
        """
        if len(values) == 0:
            return cls(np.zeros(1))
        distinct = values[np.concatenate(([True], values[1:] != values[:-1]))]
        body = distinct
        if len(distinct) > resolution:
            last = len(values) - 1
            at = np.round(np.linspace(0, last, resolution + 1)).astype(np.int64)
            # The outermost bins hold as many values as any other but may be as wide as all others together.
            tail = 2 ** np.arange(max(int(np.log2(len(values) / resolution)), 0) + 1)
            body = np.unique(values[np.concatenate((at, tail, last - tail))])
        if len(distinct) > _MAX_DISCRETE:
            body = np.unique(np.concatenate((body, _histogram_edges(len(values), values[0], values[-1]))))
        low, high = float(body[0]), float(body[-1])
        scale = max((high - low) / resolution, abs(low), abs(high)) * 1e-3 if high == low else (high - low) / resolution
        scale = scale if scale > 0 else 1e-3
        with np.errstate(over="ignore"):
            steps = scale * np.geomspace(1.0, _TAIL_REACH, _TAIL_STEPS)
            marks = np.unique(np.concatenate((low - steps, body, high + steps)))
        return cls(marks[np.isfinite(marks)])

    @cached_property
    def floors(self) -> NDArray[np.float64]:
        """(size,) the smallest float of each bin."""
        return np.nextafter(np.concatenate(([-np.inf], self.marks)), np.inf)

    @cached_property
    def ceilings(self) -> NDArray[np.float64]:
        """(size,) the upper mark of each bin, which belongs to it; infinite for the overflow."""
        return np.append(self.marks, np.inf)

    @cached_property
    def _origin(self) -> NDArray[np.float64]:
        """(size,) the mark that a value's place in its bin is measured from."""
        return np.concatenate((self.marks[:1], self.marks))

    @cached_property
    def _unit(self) -> NDArray[np.float64]:
        """(size,) 2^-20 of a bin's width; of the outermost mark (at least of 1) for under- and overflow."""
        fine = self.marks / _PLACES
        ends = np.maximum(np.abs(fine[[0, -1]]), 1 / _PLACES)
        unit = np.concatenate((-ends[:1], np.diff(fine), ends[1:]))
        return np.where(unit == 0, _TINY, unit)

    def tally(self, ordered: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(size,) how many values fall into each bin, and the sum of their places in it.

        A value's place is a whole number: how many units (2^-20 of the bin's width) it lies beyond the bin's lower
        mark. Whole numbers add exactly in any order, so a score that uses the bins' means is as repeatable as the
        counts are; the price is an error of the mean of at most half a unit.

        Parameters
        ----------
        ordered
            (n,) finite values, sorted ascending. Looking the marks up in the sorted values costs half of looking the
            values up among the marks, sorting included, and the sort serves quantiles and raw values too.
        """
        edges = np.concatenate(([0], np.searchsorted(ordered, self.marks, side="right")))
        counts = np.diff(edges, append=len(ordered))
        places = np.zeros(self.size, np.int64)
        if len(ordered):
            filled = np.flatnonzero(counts)
            times = counts[filled]
            with np.errstate(over="ignore", invalid="ignore"):
                place = (ordered - np.repeat(self._origin[filled], times)) / np.repeat(self._unit[filled], times)
            whole = np.clip(np.rint(place), 0, _FURTHEST).astype(np.int64)
            places[filled] = np.add.reduceat(whole, edges[filled])
        return counts, places

    @cached_property
    def _grid(self) -> tuple[NDArray[np.float64], NDArray[np.int32], float, float, int, int]:
        """What `compiled.tally` begins its search with: marks, guesses, first, scale, first bits, shift."""
        tail = _TAIL_STEPS if len(self.marks) > 2 * _TAIL_STEPS else 0
        first, last = float(self.marks[tail]), float(self.marks[-1 - tail])
        with np.errstate(over="ignore", divide="ignore"):
            scale = float(_CELLS / (np.float64(last) - first))
            scale = scale if 0 < scale < np.inf else 1.0
            # As there, to the last bit: what comes into an earlier cell is smaller.
            cells = np.minimum(np.maximum((self.marks - first) * scale, 0.0), float(_CELLS - 1)).astype(np.int64)
        bits, shift = 0, -1
        positive = self.marks[tail : len(self.marks) - tail]
        positive = positive[positive > 0]
        if first >= 0 and len(positive) > 1:
            # Cells that widen, where they leave less to search for.
            ends = positive[[0, -1]].view(np.int64)
            wide = max(int(ends[1] - ends[0]).bit_length() - (_CELLS.bit_length() - 1), 0)
            widening = np.minimum((np.maximum(self.marks.view(np.int64), ends[0]) - ends[0]) >> wide, _CELLS - 1)
            if _searched(widening) < _searched(cells):
                cells, bits, shift = widening, int(ends[0]), wide
        guesses = np.concatenate(([0], np.cumsum(np.bincount(cells, minlength=_CELLS)))).astype(np.int32)
        return np.append(self.marks, np.inf), guesses, first, scale, bits, shift

    def count(self, values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `tally`, of finite values in any order."""
        from detectors.statistics import compiled

        if not compiled.HERE:
            return self.tally(compiled.ascending(values))
        counts, places = np.zeros(self.size, np.int64), np.zeros(self.size, np.int64)
        compiled.tally(values, *self._grid, self._origin, self._unit, _FURTHEST, counts, places)
        return counts, places

    def crowded(self, counts: NDArray[np.int64], places: NDArray[np.int64], most: float) -> NDArray[np.int64]:
        """The bins that hold more than `most` values, from what `tally` gives, but for those whose values are all at the upper mark."""
        at_mark = places == counts * int(_PLACES)
        at_mark[[0, -1]] = False  # a place there is in no unit of a width
        return np.flatnonzero((counts > most) & ~at_mark)

    def sums(self, counts: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.float64]:
        """(size,) the sum of the values of each bin, from what `tally` gives; infinite or NaN where it is beyond the range of floats."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._origin * counts + self._unit * places


def _searched(cells: NDArray[np.int64]) -> float:
    """How long a value's bin is searched for, all bins being as likely: the steps of a search in its cell."""
    return float(np.log2(1 + np.bincount(cells))[cells].sum())


def _histogram_edges(n: int, low: float, high: float) -> NDArray[np.float64]:
    """Inner edges of the equal bins from low to high, for as many bins as n or up to 1,000 n values may need.

    A histogram counts from an edge (included) on, a ruler up to a mark (included): so each is moved down to the next float.
    """
    most = int(np.ceil(np.log2(n) + 1)) + 10
    with np.errstate(over="ignore", invalid="ignore"):
        edges = np.concatenate([np.linspace(low, high, bins + 1)[1:-1] for bins in range(5, most + 1)])
    edges = np.unique(np.nextafter(edges, -np.inf))
    return edges[(low < edges) & (edges < high)]


@dataclass(frozen=True, slots=True)
class RulerCounts:
    """Counts and places of all numeric columns, each on its ruler, laid end to end."""

    counts: NDArray[np.int64]
    """(sum of the rulers' sizes,)"""
    places: NDArray[np.int64]

    @classmethod
    def empty(cls, size: int) -> "RulerCounts":
        """Of no rows: the neutral element of `+`."""
        return cls(np.zeros(size, np.int64), np.zeros(size, np.int64))

    @classmethod
    def of(cls, tallies: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> "RulerCounts":
        """Of one batch: what `Ruler.count` says of each column."""
        if not tallies:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))
        return cls(np.concatenate([counts for counts, _ in tallies]), np.concatenate([places for _, places in tallies]))

    def __add__(self, other: "RulerCounts") -> "RulerCounts":
        """Of both, to the last bit."""
        return RulerCounts(self.counts + other.counts, self.places + other.places)
