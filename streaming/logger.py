"""The inference logger: takes the CloudEvents that KServe's payload logger posts, answers once Kafka has them.

KServe's agent sends each event once and takes every answer but 200 for a failure, so 200 means that all in-sync
replicas have the event, and anything else that it may be lost.

    POST /           one event (binary or structured mode), or a batch
    GET  /healthz    the process is there
    GET  /readyz     Kafka is there, and the topic
    GET  /metrics    counters, in the Prometheus text format
"""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from datetime import timedelta
from typing import Any

import uvicorn
import uvloop
from confluent_kafka import KafkaError, KafkaException, Producer
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reference.secret import MissingSecret
from streaming.cloudevents import Event, InvalidEvent, UnsupportedEvent, events
from streaming.errors import KafkaError as ClusterError
from streaming.errors import ServiceUnavailable, StreamingError
from streaming.kafka import KafkaConnection, ensure_topics
from streaming.spec import ModelMonitor

log = logging.getLogger("driftline.logger")

_RETRY_AFTER_S = 1
"""What a caller is told to wait when Kafka does not take its event."""
_QUEUE_KIB = 65_536
"""Events that wait for Kafka, all together; a caller beyond that is told 503 at once."""
_HEAD_BYTES = 65_536
"""Request line and headers, together."""
_HEAD_PATIENCE = timedelta(seconds=10)
"""From the first byte of a request, or the opening of a connection, to the end of the headers."""
_BODY_PATIENCE = timedelta(seconds=30)
"""From the headers to the end of the body."""
_KEEP_ALIVE = timedelta(seconds=120)
"""Of an idle connection. Longer than the 90 s of Go's HTTP client, so that it is the client who closes: a server that
closes at the moment when the client reuses the connection loses that event, for KServe's agent sends none twice."""
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class NotAcknowledged(StreamingError):
    """Kafka did not take an event: it may be lost, or, when it is only the answer that was lost, be there all the same."""


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
        How long Kafka may take for an event; then it is given up.

    Raises
    ------
    MissingSecret
        A secret is not where the settings say.
    """

    def __init__(self, connection: KafkaConnection, *, max_bytes: int, patience: timedelta) -> None:
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
            "message.max.bytes": max_bytes + 4 * _HEAD_BYTES,
            "message.timeout.ms": round(patience.total_seconds() * 1000),
            "queue.buffering.max.kbytes": _QUEUE_KIB,
            # After an outage the first events should not wait for a back-off made for busy clusters.
            "reconnect.backoff.max.ms": 1000,
            "socket.keepalive.enable": True,
            "log.connection.close": False,
            "logger": log,
        }
        self._loop = asyncio.get_running_loop()
        self._answers: deque[tuple[asyncio.Future[None], KafkaError | None]] = deque()
        self._failing_since: float | None = None
        self._failed = 0
        self._generation = 0
        self._start_producer()

    def append(self, topic: str, event: Event) -> asyncio.Future[None]:
        """Hand an event over; the future is done when every in-sync replica has it.

        Raises (here, or from the future)
        ---------------------------------
        NotAcknowledged
            Not in time, or there is no room for more events that wait.
        TooLarge
            For the client or for the topic.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        answers = self._answers

        def answered(error: KafkaError | None, message: Any) -> None:
            if error is None and (message.offset() is None or message.offset() < 0):  # inferred, not said by Kafka
                error = KafkaError(KafkaError._MSG_TIMED_OUT, "there is no offset in its answer")  # noqa: SLF001 - public
            answers.append((future, error))

        for attempt in (1, 2):
            try:
                self._producer.produce(topic, event.data, event.id, headers=event.kafka_headers(), on_delivery=answered)
            except BufferError:
                raise NotAcknowledged("too many events wait for Kafka already") from None
            except KafkaException as exception:
                error: KafkaError = exception.args[0]
                if attempt == 1 and (error.fatal() or error.code() == KafkaError._FATAL):  # noqa: SLF001 - a public name
                    self._replace_producer(self._generation, error)
                    continue
                raise _in_words(error) from None
            break
        return future

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

    @property
    def waiting(self) -> int:
        """Events (and other work of the client) that Kafka has not answered yet."""
        return len(self._producer)

    async def close(self, patience: timedelta) -> int:
        """Wait for the answers that are outstanding; how many are still missing then, usually none."""
        left: int = await asyncio.to_thread(self._producer.flush, patience.total_seconds())
        self._stop.set()
        await asyncio.to_thread(self._thread.join)  # or it would call the client while the interpreter goes down
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
        old.purge(in_flight=False, blocking=False)  # what was not sent yet fails now, instead of after its time

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
                    self._loop.call_soon_threadsafe(self._settle)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    return
            if stop.is_set():
                deadline = deadline or time.monotonic() + 1 + self._options["message.timeout.ms"] / 1000
                if not len(producer) or time.monotonic() > deadline:
                    return

    def _settle(self) -> None:
        """In the loop: give everybody their answer."""
        while self._answers:
            future, error = self._answers.popleft()
            if error is None:
                if self._failing_since is not None:
                    took = time.monotonic() - self._failing_since
                    log.warning("Kafka takes events again after %.1f s; %d were not acknowledged", took, self._failed)
                    self._failing_since, self._failed = None, 0
                if not future.done():  # its caller may have gone
                    future.set_result(None)
                continue
            problem = _in_words(error)
            if isinstance(problem, NotAcknowledged):
                if self._failing_since is None:  # one line an outage, not one an event
                    self._failing_since = time.monotonic()
                    log.error("%s; callers are told so until it does", problem)
                self._failed += 1
            if not future.done():
                future.set_exception(problem)


def _in_words(error: KafkaError) -> StreamingError:
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return TooLarge("the event is larger than Kafka takes (message.max.bytes, of the topic or of the broker)")
    return NotAcknowledged(f"Kafka did not acknowledge: {error.str()}")


class Metrics:
    """A few counters, written by one thread and without locks."""

    def __init__(self) -> None:
        self.answers: Counter[int] = Counter()
        """HTTP status -> answers to posts."""
        self.acknowledged = 0
        self.refused = 0
        self.bytes = 0
        self._seconds = 0.0
        self._buckets = [0] * (len(_BUCKETS_S) + 1)

    def took(self, seconds: float) -> None:
        """Count one post that Kafka acknowledged, from its last byte to the answer."""
        self._seconds += seconds
        self._buckets[bisect_left(_BUCKETS_S, seconds)] += 1

    def text(self, waiting: int) -> str:
        """All of them in the Prometheus text format."""
        name = "driftline_logger"
        lines = [
            f"# HELP {name}_answers_total Answers to posts, by HTTP status.",
            f"# TYPE {name}_answers_total counter",
        ]
        lines += [f'{name}_answers_total{{code="{code}"}} {n}' for code, n in sorted(self.answers.items())]
        for key, kind, value, words in (
            ("events_acknowledged_total", "counter", self.acknowledged, "Events that Kafka has."),
            ("events_unacknowledged_total", "counter", self.refused, "Events that Kafka did not take, or not in time."),
            ("payload_bytes_total", "counter", self.bytes, "Payload of the events that Kafka has."),
            ("events_waiting", "gauge", waiting, "Events that Kafka has not answered yet."),
        ):
            lines += [f"# HELP {name}_{key} {words}", f"# TYPE {name}_{key} {kind}", f"{name}_{key} {value}"]
        lines += [
            f"# HELP {name}_acknowledge_seconds From a post to Kafka's acknowledgement.",
            f"# TYPE {name}_acknowledge_seconds histogram",
        ]
        total = 0
        for bound, n in zip((*map(str, _BUCKETS_S), "+Inf"), self._buckets, strict=True):
            total += n
            lines.append(f'{name}_acknowledge_seconds_bucket{{le="{bound}"}} {total}')
        lines += [f"{name}_acknowledge_seconds_sum {self._seconds}", f"{name}_acknowledge_seconds_count {total}"]
        return "\n".join(lines) + "\n"


class Endpoint:
    """The ASGI application.

    Parameters
    ----------
    topic
        Where an event goes.
    ready_topic
        The topic that has to be there for the logger to be ready.
    max_bytes
        Of a request's body.
    """

    def __init__(self, kafka: KafkaLog, topic: Callable[[Event], str], ready_topic: str, max_bytes: int) -> None:
        self.kafka = kafka
        self.topic = topic
        self.ready_topic = ready_topic
        self.max_bytes = max_bytes
        self.metrics = Metrics()
        self._readiness: asyncio.Task[str | None] | None = None
        self._ready_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI asks."""
        path, method = scope["path"], scope["method"]
        if path == "/":
            if method == "POST":
                await self._post(scope, receive, send)
            else:
                await _answer(send, 405, f"{method} is not for /: POST a CloudEvent", allow="POST")
        elif path not in {"/healthz", "/readyz", "/metrics"}:
            await _answer(send, 404, "there are only POST / and GET /healthz, /readyz, /metrics")
        elif method not in {"GET", "HEAD"}:
            await _answer(send, 405, f"{method} is not for {path}: GET it", allow="GET, HEAD")
        elif path == "/metrics":
            text = self.metrics.text(self.kafka.waiting).encode()
            await _send(send, 200, text, [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")])
        elif path == "/readyz" and (problem := await self._problem()) is not None:
            await _answer(send, 503, problem, retry_after=str(_RETRY_AFTER_S))
        else:
            await _send(send, 200, b"ok\n", [(b"content-type", b"text/plain")])

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        code, reason, extra = await self._take(scope, receive)
        if code is None:
            return  # the caller has hung up in the middle of the body
        self.metrics.answers[code] += 1
        if code == 200:
            await _send(send, 200, b"", [])
        else:
            await _answer(send, code, reason, **extra)

    async def _take(self, scope: Scope, receive: Receive) -> tuple[int | None, str, dict[str, str]]:
        """Status, reason and further headers of the answer to a post."""
        too_large = 413, f"the body is larger than {self.max_bytes} bytes", {"connection": "close"}
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        for name, value in headers:
            if name == b"content-length" and int(value) > self.max_bytes:
                return too_large
        try:
            body = await _body(receive, self.max_bytes)
        except TimeoutError:
            return 408, f"the body did not come within {_BODY_PATIENCE.seconds} s", {"connection": "close"}
        except TooLarge:
            return too_large
        if body is None:
            return None, "", {}
        try:
            received = events(headers, body)
        except UnsupportedEvent as problem:
            return 415, str(problem), {}
        except InvalidEvent as problem:
            return 400, str(problem), {}
        return await self._append(received)

    async def _append(self, received: list[Event]) -> tuple[int, str, dict[str, str]]:
        start = time.perf_counter()
        futures: list[asyncio.Future[None]] = []
        problems: list[StreamingError] = []
        for event in received:
            try:
                futures.append(self.kafka.append(self.topic(event), event))
            except (NotAcknowledged, TooLarge) as problem:
                problems.append(problem)
        for future in futures:
            try:
                await future
            except (NotAcknowledged, TooLarge) as problem:
                problems.append(problem)
        self.metrics.acknowledged += len(received) - len(problems)
        self.metrics.refused += len(problems)
        if not problems:
            self.metrics.bytes += sum(len(event.data) for event in received)
            self.metrics.took(time.perf_counter() - start)
            return 200, "", {}
        of_many = f"{len(problems)} of {len(received)} events: " if len(received) > 1 else ""
        if all(isinstance(problem, TooLarge) for problem in problems):
            return 413, f"{of_many}{problems[0]}", {}
        return 503, f"{of_many}{problems[0]}", {"retry_after": str(_RETRY_AFTER_S)}

    async def _problem(self) -> str | None:
        """Why the logger is not ready; asked of Kafka at most once a second, however many ask."""
        if self._readiness is None or (self._readiness.done() and time.monotonic() > self._ready_until):
            self._ready_until = time.monotonic() + 1
            self._readiness = asyncio.create_task(self.kafka.missing(self.ready_topic))
        return await asyncio.shield(self._readiness)


async def _body(receive: Receive, max_bytes: int) -> bytes | None:
    """The body of a request; None when the caller has gone.

    Raises
    ------
    TooLarge
        As soon as it is.
    TimeoutError
        It comes too slowly.
    """
    message = await receive()  # most bodies come whole with the headers
    body: bytes = message.get("body", b"")
    if message.get("more_body") and len(body) <= max_bytes:
        parts, size = [body], len(body)
        async with asyncio.timeout(_BODY_PATIENCE.total_seconds()):
            while message.get("more_body") and size <= max_bytes:
                message = await receive()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
        body = b"".join(parts)
    if message["type"] != "http.request":
        return None
    if len(body) > max_bytes:
        raise TooLarge
    return body


async def _answer(send: Send, code: int, reason: str, **headers: str) -> None:
    """A refusal, with its reason as JSON."""
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    body = json.dumps({"error": reason}).encode()
    await _send(send, code, body, [(b"content-type", b"application/json"), *fields])


async def _send(send: Send, code: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP, which trusts its clients, with bounds: on the size of headers and on the time they may take."""

    _head_done = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Between requests nothing is expected; in the middle of a head its bytes count, also those not parsed yet.
        if self._head_done:
            self._forget_head()
        elif not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self._refuse(431, f"request line and headers are larger than {_HEAD_BYTES} bytes")
            elif self._head_timer is None:
                self._expect_head()

    def on_message_begin(self) -> None:
        self._head_done = False
        self._head_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:  # trailers of a chunked body mean nothing here
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_done = True
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_PATIENCE.total_seconds(), self._head_is_late)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(408, f"the headers did not come within {_HEAD_PATIENCE.seconds} s")

    def _refuse(self, code: int, reason: str) -> None:
        body = json.dumps({"error": reason}).encode()
        head = f"HTTP/1.1 {code} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which would end as if killed by the signal that it was asked to stop with."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(monitor: ModelMonitor) -> int:
    """Run the logger of one model until SIGTERM or SIGINT; the exit code, 0 when every answer was given.

    Kafka may be away, at the beginning too: the logger is then not ready, and callers are told 503.

    Raises
    ------
    ServiceUnavailable
        The address to listen on is taken.
    MissingSecret
        A Kafka secret is not where the settings say.
    """
    section = monitor.spec.logger
    family = socket.AF_INET6 if ":" in section.host else socket.AF_INET
    try:
        listener = socket.create_server((section.host, section.port), family=family, backlog=2048)
    except OSError as error:
        msg = f"the logger cannot listen on {section.host} port {section.port}: {error.strerror}; change spec.logger"
        raise ServiceUnavailable(msg) from None
    with listener:
        return uvloop.run(_serve(monitor, listener))


async def _serve(monitor: ModelMonitor, listener: socket.socket) -> int:
    section, topic = monitor.spec.logger, monitor.topics.inference
    patience = section.acknowledge_timeout
    kafka = KafkaLog(monitor.spec.kafka, max_bytes=section.max_body_bytes, patience=patience)
    endpoint = Endpoint(kafka, lambda _event: topic, topic, section.max_body_bytes)
    config = uvicorn.Config(
        endpoint,
        http=_Protocol,
        loop="none",
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=round(_KEEP_ALIVE.total_seconds()),
        # Whoever was accepted gets an answer: Kafka's, or that Kafka gave none.
        timeout_graceful_shutdown=round((patience + timedelta(seconds=5)).total_seconds()),
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # "Invalid HTTP request received" is an answer, not news
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(  # noqa: T201 - with port 0 this is how anybody learns the port
        f"inference logger of {monitor.name}: http://{shown}:{port}/ -> topic {topic} at {monitor.spec.kafka.bootstrap_servers}",
        flush=True,
    )
    preparing = asyncio.create_task(_prepare(monitor))
    await _Server(config).serve(sockets=[listener])
    preparing.cancel()
    left = await kafka.close(patience)
    if left:
        log.error("%d events were still without an answer; their callers were told so", left)
    return 0


async def _prepare(monitor: ModelMonitor) -> None:
    """Make the topic, however long Kafka takes to be there."""
    section, said = monitor.spec.kafka, ""
    while True:
        try:
            await asyncio.to_thread(
                ensure_topics,
                section,
                [monitor.topics.inference],
                partitions=section.partitions,
                replication=section.replication_factor,
                configs={"max.message.bytes": str(section.largest_message)},
                timeout=timedelta(seconds=2),  # a stop waits for it
                create=section.create_topics,
            )
        except (ClusterError, MissingSecret) as error:
            if str(error) != said:
                log.warning("%s", error)
            said = str(error)
            await asyncio.sleep(1)
        else:
            return
