"""What Prometheus reads of a running monitor.

Two sources: Spark's progress of each batch, which the driver hands over, and what the stages know and Spark does not
(watermarks, open windows, dead letters by reason), which they leave beside the checkpoint and a callable reads. Everything
is a number of the last finished batch, but ages, which are of the moment. Labels are bounded: by the models of the job, the
partitions of its topics, and the reasons that the code knows.

Names follow prometheus.io/docs/practices/naming. docs/operations.md says which alarms are worth having.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

log = logging.getLogger("driftline.metrics")

Models = Callable[[], Mapping[str, Mapping[str, Any]]]
"""What the stages know of each model: numbers since the checkpoint began, and of now.

``{model: {"frontier": ms, "newest": ms, "open": n, "panes": n, "segments": n, "dead": {reason: n}, "late": n, "outliers": n,
"requests": n, "baseline": version}}``; what is not known is left out. Messages that belong to no model are of the model "".
"""

BUCKETS_S = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0)
_GAUGES = {
    "open": ("driftline_open_windows", "Windows that have begun and have no final report yet."),
    "panes": ("driftline_open_panes", "Panes in the state."),
    "segments": ("driftline_segments", "Segments in the state."),
}
_COUNTERS = {
    "requests": ("driftline_requests", "Prediction requests that were counted in windows."),
    "outliers": ("driftline_outliers", "Outlier records."),
    "late": (
        "driftline_late_messages",
        "Messages that came after their window had closed; they are dead letters, too.",
    ),
}


class JobMetrics(Collector):
    """The metrics of one monitor: `seen` takes each batch's progress, `exposition` is what a scraper gets."""

    def __init__(
        self, models: Models = dict, *, checkpoint: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._models = models
        self._clock = clock
        self._disk: str | None = None
        if checkpoint is not None:
            fs, root = fsspec.core.url_to_fs(checkpoint)
            self._disk = root if isinstance(fs, LocalFileSystem) else None
        self._lock = threading.Lock()
        self._last: Mapping[str, Any] = {}
        self._ended: float | None = None
        self._batches = 0
        self._rows: dict[str, int] = {}
        self._parts: dict[str, float] = {}
        self._lag: dict[tuple[str, str], int] = {}
        self._restarts: dict[str, int] = {}
        self._active = False
        self._bound: int | None = None
        self._info: dict[str, str] = {}
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "driftline_batch_duration_seconds",
            "From the beginning of a micro-batch to its commit.",
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(self)
        ProcessCollector(registry=self._registry)  # memory, open files and start of the driver, by their usual names

    # Called by the driver --------------------------------------------------------------------------------------------
    def seen(self, progress: Mapping[str, Any]) -> None:
        """Count one finished batch."""
        parts = {name: ms / 1000 for name, ms in (progress.get("durationMs") or {}).items()}
        seconds = parts.pop("triggerExecution", 0.0)
        rows, lag = _kafka(progress)
        with self._lock:
            self._last = progress
            self._ended = _seconds(progress["timestamp"]) + seconds
            self._batches += 1
            for topic, count in rows.items():
                self._rows[topic] = self._rows.get(topic, 0) + count
            for name, value in parts.items():
                self._parts[name] = self._parts.get(name, 0.0) + value
            self._lag = lag
        self._seconds.observe(seconds)

    def active(self, active: bool) -> None:
        """Whether the query runs."""
        self._active = active

    def restarted(self, reason: str) -> None:
        """The query was started again; `reason` is one of a few words."""
        with self._lock:
            self._restarts[reason] = self._restarts.get(reason, 0) + 1

    def bounded(self, messages: int | None) -> None:
        """The bound of a batch, in messages."""
        self._bound = messages

    def is_of(self, **labels: str) -> None:
        """Versions and the like, for the metric `driftline_monitor_info`."""
        self._info = labels

    @property
    def lag(self) -> int | None:
        """Messages that wait in all partitions, as of the last batch."""
        with self._lock:
            return sum(self._lag.values()) if self._last else None

    # Called by scrapers ----------------------------------------------------------------------------------------------
    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics in the text format that a scraper accepts, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> list[Metric]:
        """Nothing: a registry would else collect once just to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All but the histogram, which registers itself."""
        with self._lock:
            last, ended, rows, parts = self._last, self._ended, dict(self._rows), dict(self._parts)
            lag, restarts, batches = dict(self._lag), dict(self._restarts), self._batches
        yield _gauge("driftline_query_active", "1 while the streaming query runs.", int(self._active))
        yield CounterMetricFamily("driftline_batches", "Micro-batches that were committed.", value=batches)
        yield _labelled(
            CounterMetricFamily,
            "driftline_query_restarts",
            "Starts of the query after the first.",
            ("reason",),
            restarts,
        )
        yield _labelled(CounterMetricFamily, "driftline_input_messages", "Messages that were read.", ("topic",), rows)
        yield _labelled(
            CounterMetricFamily,
            "driftline_batch_part_duration_seconds",
            "Time of micro-batches by Spark's own parts: walCommit, latestOffset, queryPlanning, addBatch, commitOffsets and so on.",
            ("part",),
            parts,
        )
        yield _labelled(
            GaugeMetricFamily,
            "driftline_input_lag_messages",
            "Messages that waited when the last batch was planned, and are not in it.",
            ("topic", "partition"),
            lag,
        )
        if ended is not None:
            yield _gauge("driftline_last_batch_timestamp_seconds", "When the last micro-batch was committed.", ended)
            yield _gauge("driftline_batch_messages", "Messages of the last micro-batch.", last.get("numInputRows") or 0)
            yield _gauge(
                "driftline_batch_messages_per_second",
                "Messages of the last micro-batch by its duration: what the job can do when batches are large.",
                last.get("processedRowsPerSecond") or 0.0,
            )
        if self._bound is not None:
            yield _gauge("driftline_batch_bound_messages", "Messages that a micro-batch may have.", self._bound)
        if last:
            yield from _state(last.get("stateOperators") or ())
        if self._disk is not None:
            try:
                yield _gauge(
                    "driftline_checkpoint_free_bytes",
                    "Free on the disk of the checkpoint.",
                    shutil.disk_usage(self._disk).free,
                )
            except OSError as error:
                log.warning("the disk of the checkpoint does not say what is free: %s", error)
        if self._info:
            yield InfoMetricFamily("driftline_monitor", "What runs.", value=self._info)
        yield from self._of_models()

    def _of_models(self) -> Iterator[Metric]:
        try:
            models = self._models()
        except Exception as error:  # noqa: BLE001 - half an answer is better than none
            log.warning("the models' numbers cannot be read: %s", error)
            yield _gauge("driftline_model_metrics_readable", "0 while the models' numbers cannot be read.", 0)
            return
        yield _gauge("driftline_model_metrics_readable", "0 while the models' numbers cannot be read.", 1)
        yield _gauge("driftline_models", "Models that are watched.", sum(name != "" for name in models))
        now = self._clock()
        yield _labelled(
            GaugeMetricFamily,
            "driftline_watermark_delay_seconds",
            "How far the watermark, up to which windows are final, is behind the clock.",
            ("model",),
            {
                name: now - known["frontier"] / 1000
                for name, known in models.items()
                if known.get("frontier") is not None
            },
        )
        yield _labelled(
            GaugeMetricFamily,
            "driftline_newest_event_timestamp_seconds",
            "The newest event time that was read.",
            ("model",),
            {name: known["newest"] / 1000 for name, known in models.items() if known.get("newest") is not None},
        )
        for kind, table in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
            for key, (metric, words) in table.items():
                values = {name: known[key] for name, known in models.items() if known.get(key) is not None}
                yield _labelled(kind, metric, words, ("model",), values)
        yield _labelled(
            CounterMetricFamily,
            "driftline_dead_letters",
            "Messages that could not be used, by reason.",
            ("model", "reason"),
            {
                (name, reason): count
                for name, known in models.items()
                for reason, count in (known.get("dead") or {}).items()
            },
        )
        yield _labelled(
            GaugeMetricFamily,
            "driftline_baseline_info",
            "1; the baseline that new windows are compared with.",
            ("model", "version"),
            {(name, str(known["baseline"])): 1 for name, known in models.items() if known.get("baseline") is not None},
        )


def _kafka(progress: Mapping[str, Any]) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Messages read, by topic, and messages that wait, by topic and partition; Kafka's sources only."""
    rows: dict[str, int] = {}
    lag: dict[tuple[str, str], int] = {}
    for source in progress.get("sources") or ():
        start, end, latest = (source.get(key) or {} for key in ("startOffset", "endOffset", "latestOffset"))
        if not all(isinstance(offsets, Mapping) for offsets in (start, end, latest)):
            continue
        for topic, partitions in end.items():
            before = start.get(topic) or {}
            # A partition that is new begins at 0.
            rows[topic] = rows.get(topic, 0) + sum(
                offset - before.get(number, 0) for number, offset in partitions.items()
            )
            for number, offset in partitions.items():
                lag[topic, number] = max((latest.get(topic) or {}).get(number, offset) - offset, 0)
    return rows, lag


def _state(operators: Any) -> Iterator[Metric]:
    def total(key: str) -> int:
        return sum(int(operator.get(key) or 0) for operator in operators)

    yield _gauge("driftline_state_rows", "Rows of the state, of all partitions.", total("numRowsTotal"))
    yield _gauge("driftline_state_memory_bytes", "Memory of RocksDB, of all partitions.", total("memoryUsedBytes"))
    files = sum(int((operator.get("customMetrics") or {}).get("rocksdbSstFileSize") or 0) for operator in operators)
    yield _gauge("driftline_state_disk_bytes", "Tables of RocksDB on disk, of all partitions.", files)


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)


def _labelled(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    words: str,
    labels: tuple[str, ...],
    values: Mapping[Any, float],
) -> Metric:
    family = kind(name, words, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric([key] if isinstance(key, str) else list(key), value)
    return family


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
