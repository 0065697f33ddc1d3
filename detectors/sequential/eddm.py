from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from typing_extensions import override

from detectors.sequential.base import Checks, Memory, SequentialDetector, running


class EddmMemory(Memory):
    """The distances between errors since the last alarm."""

    errors: int = 0
    last: int = 0
    """The number of the observation (from 1) that was the last error; 0 before the first."""
    total: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean distance."""
    best: float = -1.0
    """The largest mean plus two standard deviations."""


class Eddm(SequentialDetector[EddmMemory]):
    """EDDM, early drift detection method: drift when errors come closer together than they did at the best of times.

    At each error, with mean p and (sample) standard deviation s of the distances between errors since the last alarm, the statistic is
    ``(p + 2 s) / max(p + 2 s)``, a share of 0 to 1; drift when it is below beta, warning below alpha. Alarms are those of river's `EDDM`: the
    maximum counts once ``warm_start`` observations were seen, tests begin after as many errors. An error is a value of exactly 1.

    Nothing in the paper bounds its false alarms, and they are many: seen, 96 % of series of 10,000 independent observations with 20 %
    errors have one, half of those within 170; with alpha = 0.8 and beta = 0.75 it is 52 %. Whatever did not alarm by then
    hardly does later. The state is under 120 bytes; a pass costs 0.05 µs an observation.

    Parameters
    ----------
    warm_start
        Errors after the start and after each alarm before one is tested.
    alpha
        Warning below it; a share.
    beta
        Drift below it; a share.

    Notes
    -----
    Misleads as a rule at its defaults, see above: the maximum is taken over the first, unsettled means, too. It sees a rise of the
    error rate only.
    Nearest neighbours: `ddm`, which looks at the rate itself; `hddm_w`, as quick with slow drifts and with a guarantee.

    Examples
    --------
    >>> state = Eddm().start()
    >>> state.update(np.tile([0, 0, 0, 0, 1], 100))
    []
    >>> for change in state.update(np.tile([0, 1], 300)):
    ...     print(change.kind, change.index, round(change.statistic, 3), change.threshold)
    warning 697 0.949 0.95
    drift 791 0.899 0.9

    References
    ----------
    Baena-García et al. (2006), Early Drift Detection Method, Fourth International Workshop on Knowledge Discovery from Data Streams.
    """

    binary: ClassVar[bool] = True

    name: Literal["eddm"] = "eddm"
    warm_start: int = Field(30, ge=1)
    alpha: float = Field(0.95, gt=0, lt=1)
    beta: float = Field(0.9, gt=0, lt=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.alpha < self.beta:
            msg = f"alpha is {self.alpha}: at least beta, which is {self.beta}"
            raise ValueError(msg)
        return self

    @override
    def fresh(self) -> EddmMemory:
        return EddmMemory()

    @override
    def scan(self, memory: EddmMemory, x: NDArray[np.float64]) -> Checks:
        errors = np.flatnonzero(x == 1)
        if len(errors) == 0:
            return Checks.none()
        n = memory.n + errors + 1
        distance = np.diff(n, prepend=memory.last).astype(np.float64)
        count = memory.errors + np.arange(1, len(errors) + 1)
        totals = running(memory.total, distance)
        before = np.concatenate(([memory.total], totals[:-1])) / np.maximum(count - 1, 1)
        # Welford's step; of the first distance it is 0.
        step = np.where(count > 1, (distance - before) * (distance - totals / count), 0.0)
        squares = running(memory.squares, step)
        level = totals / count + 2 * np.sqrt(squares / np.maximum(count - 1, 1))
        counted = np.where(n > self.warm_start, level, -1.0)
        best = np.maximum.accumulate(np.concatenate(([memory.best], counted)))
        memory.errors, memory.last = int(count[-1]), int(n[-1])
        memory.total, memory.squares, memory.best = float(totals[-1]), float(squares[-1]), float(best[-1])
        tested = np.flatnonzero((n > self.warm_start) & (count > self.warm_start) & (level <= best[:-1]))
        share = level[tested] / best[:-1][tested]
        k = len(tested)
        return Checks(
            errors[tested],
            share,
            np.full(k, self.beta),
            share < self.beta,
            np.ones(k, np.bool_),
            share < self.alpha,
            np.full(k, self.alpha),
        )
