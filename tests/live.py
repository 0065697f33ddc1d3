"""A monitor as a user runs it, on a real Spark and a real Kafka, and what it has written."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from streaming.spec import ModelMonitor


@contextmanager
def running(path: Path) -> Iterator[subprocess.Popen]:
    """The monitor as a user runs it, in a process group of its own."""
    log = path.with_suffix(".log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "workflows.cli", "monitor", "run", "--config", str(path)],
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


def kill(process: subprocess.Popen) -> float:
    """End driver and JVM as the kernel would, out of memory; returns when, s since the epoch."""
    at = time.time()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return at


def workers(process: subprocess.Popen) -> list[int]:
    """Python workers of a monitor's Spark: processes that its daemon has forked."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    known = {
        int(pid): (int(parent), args) for pid, parent, args in (line.split(None, 2) for line in listing.splitlines())
    }
    mine = {process.pid}
    while more := {pid for pid, (parent, _) in known.items() if parent in mine} - mine:
        mine |= more
    daemons = {pid for pid in mine if "pyspark.daemon" in known.get(pid, (0, ""))[1]}
    return sorted(pid for pid in daemons if known[pid][0] in daemons)


def stop(process: subprocess.Popen) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(60)


def envelope(number: int, at: float, instances, kind="request") -> bytes:
    return json.dumps({"type": kind, "id": f"id-{number}", "time": at, "payload": {"instances": instances}}).encode()


def read(broker, topic: str) -> list[dict]:
    """Everything that is in a topic now."""
    consumer = Consumer(
        {
            **broker.connection.for_confluent(),
            "group.id": "read",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    found = []
    while True:
        record = consumer.poll(10)
        assert record is not None, f"{topic} does not answer"
        if record.error():
            break
        found.append(json.loads(record.value()))
    consumer.close()
    return found


def records(broker, monitor: ModelMonitor) -> dict[str, list[dict]]:
    """Everything that a monitor has written, by kind."""
    topics = monitor.topics
    kinds = {
        "outlier": topics.outliers,
        "statistics": topics.statistics,
        "drift": topics.drift,
        "deadletter": topics.deadletter,
    }
    return {kind: read(broker, topic) for kind, topic in kinds.items()}


def wait_for(what, process: subprocess.Popen, log: Path, seconds: float = 180):
    """Poll until `what()` is true, and fail with the log's end when the monitor dies or time is up."""
    deadline = time.monotonic() + seconds
    while True:
        if found := what():
            return found
        alive = process.poll() is None
        if not alive or time.monotonic() > deadline:
            pytest.fail(f"{'too slow' if alive else 'the monitor died'}:\n{log.read_text()[-4000:]}")
        time.sleep(0.5)


def finals(records: list[dict]) -> dict[str, dict]:
    """Final reports by id; duplicates must be the same report."""
    found: dict[str, dict] = {}
    for record in records:
        if record["status"] == "final":
            earlier = found.setdefault(record["id"], record)
            assert earlier["window"] == record["window"]
    return found
