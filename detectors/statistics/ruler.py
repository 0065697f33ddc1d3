"""Ruler counts: how many values fall between the marks of a fixed ruler that the baseline carries.

Integer counts on fixed marks add exactly, so the same rows give bit-equal counts under any partitioning, batch size or
restart, and a drift score can be audited by replay. The cumulative distribution is exact at the marks; between two
marks it is known up to the mass of that one bin, which is the error bound of every distance built on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEFAULT_RESOLUTION = 1024
_TAIL_STEPS = 64
_TAIL_REACH = 1e9


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

        Beyond the reference's range the marks widen geometrically, so that values far outside are still told apart;
        """
        if len(values) == 0:
            return cls(np.zeros(1))
        distinct = values[np.concatenate(([True], values[1:] != values[:-1]))]
        if len(distinct) <= resolution:
            body = distinct
        else:
            at = np.round(np.linspace(0, len(values) - 1, resolution + 1)).astype(np.int64)
            body = np.unique(values[at])
        low, high = float(body[0]), float(body[-1])
        scale = max((high - low) / resolution, abs(low), abs(high)) * 1e-3 if high == low else (high - low) / resolution
        scale = scale if scale > 0 else 1e-3
        steps = scale * np.geomspace(1.0, _TAIL_REACH, _TAIL_STEPS)
        with np.errstate(over="ignore"):
            marks = np.unique(np.concatenate((low - steps, body, high + steps)))
        return cls(marks[np.isfinite(marks)])

    def tally(self, ordered: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(size,) counts and sums of the bins.

        Parameters
        ----------
        ordered
            (n,) finite values, sorted ascending. Looking the marks up in the sorted values costs half of looking the
            values up among the marks, sorting included, and the sort serves quantiles and raw values too.
        """
        edges = np.concatenate(([0], np.searchsorted(ordered, self.marks, side="right")))
        counts = np.diff(edges, append=len(ordered))
        sums = np.zeros(self.size)
        filled = counts > 0
        if len(ordered):
            sums[filled] = np.add.reduceat(ordered, edges[filled])
        return counts, sums


@dataclass(frozen=True, slots=True)
class RulerCounts:
    """Counts and sums of all numeric columns, each on its ruler, laid end to end."""

    counts: NDArray[np.int64]
    """(sum of the rulers' sizes,)"""
    sums: NDArray[np.float64]

    @classmethod
    def of(cls, rulers: Sequence[Ruler], ordered: Sequence[NDArray[np.float64]]) -> "RulerCounts":
        """Of one batch: the sorted finite values of each column."""
        if not rulers:
            return cls(np.zeros(0, np.int64), np.zeros(0))
        tallies = [ruler.tally(values) for ruler, values in zip(rulers, ordered, strict=True)]
        return cls(np.concatenate([counts for counts, _ in tallies]), np.concatenate([sums for _, sums in tallies]))

    def __add__(self, other: "RulerCounts") -> "RulerCounts":
        return RulerCounts(self.counts + other.counts, self.sums + other.sums)
