"""Two samples laid out along their common ranks, from every single value or from what a ruler counted."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.distribution import Distribution, Ramps, Steps, common_corners, pair
from detectors.statistics.column import ColumnSummary, once

_ATOM = 0.9
"""Above this share of a bin, what lies at its upper mark is taken for one common value."""

_ROUNDING = 1e-12
"""A smaller share of all values is none."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Reference and window cut into k pieces that follow one another; only the order within a piece is open.

    All values of a tied piece are equal. Those of any other piece all differ, and every order of them is equally likely: where a ruler
    cannot tell them apart, they are taken as a test of no difference takes all values.
    """

    p: NDArray[np.float64]
    """(k,) how many values of the reference each piece holds; parts of one where a value may be in either of two pieces."""
    q: NDArray[np.float64]
    """(k,) likewise of the window."""
    tied: NDArray[np.bool_]
    """(k,) whether the values of the piece are all the same."""
    exact: bool
    """Whether every single value is known; then all pieces are tied, if only to themselves."""

    @property
    def before(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(k,) how many values of the reference, and of the window, precede each piece."""
        return np.cumsum(self.p) - self.p, np.cumsum(self.q) - self.q


def pieces(reference: ColumnSummary, window: ColumnSummary) -> Pieces:
    """The pieces of two columns that both have at least one value: one for each distinct value while every value is at hand.

    From a ruler the values of a bin are spread as in `Ramps`, but for common values, which are marks of the ruler. Where the mean of a
    bin is so near its upper mark that at least nine tenths must be there if the others are spread over the whole bin, this is what is assumed. In
    a column with at least half of its values in bins that have them all at the mark, as a discrete feature has, no such share is asked for.
    """
    a, b = pair(reference, window)
    if isinstance(a, Steps) and isinstance(b, Steps):
        return _of_values(a, b)
    a, b = (_with_atoms(column) if isinstance(x, Ramps) else x for x, column in ((a, reference), (b, window)))
    x = common_corners(a, b)
    p, q = _masses(a, x), _masses(b, x)
    some = np.flatnonzero(p + q > _ROUNDING * (a.total + b.total))
    return Pieces(p[some], q[some], some % 2 == 0, a.exact and b.exact)


def _of_values(a: Steps, b: Steps) -> Pieces:
    values = np.concatenate((a.values, b.values))
    order = np.argsort(values, kind="stable")  # merges what is sorted already
    x, from_b = values[order], order >= a.total
    first = np.flatnonzero(np.concatenate(([True], x[1:] != x[:-1])))
    q = np.add.reduceat(from_b, first, dtype=np.float64)
    p = np.diff(first, append=len(x)) - q
    return Pieces(p, q, np.ones(len(first), np.bool_), exact=True)


@once
def _with_atoms(column: ColumnSummary) -> Ramps:
    """The ramps of a column, with the common values at marks apart from the rest of their bins."""
    known = Ramps.of(column)
    if known.exact or column.ruler is None:
        return known
    filled = known.counts > 0
    starts, ends, counts = known.starts[filled], known.ends[filled], known.counts[filled]
    bins = np.searchsorted(column.ruler.marks, ends)
    floor = np.maximum(column.ruler.floors[bins], column.low)
    with np.errstate(over="ignore", invalid="ignore"):
        # Evenly spread values, and a share of all at the end, have the mean of a ramp over the last 1 - share of the bin.
        at_end = 1 - (ends - starts) / (ends - floor)
    least = 0.0 if 2 * known.at_ends.sum() >= known.total else _ATOM
    common = np.flatnonzero((ends == column.ruler.ceilings[bins]) & (at_end > least) & (at_end < 1))
    here = at_end[common] * counts[common]
    starts[common], counts[common] = floor[common], counts[common] - here
    starts, ends = (np.insert(array, common + 1, ends[common]) for array in (starts, ends))
    counts = np.insert(counts, common + 1, here)
    return Ramps(starts, ends, counts, np.where(starts == ends, counts, 0.0))


def _masses(sample: Distribution, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2 len(x) - 1,) how many values are at each x and, between these, from each x to the next."""
    below, upto = sample.below(x), sample.upto(x)
    masses = np.empty(2 * len(x) - 1)
    masses[::2] = upto - below
    # Never less than none, but for rounding.
    masses[1::2] = np.maximum(below[1:] - upto[:-1], 0.0)
    return masses
