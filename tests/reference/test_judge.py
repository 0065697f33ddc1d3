"""Judging a new baseline: each fault is found by its own check, and what is fine is accepted."""

import json
import math
from dataclasses import replace
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from detectors.drift.ks import KolmogorovSmirnov
from detectors.performance.settings import Performance
from reference.build import build
from reference.gate import Finding, Gate, Limits
from reference.judge import DriftRules, Judgement, as_window, displacement, json_schema, judge
from reference.leakage import binned, coded, of_class, of_number
from reference.schema import Column, Model
from reference.settings import Reference
from streaming.judgement_page import page

MODEL = Model(
    name="toy",
    features=(
        Column(name="x", type="numeric", min=-50, max=50),
        Column(name="y", type="numeric"),
        Column(name="c", type="categorical"),
    ),
    predictions=(Column(name="p", type="numeric"), Column(name="k", type="categorical")),
)


def table(rows=3000, seed=1, **columns):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=rows), rng.gamma(2.0, size=rows)
    p = np.round(1 / (1 + np.exp(-x - y + 2 * rng.normal(size=rows))), 6)
    made = {
        "x": x,
        "y": y,
        "c": rng.choice(["red", "green", "blue"], rows, p=[0.5, 0.3, 0.2]),
        "p": p,
        "k": np.where(p > 0.5, "yes", "no"),
        "truth": np.where(p > rng.random(rows), "yes", "no"),
    }
    made |= {name: column(made) if callable(column) else column for name, column in columns.items()}
    return pa.table({name: pa.array(column) for name, column in made.items() if column is not None})


def baseline(model=MODEL, recipe=Reference(), performance=None, **columns):  # noqa: B008 - frozen
    return build(table(**columns), model, recipe, performance=performance)


CURRENT = baseline()


def levels(judgement):
    """(check, column) -> level, without what is fine."""
    return {(one.check, one.column): one.level for one in judgement.checks if one.level != "accept"}


def test_the_same_population_is_accepted():
    judgement = judge(baseline(seed=2), CURRENT, MODEL)
    assert levels(judgement) == {}
    assert (judgement.decision, judgement.reasons, judgement.columns) == ("accept", [], [])
    assert judgement.previous == CURRENT.version
    assert {one.name for one in judgement.comparisons} == {"x", "y", "c", "p", "k"}


def test_the_first_baseline_is_judged_by_itself():
    judgement = judge(CURRENT, None, MODEL)
    assert (judgement.decision, judgement.previous, judgement.comparisons) == ("accept", None, [])


def absent(share):
    return lambda made: pa.array(made["y"], mask=np.arange(len(made["y"])) < share * len(made["y"]))


FAULTS = {
    "few rows": ({"rows": 90}, ("rows", None), "reject"),
    "fewer rows": ({"rows": 900}, ("rows", None), "warn"),
    "a part of the rows": ({"rows": 280}, ("rowsRatio", None), "reject"),
    "missing": ({"y": absent(0.6)}, ("missing", "y"), "warn"),
    "all but missing": ({"y": absent(0.97)}, ("missing", "y"), "reject"),
    "missing now": ({"y": absent(0.1)}, ("missingChange", "y"), "warn"),
    "infinite": ({"y": lambda made: np.where(made["x"] > 1, np.inf, made["y"])}, ("nonfinite", "y"), "reject"),
    "one infinite": ({"y": lambda made: np.where(made["x"] == made["x"].max(), np.inf, made["y"])}, ("nonfinite", "y"), "warn"),
    "out of bounds": ({"x": lambda made: made["x"] * 60}, ("outOfBounds", "x"), "reject"),
    "became constant": ({"y": lambda made: np.zeros(len(made["x"]))}, ("constant", "y"), "reject"),
    "one category": ({"c": lambda made: ["red"] * len(made["x"])}, ("constant", "c"), "reject"),
    "became a copy": ({"y": lambda made: made["x"]}, ("duplicated", "y"), "reject"),
    "names rows": ({"c": lambda made: [f"id-{i}" for i in range(len(made["x"]))]}, ("identifier", "c"), "warn"),
    "numbers rows": ({"y": lambda made: np.arange(len(made["x"]), dtype=float)}, ("identifier", "y"), "warn"),
    "other units": ({"y": lambda made: made["y"] * 60}, ("drift", "y"), "reject"),
    "another season": ({"y": lambda made: made["y"] + 2}, ("drift", "y"), "warn"),
    "something else": ({"y": lambda made: made["y"] + 10}, ("displacement", "y"), "reject"),
    "other categories": ({"c": lambda made: np.char.upper(made["c"])}, ("newCategories", "c"), "reject"),
    "a category more": ({"c": lambda made: np.where(made["x"] > 1.8, "violet", made["c"])}, ("newCategories", "c"), "warn"),
    "a category less": ({"c": lambda made: np.where(made["c"] == "blue", "red", made["c"])}, ("lostCategories", "c"), "warn"),
    "the model looks at one column": ({"p": lambda made: made["x"] ** 3}, ("predictionLeak", "x"), "warn"),
    "a prediction is gone": ({"p": None}, ("schemaChange", "p"), "reject"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_by_its_check(name):
    columns, check, level = FAULTS[name]
    judgement = judge(baseline(**columns), CURRENT, MODEL)
    found = levels(judgement)
    assert found.get(check) == level
    assert judgement.decision == max(found.values(), key=("accept", "warn", "reject").index)
    text = next(one.text for one in judgement.checks if (one.check, one.column) == check)
    assert check[1] is None or repr(check[1]) in text
    if judgement.decision == level:
        assert text in judgement.reasons
        assert check[1] is None or check[1] in judgement.columns


@pytest.mark.parametrize("name", ["became constant", "became a copy"])
def test_what_has_always_been_so_is_only_warned_of(name):
    columns, check, _ = FAULTS[name]
    broken = baseline(**columns)
    assert levels(judge(broken, broken, MODEL))[check] == "warn"
    assert levels(judge(broken, None, MODEL))[check] == "warn"


def test_every_column_out_of_place_is_told_as_one_thing_too():
    moved = baseline(
        **{name: lambda made, name=name: made[name] + 40 for name in "xyp"},
        k=lambda made: made["c"],
        c=lambda made: made["k"],
    )
    judgement = judge(moved, CURRENT, MODEL)
    assert levels(judgement)["driftedShare", None] == "reject"
    assert (judgement.drifted_columns, judgement.judged_columns) == (5, 5)


def test_with_another_model_version_columns_may_change():
    columns = (*MODEL.features[:2], Column(name="c2", type="numeric"))
    model = Model(name="toy", version="2", features=columns, predictions=MODEL.predictions)
    made = build(table(c2=lambda made: made["x"] * made["y"]), model, Reference())
    found = levels(judge(made, CURRENT, model))
    assert found["schemaChange", "c"] == found["schemaChange", "c2"] == "warn"
    same = Model(name="toy", features=columns, predictions=MODEL.predictions)
    found = levels(judge(replace(made, model_version="1"), CURRENT, same))
    assert found["schemaChange", "c"] == found["schemaChange", "c2"] == "reject"


def test_declared_categories_are_bounds():
    features = (*MODEL.features[:2], Column(name="c", type="categorical", categories=("red", "green")))
    judgement = judge(CURRENT, None, Model(name="toy", features=features))
    (check,) = (one for one in judgement.checks if (one.check, one.column) == ("outOfBounds", "c"))
    assert check.level == "reject"
    assert check.value == pytest.approx(0.2, abs=0.03)
    assert "'blue'" in check.text


# --- Labels and performance -------------------------------------------------------------------------------------------
BY_LABEL = Performance(metrics=("accuracy",), prediction="k", label="truth", limits={"accuracy": 0.5})


def test_a_feature_that_knows_the_label_is_a_leak():
    rows = table(y=lambda made: np.where(made["truth"] == "yes", 1.0, 0.0) + made["y"] * 1e-3)
    judgement = judge(build(rows, MODEL, Reference()), None, MODEL, performance=BY_LABEL, rows=rows)
    assert levels(judgement)["labelLeak", "y"] == "reject"
    assert ("labelLeak", "x") not in levels(judgement)
    fine = judge(CURRENT, None, MODEL, performance=BY_LABEL, rows=table())
    assert {one.check for one in fine.checks} >= {"labelLeak"}
    assert levels(fine) == {}


def test_a_worse_model_is_seen():
    good = baseline(performance=BY_LABEL, truth=lambda made: made["k"])
    flipped = np.random.default_rng(3).random(3000)

    def wrong(share):
        return lambda made: np.where(flipped < share, np.where(made["k"] == "yes", "no", "yes"), made["k"])

    def judged(share):
        return levels(judge(baseline(performance=BY_LABEL, truth=wrong(share)), good, MODEL, performance=BY_LABEL))

    assert judged(0.02) == {}
    assert judged(0.2) == {("performance", None): "warn"}
    assert judged(0.44) == {("performance", None): "reject"}
    assert judged(0.6)["performanceLimits", None] == "reject"


# --- The gate ---------------------------------------------------------------------------------------------------------
def test_a_column_may_have_limits_of_its_own():
    moved = baseline(y=lambda made: made["y"] + 10)
    gate = Gate.model_validate({"columns": {"y": {"displacement": {"warn": 0.9}, "drift": {"warn": 1}}}})
    assert judge(moved, CURRENT, MODEL).decision == "reject"
    assert levels(judge(moved, CURRENT, MODEL, gate)) == {("drift", "y"): "warn", ("displacement", "y"): "warn"}
    assert gate.misfits({"x": 0, "c": 0}) == [("y", "'y' is no feature or prediction of the model: known are: x, c")]
    silent = Gate(constant=Finding(known="accept", new="accept"))
    assert ("constant", "y") not in levels(judge(baseline(y=lambda made: made["x"] * 0), CURRENT, MODEL, silent))


@pytest.mark.parametrize(
    "section",
    [{"missing": {"warn": 0.5, "reject": 0.1}}, {"rows": {"warn": 10, "reject": 100}}, {"columns": {"x": {"drift": {"warn": 2, "reject": 1}}}}],
)  # fmt: skip
def test_limits_the_wrong_way_round_are_refused(section):
    with pytest.raises(ValidationError, match="swap them"):
        Gate.model_validate(section)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_value_is_never_better(a, b, value):
    order = ("accept", "warn", "reject")
    limits = Limits(warn=min(a, b), reject=max(a, b))
    assert order.index(limits.level(value)) <= order.index(limits.level(value + 0.1))
    assert limits.level(0.0) == "accept"


def test_a_p_value_has_no_size_and_only_warns():
    rules = DriftRules(methods=(KolmogorovSmirnov(),))
    judgement = judge(baseline(y=lambda made: made["y"] + 1.0), CURRENT, MODEL, drift=rules)
    assert levels(judgement)["drift", "y"] == "warn"
    assert {one.method for one in judgement.comparisons if one.type == "numeric"} == {"ks"}


# --- Numbers ----------------------------------------------------------------------------------------------------------
@given(st.integers(0, 10_000), st.floats(-2, 2), st.floats(0.2, 5))
def test_displacement_is_scipys_statistic(seed, shift, scale):
    rng = np.random.default_rng(seed)
    old, new = rng.normal(size=300), rng.normal(shift, scale, 500)
    one = Model(name="m", features=(Column(name="x", type="numeric"),))
    a, b = (build(pa.table({"x": values}), one, Reference()).request["x"] for values in (old, new))
    truth = stats.ks_2samp(old, new).statistic
    assert displacement(a, b) == pytest.approx(truth, abs=1e-12)
    # From what two rulers counted it is off by the mass of a bin of each, at most.
    thin = [replace(column, values=None, counts=None) for column in (a, b)]
    assert displacement(*thin) == pytest.approx(truth, abs=2 / 300 + 2 / 500)


@given(st.integers(0, 1000), st.sampled_from(["normal", "atoms", "heavy", "few"]))
def test_a_column_on_another_ruler_is_what_that_ruler_counts(seed, kind):
    rng = np.random.default_rng(seed)
    draw = {
        "normal": lambda n: rng.normal(size=n),
        "atoms": lambda n: np.round(rng.normal(size=n), 1),
        "heavy": rng.standard_cauchy,
        "few": lambda n: rng.integers(0, 5, n).astype(float),
    }[kind]
    model = Model(name="m", features=(Column(name="x", type="numeric"),))
    thinned = Reference(raw_rows=1000)
    old = build(pa.table({"x": draw(2000)}), model, thinned).request["x"]
    values = draw(3000) * 1.1
    whole = build(pa.table({"x": values}), model, Reference()).request["x"]
    thin = build(pa.table({"x": values}), model, thinned).request["x"]
    assert thin.values is None
    truth, _ = old.ruler.tally(np.sort(values))
    exact, near = as_window(whole, old), as_window(thin, old)
    assert np.array_equal(exact.bins, truth)
    assert near.bins.sum() == 3000
    mass = thin.bins[thin.bins < 3000 / 20].max(initial=1)  # of a bin that is no atom
    assert np.abs(np.cumsum(near.bins) - np.cumsum(truth)).max() <= mass + 1
    if kind != "heavy":  # where one value that is counted in the next bin weighs as much as all others
        assert near.sums.sum() == pytest.approx(whole.mean * 3000, rel=0.02, abs=0.02 * np.abs(values).sum())
    assert (near.counts is None) == (kind != "few")


@pytest.mark.parametrize("seed", range(3))
def test_what_names_rows_tells_nothing_and_a_copy_everything(seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, 2000)
    ids = coded([str(i) for i in range(2000)])
    assert of_class(ids, label) < 0.1
    assert of_class(binned(label + rng.normal(size=2000) * 1e-3), label) > 0.99
    assert of_class(binned(rng.normal(size=2000)), label) < 0.1
    rare = (rng.random(2000) < 0.01).astype(int)
    assert of_class(binned(rare * 3.0 + rng.random(2000)), rare) > 0.98
    number = rng.standard_cauchy(2000)
    assert of_number(ids, number) < 0.1
    assert of_number(binned(-(number**3)), number) > 0.99
    assert math.isnan(of_class(ids, np.full(2000, 1)))


def test_a_class_is_told_as_scikit_learns_auc_says():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 20_000)
    x = rng.normal(size=20_000) + label
    gini = 2 * metrics.roc_auc_score(label, x) - 1
    assert of_class(binned(x), label) == pytest.approx(gini, abs=0.01)


def test_a_judgement_is_json_that_its_schema_describes():
    judgement = judge(baseline(y=lambda made: made["y"] * 60), CURRENT, MODEL)
    again = Judgement.from_json(judgement.to_json())
    assert again == judgement
    document = msgspec.json.decode(judgement.to_json())
    described = json_schema()["$defs"]["Judgement"]
    assert set(document) == set(described["properties"])
    assert document["decision"] == "reject"
    assert document["columns"] == ["y"]


def test_the_schema_is_kept(golden):
    golden("deploy/schema/judgement.schema.json", json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")


# --- Whatever the data ------------------------------------------------------------------------------------------------
NUMBERS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "missing": lambda rng, n: pa.nulls(n, pa.float64()),
    "infinite": lambda rng, n: np.full(n, np.inf),
    "constant": lambda rng, n: np.full(n, 7.0),
    "few": lambda rng, n: rng.integers(0, 3, n).astype(float),
    "huge": lambda rng, n: rng.choice([-8e307, 8e307, 0.0], n),
    "tiny": lambda rng, n: rng.choice([5e-324, 0.0], n),
    "heavy": lambda rng, n: rng.standard_cauchy(n) ** 3,
}
TEXTS = {
    "some": lambda rng, n: rng.choice(["a", "b", "\u202eevil", ""], n),
    "missing": lambda rng, n: pa.nulls(n, pa.string()),
    "one": lambda rng, n: ["a"] * n,
    "many": lambda rng, n: [str(i) for i in rng.integers(0, 10**9, n)],
}
of_a_table = st.tuples(
    st.sampled_from(sorted(NUMBERS)),
    st.sampled_from(sorted(NUMBERS)),
    st.sampled_from(sorted(TEXTS)),
    st.sampled_from([1, 2, 40, 300]),
    st.sampled_from([0, 100_000]),
)


@settings(max_examples=12)
@given(of_a_table, of_a_table, st.integers(0, 100))
def test_whatever_the_data_there_is_a_judgement_and_a_page(new, old, seed):
    rng = np.random.default_rng(seed)

    def one(x, p, c, rows, raw_rows):
        columns = {
            "x": NUMBERS[x](rng, rows),
            "y": rng.normal(size=rows),
            "c": TEXTS[c](rng, rows),
            "p": NUMBERS[p](rng, rows),
        }
        return build(pa.table(columns), MODEL, Reference(raw_rows=raw_rows, max_categories=100))

    a, b = one(*new), one(*old)
    judgement = judge(a, b, MODEL)
    assert Judgement.from_json(judgement.to_json()) == judgement
    assert all(one.value is None or math.isfinite(one.value) for one in judgement.checks)
    assert not [one.error for one in judgement.comparisons if one.error]
    assert all(0 <= one.value <= 1 for one in judgement.checks if one.check == "displacement" and one.value is not None)
    assert not {
        one.level for one in judge(a, a, MODEL).checks if one.check in {"drift", "displacement", "driftedShare"}
    } - {"accept"}
    ET.fromstring(page(judgement, a, b).partition("\n")[2])
