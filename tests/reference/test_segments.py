"""By which values rows are told apart, and what the parts of a reference are."""

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from detectors.errors import SummaryFormatError
from detectors.outliers.isolation_forest import IsolationForest
from detectors.statistics.block import Codes
from detectors.statistics.column import ColumnSummary
from detectors.statistics.sample import mixed
from reference.baseline import Baseline
from reference.build import build
from reference.describe import describe, describe_segments
from reference.schema import Column, Model
from reference.segments import By, Division, Segments, name_of
from reference.settings import Reference

MODEL = Model(
    name="m",
    features=(
        Column(name="x", type="numeric"),
        Column(name="few", type="numeric"),
        Column(name="carrier", type="categorical"),
        Column(name="origin", type="categorical"),
    ),
    predictions=(Column(name="y", type="numeric"),),
)
BOTH = Segments(by=("carrier", {"feature": "origin", "values": ["JFK", "nowhere"]}), most=3)


def training(rows=5000, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(0.0, 1.0, rows)
    x[rng.random(rows) < 0.02] = np.nan
    x[0] = np.inf
    carrier = rng.choice(np.array(["AA", "UA", "DL", "B6", "x/y"], object), rows, p=[0.4, 0.3, 0.15, 0.14, 0.01])
    carrier[rng.random(rows) < 0.01] = None
    few, origin = rng.integers(0, 4, rows), rng.choice(["JFK", "LGA"], rows)
    return pd.DataFrame({"x": x, "few": few, "carrier": carrier, "origin": origin, "y": rng.normal(5.0, 1.0, rows)})


def built(frame, segments=BOTH, learned=(), **settings):
    return build(
        pa.table({name: frame[name].to_numpy() for name in frame}),
        MODEL,
        Reference(**settings),
        learned,
        segments=segments,
    )


@pytest.fixture(scope="module")
def frame():
    return training()


@pytest.fixture(scope="module")
def baseline(frame):
    return built(frame)


# --- Settings --------------------------------------------------------------------------------------------------------


def test_the_short_form_is_read_and_written():
    written = {
        "by": ["carrier", {"feature": "origin", "values": ["JFK"]}, {"header": "h", "member": "m", "values": ["de"]}]
    }
    segments = Segments.model_validate(written)
    assert segments.by[0] == By(feature="carrier")
    assert [by.label for by in segments.by] == ["carrier", "origin", "m"]
    dumped = segments.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    assert dumped == written
    assert Segments.model_validate_json(segments.model_dump_json()) == segments
    kinds = Segments.model_json_schema()["properties"]["by"]["items"]["anyOf"]
    assert {"type": "string"} in kinds


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ([{"header": "ce_source"}], "the values of 'ce_source' must be listed"),
        ([{"feature": "a", "header": "b", "values": ["c"]}], "give either `feature`, or `header`"),
        ([{"feature": "a", "member": "b"}], "give either `feature`, or `header`"),
        ([{"feature": "a", "values": ["b", "b"]}], "['b'] more than once"),
        ([{"feature": "a", "values": []}], "at least 1 item"),
        ([{"feature": "a", "values": ["\ud800"]}], "is not Unicode"),
        (["a", {"header": "a", "values": ["b"]}], "names 'a' twice"),
        ([{"feature": "a", "values": ["b", "c", "d"]}], "lists 3 values of 'a', and most is 2"),
        ([""], "at least 1 character"),
    ],
)
def test_what_could_not_be_kept_is_refused(by, said):
    with pytest.raises(ValidationError, match=re.escape(said)):
        Segments.model_validate({"by": by, "most": 2})


def test_only_categorical_features_make_segments():
    by = ["carrier", "x", "nothing", {"header": "x2", "values": ["a"]}]
    (numeric, unknown) = Segments.model_validate({"by": by}).misfits(MODEL)
    assert numeric == (
        1,
        "'x' is numeric, and only a categorical feature has values to make segments of: those are: carrier, origin",
    )
    assert unknown == (2, "'nothing' is no feature of the model: its categorical ones are: carrier, origin")


# --- Names and places ------------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=300) | st.sampled_from(["(other)", "/", "%2F", "%28other)"]), unique=True, max_size=6))
def test_names_are_safe_and_differ(values):
    names = Division(By(feature="a=b/c"), tuple(values)).names
    assert len(set(names)) == len(values) + 1
    for name in names:
        assert name.startswith("a=b%2Fc=")
        assert not re.search(r"[/\x00-\x1f\x7f]", name)
        assert len(name.encode()) < 1000


def test_a_name_can_be_read():
    assert name_of("carrier", "AA") == "carrier=AA"
    assert name_of("où", "Île\n/%") == "où=Île%0A%2F%25"
    assert name_of("a", "x" * 10_000) == name_of("a", "x" * 10_000)
    assert name_of("a", "x" * 10_000) != name_of("a", "x" * 9999)


def test_the_most_frequent_values_are_taken_and_ties_go_by_text():
    known = {"c": ColumnSummary("c", "categorical", 10, counts={"d": 3, "c": 2, "b": 2, "a": 1})}
    (division,) = Segments(by=("c",), most=2).divisions(known)
    assert division.values == ("d", "b")
    assert division.names == ("c=d", "c=b", "c=(other)")
    places = division.places(Codes(np.array([0, 1, -1, 2], np.int32), ("b", "a", "d")), 4)
    assert places.tolist() == [1, 2, 2, 0]
    assert division.places(None, 2).tolist() == [2, 2]


# --- The reference of a segment --------------------------------------------------------------------------------------


def of_segment(frame, name):
    """The rows of a segment, by pandas."""
    feature, _, value = name.partition("=")
    if value != "(other)":
        return frame[frame[feature] == value]
    own = {"carrier": ["AA", "UA", "DL"], "origin": ["JFK", "nowhere"]}[feature]
    return frame[~frame[feature].isin(own)]


@pytest.mark.parametrize("raw_rows", [100_000, 0])
def test_every_part_is_what_pandas_says(frame, raw_rows):
    baseline = built(frame, raw_rows=raw_rows)
    assert list(baseline.segments) == [
        *("carrier=AA", "carrier=UA", "carrier=DL", "carrier=(other)"),
        *("origin=JFK", "origin=nowhere", "origin=(other)"),
    ]
    for name, part in baseline.segments.items():
        rows = of_segment(frame, name)
        assert part.rows == len(rows)
        for column in (part.request["x"], part.request["few"], part.response["y"]):
            numbers = rows[column.name].replace(np.inf, np.nan).dropna().to_numpy(np.float64)
            assert column.count == len(numbers)
            assert column.missing + column.nonfinite == len(rows) - len(numbers)
            assert column.distinct == len(np.unique(numbers))
            if len(numbers):
                assert (column.low, column.high) == (numbers.min(), numbers.max())
                assert column.mean == pytest.approx(numbers.mean(), rel=1e-9, abs=1e-12)
                assert column.variance() == pytest.approx(numbers.var(), rel=1e-9)
            bins = np.bincount(np.searchsorted(column.ruler.marks, numbers), minlength=column.ruler.size)
            assert column.bins.tolist() == bins.tolist()
            if raw_rows:
                assert column.values.tolist() == np.sort(numbers).tolist()
            else:
                assert column.values is None or not len(rows)
        for feature in ("carrier", "origin"):
            assert part.request[feature].counts == rows[feature].value_counts().to_dict()
            assert part.request[feature].missing == rows[feature].isna().sum()
        assert part.request["few"].counts == rows["few"].value_counts().to_dict()


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 400), most=st.integers(1, 6))
def test_the_segments_of_an_entry_add_up_to_the_whole(seed, rows, most):
    baseline = built(training(rows, seed), Segments(by=("carrier", "origin"), most=most))
    for label in ("carrier", "origin"):
        parts = [part for name, part in baseline.segments.items() if name.startswith(f"{label}=")]
        assert sum(part.rows for part in parts) == rows
        for table in ("request", "response"):
            for name, whole in baseline.columns(table).items():
                columns = [part.columns(table)[name] for part in parts]
                for counted in ("count", "missing", "nonfinite", "unlisted"):
                    assert sum(getattr(column, counted) for column in columns) == getattr(whole, counted)
                if whole.type == "numeric":
                    assert all(column.ruler is whole.ruler for column in columns)
                    assert np.sum([column.bins for column in columns], axis=0).tolist() == whole.bins.tolist()
                    assert sorted(np.concatenate([column.values for column in columns])) == whole.values.tolist()
                if whole.counts is not None:
                    keys = {key for column in columns for key in column.counts}
                    assert {key: sum(c.counts.get(key, 0) for c in columns) for key in keys} == whole.counts


def test_large_segments_keep_rows_that_are_chosen_by_chance(frame):
    baseline = built(frame, raw_rows=1500)
    assert baseline.segments["carrier=DL"].request["x"].values is not None
    rows = of_segment(frame, "carrier=AA")
    kept = np.argsort(mixed(rows.index.to_numpy(np.uint64)))[:1000]
    some = rows["x"].to_numpy()[kept]
    column = baseline.segments["carrier=AA"].request["x"]
    assert column.values is None
    assert column.sample.tolist() == sorted(some[np.isfinite(some)])


def test_a_baseline_with_segments_is_read_back_whole(frame):
    for raw_rows in (100_000, 1500):
        baseline = built(frame, learned=(IsolationForest(trees=20),), raw_rows=raw_rows, learning_rows=2500)
        again = Baseline.from_bytes(baseline.to_bytes())
        assert (
            again.version
            == baseline.version
            == built(frame, learned=(IsolationForest(trees=20),), raw_rows=raw_rows, learning_rows=2500).version
        )
        assert again.version != built(frame, Segments()).version
        for name, part in baseline.segments.items():
            for table in ("request", "response", "score"):
                for key, column in part.columns(table).items():
                    other = again.segments[name].columns(table)[key]
                    assert vars(other).keys() == vars(column).keys()
                    for said, value in vars(column).items():
                        np.testing.assert_equal(
                            getattr(value, "marks", value),
                            getattr(getattr(other, said), "marks", getattr(other, said)),
                            said,
                        )
            assert (again.segments[name].rows, again.segments[name].apart) == (part.rows, part.apart)


def test_bytes_of_the_version_before_are_refused_with_what_to_do(baseline):
    with pytest.raises(SummaryFormatError, match="build it anew"):
        Baseline.from_bytes(b"DLB2" + baseline.to_bytes()[4:])


def test_scores_of_outlier_models_are_divided_too(frame):
    baseline = built(frame, learned=(IsolationForest(trees=20),), learning_rows=2500)
    unseen = np.argsort(mixed(np.arange(len(frame), dtype=np.uint64)))[:500]
    assert baseline.score["isolation_forest"].count == 500
    carrier = frame["carrier"].iloc[unseen]
    assert baseline.segments["carrier=AA"].score["isolation_forest"].count == (carrier == "AA").sum()
    assert baseline.segments["carrier=(other)"].score == {}  # fewer than 100 of them
    bins = [
        part.score["isolation_forest"].bins
        for name, part in baseline.segments.items()
        if name.startswith("origin=") and part.score
    ]
    assert np.sum(bins, axis=0).tolist() == baseline.score["isolation_forest"].bins.tolist()


def test_segments_without_a_reference_say_why(baseline):
    assert set(baseline.parts(BOTH)) == {
        *("carrier=AA", "carrier=UA", "carrier=DL", "carrier=(other)", "origin=JFK", "origin=(other)"),
    }
    assert baseline.without_reference(BOTH) == {
        "origin=nowhere": "this segment has 0 rows in the reference, fewer than 100: too few to compare with"
    }
    other = Segments(by=({"feature": "carrier", "values": ["AA", "B6"]}, {"header": "h", "values": ["a"]}))
    reasons = baseline.without_reference(other)
    assert set(baseline.parts(other)) == {"carrier=AA"}
    assert reasons["carrier=B6"] == "the baseline was built without this segment: build it anew"
    assert "segments of other values" in reasons["carrier=(other)"]
    assert (
        reasons["h=a"]
        == reasons["h=(other)"]
        == "the training table has no header 'h', so this segment has no reference"
    )


def test_hostile_categories_cost_neither_time_nor_names():
    values = np.array(
        [f"{i}/\n{'x' * (i % 300)}" for i in range(100_000)] + ["a/b"] * 2000 + ["(other)"] * 1000, object
    )
    frame = training(len(values)).assign(carrier=values)
    baseline = built(frame, Segments(by=("carrier",), most=2))
    assert list(baseline.segments) == ["carrier=a%2Fb", "carrier=%28other)", "carrier=(other)"]
    assert [part.rows for part in baseline.segments.values()] == [2000, 1000, 100_000]
    rest = baseline.segments["carrier=(other)"].request["carrier"]
    assert (rest.distinct, len(rest.counts), rest.unlisted) == (100_000, 998, 99_002)


def test_the_share_that_is_done_grows_to_one(frame):
    for segments, learned in ((Segments(), ()), (BOTH, ()), (BOTH, (IsolationForest(trees=20),))):
        told = []
        table = pa.table({name: frame[name].to_numpy() for name in frame})
        build(table, MODEL, Reference(), learned, told.append, segments=segments)
        assert told == sorted(told)
        assert told[-1] == pytest.approx(1.0)


def test_segments_are_described(baseline):
    rows = describe_segments(baseline)
    assert [(row["segment"], row["compared"]) for row in rows][-2:] == [
        ("origin=nowhere", False),
        ("origin=(other)", True),
    ]
    assert sum(row["share"] for row in rows) == pytest.approx(2)
    (x, *_) = describe(baseline.segments["carrier=AA"])
    assert x["rows"] == baseline.segments["carrier=AA"].request["x"].count
