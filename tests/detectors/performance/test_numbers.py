"""Every metric against scikit-learn, and where it has the same one, against Evidently."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from detectors.performance.plan import PerformancePlan
from detectors.performance.settings import CLASSIFICATION, REGRESSION, Performance
from detectors.performance.sums import PerformanceSums, summarise
from detectors.statistics.block import Block, Codes

RANDOM = np.random.default_rng(5)
LABELS = RANDOM.normal(50, 10, 700)
NUMBERS = LABELS + RANDOM.normal(1, 3, 700)
CLASSES = np.array(["a", "b", "c"])
P = RANDOM.dirichlet([1.0, 2.0, 0.7], 900)
TRUTH = CLASSES[(P.cumsum(axis=1) < RANDOM.random((900, 1))).sum(axis=1)]
GUESS = CLASSES[P.argmax(axis=1)]
SCORE = np.round(RANDOM.beta(0.7, 0.9, 800), 2)
YES = RANDOM.random(800) < SCORE**1.3


def codes(texts):
    values, of = np.unique(np.asarray(texts, str), return_inverse=True)
    return Codes(of.astype(np.int32), tuple(values.tolist()))


def measured(section, guess, truth, scores=None, classes=()):
    """Metrics of predictions in columns ``guess``, ``p0``, ``p1``, …"""
    scores = np.empty((len(truth), 0)) if scores is None else scores
    columns = [("guess", "categorical"), *((f"p{j}", "numeric") for j in range(scores.shape[1]))]
    plan = PerformancePlan.of(section, columns, classes)
    block = Block(scores, np.isnan(scores), (codes(guess),))
    rows = plan.encode(block, [name for name, _ in columns[1:]], ["guess"])
    return summarise(plan, rows, plan.indices(codes(truth))).metrics(section.metrics)


def test_regression_is_scikit_learns():
    found = summarise(PerformancePlan("regression", "y"), NUMBERS[:, None], LABELS).metrics(REGRESSION)
    assert found == pytest.approx(
        {
            "mae": sk.mean_absolute_error(LABELS, NUMBERS),
            "rmse": sk.root_mean_squared_error(LABELS, NUMBERS),
            "mape": sk.mean_absolute_percentage_error(LABELS, NUMBERS),
            "r2": sk.r2_score(LABELS, NUMBERS),
            "meanError": np.mean(NUMBERS - LABELS),
            "maxError": sk.max_error(LABELS, NUMBERS),
        },
        rel=1e-12,
    )


def test_r2_keeps_its_digits_far_from_zero():
    plan = PerformancePlan("regression", "y")
    sums = PerformanceSums.empty(plan)
    for rows in np.array_split(np.arange(700), 9):
        sums += summarise(plan, NUMBERS[rows, None] + 1e8, LABELS[rows] + 1e8)
    assert sums.metrics(["r2"])["r2"] == pytest.approx(sk.r2_score(LABELS + 1e8, NUMBERS + 1e8), rel=1e-10)


@pytest.mark.parametrize("classes", [(), ("a",), ("a", "b"), ("c", "a", "b")])
def test_many_classes_are_averaged_as_by_scikit_learn(classes):
    """Also when one class is not known; when several are not, those count as one, and only the accuracy is exact."""
    section = Performance(metrics=("accuracy", "balancedAccuracy", "precision", "recall", "f1"))
    found = measured(section, GUESS, TRUTH, classes=classes)
    assert found["accuracy"] == sk.accuracy_score(TRUTH, GUESS)
    if len(classes) < 2:
        return
    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(TRUTH, GUESS),
            "balancedAccuracy": sk.balanced_accuracy_score(TRUTH, GUESS),
            "precision": sk.precision_score(TRUTH, GUESS, average="macro"),
            "recall": sk.recall_score(TRUTH, GUESS, average="macro"),
            "f1": sk.f1_score(TRUTH, GUESS, average="macro"),
        }
    )


def test_a_class_that_is_never_predicted_or_never_happens_counts_as_by_scikit_learn():
    truth, guess = np.where(TRUTH == "a", "b", TRUTH), np.where(GUESS == "c", "b", GUESS)
    found = measured(Performance(metrics=("precision", "recall", "f1")), guess, truth, classes="abcdef")
    of = {"average": "macro", "zero_division": 0}
    assert found == pytest.approx(
        {
            "precision": sk.precision_score(truth, guess, **of),
            "recall": sk.recall_score(truth, guess, **of),
            "f1": sk.f1_score(truth, guess, **of),
        }
    )


@pytest.mark.parametrize("positive", ["a", "b"])
def test_the_positive_class_against_the_rest(positive):
    section = Performance(metrics=("precision", "recall", "f1", "tpr", "tnr", "fpr", "fnr"), positive=positive)
    found = measured(section, GUESS, TRUTH, classes=("c",))
    y, z = positive == TRUTH, positive == GUESS
    (tn, fp), (fn, tp) = sk.confusion_matrix(y, z)
    assert found == pytest.approx(
        {
            "precision": sk.precision_score(y, z),
            "recall": sk.recall_score(y, z),
            "f1": sk.f1_score(y, z),
            "tpr": tp / (tp + fn),
            "tnr": tn / (tn + fp),
            "fpr": fp / (tn + fp),
            "fnr": fn / (tp + fn),
        }
    )


def test_probabilities_of_many_classes():
    section = Performance(
        metrics=("logLoss", "brier", "rocAuc"), probabilities={name: f"p{j}" for j, name in enumerate(CLASSES)}
    )
    found = measured(section, GUESS, TRUTH, P)
    assert found["logLoss"] == pytest.approx(sk.log_loss(TRUTH, y_proba=P), rel=1e-12)
    assert found["brier"] == pytest.approx(sk.brier_score_loss(TRUTH, P), rel=1e-12)
    area = sk.roc_auc_score(TRUTH, P, multi_class="ovr", average="macro")
    assert found["rocAuc"] == pytest.approx(area, abs=5e-4)


def test_certain_probabilities_that_are_wrong_are_clipped_as_by_scikit_learn():
    p, truth = np.array([[1.0, 0.0], [0.0, 1.0], [0.3, 0.7]]), ["n", "n", "y"]
    section = Performance(metrics=("logLoss",), probabilities={"n": "p0", "y": "p1"})
    assert measured(section, ["n", "y", "y"], truth, p)["logLoss"] == pytest.approx(sk.log_loss(truth, y_proba=p))


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("positive", ["y", None])
def test_two_classes_need_one_probability(both, positive):
    names = ("logLoss", "brier", "rocAuc")
    section = Performance(
        metrics=names, probabilities={"y": "p0", "n": "p1"} if both else {"y": "p0"}, positive=positive
    )
    truth, guess = np.where(YES, "y", "n"), np.where(SCORE >= 0.5, "y", "n")
    found = measured(section, guess, truth, np.column_stack((SCORE, 1 - SCORE)))
    assert found == pytest.approx(
        {
            "logLoss": sk.log_loss(YES, y_proba=SCORE),
            "brier": sk.brier_score_loss(YES, SCORE),
            "rocAuc": sk.roc_auc_score(YES, SCORE),  # scores of two decimals lie on marks
        },
        rel=1e-12,
    )


def expected_calibration_error(truth, score):
    bins = np.minimum((score * 10).astype(int), 9)
    gaps = [(bins == b).mean() * abs(truth[bins == b].mean() - score[bins == b].mean()) for b in set(bins.tolist())]
    return sum(gaps)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_a_number_may_be_the_probability_of_a_class(threshold):
    """KServe's ``predictions: [0.93]``, with labels of any JSON type that has the class's text."""
    names = (
        "accuracy",
        "balancedAccuracy",
        "precision",
        "recall",
        "f1",
        "rocAuc",
        "logLoss",
        "brier",
        "calibrationError",
    )
    section = Performance(metrics=names, threshold=threshold, positive="1")
    plan = PerformancePlan.of(section, [("risk", "numeric")])
    block = Block(SCORE[:, None], np.isnan(SCORE[:, None]))
    labels = plan.labels([int(yes) for yes in YES], str)
    guess = threshold <= SCORE
    assert summarise(plan, plan.encode(block, ["risk"], []), labels).metrics(names) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(YES, guess),
            "balancedAccuracy": sk.balanced_accuracy_score(YES, guess),
            "precision": sk.precision_score(YES, guess),
            "recall": sk.recall_score(YES, guess),
            "f1": sk.f1_score(YES, guess),
            "rocAuc": sk.roc_auc_score(YES, SCORE),
            "logLoss": sk.log_loss(YES, y_proba=SCORE),
            "brier": sk.brier_score_loss(YES, SCORE),
            "calibrationError": expected_calibration_error(YES, SCORE),
        },
        rel=1e-12,
    )


@pytest.mark.parametrize("rare", [0.5, 0.01])
@pytest.mark.parametrize("learned", [True, False])
def test_the_area_is_within_its_bound_and_usually_far_within(rare, learned):
    random = np.random.default_rng(3)
    plan = PerformancePlan.of(Performance(metrics=("rocAuc",), threshold=0.5, positive="1"), [("p", "numeric")])
    yes = random.random(30_000) < rare
    p = 1 / (1 + np.exp(-random.normal(np.where(yes, 1, 0), 1.5) - np.log(rare / (1 - rare))))
    rows, labels = plan.rows(p, p[:, None]), np.where(yes, 0.0, 1.0)
    sums = summarise(plan.fitted(rows, labels) if learned else plan, rows, labels)
    off = abs(sums.metrics(["rocAuc"])["rocAuc"] - sk.roc_auc_score(yes, p))
    assert off <= sums.roc_auc_bound() <= (1 / 400 if learned else 1 / 100)
    assert off < 1e-4


def test_an_undefined_ratio_is_nan():
    section = Performance(metrics=tuple(CLASSIFICATION), probabilities={"y": "p0"}, positive="y")
    found = measured(section, ["n", "n"], ["n", "n"], np.array([[0.1], [0.2]]))
    nan = {"precision", "recall", "f1", "tpr", "fnr", "rocAuc"}
    assert {name for name, value in found.items() if math.isnan(value)} == nan
    empty = PerformanceSums.empty(PerformancePlan("regression", "y"))
    assert all(math.isnan(value) for value in empty.metrics(REGRESSION).values())


def test_more_classes_than_are_told_apart():
    truth = RANDOM.integers(0, 300, 2000).astype(str)
    guess = np.where(RANDOM.random(2000) < 0.6, truth, RANDOM.integers(0, 300, 2000).astype(str))
    found = measured(Performance(metrics=("accuracy",)), guess, truth, classes=np.unique(truth).tolist())
    assert found == {"accuracy": sk.accuracy_score(truth, guess)}


def theirs(names, frame, **definition):
    """Stock Evidently's numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import BinaryClassification, DataDefinition, Dataset, Regression, Report
        from evidently import metrics as known

        kinds = {"regression": Regression, "classification": BinaryClassification}
        described = DataDefinition(**{key: [kinds[key](**options)] for key, options in definition.items()})
        snapshot = Report([getattr(known, name)() for name in names]).run(Dataset.from_pandas(frame, described), None)
        values = [metric["value"] for metric in snapshot.dict()["metrics"]]
    return [value["mean"] if isinstance(value, dict) else value for value in values]


def test_regression_is_evidentlys():
    frame = pd.DataFrame({"y": LABELS, "z": NUMBERS})
    expected = theirs(
        ["MAE", "RMSE", "MAPE", "R2Score", "MeanError", "AbsMaxError"],
        frame,
        regression={"target": "y", "prediction": "z"},
    )
    found = summarise(PerformancePlan("regression", "z"), NUMBERS[:, None], LABELS).metrics(
        ["mae", "rmse", "mape", "r2", "meanError", "maxError"]
    )
    found["mape"] *= 100  # theirs is in percent
    assert list(found.values()) == pytest.approx(expected)


def test_classification_is_evidentlys():
    names = ("accuracy", "precision", "recall", "f1", "tpr", "tnr", "fpr", "fnr", "rocAuc")
    frame = pd.DataFrame({"y": YES.astype(int), "p": SCORE})
    expected = theirs(
        ["Accuracy", "Precision", "Recall", "F1Score", "TPR", "TNR", "FPR", "FNR", "RocAuc"],
        frame,
        classification={"target": "y", "prediction_probas": "p", "pos_label": 1},
    )
    section = Performance(metrics=names, threshold=0.5, positive="1")
    plan = PerformancePlan.of(section, [("p", "numeric")])
    labels = np.where(YES, 0.0, 1.0)
    found = summarise(plan, plan.rows(SCORE, SCORE[:, None]), labels).metrics(names)
    assert list(found.values()) == pytest.approx(expected)
