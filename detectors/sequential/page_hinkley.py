from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.signal import lfilter
from typing_extensions import override

from detectors.sequential.base import Checks, Memory, Mode, SequentialDetector, running


class Side(msgspec.Struct):
    """The fading sum of one side and the lowest that it was."""

    sum: float = 0.0
    low: float = float("inf")


class PageHinkleyMemory(Memory):
    """The mean since the last alarm and the two sums."""

    origin: float = 0.0
    """The first observation; the mean is kept as what it is above it, which keeps its sum small."""
    total: float = 0.0
    up: Side = msgspec.field(default_factory=Side)
    down: Side = msgspec.field(default_factory=Side)


class PageHinkley(SequentialDetector[PageHinkleyMemory]):
    """Page-Hinkley test: drift when the deviations from the mean so far have risen far above their lowest sum.

    With the mean of all observations since the last alarm, this one included, ``sum = alpha * sum + (x - mean) - delta``; drift when
    ``sum - min(sum)`` is above the threshold. For a fall the same of ``-x``. The statistic is that difference, in the unit of the
    series. Alarms are those of river's `PageHinkley`.

    Threshold and delta are in the unit of the series, so no default suits them all: the defaults were made for errors of 0 and 1. With
    standard deviation s, a threshold of ``5 s`` and a delta of ``0.5 s`` behave like the defaults of `cusum`: a false alarm each 430
    independent normal observations; ``8 s`` makes it 3,000. The state is under 150 bytes; a pass costs 0.1 µs an observation,
    and 80 µs an alarm.

    Parameters
    ----------
    min_instances
        Observations after the start and after each alarm before one is tested.
    delta
        Deviation that is let pass, in the unit of the series.
    threshold
        Drift is declared above it, in the unit of the series. The paper's lambda.
    alpha
        What is left of the sum after one observation, from 0 to 1; 1 never forgets.
    mode
        Whether to look for a rise (``up``), a fall (``down``) or ``both``.

    Notes
    -----
    Misleads when the unit of the series was not thought of: left at the defaults it is deaf to probabilities and alarms all the time on
    amounts of money. The mean follows the series, so a slow shift is partly taken for normal, and one value far out moves the mean
    for long. Nearest neighbour: `cusum`, which has a fixed target and scales by itself.

    Examples
    --------
    >>> state = PageHinkley(threshold=5, delta=0.5).start()
    >>> state.update(np.tile([-1.0, 1.0], 20))
    []
    >>> for change in state.update(np.full(10, 3.0)):
    ...     print(change.kind, change.index, round(change.statistic, 3), round(change.threshold, 3), change.direction)
    drift 41 5.289 5.0 up

    References
    ----------
    Page (1954), Biometrika 41(1/2); Hinkley (1971), Biometrika 58(3); Gama, Sebastião and Rodrigues (2013), Machine Learning 90(3).
    """

    name: Literal["page_hinkley"] = "page_hinkley"
    min_instances: int = Field(30, ge=1)
    delta: float = Field(0.005, ge=0)
    threshold: float = Field(50.0, gt=0)
    alpha: float = Field(0.9999, ge=0, le=1)
    mode: Mode = "both"

    @override
    def fresh(self) -> PageHinkleyMemory:
        return PageHinkleyMemory()

    @override
    def scan(self, memory: PageHinkleyMemory, x: NDArray[np.float64]) -> Checks:
        if memory.n == 0:
            memory.origin = float(x[0])
        n = memory.n + np.arange(1, len(x) + 1)
        above = x - memory.origin
        totals = running(memory.total, above)
        memory.total = float(totals[-1])
        away = above - totals / n
        tested = n >= self.min_instances
        if self.mode == "up":
            return self._side(memory.up, away, tested, up=True)
        down = self._side(memory.down, -away, tested, up=False)
        return down if self.mode == "down" else self._side(memory.up, away, tested, up=True).worse(down)

    def _side(self, side: Side, away: NDArray[np.float64], tested: NDArray[np.bool_], *, up: bool) -> Checks:
        sums = lfilter([1.0], [1.0, -self.alpha], away - self.delta, zi=[self.alpha * side.sum])[0]
        low = np.minimum.accumulate(np.concatenate(([side.low], sums)))[1:]
        side.sum, side.low = float(sums[-1]), float(low[-1])
        at = np.flatnonzero(tested)
        height = (sums - low)[at]
        k = len(at)
        return Checks(at, height, np.full(k, self.threshold), height > self.threshold, np.full(k, up))
