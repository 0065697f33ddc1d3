"""Kafka as a log of events."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from reference.secret import MissingSecret
from streaming.cloudevents import Event
from streaming.errors import StreamingError
from streaming.kafka import KafkaConnection

log = logging.getLogger("driftline.logger")

_QUEUE_KIB = 65_536
"""Events that wait for Kafka, all together; a caller beyond that is told 503 at once."""
_PURGED_WITHIN = timedelta(seconds=5)
_ATTRIBUTES_BYTES = 4 * 65_536
"""Of one event's attributes, as record headers; the HTTP headers that they come in have 65,536 at most."""

Answered = Callable[[StreamingError | None], None]
"""Told once what became of a record; None: every in-sync replica has it."""


class NotAcknowledged(StreamingError):
    """Kafka did not take an event: it may be lost, or, when it is only the answer that was lost, be there all the same."""


class TooMany(NotAcknowledged):
    """More events wait than there is room for; none of it was handed over."""


class TooLarge(StreamingError):
    """Kafka will never take an event of this size."""


class KafkaLog:
    """Kafka as a log: `append` ends when the event is there, or with the reason why it is not.

    Belongs to the event loop that it was made in. One thread waits for Kafka's answers and hands them over in bunches:
    waking the loop once a bunch instead of once an event is what makes a single core enough (docs/decisions).

    Parameters
    ----------
    max_bytes
        Of one event's payload.
    patience
        How long Kafka may take for an event; then it is given up. None: it is tried until Kafka has it, so that an
        outage of any length ends with each event there once, by the producer's sequence numbers.

    alone
        Whether each event travels in a batch of its own, which costs much.

    Raises
    ------
    MissingSecret
        A secret is not where the settings say.
    """

    spool: Final = None
    """What it does not take in time is refused; `SpooledLog` keeps it."""

    def __init__(
        self, connection: KafkaConnection, *, max_bytes: int, patience: timedelta | None, alone: bool = False
    ) -> None:
        self._options: dict[str, Any] = {
            **connection.for_confluent(),
            "client.id": "driftline-logger",
            "acks": "all",
            "enable.idempotence": True,
            # Kafka before KAFKA-15591 takes the second batch for a new partition when the first was refused a moment too
            # early, and librdkafka takes that for word that the first is there (its "implicit acknowledgement"): lost,
            # and reported as delivered; it happened here. With one request on its way there is no second one.
            "max.in.flight.requests.per.connection": 1,
            # As the Java client does it, so that labels keyed by the same id from elsewhere share the partition.
            "partitioner": "murmur2_random",
            # Long enough to fill batches under load, short enough for the five workers of an agent, who wait for answers.
            "linger.ms": 0.5,
            "compression.type": "lz4",
            "message.max.bytes": max_bytes + _ATTRIBUTES_BYTES,
            "message.timeout.ms": 0 if patience is None else round(patience.total_seconds() * 1000),
            "queue.buffering.max.kbytes": _QUEUE_KIB,
            # After an outage the first events should not wait for a back-off made for busy clusters.
            "reconnect.backoff.max.ms": 1000,
            "socket.keepalive.enable": True,
            "log.connection.close": False,
            "logger": log,
        }
        self._loop = asyncio.get_running_loop()
        self._answers: deque[tuple[Answered, KafkaError | None]] = deque()
        self._patience = patience
        self._again = (
            None if alone else lambda: KafkaLog(connection, max_bytes=max_bytes, patience=patience, alone=True)
        )
        self._alone: KafkaLog | None = None
        if alone:
            self._options["batch.num.messages"] = 1
        self._failing_since: float | None = None
        self._failed = 0
        self._generation = 0
        self._start_producer()

    def append(self, topic: str, event: Event) -> "asyncio.Future[bool]":
        """Hand an event over; the future is done, and true, when every in-sync replica has it.

        Raises (here, or from the future)
        ---------------------------------
        NotAcknowledged
            Not in time, or (TooMany) there is no room for more events that wait.
        TooLarge
            For the client or for the topic.
        """
        future: asyncio.Future[bool] = self._loop.create_future()

        def answered(problem: StreamingError | None) -> None:
            if future.done():  # its caller may have gone
                return
            if problem is None:
                future.set_result(True)
            else:
                future.set_exception(problem)

        self.produce(topic, event.id, event.data, event.kafka_headers(), answered)
        return future

    def produce(
        self,
        topic: str,
        key: str,
        value: bytes,
        headers: list[tuple[str, str | bytes | None]],
        answered: "Answered",
    ) -> None:
        """Hand a record over; `answered` is called in the loop, with None or with what went wrong.

        Raises
        ------
        NotAcknowledged, TooLarge
            It was not handed over, and `answered` will not be called.
        """
        answers = self._answers

        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is None and (message.offset() is None or message.offset() < 0):  # inferred, not said by Kafka
                error = KafkaError(KafkaError._MSG_TIMED_OUT, "there is no offset in its answer")  # noqa: SLF001 - public
            if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE and self._again is not None:
                # Kafka measures batches: it may be the fault of another event, or of all of them together.
                answers.append((lambda problem: self._send_alone(topic, key, value, headers, answered, problem), error))
                return
            answers.append((answered, error))

        for attempt in (1, 2):
            try:
                self._producer.produce(topic, value, key, headers=headers, on_delivery=delivered)
            except BufferError:
                raise TooMany("too many events wait for Kafka already") from None
            except KafkaException as exception:
                error: KafkaError = exception.args[0]
                if attempt == 1 and (error.fatal() or error.code() == KafkaError._FATAL):  # noqa: SLF001 - a public name
                    self._replace_producer(self._generation, error)
                    continue
                raise _in_words(error) from None
            break

    async def missing(self, topic: str) -> str | None:
        """Why nothing can be appended now, as far as Kafka's metadata tell; None when all is well."""

        def ask() -> str | None:
            try:
                found = self._producer.list_topics(topic, timeout=2).topics[topic]
            except KafkaException as exception:
                return f"Kafka cannot be reached: {exception.args[0].str()}"
            if found.error is not None:
                return f"topic {topic!r}: {found.error.str()}"
            leaderless = [number for number, partition in found.partitions.items() if partition.leader < 0]
            return f"topic {topic!r}: partitions {leaderless} have no leader" if leaderless else None

        return await asyncio.to_thread(ask)

    def _send_alone(
        self,
        topic: str,
        key: str,
        value: bytes,
        headers: list[tuple[str, str | bytes | None]],
        answered: "Answered",
        problem: StreamingError | None,
    ) -> None:
        assert self._again is not None
        try:
            if self._alone is None:
                self._alone = self._again()
            self._alone.produce(topic, key, value, headers, answered)
        except StreamingError as refusal:
            answered(refusal)
        except MissingSecret:
            answered(problem)

    def readiness(self) -> str:
        """In words, for who looks."""
        return "Kafka takes events"

    @property
    def waiting(self) -> int:
        """Events (and other work of the client) that Kafka has not answered yet."""
        return len(self._producer) + (0 if self._alone is None else self._alone.waiting)

    async def close(self, patience: timedelta) -> int:
        """Wait for the answers that are outstanding, then give up; how many were given up, usually none."""
        left: int = await asyncio.to_thread(self._producer.flush, patience.total_seconds())
        if left and self._patience is None:  # it would try for ever; what is on its way may be there all the same
            self._producer.purge(blocking=False)
        self._stop.set()
        await asyncio.to_thread(self._thread.join)  # or it would call the client while the interpreter goes down
        self.settle()
        if self._alone is not None:
            left += await self._alone.close(patience)
        return left

    def _start_producer(self) -> None:
        self._generation += 1
        generation = self._generation

        def complain(error: KafkaError) -> None:
            if error.fatal():
                self._loop.call_soon_threadsafe(self._replace_producer, generation, error)
            else:
                log.warning("Kafka: %s", error.str())

        self._producer = Producer({**self._options, "error_cb": complain})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(self._producer, self._stop), daemon=True)
        self._thread.start()

    def _replace_producer(self, generation: int, error: KafkaError) -> None:
        """An idempotent producer gives up for good when its sequence is in doubt; the next one starts a new sequence."""
        if generation != self._generation:  # several events may bring the same news
            return
        log.error("the Kafka producer gave up (%s): starting another", error.str())
        old = self._producer
        self._stop.set()
        self._start_producer()
        # What was not sent yet fails now, instead of after its time; what was, when it has none.
        old.purge(in_flight=self._patience is None, blocking=False)

    def _listen(self, producer: Producer, stop: threading.Event) -> None:
        """Hand over answers as they come; runs in a thread, and after `stop` until there is nothing more to come."""
        deadline = None
        while True:
            try:
                producer.poll(0.2)
            except Exception:  # what a callback raises comes out here, and without this thread nobody gets an answer
                log.exception("an answer of Kafka could not be read")
            if self._answers:
                try:
                    self._loop.call_soon_threadsafe(self.settle)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    return
            if stop.is_set():
                deadline = deadline or time.monotonic() + 1 + (self._patience or _PURGED_WITHIN).total_seconds()
                if not len(producer) or time.monotonic() > deadline:
                    return

    def settle(self) -> None:
        """In the loop: give everybody their answer."""
        while self._answers:
            answered, error = self._answers.popleft()
            if error is None:
                if self._failing_since is not None:
                    took = time.monotonic() - self._failing_since
                    log.warning("Kafka takes events again after %.1f s; %d were not acknowledged", took, self._failed)
                    self._failing_since, self._failed = None, 0
                answered(None)
                continue
            problem = _in_words(error)
            if isinstance(problem, NotAcknowledged):
                if self._failing_since is None:  # one line an outage, not one an event
                    self._failing_since = time.monotonic()
                    log.error("%s; no more is said until it does", problem)
                self._failed += 1
            answered(problem)


def _in_words(error: KafkaError) -> StreamingError:
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return TooLarge("the event is larger than Kafka takes (message.max.bytes, of the topic or of the broker)")
    return NotAcknowledged(f"Kafka did not acknowledge: {error.str()}")
