"""What breaks while a monitor runs, on a real Spark and a real Kafka: nothing is lost, and every final report is that of a calm run.

The calm run is the same two stages by hand, without Spark and without any fault (`known.by_hand`); that Spark comes to the same
when nothing breaks is part of each test, and of test_determinism.py.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import known
import pytest
import toy
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from known import SECONDS, Placed, Stream, by_hand, same, spread
from live import kill, read, records, running, stop, wait_for, workers

from streaming.broker import EmbeddedKafka
from streaming.job import prepare_topics
from streaming.spec import ModelMonitor, parse

pytestmark = pytest.mark.spark


@dataclass
class Scene:
    """One monitor, what is sent to it, and what must come of it."""

    broker: object
    monitor: ModelMonitor
    path: Path
    stream: Stream
    pieces: list[list[Placed]] = field(default_factory=list)
    """What was sent so far."""

    @classmethod
    def of(
        cls, folder: Path, broker, name: str, requests: int = 3000, checkpoint: Path | None = None, job: str = ""
    ) -> "Scene":
        folder.mkdir(parents=True, exist_ok=True)
        outputs = ", ".join(
            f"{kind}: '{name}-{kind}'"
            for kind in ("inference", "outliers", "statistics", "drift", "deadletter", "events")
        )
        text = toy.document(
            folder,
            **known.SECTIONS,
            kafka=f"{{bootstrapServers: '{broker.bootstrap_servers}', topics: {{{outputs}}}}}",
            job=f"{{checkpoint: {checkpoint or folder / 'checkpoint'}, {job}}}",
        )
        path = folder / f"{name}.yaml"
        path.write_text(text)
        monitor = parse(text, str(path))
        known.publish(monitor)
        prepare_topics(monitor)
        begin = int(time.time() / known.LENGTH) * known.LENGTH - 2 * SECONDS
        return cls(broker, monitor, path, Stream.of(begin, requests))

    @property
    def log(self) -> Path:
        return self.path.with_suffix(".log")

    def send(self, messages: Sequence[Placed]) -> None:
        """All of them, and wait until they are there."""
        producer = Producer(self.broker.connection.for_confluent())
        for partition, value in messages:
            producer.produce(self.monitor.topics.inference, value, partition=partition)
            producer.poll(0)
        assert producer.flush(60) == 0
        self.pieces.append(list(messages))

    def finals(self) -> int:
        """How many windows of all instances have their final report of drift, which is the last that is written."""
        found = {
            r["id"] for r in read(self.broker, self.monitor.topics.drift) if r["status"] == "final" and not r["segment"]
        }
        return len(found)

    def counted(self) -> int:
        """How many requests the newest reports tell of."""
        newest = {
            r["window"]["start"]: r["counts"]["requests"]
            for r in read(self.broker, self.monitor.topics.statistics)
            if not r["segment"]
        }
        return sum(newest.values())

    def until_counted(self, process: subprocess.Popen) -> None:
        """Wait until all that was sent is in reports."""
        sent = sum(self.stream.requests(piece) for piece in self.pieces)
        wait_for(lambda: self.counted() == sent, process, self.log, 240)

    def finish(self, process: subprocess.Popen, partitions: int = 4) -> None:
        """Send what closes the windows, wait for their reports, and stop."""
        self.send([(partition, self.stream.last()) for partition in range(partitions)])
        self.until(process)
        assert stop(process) == 0

    def until(self, process: subprocess.Popen, windows: int = known.WINDOWS, seconds: float = 240) -> None:
        """Wait for so many final reports; segments follow a batch later."""
        wait_for(lambda: self.finals() >= windows, process, self.log, seconds)
        if windows == known.WINDOWS:
            wanted = windows * (1 + len(known.PARTS))
            wait_for(
                lambda: (
                    len({r["id"] for r in read(self.broker, self.monitor.topics.drift) if r["status"] == "final"})
                    >= wanted
                ),
                process,
                self.log,
                seconds,
            )

    def said(self) -> str:
        """What the monitor itself has told the log."""
        return "\n".join(line for line in self.log.read_text().splitlines() if line.startswith("driftline:"))

    def silences(self, killed: Sequence[float]) -> list[int]:
        """How long after each SIGKILL the first record was written, s; not of those that were killed before it came."""
        written = sorted(
            datetime.fromisoformat(record["detectedAt"]).timestamp()
            for some in records(self.broker, self.monitor).values()
            for record in some
        )
        found = []
        for at, following in zip(killed, [*killed[1:], float("inf")], strict=True):
            first = next((time for time in written if time > at), float("inf"))
            if first < following:
                found.append(round(first - at))
        return found

    def check(self, *, moved: bool = False) -> None:
        """Compare all that was written with a calm run."""
        calm = by_hand(self.monitor, self.path.parent / "by-hand", self.pieces, time.time_ns() // 1_000_000)
        same(calm, records(self.broker, self.monitor), self.stream, moved=moved)


def command(verb: str, path: Path, *more: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """A command of the user's that is expected to end by itself."""
    words = [sys.executable, "-m", "workflows.cli", "monitor", verb, "--config", str(path), *more]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds)


def parts(values: Sequence[bytes], partitions: int, many: int) -> list[list[Placed]]:
    """Messages in so many pieces."""
    messages = spread(values, partitions)
    return [messages[i * len(messages) // many : (i + 1) * len(messages) // many] for i in range(many)]


def test_a_second_monitor_killed_workers_and_more_partitions(kafka, tmp_path):
    scene = Scene.of(tmp_path, kafka, "small-faults")
    values = scene.stream.values
    scene.send(spread(values[: len(values) // 2], 4))
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    with running(scene.path) as process:
        scene.until(process, 1)
        second = command("run", scene.path)
        assert second.returncode == 2, second.stderr
        assert "another monitor runs on the checkpoint" in second.stderr
        assert "Traceback" not in second.stderr
        grown = admin.create_partitions([NewPartitions(scene.monitor.topics.inference, 6)])
        grown[scene.monitor.topics.inference].result(30)
        rest = [*spread(scene.stream.late(), 6), *spread(values[len(values) // 2 :], 6)]
        for piece in range(3):
            killed = workers(process)
            assert killed
            os.kill(killed[piece % len(killed)], signal.SIGKILL)
            scene.send(rest[piece * len(rest) // 3 : (piece + 1) * len(rest) // 3])
            time.sleep(0.5)
        scene.finish(process, 6)
    scene.check()


@pytest.mark.slow
def test_killed_at_ten_random_moments(kafka, tmp_path):
    """SIGKILL of driver, JVM and workers, while they start, in batches and between them; each time they are started again at once."""
    scene = Scene.of(tmp_path, kafka, "kills", requests=12_000)
    rest = parts(scene.stream.values, 4, 40)
    for _ in range(12):
        scene.send(rest.pop(0))
    moments, killed = random.Random(7), []
    begun = time.monotonic()
    with running(scene.path) as process:
        scene.until(process, 1)
        start = time.monotonic() - begun
        scene.send(spread(scene.stream.late(), 4))
        killed.append(kill(process))
    stopping = threading.Event()

    def sending() -> None:
        while rest and not stopping.wait(start / 2):
            scene.send(rest.pop(0))

    sender = threading.Thread(target=sending)
    sender.start()
    try:
        for _ in range(9):
            with running(scene.path) as process:
                time.sleep(moments.uniform(0.1, 1.5 * start))
                assert process.poll() is None, scene.log.read_text()[-3000:]
                killed.append(kill(process))
    finally:
        stopping.set()
        sender.join()
    with running(scene.path) as process:
        for piece in rest:
            scene.send(piece)
        scene.finish(process)
    scene.check()
    silences = scene.silences(killed)
    assert silences
    print(f"first report {start:.0f} s after the start; after a SIGKILL: {silences} s")  # noqa: T201 - `pytest -rP` shows it


@pytest.mark.slow
def test_a_worker_that_stands_still_is_replaced(kafka, tmp_path):
    """So it looks, too, when Spark's server of the state has died of an error, and the worker waits for its answer."""
    scene = Scene.of(tmp_path, kafka, "still", job="metrics: {stalledAfter: 20s}")
    first, *rest = parts(scene.stream.values, 4, 3)
    scene.send(first)
    with running(scene.path) as process:
        scene.until(process, 1)
        mine = workers(process)
        for worker in mine:
            os.kill(worker, signal.SIGSTOP)
        for piece in rest:
            scene.send(piece)
        time.sleep(25)
        for worker in mine:  # a process that is stopped so hears a signal later; one that hangs, at once
            os.kill(worker, signal.SIGCONT)
        wait_for(lambda: set(mine) - set(workers(process)), process, scene.log, 60)
        scene.finish(process)
    scene.check()


@pytest.mark.slow
def test_the_broker_is_away_for_half_a_minute(tmp_path):
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        scene = Scene.of(tmp_path, broker, "outage")
        first, *rest = parts(scene.stream.values, 4, 3)
        scene.send(first)
        with running(scene.path) as process:
            scene.until(process, 1)
            servers = broker.bootstrap_servers
            broker.stop()
            time.sleep(30)
            broker.start()
            assert broker.bootstrap_servers == servers
            for piece in rest:
                scene.send(piece)
            scene.send(spread(scene.stream.late(), 4))
            scene.finish(process)
        scene.check()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, where that is allowed."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all space that is left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                if not file.write(bytes(4096)):
                    return path
            except OSError:
                return path


@pytest.mark.slow
def test_the_disk_of_the_checkpoint_is_full(kafka, tmp_path):
    with small_disk(tmp_path / "disk", "32m") as disk:
        scene = Scene.of(tmp_path, kafka, "full", checkpoint=disk / "checkpoint")
        first, *rest = parts(scene.stream.values, 4, 3)
        scene.send(first)
        with running(scene.path) as process:
            scene.until(process, 1)
            filler = fill(disk)
            scene.send(rest[0])
            code = process.wait(240)
        assert code == 1
        assert "a disk is full" in scene.said()
        again = command("run", scene.path)
        assert again.returncode in {1, 2}
        assert "a disk is full" in again.stderr
        filler.unlink()
        scene.send(rest[1])
        scene.send(spread(scene.stream.late(), 4))
        assert command("repair", scene.path, "--yes").returncode == 0
        with running(scene.path) as process:
            scene.finish(process)
        scene.check()


def newest(folder: Path) -> list[Path]:
    """The files with the largest number."""
    numbered = [path for path in folder.iterdir() if path.name[0].isdecimal()]
    last = max(int(path.name.partition(".")[0]) for path in numbered)
    return [path for path in numbered if int(path.name.partition(".")[0]) == last]


@pytest.mark.slow
def test_files_of_the_checkpoint_are_cut_off(kafka, tmp_path):
    """What the newest batch reads, then what it made of the state."""
    scene = Scene.of(tmp_path, kafka, "corrupt")
    checkpoint = Path(scene.monitor.spec.job.checkpoint)
    pieces = parts(scene.stream.values, 4, 3)
    for piece, folder in zip(pieces[:2], ("offsets", "state/0/0"), strict=True):
        scene.send(piece)
        with running(scene.path) as process:
            scene.until_counted(process)
            assert stop(process) == 0
        for file in newest(checkpoint / folder):
            os.truncate(file, file.stat().st_size // 2)
        refused = command("run", scene.path)
        assert refused.returncode == 2, refused.stderr
        # Where it was cut may be the end of a record.
        assert "is cut off" in refused.stderr or "does not match its checksum" in refused.stderr
        assert "driftline monitor repair" in refused.stderr
        assert "Traceback" not in refused.stderr
        would = command("repair", scene.path)
        assert would.returncode == 1
        assert "would be mended" in would.stdout
        mended = command("repair", scene.path, "--yes")
        assert mended.returncode == 0, mended.stdout
    scene.send(pieces[2])
    with running(scene.path) as process:
        scene.finish(process)
    scene.check()


@pytest.mark.slow
def test_the_topic_is_deleted_and_created_again(kafka, tmp_path):
    """While the monitor runs, and while it does not."""
    scene = Scene.of(tmp_path, kafka, "again", job="refreshInterval: 1s")
    topic, pieces = scene.monitor.topics.inference, parts(scene.stream.values, 4, 3)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})

    def again() -> None:
        admin.delete_topics([topic])[topic].result(30)
        time.sleep(1)
        admin.create_topics([NewTopic(topic, 4, 1)])[topic].result(30)

    scene.send(pieces[0])
    with running(scene.path) as process:
        scene.until_counted(process)
        again()
        scene.send(pieces[1])
        scene.until_counted(process)
        assert stop(process) == 0
    again()
    scene.send(pieces[2])
    with running(scene.path) as process:
        scene.finish(process)
    events = [event["reason"] for event in read(kafka, scene.monitor.topics.events)]
    assert events.count("topicRecreated") == 2
    scene.check(moved=True)
