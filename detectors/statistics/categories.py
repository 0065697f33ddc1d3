"""Counts of categories: exact for the ones the baseline knows, bounded for all others."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.statistics.block import Codes

MAX_LISTED = 1000


@dataclass(frozen=True, slots=True)
class CategoryCounts:
    """How often each category occurs in one column.

    Counts are exact while there are at most `cap` distinct categories. Beyond that the most frequent ones are kept by
    the mergeable Space-Saving/Misra-Gries reduction: a kept count is too low by at most `error`, a category that is not kept occurred at
    most `error` times, and `error` is at most total/cap. `listed` categories (those of the baseline, the categorical
    counterpart of a ruler's marks) are never dropped, so drift scores over them stay exact whatever a client sends.

    References
    ----------
    Misra & Gries (1982), Sci. Comput. Program. 2; Agarwal et al. (2013), Mergeable summaries, ACM TODS 38(4).
    """

    counts: dict[str, int] | dict[float, int]
    missing: int = 0
    error: int = 0
    """By how much a count of a category that is not `listed` may be too low."""
    unlisted: int = 0
    """Occurrences that are in no count any more: total = sum(counts) + unlisted."""
    cap: int = MAX_LISTED
    listed: frozenset[str] | frozenset[float] = field(default=frozenset())

    @classmethod
    def of(cls, column: Codes, cap: int = MAX_LISTED, listed: frozenset[str] = frozenset()) -> "CategoryCounts":
        """Of one batch."""
        tally = np.bincount(column.codes + 1, minlength=len(column.values) + 1)
        counts = {value: count for value, count in zip(column.values, tally[1:].tolist(), strict=False) if count}
        return cls(counts, int(tally[0]), 0, 0, cap, listed).reduced()

    @classmethod
    def of_numbers(
        cls, ordered: NDArray[np.float64], cap: int = MAX_LISTED, listed: frozenset[float] = frozenset()
    ) -> "CategoryCounts":
        """Of the sorted finite values of a numeric column that has few distinct ones."""
        values, tally = np.unique(ordered, return_counts=True)
        return cls(dict(zip(values.tolist(), tally.tolist(), strict=True)), 0, 0, 0, cap, listed).reduced()

    @property
    def total(self) -> int:
        """Values that are not missing."""
        return sum(self.counts.values()) + self.unlisted

    @property
    def exact(self) -> bool:
        """Whether every count is exact."""
        return self.unlisted == 0

    def __add__(self, other: "CategoryCounts") -> "CategoryCounts":
        counts: dict[Any, int] = dict(self.counts)
        for value, count in other.counts.items():
            counts[value] = counts.get(value, 0) + count
        return CategoryCounts(
            counts,
            self.missing + other.missing,
            self.error + other.error,
            self.unlisted + other.unlisted,
            min(self.cap, other.cap),
            self.listed if self.listed == other.listed else frozenset((*self.listed, *other.listed)),
        ).reduced()

    def reduced(self) -> "CategoryCounts":
        """With at most `cap` free categories: subtract the (cap+1)-th largest free count from every free one and drop what is left with nothing."""
        free = [count for value, count in self.counts.items() if value not in self.listed]
        if len(free) <= self.cap:
            return self
        cut = int(np.partition(free, -(self.cap + 1))[-(self.cap + 1)])
        kept: dict[Any, int] = {}
        dropped = 0
        for value, count in self.counts.items():
            if value in self.listed:
                kept[value] = count
            else:
                if count > cut:
                    kept[value] = count - cut
                dropped += min(count, cut)
        return CategoryCounts(kept, self.missing, self.error + cut, self.unlisted + dropped, self.cap, self.listed)
