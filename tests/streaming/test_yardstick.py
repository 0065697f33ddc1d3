"""Predictions and labels wait as numbers that mean the same under every edition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.performance.estimate import learn
from detectors.performance.plan import PerformancePlan
from detectors.performance.settings import Performance
from detectors.statistics.block import Block, Codes
from reference.category import category
from streaming.yardstick import Yardstick

TEXTS = ("a", "b", "1", "true", "never heard of")
values = st.one_of(st.sampled_from(TEXTS), st.none(), st.booleans(), st.integers(0, 2), st.floats(allow_nan=False))


def yardstick(settings, predictions, classes=()):
    plan = PerformancePlan.of(settings, predictions, classes)
    return Yardstick(settings, plan, None, "none", "v", "1", 10, 10, None)


SEVERAL = yardstick(
    Performance(metrics=("logLoss",), probabilities={"a": "pa", "b": "pb"}),
    [("kind", "categorical"), ("pa", "numeric"), ("pb", "numeric")],
    ("true", "1"),
)
UNKNOWN = yardstick(Performance(metrics=("accuracy",)), [("kind", "categorical")])
BINARY = yardstick(Performance(metrics=("accuracy",), threshold=0.4, positive="1"), [("pa", "numeric")])
NUMBER = yardstick(Performance(metrics=("mae",)), [("pa", "numeric")])
ALL = [SEVERAL, UNKNOWN, BINARY, NUMBER]


@pytest.mark.parametrize("one", ALL)
@given(
    codes=st.lists(st.integers(-1, len(TEXTS) - 1), max_size=6),
    scores=st.lists(st.floats(-0.1, 1.1) | st.just(np.nan), min_size=12, max_size=12),
    labels=st.lists(values, max_size=6),
)
def test_what_waited_is_what_the_plan_would_have_made(one, codes, scores, labels):
    numeric = np.array(scores).reshape(6, 2)[: len(codes)]
    block = Block(numeric, np.isnan(numeric), (Codes(np.array(codes, np.int32), TEXTS),))
    waited = one.predictions(block, ("pa", "pb"), ("kind",))
    assert waited.shape == (len(codes), one.width)
    np.testing.assert_array_equal(one.told(waited), one.plan.encode(block, ("pa", "pb"), ("kind",)))
    np.testing.assert_array_equal(one.labelled(one.labels(labels)), one.plan.labels(labels, category))


@pytest.mark.parametrize("one", ALL)
def test_it_survives_its_bytes(one):
    assert Yardstick.from_bytes(one.to_bytes()) == one
    rng = np.random.default_rng(0)
    labels = rng.integers(0, max(len(one.plan.classes), 1), 100).astype(float)
    predictions = np.column_stack([labels, *[rng.uniform(0, 1, 100) for _ in one.plan.columns]])
    reference = learn(one.plan, predictions, labels)
    learnt = Yardstick(one.settings, reference.plan, reference, None, "v", "1", 10, 10, None)
    again = Yardstick.from_bytes(learnt.to_bytes())
    assert (again.plan, again.layout) == (learnt.plan, one.layout)
    assert again.reference.to_bytes() == reference.to_bytes()


def test_only_the_same_columns_wait_together():
    assert len({one.layout for one in ALL}) == len(ALL)
    other = yardstick(Performance(metrics=("accuracy",), threshold=0.7, positive="0"), [("pa", "numeric")])
    assert other.layout == BINARY.layout
