r"""Performance before labels come: what the reference's performance would be with the window's predictions.

The reference's rows are put into bins by what is predicted: of a regression by the number; of a classification by the predicted class and, when there
are probabilities, by that of the positive class, or else by the highest one. A bin is a quantile, at most 50 of them in all (besides one for each
class), of at least 20 rows each. If w_b of a window's predictions fall into bin b, which holds n_b rows of the reference with sums S_b, then the
window's sums are estimated as

    S = Σ_b (w_b / n_b) S_b

and every metric is read off S as it is off the true sums. This holds when the labels of a bin are distributed as they were in the reference: P(y | prediction)
unchanged, while predictions may drift as they like. For a classifier with calibrated probabilities the frequency of a class in a bin *is* the mean
probability there, and this is confidence-based performance estimation (CBPE); others are calibrated by the bins on the way (histogram binning).
Within a bin the window's predictions count as distributed as the reference's.

The standard error of an estimate tells how far it may be from the performance that labels will show, when the assumption holds. A row of bin b moves the
metric by its influence, whose variance v_b the reference tells; the window has w_b such rows, and the reference's mean is of n_b:

    error² = Σ_b (w_b + w_b² / n_b) v_b

Means of rocAuc over several classes have a larger one than needed: how their scores go together is not kept.

Misleads under concept drift: when P(y | prediction) changes, for instance because what causes the label changed, the estimate does not move. That is what
labels are for. P(y | features) unchanged is not enough either: features that drift to where the model is worse than its predictions say change
P(y | prediction), too. Predictions beyond the reference's range fall into its outermost bins, so for a regressor that extrapolates the estimate is too good. A
class that the reference never saw predicted has no estimate: such rows are left out, `Estimates.covered` is the share of the others. Bins without a single error
have v_b = 0, so the errors of rare events are too small.

Absent: `maxError` (no mean of rows) and `calibrationError` (the assumption fixes it).

References
----------
Shimodaira (2000), Improving predictive inference under covariate shift by weighting the log-likelihood function, J. Stat. Plan. Inference 90. Zadrozny & Elkan
(2001), Obtaining calibrated probability estimates from decision trees and naive Bayesian classifiers, ICML (histogram binning). Guillory et al. (2021),
Predicting with confidence on unseen distributions, ICCV. Białek, Kivimäki, Kuberski & Perrakis (2024), Estimating model performance under covariate shift without
labels, arXiv:2401.08348 (on CBPE, and on features that drift).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.errors import IncompatibleSummaries, NotApplicable, SummaryFormatError
from detectors.performance.binary import decoded, packed, unpacked
from detectors.performance.metrics import Totals, measured
from detectors.performance.plan import PerformancePlan
from detectors.performance.sums import Packed, PerformanceSums, summarise

MAX_BINS = 50
MIN_ROWS = 20
"""Of the reference, in a bin."""
UNESTIMATED = ("maxError", "calibrationError")
"""Metrics that have no estimate."""
_OF_REFERENCE = b"DLR1"
_OF_COUNTS = b"DLN1"
_DIGEST = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """One metric of a window whose labels have not come."""

    value: float
    error: float
    """Standard error, of the estimate against what the labels will show."""

    @property
    def interval(self) -> tuple[float, float]:
        """Where the metric will be with 95 % probability, if the assumption holds."""
        return self.value - 1.96 * self.error, self.value + 1.96 * self.error


@dataclass(frozen=True, eq=False)
class ReferencePerformance:
    """Performance on the reference, bin by bin of what was predicted."""

    plan: PerformancePlan
    edges: NDArray[np.float64]
    """(bins - 1,) ascending: bin j has positions from edge j-1 (excluded) to edge j (included). See `positions`."""
    bins: tuple[PerformanceSums, ...]

    @cached_property
    def sums(self) -> PerformanceSums:
        """Of the whole reference: `metrics` of it are the reference's performance."""
        total = PerformanceSums.empty(self.plan)
        for sums in self.bins:
            total += sums
        return total

    @cached_property
    def key(self) -> bytes:
        """8 bytes that differ when predictions are not counted in the same bins."""
        return hashlib.blake2b(self.plan.fingerprint + self.edges.tobytes(), digest_size=_DIGEST).digest()

    @cached_property
    def stacked(self) -> Totals:
        """All bins, in arrays with an axis of bins first."""
        return Totals(
            self.plan,
            np.stack([sums.counts for sums in self.bins]).astype(np.float64),
            np.stack([sums.sums for sums in self.bins]),
            np.array([sums.mean for sums in self.bins]),
            np.array([sums.m2 for sums in self.bins]),
            np.array([sums.worst for sums in self.bins]),
        )

    def count(self, predictions: NDArray[np.float64]) -> "PredictionCounts":
        """How many of (n, 1 + probabilities) predictions fall into each bin."""
        return PredictionCounts(self.key, _tally(self.plan, self.edges, predictions))

    def empty(self) -> "PredictionCounts":
        """Counts of no predictions: the neutral element of `+`."""
        return PredictionCounts(self.key, np.zeros(len(self.bins) + 1, np.int64))

    def to_bytes(self) -> bytes:
        """The binary form: magic and version, then MessagePack: the plan, and the sums of each bin."""
        body = _Reference(self.plan.to_bytes(), self.edges.tobytes(), [sums.packed() for sums in self.bins])
        return _OF_REFERENCE + msgspec.msgpack.encode(body)

    @classmethod
    def from_bytes(cls, data: bytes) -> "ReferencePerformance":
        """Read the binary form back.

        Raises
        ------
        SummaryFormatError
            When these are not the bytes of a reference's performance of this version.
        """
        body = decoded(data, _OF_REFERENCE, _Reference, "the sums of a reference")
        if len(body.edges) != 8 * (len(body.bins) - 1):
            msg = f"these {len(data)} bytes are of {len(body.bins)} bins, but have {len(body.edges)} bytes of edges between them"
            raise SummaryFormatError(msg)
        plan, edges = PerformancePlan.from_bytes(body.plan), np.frombuffer(body.edges)
        return cls(plan, edges, tuple(PerformanceSums.unpacked(plan, one) for one in body.bins))


@dataclass(frozen=True, slots=True, eq=False)
class PredictionCounts:
    """How many predictions of a window fall into each bin of the reference: whole numbers, which add exactly."""

    key: bytes
    """Of the reference in whose bins they are counted."""
    counts: NDArray[np.int64]
    """(bins + 1,) the last for predictions that are NaN or infinite, or have no usable probability."""

    def __add__(self, other: "PredictionCounts") -> "PredictionCounts":
        """Of both.

        Raises
        ------
        IncompatibleSummaries
            When they were counted in the bins of two references.
        """
        if self.key != other.key:
            raise IncompatibleSummaries(_not_of(other.key, self.key))
        return PredictionCounts(self.key, self.counts + other.counts)

    def to_bytes(self) -> bytes:
        """The binary form: magic and version, then MessagePack."""
        return _OF_COUNTS + msgspec.msgpack.encode(_Counts(self.key, packed(self.counts)))

    @classmethod
    def from_bytes(cls, data: bytes, reference: ReferencePerformance) -> "PredictionCounts":
        """Read the binary form back.

        Raises
        ------
        SummaryFormatError
            When these are not the bytes of counts of this version.
        IncompatibleSummaries
            When they were counted in the bins of another reference.
        """
        body = decoded(data, _OF_COUNTS, _Counts, "counts of predictions")
        if body.key != reference.key:
            raise IncompatibleSummaries(_not_of(body.key, reference.key))
        return cls(body.key, unpacked(body.counts, len(reference.bins) + 1))


@dataclass(frozen=True, slots=True)
class Estimates:
    """What is estimated of a window."""

    metrics: dict[str, Estimate]
    """Those that can be estimated; one that is undefined is NaN."""
    rows: int
    """Predictions that the estimate is of."""
    covered: float
    """Their share of all predictions; NaN of none."""


def learn(plan: PerformancePlan, predictions: NDArray[np.float64], labels: NDArray[np.float64]) -> ReferencePerformance:
    """The performance on the reference. Windows are then counted on *its* plan, whose marks are where the reference's scores are.

    Parameters
    ----------
    predictions
        (n, 1 + probabilities) of the plan.
    labels
        (n,) of the plan.

    Raises
    ------
    NotApplicable
        When fewer than 20 rows have a usable prediction and label.
    """
    plan = plan.fitted(predictions, labels)
    position = positions(plan, predictions)
    usable = np.isfinite(position) & np.isfinite(labels)
    n = int(np.count_nonzero(usable))
    if n < MIN_ROWS:
        msg = (
            f"{n} rows of the reference have a usable {plan.prediction!r} and label: performance needs at least {MIN_ROWS}, "
            "so give the training table both columns, or leave performance.label out"
        )
        raise NotApplicable(msg)
    order = np.flatnonzero(usable)[np.argsort(position[usable], kind="stable")]
    position, predictions, labels = position[order], predictions[order], labels[order]
    edges = _edges(plan, position)
    cuts = [0, *np.searchsorted(position, edges, side="right").tolist(), n]
    bins = tuple(summarise(plan, predictions[begin:end], labels[begin:end]) for begin, end in pairwise(cuts))
    return ReferencePerformance(plan, edges, bins)


def estimate(reference: ReferencePerformance, counts: PredictionCounts, names: Iterable[str]) -> Estimates:
    """Metrics that the labels of a window will show, if those of a bin are distributed as in the reference.

    Parameters
    ----------
    counts
        Of the window's predictions, all of them.

    Raises
    ------
    IncompatibleSummaries
        When the counts are of another reference.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> x = rng.uniform(0, 4, (8000, 1))
    >>> truth = x[:, 0] + rng.normal(0, 1, 8000) * x[:, 0]  # errors grow with what is predicted
    >>> reference = learn(PerformancePlan("regression", "fare"), x, truth)
    >>> late = reference.count(rng.uniform(3, 4, (1000, 1)))
    >>> found = estimate(reference, late, ["mae"])
    >>> round(reference.sums.metrics(["mae"])["mae"], 1), round(found.metrics["mae"].value, 1)
    (1.6, 2.8)
    """
    if counts.key != reference.key:
        raise IncompatibleSummaries(_not_of(counts.key, reference.key))
    bins = reference.stacked
    n = bins.joined
    window = np.where(n > 0, counts.counts[:-1], 0).astype(np.float64)
    weights = window / np.maximum(n, 1)
    rows, every = int(window.sum()), int(counts.counts.sum())
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.float64(window @ bins.mean) / max(rows, 1)
        m2 = weights @ bins.m2 + window @ (bins.mean - mean) ** 2
        total = Totals(reference.plan, weights @ bins.counts, weights @ bins.sums, float(mean), float(m2), np.nan)
        found = {}
        for name in names:
            if name in UNESTIMATED:
                continue
            value, variance = measured(total, name)
            error = np.nan
            if variance is not None:
                error = float(np.sqrt((window + window * weights) @ variance(bins)))
            found[name] = Estimate(value, error)
    return Estimates(found, rows, rows / every if every else np.nan)


def positions(plan: PerformancePlan, predictions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) where predictions lie on the line that is divided into bins; NaN where unusable.

    The number itself; of class c between 2c and 2c + 1, by a probability.
    """
    first = predictions[:, 0]
    if plan.task == "regression":
        found: NDArray[np.float64] = np.where(np.isfinite(first), first, np.nan)
        return found
    found = 2 * np.minimum(np.floor(first), len(plan.classes))
    if plan.columns:
        p = predictions[:, 1:]
        found = found + (p[:, plan.scored[0]] if len(plan.scored) == 1 else p.max(axis=1))
        found[~np.isfinite(p).all(axis=1)] = np.nan
    return found


def _edges(plan: PerformancePlan, ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    """(bins - 1,) inner edges for the usable positions of the reference, sorted ascending."""
    between = np.empty(0) if plan.task == "regression" else 2.0 * np.arange(1, len(plan.classes) + 1) - 0.5
    most = min(MAX_BINS, len(ordered) // MIN_ROWS)
    edges = [between]
    for part in np.split(ordered, np.searchsorted(ordered, between)):
        bins = min(round(most * len(part) / len(ordered)), len(part) // MIN_ROWS)
        if bins > 1:
            inner = np.quantile(part, np.arange(1, bins) / bins, method="lower")
            edges.append(inner[inner < part[-1]])
    return np.unique(np.concatenate(edges))


def _tally(plan: PerformancePlan, edges: NDArray[np.float64], predictions: NDArray[np.float64]) -> NDArray[np.int64]:
    position = positions(plan, predictions)
    bins = np.where(np.isnan(position), len(edges) + 1, np.searchsorted(edges, position))
    return np.bincount(bins, minlength=len(edges) + 2)


def _not_of(found: bytes, wanted: bytes) -> str:
    return f"predictions counted in bins {found.hex()}, not {wanted.hex()}: count all of them with one baseline"


class _Reference(msgspec.Struct, array_like=True):
    """The binary form of a reference's performance."""

    plan: bytes
    edges: bytes
    bins: list[Packed]


class _Counts(msgspec.Struct, array_like=True):
    """The binary form of counts of predictions."""

    key: bytes
    counts: tuple[int, bytes, bytes]
