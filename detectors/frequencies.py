"""Shares of reference and window in the same bins or categories, the way Evidently bins."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from detectors.distribution import Ramps, Steps, distribution
from detectors.errors import NotApplicable
from detectors.statistics.column import ColumnSummary, once
from detectors.statistics.ruler import Ruler

MAX_DISTINCT = 20
"""A numeric reference with at most so many distinct values is compared value by value, as Evidently does."""
EXPLAINED = 5
"""How many bins or categories an explanation names at most."""
UNLISTED = "(other)"
"""Name of all categories together that were too many to be counted one by one."""


@dataclass(frozen=True, slots=True)
class Frequencies:
    """How often reference and window fall into each of k bins or categories."""

    reference: NDArray[np.float64]
    """(k,) counts."""
    window: NDArray[np.float64]
    """(k,) counts."""
    exact: bool
    edges: NDArray[np.float64] | None = None
    """(k + 1,) of numeric bins, each closed on the left, the last one on both sides."""
    keys: tuple[str | float, ...] = ()
    """(k,) categories or values, ascending."""

    @property
    def shares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Both as shares that add up to 1."""
        return self.reference / self.reference.sum(), self.window / self.window.sum()

    def label(self, i: int) -> str:
        """Bin or category i for people."""
        if self.edges is not None:
            return bin_label(self.edges, i)
        key = self.keys[i]
        return key if isinstance(key, str) else f"{key:.6g}"

    def explain(self, parts: NDArray[np.float64]) -> dict[str, float]:
        """The largest of k non-negative parts as shares of their sum, largest first."""
        return largest(parts, self.label)


def bin_label(edges: NDArray[np.float64], i: int) -> str:
    """Bin i for people, for example ``[12.5, 17)``."""
    last = "]" if i == len(edges) - 2 else ")"
    return f"[{float(edges[i]):.6g}, {float(edges[i + 1]):.6g}{last}"


def largest(parts: NDArray[np.float64], label: Callable[[int], str]) -> dict[str, float]:
    """The largest of some non-negative parts as shares of their sum, largest first; at most five."""
    total = float(parts.sum())
    if not 0 < total < math.inf:
        return {}
    shares = parts / total
    # What is equal but for rounding stays in its order.
    order = np.argsort(-np.round(shares, 12), kind="stable")[:EXPLAINED].tolist()
    return {label(i): float(shares[i]) for i in order if shares[i] > 0}


def sturges_edges(n: float, low: float, high: float) -> NDArray[np.float64]:
    """Edges of numpy's Sturges bins for n finite values from low to high.

    Equal to ``np.histogram_bin_edges(values, bins="sturges")`` for float values, which depends on nothing else; where that
    raises (a range too narrow or too wide for floats), the nearest edges that exist.
    """
    low, high = float(low), float(high)
    if low == high:
        edges = np.array([low - 0.5, high + 0.5])
    elif math.isfinite(high - low):
        width = (high - low) / (math.log2(n) + 1.0)
        edges = np.linspace(low, high, math.ceil((high - low) / width) + 1 if width > 0 else 2)
    else:
        edges = 2 * np.linspace(low / 2, high / 2, math.ceil(math.log2(n) + 1.0) + 1)
    if (edges[1:] > edges[:-1]).all():
        return edges
    edges = np.unique(edges)
    return edges if len(edges) > 1 else np.sort([low, np.nextafter(low, 0.0)])


def frequencies(reference: ColumnSummary, window: ColumnSummary) -> Frequencies:
    """Shares by category, by value (a numeric reference of at most 20 distinct values), or else in Sturges bins."""
    if reference.type == "categorical" or is_discrete(reference):
        return by_category(reference, window)
    return by_bin(reference, window)


def is_discrete(reference: ColumnSummary) -> bool:
    """Whether a numeric reference has at most 20 distinct values."""
    if reference.counts is not None:
        return reference.unlisted == 0 and len(reference.counts) <= MAX_DISTINCT
    if reference.values is None:
        return False
    return reference_distinct(reference) <= MAX_DISTINCT


def by_category(reference: ColumnSummary, window: ColumnSummary) -> Frequencies:
    """Counts of each category or value that occurs in either.

    Where the reference does not list all of its categories, nobody knows whether one that only the window lists is new:
    it counts as one of the others, as it does in the reference.

    Raises
    ------
    NotApplicable
        When a numeric column has too many distinct values to count each.
    """
    p, q = counts_of(reference), counts_of(window)
    others = window.unlisted
    if reference.unlisted:
        others += sum(count for key, count in q.items() if key not in p)
        q = {key: count for key, count in q.items() if key in p}
    keys: Sequence[str | float] = sorted({*p, *q})
    ours, theirs = [p.get(key, 0) for key in keys], [q.get(key, 0) for key in keys]
    if reference.unlisted or window.unlisted:
        # All values that were too many to list are one category more.
        keys = [*keys, UNLISTED]
        ours, theirs = [*ours, reference.unlisted], [*theirs, others]
    exact = not (reference.unlisted or window.unlisted)
    return Frequencies(np.array(ours, np.float64), np.array(theirs, np.float64), exact, keys=tuple(keys))


def counts_of(column: ColumnSummary) -> dict[str | float, int]:
    """How often each category or value occurs.

    Raises
    ------
    NotApplicable
        When a numeric column has too many distinct values to count each.
    """
    if column.counts is not None:
        return cast("dict[str | float, int]", column.counts)
    if column.values is None:
        msg = f"column {column.name!r} has no counts by value: use a numeric method, or declare it categorical"
        raise NotApplicable(msg)
    values, counts = np.unique(column.values, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def by_bin(reference: ColumnSummary, window: ColumnSummary, distinct: float | None = None) -> Frequencies:
    """Counts in the Sturges bins of both samples together.

    Parameters
    ----------
    distinct
        The sample size that the number of bins follows from; by default how many values there are.
    """
    low, high = min(reference.low, window.low), max(reference.high, window.high)
    edges = sturges_edges(distinct or reference.count + window.count, low, high)
    inner = edges[1:-1]
    p, q = distribution(reference), distribution(window)
    below_p, below_q = p.below(inner), q.below(inner)
    if isinstance(p, Steps) and not q.exact:
        below_q = _like_reference(reference, window, inner)
    return Frequencies(
        _between(below_p, reference.count),
        np.maximum(_between(below_q, window.count), 0.0),
        exact=p.exact and q.exact,
        edges=edges,
    )


def _between(below: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    """How many values there are in each bin, from how many lie below its inner edges."""
    counts = np.empty(len(below) + 1)
    counts[:-1] = below
    counts[-1] = total
    counts[1:] -= below
    return counts


def union_distinct(reference: ColumnSummary, window: ColumnSummary) -> float:
    """How many distinct values there are in both samples together; an estimate once the window is not whole.

    Then those of the reference, and of the window's values that are not at a mark of the ruler (where every common value of the
    reference is) so many as the reference has values that occur once among its own ones beside the marks: Good and Turing's
    estimate of what was never seen before.
    """
    if reference.values is not None and window.values is not None:
        values = _distinct(window.values)
        at = np.searchsorted(reference.values, values)
        within = at < len(reference.values)
        common = np.count_nonzero(reference.values[at[within]] == values[within])
        return reference_distinct(reference) + len(values) - int(common)
    if reference.counts is not None and window.counts is not None:
        return len({*reference.counts, *window.counts}) + (window.unlisted > 0) + (reference.unlisted > 0)
    (known, rate), q = _seen(reference), Ramps.of(window)
    return known + rate * float(q.total - q.at_ends.sum())


@once
def _seen(reference: ColumnSummary) -> tuple[float, float]:
    """How many distinct values the reference has, and the rate of values that occur once among those beside the marks."""
    p = Ramps.of(reference)
    beside = p.total - p.at_ends.sum()
    if reference.values is None:
        known, unique = float(reference.distinct or np.count_nonzero(p.at_ends) + beside), beside
    else:
        new = np.concatenate(([True], np.diff(reference.values) != 0, [True]))
        known, unique = float(np.count_nonzero(new[:-1])), float(np.count_nonzero(new[1:] & new[:-1]))
    return known, min(unique / beside, 1.0) if beside else 0.0


def reference_distinct(reference: ColumnSummary) -> int:
    """How many distinct values a whole reference has."""
    if reference.distinct is not None:
        return reference.distinct
    return 0 if reference.values is None else len(_distinct(reference.values))


def differences(reference: ColumnSummary, window: ColumnSummary) -> dict[str, float]:
    """The explanation of a method that has no bins of its own: where the shares differ most, in Sturges bins or by value."""
    both = frequencies(reference, window)
    p, q = both.shares
    return both.explain(np.abs(p - q))


def without_zeros(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shares with a little in place of nothing, so that logarithms of ratios are finite.

    1/10,000, or a millionth of the smallest share when that one is at most 1/10,000: Evidently's rule.
    """
    smallest = float(shares[shares > 0].min())
    return np.where(shares == 0, smallest / 1e6 if smallest <= 1e-4 else 1e-4, shares)


def _like_reference(reference: ColumnSummary, window: ColumnSummary, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many values of the window are below each x, spread within a bin of the ruler as those of the whole reference are.

    The counts at the marks are the window's own. Where the mean of the bin is not what it is in the reference, or the reference
    has no values there, they are spread as `Ramps` does.
    """
    ruler, values = window.ruler, reference.values
    assert ruler is not None
    assert values is not None
    assert window.bins is not None
    assert window.sums is not None
    j = np.searchsorted(ruler.marks, x, side="left")
    count = window.bins[j]
    before = np.cumsum(window.bins)[j] - count
    within = _within_bins(reference) if reference.ruler is ruler else _statistics_within(values, ruler)
    first, size, mean, std = within[:, j]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = (np.searchsorted(values, x, side="left") - first) / size
        off = np.abs(window.sums[j] / count - mean)
        width = ruler.ceilings[j] - ruler.floors[j]
        # Within three standard errors.
        like = (count > 1) & (size > 0) & (off <= 3 * std * np.sqrt(1 / count + 1 / size) + 1e-6 * width)
    spread = before + share * count
    return spread if like.all() else np.where(like, spread, Ramps.of(window).below(x))


@once
def _within_bins(reference: ColumnSummary) -> NDArray[np.float64]:
    """`_statistics_within` of a whole reference on its own ruler."""
    assert reference.values is not None
    assert reference.ruler is not None
    return _statistics_within(reference.values, reference.ruler)


def _statistics_within(values: NDArray[np.float64], ruler: Ruler) -> NDArray[np.float64]:
    """(4, bins) of sorted values: how many are in earlier bins, how many in the bin, their mean and standard deviation."""
    cuts = np.concatenate(([0], np.searchsorted(values, ruler.marks, side="right"), [len(values)]))
    size = np.diff(cuts)
    filled = np.flatnonzero(size)
    first, times = cuts[filled], size[filled]
    found = np.zeros((4, ruler.size))
    found[0], found[1] = cuts[:-1], size
    with np.errstate(over="ignore", invalid="ignore"):
        # From the bin's first value on, which loses no digits.
        far = values - np.repeat(values[first], times)
        mean = np.add.reduceat(far, first) / times
        far -= np.repeat(mean, times)
        found[2, filled] = values[first] + mean
        found[3, filled] = np.sqrt(np.add.reduceat(far * far, first) / times)
    return found


def _distinct(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))] if len(ordered) else ordered
