import functools
import math
from typing import Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from typing_extensions import override

from detectors.sequential.base import Checks, Memory, kept, lowest
from detectors.sequential.hddm import Hddm, Side


class Cut(Side):
    """The cut of one side."""

    gap: float = 0.0
    """How far the first observation after the cut is above the weighted mean of all up to it."""


class HddmWMemory(Memory):
    """The weighted mean since the last alarm and the cuts."""

    mean: float = 0.0
    up: Cut = msgspec.field(default_factory=Cut)
    down: Cut = msgspec.field(default_factory=Cut)


class HddmW(Hddm[HddmWMemory]):
    """HDDM, W-test: drift when the weighted mean after the most promising cut is above the one before it by more than McDiarmid's inequality allows.

    Weighted means are exponential: ``mean = lambda x + (1 - lambda) mean``, the first is the first observation; the squares of
    the weights of j observations add up to ``v(j) = lambda² + (1 - lambda)² v(j - 1)``, with ``v(0) = 1``. The cut is the observation
    at which mean plus ``sqrt(v ln(1 / drift_confidence) / 2)`` was at its lowest. With the mean of all up to the cut and the mean of all
    after it, drift when ``after - before > sqrt((v_after + v_before) ln(1 / confidence) / 2)``; for a fall the same of ``-x``. The
    statistic is that difference. Alarms are those of river's `HDDMW`.

    The inequality holds for any independent values in [0, 1], so a test between fixed samples is wrong with a probability of at
    most the confidence. The cut is chosen, though, and each observation is tested: seen at the defaults, a false alarm each 14,000
    independent observations with 20 % errors, each 1,300 with 50 %, none with 5 %. The state is under 200 bytes; a pass costs 0.2 µs an
    observation, twice that when two-sided.

    Parameters
    ----------
    drift_confidence
        Probability of a false alarm in one test; smaller is stricter.
    warning_confidence
        The same for a warning.
    lambda_val
        Weight of a new observation: the mean is of about ``1 / lambda`` observations.
    two_sided_test
        Whether to look for falls, too.

    Notes
    -----
    Misleads where 1 / lambda observations hold few errors: the bound is then wide and only gross changes are seen. Wants values in [0, 1]
    (they need not be 0 and 1). Nearest neighbour: `hddm_a`, which forgets nothing: stronger on abrupt changes, slower on slow ones.

    Examples
    --------
    >>> state = HddmW().start()
    >>> state.update(np.tile([0, 0, 0, 0, 1], 100))
    []
    >>> for change in state.update(np.tile([0, 1, 1], 30)):
    ...     print(change.kind, change.index, round(change.statistic, 3), round(change.threshold, 3))
    warning 523 0.372 0.37
    warning 526 0.392 0.37
    warning 528 0.386 0.37
    drift 532 0.422 0.422

    References
    ----------
    Frías-Blanco et al. (2015), IEEE Transactions on Knowledge and Data Engineering 27(3), 810-823.
    """

    name: Literal["hddm_w"] = "hddm_w"
    lambda_val: float = Field(0.05, ge=0.001, lt=1)
    two_sided_test: bool = False

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        least = math.sqrt(self.lambda_val / (2 - self.lambda_val) * math.log(1 / self.drift_confidence))
        if least >= 1:
            msg = (
                f"lambdaVal is {self.lambda_val}, but with driftConfidence {self.drift_confidence} drift needs a difference "
                f"above {least:.2f}, and errors differ by at most 1: lower lambdaVal"
            )
            raise ValueError(msg)
        return self

    @override
    def fresh(self) -> HddmWMemory:
        return HddmWMemory()

    @override
    def scan(self, memory: HddmWMemory, x: NDArray[np.float64]) -> Checks:
        n = memory.n + np.arange(1, len(x) + 1)
        # The first mean is the first observation itself: lambda x + (1 - lambda) x may differ from it in the last bit.
        start = 0 if memory.n else 1
        before = memory.mean if memory.n else float(x[0])
        stays = 1 - self.lambda_val
        faded = filtered([self.lambda_val, 0.0], stays, x[start:], stays * before)
        mean = np.concatenate((x[:start], faded))
        memory.mean = float(mean[-1])
        up = self._side(memory.up, x, mean, n, up=True)
        return up.worse(self._side(memory.down, -x, -mean, n, up=False)) if self.two_sided_test else up

    def _side(
        self, side: Cut, x: NDArray[np.float64], mean: NDArray[np.float64], n: NDArray[np.int64], *, up: bool
    ) -> Checks:
        weight = squared_weights(self.lambda_val)
        bound = np.sqrt(_at(weight, n) * math.log(1 / self.drift_confidence) / 2)
        if side.n == n[0] - 1:
            side.gap = float(x[0] - mean[0])
        where, side.best = lowest(side.best, mean + bound, latest=False)
        cut, before = kept(where, n, side.n), kept(where, mean, side.mean)
        # At the cut itself this is the gap of the next one, which is not used; at the end of the block it is not known yet.
        gap = kept(where, np.append(x[1:] - mean[1:], 0.0), side.gap)
        side.n, side.mean, side.gap = int(cut[-1]), float(before[-1]), float(gap[-1])
        after = n - cut
        later = after > 0
        # Both means forget at the same pace, so what they differ by at the first observation after the cut just fades.
        faded = np.exp(np.maximum(after - 1, 0) * math.log1p(-self.lambda_val)) * gap
        risen = np.where(later, mean + faded - before, 0.0)
        both = _at(weight, after) + _at(weight, cut)
        drift = np.sqrt(both * math.log(1 / self.drift_confidence) / 2)
        warning = np.sqrt(both * math.log(1 / self.warning_confidence) / 2)
        at = np.arange(len(n))
        return Checks(at, risen, drift, risen > drift, np.full(len(n), up), risen > warning, warning)


def _at(weight: NDArray[np.float64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    return weight[np.minimum(n, len(weight) - 1)]


def filtered(gain: list[float], stays: float, x: NDArray[np.float64], before: float) -> NDArray[np.float64]:
    """(n,) each value times the gain, plus what stays of the one before; ``before`` is what stays at the start."""
    # Takes a tenth of a second to import, which whoever only reads a ModelMonitor need not wait for.
    from scipy.signal import lfilter

    after: NDArray[np.float64] = lfilter(gain, [1.0, -stays], x, zi=[before])[0]
    return after


@functools.lru_cache(maxsize=16)
def squared_weights(weight: float) -> NDArray[np.float64]:
    """(k,) the sum of the squared weights of 0, 1, 2, ... observations, up to where it no longer changes."""
    fades = (1 - weight) ** 2
    table = np.ones(1)
    while len(table) < 2 or table[-1] != table[-2]:
        steps = np.full(1024, weight * weight)
        table = np.append(table, filtered([1.0], fades, steps, fades * table[-1]))
    table.flags.writeable = False
    return table
