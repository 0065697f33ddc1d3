"""The whole stream: throughput beside two yardsticks, latency at 1,000 requests/s, memory.

    make bench-stream                                     # 6 minutes
    make bench-stream ARGS="--scale 0.02 --seconds 20"    # a try, which writes nothing

(a) Two prefilled topics, 1,000,000 messages of 4 features and 100,000 of 8 x 30, are drained after a warm-up batch by the monitor with
all its defaults: statistics, outliers, drift. One message in a thousand has an outlier. Yardsticks on the same topics in the same
run, as streaming queries with the same batches: Spark only counting the bytes, and Spark only parsing them with `from_json`.
A rate is messages over the time of their micro-batches.
(b) 1,000 requests/s, 15 s windows, 6 s delay: from the request's time to the time at which Kafka has its outlier record, the first
provisional report and the final report that count it. One request in fifty is an outlier.
(c) Peak resident memory of the JVM, and of all Python workers together (shared pages counted once), during (b).
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _results import Results
from _stream import (
    ONE_IN,
    PARTITIONS,
    Memory,
    Outlier,
    Report,
    Windows,
    bodies_of,
    broker_in,
    driftline,
    fill,
    limited,
    monitor_of,
    ms,
    publish,
    rate,
    records,
    running,
    send,
    task_of,
    wait_for,
)

from streaming.broker import EmbeddedKafka
from streaming.job import FETCHING, session, start
from streaming.spec import ModelMonitor

BATCH = 250_000
WARM_UP_S = 45


def yardstick(
    spark: Any, monitor: ModelMonitor, total: int, stage: Callable[[Any], Any], folder: Path, batch: int
) -> float:
    """The rate of another query on the same topic."""
    source = (
        spark.readStream.format("kafka")
        .options(
            **monitor.spec.kafka.for_spark(),
            **FETCHING,
            subscribe=monitor.topics.inference,
            startingOffsets="earliest",
            maxOffsetsPerTrigger=str(batch),
        )
        .load()
    )
    query = (
        stage(source)
        .writeStream.format("noop")
        .outputMode("update")
        .option("checkpointLocation", tempfile.mkdtemp(dir=folder))
        .start()
    )
    return rate(query, total)


def throughput(folder: Path, broker: EmbeddedKafka, results: Results, scale: float) -> None:
    """Part (a)."""
    from pyspark.sql import functions as fn

    def counted(source: Any) -> Any:
        return source.agg(fn.sum(fn.length("value")))

    schema = "type string, id string, time double, payload struct<instances: array<array<double>>>"

    def parsed(source: Any) -> Any:
        read = source.select(fn.from_json(fn.col("value").cast("string"), schema).alias("m"))
        return read.agg(fn.sum("m.time"), fn.sum(fn.size("m.payload.instances")), fn.max("m.payload.instances"))

    rng = np.random.default_rng(0)
    for name, count, batch, shape in (
        ("narrow", int(1_000_000 * scale), int(BATCH * min(1.0, 4 * scale)), (1, 4)),
        ("wide", int(100_000 * scale), int(BATCH * min(1.0, 4 * scale)) // 10, (8, 30)),
    ):
        monitor = monitor_of(folder / "models", name, broker, shape[1])
        publish(monitor, rng=rng)
        total = count + batch
        print(f"{name}: writing {total:,} messages", flush=True)
        size = fill(broker, monitor.topics.inference, total, bodies_of(rng, *shape, one_in=1000))
        results.note(f"{name}: {count} messages of {size} B, {shape[0]} x {shape[1]} features, {PARTITIONS} partitions")
        spark = session(monitor)
        try:
            limit = yardstick(spark, monitor, total, counted, folder, batch)
            from_json = yardstick(spark, monitor, total, parsed, folder, batch)
            ours = rate(start(spark, monitor, task_of(monitor), monitor.inputs, batch), total)
        finally:
            spark.stop()
        results.figure(f"{name}_messages_per_s", ours)
        results.figure(f"{name}_limit_messages_per_s", limit)
        results.figure(f"{name}_from_json_messages_per_s", from_json)
        results.figure(f"{name}_vs_limit", limit / ours)
        results.figure(f"{name}_vs_from_json", from_json / ours)


def latency(folder: Path, broker: EmbeddedKafka, results: Results, seconds: int) -> None:
    """Parts (b) and (c)."""
    per_second = 1000
    window = {"duration": "15s", "watermarkDelay": "6s", "idleTimeout": "30s", "emitEvery": "500ms"}
    models = folder / "models"
    monitor = monitor_of(models, "latency", broker, 4, window=window)
    rng = np.random.default_rng(1)
    publish(monitor, rng=rng)
    topics, bodies = monitor.topics, bodies_of(rng, 1, 4)
    command = driftline("monitor", "run", "--config", str(models / "latency.yaml"))
    with running(command, folder / "latency.log") as process:
        memory = Memory(process.pid)
        # Workers start and import, then the JVM compiles.
        first = send(broker, [topics.inference], 100, 2, bodies)
        wait_for(
            lambda: records(broker, topics.statistics, Report), process, folder / "latency.log", 180, "a first report"
        )
        warm = send(broker, [topics.inference], per_second, WARM_UP_S, bodies, say="warm-up")
        memory.start()
        sent = send(broker, [topics.inference], per_second, seconds, bodies, say="latency")
        print("waiting until the last windows close", flush=True)
        time.sleep(30)
        memory.stop()
        assert process.poll() is None, (folder / "latency.log").read_text()[-4000:]
    dead = records(broker, topics.deadletter, dict)
    assert not dead, dead[0]
    flagged = np.array(
        [(ms(outlier.event_time), at) for at, outlier in records(broker, topics.outliers, Outlier)], np.int64
    ).reshape(-1, 2)
    flagged = flagged[flagged[:, 0] >= sent[0]]
    windows = Windows.of(records(broker, topics.statistics, Report), 15_000)
    closed, _ = windows.check(np.concatenate((first, warm, sent)))
    # Only requests of windows that close while others come: silence closes the last ones.
    early = sent < sent[-1] - 15_000 - 6_000 - 1_000
    soon, last = windows.waits(sent, sent.astype(np.float64))
    results.note(f"{len(flagged)} outlier records, {closed} windows of 15 s with every request counted once")
    assert len(flagged) >= len(sent) // ONE_IN * 0.9, (
        f"only {len(flagged)} outliers of {len(sent) // ONE_IN} were found"
    )
    for kind, values in (
        ("outlier", (flagged[:, 1] - flagged[:, 0]) / 1000),
        ("provisional", soon[early]),
        ("final", last[early]),
    ):
        assert len(values), f"too short for {kind} reports: give more --seconds"
        assert not np.isnan(values).any(), f"{np.isnan(values).sum()} requests have no {kind} report"
        for p in (50, 75, 95, 99):
            results.figure(f"{kind}_p{p}_s", float(np.percentile(values, p)))
    results.figure("driver_peak_mib", memory.driver)
    results.figure("worker_peak_mib", memory.workers)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--scale", type=float, default=1.0, help="share of the messages of (a)")
    arguments.add_argument("--seconds", type=int, default=120, help="length of (b)")
    arguments.add_argument(
        "--only", choices=["throughput", "latency"], help="measure one part anew, keep the other's figures"
    )
    chosen = arguments.parse_args()
    results = Results("stream")
    with (
        limited(900 + 2 * chosen.seconds),
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        broker_in(Path(folder)) as broker,
    ):
        if chosen.only != "latency":
            throughput(Path(folder), broker, results, chosen.scale)
        if chosen.only != "throughput":
            latency(Path(folder), broker, results, chosen.seconds)
    if chosen.scale == 1.0 and chosen.seconds >= 60:
        results.write(keep=chosen.only is not None)
    results.show()


if __name__ == "__main__":
    main()
