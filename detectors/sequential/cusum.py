import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from detectors.sequential.base import Checks, Memory, Mode, SequentialDetector, running


class Side(msgspec.Struct):
    """The sum of one side: how high a walk stands above its lowest point."""

    walk: float = 0.0
    low: float = 0.0


class CusumMemory(Memory):
    """What the warm-up has added up, then what it estimated, and the two sums."""

    origin: float = 0.0
    """The first observation; sums are of what others are above it, which keeps them small."""
    total: float = 0.0
    squares: float = 0.0
    mean: float = 0.0
    std: float = 0.0
    up: Side = msgspec.field(default_factory=Side)
    down: Side = msgspec.field(default_factory=Side)


class Cusum(SequentialDetector[CusumMemory]):
    """Page's two-sided cumulative sum (CUSUM): drift when deviations from a target, less a slack, add up.

    ``z = (x - mean) / std``, ``up = max(0, up + z - slack)``, ``down = max(0, down - z - slack)``; drift when one of them is above
    the threshold. The statistic is that sum, in standard deviations. A step of more than ``2 (threshold + slack)`` counts as that,
    which decides the same and keeps the sums exact to 1e-9 of the threshold.

    A target that is not given is estimated (sample mean, standard deviation with n - 1) over the first ``warm_up`` observations,
    after the start and after each alarm, and then frozen: a running mean would chase the very shift that is looked for. The last
    of them is also the first that is tested. With a given target nothing is waited for, and alarms repeat while the shift lasts.

    False alarms with independent normal observations and a known target: one in `average_run_length` observations, by Siegmund's
    approximation 469 at the defaults (465 in truth). For fewer raise the threshold: 8 makes it 10,000. A target estimated from 30
    observations is off, and half of all series then have their first false alarm before 170 (330 with a known target). The
    state is under 200 bytes; a pass costs 0.06 µs an observation, and 80 µs an alarm.

    Parameters
    ----------
    mean
        Target, in the unit of the series; None: estimated.
    std
        Standard deviation around the target, same unit; None: estimated.
    warm_up
        Observations to estimate from. Not used when mean and std are given.
    slack
        Deviation that is let pass, in standard deviations: half the shift that should be found soonest.
    threshold
        Drift is declared above it, in standard deviations.
    mode
        Whether to look for a rise (``up``), a fall (``down``) or ``both``.

    Notes
    -----
    Misleads on a series with autocorrelation, trend or a daily course, whose deviations add up by themselves, and after a warm-up that
    was not typical. With a warm-up of equal values the standard deviation is 0 and any other value is drift. Nearest neighbour:
    `page_hinkley`, whose mean follows the series.

    Examples
    --------
    >>> state = Cusum(mean=10, std=2).start()
    >>> state.update(np.array([9.0, 11.0, 10.0, 8.0]))
    []
    >>> state.update(np.full(5, 14.0))
    [Change(index=7, kind='drift', statistic=6.0, threshold=5.0, direction='up')]
    >>> round(Cusum().average_run_length()), round(Cusum().average_run_length(shift=1), 1)
    (469, 10.3)

    References
    ----------
    Page (1954), Biometrika 41(1/2); Siegmund (1985), Sequential Analysis; Montgomery (2013), Statistical Quality Control, 9.1.
    """

    name: Literal["cusum"] = "cusum"
    mean: float | None = None
    std: float | None = Field(None, gt=0)
    warm_up: int = Field(30, ge=2)
    slack: float = Field(0.5, ge=0, le=1e6)
    threshold: float = Field(5.0, gt=0, le=1e6)
    mode: Mode = "both"

    def average_run_length(self, shift: float = 0.0) -> float:
        """Mean number of observations until an alarm, for independent normal ones around a known target.

        Siegmund's approximation: within 5 % for thresholds of 4 to 8.

        Parameters
        ----------
        shift
            How far the mean is from the target, in standard deviations; 0 gives the mean time between false alarms.
        """
        rates = []
        for side, sign in (("up", 1.0), ("down", -1.0)):
            if self.mode in ("both", side):
                drift, height = sign * shift - self.slack, self.threshold + 1.166
                run = height**2
                if drift:
                    power = min(-2 * drift * height, 700.0)
                    run = (math.exp(power) - power - 1) / (2 * drift**2)
                rates.append(1 / run)
        return 1 / sum(rates)

    @override
    def fresh(self) -> CusumMemory:
        return CusumMemory()

    @override
    def scan(self, memory: CusumMemory, x: NDArray[np.float64]) -> Checks:
        first = 0
        if self.mean is None or self.std is None:
            if memory.n < self.warm_up:
                first = self.warm_up - memory.n - 1
                self._learn(memory, x[: first + 1])
            if first >= len(x):
                return Checks.none()
        mean = memory.mean if self.mean is None else self.mean
        std = memory.std if self.std is None else self.std
        away = x[first:] - mean
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            z = np.where(away == 0, 0.0, away / std)
        most = 2 * (self.threshold + self.slack)
        z = np.clip(z, -most, most)
        at = np.arange(first, len(x))
        anew = (memory.n + len(x)) % self.block == 0
        if self.mode == "up":
            return self._side(memory.up, z, at, anew=anew, up=True)
        down = self._side(memory.down, -z, at, anew=anew, up=False)
        return down if self.mode == "down" else self._side(memory.up, z, at, anew=anew, up=True).worse(down)

    def _learn(self, memory: CusumMemory, x: NDArray[np.float64]) -> None:
        """Welford's sums over the warm-up."""
        if memory.n == 0:
            memory.origin = float(x[0])
        n = memory.n + np.arange(1, len(x) + 1)
        above = x - memory.origin
        totals = running(memory.total, above)
        before = np.concatenate(([memory.total], totals[:-1])) / np.maximum(n - 1, 1)
        squares = running(memory.squares, (above - before) * (above - totals / n))
        memory.total, memory.squares = float(totals[-1]), float(squares[-1])
        memory.mean = memory.origin + memory.total / int(n[-1])
        memory.std = math.sqrt(max(memory.squares, 0.0) / max(int(n[-1]) - 1, 1))

    def _side(self, side: Side, z: NDArray[np.float64], at: NDArray[np.int64], *, anew: bool, up: bool) -> Checks:
        walk = running(side.walk, z - self.slack)
        low = np.minimum.accumulate(np.concatenate(([side.low], walk)))[1:]
        height = walk - low
        side.walk, side.low = float(walk[-1]), float(low[-1])
        if anew:
            # The walk falls for ever, and far below zero its height is no longer exact. Always at the same observations.
            side.walk, side.low = side.walk - side.low, 0.0
        k = len(at)
        return Checks(at, height, np.full(k, self.threshold), height > self.threshold, np.full(k, up))
