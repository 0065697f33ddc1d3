"""What the benchmarks of a running monitor share: models, traffic, processes that end, and how late an answer was."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import yaml
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from numpy.typing import NDArray

from reference.build import build
from reference.store import Store
from streaming.broker import EmbeddedKafka
from streaming.editions import ALWAYS, Edition, Task
from streaming.guard import guarded
from streaming.job import prepare_topics
from streaming.spec import ModelMonitor, absolute, parse

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PARTITIONS = 4
TRAINING_ROWS = 50_000
POOL = 1999
"""Different rows of traffic. A prime: neither partitions nor models take turns with it."""
ONE_IN = 50
"""Of so many requests of live traffic one is an outlier."""
_FURTHEST = 2.5
"""Standard deviations: what is further out would be an outlier by chance, and chance is not what is measured."""
_GRACE = timedelta(seconds=60)


# Time limits and processes ------------------------------------------------------------------------------------------
@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End after so long with TimeoutError, wherever the main thread is; SIGTERM ends it as Ctrl-C does, tidily."""

    def late(*_: object) -> None:
        raise TimeoutError(f"the benchmark is not done after {seconds:.0f} s")

    def asked(*_: object) -> None:
        raise KeyboardInterrupt

    before = {signal.SIGALRM: signal.signal(signal.SIGALRM, late), signal.SIGTERM: signal.signal(signal.SIGTERM, asked)}
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def broker_in(folder: Path) -> EmbeddedKafka:
    """A broker that stamps every record when it has it: latencies end there, not when the monitor believes to have sent."""
    return EmbeddedKafka(folder / "kafka", settings={"log.message.timestamp.type": "LogAppendTime"})


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in a session of its own, with all that it starts; gone when this one is, however that ended."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            guarded(command, _GRACE),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to end, wait, and end what it leaves behind."""
    if process.poll() is not None:
        return
    with contextlib.suppress(psutil.Error):
        left = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE.total_seconds() + 5)
        for one in left:
            with contextlib.suppress(psutil.Error):
                one.kill()
    process.kill()
    process.wait()


def driftline(*arguments: str) -> list[str]:
    """The command line in this interpreter."""
    return [sys.executable, "-m", "workflows.cli", *arguments]


def wait_for(
    what: Callable[[], Any], process: "subprocess.Popen[bytes] | None", log: Path | None, seconds: float, name: str
) -> Any:
    """What `what` gives as soon as it is true.

    Raises
    ------
    RuntimeError
        The process has ended, or it takes too long; with the end of the log.
    """
    deadline = time.monotonic() + seconds
    while True:
        if found := what():
            return found
        dead = process is not None and process.poll() is not None
        if dead or time.monotonic() > deadline:
            tail = "" if log is None else f"\n{log.read_text(errors='replace')[-4000:]}"
            raise RuntimeError(f"waiting for {name}: {'it has ended' if dead else f'nothing in {seconds:.0f} s'}{tail}")
        time.sleep(0.2)


# Models and traffic -------------------------------------------------------------------------------------------------
def monitor_of(
    folder: Path,
    name: str,
    broker: EmbeddedKafka,
    features: int,
    *,
    partitions: int = PARTITIONS,
    checkpoint: Path | None = None,
    **sections: Mapping[str, Any],
) -> ModelMonitor:
    """A ModelMonitor with the defaults of everything that is not said; its file is ``NAME.yaml``."""
    document = {
        "apiVersion": "driftline.io/v1",
        "kind": "ModelMonitor",
        "metadata": {"name": name},
        "spec": {
            "model": {"features": [{"name": f"f{j}", "type": "numeric"} for j in range(features)]},
            "kafka": {"bootstrapServers": broker.bootstrap_servers, "partitions": partitions},
            "reference": {"store": str(folder.absolute().parent / "baselines")},
            **sections,
            "job": {"checkpoint": str(checkpoint or folder / f"checkpoint-{name}"), **sections.get("job", {})},
        },
    }
    folder.mkdir(exist_ok=True)
    text = yaml.safe_dump(document)
    (folder / f"{name}.yaml").write_text(text)
    return absolute(parse(text, name))


def publish(*monitors: ModelMonitor, rng: np.random.Generator) -> None:
    """Baselines of the monitors, from one table for all with equally many features; and their topics."""
    tables: dict[int, pa.Table] = {}
    for monitor in monitors:
        spec = monitor.spec
        table = tables.setdefault(len(spec.model.features), training(len(spec.model.features), rng))
        Store(spec.reference.store).publish(build(table, spec.model, spec.reference, spec.outliers.learned))
    prepare_topics(*monitors)


def task_of(monitor: ModelMonitor) -> Task:
    """What travels to the stages when this is the only model."""
    version = Store(monitor.spec.reference.store).current(monitor.name)
    return Task(((Edition(0, ALWAYS, version, monitor.model_dump_json(by_alias=True)),),), time.time_ns() // 1_000_000)


def rows_of(rng: np.random.Generator, count: int, features: int) -> Floats:
    """(count, features) usual rows: normal, without the far ends."""
    values = rng.normal(size=(count, features))
    while (far := np.abs(values) > _FURTHEST).any():
        values[far] = rng.normal(size=int(far.sum()))
    return 10.0 + np.arange(features) + 2.0 * values


def training(features: int, rng: np.random.Generator) -> pa.Table:
    """The training table."""
    values = rows_of(rng, TRAINING_ROWS, features)
    return pa.table({f"f{j}": values[:, j] for j in range(features)})


def bodies_of(rng: np.random.Generator, instances: int, features: int, one_in: int = ONE_IN) -> list[bytes]:
    """Bodies of requests, V1 protocol; one in so many has an outlier."""
    values = rows_of(rng, POOL * instances, features).reshape(POOL, instances, features)
    values[::one_in, 0, 0] += 100
    return [json.dumps({"instances": one.round(4).tolist()}, separators=(",", ":")).encode() for one in values]


def envelope(number: int, at: int, body: bytes) -> bytes:
    """A request in the envelope format; `at` in ms. Its id begins with its number."""
    return b'{"type":"request","id":"%08x-4a5e-4c6b-9d7f-4a5e4c6b9d7f","time":%d.%03d,"payload":%s}' % (
        number,
        at // 1000,
        at % 1000,
        body,
    )


def fill(broker: EmbeddedKafka, topic: str, count: int, bodies: Sequence[bytes], partitions: int = PARTITIONS) -> int:
    """`count` requests, one a millisecond of event time up to now, round robin; returns their mean size in bytes."""
    producer = Producer({**broker.connection.for_confluent(), "linger.ms": 50, "queue.buffering.max.messages": 500_000})
    begin = time.time_ns() // 1_000_000 - count
    size = 0
    for i in range(count):
        value = envelope(i, begin + i, bodies[i % POOL])
        size += len(value)
        while True:
            try:
                producer.produce(topic, value, partition=i % partitions)
                break
            except BufferError:
                producer.poll(0.1)
        if i % 10_000 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0, "Kafka did not take everything in a minute"
    return size // count


def send(
    broker: EmbeddedKafka,
    topics: Sequence[str],
    per_second: int,
    seconds: float,
    bodies: Sequence[bytes],
    *,
    partitions: int = PARTITIONS,
    stopped: threading.Event | None = None,
    say: str = "",
) -> Ints:
    """Open loop, straight to Kafka: each request is due at its own time; topics take turns. Returns when each was sent, ms.

    Requests leave in bunches of 4 ms, which is cheap; a request's event time is when it was sent.
    """
    producer = Producer({**broker.connection.for_confluent(), "linger.ms": 1, "queue.buffering.max.messages": 500_000})
    total, begin, told = int(per_second * seconds), time.monotonic(), 0.0
    sent = np.zeros(total, np.int64)
    i = 0
    while i < total and not (stopped is not None and stopped.is_set()):
        passed = time.monotonic() - begin
        due = min(total, int(passed * per_second) + 1)
        at = time.time_ns() // 1_000_000
        for number in range(i, due):
            topic, turn = topics[number % len(topics)], number // len(topics)
            producer.produce(topic, envelope(number, at, bodies[number % POOL]), partition=turn % partitions)
        sent[i:due] = at
        i = due
        producer.poll(0)
        if say and passed - told >= 10:
            told = passed
            print(f"{say}: {passed:.0f} of {seconds:.0f} s, {i:,} requests sent", flush=True)
        time.sleep(0.004)
    assert producer.flush(30) == 0, "Kafka did not take everything in half a minute"
    return sent[:i]


def rate(query: Any, total: int, seconds: float = 300, after_first: Callable[[], None] | None = None) -> float:
    """Messages a second of a query that drains a topic, over all micro-batches after the first; it is stopped then.

    Parameters
    ----------
    after_first
        Called when the first batch is over.
    """
    seen: dict[int, tuple[int, float]] = {}
    deadline = time.monotonic() + seconds
    while sum(rows for rows, _ in seen.values()) < total:
        time.sleep(0.1)
        assert query.isActive, query.exception()
        assert time.monotonic() < deadline, f"{total} messages took more than {seconds:.0f} s"
        for progress in query.recentProgress:
            if progress["numInputRows"]:
                if not seen and after_first is not None:
                    after_first()
                took = progress["durationMs"]["triggerExecution"] / 1000
                seen[progress["batchId"]] = (progress["numInputRows"], took)
    query.stop()
    batches = [seen[batch] for batch in sorted(seen)]
    print("batches:", " ".join(f"{rows}/{took:.2f}s" for rows, took in batches), flush=True)
    return sum(rows for rows, _ in batches[1:]) / sum(took for _, took in batches[1:])


# What the monitor wrote ---------------------------------------------------------------------------------------------
class Outlier(msgspec.Struct, rename="camel"):
    """What is read of an outlier."""

    request_id: str
    event_time: datetime

    @property
    def number(self) -> int:
        """Of the request."""
        return int(self.request_id[:8], 16)


class Span(msgspec.Struct):
    """A window's."""

    start: datetime


class Counts(msgspec.Struct):
    """What is read of a report's counts."""

    requests: int = 0
    late: int = 0


class Report(msgspec.Struct):
    """What is read of a window's report; drift reports have no counts."""

    window: Span
    status: str
    counts: Counts = msgspec.field(default_factory=Counts)


R = TypeVar("R")


def records(broker: EmbeddedKafka, topic: str, kind: type[R], seconds: float = 60) -> list[tuple[int, R]]:
    """All that is in a topic now: when Kafka had it, ms, and what it says."""
    decode = msgspec.json.Decoder(kind).decode
    consumer = Consumer({**broker.connection.for_confluent(), "group.id": "benchmark", "enable.auto.commit": False})
    found: list[tuple[int, R]] = []
    deadline = time.monotonic() + seconds
    try:
        left = {}
        for number in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            if high > low:
                left[number] = high
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in left])
        while left:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic} could not be read in {seconds:.0f} s")
            for record in consumer.consume(1000, 1.0):
                if record.error() is None:
                    found.append((record.timestamp()[1], decode(record.value() or b"")))
                    if (record.offset() or 0) + 1 >= left.get(record.partition() or 0, 2**62):
                        left.pop(record.partition() or 0, None)
    finally:
        consumer.close()
    return found


def ms(time: datetime) -> int:
    """Milliseconds since the epoch."""
    return round(time.timestamp() * 1000)


@dataclass(frozen=True)
class Windows:
    """The reports of one model's windows of one length."""

    length: int
    """ms"""
    reports: Mapping[int, Sequence[tuple[int, Report]]]
    """Start of a window, ms -> (when Kafka had it, report), in the order of the topic."""

    @classmethod
    def of(cls, found: Sequence[tuple[int, Report]], length: int) -> "Windows":
        """Of what was read from a topic."""
        by_start: dict[int, list[tuple[int, Report]]] = defaultdict(list)
        for at, report in found:
            by_start[ms(report.window.start)].append((at, report))
        return cls(length, by_start)

    def final(self) -> dict[int, tuple[int, Report]]:
        """Start -> its first final report."""
        return {
            start: next((at, report) for at, report in reports if report.status == "final")
            for start, reports in self.reports.items()
            if any(report.status == "final" for _, report in reports)
        }

    def check(self, sent: Ints, unsure: Ints | None = None) -> tuple[int, int]:
        """Assert that final reports count every request once, and none twice; how many windows and requests that were.

        Parameters
        ----------
        sent
            Event times of requests that Kafka has, ms.
        unsure
            Of those that it may have.
        """
        checked = 0
        finals = self.final()
        for start, (_, report) in finals.items():
            mine = int(((sent >= start) & (sent < start + self.length)).sum())
            more = 0 if unsure is None else int(((unsure >= start) & (unsure < start + self.length)).sum())
            counted = report.counts.requests
            assert report.counts.late == 0, f"window {start}: {report.counts.late} requests were late"
            assert mine <= counted <= mine + more, f"window {start}: {mine} requests were sent, {counted} counted"
            checked += mine
        return len(finals), checked

    def waits(self, sent: Ints, since: Floats) -> tuple[Floats, Floats]:
        """How long each request waited for the first report that counts it, and for the final one, s; NaN where there is none.

        The n-th request of a window is in the first report that counts at least n.

        Parameters
        ----------
        sent, since
            Event times, and from when on latency counts, ms.
        """
        first, last = np.full(len(sent), np.nan), np.full(len(sent), np.nan)
        for start, (closed, _) in self.final().items():
            mine = np.flatnonzero((sent >= start) & (sent < start + self.length))
            mine = mine[np.argsort(sent[mine], kind="stable")]
            at = np.array([at for at, _ in self.reports[start]])
            counted = np.maximum.accumulate([report.counts.requests for _, report in self.reports[start]])
            place = np.searchsorted(counted, np.arange(1, len(mine) + 1), side="left")
            known = place < len(at)
            first[mine[known]] = (at[place[known]] - since[mine[known]]) / 1000
            last[mine] = (closed - since[mine]) / 1000
        return first, last


# Memory -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Use:
    """MiB of a monitor."""

    jvm: float
    """Resident."""
    workers: float
    """All Python workers; pages that they share counted once."""
    driver: float
    """The Python driver; resident."""


def use(root: psutil.Process) -> Use:
    """Of a monitor that was started by `running`."""
    jvm = workers = driver = 0.0
    with contextlib.suppress(psutil.Error):
        for process in root.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it may be gone by now, or a zombie
                command = " ".join(process.cmdline())
                if process.name() == "java":
                    jvm += process.memory_info().rss / 2**20
                elif "pyspark.daemon" in command:
                    workers += process.memory_full_info().pss / 2**20
                elif "workflows.cli" in command and "guard.py" not in command:
                    driver += process.memory_info().rss / 2**20
    return Use(jvm, workers, driver)


class Memory(threading.Thread):
    """Peaks of a process tree, sampled twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._done = threading.Event()
        self.driver = self.workers = 0.0

    def run(self) -> None:
        """Sample until stopped."""
        while not self._done.wait(0.5):
            now = use(self._root)
            self.driver, self.workers = max(self.driver, now.jvm), max(self.workers, now.workers)

    def stop(self) -> None:
        """End sampling."""
        self._done.set()
