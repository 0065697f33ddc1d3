"""From Kafka messages to outliers, dead letters and partial summaries, without a shuffle and without an exception.

One task reads one Kafka partition. Every outlier and bad message leaves at once, as one row; everything else is folded
into one partial summary for each (segment, pane), which leaves when the task ends. What the shuffle carries does
not grow with traffic, but for series of instances that sequential detectors watch (24 bytes an instance).
"""

import base64
import functools
import math
import operator
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detectors.base import Flagged
from detectors.performance.estimate import PredictionCounts
from detectors.settings import format_duration
from detectors.statistics.block import Block, Codes
from detectors.statistics.sample import mixed
from detectors.statistics.table import summarise
from reference.baseline import SOURCES, Source, Table
from streaming.editions import ALWAYS, Task, Term, Watched, crew
from streaming.headers import header_column, nested
from streaming.identity import keys_of, message_keys
from streaming.labels import DecodedLabels, LabelDecoder
from streaming.marks import Marks, batch_number
from streaming.meeting import packed_requests, packed_responses
from streaming.messages import Decoded, Decoder, Reason, Rejected, Rows
from streaming.observations import Observations
from streaming.pairing import paired
from streaming.pane import Pane, rfc3339
from streaming.performance import packed_labels, packed_predictions
from streaming.reports import DeadLetter, Outlier, OutlierFeature
from streaming.segments import Segmentation
from streaming.series import Series
from streaming.unmatched import Letter, alone
from streaming.worker import Worker

PANE, LATE, CLOCK, RECORD, PREDICTIONS, LABELS, UNANSWERED, LONELY = range(8)
"""Kinds of folded rows: a partial summary; one of messages that may be late, with their dead letters; the newest event
time of a Kafka partition; a finished record that only passes through; predictions that wait for their labels; labels; requests of a
segment that wait for their responses; responses that wait for their requests."""

FOLDED = "model string, segment string, kind byte, time long, number long, topic string, body binary"
"""Schema of the folded rows. `time`: a pane's start (of predictions in a counted window their first event time) or a clock's event
time; `number`: a pane's edition, a clock's Kafka partition, or the place of a dead letter's reason in `Reason`."""

ALL = ""
"""The segment that holds every instance."""
REASONS = tuple(Reason)

_ARROW = pa.schema(
    [
        ("model", pa.string()),
        ("segment", pa.string()),
        ("kind", pa.int8()),
        ("time", pa.int64()),
        ("number", pa.int64()),
        ("topic", pa.string()),
        ("body", pa.binary()),
    ],
)
MOST_PANES = 64
"""So many summaries of one model are held in memory at a time, and as many of each of its segments; a backlog, or clocks gone wild, may
bring thousands."""
MOST_PREDICTIONS = 200_000
"""Predictions that a task holds before it sends them on."""
_NO_KEYS = np.empty(0, np.uint64)
_encode = msgspec.json.Encoder().encode

Place = tuple[str, int, int]
"""Segment, edition, and start of a pane."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions of one pane, in one segment."""

    time: int
    """As in the folded row, ms."""
    count: int
    counts: PredictionCounts | None
    keys: NDArray[np.uint64]
    """Of those that wait for their labels: two editions may count a prediction, but under one of them it waits."""
    values: NDArray[np.float64]

    def __add__(self, other: "Predicted") -> "Predicted":
        counts = None if self.counts is None or other.counts is None else self.counts + other.counts
        keys, values = np.concatenate((self.keys, other.keys)), np.concatenate((self.values, other.values))
        return Predicted(min(self.time, other.time), self.count + other.count, counts, keys, values)

    def packed(self) -> bytes:
        """The body of a folded row."""
        return packed_predictions(self.count, self.counts, self.keys, self.values)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The requests of a batch, and where they belong."""

    keys: NDArray[np.uint64]
    """(requests,) `identity.instance_keys`"""
    message: NDArray[np.int64]
    """(requests,) index of the message in the batch."""
    divided: list[tuple[NDArray[np.int32], tuple[str, ...]]]
    """As `Segmentation.of` gives it."""
    answers: NDArray[np.uint64]
    """(responses,) the keys of all responses of the batch."""


@dataclass(slots=True)
class _Folded:
    """What some messages of one model came to."""

    records: list[tuple[str, bytes, int | None]] = field(default_factory=list)
    """(topic, JSON, place of the reason in REASONS)"""
    panes: dict[Place, Pane] = field(default_factory=dict)
    """Partial summaries."""
    late: dict[Place, tuple[Pane, list[bytes]]] = field(default_factory=dict)
    """The same of messages behind the frontier, with a dead letter for each of them."""
    newest: dict[int, int] = field(default_factory=dict)
    """Kafka partition -> newest event time."""
    packed: list[tuple[int, Place, bytes]] = field(default_factory=list)
    """(kind, place, body) of summaries that are not added to any more."""
    predicted: dict[Place, list[Predicted]] = field(default_factory=dict)
    crossing: list[tuple[int, str, int, bytes]] = field(default_factory=list)
    """(kind, segment, edition, body) of what leaves as it comes: labels, and requests and responses without each other."""

    def add(self, place: Place, pane: Pane) -> None:
        self.panes[place] = self.panes[place] + pane if place in self.panes else pane
        self._spill()

    def add_late(self, place: Place, pane: Pane, letters: list[bytes]) -> None:
        if place in self.late:
            earlier, others = self.late[place]
            pane, letters = earlier + pane, others + letters
        self.late[place] = (pane, letters)
        self._spill()

    def _spill(self) -> None:
        if len(self.panes) + len(self.late) > MOST_PANES:
            segments = {segment for segment, _, _ in self.panes}
            if len(self.panes) + len(self.late) > MOST_PANES * max(len(segments), 1):
                self.pack()

    def pack(self) -> None:
        """Turn every summary into bytes."""
        self.packed += [(PANE, place, pane.to_bytes()) for place, pane in self.panes.items()]
        self.packed += [
            (LATE, place, msgspec.msgpack.encode((pane.to_bytes(), letters)))
            for place, (pane, letters) in self.late.items()
        ]
        self.panes.clear()
        self.late.clear()

    def take(self, other: "_Folded") -> None:
        self.records += other.records
        self.packed += other.packed
        for place, pane in other.panes.items():
            self.add(place, pane)
        for place, (pane, letters) in other.late.items():
            self.add_late(place, pane, letters)
        for partition, at in other.newest.items():
            self.tick(partition, at)
        for where, some in other.predicted.items():
            self.predicted.setdefault(where, []).extend(some)
        self.crossing += other.crossing

    def tick(self, partition: int, at: int) -> None:
        self.newest[partition] = max(at, self.newest.get(partition, at))


def fold(batches: Iterator[pa.RecordBatch], task: Task, marks: str) -> Iterator[pa.RecordBatch]:
    """Folded rows of the messages of one Spark task.

    Parameters
    ----------
    batches
        Columns of Spark's Kafka source: key, value, partition, offset, timestamp, headers as `headers.FLAT` makes them, and topic where
        there are several.
    marks
        Folder of the operator's marks.
    """
    known = crew(task)
    closed, clock = Marks(marks).frontiers_and_clock(batch_number())
    totals: dict[str, tuple[Watched, _Folded]] = {}
    for batch in batches:
        for topic, messages in _by_topic(batch):
            found = known.of_topic(topic)
            if found is None or messages.num_rows == 0:
                continue
            model, labels = found
            read = topic or model.newest.monitor.topics.inference
            frontier = closed.get((model.model, ALL), ALWAYS)
            part = folded(messages, model, frontier, read, known.name(read), labels=labels, clock=clock)
            if part.records:
                yield _records(model.model, part.records)
                part.records = []
            if part.crossing:
                yield _crossing(model.model, part.crossing)
                part.crossing = []
            _, total = totals.setdefault(model.model, (model, _Folded()))
            total.take(part)
            if sum(one.count for some in total.predicted.values() for one in some) > MOST_PREDICTIONS:
                yield _predictions(model.model, total)
    for name, (_, total) in totals.items():
        yield from _summaries(name, total)


def _by_topic(batch: pa.RecordBatch) -> Iterator[tuple[str | None, pa.RecordBatch]]:
    """The messages of each topic; a task reads one partition after the other, so those of one lie together."""
    if "topic" not in batch.schema.names:
        yield None, batch
        return
    topics = batch["topic"].dictionary_encode()
    codes, names = topics.indices.to_numpy(zero_copy_only=False), topics.dictionary.to_pylist()
    cuts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    for begin, end in pairwise(cuts):
        if end > begin:
            yield names[codes[begin]], batch.slice(begin, end - begin)


def folded(
    batch: pa.RecordBatch, model: Watched, frontier: int, topic: str, name: str, *, labels: bool = False, clock: int = 0
) -> _Folded:
    """Fold messages of one model, under each edition that they may belong to.

    Parameters
    ----------
    topic, name
        Where they were read, and as ids have it.
    labels
        Whether it is the labels topic.
    clock
        As of `Among`.
    """
    total, read = _Folded(), dict[Decoder, Decoded]()
    for among in amongs(model, frontier, topic, name, clock):
        total.take(_folded(batch, among, _Labels(model) if labels else None, read))
        if labels:
            break  # the newest edition reads them for all
    return total


def amongs(model: Watched, frontier: int, topic: str = "", name: str = "", clock: int = 0) -> Iterator["Among"]:
    """The editions of a model that still have windows, newest first."""
    terms = list(model.open(frontier))
    for term in terms:
        yield Among(term, frontier, topic, name, newest=term is terms[0], oldest=term is terms[-1], clock=clock)


def _folded(
    batch: pa.RecordBatch,
    among: "Among",
    labels: "_Labels | None" = None,
    read: dict[Decoder, Decoded] | None = None,
) -> _Folded:
    """Fold one batch; what cannot be folded for a reason nobody foresaw is cornered and becomes a dead letter.

    Parameters
    ----------
    read
        What decoders have made of this batch: editions that read messages alike share one.
    """
    try:
        fold = _Fold(among, batch)
        return fold.run({} if read is None else read) if labels is None else labels.run(fold)
    except Exception as error:  # noqa: BLE001 - raising in a worker because of data can take the JVM down (design.md)
        if batch.num_rows == 1:
            one = _Fold(among, batch)
            if among.newest:
                one.dead(Rejected(0, Reason.INTERNAL, f"{type(error).__name__}: {error}", None))
            return one.out
        half = batch.num_rows // 2
        first = _folded(batch.slice(0, half), among, labels)
        first.take(_folded(batch.slice(half), among, labels))
        return first


@dataclass(frozen=True, slots=True)
class Among:
    """An edition among those that still have windows."""

    term: Term
    frontier: int
    """Windows that end here or earlier have closed; event time, ms."""
    topic: str
    name: str
    """The topic as ids have it."""
    newest: bool
    oldest: bool
    """What is older than all editions is late, and this one says so."""
    clock: int = 0
    """It is no earlier now, whatever this machine's clock says that may have jumped back; ms."""

    def panes(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Starts of the panes of these times; a counted window is one pane, whenever it is."""
        me = self.term.me
        return np.zeros_like(times) if me.every is not None else times // me.pane * me.pane

    def mine(self, times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these times are counted under this edition."""
        return self.holds(times if self.term.me.every is not None else self.panes(times))

    @property
    def alone(self) -> bool:
        """Whether there is no other edition."""
        return self.newest and self.oldest

    def holds(self, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which panes are counted under this edition."""
        return (starts < self.term.until) & ((starts >= self.term.since) | self.oldest)

    def governs(self, time: int) -> bool:
        """Whether instances of this time are scored by this edition; each is by one."""
        return time < self.term.over and (self.oldest or time >= self.term.since)

    def governed(self, times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The same of many."""
        return (times < self.term.over) & (self.oldest | (times >= self.term.since))


class _Fold:
    """The folding of one Arrow batch under one edition."""

    def __init__(self, among: Among, batch: pa.RecordBatch) -> None:
        self.among, self.term, self.me, self.batch = among, among.term, among.term.me, batch
        self.topics = self.me.monitor.topics
        self.now = rfc3339(time.time_ns() // 1_000_000)
        self.timestamps = batch["timestamp"].cast(pa.int64()).to_numpy(zero_copy_only=False) // 1000
        # Kafka's timestamp may be the producer's own clock, so ours is asked too.
        self.latest = np.minimum(self.timestamps, max(time.time_ns() // 1_000_000, among.clock)) + self.me.skew
        """(messages,) event times beyond are from the future."""
        self.headers = nested(batch["headers"])
        self.ids = _NO_KEYS
        """(messages,) `identity.message_keys`, where they are needed."""
        self.asked: _Asked | None = None
        """Where there are segments."""
        self.out = _Folded()

    def run(self, read: dict[Decoder, Decoded]) -> _Folded:
        me, batch = self.me, self.batch
        if me.decoder not in read:
            read[me.decoder] = me.decoder.decode(batch["value"], self.headers, self.timestamps)
        decoded = read[me.decoder]
        rejected = list(decoded.rejected)
        good = np.ones(batch.num_rows, np.bool_)
        good[[one.message for one in rejected]] = False
        future = good & (decoded.times > self.latest)
        if future.any():
            good &= ~future
            rejected += [self._from_the_future(int(i), int(decoded.times[i])) for i in np.flatnonzero(future)]
        if self.among.newest:
            self._clocks(decoded.times, good)
        starts = self.among.panes(decoded.times)
        mine = good if self.among.alone else good & self.among.mine(decoded.times)
        if not mine.any() and not rejected:
            return self.out
        self.ids = message_keys(decoded.ids) if self.needs_ids else _NO_KEYS
        if me.segmentation is not None:
            self.asked = self._asked(me.segmentation, decoded, good)
        flagged = np.zeros(batch.num_rows, np.int64)
        for source, rows in zip(SOURCES, (decoded.requests, decoded.responses), strict=True):
            kept = self._keyed(rows if mine.all() else _of(rows, mine), decoded.times)
            if kept.block.rows:
                by_detector = self._outliers(source, kept, decoded)
                flagged = flagged + self._flagged_of_each_message(kept, by_detector.values())
                self._add_rows(source, kept, by_detector, decoded, starts[kept.message])
        for start, messages in groups(starts, np.flatnonzero(mine)):
            times = decoded.times[messages]
            counted = replace(
                me.no_rows,
                messages=len(messages),
                outliers=int(flagged[messages].sum()),
                first=int(times.min()),
                last=int(times.max()),
            )
            if self._is_late(start):
                governed = [(int(i), int(at)) for i, at in zip(messages, times, strict=True) if self.among.governs(at)]
                self.out.add_late((ALL, self.term.number, start), counted, [self._late(i, at) for i, at in governed])
            else:
                self.out.add((ALL, self.term.number, start), counted)
        dead: dict[int, list[int]] = {}
        for one in rejected:
            pane = self._reject(one)
            if pane is not None and one.time is not None:
                dead.setdefault(pane, []).append(one.time)
        for start, moments in dead.items():
            self._add(start, replace(me.no_rows, dead=len(moments), first=min(moments), last=max(moments)))
        return self.out

    def _is_late(self, start: int) -> bool:
        """Whether all windows that hold a pane have closed."""
        return self.term.is_late(start, self.among.frontier)

    def _clocks(self, times: NDArray[np.int64], good: NDArray[np.bool_]) -> None:
        partitions = self.batch["partition"].to_numpy(zero_copy_only=False)
        for partition in np.unique(partitions[good]).tolist():
            self.out.newest[partition] = int(times[good & (partitions == partition)].max())

    @property
    def needs_ids(self) -> bool:
        """Whether anything is told apart by request ids."""
        me = self.me
        return me.keyed or me.yardstick is not None or me.segmentation is not None

    def _keys(self, rows: Rows) -> NDArray[np.uint64]:
        """(rows,) what an instance, its prediction and its label have in common."""
        return keys_of(self.ids[rows.message], rows.instance)

    def _keyed(self, rows: Rows, times: NDArray[np.int64]) -> Rows:
        """The rows with hashes of what they are, when a sample is to be drawn by them: the same wherever the topic is cut."""
        if not self.me.keyed:
            return rows
        # An id that comes again is another row.
        keys = mixed(self._keys(rows) ^ times[rows.message].astype(np.uint64))
        return replace(rows, block=replace(rows.block, keys=keys))

    def _asked(self, segmentation: Segmentation, decoded: Decoded, good: NDArray[np.bool_]) -> _Asked:
        """All requests of the batch, whichever edition counts them: responses of this edition may be theirs."""
        everything = bool(good.all())
        requests = decoded.requests if everything else _of(decoded.requests, good)
        responses = decoded.responses if everything else _of(decoded.responses, good)
        divided = segmentation.of(requests.block, self.headers, requests.message)
        return _Asked(self._keys(requests), requests.message, divided, self._keys(responses))

    def _scores(self, block: Block) -> Block:
        """What the learnt outlier detectors say of each instance, a column each."""
        values = np.column_stack([model.score(block) for model in self.me.models.values()])
        values = np.asfortranarray(values)
        return Block(values, np.isnan(values), keys=block.keys)

    def _add_rows(
        self,
        source: Source,
        rows: Rows,
        flagged: dict[str, NDArray[np.int64]],
        decoded: Decoded,
        starts: NDArray[np.int64],
    ) -> None:
        """Add each pane's part of the rows to its partial summary.

        Parameters
        ----------
        flagged
            Outlier detector -> the rows that it flags.
        starts
            (rows,) start of the pane of each row.
        """
        me, block, times = self.me, rows.block, decoded.times[rows.message]
        tables: dict[Table, Block] = {source: block}
        if source == "request" and me.models:
            tables["score"] = self._scores(block)
        series = [self._numbers(one, tables, flagged) for one in me.series]
        clients = self._clients(rows) if source == "request" and me.plans.traffic else None
        predictions = me.predictions(block) if source == "response" and me.yardstick is not None else None
        keys = self._keys(rows) if predictions is not None or self.asked is not None else _NO_KEYS
        whole = starts.min() == starts.max()
        panes = [(int(starts[0]), slice(None))] if whole else list(groups(starts, np.arange(len(starts))))
        for start, picked in panes:
            pane = me.no_rows
            for table, numbers in tables.items():
                pane = pane.with_table(table, summarise(me.plans.of(table), numbers if whole else numbers.take(picked)))
            if series:
                pane = replace(pane, observations=self._observed(series, block, times, picked))
            if source == "request" and me.plans.traffic:
                requests, senders = (
                    self._looked_at(block).take(picked),
                    None if clients is None else clients.take(picked),
                )
                states = tuple(detector.observe(requests, senders) for detector in me.plans.traffic)
                pane = replace(pane, traffic=states)
            self._add(start, pane)
            if predictions is not None:
                self._predict(ALL, me, start, predictions, keys, times, picked)
        if self.asked is not None:
            divided = self._divided(source, rows, keys, times, starts)
            by_row = np.zeros(block.rows, np.bool_)
            for some in flagged.values():
                by_row[some] = True
            for start, picked in panes:
                if not self._is_late(start):
                    everything = _Segmented(rows, tables, keys, times, by_row, predictions)
                    self._add_segments(start, np.arange(block.rows)[picked], divided, everything)

    def _divided(
        self,
        source: Source,
        rows: Rows,
        keys: NDArray[np.uint64],
        times: NDArray[np.int64],
        starts: NDArray[np.int64],
    ) -> list[tuple[NDArray[np.int32], tuple[str, ...]]]:
        """For each entry the (rows,) place of every row's segment; -1 where it is not known here. What is without the other half leaves."""
        asked, me, edition = self.asked, self.me, self.term.number
        assert asked is not None  # there are segments
        assert me.segmentation is not None
        governed = self.among.governed(times)
        if source == "request":
            divided = asked.divided
            if len(asked.message) != len(rows.message):
                mine = np.isin(asked.message, rows.message)
                divided = [(places[mine], names) for places, names in divided]
            if len(me.schema("response")):
                alone = np.flatnonzero(governed & (paired(asked.answers, keys) < 0))
                for places, names in divided:
                    self.out.crossing += [
                        (UNANSWERED, names[place], edition, packed_requests(keys[some], times[some]))
                        for place, some in groups(places, alone)
                    ]
            return divided
        divided = me.segmentation.of_answers(self.headers, rows.message, paired(asked.keys, keys), asked.divided)
        for places, names in divided:
            lonely = np.flatnonzero((places < 0) & governed)
            if len(lonely):
                body = packed_responses(keys[lonely], times[lonely], starts[lonely], rows.block.take(lonely))
                self.out.crossing += [(LONELY, name, edition, body) for name in names]
        return divided

    def _predict(
        self,
        segment: str,
        me: Worker,
        start: int,
        values: NDArray[np.float64],
        keys: NDArray[np.uint64],
        times: NDArray[np.int64],
        picked: NDArray[np.int64] | slice,
    ) -> None:
        """Some rows' predictions of one pane, which wait for their labels."""
        one = predicted(self.among, me, start, values[picked], keys[picked], times[picked])
        self.out.predicted.setdefault((segment, self.term.number, start), []).append(one)

    def _add_segments(
        self,
        start: int,
        picked: NDArray[np.int64],
        divided: list[tuple[NDArray[np.int32], tuple[str, ...]]],
        of: "_Segmented",
    ) -> None:
        """Add some rows of one pane to the partial summaries of their segments."""
        for places, names in divided:
            for place, mine in groups(places, picked[places[picked] >= 0]):
                lean = self.me.segment(names[place])
                pane = replace(
                    lean.no_rows,
                    # A response is no further message where it is counted as its request is.
                    messages=0 if "response" in of.tables else len(np.unique(of.rows.message[mine])),
                    outliers=int(np.count_nonzero(of.flagged[mine])),
                    first=int(of.times[mine].min()),
                    last=int(of.times[mine].max()),
                )
                for table, numbers in of.tables.items():
                    pane = pane.with_table(table, summarise(lean.plans.of(table), numbers.take(mine)))
                self.out.add((names[place], self.term.number, start), pane)
                if of.predictions is not None:
                    self._predict(names[place], lean, start, of.predictions, of.keys, of.times, mine)

    def _observed(
        self,
        series: Sequence[NDArray[np.float64] | None],
        block: Block,
        times: NDArray[np.int64],
        picked: NDArray[np.int64] | slice,
    ) -> tuple[Observations, ...]:
        """Some rows' part of the numbers that sequential detectors watch; nothing of series that are not of this source."""
        assert block.keys is not None  # rows have keys when series are watched
        when, keys = times[picked], block.keys[picked]
        return tuple(
            Observations.none() if numbers is None else Observations(when, keys, numbers[picked]) for numbers in series
        )

    def _outliers(self, source: Source, rows: Rows, decoded: Decoded) -> dict[str, NDArray[np.int64]]:
        """Detector -> the rows that it flags; their records are noted."""
        found = {}
        for detector in self.me.outliers[source]:
            flagged = detector.flag(rows.block)
            found[detector.name] = flagged.rows
            if len(flagged.rows):
                self._record(source, detector.name, flagged, rows, decoded)
        return found

    def _flagged_of_each_message(self, rows: Rows, flagged: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
        """(messages,) how many instances of each message at least one detector flags."""
        some = [each for each in flagged if len(each)]
        if not some:
            return np.zeros(self.batch.num_rows, np.int64)
        return np.bincount(rows.message[np.unique(np.concatenate(some))], minlength=self.batch.num_rows)

    def _looked_at(self, block: Block) -> Block:
        """The columns of requests that traffic detectors are shown."""
        return replace(block, categorical=tuple(block.categorical[j] for j in self.me.traffic_columns))

    def _clients(self, rows: Rows) -> Codes | None:
        """Who sent each row, where the ModelMonitor says how to tell."""
        client = self.me.monitor.spec.traffic.client
        if client is None:
            return None
        if client.feature is not None:
            names = [column.name for column in self.me.schema("request").categorical]
            return rows.block.categorical[names.index(client.feature)]
        assert client.header is not None  # one of the two is given
        found = header_column(self.headers, client.header, client.member)
        return None if found is None else found.take(rows.message)

    def _add(self, start: int, pane: Pane) -> None:
        """To the pane's partial summary, or to the one of what may be late."""
        place = (ALL, self.term.number, start)
        if self._is_late(start):
            self.out.add_late(place, pane, [])
        else:
            self.out.add(place, pane)

    def _numbers(
        self, series: Series, tables: dict[Table, Block], flagged: dict[str, NDArray[np.int64]]
    ) -> NDArray[np.float64] | None:
        """(rows,) a series' number of each instance; None where it is not of these tables."""
        if series.outliers is not None:
            if "request" not in tables:
                return None
            ones = np.zeros(tables["request"].rows)
            ones[flagged[series.outliers]] = 1.0
            return ones
        for table, block in tables.items():
            names = [column.name for column in self.me.schema(table).numeric]
            if series.column in names:
                return block.numeric[:, names.index(series.column)]
        return None

    def _record(self, source: Source, detector: str, flagged: Flagged, rows: Rows, decoded: Decoded) -> None:
        me, block, among = self.me, rows.block, self.among
        columns = me.schema(source).in_block_order
        partitions, offsets = self.batch["partition"], self.batch["offset"]
        begins = np.searchsorted(flagged.cell_rows, np.arange(len(flagged.rows) + 1)).tolist()
        for k, row in enumerate(flagged.rows.tolist()):
            message, instance = int(rows.message[row]), int(rows.instance[row])
            if not self.among.governs(int(decoded.times[message])):
                continue
            partition, offset = partitions[message].as_py(), offsets[message].as_py()
            features = [
                OutlierFeature(
                    name=columns[j].name,
                    value=rows.wrong.get((row, j)) or _value(block, row, j),
                    low=_finite(flagged.low[cell]),
                    high=_finite(flagged.high[cell]),
                    contribution=float(flagged.contributions[cell]),
                )
                for cell in range(begins[k], begins[k + 1])
                for j in (int(flagged.cell_columns[cell]),)
            ]
            record = Outlier(
                id=f"{among.name}/{partition}/{offset}/{instance}/{detector}",
                model=me.model,
                model_version=me.monitor.spec.model.version,
                detected_at=self.now,
                segment=ALL,
                baseline=me.version,
                event_time=rfc3339(int(decoded.times[message])),
                request_id=decoded.ids[message],
                instance=instance,
                source=source,
                detector=detector,
                score=float(flagged.scores[k]),
                threshold=float(flagged.threshold),
                features=features,
                topic=among.topic,
                partition=partition,
                offset=offset,
            )
            self.out.records.append((self.topics.outliers, _encode(record), None))

    def _reject(self, one: Rejected) -> int | None:
        """Note a dead letter; the start of the pane that counts it, where its own time could be read.

        Such a time is as good as any other's: a model all of whose messages are bad still has windows, and they close.
        """
        timed = one.time is not None and one.reason is not Reason.UNKNOWN_MODEL and one.time <= self.latest[one.message]
        if self.among.newest if not timed else self.among.governs(one.time or 0):
            self.dead(one)
        if not timed:
            return None
        assert one.time is not None
        if self.among.newest:
            self.out.tick(self.batch["partition"][one.message].as_py(), one.time)
        at = np.array([one.time])
        return int(self.among.panes(at)[0]) if self.among.mine(at)[0] else None

    def dead(self, one: Rejected) -> None:
        """Note a dead letter."""
        self.out.records.append((self.topics.deadletter, self.dead_letter(one), REASONS.index(one.reason)))

    def _late(self, message: int, at: int) -> bytes:
        delay = self.me.monitor.spec.window.watermark_delay
        text = f"event time {rfc3339(at)} came after its window had closed (watermarkDelay {format_duration(delay)})"
        return self.dead_letter(Rejected(message, Reason.LATE, text, at))

    def _from_the_future(self, message: int, at: int) -> Rejected:
        skew = format_duration(self.me.monitor.spec.window.max_clock_skew)
        kafka = rfc3339(int(self.timestamps[message]))
        text = f"event time {rfc3339(at)} is ahead of Kafka's timestamp {kafka} by more than maxClockSkew ({skew})"
        return Rejected(message, Reason.FUTURE, text, at)

    def dead_letter(self, one: Rejected) -> bytes:
        """The JSON of a dead letter."""
        me, batch, i = self.me, self.batch, one.message
        partition, offset = batch["partition"][i].as_py(), batch["offset"][i].as_py()
        key, value = batch["key"][i].as_py(), batch["value"][i].as_py()
        size, most = len(value or b""), me.monitor.spec.kafka.largest_message
        record = DeadLetter(
            id=f"{self.among.name}/{partition}/{offset}/deadletter",
            model=me.model,
            model_version=me.monitor.spec.model.version,
            detected_at=self.now,
            reason=one.reason.value,
            message=one.text,
            topic=self.among.topic,
            partition=partition,
            offset=offset,
            timestamp=rfc3339(int(self.timestamps[i])),
            event_time=None if one.time is None else rfc3339(one.time),
            key=None if key is None else base64.b64encode(key).decode(),
            value=None if value is None else base64.b64encode(value[:most]).decode(),
            size=size,
        )
        return _encode(record)


@dataclass(frozen=True, slots=True)
class _Segmented:
    """Rows that are put into segments."""

    rows: Rows
    tables: dict[Table, Block]
    keys: NDArray[np.uint64]
    times: NDArray[np.int64]
    flagged: NDArray[np.bool_]
    """(rows,) whether at least one outlier detector flags it."""
    predictions: NDArray[np.float64] | None


def predicted(
    among: Among,
    me: Worker,
    start: int,
    values: NDArray[np.float64],
    keys: NDArray[np.uint64],
    times: NDArray[np.int64],
) -> Predicted:
    """Predictions of one pane.

    Parameters
    ----------
    me
        Of the segment.
    values
        (n, width) as `Worker.predictions` gives them.
    """
    yardstick = me.yardstick
    assert yardstick is not None  # else nothing waits
    counts = None if yardstick.reference is None else yardstick.reference.count(yardstick.told(values))
    waits = among.governed(times)
    return Predicted(start if me.every is None else int(times.min()), len(values), counts, keys[waits], values[waits])


class _Labels:
    """The folding of the labels of a model. They do not move its clocks: when the truth is known says nothing of its requests."""

    def __init__(self, model: Watched) -> None:
        self.model = model
        self.segments = {
            name: None for term in model.terms if term.me.segmentation for name in term.me.segmentation.names()
        }

    def run(self, fold: _Fold) -> _Folded:
        """Labels as rows for all keys of the model: a label does not know of which segment its prediction is."""
        me, batch = self.model.newest, fold.batch
        if me.yardstick is None:  # nobody asks for performance any more
            return fold.out
        decoder = LabelDecoder(me.monitor.spec.kafka.max_message_bytes)
        found = decoder.decode(batch["value"], fold.timestamps)
        for one in found.rejected:
            fold.dead(one)
        if len(found.keys):
            values = me.yardstick.labels(found.values)
            bare = packed_labels(found.keys, values, [])
            fold.out.crossing.append((LABELS, ALL, 0, packed_labels(found.keys, values, self._letters(found, fold))))
            fold.out.crossing += [(LABELS, segment, 0, bare) for segment in self.segments]
        return fold.out

    def _letters(self, found: DecodedLabels, fold: _Fold) -> list[bytes]:
        """For each label what is told of it when its prediction does not come."""
        batch, name = fold.batch, fold.among.name
        columns = [batch[column].take(pa.array(found.message)).to_pylist() for column in ("partition", "offset", "key")]
        begins = np.searchsorted(found.message, found.message).tolist()
        ends = np.searchsorted(found.message, found.message, side="right").tolist()
        values = batch["value"]
        letters = []
        for i, (partition, offset, key, message, time_) in enumerate(
            zip(*columns, found.message.tolist(), found.times.tolist(), strict=True)
        ):
            value, place = values[message].as_py(), None
            if ends[i] - begins[i] > 1:
                place = i - begins[i]
                value = alone(value, place, found.values[i])
            kafka = int(fold.timestamps[message])
            letters.append(Letter(name, partition, offset, place, kafka, time_, key, value).to_bytes())
        return letters


def groups(of: NDArray[Any], among: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each value that occurs among the given places, with its places in ascending order."""
    order = among[np.argsort(of[among], kind="stable")]
    values = of[order]
    cuts = np.flatnonzero(values[1:] != values[:-1]) + 1
    for places in np.split(order, cuts):
        if len(places):
            yield int(of[places[0]]), places


def _of(rows: Rows, good: NDArray[np.bool_]) -> Rows:
    """The rows of the good messages."""
    kept = np.flatnonzero(good[rows.message])
    return rows.take(kept)


def _value(block: Block, row: int, column: int) -> float | str | None:
    """A cell as a record shows it: null where missing, the token's text where it is not finite."""
    numeric = block.numeric.shape[1]
    if column >= numeric:
        codes = block.categorical[column - numeric]
        code = int(codes.codes[row])
        return None if code < 0 else codes.values[code]
    value = float(block.numeric[row, column])
    if math.isfinite(value):
        return value
    return None if block.missing[row, column] else str(value)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _records(model: str, records: list[tuple[str, bytes, int | None]]) -> pa.RecordBatch:
    """Finished records, on their way through."""
    topics, bodies, reasons = zip(*records, strict=True)
    return _rows(model, RECORD, topics=topics, bodies=bodies, numbers=reasons)


def _summaries(model: str, total: _Folded) -> Iterator[pa.RecordBatch]:
    """The partial summaries, clocks and predictions that a task leaves behind."""
    total.pack()
    if total.predicted:
        yield _predictions(model, total)
    for kind in (PANE, LATE):
        mine = [(*place, body) for one, place, body in total.packed if one == kind]
        if mine:
            segments, editions, starts, bodies = zip(*mine, strict=True)
            yield _rows(model, kind, segments=segments, numbers=editions, times=starts, bodies=bodies)
    if total.newest:
        yield _rows(model, CLOCK, times=list(total.newest.values()), numbers=list(total.newest))


def _predictions(model: str, total: _Folded) -> pa.RecordBatch:
    """Predictions that wait for their labels; no more is held of them."""
    sums = {place: functools.reduce(operator.add, some) for place, some in total.predicted.items()}
    total.predicted.clear()
    segments, editions, _ = zip(*sums, strict=True)
    times, bodies = [one.time for one in sums.values()], [one.packed() for one in sums.values()]
    return _rows(model, PREDICTIONS, segments=segments, numbers=editions, times=times, bodies=bodies)


def _crossing(model: str, rows: list[tuple[int, str, int, bytes]]) -> pa.RecordBatch:
    """Labels, and requests and responses without each other, on their way to the keys of their model."""
    kinds, segments, editions, bodies = zip(*rows, strict=True)
    return _rows(model, kinds, segments=segments, numbers=editions, times=[0] * len(bodies), bodies=bodies)


def _rows(
    model: str,
    kind: int | Sequence[int],
    *,
    segments: Sequence[str] | None = None,
    times: Sequence[int] | None = None,
    numbers: Sequence[int | None] | None = None,
    topics: Sequence[str] | None = None,
    bodies: Sequence[bytes] | None = None,
) -> pa.RecordBatch:
    n = len(next(given for given in (times, numbers, topics, bodies) if given is not None))
    kinds = [kind] * n if isinstance(kind, int) else kind
    columns = [[model] * n, segments or [ALL] * n, kinds, times, numbers, topics, bodies]
    arrays = [
        pa.nulls(n, part.type) if column is None else pa.array(column, part.type)
        for column, part in zip(columns, _ARROW, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=_ARROW)
