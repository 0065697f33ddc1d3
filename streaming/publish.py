"""From the summary of a window to its records: statistics, and drift against the baseline."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from detectors.base import DriftDetector
from detectors.distribution import Ramps, Steps
from detectors.drift import default_method
from detectors.frequencies import sturges_edges
from detectors.statistics.column import ColumnSummary
from detectors.statistics.metrics import METRICS
from detectors.statistics.table import TableSummary
from reference.baseline import Source
from streaming.pane import Pane, rfc3339
from streaming.reports import (
    ColumnDrift,
    ColumnStatistics,
    Counts,
    Drift,
    HistogramBins,
    Matrix,
    Statistics,
    Status,
    Window,
)
from streaming.worker import Worker

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Report:
    """One report of one window: what its records share."""

    segment: str
    start: int
    """Event time, ms; the window ends one duration later."""
    status: Status
    revision: int
    late: int
    """Late messages to be told of."""


def published(me: Worker, report: Report, window: Pane) -> Iterator[tuple[str, bytes]]:
    """The records (topic, JSON) of one window."""
    topics = me.monitor.topics
    detected_at = rfc3339(time.time_ns() // 1_000_000)
    yield topics.statistics, _encode(_statistics(me, report, window, detected_at))
    yield topics.drift, _encode(_drift(me, report, window, detected_at))


def _id(me: Worker, report: Report, kind: str) -> str:
    """A final report has one id, however many provisional ones a crash made it repeat."""
    end = rfc3339(report.start + me.duration)
    which = "final" if report.status == "final" else f"r{report.revision}"
    return "/".join((me.model, report.segment or "-", rfc3339(report.start), end, kind, which))


def _shared(me: Worker, report: Report, kind: str, detected_at: str) -> dict[str, object]:
    return {
        "id": _id(me, report, kind),
        "model": me.model,
        "model_version": me.monitor.spec.model.version,
        "detected_at": detected_at,
        "segment": report.segment,
        "baseline": me.version,
        "window": Window(rfc3339(report.start), rfc3339(report.start + me.duration)),
        "status": report.status,
        "revision": report.revision,
    }


def _statistics(me: Worker, report: Report, window: Pane, detected_at: str) -> Statistics:
    columns = [
        _column_statistics(me, source, table, column) for source, table in window.tables() for column in table.columns()
    ]
    counts = Counts(
        requests=window.requests.rows,
        responses=window.responses.rows,
        missing=sum(column.missing for column in columns),
        nonfinite=sum(column.nonfinite for column in columns),
        late=report.late,
        dead=window.dead,
        outliers=window.outliers,
    )
    asked = me.monitor.spec.statistics.metrics
    co, names = window.requests.comoments, list(window.requests.plan.numeric)
    return Statistics(
        **_shared(me, report, "statistics", detected_at),  # type: ignore[arg-type]
        counts=counts,
        exact=all(table.values is not None for _, table in window.tables()),
        columns=columns,
        covariance=Matrix(names, _rows(co.covariance())) if co is not None and "covariance" in asked else None,
        correlation=Matrix(names, _rows(co.correlation())) if co is not None and "correlation" in asked else None,
    )


def _column_statistics(me: Worker, source: Source, table: TableSummary, column: ColumnSummary) -> ColumnStatistics:
    settings = me.monitor.spec.statistics
    asked = settings.metrics
    values: dict[str, float | None] = {}
    distribution = categories = None
    if column.type == "numeric":
        with np.errstate(all="ignore"):  # beyond the range of floats a statistic is null
            values = {name: _number(METRICS[name](column)) for name in asked if name in METRICS}
        if "percentiles" in asked:
            at = _percentiles(table, column, settings.percentiles)
            values |= {f"p{p:g}": _number(v) for p, v in zip(settings.percentiles, at, strict=True)}
        if "iqr" in asked:
            low, high = _percentiles(table, column, (25, 75))
            values["iqr"] = _number(high - low)
        if "distribution" in asked and column.count:
            distribution = _distribution(me, source, column)
    elif "frequent" in asked and column.counts is not None:
        most = sorted(column.counts.items(), key=lambda item: (-item[1], str(item[0])))
        categories = {str(value): count for value, count in most[: settings.frequent]}
    if "distinct" in asked:
        values["distinct"] = None if column.distinct is None else float(column.distinct)
    return ColumnStatistics(
        name=column.name,
        source=source,
        type=column.type,
        count=column.count,
        missing=column.missing,
        nonfinite=column.nonfinite,
        values=values,
        distribution=distribution,
        categories=categories,
    )


def _percentiles(table: TableSummary, column: ColumnSummary, percents: tuple[float, ...]) -> list[float]:
    """Exact from every single value (linear interpolation, numpy's default), else from the sketch."""
    if column.count == 0:
        return [math.nan] * len(percents)
    ranks = np.asarray(percents) / 100
    if column.values is not None:
        return list(map(float, np.quantile(column.values, ranks)))
    assert table.quantiles is not None  # the plan has sketches when percentiles are asked for
    return list(map(float, table.quantiles.at(table.plan.numeric.index(column.name), ranks)))


def _distribution(me: Worker, source: Source, column: ColumnSummary) -> HistogramBins:
    """Counts between fixed edges: the configured ones, or Sturges' over the reference, so that windows compare."""
    settings = me.monitor.spec.statistics
    if column.name in settings.edges:
        edges = np.asarray(settings.edges[column.name])
    else:
        known = me.baseline.columns(source).get(column.name)
        basis = known if known is not None and known.count else column
        edges = (
            np.linspace(basis.low, basis.high, settings.bins + 1)
            if settings.bins and basis.low < basis.high
            else sturges_edges(basis.count, basis.low, basis.high)
        )
    spread = Steps(column.values) if column.values is not None else Ramps.of(column)
    under = spread.below(edges)
    under[-1] = spread.upto(edges[-1:])[0]
    return HistogramBins(
        edges=edges.tolist(),
        counts=np.diff(under).tolist(),
        below=float(under[0]),
        above=float(column.count - under[-1]),
    )


def _drift(me: Worker, report: Report, window: Pane, detected_at: str) -> Drift:
    settings = me.monitor.spec.drift
    columns = [
        _compared(source, method, reference, window_column, auto=auto)
        for source, table in window.tables()
        if source == "request" or table.rows
        for name, reference in me.baseline.columns(source).items()
        if name in me.schema(source).names
        for window_column in (table.column(name),)
        for method, auto in _methods(me, reference, window_column)
    ]
    judged = {(column.source, column.name) for column in columns}
    drifted = {(column.source, column.name) for column in columns if column.drifted}
    share = len(drifted) / len(judged) if judged else 0.0
    return Drift(
        **_shared(me, report, "drift", detected_at),  # type: ignore[arg-type]
        rows=window.requests.rows,
        reference_rows=me.baseline.rows,
        columns=columns,
        drifted_columns=len(drifted),
        share=share,
        share_threshold=settings.share,
        drifted=share >= settings.share,
    )


def _methods(me: Worker, reference: ColumnSummary, window: ColumnSummary) -> list[tuple[DriftDetector, bool]]:
    """The column's own methods, or those of all columns that are made for its type; each with whether it is `auto`."""
    settings = me.monitor.spec.drift
    own = reference.name in settings.columns
    methods = []
    for chosen in settings.columns.get(reference.name, settings.methods):
        if chosen == "auto":
            methods.append((default_method(reference, window), True))
        elif own or reference.type in chosen.applies_to:
            methods.append((chosen, False))
    return methods


def _compared(
    source: Source, method: DriftDetector, reference: ColumnSummary, window: ColumnSummary, *, auto: bool
) -> ColumnDrift:
    """One answer; a method that fails is a failed score with its reason, and never stops the others."""
    shared = {
        "name": reference.name,
        "source": source,
        "type": reference.type,
        "method": method.name,
        "direction": method.direction,
        "auto": auto,
    }
    try:
        verdict = method.compare(reference, window)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told in the report
        return ColumnDrift(
            **shared,  # type: ignore[arg-type]
            score=None,
            threshold=method.threshold,
            drifted=False,
            exact=False,
            explanation={},
            error=f"{type(error).__name__}: {error}",
        )
    return ColumnDrift(
        **shared,  # type: ignore[arg-type]
        score=_number(verdict.score),
        threshold=verdict.threshold,
        drifted=bool(verdict.drifted),
        exact=verdict.exact,
        explanation=verdict.explanation,
    )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _rows(matrix: np.ndarray) -> list[list[float | None]]:
    return [[_number(value) for value in row] for row in matrix.tolist()]
