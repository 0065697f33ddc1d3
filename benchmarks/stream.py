"""The whole stream: throughput beside two yardsticks, latency at 1,000 requests/s, memory.

    make bench-stream

(a) Two prefilled topics, 1,000,000 messages of 4 features and 100,000 of 8 x 30, are drained by the full monitor after a
warm-up batch. Yardsticks on the same topics in the same run, as streaming queries with the same batches: Spark only counting
the bytes, and Spark only parsing them with `from_json`. A rate is messages over the time of their micro-batches.
(b) 1,000 requests/s, 15 s windows, 6 s delay: from the request's time to the Kafka timestamp of its outlier record, of
the first provisional report and of the final report that count it.
(c) Peak resident memory of the JVM, and of all Python workers together (shared pages counted once), during (b).
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import yaml
from _results import Results
from confluent_kafka import Consumer, Producer

from reference.build import build
from reference.store import Store
from streaming.broker import EmbeddedKafka
from streaming.job import absolute, pinned_baseline, prepare_topics, session, start
from streaming.spec import ModelMonitor, parse

PARTITIONS = 4
BATCH = 250_000


def monitor_of(
    folder: Path, name: str, broker: EmbeddedKafka, features: int, window: dict[str, Any], **job: Any
) -> ModelMonitor:
    document = {
        "apiVersion": "driftline.io/v1",
        "kind": "ModelMonitor",
        "metadata": {"name": name},
        "spec": {
            "model": {"features": [{"name": f"f{j}", "type": "numeric"} for j in range(features)]},
            "kafka": {"bootstrapServers": broker.bootstrap_servers, "partitions": PARTITIONS},
            "window": window,
            "outliers": {"detectors": ["bounds", {"name": "k_sigma", "k": 4}, "missing", "nonfinite"]},
            "reference": {"store": str(folder / "baselines")},
            "job": {"checkpoint": str(folder / f"checkpoint-{name}"), **job},
        },
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
    return parse(yaml.safe_dump(document), name)


def training(features: int, rng: np.random.Generator) -> pa.Table:
    return pa.table({f"f{j}": rng.normal(10 + j, 2.0, 50_000) for j in range(features)})


def message(number: int, at: float, values: np.ndarray) -> bytes:
    rows = ",".join("[" + ",".join(f"{v:.4f}" for v in row) + "]" for row in values)
    return (
        f'{{"type":"request","id":"{number:08x}-4a5e-4c6b-9d7f-{number:012x}","time":{at:.3f},'
        f'"payload":{{"instances":[{rows}]}}}}'
    ).encode()


def fill(broker: EmbeddedKafka, topic: str, count: int, shape: tuple[int, int], rng: np.random.Generator) -> int:
    """`count` messages, one a millisecond of event time up to now, round robin; returns their mean size in bytes."""
    producer = Producer({**broker.connection.for_confluent(), "linger.ms": 50, "queue.buffering.max.messages": 500_000})
    begin = time.time() - count / 1000
    size, templates = 0, 2000
    rows = rng.normal(10 + np.arange(shape[1]), 2.0, (templates, *shape))
    for i in range(count):
        body = message(i, begin + i / 1000, rows[i % templates])
        size += len(body)
        while True:
            try:
                producer.produce(topic, body, partition=i % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
        if i % 10_000 == 0:
            producer.poll(0)
    producer.flush()
    return size // count


def rate(query: Any, total: int) -> float:
    """Messages a second over all micro-batches after the first."""
    seen: dict[int, tuple[int, float]] = {}
    while sum(rows for rows, _ in seen.values()) < total:
        time.sleep(0.2)
        assert query.isActive, query.exception()
        for progress in query.recentProgress:
            if progress["numInputRows"]:
                seconds = progress["durationMs"]["triggerExecution"] / 1000
                seen[progress["batchId"]] = (progress["numInputRows"], seconds)
    query.stop()
    batches = [seen[batch] for batch in sorted(seen)]
    print("batches:", " ".join(f"{rows}/{seconds:.2f}s" for rows, seconds in batches), flush=True)
    return sum(rows for rows, _ in batches[1:]) / sum(seconds for _, seconds in batches[1:])


def yardstick(
    spark: Any, monitor: ModelMonitor, total: int, stage: Callable[[Any], Any], folder: Path, batch: int
) -> float:
    source = (
        spark.readStream.format("kafka")
        .options(
            **monitor.spec.kafka.for_spark(),
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
    from pyspark.sql import functions as fn

    rng = np.random.default_rng(0)
    for name, count, warm, shape, batch in (
        ("narrow", int(1_000_000 * scale), BATCH, (1, 4), BATCH),
        ("wide", int(100_000 * scale), 25_000, (8, 30), 25_000),
    ):
        monitor = monitor_of(
            folder, name, broker, shape[1], {"duration": "5m", "watermarkDelay": "30s"}, maxOffsetsPerTrigger=batch
        )
        monitor = absolute(monitor)
        Store(monitor.spec.reference.store).publish(
            build(training(shape[1], rng), monitor.spec.model, monitor.spec.reference)
        )
        version = pinned_baseline(monitor)
        prepare_topics(monitor)
        size = fill(broker, monitor.topics.inference, count + warm, shape, rng)
        results.note(f"{name}: {count} messages of {size} B, {shape[0]} x {shape[1]} features, {PARTITIONS} partitions")
        spark = session(monitor)
        total = count + warm
        schema = "type string, id string, time double, payload struct<instances: array<array<double>>>"
        limit = yardstick(spark, monitor, total, lambda s: s.agg(fn.sum(fn.length("value"))), folder, batch)
        parsed = fn.from_json(fn.col("value").cast("string"), schema)
        from_json = yardstick(
            spark,
            monitor,
            total,
            lambda s, parsed=parsed: s.select(parsed.alias("m")).agg(
                fn.sum("m.time"), fn.sum(fn.size("m.payload.instances")), fn.max("m.payload.instances")
            ),
            folder,
            batch,
        )
        ours = rate(start(spark, monitor, version), total)
        spark.stop()
        results.figure(f"{name}_messages_per_s", ours)
        results.figure(f"{name}_limit_messages_per_s", limit)
        results.figure(f"{name}_from_json_messages_per_s", from_json)
        results.figure(f"{name}_vs_limit", limit / ours)
        results.figure(f"{name}_vs_from_json", from_json / ours)


def latency(folder: Path, broker: EmbeddedKafka, results: Results, seconds: int) -> None:
    per_second = 1000
    monitor = monitor_of(
        folder,
        "latency",
        broker,
        4,
        {"duration": "15s", "watermarkDelay": "6s", "idleTimeout": "30s", "emitEvery": "500ms"},
    )
    rng = np.random.default_rng(1)
    monitor = absolute(monitor)
    Store(monitor.spec.reference.store).publish(build(training(4, rng), monitor.spec.model, monitor.spec.reference))
    prepare_topics(monitor)
    process = subprocess.Popen(
        [sys.executable, "-m", "workflows.cli", "monitor", "run", "--config", str(folder / "latency.yaml")],
        stdout=(folder / "latency.log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    memory = Memory(process.pid)
    try:
        _send(broker, monitor.topics.inference, per_second, 45, rng)  # warm-up: the JVM compiles, workers import
        memory.start()
        sent = _send(broker, monitor.topics.inference, per_second, seconds, rng)
        time.sleep(30)  # the last windows close
    finally:
        memory.stop()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    records = {
        topic: _all(broker, topic)
        for topic in (monitor.topics.outliers, monitor.topics.statistics, monitor.topics.deadletter)
    }
    assert not records[monitor.topics.deadletter], records[monitor.topics.deadletter][0]
    _latencies(records[monitor.topics.outliers], records[monitor.topics.statistics], sent, results)
    results.figure("driver_peak_mib", memory.driver)
    results.figure("worker_peak_mib", memory.workers)


def _send(broker: EmbeddedKafka, topic: str, per_second: int, seconds: int, rng: np.random.Generator) -> np.ndarray:
    """Open loop: each message is due at its own time, which is its event time; returns those times, ms."""
    producer = Producer({**broker.connection.for_confluent(), "linger.ms": 1})
    rows = rng.normal(10 + np.arange(4), 2.0, (2000, 1, 4))
    rows[::50, 0, 0] += 100  # one request in fifty is an outlier
    begin = time.time()
    sent = []
    for i in range(per_second * seconds):
        due = begin + i / per_second
        wait = due - time.time()
        if wait > 0:
            time.sleep(wait)
        at = time.time_ns() // 1_000_000
        producer.produce(topic, message(random.getrandbits(31), at / 1000, rows[i % 2000]), partition=i % PARTITIONS)
        producer.poll(0)
        sent.append(at)
    producer.flush()
    return np.array(sent)


def _all(broker: EmbeddedKafka, topic: str) -> list[tuple[int, dict[str, Any]]]:
    """Every record of a topic with its Kafka timestamp."""
    consumer = Consumer(
        {**broker.connection.for_confluent(), "group.id": f"bench-{random.random()}", "auto.offset.reset": "earliest",
         "enable.partition.eof": "true"},
    )  # fmt: skip
    consumer.subscribe([topic])
    found = []
    while True:
        record = consumer.poll(10)
        if record is None or record.error():
            break
        found.append((record.timestamp()[1], json.loads(record.value())))
    consumer.close()
    return found


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def _latencies(outliers: list[Any], statistics: list[Any], sent: np.ndarray, results: Results) -> None:
    begin, end = sent[0], sent[-1]
    flagged = [at - _ms(r["eventTime"]) for at, r in outliers if begin <= _ms(r["eventTime"]) <= end]
    windows: dict[int, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for at, record in statistics:
        windows[_ms(record["window"]["start"])].append((at, record))
    provisional, final = [], []
    for opened, reports in windows.items():
        if opened < begin or opened + 15_000 + 6_000 + 1_000 > end:
            continue  # only whole windows that close while requests come
        mine = sent[(sent >= opened) & (sent < opened + 15_000)]
        counted = np.array([record["counts"]["requests"] for _, record in reports])
        stamps = np.array([at for at, _ in reports])
        last = next(at for at, record in reports if record["status"] == "final")
        assert counted.max() == len(mine), (opened, counted.max(), len(mine))
        # The n-th request of a window is in the first report that counts at least n.
        first = stamps[np.searchsorted(counted, np.arange(1, len(mine) + 1), side="left")]
        provisional.append(first - mine)
        final.append(last - mine)
    results.note(
        f"{len(flagged)} outlier records, {len(final)} whole windows of 15 s at {len(sent) * 1000 / (end - begin):.0f} requests/s"
    )
    for kind, values in (
        ("outlier", flagged),
        ("provisional", np.concatenate(provisional)),
        ("final", np.concatenate(final)),
    ):
        for p in (50, 75, 95, 99):
            results.figure(f"{kind}_p{p}_s", float(np.percentile(values, p)) / 1000)


class Memory(threading.Thread):
    """Samples a process tree twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._done = threading.Event()
        self.driver = self.workers = 0.0

    def run(self) -> None:
        """Sample until stopped."""
        while not self._done.wait(0.5):
            driver = workers = 0.0
            try:
                for process in self._root.children(recursive=True):
                    name = process.name()
                    if name == "java":
                        driver += process.memory_info().rss / 2**20
                    elif "pyspark.daemon" in " ".join(process.cmdline()):
                        workers += process.memory_full_info().pss / 2**20
            except psutil.Error:
                continue
            self.driver, self.workers = max(self.driver, driver), max(self.workers, workers)

    def stop(self) -> None:
        """End sampling."""
        self._done.set()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--scale", type=float, default=1.0, help="share of the messages of (a)")
    arguments.add_argument("--seconds", type=int, default=120, help="length of (b)")
    arguments.add_argument(
        "--only", choices=["throughput", "latency"], help="measure one part anew, keep the other's figures"
    )
    chosen = arguments.parse_args()
    results = Results("stream")
    with tempfile.TemporaryDirectory() as folder, EmbeddedKafka(Path(folder) / "kafka") as broker:
        if chosen.only != "latency":
            throughput(Path(folder), broker, results, chosen.scale)
        if chosen.only != "throughput":
            latency(Path(folder), broker, results, chosen.seconds)
    if chosen.scale == 1.0:
        results.write(keep=chosen.only is not None)
    results.show()


if __name__ == "__main__":
    main()
