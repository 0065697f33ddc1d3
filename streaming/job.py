"""The one query: Kafka -> decode, score, fold -> merge, compare -> Kafka.

The only place that starts Spark, joins source to sink and waits.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from detectors.errors import NotApplicable
from reference.files import write_whole
from reference.store import CURRENT, Store
from streaming.errors import BaselineMismatch, IncompatibleCheckpoint
from streaming.spec import ModelMonitor

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

    from streaming.worker import Task

_STAMP_VERSION = 2
_DRAIN_S = 30
_RUNTIME = "org.apache.spark.sql.execution.streaming.runtime"
_LOGGING = Path(__file__).with_name("log4j2.properties").resolve()


def run(monitor: ModelMonitor) -> int:
    """Run the monitor of one model until it is stopped by SIGTERM or SIGINT, or its timeout is over.

    A stop lets the running micro-batch end, so nothing is done twice. Returns the exit code.

    Raises
    ------
    BaselineNotFound, BaselineMismatch, IncompatibleCheckpoint
        Before any Spark starts.
    KafkaError
        When the cluster or a topic is not there in time.
    """
    monitor = absolute(monitor)
    version = pinned_baseline(monitor)
    check_baseline(monitor, version)
    prepare_topics(monitor)
    _say(
        f"monitoring {monitor.name}: {monitor.topics.inference} on {monitor.spec.kafka.bootstrap_servers}, "
        f"baseline {version}, checkpoint {monitor.spec.job.checkpoint}",
    )
    spark = session(monitor)
    try:
        code = _await(start(spark, monitor, version), spark, monitor)
    finally:
        spark.stop()
    _say("stopped; the checkpoint knows where to go on" if code == 0 else "failed")
    return code


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
        Worker(monitor, baseline, version, 0).prepare()
    except NotApplicable as error:
        raise BaselineMismatch(f"baseline {version} of model {monitor.name!r} cannot be used: {error}") from None


def pinned_baseline(monitor: ModelMonitor) -> str:
    """The baseline of this checkpoint: the one it began with, else the one that the ModelMonitor names.

    The open windows in the state are counted on that baseline's rulers. What else the state depends on is stamped
    beside it.

    Raises
    ------
    IncompatibleCheckpoint
        When the state was made under other windows, features or numbers of partitions.
    """
    fs, root = fsspec.core.url_to_fs(monitor.spec.job.checkpoint)
    path = f"{root}/driftline/stamp.json"
    drift, client = monitor.spec.drift, monitor.spec.traffic.client
    wanted = {
        "version": _STAMP_VERSION,
        "model": monitor.name,
        "topic": monitor.topics.inference,
        "duration": monitor.model_dump(mode="json", by_alias=True)["spec"]["window"]["duration"],
        "pane": str(monitor.spec.window.pane),
        "columns": _digest([monitor.spec.model.model_dump(mode="json", include={"features", "predictions"})]),
        "statePartitions": monitor.spec.job.state_partitions,
        "percentiles": monitor.spec.statistics.needs_quantiles,
        "comoments": bool({"covariance", "correlation"} & set(monitor.spec.statistics.metrics)),
        "distinct": "distinct" in monitor.spec.statistics.metrics,
        "sampleRows": drift.sample_rows if drift.needs_sample() else 0,
        # What a verdict is drawn from the sums by may change; what is summed up may not.
        "multivariate": [
            detector.model_dump(mode="json", by_alias=True, exclude={"threshold", "false_alarm_rate"})
            for detector in drift.multivariate
        ],
        "series": [series.key for series in monitor.spec.sequential if series.of_instances],
        "traffic": [detector.model_dump(mode="json", by_alias=True) for detector in monitor.spec.traffic.detectors],
        "client": None if client is None or not monitor.spec.traffic.detectors else client.model_dump(mode="json"),
        "learned": [detector.key for detector in monitor.spec.outliers.learned],
    }
    try:
        stamp = json.loads(fs.cat_file(path))
    except FileNotFoundError:
        version = monitor.spec.reference.version
        version = Store(monitor.spec.reference.store).current(monitor.name) if version == CURRENT else version
        Store(monitor.spec.reference.store).load(monitor.name, version)
        write_whole(fs, path, json.dumps({**wanted, "baseline": version}, indent=2).encode() + b"\n")
        return version
    changed = [
        f"{key} was {stamp.get(key)!r} and is {value!r}" for key, value in wanted.items() if stamp.get(key) != value
    ]
    if changed:
        raise IncompatibleCheckpoint(
            f"the checkpoint {monitor.spec.job.checkpoint} was made under other settings ({'; '.join(changed)}): give "
            "spec.job.checkpoint a new directory (the monitor then begins at kafka.startingOffsets), or change the settings back",
        )
    return str(stamp["baseline"])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def prepare_topics(monitor: ModelMonitor) -> None:
    """Create the topics, or wait for them: a source topic that is not there kills a query at its first batch."""
    from streaming.kafka import ensure_topics

    kafka, topics = monitor.spec.kafka, monitor.topics
    wanted = [
        ([topics.inference], kafka.partitions, kafka.largest_message),
        ([topics.outliers, topics.statistics, topics.drift, topics.deadletter], 1, kafka.largest_record),
    ]
    for names, partitions, largest in wanted:
        ensure_topics(
            kafka,
            names,
            partitions=partitions,
            replication=kafka.replication_factor,
            configs={"max.message.bytes": str(largest)},
            timeout=kafka.topic_timeout,
            create=kafka.create_topics,
        )


def session(monitor: ModelMonitor) -> "SparkSession":
    """A Spark session with the connector's jars, and the monitor's own settings last."""
    from pyspark.sql import SparkSession

    from streaming.jars import jars

    job = monitor.spec.job
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else workers start the system's Python
    if job.master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")  # nobody outside has business with a local Spark
    settings = {
        "spark.master": job.master,
        "spark.app.name": f"driftline-{monitor.name}",
        "spark.jars": ",".join(str(jar) for jar in jars("spark-kafka")),
        "spark.driver.memory": job.driver.memory,
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={_LOGGING.as_uri()}",
        "spark.executor.memory": job.executors.memory,
        "spark.executor.cores": str(job.executors.cores),
        "spark.executor.instances": str(job.executors.instances),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": str(job.state_partitions),
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
    builder = SparkSession.builder
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def start(spark: "SparkSession", monitor: ModelMonitor, version: str) -> "StreamingQuery":
    """Start the query."""
    from streaming.worker import Task

    kafka, job = monitor.spec.kafka, monitor.spec.job
    task = Task(monitor.model_dump_json(by_alias=True), version, time.time_ns() // 1_000_000)
    frontiers = f"{job.checkpoint}/driftline/frontiers"
    options = {
        **kafka.for_spark(),
        "subscribe": monitor.topics.inference,
        "startingOffsets": kafka.starting_offsets,
        "includeHeaders": "true",
        "failOnDataLoss": "true",
    }
    if job.max_offsets_per_trigger is not None:
        options["maxOffsetsPerTrigger"] = str(job.max_offsets_per_trigger)
    messages = spark.readStream.format("kafka").options(**options).load()
    reports = merged(folded(messages, task, frontiers), task, frontiers)
    sink = {**kafka.for_spark(), "kafka.max.request.size": str(kafka.largest_record), "kafka.linger.ms": "5"}
    return (
        reports.writeStream.format("kafka")
        .options(**sink)
        .queryName(f"driftline-{monitor.name}")
        .option("checkpointLocation", job.checkpoint)
        .trigger(processingTime=f"{int(job.trigger_interval.total_seconds() * 1000)} milliseconds")
        .outputMode("update")
        .start()
    )


def folded(messages: "DataFrame", task: "Task", frontiers: str) -> "DataFrame":
    """Outliers, dead letters and partial window summaries of raw Kafka messages; see `streaming.fold`."""
    from pyspark.sql import functions as fn

    from streaming.fold import FOLDED
    from streaming.headers import FLAT

    def stage(batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        from streaming.fold import fold

        return fold(batches, task, frontiers)

    columns = messages.select("key", "value", "partition", "offset", "timestamp", fn.expr(FLAT).alias("headers"))
    return columns.mapInArrow(stage, FOLDED)


def merged(rows: "DataFrame", task: "Task", frontiers: str) -> "DataFrame":
    """What goes to Kafka, of folded rows; see `streaming.merge`."""
    from streaming.merge import REPORTED, MergeProcessor

    return rows.groupBy("model", "segment").transformWithStateInPandas(
        statefulProcessor=MergeProcessor(task, frontiers),
        outputStructType=REPORTED,
        outputMode="Update",
        timeMode="ProcessingTime",
    )


def _await(query: "StreamingQuery", spark: "SparkSession", monitor: ModelMonitor) -> int:
    """Wait until the query ends or somebody wants it to."""
    wanted = threading.Event()
    before = {number: signal.signal(number, lambda *_: wanted.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    limit = monitor.spec.job.timeout
    deadline = None if limit is None else time.monotonic() + limit.total_seconds()
    try:
        while query.isActive and not wanted.is_set() and (deadline is None or time.monotonic() < deadline):
            wanted.wait(0.2)
        if query.isActive:
            _drain(query, spark)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    failure = query.exception()
    if failure is not None:
        _say(f"the query failed: {failure}")
        return 1
    return 0


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
        _say(f"the last batch is interrupted and done again after the next start: {error}")
    query.stop()


def _say(text: str) -> None:
    """A line for whoever watches or reads the log."""
    print(f"driftline: {text}", file=sys.stderr, flush=True)  # noqa: T201
