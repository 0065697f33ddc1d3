"""The streams that benchmarks judge detectors on: seeded, and changing where they say."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats


@pytest.fixture(scope="module")
def streams():
    path = Path(__file__).parents[3] / "benchmarks" / "streams.py"
    spec = importlib.util.spec_from_file_location("streams", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["streams"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["streams"]


@pytest.mark.parametrize("name", ["clean", "abrupt", "gradual", "incremental", "recurring", "bernoulli"])
def test_the_mean_changes_at_the_drifts_and_nowhere_else(streams, name):
    stream = getattr(streams, name)(3)
    again = getattr(streams, name)(3)
    assert np.array_equal(stream.values, again.values)
    assert not np.array_equal(stream.values, getattr(streams, name)(4).values)
    ends = [*stream.drifts, len(stream.values)]
    begins = [0, *(drift + stream.width - 1 for drift in stream.drifts)]
    means = [stream.values[begin:end].mean() for begin, end in zip(begins, ends, strict=True)]
    for begin, end, mean in zip(begins, ends, means, strict=True):
        halves = np.array_split(stream.values[begin:end], 2)
        assert abs(halves[0].mean() - mean) < 0.06
    expected = {
        "clean": [0],
        "abrupt": [0, 1, 2, 3],
        "gradual": [0, 1, 2],
        "incremental": [0, 1, 2],
        "recurring": [0, 1, 0, 1, 0],
        "bernoulli": [0.1, 0.2],
    }
    assert means == pytest.approx(expected[name], abs=0.06)


@pytest.mark.parametrize("generator", ["sea", "hyperplane", "friedman"])
def test_tables_change_what_they_say(streams, generator):
    for table in (streams.concept(generator, 5, 4000, (2000,)), streams.covariate(generator, 5, 4000, (2000,))):
        assert table.drifts == (2000,)
        assert len(table.features) == len(table.target) == 4000
        for j, column in enumerate(table.features.T):
            p = stats.ks_2samp(column[:2000], column[2000:]).pvalue
            assert (p < 1e-6) == (j in table.drifting)
        assert table.regression == (len(np.unique(table.target)) > 2)


@pytest.mark.parametrize(("generator", "model"), [("sea", "tree"), ("hyperplane", "linear"), ("friedman", "linear")])
def test_a_frozen_model_errs_more_after_a_change_of_concept(streams, generator, model):
    table = streams.concept(generator, 5, 4000, (2500,))
    stream = streams.errors(table, model, frozen_after=2000)
    assert stream.drifts == (1500,)
    assert len(stream.values) == 3000
    assert stream.values[1500:].mean() > 1.3 * stream.values[1000:1500].mean()
    if not table.regression:
        assert set(np.unique(stream.values)) == {0.0, 1.0}


def test_alarms_are_judged(streams):
    stream = streams.Stream("x", np.zeros(1000), (200, 600), width=50)
    judgement = streams.judged([10, 260, 270, 990], stream, within=100)
    assert judgement.delays == (60, None)
    assert judgement.false_alarms == 2
    assert judgement.clean == 700
    assert streams.judged([], streams.clean(1, 100), within=10) == streams.Judgement((), 0, 100)
