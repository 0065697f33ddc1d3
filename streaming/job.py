"""The one query: Kafka -> decode, score, fold -> merge, compare -> Kafka.

The only place that starts Spark, joins source to sink and waits. While the query runs, the driver looks for changed files,
published baselines and silent models; what is new takes effect between two batches, by a new run of the query in the same Spark.
"""

import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detectors.errors import NotApplicable
from detectors.settings import format_duration
from reference.errors import DriftlineError
from reference.store import Store
from streaming.checkpoint import check as check_checkpoint
from streaming.checkpoint import explain
from streaming.errors import BaselineMismatch, IncompatibleCheckpoint, KafkaError, StreamingError
from streaming.events import Events, say
from streaming.fleet import Fleet, Reading
from streaming.lease import Lease
from streaming.operations import batch_bound
from streaming.pane import rfc3339
from streaming.plan import Change, Plan, adopted, differs
from streaming.plan import read as read_plan
from streaming.plan import write as write_plan
from streaming.spec import ModelMonitor

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from confluent_kafka.admin import AdminClient
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

    from streaming.editions import Task
    from streaming.health import Health
    from streaming.metrics import JobMetrics
    from streaming.spec import Job, Kafka

_DRAIN_S = 30
_LOOK_S = 0.2
_SILENCE_S = 1.0
_MOST_FAILURES, _FAILURES_S = 3, 600.0
"""So many failures of the query in so long a time are one too many: then whoever started the monitor decides."""
_FULL_BYTES = 1 << 20
"""A disk with less free is full."""
FETCHING = {
    # At the end of a log the broker holds a fetch back until something comes, half a second by default, and the next question waits behind it:
    # a task that reads the partitions of fifty quiet topics would wait for each of them.
    "kafka.fetch.max.wait.ms": "20",
    "kafka.max.poll.records": "5000",
    "kafka.max.partition.fetch.bytes": str(4 << 20),
}
"""How the source reads."""
_RUNTIME = "org.apache.spark.sql.execution.streaming.runtime"
_LOGGING = Path(__file__).with_name("log4j2.properties").resolve()


def run(path: Path) -> int:
    """Run the monitor of one ModelMonitor, or of all in a directory, until SIGTERM or SIGINT, or its timeout is over.

    A stop lets the running micro-batch end, so nothing is done twice. Returns the exit code.

    Raises
    ------
    InvalidMonitor, BaselineNotFound, BaselineMismatch, IncompatibleCheckpoint
        Before any Spark starts; of a directory only when none of its files can be used.
    KafkaError
        When the cluster or a topic is not there in time.
    """
    fleet = Fleet(path, check_baseline)
    reading = fleet.read()
    if not reading.wanted:
        if not reading.refused:
            raise DriftlineError(f"{path} holds no ModelMonitor: files *.yaml and *.yml are looked for")
        for refusal in reading.refused[1:]:
            say(refusal.why)
        raise reading.refused[0].error
    return Monitoring(fleet, reading).run()


Outcome = Literal["stopped", "changed", "failed", "lost"]


@dataclass
class Monitoring:
    """One job and the models that it watches."""

    fleet: Fleet
    reading: Reading
    plan: Plan = field(default_factory=Plan)
    events: Events = field(default_factory=Events)
    started: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    _stopping: threading.Event = field(default_factory=threading.Event)
    """Set when somebody wants the job to stop."""
    _told: set[tuple[str, str]] = field(default_factory=set)
    """(file, why) of the refusals that were told."""
    _silent: dict[str, int] = field(default_factory=dict)
    """Model without traffic -> when it last had some, ms."""
    _heard: dict[str, int] = field(default_factory=dict)
    """Model -> since when its messages would have been seen, ms."""

    @property
    def first(self) -> ModelMonitor:
        """The model whose cluster and job section are those of all."""
        return next(iter(self.reading.wanted.values())).monitor

    @property
    def job(self) -> "Job":
        """How the job runs."""
        return self.first.spec.job

    @cached_property
    def metrics(self) -> "JobMetrics":
        """What Prometheus is told."""
        from streaming.metrics import JobMetrics

        return JobMetrics(self._models, checkpoint=self.job.checkpoint)

    @cached_property
    def health(self) -> "Health":
        """What is known of the query."""
        from streaming.health import Health

        return Health(self.metrics, self.job.metrics.stalled_after)

    def run(self) -> int:
        """Watch until the end; returns the exit code."""
        with Lease(self.job.checkpoint, say=say) as lease, self._serving():
            return self._run(lease)

    @contextmanager
    def _serving(self) -> "Iterator[None]":
        """Answer questions about health and metrics, where a port is given."""
        from streaming.health import serving

        where = self.job.metrics
        if where.port is None:
            yield
            return
        with serving(where.host, where.port, self.health, self.metrics) as address:
            say(f"health and metrics: {address}/healthz, /readyz, /metrics")
            yield

    def _run(self, lease: Lease) -> int:
        for warning in check_checkpoint(self.job.checkpoint):
            say(warning)
        plan = read_plan(self.job.checkpoint)
        if plan is None:
            plan = Plan(state_partitions=state_partitions(self.first, alone=self.fleet.path.is_file()))
        elif self.job.state_partitions not in {None, plan.state_partitions}:
            raise IncompatibleCheckpoint(
                f"the state in {self.job.checkpoint} has {plan.state_partitions} partitions, and spec.job.statePartitions is "
                f"{self.job.state_partitions}: change it back, or give spec.job.checkpoint a new directory (the monitor then begins at "
                "kafka.startingOffsets)"
            )
        self.plan = plan
        self._note_spark()
        prepare_topics(*(one.monitor for one in self.reading.wanted.values()))
        signals = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, lambda *_: self._stopping.set()) for number in signals}
        spark = session(self.first, plan.state_partitions)
        try:
            lease.bind(spark)
            return self._runs(spark, lease)
        finally:
            spark.stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note_spark(self) -> None:
        """Keep the version of Spark; another one may read the checkpoint or not, and then it helps to know which it was."""
        from pyspark import __version__ as spark

        if self.plan.spark and self.plan.spark != spark:
            say(f"the checkpoint was last worked on by Spark {self.plan.spark}, and this is Spark {spark}")
        self.plan.spark = spark
        self.metrics.is_of(spark=spark, driftline=version("driftline"))

    def _runs(self, spark: "SparkSession", lease: Lease) -> int:
        """One run of the query after the other."""
        limit = self.job.timeout
        deadline = float("inf") if limit is None else time.monotonic() + limit.total_seconds()
        failures: list[float] = []
        reason = "start"
        while True:
            self._refusals()
            self._has_room()
            self._adopt(spark)
            query = self._start(spark)
            self.health.started(query, reason)
            outcome = self._watch(query, spark, lease, deadline)
            if outcome == "stopped":
                self.health.ended()
                say("stopped; the checkpoint knows where to go on")
                return 0
            if outcome == "lost":
                self.health.ended(lease.lost)
                say(f"{lease.lost}: stopped at once")
                return 1
            reason = "change" if outcome == "changed" else "failure"
            self.health.ended()
            if outcome == "failed":
                now = time.monotonic()
                failures = [at for at in failures if now - at < _FAILURES_S] + [now]
                self._heard.clear()
                failure = query.exception()
                say(f"the query failed: {explain(failure or '') or failure}")
                if len(failures) >= _MOST_FAILURES or _is_gone(spark):
                    self.health.ended(str(failure))
                    return 1
                say("it is started again from its checkpoint")
                self._stopping.wait(2.0 ** len(failures))

    def _start(self, spark: "SparkSession") -> "StreamingQuery":
        models = [name for name in self.plan.models if name not in self.plan.retired]
        for name in models:
            edition = self.plan.models[name][-1]
            say(f"monitoring {name}: baseline {edition.baseline}")
        say(f"reading from {self.first.spec.kafka.bootstrap_servers}, checkpoint {self.job.checkpoint}")
        self.metrics.bounded(self.plan.bound)
        return start(spark, self.first, self.plan.task(self.started), list(self.plan.inputs()), self.plan.bound)

    def _adopt(self, spark: "SparkSession") -> None:
        """Bring plan and offsets in line with what is wanted, where the last batch is done."""
        from streaming.marks import Marks
        from streaming.offsets import is_settled, reconcile

        checkpoint = self.job.checkpoint
        changes: list[Change] = []
        before = {name: self._monitor(name) for name in self.plan.models}
        if is_settled(spark, checkpoint):
            self.plan, changes = adopted(self.plan, self.reading.wanted, Marks(marks_of(checkpoint)).read())
        most = self.job.max_offsets_per_trigger
        if most is not None:
            present = min(self.plan.bound or most, most)
            self.plan.bound = batch_bound(self.health.recent, self.job.target_batch, present, most)
        else:
            self.plan.bound = None
        kafka = {topic: self._kafka_of(model) for topic, model in self.plan.inputs().items()}
        write_plan(checkpoint, self.plan)
        again = reconcile(
            spark, checkpoint, self.plan, kafka, self._all_ids(kafka), partial(write_plan, checkpoint, self.plan)
        )
        write_plan(checkpoint, self.plan)
        for change in changes:
            monitor = self._monitor(change.model) or before.get(change.model)
            self.events.tell(change.model, change.reason, change.text, monitor)
        for topic in again:
            model = self.plan.inputs()[topic]
            text = f"the topic {topic} was deleted and created again: it is read from its beginning"
            self.events.tell(model, "topicRecreated", text, self._monitor(model), self.plan.topics[topic].id)

    def _monitor(self, model: str) -> ModelMonitor | None:
        """What the plan says of a model; None where it is not in it."""
        from streaming.worker import settings_of

        editions = self.plan.models.get(model)
        return settings_of(editions[-1].monitor) if editions else None

    def _kafka_of(self, model: str) -> "Kafka":
        monitor = self._monitor(model)
        assert monitor is not None  # it is in the plan
        return monitor.spec.kafka

    def _all_ids(self, topics: Collection[str]) -> dict[str, str]:
        """Kafka's ids of topics, once all are there: one that was deleted may be on its way back, and so may the broker."""
        patience = self.first.spec.kafka.topic_timeout
        deadline = time.monotonic() + patience.total_seconds()
        while lacking := sorted(set(topics) - (ids := self._ids(topics)).keys()):
            if time.monotonic() > deadline or self._stopping.wait(_SILENCE_S):
                raise KafkaError(
                    f"after {format_duration(patience)} Kafka does not know the topics {', '.join(lacking)}: if they were deleted, make "
                    "them again, and they are read from their beginning"
                )
        return ids

    def _ids(self, topics: Iterable[str]) -> dict[str, str]:
        from streaming.offsets import topic_ids

        return topic_ids(self._admin, topics)

    @cached_property
    def _admin(self) -> "AdminClient":
        """Asked every few seconds what topics there are, so it stays connected."""
        from confluent_kafka.admin import AdminClient

        return AdminClient({**self.first.spec.kafka.for_confluent(), "log_level": 0})

    def _watch(self, query: "StreamingQuery", spark: "SparkSession", lease: Lease, deadline: float) -> Outcome:
        """Wait until the query ends, or should."""
        look = time.monotonic() + self.job.refresh_interval.total_seconds()
        listen = 0.0
        while query.isActive:
            self.health.poll()
            if lease.lost:
                query.stop()
                return "lost"
            if self._stopping.wait(_LOOK_S) or time.monotonic() >= deadline:
                _drain(query, spark)
                return "failed" if query.exception() is not None else "stopped"
            now = time.monotonic()
            if now >= listen:
                listen = now + _SILENCE_S
                self._has_room(query)
                if query.lastProgress is not None:
                    self._listen()
            if now >= look:
                look = now + self.job.refresh_interval.total_seconds()
                if self._has_changed() and query.lastProgress is not None:
                    _drain(query, spark)
                    return "failed" if query.exception() is not None else "changed"
        return "failed" if query.exception() is not None else "stopped"

    def _has_room(self, query: "StreamingQuery | None" = None) -> None:
        """Raise StreamingError when the checkpoint's disk is full: a query may hang then instead of failing.

        Spark's server of the state dies of the error (an FSError, which it does not catch), and the Python worker waits for its answer for ever.
        """
        checkpoint = self.job.checkpoint.removeprefix("file://")
        if "://" in checkpoint or shutil.disk_usage(checkpoint).free >= _FULL_BYTES:
            return
        if query is not None:
            query.stop()
        raise StreamingError(str(explain("No space left on device")))

    def _has_changed(self) -> bool:
        """Look at files, stores and topics again; whether the query should be run anew."""
        reading = self.fleet.read()
        fresh = {name: one for name, one in reading.wanted.items() if name not in self.plan.models}
        try:
            if fresh:
                prepare_topics(*(one.monitor for one in fresh.values()))
            ids = self._ids(self.plan.inputs())
        except DriftlineError as error:
            say(str(error))
            return False
        if reading.wanted:
            self.reading = reading
        self._refusals()
        again = any(name in self.plan.topics and self.plan.topics[name].id != number for name, number in ids.items())
        return again or differs(self.plan, self.reading.wanted)

    def _models(self) -> dict[str, dict[str, Any]]:
        """What the metrics tell of each model, as `streaming.metrics` wants it."""
        from streaming.fold import ALL
        from streaming.marks import Marks

        found: dict[str, dict[str, Any]] = {}
        for (name, segment), mark in Marks(marks_of(self.job.checkpoint)).read().items():
            if name not in self.plan.models:
                continue
            known = found.setdefault(
                name, {"open": 0, "panes": 0, "segments": 0, "baseline": self.plan.models[name][-1].baseline}
            )
            known["open"] += sum(mark.open.values())
            known["panes"] += mark.panes
            known["segments"] += segment != ALL
            if segment == ALL:
                dead = {key.partition(":")[2]: many for key, many in mark.counts.items() if key.startswith("dead:")}
                known |= {key: mark.counts.get(key, 0) for key in ("requests", "outliers", "late")} | {"dead": dead}
                known |= {key: at for key, at in (("frontier", mark.frontier), ("newest", mark.newest)) if at > 0}
        return found

    def _refusals(self) -> None:
        """Tell of the files and baselines that cannot be used, once each."""
        for refusal in self.reading.refused:
            key = (refusal.origin, refusal.why)
            if key not in self._told:
                self._told.add(key)
                reason: Any = "baselineRefused" if refusal.of_baseline else "monitorRefused"
                self.events.tell(refusal.model, reason, refusal.why, self._monitor(refusal.model))
        self._told &= {(refusal.origin, refusal.why) for refusal in self.reading.refused}

    def _listen(self) -> None:
        """Tell of models that should have traffic and have none."""
        from streaming.fold import ALL
        from streaming.marks import Marks

        expected = {
            name: one.monitor.spec.window.no_traffic
            for name, one in self.reading.wanted.items()
            if one.monitor.spec.window.no_traffic is not None and name in self.plan.models
        }
        if not expected:
            return
        marks, now = Marks(marks_of(self.job.checkpoint)).read(), time.time_ns() // 1_000_000
        for name, limit in expected.items():
            assert limit is not None  # only those were taken
            mark = marks.get((name, ALL))
            seen = max(0 if mark is None else mark.seen, self._heard.setdefault(name, now))
            silent = now - seen > limit.total_seconds() * 1000
            if silent and name not in self._silent:
                self._silent[name] = seen
                text = f"no message since {rfc3339(seen)}, longer than window.noTraffic ({format_duration(limit)})"
                self.events.tell(name, "noTraffic", text, self._monitor(name))
            elif not silent and name in self._silent:
                since = rfc3339(self._silent.pop(name))
                self.events.tell(
                    name,
                    "trafficResumed",
                    f"messages come again, for the first time since {since}",
                    self._monitor(name),
                )


def _is_gone(spark: "SparkSession") -> bool:
    """Whether there is no Spark left to run a query in."""
    try:
        return bool(spark._jsc.sc().isStopped())  # noqa: SLF001
    except Exception:  # noqa: BLE001 - a JVM that died answers with many kinds of errors
        return True


def marks_of(checkpoint: str) -> str:
    """Where the stateful stage leaves its marks."""
    return f"{checkpoint}/driftline/marks"


def check_baseline(monitor: ModelMonitor, version: str) -> None:
    """Raise BaselineMismatch when a baseline does not know all that the ModelMonitor asks of it.

    That is a feature, its type, an outlier model, or enough rows for a multivariate method.
    """
    from streaming.worker import Worker

    baseline = Store(monitor.spec.reference.store).load(monitor.name, version)
    lacking = baseline.misfits(monitor.spec.model)
    if lacking:
        raise BaselineMismatch(
            f"baseline {version} of model {monitor.name!r} does not fit the ModelMonitor: {'; '.join(lacking)}; "
            "build one from a table that has all features",
        )
    learnt_from = [name for name, column in baseline.request.items() if column.type == "numeric"]
    given = [column.name for column in monitor.spec.model.request_schema.numeric]
    if monitor.spec.outliers.learned and learnt_from != given:
        raise BaselineMismatch(
            f"the outlier models of baseline {version} of model {monitor.name!r} learnt from the numeric features "
            f"{', '.join(learnt_from) or 'none'}, and the ModelMonitor has {', '.join(given) or 'none'}, in this order: build it anew with "
            "'driftline reference build'",
        )
    unlearnt = [detector.name for detector in monitor.spec.outliers.learned if detector.key not in baseline.models]
    if unlearnt:
        raise BaselineMismatch(
            f"baseline {version} of model {monitor.name!r} has no model of the outlier detectors {', '.join(unlearnt)} with these "
            "settings: build it anew with 'driftline reference build'",
        )
    try:
        Worker(monitor, baseline, version).prepare()
    except NotApplicable as error:
        raise BaselineMismatch(f"baseline {version} of model {monitor.name!r} cannot be used: {error}") from None


def prepare_topics(*monitors: ModelMonitor) -> None:
    """Create the topics, or wait for them: a source topic that is not there kills a query at its first batch."""
    from streaming.kafka import ensure_topics

    wanted: dict[tuple[Any, ...], list[str]] = {}
    first: Kafka | None = None
    for monitor in monitors:
        kafka, topics = monitor.spec.kafka, monitor.topics
        first = first or kafka
        shared = (kafka.replication_factor, kafka.topic_timeout, kafka.create_topics)
        wanted.setdefault((kafka.partitions, kafka.largest_message, *shared), []).extend(monitor.inputs)
        written = [topics.outliers, topics.statistics, topics.drift, topics.deadletter, topics.events]
        if monitor.spec.performance.metrics:
            written.append(topics.performance)
        wanted.setdefault((1, kafka.largest_record, *shared), []).extend(written)
    for (partitions, largest, replication, timeout, create), names in wanted.items():
        assert first is not None  # there is one when there is a topic
        ensure_topics(
            first,
            names,
            partitions=partitions,
            replication=replication,
            configs={"max.message.bytes": str(largest)},
            timeout=timeout,
            create=create,
        )


def state_partitions(monitor: ModelMonitor, *, alone: bool) -> int:
    """How many partitions the state of a new checkpoint has.

    Parameters
    ----------
    alone
        Whether no other model can join.
    """
    job = monitor.spec.job
    if job.state_partitions is not None:
        return job.state_partitions
    if alone and not monitor.spec.segments.by:
        return 1  # a second would be opened and committed in every batch, and hold nothing
    local = re.fullmatch(r"local(?:\[(\d+|\*).*\])?", job.master)
    if local is None:
        cores = job.executors.instances * job.executors.cores
    else:
        cores = len(os.sched_getaffinity(0)) if local[1] == "*" else int(local[1] or 1)
    return max(cores, 2)


def session(monitor: ModelMonitor, partitions: int | None = None) -> "SparkSession":
    """A Spark session with the connector's jars, and the monitor's own settings last.

    Parameters
    ----------
    partitions
        Of the stateful stage. Default: as a new checkpoint of this model alone.
    """
    from pyspark.sql import SparkSession

    from streaming.jars import jars

    job = monitor.spec.job
    partitions = partitions or state_partitions(monitor, alone=True)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else workers start the system's Python
    if job.master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")  # nobody outside has business with a local Spark
    settings = {
        "spark.master": _forgiving(job.master),
        "spark.app.name": f"driftline-{monitor.name}",
        "spark.jars": ",".join(str(jar) for jar in jars("spark-kafka")),
        "spark.driver.memory": job.driver.memory,
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={_LOGGING.as_uri()}",
        "spark.executor.memory": job.executors.memory,
        "spark.executor.cores": str(job.executors.cores),
        "spark.executor.instances": str(job.executors.instances),
        # A standalone cluster asks for cores in all, and does not wait for executors: tasks would be made for the cores of the first.
        "spark.cores.max": str(job.executors.instances * job.executors.cores),
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        # Descriptions of settings are read from the source code: a second of every worker's start, and nothing in it needs them.
        "spark.executorEnv.DRIFTLINE_IN_WORKER": "1",
        # A worker that is silent for so long hangs, and is started again: by default Spark waits for ever.
        "spark.python.worker.idleTimeoutSeconds": str(math.ceil(job.metrics.stalled_after.total_seconds())),
        "spark.python.worker.killOnIdleTimeout": "true",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": str(partitions),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.streaming.stateStore.providerClass": (
            "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"
        ),
        # Writes a batch's changes and not the whole state: a commit costs what the batch did.
        "spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "16384",
        "spark.sql.execution.arrow.maxBytesPerBatch": str(64 << 20),
        **job.spark,
    }
    if _is_local(job.checkpoint):
        settings = _unforked(settings)
    builder = SparkSession.builder
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def _is_local(checkpoint: str) -> bool:
    return checkpoint.startswith("file:") or "://" not in checkpoint


def _unforked(settings: dict[str, str]) -> dict[str, str]:
    """With what keeps Hadoop from starting processes to write files on a local disk.

    Without its native library it starts `chmod` twice and `readlink` eight times for each file of a checkpoint: forty processes a
    micro-batch (docs/decisions/0011-no-process-for-a-file.md). This rename is one step, too.
    """
    from streaming.jars import jars

    # In `spark.jars` it would come too late: Spark asks for the file system to fetch those.
    ours = os.pathsep.join(map(str, jars("local-files")))
    paths = {
        key: os.pathsep.join([ours, *filter(None, [settings.get(key)])])
        for key in ("spark.driver.extraClassPath", "spark.executor.extraClassPath")
    }
    return {
        "spark.hadoop.fs.file.impl": "com.globalmentor.apache.hadoop.fs.BareLocalFileSystem",
        "spark.sql.streaming.checkpointFileManagerClass": (
            "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
        ),
        **settings,
        **paths,
    }


def _forgiving(master: str) -> str:
    """A local Spark gives a task one chance, and a killed Python worker would end the query; as on a cluster it has four."""
    found = re.fullmatch(r"local(?:\[(\d+|\*)\])?", master)
    return f"local[{found[1] or 1},4]" if found else master


def start(
    spark: "SparkSession", monitor: ModelMonitor, task: "Task", topics: Sequence[str], bound: int | None
) -> "StreamingQuery":
    """Start the query.

    Parameters
    ----------
    monitor
        The one whose cluster and job section are meant.
    topics
        All that are read.
    bound
        Messages of a micro-batch at most.
    """
    kafka, job = monitor.spec.kafka, monitor.spec.job
    marks = marks_of(job.checkpoint)
    options = {
        **kafka.for_spark(),
        "subscribe": ",".join(topics),
        "startingOffsets": kafka.starting_offsets,
        "includeHeaders": "true",
        "failOnDataLoss": "true",
        **FETCHING,
    }
    if bound is not None:
        options["maxOffsetsPerTrigger"] = str(bound)
    messages = spark.readStream.format("kafka").options(**options).load()
    reports = merged(folded(messages, task, marks, several=len(topics) > 1), task, marks)
    sink = {**kafka.for_spark(), "kafka.max.request.size": str(kafka.largest_record), "kafka.linger.ms": "5"}
    return (
        reports.writeStream.format("kafka")
        .options(**sink)
        .queryName("driftline")
        .option("checkpointLocation", job.checkpoint)
        .trigger(processingTime=f"{int(job.trigger_interval.total_seconds() * 1000)} milliseconds")
        .outputMode("update")
        .start()
    )


def folded(messages: "DataFrame", task: "Task", marks: str, *, several: bool) -> "DataFrame":
    """Outliers, dead letters and partial window summaries of raw Kafka messages; see `streaming.fold`.

    Parameters
    ----------
    several
        Whether the messages are of more than one topic.
    """
    from pyspark.sql import functions as fn

    from streaming.fold import FOLDED
    from streaming.headers import FLAT

    def stage(batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        from streaming.fold import fold

        return fold(batches, task, marks)

    names = ["key", "value", "partition", "offset", "timestamp", *(["topic"] if several else [])]
    chosen = messages.select(*map(fn.col, names), fn.expr(FLAT).alias("headers"))
    # A task a core: every further one costs more than it brings, and fifty models would make two hundred.
    cores = messages.sparkSession.sparkContext.defaultParallelism
    return chosen.coalesce(max(cores, 1)).mapInArrow(stage, FOLDED)


def merged(rows: "DataFrame", task: "Task", marks: str) -> "DataFrame":
    """What goes to Kafka, of folded rows; see `streaming.merge`."""
    from streaming.merge import REPORTED, MergeProcessor

    return rows.groupBy("model", "segment").transformWithStateInPandas(
        statefulProcessor=MergeProcessor(task, marks),
        outputStructType=REPORTED,
        outputMode="Update",
        timeMode="ProcessingTime",
    )


def _drain(query: "StreamingQuery", spark: "SparkSession") -> None:
    """Let the running micro-batch end and begin no other, so that nothing is done twice after the next start.

    `query.stop()` would interrupt the batch. Spark's own loop asks after each batch whether the query is still wanted;
    there is no public way to say no, so this sets that answer, and stops the hard way when it does not help.
    """
    try:
        terminated = getattr(spark._jvm, f"{_RUNTIME}.TERMINATED$")  # noqa: SLF001
        query._jsq.streamingQuery().state().set(getattr(terminated, "MODULE$"))  # noqa: SLF001
        query.awaitTermination(_DRAIN_S)
    except Exception as error:  # noqa: BLE001 - whatever Spark renamed, the hard way remains
        say(f"the last batch is interrupted and done again after the next start: {error}")
    query.stop()
