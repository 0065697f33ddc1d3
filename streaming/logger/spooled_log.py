"""Kafka with a spool before it: an event that Kafka does not take in time is kept on disk, and sent when it does.

As long as Kafka answers in time, events go to it directly. When one is not answered within the patience, Kafka counts as
away: that event and all others without an answer are written to the spool, and new ones after them, so that the spool has
them in their order. Callers are answered when their event is on disk.

**Exactly once while this process lives.** What was handed to the producer stays with it, without a time limit, and the
producer's sequence numbers have Kafka keep one copy however often it is sent. Such an event is on disk too, but is not
handed over a second time unless the producer says that it gave it up. Twice can be only what was on its way when the process
was killed, when a stop did not find Kafka, or when the producer gave up in doubt: a handful of events, the same in every byte.

**Order.** New events go to the spool until all before them were handed over, to the one producer that keeps the order of
each partition.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

from streaming.cloudevents import Event
from streaming.errors import StreamingError
from streaming.kafka import KafkaConnection
from streaming.logger.kafka_log import KafkaLog, NotAcknowledged, TooLarge, TooMany
from streaming.logger.spool import START, Record, Ref, Spool, encoded, framed_size

log = logging.getLogger("driftline.logger")

_WINDOW = 5000
"""Events of the spool that are with the producer at a time."""
_SLICE = 64
"""So many of them are handed over before callers get their turn."""
_STUCK_S = 5.0
"""A topic that refuses is tried again after this; the others go on."""
_QUIET_S = 10.0
"""Between two lines that say that Kafka is away."""
_FLUSH_AWAY = timedelta(seconds=0.2)
"""What a stop waits for Kafka when it is away: its events are on disk."""

T = TypeVar("T")


class _Entry:
    """An event between its arrival and Kafka's answer."""

    __slots__ = ("due", "future", "payload", "record", "ref", "sent", "spooling", "with_kafka")

    def __init__(self, record: Record, future: "asyncio.Future[bool]", due: float) -> None:
        self.record = record
        self.future = future
        self.due = due
        """When the patience with Kafka ends."""
        self.payload = b""
        """As it is written to the spool; empty until then."""
        self.ref: Ref | None = None
        """Where it is on disk."""
        self.spooling = False
        """Whether it is on its way to the disk."""
        self.with_kafka = False
        """Whether the producer has it, and has not given it up."""
        self.sent = False
        """Whether Kafka has it."""


class SpooledLog:
    """As `KafkaLog`, with a spool; the future of `append` tells whether Kafka has the event (true) or the disk (false).

    Belongs to the event loop that it was made in; one thread works on the disk.

    Parameters
    ----------
    max_bytes
        Of one event's payload.
    patience
        How long Kafka may take for an event before it is spooled.
    timeout
        How long a caller waits for Kafka when the spool does not take the event either.
    """

    def __init__(
        self, connection: KafkaConnection, spool: Spool, *, max_bytes: int, patience: timedelta, timeout: timedelta
    ) -> None:
        self.spool = spool
        self.spooled = 0
        """Events written to the spool."""
        self.replayed = 0
        """Events that were read from it and that Kafka took."""
        self.full = 0
        """Events that the spool did not take."""
        self.away = False
        """Whether Kafka did not answer in time, and has not answered since."""
        self._kafka = KafkaLog(connection, max_bytes=max_bytes, patience=None)
        self._loop = asyncio.get_running_loop()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="driftline-spool")
        self._patience_s = patience.total_seconds()
        self._timeout_s = timeout.total_seconds()
        self._outstanding: deque[_Entry] = deque()
        """Handed to Kafka directly, in order, and not looked at since."""
        self._watch: asyncio.TimerHandle | None = None
        self._group: list[_Entry] = []
        """Wait for the disk."""
        self._writing: list[_Entry] = []
        """Are being written."""
        self._group_bytes = 0
        self._acknowledged: list[Ref] = []
        """Kafka has them, and the disk is not told yet."""
        self._telling = False
        self._taken: set[Ref] = set()
        """On disk, and either with the producer or with Kafka; until the disk knows."""
        self._unsaved: set[_Entry] = set()
        """With the producer, and the spool did not take them."""
        self._cursor = START
        """Where reading goes on."""
        self._unread = False
        """Whether something to send has come, or come back, since the last reading began."""
        self._held_from: Ref | None = None
        """The first event that was passed over because its topic refuses."""
        self._direct = spool.events == 0
        """Whether events go to Kafka without a detour: nothing before them waits to be handed over."""
        self._stuck: dict[str, float] = {}
        """Topics that Kafka refuses, and when they are tried again."""
        self._replaying = 0
        self._more = asyncio.Event()
        """There may be something to read."""
        self._room = asyncio.Event()
        """The producer may have room."""
        self._retry: asyncio.TimerHandle | None = None
        self._told_away = False
        self._said = -_QUIET_S
        """When an outage was last told."""
        self._closing = False
        if not self._direct:
            log.warning("the spool has %d events of an earlier run: they are sent first", spool.events)
            self._more.set()
        self._replayer = self._loop.create_task(self._replay())

    # What callers see ------------------------------------------------------------------------------------------------

    def append(self, topic: str, event: Event) -> "asyncio.Future[bool]":
        """Take an event; the future is done when every in-sync replica has it (true), or the disk (false).

        Raises (here, or from the future)
        ---------------------------------
        NotAcknowledged
            Kafka is away and the spool takes nothing, or (TooMany) Kafka takes events, slower than they come, and the spool is full.
        TooLarge
            For the topic.
        """
        now = time.monotonic()
        headers = [(name, text.encode() if isinstance(text, str) else text) for name, text in event.kafka_headers()]
        record = Record(time.time_ns() // 1_000_000, topic, event.id, headers, event.data)
        entry = _Entry(record, self._loop.create_future(), now + self._patience_s)
        if self._direct and topic not in self._stuck:
            try:
                self._hand_over(entry)
            except TooMany:  # Kafka is slower than its callers: the disk takes what does not fit
                self._direct = False
                self._more.set()
            else:
                self._outstanding.append(entry)
                if self._watch is None:
                    self._watch = self._loop.call_later(self._patience_s, self._look)
                return entry.future
        self._to_disk(entry)
        return entry.future

    async def missing(self, topic: str) -> str | None:
        """Why no event can be taken now; None when Kafka can take it, or the spool."""
        problem = self.spool.problem()
        if problem is None:
            return None
        kafka = "Kafka does not take events" if self.away else await self._kafka.missing(topic)
        return None if kafka is None else f"{kafka}; {problem}"

    def readiness(self) -> str:
        """In words, for who looks."""
        spool = self.spool.problem() or f"the spool has room for {self.spool.max_bytes - self.spool.used} bytes"
        kafka = "Kafka does not take events" if self.away else "Kafka takes events"
        return f"{kafka}; {spool}, and {self.spool.events} events wait in it"

    @property
    def waiting(self) -> int:
        """Events with the producer that Kafka has not answered yet."""
        return self._kafka.waiting

    async def close(self, patience: timedelta) -> int:
        """Let Kafka answer, put on disk what it does not, and leave that for the next start; how many events are lost."""
        self._closing = True
        self._replayer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._replayer
        for timer in (self._watch, self._retry):
            if timer is not None:
                timer.cancel()
        self._spill()
        await self._written()
        await self._kafka.close(_FLUSH_AWAY if self.away else patience)
        await self._written()  # what the producer gave up
        while self._acknowledged or self._telling:
            await self._turn()
        lost = len(self._unsaved)
        left = self.spool.events
        await self._on_disk(self.spool.close)
        self._disk.shutdown()
        if left:
            log.warning("%d events stay in the spool %s: the next start sends them", left, self.spool.directory)
        return lost

    # The way to Kafka ------------------------------------------------------------------------------------------------

    def _hand_over(self, entry: _Entry) -> None:
        record = entry.record
        entry.with_kafka = True
        try:
            self._kafka.produce(
                record.topic,
                record.key,
                record.value,
                [*record.headers],
                lambda problem: self._answered(entry, problem),
            )
        except StreamingError:
            entry.with_kafka = False
            raise

    def _answered(self, entry: _Entry, problem: StreamingError | None) -> None:
        """Kafka, or the producer, said what became of an event."""
        entry.with_kafka = False
        self._unsaved.discard(entry)
        if problem is None:
            entry.sent = True
            if self.away:
                self.away = False
                self._more.set()
                if self._told_away:
                    log.warning("Kafka takes events again; %d wait in the spool", self.spool.events)
            if not entry.future.done():
                entry.future.set_result(True)
            if entry.ref is not None:
                self._acknowledge(entry.ref)
        elif isinstance(problem, TooLarge):
            entry.sent = True  # it never will be, and nothing more is to be done
            if not entry.future.done():
                entry.future.set_exception(problem)
            elif entry.ref is not None:
                self._set_aside(entry.ref, entry.record)
        elif entry.ref is not None:
            self._give_back(entry.ref, entry.record.topic)
        elif not entry.spooling:
            self._stick(entry.record.topic)
            self._to_disk(entry, problem)

    def _acknowledge(self, ref: Ref) -> None:
        self._taken.add(ref)  # a reading that is under way may still bring it
        self._acknowledged.append(ref)
        if not self._telling:
            self._tell()

    def _tell(self) -> None:
        refs, self._acknowledged, self._telling = self._acknowledged, [], True
        self._submit(lambda: self.spool.acknowledge(refs), lambda _: self._told(refs))

    def _told(self, refs: list[Ref]) -> None:
        self._taken.difference_update(refs)
        self._telling = False
        if self._acknowledged:
            self._tell()

    def _set_aside(self, ref: Ref, record: Record) -> None:
        self._taken.add(ref)
        self._submit(lambda: self.spool.set_aside(ref, encoded(record), "refused"), lambda _: self._taken.discard(ref))

    def _give_back(self, ref: Ref, topic: str) -> None:
        """The producer gave up an event that is on disk: it is read again."""
        self._taken.discard(ref)
        self._cursor = min(self._cursor, ref)
        self._stick(topic)
        self._to_read()

    def _to_read(self) -> None:
        self._unread = True
        self._more.set()

    def _stick(self, topic: str) -> None:
        if not self._closing:
            self._stuck[topic] = time.monotonic() + _STUCK_S

    # Patience --------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Whether Kafka is late; there is one timer, however many events."""
        self._watch = None
        self._kafka.settle()  # answers that are here already: it may be this process that is slow
        while self._outstanding and not self._outstanding[0].with_kafka:
            self._outstanding.popleft()
        if not self._outstanding:
            return
        left = self._outstanding[0].due - time.monotonic()
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
            return
        if not self.away:
            # One line an outage, not one for each hiccup of a partition that has no leader.
            self._told_away = time.monotonic() - self._said > _QUIET_S
            if self._told_away:
                self._said = time.monotonic()
                log.warning("Kafka did not take an event within %g s: events go to the spool", self._patience_s)
        self.away = True
        self._direct = False
        self._spill()
        self._more.set()

    def _spill(self) -> None:
        """Put on disk, before all that comes, what Kafka has not answered; the producer keeps it, too."""
        for entry in self._outstanding:
            if entry.with_kafka and entry.ref is None and not entry.spooling:
                self._to_disk(entry)
        self._outstanding.clear()

    # The way to the disk ---------------------------------------------------------------------------------------------

    def _refusal(self, size: int) -> str | None:
        """Why the spool takes no event of this size."""
        if self.spool.rests:
            return f"the spool cannot be written: {self.spool.failure}"
        if self.spool.used + self._group_bytes + size > self.spool.max_bytes:
            return f"the spool is full ({self.spool.used} of {self.spool.max_bytes} bytes)"
        return None

    def _to_disk(self, entry: _Entry, problem: StreamingError | None = None) -> None:
        """Have an event written; with a producer that still has it, the caller is told whatever comes first."""
        payload = encoded(entry.record)
        size = framed_size(payload)
        refusal = self._refusal(size)
        if refusal is not None:
            self._not_on_disk(entry, refusal, problem)
            return
        entry.payload, entry.spooling = payload, True
        self._group.append(entry)
        self._group_bytes += size
        if not self._writing:
            self._write()

    def _not_on_disk(self, entry: _Entry, why: str, problem: StreamingError | None = None) -> None:
        self.full += 1
        if entry.with_kafka or self._closing:
            self._unsaved.add(entry)
        if entry.with_kafka:  # it may be there soon, and nobody else will send it
            handle = self._loop.call_later(self._timeout_s, self._late, entry, why)
            entry.future.add_done_callback(lambda _: handle.cancel())
            return
        if entry.future.done():
            return
        away = "Kafka does not take events" if problem is None else str(problem)
        entry.future.set_exception(
            NotAcknowledged(f"{away}; {why}")
            if self.away or problem is not None
            else TooMany(f"Kafka is slower than its callers; {why}")
        )

    def _late(self, entry: _Entry, why: str) -> None:
        if not entry.future.done():
            entry.future.set_exception(NotAcknowledged(f"Kafka did not answer within {self._timeout_s:g} s; {why}"))

    def _write(self) -> None:
        """One group: all that has come while the one before was written."""
        self._writing, self._group = self._group, []
        payloads = [entry.payload for entry in self._writing]
        self._submit(lambda: self._append(payloads), self._on_the_disk)

    def _append(self, payloads: Sequence[bytes]) -> list[Ref] | OSError:
        try:
            return self.spool.append(payloads)
        except OSError as error:
            return error

    def _on_the_disk(self, refs: list[Ref] | OSError) -> None:
        entries, self._writing = self._writing, []
        self._group_bytes -= sum(framed_size(entry.payload) for entry in entries)
        for place, entry in enumerate(entries):
            entry.spooling, entry.payload = False, b""
            if isinstance(refs, OSError):
                self._not_on_disk(entry, f"the spool cannot be written: {refs.strerror}")
                continue
            entry.ref = refs[place]
            self.spooled += 1
            if not entry.future.done():
                entry.future.set_result(False)
            if entry.sent:
                self._acknowledge(entry.ref)
            elif entry.with_kafka:
                self._taken.add(entry.ref)
            else:
                self._cursor = min(self._cursor, entry.ref)
                self._to_read()
        if isinstance(refs, OSError):
            log.error("the spool %s cannot be written: %s", self.spool.directory, refs.strerror)
        if self._group:
            self._write()

    # From the disk to Kafka ------------------------------------------------------------------------------------------

    async def _replay(self) -> None:
        while True:
            try:
                await self._more.wait()
                self._more.clear()
                await self._drain()
            except Exception:
                log.exception("the spool cannot be sent at the moment")
                self._more.set()
                await asyncio.sleep(1)

    async def _drain(self) -> None:
        """Hand over all that is on disk, then let events go directly."""
        now = time.monotonic()
        trying = {topic for topic, until in self._stuck.items() if until <= now}
        if trying and self._held_from is not None:
            self._cursor, self._held_from = min(self._cursor, self._held_from), None
        while (records := await self._read()) is not None:
            for place, (ref, record) in enumerate(records):
                if self._stuck.get(record.topic, 0) > now:
                    self._held_from = ref if self._held_from is None else min(self._held_from, ref)
                    continue
                await self._send(ref, record)
                if place % _SLICE == _SLICE - 1:
                    await asyncio.sleep(0)
        if self._retry is not None:
            self._retry.cancel()
        if self._unread:
            self._more.set()
            return
        for topic in trying:
            if self._stuck[topic] <= now:  # nothing of it came back
                del self._stuck[topic]
        if self._stuck:
            left = min(self._stuck.values()) - time.monotonic()
            self._retry = self._loop.call_later(max(left, 0.1), self._more.set)
        if not self.away:
            self._go_direct()

    async def _read(self) -> list[tuple[Ref, Record]] | None:
        """The next events that nobody has; None at the end."""
        start, self._unread = self._cursor, False
        done: asyncio.Future[list[tuple[Ref, Record]] | None] = self._loop.create_future()

        def read(found: tuple[list[tuple[Ref, Record]], Ref] | OSError) -> None:
            # Here, in the turn of the disk's jobs, and not where it is awaited: what the jobs after this one tell would
            # be known there already, and an event that Kafka has by now would look like one that nobody has.
            if done.done():  # a stop
                return
            if isinstance(found, OSError):
                done.set_exception(found)
                return
            records, end = found
            if self._cursor == start:  # nothing before came back in between
                self._cursor = end
            done.set_result([one for one in records if one[0] not in self._taken] if records else None)

        self._submit(lambda: self._reading(start), read)
        return await done

    def _reading(self, start: Ref) -> tuple[list[tuple[Ref, Record]], Ref] | OSError:
        try:
            return self.spool.read(start)
        except OSError as error:
            return error

    def _go_direct(self) -> None:
        """All on disk was handed over: what is still on its way to the disk follows, and then events go directly."""
        if self._direct:
            return
        for entry in (*self._writing, *self._group):
            if not entry.with_kafka and not entry.sent and entry.record.topic not in self._stuck:
                try:
                    self._hand_over(entry)
                except StreamingError:  # no room, for instance: it is read from the disk, and this is tried again
                    return
        self._direct = True

    async def _send(self, ref: Ref, record: Record) -> None:
        future: asyncio.Future[bool] = self._loop.create_future()
        future.set_result(False)  # its caller was answered long ago
        entry = _Entry(record, future, 0.0)
        entry.ref = ref

        def answered(problem: StreamingError | None) -> None:
            self._replaying -= 1
            self.replayed += problem is None
            self._room.set()
            self._answered(entry, problem)

        while True:
            try:
                if self._replaying < _WINDOW:
                    self._kafka.produce(record.topic, record.key, record.value, [*record.headers], answered)
                    break
            except TooLarge:
                self._set_aside(ref, record)
                return
            except TooMany:
                pass
            except NotAcknowledged:
                self._give_back(ref, record.topic)
                return
            self._room.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._room.wait()
        entry.with_kafka = True
        self._replaying += 1
        self._taken.add(ref)

    # The thread of the disk ------------------------------------------------------------------------------------------

    def _submit(self, job: Callable[[], T], then: Callable[[T], None] | None = None) -> None:
        """Run a job in the disk's thread, in its turn, and `then` in the loop."""

        def done(future: "Future[T]") -> None:
            error = future.exception()
            if error is not None:
                log.error("spool: %s", error, exc_info=error)
            elif then is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(then, future.result())

        self._disk.submit(job).add_done_callback(done)

    async def _on_disk(self, job: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._disk, job)

    async def _turn(self) -> None:
        """Until the disk has done what it was asked so far, and the loop knows."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._submit(lambda: None, lambda _: done.set_result(None))
        await done

    async def _written(self) -> None:
        """Until nothing waits for the disk."""
        while self._writing or self._group:
            await self._turn()
