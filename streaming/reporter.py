"""The reporter: report topics to an Evidently workspace and one HTML page.

What one message leads to is on disk before its offset is: first the runs in the workspace (replaced when they come
again), then the board with its offsets in one transaction, then the page, and last the consumer group's offsets, which
are for those who watch the group's lag; the board's are the ones that count. So whenever it is killed, it goes on where
the board ends, and what comes twice changes nothing.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from streaming.board import Board
from streaming.errors import KafkaError, StreamingError
from streaming.kafka import ensure_topics
from streaming.page import page
from streaming.reports import RECORDS, Record
from streaming.spec import ModelMonitor

if TYPE_CHECKING:
    from streaming.snapshots import Project

log = logging.getLogger(__name__)

_BATCH = 100
"""Messages that are taken before it looks whether to write or to stop; a run in the workspace takes about 50 ms."""
_EVERY = 1.0
"""Seconds between two writings, at least."""
_REST = 3.0
"""And so many times as long as the last one took: a page of many segments must not keep it from reading."""
_UNSAVED = 50
"""Windows after which it writes earlier: they are in memory."""
_LOOK = timedelta(seconds=2)
"""How long it waits for topics before it asks whether to stop."""
_LOOK_AGAIN = 60.0
"""Seconds after which topics are looked at again for new partitions."""


def run(monitor: ModelMonitor, *, once: bool = False) -> int:
    """Report until told to stop by SIGTERM or SIGINT, or, with `once`, until the present end of the topics.

    Returns
    -------
    int
        The exit code: 0.

    Raises
    ------
    StreamingError
        Kafka or a topic is not there, Evidently is not installed, or another reporter writes this page.
    """
    stop = threading.Event()
    with _stopped_by_signals(stop), Reporter(monitor) as reporter:
        reporter.run(stop, once=once)
    return 0


class Reporter:
    """Keeps one model's page and workspace up to date."""

    def __init__(self, monitor: ModelMonitor) -> None:
        self._monitor = monitor
        self._html = Path(monitor.spec.reports.html)
        topics = monitor.topics.model_dump()
        self._decoders: dict[str, msgspec.json.Decoder[Record]] = {
            topics[kind]: msgspec.json.Decoder(record)
            for kind, record in RECORDS.items()
            if kind != "performance" or monitor.spec.performance.metrics  # else nobody makes that topic
        }
        self._project = _project(monitor)
        self._board = Board(self._html.with_suffix(".sqlite"), monitor.name)
        self._consumer: Any = None
        self._ends: dict[tuple[str, int], int] = {}
        self._changed = True
        self._written = 0.0
        self._pause = _EVERY

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._consumer is not None:
            self._consumer.close()
        self._board.close()

    def run(self, stop: threading.Event, *, once: bool = False) -> None:
        """Report until `stop` is set, or, with `once`, until the present end of the topics."""
        from confluent_kafka import Consumer

        connection = self._monitor.spec.kafka
        patience = connection.topic_timeout
        if not self._topics_are_there(stop, patience):
            return
        self._consumer = Consumer(
            {
                **connection.for_confluent(),
                "group.id": f"driftline-report-{self._monitor.name}",
                "client.id": "driftline-reporter",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "queued.max.messages.kbytes": 32 * 1024,
            },
            logger=log,
        )
        self._assign()
        looked = heard = time.monotonic()
        while not stop.is_set():
            if messages := self._consumer.consume(_BATCH, timeout=0.2):
                heard = time.monotonic()
                for message in messages:
                    self._take(message)
            if once and self._at_end():
                break
            now = time.monotonic()
            if once and now - heard > patience.total_seconds():
                raise KafkaError(f"Kafka at {connection.bootstrap_servers} has said nothing for {patience}")
            if self._changed and now - self._written >= self._pause:
                self._write(live=not once)
            elif self._board.unsaved >= _UNSAVED:
                self._save()
            if now - looked > _LOOK_AGAIN:
                looked = now
                self._assign()
        self._write(live=False)

    def _topics_are_there(self, stop: threading.Event, patience: timedelta) -> bool:
        """Wait for the monitor to make its topics, with the partitions and settings that it wants; False when stopped."""
        deadline = time.monotonic() + patience.total_seconds()
        while not stop.is_set():
            try:
                ensure_topics(self._monitor.spec.kafka, self._decoders, create=False, timeout=_LOOK)
            except KafkaError:
                if time.monotonic() >= deadline:
                    raise
            else:
                return True
        return False

    def _assign(self) -> None:
        """Read every partition from where the board ends; also those that were added since."""
        from confluent_kafka import KafkaException, TopicPartition

        try:
            known = self._consumer.list_topics(timeout=10).topics
            places = {(t, p) for t in self._decoders if t in known for p in known[t].partitions}
            if places <= self._ends.keys():
                return
            for topic, partition in places:
                _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
                self._ends.setdefault((topic, partition), end)
                if self._board.positions.get((topic, partition), 0) > end:
                    log.warning("%s [%s] ends before what was read of it: it was made anew", topic, partition)
                    self._board.positions[topic, partition] = 0
        except KafkaException as error:
            if self._ends:
                log.warning("cannot look for new partitions: %s", error)
                return
            raise KafkaError(f"Kafka does not say where the report topics end: {error}") from error
        self._consumer.assign(
            [TopicPartition(topic, p, self._board.positions.get((topic, p), 0)) for topic, p in sorted(places)],
        )

    def _take(self, message: Any) -> None:
        """One message into the board. Whatever it is, it is read only once."""
        from confluent_kafka import KafkaError as ClientError

        hopeless = (ClientError._AUTHENTICATION, ClientError.TOPIC_AUTHORIZATION_FAILED)  # noqa: SLF001 - public
        place = message.topic(), message.partition()
        if (error := message.error()) is not None:
            if error.code() == ClientError._PARTITION_EOF:  # noqa: SLF001 - that is its public name
                # Records of transactions, and those that compaction removed, are passed by without a message.
                self._board.positions[place] = max(message.offset(), self._board.positions.get(place, 0))
            elif error.fatal() or error.code() in hopeless:
                raise KafkaError(f"reading {place[0]} [{place[1]}]: {error.str()}")
            else:
                log.warning("reading %s [%s]: %s", *place, error.str())
            return
        self._changed = True
        try:
            self._board.add(self._decoders[message.topic()].decode(message.value() or b""))
        except msgspec.MsgspecError as error:
            log.warning("%s [%s] offset %s is no report: %s", *place, message.offset(), error)
            self._board.count("unreadable", message.topic())
        self._board.positions[place] = message.offset() + 1

    def _at_end(self) -> bool:
        return all(self._board.positions.get(place, 0) >= end for place, end in self._ends.items())

    def _save(self) -> None:
        """The runs, and then the board."""
        from streaming.snapshots import snapshot, snapshot_id

        for entry in self._board.finished():
            record = entry.drift or entry.statistics
            assert record is not None
            self._project.put(snapshot_id(record), snapshot(entry.drift, entry.statistics))
        self._board.save()

    def _write(self, *, live: bool) -> None:
        """All that is on disk, and then the offsets that led to it."""
        from confluent_kafka import KafkaException, TopicPartition

        from streaming.snapshots import atomic_write

        self._save()
        began = time.monotonic()
        spec = self._monitor.spec
        text = page(
            self._board,
            version=spec.model.version,
            sliding=spec.window.slide is not None and spec.window.slide < spec.window.duration,
            live=live,
            now=datetime.now(UTC),
        )
        self._html.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self._html, text)
        self._changed = False
        self._written = time.monotonic()
        self._pause = max(_EVERY, _REST * (self._written - began))
        offsets = [TopicPartition(t, p, n) for (t, p), n in self._board.positions.items() if (t, p) in self._ends]
        try:
            if offsets:
                self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            log.warning("Kafka does not take the group's offsets (the board has them): %s", error)


def _project(monitor: ModelMonitor) -> "Project":
    try:
        from streaming.snapshots import Project
    except ModuleNotFoundError as error:
        raise StreamingError(
            f"the reporter needs Evidently ({error.name} is missing): install driftline with the extra 'evidently'",
        ) from error
    reports = monitor.spec.reports
    return Project(Path(reports.workspace), reports.project or monitor.name)


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`, where the process lets us say so: in its main thread."""

    def set_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, set_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
