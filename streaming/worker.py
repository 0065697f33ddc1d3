"""What a Spark worker holds of one ModelMonitor and one baseline: made once a process."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.base import FittedOutlierDetector, FittedScore, FittingColumn, LearnedOutlierDetector
from detectors.for_evidently import UNRESOLVED
from detectors.multivariate.base import FittedMultivariate, Joint, MultivariateDetector
from detectors.outliers.wrong_type import WrongType
from detectors.statistics.block import Block
from detectors.statistics.column import ColumnSummary
from detectors.statistics.embedding import Embedding
from detectors.statistics.table import Plan, TableSummary
from detectors.traffic.base import FittedTraffic
from reference.baseline import SOURCES, Baseline, Part, Source, Table
from reference.schema import Column, Model, Schema
from reference.store import Store
from streaming.messages import Decoder
from streaming.pane import Pane, Plans, milliseconds
from streaming.segments import Segmentation
from streaming.series import Series
from streaming.spec import ModelMonitor
from streaming.yardstick import Yardstick, plan_of


@dataclass(frozen=True)
class Worker:
    """Settings, baseline and everything fitted from them."""

    monitor: ModelMonitor
    baseline: Baseline
    """Whose rulers windows are counted on."""
    version: str
    of: str = ""
    """Name of the segment whose windows are counted; empty: all instances."""
    lean: "Worker | None" = None
    """Of a segment: what it has in common with the others."""

    @classmethod
    def load(cls, monitor: str, version: str) -> "Worker":
        """Of a ModelMonitor as JSON and a baseline of its store."""
        settings = settings_of(monitor)
        return cls(settings, Store(settings.spec.reference.store).load(settings.name, version), version)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.monitor.name

    @cached_property
    def reference(self) -> Part:
        """What windows are compared with: the whole reference, or a segment's part of it."""
        if not self.of:
            whole = self.baseline
            return Part(whole.rows, whole.request, whole.response, whole.score, performance=whole.performance)
        part = self.baseline.segments.get(self.of)
        return Part(0, {}, {}) if part is None or self.unjudged else part

    @cached_property
    def unjudged(self) -> str | None:
        """Why windows of this segment are compared with nothing."""
        return None if self.lean is None else self.lean.without_reference.get(self.of)

    @cached_property
    def without_reference(self) -> dict[str, str]:
        """The segments whose windows are compared with nothing, and why."""
        return self.baseline.without_reference(self.monitor.spec.segments)

    @cached_property
    def segmentation(self) -> Segmentation | None:
        """Which instance is in which segments, where there are any."""
        divisions = self.monitor.spec.segments.divisions(self.baseline.request)
        return Segmentation(divisions, self.schema("request")) if divisions else None

    def segment(self, name: str) -> "Worker":
        """The same for the windows of a segment: of those nothing is asked that looks at features together, or at who sends what."""
        if name not in self._segments:
            lean = self._lean
            self._segments[name] = Worker(lean.monitor, lean.baseline, lean.version, name, lean)
        return self._segments[name]

    @cached_property
    def _segments(self) -> dict[str, "Worker"]:
        return {}

    @cached_property
    def _lean(self) -> "Worker":
        spec = self.monitor.spec
        changes = {
            "drift": spec.drift.model_copy(update={"multivariate": ()}),
            "sequential": (),
            "traffic": spec.traffic.model_copy(update={"detectors": (), "client": None}),
        }
        monitor = self.monitor.model_copy(update={"spec": spec.model_copy(update=changes)})
        return Worker(monitor, self.baseline, self.version)

    def schema(self, table: Table) -> Schema:
        """The columns of requests, of responses, or of the scores of learnt outlier detectors."""
        model = self.monitor.spec.model
        if table == "score":
            return self._scores
        return model.request_schema if table == "request" else model.response_schema

    @cached_property
    def _scores(self) -> Schema:
        return Schema(
            tuple(Column(name=detector.name, type="numeric") for detector in self.monitor.spec.outliers.learned)
        )

    @cached_property
    def decoder(self) -> Decoder:
        """Of the inference topic; it learns, so there is one a process."""
        keep_wrong = any(isinstance(detector, WrongType) for detector in self.monitor.spec.outliers.detectors)
        return _decoder(
            self.monitor.spec.model.model_dump_json(), self.monitor.spec.kafka.max_message_bytes, keep_wrong=keep_wrong
        )

    @cached_property
    def plans(self) -> Plans:
        """What is counted, on the baseline's rulers."""
        if self.lean is not None:
            return self.lean.plans
        metrics, drift = set(self.monitor.spec.statistics.metrics), self.monitor.spec.drift

        def plan(table: Table) -> Plan:
            together = table == "request" and bool(drift.multivariate or metrics & {"covariance", "correlation"})
            plan = self.baseline.plan(
                self.schema(table),
                table,
                percentiles=self.monitor.spec.statistics.needs_quantiles,
                comoments=together,
            )
            return replace(
                plan,
                distinct="distinct" in metrics,
                sample=drift.sample_rows if drift.needs_sample() else 0,
                embeddings=tuple(self._summed.values()) if table == "request" else (),
            )

        return Plans(plan("request"), plan("response"), plan("score"), len(self.series), self._traffic)

    @cached_property
    def _traffic(self) -> tuple[FittedTraffic[Any], ...]:
        schema, kept = self.schema("request"), self.traffic_columns
        sample = self.baseline.sample_of(schema, "request")
        assert sample is not None  # every baseline has one of the features
        sample = replace(sample, categorical=tuple(sample.categorical[j] for j in kept))
        numeric, categorical = [c.name for c in schema.numeric], [schema.categorical[j].name for j in kept]
        return tuple(detector.learn(sample, numeric, categorical) for detector in self.monitor.spec.traffic.detectors)

    @cached_property
    def traffic_columns(self) -> list[int]:
        """Places of the categorical features that traffic detectors look at.

        All but the one that names the client: it is the same in all requests of a client, which no sample of the reference's rows is.
        """
        client = self.monitor.spec.traffic.client
        names = [column.name for column in self.schema("request").categorical]
        return [j for j, name in enumerate(names) if client is None or name != client.feature]

    @cached_property
    def series(self) -> list[Series]:
        """Those that have a number for every instance, in the order of the ModelMonitor."""
        return [one for one in self.monitor.spec.sequential if one.of_instances]

    @cached_property
    def _reference(self) -> Joint:
        """The numeric features of the reference, together."""
        schema = self.schema("request")
        columns = tuple(column.name for column in schema.numeric)
        return Joint(columns, self.baseline.comoments_of(schema), self.baseline.sample_of(schema, "request"))

    @cached_property
    def _embeddings(self) -> list[Embedding | None]:
        """For each multivariate drift detector the random features that must be summed up for it."""
        return [detector.embedding(self._reference) for detector in self.monitor.spec.drift.multivariate]

    @cached_property
    def _summed(self) -> dict[bytes, Embedding]:
        """Those by key: what two detectors want is summed up once."""
        return {embedding.key: embedding for embedding in self._embeddings if embedding is not None}

    @cached_property
    def _multivariate(self) -> list[FittedMultivariate]:
        return [detector.learn(self._reference) for detector in self.monitor.spec.drift.multivariate]

    def together(self, window: TableSummary) -> Iterator[tuple[MultivariateDetector, FittedMultivariate, Joint]]:
        """Each multivariate drift detector, knowing the reference, and what it is to be asked of a window."""
        sums = dict(zip(self._summed, window.embedded, strict=True))
        for detector, fitted, embedding in zip(
            self.monitor.spec.drift.multivariate, self._multivariate, self._embeddings, strict=True
        ):
            assert window.comoments is not None  # the plan has them when there is a multivariate detector
            embedded = None if embedding is None else sums[embedding.key]
            yield detector, fitted, Joint(window.plan.numeric, window.comoments, window.sample, embedded)

    def prepare(self) -> None:
        """Fit everything, so that what does not fit is told of before any work starts; raises NotApplicable."""
        _ = (self.plans, self.outliers, self._multivariate, self.yardstick)

    @cached_property
    def keyed(self) -> bool:
        """Whether rows need keys, by which a sample is drawn and equal times are put in order."""
        return bool(self.plans.request.sample or self.series or self.plans.traffic)

    @cached_property
    def no_rows(self) -> Pane:
        """The empty pane: the neutral element of `+`."""
        return Pane.empty(self.plans)

    @cached_property
    def outliers(self) -> dict[Source, list[FittedOutlierDetector]]:
        """The detectors of requests and of responses, with their limits."""
        return {source: self._fitted(source) for source in SOURCES}

    @cached_property
    def models(self) -> dict[str, FittedScore]:
        """The outlier detectors that learnt a model of the features, by name."""
        columns = self._fitting("request")
        return {
            detector.name: detector.fitted(columns, self.baseline.models[detector.key])
            for detector in self.monitor.spec.outliers.learned
        }

    def _fitting(self, source: Source) -> list[FittingColumn]:
        known = self.baseline.columns(source)
        return [
            FittingColumn(
                known.get(column.name) or ColumnSummary(column.name, column.type, 0),
                column.min,
                column.max,
                None if column.categories is None else frozenset(column.categories),
            )
            for column in self.schema(source).in_block_order
        ]

    def _fitted(self, source: Source) -> list[FittedOutlierDetector]:
        if not len(self.schema(source)):
            return []
        columns = self._fitting(source)
        known = source == "request" or bool(self.baseline.response)
        return [
            self.models[detector.name] if isinstance(detector, LearnedOutlierDetector) else detector.fit(columns)
            for detector in self.monitor.spec.outliers.detectors
            if source == "request" or not isinstance(detector, LearnedOutlierDetector)
            # The decoder keeps values of the wrong type for it, so it must tell of them, reference or none.
            if known or isinstance(detector, WrongType)
        ]

    @cached_property
    def yardstick(self) -> Yardstick | None:
        """With what performance is measured; None where nobody asks for it."""
        settings, model = self.monitor.spec.performance, self.monitor.spec.model
        if not settings.metrics:
            return None
        predictions = [(column.name, column.type) for column in model.predictions]
        plan, reference, why = plan_of(
            settings, predictions, self._classes(settings.column(predictions)), self.reference.performance
        )
        if reference is None and self.lean is not None and (whole := self.lean.yardstick) is not None:
            # A segment without a reference of its own has the classes and marks of the whole.
            plan = whole.plan
            why = (
                self.unjudged
                or whole.unestimated
                or "this segment has too few rows with a prediction and a label in the reference"
            )
        return Yardstick(
            settings, plan, reference, why, self.version, model.version, self.duration, self.pane, self.every
        )

    def _classes(self, prediction: tuple[str, str] | None) -> list[str]:
        """Those that are known without labels: predicted in the reference, the most frequent first, or declared."""
        name = None if prediction is None else prediction[0]
        known = self.baseline.response.get(name or "")
        counts = {} if known is None or known.type == "numeric" else known.counts or {}
        predicted = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
        declared = [
            text
            for column in self.monitor.spec.model.predictions
            if column.name == name
            for text in column.categories or ()
        ]
        return [*(str(value) for value, _ in predicted), *declared]

    def predictions(self, block: Block) -> NDArray[np.float64]:
        """(rows, width of the yardstick) predictions of a block of responses, as they wait for their labels."""
        assert self.yardstick is not None  # else nobody asks
        schema = self.schema("response")
        numeric, categorical = [c.name for c in schema.numeric], [c.name for c in schema.categorical]
        return self.yardstick.predictions(block, numeric, categorical)

    @property
    def every(self) -> int | None:
        """Instances of a counted window."""
        return self.monitor.spec.window.every

    @cached_property
    def pane(self) -> int:
        """Length of a pane, ms."""
        return milliseconds(self.monitor.spec.window.pane)

    @cached_property
    def skew(self) -> int:
        """How far ahead of Kafka's timestamp an event time may be, ms."""
        return milliseconds(self.monitor.spec.window.max_clock_skew)

    @cached_property
    def duration(self) -> int:
        """Length of a window, ms."""
        return milliseconds(self.monitor.spec.window.duration)


@lru_cache(maxsize=64)
def _decoder(model: str, max_bytes: int, *, keep_wrong: bool) -> Decoder:
    """Shared by all editions of a model that read messages alike, so that these are read once."""
    return Decoder(Model.model_validate_json(model), max_bytes=max_bytes, keep_wrong=keep_wrong)


@lru_cache(maxsize=4096)
def settings_of(monitor: str) -> ModelMonitor:
    """The ModelMonitor of its JSON.

    The driver has seen that the functions which it names are there; one that is not here is an error in the report.
    """
    return ModelMonitor.model_validate_json(monitor, context=UNRESOLVED)
