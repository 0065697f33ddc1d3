"""Whether a running monitor is well, and the address that says so.

    GET /healthz    200, or 503 with the reason: the query is dead, or no batch ends
    GET /readyz     200 once a batch was committed
    GET /metrics    Prometheus

The driver's own thread asks Spark (`Health.poll`); those who ask here get what it heard last, so neither a slow client nor a
hanging JVM can hold up the other. Polling takes 4 ms (measured at a load of 11 on two cores). The alternative,
a StreamingQueryListener, has the JVM call back into Python for each batch: another port, another thread, and a batch's
progress is lost when the driver is busy.
"""

import contextlib
import json
import socket
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from streaming.checkpoint import explain
from streaming.errors import StreamingError
from streaming.metrics import JobMetrics

if TYPE_CHECKING:
    from pyspark.sql.streaming.query import StreamingQuery

POLL_S = 0.5
"""Seconds between two polls, at least."""
_KEPT = 100
"""Batches whose progress is kept for `batch_bound`."""
_WAITING = ("Waiting for next trigger", "Waiting for data to arrive")
"""What Spark's status says when there is nothing to do."""
_PATIENCE_S = 10.0
"""For each piece of a request, and of an answer."""
_MOST = 16
"""Connections at a time; the oldest gives way to the next."""


class AddressTaken(StreamingError):
    """The address of the health endpoint cannot be listened on."""

    exit_code = 2


class Health:
    """What is known of the query.

    Parameters
    ----------
    stalled_after
        Without a finished batch for so long, though there was something to do, it is not well.
    """

    def __init__(
        self,
        metrics: JobMetrics,
        stalled_after: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.recent: deque[Mapping[str, Any]] = deque(maxlen=_KEPT)
        """Progress of the last batches, also of those before a restart."""
        self._metrics = metrics
        self._limit = stalled_after.total_seconds()
        self._clock = clock
        self._query: StreamingQuery | None = None
        self._batch = -1
        self._polled = self._moved = clock()
        self._committed: float | None = None
        self._starts = 0
        self._dead: str | None = None
        self._status = "not started yet"

    def started(self, query: "StreamingQuery", reason: str = "restart") -> None:
        """A query was started; `reason` is one of a few words, and counts from the second on."""
        if self._starts:
            self._metrics.restarted(reason)
        self._starts += 1
        self._query, self._batch, self._dead, self._status = query, -1, None, "starting"
        self._polled = self._moved = self._clock()
        self._metrics.active(active=True)

    def ended(self, why: str | None = None) -> None:
        """The query has ended: on purpose, to be started again, or for a reason that makes it dead."""
        self.poll(now=True)
        self._query, self._dead, self._status = None, why, "ended" if why is None else "dead"
        self._polled = self._moved = self._clock()
        self._metrics.active(active=False)

    def poll(self, *, now: bool = False) -> None:
        """Ask Spark how it is; call it often, it asks twice a second at most."""
        query = self._query
        at = self._clock()
        if query is None:
            self._polled = at
            return
        if at - self._polled < POLL_S and not now:
            return
        try:
            batches = self._news(query)
            status, active = query.status, query.isActive
            failure = None if active else query.exception()  # says more than the status: its causes
        except Exception as error:  # noqa: BLE001 - a JVM that died answers with many kinds of errors
            self._dead, self._status = _line(f"the JVM does not answer: {error}"), "dead"
            self._metrics.active(active=False)
            return
        at = self._clock()
        for progress in batches:
            self.recent.append(progress)
            self._metrics.seen(progress)
            self._committed = self._moved = at
        message = str(status.get("message"))
        self._status = _line(message)
        if not active and self._dead is None:
            self._dead = f"the query has ended: {explain(message if failure is None else failure) or self._status}"
            self._metrics.active(active=False)
        if self._status in _WAITING:
            self._moved = at
        self._polled = at

    def _news(self, query: "StreamingQuery") -> list[Mapping[str, Any]]:
        """Progress of the batches that ended since the last poll."""
        last = query.lastProgress
        if last is None or last["batchId"] <= self._batch:
            return []
        # More than one: only then is it worth carrying all that Spark remembers over from the JVM.
        news = (
            [last]
            if last["batchId"] == self._batch + 1
            else [p for p in query.recentProgress if p["batchId"] > self._batch]
        )
        self._batch = last["batchId"]
        return [json.loads(progress.json) for progress in news]

    # Asked by whoever watches ----------------------------------------------------------------------------------------
    def live(self) -> tuple[bool, dict[str, Any]]:
        """Whether it is well, and what to say."""
        now = self._clock()
        heard, moved = now - self._polled, now - self._moved
        why = self._dead
        if why is None and heard > self._limit:
            why = f"the driver has not asked Spark for {heard:.0f} s"
        if why is None and moved > self._limit:
            why = f"no batch has ended for {moved:.0f} s (limit {self._limit:.0f} s); Spark says: {self._status}"
        return why is None, self._said(why)

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether it has committed a batch since it was started, and what to say."""
        why = self._dead
        if why is None and self._committed is None:
            why = f"no batch has been committed yet; Spark says: {self._status}"
        return why is None, self._said(why)

    def _said(self, why: str | None) -> dict[str, Any]:
        return {
            "status": "ok" if why is None else "failing",
            **({} if why is None else {"why": why}),
            "query": self._status,
            "lastBatchAgeSeconds": None if self._committed is None else round(self._clock() - self._committed, 1),
            "lagMessages": self._metrics.lag,
            "starts": self._starts,
        }


def _line(text: str) -> str:
    """The beginning of what may be a whole stack."""
    return text.partition("\n")[0][:200]


@contextlib.contextmanager
def serving(host: str, port: int, health: Health, metrics: JobMetrics) -> Iterator[str]:
    """Answer until the end of ``with``; gives the address, ``http://host:port``.

    Raises
    ------
    AddressTaken
        Somebody else listens there, or this machine has no such address.
    """
    handler = type("Handler", (_Handler,), {"health": health, "metrics": metrics})
    try:
        server = _Server((host, port), handler)
    except (OSError, OverflowError) as error:
        raise AddressTaken(
            f"spec.job.metrics: cannot listen on {host}:{port}: {error}: choose another port, or 0 for any that is free",
        ) from None
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="driftline-health", daemon=True
    )
    thread.start()
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    """One thread a connection, a few of them; a client that does not get on is cut off when its place is needed."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: OrderedDict[socket.socket, None] = OrderedDict()
        self._guard = threading.Lock()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Without the look-up of the host's name, which may take long and is used for nothing."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > _MOST else None
            if oldest is not None:
                del self._open[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away or talks nonsense is no news; anything else is."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One request a connection, as HTTP/1.0 has it: nobody keeps a thread."""

    health: Health
    metrics: JobMetrics
    timeout = _PATIENCE_S
    server_version = "driftline"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one of the three."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            body, content_type = self.metrics.exposition(self.headers.get("Accept", ""))
            self._answer(200, body, content_type)
        elif path in {"/healthz", "/readyz"}:
            well, said = self.health.live() if path == "/healthz" else self.health.ready()
            self._answer(200 if well else 503, json.dumps(said).encode() + b"\n", "application/json")
        else:
            self._answer(404, b"there are only GET /healthz, /readyz and /metrics\n", "text/plain; charset=utf-8")

    do_HEAD = do_GET  # noqa: N815 - named by the base, as those below

    def _not_allowed(self) -> None:
        self._answer(405, b"there are only GET and HEAD\n", "text/plain; charset=utf-8", {"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _not_allowed  # noqa: N815

    def _answer(self, code: int, body: bytes, content_type: str, more: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Type": content_type, "Content-Length": str(len(body)), **(more or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name for it
        """Nothing: a scrape every few seconds is no news."""
