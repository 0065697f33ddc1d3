"""A pane: what one slide's worth of event time holds, mergeable; windows are sums of panes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from detectors.errors import SummaryFormatError
from detectors.statistics.table import Plan, TableSummary
from detectors.traffic.base import FittedTraffic, TrafficState
from reference.baseline import Table
from streaming.observations import Observations

_Packed = tuple[
    tuple[bytes, bytes, bytes], tuple[int, int, int, int, int], list[tuple[bytes, bytes, bytes]], list[bytes]
]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Plans:
    """What is counted of requests, of responses, and of the scores that outlier models give requests."""

    request: Plan
    response: Plan
    score: Plan
    series: int = 0
    """How many series of instances are watched."""
    traffic: tuple[FittedTraffic[Any], ...] = ()
    """Those that look at who sends what."""

    def of(self, table: Table) -> Plan:
        """One of them."""
        plan: Plan = getattr(self, table)
        return plan


@dataclass(frozen=True, slots=True)
class Pane:
    """The summary of the messages of one pane, one segment, one model."""

    requests: TableSummary
    responses: TableSummary
    scores: TableSummary
    messages: int = 0
    """Messages that are in the summaries."""
    dead: int = 0
    """Messages of this time that went to the dead-letter topic."""
    outliers: int = 0
    """Instances that at least one detector flagged."""
    first: int = 2**62
    """Event time of the first message, dead ones included, ms."""
    last: int = -(2**62)
    """Event time of the last one, ms."""
    observations: tuple[Observations, ...] = ()
    """Of each series of instances that a sequential detector watches."""
    traffic: tuple[TrafficState, ...] = ()
    """Of each traffic detector."""

    @classmethod
    def empty(cls, plans: Plans) -> "Pane":
        """Of no messages: the neutral element of `+`."""
        return cls(
            TableSummary.empty(plans.request),
            TableSummary.empty(plans.response),
            TableSummary.empty(plans.score),
            observations=(Observations.none(),) * plans.series,
            traffic=tuple(detector.empty() for detector in plans.traffic),
        )

    def __add__(self, other: "Pane") -> "Pane":
        return Pane(
            self.requests + other.requests,
            self.responses + other.responses,
            self.scores + other.scores,
            self.messages + other.messages,
            self.dead + other.dead,
            self.outliers + other.outliers,
            min(self.first, other.first),
            max(self.last, other.last),
            tuple(a + b for a, b in zip(self.observations, other.observations, strict=True)),
            tuple(a + b for a, b in zip(self.traffic, other.traffic, strict=True)),
        )

    def tables(self) -> Iterator[tuple[Table, TableSummary]]:
        """The summaries, by what they are of."""
        yield "request", self.requests
        yield "response", self.responses
        yield "score", self.scores

    def with_table(self, table: Table, summary: TableSummary) -> "Pane":
        """The same with another summary."""
        if table == "request":
            return replace(self, requests=summary)
        return replace(self, responses=summary) if table == "response" else replace(self, scores=summary)

    def to_bytes(self) -> bytes:
        """MessagePack of the summaries' binary forms and the counts."""
        tables = [summary.to_bytes() for _, summary in self.tables()]
        series = [observations.packed() for observations in self.observations]
        traffic = [state.to_bytes() for state in self.traffic]
        counts = (self.messages, self.dead, self.outliers, self.first, self.last)
        return msgspec.msgpack.encode((tables, counts, series, traffic))

    @classmethod
    def from_bytes(cls, data: bytes, plans: Plans) -> "Pane":
        """Read the binary form back; raises SummaryFormatError or IncompatibleSummaries as `TableSummary.from_bytes`."""
        try:
            tables, counts, series, traffic = msgspec.msgpack.decode(data, type=_Packed)
        except msgspec.MsgspecError as error:
            msg = f"these {len(data)} bytes are no pane: {error}"
            raise SummaryFormatError(msg) from None
        requests, responses, scores = tables
        messages, dead, outliers, first, last = counts
        return cls(
            TableSummary.from_bytes(requests, plans.request),
            TableSummary.from_bytes(responses, plans.response),
            TableSummary.from_bytes(scores, plans.score),
            messages,
            dead,
            outliers,
            first,
            last,
            tuple(Observations.unpacked(*packed) for packed in series),
            tuple(detector.read(state) for detector, state in zip(plans.traffic, traffic, strict=True)),
        )


def milliseconds(span: timedelta) -> int:
    """A span of time in whole milliseconds."""
    return span // timedelta(milliseconds=1)


def rfc3339(time: int) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC with milliseconds; beyond year 1 to 9999 the nearest end of it."""
    try:
        moment = _EPOCH + timedelta(milliseconds=time)
    except OverflowError:
        return "9999-12-31T23:59:59.999Z" if time > 0 else "0001-01-01T00:00:00.000Z"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z".zfill(24)
