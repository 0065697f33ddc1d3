"""Performance of the windows of one key of the operator: predictions meet their labels, and windows are told of again as they do.

What is kept of a pane is the number of its predictions, how they fall into the bins of the reference, and the sums of those that have
their label. It outlives the pane's window, and its edition with the baseline (a `Yardstick` is kept beside), until every prediction has
its label or `labelRetention` of event time is over. A pane of one value takes less than 1 kB for a regression, and some kB for a
classification with rocAuc. What waits is in `streaming.waiting`: of each prediction 8 bytes of a key, 1 or 2 of a pane, an eighth of a
mark, and 8 for the prediction and for each probability: 18 bytes for a regression, 26 for a classification with one probability.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from detectors.errors import DetectorError
from detectors.performance.estimate import PredictionCounts
from detectors.performance.sums import PerformanceSums, summarise
from detectors.settings import format_duration
from streaming.editions import ALWAYS, NEVER, Term, Watched
from streaming.pane import milliseconds
from streaming.protocol import Reason
from streaming.publish import Report, Scored, performance_record
from streaming.unmatched import Letter, dead_letter
from streaming.waiting import BINS, Index, Pairs, Terms, Waiting
from streaming.waiting import Counts as Happened
from streaming.yardstick import Yardstick

_INDEX = (-1, 0)
_ABOUT = -(2**62)
_OFTEN = 60_000
"""Retention is looked after once in so many ms at most while nothing comes."""


class Measuring(msgspec.Struct, array_like=True):
    """What a key keeps of performance in its head."""

    index: Index = msgspec.field(default_factory=Index)
    """Of what waits."""
    layout: bytes = b""
    """`Yardstick.layout` of the predictions that wait; empty: nothing has come yet."""
    rounded: int = ALWAYS
    """Processing time of the last round, ms."""
    reported: int = ALWAYS
    """Processing time at which windows were last told of again, ms."""
    due: dict[int, list[int]] = msgspec.field(default_factory=dict)
    """Edition -> starts of closed windows with labels that no record tells of."""
    oldest: int = NEVER
    """Start of the last pane of the oldest window that is kept, ms."""
    open: dict[int, int] = msgspec.field(default_factory=dict)
    """Edition of counted windows -> where the open one is kept."""
    place: int = ALWAYS
    """Where the newest counted window is kept."""
    duplicates: int = 0
    """Labels that no record tells of, of predictions that have one."""


class Kept(msgspec.Struct, array_like=True):
    """What is kept of a pane, and of the window that begins with it."""

    predictions: int = 0
    counts: bytes | None = None
    """`PredictionCounts`"""
    sums: bytes | None = None
    """`PerformanceSums`"""
    revision: int = 0
    """Records of the window."""
    closed: bool = False
    """Whether the window has closed."""
    final: bool = False
    """Whether its last record is written."""
    begin: int = 0
    """Of a counted window, ms."""
    end: int = 0
    number: int | None = None


_decode_kept = msgspec.msgpack.Decoder(Kept).decode
_decode_starts = msgspec.msgpack.Decoder(dict[int, list[int]]).decode
_decode_predictions = msgspec.msgpack.Decoder(tuple[int, bytes | None, bytes, bytes]).decode
_decode_labels = msgspec.msgpack.Decoder(tuple[bytes, bytes, list[bytes]]).decode


def packed_predictions(count: int, counts: PredictionCounts | None, keys: Any, values: Any) -> bytes:
    """The body of a folded row of predictions.

    Parameters
    ----------
    count
        How many predictions there are.
    keys, values
        Of those that are to wait for their labels: all, or none where another edition sends them.
    """
    bins = None if counts is None else counts.to_bytes()
    return msgspec.msgpack.encode((count, bins, keys.tobytes(), np.ascontiguousarray(values).tobytes()))


def packed_labels(keys: Any, values: Any, letters: list[bytes]) -> bytes:
    """The body of a folded row of labels; without letters nobody is told of those that find no prediction."""
    return msgspec.msgpack.encode((keys.tobytes(), values.tobytes(), letters))


@dataclass(slots=True)
class _Places:
    """Which panes are kept, by edition."""

    of: dict[int, set[int]]
    changed: bool = False


class Performances:
    """Performance at one key for the length of one call: state in, records and state out.

    Parameters
    ----------
    state
        Map of panes, by edition and start.
    waiting
        Map of what waits, by kind and number.
    head
        Changed in place.
    now
        Processing time, ms.
    """

    def __init__(self, state: Any, waiting: Any, head: Measuring, model: Watched, segment: str, now: int) -> None:
        self._state, self._map, self._head = state, waiting, head
        self._model, self._segment, self._now = model, segment, now
        self._read: dict[tuple[int, int], Kept] = {}
        self._changed: set[tuple[int, int]] = set()
        self._known: _Places | None = None
        self._yardsticks: dict[int, Yardstick | None] = {}
        self._refused: list[bytes] = []
        self._news = False
        """Whether labels came in this call."""
        self.happened: Counter[str] = Counter()
        """Counts for the marks."""
        self._newest = self._of_term(model.terms[-1])
        self._waiting: Waiting | None = None
        if self._newest is None:
            self._end()
        else:
            self._begin(self._newest)

    def _of_term(self, term: Term) -> Yardstick | None:
        me = term.me if not self._segment else term.me.segment(self._segment)
        return me.yardstick

    def _begin(self, newest: Yardstick) -> None:
        head, settings = self._head, newest.settings
        terms = Terms(
            retention=milliseconds(settings.label_retention),
            label_wait=milliseconds(settings.label_wait),
            width=newest.width,
            double=True,
        )
        if head.layout != newest.layout:
            if head.layout:
                self._let_go(terms)
            head.layout = newest.layout
        self._waiting = Waiting(self._map, head.index, terms, self._now)

    def _end(self) -> None:
        """Nobody asks for performance any more."""
        if not self._head.layout:
            return
        self._let_go(Terms(1, 1))
        for edition, starts in list(self._places.of.items()):
            for start in list(starts):
                self._drop(edition, start)
            self._state.removeKey((edition, _ABOUT))
        if self._state.containsKey(_INDEX):
            self._state.removeKey(_INDEX)
        self._known, self._head.layout, self._head.due = None, b"", {}
        self._head.oldest, self._head.open = NEVER, {}

    def _let_go(self, terms: Terms) -> None:
        """Of everything that waits: it is of other columns than what comes now."""
        index = self._head.index
        index.shape = (0, 0)
        none = Terms(terms.retention, terms.label_wait, terms.width, terms.double, most_labels=0)
        before = Waiting(self._map, index, none, self._now)
        self._refused = before.round().letters
        before.write()

    # What comes -------------------------------------------------------------------------------------------------------

    def predicted(self, term: Term, time: int, body: bytes) -> None:
        """Predictions of a pane; of counted windows `time` is that of the first of them."""
        yardstick = self._yardstick(term.number)
        if yardstick is None or self._waiting is None or self._newest is None:
            return
        count, counts, keys, values = _decode_predictions(body)
        place = time if yardstick.every is None else self._place(term.number, time)
        kept = self._entry(term.number, place)
        kept.predictions += count
        self.happened["predictions"] += count
        if counts is not None:
            kept.counts = counts if kept.counts is None else self._added(yardstick, kept.counts, counts)
        if keys and yardstick.layout == self._newest.layout:
            of = np.frombuffer(keys, np.uint64)
            self._waiting.predict(np.full(len(of), place), of, np.frombuffer(values).reshape(len(of), -1))

    def labelled(self, body: bytes) -> None:
        """Labels of this model."""
        if self._waiting is not None:
            keys, values, letters = _decode_labels(body)
            of = np.frombuffer(keys, np.uint64)
            self._waiting.label(of, np.frombuffer(values), letters or [b""] * len(of))
            self.happened["labels"] += len(of)
            self._news = True

    def _place(self, edition: int, time: int) -> int:
        """Where the open counted window of an edition is kept: near its time, and alone."""
        head = self._head
        if edition not in head.open:
            head.place = max(time, head.place + 1)
            head.open[edition] = head.place
        return head.open[edition]

    # What follows -----------------------------------------------------------------------------------------------------

    def match(self, frontier: int) -> Iterator[tuple[str, bytes]]:
        """Join predictions and labels when it is time; yields dead letters of labels that have waited in vain."""
        letters, self._refused = self._refused, []
        if self._waiting is not None and self._newest is not None:
            before = self._before(frontier)
            if self._waiting.crowded or (self._now >= self._round_due() and self._round_helps(before)):
                letters += self._round(before)
        monitor = self._model.newest.monitor
        for letter in letters:
            if letter:
                self.happened[f"dead:{Reason.UNMATCHED_LABEL.value}"] += 1
                wait = format_duration(monitor.spec.performance.label_wait)
                yield (
                    monitor.topics.deadletter,
                    dead_letter(monitor, Letter.from_bytes(letter), f"no prediction came for it in {wait} (labelWait)"),
                )

    def close(self, term: Term, start: int, begin: int, end: int, number: int | None) -> Iterator[tuple[str, bytes]]:
        """The first record of a window, which has closed."""
        yardstick, edition = self._yardstick(term.number), term.number
        if yardstick is None or self._waiting is None:
            return
        place = start if number is None else self._head.open.pop(edition, None)
        if place is None or self._places.of.get(edition, set()).isdisjoint(_panes(yardstick, place)):
            return  # a window without predictions
        kept = self._entry(edition, place)
        kept.closed, kept.begin, kept.end, kept.number = True, begin, end, number
        yield from self._report(edition, place)

    def records(self, frontier: int) -> Iterator[tuple[str, bytes]]:
        """Windows that have more labels than before, and those whose retention is over."""
        if self._waiting is None:
            return
        head = self._head
        if head.due and self._now >= self._again_due():
            due, head.due, head.reported = head.due, {}, self._now
            for edition, starts in sorted(due.items()):
                for start in sorted(starts):
                    yield from self._report(edition, start)
        if head.oldest < self._waiting.kept_from:
            yield from self._expire(frontier)

    @property
    def timer(self) -> int | None:
        """When something is due, processing time, ms."""
        head, due = self._head, []
        if self._waiting is None or self._newest is None:
            return None
        if self._is_fresh():
            due.append(self._round_due())
        if head.index.labels:
            due.append(max(self._labels_due(), self._round_due()))
        if head.due:
            due.append(self._again_due())
        if head.oldest < NEVER or head.index.predictions:
            step = max(milliseconds(self._newest.settings.label_retention) // BINS, _OFTEN)
            due.append((self._now // step + 1) * step)
        return min(due, default=None)

    def write(self) -> None:
        """Put what changed into the state."""
        if self._waiting is not None:
            self._waiting.write()
        for place in sorted(self._changed):
            self._state.updateValue(place, (msgspec.msgpack.encode(self._read[place]),))
        self._changed.clear()
        if self._known is not None and self._known.changed:
            starts = {edition: sorted(starts) for edition, starts in self._known.of.items()}
            self._state.updateValue(_INDEX, (msgspec.msgpack.encode(starts),))
            self._known.changed = False

    # Rounds -----------------------------------------------------------------------------------------------------------

    def _before(self, frontier: int) -> int:
        assert self._newest is not None  # else there is nothing to wait for
        return max(frontier - milliseconds(self._newest.settings.label_retention), ALWAYS)

    def _round_due(self) -> int:
        assert self._newest is not None  # else there are no rounds
        return self._head.rounded + milliseconds(self._newest.settings.match_every)

    def _labels_due(self) -> int:
        """When the oldest labels have waited long enough."""
        assert self._newest is not None  # else there are no rounds
        wait = milliseconds(self._newest.settings.label_wait)
        return min(self._head.index.labels) + max(wait // BINS, 1) + wait

    def _is_fresh(self) -> bool:
        """Whether something has come that no round has looked at."""
        index = self._head.index
        if self._news or any(heap.fresh for heaps in index.labels.values() for heap in heaps):
            return True
        return bool(index.labels) and any(part.fresh for here in index.predictions.values() for part in here.parts)

    def _round_helps(self, before: int) -> bool:
        index = self._head.index
        if self._is_fresh() or (index.labels and self._labels_due() <= self._now):
            return True
        return self._head.oldest < before or any(here.last < before for here in index.predictions.values())

    def _round(self, before: int) -> list[bytes]:
        assert self._waiting is not None  # else there are no rounds
        head = self._head
        found = self._waiting.round(before)
        head.rounded, self._news = self._now, False
        for pane, pairs in found.pairs.items():
            for edition, starts in self._places.of.items():
                if pane in starts:
                    self._score(edition, pane, pairs)
        head.duplicates += head.index.counts.duplicates
        self.happened["matched"] += head.index.counts.matched
        head.index.counts = Happened()
        return found.letters

    def _score(self, edition: int, pane: int, pairs: Pairs) -> None:
        yardstick = self._yardstick(edition)
        if yardstick is None or yardstick.layout != self._head.layout:
            return
        values, labels = pairs.values.astype(np.float64, copy=False), yardstick.labelled(pairs.labels)
        kept = self._entry(edition, pane)
        more = summarise(yardstick.plan, yardstick.told(values), labels)
        kept.sums = (_sums(kept, yardstick) + more).to_bytes()
        for start in _windows(yardstick, pane):
            window = self._get(edition, start)
            if window is not None and window.closed and not window.final:
                due = self._head.due.setdefault(edition, [])
                if start not in due:
                    due.append(start)

    def _again_due(self) -> int:
        return self._head.reported + milliseconds(self._model.newest.monitor.spec.window.emit_every)

    # Records ----------------------------------------------------------------------------------------------------------

    def _report(self, edition: int, start: int) -> Iterator[tuple[str, bytes]]:
        yardstick, kept = self._yardstick(edition), self._get(edition, start)
        if yardstick is None or kept is None or not kept.closed or kept.final:
            return
        assert self._waiting is not None  # else nothing is told of
        panes = _panes(yardstick, start)
        scored = self._scored(edition, yardstick, panes)
        kept.final = not scored.missing or panes[-1] < self._waiting.kept_from
        kept.revision += 1
        self._changed.add((edition, start))
        report = Report(
            segment=self._segment,
            start=kept.begin,
            end=kept.end,
            number=kept.number,
            status="final" if kept.final else "provisional",
            revision=kept.revision,
            late=0,
        )
        duplicates = None if self._segment else self._head.duplicates
        self._head.duplicates = 0
        record = performance_record(self._model.model, yardstick, report, scored, duplicates)
        if kept.final and len(panes) == 1:
            self._drop(edition, start)
        yield self._model.newest.monitor.topics.performance, msgspec.json.encode(record)

    def _scored(self, edition: int, yardstick: Yardstick, panes: range) -> Scored:
        predictions, sums = 0, PerformanceSums.empty(yardstick.plan)
        counts = None if yardstick.reference is None else yardstick.reference.empty()
        for start in panes:
            kept = self._get(edition, start)
            if kept is not None:
                predictions += kept.predictions
                sums += _sums(kept, yardstick)
                if counts is not None and kept.counts is not None:
                    counts += _counts(kept.counts, yardstick)
        return Scored(predictions, counts, sums)

    def _expire(self, frontier: int) -> Iterator[tuple[str, bytes]]:
        """Windows whose retention is over have their final record, and panes that no other window needs go."""
        assert self._waiting is not None  # else nothing expires
        kept_from = self._waiting.kept_from
        for edition, starts in sorted(self._places.of.items()):
            yardstick = self._yardstick(edition)
            for start in sorted(starts):
                if yardstick is None:  # of an edition that nothing is known of
                    self._drop(edition, start)
                    continue
                if _panes(yardstick, start)[-1] >= kept_from:
                    break
                kept = self._get(edition, start)
                closed = kept is None or kept.closed
                if closed or (yardstick.every is None and start + yardstick.duration <= frontier):
                    yield from self._report(edition, start)
                    self._drop(edition, start)
        for edition in [edition for edition, starts in self._places.of.items() if not starts]:
            if self._model.term(edition) is None:
                self._state.removeKey((edition, _ABOUT))
                del self._places.of[edition]
                self._places.changed = True
        ends = [
            _panes(yardstick, min(starts))[-1]
            for edition, starts in self._places.of.items()
            if starts and (yardstick := self._yardstick(edition)) is not None
        ]
        self._head.oldest = min(ends, default=NEVER)

    # State ------------------------------------------------------------------------------------------------------------

    @property
    def _places(self) -> _Places:
        if self._known is None:
            known = {}
            if self._state.containsKey(_INDEX):
                known = _decode_starts(bytes(self._state.getValue(_INDEX)[0]))
            self._known = _Places({edition: set(starts) for edition, starts in known.items()})
        return self._known

    def _yardstick(self, edition: int) -> Yardstick | None:
        """Of an edition that is in use, or of one that was."""
        if edition not in self._yardsticks:
            term = self._model.term(edition)
            if term is not None:
                self._yardsticks[edition] = self._of_term(term)
            elif self._state.containsKey((edition, _ABOUT)):
                (data,) = self._state.getValue((edition, _ABOUT))
                self._yardsticks[edition] = Yardstick.from_bytes(bytes(data))
            else:
                self._yardsticks[edition] = None
        return self._yardsticks[edition]

    def _get(self, edition: int, start: int) -> Kept | None:
        place = (edition, start)
        if place not in self._read and self._state.containsKey(place):
            self._read[place] = _decode_kept(bytes(self._state.getValue(place)[0]))
        return self._read.get(place)

    def _entry(self, edition: int, start: int) -> Kept:
        """What is kept of a pane, from now on if not before; to be changed."""
        kept = self._get(edition, start)
        if kept is None:
            kept = self._read[edition, start] = Kept()
            places, yardstick = self._places, self._yardstick(edition)
            if edition not in places.of:
                places.of[edition] = set()
                assert yardstick is not None  # only what can be measured is kept
                self._state.updateValue((edition, _ABOUT), (yardstick.to_bytes(),))
            places.of[edition].add(start)
            places.changed = True
            self._head.oldest = min(self._head.oldest, start if yardstick is None else _panes(yardstick, start)[-1])
        self._changed.add((edition, start))
        return kept

    def _drop(self, edition: int, start: int) -> None:
        place = (edition, start)
        self._read.pop(place, None)
        self._changed.discard(place)
        if self._state.containsKey(place):
            self._state.removeKey(place)
        self._places.of[edition].discard(start)
        self._places.changed = True

    @staticmethod
    def _added(yardstick: Yardstick, before: bytes, more: bytes) -> bytes:
        assert yardstick.reference is not None  # it has counted them
        return (_counts(before, yardstick) + _counts(more, yardstick)).to_bytes()


def _panes(yardstick: Yardstick, start: int) -> range:
    """The panes of the window that begins then."""
    return range(start, start + 1) if yardstick.every else range(start, start + yardstick.duration, yardstick.pane)


def _windows(yardstick: Yardstick, pane: int) -> range:
    """The windows that may hold a pane, by their starts."""
    length = yardstick.pane if yardstick.every else yardstick.duration
    return range(pane - length + yardstick.pane, pane + 1, yardstick.pane)


# Editions are numbered anew when a model is removed and comes back, and then these bytes may be of another plan: nothing of them is of use.


def _sums(kept: Kept, yardstick: Yardstick) -> PerformanceSums:
    try:
        return PerformanceSums.from_bytes(kept.sums or b"", yardstick.plan)
    except DetectorError:
        return PerformanceSums.empty(yardstick.plan)


def _counts(data: bytes, yardstick: Yardstick) -> PredictionCounts:
    assert yardstick.reference is not None  # else nothing is estimated
    try:
        return PredictionCounts.from_bytes(data, yardstick.reference)
    except DetectorError:
        return yardstick.reference.empty()
