"""The HTTP client of a load generator: one event loop, keep-alive connections, a parser in C.

On httptools, the parser of uvicorn, and uvloop, and not on aiohttp: for 20,000 posts of 1 kB over 64 connections it takes 12 to
14 µs of processor time each, aiohttp 118 to 141 µs on the same loop (174 µs on asyncio's own). Load and server share the cores.

Nothing is sent twice: a request whose connection was closed before its answer has failed, and is counted as `closed`.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import httptools

from streaming.errors import StreamingError
from streaming.load.schedule import Message
from streaming.load.table import Protocol as Wire
from streaming.load.table import Request, event_time

Answered = Callable[[Message, str, str | None, float], None]

_SOURCE = "urn:driftline:traffic"
_TYPE = "org.kubeflow.serving.inference."
_AS_THEY_ARE = "!#$&'()*+,/:;<=>?@[\\]^`{|}~"
"""Beside letters, digits and -._: CloudEvents encodes the rest, '%', '"' and the space among it."""
_SWEEP_S = 0.1
_SHOWN = 200
"""Bytes of an answer that says why it is none."""


class UnusableUrl(StreamingError):
    """No address that requests can be sent to."""

    exit_code = 2


class Address:
    """Where an HTTP URL leads.

    Parameters
    ----------
    host
        Stands in the Host header instead of the URL's: what an ingress chooses by.

    Raises
    ------
    UnusableUrl
        It is no http or https URL.
    """

    def __init__(self, url: str, host: str | None = None) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UnusableUrl(f"--url {url!r}: {error}: write http://HOST:PORT") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UnusableUrl(f"--url {url!r} is no address for requests: write http://HOST:PORT or https://HOST")
        if parts.username is not None or parts.password is not None:
            raise UnusableUrl("--url holds a user or a password, which is not sent: leave it out")
        self.secure = parts.scheme == "https"
        self.name = parts.hostname
        self.port = port or (443 if self.secure else 80)
        query = f"?{parts.query}" if parts.query else ""
        self.path = quote((parts.path or "/") + query, safe="/%:@!$&'()*+,;=~?")
        self.host = host or parts.netloc
        if not self.host.isascii() or not self.host.isprintable() or " " in self.host:
            raise UnusableUrl(f"--host {self.host!r} cannot stand in a header: write a host name")


class Http:
    """Takes messages over HTTP/1.1; made in the event loop that it runs in.

    Parameters
    ----------
    patience
        How long an answer may take.
    """

    def __init__(self, address: Address, *, patience: timedelta) -> None:
        self._address = address
        self._patience = patience.total_seconds()
        self._loop = asyncio.get_running_loop()
        self._tls = ssl.create_default_context() if address.secure else None
        # The last that came back is the next to go: few are open when few are needed.
        self.idle: list[_Connection] = []
        self.busy: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._sweeper = self._loop.create_task(self._sweep())

    def encode(self, request: Request, start: float) -> list[Message]:
        """One message; see `ModelServer` and `Logger`."""
        raise NotImplementedError

    def _message(self, request: Request, head: str, body: bytes) -> Message:
        data = b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b" % (
            self._path().encode(),
            self._address.host.encode(),
            len(body),
            head.encode(),
            body,
        )
        return Message(request.due, data, len(body))

    def _path(self) -> str:
        return self._address.path

    def send(self, message: Message, answered: Answered) -> None:
        """Send it over a connection that is free, or a new one."""
        self._empty.clear()
        if self.idle:
            connection = self.idle.pop()
            self.busy.add(connection)
            connection.send(message, answered)
            return
        task = self._loop.create_task(self._open(message, answered))
        self._opening.add(task)
        task.add_done_callback(self._opened)

    async def close(self, patience: timedelta) -> None:
        """Wait for answers, and then close every connection."""
        try:
            if self.busy or self._opening:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._empty.wait(), patience.total_seconds())
        finally:
            self._sweeper.cancel()
            for task in tuple(self._opening):
                task.cancel()
            for connection in tuple(self.busy):
                connection.fail("timeout", "there was no answer when the replay ended")
            for connection in tuple(self.idle):
                connection.close()
            if self._opening:
                await asyncio.wait(self._opening)

    def free(self, connection: "_Connection") -> None:
        """It has its answer, and takes another message."""
        self.busy.discard(connection)
        self.idle.append(connection)
        self._is_empty()

    def gone(self, connection: "_Connection") -> None:
        """It is closed."""
        self.busy.discard(connection)
        with contextlib.suppress(ValueError):
            self.idle.remove(connection)
        self._is_empty()

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        self._is_empty()

    def _is_empty(self) -> None:
        if not self.busy and not self._opening:
            self._empty.set()

    async def _open(self, message: Message, answered: Answered) -> None:
        sent_at = time.perf_counter()
        to = self._address
        try:
            async with asyncio.timeout(self._patience):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self), to.name, to.port, ssl=self._tls
                )
        except asyncio.CancelledError:
            answered(message, "timeout", "there was no connection when the replay ended", sent_at)
            return
        except TimeoutError:
            answered(message, "timeout", f"no connection to {to.name}:{to.port} in {self._patience:g} s", sent_at)
            return
        except OSError as error:
            answered(message, "refused", f"no connection to {to.name}:{to.port}: {error.strerror or error}", sent_at)
            return
        self.busy.add(connection)
        connection.send(message, answered, sent_at)

    async def _sweep(self) -> None:
        """Give up what has waited too long; a timer for each message would cost more than sending it."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            before = time.perf_counter() - self._patience
            for connection in [each for each in self.busy if each.sent_at < before]:
                connection.fail("timeout", f"no answer in {self._patience:g} s")


class ModelServer(Http):
    """Requests of a model, as its clients send them: to `/v1/models/NAME:predict` or `/v2/models/NAME/infer`."""

    def __init__(self, address: Address, *, patience: timedelta, service: str, protocol: Wire) -> None:
        super().__init__(address, patience=patience)
        called = f"/v1/models/{quote(service)}:predict" if protocol == "v1" else f"/v2/models/{quote(service)}/infer"
        said = address.path.partition("?")[0].endswith((":predict", "/infer"))
        self._called = address.path if said else address.path.rstrip("/") + called

    def encode(self, request: Request, start: float) -> list[Message]:
        """One message; KServe's agent takes the id of its event from the header ce-id."""
        head = f"ce-id: {request.id}\r\n"
        if request.time_ms is not None:
            head += f"x-event-time: {event_time(request, start)}\r\n"
        return [self._message(request, head, request.body)]

    def _path(self) -> str:
        return self._called


class Logger(Http):
    """CloudEvents in binary mode, as KServe's agent posts them: the request, and the response where the table has one."""

    def __init__(self, address: Address, *, patience: timedelta, service: str) -> None:
        super().__init__(address, patience=patience)
        self._service = service

    def encode(self, request: Request, start: float) -> list[Message]:
        """One message, or two."""
        common = f"ce-id: {request.id}\r\nce-time: {event_time(request, start)}\r\n"
        return [
            self._message(request, common + self._head(kind), body)
            for kind, body in (("request", request.body), ("response", request.answer))
            if body is not None
        ]

    def _head(self, kind: str) -> str:
        said = attributes(self._service, kind).items()
        return "".join(f"ce-{name}: {quote(text, safe=_AS_THEY_ARE)}\r\n" for name, text in said)


def attributes(service: str, kind: str) -> dict[str, str]:
    """Attributes of an event that are the same for all of its kind."""
    return {
        "specversion": "1.0",
        "source": _SOURCE,
        "type": _TYPE + kind,
        "inferenceservicename": service,
        "component": "predictor",
        "endpoint": "default",
        "metadata": "{}" if kind == "request" else "null",
    }


class _Connection(asyncio.Protocol):
    """One connection, with at most one message on its way."""

    def __init__(self, pool: Http) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._message: Message | None = None
        self._answered: Answered
        self._text = b""
        self.sent_at = 0.0

    def send(self, message: Message, answered: Answered, sent_at: float | None = None) -> None:
        self._message, self._answered, self._text = message, answered, b""
        self.sent_at = time.perf_counter() if sent_at is None else sent_at
        if self._transport.is_closing():  # the server closed it a moment ago, and we were not told yet
            self.fail("closed", "the server closed the connection before it was used")
            return
        self._transport.write(message.data)

    def fail(self, code: str, reason: str) -> None:
        """Tell why the message has no answer, and close."""
        message, self._message = self._message, None
        self._transport.abort()
        self._pool.gone(self)
        if message is not None:
            self._answered(message, code, reason, self.sent_at)

    def close(self) -> None:
        self._transport.close()

    # What asyncio calls.
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail("malformed", f"what came back is no HTTP answer: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        why = f": {error}" if error is not None else ""
        self.fail("closed", f"the server closed the connection before it answered{why}")

    # What the parser calls.
    def on_body(self, body: bytes) -> None:
        if len(self._text) < _SHOWN:
            self._text += body[: _SHOWN - len(self._text)]

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # the answer is yet to come
            return
        message, self._message = self._message, None
        if message is None:
            self.fail("malformed", "an answer to nothing")
            return
        if self._parser.should_keep_alive():
            self._pool.free(self)
        else:
            self._transport.close()
            self._pool.gone(self)
        reason = None if 200 <= status < 300 else f"{status} {self._text.decode(errors='replace')}".rstrip()
        self._answered(message, str(status), reason, self.sent_at)
