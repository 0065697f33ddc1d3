"""Ruler counts: how many values fall between the marks of a fixed ruler that the baseline carries.

Integer counts on fixed marks add exactly, so the same rows give bit-equal counts under any partitioning, batch size or
restart, and a drift score can be audited by replay. The cumulative distribution is exact at the marks; between two
marks it is known up to the mass of that one bin, which is the error bound of every distance built on it.
"""

from dataclasses import dataclass
from functools import cached_property

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
        within it nothing depends on how far the tails reach.
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

    @cached_property
    def reach(self) -> tuple[float, float]:
        """The lowest and the highest mark."""
        return float(self.marks[0]), float(self.marks[-1])

    def bin_of(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """(n,) bin of each finite value."""
        return np.searchsorted(self.marks, values, side="left")
