"""The ASGI application: what is asked, and what is answered."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from streaming.cloudevents import InvalidEvent, UnsupportedEvent
from streaming.logger.encoding import TooLong
from streaming.logger.intake import Intake, Taken
from streaming.logger.kafka_log import KafkaLog, NotAcknowledged, TooLarge, TooMany
from streaming.logger.metrics import Metrics
from streaming.logger.redaction import Withheld
from streaming.logger.routes import Route, UnknownModel

if TYPE_CHECKING:
    from streaming.errors import StreamingError
    from streaming.logger.spooled_log import SpooledLog

_RETRY_AFTER_S = 1
"""What a caller is told to wait when Kafka does not take its event."""
_BODY_PATIENCE = timedelta(seconds=30)
"""From the headers to the end of the body."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Endpoint:
    """The ASGI application.

    Parameters
    ----------
    intake
        What of a request goes where.
    """

    def __init__(self, kafka: "KafkaLog | SpooledLog", intake: Intake) -> None:
        self.kafka = kafka
        self.intake = intake
        self.max_bytes = intake.max_bytes
        self.metrics = Metrics()
        self._readiness: asyncio.Task[str | None] | None = None
        self._ready_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI asks."""
        path, method = scope["path"], scope["method"]
        if path not in {"/healthz", "/readyz", "/metrics"}:
            try:
                route = self.intake.route_of(path)
            except UnknownModel as unknown:
                self.metrics.answers[404] += method == "POST"
                await _answer(send, 404, f"{unknown}; besides there are POST / and GET /healthz, /readyz, /metrics")
                return
            if method == "POST":
                await self._post(route, scope, receive, send)
            else:
                await _answer(send, 405, f"{method} is not for {path}: POST a CloudEvent", allow="POST")
        elif method not in {"GET", "HEAD"}:
            await _answer(send, 405, f"{method} is not for {path}: GET it", allow="GET, HEAD")
        elif path == "/metrics":
            text = (self.metrics.text(self.kafka) + self.intake.metrics()).encode()
            await _send(send, 200, text, [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")])
        elif path == "/readyz" and (problem := await self._problem()) is not None:
            await _answer(send, 503, problem, retry_after=str(_RETRY_AFTER_S))
        elif path == "/readyz":
            await _send(send, 200, f"ok: {self.kafka.readiness()}\n".encode(), [(b"content-type", b"text/plain")])
        else:
            await _send(send, 200, b"ok\n", [(b"content-type", b"text/plain")])

    async def _post(self, route: Route | None, scope: Scope, receive: Receive, send: Send) -> None:
        code, reason, extra = await self._take(route, scope, receive)
        if code is None:
            return  # the caller has hung up in the middle of the body
        self.metrics.answers[code] += 1
        if code == 200:
            await _send(send, 200, b"", [])
        else:
            await _answer(send, code, reason, **extra)

    async def _take(
        self, route: Route | None, scope: Scope, receive: Receive
    ) -> tuple[int | None, str, dict[str, str]]:
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
            taken = self.intake.take(route, headers, body)
        except TooLong as problem:
            return 413, str(problem), {}
        except UnsupportedEvent as problem:
            return 415, str(problem), {}
        except InvalidEvent as problem:
            return 400, str(problem), {}
        return await self._append(taken)

    async def _append(self, taken: Taken) -> tuple[int, str, dict[str, str]]:
        start = time.perf_counter()
        futures: list[asyncio.Future[bool]] = []
        problems: list[StreamingError] = []
        for topic, event in taken.kept:
            try:
                futures.append(self.kafka.append(topic, event))
            except (NotAcknowledged, TooLarge) as problem:
                problems.append(problem)
        acknowledged = 0
        for future in futures:
            try:
                acknowledged += await future
            except (NotAcknowledged, TooLarge) as problem:
                problems.append(problem)
        self.metrics.acknowledged += acknowledged
        self.metrics.spooled += len(taken.kept) - len(problems) - acknowledged
        self.metrics.refused += len(problems)
        # What may be taken a moment later is said before what never will be: the caller may then send all of it again.
        problems += taken.problems
        if not problems:
            self.metrics.bytes += sum(len(event.data) for _, event in taken.kept)
            self.metrics.took(time.perf_counter() - start)
            return 200, "", {}
        count = len(taken.kept) + taken.passed + len(taken.problems)
        of_many = f"{len(problems)} of {count} events: " if count > 1 else ""
        never = next((problem for problem in problems if not isinstance(problem, NotAcknowledged)), None)
        if never is not None and not any(isinstance(problem, NotAcknowledged) for problem in problems):
            code = 404 if isinstance(never, UnknownModel) else 422 if isinstance(never, Withheld) else 413
            return code, f"{of_many}{never}", {}
        # Who is too fast may come again soon; who meets an outage, too, but it is not their doing.
        passing = [problem for problem in problems if isinstance(problem, NotAcknowledged)]
        code = 429 if all(isinstance(problem, TooMany) for problem in passing) else 503
        return code, f"{of_many}{passing[0]}", {"retry_after": str(_RETRY_AFTER_S)}

    async def _problem(self) -> str | None:
        """Why the logger is not ready; asked of Kafka at most once a second, however many ask."""
        if self._readiness is None or (self._readiness.done() and time.monotonic() > self._ready_until):
            self._ready_until = time.monotonic() + 1
            self._readiness = asyncio.create_task(self._missing())
        return await asyncio.shield(self._readiness)

    async def _missing(self) -> str | None:
        """Ready as soon as one model's events can be taken: a topic that is missing must not stop those of the others."""
        first = None
        for topic in self.intake.routes.topics:
            problem = await self.kafka.missing(topic)
            if problem is None:
                return None
            first = first or problem
            if problem.startswith("Kafka"):  # it is Kafka itself: the others have the same
                break
        return first or "there is no model: the directory of ModelMonitors is empty"


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
