"""Performance as sums: what is kept of joined predictions and labels, so that more labels only add to it."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.errors import IncompatibleSummaries, SummaryFormatError
from detectors.performance.binary import decoded, packed, unpacked
from detectors.performance.metrics import Totals, roc_auc_bound, value_of
from detectors.performance.plan import CALIBRATED, MOMENTS, PerformancePlan

_MAGIC = b"DLP1"
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, eq=False)
class PerformanceSums:
    """Sums over joined predictions and labels, of which every metric is a function.

    Regression: the products of any two of (1, e, |e|, |e|/|y|, e², t, t²), where e is prediction less label y and t is y less the
    plan's centre; mean and squared deviations of y, which merge without cancellation (Pébay); the largest |e|. Classification: the
    confusion matrix, scores counted between marks for each label, calibration counts, and sums of losses and of their squares.

    Whole numbers add exactly. Sums of floats are equal to rounding (1e-12 of the sum of magnitudes) however the rows were split and
    shuffled. A row is joined when label and prediction are usable (finite); its probabilities count when all of them are in [0, 1].

    Examples
    --------
    >>> plan = PerformancePlan("regression", "fare")
    >>> sums = summarise(plan, np.array([[1.0], [2.0]]), np.array([1.0, 4.0]))
    >>> (sums + summarise(plan, np.array([[3.0]]), np.array([4.0]))).metrics(["mae", "maxError"])
    {'mae': 1.0, 'maxError': 2.0}

    References
    ----------
    Pébay (2008), SAND2008-6212.
    """

    plan: PerformancePlan
    counts: NDArray[np.int64]
    """(plan.counts,)"""
    sums: NDArray[np.float64]
    """(plan.sums,)"""
    mean: float = 0.0
    """Of the labels of a regression."""
    m2: float = 0.0
    """Sum of the labels' squared distances to their mean."""
    worst: float = 0.0
    """The largest size of an error."""

    @classmethod
    def empty(cls, plan: PerformancePlan) -> "PerformanceSums":
        """Of no rows: the neutral element of `+`."""
        return cls(plan, np.zeros(plan.counts, np.int64), np.zeros(plan.sums))

    @property
    def joined(self) -> int:
        """Rows with a usable prediction and a usable label."""
        return int(self.counts[0])

    @property
    def unusable(self) -> int:
        """Rows whose prediction or label is NaN or infinite."""
        return int(self.counts[1])

    def __add__(self, other: "PerformanceSums") -> "PerformanceSums":
        """Of both.

        Raises
        ------
        IncompatibleSummaries
            When they were not counted on the same plan.
        """
        if self.plan is not other.plan and self.plan != other.plan:
            a, b = self.plan.fingerprint.hex(), other.plan.fingerprint.hex()
            msg = f"sums of plans {a} and {b} do not add: count both with the same settings and one baseline"
            raise IncompatibleSummaries(msg)
        n, m = self.joined, other.joined
        part = m / max(n + m, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            delta = other.mean - self.mean
            mean, m2 = self.mean + delta * part, self.m2 + other.m2 + delta * delta * (n * part)
            sums = self.sums + other.sums
        if n == 0 or m == 0:
            mean, m2 = (self.mean, self.m2) if m == 0 else (other.mean, other.m2)
        return PerformanceSums(self.plan, self.counts + other.counts, sums, mean, m2, max(self.worst, other.worst))

    def totals(self) -> Totals:
        """The same numbers, as formulas take them."""
        return Totals(self.plan, self.counts.astype(np.float64), self.sums, self.mean, self.m2, self.worst)

    def metrics(self, names: Iterable[str]) -> dict[str, float]:
        """The metrics of these names that fit the plan; NaN where a metric is undefined. Definitions: `detectors.performance.metrics`."""
        totals = self.totals()
        return {name: value_of(totals, name) for name in names}

    def roc_auc_bound(self) -> float:
        """By how much `rocAuc` may be off at most, either way; NaN without scores of both kinds.

        Two rows between the same marks count as a tie, one half, where the truth is 0, 1/2 or 1. So the bound is half the share of such pairs
        of a positive and a negative. Whether they do tie is not known: scores that all lie on marks have this bound, too, and no error.
        """
        return roc_auc_bound(self.totals())

    def to_bytes(self) -> bytes:
        """The binary form: magic and version, then MessagePack: the plan's fingerprint, and little-endian arrays."""
        return _MAGIC + msgspec.msgpack.encode(_Plan(self.plan.fingerprint, self.packed()))

    @classmethod
    def from_bytes(cls, data: bytes, plan: PerformancePlan) -> "PerformanceSums":
        """Read the binary form back.

        Raises
        ------
        SummaryFormatError
            When these are not the bytes of sums of this version.
        IncompatibleSummaries
            When they were counted on another plan.
        """
        body = decoded(data, _MAGIC, _Plan, "sums")
        if body.plan != plan.fingerprint:
            msg = f"these sums were counted on plan {body.plan.hex()}, not on {plan.fingerprint.hex()}"
            raise IncompatibleSummaries(msg)
        return cls.unpacked(plan, body.sums)

    def packed(self) -> "Packed":
        """The numbers as MessagePack takes them."""
        return Packed(packed(self.counts), self.sums.tobytes(), self.mean, self.m2, self.worst)

    @classmethod
    def unpacked(cls, plan: PerformancePlan, body: "Packed") -> "PerformanceSums":
        """What `packed` gave; raises SummaryFormatError when it is not of such a plan."""
        counts = unpacked(body.counts, plan.counts)
        if len(body.sums) != 8 * plan.sums:
            msg = f"there are {len(body.sums)} bytes of sums, the plan has {plan.sums} sums"
            raise SummaryFormatError(msg)
        return cls(plan, counts, np.frombuffer(body.sums), body.mean, body.m2, body.worst)


def summarise(plan: PerformancePlan, predictions: NDArray[np.float64], labels: NDArray[np.float64]) -> PerformanceSums:
    """The sums of one batch of joined rows. Never raises on data.

    Parameters
    ----------
    predictions
        (n, 1 + probabilities) as `PerformancePlan.encode` gives them.
    labels
        (n,) as `PerformancePlan.labels` or `PerformancePlan.indices` give them; NaN is unusable.
    """
    usable = np.isfinite(labels) & np.isfinite(predictions[:, 0])
    n = int(np.count_nonzero(usable))
    counts = np.zeros(plan.counts, np.int64)
    counts[:2] = n, len(labels) - n
    if n == 0:
        return PerformanceSums(plan, counts, np.zeros(plan.sums))
    if n < len(labels):
        predictions, labels = predictions[usable], labels[usable]
    if plan.task == "classification":
        return PerformanceSums(plan, counts, _classified(plan, counts, predictions, labels))
    with np.errstate(over="ignore", invalid="ignore"):
        error = predictions[:, 0] - labels
        size, t = np.abs(error), labels - plan.centre
        z = np.empty((n, MOMENTS))
        z[:, 0], z[:, 1], z[:, 2], z[:, 4] = 1.0, error, size, error * error
        z[:, 3] = size / np.maximum(np.abs(labels), _EPS)
        z[:, 5], z[:, 6] = t, t * t
        mean = labels.mean()
        deviation = labels - mean
        m2 = deviation @ deviation
        return PerformanceSums(plan, counts, (z.T @ z).ravel(), float(mean), float(m2), float(size.max()))


def _classified(
    plan: PerformancePlan, counts: NDArray[np.int64], predictions: NDArray[np.float64], labels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Count the rows, all of which are usable, into `counts`; (plan.sums,) their sums."""
    k = len(plan.classes)
    truth = np.minimum(labels, k).astype(np.int64)
    cell = truth * (k + 1) + np.minimum(predictions[:, 0], k).astype(np.int64)
    last = (k + 1) ** 2 - 1
    cell[(cell == last) & (labels == predictions[:, 0])] = last + 1
    counts[plan.cells_at] = np.bincount(cell, minlength=last + 2)
    sums = np.zeros(plan.sums)
    p = predictions[:, 1:]
    whole = np.isfinite(p).all(axis=1) if p.shape[1] else np.zeros(len(p), np.bool_)
    if not whole.any():
        return sums
    p, truth = p[whole], truth[whole]
    counts[2] = len(p)
    loss, distance = _losses(plan, p, truth)
    sums[:4] = loss.sum(), loss @ loss, distance.sum(), distance @ distance
    if plan.calibrated:
        score, hit = p[:, plan.scored[0]], truth == plan.scored[0]
        tenth = np.minimum((score * CALIBRATED).astype(np.int64), CALIBRATED - 1)
        counts[3 : plan.cells_at.start] = np.bincount(hit * CALIBRATED + tenth, minlength=2 * CALIBRATED)
        sums[4:] = np.bincount(tenth, score, minlength=CALIBRATED)
    if plan.marks:
        size = len(plan.marks) + 1
        ranked = counts[plan.cells_at.stop :].reshape(len(plan.scored), 2 * size)
        for row, column in zip(ranked, plan.scored.tolist(), strict=True):
            bins = np.searchsorted(plan.ascending, p[:, column])
            row[:] = np.bincount(bins + size * (truth == column), minlength=2 * size)
    return sums


def _losses(
    plan: PerformancePlan, p: NDArray[np.float64], truth: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log loss and Brier score of each row."""
    columns = p.shape[1]
    own = truth < columns
    rest = np.clip(1 - p.sum(axis=1), 0.0, 1.0) if plan.incomplete else np.zeros(len(p))
    likely = np.where(own, p[np.arange(len(p)), np.where(own, truth, 0)], rest)
    loss = -np.log(np.clip(likely, _EPS, 1 - _EPS))
    if len(plan.scored) == 1:
        column = plan.scored[0]
        return loss, (p[:, column] - (truth == column)) ** 2
    # The sum over classes of (p - y)², of which one y is 1, or that of the rest is.
    distance = (p * p).sum(axis=1) + np.where(own, 1 - 2 * likely, 0.0)
    if plan.incomplete:
        distance += (rest - ~own) ** 2
    elif columns > 1:
        distance += ~own  # a class without a probability happened
    return loss, distance / 2 if columns + plan.incomplete == 2 else distance


class Packed(msgspec.Struct, array_like=True):
    """The numbers of sums."""

    counts: tuple[int, bytes, bytes]
    sums: bytes
    mean: float
    m2: float
    worst: float


class _Plan(msgspec.Struct, array_like=True):
    """The binary form of sums."""

    plan: bytes
    sums: Packed
