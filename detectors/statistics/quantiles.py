"""Percentiles of a stream: a KLL sketch of all values, or of those that are crowded in few bins of a ruler."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasketches import kll_doubles_sketch
from numpy.typing import NDArray

from detectors.statistics.ruler import Ruler

RESOLUTION = 200
"""KLL's k: a quantile's rank is off by at most 1.33 % of the rows with 99 % confidence (2-5 kB a column)."""
RANK_ERROR = kll_doubles_sketch.get_normalized_rank_error(RESOLUTION, False)
CROWDED = 1 / 128
"""A bin with more than this share of a batch's values is sketched."""

_MANY = 16
"""To look so many bins up one by one takes about as long as to sort all values."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """One KLL sketch for each numeric column.

    Where counts on a ruler are exact and repeatable but need a baseline, a sketch needs nothing and adapts to any
    distribution; it is randomised, so two runs agree within its bound and not to the bit.

    With a ruler a percentile is known to lie in one bin, so its rank to within what that bin holds: for values like the reference's
    about 0.1 %, but all there is for values far from them. So only bins that hold more than 1/128 of a batch's values are sketched, to
    tell how these are spread in them. Values like the reference's cost nothing then, others what they cost without a ruler.

    References
    ----------
    Karnin, Lang & Liberty (2016), Optimal quantile approximation in streams, FOCS. Apache DataSketches' implementation.
    """

    sketches: tuple[kll_doubles_sketch, ...]

    @classmethod
    def empty(cls, columns: int) -> "Quantiles":
        """Of no rows: the neutral element of `+`."""
        return cls(tuple(kll_doubles_sketch(RESOLUTION) for _ in range(columns)))

    @classmethod
    def of(cls, columns: Sequence[NDArray[np.float64]]) -> "Quantiles":
        """Of one batch without rulers: the finite values of each column, in any order."""
        made = cls.empty(len(columns))
        for sketch, values in zip(made.sketches, columns, strict=True):
            if len(values):
                sketch.update(np.sort(values))  # sorted values feed a sketch twice as fast
        return made

    @classmethod
    def of_crowded(
        cls,
        columns: Sequence[NDArray[np.float64]],
        rulers: Sequence[Ruler],
        tallies: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    ) -> "Quantiles":
        """Of one batch with rulers: of each column the values in crowded bins.

        Parameters
        ----------
        columns
            The finite values of each, in any order.
        tallies
            What `Ruler.count` says of them.
        """
        from detectors.statistics import compiled

        made = cls.empty(len(columns))
        for sketch, values, ruler, tally in zip(made.sketches, columns, rulers, tallies, strict=True):
            crowded = ruler.crowded(*tally, CROWDED * len(values))
            if len(crowded) > _MANY:
                ordered = compiled.ascending(values)
                ends = np.cumsum(tally[0])[crowded]
                parts = [ordered[end - count : end] for end, count in zip(ends, tally[0][crowded], strict=True)]
            else:
                low, high = ruler.floors[crowded], ruler.ceilings[crowded]
                parts = [values[(values >= a) & (values <= b)] for a, b in zip(low, high, strict=True)]
            for part in parts:
                sketch.update(part)
        return made

    def __add__(self, other: "Quantiles") -> "Quantiles":
        return Quantiles(tuple(map(_merged, self.sketches, other.sketches)))

    def at(self, column: int, ranks: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values at these ranks (0 to 1) of one column that was counted without a ruler; NaN when it is empty."""
        sketch = self.sketches[column]
        if sketch.is_empty():
            return np.full(len(ranks), np.nan)
        return np.asarray(sketch.get_quantiles(ranks.tolist()))

    def within(self, column: int, low: float, high: float, count: int, share: float) -> float | None:
        """The value that this share of a bin's values does not exceed; None when less than half of them were sketched.

        Parameters
        ----------
        low, high
            The bin's marks: it has the values above `low` up to `high`.
        count
            How many values it holds.
        share
            0 to 1.
        """
        sketch = self.sketches[column]
        if sketch.is_empty():
            return None
        below, upto = sketch.get_rank(low, True), sketch.get_rank(high, True)
        if 2 * (upto - below) * sketch.n < count:
            return None
        value: float = sketch.get_quantile(below + share * (upto - below), True)
        return value


def _merged(mine: kll_doubles_sketch, theirs: kll_doubles_sketch) -> kll_doubles_sketch:
    if mine.is_empty() or theirs.is_empty():
        return mine if theirs.is_empty() else theirs
    sketch = kll_doubles_sketch(RESOLUTION)
    sketch.merge(mine)
    sketch.merge(theirs)
    return sketch
