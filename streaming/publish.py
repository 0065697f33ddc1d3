"""From the summary of a window to its records: statistics, and drift against the baseline."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from detectors.base import DriftDetector, Verdict
from detectors.distribution import Ramps, Steps
from detectors.drift import default_method
from detectors.frequencies import sturges_edges
from detectors.limits import median_deviation
from detectors.multivariate.base import FittedMultivariate, Joint, MultivariateDetector
from detectors.performance.estimate import Estimate, PredictionCounts, estimate
from detectors.performance.sums import PerformanceSums
from detectors.statistics.column import ColumnSummary
from detectors.statistics.metrics import METRICS, SHARES
from detectors.statistics.table import TableSummary
from detectors.verdict import adjusted, evidence, explained
from reference.baseline import Table
from streaming.observations import Observations
from streaming.pane import Pane, rfc3339
from streaming.reports import (
    Alarm,
    ColumnDrift,
    ColumnStatistics,
    Counts,
    Drift,
    Estimated,
    HistogramBins,
    Matrix,
    MultivariateDrift,
    Performance,
    PerformanceAlarm,
    PerformanceCounts,
    Statistics,
    Status,
    TrafficDrift,
    Window,
)
from streaming.series import watched
from streaming.worker import Worker
from streaming.yardstick import Yardstick

MOST_VERDICTS = 100
"""So many clients are told of in a record, for each traffic detector; a record must fit into a message."""
_encode = msgspec.json.Encoder().encode


Columns = dict[Table, dict[str, ColumnSummary]]
"""The columns of each table of a window: made once, because what is derived from a column stays with it."""


@dataclass(frozen=True, slots=True)
class Published:
    """What one report came to."""

    records: list[tuple[str, bytes]]
    """(topic, JSON)"""
    drifted: int
    """Windows in a row that drifted, this one included."""


@dataclass(frozen=True, slots=True)
class Report:
    """One report of one window: what its records share."""

    segment: str
    start: int
    """Event time, ms."""
    end: int
    """The same; beyond the window."""
    status: Status
    revision: int
    late: int
    """Late messages to be told of."""
    drifted_before: int = 0
    """Windows in a row that drifted just before this one."""
    number: int | None = None
    """Of a counted window: how many there were before it."""


def published(
    me: Worker, report: Report, window: Pane, states: dict[str, bytes], observations: Sequence[Observations] = ()
) -> Published:
    """The records of one window.

    Parameters
    ----------
    states
        Of the sequential detectors, brought up to date by a final report.
    observations
        Of each series of instances, from the pane that is complete when this window is.
    """
    topics = me.monitor.topics
    detected_at = rfc3339(time.time_ns() // 1_000_000)
    columns = columns_of(window)
    statistics = _statistics(me, report, window, columns, detected_at)
    drift = drift_record(me, report, window, columns, detected_at)
    series = me.monitor.spec.sequential
    if series and report.status == "final":
        numbers = [one.of_window(drift, statistics) for one in series]
        drift.sequential = watched(series, states, numbers, observations, report.start)
    records = [(topics.statistics, _encode(statistics)), (topics.drift, _encode(drift))]
    return Published(records, drift.alarm.windows)


def columns_of(window: Pane) -> Columns:
    """Every column of a window."""
    return {source: {column.name: column for column in table.columns()} for source, table in window.tables()}


def _id(model: str, report: Report, kind: str) -> str:
    """A final report has one id, however many provisional ones a crash made it repeat."""
    which = "final" if report.status == "final" else f"r{report.revision}"
    span = [rfc3339(report.start), rfc3339(report.end)] if report.number is None else [f"{report.number:09d}"]
    return "/".join((model, report.segment or "-", *span, kind, which))


def _shared(me: Worker, report: Report, kind: str, detected_at: str) -> dict[str, object]:
    return {
        "id": _id(me.model, report, kind),
        "model": me.model,
        "model_version": me.monitor.spec.model.version,
        "detected_at": detected_at,
        "segment": report.segment,
        "baseline": me.version,
        "window": Window(rfc3339(report.start), rfc3339(report.end)),
        "every": me.every,
        "status": report.status,
        "revision": report.revision,
    }


def _statistics(me: Worker, report: Report, window: Pane, known: Columns, detected_at: str) -> Statistics:
    columns = [
        _column_statistics(me, source, table, column)
        for source, table in window.tables()
        for column in known[source].values()
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


def _column_statistics(me: Worker, source: Table, table: TableSummary, column: ColumnSummary) -> ColumnStatistics:
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
        if "median" in asked or "mad" in asked:
            (middle,) = _percentiles(table, column, (50,))
            if "median" in asked:
                values["median"] = _number(middle)
            if "mad" in asked:
                values["mad"] = _number(median_deviation(column, middle)) if column.count else None
        if "iqr" in asked:
            low, high = _percentiles(table, column, (25, 75))
            values["iqr"] = _number(high - low)
        if "distribution" in asked and column.count:
            distribution = _distribution(me, source, column)
    if "frequent" in asked and column.counts is not None:
        most = sorted(column.counts.items(), key=lambda item: (-item[1], str(item[0])))
        categories = {str(value): count for value, count in most[: settings.frequent]}
    values |= {name: _number(SHARES[name](column)) for name in asked if name in SHARES}
    if "distinct" in asked:
        values["distinct"] = _distinct(table, column)
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


def _distinct(table: TableSummary, column: ColumnSummary) -> float | None:
    """Exact where the values or categories are counted one by one, else estimated."""
    if column.distinct is not None:
        return float(column.distinct)
    names = (*table.plan.numeric, *table.plan.categorical)
    return None if table.distinct is None else round(table.distinct.estimate(names.index(column.name)))


def _percentiles(table: TableSummary, column: ColumnSummary, percents: tuple[float, ...]) -> list[float]:
    """Exact from every single value (linear interpolation, numpy's default), else from the sketch."""
    if column.count == 0:
        return [math.nan] * len(percents)
    ranks = np.asarray(percents) / 100
    if column.values is not None:
        return list(map(float, np.quantile(column.values, ranks)))
    assert table.quantiles is not None  # the plan has sketches when percentiles are asked for
    return list(map(float, table.quantiles.at(table.plan.numeric.index(column.name), ranks)))


def _distribution(me: Worker, source: Table, column: ColumnSummary) -> HistogramBins:
    """Counts between fixed edges: the configured ones, or Sturges' over the reference, so that windows compare."""
    settings = me.monitor.spec.statistics
    if column.name in settings.edges:
        edges = np.asarray(settings.edges[column.name])
    else:
        known = me.reference.columns(source).get(column.name)
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


def drift_record(me: Worker, report: Report, window: Pane, known: Columns, detected_at: str) -> Drift:
    """What has drifted in a window; its series are still to be watched."""
    settings = me.monitor.spec.drift
    answered = [
        (method, _compared(source, method, reference, window_column, auto=auto))
        for source, table in window.tables()
        if source == "request" or table.rows
        for name, reference in me.reference.columns(source).items()
        if name in me.schema(source).names
        for window_column in (known[source][name],)
        for method, auto in _methods(me, reference, window_column)
    ]
    if settings.correction == "benjaminiHochberg":
        answered = _corrected(answered)
    columns = [column for _, column in answered]
    answers: dict[tuple[str, str], list[ColumnDrift]] = {}
    for column in columns:
        if column.source != "score":
            answers.setdefault((column.source, column.name), []).append(column)
    drifted_columns = sum(any(one.drifted for one in own) for own in answers.values())
    share = drifted_columns / len(answers) if answers else 0.0
    drifted = share >= settings.share
    # A window without requests says nothing: it neither goes on with a row of windows nor ends it.
    in_a_row = report.drifted_before + drifted if drifted or not window.requests.rows else 0
    final = report.status == "final"
    return Drift(
        **_shared(me, report, "drift", detected_at),  # type: ignore[arg-type]
        rows=window.requests.rows,
        reference_rows=me.reference.rows,
        columns=columns,
        drifted_columns=drifted_columns,
        judged_columns=len(answers),
        unjudged=me.unjudged,
        share=share,
        share_threshold=settings.share,
        drifted=drifted,
        explanation=explained(
            {
                name if source == "request" else f"{name} (prediction)": max(map(_evidence, own))
                for (source, name), own in answers.items()
            }
        ),
        sequential=[],
        traffic=list(_traffic(me, window, final=final)),
        multivariate=[_together(*each) for each in me.together(window.requests) if final or each[0].quick],
        alarm=Alarm(
            raised=drifted and in_a_row >= settings.min_windows, windows=in_a_row, min_windows=settings.min_windows
        ),
    )


def _evidence(column: ColumnDrift) -> float:
    score = column.score if column.adjusted is None else column.adjusted
    return 0.0 if score is None else evidence(score, column.threshold, column.direction)


def _corrected(answered: list[tuple[DriftDetector, ColumnDrift]]) -> list[tuple[DriftDetector, ColumnDrift]]:
    """With the p-values of all columns adjusted for their number; distances are no tests and stay as they are.

    What drifted by its range and not by its p-value stays drifted.
    """
    tests = [i for i, (_, one) in enumerate(answered) if one.direction == "p-value" and one.score is not None]
    corrected = list(answered)
    for i, q in zip(tests, adjusted([answered[i][1].score or 0.0 for i in tests]).tolist(), strict=True):
        method, column = answered[i]
        by_range = column.drifted and not method.is_drift(column.score or 0.0)
        # It only takes back: what a function of the user's calls no drift stays so.
        drifted = column.drifted and (by_range or method.is_drift(q))
        corrected[i] = method, msgspec.structs.replace(column, adjusted=q, drifted=drifted)
    return corrected


def _traffic(me: Worker, window: Pane, *, final: bool) -> Iterator[TrafficDrift]:
    """Of a window that is still open only what is quickly said; without clients only all requests; the most of a detector is 100."""
    section = me.monitor.spec.traffic
    for settings, detector, state in zip(section.detectors, me.plans.traffic, window.traffic, strict=True):
        verdicts = detector.compare(state) if final or settings.quick else []
        told = [verdict for verdict in verdicts if section.client is not None or verdict.client is None]
        told.sort(
            key=lambda verdict: (verdict.client is not None, not verdict.drifted)
        )  # alarms before others, else as they come
        for verdict in told[:MOST_VERDICTS]:
            yield TrafficDrift(
                detector=detector.name,
                client=verdict.client,
                direction=settings.direction,
                score=_number(verdict.score),
                threshold=verdict.threshold,
                drifted=verdict.drifted,
                requests=verdict.requests,
                explanation=verdict.explanation,
                facts=verdict.facts,
                example=verdict.example,
            )


def _together(detector: MultivariateDetector, fitted: FittedMultivariate, window: Joint) -> MultivariateDrift:
    """One answer about all numeric features; a method that fails says so and never stops the others."""
    verdict, error = Verdict(math.nan, detector.threshold, drifted=False, exact=False), None
    try:
        verdict = fitted.compare(window)
    except Exception as failure:  # noqa: BLE001 - whatever it is, it is told in the report
        error = f"{type(failure).__name__}: {failure}"
    return MultivariateDrift(
        method=detector.name,
        direction=detector.direction,
        score=_number(verdict.score),
        threshold=verdict.threshold,
        drifted=bool(verdict.drifted),
        exact=verdict.exact,
        explanation=verdict.explanation,
        error=error,
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
    source: Table, method: DriftDetector, reference: ColumnSummary, window: ColumnSummary, *, auto: bool
) -> ColumnDrift:
    """One answer; a method that fails is a failed score with its reason, and never stops the others."""
    shared = {
        "name": reference.name,
        "source": source,
        "type": reference.type,
        "method": method.label,
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


@dataclass(frozen=True, slots=True)
class Scored:
    """What is known of the predictions of one window."""

    predictions: int
    counts: PredictionCounts | None
    """In the bins of the reference; None without one."""
    sums: PerformanceSums
    """Of those that have their label."""

    @property
    def missing(self) -> int:
        """Predictions without a label."""
        return max(self.predictions - self.sums.joined - self.sums.unusable, 0)


FEWEST_LABELS = 20
"""Alarms go by so many labels, and by the estimate before there are so many: a few labels say little."""


def performance_record(
    model: str, yardstick: Yardstick, report: Report, scored: Scored, duplicates: int | None
) -> Performance:
    """How good the predictions of a window are."""
    names, sums, reference = yardstick.settings.metrics, scored.sums, yardstick.reference
    final = report.status == "final"
    measured = sums.metrics(names)
    foreseen, covered, estimated = {}, None, None
    if reference is not None and scored.counts is not None and scored.missing:
        found = estimate(reference, scored.counts, names)
        foreseen = {name: one.value for name, one in found.metrics.items()}
        covered = _number(found.covered)
        estimated = {name: _estimated(found.metrics.get(name)) for name in names}
    by: Literal["labels", "estimate"] | None = None
    if sums.joined and (final or sums.joined >= FEWEST_LABELS):
        by = "labels"
    elif foreseen:
        by = "estimate"
    beyond = [] if by is None else list(yardstick.settings.alarms(measured if by == "labels" else foreseen))
    return Performance(
        id=_id(model, report, "performance"),
        model=model,
        model_version=yardstick.model_version,
        detected_at=rfc3339(time.time_ns() // 1_000_000),
        segment=report.segment,
        baseline=yardstick.baseline,
        window=Window(rfc3339(report.start), rfc3339(report.end)),
        every=yardstick.every,
        status=report.status,
        revision=report.revision,
        prediction=yardstick.plan.prediction,
        counts=PerformanceCounts(
            predictions=scored.predictions,
            labelled=sums.joined + sums.unusable,
            unusable=sums.unusable,
            waiting=0 if final else scored.missing,
            expired=scored.missing if final else 0,
            duplicates=duplicates,
        ),
        metrics={name: _number(value) for name, value in measured.items()},
        estimated=estimated,
        covered=covered,
        reference=None
        if reference is None
        else {name: _number(value) for name, value in reference.sums.metrics(names).items()},
        unestimated=yardstick.unestimated,
        limits=dict(yardstick.settings.limits),
        alarm=PerformanceAlarm(raised=bool(beyond), metrics=beyond, judged_by=by),
    )


def _estimated(found: Estimate | None) -> Estimated | None:
    if found is None or not math.isfinite(found.value):
        return None
    low, high = found.interval
    return Estimated(value=found.value, low=_number(low), high=_number(high))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _rows(matrix: np.ndarray) -> list[list[float | None]]:
    return [[_number(value) for value in row] for row in matrix.tolist()]
