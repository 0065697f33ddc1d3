"""Kafka headers as columns: one array per header that the decoder asks for."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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


def _repeats(keys: pa.BinaryArray, each: int) -> bool:
    """Whether the keys are the same few over and over, as they are when one client wrote them all."""
    offsets = offsets_of(keys)
    lengths = np.diff(offsets).reshape(-1, each)
    if not (lengths == lengths[0]).all():
        return False
    data = np.frombuffer(keys.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]].reshape(len(lengths), -1)
    return bool((data == data[0]).all())
