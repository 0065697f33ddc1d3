"""What is estimated before labels come: where it holds, how far it is off, and where it misleads."""

import numpy as np
import pytest

from detectors.performance.estimate import UNESTIMATED, estimate, learn
from detectors.performance.metrics import Totals, measured
from detectors.performance.plan import PerformancePlan
from detectors.performance.settings import CLASSIFICATION, REGRESSION, Performance
from detectors.performance.sums import summarise

SETTINGS = {
    "scores": (
        Performance(metrics=tuple(CLASSIFICATION), threshold=0.4, positive="1"),
        [("y", "numeric")],
    ),
    "classes": (Performance(metrics=("accuracy", "precision", "recall", "f1")), [("y", "categorical")]),
    "many": (
        Performance(
            metrics=("accuracy", "balancedAccuracy", "f1", "rocAuc", "logLoss", "brier"),
            probabilities={"a": "p", "b": "q", "c": "r"},
        ),
        [("y", "categorical"), ("p", "numeric"), ("q", "numeric"), ("r", "numeric")],
    ),
    "regression": (Performance(metrics=tuple(REGRESSION)), [("y", "numeric")]),
}


def plan_of(kind):
    return PerformancePlan.of(*SETTINGS[kind], ["a", "b", "c"])


def drawn(kind, random, rows, *, shift):
    """Predictions that drift with `shift`, and labels that go with each prediction as ever."""
    plan = plan_of(kind)
    if kind == "regression":
        x = random.gamma(3 + 2 * shift, 2, rows)
        return plan.rows(x, np.empty((rows, 0))), x + 0.3 + random.normal(0, 0.3 + 0.2 * x)
    if kind == "scores":
        p = random.beta(1 + shift, 2, rows)
        # Not calibrated: the true frequency is another one.
        return plan.rows(p, p[:, None]), (random.random(rows) > p**1.4).astype(float)
    if kind == "many":
        p = random.dirichlet([1 + 2 * shift, 1, 1], rows)
        label = (p.cumsum(axis=1) < random.random((rows, 1))).sum(axis=1).clip(max=2)
        return plan.rows(p.argmax(axis=1), p), label.astype(float)
    guess = random.choice(3, rows, p=np.array([1 + 2 * shift, 1, 1]) / (3 + 2 * shift))
    return plan.rows(guess, np.empty((rows, 0))), np.where(random.random(rows) < 0.6 + 0.15 * guess, guess, 1.0)


@pytest.mark.parametrize("kind", SETTINGS)
def test_intervals_cover_what_labels_show_although_predictions_drift(kind):
    random, names = np.random.default_rng(11), SETTINGS[kind][0].metrics
    off: dict[str, list[float]] = {}
    for _ in range(40):
        reference = learn(plan_of(kind), *drawn(kind, random, 4000, shift=0))
        for _ in range(10):
            predictions, labels = drawn(kind, random, 700, shift=0.5)
            shown = summarise(reference.plan, predictions, labels).metrics(names)
            found = estimate(reference, reference.count(predictions), names)
            assert (found.rows, found.covered) == (700, 1)
            for name, one in found.metrics.items():
                off.setdefault(name, []).append((shown[name] - one.value) / one.error)
    assert set(off) == set(names) - set(UNESTIMATED)
    shares = {name: float(np.mean(np.abs(errors) <= 1.96)) for name, errors in off.items()}
    assert all(0.92 <= share <= 0.98 for name, share in shares.items() if (kind, name) != ("many", "rocAuc")), shares
    assert shares.get("rocAuc", 1) >= 0.92  # of many classes the error is too large rather than too small


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_influence_of_rows_is_what_leaving_them_out_shows(kind):
    """The jackknife's variance, of the metrics that scikit-learn agrees with."""
    rows, names = 400, [name for name in SETTINGS[kind][0].metrics if name not in UNESTIMATED]
    predictions, labels = drawn(kind, np.random.default_rng(16), rows, shift=0)
    plan = plan_of(kind).fitted(predictions, labels)
    one_bin = summarise(plan, predictions, labels).totals()
    as_bins = Totals(
        plan, one_bin.counts[None], one_bin.sums[None], *(np.array([x]) for x in (one_bin.mean, one_bin.m2, 0))
    )
    without = [np.arange(rows) != i for i in range(rows)]
    left = [summarise(plan, predictions[kept], labels[kept]).metrics(names) for kept in without]
    for name in names:
        jackknife = (rows - 1) ** 2 / rows * np.var([metrics[name] for metrics in left], ddof=1)
        _, variance = measured(one_bin, name)
        assert variance is not None
        ours = rows * float(variance(as_bins)[0])
        if (kind, name) == ("many", "rocAuc"):
            assert 1 <= ours / jackknife < 2.5
        else:
            assert ours == pytest.approx(jackknife, rel=0.03), name


@pytest.mark.parametrize("kind", SETTINGS)
def test_of_its_own_predictions_the_estimate_is_the_references_performance(kind):
    predictions, labels = drawn(kind, np.random.default_rng(12), 3000, shift=0)
    reference, names = learn(plan_of(kind), predictions, labels), SETTINGS[kind][0].metrics
    assert len(reference.bins) <= 54
    whole = summarise(reference.plan, predictions, labels).metrics(names)
    assert reference.sums.metrics(names) == pytest.approx(whole)
    found = estimate(reference, reference.count(predictions), names).metrics
    assert {name: one.value for name, one in found.items()} == pytest.approx({name: whole[name] for name in found})


def test_of_a_calibrated_classifier_it_is_confidence_based():
    """CBPE: a prediction is right with the probability that the classifier says."""
    random, section = np.random.default_rng(13), Performance(metrics=("accuracy",), threshold=0.5, positive="1")
    p, drifted = random.beta(2, 2, 100_000), random.beta(0.5, 0.8, 100_000)
    plan = PerformancePlan.of(section, [("y", "numeric")])
    reference = learn(plan, plan.rows(p, p[:, None]), (random.random(100_000) > p).astype(float))
    found = estimate(reference, reference.count(plan.rows(drifted, drifted[:, None])), ["accuracy"]).metrics["accuracy"]
    confidence = np.maximum(drifted, 1 - drifted).mean()
    assert found.value == pytest.approx(confidence, abs=0.015)
    assert abs(reference.sums.metrics(["accuracy"])["accuracy"] - confidence) > 0.05


def test_it_does_not_see_that_the_concept_changed():
    random = np.random.default_rng(14)
    reference = learn(plan_of("scores"), *drawn("scores", random, 4000, shift=0))
    predictions, labels = drawn("scores", random, 700, shift=0)
    shown = summarise(reference.plan, predictions, 1 - labels).metrics(["rocAuc"])[
        "rocAuc"
    ]  # every label is the other one
    found = estimate(reference, reference.count(predictions), ["rocAuc"]).metrics["rocAuc"]
    assert found.value == pytest.approx(reference.sums.metrics(["rocAuc"])["rocAuc"], abs=0.05)
    assert shown < 0.5 < found.interval[0]


def test_what_the_reference_never_saw_predicted_is_left_out():
    reference = learn(plan_of("classes"), *drawn("classes", np.random.default_rng(15), 500, shift=0))
    rows = np.array([[0.0], [1.0], [3.5], [np.nan]])
    found = estimate(reference, reference.count(rows), ["accuracy"])
    assert (found.rows, found.covered) == (2, 0.5)
    nothing = estimate(reference, reference.empty(), ["accuracy"])
    assert nothing.rows == 0
    assert np.isnan([nothing.covered, nothing.metrics["accuracy"].value, nothing.metrics["accuracy"].error]).all()
