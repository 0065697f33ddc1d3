"""What the demo shows: the monitor's reports as they come, and in the end what they say together."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec
from rich.table import Table

from streaming.kafka import KafkaConnection
from streaming.reports import ColumnDrift, Drift, Statistics

_statistics = msgspec.json.Decoder(Statistics)
_drift = msgspec.json.Decoder(Drift)


@dataclass
class Window:
    """The newest reports of one window."""

    start: int
    """Milliseconds since the epoch."""
    statistics: Statistics | None = None
    drift: Drift | None = None

    @property
    def final(self) -> bool:
        """Whether nothing more will be said about it."""
        return all(report is not None and report.status == "final" for report in (self.statistics, self.drift))

    @property
    def drifting(self) -> list[ColumnDrift]:
        """Per drifted column its most drifted method, the strongest first."""
        return strongest(column for column in (self.drift.columns if self.drift else ()) if column.drifted)


def strength(column: ColumnDrift) -> float:
    """How far beyond its threshold a score is: 1 is at the threshold, more is more, for distances and p-values alike."""
    if column.score is None:
        return 0.0
    if column.direction == "distance":
        return column.score / column.threshold if column.threshold > 0 else float("inf")
    return column.threshold / max(column.score, 1e-300)


def strongest(columns: Iterable[ColumnDrift]) -> list[ColumnDrift]:
    """Of each column the method that is furthest beyond its threshold; the strongest column first."""
    best: dict[tuple[str, str], ColumnDrift] = {}
    for column in columns:
        key = column.source, column.name
        if key not in best or strength(column) > strength(best[key]):
            best[key] = column
    return sorted(best.values(), key=strength, reverse=True)


@dataclass
class Board:
    """All windows that were reported so far."""

    windows: dict[int, Window] = field(default_factory=dict)

    def add(self, report: Statistics | Drift) -> Window | None:
        """Take a report in; its window when that has become final by it."""
        start = milliseconds(report.window.start)
        window = self.windows.setdefault(start, Window(start))
        was = window.final
        if isinstance(report, Statistics):
            if window.statistics is None or report.revision >= window.statistics.revision:
                window.statistics = report
        elif window.drift is None or report.revision >= window.drift.revision:
            window.drift = report
        return window if window.final and not was else None

    @property
    def ordered(self) -> list[Window]:
        """By event time."""
        return [self.windows[start] for start in sorted(self.windows)]

    @property
    def final(self) -> list[Window]:
        """Those about which nothing more will be said."""
        return [window for window in self.ordered if window.final]


class Reports:
    """Reads the report topics from their beginning."""

    def __init__(self, connection: KafkaConnection, statistics: str, drift: str) -> None:
        from confluent_kafka import Consumer, TopicPartition

        self._decoders: dict[str, Any] = {statistics: _statistics, drift: _drift}
        self._consumer = Consumer(
            {**connection.for_confluent(), "group.id": "driftline-demo", "enable.auto.commit": False, "log_level": 0}
        )
        self._consumer.assign([TopicPartition(topic, 0, 0) for topic in self._decoders])

    def new(self, timeout_s: float) -> Iterator[Statistics | Drift]:
        """What has come since; waits for it so long at most."""
        for message in self._consumer.consume(500, timeout=timeout_s):
            if message.error() is None:
                yield self._decoders[str(message.topic())].decode(message.value())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()


def dumped(connection: KafkaConnection, topics: Iterable[str], folder: Path) -> dict[Path, int]:
    """Write each topic to a file of JSON lines; the files with their numbers of lines."""
    from confluent_kafka import Consumer, TopicPartition

    folder.mkdir(parents=True, exist_ok=True)
    written: dict[Path, int] = {}
    consumer = Consumer({**connection.for_confluent(), "group.id": "driftline-demo", "enable.auto.commit": False})
    try:
        for topic in topics:
            partitions = [
                TopicPartition(topic, number, 0) for number in consumer.list_topics(topic).topics[topic].partitions
            ]
            left = sum(consumer.get_watermark_offsets(partition, timeout=10)[1] for partition in partitions)
            consumer.assign(partitions)
            path = folder / f"{topic}.jsonl"
            lines = 0
            with path.open("wb") as file:
                while lines < left and (messages := consumer.consume(min(left - lines, 1000), timeout=10)):
                    for message in messages:
                        file.write((message.value() or b"null") + b"\n")
                        lines += 1
            written[path] = lines
    finally:
        consumer.close()
    return written


def reporter_is_done(connection: KafkaConnection, group: str, topics: Iterable[str]) -> bool:
    """Whether a consumer group has read these topics to their end."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({**connection.for_confluent(), "group.id": group, "enable.auto.commit": False, "log_level": 0})
    try:
        committed = consumer.committed([TopicPartition(topic, 0) for topic in topics], timeout=10)
        ends = [consumer.get_watermark_offsets(TopicPartition(place.topic, 0), timeout=10)[1] for place in committed]
        # An offset that was never committed is negative, as it is for a topic in which there never was anything.
        return all(max(place.offset, 0) >= end for place, end in zip(committed, ends, strict=True))
    finally:
        consumer.close()


def milliseconds(text: str) -> int:
    """Of an RFC 3339 time, since the epoch."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def day(time_ms: int) -> str:
    """``7 Feb``."""
    time = datetime.fromtimestamp(time_ms / 1000, UTC)
    return f"{time.day} {time:%b}"


def names(window: Window, most: int = 4) -> str:
    """The drifting columns, the strongest first: ``temp 3.2, dest 0.14``."""
    drifting = window.drifting
    shown = ", ".join(f"{column.name} {column.score:.2g}" for column in drifting[:most])
    return shown + (f" and {len(drifting) - most} more" if len(drifting) > most else "")


def windows_table(windows: Iterable[Window]) -> Table:
    """One row a window."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("week of")
    for title in ("flights", "outliers", "drifting"):
        table.add_column(title, justify="right")
    table.add_column("most of all (score)", ratio=1, no_wrap=True)
    for window in windows:
        counts = window.statistics.counts if window.statistics else None
        drift = window.drift
        table.add_row(
            day(window.start),
            f"{counts.requests:,}" if counts else "",
            f"{counts.outliers:,}" if counts else "",
            f"{drift.drifted_columns} of {drift.judged_columns}" if drift else "",
            names(window),
            style=None if window.final else "dim",
        )
    return table


def plain(window: Window) -> str:
    """One line for a window that is final, for a log."""
    statistics, drift = window.statistics, window.drift
    assert statistics is not None
    assert drift is not None
    counts = statistics.counts
    return (
        f"week of {day(window.start)}: {counts.requests:,} flights, {counts.outliers:,} outliers, "
        f"{drift.drifted_columns} of {drift.judged_columns} columns drift{': ' if window.drifting else ''}{names(window)}"
    )


def summary_table(windows: list[Window]) -> Table:
    """One row a column that ever drifted: when first, how often, and at its worst by which method."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("column", "drifts in", "since week of", "worst week", "method"):
        table.add_column(title, justify="right" if title == "drifts in" else "left")
    for title in ("score", "threshold"):
        table.add_column(title, justify="right")
    seen: dict[tuple[str, str], list[tuple[Window, ColumnDrift]]] = {}
    for window in windows:
        for column in window.drifting:
            seen.setdefault((column.source, column.name), []).append((window, column))
    for _, found in sorted(seen.items(), key=lambda item: (-len(item[1]), item[0])):
        worst, column = max(found, key=lambda pair: strength(pair[1]))
        table.add_row(
            column.name + {"request": "", "response": " (prediction)", "score": " (outlier score)"}[column.source],
            f"{len(found)} of {len(windows)}",
            day(found[0][0].start),
            day(worst.start),
            column.method,
            f"{column.score:.3g}",
            f"{'<' if column.direction == 'p-value' else '>='} {column.threshold:g}",
        )
    return table
