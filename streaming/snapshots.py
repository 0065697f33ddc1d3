"""A window's final reports as a run of a stock Evidently project, without a single raw row.

A run holds what Evidently itself would compute on the window's rows, under the same metric ids: `ValueDrift` per column,
`DriftedColumnsCount`, and those statistics that Evidently has too and means in the same way. Six rules follow from that:

- A method that was chosen as Evidently chooses is ``ValueDrift(column=…)``, one that the ModelMonitor names is
  ``ValueDrift(column=…, method=…)``; the threshold is part of the id only where it is not Evidently's default.
- A function of the user's (`callable`) is the method ``module:function``, and its threshold is no part of the id: what Evidently
  computes once somebody registers that function there under that name, with that threshold. A score that failed is left out.
- Values that were not finite count as missing: that is the table which Evidently compares after it has removed them.
- `UniqueValueCount` is there when the record lists every category of the window (not only its most frequent ones).
- A segment that is compared with nothing has no drift: Evidently's count of 0 drifted columns would say that it was compared.
- A run's time is the end of its window, in UTC and without a zone, because Evidently's own are without one and its
  server cannot compare the two kinds.

Importing this module imports Evidently, which takes seconds.
"""

import contextlib
import os
import re
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import structs

from streaming.reports import ColumnDrift, ColumnStatistics, Drift, HistogramBins, Statistics

with warnings.catch_warnings():
    # Evidently and what it is made of use names that numpy and Litestar are about to drop.
    warnings.simplefilter("ignore", DeprecationWarning)
    from evidently.core.metric_types import get_default_render
    from evidently.core.report import Snapshot
    from evidently.core.serialization import ReportModel, SnapshotModel
    from evidently.legacy.calculations.stattests.registry import _registered_stat_tests as stat_tests
    from evidently.legacy.model.widget import link_metric
    from evidently.legacy.renderers import html_widgets as widgets
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
    from evidently.sdk.models import DashboardModel, DashboardTabModel, PanelMetric, ProjectModel
    from evidently.sdk.panels import bar_plot_panel, line_plot_panel
    from evidently.ui.storage.local.base import LocalState

_NAMESPACE = uuid.UUID("f1a3c2f0-5d1e-5b9a-9c57-6f1d2b7e4a10")
"""Of the ids of our runs and projects."""

_STATISTICS = {
    "min": MinValue,
    "max": MaxValue,
    "mean": MeanValue,
    "avg": MeanValue,
    "sum": SumValue,
    "stddev": StdValue,
}
"""Our statistic -> the stock metric that means the same."""

_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")
_CURRENT_COLOR = "#ed0400"  # Evidently's own, so that our runs look like theirs
_KIND = {"numeric": "num", "categorical": "cat"}


def snapshot(drift: Drift | None, statistics: Statistics | None) -> Snapshot:
    """The stock snapshot of one window; equal records give equal snapshots, to the byte.

    Parameters
    ----------
    drift, statistics
        The window's records; one of them may be missing.
    """
    record = drift or statistics
    if record is None:
        raise ValueError("a snapshot is made from drift or statistics: give at least one of them")
    identity = snapshot_id(record)
    metadata = {
        "model_id": record.model,  # these two names are Evidently's
        "reference_id": record.baseline,
        "model_version": record.model_version,
        "segment": record.segment,
        "window_start": record.window.start,
        "window_end": record.window.end,
    }
    if drift is not None:
        metadata["drift_record"] = drift.id
        if drift.unjudged is not None:
            metadata["not_compared"] = drift.unjudged
            drift = None
    # What outlier models say of the rows is no column of the table that Evidently would see.
    if drift is not None:
        drift = structs.replace(drift, columns=[column for column in drift.columns if column.source != "score"])
    if statistics is not None:
        own = [column for column in statistics.columns if column.source != "score"]
        statistics = structs.replace(statistics, columns=own)
    run = _Run(_labels(drift, statistics))
    if drift is not None:
        run.add_drift(drift)
    if statistics is not None:
        run.add_statistics(statistics)
    shown = [*_drift_widgets(run, identity, drift, statistics), *_statistics_widgets(run, statistics)]
    for number, widget in enumerate(_all_widgets([*shown, *(w for r in run.results.values() for w in r.widget or ())])):
        widget.id = str(uuid.uuid5(identity, str(number)))
    segment = [f"segment: {record.segment}"] if record.segment else []
    if statistics is not None:
        metadata["statistics_record"] = statistics.id
    return Snapshot.load_model(
        SnapshotModel(
            report=ReportModel(items=[]),
            name=f"{record.model} {record.window.start} to {record.window.end}"
            + (f" ({record.segment})" if record.segment else ""),
            timestamp=_moment(record.window.end),
            metadata=metadata,
            tags=[
                record.model,
                f"version: {record.model_version}",
                f"baseline: {record.baseline}",
                *segment,
                *(["drifted"] if drift is not None and drift.drifted else []),
            ],
            metric_results=run.results,
            top_level_metrics=list(run.results),
            widgets=shown,
            tests_widgets=[],
        ),
    )


def snapshot_id(record: Drift | Statistics) -> uuid.UUID:
    """The run's id: that of its window, so all records of one window, read once or twice, make one run."""
    window = record.window
    return uuid.uuid5(_NAMESPACE, repr((record.model, record.segment, record.baseline, window.start, window.end)))


class Project:
    """One project of an Evidently workspace in a directory, found by its name or made.

    Putting a run again replaces it, and nobody ever reads half a run: the file appears whole, which
    ``Workspace.add_run`` promises neither of (and a damaged run keeps ``evidently ui`` from starting).
    """

    def __init__(self, workspace: Path, name: str) -> None:
        self._state = LocalState(str(workspace))
        self._state.location.makedirs("")
        for project in self._state.list_projects():
            if self._state.read_project(project).name == name:
                self.id: uuid.UUID = project
                break
        else:
            self.id = uuid.uuid5(_NAMESPACE, name)
            self._state.write_project(ProjectModel(id=self.id, name=name, description=f"Driftline: {name}"))
            self._state.write_dashboard(self.id, _dashboard(self.id))
        self._runs = workspace / str(self.id) / "snapshots"
        self._runs.mkdir(parents=True, exist_ok=True)

    def put(self, identity: uuid.UUID, run: Snapshot) -> Path:
        """Write or replace a run; it is on disk when this returns."""
        path = self._runs / f"{identity}.json"
        atomic_write(path, run.dumps())
        with path.open("r+b") as file:
            file.write(
                b"{"
            )  # over itself: a running `evidently ui` hears of files that are written, not of renamed ones
        return path

    def __contains__(self, identity: object) -> bool:
        return (self._runs / f"{identity}.json").exists()

    def runs(self) -> list[uuid.UUID]:
        """Ids of all runs of the project."""
        return list(self._state.list_snapshots(self.id))


def atomic_write(path: Path, text: str) -> None:
    """Replace a file by one that is whole, whatever happens meanwhile; on disk when this returns."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def value_drift(column: str, drift: ColumnDrift) -> ValueDrift:
    """The stock metric that computes the same score, with the same id."""
    if drift.auto:
        return ValueDrift(column=column)
    default = _default_threshold(drift.method)
    same = default is None or default == drift.threshold
    return ValueDrift(column=column, method=drift.method, threshold=None if same else drift.threshold)


def drifted_columns(drift: Drift, labels: "_Labels") -> DriftedColumnsCount:
    """The stock metric that counts the same columns.

    Evidently has one method a column. Where the ModelMonitor names several, no settings of the stock metric say so, and
    it is the plain one.
    """
    methods: dict[str, str] = {}
    thresholds: dict[str, float] = {}
    several = set()
    for column in drift.columns:
        label = labels[column.source, column.name]
        if label in several or label in methods:
            several.add(label)
        elif not column.auto:
            methods[label] = column.method
            if (default := _default_threshold(column.method)) is not None and default != column.threshold:
                thresholds[label] = column.threshold
        else:
            methods[label] = ""
    named = {label: method for label, method in methods.items() if method}
    if several or not named:
        return DriftedColumnsCount(drift_share=drift.share_threshold)
    alike = len(named) == len(methods) and len(set(named.values())) == 1
    if alike and not thresholds:
        return DriftedColumnsCount(drift_share=drift.share_threshold, method=next(iter(named.values())))
    if alike and len(thresholds) == len(named) and len(set(thresholds.values())) == 1:
        return DriftedColumnsCount(
            drift_share=drift.share_threshold,
            method=next(iter(named.values())),
            threshold=next(iter(thresholds.values())),
        )
    return DriftedColumnsCount(
        drift_share=drift.share_threshold,
        per_column_method=named,
        per_column_threshold=thresholds or None,
    )


_Labels = dict[tuple[str, str], str]
"""(source, column) -> what the column is called in Evidently's one table."""


def _labels(drift: Drift | None, statistics: Statistics | None) -> _Labels:
    """Columns by their own names; an answer that is called like a feature gets ``response.`` in front."""
    columns: list[ColumnDrift | ColumnStatistics] = [
        *(drift.columns if drift else ()),
        *(statistics.columns if statistics else ()),
    ]
    features = {column.name for column in columns if column.source == "request"}
    return {
        (c.source, c.name): f"response.{c.name}" if c.source == "response" and c.name in features else c.name
        for c in columns
    }


@dataclass
class _Run:
    """The results of one window as they come together."""

    labels: _Labels
    results: dict[str, Any] = field(default_factory=dict)
    """Metric id -> result, in the order in which they are shown."""

    def add(self, metric: Any, *value: Any, **resolved: Any) -> str:
        """Add what a metric came to; `resolved` are the settings that Evidently would have chosen itself."""
        calculation = metric.to_calculation()
        for name, setting in resolved.items():
            calculation.resolve_parameter(name, setting)
        result = calculation.result(*value)
        result.set_metric_location(calculation.to_metric_config())
        result.widget = get_default_render(calculation.display_name(), result)
        link_metric(result.widget, metric)
        self.results[calculation.id] = result
        return str(calculation.id)

    def add_drift(self, drift: Drift) -> None:
        self.add(drifted_columns(drift, self.labels), float(drift.drifted_columns), drift.share)
        for column in drift.columns:
            if column.score is None:
                continue  # there was nothing to compare: Evidently raises here
            label = self.labels[column.source, column.name]
            metric = value_drift(label, column)
            if metric.metric_id in self.results:  # one method twice, with two thresholds
                metric = ValueDrift(column=label, method=column.method, threshold=column.threshold)
            resolved: dict[str, Any] = {}
            if metric.method is None:
                resolved["method"] = _display_name(column.method)
            if metric.threshold is None:
                resolved["threshold"] = column.threshold
            identity = self.add(metric, column.score, **resolved)
            self.results[identity].widget = [_verdict(label, column)]
            link_metric(self.results[identity].widget, metric)

    def add_statistics(self, statistics: Statistics) -> None:
        counts = statistics.counts
        self.add(RowCount(), float(counts.requests))
        self.add(ColumnCount(), float(len(statistics.columns)))
        if counts.requests:
            missing = counts.missing + counts.nonfinite
            self.add(DatasetMissingValueCount(), float(missing), missing / counts.requests)
        for column in statistics.columns:
            label = self.labels[column.source, column.name]
            missing = column.missing + column.nonfinite
            rows = column.count + missing
            if rows:
                self.add(MissingValueCount(column=label), float(missing), missing / rows)
            if column.type == "numeric":
                for name, value in column.values.items():
                    if value is not None:
                        for metric in _metrics(label, name):
                            self.add(metric, value)
            elif column.categories and sum(column.categories.values()) == column.count:
                self.add(
                    UniqueValueCount(column=label),
                    {name: float(count) for name, count in column.categories.items()},
                    {name: count / rows for name, count in column.categories.items()},
                )


def _metrics(column: str, statistic: str) -> Iterator[Any]:
    if (stock := _STATISTICS.get(statistic)) is not None:
        yield stock(column=column)
    elif (found := _PERCENTILE.fullmatch(statistic)) is not None:
        yield QuantileValue(column=column, quantile=float(Decimal(found[1]) / 100))
        if Decimal(found[1]) == 50:
            yield MedianValue(column=column)


def _display_name(method: str) -> str:
    """What Evidently calls the method in its reports."""
    tests = stat_tests.get(method)
    return next(iter(tests.values())).display_name if tests else method


def _default_threshold(method: str) -> float | None:
    """Evidently's; None when it does not know the method."""
    tests = stat_tests.get(method)
    return float(next(iter(tests.values())).default_threshold) if tests else None


def _moment(time: str) -> datetime:
    return datetime.fromisoformat(time).astimezone(UTC).replace(tzinfo=None)


# --- What Evidently's pages show -------------------------------------------------------------------------------------


def _verdict(label: str, column: ColumnDrift) -> Any:
    """Evidently's own words about one column."""
    said = "detected" if column.drifted else "not detected"
    score = "" if column.score is None else f" Drift score: {round(column.score, 3)}"
    text = f"Data drift {said}. Drift detection method: {_display_name(column.method)}.{score}"
    return widgets.counter(counters=[widgets.CounterData(text, f"Drift in column '{label}'")])


def _drift_widgets(
    run: _Run,
    identity: uuid.UUID,
    drift: Drift | None,
    statistics: Statistics | None,
) -> list[Any]:
    if drift is None:
        return []
    said = "detected" if drift.drifted else "NOT detected"
    heading = widgets.counter(
        counters=[
            widgets.CounterData(
                f"Dataset Drift is {said}. Dataset drift detection threshold is {drift.share_threshold}",
                "Dataset Drift",
            ),
        ],
    )
    numbers = widgets.counter(
        counters=[
            widgets.CounterData.int("Columns", drift.judged_columns),
            widgets.CounterData.int("Drifted Columns", drift.drifted_columns),
            widgets.CounterData.float("Share of Drifted Columns", drift.share, 3),
            widgets.CounterData.int("Rows", drift.rows),
            widgets.CounterData.int("Reference Rows", drift.reference_rows),
        ],
    )
    link_metric([heading, numbers], drifted_columns(drift, run.labels))
    known = {(column.source, column.name): column for column in statistics.columns} if statistics else {}
    rows = [
        _row(identity, run.labels[column.source, column.name], column, known.get((column.source, column.name)))
        for column in sorted(drift.columns, key=lambda column: not column.drifted)
    ]
    table = widgets.rich_table_data(
        title=f"Drift is detected for {round(drift.share * 100, 3)}% of columns ({drift.drifted_columns} out of {drift.judged_columns}).",
        columns=[
            widgets.ColumnDefinition("Column", "column_name"),
            widgets.ColumnDefinition("Type", "column_type"),
            widgets.ColumnDefinition(
                "Current Distribution",
                "current_distribution",
                widgets.ColumnType.HISTOGRAM,
                options={"xField": "x", "yField": "y", "color": _CURRENT_COLOR},
            ),
            widgets.ColumnDefinition("Data Drift", "data_drift"),
            widgets.ColumnDefinition("Stat Test", "stattest_name"),
            widgets.ColumnDefinition("Drift Score", "drift_score"),
            widgets.ColumnDefinition("Threshold", "threshold"),
        ],
        data=rows,
    )
    for column in drift.columns:
        metric = value_drift(run.labels[column.source, column.name], column)
        if metric.metric_id in run.results:
            link_metric(table, metric)
    return [heading, numbers, table]


def _row(identity: uuid.UUID, label: str, column: ColumnDrift, known: ColumnStatistics | None) -> Any:
    details = widgets.RowDetails()
    parts = []
    if (graph := _graph(known)) is not None:
        parts.append(("DATA DISTRIBUTION", graph))
    if column.explanation:
        shares = [(name, f"{share:.1%}") for name, share in column.explanation.items()]
        table = widgets.table_data(column_names=["Values", "Share of the difference"], data=shares)
        parts.append(("WHAT DRIVES IT", table))
    for title, part in parts:
        part.id = str(uuid.uuid5(identity, "\n".join((label, column.method, str(column.threshold), title))))
        details.with_part(title, part)
    x, y = _bars(known)
    fields = {
        "column_name": label,
        "column_type": _KIND[column.type],
        "stattest_name": _display_name(column.method),
        "current_distribution": {"x": x, "y": y},
        "data_drift": "Detected" if column.drifted else "Not Detected",
        "drift_score": "" if column.score is None else round(column.score, 6),
        "threshold": column.threshold,
    }
    return widgets.RichTableDataRow(details=details, fields=fields)


def _statistics_widgets(run: _Run, statistics: Statistics | None) -> list[Any]:
    """One card a column, as Evidently's data summary has it."""
    shown = []
    for column in statistics.columns if statistics else ():
        label = run.labels[column.source, column.name]
        lines = [("count", f"{column.count}"), ("missing", f"{column.missing + column.nonfinite}")]
        lines += [(name, f"{value:.6g}") for name, value in column.values.items() if value is not None]
        card = widgets.rich_data(
            title=label,
            description=_KIND[column.type],
            header=["current"],
            metrics=[{"label": name, "values": [value]} for name, value in lines],
            graph=graph.params if (graph := _graph(column)) is not None else None,
        )
        link_metric(card, MissingValueCount(column=label))
        shown.append(card)
    return shown


def _bars(column: ColumnStatistics | None) -> tuple[list[Any], list[float]]:
    if column is None:
        return [], []
    if column.categories is not None:
        return list(column.categories), [float(count) for count in column.categories.values()]
    if column.distribution is not None:
        return _middles(column.distribution), list(column.distribution.counts)
    return [], []


def _middles(bins: HistogramBins) -> list[float]:
    return [(a + b) / 2 for a, b in pairwise(bins.edges)]


def _graph(column: ColumnStatistics | None) -> Any:
    x, y = _bars(column)
    if column is None or not x:
        return None
    bar: dict[str, Any] = {"type": "bar", "name": "current", "x": x, "y": y, "marker": {"color": _CURRENT_COLOR}}
    if column.distribution is not None and column.categories is None:
        edges = column.distribution.edges
        bar["width"] = [b - a for a, b in pairwise(edges)]
    layout = {"yaxis": {"title": {"text": "Count"}}, "margin": {"t": 20}, "bargap": 0.05}
    return widgets.plotly_data(title="", data=[bar], layout=layout)


def _all_widgets(shown: Iterable[Any]) -> Iterator[Any]:
    for widget in shown:
        yield widget
        yield from _all_widgets(widget.widgets)
        yield from _all_widgets(tab.widget for tab in widget.tabs)


def _dashboard(project: uuid.UUID) -> DashboardModel:
    """What the project's page shows until somebody arranges it to their taste."""
    # Of all requests: one line through every segment says nothing.
    whole = {"segment": ""}
    panels: Sequence[Any] = [
        line_plot_panel(
            "Share of drifted columns",
            [
                PanelMetric(
                    legend="share", metric="DriftedColumnsCount", metric_labels={"value_type": "share"}, metadata=whole
                )
            ],
        ),
        line_plot_panel(
            "Drift score", [PanelMetric(legend="{{column}}, {{method}}", metric="ValueDrift", metadata=whole)]
        ),
        bar_plot_panel("Rows", [PanelMetric(legend="rows", metric="RowCount", metadata=whole)], size="half"),
        line_plot_panel(
            "Missing values",
            [
                PanelMetric(
                    legend="{{column}}",
                    metric="MissingValueCount",
                    metric_labels={"value_type": "share"},
                    metadata=whole,
                )
            ],
            size="half",
        ),
    ]
    for number, panel in enumerate(panels):
        panel.id = uuid.uuid5(project, f"panel {number}")
    tab = DashboardTabModel(id=uuid.uuid5(project, "tab"), title="Drift", panels=[panel.id for panel in panels])
    return DashboardModel(tabs=[tab], panels=list(panels))
