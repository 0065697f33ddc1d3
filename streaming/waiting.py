"""Predictions that wait for their labels, and labels that wait for their predictions, at one key of the stateful operator.

A label finds its prediction by their key (`streaming.identity`), whenever the two come: a symmetric hash join. New labels are looked up
among all predictions, new predictions among the labels that wait already, so no pair is tried twice. Which pairs are found does not
depend on how the stream was cut into batches, nor on which of the two came first. Of predictions with one key the first counts, of labels
the first, too. But where a request id comes again in another bin (below), those are two predictions, and which of them a label meets
depends on when it comes.

Spark's map state costs about 0.1 ms a value from Python, whatever its size. So predictions lie in *parts*: arrays of at most 1 MiB,
sorted by key, one written a batch, many small ones merged into few. Parts lie in *bins*, 64 to the retention, by the start of the pane of
their predictions. A prediction takes 8 bytes for its key, 1 or 2 for its pane, 4 or 8 for each value, and an eighth for the mark that it
has its label. Once half of a part is labelled, it keeps only keys of those: 8 bytes, until the bin goes, by which a second label of the
same prediction is recognised. The index of parts, about 10 bytes each, is the caller's to keep.

References
----------
Wilschut & Apers (1991), Dataflow query execution in a parallel main-memory environment, PDIS: the symmetric hash join.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["Counts", "Index", "Pairs", "Round", "State", "Terms", "Waiting"]

LARGEST = 1 << 20
"""Bytes of a part: a larger one is split. One of less than half of it is small."""
MOST_SMALL = 8
"""More small parts than these in a row are merged."""
BINS = 64
"""To the retention of predictions, and to the wait of labels: nothing goes before its time, nor later than a bin after it."""
_COUNTED = 1 << 22
"""When a bin of more rows goes, a prediction that came twice is counted twice."""
_PREDICTIONS, _MARKS, _LABELS, _LETTERS = range(4)
_NEVER = -(2**62)

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Values = NDArray[np.floating[Any]]


class State(Protocol):
    """What is asked of a map state, by a kind and a number."""

    def getValue(self, key: tuple[int, int]) -> tuple[bytes]: ...  # noqa: D102, N802 - Spark's name
    def updateValue(self, key: tuple[int, int], value: tuple[bytes]) -> None: ...  # noqa: D102, N802
    def removeKey(self, key: tuple[int, int]) -> None: ...  # noqa: D102, N802


class Counts(msgspec.Struct, array_like=True):
    """What has happened since the caller last set them to zero."""

    matched: int = 0
    """Labels that found their prediction."""
    duplicates: int = 0
    """Labels of a prediction that has one already, or for which an earlier one waits: ignored."""
    repeated: int = 0
    """Predictions whose key another one of the same bin has: ignored. Noticed when their parts are merged, or when the bin goes."""
    unlabelled: int = 0
    """Predictions that went without a label."""
    unmatched: int = 0
    """Labels that went without a prediction."""


class Part(msgspec.Struct, array_like=True):
    """One part of the predictions of a bin."""

    number: int
    rows: int
    """Predictions with values."""
    marked: int
    """Those among them that have their label."""
    done: int
    """Predictions of which only the key is kept: they have their label."""
    size: int
    """Bytes."""
    fresh: bool = True
    """Whether no round has looked at it."""


class Bin(msgspec.Struct, array_like=True):
    """Predictions of neighbouring panes."""

    last: int = _NEVER
    """Start of the newest pane, ms."""
    parts: list[Part] = []
    """In the order in which they came."""


class Heap(msgspec.Struct, array_like=True):
    """One part of the labels of a bin."""

    number: int
    rows: int
    """Labels that wait."""
    letters: int
    """Dead letters that are kept; those of labels that have found their prediction may be among them."""
    size: int
    """Bytes."""
    fresh: bool = True
    """Whether no round has looked at it."""


class Index(msgspec.Struct, array_like=True):
    """What must be kept beside the map state, with the head of the key. Its version is the first field."""

    version: int = 1
    shape: tuple[int, int] = (0, 0)
    """How many values a prediction has, and bytes of each."""
    next: int = 0
    """Number of the next part."""
    before: int = _NEVER
    """Predictions of earlier panes are let go when they come, ms."""
    predictions: dict[int, Bin] = {}
    """Start of a bin, event time in ms -> its predictions."""
    labels: dict[int, list[Heap]] = {}
    """Start of a bin, processing time in ms -> parts of its labels, in the order in which they came."""
    counts: Counts = msgspec.field(default_factory=Counts)


@dataclass(frozen=True, slots=True)
class Terms:
    """What may wait, and how long."""

    retention: int
    """How long a prediction waits for its label, event time in ms. Bins are a 64th of it; `Waiting.round` is told when it is over."""
    label_wait: int
    """How long a label waits for its prediction, processing time in ms."""
    width: int = 1
    """How many values a prediction has."""
    double: bool = False
    """Whether they are kept in 64 bits, not 32."""
    most_labels: int = 1_000_000
    """More of them do not wait: the oldest part goes, by parts of at most 1 MiB."""
    most_label_bytes: int = 1 << 28
    """The same for bytes, of which dead letters are the most."""
    most_predictions: int = 100_000_000
    """More of them do not wait: the oldest part goes."""

    @property
    def dtype(self) -> np.dtype[np.floating[Any]]:
        """Of the values."""
        return np.dtype(np.float64 if self.double else np.float32)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Predictions of one pane with their labels, by key."""

    keys: Keys
    """(pairs,) ascending."""
    values: Values
    """(pairs, width)"""
    labels: NDArray[np.float64]
    """(pairs,)"""


@dataclass(frozen=True, slots=True)
class Round:
    """What a round found."""

    pairs: dict[int, Pairs] = field(default_factory=dict)
    """Start of a pane -> its predictions that have found their labels just now; panes ascend."""
    letters: list[bytes] = field(default_factory=list)
    """Dead letters of labels that have waited long enough, or were too many."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """A part of predictions in memory."""

    keys: Keys
    """(rows,) ascending, each once."""
    panes: Ints
    """(rows,) start of the pane, ms."""
    values: Values
    """(rows, width)"""
    marks: Bools
    """(rows,) which have their label."""
    done: Keys
    """(done,) ascending, each once; none of `keys`."""

    @classmethod
    def first_of(cls, keys: Keys, panes: Ints, values: Values) -> "_Rows":
        """New predictions; of equal keys the first."""
        order = np.argsort(keys, kind="stable")
        order = order[_firsts(keys[order])]
        return cls(keys[order], panes[order], values[order], np.zeros(len(order), np.bool_), np.empty(0, np.uint64))

    @classmethod
    def merged(cls, parts: "Sequence[_Rows]") -> "_Rows":
        """The parts as one; of equal keys the first, in the order of parts."""
        keys = np.concatenate([keys for part in parts for keys in (part.keys, part.done)])
        done = np.concatenate([flags for part in parts for flags in (part.marks, np.ones(len(part.done), np.bool_))])
        # Where the values of each are; nowhere for those that have only a key.
        places = np.concatenate(
            [
                places
                for part, end in zip(parts, np.cumsum([len(part.keys) for part in parts]).tolist(), strict=True)
                for places in (np.arange(end - len(part.keys), end), np.full(len(part.done), -1))
            ]
        )
        order = np.argsort(keys, kind="stable")
        order = order[_firsts(keys[order])]
        waiting, over = order[~done[order]], order[done[order]]
        rows = places[waiting]
        return cls(
            keys[waiting],
            np.concatenate([part.panes for part in parts])[rows],
            np.concatenate([part.values for part in parts])[rows],
            np.zeros(len(rows), np.bool_),
            keys[over],
        )

    def thinned(self) -> "_Rows":
        """Without the values of those that have their label."""
        kept = ~self.marks
        done = np.sort(np.concatenate((self.done, self.keys[self.marks])))
        return _Rows(self.keys[kept], self.panes[kept], self.values[kept], np.zeros(int(kept.sum()), np.bool_), done)

    def bare(self) -> "_Rows":
        """Without any values."""
        return replace(self, values=np.empty((len(self.keys), 0), self.values.dtype))

    def split(self, largest: int) -> "Iterator[_Rows]":
        """Ranges of keys that take about so many bytes each, or fewer."""
        size = len(self.keys) * (10 + self.values.itemsize * self.values.shape[1]) + 8 * len(self.done)
        pieces = -(-size // largest)
        if pieces <= 1:
            if size:
                yield self
            return
        keys = np.sort(np.concatenate((self.keys, self.done)))
        bounds = keys[np.arange(1, pieces) * len(keys) // pieces]
        cuts = [0, *np.searchsorted(self.keys, bounds).tolist(), len(self.keys)]
        ends = [0, *np.searchsorted(self.done, bounds).tolist(), len(self.done)]
        for i in range(pieces):
            of, over = slice(cuts[i], cuts[i + 1]), slice(ends[i], ends[i + 1])
            yield _Rows(self.keys[of], self.panes[of], self.values[of], self.marks[of], self.done[over])

    def packed(self) -> bytes:
        """Without marks."""
        starts, codes = np.unique(self.panes, return_inverse=True)
        bits = 1 if len(starts) <= 1 << 8 else 2 if len(starts) <= 1 << 16 else 4
        arrays = (self.keys, starts, codes.astype(f"u{bits}"), self.values, self.done)
        return msgspec.msgpack.encode((bits, *(array.tobytes() for array in arrays)))

    @classmethod
    def unpacked(cls, data: bytes, marks: bytes | None, terms: Terms) -> "_Rows":
        """What `packed` gave, and its marks."""
        bits, keys, starts, codes, values, done = _decode_rows(data)
        of_rows = np.frombuffer(keys, np.uint64)
        n = len(of_rows)
        flags = np.zeros(n, np.bool_) if marks is None else np.unpackbits(np.frombuffer(marks, np.uint8), count=n) > 0
        return cls(
            of_rows,
            np.frombuffer(starts, np.int64)[np.frombuffer(codes, f"u{bits}")],
            np.frombuffer(values, terms.dtype).reshape(n, terms.width),
            flags,
            np.frombuffer(done, np.uint64),
        )


_decode_rows = msgspec.msgpack.Decoder(tuple[int, bytes, bytes, bytes, bytes, bytes]).decode


@dataclass(frozen=True, slots=True)
class _Labels:
    """A part of labels in memory, in the order in which they came."""

    keys: Keys
    """(labels,)"""
    values: NDArray[np.float64]
    """(labels,)"""
    rows: NDArray[np.uint32]
    """(labels,) which of the part's dead letters is whose."""

    def take(self, rows: Ints | Bools) -> "_Labels":
        """Some of them."""
        return _Labels(self.keys[rows], self.values[rows], self.rows[rows])

    def packed(self) -> bytes:
        """As state keeps it."""
        return msgspec.msgpack.encode((self.keys.tobytes(), self.values.tobytes(), self.rows.tobytes()))

    @classmethod
    def unpacked(cls, data: bytes) -> "_Labels":
        """What `packed` gave."""
        keys, values, rows = _decode_labels(data)
        return cls(np.frombuffer(keys, np.uint64), np.frombuffer(values), np.frombuffer(rows, np.uint32))


_decode_labels = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes]).decode
_decode_letters = msgspec.msgpack.Decoder(list[bytes]).decode


class Waiting:
    """What waits at one key, for the length of one batch. Nothing new is in the state before `write`.

    Parameters
    ----------
    state
        Map from (kind, part) to bytes; used for nothing else.
    index
        Its index, changed in place.
    terms
        What may wait, and how long. With another shape of the values than before, what waits is let go.
    now
        Processing time, ms.
    """

    def __init__(self, state: State, index: Index, terms: Terms, now: int) -> None:
        self._state, self._index, self._terms, self._now = state, index, terms, now
        self._new: dict[int, _Rows] = {}
        """Number -> a part that is not in the state yet."""
        self._touched: set[int] = set()
        """Bins whose parts may have to be merged."""
        self._labels: list[tuple[_Labels, list[bytes]]] = []
        """New labels."""
        shape = (terms.width, 8 if terms.double else 4)
        if index.shape != shape:
            for start in list(index.predictions):
                self._let_go(start, exactly=False)
            index.shape = shape

    # What comes -------------------------------------------------------------------------------------------------------

    def predict(self, panes: Ints, keys: Keys, values: Values) -> None:
        """Predictions that are to wait.

        Parameters
        ----------
        panes
            (n,) start of the pane of each, ms.
        keys
            (n,) `identity.instance_keys`.
        values
            (n, width)
        """
        values = np.ascontiguousarray(values, self._terms.dtype)
        late = panes < self._index.before
        if late.any():
            self._index.counts.unlabelled += int(late.sum())
            panes, keys, values = panes[~late], keys[~late], values[~late]
        if not len(keys):
            return
        length = max(self._terms.retention // BINS, 1)
        starts = panes // length * length
        for start in np.unique(starts).tolist():
            mine = starts == start
            of = slice(None) if mine.all() else mine
            rows = _Rows.first_of(keys[of], panes[of], values[of])
            self._index.counts.repeated += int(mine.sum()) - len(rows.keys)
            here = self._index.predictions.setdefault(start, Bin())
            here.last = max(here.last, int(rows.panes.max()))
            here.parts += [self._part(piece) for piece in rows.split(LARGEST)]
            self._touched.add(start)

    def label(self, keys: Keys, values: NDArray[np.float64], letters: Sequence[bytes]) -> None:
        """Labels for predictions that may have come, or may come.

        Parameters
        ----------
        keys
            (n,) `identity.instance_keys`.
        values
            (n,)
        letters
            (n,) what `Round.letters` returns of those for which no prediction comes.
        """
        if len(keys):
            rows = np.arange(len(keys), dtype=np.uint32)
            self._labels.append((_Labels(keys, np.asarray(values, np.float64), rows), list(letters)))

    # Rounds -----------------------------------------------------------------------------------------------------------

    @property
    def to_read(self) -> tuple[int, int]:
        """(values, bytes) that a round reads at most."""
        index = self._index
        parts = [part for here in index.predictions.values() for part in here.parts if part.number not in self._new]
        if not self._labels and not any(heap.fresh for heaps in index.labels.values() for heap in heaps):
            parts = [part for part in parts if part.fresh and index.labels]
        heaps = [heap for heaps in index.labels.values() for heap in heaps]
        marked = sum(part.marked > 0 for part in parts)
        return len(parts) + marked + len(heaps), sum(each.size for each in parts) + sum(
            each.rows * 20 for each in heaps
        )

    @property
    def kept_from(self) -> int:
        """No pair of an earlier pane will be found, ms."""
        return min((*self._index.predictions, self._index.before))

    @property
    def crowded(self) -> bool:
        """Whether more labels wait than may: a round is due."""
        heaps = [heap for heaps in self._index.labels.values() for heap in heaps]
        count = sum(heap.rows for heap in heaps) + sum(len(labels.keys) for labels, _ in self._labels)
        size = sum(heap.size for heap in heaps) + sum(
            map(len, chain.from_iterable(letters for _, letters in self._labels))
        )
        return count > self._terms.most_labels or size > self._terms.most_label_bytes

    def round(self, before: int = _NEVER) -> Round:
        """Find what belongs together, and let go what has waited long enough.

        Newer bins are looked at first, and none once all labels have found their predictions. A label without a prediction costs a look
        at all of them, once: so where much waits, a round now and then is cheaper than one in each batch.

        Parameters
        ----------
        before
            Predictions of earlier panes need not wait any longer, ms: the newest event time less the retention.
        """
        pairs = self._match()
        self._index.before = max(self._index.before, before)
        for start, here in sorted(self._index.predictions.items()):
            if here.last < self._index.before:
                self._let_go(start, exactly=True)
        self._keep_labels(fresh=False)
        return Round(pairs, [*self._too_old(), *self._too_many()])

    def write(self) -> None:
        """Put into the state what came and was not put there yet; to be called once, at the end."""
        self._keep_labels(fresh=True)
        self._drop_oldest()
        for start in sorted(self._touched & self._index.predictions.keys()):
            here = self._index.predictions[start]
            here.parts = _compacted(here.parts, self._merged)
            for part in here.parts:
                rows = self._new.pop(part.number, None)
                if rows is not None:
                    self._state.updateValue((_PREDICTIONS, part.number), (rows.packed(),))
        self._touched.clear()

    # Predictions ------------------------------------------------------------------------------------------------------

    def _part(self, rows: _Rows, *, fresh: bool = True) -> Part:
        number = self._next()
        self._new[number] = rows
        size = len(rows.keys) * (10 + self._terms.width * rows.values.itemsize) + 8 * len(rows.done)
        return Part(number, len(rows.keys), 0, len(rows.done), size, fresh)

    def _next(self) -> int:
        self._index.next += 1
        return self._index.next - 1

    def _rows(self, part: Part) -> _Rows:
        if part.number in self._new:
            return self._new[part.number]
        (data,) = self._state.getValue((_PREDICTIONS, part.number))
        marks = bytes(self._state.getValue((_MARKS, part.number))[0]) if part.marked else None
        return _Rows.unpacked(bytes(data), marks, self._terms)

    def _remove(self, part: Part) -> None:
        if self._new.pop(part.number, None) is None:
            self._state.removeKey((_PREDICTIONS, part.number))
            if part.marked:
                self._state.removeKey((_MARKS, part.number))

    def _mark(self, start: int, part: Part, rows: _Rows, found: Ints) -> None:
        """Note that rows of a part have their label."""
        marks = rows.marks.copy()
        marks[found] = True
        rows = replace(rows, marks=marks)
        marked = part.marked + len(found)
        if part.number in self._new or 2 * marked >= part.rows:
            thin = rows.thinned()
            if part.number in self._new:
                self._new[part.number] = thin
            else:
                self._state.updateValue((_PREDICTIONS, part.number), (thin.packed(),))
                if part.marked:
                    self._state.removeKey((_MARKS, part.number))
            part.size -= (part.rows - len(thin.keys)) * (2 + self._terms.width * rows.values.itemsize)
            part.rows, part.marked, part.done = len(thin.keys), 0, len(thin.done)
            self._touched.add(start)
        else:
            self._state.updateValue((_MARKS, part.number), (np.packbits(marks).tobytes(),))
            part.marked = marked

    def _merged(self, parts: Sequence[Part]) -> list[Part]:
        rows = _Rows.merged([self._rows(part) for part in parts])
        self._index.counts.repeated += sum(part.rows + part.done for part in parts) - len(rows.keys) - len(rows.done)
        fresh = any(part.fresh for part in parts)
        for part in parts:
            self._remove(part)
        return [self._part(piece, fresh=fresh) for piece in rows.split(LARGEST)]

    def _let_go(self, start: int, *, exactly: bool) -> None:
        """Of a bin; `exactly` counts a prediction that came twice once."""
        counts, parts = self._index.counts, self._index.predictions.pop(start).parts
        waiting, total = sum(part.rows - part.marked for part in parts), sum(part.rows + part.done for part in parts)
        if exactly and waiting and len(parts) > 1 and total <= _COUNTED:
            one = _Rows.merged([self._rows(part).bare() for part in parts])
            counts.repeated += total - len(one.keys) - len(one.done)
            waiting = len(one.keys)
        counts.unlabelled += waiting
        for part in parts:
            self._remove(part)

    def _drop_oldest(self) -> None:
        """Of the predictions, as long as there are too many."""
        predictions = self._index.predictions
        total = sum(part.rows + part.done for here in predictions.values() for part in here.parts)
        while total > self._terms.most_predictions:
            start = min(predictions)
            part = predictions[start].parts.pop(0)
            total -= part.rows + part.done
            self._index.counts.unlabelled += part.rows - part.marked
            self._remove(part)
            if not predictions[start].parts:
                del predictions[start]

    # Labels -----------------------------------------------------------------------------------------------------------

    def _match(self) -> dict[int, Pairs]:
        """Look new labels up among all predictions, and new predictions among all labels."""
        index, counts = self._index, self._index.counts
        heaps = [heap for start in sorted(index.labels) for heap in index.labels[start]]
        parts = [
            (start, part)
            for start in sorted(index.predictions, reverse=True)
            for part in index.predictions[start].parts
        ]
        new = (
            bool(self._labels)
            or any(heap.fresh for heap in heaps)
            or (bool(heaps) and any(part.fresh for _, part in parts))
        )
        found: list[tuple[Ints, Keys, Values, NDArray[np.float64]]] = []
        if new:
            held = [self._held(heap) for heap in heaps] + [labels for labels, _ in self._labels]
            sizes = [len(labels.keys) for labels in held]
            keys = np.concatenate([labels.keys for labels in held])
            labels = np.concatenate([labels.values for labels in held])
            fresh = np.repeat([*(heap.fresh for heap in heaps), *(True for _ in self._labels)], sizes)
            order = np.argsort(keys, kind="stable")
            order = order[_firsts(keys[order])]
            counts.duplicates += len(keys) - len(order)
            wanted, fresh = keys[order], fresh[order]
            left = np.ones(len(order), np.bool_)
            for start, part in parts:
                among = np.flatnonzero(left if part.fresh else left & fresh)
                if not len(among):
                    continue
                rows = self._rows(part)
                over, _ = _common(wanted[among], rows.done)
                hits, places = _common(wanted[among], rows.keys)
                marked = rows.marks[places]
                left[among[over]] = left[among[hits]] = False
                counts.duplicates += len(over) + int(marked.sum())
                hits, places = among[hits[~marked]], places[~marked]
                if len(hits):
                    found.append((rows.panes[places], wanted[hits], rows.values[places], labels[order[hits]]))
                    self._mark(start, part, rows, places)
            waits = np.zeros(len(keys), np.bool_)
            waits[order] = left
            self._keep(heaps, held, np.split(waits, np.cumsum(sizes)[:-1]))
        for _, part in parts:
            part.fresh = False
        for heap in heaps:
            heap.fresh = False
        pairs = _by_pane(found)
        counts.matched += sum(len(of_pane.keys) for of_pane in pairs.values())
        return pairs

    def _held(self, heap: Heap) -> _Labels:
        return _Labels.unpacked(bytes(self._state.getValue((_LABELS, heap.number))[0]))

    def _letters(self, heap: Heap) -> list[bytes]:
        return _decode_letters(bytes(self._state.getValue((_LETTERS, heap.number))[0]))

    def _keep(self, heaps: list[Heap], held: list[_Labels], waits: list[Bools]) -> None:
        """Of all labels those that wait on."""
        for heap, labels, wait in zip(heaps, held, waits, strict=False):
            if wait.all():
                continue
            rest = labels.take(wait)
            if not len(rest.keys):
                self._forget(heap)
            elif 2 * len(rest.keys) < heap.letters:
                letters = self._letters(heap)
                self._put(heap, rest.keys, rest.values, [letters[row] for row in rest.rows.tolist()])
            else:
                self._state.updateValue((_LABELS, heap.number), (rest.packed(),))
                heap.size -= 20 * (heap.rows - len(rest.keys))
            heap.rows = len(rest.keys)
        for start, mine in list(self._index.labels.items()):
            mine[:] = [heap for heap in mine if heap.rows]
            if not mine:
                del self._index.labels[start]
        self._labels = [
            (labels.take(wait), letters)
            for (labels, letters), wait in zip(self._labels, waits[len(heaps) :], strict=True)
            if wait.any()
        ]

    def _forget(self, heap: Heap) -> None:
        self._state.removeKey((_LABELS, heap.number))
        self._state.removeKey((_LETTERS, heap.number))

    def _put(self, heap: Heap, keys: Keys, values: NDArray[np.float64], letters: list[bytes]) -> None:
        rows = np.arange(len(keys), dtype=np.uint32)
        self._state.updateValue((_LABELS, heap.number), (_Labels(keys, values, rows).packed(),))
        self._state.updateValue((_LETTERS, heap.number), (msgspec.msgpack.encode(letters),))
        heap.rows = heap.letters = len(keys)
        heap.size = 20 * len(keys) + sum(map(len, letters))

    def _heaps(self, parts: Sequence[tuple[_Labels, list[bytes]]], *, fresh: bool) -> list[Heap]:
        """The labels, as parts of at most 1 MiB in the state."""
        keys = np.concatenate([labels.keys for labels, _ in parts])
        values = np.concatenate([labels.values for labels, _ in parts])
        letters = [mine[row] for labels, mine in parts for row in labels.rows.tolist()]
        sizes = np.cumsum([20 + len(letter) for letter in letters])
        cuts = (np.flatnonzero(np.diff((sizes - 1) // LARGEST)) + 1).tolist()
        heaps = []
        for begin, end in pairwise([0, *cuts, len(keys)]):
            heap = Heap(self._next(), 0, 0, 0, fresh)
            self._put(heap, keys[begin:end], values[begin:end], letters[begin:end])
            heaps.append(heap)
        return heaps

    def _keep_labels(self, *, fresh: bool) -> None:
        """Put new labels into the state."""
        if not self._labels:
            return
        length = max(self._terms.label_wait // BINS, 1)
        start = self._now // length * length
        mine = [*self._index.labels.get(start, ()), *self._heaps(self._labels, fresh=fresh)]
        self._index.labels[start] = _compacted(mine, self._merged_heaps)
        self._labels = []

    def _merged_heaps(self, heaps: Sequence[Heap]) -> list[Heap]:
        parts = [(self._held(heap), self._letters(heap)) for heap in heaps]
        for heap in heaps:
            self._forget(heap)
        return self._heaps(parts, fresh=any(heap.fresh for heap in heaps))

    def _too_old(self) -> Iterator[bytes]:
        """Dead letters of labels that have waited long enough."""
        length = max(self._terms.label_wait // BINS, 1)
        for start in sorted(self._index.labels):
            if start + length + self._terms.label_wait <= self._now:
                for heap in self._index.labels.pop(start):
                    yield from self._refused(heap)

    def _too_many(self) -> Iterator[bytes]:
        """Dead letters of the oldest labels, as long as there are too many."""
        while self.crowded:
            start = min(self._index.labels)
            yield from self._refused(self._index.labels[start].pop(0))
            if not self._index.labels[start]:
                del self._index.labels[start]

    def _refused(self, heap: Heap) -> list[bytes]:
        letters = self._letters(heap)
        refused = [letters[row] for row in self._held(heap).rows.tolist()]
        self._index.counts.unmatched += len(refused)
        self._forget(heap)
        return refused


_P = TypeVar("_P", Part, Heap)


def _compacted(parts: list[_P], merged: Callable[[Sequence[_P]], list[_P]]) -> list[_P]:
    """The parts in the same order, small neighbours merged once they are many, or no more can come behind them."""
    out: list[_P] = []
    run: list[_P] = []
    for part in parts:
        if 2 * part.size < LARGEST:
            run.append(part)
        else:
            out += merged(run) if len(run) > 1 else run
            out.append(part)
            run = []
    return out + (merged(run) if len(run) > MOST_SMALL else run)


def _firsts(ordered: Keys) -> Bools:
    """Which of ascending keys are not equal to the one before."""
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first


def _common(a: Keys, b: Keys) -> tuple[Ints, Ints]:
    """Where in each of two ascending arrays of distinct keys those are that both have."""
    if len(a) > len(b):
        of_b, of_a = _common(b, a)
        return of_a, of_b
    if not len(a):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    at = np.minimum(np.searchsorted(b, a), len(b) - 1)
    hits = np.flatnonzero(b[at] == a)
    return hits, at[hits]


def _by_pane(found: Sequence[tuple[Ints, Keys, Values, NDArray[np.float64]]]) -> dict[int, Pairs]:
    if not found:
        return {}
    panes, keys, values, labels = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((keys, panes))
    panes = panes[order]
    cuts = np.flatnonzero(np.diff(panes)) + 1
    return {
        int(panes[begin]): Pairs(keys[of], values[of], labels[of])
        for begin, of in zip([0, *cuts], np.split(order, cuts), strict=True)
    }
