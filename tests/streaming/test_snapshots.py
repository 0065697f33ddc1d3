"""Runs of the workspace against stock Evidently on the same rows."""

import asyncio
import json
import time
import warnings

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import stattests
from made import drift, scored, statistics
from theirs import methods_for
from toy import document

from detectors.statistics.table import summarise
from reference.build import build
from reference.table import blocks
from streaming.publish import Report as WindowReport
from streaming.publish import published
from streaming.reports import Drift, Statistics
from streaming.snapshots import Project, drifted_columns, snapshot, snapshot_id, value_drift
from streaming.spec import parse
from streaming.worker import Worker

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from evidently import DataDefinition, Dataset, Report
    from evidently.core.report import Snapshot
    from evidently.legacy.calculations.stattests import registry
    from evidently.legacy.core import ColumnType
    from evidently.metrics import (
        ColumnCount,
        DatasetMissingValueCount,
        DriftedColumnsCount,
        MaxValue,
        MeanValue,
        MedianValue,
        MinValue,
        MissingValueCount,
        QuantileValue,
        RowCount,
        StdValue,
        SumValue,
        UniqueValueCount,
        ValueDrift,
    )
    from evidently.presets import DataDriftPreset
    from evidently.ui.service.base import SeriesFilter
    from evidently.ui.service.storage.local.base import InMemoryDataStorage, LocalState
    from evidently.ui.service.storage.local.watcher import WorkspaceDirHandler
    from evidently.ui.workspace import Workspace
    from watchdog.observers import Observer

# Evidently divides by what may be zero and asks numpy for what it is about to drop.
pytestmark = pytest.mark.filterwarnings("default")

MODEL = "{features: [{name: x, type: numeric}, {name: n, type: numeric}, {name: where, type: categorical}]}"


def table(rows, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(10.0 + shift, 2.0, rows)
    return pd.DataFrame(
        {
            "x": np.where(rng.random(rows) < 0.03, np.nan, x),
            "n": rng.integers(0, 4, rows).astype(float),
            "where": rng.choice(["ATL", "JFK", "SFO"], rows, p=[0.5, 0.3 + shift / 10, 0.2 - shift / 10]),
        },
    )


def ours(tmp_path, reference, current, **sections):
    """The final records of one window that holds the rows of `current`."""
    monitor = parse(document(tmp_path, model=MODEL, **sections), "toy.yaml")
    baseline = build(pa.Table.from_pandas(reference), monitor.spec.model, monitor.spec.reference)
    me = Worker(monitor, baseline, "b1")
    (block,) = blocks(pa.Table.from_pandas(current), monitor.spec.model.request_schema)
    pane = me.no_rows.with_table("request", summarise(me.plans.request, block))
    raw = dict(published(me, WindowReport("", 0, 300_000, "final", 1, 0), pane, {}).records)
    return (
        msgspec.json.decode(raw[monitor.topics.drift], type=Drift),
        msgspec.json.decode(raw[monitor.topics.statistics], type=Statistics),
    )


def stock(reference, current, metrics):
    definition = DataDefinition(numerical_columns=["x", "n"], categorical_columns=["where"])
    return Report(metrics).run(Dataset.from_pandas(current, definition), Dataset.from_pandas(reference, definition))


def plain(run):
    return {identity: result.to_simple_dict() for identity, result in run.metric_results.items()}


def assert_equal(mine, theirs, rel):
    if isinstance(theirs, dict):
        assert mine.keys() == theirs.keys()
        for key in theirs:
            assert_equal(mine[key], theirs[key], rel)
    else:
        assert mine == pytest.approx(theirs, rel=rel, abs=1e-12)


@pytest.mark.parametrize("rows", [300, 1000])
@pytest.mark.parametrize("reference_rows", [800, 5000])
def test_every_metric_is_stock_evidentlys_by_id_and_value(tmp_path, rows, reference_rows):
    reference, current = table(reference_rows, 1), table(rows, 2, shift=0.4)
    metrics = (
        "{metrics: [min, max, mean, sum, stddev, percentiles, distribution, frequent], percentiles: [5, 25, 50, 99.9]}"
    )
    run = snapshot(*ours(tmp_path, reference, current, statistics=metrics))
    columns = [
        m(column=c) for c in ("x", "n") for m in (MinValue, MaxValue, MeanValue, SumValue, StdValue, MedianValue)
    ]
    columns += [QuantileValue(column=c, quantile=q) for c in ("x", "n") for q in (0.05, 0.25, 0.5, 0.999)]
    columns += [MissingValueCount(column=c) for c in ("x", "n", "where")]
    theirs = stock(
        reference,
        current,
        [
            DataDriftPreset(),
            RowCount(),
            ColumnCount(),
            DatasetMissingValueCount(),
            *columns,
            UniqueValueCount(column="where"),
        ],
    )
    assert plain(run).keys() == plain(theirs).keys()
    assert_equal(plain(run), plain(theirs), 1e-9)
    for identity, result in theirs.metric_results.items():
        mine = run.metric_results[identity]
        assert mine.display_name == result.display_name
        assert mine.explicit_metric_id() == result.explicit_metric_id()  # with the method that was chosen
        assert mine.get_metric_value_location() == result.get_metric_value_location()


def test_methods_that_the_document_names_have_the_ids_of_named_methods(tmp_path):
    reference, current = table(800, 1), table(300, 2, shift=0.4)
    chosen = "{columns: {x: [ks], n: [{name: psi, threshold: 0.25}], where: [auto]}, methods: [auto]}"
    drifted, _ = ours(tmp_path, reference, current, drift=chosen)
    run = snapshot(drifted, None)
    theirs = stock(
        reference,
        current,
        [
            DriftedColumnsCount(per_column_method={"x": "ks", "n": "psi"}, per_column_threshold={"n": 0.25}),
            ValueDrift(column="x", method="ks"),
            ValueDrift(column="n", method="psi", threshold=0.25),
            ValueDrift(column="where"),
        ],
    )
    assert list(plain(run)) == list(plain(theirs))
    assert_equal(plain(run), plain(theirs), 1e-9)


PERMUTED = {"TVD": 1000, "empirical_mmd": 100}
"""Draws of Evidently's tests that permute."""


@pytest.fixture(scope="module")
def whole():
    """Rows without holes and two windows as large as the reference, which is what `fisher_exact` and `g_test` want."""

    def rows(seed, shift):
        rng = np.random.default_rng(seed)
        yes = 0.5 + shift / 5
        x, n = rng.normal(10.0 + shift, 2.0, 150), rng.integers(0, 4, 150).astype(float)
        return pd.DataFrame({"x": x, "n": n, "where": rng.choice(["no", "yes"], 150, p=[1 - yes, yes])})

    return rows(1, 0.0), rows(2, 0.3)


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_every_method_has_the_id_and_the_value_that_evidently_gives_it(tmp_path, whole, threshold):
    methods = {
        column: methods_for(kind)
        for column, kind in (("x", "numeric"), ("n", "numeric"), ("where", "categorical"))
        if threshold is None or column != "n"
    }
    assert len({name for names in methods.values() for name in names}) == 18
    named = {
        column: [name if threshold is None else {"name": name, "threshold": threshold} for name in names]
        for column, names in methods.items()
    }
    drifted, _ = ours(tmp_path, *whole, drift=json.dumps({"columns": named, "methods": []}))
    assert [column.error for column in drifted.columns] == [None] * len(drifted.columns)
    mine = plain(snapshot(drifted, None))
    del mine[DriftedColumnsCount().metric_id]  # which has one method a column
    np.random.seed(4)  # noqa: NPY002 - what Evidently draws from
    theirs = plain(
        stock(
            *whole,
            [ValueDrift(column=c, method=name, threshold=threshold) for c, names in methods.items() for name in names],
        )
    )
    assert list(mine) == list(theirs)
    by_method = {ValueDrift(column=c, method=m, threshold=threshold).metric_id: m for c in methods for m in methods[c]}
    for identity, value in theirs.items():
        if draws := PERMUTED.get(by_method[identity]):
            error = (max(value * (1 - value), 0.01) * (1 / draws + 1 / 1000)) ** 0.5
            assert mine[identity] == pytest.approx(value, abs=4 * error)
        else:
            assert mine[identity] == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_a_function_of_the_users_has_the_id_that_evidently_gives_it_once_it_is_registered_under_its_name(
    tmp_path, whole
):
    name = "stattests:apart"
    chosen = {"name": "callable", "function": name, "threshold": 0.12, "direction": "distance"}
    drifted, _ = ours(
        tmp_path, *whole, drift=json.dumps({"columns": {"x": [chosen], "where": [chosen]}, "methods": []})
    )
    run = snapshot(drifted, None)
    test = registry.StatTest(name, name, [ColumnType.Numerical, ColumnType.Categorical], 0.12)
    registry.register_stattest(test, stattests.apart)
    try:
        theirs = stock(*whole, [ValueDrift(column=column, method=name) for column in ("x", "where")])
    finally:
        del registry._registered_stat_tests[name], registry._registered_stat_test_funcs[stattests.apart]
    mine = plain(run)
    assert_equal({identity: mine[identity] for identity in plain(theirs)}, plain(theirs), 1e-9)
    assert [column.method for column in drifted.columns] == [name, name]
    assert name in run.get_html_str(as_iframe=False)


def test_a_function_that_fails_is_an_error_in_the_report_and_left_out_of_the_run(tmp_path, whole):
    drifted, _ = ours(tmp_path, *whole, drift="{columns: {x: [stattests:failing, stattests:nothing, ks]}, methods: []}")
    first, second, third = drifted.columns
    assert (first.score, first.drifted, first.error) == (None, False, "ZeroDivisionError: no luck")
    assert second.error.startswith("NoAnswer: stattests:nothing returned None: a stat test returns (score, drifted)")
    assert third.score is not None
    ids = plain(snapshot(drifted, None)).keys()
    assert ids == {DriftedColumnsCount().metric_id, ValueDrift(column="x", method="ks").metric_id}


def test_one_method_for_all_columns_is_the_presets_method():
    labels = {("request", "x"): "x", ("request", "y"): "y"}
    psi = [scored(name, method="psi", auto=False) for name in "xy"]
    assert drifted_columns(drift(0, *psi), labels) == DriftedColumnsCount(method="psi")
    strict = [scored(name, method="psi", auto=False, threshold=0.3) for name in "xy"]
    assert drifted_columns(drift(0, *strict), labels) == DriftedColumnsCount(method="psi", threshold=0.3)


def test_several_methods_on_a_column_and_one_that_evidently_does_not_have():
    columns = [
        scored("x", 0.2, method="ks", direction="p-value", threshold=0.05, auto=False),
        scored("x", 0.2, method="ks", direction="p-value", threshold=0.3, auto=False),
        scored("x", 0.2),
        scored("y", 0.2, method="of_our_own", auto=False),
    ]
    record = drift(0, *columns)
    run = snapshot(record, None)
    ids = [
        DriftedColumnsCount().metric_id,
        ValueDrift(column="x", method="ks").metric_id,
        ValueDrift(column="x", method="ks", threshold=0.3).metric_id,
        ValueDrift(column="x").metric_id,
        ValueDrift(column="y", method="of_our_own").metric_id,
    ]
    assert list(run.metric_results) == ids
    assert value_drift("y", columns[3]).threshold is None


def test_what_cannot_be_said_is_left_out():
    record = drift(0, scored("x", None), scored("y", 0.2))
    counted = statistics()
    counted.columns[1].categories = {"ATL": 1}  # the most frequent ones only
    run = snapshot(record, counted)
    types = {result.explicit_metric_id().partition("(")[0] for result in run.metric_results.values()}
    assert ValueDrift(column="x").metric_id not in run.metric_results
    assert ValueDrift(column="y").metric_id in run.metric_results
    assert "UniqueValueCount" not in types
    json.loads(run.dumps(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_an_empty_window_has_a_run():
    record = drift(0, scored("x", None), rows=0)
    counted = statistics(rows=0)
    for column in counted.columns:
        column.count = column.missing = 0
        column.values, column.distribution, column.categories = dict.fromkeys(column.values), None, {}
    assert RowCount().metric_id in snapshot(record, counted).metric_results


def test_an_answer_that_is_called_like_a_feature_is_another_column():
    run = snapshot(
        drift(0, scored("x", 0.1), scored("x", 0.2, source="response"), scored("late", 0.3, source="response")), None
    )
    values = {
        r.get_metric_value_location().metric.params.get("column"): r.to_simple_dict()
        for r in run.metric_results.values()
    }
    assert values["x"] == 0.1
    assert values["response.x"] == 0.2
    assert values["late"] == 0.3


def test_a_run_survives_the_round_trip_and_is_the_same_every_time():
    one, two = snapshot(drift(), statistics()).dumps(), snapshot(drift(), statistics()).dumps()
    assert one == two
    assert Snapshot.loads(one).dumps() == one
    assert "Dataset Drift" in Snapshot.loads(one).get_html_str(as_iframe=False)


def test_a_run_says_what_it_is_about():
    record = drift(3, segment="eu", baseline="b7")
    model = snapshot(record, statistics(3, segment="eu", baseline="b7")).to_snapshot_model()
    assert model.timestamp.isoformat() == "2026-03-01T00:20:00"
    assert model.tags == ["toy", "version: 7", "baseline: b7", "segment: eu"]
    assert model.metadata["window_start"] == "2026-03-01T00:15:00.000Z"
    assert model.metadata["drift_record"] == record.id
    assert model.metadata["model_id"] == "toy"
    assert snapshot(drift(0, scored("x", 0.2)), None).to_snapshot_model().tags[-1] == "drifted"


def test_a_segment_that_is_compared_with_nothing_has_statistics_only():
    alone = msgspec.structs.replace(drift(3, segment="eu"), columns=[], unjudged="too few rows")
    model = snapshot(alone, statistics(3, segment="eu")).to_snapshot_model()
    assert "segment: eu" in model.tags
    assert model.metadata["not_compared"] == "too few rows"
    assert model.metadata["drift_record"] == alone.id
    assert DriftedColumnsCount().metric_id not in model.metric_results
    assert RowCount().metric_id in model.metric_results
    assert not snapshot(alone, None).to_snapshot_model().metric_results


def test_the_dashboard_draws_all_requests_and_no_segment(tmp_path):
    project = Project(tmp_path, "toy")
    for segment, rows in (("", 100), ("eu", 60), ("us", 40)):
        counted = statistics(rows=rows, segment=segment)
        project.put(snapshot_id(counted), snapshot(drift(segment=segment), counted))
    storage = InMemoryDataStorage(str(tmp_path))
    panels = Workspace(str(tmp_path)).get_project(project.id).dashboard.model().panels
    (metric,) = (value for panel in panels for value in panel.values if panel.title == "Rows")

    def drawn(metadata):
        one = SeriesFilter(tags=[], metadata=metadata, metric=metric.metric, metric_labels={})
        found = asyncio.run(storage.get_data_series(project.id, [one], None, None))
        return [value for series in found.series for value in series.values]

    assert drawn(metric.metadata) == [100.0]
    assert drawn({"segment": "eu"}) == [60.0]


def test_the_two_records_of_a_window_are_one_run_and_other_windows_are_others():
    assert snapshot_id(drift()) == snapshot_id(statistics())
    others = [drift(1), drift(segment="eu"), drift(baseline="b2"), drift(model="other")]
    assert len({snapshot_id(record) for record in (drift(), *others)}) == 5


def test_a_project_is_found_again_and_a_run_replaced(tmp_path):
    project = Project(tmp_path / "workspace", "toy")
    record = drift()
    path = project.put(snapshot_id(record), snapshot(record, None))
    before = path.read_text()
    again = Project(tmp_path / "workspace", "toy")
    again.put(snapshot_id(record), snapshot(record, statistics()))
    assert again.id == project.id
    assert len(path.read_text()) > len(before)
    assert snapshot_id(record) in again
    assert [file.name for file in path.parent.iterdir()] == [path.name]

    workspace = Workspace(str(tmp_path / "workspace"))
    (found,) = workspace.search_project("toy")
    assert found.id == project.id
    assert list(workspace.list_runs(found.id)) == [snapshot_id(record)]
    stored = workspace.get_run(found.id, snapshot_id(record))
    assert Snapshot.load_model(stored).dumps() == snapshot(record, statistics()).dumps()
    assert next(panel.title for panel in found.dashboard.model().panels) == "Share of drifted columns"


def test_a_project_of_somebody_elses_making_is_used(tmp_path):
    made = Workspace.create(str(tmp_path)).create_project("toy")
    assert Project(tmp_path, "toy").id == made.id


def test_a_running_evidently_ui_hears_of_new_and_of_replaced_runs(tmp_path):
    project = Project(tmp_path, "toy")
    state = LocalState.load(str(tmp_path), None)
    observer = Observer()
    observer.schedule(WorkspaceDirHandler(state), str(tmp_path), recursive=True)
    observer.start()
    try:
        for run in (snapshot(drift(), None), snapshot(drift(), statistics())):
            project.put(snapshot_id(drift()), run)
            deadline = time.monotonic() + 10
            while True:
                known = state.snapshots[project.id].get(snapshot_id(drift()))
                if known is not None and list(known.metric_results) == list(run.metric_results):
                    break
                assert time.monotonic() < deadline
                time.sleep(0.02)
    finally:
        observer.stop()
        observer.join()
