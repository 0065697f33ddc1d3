"""How many distinct values a column has: exact while few, then from the smallest hashes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.statistics.block import Codes
from detectors.statistics.sample import hash_of, mixed

KEPT = 2048
_SPARE = 1.25
"""So many times the hashes that are kept are looked at: that too few of them come is ten standard deviations away."""
_SLOTS = 8 * KEPT
_EVERY = np.uint64(2**64 - 1)
"""No hash that is to be kept is above."""


@dataclass(frozen=True, slots=True)
class Distinct:
    """The smallest hashes of the distinct values of each column (k minimum values).

    While a column has fewer than 2,048 distinct values their number is exact; beyond, it is ``(k - 1) / U_k`` with U_k the k-th
    smallest hash as a share of the range: unbiased, with a relative standard error of ``1 / sqrt(k - 2)``, 2.2 %. The sum of two is
    the same to the bit however the values were partitioned. Adding zero makes one value of both zeros.

    References
    ----------
    Bar-Yossef et al. (2002), Counting distinct elements in a data stream, RANDOM; Beyer et al. (2007), On synopses for distinct-value
    estimation under multiset operations, SIGMOD.
    """

    hashes: tuple[NDArray[np.uint64], ...]
    """For each column, the numeric ones first, at most 2,048, ascending, each once."""

    @classmethod
    def empty(cls, columns: int) -> "Distinct":
        """Of no rows: the neutral element of `+`."""
        return cls((np.empty(0, np.uint64),) * columns)

    @classmethod
    def of(cls, columns: Sequence[NDArray[np.float64]], categorical: Sequence[Codes] = ()) -> "Distinct":
        """Of one batch: the finite values of each numeric column, in any order, and the categorical columns."""
        return cls((*map(_of_numbers, columns), *(smallest(_of_texts(column)) for column in categorical)))

    def __add__(self, other: "Distinct") -> "Distinct":
        return Distinct(tuple(smallest(np.concatenate(pair)) for pair in zip(self.hashes, other.hashes, strict=True)))

    def estimate(self, column: int) -> float:
        """Number of distinct values of a column."""
        kept = self.hashes[column]
        if len(kept) < KEPT:
            return float(len(kept))
        return (KEPT - 1) / math.ldexp(float(kept[-1]) + 1, -64)


def _of_numbers(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    from detectors.statistics import compiled

    if compiled.HERE and len(values) > 2 * KEPT:
        limit = _enough(len(values))
        for _ in range(2):
            found = np.zeros(_SLOTS, np.uint64)
            count = compiled.hashes_below(values, limit, found)
            if count >= KEPT or (count >= 0 and limit == _EVERY):
                return np.sort(found[found != 0])[:KEPT]
            if count < 0:
                break
            # Many values are repetitions: so many times as high the limit would be right.
            times = _SPARE * KEPT / max(count - 4 * math.sqrt(count), 1.0)
            limit = _EVERY if float(limit) * times >= float(_EVERY) else np.uint64(float(limit) * times)
    return smallest(mixed(_each_once(compiled.ascending(values)).view(np.uint64)))


def _each_once(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(ordered) == 0:
        return ordered
    new = ordered[1:] != ordered[:-1]
    if new.all():
        return ordered + 0.0
    return np.concatenate((ordered[:1], ordered[1:][new])) + 0.0


def _enough(hashes: int) -> np.uint64:
    """A limit below which so many different hashes leave enough to choose from, because they are spread evenly."""
    return np.uint64(float(_EVERY) / hashes * _SPARE * KEPT)


def _of_texts(column: Codes) -> NDArray[np.uint64]:
    used = np.flatnonzero(np.bincount(column.codes + 1, minlength=len(column.values) + 1)[1:])
    return np.array([hash_of(column.values[code]) for code in used.tolist()], np.uint64)


def smallest(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """At most 2,048, ascending, each once."""
    if len(hashes) > 2 * KEPT:
        few = np.unique(hashes[hashes < _enough(len(hashes))])
        if len(few) >= KEPT:
            return few[:KEPT]
    return np.unique(hashes)[:KEPT]
