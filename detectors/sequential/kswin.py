import functools
from typing import Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.special import gammaln
from typing_extensions import override

from detectors.sequential.base import Checks, Memory, SequentialDetector

_LEAST = 0.1
_CELLS = 1 << 18


class KswinMemory(Memory):
    """The end of the series."""

    window: NDArray[np.float64] = msgspec.field(default_factory=lambda: np.empty(0))
    """(up to window_size - 1,) the last observations, oldest first."""


class Kswin(SequentialDetector[KswinMemory]):
    """KSWIN: drift when the newest part of a sliding window and a draw from the older part are of different distributions.

    Of the last ``window_size`` observations the newest ``stat_size`` are compared with as many that are drawn at random, without
    replacement, from the others: two-sample Kolmogorov-Smirnov test with the exact p-value (Gnedenko and Korolyuk's sum). Drift when
    that is at most alpha and the distance is above 0.1. The statistic is the distance, the threshold the smallest one that is drift.

    Same test, same window, same emptying of the window by an alarm as river's `KSWIN`; with the same draws the alarms are the same. The
    draws are others: river's come from Python's generator, one observation at a time; here the draw at the n-th observation since
    the last alarm is a pure function of seed and n (Philox, a generator with a counter), so that nothing of it has to be kept, and
    any cutting into pieces draws the same. It looks only at the order of the values, never at their size.

    Alpha is the probability of a false alarm in one test, but there is a test at each observation: those of one window overlap, those
    of a long series do not. Seen on independent noise: a false alarm each 800 observations at the defaults, each 12,000 with alpha
    at 1e-4, each 100,000 at 1e-5. The state is ``8 window_size`` bytes; a pass costs 2 µs an observation at the defaults.

    Parameters
    ----------
    alpha
        Drift is declared at a p-value at or below it.
    window_size
        Observations in the window.
    stat_size
        How many of them, the newest, are compared; at most half.
    seed
        Of the draws.

    Notes
    -----
    Misleads through its many tests (see above), on series with autocorrelation, and on discrete values, where the p-value is too large. It
    is blind to drifts slower than its window. Nearest neighbours: `adwin`, which sees the mean only, but has a window as long as it can;
    `ks`, which compares with the reference.

    Examples
    --------
    >>> state = Kswin(alpha=1e-4).start()
    >>> state.update(np.arange(300) % 7)
    []
    >>> for change in state.update(np.arange(50) % 7 + 5):
    ...     print(change.kind, change.index, round(change.statistic, 3), round(change.threshold, 3))
    drift 321 0.567 0.567

    References
    ----------
    Raab, Heusinger and Schleif (2020), Neurocomputing 416; Gnedenko and Korolyuk (1951), Doklady Akademii Nauk SSSR 80.
    """

    name: Literal["kswin"] = "kswin"
    alpha: float = Field(0.005, gt=0, lt=1)
    window_size: int = Field(100, ge=4, le=10_000)
    stat_size: int = Field(30, ge=2)
    seed: int = Field(0, ge=0, lt=1 << 32)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if 2 * self.stat_size > self.window_size:
            msg = f"statSize is {self.stat_size}: at most half of windowSize, which is {self.window_size}"
            raise ValueError(msg)
        least = p_value(self.stat_size, self.stat_size)
        if least > self.alpha:
            msg = f"alpha is {self.alpha}, but with statSize {self.stat_size} no p-value is below {least:.2g}: raise one of them"
            raise ValueError(msg)
        return self

    @property
    @override
    def block(self) -> int:
        # Each observation brings a whole window with it.
        return 1 << max(4, (_CELLS // self.window_size).bit_length() - 1)

    @override
    def fresh(self) -> KswinMemory:
        return KswinMemory()

    @override
    def scan(self, memory: KswinMemory, x: NDArray[np.float64]) -> Checks:
        size, newest = self.window_size, self.stat_size
        series = np.concatenate((memory.window, x))
        memory.window = series[-(size - 1) :].copy()
        tests = len(series) - size + 1
        if tests <= 0:
            return Checks.none()
        at = np.arange(len(x) - tests, len(x))
        windows = np.lib.stride_tricks.sliding_window_view(series, size)
        old, new = windows[:, :-newest], windows[:, -newest:]
        first = memory.n + int(at[0]) + 1 - size
        drawn = np.take_along_axis(old, draws(self.seed, first, tests, size - newest, newest), axis=1)
        distance = distances(drawn, new)
        enough = critical(newest, self.alpha)
        return Checks(at, distance / newest, np.full(tests, enough / newest), distance >= enough)


def draws(seed: int, first: int, count: int, pool: int, size: int) -> NDArray[np.int64]:
    """(count, size) of ``pool`` places each, the draws number ``first``, ``first + 1``, ...; a draw has the places of its smallest random numbers."""
    steps = -(-pool // 4)  # the generator gives four numbers for each value of its counter
    raw = np.random.Philox(key=seed, counter=first * steps).random_raw(count * steps * 4)
    return np.argpartition(raw.reshape(count, -1)[:, :pool], size - 1, axis=1)[:, :size]


def distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.int64]:
    """(rows,) Kolmogorov-Smirnov distance of two samples in each row, times their common size."""
    size = a.shape[1]
    both = np.concatenate((a, b), axis=1)
    order = both.argsort(axis=1)
    ranked = np.take_along_axis(both, order, axis=1)
    ahead = np.cumsum(np.where(order < size, 1, -1), axis=1)
    # Equal values come at once.
    ahead[:, :-1][ranked[:, :-1] == ranked[:, 1:]] = 0
    furthest: NDArray[np.int64] = np.abs(ahead).max(axis=1)
    return furthest


def p_value(size: int, distance: int) -> float:
    """Probability that two samples of this size from one distribution are so far apart (distance times size), or further.

    ``2 sum (-1)^(j-1) C(2n, n - j h) / C(2n, n)`` over j = 1 ... n/h; right to 1e-10.
    """
    j = np.arange(1, size // distance + 1)
    terms = np.exp(2 * gammaln(size + 1) - gammaln(size - j * distance + 1) - gammaln(size + j * distance + 1))
    return min(1.0, 2 * float(np.sum(np.where(j % 2, terms, -terms))))


@functools.lru_cache(maxsize=64)
def critical(size: int, alpha: float) -> int:
    """The smallest distance, times the size, that is drift."""
    low, high = 1, size
    while low < high:
        middle = (low + high) // 2
        if p_value(size, middle) <= alpha and middle / size > _LEAST:
            high = middle
        else:
            low = middle + 1
    return low
