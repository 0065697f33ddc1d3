"""Fifty models in one job for half an hour: whether memory grows, and state, and latency.

    make bench-soak                                                       # 35 minutes, writes docs/soak.svg, too
    make bench-soak ARGS="--minutes 3 --models 5 --per-second 200"        # a try, which writes nothing

50 models of 4 features, with topics of two partitions each, get 2,000 requests/s in all, written straight to Kafka; windows of 30 s, one
request in fifty is an outlier. Every ten seconds: resident memory of the JVM and of the driver, memory of the Python workers (pages
that they share counted once), and from the monitor's own `/metrics` its state, its batches and its lag. The latency of outliers, from the
request's time to the time at which Kafka has the record, minute by minute. Growth is the slope of a straight line by least squares, over the
last two thirds of the time.

The heap's own growth is seen by what is alive in it: `jcmd GC.run` after a third of the time and at the end. Nothing may be lost: each
window that has closed counts every request of its time once.
"""

import argparse
import contextlib
import re
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil  # type: ignore[import-untyped]
from _plot import COLOURS, Axis, Line, Panel, write
from _results import Results
from _stream import (
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
    ms,
    publish,
    records,
    running,
    send,
    use,
    wait_for,
)
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from streaming.broker import EmbeddedKafka
from streaming.spec import ModelMonitor

EVERY_S = 10.0
WARM_UP_S = 60.0
WINDOW = 30_000
PARTITIONS = 2
PICTURE = Path(__file__).parents[1] / "docs" / "soak.svg"
_METRIC = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)


class Listener(threading.Thread):
    """Hears every outlier as it comes: when its request was sent, and when Kafka had it."""

    def __init__(self, broker: EmbeddedKafka, topics: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self._connection = broker.connection.for_confluent()
        self._topics = topics
        self._done = threading.Event()
        self._heard: list[tuple[int, int]] = []

    def run(self) -> None:
        """Listen until stopped."""
        decode = msgspec.json.Decoder(Outlier).decode
        consumer = Consumer({**self._connection, "group.id": "soak", "enable.auto.commit": False})
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in self._topics])
        while not self._done.is_set():
            for record in consumer.consume(5000, 1.0):
                if record.error() is None:
                    self._heard.append((ms(decode(record.value() or b"").event_time), record.timestamp()[1]))
        consumer.close()

    def stop(self) -> Ints:
        """(outliers, 2) when each was sent, and when Kafka had its record, ms."""
        self._done.set()
        self.join(10)
        return np.array(self._heard, np.int64).reshape(-1, 2)


def scrape(address: str) -> dict[str, float]:
    """The monitor's metrics, summed over their labels; empty when it does not answer."""
    try:
        with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:  # noqa: S310 - the monitor's own
            text = answer.read().decode()
    except (urllib.error.URLError, TimeoutError):
        return {}
    found: dict[str, float] = {}
    for name, _, value in _METRIC.findall(text):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def sample(
    root: psutil.Process, address: str, before: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """One row of the table, and the counters as they are now."""
    now, used = scrape(address), use(root)
    batches = now.get("driftline_batch_duration_seconds_count", 0) - before.get(
        "driftline_batch_duration_seconds_count", 0
    )
    seconds = now.get("driftline_batch_duration_seconds_sum", 0) - before.get("driftline_batch_duration_seconds_sum", 0)
    nothing = float("nan")
    row = {
        "jvm_mib": used.jvm,
        "worker_mib": used.workers,
        "driver_mib": used.driver,
        "state_mib": (now.get("driftline_state_memory_bytes", nothing) + now.get("driftline_state_disk_bytes", 0))
        / 2**20,
        "state_rows": now.get("driftline_state_rows", nothing),
        "batch_s": seconds / batches if batches else nothing,
        "lag": now.get("driftline_input_lag_messages", nothing),
    }
    return row, now


def alive(root: psutil.Process) -> float:
    """MiB that are alive in the JVM's heap, after it was cleaned; NaN without the JDK's tools."""
    with contextlib.suppress(psutil.Error, OSError, subprocess.SubprocessError):
        pid = next(str(one.pid) for one in root.children(recursive=True) if one.name() == "java")
        subprocess.run(["jcmd", pid, "GC.run"], capture_output=True, check=True, timeout=30)
        said = subprocess.run(
            ["jcmd", pid, "GC.heap_info"], capture_output=True, check=True, timeout=30, text=True
        ).stdout
        if (used := re.search(r"used (\d+)K", said)) is not None:
            return int(used[1]) / 1024
    return float("nan")


def soak(folder: Path, minutes: float, models: int, per_second: int, results: Results) -> dict[str, Floats]:
    """Run it, and give the table's columns and `second`, and the latencies of outliers by minute."""
    rng = np.random.default_rng(5)
    window = {"duration": "30s", "watermarkDelay": "5s", "idleTimeout": "10s"}
    job = {"metrics": {"port": 0}, "driver": {"memory": "1g"}}
    seconds = minutes * 60
    with broker_in(folder) as broker:
        monitors = [
            monitor_of(
                folder / "models",
                f"soak{number:02d}",
                broker,
                4,
                checkpoint=folder / "checkpoint",
                window=window,
                job=job,
                # Hundreds of topics take a broker a while.
                kafka={"bootstrapServers": broker.bootstrap_servers, "partitions": PARTITIONS, "topicTimeout": "3m"},
            )
            for number in range(models)
        ]
        print(f"{models} baselines and {7 * models} topics", flush=True)
        publish(*monitors, rng=rng)
        topics, bodies, log = (
            [monitor.topics.inference for monitor in monitors],
            bodies_of(rng, 1, 4),
            folder / "monitor.log",
        )
        listener = Listener(broker, [monitor.topics.outliers for monitor in monitors])
        stopped = threading.Event()
        sent: list[Ints] = []

        def traffic() -> None:
            length = WARM_UP_S + seconds
            sent.append(send(broker, topics, per_second, length, bodies, partitions=PARTITIONS, stopped=stopped))

        sender = threading.Thread(target=traffic, daemon=True)
        with running(driftline("monitor", "run", "--config", str(folder / "models")), log) as process:
            address = wait_for(
                lambda: re.search(r"(http://\S+)/healthz", log.read_text()), process, log, 120, "the monitor"
            )[1]
            wait_for(lambda: "reading from" in log.read_text(), process, log, 180, "its query")
            root = psutil.Process(process.pid)
            # Workers start and import before anything is measured.
            first = send(broker, topics, per_second, max(2 * models / per_second, 0.1), bodies, partitions=PARTITIONS)
            done = monitors[-1].topics.statistics
            wait_for(lambda: records(broker, done, Report), process, log, 300, "a first report")
            listener.start()
            sender.start()
            try:
                table, begun, live = _watch(root, process, address, seconds, log)
                sender.join(60)
                assert sent, "the sender has not ended: this machine is too slow for so many requests"
                live.append(alive(root))
                _wait_for_the_end(broker, monitors, process, log, int(sent[0][-1]))
            finally:
                stopped.set()
                heard = listener.stop()
        _nothing_lost(broker, monitors, [first, sent[0]], results)
    _figures(table, begun, live, heard, seconds, results)
    minute = (heard[:, 0] - begun) // 60_000
    late = (heard[:, 1] - heard[:, 0]) / 1000
    kept = range(max(int(minutes), 1))
    by_minute = {
        f"outlier_p{p}_s": np.array(
            [np.percentile(late[minute == m], p) if (minute == m).any() else np.nan for m in kept]
        )
        for p in (50, 99)
    }
    return {**table, **by_minute}


def _watch(
    root: psutil.Process, process: Any, address: str, seconds: float, log: Path
) -> tuple[dict[str, Floats], int, list[float]]:
    """The table of samples, when it begins, ms, and what was alive in the heap after a third."""
    print(f"warm-up, {WARM_UP_S:.0f} s", flush=True)
    time.sleep(WARM_UP_S)
    begun, start = time.time_ns() // 1_000_000, time.monotonic()
    rows: list[dict[str, float]] = []
    live: list[float] = []
    _, before = sample(root, address, {})
    while (passed := time.monotonic() - start) < seconds:
        time.sleep(max(EVERY_S * (len(rows) + 1) - passed, 0.0))
        assert process.poll() is None, log.read_text()[-4000:]
        row, before = sample(root, address, before)
        rows.append({"second": time.monotonic() - start, **row})
        if not live and rows[-1]["second"] > seconds / 3:
            live.append(alive(root))
        shown = ", ".join(f"{name} {value:,.4g}" for name, value in rows[-1].items())
        print(shown, flush=True)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}, begun, live


def _wait_for_the_end(
    broker: EmbeddedKafka, monitors: Sequence[ModelMonitor], process: Any, log: Path, last: int
) -> None:
    """Until silence has closed the last window of every model."""
    print("waiting until all windows are final", flush=True)
    wanted = last // WINDOW * WINDOW
    left = {monitor.topics.statistics for monitor in monitors}
    deadline = time.monotonic() + 180
    time.sleep(max(wanted + WINDOW + 15_000 - time.time_ns() // 1_000_000, 0) / 1000)
    while left:
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < deadline, f"{len(left)} models have no final report of their last window"
        time.sleep(5)
        for topic in tuple(left):
            if wanted in Windows.of(records(broker, topic, Report), WINDOW).final():
                left.discard(topic)


def _nothing_lost(
    broker: EmbeddedKafka, monitors: Sequence[ModelMonitor], sent: Sequence[Ints], results: Results
) -> None:
    windows = requests = 0
    for number, monitor in enumerate(monitors):
        mine = np.concatenate([some[number :: len(monitors)] for some in sent])
        reports = Windows.of(records(broker, monitor.topics.statistics, Report), WINDOW)
        one, many = reports.check(mine)
        windows, requests = windows + one, requests + many
        dead = records(broker, monitor.topics.deadletter, dict)
        assert not dead, f"{monitor.name}: {dead[0]}"
    total = sum(map(len, sent))
    assert requests == total, f"{total} requests were sent, {requests} are in final windows"
    results.note(f"{requests:,} requests in {windows:,} windows of {len(monitors)} models, each counted once")
    results.figure("requests", requests)


def slope(seconds: Floats, values: Floats) -> float:
    """Growth per hour, by least squares over the last two thirds."""
    kept = (seconds > seconds[-1] / 3) & np.isfinite(values)
    if kept.sum() < 2:
        return float("nan")
    return float(np.polyfit(seconds[kept] / 3600, values[kept], 1)[0])


def _figures(
    table: Mapping[str, Floats], begun: int, live: Sequence[float], heard: Ints, seconds: float, results: Results
) -> None:
    at = table["second"]
    for kind in ("jvm", "worker", "driver"):
        results.figure(f"{kind}_mib_growth_per_hour", slope(at, table[f"{kind}_mib"]))
        results.figure(f"{kind}_mib_last", float(table[f"{kind}_mib"][-1]))
    thirds = {"first": (at > at[-1] / 3) & (at <= at[-1] * 2 / 3), "last": at > at[-1] * 2 / 3}
    for name, value in zip(("first", "last"), live, strict=False):
        results.figure(f"jvm_live_mib_{name}", value)
    for name, third in thirds.items():
        for kind in ("state_mib", "state_rows", "batch_s", "lag"):
            if np.isfinite(table[kind][third]).any():
                results.figure(f"{kind}_{name}", float(np.nanmean(table[kind][third])))
    since = (heard[:, 0] - begun) / 1000
    late = (heard[:, 1] - heard[:, 0]) / 1000
    for name, (low, high) in {"first": (0, seconds / 3), "last": (seconds * 2 / 3, seconds)}.items():
        mine = late[(since >= low) & (since < high)]
        for p in (50, 99):
            results.figure(f"outlier_p{p}_s_{name}", float(np.percentile(mine, p)))


def draw(table: Mapping[str, Floats], path: Path, title: str) -> None:
    """What was measured over time."""
    minutes = table["second"] / 60
    x = Axis.of("minutes", minutes)

    def panel(heading: str, label: str, lines: Mapping[str, str], at: Floats = minutes) -> Panel:
        drawn = [
            Line(text, at, table[kind], colour) for (kind, text), colour in zip(lines.items(), COLOURS, strict=False)
        ]
        return Panel(heading, x, Axis.of(label, np.concatenate([table[kind] for kind in lines])), drawn)

    whole = np.arange(0.5, len(table["outlier_p50_s"]))
    write(
        path,
        title,
        [
            [
                panel(
                    "Memory",
                    "MiB",
                    {"jvm_mib": "JVM, resident", "worker_mib": "Python workers", "driver_mib": "Python driver"},
                )
            ],
            [
                panel("State", "MiB", {"state_mib": "as the title says"}),
                panel("Lag of a batch", "messages", {"lag": "as the title says"}),
            ],
            [
                panel("Micro-batches", "seconds", {"batch_s": "as the title says"}),
                panel("Latency of outliers", "seconds", {"outlier_p50_s": "median", "outlier_p99_s": "99 %"}, whole),
            ],
        ],
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=30.0, help="how long, after a minute of warm-up")
    arguments.add_argument("--models", type=int, default=50)
    arguments.add_argument("--per-second", type=int, default=2000, help="requests, of all models")
    arguments.add_argument("--picture", type=Path, help="draw here; by default docs/soak.svg, and nothing for a try")
    chosen = arguments.parse_args()
    results = Results("soak")
    with (
        limited(chosen.minutes * 60 + 1200),
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
    ):
        table = soak(Path(folder), chosen.minutes, chosen.models, chosen.per_second, results)
    whole = (chosen.minutes, chosen.models, chosen.per_second) >= (30.0, 50, 2000)
    if whole:
        results.write()
    if whole or chosen.picture:
        title = f"{chosen.models} models in one job, {chosen.per_second:,} requests/s, {chosen.minutes:g} minutes"
        draw(table, chosen.picture or PICTURE, title)
    results.show()


if __name__ == "__main__":
    main()
