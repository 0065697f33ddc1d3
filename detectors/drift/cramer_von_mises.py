import math
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import gammaln, kv
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Score
from detectors.frequencies import differences
from detectors.ranks import Pieces, pieces
from detectors.statistics.column import ColumnSummary

_COUNTED_SIZE = 20
"""Up to this size of the larger sample, all orders of both samples are counted."""
_SMALLEST, _LARGEST = 0.003, 1e6
"""Below and above these the limiting distribution is 0 and 1."""
_SMALLEST_TERM = 1e-7

_Reached: TypeAlias = dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]]
"""By how many steps of a path went to the right: each sum of squared distances to the diagonal, ascending, and how many paths have it."""


class CramerVonMises(DriftDetector):
    """Two-sample Cramér-von Mises test: p-value of the mean squared difference of both cumulative distributions.

    ``T = n m / N^2 sum (F_ref(x) - F_win(x))^2`` over all N = n + m values, computed from midranks r_i and s_j of both samples:
    ``T = (n sum (r_i - i)^2 + m sum (s_j - j)^2) / (n m N) - (4 n m - 1) / (6 N)``. The p-value comes from the limiting distribution, after T
    is shifted and scaled to the limiting mean and variance. When neither sample has more than 20 values, it is the share of all orders whose
    T is at least as large. All this is as in Evidently, but for that share: there it is counted in numbers too short for it, so that it is off by
    a thousandth or is an error; ours is scipy's. A single value on one side is refused there; here it is judged as any other sample. One
    constant in both gives p = 1 here, and there only in samples of equal size.

    From ruler counts the order within a bin is open, and T is its expectation over all orders: with h the largest share of reference
    and window together in one bin (the two added), sqrt(T) is off by at most ``h sqrt(n m / N)`` while no value occurs twice. Seen with 20,000 to
    100,000 values on each side: p off by 0.001, by 0.015 with a value that is common, by 0.05 when all values are drawn from a few hundred.

    Parameters
    ----------
    threshold
        Drift is declared at or below it. A probability.

    Notes
    -----
    Misleads on features with common values when the samples are of unequal size: T grows with the cube of unequal groups of ties, so that a
    window of the very same distribution may have p = 0 (`anderson` bears ties better, 7.6 % alarms at 5 % on a Poisson count,
    docs/honesty.md; `jensenshannon` counts them). In large windows it finds differences too small to matter. P-values below about 1e-6 are rounding: the series is summed to terms of 1e-7.
    Nearest neighbours: `anderson` gives the tails more weight, `ks` takes the largest difference, `ed` integrates over the values instead of
    the ranks.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> old = ColumnSummary("x", "numeric", 30, low=0.0, high=29.0, values=np.arange(30.0))
    >>> new = ColumnSummary("x", "numeric", 30, low=6.5, high=35.5, values=np.arange(30.0) + 6.5)
    >>> round(CramerVonMises().compare(old, new).score, 4)
    0.0214

    References
    ----------
    Anderson (1962), Ann. Math. Statist. 33(3); Csörgő & Faraway (1996), J. R. Stat. Soc. B 58(1): the limiting distribution;
    Xiao, Gordon & Yakovlev (2007), J. Stat. Softw. 17(8): counting orders.
    """

    direction: ClassVar[Direction] = "p-value"
    unit: ClassVar[str] = "probability"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric"})

    name: Literal["cramer_von_mises"] = "cramer_von_mises"
    threshold: float = Field(0.1, gt=0, le=1)

    @override
    def score(self, reference: ColumnSummary, window: ColumnSummary) -> Score:
        cut = pieces(reference, window)
        n, m = reference.count, window.count
        if len(cut.p) == 1 and cut.tied[0]:
            return Score(1.0, cut.exact)
        u = _rank_sum(cut, n, m)
        value = _counted_p(u, n, m) if max(n, m) <= _COUNTED_SIZE else _limiting_p(_statistic(u, n, m), n, m)
        return Score(value, cut.exact, differences(reference, window))


def _rank_sum(cut: Pieces, n: int, m: int) -> float:
    """Sum of the squared distances between each value's rank among all and its rank in its own sample, times the sample's size."""
    before_p, before_q = cut.before
    return n * float(np.sum(_squares(cut.p, cut.q, before_q, cut.tied))) + m * float(
        np.sum(_squares(cut.q, cut.p, before_p, cut.tied))
    )


def _squares(
    own: NDArray[np.float64], other: NDArray[np.float64], before: NDArray[np.float64], tied: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(k,) sums over the values of one sample in each piece; `before` says how many of the other sample precede it."""
    of_ties = own * (before + other / 2) ** 2 + np.maximum(own * own * own - own, 0.0) / 12
    # Over all orders, the number of the others that precede a value is 0 to `other`, each as often.
    expected = own * (before * (before + other) + other * (2 * other + 1) / 6)
    return np.where(tied, of_ties, expected)


def _statistic(u: float, n: int, m: int) -> float:
    pairs, total = n * m, n + m
    return u / (pairs * total) - (4 * pairs - 1) / (6 * total)


def _limiting_p(t: float, n: int, m: int) -> float:
    pairs, total = n * m, n + m
    mean = (1 + 1 / total) / 6
    variance = (total + 1) * (4 * pairs * total - 3 * (n**2 + m**2) - 2 * pairs) / (45 * total**2 * 4 * pairs)
    limiting = 1 / 6 + (t - mean) / math.sqrt(45 * variance)
    if limiting < _SMALLEST:
        return 1.0
    return max(0.0, 1 - _cdf(limiting)) if limiting < _LARGEST else 0.0


def _cdf(x: float) -> float:
    """Limiting distribution of T. The series stops after the first term below 1e-7, as Evidently's, so that both are wrong by the same."""
    k = np.arange(3 * math.sqrt(x) + 5)
    q = (4 * k + 1) ** 2 / (16 * x)
    weight = np.exp(gammaln(k + 0.5) - gammaln(k + 1)) / (math.pi**1.5 * math.sqrt(x))
    terms = weight * np.sqrt(4 * k + 1) * np.exp(-q) * kv(0.25, q)
    return float(np.cumsum(terms)[np.argmax(np.abs(terms) < _SMALLEST_TERM)])


def _counted_p(u: float, n: int, m: int) -> float:
    """Share of all orders of n and m values for which u is at least as large.

    An order is a path from (0, 0) to (n, m), a step to the right for a value of one sample and up for one of the other. It is cut in the
    middle: what can be reached from the start is, turned round, what can be reached from the end.
    """
    pairs, multiple = n * m, math.lcm(n, m)
    least = math.floor(multiple**2 * (n + m) * (6 * u - pairs * (4 * pairs - 1)) / (6 * pairs**2))
    half = (n + m) // 2
    first: _Reached = {0: (np.zeros(1, np.int64), np.ones(1))}
    for step in range(1, half + 1):
        first = _stepped(first, step, n, m)
    last = first if n + m == 2 * half else _stepped(first, half + 1, n, m)
    ways = 0.0
    for i, (sums, counts) in first.items():
        others, times = last[n - i]
        # The point in the middle belongs to both halves.
        twice = (multiple // n * i - multiple // m * (half - i)) ** 2
        upto = np.concatenate(([0.0], np.cumsum(times)))
        ways += float(counts @ (upto[-1] - upto[np.searchsorted(others, least + twice - sums, side="left")]))
    return ways / math.comb(n + m, n)


def _stepped(at: _Reached, step: int, n: int, m: int) -> _Reached:
    """Where the paths are after one more step, the one with this number."""
    multiple = math.lcm(n, m)
    right, up = multiple // n, multiple // m
    following: _Reached = {}
    for i in range(max(0, step - m), min(n, step) + 1):
        parts = [at[j] for j in (i - 1, i) if j in at]
        sums, where = np.unique(np.concatenate([sums for sums, _ in parts]), return_inverse=True)
        counts = np.bincount(where, weights=np.concatenate([counts for _, counts in parts])).astype(np.float64)
        following[i] = sums + (right * i - up * (step - i)) ** 2, counts
    return following
