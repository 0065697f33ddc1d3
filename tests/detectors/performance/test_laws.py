"""Sums add; whatever the data; and survive their bytes."""

import json
import math
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detectors.errors import IncompatibleSummaries, NotApplicable, SummaryFormatError
from detectors.performance.estimate import PredictionCounts, ReferencePerformance, estimate, learn
from detectors.performance.plan import PerformancePlan
from detectors.performance.settings import CLASSIFICATION, REGRESSION, Performance
from detectors.performance.sums import PerformanceSums, summarise
from detectors.statistics.block import Block, Codes
from reference.category import category

RATED = ("accuracy", "f1", "rocAuc", "logLoss", "brier")
PLANS = {
    "regression": PerformancePlan("regression", "y"),
    "classes": PerformancePlan("classification", "y", classes=("a", "b")),
    "scores": PerformancePlan.of(Performance(metrics=RATED, threshold=0.4, positive="1"), [("y", "numeric")]),
    "many": PerformancePlan.of(
        Performance(metrics=RATED, probabilities={"a": "p", "b": "q", "c": "r"}),
        [("y", "categorical"), ("p", "numeric"), ("q", "numeric"), ("r", "numeric")],
        ["d"],
    ),
}
NAMES = {name: REGRESSION if plan.task == "regression" else CLASSIFICATION for name, plan in PLANS.items()}


def made(plan, rows, seed):
    """Predictions and labels that are all usable, and depend on each other."""
    random = np.random.default_rng(seed)
    if plan.task == "regression":
        label = random.normal(7, 3, rows)
        return plan.rows(label + random.normal(0, 1, rows), np.empty((rows, 0))), label
    p = random.dirichlet(np.ones(len(plan.columns) + 1), rows)[:, : len(plan.columns)]
    label = random.integers(0, len(plan.classes) + 1, rows).astype(float)
    guess = np.where(random.random(rows) < 0.7, label, random.integers(0, len(plan.classes) + 1, rows))
    return plan.rows(guess, p), label


anything = st.one_of(st.floats(), st.floats(-1, 6), st.sampled_from([0.0, 1.0, 2.0, math.nan, 1e308, -1e308]))


@st.composite
def rows_of(draw, plan):
    """What may come: any number, any class, any probability."""
    n = draw(st.integers(0, 30))
    first = draw(arrays(float, n, elements=anything, fill=st.just(1.0)))
    label = draw(arrays(float, n, elements=anything, fill=st.just(1.0)))
    scores = draw(
        arrays(float, (n, len(plan.columns)), elements=st.one_of(anything, st.floats(0, 1)), fill=st.just(0.5))
    )
    if plan.task == "classification":
        first, label = (np.abs(np.where(np.isfinite(x), x, np.nan)) % (len(plan.classes) + 1) for x in (first, label))
    return plan.rows(first, scores), label


@pytest.mark.parametrize("kind", PLANS)
@given(data=st.data())
def test_no_data_is_too_odd(kind, data):
    plan = PLANS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictions, labels = data.draw(rows_of(plan))
        sums = summarise(plan, predictions, labels)
        metrics = (sums + sums).metrics(NAMES[kind])
        again = PerformanceSums.from_bytes(sums.to_bytes(), plan)
    assert sums.joined + sums.unusable == len(labels)
    assert not any(math.isinf(value) for value in metrics.values())
    assert again.to_bytes() == sums.to_bytes()
    assert json.dumps(again.metrics(NAMES[kind])) == json.dumps(sums.metrics(NAMES[kind]))


@pytest.mark.parametrize("kind", PLANS)
@given(rows=st.integers(1, 200), parts=st.integers(1, 7), seed=st.integers(0, 2**32 - 1))
def test_neither_the_order_nor_the_partition_of_rows_matters(kind, rows, parts, seed):
    plan = PLANS[kind]
    predictions, labels = made(plan, rows, seed)
    whole = summarise(plan, predictions, labels)
    total = PerformanceSums.empty(plan)
    for part in np.array_split(np.random.default_rng(seed).permutation(rows), parts):
        one = PerformanceSums.from_bytes(summarise(plan, predictions[part], labels[part]).to_bytes(), plan)
        total = one + total
    assert total.counts.tolist() == whole.counts.tolist()
    magnitude = np.sqrt(np.outer(*[np.diag(whole.totals().moments)] * 2)).ravel() if kind == "regression" else 1.0
    assert np.all(np.abs(total.sums - whole.sums) <= 1e-12 * np.maximum(np.abs(whole.sums), magnitude))
    assert total.metrics(NAMES[kind]) == pytest.approx(whole.metrics(NAMES[kind]), rel=1e-10, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("kind", PLANS)
def test_nothing_is_neutral(kind):
    plan = PLANS[kind]
    sums, nothing = summarise(plan, *made(plan, 20, 1)), PerformanceSums.empty(plan)
    assert (sums + nothing).to_bytes() == (nothing + sums).to_bytes() == sums.to_bytes()
    assert summarise(plan, np.empty((0, 1 + len(plan.columns))), np.empty(0)).to_bytes() == nothing.to_bytes()


def test_a_square_beyond_the_range_of_floats_is_nan_and_leaves_the_others_alone():
    sums = summarise(PLANS["regression"], np.array([[1e200], [3.0]]), np.array([2.0, 2.0]))
    found = (sums + sums).metrics(REGRESSION)
    assert math.isnan(found["rmse"])
    assert found["mae"] == pytest.approx(5e199)


@pytest.mark.parametrize("kind", PLANS)
def test_bytes_are_few(kind):
    """A window of a thousand rows, and one of a hundred."""
    plan = PLANS[kind]
    assert len(summarise(plan, *made(plan, 1000, 2)).to_bytes()) < 1800
    assert len(summarise(plan, *made(plan, 100, 2)).to_bytes()) < 1100


def broken(data, read):
    for end in (0, 3, 4, len(data) // 2, len(data) - 1):
        with pytest.raises(SummaryFormatError):
            read(data[:end])
    with pytest.raises(SummaryFormatError):
        read(data[:3] + b"9" + data[4:])


@pytest.mark.parametrize("kind", PLANS)
def test_other_bytes_and_other_plans_are_refused(kind):
    plan, other = PLANS[kind], PLANS["classes" if kind == "regression" else "regression"]
    sums = summarise(plan, *made(plan, 50, 3))
    broken(sums.to_bytes(), lambda data: PerformanceSums.from_bytes(data, plan))
    with pytest.raises(IncompatibleSummaries, match="counted on plan"):
        PerformanceSums.from_bytes(sums.to_bytes(), other)
    with pytest.raises(IncompatibleSummaries, match="do not add"):
        _ = sums + PerformanceSums.empty(other)


@pytest.mark.parametrize("kind", PLANS)
def test_a_reference_and_counts_survive_their_bytes(kind):
    predictions, labels = made(PLANS[kind], 400, 4)
    reference = learn(PLANS[kind], predictions, labels)
    again = ReferencePerformance.from_bytes(reference.to_bytes())
    assert again.plan == reference.plan == pickle.loads(pickle.dumps(reference)).plan
    assert again.to_bytes() == reference.to_bytes()
    assert again.key == reference.key
    names = NAMES[kind]
    assert again.sums.metrics(names) == pytest.approx(reference.sums.metrics(names), nan_ok=True)
    counts = reference.count(predictions[:70])
    read = PredictionCounts.from_bytes(counts.to_bytes(), again)
    assert estimate(again, read, names) == estimate(reference, counts, names)
    broken(reference.to_bytes(), ReferencePerformance.from_bytes)
    broken(reference.plan.to_bytes(), PerformancePlan.from_bytes)
    broken(counts.to_bytes(), lambda data: PredictionCounts.from_bytes(data, reference))
    other = learn(PLANS[kind], *made(PLANS[kind], 900, 5))
    for refused in (
        lambda: PredictionCounts.from_bytes(counts.to_bytes(), other),
        lambda: counts + other.empty(),
        lambda: estimate(other, counts, names),
    ):
        if other.key != counts.key:  # three classes without probabilities always have the same bins
            with pytest.raises(IncompatibleSummaries):
                refused()


@pytest.mark.parametrize("kind", PLANS)
@given(data=st.data())
def test_counts_of_predictions_add(kind, data):
    reference = learn(PLANS[kind], *made(PLANS[kind], 300, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictions, _ = data.draw(rows_of(reference.plan))
        whole = reference.count(predictions)
        cut = data.draw(st.integers(0, len(predictions)))
        total = reference.count(predictions[cut:]) + reference.empty() + reference.count(predictions[:cut])
        found = estimate(reference, total, NAMES[kind])
    assert total.counts.tolist() == whole.counts.tolist()
    assert whole.counts.sum() == len(predictions)
    assert 0 <= found.rows <= len(predictions)
    assert not any(math.isinf(one.value) for one in found.metrics.values())


def test_too_few_labels_are_no_reference():
    plan = PLANS["regression"]
    predictions, labels = made(plan, 30, 7)
    with pytest.raises(NotApplicable, match="19 rows of the reference have a usable 'y' and label"):
        learn(plan, predictions, np.where(np.arange(30) < 11, np.nan, labels))


JSON = ["a", "é", 3, 3.0, 2.5, True, False, None, math.nan, math.inf, 10**400, ["a"], {"a": 1}, "", "\ud800"]


def test_labels_are_read_as_the_messages_are():
    plan = PerformancePlan("classification", "y", classes=("3", "true", "a", "é"))
    found = plan.labels(JSON, category)
    assert found[:4].tolist() == [2.0, 3.0, 0.0, 0.0]
    assert found[5] == 1.0
    assert np.isnan(found[[7, 8, 11, 12, 14]]).all()
    unknown = found[[4, 6, 9, 10, 13]]
    assert len(set(unknown.tolist())) == 5
    assert np.all((unknown >= 4) & (unknown < 5))
    texts = Codes(np.array([0, 1, -1, 2], np.int32), ("2.5", "false", "a"))
    assert plan.indices(texts)[[0, 1, 3]].tolist() == [*unknown[:2], 2.0]  # unknown classes agree, too
    numbers = PLANS["regression"].labels(JSON, category)
    assert numbers[[2, 3, 4, 5, 6]].tolist() == [3.0, 3.0, 2.5, 1.0, 0.0]
    assert np.isnan(numbers[[0, 1, 7, 8, 10, 11, 12, 13, 14]]).all()


def test_a_plan_knows_the_settings_that_made_it():
    columns = [("y", "numeric")]
    section = Performance(metrics=("rocAuc",), threshold=0.4, positive="1")
    plan = PerformancePlan.of(section, columns).fitted(*made(PLANS["scores"], 100, 8))
    assert plan.made_by(section, columns)
    assert not plan.made_by(section.model_copy(update={"threshold": 0.5}), columns)
    with pytest.raises(NotApplicable, match="needs probabilities"):
        PerformancePlan.of(Performance(metrics=("rocAuc",)), [("y", "categorical")])


def test_a_probability_may_leave_its_range_by_rounding():
    plan = PLANS["scores"]
    assert plan.rows(np.zeros(4), np.array([[1 + 1e-7], [-1e-7], [1.1], [0.4]]))[:, 0].tolist()[:2] == [0.0, 1.0]
    block = Block(np.array([[1.1], [0.4]]), np.zeros((2, 1), bool))
    assert plan.encode(block, ["y"], []).tolist()[1] == [0.0, 0.4]
    assert np.isnan(plan.encode(block, ["y"], [])[0]).all()
