"""Skeletons: what messages of one client have in common, learned from one of them and looked for in all others.

Clients print JSON with the same keys in the same order and the same white space. A skeleton is that: literal bytes, and
holes for the id, the time and the values. A message fits when the literals stand where they must and every hole holds
one whole JSON token (or a plain text, or rows of tokens); then it *is* the sample with other tokens in the holes, and
means what the sample means. No message is ever parsed together with its neighbours, so none can bleed into another.
Whatever does not fit is left to `streaming.protocol`; a skeleton decides how fast a message is read, never what it says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reference.schema import Schema
from streaming.protocol import LONGEST_ID, Kind
from streaming.tokens import Bools, Floats, Ints, Text, Vocabulary, joined, milliseconds_of, numbers, texts, times

Role = Literal["id", "seconds", "rfc3339", "text", "number", "cell", "rows"]


@dataclass(frozen=True, slots=True)
class Hole:
    """A place where messages differ."""

    role: Role
    cell: tuple[int, int] = (0, 0)
    """(instance, column of the schema) of a `cell`."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How the literals and holes of a skeleton follow one another; what makes two skeletons the same."""

    kind: Kind
    literals: tuple[bytes, ...]
    """One more than holes."""
    holes: tuple[Hole, ...]
    instances: int
    """How many each message has; 0 where `rows` may hold any number."""
    brackets: bool
    """Whether each of the `rows` is in brackets of its own."""


@dataclass(frozen=True, slots=True)
class Matched:
    """Messages that fit a skeleton; `messages` index the chunk, ascending, and the rows index `messages`."""

    kind: Kind
    messages: Ints
    ids: pa.BinaryArray | None
    """None where the ids are not in the value."""
    times: Ints | None
    """None where the times are not in the value."""
    row_message: Ints
    row_instance: Ints
    numeric: Floats
    missing: Bools
    codes: tuple[NDArray[np.int32], ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some messages of a batch, their values side by side with padding behind."""

    text: Text
    starts: Ints
    ends: Ints


@dataclass(slots=True)
class Skeleton:
    """One shape, with the schema that its cells belong to."""

    shape: Shape
    schema: Schema
    _lengths: list[int] = field(default_factory=list)
    """How long each hole was in most messages so far: the first guess; -1 where guessing does not pay."""

    def match(self, chunk: Chunk, candidates: Ints, words: Sequence[Vocabulary]) -> tuple[Matched | None, Ints]:
        """The candidates that fit, decoded, and those that do not."""
        located = self._locate(chunk, candidates)
        if located is None:
            return None, candidates
        at, starts, ends = located
        good = np.ones(len(at), np.bool_)
        ids = moments = None
        cells: list[int] = []
        rows: _Rows | None = None
        for index, hole in enumerate(self.shape.holes):
            first, last = starts[index], ends[index]
            if hole.role == "id":
                ids, ok = texts(chunk.text, first, last)
                size = last - first
                good &= ok & (size > 0) & (size <= LONGEST_ID)  # of more bytes, the slow way counts characters
            elif hole.role == "seconds":
                moments, ok = milliseconds_of(numbers(chunk.text, first, last))
                head = chunk.text.bytes[first]
                good &= ok & (head != 116) & (head != 102)  # true and false are numbers of a column, not times
            elif hole.role == "rfc3339":
                copied, ok = texts(chunk.text, first, last)
                moments, fine = times(copied)
                good &= ok & fine
            elif hole.role == "text":
                good &= texts(chunk.text, first, last)[1]
            elif hole.role == "number":
                good &= numbers(chunk.text, first, last).ok
            elif hole.role == "rows":
                rows = self._read_rows(chunk.text, first, last, words)
            else:
                cells.append(index)
        if rows is None:
            rows = self._read_cells(chunk.text, starts, ends, cells, words)
        good[rows.bad] = False
        return self._matched(at, good, ids, moments, rows), _without(candidates, at if good.all() else at[good])

    def _matched(self, at: Ints, good: Bools, ids: pa.BinaryArray | None, times: Ints | None, rows: "_Rows") -> Matched:
        kind = self.shape.kind
        if good.all():
            return Matched(kind, at, ids, times, rows.message, rows.instance, rows.numeric, rows.missing, rows.codes)
        keep = good[rows.message]
        renumbered = np.cumsum(good) - 1
        return Matched(
            kind,
            at[good],
            None if ids is None else ids.filter(pa.array(good)),
            None if times is None else times[good],
            renumbered[rows.message[keep]],
            rows.instance[keep],
            rows.numeric[keep],
            rows.missing[keep],
            tuple(codes[keep] for codes in rows.codes),
        )

    # Where the holes are ----------------------------------------------------------------------------------------------

    def _locate(self, chunk: Chunk, candidates: Ints) -> tuple[Ints, list[Ints], list[Ints]] | None:
        """The candidates in which all literals are found, and where each hole of theirs begins and ends."""
        literals = self.shape.literals
        holes = len(self.shape.holes)
        if len(self._lengths) != holes:
            self._lengths = [0] * holes
        at = candidates
        begin, end = chunk.starts[at], chunk.ends[at]
        room = sum(map(len, literals))
        fits = end - begin >= room
        fits &= _stands(chunk.text, begin, literals[0])
        tail = end - len(literals[-1])
        fits &= _stands(chunk.text, np.maximum(tail, begin), literals[-1])
        if not fits.all():
            at, begin, tail = at[fits], begin[fits], tail[fits]
        starts: list[Ints] = []
        ends: list[Ints] = []
        begin = begin + len(literals[0])
        for index in range(holes - 1):
            if not at.size:
                return None
            stop = self._find(chunk.text, begin, tail, index)
            starts.append(begin)
            ends.append(stop)
            found = stop >= 0
            if not found.all():
                at, tail = at[found], tail[found]
                starts, ends = [one[found] for one in starts], [one[found] for one in ends]
            begin = ends[-1] + len(literals[index + 1])
        starts.append(begin)
        ends.append(tail)
        fits = begin <= tail
        if not fits.all():
            at, starts, ends = at[fits], [one[fits] for one in starts], [one[fits] for one in ends]
        return (at, starts, ends) if at.size else None

    def _find(self, text: Text, begin: Ints, limit: Ints, index: int) -> Ints:
        """Where the literal behind hole `index` stands; -1 where it does not before `limit`."""
        literal = self.shape.literals[index + 1]
        stop = np.full(len(begin), -1, np.int64)
        left = np.arange(len(begin))
        guess = self._lengths[index]
        if guess > 0:
            tried = np.minimum(begin + guess, limit)
            right = _stands(text, tried, literal) & (tried + len(literal) <= limit)
            if right.all():
                return tried
            stop[right] = tried[right]
            left = np.flatnonzero(~right)
        from_ = begin[left]
        inside = from_ <= limit[left]
        left, from_ = left[inside], from_[inside]
        if left.size:
            pieces = text.pieces(from_, limit[left])
            found = pc.find_substring(pieces, literal).fill_null(-1).to_numpy()[::2]
            stop[left] = np.where(found >= 0, from_ + found, -1)
            if guess >= 0 and len(begin) >= 64:
                lengths = (stop - begin)[stop >= 0]
                usual = int(lengths[lengths.size // 2]) if lengths.size else 0
                self._lengths[index] = usual if 2 * np.count_nonzero(lengths == usual) > len(begin) else -1
        return stop

    # What is in them --------------------------------------------------------------------------------------------------

    def _read_rows(self, text: Text, starts: Ints, ends: Ints, words: Sequence[Vocabulary]) -> "_Rows":
        """Rows of tokens: ``[1,2],[3,4]``, or ``1,2,3`` without brackets."""
        from detectors.statistics import compiled

        if compiled.HERE and not self.schema.categorical:
            return self._scan_rows(text, starts, ends, words)
        return self._cut_rows(text, starts, ends, words)

    def _scan_rows(self, text: Text, starts: Ints, ends: Ints, words: Sequence[Vocabulary]) -> "_Rows":
        """Rows of plain numbers, read in one pass; those of a message that has anything else are cut into tokens."""
        from streaming import scanned

        width, wanted = len(self.schema), self.shape.instances
        most = wanted * len(starts)
        if not wanted:  # a row has a comma behind each of its numbers, but the last of a message has none
            region = text.bytes[int(starts[0]) : int(ends[-1])]
            most = (int(np.count_nonzero(region == 44)) + len(starts)) // width
        found = np.empty((width, most))
        lengths = np.empty(len(starts), np.int64)
        scanned.rows(text.bytes, starts, ends, wanted, self.shape.brackets, found, lengths)
        read = np.flatnonzero(lengths > 0)
        message, instance = _numbered(read, lengths[read])
        count = len(message)
        scan = _Rows(message, instance, found[:, :count].T, np.zeros((width, count), np.bool_).T, (), lengths < 0)
        odd = np.flatnonzero(lengths < 0)
        if not len(odd):
            return scan
        cut = self._cut_rows(text, starts[odd], ends[odd], words)
        message = np.concatenate((scan.message, odd[cut.message]))
        order = np.argsort(message, kind="stable")
        bad = np.zeros(len(starts), np.bool_)
        bad[odd] = cut.bad
        return _Rows(
            message[order],
            np.concatenate((scan.instance, cut.instance))[order],
            np.concatenate((scan.numeric, cut.numeric))[order],
            np.concatenate((scan.missing, cut.missing))[order],
            (),
            bad,
        )

    def _cut_rows(self, text: Text, starts: Ints, ends: Ints, words: Sequence[Vocabulary]) -> "_Rows":
        """Rows of any tokens, cut at their commas."""
        width, brackets, wanted = len(self.schema), self.shape.brackets, self.shape.instances
        which = np.arange(len(starts))
        regions = text.pieces(starts, ends)
        while True:
            inner, bounds = joined(regions)
            commas = np.flatnonzero(inner.bytes == 44)
            counts = _commas_of_each(commas, bounds[::2])
            odd = (counts % width != 0) if not wanted else counts != wanted * width
            if not odd.any():
                break
            which, counts = which[~odd], counts[~odd]
            regions = text.pieces(starts[which], ends[which])
        first = np.empty_like(commas)
        first[:1] = 0
        first[1:] = commas[:-1] + 1
        if not commas.size:
            return self._rows(inner, first, commas, which, counts, np.ones(len(starts), np.bool_), words)
        spaced = inner.bytes[first] == 32
        if spaced.any():
            first += spaced
        last = commas
        bad = np.ones(len(starts), np.bool_)
        bad[which] = False
        if brackets:
            last = commas.copy()
            inside = (inner.bytes[first[::width]] == 91) & (inner.bytes[last[width - 1 :: width] - 1] == 93)
            if not inside.all():
                bad[np.repeat(which, counts // width)[~inside]] = True
            first[::width] += inside  # nothing moves in bad rows, so no piece ends before it begins
            last[width - 1 :: width] -= inside
        return self._rows(inner, first, last, which, counts, bad, words)

    def _rows(
        self, text: Text, starts: Ints, ends: Ints, which: Ints, counts: Ints, bad: Bools, words: Sequence[Vocabulary]
    ) -> "_Rows":
        width = len(self.schema)
        message, instance = _numbered(which, counts // width)
        shape = (len(message), width)
        numeric, missing, codes, ok = self._values(text, starts.reshape(shape), ends.reshape(shape), words)
        if not ok.all():
            bad[message[~ok]] = True
        return _Rows(message, instance, numeric, missing, codes, bad)

    def _values(
        self, text: Text, starts: Ints, ends: Ints, words: Sequence[Vocabulary]
    ) -> tuple[Floats, Bools, tuple[NDArray[np.int32], ...], Bools]:
        """(rows, columns of the schema) tokens as numeric values, what is missing of them, codes; and (rows,) ok."""
        rows, width = starts.shape
        schema = self.schema
        if not schema.categorical:
            read = numbers(text, starts.reshape(-1), ends.reshape(-1), dense=True)
            ok: Bools = np.ones(rows, np.bool_)
            if not read.ok.all():
                ok = np.all(read.ok.reshape(rows, width), axis=1)
            return read.values.reshape(rows, width), read.missing.reshape(rows, width), (), ok
        places = [i for i, column in enumerate(schema.columns) if column.type == "numeric"]
        shape = (rows, len(places))
        read = numbers(text, starts[:, places].reshape(-1), ends[:, places].reshape(-1))
        ok = np.all(read.ok.reshape(shape), axis=1)
        codes = []
        for place, vocabulary in zip(_categorical_places(schema), words, strict=True):
            column, fine = vocabulary.read(text, starts[:, place], ends[:, place])
            codes.append(column)
            ok &= fine
        return read.values.reshape(shape), read.missing.reshape(shape), tuple(codes), ok

    def _read_cells(
        self, text: Text, starts: list[Ints], ends: list[Ints], which: list[int], words: Sequence[Vocabulary]
    ) -> "_Rows":
        """Holes with one token each; a cell without a hole is missing."""
        schema, instances = self.schema, self.shape.instances
        count = len(starts[0])
        numeric_places = {name.name: i for i, name in enumerate(schema.numeric)}
        categorical_places = {name.name: i for i, name in enumerate(schema.categorical)}
        numeric = np.full((count, instances, len(schema.numeric)), np.nan)
        missing = np.ones(numeric.shape, np.bool_)
        codes = [np.full((count, instances), -1, np.int32) for _ in schema.categorical]
        ok = np.ones(count, np.bool_)
        cells = [self.shape.holes[index].cell for index in which]
        typed = [schema.columns[column].type for _, column in cells]
        chosen = [i for i, type_ in enumerate(typed) if type_ == "numeric"]
        if chosen:
            read = numbers(
                text,
                np.stack([starts[which[i]] for i in chosen], axis=1).reshape(-1),
                np.stack([ends[which[i]] for i in chosen], axis=1).reshape(-1),
            )
            shape = (count, len(chosen))
            places = [numeric_places[schema.names[cells[i][1]]] for i in chosen]
            target = (slice(None), [cells[i][0] for i in chosen], places)
            numeric[target] = read.values.reshape(shape)
            missing[target] = read.missing.reshape(shape)
            ok &= read.ok.reshape(shape).all(axis=1)
        for i, type_ in enumerate(typed):
            if type_ == "categorical":
                instance, column = cells[i]
                place = categorical_places[schema.names[column]]
                codes[place][:, instance], fine = words[place].read(text, starts[which[i]], ends[which[i]])
                ok &= fine
        rows = count * instances
        return _Rows(
            np.repeat(np.arange(count), instances),
            np.tile(np.arange(instances), count),
            numeric.reshape(rows, len(schema.numeric)),
            missing.reshape(rows, len(schema.numeric)),
            tuple(one.reshape(-1) for one in codes),
            ~ok,
        )


@dataclass(frozen=True, slots=True)
class _Rows:
    message: Ints
    instance: Ints
    numeric: Floats
    missing: Bools
    codes: tuple[NDArray[np.int32], ...]
    bad: Bools
    """(located messages,)"""


def _numbered(messages: Ints, lengths: Ints) -> tuple[Ints, Ints]:
    """For each row the message that it is of, and its number in it."""
    begins = np.cumsum(lengths) - lengths
    message = np.repeat(messages, lengths)
    return message, np.arange(len(message)) - np.repeat(begins, lengths)


def _commas_of_each(commas: Ints, bounds: Ints) -> Ints:
    """How many commas lie between each bound and the next; each of these stretches ends with one."""
    each, rest = divmod(len(commas), max(len(bounds) - 1, 1))
    if not rest and each and bool((commas[each - 1 :: each] == bounds[1:] - 1).all()):
        return np.full(len(bounds) - 1, each)
    return np.diff(np.searchsorted(commas, bounds))


def _categorical_places(schema: Schema) -> list[int]:
    return [i for i, column in enumerate(schema.columns) if column.type == "categorical"]


def _without(candidates: Ints, taken: Ints) -> Ints:
    """The candidates that are not taken; both ascending."""
    if len(candidates) == len(taken):
        return candidates[:0]
    keep = np.ones(len(candidates), np.bool_)
    keep[np.searchsorted(candidates, taken)] = False
    return candidates[keep]


def _stands(text: Text, at: Ints, literal: bytes) -> Bools:
    """Whether the literal stands at each place, compared eight bytes at a time.

    A place may be anywhere up to the end of the last message: a comparison that runs out of its message is the caller's
    to rule out.
    """
    data = text.bytes
    size = len(literal)
    if len(data) < size + 8:
        return np.zeros(len(at), np.bool_)
    at = np.minimum(at, len(data) - max(size, 8))
    if size < 8:
        same = np.ones(len(at), np.bool_)
        for offset, byte in enumerate(literal):
            same &= data[at + offset] == byte
        return same
    eights: NDArray[np.uint64] = np.ndarray((len(data) - 7,), np.dtype("<u8"), data.data, 0, (1,))
    same = np.ones(len(at), np.bool_)
    for offset in [*range(0, size - 8, 8), size - 8]:
        same &= eights[at + offset] == int.from_bytes(literal[offset : offset + 8], "little")
    return same
