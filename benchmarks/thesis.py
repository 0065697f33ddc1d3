"""The published experiment, repeated: HTTP logger, Kafka and monitor on one machine, 250,000 requests at three rates.

    make bench-thesis                                     # 6 minutes, writes docs/thesis.svg, too
    make bench-thesis ARGS="--scale 0.1 --warm-up 20"     # a try, which writes nothing

After "Scalable Machine Learning Model Monitoring" (KTH, 2020), whose system is the one that this project follows. Windows of 15 s,
6 s of watermark delay, raw data kept. 500, 1,000 and 1,500 requests/s over 8, 32 and 128 connections, each for equally long and one
after the other without a pause, as KServe's agent posts them (CloudEvents, binary mode). Open loop: each request is due at its
own time, whether or not earlier ones are answered, and latency counts from then on to the time at which Kafka has the report. A
request's event time is when it was sent; how far that was behind is a figure of its own (`behind_p99_ms`).

Every request that was answered with 2xx is counted in the final report of its window exactly once, or the benchmark fails.
"""

import argparse
import asyncio
import re
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import uvloop
from _plot import COLOURS, Axis, Line, Panel, Rule, write
from _results import Results
from _stream import (
    ONE_IN,
    POOL,
    Floats,
    Ints,
    Outlier,
    Report,
    Windows,
    bodies_of,
    broker_in,
    driftline,
    limited,
    monitor_of,
    publish,
    records,
    running,
    wait_for,
)
from numpy.typing import NDArray

PLAN = ((500, 8), (1000, 32), (1500, 128))
"""Requests/s and connections."""
SECONDS = 250_000 / sum(rate for rate, _ in PLAN)
WINDOW, DELAY = 15_000, 6_000
LIMIT_S = 17.25
"""The best that a final report can do for 75 % of requests: three quarters of a window, and the watermark's delay."""
THEIRS_S = {"outlier": 5.9, "final_statistics": 29.92, "final_drift": 30.86}
"""What the published system reports for 75 % of requests, on seven nodes."""
_PATIENCE_S = 30.0
PICTURE = Path(__file__).parents[1] / "docs" / "thesis.svg"


@dataclass
class Phase:
    """One rate, and what became of its requests."""

    rate: int
    connections: int
    first: int
    """Number of the first request."""
    count: int
    due: Floats = field(init=False)
    """When each should have been sent, ms since the epoch."""
    sent: Floats = field(init=False)
    """When each was."""
    answered: Floats = field(init=False)
    status: Ints = field(init=False)
    """Of the answer; 0 where there is none."""

    def __post_init__(self) -> None:
        self.due, self.sent, self.answered = (np.full(self.count, np.nan) for _ in range(3))
        self.status = np.zeros(self.count, np.int64)

    @property
    def taken(self) -> NDArray[np.bool_]:
        """Requests that were answered with 2xx."""
        return np.equal(self.status // 100, 2)


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._received = b""
        self._request = -1
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready for requests."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own kind

    def post(self, request: int, data: bytes) -> None:
        """Send one."""
        assert self._transport is not None
        self._request = request
        self._transport.write(data)

    @property
    def is_closing(self) -> bool:
        """Whether the server has closed it; that it is lost is said a moment later."""
        return self._transport is None or self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        """An answer, or a part of it."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if len(body) < (int(length[1]) if length else 0):
            return
        self._received, request, self._request = b"", self._request, -1
        if request >= 0:  # else nobody asked: the server is about to close
            self._client.answered(self, request, int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has closed, or the benchmark is over."""
        del exc
        if self._request >= 0:
            self._client.lost(self._request)
        self._client.gone(self)


class Client:
    """Sends the requests of one phase when they are due, or as soon as a connection is free."""

    def __init__(self, phase: Phase, port: int, bodies: Sequence[bytes]) -> None:
        self._phase, self._port = phase, port
        self._free: deque[Connection] = deque()
        """They take turns: the logger closes one on which nothing comes."""
        self._open: set[Connection] = set()
        self._waiting: deque[int] = deque()
        self._next = self._done = 0
        self._second, self._date = -1, b""
        self._over = asyncio.Event()
        self._reconnecting: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._heads = [
            b"POST / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: %d\r\n"
            b"Ce-Specversion: 1.0\r\nCe-Type: org.kubeflow.serving.inference.request\r\nCe-Source: http://localhost:9081/\r\n"
            b"Ce-Inferenceservicename: thesis\r\nCe-Namespace: default\r\nCe-Component: predictor\r\nCe-Endpoint: default\r\n"
            b"Ce-Metadata: {}\r\nContent-Type: application/json\r\nCe-Id: " % (port, len(body))
            for body in bodies
        ]
        self._bodies = bodies

    async def run(self) -> None:
        """Until every request has its answer, or has waited for long enough."""
        phase = self._phase
        for _ in range(phase.connections):
            await self._connect()
        self._begin = time.monotonic()
        phase.due[:] = time.time_ns() / 1e6 + np.arange(phase.count) * (1000 / phase.rate)
        self._tick()
        try:
            await asyncio.wait_for(self._over.wait(), phase.count / phase.rate + _PATIENCE_S)
        except TimeoutError:
            print(f"{phase.count - self._done} requests have no answer after {_PATIENCE_S:.0f} s", flush=True)
        self._over.set()
        for task in self._reconnecting:
            task.cancel()
        await asyncio.gather(*self._reconnecting, return_exceptions=True)
        for connection in tuple(self._open):
            assert connection._transport is not None  # noqa: SLF001 - it was connected
            connection._transport.abort()  # noqa: SLF001

    async def _connect(self) -> None:
        _, connection = await self._loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
        self._open.add(connection)
        self._free.append(connection)

    def _tick(self) -> None:
        now = time.monotonic() - self._begin
        due = min(self._phase.count, int(now * self._phase.rate) + 1)
        self._waiting.extend(range(self._next, due))
        self._next = max(self._next, due)
        self._send()
        if self._next < self._phase.count:
            self._loop.call_later(max(self._next / self._phase.rate - now, 0.0), self._tick)

    def _send(self) -> None:
        while self._waiting and self._free:
            connection = self._free.popleft()
            if connection.is_closing:
                continue
            request = self._waiting.popleft()
            number = self._phase.first + request
            now = time.time_ns()
            second, nanoseconds = divmod(now, 1_000_000_000)
            if second != self._second:
                self._second, self._date = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
            self._phase.sent[request] = now / 1e6
            body = number % POOL
            connection.post(
                request,
                b"%s%08x-4a5e-4c6b-9d7f-4a5e4c6b9d7f\r\nCe-Time: %s.%09dZ\r\n\r\n%s"
                % (self._heads[body], number, self._date, nanoseconds, self._bodies[body]),
            )

    def answered(self, connection: Connection, request: int, status: int) -> None:
        """An answer has come."""
        self._phase.answered[request] = time.time_ns() / 1e6
        self._phase.status[request] = status
        self._free.append(connection)
        self._count()
        self._send()

    def lost(self, request: int) -> None:
        """No answer will come."""
        del request  # its status stays 0
        self._count()

    def gone(self, connection: Connection) -> None:
        """A connection was closed: another takes its place."""
        self._open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if not self._over.is_set():
            task = self._loop.create_task(self._connect())
            self._reconnecting.add(task)
            task.add_done_callback(self._reconnecting.discard)

    def _count(self) -> None:
        self._done += 1
        if self._done == self._phase.count:
            self._over.set()


def phases(scale: float, warm_up: float) -> list[Phase]:
    """To wake the workers, to get warm, the three that count, and a tail until the last windows of these have closed."""
    tail = (WINDOW + DELAY) / 1000 + 4
    shapes = [
        (100, 8, 2.0),
        (1000, 32, warm_up),
        *((rate, connections, SECONDS * scale) for rate, connections in PLAN),
        (500, 8, tail),
    ]
    made: list[Phase] = []
    for rate, connections, seconds in shapes:
        first = made[-1].first + made[-1].count if made else 0
        made.append(Phase(rate, connections, first, round(rate * seconds)))
    return made


async def run(made: Sequence[Phase], port: int, bodies: Sequence[bytes]) -> None:
    """All phases, one after the other."""
    for phase in made:
        seconds = phase.count / phase.rate
        print(f"{phase.rate} requests/s over {phase.connections} connections, {seconds:.0f} s", flush=True)
        await Client(phase, port, bodies).run()


def measure(folder: Path, made: Sequence[Phase]) -> "Outcome":
    """Run it all, and read what the monitor wrote."""
    rng = np.random.default_rng(3)
    window = {"duration": "15s", "watermarkDelay": "6s", "idleTimeout": "10s", "emitEvery": "500ms"}
    with broker_in(folder) as broker:
        monitor = monitor_of(folder / "models", "thesis", broker, 4, window=window, logger={"port": 0})
        publish(monitor, rng=rng)
        config = str(folder / "models" / "thesis.yaml")
        monitor_log, logger_log = folder / "monitor.log", folder / "logger.log"
        with (
            running(driftline("monitor", "run", "--config", config), monitor_log) as watcher,
            running(driftline("logger", "serve", "--config", config), logger_log) as logger,
        ):
            wait_for(lambda: b"reading from" in monitor_log.read_bytes(), watcher, monitor_log, 120, "the monitor")
            address = wait_for(
                lambda: re.search(r"http://127\.0\.0\.1:(\d+)/", logger_log.read_text()),
                logger,
                logger_log,
                60,
                "the logger",
            )
            port = int(address[1])
            wait_for(lambda: _is_ready(port), logger, logger_log, 60, "the logger's readiness")
            bodies = bodies_of(rng, 1, 4)
            uvloop.run(run(made[:1], port, bodies))
            wait_for(
                lambda: records(broker, monitor.topics.statistics, Report), watcher, monitor_log, 180, "a first report"
            )
            uvloop.run(run(made[1:], port, bodies))
            counted = np.concatenate([phase.sent[phase.taken] for phase in made[:-1]]).astype(np.int64)
            print("waiting until all windows are final", flush=True)
            last = int(counted.max()) // WINDOW * WINDOW

            def closed() -> bool:
                seen = Windows.of(records(broker, monitor.topics.drift, Report), WINDOW)
                return last in seen.final()

            wait_for(closed, watcher, monitor_log, 180, "the last window's drift")
        return Outcome(
            records(broker, monitor.topics.outliers, Outlier),
            Windows.of(records(broker, monitor.topics.statistics, Report), WINDOW),
            Windows.of(records(broker, monitor.topics.drift, Report), WINDOW),
            len(records(broker, monitor.topics.deadletter, dict)),
        )


@dataclass(frozen=True)
class Outcome:
    """What the monitor wrote."""

    outliers: Sequence[tuple[int, Outlier]]
    statistics: Windows
    drift: Windows
    dead: int


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False


def waits(outcome: Outcome, made: Sequence[Phase], results: Results) -> dict[int, dict[str, Floats]]:
    """Rate -> kind of answer -> how long each request waited for it, s. Asserts that nothing was lost and nothing counted twice."""
    assert outcome.dead == 0, f"{outcome.dead} messages went to the dead-letter topic"
    sent = [phase.sent[phase.taken].astype(np.int64) for phase in made]
    unsure = [phase.sent[~phase.taken & ~np.isnan(phase.sent)].astype(np.int64) for phase in made]
    windows, requests = outcome.statistics.check(np.concatenate(sent), np.concatenate(unsure))
    results.note(f"{requests:,} requests in {windows} windows of {WINDOW // 1000} s, each counted once")
    flagged: dict[int, int] = {}
    for at, outlier in outcome.outliers:
        flagged[outlier.number] = min(at, flagged.get(outlier.number, at))
    found: dict[int, dict[str, Floats]] = {}
    for phase, times in zip(made[2:-1], sent[2:-1], strict=True):
        since = phase.due[phase.taken]
        first, final = outcome.statistics.waits(times, since)
        numbers = phase.first + np.flatnonzero(phase.taken)
        planted = numbers % POOL % ONE_IN == 0
        stamps = np.array([flagged.get(number, np.nan) for number in numbers[planted].tolist()])
        found[phase.rate] = {
            "outlier": (stamps - since[planted]) / 1000,
            "provisional": first,
            "final_statistics": final,
            "final_drift": outcome.drift.waits(times, since)[1],
        }
        for kind, values in found[phase.rate].items():
            assert len(values), f"no requests at {phase.rate}/s"
            assert not np.isnan(values).any(), f"{np.isnan(values).sum()} requests at {phase.rate}/s have no {kind}"
    return found


def figures(found: dict[int, dict[str, Floats]], made: Sequence[Phase], results: Results) -> None:
    """Percentiles for each rate, and the worst of them."""
    wanted = {"outlier": (50, 75, 99), "provisional": (75, 99), "final_statistics": (75,), "final_drift": (75,)}
    for kind, percents in wanted.items():
        for p in percents:
            by_rate = {rate: float(np.percentile(of[kind], p)) for rate, of in found.items()}
            for rate, value in by_rate.items():
                results.figure(f"{kind}_p{p}_s_at_{rate}", value)
            results.figure(f"{kind}_p{p}_s", max(by_rate.values()))
    for phase in made[2:-1]:
        took = phase.answered[phase.taken] - phase.sent[phase.taken]
        behind = (phase.sent - phase.due)[~np.isnan(phase.sent)]
        for p in (50, 99):
            results.figure(f"logger_p{p}_ms_at_{phase.rate}", float(np.percentile(took, p)))
        results.figure(f"behind_p99_ms_at_{phase.rate}", max(float(np.percentile(behind, 99)), 0.0))
    results.figure("requests", sum(phase.count for phase in made[2:-1]))
    results.figure("not_2xx", sum(int((~phase.taken).sum()) for phase in made[2:-1]))
    for kind, seconds in THEIRS_S.items():
        results.note(
            f"{kind}_p75_s: {results.figures[f'{kind}_p75_s']:.2f} s; the published system, seven nodes: {seconds} s"
        )
    results.note(f"the best that a final report can do for 75 % of requests is {LIMIT_S} s")


def draw(found: dict[int, dict[str, Floats]], path: Path) -> None:
    """How many requests had which answer after how long."""
    seconds = Axis("seconds since the request was due", 0.1, 100, (0.1, 0.3, 1, 3, 10, 30, 100), log=True)
    share = Axis("% of requests", 0, 100, (0, 25, 50, 75, 100))
    rules = [
        Rule(75, "75 %", across=True),
        Rule(LIMIT_S, f"limit of final reports {LIMIT_S} s"),
        Rule(THEIRS_S["outlier"], f"published: outliers {THEIRS_S['outlier']} s"),
        Rule(THEIRS_S["final_statistics"], f"published: {THEIRS_S['final_statistics']} s"),
        Rule(THEIRS_S["final_drift"], f"drift {THEIRS_S['final_drift']} s"),
    ]
    labels = {
        "outlier": "outliers",
        "provisional": "provisional reports",
        "final_statistics": "final statistics",
        "final_drift": "final drift",
    }
    connections = dict(PLAN)
    panels = [
        Panel(
            f"{rate:,} requests/s over {connections[rate]} connections",
            seconds,
            share,
            [
                Line(label, np.sort(of[kind]), np.linspace(0, 100, len(of[kind])), colour)
                for (kind, label), colour in zip(labels.items(), COLOURS, strict=False)
            ],
            rules,
        )
        for rate, of in found.items()
    ]
    write(
        path,
        "Latency of one machine with two cores beside the published system's on seven nodes",
        [[one] for one in panels],
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--scale", type=float, default=1.0, help="share of the 250,000 requests, at the same rates")
    arguments.add_argument("--warm-up", type=float, default=45.0, help="seconds before the measurement")
    arguments.add_argument("--picture", type=Path, help="draw here; by default docs/thesis.svg, and nothing for a part")
    chosen = arguments.parse_args()
    results = Results("thesis")
    made = phases(chosen.scale, chosen.warm_up)
    with (
        limited(sum(phase.count / phase.rate + _PATIENCE_S for phase in made) + 900),
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
    ):
        found = waits(measure(Path(folder), made), made, results)
    figures(found, made, results)
    whole = chosen.scale == 1.0
    if whole:
        results.write()
    if whole or chosen.picture:
        draw(found, chosen.picture or PICTURE)
    results.show()


if __name__ == "__main__":
    main()
