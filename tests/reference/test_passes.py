"""Baselines of more rows than are held in memory: two passes over fragments, by whoever reads them."""

from collections import Counter as Tally
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.outliers.isolation_forest import IsolationForest
from detectors.performance.estimate import ReferencePerformance
from detectors.performance.settings import Performance
from detectors.statistics.ruler import Ruler
from detectors.statistics.table import Plan
from reference.baseline import Baseline
from reference.build import build
from reference.count import Counter, Weighing, copied
from reference.describe import describe
from reference.errors import BaselineError, UnusableData
from reference.executor import Threads
from reference.look import LISTED, Categories, Looker, keys_of, tables
from reference.schema import Column, Model, Schema
from reference.segments import Segments
from reference.settings import Reference
from reference.source import Source, TableFragment

SMALL = Reference(resolution=16, raw_rows=0, sample_rows=1000, learning_rows=1000)
"""2,048 rows are sampled; more are read twice."""
SAMPLED = 2048
ROWS = 20_000


def source(table, cuts=(7000, 7001, 15_000)):
    ends = sorted({0, *(cut for cut in cuts if cut < table.num_rows), table.num_rows})
    return Source(
        table.schema, tuple(TableFragment(table.slice(a, b - a)) for a, b in pairwise(ends)), {"kind": "test"}
    )


def training(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(3.0, 2.0, rows)
    x[:3] = np.inf, -np.inf, np.nan
    tail = rng.pareto(1.1, rows)
    return pa.table(
        {
            "x": pa.array(x, mask=rng.random(rows) < 0.02),
            "tail": tail,
            "few": rng.integers(0, 5, rows),
            "id": np.arange(rows),
            "same": np.full(rows, 7.5),
            "c": pa.array(rng.choice(["a", "b", "c"], rows, p=[0.7, 0.25, 0.05]), mask=rng.random(rows) < 0.01),
            "many": pa.array(rng.zipf(1.3, rows)),
            "y": tail + rng.normal(0.0, 1.0, rows),
            "truth": tail,
            "w": rng.exponential(5.0, rows),
        }
    )


NUMERIC = ("x", "tail", "few", "id", "same")
MODEL = Model(
    name="m",
    features=(
        *(Column(name=name, type="numeric") for name in NUMERIC),
        *(Column(name=name, type="categorical") for name in ("c", "many")),
    ),
    predictions=(Column(name="y", type="numeric"),),
)
SEGMENTS = Segments(by=("c",), most=2)
LABELLED = Performance(metrics=("mae",), label="truth")


def finite(table, name):
    numbers = np.asarray(table[name].to_numpy(), np.float64)
    return numbers[np.isfinite(numbers)]


def everything(table, **how):
    return build(
        source(table), MODEL, SMALL, (IsolationForest(trees=10),), segments=SEGMENTS, performance=LABELLED, **how
    )


@pytest.fixture(scope="module")
def table():
    return training()


@pytest.fixture(scope="module")
def baseline(table):
    return everything(table)


# --- What is counted -------------------------------------------------------------------------------------------------


def test_every_column_is_what_numpy_says(table, baseline):
    assert baseline.rows == ROWS
    assert Baseline.from_bytes(baseline.to_bytes()).version == baseline.version
    for name in (*NUMERIC, "y"):
        numbers, column = finite(table, name), (baseline.request | baseline.response)[name]
        assert (column.count, column.missing) == (len(numbers), table[name].null_count)
        assert column.nonfinite == ROWS - len(numbers) - column.missing
        assert (column.low, column.high) == (numbers.min(), numbers.max())
        assert column.mean == pytest.approx(numbers.mean(), rel=1e-12)
        assert column.m2 == pytest.approx(((numbers - numbers.mean()) ** 2).sum(), rel=1e-10)
        bins = np.bincount(np.searchsorted(column.ruler.marks, numbers), minlength=column.ruler.size)
        assert column.bins.tolist() == bins.tolist()
        assert column.distinct == pytest.approx(len(np.unique(numbers)), rel=6 * 0.022)
        assert column.values is None
        assert set(column.sample) <= set(numbers)
    assert baseline.request["few"].counts == Tally(table["few"].to_pylist())
    assert baseline.request["x"].counts is None
    assert (baseline.request["same"].distinct, baseline.request["few"].distinct) == (1, 5)


def test_categories_are_counted_exactly(table, baseline):
    c, many = baseline.request["c"], baseline.request["many"]
    assert c.counts == {text: n for text, n in Tally(table["c"].to_pylist()).items() if text}
    assert c.missing == table["c"].null_count
    truth = Tally(map(str, table["many"].to_pylist()))
    assert many.counts == dict(sorted(truth.items(), key=lambda item: (-item[1], item[0]))[:1000])
    assert (many.unlisted, many.distinct) == (ROWS - sum(many.counts.values()), len(truth))


def test_comoments_are_those_of_the_complete_rows(table, baseline):
    numbers = np.column_stack([np.asarray(table[name].to_numpy(), np.float64) for name in NUMERIC])
    complete = numbers[np.isfinite(numbers).all(axis=1)]
    assert baseline.comoments.n == len(complete)
    assert baseline.comoments.covariance() == pytest.approx(np.cov(complete.T), rel=1e-9, abs=1e-9)


def test_segments_are_those_of_the_rows(table, baseline):
    frame = table.to_pandas()
    assert list(baseline.segments) == ["c=a", "c=b", "c=(other)"]
    for name, part in baseline.segments.items():
        rows = frame[frame["c"] == name[2:]] if name != "c=(other)" else frame[~frame["c"].isin(["a", "b"])]
        assert part.rows == len(rows)
        numbers = rows["tail"].to_numpy()
        column = part.request["tail"]
        assert (column.low, column.high, column.mean) == (numbers.min(), numbers.max(), pytest.approx(numbers.mean()))
        bins = np.bincount(np.searchsorted(column.ruler.marks, numbers), minlength=column.ruler.size)
        assert column.bins.tolist() == bins.tolist()
        assert part.request["few"].counts == rows["few"].value_counts().to_dict()
        listed = rows["many"].astype(str).value_counts().to_dict()
        assert part.request["many"].counts == {k: n for k, n in listed.items() if k in baseline.request["many"].counts}
        assert len(column.sample) == min(1000, len(rows))
        mae = ReferencePerformance.from_bytes(part.performance).sums.metrics(["mae"])["mae"]
        assert mae == pytest.approx((rows["y"] - rows["truth"]).abs().mean())
    scored = {name: part.score["isolation_forest"].count for name, part in baseline.segments.items() if part.score}
    assert scored.keys() == {"c=a"}, "others have too few of the 200 rows that no model has seen"
    assert scored["c=a"] == pytest.approx(140, abs=40)


def test_performance_is_of_all_rows(table, baseline):
    found = ReferencePerformance.from_bytes(baseline.performance)
    assert found.sums.joined == ROWS
    mae = np.abs(table["y"].to_numpy() - table["truth"].to_numpy()).mean()
    assert found.sums.metrics(["mae"])["mae"] == pytest.approx(mae)


def test_held_in_memory_and_read_twice_count_the_same(table):
    """A table in memory keeps the exact quantiles; on those marks the streamed counts are its own."""
    held = build(table, MODEL, Reference(), segments=SEGMENTS)
    counter = Counter(MODEL.request_schema, Schema(()), (held.plan(MODEL.request_schema, "request"),) * 2, {})
    numeric = replace(counter.plans[0], categorical=(), listed=(), percentiles=False)
    nothing = Plan((), (), rulers=(), percentiles=False, comoments=False)
    counter = replace(counter, plans=(numeric, nothing))
    count = counter.sum_of(Threads(1).run(counter, source(table).fragments))
    for name in NUMERIC:
        assert count.request.column(name).bins.tolist() == held.request[name].bins.tolist()
        assert count.request.column(name).m4 == pytest.approx(held.request[name].m4, rel=1e-12)


# --- Laws ------------------------------------------------------------------------------------------------------------


cuts = st.lists(st.integers(1, 2999), max_size=5)


@given(cuts=cuts, seed=st.integers(0, 100))
@settings(max_examples=25)
def test_counts_do_not_depend_on_the_fragments(cuts, seed):
    table = training(3000, seed)
    schema = Schema(tuple(Column(name=name, type="numeric") for name in NUMERIC))
    rulers = tuple(Ruler.of(np.sort(finite(table, name)), 16) for name in NUMERIC)
    plan = Plan(NUMERIC, (), rulers=rulers, percentiles=False, exact_rows=0)
    nothing = Plan((), (), rulers=(), percentiles=False, comoments=False)
    counter = Counter(schema, Schema(()), (plan, nothing), {})
    looker = Looker(MODEL.request_schema, 500)
    once, often = (
        (
            counter.sum_of(Threads(1).run(counter, one.fragments)),
            replace(looker).sum_of(Threads(1).run(replace(looker), one.fragments)),
        )
        for one in (source(table, ()), source(table, cuts))
    )
    assert once[0].request.bins.counts.tolist() == often[0].request.bins.counts.tolist()
    assert once[0].request.bins.places.tolist() == often[0].request.bins.places.tolist()
    for a, b in zip(once[0].request.moments.arrays(), often[0].request.moments.arrays(), strict=True):
        # A third moment is a difference of large numbers: its scale is that of the fourth and the second.
        assert a == pytest.approx(b, rel=1e-12, abs=1e-12 * np.abs(once[0].request.moments.m4).max())
    assert often[1].low.tolist() == once[1].low.tolist()
    assert often[1].rows == 3000
    assert len(set(often[1].sample.keys.tolist())) == 500
    for a, b in zip(once[1].categories, often[1].categories, strict=True):
        assert as_dict(a) == as_dict(b)
        assert a.missing == b.missing


def as_dict(one):
    return dict(zip(one.values.to_pylist(), one.counts.tolist(), strict=True))


shapes = st.sampled_from(
    [
        lambda rng, n: rng.lognormal(0, 4, n),
        lambda rng, n: rng.pareto(0.7, n),
        lambda rng, n: rng.standard_cauchy(n),
        lambda rng, n: np.full(n, 3.25),
        lambda rng, n: np.where(rng.random(n) < 0.999, 0.0, rng.normal(size=n)),
        lambda rng, n: rng.permutation(n).astype(float),
        lambda rng, n: np.sort(rng.normal(1e9, 1e-3, n)),
    ]
)


@given(draw=shapes, seed=st.integers(0, 1000))
@settings(max_examples=40)
def test_percentiles_are_off_by_at_most_one_bin_and_bins_hold_what_they_should(draw, seed):
    n, resolution = 30_000, 64
    numbers = draw(np.random.default_rng(seed), n)
    model = Model(name="m", features=(Column(name="v", type="numeric"),))
    small = Reference(resolution=resolution, raw_rows=0, sample_rows=1000, learning_rows=1000)
    made = build(source(pa.table({"v": numbers}), (9000, 20_000)), model, small)
    column, ordered = made.request["v"], np.sort(numbers)
    bins = column.bins
    # A bin that holds more than a few single values holds one value alone, or about 1/resolution of all: 128 sampled rows,
    # of which the fullest of 64 bins differs by less than 6 standard deviations.
    marks = column.ruler.ceilings
    for j in np.flatnonzero(bins > n / resolution * (1 + 6 / 128**0.5)).tolist():
        inside = ordered[(ordered <= marks[j]) & (ordered > (marks[j - 1] if j else -np.inf))]
        assert np.mean(inside == marks[j]) > 0.9
    described = describe(made)[0]
    for key, share in (("p25", 0.25), ("p50", 0.5), ("p75", 0.75)):
        below, upto = (
            np.searchsorted(ordered, described[key], "left") / n,
            np.searchsorted(ordered, described[key], "right") / n,
        )
        place = int(np.searchsorted(np.cumsum(bins), share * n))
        assert below - bins[place] / n <= share <= upto + 1e-12
    assert column.distinct == pytest.approx(len(np.unique(numbers)), rel=6 * 0.022)


@given(sizes=st.lists(st.integers(0, 30), max_size=12), rows=st.integers(1, 25))
def test_batches_of_any_size_become_tables_of_one(sizes, rows):
    class Fragment:
        def batches(self, columns):
            first = 0
            for size in sizes:
                yield pa.record_batch({name: np.arange(first, first + size) for name in columns})
                first += size

    made = list(tables(Fragment(), ["n"], rows))
    assert [n for part in made for n in part["n"].to_pylist()] == list(range(sum(sizes)))
    assert {part.num_rows for part in made[:-1]} <= {rows}
    assert all(part.num_rows for part in made)


# --- Many categories -------------------------------------------------------------------------------------------------


def test_frequent_categories_are_found_among_too_many():
    rng = np.random.default_rng(3)
    frequent = rng.zipf(1.5, 100_000) % 2000
    values = np.concatenate([frequent, np.arange(10_000, 10_000 + 2 * LISTED)])
    rng.shuffle(values)
    model = Model(name="m", features=(Column(name="c", type="categorical", categories=("5", "nowhere")),))
    column = build(source(pa.table({"c": values}), (90_000,)), model, replace_settings(max_categories=50)).request["c"]
    truth = Tally(map(str, values.tolist()))
    assert column.counts["5"] == truth["5"]
    best = [text for text, _ in sorted(truth.items(), key=lambda item: (-item[1], item[0])) if text != "5"][:50]
    assert {text: n for text, n in column.counts.items() if text != "5"} == {text: truth[text] for text in best}
    assert column.count == len(values) == column.unlisted + sum(column.counts.values())
    assert column.distinct == pytest.approx(len(truth), rel=6 * 0.022)


def replace_settings(**changes):
    return SMALL.model_copy(update=changes)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2, 2, None]),
        pa.array([1.0, 2.5, float("nan"), None]),
        pa.array([True, False, None, True]),
        pa.array(["a", "x" * 1000, "", None]),
        pa.array(["a", "b", None, "a"]).dictionary_encode(),
        pa.array([1.5, 2.5, None], pa.float16()),
    ],
)
def test_categories_of_any_type_are_those_of_blocks(values):
    from reference.table import blocks

    column = Column(name="c", type="categorical")
    table = pa.table({"c": values})
    (block,) = blocks(table, Schema((column,)))
    (codes,) = block.categorical
    found = Categories.of(table["c"], column)
    assert as_dict(found) == Tally(codes.values[code] for code in codes.codes.tolist() if code >= 0)
    assert found.missing == np.count_nonzero(codes.codes < 0)


# --- Weights ---------------------------------------------------------------------------------------------------------


def test_a_row_counts_as_often_as_its_weight_says():
    keys = keys_of(0, 0, 4)
    assert Weighing("w", 1.0).times(np.array([2.0, 0.0, 1.0, 3.0]), keys).tolist() == [2, 0, 1, 3]
    rows, of_copy = copied(np.array([2, 0, 1, 3]), keys)
    assert rows.tolist() == [0, 0, 2, 3, 3, 3]
    assert len(set(of_copy.tolist())) == 6
    assert of_copy[[0, 2, 3]].tolist() == keys[[0, 2, 3]].tolist()
    often = Weighing("w", 1.0).times(np.full(100_000, 1.3), keys_of(1, 0, 100_000))
    assert set(often.tolist()) == {1, 2}
    assert often.mean() == pytest.approx(1.3, abs=6 * (0.21 / 100_000) ** 0.5)


@pytest.mark.parametrize("rows", [1500, ROWS])
def test_weights_move_the_baseline_as_copies_of_the_rows_would(rows):
    table = training(rows)
    made = build(source(table), MODEL, SMALL, segments=SEGMENTS, weight="w")
    w = table["w"].to_numpy()
    times = np.concatenate(
        [
            Weighing("w", rows / w.sum()).times(w[first:last], keys_of(place, 0, last - first))
            for place, (first, last) in enumerate(
                pairwise(sorted({0, *(c for c in (7000, 7001, 15_000) if c < rows), rows}))
            )
        ]
    )
    assert made.rows == times.sum() == pytest.approx(rows, abs=3 * rows**0.5)
    again = table.take(np.repeat(np.arange(rows), times))
    tail = made.request["tail"]
    assert tail.mean == pytest.approx(finite(again, "tail").mean())
    bins = np.bincount(np.searchsorted(tail.ruler.marks, finite(again, "tail")), minlength=tail.ruler.size)
    assert tail.bins.tolist() == bins.tolist()
    assert made.request["c"].counts == {text: n for text, n in Tally(again["c"].to_pylist()).items() if text}
    assert made.segments["c=b"].rows == made.request["c"].counts["b"]
    assert made.origin["effectiveRows"] == pytest.approx(w.sum() ** 2 / (w**2).sum(), abs=0.1)


@pytest.mark.parametrize("rows", [100, ROWS])
@pytest.mark.parametrize(
    ("bad", "complaint"),
    [(-1.0, r"'w' of weights holds -1\.0"), (np.nan, "holds nan"), (None, "holds None"), ("all", "are 0")],
)
def test_what_is_no_weight_is_refused(rows, bad, complaint):
    w = [0.0] * rows if bad == "all" else [*([1.0] * (rows - 1)), bad]
    table = training(rows).drop_columns("w").append_column("w", pa.array(w, pa.float64(), from_pandas=False))
    with pytest.raises(UnusableData, match=complaint):
        build(source(table), MODEL, SMALL, weight="w")
    with pytest.raises(UnusableData, match=r"lacks the column 'v' of weights: it has \['x'"):
        build(source(table), MODEL, SMALL, weight="v")


# --- Who reads the fragments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [None, "w"])
def test_threads_and_one_thread_give_the_same_version(table, baseline, weight):
    versions = {everything(table, weight=weight, executor=Threads(threads)).version for threads in (1, 2, 5)}
    assert len(versions) == 1
    assert (versions == {baseline.version}) == (weight is None)


def test_what_travels_arrives_to_the_bit(table):
    class Sent(Threads):
        remote = True

        def run(self, task, fragments):
            for part in super().run(task, fragments):
                yield task.unpack(task.pack(part))

    assert everything(table, executor=Sent(2)).version == everything(table).version


def test_text_in_a_numeric_column_is_named_whoever_reads_it(table):
    wrong = table.set_column(0, "x", pa.array(["oops"] + ["1.5"] * (ROWS - 1)))
    for threads in (1, 2):
        with pytest.raises(UnusableData, match="column 'x' holds text such as 'oops'"):
            build(source(wrong), MODEL, SMALL, executor=Threads(threads))


def test_no_rows_are_refused(table):
    for fragments in ((), (TableFragment(table.slice(0, 0)),)):
        with pytest.raises(UnusableData, match="has no rows"):
            build(Source(table.schema, fragments), MODEL, SMALL)


def test_the_share_that_is_done_grows_to_one(table):
    told = []
    build(source(table), MODEL, SMALL, (IsolationForest(trees=10),), told.append, segments=SEGMENTS)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)


@pytest.fixture(scope="module")
def spark():
    from pyspark.sql import SparkSession

    session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    yield session
    session.stop()


@pytest.mark.spark
def test_spark_gives_the_same_version(table, baseline, spark):
    from reference.spark import SparkWorkers

    workers = SparkWorkers(spark)
    assert everything(table, executor=workers).version == baseline.version
    assert everything(table, weight="w", executor=workers).version == everything(table, weight="w").version
    wrong = table.set_column(0, "x", pa.array(["oops"] + ["1.5"] * (ROWS - 1)))
    with pytest.raises(UnusableData, match="column 'x' holds text such as 'oops'"):
        build(source(wrong), MODEL, SMALL, executor=workers)
    with pytest.raises(BaselineError, match="a Spark worker could not read part 0 of the data: KeyError"):
        build(Source(table.schema, (TableFragment(table.drop_columns("x")),)), MODEL, SMALL, executor=workers)
