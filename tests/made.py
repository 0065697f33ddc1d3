"""Records as the monitor would write them, made up: for tests of what comes after it."""

from datetime import UTC, datetime, timedelta

import msgspec

from streaming.reports import (
    Alarm,
    ColumnDrift,
    ColumnStatistics,
    Counts,
    DeadLetter,
    Drift,
    Estimated,
    Event,
    HistogramBins,
    Outlier,
    OutlierFeature,
    Performance,
    PerformanceAlarm,
    PerformanceCounts,
    Statistics,
    Window,
    WindowRecord,
)

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
LENGTH = timedelta(minutes=5)


def rfc3339(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z"


def window(number: int) -> Window:
    return Window(rfc3339(BEGIN + number * LENGTH), rfc3339(BEGIN + (number + 1) * LENGTH))


def _shared(number: int, kind: str, status: str, revision: int, segment: str, baseline: str, model: str) -> dict:
    where = window(number)
    which = "final" if status == "final" else f"r{revision}"
    return {
        "id": f"{model}/{segment or '-'}/{where.start}/{where.end}/{kind}/{which}",
        "model": model,
        "model_version": "7",
        "detected_at": where.end,
        "segment": segment,
        "baseline": baseline,
        "window": where,
        "status": status,
        "revision": revision,
    }


def scored(name: str = "x", score: float | None = 0.02, **changes) -> ColumnDrift:
    """A distance with threshold 0.1, unless said otherwise."""
    settings = {
        "name": name,
        "source": "request",
        "type": "numeric",
        "method": "wasserstein",
        "direction": "distance",
        "score": score,
        "threshold": 0.1,
        "exact": True,
        "explanation": {"[0, 1)": 0.75},
        "auto": True,
        **changes,
    }
    low = settings["direction"] == "p-value"
    score, threshold = settings["score"], settings["threshold"]
    settings.setdefault("drifted", score is not None and (score <= threshold if low else score >= threshold))
    return ColumnDrift(**settings)


def drift(
    number: int = 0,
    *columns: ColumnDrift,
    status: str = "final",
    revision: int = 3,
    segment: str = "",
    baseline: str = "b1",
    model: str = "toy",
    rows: int = 100,
) -> Drift:
    columns = columns or (scored("x", 0.02), scored("y", 0.3), scored("where", 0.01, type="categorical"))
    drifted = len({column.name for column in columns if column.drifted})
    share = drifted / len({column.name for column in columns})
    return Drift(
        **_shared(number, "drift", status, revision, segment, baseline, model),
        rows=rows,
        reference_rows=5000,
        columns=list(columns),
        drifted_columns=drifted,
        judged_columns=len({column.name for column in columns}),
        share=share,
        share_threshold=0.5,
        drifted=share >= 0.5,
        explanation={},
        multivariate=[],
        sequential=[],
        traffic=[],
        alarm=Alarm(raised=share >= 0.5, windows=int(share >= 0.5), min_windows=1),
    )


def statistics(
    number: int = 0,
    *,
    status: str = "final",
    revision: int = 3,
    segment: str = "",
    baseline: str = "b1",
    model: str = "toy",
    rows: int = 100,
    outliers: int = 2,
) -> Statistics:
    return Statistics(
        **_shared(number, "statistics", status, revision, segment, baseline, model),
        counts=Counts(requests=rows, responses=0, missing=1, nonfinite=0, late=0, dead=0, outliers=outliers),
        exact=True,
        columns=[
            ColumnStatistics(
                name="x",
                source="request",
                type="numeric",
                count=rows - 1,
                missing=1,
                nonfinite=0,
                values={"min": -1.5, "max": 9.0, "mean": 3.25, "stddev": 2.0, "p50": 3.0, "p99.9": 8.5, "iqr": None},
                distribution=HistogramBins([0.0, 1.0, 2.0], [40.0, 58.0], 1.0, 0.0),
            ),
            ColumnStatistics(
                name="where",
                source="request",
                type="categorical",
                count=rows,
                missing=0,
                nonfinite=0,
                values={},
                categories={"ATL": rows - 30, "JFK": 30},
            ),
        ],
    )


def outlier(
    number: int = 0, *, detector: str = "k_sigma", value: float | str | None = 99.5, model: str = "toy"
) -> Outlier:
    return Outlier(
        id=f"toy-inference/0/{number}/0/{detector}",
        model=model,
        model_version="7",
        detected_at=rfc3339(BEGIN),
        segment="",
        baseline="b1",
        event_time=rfc3339(BEGIN + timedelta(seconds=number)),
        request_id=f"request-{number}",
        instance=0,
        source="request",
        detector=detector,
        score=4.5,
        threshold=3.0,
        features=[OutlierFeature(name="x", value=value, low=-3.0, high=3.0, contribution=4.5)],
        topic="toy-inference",
        partition=0,
        offset=number,
    )


def dead_letter(
    number: int = 0, *, reason: str = "malformed", message: str = "not JSON", model: str = "toy"
) -> DeadLetter:
    return DeadLetter(
        id=f"toy-inference/0/{number}",
        model=model,
        model_version="7",
        detected_at=rfc3339(BEGIN),
        reason=reason,
        message=message,
        topic="toy-inference",
        partition=0,
        offset=number,
        timestamp=rfc3339(BEGIN),
        event_time=None,
        key=None,
        value="bm90IEpTT04=",
        size=8,
    )


def event(
    number: int = 0, reason: str = "baselineAdopted", *, message: str = "b2 from here on", model: str = "toy"
) -> Event:
    """Told so many minutes after the beginning."""
    at = rfc3339(BEGIN + timedelta(minutes=number))
    return Event(
        id=f"{model}/{reason}/{number}",
        model=model,
        model_version="7",
        detected_at=at,
        reason=reason,
        message=message,
        alarm=reason in ("monitorRefused", "baselineRefused", "topicRecreated", "noTraffic"),
    )


def performance(
    number: int = 0,
    measured: float | None = 0.9,
    estimated: Estimated | None = None,
    *,
    metric: str = "accuracy",
    labelled: int = 100,
    predictions: int = 100,
    reference: float | None = 0.93,
    limit: float | None = 0.85,
    status: str = "provisional",
    revision: int = 1,
    segment: str = "",
    baseline: str = "b1",
    model: str = "toy",
) -> Performance:
    """One metric, best high, unless said otherwise."""
    by = "labels" if labelled >= 20 else None if estimated is None else "estimate"
    value = measured if by == "labels" else estimated and estimated.value
    raised = limit is not None and value is not None and value < limit
    return Performance(
        **_shared(number, "performance", status, revision, segment, baseline, model),
        prediction="late",
        counts=PerformanceCounts(
            predictions=predictions,
            labelled=labelled,
            unusable=0,
            waiting=0 if status == "final" else predictions - labelled,
            expired=predictions - labelled if status == "final" else 0,
            duplicates=0,
        ),
        metrics={metric: measured},
        estimated=None if estimated is None else {metric: estimated},
        covered=None if estimated is None else 1.0,
        reference=None if reference is None else {metric: reference},
        limits={} if limit is None else {metric: limit},
        alarm=PerformanceAlarm(raised=raised, metrics=[metric] if raised else [], judged_by=by),
    )


def counted(record: WindowRecord, number: int, start: datetime, end: datetime, *, every: int = 1000) -> WindowRecord:
    """The same of a counted window, whose span is that of its instances."""
    model, segment = record.model, record.segment or "-"
    which = "final" if record.status == "final" else f"r{record.revision}"
    identity = f"{model}/{segment}/{number:09d}/{record.kind}/{which}"
    return msgspec.structs.replace(record, id=identity, window=Window(rfc3339(start), rfc3339(end)), every=every)


def encoded(record: msgspec.Struct) -> bytes:
    return msgspec.json.encode(record)
