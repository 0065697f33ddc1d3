"""The process: uvicorn with bounds, Kafka behind it, and an orderly end."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import threading
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reference.secret import MissingSecret
from streaming.errors import KafkaError, ServiceUnavailable
from streaming.kafka import ensure_topics
from streaming.logger.endpoint import Endpoint
from streaming.logger.intake import Intake
from streaming.logger.kafka_log import KafkaLog
from streaming.logger.routes import Models, Route
from streaming.logger.settings import Spool as SpoolSection
from streaming.logger.spool import Spool
from streaming.logger.spooled_log import SpooledLog
from streaming.spec import ModelMonitor

log = logging.getLogger("driftline.logger")

_HEAD_BYTES = 65_536
"""Request line and headers, together."""
_HEAD_PATIENCE = timedelta(seconds=10)
"""From the first byte of a request, or the opening of a connection, to the end of the headers."""
_KEEP_ALIVE = timedelta(seconds=120)
"""Of an idle connection. Longer than the 90 s of Go's HTTP client, so that it is the client who closes: a server that
closes at the moment when the client reuses the connection loses that event, for KServe's agent sends none twice."""


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


def serve(source: ModelMonitor | Path, spool: Path | None = None) -> int:
    """Run the logger of one model, or of all in a directory, until SIGTERM or SIGINT; the exit code, 0 when every answer was given.

    Kafka may be away, at the beginning too: callers are then told 503 and the logger is not ready, unless it has a spool.

    Parameters
    ----------
    source
        A file or a directory, which are looked at again while it runs; or one model as it is.
    spool
        Where events wait while Kafka is away, instead of `logger.spool.directory`.

    Raises
    ------
    InvalidMonitor, UnwantedMonitor, NoModels
        Of a directory only when none of its files can be used.
    ServiceUnavailable
        The address to listen on is taken.
    SpoolUnusable
        Another logger uses the spool's directory, or it cannot be written.
    MissingSecret
        A secret is not where the settings say.
    """
    intake = Intake(Models(source) if isinstance(source, Path) else Models(None, source))
    section = intake.first.spec.logger
    family = socket.AF_INET6 if ":" in section.host else socket.AF_INET
    try:
        listener = socket.create_server((section.host, section.port), family=family, backlog=2048)
    except OSError as error:
        msg = f"the logger cannot listen on {section.host} port {section.port}: {error.strerror}; change spec.logger"
        raise ServiceUnavailable(msg) from None
    wanted = section.spool
    if spool is not None:
        wanted = SpoolSection(directory=spool) if wanted is None else wanted.model_copy(update={"directory": spool})
    with listener, contextlib.ExitStack() as stack:
        kept = None if wanted is None else stack.enter_context(Spool(wanted.directory, wanted.max_bytes))
        return uvloop.run(_serve(intake, listener, kept, wanted))


async def _serve(intake: Intake, listener: socket.socket, spool: Spool | None, wanted: SpoolSection | None) -> int:
    monitor = intake.first
    section = monitor.spec.logger
    patience = section.acknowledge_timeout
    kafka: KafkaLog | SpooledLog
    if spool is None or wanted is None:
        kafka = KafkaLog(monitor.spec.kafka, max_bytes=section.max_body_bytes, patience=patience)
    else:
        kafka = SpooledLog(
            monitor.spec.kafka,
            spool,
            max_bytes=section.max_body_bytes,
            patience=wanted.patience,
            timeout=patience,
        )
    endpoint = Endpoint(kafka, intake)
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
        f"inference logger of {', '.join(intake.routes.routes)}: http://{shown}:{port}/ -> "
        f"topic {', '.join(intake.routes.topics)} at {monitor.spec.kafka.bootstrap_servers}",
        flush=True,
    )
    watching = asyncio.create_task(intake.watch(_prepare))
    await _Server(config).serve(sockets=[listener])
    watching.cancel()
    left, copies = await asyncio.gather(kafka.close(patience), intake.close())
    if copies:
        log.warning("%d copies did not reach their mirror", copies)
    if left:
        log.error("%d events were still without an answer; their callers were told so", left)
    return 0


async def _prepare(route: Route) -> None:
    """Make the topic, however long Kafka takes to be there."""
    section, said = route.monitor.spec.kafka, ""
    while True:
        try:
            await asyncio.to_thread(
                ensure_topics,
                section,
                [route.topic],
                partitions=section.partitions,
                replication=section.replication_factor,
                configs={"max.message.bytes": str(section.largest_message)},
                timeout=timedelta(seconds=2),  # a stop waits for it
                create=section.create_topics,
            )
        except (KafkaError, MissingSecret) as error:
            if str(error) != said:
                log.warning("%s", error)
            said = str(error)
            await asyncio.sleep(1)
        else:
            return
