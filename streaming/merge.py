"""The stateful stage: merges partial summaries by (model, segment), keeps event time, and reports windows.

It runs with ``timeMode="ProcessingTime"`` and keeps a watermark of its own for each key: the minimum over the Kafka
partitions that are not idle of the newest event time, less `watermarkDelay`. Spark's global watermark is a batch late,
is moved by a single bad timestamp, drops late rows without a count and never closes the last window of a silent stream.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import pandas as pd
from pyspark.sql.streaming.stateful_processor import StatefulProcessor, StatefulProcessorHandle

from streaming.fold import CLOCK, LATE, MOST_PANES, PANE, RECORD
from streaming.frontier import Frontiers
from streaming.observations import Observations
from streaming.pane import Pane, milliseconds
from streaming.publish import Report, published
from streaming.worker import Task, Worker, worker

if TYPE_CHECKING:
    from pyspark.sql.streaming.stateful_processor import ExpiredTimerInfo, TimerValues

REPORTED = "topic string, key string, value binary"
"""Schema of what goes to Kafka."""
_NEVER = -(2**62)


class _Clock(msgspec.Struct, array_like=True):
    """What is known of one Kafka partition."""

    newest: int
    """Newest event time, ms."""
    seen: int
    """Processing time at which it last had a message for this key, ms."""


class _Open(msgspec.Struct, array_like=True):
    """A window that has not closed."""

    revision: int = 0
    reported: int = _NEVER
    """Processing time of its last provisional report, ms."""
    changed: bool = True
    """Whether it has rows that no report tells of."""


class Head(msgspec.Struct, array_like=True):
    """The state of one key beside its panes. Its version is the first field: see docs/decisions."""

    version: int = 1
    clocks: dict[int, _Clock] = msgspec.field(default_factory=dict)
    """Kafka partition -> clock."""
    windows: dict[int, _Open] = msgspec.field(default_factory=dict)
    """Start, ms -> open window."""
    frontier: int = _NEVER
    """Windows that end here or earlier have closed; never moves back."""
    late: int = 0
    """Late messages that no final report tells of yet."""
    timer: int | None = None
    """When the key wants to be woken, processing time, ms."""
    drifted: int = 0
    """Final windows in a row that drifted, up to the last one."""
    sequential: dict[str, bytes] = msgspec.field(default_factory=dict)
    """`Series.key` -> state of its detector."""
    parts: dict[int, int] = msgspec.field(default_factory=dict)
    """Start of a pane -> how many parts its observations have."""


_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_observations = msgspec.msgpack.Decoder(list[tuple[bytes, bytes, bytes]]).decode
_decode_late = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]]).decode


@dataclass(slots=True)
class Merge:
    """One key for the length of one call: state in, records and state out. No Spark in here, so tests drive it by hand."""

    me: Worker
    segment: str
    head: Head
    panes: "Panes"
    now: int
    """Processing time, ms."""

    def absorb(self, rows: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
        """Take folded rows in; yields the records that are due whatever the clocks say (dead letters of late messages)."""
        for kind, at, number, body in zip(rows["kind"], rows["time"], rows["number"], rows["body"], strict=True):
            if kind == PANE:
                pane = Pane.from_bytes(body, self.me.plans)
                if int(at) + self.me.duration <= self.head.frontier:
                    # The fold did not know the frontier (its file was lost): the bytes are in Kafka, the count is here.
                    self.head.late += pane.messages
                else:
                    self._add(int(at), pane)
            elif kind == CLOCK:
                clock = self.head.clocks.setdefault(int(number), _Clock(_NEVER, self.now))
                clock.newest, clock.seen = max(clock.newest, int(at)), self.now
            elif kind == LATE:
                late, letters = _decode_late(body)
                if int(at) + self.me.duration <= self.head.frontier:
                    self.head.late += len(letters)
                    for letter in letters:
                        yield self.me.monitor.topics.deadletter, letter
                else:  # the fold knew of a frontier that a crash has taken back
                    self._add(int(at), Pane.from_bytes(late, self.me.plans))

    def advance(self) -> Iterator[tuple[str, bytes]]:
        """Move the frontier, report what is due, drop what is done, and set the next timer."""
        self.head.frontier = max(self.head.frontier, self._watermark())
        for start in sorted(self.head.windows):
            window = self.head.windows[start]
            if start + self.me.duration <= self.head.frontier:
                yield from self._report(start, window, final=True)
                del self.head.windows[start]
            elif window.changed and self._provisional_due(window) <= self.now:
                yield from self._report(start, window, final=False)
        for start in self.panes.starts():
            if start + self.me.duration <= self.head.frontier:
                self.panes.drop(start)
        self.head.timer = self._next_timer()

    def _add(self, start: int, pane: Pane) -> None:
        self.panes.add(start, pane)
        first = start - self.me.duration + self.me.pane
        for window in range(first, start + 1, self.me.pane):
            if window + self.me.duration > self.head.frontier:
                self.head.windows.setdefault(window, _Open()).changed = True

    def _idle_at(self, clock: _Clock) -> int:
        """When a partition counts as idle: silence before this run of the job began is the job's, not the stream's."""
        return max(clock.seen, self.me.started) + milliseconds(self.me.monitor.spec.window.idle_timeout)

    def _watermark(self) -> int:
        if not self.head.clocks:
            return _NEVER
        active = [clock.newest for clock in self.head.clocks.values() if self._idle_at(clock) > self.now]
        if active:
            return min(active) - self._delay
        # Nothing has come for idleTimeout: windows close by the clock on the wall, so that one of today waits until today is
        # over and one of last year (a replay) does not. Never beyond the open ones: what was held up on its way is not late.
        ends = [start + self.me.duration for start in self.head.windows]
        return min(self.now - self._delay, max(ends, default=self.head.frontier))

    @property
    def _delay(self) -> int:
        return milliseconds(self.me.monitor.spec.window.watermark_delay)

    def _provisional_due(self, window: _Open) -> int:
        settings = self.me.monitor.spec.window
        return window.reported + milliseconds(settings.emit_every) if settings.provisional else 2**62

    def _next_timer(self) -> int | None:
        if not self.head.windows:
            return None
        due = [self._provisional_due(window) for window in self.head.windows.values() if window.changed]
        idle = [at for clock in self.head.clocks.values() if (at := self._idle_at(clock)) > self.now]
        over = [] if idle else [min(self.head.windows) + self.me.duration + self._delay]
        return min((at for at in (*due, *idle, *over) if at < 2**62), default=None)

    def _report(self, start: int, window: _Open, *, final: bool) -> Iterator[tuple[str, bytes]]:
        window.revision, window.reported, window.changed = window.revision + 1, self.now, False
        status = "final" if final else "provisional"
        head = self.head
        report = Report(self.segment, start, status, window.revision, head.late, head.drifted)  # type: ignore[arg-type]
        whole = self.panes.sum(range(start, start + self.me.duration, self.me.pane))
        # Nothing more can come to the window's first pane: all windows that hold it close with this one.
        observations = self.panes.observations(start) if final else ()
        out = published(self.me, report, whole, head.sequential, observations)
        if final:
            head.late, head.drifted = 0, out.drifted
        yield from out.records


class Panes:
    """The panes of one key in Spark's state, read once and written once a batch.

    Parameters
    ----------
    state
        Map of panes, by their start.
    series
        Map of observations of instances, by the start of their pane and the number of the part.
    parts
        Start of a pane -> how many parts it has; kept in the key's head.
    """

    def __init__(self, state: Any, series: Any, parts: dict[int, int], me: Worker) -> None:
        self._state, self._series, self._parts, self._me = state, series, parts, me
        self._observed: dict[int, list[tuple[Observations, ...]]] = {}
        self._read: dict[int, Pane] = {}
        self._changed: set[int] = set()

    def get(self, start: int) -> Pane | None:
        """The pane that begins then, if there is one."""
        if start not in self._read and self._state.containsKey((start,)):
            (data,) = self._state.getValue((start,))
            self._spill()
            self._read[start] = Pane.from_bytes(bytes(data), self._me.plans)
        return self._read.get(start)

    def add(self, start: int, pane: Pane) -> None:
        """Add to the pane that begins then."""
        if any(len(numbers.times) for numbers in pane.observations):
            self._observed.setdefault(start, []).append(pane.observations)
            pane = replace(pane, observations=self._me.no_rows.observations)
        before = self.get(start)
        self._read[start] = pane if before is None else before + pane
        self._changed.add(start)
        self._spill()

    def sum(self, starts: range) -> Pane:
        """The panes that begin then, as one; without their observations, of which a window reads only one pane's."""
        whole = self._me.no_rows
        for start in starts:
            pane = self.get(start)
            if pane is not None:
                whole += pane
        return whole

    def observations(self, start: int) -> list[Observations]:
        """The numbers of each series of instances in the pane that begins then."""
        parts = [
            tuple(Observations.unpacked(*packed) for packed in _decode_observations(bytes(data)))
            for part in range(self._parts.get(start, 0))
            for (data,) in (self._series.getValue((start, part)),)
        ]
        parts += self._observed.get(start, [])
        nothing = self._me.no_rows.observations
        return [Observations.joined(each) for each in zip(nothing, *parts, strict=True)]

    def starts(self) -> list[int]:
        """Of all panes there are, ascending."""
        return sorted({int(start) for (start,) in self._state.keys()} | set(self._read))  # noqa: SIM118 - a state, not a dict

    def drop(self, start: int) -> None:
        """Forget a pane."""
        self._read.pop(start, None)
        self._changed.discard(start)
        if self._state.containsKey((start,)):
            self._state.removeKey((start,))
        self._observed.pop(start, None)
        for part in range(self._parts.pop(start, 0)):
            self._series.removeKey((start, part))

    def write(self) -> None:
        """Put what changed into the state; observations are only ever appended, a part a batch."""
        for start, batch in self._observed.items():
            part = self._parts.get(start, 0)
            whole = [Observations.joined(each).packed() for each in zip(*batch, strict=True)]
            self._series.updateValue((start, part), (msgspec.msgpack.encode(whole),))
            self._parts[start] = part + 1
        self._observed.clear()
        for start in sorted(self._changed):
            self._state.updateValue((start,), (self._read[start].to_bytes(),))
        self._changed.clear()

    def _spill(self) -> None:
        """A backlog may hold thousands of panes: no more than some of them are in memory at a time."""
        if len(self._read) >= MOST_PANES:
            self.write()
            self._read.clear()


class MergeProcessor(StatefulProcessor):
    """`Merge` on Spark's state: one head and a map of panes for each key, and one processing-time timer."""

    def __init__(self, task: Task, frontiers: str) -> None:
        self._task, self._folder = task, frontiers

    def init(self, handle: StatefulProcessorHandle) -> None:
        """Open the state of this partition."""
        self._handle = handle
        self._head = handle.getValueState("head", "body binary")
        self._panes = handle.getMapState("panes", "start long", "body binary")
        self._series = handle.getMapState("series", "start long, part long", "body binary")
        self._me = worker(self._task)
        self._frontiers: dict[tuple[str, str], int] = {}

    def handleInputRows(  # type: ignore[override] # noqa: N802 - Spark's name; rows are pandas here
        self, key: Any, rows: Iterator[pd.DataFrame], timerValues: "TimerValues"
    ) -> Iterator[pd.DataFrame]:
        """What the folded rows of a key in one batch come to."""
        merge = self._merge(key, timerValues)
        before = merge.head.timer
        for part in rows:
            through = part["kind"] == RECORD
            if through.any():
                yield _reported(key, part.loc[through, "topic"], part.loc[through, "body"])
            yield from _frames(key, merge.absorb(part[~through]))
        yield from _frames(key, merge.advance())
        self._keep(key, merge, before)

    def handleExpiredTimer(  # noqa: N802 - Spark's name
        self, key: Any, timerValues: "TimerValues", expiredTimerInfo: "ExpiredTimerInfo"
    ) -> Iterator[pd.DataFrame]:
        """What is due for a key that asked to be woken."""
        merge = self._merge(key, timerValues)
        expired = expiredTimerInfo.getExpiryTimeInMs()
        before = None if merge.head.timer == expired else merge.head.timer
        yield from _frames(key, merge.advance())
        self._keep(key, merge, before)

    def close(self) -> None:
        """Leave the frontiers for the fold of the next batch."""
        if self._frontiers:
            from pyspark import TaskContext

            context = TaskContext.get()
            Frontiers(self._folder).write(0 if context is None else context.partitionId(), self._frontiers)

    def _merge(self, key: Any, timers: "TimerValues") -> Merge:
        stored = self._head.get()
        head = Head() if stored is None else _decode_head(bytes(stored[0]))
        panes = Panes(self._panes, self._series, head.parts, self._me)
        return Merge(self._me, key[1], head, panes, timers.getCurrentProcessingTimeInMs())

    def _keep(self, key: Any, merge: Merge, before: int | None) -> None:
        merge.panes.write()
        if merge.head.timer != before:
            if before is not None:
                self._handle.deleteTimer(before)
            if merge.head.timer is not None:
                self._handle.registerTimer(merge.head.timer)
        self._head.update((msgspec.msgpack.encode(merge.head),))
        self._frontiers[key[0], key[1]] = merge.head.frontier


def _frames(key: Any, records: Iterator[tuple[str, bytes]]) -> Iterator[pd.DataFrame]:
    found = list(records)
    if found:
        topics, bodies = zip(*found, strict=True)
        yield _reported(key, topics, bodies)


def _reported(key: Any, topics: Any, bodies: Any) -> pd.DataFrame:
    name = f"{key[0]}/{key[1]}" if key[1] else key[0]
    return pd.DataFrame({"topic": list(topics), "key": name, "value": list(bodies)})
