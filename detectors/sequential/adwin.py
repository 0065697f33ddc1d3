from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from detectors.sequential.base import BLOCK, Checks, Memory, SequentialDetector, running


class AdwinMemory(Memory):
    """The exponential histogram: sums up to each border between two buckets."""

    origin: float = 0.0
    """The first observation; sums are of what others are above it, which keeps them small."""
    total: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean."""
    sums: NDArray[np.float64] = msgspec.field(default_factory=lambda: np.empty(0))
    """(borders,) of all observations before each of `borders(n)`."""


class Adwin(SequentialDetector[AdwinMemory]):
    """ADWIN2, adaptive windowing: drift when two parts of the window, old and new, have means too far apart.

    The window is all since the last alarm. At a cut into n0 old and n1 new observations, with ``d = ln(2 ln(n) / delta)``, the variance v
    of the window, and ``m = 1 / (n0 - min + 1) + 1 / (n1 - min + 1)``, drift is
    ``|mean0 - mean1| > sqrt(2 m v d) + 2/3 m d``. Cuts are tried at the borders of an exponential histogram: buckets of 1, 2, 4, ...
    observations, at most ``max_buckets`` of a size, so their number is logarithmic. The statistic is the distance of the means at the
    cut that is clearest, in the unit of the series. Alarms are those of river's `ADWIN`.

    As there, the window is emptied by an alarm (the paper keeps its newer part). So between alarms the borders depend on nothing but
    the number of observations: they are worked out, and sums between them are read off one running sum, instead of merging buckets
    one by one. The paper bounds the probability of a false alarm, at any one check, by delta for values in [0, 1]; the bound is loose:
    seen at the defaults, one false alarm in 3 million observations (94,000 checks), of normal noise as of errors at a rate of 20 %.
    The state is ``8 max_buckets log2(n)`` bytes, under 1 kB for a million observations; a pass costs 0.25 µs an observation, 3 µs
    with a clock of 1.

    Parameters
    ----------
    delta
        Bound on the probability of a false alarm at one check.
    clock
        Observations from one check to the next.
    max_buckets
        Buckets of each size: more of them try more cuts.
    min_window_length
        Observations that each part of a cut has at least.
    grace_period
        Observations after the start and after each alarm before the first check.

    Notes
    -----
    Misleads on values far from [0, 1]: the bound's second term is in that unit, so a series that is much smaller is never cut (scale
    it), and a single value far out makes the variance, and with it the bound, large until the next alarm. It is late by up to a clock.
    Nearest neighbours: `kswin`, which sees changes of shape, too; `hddm_a` for errors.

    Examples
    --------
    >>> state = Adwin().start()
    >>> state.update(np.tile([0.0, 1.0], 300))
    []
    >>> for change in state.update(np.tile([1.0, 1.0, 1.0, 0.0], 100)):
    ...     print(change.kind, change.index, round(change.statistic, 3), round(change.threshold, 3), change.direction)
    drift 767 0.247 0.235 up

    References
    ----------
    Bifet and Gavaldà (2007), SIAM International Conference on Data Mining, 443-448.
    """

    name: Literal["adwin"] = "adwin"
    delta: float = Field(0.002, gt=0, lt=1)
    clock: int = Field(32, ge=1)
    max_buckets: int = Field(5, ge=2, le=100)
    min_window_length: int = Field(5, ge=1)
    grace_period: int = Field(10, ge=0)

    @property
    @override
    def block(self) -> int:
        # Each check brings all its cuts with it.
        return min(BLOCK, 1 << (1024 * self.clock).bit_length() - 1)

    @override
    def fresh(self) -> AdwinMemory:
        return AdwinMemory()

    @override
    def scan(self, memory: AdwinMemory, x: NDArray[np.float64]) -> Checks:
        if memory.n == 0:
            memory.origin = float(x[0])
        n = memory.n + np.arange(1, len(x) + 1)
        above = x - memory.origin
        totals = running(memory.total, above)
        mean_before = np.concatenate(([memory.total], totals[:-1])) / np.maximum(n - 1, 1)
        squares = running(memory.squares, (n - 1) * (above - mean_before) ** 2 / n)

        past = borders(np.array([memory.n]), self.max_buckets)[0]
        sums = np.concatenate((memory.sums, totals))

        def sums_before(border: NDArray[np.int64]) -> NDArray[np.float64]:
            here = border - memory.n - 1 + len(past)
            return sums[np.where(border > memory.n, here, np.searchsorted(past, border))]

        at = np.flatnonzero((n % self.clock == 0) & (n > self.grace_period))
        checks = self._clearest(at, n[at], totals[at], squares[at], sums_before)
        memory.sums = sums_before(borders(n[-1:], self.max_buckets)[0])
        memory.total, memory.squares = float(totals[-1]), float(squares[-1])
        return checks

    def _clearest(
        self,
        at: NDArray[np.int64],
        n: NDArray[np.int64],
        totals: NDArray[np.float64],
        squares: NDArray[np.float64],
        sums_before: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    ) -> Checks:
        """The clearest cut of each check (a row of the matrices; a column is a border)."""
        if len(at) == 0:
            return Checks.none()
        shortest = self.min_window_length
        old = borders(n, self.max_buckets)
        new = n[:, None] - old
        cut = (old >= shortest) & (new >= shortest)
        n0, n1 = np.where(cut, old, shortest), np.where(cut, new, shortest)
        before = sums_before(old)
        apart = (totals[:, None] - before) / n1 - before / n0
        d = np.log(2 * np.log(np.maximum(n, 2)) / self.delta)[:, None]
        m = 1 / (n0 - shortest + 1) + 1 / (n1 - shortest + 1)
        bound = np.sqrt(2 * m * (squares / n)[:, None] * d) + 2 / 3 * d * m
        beyond = np.where(cut, np.abs(apart) - bound, -np.inf)
        best = beyond.argmax(axis=1)
        row = np.flatnonzero(cut.any(axis=1))
        best = best[row]
        apart, bound = apart[row, best], bound[row, best]
        return Checks(at[row], np.abs(apart), bound, np.abs(apart) > bound, apart > 0)


def borders(n: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Where one bucket ends and the next begins, in a window of n observations, from the oldest.

    Of the N buckets that have come to a size, each time that there are more than ``most`` the two oldest become one of twice the size. So
    ``(N - most + 1) // 2`` pairs have gone on to that size, and the others, at most ``most``, are there.

    Parameters
    ----------
    n
        (rows,) sizes of windows.

    Returns
    -------
    (rows, columns) number of observations before each border, ascending; where a row has fewer borders than there are
    columns there are zeros between. A single row has no zeros.

    Examples
    --------
    >>> borders(np.array([13]), most=2)
    array([[ 4,  8, 10, 12, 13]])
    """
    sizes: list[NDArray[np.int64]] = []
    size = 1
    while n.any():
        merged = np.maximum(n - most + 1, 0) // 2
        last = n[:, None] - np.arange(most - 1, -1, -1)
        sizes.append(np.where(last > 2 * merged[:, None], size * last, 0))
        n, size = merged, 2 * size
    if not sizes:
        return np.zeros((len(n), 0), np.int64)
    table = np.concatenate(sizes[::-1], axis=1)
    return table[:, table.any(axis=0)]
