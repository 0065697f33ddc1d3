"""Baselines of columns with more categories than are counted one by one."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from detectors.drift.chisquare import ChiSquare
from detectors.drift.hellinger import Hellinger
from detectors.drift.jensenshannon import JensenShannon
from detectors.drift.kl_div import KullbackLeibler
from detectors.drift.psi import PopulationStability
from detectors.drift.z import ProportionsZ
from detectors.frequencies import UNLISTED, by_category
from detectors.statistics.column import ColumnSummary
from detectors.statistics.table import merged, summarise
from reference.build import build
from reference.schema import Column, Model
from reference.settings import Reference
from reference.table import blocks

MODEL = Model(name="m", features=(Column(name="c", type="categorical"),))
DISTANCES = (JensenShannon(), Hellinger(), PopulationStability(), KullbackLeibler())


def baseline_of(values, **settings):
    return build(pa.table({"c": values}), MODEL, Reference(**settings))


def window_of(baseline, values):
    """Counted in panes of 5,000, as a window is."""
    plan = baseline.plan(MODEL.request_schema, "request")
    parts = [summarise(plan, block) for block in blocks(pa.table({"c": values}), MODEL.request_schema, 5000)]
    return merged(plan, parts).column("c")


def uniform(categories):
    return lambda rng, n: rng.integers(0, categories, n)


@pytest.mark.parametrize(
    "draw", [uniform(1500), uniform(5000), lambda rng, n: rng.zipf(1.3, n)], ids=["1500", "5000", "zipf"]
)
def test_many_categories_of_one_distribution_do_not_drift(draw):
    rng = np.random.default_rng(1)
    baseline = baseline_of(draw(rng, 100_000))
    window = window_of(baseline, draw(rng, 50_000))
    assert len(baseline.request["c"].counts) == 1000
    assert baseline.request["c"].unlisted > 0
    for method in DISTANCES:
        verdict = method.compare(baseline.request["c"], window)
        assert not verdict.drifted, (method.name, verdict.score)
        assert not verdict.exact


def test_many_categories_of_another_distribution_drift():
    rng = np.random.default_rng(1)
    baseline = baseline_of(rng.integers(0, 1500, 100_000))
    window = window_of(baseline, rng.integers(3000, 4500, 50_000))
    for method in (*DISTANCES, ChiSquare()):
        assert method.compare(baseline.request["c"], window).drifted


def test_the_most_frequent_are_counted_exactly_and_ties_go_by_text():
    values = ["d"] * 3 + ["b", "c", "a"] * 2 + ["z", None]
    column = baseline_of(values, max_categories=3).request["c"]
    assert column.counts == {"d": 3, "a": 2, "b": 2}
    assert (column.unlisted, column.count, column.missing) == (3, 10, 1)


def test_declared_categories_are_kept_besides():
    model = Model(name="m", features=(Column(name="c", type="categorical", categories=("z",)),))
    column = build(pa.table({"c": ["a", "a", "b", "z"]}), model, Reference(max_categories=2)).request["c"]
    assert column.counts == {"a": 2, "b": 1, "z": 1}
    assert column.unlisted == 0


def test_counts_do_not_depend_on_the_blocks():
    rng = np.random.default_rng(2)
    values = rng.zipf(1.2, 200_000)
    column = baseline_of(values, max_categories=50).request["c"]
    truth = Counter(map(str, values.tolist()))
    assert column.counts == dict(sorted(truth.items(), key=lambda item: (-item[1], item[0]))[:50])
    assert column.unlisted == 200_000 - sum(column.counts.values())


def test_what_the_reference_does_not_list_is_one_category():
    old = ColumnSummary("c", "categorical", 10, counts={"a": 4, "b": 3}, unlisted=3)
    new = ColumnSummary("c", "categorical", 10, counts={"a": 4, "x": 2, "y": 1}, unlisted=3)
    both = by_category(old, new)
    assert both.keys == ("a", "b", UNLISTED)
    assert both.reference.tolist() == [4, 3, 3]
    assert both.window.tolist() == [4, 0, 6]
    same = ColumnSummary("c", "categorical", 10, counts={"a": 4, "b": 3, "x": 2, "y": 1})
    assert by_category(old, same).window.tolist() == [4, 3, 3]
    for method in (ChiSquare(), ProportionsZ()):
        assert not method.compare(old, same).drifted
    whole = ColumnSummary("c", "categorical", 10, counts={"a": 6, "b": 4})
    assert by_category(whole, new).keys == ("a", "b", "x", "y", UNLISTED)
