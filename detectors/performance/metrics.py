"""Metrics as functions of sums, and how much one row moves each of them.

N rows are joined; C is the confusion matrix (rows: labels, columns: predictions, `(other)` is the last class); e is prediction less label.

=================  ==========================================================================================================
accuracy           share of rows in which both agree (exact, also for classes that are not the plan's)
precision, recall  of the positive class: TP / predicted, TP / labelled. Without one the mean over all classes that occur, a class that
                   was never predicted, or never happened, counting 0 (`average="macro"`)
f1                 2 TP / (predicted + labelled), likewise
balancedAccuracy   mean of the recall of all classes that happened
tpr tnr fpr fnr    of the positive class: TP/P, TN/N, FP/N, FN/P
rocAuc             the share of (positive, negative) pairs that the score orders rightly, ties half; mean over classes, each against the
                   rest, when there is no positive one
logLoss            mean of -ln p(label), p clipped to [2.2e-16, 1 - 2.2e-16]. With a class without a probability: what is left of 1
brier              mean of (p - y)² of the positive class; else of the sum over classes, half of it when they are two
calibrationError   Σ share of bin · |mean score - frequency of the class| over ten bins of equal width
mae, rmse          mean of |e|, square root of the mean of e²
mape               mean of |e| / max(|label|, 2.2e-16): a share. One label of 0 makes it huge
r2                 1 - Σe² / Σ(label - mean label)²
meanError          mean of e: positive when predictions are too high
maxError           largest |e|
=================  ==========================================================================================================

These are scikit-learn's numbers. Where it answers a ratio without rows with 0 and a warning, the answer here is NaN (its
`zero_division=nan`), except inside a mean over classes. Evidently's are the same, but for its `MAPE`, which is in percent and divides by the label
itself, so that it differs for negative ones. `(other)` counts as one class in means over classes: they are exact when at most one class is not the plan's.

rocAuc is exact when scores lie on the plan's marks (two decimals always do for two classes, and so do all scores of a reference with at most
400 different ones). Else two rows between the same marks count as a tie, so it is off by at most half the share of such pairs
(`PerformanceSums.roc_auc_bound`): at most 1/400 for continuous scores that are distributed as the reference's, of which 400 quantiles are marks, whatever
the share of positives; usually by far less, for the errors of single pairs cancel. More than two classes share 100 quantiles.

The influence of a row is the derivative of a metric with respect to its weight. The variance of a metric is the sum of the influences' variances
(delta method); for rocAuc these are DeLong's structural components.

References
----------
Hampel (1974), The influence curve and its role in robust estimation, JASA 69. DeLong, DeLong & Clarke-Pearson (1988), Comparing the areas under two
or more correlated ROC curves, Biometrics 44. Brier (1950), Monthly Weather Review 78. Naeini, Cooper & Hauskrecht (2015), Obtaining well calibrated
probabilities using Bayesian binning, AAAI.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.performance.plan import CALIBRATED, MOMENTS, PerformancePlan

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Totals:
    """What `PerformanceSums` holds; counts may be fractions, and each array may have an axis of bins before its own."""

    plan: PerformancePlan
    counts: Floats
    """(..., plan.counts)"""
    sums: Floats
    """(..., plan.sums)"""
    mean: float | Floats
    m2: float | Floats
    worst: float | Floats

    @property
    def joined(self) -> Floats:
        """(...) rows."""
        found: Floats = self.counts[..., 0]
        return found

    @property
    def cells(self) -> Floats:
        """(..., cells) of the confusion matrix."""
        found: Floats = self.counts[..., self.plan.cells_at]
        return found

    @property
    def scores(self) -> Floats:
        """(..., ranked classes, 2, marks + 1) counts of scores: of rows of other classes, and of this one."""
        plan = self.plan
        found = self.counts[..., plan.cells_at.stop :]
        return found.reshape(*found.shape[:-1], len(plan.scored), 2, len(plan.marks) + 1)

    @property
    def moments(self) -> Floats:
        """(..., 7, 7) sums of products."""
        return self.sums.reshape(*self.sums.shape[:-1], MOMENTS, MOMENTS)


Variance = Callable[[Totals], Floats]
"""(bins,) of bins of rows: the variance, within each, of one row's influence."""
Measured = tuple[float, Variance | None]
"""The value of a metric, and how one row moves it; None where that is no smooth function."""
_UNDEFINED: Measured = (np.nan, None)


def value_of(totals: Totals, name: str) -> float:
    """The metric; NaN where it is undefined, or beyond the range of floats."""
    return measured(totals, name)[0]


def measured(totals: Totals, name: str) -> Measured:
    """The metric and its influence; `totals` has no axis of bins."""
    if not totals.joined > 0:
        return _UNDEFINED
    regression = totals.plan.task == "regression"
    formula = (_REGRESSION if regression else _CLASSIFICATION).get(name)
    if formula is None:
        return _UNDEFINED
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        value, variance = formula(totals)
    return (float(value), variance) if np.isfinite(value) else _UNDEFINED


def roc_auc_bound(totals: Totals) -> float:
    """Half the share of pairs between the same marks, mean over the ranked classes."""
    if not totals.plan.marks:
        return np.nan
    scores = totals.scores
    of_class = scores.sum(axis=2)
    if not of_class.all():
        return np.nan
    return float(np.mean((scores[:, 0] * scores[:, 1]).sum(axis=1) / of_class.prod(axis=1)) / 2)


def _spread(first: Floats, second: Floats, n: Floats) -> Floats:
    """Variance of one row, unbiased, of sums of n values and of their squares; 0 of fewer than two rows."""
    centred = second - first * first / np.maximum(n, 1)
    return np.maximum(centred, 0.0) / np.maximum(n - 1, 1)


# Regression: every influence is a linear function of the moments of a row.


def _linear(weights: Floats) -> Variance:
    def variance(bins: Totals) -> Floats:
        m = bins.moments
        with np.errstate(over="ignore", invalid="ignore"):
            return _spread(m[..., 0, :] @ weights, np.einsum("...ij,i,j->...", m, weights, weights), bins.joined)

    return variance


def _mean_of(moment: int) -> Callable[[Totals], Measured]:
    def formula(totals: Totals) -> Measured:
        n = totals.joined
        value = totals.moments[0, moment] / n
        weights = np.zeros(MOMENTS)
        weights[[0, moment]] = -value / n, 1 / n
        return value, _linear(weights)

    return formula


def _rmse(totals: Totals) -> Measured:
    n = totals.joined
    square = totals.moments[0, 4] / n
    value = np.sqrt(square)
    weights = np.zeros(MOMENTS)
    weights[[0, 4]] = np.array([-square, 1.0]) / (2 * n * value)
    return value, _linear(weights) if value > 0 else _linear(np.zeros(MOMENTS))


def _r2(totals: Totals) -> Measured:
    a, m2 = totals.moments[0, 4], totals.m2
    if not m2 > 0:
        return _UNDEFINED
    off = totals.mean - totals.plan.centre
    weights = np.zeros(MOMENTS)
    weights[[0, 4, 5, 6]] = np.array([off * off * a / m2, -1.0, -2 * off * a / m2, a / m2]) / m2
    return 1 - a / m2, _linear(weights)


def _max_error(totals: Totals) -> Measured:
    return float(totals.worst), None


_REGRESSION: dict[str, Callable[[Totals], Measured]] = {
    "meanError": _mean_of(1),
    "mae": _mean_of(2),
    "mape": _mean_of(3),
    "rmse": _rmse,
    "r2": _r2,
    "maxError": _max_error,
}

# Classification: the influence of a row is a number for its cell of the confusion matrix, for its loss, or for its score and label.


@dataclass(frozen=True, slots=True)
class _Confusion:
    """The confusion matrix, and where each of its cells is."""

    cells: Floats
    row: NDArray[np.int64]
    """(cells,) the label's class."""
    column: NDArray[np.int64]
    """(cells,) the predicted class."""
    hit: NDArray[np.bool_]
    """(cells,) whether they agree."""
    labelled: Floats
    """(classes,)"""
    predicted: Floats
    right: Floats

    @classmethod
    def of(cls, totals: Totals) -> "_Confusion":
        size = len(totals.plan.classes) + 1
        row, column = np.append(np.indices((size, size)).reshape(2, -1), [[size - 1], [size - 1]], axis=1)
        hit = row == column
        hit[-2] = False
        cells = totals.cells
        return cls(
            cells,
            row,
            column,
            hit,
            _by_class(row, cells, size),
            _by_class(column, cells, size),
            _by_class(row, cells * hit, size),
        )


def _by_class(of: NDArray[np.int64], cells: Floats, size: int) -> Floats:
    return np.bincount(of, cells, size).astype(np.float64)


def _by_cell(weights: Floats) -> Variance:
    def variance(bins: Totals) -> Floats:
        return _spread(bins.cells @ weights, bins.cells @ (weights * weights), bins.joined)

    return variance


def _divided(a: Floats, b: Floats) -> Floats:
    """0 where b is."""
    return np.divide(a, b, out=np.zeros_like(b), where=b > 0)


def _share(rows: NDArray[np.bool_], of: NDArray[np.bool_], cells: Floats) -> Measured:
    """Σ cells in `rows` / Σ cells in `of`, the former being part of the latter."""
    whole = cells[of].sum()
    if not whole > 0:
        return _UNDEFINED
    value = cells[rows].sum() / whole
    return value, _by_cell((rows - value * of) / whole)


def _accuracy(totals: Totals) -> Measured:
    c = _Confusion.of(totals)
    return _share(c.hit, np.ones(len(c.hit), np.bool_), c.cells)


def _balanced(totals: Totals) -> Measured:
    c = _Confusion.of(totals)
    return _averaged(c, (c.labelled > 0).astype(np.float64), by_label=1.0, by_prediction=0.0)


def _of_classes(by_label: float, by_prediction: float) -> Callable[[Totals], Measured]:
    def formula(totals: Totals) -> Measured:
        c = _Confusion.of(totals)
        if totals.plan.positive is None:
            chosen = ((c.labelled > 0) | (c.predicted > 0)).astype(np.float64)
        else:
            chosen = np.zeros(len(c.labelled))
            chosen[totals.plan.positive] = 1.0
            if not (by_label * c.labelled + by_prediction * c.predicted) @ chosen > 0:
                return _UNDEFINED
        return _averaged(c, chosen, by_label, by_prediction)

    return formula


def _averaged(c: _Confusion, chosen: Floats, by_label: float, by_prediction: float) -> Measured:
    """Mean over the chosen classes of right / (by_label · labelled + by_prediction · predicted).

    Of the factors (1, 0), (0, 1) and (1/2, 1/2) this is recall, precision and f1.
    """
    chosen = chosen / chosen.sum()
    under = by_label * c.labelled + by_prediction * c.predicted
    ratio = _divided(c.right, under)
    unit = _divided(chosen, under)
    less = ratio * unit
    return float(ratio @ chosen), _by_cell(
        c.hit * unit[c.row] - by_label * less[c.row] - by_prediction * less[c.column]
    )


def _rate(*, of_positive: bool, predicted: bool) -> Callable[[Totals], Measured]:
    def formula(totals: Totals) -> Measured:
        if totals.plan.positive is None:
            return _UNDEFINED
        c = _Confusion.of(totals)
        of = (c.row == totals.plan.positive) == of_positive
        return _share(of & ((c.column == totals.plan.positive) == predicted), of, c.cells)

    return formula


def _mean_loss(at: int) -> Callable[[Totals], Measured]:
    def formula(totals: Totals) -> Measured:
        n = totals.counts[2]
        if not n > 0:
            return _UNDEFINED
        value = totals.sums[at] / n

        def variance(bins: Totals) -> Floats:
            n_in, first, second = bins.counts[..., 2], bins.sums[..., at], bins.sums[..., at + 1]
            centred = second - 2 * value * first + value * value * n_in
            return _spread((first - value * n_in) / n, centred / (n * n), bins.joined)

        return value, variance

    return formula


def _roc_auc(totals: Totals) -> Measured:
    if not totals.plan.marks:
        return _UNDEFINED
    scores = totals.scores
    of_class = scores.sum(axis=2)
    if not of_class.all():
        return _UNDEFINED
    # (classes, 2, bins): the share of the other label's rows that are below a score, or above it, ties half.
    shares = scores / of_class[:, :, np.newaxis]
    below = np.cumsum(shares[:, 0], axis=1) - shares[:, 0] / 2
    above = np.cumsum(shares[:, 1, ::-1], axis=1)[:, ::-1] - shares[:, 1] / 2
    area = np.einsum("sb,sb->s", shares[:, 1], below)
    influence = (np.stack((above, below), axis=1) - area[:, np.newaxis, np.newaxis]) / of_class[:, :, np.newaxis]

    def variance(bins: Totals) -> Floats:
        # Of which score of one class goes with which of another nothing is kept: a mean's deviation is at most the mean of the deviations.
        counts = bins.scores
        first = np.einsum("...sxb,sxb->...s", counts, influence)
        second = np.einsum("...sxb,sxb->...s", counts, influence * influence)
        deviation: Floats = np.sqrt(_spread(first, second, bins.joined[..., np.newaxis])).mean(axis=-1)
        return deviation**2

    return float(area.mean()), variance


def _calibration_error(totals: Totals) -> Measured:
    n = totals.counts[2]
    if not totals.plan.calibrated or not n > 0:
        return _UNDEFINED
    hits = totals.counts[3 + CALIBRATED : 3 + 2 * CALIBRATED]
    return np.abs(totals.sums[4:] - hits).sum() / n, None


_CLASSIFICATION: dict[str, Callable[[Totals], Measured]] = {
    "accuracy": _accuracy,
    "balancedAccuracy": _balanced,
    "precision": _of_classes(0.0, 1.0),
    "recall": _of_classes(1.0, 0.0),
    "f1": _of_classes(0.5, 0.5),
    "tpr": _rate(of_positive=True, predicted=True),
    "fnr": _rate(of_positive=True, predicted=False),
    "fpr": _rate(of_positive=False, predicted=True),
    "tnr": _rate(of_positive=False, predicted=False),
    "rocAuc": _roc_auc,
    "logLoss": _mean_loss(0),
    "brier": _mean_loss(2),
    "calibrationError": _calibration_error,
}
