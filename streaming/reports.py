"""What the monitor writes: one record type per topic, each with a JSON Schema kept as a golden file.

Every record has a deterministic `id`: the same input gives the same ids after a crash, so a consumer can drop the
duplicates of an at-least-once sink. A number that is not defined (an empty window has no mean) is `null`.
"""

from typing import Any, Literal

import msgspec

KINDS = ("outlier", "statistics", "drift", "performance", "deadletter", "event")
Status = Literal["provisional", "final"]
EventReason = Literal[
    "modelAdded",
    "modelRemoved",
    "monitorChanged",
    "monitorRefused",
    "baselineAdopted",
    "baselineRefused",
    "topicRecreated",
    "noTraffic",
    "trafficResumed",
]


class Record(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=False):
    """What all records share."""

    id: str
    """Deterministic: model, segment, window, kind and revision; or topic, partition, offset, instance and detector."""
    model: str
    model_version: str
    detected_at: str
    """When the monitor wrote the record; RFC 3339, UTC, milliseconds."""


class Window(msgspec.Struct, frozen=True):
    """Event time of a window, half open: start <= t < end. RFC 3339, UTC, milliseconds."""

    start: str
    end: str


class OutlierFeature(msgspec.Struct, rename="camel", kw_only=True):
    """One feature's part in an outlier."""

    name: str
    value: float | str | None
    """The offending value; null where it was missing."""
    low: float | None
    """Lower end of the violated range; null where there is none."""
    high: float | None
    contribution: float
    """The feature's part of the score; the contributions of a record add up to its score."""


class Outlier(Record, kw_only=True):
    """One instance that one detector flagged."""

    kind: Literal["outlier"] = "outlier"
    segment: str
    baseline: str
    event_time: str
    request_id: str
    instance: int
    """Index of the instance in its request."""
    source: Literal["request", "response"]
    detector: str
    score: float
    threshold: float
    features: list[OutlierFeature]
    topic: str
    partition: int
    offset: int


class WindowRecord(Record, kw_only=True):
    """What all records of a window share."""

    segment: str
    baseline: str
    window: Window
    status: Status
    """`provisional` while rows may still come, `final` once."""
    revision: int
    """Counts the reports of this window from 1 on; the final one counts too."""
    every: int | None = None
    """Of a counted window: instances that close it. It closed with the first micro-batch that reached them, and spans the times of what it
    holds: where one ends and the next begins is not reproducible."""


class Counts(msgspec.Struct, rename="camel", kw_only=True):
    """How many rows the window has, and how many it should have had."""

    requests: int
    """Instances in request messages."""
    responses: int
    """Instances in response messages."""
    missing: int
    """Values that were missing (JSON null or an absent key), over all columns."""
    nonfinite: int
    """Values that were NaN or infinite, over all columns."""
    late: int
    """Messages of this model and segment that came after their window had closed, since the previous final report."""
    dead: int
    """Messages of this window's time that went to the dead-letter topic."""
    outliers: int
    """Instances flagged by at least one detector."""


class HistogramBins(msgspec.Struct):
    """A distribution: `counts[i]` values in [edges[i], edges[i+1]) and, for the last bin, up to its end too."""

    edges: list[float]
    counts: list[float]
    """Whole numbers where the edges are marks of the ruler, else interpolated between marks."""
    below: float
    above: float


class ColumnStatistics(msgspec.Struct, rename="camel", kw_only=True):
    """The requested statistics of one column; a statistic that was not asked for is absent."""

    name: str
    source: Literal["request", "response", "score"]
    """`score`: not a column of the model but what the outlier detector of this name says of each instance."""
    type: Literal["numeric", "categorical"]
    count: int
    missing: int
    nonfinite: int
    values: dict[str, float | None]
    """Statistic -> value: min, max, sum, pow2sum, mean, avg, stddev, percentiles (`p25`), iqr, ..."""
    distribution: HistogramBins | None = None
    """Of a numeric column."""
    categories: dict[str, int] | None = None
    """Of a categorical column, or a numeric one with few values in the reference: the most frequent first."""


class Matrix(msgspec.Struct):
    """A symmetric matrix over the named columns, row by row."""

    columns: list[str]
    values: list[list[float | None]]


class Statistics(WindowRecord, kw_only=True):
    """The requested statistics of one window, one record a revision."""

    kind: Literal["statistics"] = "statistics"
    counts: Counts
    exact: bool
    """Whether every value of the window was at hand (at most 1,000 rows)."""
    columns: list[ColumnStatistics]
    covariance: Matrix | None = None
    correlation: Matrix | None = None


class ColumnDrift(msgspec.Struct, rename="camel", kw_only=True):
    """One drift method's answer about one column."""

    name: str
    source: Literal["request", "response", "score"]
    """`score`: not a column of the model but what the outlier detector of this name says of each instance."""
    type: Literal["numeric", "categorical"]
    method: str
    direction: Literal["p-value", "distance"]
    score: float | None
    """Null when there was nothing to compare."""
    threshold: float
    drifted: bool
    exact: bool
    """Whether the score was computed from every single value, else within the bound that the method's docs state."""
    explanation: dict[str, float]
    """What drove the score, largest first: bin or category -> its share of the difference."""
    error: str | None = None
    """Why there is no score, where the method failed."""
    auto: bool = False
    """Whether the method is Evidently's default choice (`auto`), not one that the ModelMonitor names."""
    adjusted: float | None = None
    """The p-value corrected for the number of tests in this window, where the ModelMonitor asks for it; then `drifted` judges by it."""


class MultivariateDrift(msgspec.Struct, rename="camel", kw_only=True):
    """One multivariate method's answer about all numeric features together."""

    method: str
    direction: Literal["p-value", "distance"]
    score: float | None
    """Null when there were too few complete rows to compare."""
    threshold: float
    drifted: bool
    exact: bool
    """Whether every complete row went into it, else a sample of them."""
    explanation: dict[str, float]
    """What drove the score, largest first: feature -> its share."""
    error: str | None = None
    """Why there is no score, where the method failed."""


class SequentialChange(msgspec.Struct, rename="camel", kw_only=True):
    """A change in a series, as a sequential detector saw it."""

    change: Literal["warning", "drift"]
    index: int
    """The observation at which it was seen, counted from 0 since the series began."""
    event_time: str
    """Of that observation: an instance's own time, or the start of a window."""
    statistic: float
    threshold: float
    direction: Literal["up", "down"] | None
    """Where the series went; null where the detector does not tell."""


class SequentialDrift(msgspec.Struct, rename="camel", kw_only=True):
    """What one sequential detector found in its series, as far as this window brought it."""

    series: str
    detector: str
    observations: int
    """Since the series began, this window's included."""
    skipped: int
    """How many of them were missing or not finite."""
    changes: list[SequentialChange]
    """In this window, at most 100."""
    changed: int
    """How many there were in this window."""
    drifted: bool
    """Whether one of them was drift, not only a warning."""


class TrafficDrift(msgspec.Struct, rename="camel", kw_only=True):
    """What one traffic detector says of the requests of one client, or of all, in this window."""

    detector: str
    client: str | None
    """Null: all requests. `(other)`: those of all clients that are not looked at one by one."""
    direction: Literal["p-value", "distance"]
    score: float | None
    """Null when there was too little to judge."""
    threshold: float
    drifted: bool
    """Whether it is an alarm."""
    requests: int
    explanation: dict[str, float]
    """What drove the score, largest first: column or cell -> its share."""
    facts: dict[str, float]
    """Numbers beside the score that help to judge it; the detector's documentation says which."""
    example: dict[str, float | str | None]
    """One offending request, where the detector can show one: its own values, which are personal data where the features are."""


class Alarm(msgspec.Struct, rename="camel", kw_only=True):
    """Whether somebody should be woken."""

    raised: bool
    """The data set drifted in this window and in enough windows before it."""
    windows: int
    """Windows in a row that drifted, this one included; windows without requests do not count."""
    min_windows: int
    """So many must."""


class Drift(WindowRecord, kw_only=True):
    """All drift scores of one window, alarms or not, one record a revision."""

    kind: Literal["drift"] = "drift"
    rows: int
    """Instances in the window."""
    reference_rows: int
    columns: list[ColumnDrift]
    drifted_columns: int
    """Columns of requests and responses that at least one of their methods calls drifted."""
    judged_columns: int
    """Columns of requests and responses that were compared with the reference."""
    share: float
    """drifted columns / judged columns."""
    share_threshold: float
    drifted: bool
    """Dataset drift: share >= shareThreshold."""
    explanation: dict[str, float]
    """The columns with most evidence of drift, largest first: column -> its share of the evidence of all."""
    multivariate: list[MultivariateDrift]
    """`domain_classifier` in final reports only, because it takes its time."""
    sequential: list[SequentialDrift]
    """Only in final reports: every window is shown to a sequential detector once."""
    traffic: list[TrafficDrift]
    """Of all requests first, then of single clients, alarms first, at most 100 of a detector; `extraction` in final reports only, because it takes its time."""
    alarm: Alarm
    unjudged: str | None = None
    """Why nothing was compared: a segment that the reference has too few rows of, or none."""


class PerformanceCounts(msgspec.Struct, rename="camel", kw_only=True):
    """How many predictions the window has, and what became of them."""

    predictions: int
    """Instances in response messages."""
    labelled: int
    """Those that have their label."""
    unusable: int
    """Labelled ones whose label or prediction is null or not a number: in no metric."""
    waiting: int
    """Those whose label may still come."""
    expired: int
    """Those that came without a label for `performance.labelRetention`, and are waited for no more."""
    duplicates: int | None
    """Further labels of predictions that have one, ignored; of this model since the previous record of performance. Null for segments."""


class Estimated(msgspec.Struct, kw_only=True):
    """A metric before its labels come."""

    value: float
    low: float | None
    """Labels will show at least this, with 97.5 % probability if the estimate's assumption holds; null where the error is unknown."""
    high: float | None
    """At most this, likewise."""


class PerformanceAlarm(msgspec.Struct, rename="camel", kw_only=True):
    """Whether somebody should be woken."""

    raised: bool
    metrics: list[str]
    """Those beyond their limits."""
    judged_by: Literal["labels", "estimate"] | None
    """`labels` from 20 labels on, or when no more come; before that the `estimate`. Null when neither is there."""


class Performance(WindowRecord, kw_only=True):
    """How good the predictions of one window are. The first one comes when the window closes, further revisions as labels come."""

    kind: Literal["performance"] = "performance"
    prediction: str
    """The column that labels are compared with."""
    counts: PerformanceCounts
    metrics: dict[str, float | None]
    """Metric -> its value over the labelled predictions; null where it is undefined, as without labels."""
    estimated: dict[str, Estimated | None] | None
    """Metric -> what it will be over all predictions of the window, if labels of equal predictions are distributed as in the reference.
    Null for a metric that cannot be estimated; null altogether when all labels are there, or without a reference."""
    covered: float | None
    """Share of the window's predictions that the estimate is of: all but those with a class that the reference never saw predicted."""
    reference: dict[str, float | None] | None
    """Metric -> its value over the training table."""
    unestimated: str | None = None
    """Why there is no reference, and so no estimate."""
    limits: dict[str, float]
    """Metric -> the value beyond which it is an alarm."""
    alarm: PerformanceAlarm


class DeadLetter(Record, kw_only=True):
    """A message that could not be monitored, whole, with the reason."""

    kind: Literal["deadletter"] = "deadletter"
    reason: str
    message: str
    """What is wrong, in words."""
    topic: str
    partition: int
    offset: int
    timestamp: str
    """Kafka's timestamp of the message."""
    event_time: str | None
    """The message's own time where it could be read."""
    key: str | None
    """base64 of the Kafka key."""
    value: str | None
    """base64 of the Kafka value; null where the message had none."""
    size: int
    """Bytes of the Kafka value. More than `value` holds only where an older topic takes larger messages than a record may be."""


class Event(Record, kw_only=True):
    """Something that happened to the monitoring of a model, not to the model's data."""

    kind: Literal["event"] = "event"
    reason: EventReason
    message: str
    """What happened, in words."""
    alarm: bool
    """Whether somebody should look: a file or a baseline that is refused, a topic that was created again, a model without traffic."""


RECORDS: dict[str, type[Record]] = {
    "outliers": Outlier,
    "statistics": Statistics,
    "drift": Drift,
    "performance": Performance,
    "deadletter": DeadLetter,
    "events": Event,
}
"""Topic suffix -> the type of its records."""


def json_schema(record: type[Record]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one record type."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(record)}
