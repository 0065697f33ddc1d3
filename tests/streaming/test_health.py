"""The health endpoint: what it says of a query, and that hostile clients harm nobody. Also the bound of a batch."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streaming import health as module
from streaming.health import AddressTaken, Health, serving
from streaming.metrics import JobMetrics
from streaming.operations import FLOOR, Metrics, batch_bound


class Progress(dict):
    """As PySpark's: a dict that is also JSON."""

    @property
    def json(self) -> str:
        return json.dumps(self)


def progress(batch: int, rows: int = 10, seconds: float = 0.5, run: str = "r") -> Progress:
    return Progress(
        runId=run,
        batchId=batch,
        timestamp="2026-11-21T13:59:22.000Z",
        numInputRows=rows,
        processedRowsPerSecond=rows / seconds,
        durationMs={"triggerExecution": round(seconds * 1000)},
    )


class Query:
    """As much of a StreamingQuery as is asked."""

    def __init__(self) -> None:
        self.recentProgress: list[Progress] = []
        self.isActive = True
        self.failure: Exception | None = None
        self.status = {"message": "Processing new data", "isTriggerActive": True, "isDataAvailable": True}

    def exception(self) -> Exception | None:
        return self.failure

    @property
    def lastProgress(self) -> Progress | None:  # noqa: N802 - PySpark's name
        return self.recentProgress[-1] if self.recentProgress else None


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> JobMetrics:
    return JobMetrics()


@pytest.fixture
def health(metrics, clock) -> Health:
    return Health(metrics, timedelta(seconds=60), clock)


def after(clock: Clock, health: Health, seconds: float) -> tuple[bool, dict]:
    clock.now += seconds
    health.poll()
    return health.live()


def test_a_query_is_well_while_batches_end_and_ready_after_the_first(health, clock):
    query = Query()
    assert health.live()[0]
    health.started(query)
    assert (after(clock, health, 1)[0], health.ready()[0]) == (True, False)
    query.recentProgress.append(progress(0))
    assert (after(clock, health, 1)[0], health.ready()[0]) == (True, True)
    assert after(clock, health, 59)[0]
    well, said = after(clock, health, 2)
    assert not well
    assert said["why"] == "no batch has ended for 61 s (limit 60 s); Spark says: Processing new data"
    query.recentProgress.append(progress(1))
    assert after(clock, health, 1)[0]


def test_a_query_without_work_is_well(health, clock):
    query = Query()
    query.status = {"message": "Waiting for data to arrive"}
    health.started(query)
    assert after(clock, health, 1000)[0]


def test_a_dead_query_and_a_dead_jvm_are_not_well(health, clock, metrics):
    query = Query()
    health.started(query)
    query.isActive = False
    query.status = {
        "message": "Terminated with exception: Python worker exited unexpectedly (crashed).\n" + "at x\n" * 9
    }
    said = after(clock, health, 1)[1]
    assert said["why"].startswith("the query has ended: a Python worker died")
    assert said["query"] == "Terminated with exception: Python worker exited unexpectedly (crashed)."
    second = Query()
    health.started(second)
    second.isActive, second.failure = False, RuntimeError("cannot commit")
    second.failure.__cause__ = OSError(28, "No space left on device")
    assert "a disk is full" in after(clock, health, 1)[1]["why"], "what caused it, not what came of it"
    health.ended("a disk is full")
    assert not health.live()[0]
    assert health.live()[1]["why"] == "a disk is full"
    assert not health.ready()[0]
    health.started(Query())
    assert health.live()[0], "started again"

    class Gone:
        @property
        def lastProgress(self):  # noqa: N802
            raise ConnectionRefusedError("[Errno 111] Connection refused\nand more")

    health.started(Gone())
    assert after(clock, health, 1)[1]["why"] == "the JVM does not answer: [Errno 111] Connection refused"


def test_a_driver_that_stands_still_is_told_from_a_query_that_does(health, clock):
    health.started(Query())
    clock.now += 61
    assert health.live()[1]["why"] == "the driver has not asked Spark for 61 s"


def test_between_two_queries_it_is_well_and_the_second_start_is_counted(health, clock, metrics):
    query = Query()
    health.started(query)
    query.recentProgress.append(progress(0))
    health.ended()
    assert len(health.recent) == 1, "the last batch is not forgotten"
    assert after(clock, health, 30)[0]
    second = Query()
    health.started(second, "baseline")
    second.recentProgress.append(progress(1, run="s"))
    assert after(clock, health, 1)[0]
    assert [each["batchId"] for each in health.recent] == [0, 1]
    assert b'driftline_query_restarts_total{reason="baseline"} 1.0' in metrics.exposition()[0]


def test_batches_between_two_polls_are_all_counted_once(health, clock, metrics):
    query = Query()
    health.started(query)
    for batches in ([0], [1, 2, 3], [], [4]):
        query.recentProgress += map(progress, batches)
        after(clock, health, 1)
        after(clock, health, 1)
    assert [each["batchId"] for each in health.recent] == [0, 1, 2, 3, 4]
    assert b"driftline_batches_total 5.0" in metrics.exposition()[0]


def test_spark_is_not_asked_too_often(health, clock):
    class Counting(Query):
        asked = 0

        @property
        def lastProgress(self):  # noqa: N802
            self.asked += 1

    query = Counting()
    health.started(query)
    for _ in range(100):
        after(clock, health, 0.01)
    assert query.asked <= 2


# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def address(health, metrics) -> Iterator[str]:
    with serving("127.0.0.1", 0, health, metrics) as url:
        yield url


def get(url: str, method: str = "GET") -> tuple[int, str, dict]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), dict(error.headers)


def test_the_three_addresses_and_no_other(address, health):
    code, text, _ = get(f"{address}/healthz")
    assert (code, json.loads(text)["status"]) == (200, "ok")
    code, text, _ = get(f"{address}/readyz")
    assert (code, json.loads(text)["why"]) == (503, "no batch has been committed yet; Spark says: not started yet")
    code, text, headers = get(f"{address}/metrics?x=1")
    assert (code, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    assert "driftline_query_active 0.0" in text
    health.ended("a disk is full")
    code, text, _ = get(f"{address}/healthz")
    assert (code, json.loads(text)["why"]) == (503, "a disk is full")
    assert get(f"{address}/")[0] == get(f"{address}/healthz/../etc/passwd")[0] == 404
    code, text, _ = get(f"{address}/healthz", "HEAD")
    assert (code, text) == (503, "")
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        code, _, headers = get(f"{address}/metrics", method)
        assert (code, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        bytes(range(256)) * 10,
        b"",
    ],
)
def test_nonsense_is_answered_or_cut_off_and_harms_nobody(address, nonsense, capfd):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(nonsense)
        client.shutdown(socket.SHUT_WR)
        try:
            while client.recv(65536):
                pass
        except ConnectionResetError:
            pass
    assert get(f"{address}/healthz")[0] == 200
    assert capfd.readouterr().err == ""


def test_slow_clients_keep_nobody_out(address, monkeypatch):
    """More connections than there are places, of which none says a whole request."""
    host, port = address.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port)), timeout=5) for _ in range(3 * module._MOST)]
    for client in slow:
        client.sendall(b"GET /met")
    began = time.monotonic()
    assert all(get(f"{address}/metrics")[0] == 200 for _ in range(10))
    assert time.monotonic() - began < 5
    assert threading.active_count() < 3 * module._MOST
    for client in slow:
        client.close()


def test_a_client_that_says_nothing_is_cut_off(health, metrics, monkeypatch):
    monkeypatch.setattr(module._Handler, "timeout", 0.1)
    with serving("127.0.0.1", 0, health, metrics) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as client:
            assert client.recv(1) == b""


def test_an_address_that_is_taken_is_told(address, health, metrics):
    port = int(address.rpartition(":")[2])
    with (
        pytest.raises(AddressTaken, match=rf"cannot listen on 127.0.0.1:{port}"),
        serving("127.0.0.1", port, health, metrics),
    ):
        pass
    with pytest.raises(AddressTaken), serving("192.0.2.1", 0, health, metrics):
        pass


# ---------------------------------------------------------------------------------------------------------------------
def batches(fixed: float, each: float, rows: int, count: int = 6) -> list[Progress]:
    """A run whose batches take ``fixed + each * rows`` seconds; the first one is warming up."""
    return [progress(n, rows, (fixed + each * rows) * (5 if n == 0 else 1)) for n in range(count)]


@given(
    fixed=st.floats(0.05, 2),
    each=st.floats(1e-6, 1e-3),
    first=st.integers(FLOOR, 1_000_000),
    target=st.floats(3, 60),
)
def test_full_batches_come_to_take_the_target(fixed, each, first, target):
    best = (target - fixed) / each
    bound = first
    for _ in range(80):
        bound = batch_bound(batches(fixed, each, bound), timedelta(seconds=target), bound, 10_000_000)
    assume(FLOOR < best < 10_000_000)
    assert fixed + each * bound == pytest.approx(target, rel=0.05)


@given(
    measured=st.lists(st.tuples(st.integers(0, 10**7), st.floats(0, 1000)), max_size=30),
    current=st.integers(1, 10**7),
    ceiling=st.integers(1, 10**7),
)
def test_a_bound_stays_between_floor_and_ceiling_and_near_the_last(measured, current, ceiling):
    said = [progress(n, rows, max(seconds, 0.001)) for n, (rows, seconds) in enumerate(measured)]
    bound = batch_bound(said, timedelta(seconds=5), current, ceiling)
    assert min(FLOOR, ceiling) <= bound <= max(ceiling, min(FLOOR, ceiling))
    if min(FLOOR, ceiling) < bound < ceiling:
        assert current / 2 - 1 <= bound <= current * 2 + 1


def test_quiet_days_change_nothing():
    quiet = batches(fixed=0.3, each=1e-6, rows=500, count=100)
    assert batch_bound(quiet, timedelta(seconds=5), 200_000, 250_000) == 200_000
    assert batch_bound([], timedelta(seconds=5), 200_000, 250_000) == 200_000


def test_a_batch_that_takes_too_long_lowers_the_bound_whatever_its_size():
    wide = batches(fixed=0.3, each=1e-3, rows=20_000)  # 20 s
    assert batch_bound(wide, timedelta(seconds=5), 250_000, 250_000) == 125_000, "at most halved at a time"
    assert batch_bound(wide, timedelta(seconds=5), 8_000, 250_000) == pytest.approx(4926, rel=0.01)


def test_the_settings():
    assert Metrics().port is None, "off by default"
    given = Metrics.model_validate({"host": "0.0.0.0", "port": 0, "stalledAfter": "2m"})
    assert given.stalled_after == timedelta(minutes=2)
    with pytest.raises(ValueError, match="port"):
        Metrics(port=65536)
