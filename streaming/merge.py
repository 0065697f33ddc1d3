"""The stateful stage: merges partial summaries by (model, segment), keeps event time, and reports windows.

It runs with ``timeMode="ProcessingTime"`` and keeps a watermark of its own for each key: the minimum over the Kafka
partitions that are not idle of the newest event time, less `watermarkDelay`. Spark's global watermark is a batch late,
is moved by a single bad timestamp, drops late rows without a count and never closes the last window of a silent stream.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pandas as pd
from pyspark.sql.streaming.stateful_processor import StatefulProcessor, StatefulProcessorHandle
from pyspark.sql.types import BinaryType, DataType, IntegerType, LongType, StructType

from detectors.statistics.table import summarise
from streaming.drawers import KEYS, Drawer, Slot
from streaming.editions import ALWAYS, NEVER, Task, Term, Watched, crew
from streaming.fold import (
    ALL,
    CLOCK,
    LABELS,
    LATE,
    LONELY,
    MOST_PANES,
    PANE,
    PREDICTIONS,
    REASONS,
    RECORD,
    UNANSWERED,
    amongs,
    groups,
    predicted,
)
from streaming.marks import Key, Mark, Marks, batch_number
from streaming.meeting import Meeting
from streaming.observations import Observations
from streaming.pairing import Responses
from streaming.pane import Pane, milliseconds
from streaming.performance import Measuring, Performances
from streaming.publish import Report, published
from streaming.worker import Worker

if TYPE_CHECKING:
    from pyspark.sql.streaming.stateful_processor import ExpiredTimerInfo, TimerValues

REPORTED = "topic string, key string, value binary"
"""Schema of what goes to Kafka."""
_POLL = 1000
"""How often a segment asks whether its model has closed a window that should be over, ms."""


class _Clock(msgspec.Struct, array_like=True):
    """What is known of one Kafka partition."""

    newest: int
    """Newest event time, ms."""
    seen: int
    """Processing time at which it last had a message for this key, ms."""


class _Open(msgspec.Struct, array_like=True):
    """A window that has not closed."""

    revision: int = 0
    reported: int = ALWAYS
    """Processing time of its last provisional report, ms."""
    changed: bool = True
    """Whether it has rows that no report tells of."""


class Head(msgspec.Struct, array_like=True):
    """The state of one key beside its panes. Its version is the first field: see docs/decisions."""

    version: int = 3
    clocks: dict[int, _Clock] = msgspec.field(default_factory=dict)
    """Kafka partition -> clock."""
    windows: dict[int, dict[int, _Open]] = msgspec.field(default_factory=dict)
    """Edition -> start, ms (of counted windows the number) -> open window."""
    frontier: int = ALWAYS
    """Windows that end here or earlier have closed; never moves back."""
    late: int = 0
    """Late messages that no final report tells of yet."""
    timer: int | None = None
    """When the key wants to be woken, processing time, ms."""
    drifted: int = 0
    """Final windows in a row that drifted, up to the last one."""
    sequential: dict[str, bytes] = msgspec.field(default_factory=dict)
    """`Series.key` -> state of its detector."""
    parts: dict[int, dict[int, int]] = msgspec.field(default_factory=dict)
    """Edition -> start of a pane -> how many parts its observations have."""
    counted: int = 0
    """Counted windows that have closed."""
    totals: dict[str, int] = msgspec.field(default_factory=dict)
    """As `Mark.counts`."""
    measuring: Measuring = msgspec.field(default_factory=Measuring)
    """Of performance."""
    meeting: int | None = None
    """When a request or a response has waited long enough for the other, processing time, ms."""
    panes: list[tuple[int, int]] = msgspec.field(default_factory=list)
    """Edition and start of all panes there are."""


_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_observations = msgspec.msgpack.Decoder(list[tuple[bytes, bytes, bytes]]).decode
_decode_late = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]]).decode


@dataclass(slots=True)
class Merge:
    """One key for the length of one call: state in, records and state out. No Spark in here, so tests drive it by hand."""

    model: Watched
    segment: str
    head: Head
    panes: "Panes"
    performance: Performances
    meeting: Meeting
    now: int
    """Processing time, ms."""
    started: int
    """When this run of the job began, ms: silence before is the job's, not the stream's."""
    closed: int = ALWAYS
    """Of a segment: the frontier of its model as the fold of this batch knew it."""

    @property
    def me(self) -> Worker:
        """How the newest windows are counted, and everything that is not of a window."""
        return self.model.newest

    def absorb(self, rows: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
        """Take folded rows in; yields the records that are due whatever the clocks say (dead letters of late messages)."""
        for kind, at, number, body in zip(rows["kind"], rows["time"], rows["number"], rows["body"], strict=True):
            if kind == CLOCK:
                clock = self.head.clocks.setdefault(int(number), _Clock(ALWAYS, self.now))
                clock.newest, clock.seen = max(clock.newest, int(at)), self.now
                continue
            if kind == LABELS:
                self.performance.labelled(body)
                continue
            if kind in (UNANSWERED, LONELY):
                if kind == UNANSWERED:
                    self.meeting.asked(body)
                else:
                    self.meeting.answered(body)
                continue
            term = self.model.term(int(number))
            if term is None:
                continue  # its last window closed before it was struck from the task
            if kind == PANE:
                pane = Pane.from_bytes(body, self.panes.worker(term.number).plans)
                if term.is_late(int(at), self.head.frontier):
                    # The fold did not know the frontier (its file was lost): the bytes are in Kafka, the count is here.
                    self._late(pane.messages)
                else:
                    self._add(term, int(at), pane)
            elif kind == LATE:
                late, letters = _decode_late(body)
                if term.is_late(int(at), self.head.frontier):
                    self._late(len(letters))
                    for letter in letters:
                        yield self.me.monitor.topics.deadletter, letter
                else:  # the fold knew of a frontier that a crash has taken back
                    self._add(term, int(at), Pane.from_bytes(late, self.panes.worker(term.number).plans))
            elif kind == PREDICTIONS and not term.is_late(int(at), self.head.frontier):
                self.performance.predicted(term, int(at), body)

    def count(self, topics: "pd.Series[str]", numbers: "pd.Series[int]") -> None:
        """Count finished records that pass through."""
        dead = numbers[topics == self.me.monitor.topics.deadletter]
        for place, many in Counter(dead.tolist()).items():
            self._total(f"dead:{REASONS[int(place)].value}", many)

    def advance(self) -> Iterator[tuple[str, bytes]]:
        """Move the frontier, report what is due, drop what is done, and set the next timer."""
        head = self.head
        if (found := self.meeting.meet()) is not None:
            self._answer(found)
        head.meeting = self.meeting.due
        head.frontier = max(head.frontier, self.closed if self.segment else self._watermark())
        yield from self.performance.match(head.frontier)
        sums = _Sums(self.panes)
        for term, start in self._windows():
            window = head.windows[term.number][start]
            if self._is_over(term, start):
                yield from self._report(term, start, window, sums, final=True)
                del head.windows[term.number][start]
            elif window.changed and self._provisional_due(term, window) <= self.now:
                yield from self._report(term, start, window, sums, final=False)
        for number in [number for number, windows in head.windows.items() if not windows]:
            del head.windows[number]
        for number, start in self.panes.places():
            known = self.model.term(number)
            if known is None or (number not in head.windows if known.me.every else known.is_late(start, head.frontier)):
                self.panes.drop(number, start)
        yield from self.performance.records(head.frontier)
        for what, many in self.performance.happened.items():
            self._total(what, many)
        self.performance.happened.clear()
        head.timer = self._next_timer()

    def mark(self, batch: int, before: int) -> Mark:
        """What the fold of the next batch and the driver are told."""
        clocks = self.head.clocks.values()
        return Mark(
            batch,
            self.head.frontier,
            before,
            newest=max((clock.newest for clock in clocks), default=ALWAYS),
            seen=max((clock.seen for clock in clocks), default=0),
            open={number: len(windows) for number, windows in self.head.windows.items()},
            panes=len(self.panes.places()),
            counts=self.head.totals,
        )

    def _late(self, messages: int) -> None:
        self.head.late += messages
        self._total("late", messages)
        self._total("dead:late", messages)

    def _answer(self, rows: Responses) -> None:
        """Count responses whose requests are of this segment."""
        for among in amongs(self.model, self.head.frontier):
            term, me = among.term, self.panes.worker(among.term.number)
            schema = me.schema("response")
            if rows.shape != (len(schema.numeric), len(schema.categorical)):
                continue  # this edition has other predictions
            keys, times, block = rows.keys, rows.times, rows.block
            flagged = np.zeros(block.rows, np.bool_)
            for detector in term.me.outliers["response"]:
                flagged[detector.flag(block).rows] = True
            values = None if me.yardstick is None else me.predictions(block)
            for start, some in groups(among.panes(times), np.flatnonzero(among.mine(times))):
                if term.is_late(start, self.head.frontier):
                    self.head.late += int(among.governed(times[some]).sum())
                    continue
                pane = replace(
                    me.no_rows,
                    responses=summarise(me.plans.response, block.take(some)),
                    outliers=int(flagged[some].sum()),
                    first=int(times[some].min()),
                    last=int(times[some].max()),
                )
                self._add(term, start, pane)
                if values is not None:
                    one = predicted(among, me, start, values[some], keys[some], times[some])
                    self.performance.predicted(term, one.time, one.packed())

    def _total(self, what: str, many: int) -> None:
        self.head.totals[what] = self.head.totals.get(what, 0) + many

    def _add(self, term: Term, start: int, pane: Pane) -> None:
        for what, many in (("requests", pane.requests.rows), ("outliers", pane.outliers)):
            if many and term is self.model.terms[-1]:
                self._total(what, many)
        windows = self.head.windows.setdefault(term.number, {})
        if term.me.every is not None:
            self.panes.add(term.number, 0, pane)
            taken = [number for others in self.head.windows.values() for number in others]
            place = next(iter(windows), max([self.head.counted, *(number + 1 for number in taken)]))
            windows.setdefault(place, _Open()).changed = True
            return
        self.panes.add(term.number, start, pane)
        for window in term.windows(start):
            if window + term.me.duration > self.head.frontier:
                windows.setdefault(window, _Open()).changed = True

    def _windows(self) -> list[tuple[Term, int]]:
        """All open windows in the order of their starts."""
        found = [
            (term, start)
            for number, windows in self.head.windows.items()
            for term in (self.model.term(number),)
            for start in windows
            if term is not None
        ]
        return sorted(found, key=lambda one: (one[1], one[0].number))

    def _is_over(self, term: Term, start: int) -> bool:
        if term.me.every is None:
            return start + term.me.duration <= self.head.frontier
        whole = self.panes.get(term.number, 0)
        return whole is not None and (whole.requests.rows >= term.me.every or term.until <= self.head.frontier)

    def _idle_at(self, clock: _Clock) -> int:
        """When a partition counts as idle: silence before this run of the job began is the job's, not the stream's."""
        return max(min(clock.seen, self.now), self.started) + milliseconds(self.me.monitor.spec.window.idle_timeout)

    def _ends(self) -> list[int]:
        """When the open windows end, event time, ms; counted ones have no end."""
        return [start + term.me.duration for term, start in self._windows() if term.me.every is None]

    def _watermark(self) -> int:
        if not self.head.clocks:
            return ALWAYS
        active = [clock.newest for clock in self.head.clocks.values() if self._idle_at(clock) > self.now]
        if active:
            return min(active) - self._delay
        # Nothing has come for idleTimeout: windows close by the clock on the wall, so that one of today waits until today is
        # over and one of last year (a replay) does not. Never beyond the open ones: what was held up on its way is not late.
        return min(self.now - self._delay, max(self._ends(), default=self.head.frontier))

    @property
    def _delay(self) -> int:
        return milliseconds(self.me.monitor.spec.window.watermark_delay)

    def _provisional_due(self, term: Term, window: _Open) -> int:
        settings = term.me.monitor.spec.window
        reported = min(window.reported, self.now)  # a clock that jumped back would have it wait for what is ahead
        return reported + milliseconds(settings.emit_every) if settings.provisional else NEVER

    def _next_timer(self) -> int | None:
        due = [at for at in (self._windows_due(), self.performance.timer, self.meeting.due) if at is not None]
        return min(due, default=None)

    def _windows_due(self) -> int | None:
        windows = self._windows()
        if not windows:
            return None
        due = [
            self._provisional_due(term, window)
            for term, start in windows
            for window in (self.head.windows[term.number][start],)
            if window.changed
        ]
        ends = self._ends()
        if self.segment:  # its model closes windows: the segment looks when one should be over
            over = [max(min(ends) + self._delay, self.now + _POLL)] if ends else []
        else:
            idle = [at for clock in self.head.clocks.values() if (at := self._idle_at(clock)) > self.now]
            over = idle or [end + self._delay for end in ends[:1]]
        return min((at for at in (*due, *over) if at < NEVER), default=None)

    def _report(
        self, term: Term, start: int, window: _Open, sums: "_Sums", *, final: bool
    ) -> Iterator[tuple[str, bytes]]:
        window.revision, window.reported, window.changed = window.revision + 1, self.now, False
        head, me = self.head, term.me
        if me.every is None:
            whole = sums.of(term, start)
            begin, end, first, place = start, start + me.duration, start, None
        else:
            whole = self.panes.sum(term.number, range(1))
            begin, end, first, place = whole.first, whole.last + 1, 0, start
        report = Report(
            segment=self.segment,
            start=begin,
            end=end,
            number=place,
            status="final" if final else "provisional",
            revision=window.revision,
            late=head.late,
            drifted_before=head.drifted,
        )
        # Nothing more can come to the window's first pane: all windows that hold it close with this one.
        observations = self.panes.observations(term.number, first) if final else ()
        out = published(self.panes.worker(term.number), report, whole, head.sequential, observations)
        if final:
            head.late, head.drifted = 0, out.drifted
            if place is not None:
                head.counted = max(head.counted, place + 1)
                self.panes.drop(term.number, 0)
        yield from out.records
        if final:
            yield from self.performance.close(term, start, begin, end, place)


def join_wait(model: Watched) -> int:
    """How long a request and its response wait for each other, ms."""
    return milliseconds(model.newest.monitor.spec.window.join_wait)


class Panes:
    """The panes of one key in Spark's state, read once and written once a batch.

    Parameters
    ----------
    state
        Map of panes, by their edition and start.
    series
        Map of observations of instances, by edition, the start of their pane and the number of the part.
    head
        Of the key. It knows which panes there are (each question to Spark's state is a trip to the JVM and back), and how many parts
        each has.
    """

    def __init__(self, state: Any, series: Any, head: Head, model: Watched, segment: str = ALL) -> None:
        self._state, self._series, self._head, self._model, self._segment = state, series, head, model, segment
        self._parts, self._stored = head.parts, set(head.panes)
        self._observed: dict[tuple[int, int], list[tuple[Observations, ...]]] = {}
        self._read: dict[tuple[int, int], Pane] = {}
        self._changed: set[tuple[int, int]] = set()

    def worker(self, edition: int) -> Worker:
        """How the panes of an edition are counted, in this segment."""
        term = self._model.term(edition)
        assert term is not None  # panes of others are dropped unread
        return term.me if self._segment == ALL else term.me.segment(self._segment)

    def get(self, edition: int, start: int) -> Pane | None:
        """The pane that begins then, if there is one."""
        place = (edition, start)
        if place not in self._read and place in self._stored:
            (data,) = self._state.getValue(place)
            self._spill()
            self._read[place] = Pane.from_bytes(bytes(data), self.worker(edition).plans)
        return self._read.get(place)

    def add(self, edition: int, start: int, pane: Pane) -> None:
        """Add to the pane that begins then."""
        place = (edition, start)
        if any(len(numbers.times) for numbers in pane.observations):
            self._observed.setdefault(place, []).append(pane.observations)
            pane = replace(pane, observations=self.worker(edition).no_rows.observations)
        before = self.get(edition, start)
        self._read[place] = pane if before is None else before + pane
        self._changed.add(place)
        self._spill()

    def sum(self, edition: int, starts: range) -> Pane:
        """The panes that begin then, as one; without their observations, of which a window reads only one pane's."""
        whole = self.worker(edition).no_rows
        for start in starts:
            pane = self.get(edition, start)
            if pane is not None:
                whole += pane
        return whole

    def observations(self, edition: int, start: int) -> list[Observations]:
        """The numbers of each series of instances in the pane that begins then."""
        parts = [
            tuple(Observations.unpacked(*packed) for packed in _decode_observations(bytes(data)))
            for part in range(self._parts.get(edition, {}).get(start, 0))
            for (data,) in (self._series.getValue((edition, start, part)),)
        ]
        parts += self._observed.get((edition, start), [])
        nothing = self.worker(edition).no_rows.observations
        return [Observations.joined(each) for each in zip(nothing, *parts, strict=True)]

    def places(self) -> list[tuple[int, int]]:
        """Edition and start of all panes there are, ascending."""
        return sorted(self._stored.union(self._read))

    def drop(self, edition: int, start: int) -> None:
        """Forget a pane."""
        place = (edition, start)
        self._read.pop(place, None)
        self._changed.discard(place)
        if place in self._stored:
            self._stored.remove(place)
            self._state.removeKey(place)
        self._observed.pop(place, None)
        parts = self._parts.get(edition, {})
        for part in range(parts.pop(start, 0)):
            self._series.removeKey((*place, part))
        if not parts:
            self._parts.pop(edition, None)

    def write(self) -> None:
        """Put what changed into the state; observations are only ever appended, a part a batch."""
        for (edition, start), batch in self._observed.items():
            parts = self._parts.setdefault(edition, {})
            part = parts.get(start, 0)
            whole = [Observations.joined(each).packed() for each in zip(*batch, strict=True)]
            self._series.updateValue((edition, start, part), (msgspec.msgpack.encode(whole),))
            parts[start] = part + 1
        self._observed.clear()
        for place in sorted(self._changed):
            self._state.updateValue(place, (self._read[place].to_bytes(),))
        self._stored.update(self._changed)
        self._changed.clear()
        self._head.panes = sorted(self._stored)

    def _spill(self) -> None:
        """A backlog may hold thousands of panes: no more than some of them are in memory at a time."""
        if len(self._read) >= MOST_PANES:
            self.write()
            self._read.clear()


class _Sums:
    """Sums of the panes of windows that overlap, asked for in the order of their starts.

    Time is cut into blocks as long as a window, so a window is the end of one block and the beginning of the next. Both are added up once
    for all windows: about three additions a window, however many panes it has (van Herk, 1992; Gil and Werman, 1993).
    """

    def __init__(self, panes: Panes) -> None:
        self._panes = panes
        self._ends: dict[tuple[int, int], Pane] = {}
        """Edition and start -> sum from there to the end of its block; of one block at a time."""
        self._block: tuple[int, int] | None = None
        self._beginning: tuple[int, int, int, Pane] | None = None
        """Edition, block, how far, and the sum of the block up to there."""

    def of(self, term: Term, start: int) -> Pane:
        """The sum of a window."""
        me, edition = term.me, term.number
        if me.duration <= 2 * me.pane:
            return self._panes.sum(edition, range(start, start + me.duration, me.pane))
        block = start // me.duration * me.duration
        end = self._end(edition, block, start, me)
        return end if start == block else end + self._start(edition, block + me.duration, start + me.duration, me)

    def _end(self, edition: int, block: int, start: int, me: Worker) -> Pane:
        """Of the panes from `start` to the end of the block."""
        if self._block != (edition, block):
            self._block, self._ends = (edition, block), {}
        if (edition, start) not in self._ends:
            whole = self._panes.worker(edition).no_rows
            for at in range(block + me.duration - me.pane, start - 1, -me.pane):
                pane = self._panes.get(edition, at)
                whole = whole if pane is None else pane + whole
                self._ends[edition, at] = whole
        return self._ends[edition, start]

    def _start(self, edition: int, block: int, upto: int, me: Worker) -> Pane:
        """Of the panes of the block that begin before `upto`."""
        known = self._beginning
        if known is None or known[:2] != (edition, block) or known[2] > upto:
            known = (edition, block, block, self._panes.worker(edition).no_rows)
        _, _, done, whole = known
        whole += self._panes.sum(edition, range(done, upto, me.pane))
        self._beginning = (edition, block, upto, whole)
        return whole


_TYPES: dict[str, DataType] = {"int": IntegerType(), "long": LongType(), "binary": BinaryType()}


def _schema(columns: str) -> StructType:
    """Columns as Spark's own kind of schema: a text would be sent to the JVM to be parsed, for each state in every partition and batch."""
    schema = StructType()
    for column in columns.split(", "):
        name, kind = column.split()
        schema.add(name, _TYPES[kind])
    return schema


_KEYS, _BODY = _schema(KEYS), _schema("body binary")
_PANES, _SERIES, _WAITING, _PERFORMANCE, _PENDING = range(5)
"""Numbers of drawers."""


class MergeProcessor(StatefulProcessor):
    """`Merge` on Spark's state: one head and a map of everything else for each key, and one processing-time timer."""

    def __init__(self, task: Task, marks: str) -> None:
        self._task, self._folder = task, marks

    def init(self, handle: StatefulProcessorHandle) -> None:
        """Open the state of this partition."""
        self._handle = handle
        self._head = handle.getValueState("head", _BODY)
        self._drawers = handle.getMapState("drawers", _KEYS, _BODY)
        self._panes, self._series = Drawer(self._drawers, _PANES), Drawer(self._drawers, _SERIES)
        self._waiting, self._performance = Drawer(self._drawers, _WAITING), Drawer(self._drawers, _PERFORMANCE)
        self._pending = Slot(Drawer(self._drawers, _PENDING))
        self._crew = crew(self._task)
        self._batch = batch_number()
        self._marks: dict[Key, Mark] = {}
        self._closed: dict[Key, int] | None = None

    def handleInputRows(  # type: ignore[override] # noqa: N802 - Spark's name; rows are pandas here
        self, key: Any, rows: Iterator[pd.DataFrame], timerValues: "TimerValues"
    ) -> Iterator[pd.DataFrame]:
        """What the folded rows of a key in one batch come to."""
        merge = self._merge(key, timerValues)
        if merge is None:
            for _ in rows:
                pass
            return
        before = merge.head.timer, merge.head.frontier
        for part in rows:
            through = part["kind"] == RECORD
            if through.any():
                finished = part[through]
                merge.count(finished["topic"], finished["number"])
                yield _reported(key, finished["topic"], finished["body"])
            yield from _frames(key, merge.absorb(part[~through]))
        yield from _frames(key, merge.advance())
        self._keep(key, merge, *before)

    def handleExpiredTimer(  # noqa: N802 - Spark's name
        self, key: Any, timerValues: "TimerValues", expiredTimerInfo: "ExpiredTimerInfo"
    ) -> Iterator[pd.DataFrame]:
        """What is due for a key that asked to be woken."""
        merge = self._merge(key, timerValues)
        if merge is None:
            return
        expired = expiredTimerInfo.getExpiryTimeInMs()
        before = None if merge.head.timer == expired else merge.head.timer, merge.head.frontier
        yield from _frames(key, merge.advance())
        self._keep(key, merge, *before)

    def close(self) -> None:
        """Leave the marks for the fold of the next batch."""
        if self._marks:
            from pyspark import TaskContext

            context = TaskContext.get()
            Marks(self._folder).write(0 if context is None else context.partitionId(), self._marks)

    def _merge(self, key: Any, timers: "TimerValues") -> Merge | None:
        """What is to be done for a key; nothing is left of the state of a model that is watched no more."""
        name, segment = key
        model = self._crew.model(name)
        if model is None:
            self._forget()
            return None
        stored = self._head.get()
        head = Head() if stored is None else _decode_head(bytes(stored[0]))
        panes = Panes(self._panes, self._series, head, model, segment)
        now, started = timers.getCurrentProcessingTimeInMs(), self._task.started
        performance = Performances(self._performance, self._waiting, head.measuring, model, segment, now)
        meeting = Meeting(self._pending, head.meeting, join_wait(model), now)
        closed = self._frontier(name) if segment else ALWAYS
        return Merge(model, segment, head, panes, performance, meeting, now, started, closed)

    def _frontier(self, model: str) -> int:
        if self._closed is None:
            self._closed = Marks(self._folder).frontiers(self._batch)
        return self._closed.get((model, ALL), ALWAYS)

    def _forget(self) -> None:
        self._head.clear()
        self._drawers.clear()
        for timer in list(self._handle.listTimers()):
            self._handle.deleteTimer(timer)

    def _keep(self, key: Any, merge: Merge, timer: int | None, frontier: int) -> None:
        merge.panes.write()
        merge.performance.write()
        if merge.head.timer != timer:
            if timer is not None:
                self._handle.deleteTimer(timer)
            if merge.head.timer is not None:
                self._handle.registerTimer(merge.head.timer)
        self._head.update((msgspec.msgpack.encode(merge.head),))
        known = self._marks.get(key)  # rows and an expired timer in one batch
        self._marks[key[0], key[1]] = merge.mark(self._batch, frontier if known is None else known.before)


def _frames(key: Any, records: Iterator[tuple[str, bytes]]) -> Iterator[pd.DataFrame]:
    found = list(records)
    if found:
        topics, bodies = zip(*found, strict=True)
        yield _reported(key, topics, bodies)


def _reported(key: Any, topics: Any, bodies: Any) -> pd.DataFrame:
    name = f"{key[0]}/{key[1]}" if key[1] else key[0]
    return pd.DataFrame({"topic": list(topics), "key": name, "value": list(bodies)})
