"""`driftline demo`: the whole way of the data on this machine, from a training table to a report of what has drifted.

    flights -> model server -> logger -> Kafka -> monitor -> Kafka -> reporter -> page and workspace

Every part is the real one and a process of its own; only the clock runs faster.
"""

import asyncio
import contextlib
import fcntl
import importlib.util
import json
import shutil
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from streaming.broker import EmbeddedKafka
from streaming.spec import ModelMonitor, dump, parse
from workflows.demo.services import Service, ServiceFailed, answers, free_port
from workflows.demo.watch import (
    Board,
    Reports,
    day,
    dumped,
    plain,
    reporter_is_done,
    summary_table,
    windows_table,
)
from workflows.errors import WorkflowError

DEFAULT_PLACE = Path("artifacts/demo")
"""Where results go without `--keep`; what is large is removed from there in the end."""

_MARKER = ".driftline-demo"
_REQUEST_SIZE = 20
"""Flights in a request."""
_REPLAY = {False: ((2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), 125.0), True: ((2, 7), 25.0)}
"""Fast or not -> months, and seconds that their replay is planned to take."""
_SHOWN = 12
"""Windows in the live table."""
_LOG_WIDTH = 120
"""Characters of a line that goes to a file."""
_QUIET = timedelta(seconds=90)
"""How long nothing may happen after the replay before the demo gives up."""


class DemoFailed(WorkflowError):
    """The demo cannot go on."""


class PlaceTaken(WorkflowError):
    """The directory holds something that is not the demo's."""

    exit_code = 2


def demo(fast: bool = False, keep: Path | None = None) -> int:
    """Run the demo; the exit code, 0 when every flight is in a window's final report.

    Parameters
    ----------
    fast
        Two months instead of eleven.
    keep
        Directory for everything; default: `DEFAULT_PLACE`, where only results stay.

    Raises
    ------
    ServiceFailed, DemoFailed
        A part does not start, dies, or goes silent.
    PlaceTaken
        The directory is in use for something else.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _LOG_WIDTH)  # a log has no edge
    _all_is_installed()
    place = (keep or DEFAULT_PLACE).absolute()
    with _claimed(place), _sigterm_unwinds(), contextlib.ExitStack() as running:
        if keep is None:
            running.callback(_remove_what_is_large, place)
        work = _Demo(console, place, fast, running)
        try:
            return work.run()
        except KeyboardInterrupt:
            console.print("stopping, because of Ctrl-C ...")
            raise
        finally:
            for service in work.services:  # all at once; `running` then waits for each
                service.ask_to_stop()


@dataclass
class _Demo:
    console: Console
    place: Path
    fast: bool
    running: contextlib.ExitStack
    services: list[Service] = field(default_factory=list)

    def run(self) -> int:
        """Start everything, replay, watch, stop everything, sum up."""
        start = time.monotonic()
        months, seconds = _REPLAY[self.fast]
        say = self._say
        # The server trains while the broker comes up, and both while the flights are read here.
        logger_port, server_port = free_port(), free_port()
        server_url, logger_url = f"http://127.0.0.1:{server_port}", f"http://127.0.0.1:{logger_port}"
        table = self.place / "training.parquet"
        say("training the model on January and starting its server (kserve)")
        server = self._service(
            "model server", ["-m", "workflows.demo.server", str(server_port), f"{logger_url}/", str(table)]
        )
        say("starting Kafka")
        kafka = EmbeddedKafka(self.place / "kafka")
        self.running.callback(kafka.stop)
        kafka.start()
        monitor = self._monitor(kafka.bootstrap_servers, logger_port)
        config = self.place / "monitor.yaml"
        config.write_text(dump(monitor))
        say("starting the inference logger")
        logger = self._service("logger", ["-m", "workflows.cli", "logger", "serve", "--config", str(config)])
        requests = self._requests(months)
        server.wait(table.exists, timedelta(seconds=120))
        version, rows = self._baseline(monitor, table)
        say(f"baseline {version}: January, {rows:,} flights, with what the model said of them")
        logger.wait(lambda: answers(f"{logger_url}/readyz"), timedelta(seconds=60))
        say("starting the monitor (Spark) and the reporter (Evidently)")
        watcher = self._service(
            "monitor",
            ["-m", "workflows.cli", "monitor", "run", "--config", str(config)],
            grace=timedelta(seconds=30),
        )
        reporter = self._service("reporter", ["-m", "workflows.cli", "report", "run", "--config", str(config)])
        server.wait(lambda: answers(f"{server_url}/v2/health/ready"), timedelta(seconds=60))
        flights = requests.table.num_rows
        say(f"replaying {flights:,} flights in {len(requests):,} requests, {_months(months)}, about {seconds:.0f} s")
        wanted = requests.windows(round(monitor.spec.window.duration.total_seconds() * 1000))
        replay = _Replay(server_url, requests, len(requests) / seconds)
        self.running.callback(replay.stop)
        board = Board()
        topics = monitor.topics
        self._watch(monitor, replay, board, wanted)
        replay.result()
        with urllib.request.urlopen(f"{server_url}/payloads", timeout=60) as answer:  # noqa: S310 - our own address
            payloads = json.loads(answer.read())

        say("every window is final: stopping, and letting the reporter finish")
        for service in (server, logger, watcher):
            service.ask_to_stop()
        for service in (server, logger, watcher):
            service.stop()
        report_topics = [topics.outliers, topics.statistics, topics.drift, topics.deadletter]
        group = f"driftline-report-{monitor.name}"
        reporter.wait(lambda: reporter_is_done(monitor.spec.kafka, group, report_topics), timedelta(seconds=120))
        reporter.stop()
        dumps = dumped(monitor.spec.kafka, report_topics, self.place / "topics")
        kafka.stop()
        return self._summary(monitor, board, wanted, replay, payloads, dumps, time.monotonic() - start)

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def _service(self, name: str, arguments: Sequence[str], **more: Any) -> Service:
        logs = self.place / "logs"
        logs.mkdir(exist_ok=True)
        # Several processes share the cores: none of them should bring a team of threads for small arrays.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        service = Service(name, arguments, logs, environment=threads, **more)
        self.services.append(service)
        self.running.callback(service.stop)
        return service

    def _monitor(self, bootstrap_servers: str, logger_port: int) -> ModelMonitor:
        """The document of the demo, with the places of this machine and the clock of a replay."""
        text = (files("workflows.demo") / "monitor.yaml").read_text(encoding="utf-8")
        spec = (monitor := parse(text, "monitor.yaml")).spec
        place = self.place
        changes = {
            "kafka": {"bootstrap_servers": bootstrap_servers},
            "window": {
                # An hour of life passes in milliseconds, and requests overtake each other by some of these.
                "watermark_delay": timedelta(days=2),
                "idle_timeout": timedelta(seconds=10),
                "emit_every": timedelta(seconds=1),
            },
            "reference": {"store": str(place / "baselines")},
            "reports": {"workspace": str(place / "workspace"), "html": str(place / "report.html")},
            "job": {
                "checkpoint": str(place / "checkpoint"),
                "trigger_interval": timedelta(seconds=2),
                "spark": {**spec.job.spark, "spark.local.dir": str(place / "spark")},
            },
            "logger": {"port": logger_port},
        }
        sections = {name: getattr(spec, name).model_copy(update=update) for name, update in changes.items()}
        return monitor.model_copy(update={"spec": spec.model_copy(update=sections)})

    def _requests(self, months: Sequence[int]) -> Any:
        from workflows.demo.flights import Requests, flights, in_months

        return Requests(in_months(flights(), months), _REQUEST_SIZE)

    def _baseline(self, monitor: ModelMonitor, table: Path) -> tuple[str, int]:
        """As `driftline reference build` does."""
        from reference.build import build
        from reference.performance import label_of
        from reference.store import Store
        from reference.table import read_table

        spec = monitor.spec
        baseline = build(
            read_table(table, spec.model, label_of(spec.performance, spec.model)),
            spec.model,
            spec.reference,
            spec.outliers.learned,
            segments=spec.segments,
            performance=spec.performance,
        )
        return Store(spec.reference.store).publish(baseline), baseline.rows

    def _watch(self, monitor: ModelMonitor, replay: "_Replay", board: Board, wanted: dict[int, int]) -> None:
        """Show what comes until every window is final."""
        topics = monitor.topics
        patience = time.monotonic() + _QUIET.total_seconds()
        replay.start()
        with Reports(monitor.spec.kafka, topics.statistics, topics.drift) as reports, self._live() as show:
            while not all(start in board.windows and board.windows[start].final for start in wanted):
                for report in reports.new(0.25):
                    patience = time.monotonic() + _QUIET.total_seconds()
                    window = board.add(report)
                    if window is not None and not self.console.is_terminal:
                        self._say(plain(window))
                show(board, replay, len(wanted))
                for service in self.services:
                    service.check()
                if replay.running:
                    patience = time.monotonic() + _QUIET.total_seconds()
                elif time.monotonic() > patience:
                    missing = ", ".join(day(start) for start in wanted if start not in {w.start for w in board.final})
                    raise DemoFailed(
                        f"nothing has come from the monitor for {_QUIET}, and the weeks of {missing} are not final; "
                        f"its log: {self.place / 'logs' / 'monitor.log'}",
                    )

    @contextlib.contextmanager
    def _live(self) -> Iterator[Any]:
        """A function that shows how things stand: a table that redraws itself, or a line now and then in a log."""
        if self.console.is_terminal:
            with Live(console=self.console, refresh_per_second=4, transient=True) as live:

                def draw(board: Board, replay: "_Replay", windows: int) -> None:
                    newest = board.ordered[-_SHOWN:]
                    table = windows_table(newest) if newest else Text("the monitor is still starting", style="dim")
                    live.update(Group(Text(replay.line(len(board.final), windows)), table))

                yield draw
            return
        last = time.monotonic()

        def log(board: Board, replay: "_Replay", windows: int) -> None:
            nonlocal last
            if time.monotonic() - last > 10:
                last = time.monotonic()
                self._say(replay.line(len(board.final), windows))

        yield log

    def _summary(
        self,
        monitor: ModelMonitor,
        board: Board,
        wanted: dict[int, int],
        replay: "_Replay",
        payloads: dict[str, int],
        dumps: dict[Path, int],
        seconds: float,
    ) -> int:
        done, final = replay.result(), board.final
        counts = [window.statistics.counts for window in final if window.statistics]
        sent, requests, responses = (
            sum(wanted.values()),
            sum(c.requests for c in counts),
            sum(c.responses for c in counts),
        )
        late, dead = sum(c.late for c in counts), dumps[self.place / "topics" / f"{monitor.topics.deadletter}.jsonl"]
        console = self.console
        console.print()
        console.print(windows_table(final))
        console.print()
        console.print("What has drifted since January", style="bold")
        console.print(summary_table(final))
        console.print()
        drifted = [window for window in final if window.drift and window.drift.drifted]
        share = f"{monitor.spec.drift.share:.0%} of its columns"
        self._say(f"The data set as a whole (at least {share}) drifts in {len(drifted)} of {len(final)} weeks.")
        self._say(
            f"{sent:,} flights were sent, {requests:,} requests and {responses:,} answers are in final windows, "
            f"{late} late, {dead} dead letters; {sum(c.outliers for c in counts):,} flights were outliers.",
        )
        self._say(f"{seconds:.0f} s in all, {done.seconds:.0f} s of replay.")
        self._say("")
        self._say(f"report      {monitor.spec.reports.html}")
        self._say(
            f"workspace   {monitor.spec.reports.workspace}   (evidently ui --workspace {monitor.spec.reports.workspace})"
        )
        for path, lines in dumps.items():
            self._say(f"topic       {path}   {lines:,} records")
        self._say(f"monitor     {self.place / 'monitor.yaml'}")
        self._say(f"logs        {self.place / 'logs'}")
        problems = []
        if done.failed:
            problems.append(f"{done.failed} requests were not answered: {'; '.join(done.reasons)}")
        if payloads["failed"]:
            problems.append(f"{payloads['failed']} payloads were not taken by the logger: see the model server's log")
        if not done.failed and not payloads["failed"] and (requests, responses) != (sent, sent):
            problems.append(
                f"{sent:,} flights were sent, but the final windows hold {requests:,} requests and {responses:,} answers"
            )
        for problem in problems:
            console.print(f"driftline: {problem}", style="red", markup=False, soft_wrap=True)
        return 1 if problems else 0


class _Replay:
    """The client, in a thread of its own."""

    def __init__(self, server_url: str, requests: Any, rate: float) -> None:
        from workflows.demo.replay import Replayed

        self._server_url, self._requests, self._rate = server_url, requests, rate
        self._stop = threading.Event()
        self._done = Replayed()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it early; what is on its way is not waited for longer than a few seconds."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def result(self) -> Any:
        """What became of the requests, so far or in the end; raises what ended it."""
        if self._error is not None:
            raise DemoFailed(f"the replay ended: {self._error!r}") from self._error
        return self._done

    def line(self, final: int, windows: int) -> str:
        done = self.result()
        state = f"up to {day(done.event_time)} 2013" if done.event_time else "nothing yet"
        rate = done.requests / done.seconds if done.seconds else 0
        behind = f", {done.behind_s:.0f} s behind" if done.behind_s > 1 and self.running else ""
        return (
            f"replayed {done.instances:,} of {self._requests.table.num_rows:,} flights ({state}), "
            f"{rate:.0f} requests/s{behind}; {final} of {windows} weeks final"
        )

    def _run(self) -> None:
        from workflows.demo.replay import replay

        def progress(done: Any) -> None:
            self._done = done

        try:
            self._done = asyncio.run(
                replay(self._server_url, self._requests, rate=self._rate, stop=self._stop, progress=progress)
            )
        except BaseException as error:  # noqa: BLE001 - told to the thread that watches
            self._error = error


def _all_is_installed() -> None:
    """Raise ModuleNotFoundError, from which the command names the extra, before anything is started."""
    for name in ("kserve", "sklearn", "pyspark", "evidently", "confluent_kafka", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)


@contextlib.contextmanager
def _claimed(place: Path) -> Iterator[None]:
    """The directory is ours, and empty: what an earlier demo left there is removed."""
    if place.exists() and not place.is_dir():
        raise PlaceTaken(f"{place} is a file: give --keep a directory")
    marker = place / _MARKER
    if place.is_dir() and any(place.iterdir()) and not marker.exists():
        raise PlaceTaken(f"{place} is not empty, and not from an earlier demo: give --keep another directory")
    place.mkdir(parents=True, exist_ok=True)
    with marker.open("a") as claim:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlaceTaken(f"a demo is running in {place}: wait for it, or give --keep another directory") from None
        for path in place.iterdir():
            if path != marker:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield


def _remove_what_is_large(place: Path) -> None:
    for name in ("kafka", "checkpoint", "spark"):
        shutil.rmtree(place / name, ignore_errors=True)


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM ends the demo as an exception would, so that it stops its services; the exit code is then 143."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _months(months: Sequence[int]) -> str:
    names = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]  # fmt: skip
    if list(months) == list(range(months[0], months[-1] + 1)):
        return f"{names[months[0] - 1]} to {names[months[-1] - 1]}"
    return " and ".join(names[month - 1] for month in months)


__all__ = ["DEFAULT_PLACE", "DemoFailed", "PlaceTaken", "ServiceFailed", "demo"]
