"""Kafka headers as columns: one array per header that the decoder asks for."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from detectors.statistics.block import Codes
from reference.category import category, shortened
from streaming.tokens import Ints, offsets_of


def header_columns(headers: pa.ListArray, names: Sequence[str]) -> dict[str, pa.BinaryArray]:
    """For each name the value of that header in every message, null where there is none; the last one where there are more.

    Only names that some message has are there.
    """
    counts = pc.list_value_length(headers).fill_null(0).to_numpy().astype(np.int64)
    pairs = pc.list_flatten(headers)
    if not len(pairs):
        return {}
    keys = pc.struct_field(pairs, [0])
    values = pc.struct_field(pairs, [1]).cast(pa.binary())
    keys = keys.cast(pa.binary())  # their own bytes: nothing then asks whether they are UTF-8
    each = int(counts[0])
    if each and bool((counts == each).all()) and not keys.null_count and _repeats(keys, each):
        mine = {key: index for index, key in enumerate(keys[:each].to_pylist())}
        steps = np.arange(len(counts)) * each
        return {name: values.take(pa.array(steps + mine[name.encode()])) for name in names if name.encode() in mine}
    found = (
        pc.index_in(keys, value_set=pa.array([name.encode() for name in names], pa.binary())).fill_null(-1).to_numpy()
    )
    message = np.repeat(np.arange(len(counts)), counts)
    columns = {}
    for index, name in enumerate(names):
        at = np.flatnonzero(found == index)
        if at.size:
            where: Ints = np.full(len(counts), -1, np.int64)
            where[message[at]] = at  # numpy keeps the last
            columns[name] = values.take(pa.array(where, mask=where < 0))
    return columns


def header_column(headers: pa.ListArray | None, name: str, member: str | None = None) -> Codes | None:
    """One header of every message as text; missing where it is absent. None when no message has it.

    Parameters
    ----------
    member
        The header holds a JSON object, of which this member is meant (of a list, the first), as in KServe's ``ce_metadata``.
    """
    if headers is None:
        return None
    column = header_columns(headers, [name]).get(name)
    if column is None:
        return None
    encoded = column.dictionary_encode()
    texts = [_text(value, member) for value in encoded.dictionary.to_pylist()]
    known: dict[str, int] = {}
    lookup = np.array([-1 if text is None else known.setdefault(text, len(known)) for text in texts] + [-1], np.int32)
    indices = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    return Codes(lookup[indices], tuple(known))


def _text(value: bytes | None, member: str | None) -> str | None:
    if value is None:
        return None
    if member is None:
        return shortened(value.decode("utf-8", "replace"))
    try:
        found = msgspec.json.decode(value)[member]
        return category(found[0] if isinstance(found, list) else found)
    except (msgspec.DecodeError, RecursionError, KeyError, TypeError, IndexError):
        return None


def _repeats(keys: pa.BinaryArray, each: int) -> bool:
    """Whether the keys are the same few over and over, as they are when one client wrote them all."""
    offsets = offsets_of(keys)
    lengths = np.diff(offsets).reshape(-1, each)
    if not (lengths == lengths[0]).all():
        return False
    data = np.frombuffer(keys.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]].reshape(len(lengths), -1)
    return bool((data == data[0]).all())


FLAT = (
    "cast(array_join(flatten(concat(array(array(cast(size(headers) as string))), "
    "transform(headers, h -> array(h.key, cast(h.value as string))))), '\\0', '') as binary)"
)
"""Spark expression: the column ``headers`` as one binary string, their number, then keys and values, all separated by NUL.

While a nested column crosses to Python, Spark asks after every row how large the Arrow batch has become, and for lists of
structs that are null this alone takes twenty microseconds; for a flat column it is nothing (docs/decisions).
"""


def nested(flat: pa.BinaryArray) -> pa.ListArray | None:
    """The column ``headers`` again: lists of (key, value), null where there were none.

    None when no message has any. CloudEvents forbids NUL in attributes; a message that has one anyway has no headers
    here, and so is of unknown format.
    """
    if flat.null_count == len(flat):
        return None
    parts = pc.split_pattern(flat, pattern=b"\0")
    items = parts.values.slice(parts.offsets[0].as_py(), parts.offsets[-1].as_py() - parts.offsets[0].as_py())
    offsets = parts.offsets.to_numpy() - parts.offsets[0].as_py()
    lengths = np.diff(offsets)
    said = np.zeros(len(flat), np.int64)
    some = lengths > 0
    first = pc.cast(items.take(pa.array(offsets[:-1][some])).cast(pa.string()), pa.int64())
    said[some] = first.to_numpy(zero_copy_only=False)
    whole = some & (lengths == 1 + 2 * said)
    inside = np.repeat(whole, lengths)
    inside[offsets[:-1][some]] = False
    left = items.filter(pa.array(inside))
    keys, values = left.take(pa.array(np.arange(0, len(left), 2))), left.take(pa.array(np.arange(1, len(left), 2)))
    ends = np.concatenate(([0], np.cumsum(np.where(whole, said, 0)))).astype(np.int32)
    pairs = pa.StructArray.from_arrays([keys, values], names=["key", "value"])
    return pa.ListArray.from_arrays(pa.array(ends), pairs, mask=pa.array(~whole))
