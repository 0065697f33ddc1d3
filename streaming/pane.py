"""A pane: what one slide's worth of event time holds, mergeable; windows are sums of panes."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from detectors.errors import SummaryFormatError
from detectors.statistics.table import Plan, TableSummary
from reference.baseline import Source

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Plans:
    """What is counted of requests and of responses."""

    request: Plan
    response: Plan


@dataclass(frozen=True, slots=True)
class Pane:
    """The summary of the messages of one pane, one segment, one model."""

    requests: TableSummary
    responses: TableSummary
    messages: int = 0
    """Messages that are in the summaries."""
    dead: int = 0
    """Messages of this time that went to the dead-letter topic."""
    outliers: int = 0
    """Instances that at least one detector flagged."""

    @classmethod
    def empty(cls, plans: Plans) -> "Pane":
        """Of no messages: the neutral element of `+`."""
        return cls(TableSummary.empty(plans.request), TableSummary.empty(plans.response))

    def __add__(self, other: "Pane") -> "Pane":
        return Pane(
            self.requests + other.requests,
            self.responses + other.responses,
            self.messages + other.messages,
            self.dead + other.dead,
            self.outliers + other.outliers,
        )

    def tables(self) -> Iterator[tuple[Source, TableSummary]]:
        """Both summaries, by what they are of."""
        yield "request", self.requests
        yield "response", self.responses

    def to_bytes(self) -> bytes:
        """MessagePack of the two summaries' binary forms and the counts."""
        return msgspec.msgpack.encode(
            (self.requests.to_bytes(), self.responses.to_bytes(), self.messages, self.dead, self.outliers),
        )

    @classmethod
    def from_bytes(cls, data: bytes, plans: Plans) -> "Pane":
        """Read the binary form back; raises SummaryFormatError or IncompatibleSummaries as `TableSummary.from_bytes`."""
        try:
            requests, responses, *counts = msgspec.msgpack.decode(data, type=tuple[bytes, bytes, int, int, int])
        except msgspec.MsgspecError as error:
            msg = f"these {len(data)} bytes are no pane: {error}"
            raise SummaryFormatError(msg) from None
        return cls(
            TableSummary.from_bytes(requests, plans.request),
            TableSummary.from_bytes(responses, plans.response),
            *counts,
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
