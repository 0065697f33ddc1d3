"""Pieces of many messages, read as columns: numbers, categories, texts and times, without a Python object per value.

A piece is ``data[start:end]``. The trick throughout: an Arrow array of twice as many elements, in which the odd ones,
what lies between the pieces, are null. Arrow's kernels then read the pieces where they are, and nothing is copied.
What a kernel takes but JSON does not (``+1``, ``01``, ``.5``, ``nan``) is found with a few numpy passes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reference.category import category
from streaming.protocol import END_OF_TIME, Refused, parse_json, rfc3339_to_milliseconds

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

PADDING = 64
"""Bytes that must be readable behind the last piece of a `Text`."""
_WORDS = pa.array([b"null", b"true", b"false", b"NaN", b"Infinity", b"-Infinity"], pa.binary())
_WORD_VALUES = np.array([np.nan, 1.0, 0.0, np.nan, np.inf, -np.inf])
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$"
_ZERO = np.uint8(48)
_UNKNOWN = -2
"""Code of a token that is no value of a category."""


class Text:
    """Bytes that pieces are cut from, seen by numpy and by Arrow."""

    def __init__(self, data: pa.Buffer) -> None:
        self.data = data
        self.bytes: NDArray[np.uint8] = np.frombuffer(data, np.uint8) if data.size else np.empty(0, np.uint8)

    def pieces(self, starts: Ints, ends: Ints, valid: Bools | None = None) -> pa.BinaryArray:
        """Twice as many elements as pieces: each piece (null where it is not valid), then a null.

        ``starts[k] <= ends[k] <= starts[k + 1]`` must hold: Arrow does not look.
        """
        count = len(starts)
        offsets = np.empty(2 * count + 1, np.int32)
        offsets[0:-1:2] = starts
        offsets[1::2] = ends
        offsets[-1] = ends[-1] if count else 0
        if valid is None:
            mask = np.full((2 * count + 7) // 8, 0x55, np.uint8)
        else:
            bits = np.zeros(2 * count, np.bool_)
            bits[::2] = valid
            mask = np.packbits(bits, bitorder="little")
        return pa.Array.from_buffers(
            pa.binary(), 2 * count, [pa.py_buffer(mask), pa.py_buffer(offsets), self.data], null_count=-1
        )

    def copied(self, starts: Ints, ends: Ints) -> pa.BinaryArray:
        """The pieces alone, copied side by side."""
        return self.pieces(starts, ends).take(pa.array(np.arange(0, 2 * len(starts), 2)))


def joined(pieces: pa.BinaryArray) -> tuple[Text, Ints]:
    """The pieces one after the other, a comma behind each; and where each of them begins, and the end."""
    text = pc.binary_join_element_wise(pieces, b"", b",")
    return Text(text.buffers()[2] or pa.py_buffer(b"")), offsets_of(text)


def offsets_of(array: pa.BinaryArray) -> Ints:
    """(length + 1,) where the elements begin in the data of the array."""
    if not len(array):
        return np.zeros(1, np.int64)  # an empty array may have no buffer at all
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    return offsets.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What numeric pieces came to; the arrays are parallel."""

    values: Floats
    """NaN where missing or not ok."""
    missing: Bools
    ok: Bools
    """Whether the piece is a JSON number, a boolean, null, or one of Python's three non-finite numbers."""


def numbers(text: Text, starts: Ints, ends: Ints, *, dense: bool = False) -> Numbers:
    """The pieces as a numeric column holds them; `dense` when there is little else between the first and the last.

    Behind each piece must stand a byte that is no digit.
    """
    data = text.bytes
    count = len(starts)
    missing = np.zeros(count, np.bool_)
    if not count:
        return Numbers(np.empty(0), missing, missing)
    head = data[starts]
    minus = head == 45
    lead = starts
    if minus.any():
        lead = starts + minus
        head = data[lead]
    second = data.take(lead + 1, mode="clip")
    plain = (head - _ZERO < 10) & (data[ends - 1] - _ZERO < 10)
    padded = (head == _ZERO) & (second - _ZERO < 10)
    if padded.any():
        plain &= ~padded
    all_plain = bool(plain.all())
    ok = plain
    if _may_have_bare_dot(text, starts, ends, dense=dense):
        ok = plain & _matches(text.pieces(starts, ends), r"^[^.]*(\.[0-9][^.]*)?$")
        all_plain = all_plain and bool(ok.all())
    try:
        read = text.pieces(starts, ends, None if all_plain else ok).cast(pa.float64())
    except pa.ArrowInvalid:
        ok = ok & _matches(text.pieces(starts, ends), _NUMBER)
        all_plain = False
        read = text.pieces(starts, ends, ok).cast(pa.float64())
    values: Floats = np.frombuffer(read.buffers()[1], np.float64)[: 2 * count : 2].copy()
    if all_plain:
        return Numbers(values, missing, ok)
    values[~ok] = np.nan
    odd = np.flatnonzero(~plain)
    words = pc.index_in(text.copied(starts[odd], ends[odd]), value_set=_WORDS).fill_null(-1).to_numpy()
    known = odd[words >= 0]
    values[known] = _WORD_VALUES[words[words >= 0]]
    missing[odd[words == 0]] = True
    ok = ok.copy()
    ok[known] = True
    return Numbers(values, missing, ok)


def _may_have_bare_dot(text: Text, starts: Ints, ends: Ints, *, dense: bool) -> bool:
    """Whether some piece may be ``1.e5``, which Arrow would read as a number."""
    if dense:
        data = text.bytes[int(starts[0]) : int(ends[-1])]
    else:
        data = np.frombuffer(text.copied(starts, ends).buffers()[2] or b"", np.uint8)
    exponent = data | np.uint8(32) == 101
    return bool(exponent.any()) and bool((exponent[1:] & (data[:-1] == 46)).any())


def _matches(pieces: pa.BinaryArray, pattern: str) -> Bools:
    found: Bools = pc.match_substring_regex(pieces, pattern).fill_null(False).to_numpy(zero_copy_only=False)[::2]
    return found


@dataclass(slots=True)
class Vocabulary:
    """The categories of one column in one batch: each spelling is read once."""

    codes: dict[str, int] = field(default_factory=dict)
    _tokens: dict[bytes, int] = field(default_factory=dict)

    def code(self, value: str | None) -> int:
        """The code of a category; -1 for None."""
        return -1 if value is None else self.codes.setdefault(value, len(self.codes))

    def read(self, text: Text, starts: Ints, ends: Ints) -> tuple[NDArray[np.int32], Bools]:
        """Codes of JSON tokens, and whether each is a value that a categorical column takes."""
        if not len(starts):
            return np.empty(0, np.int32), np.empty(0, np.bool_)
        encoded = text.pieces(starts, ends).dictionary_encode()
        seen = self._tokens
        lookup = np.fromiter(
            (seen[token] if token in seen else self._learn(token) for token in encoded.dictionary.to_pylist()),
            np.int32,
            len(encoded.dictionary),
        )
        indices = np.frombuffer(encoded.indices.buffers()[1], np.int32)[: 2 * len(starts) : 2]
        codes: NDArray[np.int32] = lookup[indices]
        ok: Bools = codes != _UNKNOWN
        return codes, ok

    def _learn(self, token: bytes) -> int:
        try:
            code = self.code(category(parse_json(token)))
        except (Refused, TypeError):
            code = _UNKNOWN
        self._tokens[token] = code
        return code


def texts(text: Text, starts: Ints, ends: Ints) -> tuple[pa.BinaryArray, Bools]:
    """The insides of JSON strings, and whether each is the text itself: no escapes, nothing forbidden, UTF-8."""
    copied = text.copied(starts, ends)
    ok = np.ones(len(copied), np.bool_)
    data = copied.buffers()[2]
    if data is None or not data.size:
        return copied, ok
    raw = np.frombuffer(data, np.uint8)
    special = (raw < 32) | (raw == 34) | (raw == 92)
    if special.any():
        ok[np.searchsorted(offsets_of(copied), np.flatnonzero(special), side="right") - 1] = False
    if raw.max() > 127:
        ok &= are_utf8(copied)
    return copied, ok


def are_utf8(values: pa.BinaryArray) -> Bools:
    """Whether each element is UTF-8 (a null is not)."""
    valid: Bools = values.is_valid().to_numpy(zero_copy_only=False)
    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        return np.fromiter(map(_is_utf8, values.to_pylist()), np.bool_, len(values))
    return valid


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is not None and value.decode("utf-8") is not None
    except UnicodeDecodeError:
        return False


def times(values: pa.BinaryArray) -> tuple[Ints, Bools]:
    """Milliseconds since the epoch of RFC 3339 texts, rounded down, and whether each is such a text."""
    return _bisected(values, _times_by_arrow, _times_one_by_one)


def _times_by_arrow(values: pa.BinaryArray) -> tuple[Ints, Bools]:
    """The usual spelling, with up to nine digits of a second.

    Raises
    ------
    pa.ArrowInvalid
        When one of them is anything else: Arrow takes some that RFC 3339 does not.
    """
    offsets = offsets_of(values)
    starts, ends = offsets[:-1], offsets[1:]
    if values.null_count or not bool((ends - starts >= 20).all()):
        raise pa.ArrowInvalid
    data = np.frombuffer(values.buffers()[2], np.uint8)
    zulu = data[ends - 1] == 90
    usual = zulu if bool(zulu.all()) else zulu | ((data[ends - 3] == 58) & _is_sign(data[ends - 6]))
    for at, mark in ((4, 45), (7, 45), (10, 84), (13, 58), (16, 58)):
        usual = usual & (data[starts + at] == mark)
    if not bool(usual.all()):
        raise pa.ArrowInvalid
    nanos = values.cast(pa.string()).cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_numpy()
    milliseconds: Ints = nanos // 1_000_000
    ok: Bools = (milliseconds >= 0) & (milliseconds < END_OF_TIME)
    return milliseconds, ok


def _is_sign(data: NDArray[np.uint8]) -> Bools:
    sign: Bools = (data == 43) | (data == 45)
    return sign


def _times_one_by_one(values: pa.BinaryArray) -> tuple[Ints, Bools]:
    read = [
        rfc3339_to_milliseconds(value.decode("utf-8", "replace")) if value is not None else None
        for value in values.to_pylist()
    ]
    return (
        np.array([0 if one is None else one for one in read], np.int64),
        np.array([one is not None for one in read], np.bool_),
    )


Column = tuple[Ints, Bools]


def _bisected(
    values: pa.BinaryArray, fast: Callable[[pa.BinaryArray], Column], slow: Callable[[pa.BinaryArray], Column]
) -> Column:
    """What `fast` makes of the values; of ever smaller parts of them where it cannot, and `slow` of the smallest."""
    try:
        return fast(values)
    except pa.ArrowInvalid:
        if len(values) <= 64:
            return slow(values)
        middle = len(values) // 2
        left, right = _bisected(values[:middle], fast, slow), _bisected(values[middle:], fast, slow)
        return np.concatenate([left[0], right[0]]), np.concatenate([left[1], right[1]])


def milliseconds_of(seconds: Numbers) -> tuple[Ints, Bools]:
    """`protocol.seconds_to_milliseconds` of a column; booleans must have been ruled out before."""
    with np.errstate(over="ignore"):
        micros = seconds.values * 1e6
    ok: Bools = seconds.ok & (micros >= 0.0) & (micros < END_OF_TIME * 1e3)
    read: Ints = np.rint(np.where(ok, micros, 0.0)).astype(np.int64) // 1000
    return read, ok
