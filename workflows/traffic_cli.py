"""`driftline traffic`: a table, replayed as the requests of a model."""

import asyncio
import contextlib
import json
import re
import signal
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from workflows.errors import WorkflowError
from workflows.reference_cli import AsJson, Config, data_section
from workflows.terminal import complain, console, line, print_json, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from reference.source import Source
    from reference.sources.window import Clock, Unit
    from streaming.load.injections import Injection
    from streaming.load.schedule import Target
    from streaming.load.table import Protocol as Wire
    from streaming.load.table import Request, Requests
    from streaming.load.tally import Histogram, Tally
    from streaming.spec import ModelMonitor

FLIGHTS = "demo:flights"
"""Stands for the demo's own table."""
_RATE = 100.0
_PATIENCE = timedelta(seconds=10)
_LIVE_S = 0.25
_LOGGED_S = 10.0
_PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}
_IDS = re.compile(r"[A-Za-z0-9._-]{1,100}")


class UnusableOption(WorkflowError):
    """An option whose value cannot be used, or not together with another."""

    exit_code = 2


To = Literal["server", "logger", "kafka"]


def traffic(
    config: Config,
    *,
    to: Annotated[
        To,
        typer.Option(
            help="A model server, whose logger then logs; a logger, as CloudEvents; or the inference topic. The last two "
            "also get responses where the table has the model's predictions."
        ),
    ] = "server",
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="http://HOST:PORT of the server or logger, host:port of Kafka. Default: the ModelMonitor's logger or Kafka.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help=f"The table, one row an instance: whatever `reference build` reads, or {FLIGHTS}. Default: reference.data.",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="N", help=f"Requests per second. Default: {_RATE:g}.", show_default=False)
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Instead of --rate: requests are due as the time column says, so many times faster; 1 is as it was.",
            show_default=False,
        ),
    ] = None,
    for_: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="SPAN",
            help="How long, for example 2m; a table that ends before is begun anew. Default: the table once.",
            show_default=False,
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Messages that may be without an answer; what is due beyond that waits.")
    ] = 64,
    patience: Annotated[
        str, typer.Option(metavar="SPAN", help="How long a message waits for room, and then for its answer.")
    ] = "10s",
    protocol: Annotated[
        Literal["v1", "v2"] | None,
        typer.Option(help="Of the bodies. Default: the model's, v1 where that is auto.", show_default=False),
    ] = None,
    layout: Annotated[
        Literal["named", "rows"],
        typer.Option(help="Instances and tensors by name, or bare rows in the order of the features."),
    ] = "named",
    batch: Annotated[int, typer.Option(min=1, help="Instances in a request.")] = 1,
    inject: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:COLUMN=VALUE:SHARE@BEGIN..END",
            help="Change instances on purpose; may be given again. shift:x=+30@1m..2m, scale:x=1.5, missing:x=0.3, "
            "unseen:c=XX:0.1, swap:a,b, stuck:x, outlier:x=10sd:0.01.",
            show_default=False,
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write which requests were changed, and how, as JSON lines.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of instances: the same seed, the same ones.")] = 0,
    ids: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Begins every id. Default: one that no other run has.", show_default=False),
    ] = None,
    time_column: Annotated[
        str | None,
        typer.Option("--time", metavar="COLUMN", help="Event times. Default: reference.data.time.", show_default=False),
    ] = None,
    time_unit: Annotated[
        Literal["s", "ms", "us", "ns"] | None,
        typer.Option(help="What numbers in it count. Default: reference.data.timeUnit.", show_default=False),
    ] = None,
    times: Annotated[
        Literal["now", "column"] | None,
        typer.Option(
            help="Event times of the requests: when they are due, or as the column says. Default: column with --speed, else now.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The Host header, by which an ingress finds a model.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Replay a table as requests of the model at a given rate, open loop, with drift and outliers injected on request.

    Latencies count from the moment when a request was due. Ctrl-C ends it with its summary. Exit code 1 when something was not sent or
    not answered well.
    """
    from streaming.load.injections import parse
    from streaming.spec import load

    injections = [parse(text) for text in inject or ()]
    monitor = load(config, importing=False)
    if rate is not None and speed is not None:
        raise UnusableOption("--rate and --speed both say when requests are due: give one of them")
    _above_zero("--rate", rate)
    _above_zero("--speed", speed)
    if host is not None and to == "kafka":
        raise UnusableOption("--host is for HTTP, and Kafka is reached otherwise: leave it out")
    if ids is not None and not _IDS.fullmatch(ids):
        raise UnusableOption(f"--ids {ids!r}: write at most 100 letters, digits, '.', '_' or '-'")
    address = _url(monitor, to, url)
    if to == "kafka":
        monitor = _at(monitor, address)
    run = _Run(
        monitor=monitor,
        to=to,
        url=address,
        host=host,
        concurrency=concurrency,
        patience=_span("--patience", patience),
    )
    source, clock = _rows(monitor, data, time_column, time_unit, timed=speed is not None or times == "column")
    from streaming.load.table import Pace, Requests

    requests = Requests(
        source,
        monitor.spec.model,
        pace=Pace(speed=speed) if speed is not None else Pace(rate=rate or _RATE),
        ids=ids or f"t{time.time_ns() // 1_000_000:x}",
        size=batch,
        protocol=protocol or ("v2" if monitor.spec.model.protocol == "v2" else "v1"),
        layout=layout,
        injections=injections,
        seed=seed,
        seconds=None if for_ is None else _span("--for", for_).total_seconds(),
        clock=clock,
        keep_times=times != "now",
    )
    return run(requests, injections, truth, seed, rate=rate or (None if speed else _RATE), as_json=as_json)


def _above_zero(option: str, value: float | None) -> None:
    if value is not None and not 0 < value < 1e9:
        raise UnusableOption(f"{option} {value:g}: write a number above 0")


def _span(option: str, text: str) -> timedelta:
    from detectors.settings import parse_duration

    try:
        span = parse_duration(text)
    except (ValueError, OverflowError) as error:
        raise UnusableOption(f"{option}: {error}") from None
    if not span:
        raise UnusableOption(f"{option} {text!r}: write a span that is longer than nothing")
    return span


def _url(monitor: "ModelMonitor", to: To, url: str | None) -> str:
    if url is not None:
        return url
    section = monitor.spec.logger
    if to == "kafka":
        return monitor.spec.kafka.bootstrap_servers
    if to == "logger" and section.port:
        return f"http://{'127.0.0.1' if section.host == '0.0.0.0' else section.host}:{section.port}/"  # noqa: S104 - compared
    raise UnusableOption(f"--to {to} needs --url: write http://HOST:PORT")


def _rows(
    monitor: "ModelMonitor", place: str | None, time_column: str | None, time_unit: "Unit | None", *, timed: bool
) -> "tuple[Source, Clock | None]":
    """The table, and how its times are read where they are needed."""
    from reference.sources.window import Clock
    from streaming.load.table import opened

    if place == FLIGHTS:
        from streaming.load.table import of_frame
        from workflows.demo.flights import flights

        column: str = time_column or "time"
        unit: Unit = time_unit or "ms"
        source = of_frame(flights(), monitor.spec.model, column if timed else None)
        return source, Clock(column, unit) if timed else None
    data = data_section(monitor, place, format=None, since=None, until=None, last=None, weight=None)
    if time_column is not None:
        data = data.model_copy(update={"time": time_column})
    if time_unit is not None:
        data = data.model_copy(update={"time_unit": time_unit})
    if timed and data.time is None:
        raise UnusableOption("event times are asked for, and nothing says which column has them: give --time COLUMN")
    source = opened(data, monitor.spec.model, timed=timed)
    return source, Clock(data.time, data.time_unit) if timed and data.time is not None else None


@dataclass
class _Run:
    """One replay."""

    monitor: "ModelMonitor"
    to: To
    url: str
    host: str | None
    concurrency: int
    patience: timedelta

    def __call__(
        self,
        requests: "Requests",
        injections: "Sequence[Injection]",
        truth: Path | None,
        seed: int,
        *,
        rate: float | None,
        as_json: bool,
    ) -> int:
        import uvloop

        from streaming.load.tally import Tally

        if self.to == "kafka":
            _ensure_topic(self.monitor)
        else:
            from streaming.load.client import Address

            Address(self.url, self.host)
        _ = requests.spreads  # a table that cannot be read is told before anything is sent
        tally = Tally()
        injected = dict.fromkeys(map(str, injections), 0)
        before = time.process_time()
        with _written(truth, injected) as sent, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            stopped = runner.run(self._replayed(requests, tally, sent))
        cpu = time.process_time() - before
        summary = {
            "to": self.to,
            "url": self.url,
            "rate": rate,
            "concurrency": self.concurrency,
            "seed": seed,
            "ids": requests.ids,
            **_figures(tally, cpu),
            "injected": injected,
            "truth": None if truth is None else str(truth),
        }
        if as_json:
            print_json(summary)
        else:
            _print(summary)
        if tally.unsent or tally.failed:
            _complain_of(tally)
        if stopped is not None:
            return 128 + stopped
        return 1 if tally.unsent or tally.failed else 0

    async def _replayed(self, requests: "Requests", tally: "Tally", sent: "Callable[[Request], None]") -> int | None:
        """The signal that ended it, if one did."""
        from streaming.load.schedule import prepared, replay, soon
        from streaming.load.table import Ahead

        loop = asyncio.get_running_loop()
        target = self._target(requests.protocol)
        stop, signals = asyncio.Event(), list[int]()
        start = soon()
        ahead = Ahead(prepared(requests, target, start))
        work = loop.create_task(
            replay(
                ahead,
                target,
                tally,
                start=start,
                concurrency=self.concurrency,
                patience=self.patience,
                stop=stop,
                sent=sent,
            )
        )

        def end(number: int) -> None:
            if signals:  # asked again: what is on its way is given up
                work.cancel()
            signals.append(number)
            stop.set()

        main = threading.current_thread() is threading.main_thread()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if main}
        for number in handlers:
            loop.add_signal_handler(number, end, number)
        shown = loop.create_task(_live(tally))
        try:
            await work
        except asyncio.CancelledError:
            if not signals:
                raise
        finally:
            for number, handler in handlers.items():
                loop.remove_signal_handler(number)
                if handler is not None:  # None: not set by Python
                    signal.signal(number, handler)
            shown.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await shown
            await asyncio.to_thread(ahead.close)
        return signals[0] if signals else None

    def _target(self, protocol: "Wire") -> "Target":
        model = self.monitor.spec.model
        service = model.inference_service or self.monitor.name
        if self.to == "kafka":
            from streaming.load.kafka_client import Kafka

            kafka = self.monitor.spec.kafka
            return Kafka(
                kafka,
                self.monitor.topics.inference,
                patience=self.patience,
                service=service,
                max_bytes=kafka.largest_message,
            )
        from streaming.load.client import Address, Logger, ModelServer

        address = Address(self.url, self.host)
        if self.to == "logger":
            return Logger(address, patience=self.patience, service=service)
        return ModelServer(address, patience=self.patience, service=service, protocol=protocol)


def _ensure_topic(monitor: "ModelMonitor") -> None:
    from streaming.kafka import ensure_topics

    kafka = monitor.spec.kafka
    ensure_topics(
        kafka,
        [monitor.topics.inference],
        partitions=kafka.partitions,
        replication=kafka.replication_factor,
        configs={"max.message.bytes": str(kafka.largest_message)},
        timeout=kafka.topic_timeout,
        create=kafka.create_topics,
    )


def _at(monitor: "ModelMonitor", servers: str) -> "ModelMonitor":
    """The same with another Kafka."""
    from pydantic import ValidationError

    from streaming.spec import Kafka

    said = monitor.spec.kafka.model_dump(exclude_unset=True)
    try:
        kafka = Kafka.model_validate({**said, "bootstrap_servers": servers})
    except ValidationError as error:
        raise UnusableOption(f"--url {servers!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    return monitor.model_copy(update={"spec": monitor.spec.model_copy(update={"kafka": kafka})})


@contextlib.contextmanager
def _written(truth: Path | None, injected: dict[str, int]) -> "Iterator[Callable[[Request], None]]":
    """What is to be told of each request that was sent: counts what was changed, and writes it."""
    with truth.open("w", encoding="utf-8") if truth is not None else contextlib.nullcontext() as file:

        def sent(request: "Request") -> None:
            if not request.injected:
                return
            for text, instances in request.injected.items():
                injected[text] += len(instances)
            if file is not None:
                said = {
                    "id": request.id,
                    "due": round(request.due, 6),
                    "instances": request.instances,
                    "injected": request.injected,
                }
                file.write(json.dumps(said, ensure_ascii=False) + "\n")

        yield sent


# --- What is shown ----------------------------------------------------------------------------------------------------
async def _live(tally: "Tally") -> None:
    """How it stands: a line that is drawn anew on a terminal, a line now and then in a log."""
    from rich.live import Live
    from rich.text import Text

    from streaming.load.tally import Histogram

    shown = console(stderr=True)
    before = tally.sent, time.perf_counter()

    def told() -> str:
        nonlocal before
        now = time.perf_counter()
        rate = (tally.sent - before[0]) / max(now - before[1], 1e-9)
        before = tally.sent, now
        recent, tally.recent = tally.recent, Histogram()
        return _line(tally, rate, recent)

    if not shown.is_terminal:
        while True:
            await asyncio.sleep(_LOGGED_S)
            shown.print(told(), markup=False, soft_wrap=True)
    with Live(console=shown, transient=True, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(_LIVE_S)
            live.update(Text(told()), refresh=True)


def _line(tally: "Tally", rate: float, recent: "Histogram") -> str:
    p50, p95, p99 = (f"{seconds * 1000:.1f}" for seconds in recent.percentiles(50, 95, 99))
    errors = "".join(f", {code} x {count:,}" for code, count in sorted(tally.codes.items()) if not _is_good(code))
    unsent = f", {tally.unsent:,} unsent" if tally.unsent else ""
    late = f", {tally.late:,} late" if tally.late else ""
    return (
        f"{tally.seconds:6.1f} s  sent {tally.sent:,}  {rate:,.0f}/s  in flight {tally.in_flight:,}  "
        f"p50 {p50}  p95 {p95}  p99 {p99} ms{late}{unsent}{errors}"
    )


def _is_good(code: str) -> bool:
    return code == "acknowledged" or (len(code) == 3 and code.startswith("2"))


def _figures(tally: "Tally", cpu: float) -> dict[str, Any]:
    done = tally.answered + tally.failed
    return {
        "seconds": round(tally.seconds, 3),
        "requests": tally.requests,
        "instances": tally.instances,
        "sent": tally.sent,
        "bytes": tally.bytes,
        "answered": tally.answered,
        "failed": tally.failed,
        "late": tally.late,
        "unsent": tally.unsent,
        "answeredPerSecond": round(tally.answered / tally.seconds, 1) if tally.seconds else 0.0,
        "codes": dict(sorted(tally.codes.items())),
        "reasons": tally.reasons,
        "latencyMs": _milliseconds(tally.latency),
        "serviceMs": _milliseconds(tally.service),
        "clientCpuMicrosecondsPerMessage": round(cpu / done * 1e6, 1) if done else None,
    }


def _milliseconds(histogram: "Histogram") -> dict[str, float] | None:
    if not histogram.count:
        return None
    said = dict(zip(_PERCENTILES, histogram.percentiles(*_PERCENTILES.values()), strict=True))
    said |= {"max": histogram.max, "mean": histogram.mean}
    return {name: round(seconds * 1000, 3) for name, seconds in said.items()}


def _print(summary: dict[str, Any]) -> None:
    shown = table("", ">requests", ">sent", ">answered", ">failed", ">late", ">unsent", ">answered/s")
    counts = [summary[name] for name in ("requests", "sent", "answered", "failed", "late", "unsent")]
    shown.add_row(
        f"{summary['seconds']:.1f} s to {summary['url']}",
        *(f"{count:,}" for count in counts),
        f"{summary['answeredPerSecond']:,.0f}",
    )
    console().print(shown)
    if summary["latencyMs"] is not None:
        times = table("milliseconds", *(f">{name}" for name in summary["latencyMs"]))
        for head, key in (("from when it was due", "latencyMs"), ("from when it was sent", "serviceMs")):
            times.add_row(head, *(f"{value:.1f}" for value in summary[key].values()))
        console().print(times)
    for text, count in summary["injected"].items():
        line(f"{text} changed {count:,} instances")
    codes = ", ".join(f"{code} x {count:,}" for code, count in summary["codes"].items())
    line(f"answers: {codes or 'none'}; ids {summary['ids']}-00000000 and on")


def _complain_of(tally: "Tally") -> None:
    if tally.unsent:
        complain(f"{tally.unsent:,} messages were due and not sent: there was no room for them in time")
    if tally.failed:
        complain(f"{tally.failed:,} messages were not answered well: {'; '.join(tally.reasons)}")
