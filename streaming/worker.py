"""What a Spark worker holds of one monitor: made once a process, from a few strings that travel with the task."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

from detectors.base import FittedOutlierDetector, FittingColumn
from detectors.statistics.column import ColumnSummary
from detectors.statistics.table import Plan
from reference.baseline import SOURCES, Baseline, Source
from reference.schema import Schema
from reference.store import Store
from streaming.messages import Decoder
from streaming.pane import Pane, Plans, milliseconds
from streaming.spec import ModelMonitor


@dataclass(frozen=True)
class Task:
    """The few strings that name everything a stage needs; cheap to send with every task."""

    monitor: str
    """The ModelMonitor as JSON, its paths absolute."""
    baseline: str
    """Version of the baseline."""
    started: int
    """When this run of the job began, ms since the epoch: silence counts from then on at the earliest."""


@dataclass(frozen=True)
class Worker:
    """Settings, baseline and everything fitted from them."""

    monitor: ModelMonitor
    baseline: Baseline
    version: str
    started: int

    @property
    def model(self) -> str:
        """The model's name."""
        return self.monitor.name

    def schema(self, source: Source) -> Schema:
        """The columns of requests or of responses."""
        model = self.monitor.spec.model
        return model.request_schema if source == "request" else model.response_schema

    @cached_property
    def decoder(self) -> Decoder:
        """Of the inference topic; it learns, so there is one a process."""
        return Decoder(self.monitor.spec.model, max_bytes=self.monitor.spec.kafka.max_message_bytes)

    @cached_property
    def plans(self) -> Plans:
        """What is counted, on the baseline's rulers."""
        metrics = set(self.monitor.spec.statistics.metrics)

        def plan(source: Source) -> Plan:
            return self.baseline.plan(
                self.schema(source),
                source,
                percentiles=bool(metrics & {"percentiles", "iqr"}),
                comoments=source == "request" and bool(metrics & {"covariance", "correlation"}),
            )

        return Plans(plan("request"), plan("response"))

    @cached_property
    def no_rows(self) -> Pane:
        """The empty pane: the neutral element of `+`."""
        return Pane.empty(self.plans)

    @cached_property
    def outliers(self) -> dict[Source, list[FittedOutlierDetector]]:
        """The detectors of requests and of responses, with their limits."""
        return {source: self._fitted(source) for source in SOURCES}

    def _fitted(self, source: Source) -> list[FittedOutlierDetector]:
        known, schema = self.baseline.columns(source), self.schema(source)
        if not len(schema) or (source == "response" and not known):
            return []
        columns = [
            FittingColumn(
                known.get(column.name) or ColumnSummary(column.name, column.type, 0),
                column.min,
                column.max,
                None if column.categories is None else frozenset(column.categories),
            )
            for column in schema.in_block_order
        ]
        return [detector.fit(columns) for detector in self.monitor.spec.outliers.detectors]

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


@lru_cache(maxsize=8)
def worker(task: Task) -> Worker:
    """What this process holds of a monitor; read from the store at the first call."""
    monitor = ModelMonitor.model_validate_json(task.monitor)
    baseline = Store(monitor.spec.reference.store).load(monitor.name, task.baseline)
    return Worker(monitor, baseline, task.baseline, task.started)
