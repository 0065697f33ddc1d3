"""Sending in an open loop, to real HTTP servers: good, slow, refusing, broken."""

import asyncio
import contextlib
import http.server
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
import uvloop

from reference.schema import Column, Model
from reference.source import source_of_table
from streaming.cloudevents import events
from streaming.load.client import Address, Logger, ModelServer, UnusableUrl
from streaming.load.schedule import Message, prepared, replay, soon
from streaming.load.table import Ahead, Pace, Requests
from streaming.load.tally import Tally

MODEL = Model(
    name="m",
    features=(Column(name="x", type="numeric"),),
    predictions=(Column(name="p", type="numeric"),),
    inference_service='a "b" ü',
)


def requests_of(rows: int, rate: float, **options) -> Requests:
    table = pa.table({"x": np.arange(float(rows)), "p": np.arange(float(rows))})
    return Requests(source_of_table(table), MODEL, pace=Pace(rate=rate), ids="i", **options)


def sent(
    requests,
    target: Callable,
    *,
    concurrency: int = 16,
    patience: float = 5.0,
    stop: Callable[[Tally], bool] = lambda _: False,
    loop=uvloop.new_event_loop,
) -> tuple[Tally, list[str]]:
    """Replay; what is counted, and the ids that were told as sent."""
    tally, told = Tally(), []

    async def run() -> None:
        made = target()
        start, ended = soon(), asyncio.Event()
        ahead = Ahead(prepared(requests, made, start))

        def tell(request) -> None:
            told.append(request.id)
            if stop(tally):
                ended.set()

        try:
            await replay(
                ahead,
                made,
                tally,
                start=start,
                concurrency=concurrency,
                patience=timedelta(seconds=patience),
                stop=ended,
                sent=tell,
            )
        finally:
            ahead.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
    assert tally.in_flight == 0
    assert tally.sent == tally.answered + tally.failed == sum(tally.codes.values())
    return tally, told


class Served:
    """A threaded server of the standard library, and what it was sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.now = self.most = 0
        self.answer: Callable[[int], tuple[int, float]] = lambda _: (200, 0.0)
        """Number of a post -> status, and seconds until then."""
        lock = threading.Lock()
        served = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with lock:
                    number = len(served.seen)
                    served.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                    served.now += 1
                    served.most = max(served.most, served.now)
                status, seconds = served.answer(number)
                time.sleep(seconds)
                with lock:
                    served.now -= 1
                text = b"" if status == 200 else b"no room"
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("content-length", str(len(text)))
                    if status == 503:
                        self.send_header("connection", "close")
                        self.close_connection = True
                    self.end_headers()
                    self.wfile.write(text)

            def log_message(self, *_) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = Address(f"http://127.0.0.1:{self.server.server_port}/base")

    def model_server(self, protocol="v1", patience: float = 5.0) -> Callable:
        return lambda: ModelServer(self.address, patience=timedelta(seconds=patience), service="m", protocol=protocol)


@pytest.fixture
def served() -> Iterator[Served]:
    it = Served()
    thread = threading.Thread(target=it.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield it
    finally:
        it.server.shutdown()
        thread.join()
        it.server.server_close()


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_every_request_arrives_once_at_a_model_server(served, protocol, loop):
    requests = requests_of(400, 2000.0, size=2, protocol=protocol)
    tally, told = sent(requests, served.model_server(protocol), loop=loop)
    assert (tally.requests, tally.answered, tally.failed, tally.unsent) == (200, 200, 0, 0)
    assert tally.instances == 400
    assert told == [request.id for request in requests]
    assert Counter(headers["ce-id"] for _, headers, _ in served.seen) == Counter(told)
    bodies = {headers["ce-id"]: body for _, headers, body in served.seen}
    assert bodies == {request.id: request.body for request in requests}
    assert {path for path, _, _ in served.seen} == {
        f"/base/{'v1/models/m:predict' if protocol == 'v1' else 'v2/models/m/infer'}"
    }
    assert tally.bytes == sum(len(body) for body in bodies.values())
    assert tally.latency.count == tally.service.count == 200


def test_a_logger_gets_a_request_and_its_response_as_cloudevents(served):
    requests = requests_of(50, 1000.0)
    before = time.time()
    tally, _ = sent(
        requests, lambda: Logger(served.address, patience=timedelta(seconds=5), service=MODEL.inference_service)
    )
    assert (tally.requests, tally.sent) == (50, 100)
    read = [
        events([(k.encode(), v.encode("latin-1")) for k, v in headers.items()], body)[0]
        for _, headers, body in served.seen
    ]
    by_kind = {kind: {e.id: e for e in read if e.attributes["type"].endswith(kind)} for kind in ("request", "response")}
    assert len(read) == 100
    for request in requests:
        asked, answered = by_kind["request"][request.id], by_kind["response"][request.id]
        assert (asked.data, answered.data) == (request.body, request.answer)
        assert asked.attributes["time"] == answered.attributes["time"]
    first = by_kind["request"]["i-00000000"].attributes
    assert first["inferenceservicename"] == 'a "b" ü'
    assert first["time"][:4] == time.strftime("%Y", time.gmtime(before))


def test_requests_are_due_whatever_the_answers_and_no_more_than_allowed_are_on_their_way(served):
    served.answer = lambda _: (200, 0.05)
    tally, _ = sent(requests_of(40, 400.0), served.model_server(), concurrency=4)
    assert served.most == 4
    assert tally.answered == 40
    # In 0.1 s all are due, and four at a time take 0.5 s: those that wait count from when they were due.
    assert tally.latency.max > 0.3
    assert tally.service.percentiles(50)[0] >= 0.05
    assert tally.latency.mean > 2 * tally.service.mean
    assert tally.late > 0


def test_as_many_as_are_due_are_sent_and_none_before_its_time():
    """Counted, not timed: on a machine that is busy requests may be late, but never early, never more, never fewer."""

    class Noted:
        def __init__(self) -> None:
            self.at: list[tuple[float, float]] = []

        def encode(self, request, start: float) -> list[Message]:
            self.start = start
            return [Message(request.due, request.body, len(request.body))]

        def send(self, message, answered) -> None:
            self.at.append((message.due, time.time() - self.start))
            asyncio.get_running_loop().call_soon(answered, message, "200", None, time.perf_counter())

        async def close(self, patience: timedelta) -> None:
            await asyncio.sleep(0.01)

    noted = Noted()
    tally, _ = sent(requests_of(10, 500.0, seconds=1.0), lambda: noted)
    assert tally.requests == tally.sent == tally.answered == 500
    assert [due for due, _ in noted.at] == [number / 500 for number in range(500)]
    early = [due - at for due, at in noted.at if at < due - 0.005]  # two clocks are compared
    assert not early


def test_what_finds_no_room_in_time_is_counted_and_the_replay_ends(served):
    served.answer = lambda _: (200, 3.0)
    began = time.monotonic()
    tally, told = sent(requests_of(100, 1000.0), served.model_server(patience=9.0), concurrency=2, patience=0.3)
    assert tally.requests == 100
    assert tally.unsent == 98
    assert len(told) == tally.sent == 2
    assert tally.codes == {"timeout": 2}  # waited for no longer than the replay's patience
    assert time.monotonic() - began < 10


def test_every_failure_has_its_code_and_its_reason(served):
    served.answer = lambda number: ((200, 500, 429, 503)[number % 4], 0.0)
    tally, _ = sent(requests_of(80, 1000.0), served.model_server(), concurrency=1)
    assert tally.codes == {"200": 20, "500": 20, "429": 20, "503": 20}
    assert set(tally.reasons) == {"500 no room", "429 no room", "503 no room"}
    assert (tally.answered, tally.failed) == (20, 60)

    served.answer = lambda _: (200, 0.6)
    tally, _ = sent(requests_of(4, 1000.0), served.model_server(patience=0.2))
    assert tally.codes == {"timeout": 4}
    assert tally.reasons == ["no answer in 0.2 s"]

    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    address = Address(f"http://127.0.0.1:{port}")
    patience = timedelta(seconds=2)
    tally, _ = sent(requests_of(3, 1000.0), lambda: ModelServer(address, patience=patience, service="m", protocol="v1"))
    assert tally.codes == {"refused": 3}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", "closed"),
        (b"SSH-2.0-OpenSSH\r\n", "malformed"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "204"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "200"),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "malformed"),
    ],
)
def test_what_servers_may_answer(answer, code):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        address = Address(f"http://127.0.0.1:{listening.getsockname()[1]}/v1/models/other:predict")
        patience = timedelta(seconds=2)
        tally, _ = sent(
            requests_of(1, 10.0), lambda: ModelServer(address, patience=patience, service="m", protocol="v1")
        )
        thread.join()
    assert tally.codes == {code: 1}


def test_a_stop_sends_no_more_and_waits_for_what_is_on_its_way(served):
    served.answer = lambda _: (200, 0.2)
    tally, told = sent(requests_of(1000, 100.0), served.model_server(), stop=lambda tally: tally.sent == 7)
    assert len(told) == tally.sent == tally.answered == len(served.seen) == 7


def test_a_stop_does_not_wait_for_a_table_that_hangs(served):
    hangs = threading.Event()

    def endless() -> Iterator:
        hangs.wait()
        yield from ()

    async def run(tally: Tally) -> None:
        target, stop = served.model_server()(), asyncio.Event()
        ahead = Ahead(prepared(endless(), target, soon()))
        asyncio.get_running_loop().call_later(0.2, stop.set)
        settings = {"start": soon(), "concurrency": 1, "patience": timedelta(seconds=60), "stop": stop}
        async with asyncio.timeout(20):
            await replay(ahead, target, tally, **settings)
        hangs.set()
        ahead.close()

    tally = Tally()
    asyncio.run(run(tally))
    assert tally.requests == tally.sent == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host", "no address for requests"),
        ("localhost:8080", "no address for requests"),
        ("http://", "no address for requests"),
        ("http://host:0x", "Port could not be cast"),
        ("http://user:word@host", "holds a user or a password"),
    ],
)
def test_addresses_that_are_none(url, said):
    with pytest.raises(UnusableUrl, match=said) as raised:
        Address(url)
    assert "word" not in str(raised.value) or "password" in str(raised.value)
    with pytest.raises(UnusableUrl, match="--host"):
        Address("http://host", "a\r\nb: c")


def test_an_address_is_written_as_http_has_it():
    address = Address("https://example/a b?q=ü", "model.example")
    assert (address.secure, address.port, address.path, address.host) == (True, 443, "/a%20b?q=%C3%BC", "model.example")
    assert json.dumps(Address("http://[::1]:81").name) == '"::1"'
