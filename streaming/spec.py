"""ModelMonitor: the one document that configures a model, read by every room.

YAML, Kubernetes-shaped, parsed once. Defaults make a twelve-line document enough. Sections that another room owns are
defined there (`reference.schema`, `reference.settings`, the detectors) and only composed here.
"""

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import GenerateJsonSchema

from detectors.base import ColumnType, DriftDetector, LearnedOutlierDetector, OutlierDetector
from detectors.drift import DEFAULTS, DriftMethod
from detectors.for_evidently import UNRESOLVED
from detectors.multivariate import MultivariateMethod
from detectors.multivariate.base import MultivariateDetector
from detectors.outliers import OutlierMethod
from detectors.outliers.bounds import Bounds
from detectors.outliers.k_sigma import KSigma
from detectors.outliers.missing import Missing
from detectors.outliers.nonfinite import NonFinite
from detectors.outliers.unseen_category import UnseenCategory
from detectors.performance.settings import Performance
from detectors.sequential.base import SequentialDetector
from detectors.settings import Duration, Settings, format_duration
from detectors.statistics.metrics import METRICS, SHARES
from detectors.traffic import TrafficMethod
from detectors.traffic.base import TrafficDetector
from reference.schema import Model, Name
from reference.segments import FeatureOrHeader, Segments
from reference.settings import Reference
from streaming.document import Document, NotADocument, Problem, in_words, misplaced
from streaming.errors import InvalidMonitor
from streaming.kafka import KafkaConnection
from streaming.logger.settings import Spool
from streaming.logger.settings_events import Match, Mirror, Redaction, misfits
from streaming.operations import Metrics
from streaming.series import Series

API_VERSION: Final = "driftline.io/v1"


S = TypeVar("S", bound=Settings)


class Metadata(Settings):
    """Kubernetes' object metadata, as far as a ModelMonitor has it."""

    name: Name
    """Names the model, its topics, its baselines and its objects on a cluster."""
    namespace: Name | None = None
    """Where its objects go, on a cluster."""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Topics(Settings):
    """Names of the topics; `{model}` stands for the model's name."""

    inference: str = "{model}-inference"
    labels: str = "{model}-labels"
    outliers: str = "{model}-outliers"
    statistics: str = "{model}-statistics"
    drift: str = "{model}-drift"
    performance: str = "{model}-performance"
    deadletter: str = "{model}-deadletter"
    events: str = "{model}-events"

    def named(self, model: str) -> "Topics":
        """The same with the model's name filled in."""
        return Topics(**{kind: text.replace("{model}", model) for kind, text in self.model_dump().items()})


class Kafka(KafkaConnection):
    """Where the inference log is and where the reports go."""

    topics: Topics = Topics()
    partitions: int = Field(default=4, ge=1)
    """Of the inference topic when the project creates it; the stateless stage scales with them."""
    replication_factor: int = Field(default=1, ge=1)
    """Of every topic the project creates."""
    create_topics: bool = True
    """Create missing topics; else wait for them."""
    topic_timeout: Duration = timedelta(seconds=60)
    """How long to wait until all topics are there."""
    max_message_bytes: int = Field(default=1 << 20, ge=1024)
    """A larger message goes to the dead-letter topic."""
    starting_offsets: Literal["earliest", "latest"] = "earliest"
    """Where a monitor without a checkpoint begins."""

    @property
    def largest_message(self) -> int:
        """Bytes that a message of the inference topic may have; what is too large to be monitored still fits, to be told of."""
        return max(12 * self.max_message_bytes, 4 << 20)

    @property
    def largest_record(self) -> int:
        """Bytes that a record of the monitor may have: a dead letter holds the largest message in base64."""
        return self.largest_message // 3 * 4 + (1 << 20)


class WindowSection(Settings):
    """Event-time windows: tumbling, or sliding when `slide` is shorter than `duration`."""

    duration: Duration = timedelta(minutes=5)
    """How long a window is, in event time."""
    slide: Duration | None = None
    """How far apart windows begin. Default: `duration` (tumbling)."""
    every: int | None = Field(default=None, ge=1)
    """Windows of so many instances instead of a duration. A window closes with the first micro-batch that reaches the number, so where one
    ends and the next begins is not reproducible."""
    watermark_delay: Duration = timedelta(seconds=30)
    """How much out of order events may come and still be counted."""
    idle_timeout: Duration = timedelta(minutes=1)
    """A partition silent for this long (processing time) no longer holds windows open. When all are, windows close by the
    clock on the wall, `watermarkDelay` after their end."""
    max_clock_skew: Duration = timedelta(minutes=1)
    """An event time further ahead of Kafka's own timestamp than this goes to the dead-letter topic."""
    emit_every: Duration = timedelta(seconds=1)
    """A changed window reports provisionally at most this often (processing time)."""
    provisional: bool = True
    """Whether windows report before they close."""
    join_wait: Duration = timedelta(seconds=30)
    """How long a request and its response wait for each other (processing time) where there are segments: features say of which segment a
    prediction is. A response whose request does not come in that time is in no segment of a feature."""
    no_traffic: Duration | None = None
    """A model without any message for this long (processing time) is an alarm of its own, the event `noTraffic`. Windows without messages
    make no reports. Default: silence is no alarm."""

    @model_validator(mode="after")
    def _panes_tile_the_window(self) -> Self:
        zero = timedelta()
        for name in ("duration", "idle_timeout"):
            if getattr(self, name) <= zero:
                raise misplaced(
                    [to_camel(name)],
                    f"{format_duration(getattr(self, name))} is no time at all: it must be longer than 0s",
                )
        if self.every is not None and self.slide is not None:
            raise misplaced(["slide"], "does nothing for windows of a number of instances: remove it, or `every`")
        if self.slide is not None and (self.slide <= zero or self.duration % self.slide != zero):
            duration, slide = format_duration(self.duration), format_duration(self.slide)
            raise misplaced(
                ["slide"],
                f"duration {duration} is not divisible by slide {slide}: windows are made of panes one slide long, "
                "so choose a slide that divides the duration",
            )
        return self

    @property
    def pane(self) -> timedelta:
        """Length of a pane: the slide, or the whole of a tumbling window."""
        return self.slide or self.duration


_SKETCHED = ("percentiles", "iqr", "median", "mad")
"""Statistics that are read off the values, or off a sketch of them."""
_STRUCTURED = (*_SKETCHED, "distribution", "covariance", "correlation", "distinct", "frequent")
"""Statistics that are more than one number read off one column's moments."""
if TYPE_CHECKING:
    Statistic = str
else:
    Statistic = Literal[(*METRICS, *SHARES, *_STRUCTURED)]


class StatisticsSection(Settings):
    """What is reported of every window."""

    metrics: tuple[Statistic, ...] = (
        "min", "max", "mean", "stddev", "percentiles", "iqr", "distribution", "distinct", "frequent",
    )  # fmt: skip
    """Which statistics; `deploy/schema/statistics.schema.json` says how each is reported."""
    percentiles: tuple[float, ...] = (5, 25, 50, 75, 95)
    """In percent, 0 to 100."""
    bins: int | None = Field(default=None, ge=1, le=1000)
    """Bins of the reported distribution. Default: Sturges' rule on the reference."""
    edges: dict[str, tuple[float, ...]] = {}
    """Column -> its own bin edges, ascending, instead of automatic ones."""
    frequent: int = Field(default=10, ge=1, le=1000)
    """How many of the most frequent categories are reported."""

    @property
    def needs_quantiles(self) -> bool:
        """Whether a sketch of the values is wanted."""
        return not set(_SKETCHED).isdisjoint(self.metrics)

    @model_validator(mode="after")
    def _percentiles_and_edges_make_sense(self) -> Self:
        wrong = [p for p in self.percentiles if not 0 <= p <= 100]
        if wrong:
            msg = f"percentiles {wrong} are outside 0 to 100: give them in percent"
            raise ValueError(msg)
        for column, edges in self.edges.items():
            if len(edges) < 2 or any(b <= a for a, b in pairwise(edges)):
                msg = f"edges of {column!r} are {list(edges)}: give at least two, strictly ascending"
                raise ValueError(msg)
        return self


def _named_once(section: S, key: str, detectors: Sequence[Any]) -> S:
    """The section itself, when no two of its detectors have one name."""
    names = [detector.name for detector in detectors]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise misplaced([key, place], f"{name!r} is named twice: records tell detectors apart by name")
    return section


class OutliersSection(Settings):
    """What is checked of every single instance."""

    detectors: tuple[OutlierMethod, ...] = (Bounds(), KSigma(), UnseenCategory(), Missing(), NonFinite())
    """By name, or with settings: `[bounds, {name: k_sigma, k: 4}]`. An empty list switches outliers off. Those that learn a model do so
    when the baseline is built, and the distribution of their scores is watched for drift, too."""

    @model_validator(mode="after")
    def _each_is_named_once(self) -> Self:
        return _named_once(self, "detectors", self.detectors)

    @property
    def learned(self) -> tuple[LearnedOutlierDetector, ...]:
        """Those that learn a model when the baseline is built."""
        return tuple(detector for detector in self.detectors if isinstance(detector, LearnedOutlierDetector))


class DriftSection(Settings):
    """How a window is compared with the reference."""

    methods: tuple[DriftMethod | Literal["auto"], ...] = ("auto",)
    """Applied to every column they are made for; `auto` is Evidently's default choice."""
    columns: dict[str, tuple[DriftMethod | Literal["auto"], ...]] = {}
    """Column -> its own methods instead."""
    multivariate: tuple[MultivariateMethod, ...] = ()
    """Applied to all numeric features together, where a change may hide that no single column shows."""
    share: float = Field(default=0.5, gt=0, le=1)
    """The data set drifts when at least this share of the columns does."""
    correction: Literal["none", "benjaminiHochberg"] = "none"
    """Many columns make many tests, of which some alarm by chance: `benjaminiHochberg` adjusts the p-values of a window so that
    of the columns called drifted at most the threshold's share are so by chance."""
    min_windows: int = Field(default=1, ge=1)
    """The data set must drift in so many windows in a row before that is an alarm."""
    sample_rows: int = Field(default=1000, ge=100, le=10_000)
    """Rows of a window that are sampled for methods that compare rows or whole columns; others cost nothing."""

    @model_validator(mode="after")
    def _each_is_named_once(self) -> Self:
        return _named_once(self, "multivariate", self.multivariate)

    def needs_sample(self) -> bool:
        """Whether any method wants a sample of the window's rows."""
        methods = (*self.methods, *(method for own in self.columns.values() for method in own))
        return any(method != "auto" and method.needs_values for method in methods) or any(
            method.needs_sample for method in self.multivariate
        )


class Traffic(Settings):
    """Whether somebody probes, copies or floods the model."""

    detectors: tuple[TrafficMethod, ...] = ()
    """By name, or with settings."""
    client: FeatureOrHeader | None = None
    """By which requests are also looked at client by client. Default: only all together."""

    @model_validator(mode="after")
    def _each_is_named_once(self) -> Self:
        return _named_once(self, "detectors", self.detectors)


class Reports(Settings):
    """Where the reporter publishes."""

    workspace: str = "driftline-workspace"
    """Directory of the Evidently workspace."""
    project: str | None = None
    """Name of the Evidently project. Default: the model's name."""
    html: str = "driftline-report.html"
    """The one page that shows everything."""


class Resources(Settings):
    """Of one container."""

    cores: int = Field(default=1, ge=1)
    """Whole processor cores."""
    memory: str = Field(default="1g", pattern=r"^\d+[mg]$")
    """As Spark and the JVM write it: `512m`, `2g`."""


class Executors(Resources):
    """Of the Spark executors."""

    instances: int = Field(default=2, ge=1)
    """How many there are."""


class Job(Settings):
    """How the Spark job runs."""

    checkpoint: str = "driftline-checkpoint"
    """Durable directory of offsets, state and commits; every monitor has its own."""
    master: str = "local[*]"
    """Spark master URL."""
    image: str = "driftline:0.1.0"
    """Container image, on a cluster."""
    driver: Resources = Resources(memory="2g")
    executors: Executors = Executors()
    max_offsets_per_trigger: int | None = Field(default=250_000, ge=1)
    """Bound of one micro-batch in messages, so that catching up neither exhausts memory nor starves the reports."""
    trigger_interval: Duration = timedelta()
    """Time between the beginnings of two micro-batches; 0s: one begins as soon as the other ends."""
    state_partitions: int | None = Field(default=None, ge=1)
    """Partitions of the stateful stage. Fixed for the life of a checkpoint. Default: those that the checkpoint has; a new one gets one for a
    single model without segments, which is one key, and otherwise one for each core of the executors, two at least."""
    timeout: Duration | None = None
    """Stop after this long. Default: never."""
    target_batch: Duration = timedelta(seconds=5)
    """How long a full micro-batch may take: its bound is sized from the throughput that was measured, at every start of the query, and never
    above `maxOffsetsPerTrigger`."""
    metrics: Metrics = Metrics()
    """Health endpoint and Prometheus metrics of the running monitor."""
    refresh_interval: Duration = timedelta(seconds=10)
    """How often a running monitor looks for changed files, published baselines and topics that were created again."""
    spark: dict[str, str] = {}
    """Further Spark properties, for instance `spark.executor.extraJavaOptions`."""


class Autoscaling(Settings):
    """How many loggers a cluster runs. Not available yet: more than one is refused."""

    metric: Literal["concurrency", "rps", "cpu"] = "concurrency"
    """What is held at `target`."""
    target: float = Field(default=100, gt=0)
    """Requests at a time, requests a second, or percent of a core, for each logger."""
    window: Duration = timedelta(seconds=60)
    """Over which the metric is averaged."""
    panic_window: Duration = timedelta(seconds=6)
    """The same in a burst."""
    min_scale: int = Field(default=1, ge=1)
    """Loggers at least."""
    max_scale: int = Field(default=1, ge=1)
    """Loggers at most."""


class Logger(Settings):
    """The inference logger between the model server and Kafka."""

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` is every one."""
    port: int = Field(default=8085, ge=0, le=65535)
    """0 chooses a free one."""
    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    """A larger request is answered with 413."""
    acknowledge_timeout: Duration = timedelta(seconds=10)
    """How long Kafka may take to acknowledge before the caller is told 503."""
    spool: Spool | None = None
    """Where events wait while Kafka is away, on disk; their callers are answered with 200. Default: they are told 503."""
    match: Match = Match()
    """Which events of the inference service are this model's; needed where several models are behind one service."""
    sample: float = Field(default=1, gt=0, le=1)
    """The share of the events that is kept. By the hash of the request id: a request and its response are kept, or not, together."""
    redact: tuple[Redaction, ...] = ()
    """Features and predictions that do not leave the logger as they came. An event in which they cannot be found for certain is not kept."""
    mirror: Mirror | None = None
    """Another logger that gets a copy of every event, before sampling and after redaction."""
    resources: Resources = Resources(memory="512m")
    """Of its container, on a cluster."""
    autoscaling: Autoscaling = Autoscaling()
    """On a cluster."""

    @model_validator(mode="after")
    def _an_event_fits_into_the_spool(self) -> Self:
        if self.spool is not None and self.spool.max_bytes < 4 * self.max_body_bytes:
            raise misplaced(
                ["spool", "maxBytes"],
                f"{self.spool.max_bytes} holds less than four events of maxBodyBytes ({self.max_body_bytes}): make it larger",
            )
        return self


class Spec(Settings):
    """The body of a ModelMonitor."""

    model: Model
    kafka: Kafka = Kafka()
    window: WindowSection = WindowSection()
    statistics: StatisticsSection = StatisticsSection()
    outliers: OutliersSection = OutliersSection()
    drift: DriftSection = DriftSection()
    performance: Performance = Performance()
    segments: Segments = Segments()
    sequential: tuple[Series, ...] = ()
    """Series that are watched number by number, across windows."""
    traffic: Traffic = Traffic()
    reference: Reference = Reference()
    reports: Reports = Reports()
    job: Job = Job()
    logger: Logger = Logger()

    @model_validator(mode="after")
    def _what_is_asked_for_is_there(self) -> Self:
        """A key that did nothing would be a lie: what this version cannot do yet is refused."""
        for place, wanted, instead in (
            (["logger", "autoscaling", "maxScale"], self.logger.autoscaling.max_scale > 1, "leave it at 1"),
        ):
            if wanted:
                raise misplaced(place, f"is not available in this version: {instead}")
        return self

    @model_validator(mode="after")
    def _columns_that_are_named_exist(self) -> Self:
        known = {column.name: column for column in (*self.model.features, *self.model.predictions)}
        for section, key, names in (
            ("drift", "columns", self.drift.columns),
            ("statistics", "edges", self.statistics.edges),
        ):
            for name in names:
                if name not in known:
                    raise misplaced(
                        [section, key, name],
                        f"{name!r} is no feature or prediction of the model: known are: {', '.join(known)}",
                    )
        for place, key, text in misfits(self.logger.redact, known):
            raise misplaced(["logger", "redact", place, key], text)
        for name, text in self.reference.gate.misfits(known):
            raise misplaced(["reference", "gate", "columns", name], text)
        for place, text in self.segments.misfits(self.model):
            raise misplaced(["segments", "by", place], text)
        for path, text in self.performance.problems([(column.name, column.type) for column in self.model.predictions]):
            raise misplaced(["performance", *path], text)
        client = self.traffic.client
        if client is not None and not self.traffic.detectors:
            raise misplaced(["traffic", "client"], "does nothing without traffic.detectors: name some")
        if client is not None and client.feature is not None:
            candidates = [column.name for column in self.model.request_schema.categorical]
            if client.feature not in candidates:
                raise misplaced(
                    ["traffic", "client", "feature"],
                    f"{client.feature!r} is no categorical feature of the model: those are: {', '.join(candidates) or 'none'}",
                )
        learned = {detector.name for detector in self.outliers.learned}
        flagging = [detector.name for detector in self.outliers.detectors]
        for place, series in enumerate(self.sequential):
            if series.column is not None and series.column not in known and series.column not in learned:
                raise misplaced(
                    ["sequential", place, "column"],
                    f"{series.column!r} is no feature or prediction of the model, nor a learnt outlier detector: known are: "
                    f"{', '.join([*known, *learned])}",
                )
            column = known.get(series.column or "")
            kind = "numeric" if column is None else column.type  # the scores of an outlier detector are numbers
            if kind == "categorical" and series.score is None and series.statistic not in (*SHARES, "distinct"):
                raise misplaced(
                    ["sequential", place, "column"],
                    f"{series.column!r} is categorical, so it has no numbers to watch: give `score`, or one of the statistics "
                    f"{', '.join((*SHARES, 'distinct'))}",
                )
            if series.statistic is not None and series.statistic not in self.statistics.metrics:
                raise misplaced(
                    ["sequential", place, "statistic"],
                    f"{series.statistic!r} is not among statistics.metrics, so no window has it: add it there",
                )
            if series.score is not None:
                scores = self._scores(series.column or "", kind)
                if series.score not in scores:
                    raise misplaced(
                        ["sequential", place, "score"],
                        f"no window has {series.score!r} of {series.column!r}: by drift.methods and drift.columns it may have "
                        f"{', '.join(sorted(scores)) or 'no score'}",
                    )
            if series.outliers is not None and series.outliers not in flagging:
                raise misplaced(
                    ["sequential", place, "outliers"],
                    f"{series.outliers!r} is none of outliers.detectors: they are: {', '.join(flagging) or 'none'}",
                )
        if self.drift.multivariate and len(self.model.request_schema.numeric) < _TOGETHER:
            raise misplaced(["drift", "multivariate"], "needs at least two numeric features: leave it empty")
        for name, methods in self.drift.columns.items():
            for place, method in enumerate(methods):
                if method != "auto" and known[name].type not in method.applies_to:
                    raise misplaced(
                        ["drift", "columns", name, place],
                        f"{method.name!r} is for {' and '.join(sorted(method.applies_to))} columns: "
                        f"{name!r} is {known[name].type}",
                    )
        return self

    def _scores(self, column: str, kind: ColumnType) -> set[str]:
        """Names of the drift methods that may score a column."""
        own = self.drift.columns.get(column)
        names: set[str] = set()
        for method in self.drift.methods if own is None else own:
            if method == "auto":
                names |= DEFAULTS[kind]
            elif kind in method.applies_to:
                names.add(method.label)
        return names


class ModelMonitor(Settings):
    """One monitored model."""

    api_version: Literal["driftline.io/v1"] = API_VERSION
    kind: Literal["ModelMonitor"] = "ModelMonitor"
    metadata: Metadata
    spec: Spec

    @model_validator(mode="before")
    @classmethod
    def _fill_in_names(cls, document: Any) -> Any:
        """The model is called after the document unless it says otherwise."""
        try:
            spec = document["spec"]
            said = {key: value for key, value in spec["model"].items() if value is not None}
            model = {"name": document["metadata"]["name"], **said}
            model.setdefault("inferenceService", model["name"])
        except (TypeError, KeyError, AttributeError):
            return document  # the fields' own messages say better what is missing
        return {**document, "spec": {**spec, "model": model}}

    @property
    def name(self) -> str:
        """The model's name, which names its topics, baselines and reports."""
        assert self.spec.model.name is not None  # filled in above
        return self.spec.model.name

    @property
    def topics(self) -> Topics:
        """The topics' names, filled in."""
        return self.spec.kafka.topics.named(self.name)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The topics that are read: requests and responses, and labels where performance is asked for."""
        topics = self.topics
        return (topics.inference, topics.labels) if self.spec.performance.metrics else (topics.inference,)


def parse(text: str, origin: str, *, importing: bool = True) -> ModelMonitor:
    """Read a ModelMonitor from YAML.

    Parameters
    ----------
    origin
        Stands in messages: the file's name.
    importing
        Whether drift methods that are functions of the user's are imported, to see that they are there. A process that
        computes no drift needs none of them.

    Raises
    ------
    InvalidMonitor
        With one line for each thing that is wrong: its line, path and value, and what would do.
    """
    try:
        document = Document(text, origin)
    except NotADocument as error:
        raise InvalidMonitor([error.problem]) from None
    if not isinstance(document.value, dict):
        holds = "nothing" if document.value is None else f"a {type(document.value).__name__}"
        said = f"holds {holds}, not a mapping: a ModelMonitor begins with 'apiVersion: {API_VERSION}'"
        raise InvalidMonitor([Problem(origin, None, "", said)])
    try:
        context = None if importing else UNRESOLVED
        return ModelMonitor.model_validate(document.value, by_alias=True, by_name=False, context=context)
    except ValidationError as error:
        raise InvalidMonitor(in_words(error.errors(include_url=False), document, json_schema())) from None


def load(path: Path, *, importing: bool = True) -> ModelMonitor:
    """Read a ModelMonitor from a file, as `parse`; raises InvalidMonitor also when there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise InvalidMonitor([Problem(str(path), None, "", f"cannot be read: {reason}")]) from None
    return parse(text, str(path), importing=importing)


def absolute(monitor: ModelMonitor) -> ModelMonitor:
    """The same with local paths made absolute, because Spark's workers may have another working directory."""
    spec = monitor.spec
    return monitor.model_copy(
        update={
            "spec": spec.model_copy(
                update={
                    "reference": spec.reference.model_copy(update={"store": _absolute(spec.reference.store)}),
                    "job": spec.job.model_copy(update={"checkpoint": _absolute(spec.job.checkpoint)}),
                },
            ),
        },
    )


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).resolve())


def dump(monitor: ModelMonitor) -> str:
    """The ModelMonitor as YAML: what differs from the defaults, in the order of the schema; `parse` reads it back equal."""
    document = {"apiVersion": monitor.api_version, "kind": monitor.kind, **_brief(monitor)}
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the document, for editors and for messages."""
    schema = ModelMonitor.model_json_schema(schema_generator=_WithOurDefaults)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


class _WithOurDefaults(GenerateJsonSchema):
    """Writes the default of a duration as a ModelMonitor would; Pydantic's own way (``PT1M``) is none that we read."""

    def encode_default(self, dft: Any) -> Any:
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


_TOGETHER = 2
_DETECTORS = (DriftDetector, OutlierDetector, MultivariateDetector, SequentialDetector, TrafficDetector)


def _brief(value: Any, written: Any = None) -> Any:
    """What a settings object says beyond its defaults; `written` is its full JSON form."""
    if isinstance(value, Settings) and not isinstance(written, str):
        written = value.model_dump(mode="json", by_alias=True) if written is None else written
        brief: dict[str, Any] = {}
        for name, field in type(value).model_fields.items():
            inner, key = getattr(value, name), field.alias or name
            tag = isinstance(value, _DETECTORS) and name == "name"
            if tag or inner != field.get_default(call_default_factory=True):
                brief[key] = _brief(inner, written[key])
        return brief["name"] if isinstance(value, _DETECTORS) and brief.keys() == {"name"} else brief
    if isinstance(value, tuple):
        return [_brief(inner, text) for inner, text in zip(value, written, strict=True)]
    if isinstance(value, dict):
        return {key: _brief(inner, written[key]) for key, inner in value.items()}
    return written
