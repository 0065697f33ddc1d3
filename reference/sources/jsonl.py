"""JSON lines: one flat object a line; a value means what it means in a message of the inference topic."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from reference.category import category
from reference.errors import UnusableData
from reference.source import Source
from reference.sources.csv import FRAGMENT_BYTES, grouped
from reference.sources.files import File, Listing, Place, scalar, unreadable

_BLOCK_BYTES = 4 << 20
"""Of text at a time; a line may be longer."""


@dataclass(frozen=True)
class JsonFragment:
    """The lines that begin in a part of a file, or in some small files."""

    place: Place
    files: tuple[File, ...]
    schema: pa.Schema
    read_as: pa.Schema
    """What is expected to stand there, by the first lines; what is something else is read value by value."""
    start: int = 0
    """Byte of the file, when it is one."""
    stop: int | None = None

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Its rows, in order."""
        for file in self.files:
            constant = dict(self.place.checked(file).partition)
            inside = [name for name in columns if name not in constant]
            wanted = pa.schema([self.schema.field(name) for name in inside])
            expected = pa.schema([self.read_as.field(name) for name in inside])
            for block in lines(self.place, file, self.start, self.stop):
                rows = _rows(block, wanted, expected, file.path)
                arrays = [
                    pa.repeat(scalar(constant[name], self.schema.field(name).type), rows.num_rows)
                    if name in constant
                    else rows[name]
                    for name in columns
                ]
                yield pa.record_batch(arrays, schema=pa.schema([self.schema.field(name) for name in columns]))


def open_jsonl(files: Listing, columns: Sequence[str] | None, text: frozenset[str], time: str | None) -> Source:
    """The rows of files of JSON lines.

    A column is there when a line among the first 4 MiB of a file has it; a line without it has none there.

    Parameters
    ----------
    columns
        Those that are wanted; None: all that are flat.
    text
        Columns that are categories; the others are numbers.
    time
        Column that keeps the type it has in the file.

    Raises
    ------
    UnusableData
        Naming the file that cannot be read, or the column that holds objects.
    """
    with ThreadPoolExecutor(16) as pool:
        seen = list(pool.map(lambda file: _first(files.place, file), files.files))
    found: dict[str, pa.DataType] = {}
    for schema in seen:
        for field in schema:
            if pa.types.is_null(found.setdefault(field.name, field.type)):
                found[field.name] = field.type
    kinds = files.partitions
    fields, expected = [], []
    for name, kind in found.items():
        if name in kinds:
            continue
        if pa.types.is_nested(kind):
            if columns is not None and name in columns:
                raise _nested(name, files.url)
            continue
        flat = _flat(kind)
        if name == time:
            wanted = flat
        elif columns is None:
            wanted = pa.float64() if pa.types.is_integer(flat) or pa.types.is_floating(flat) else pa.string()
        else:
            wanted = pa.string() if name in text else pa.float64()
        fields.append(pa.field(name, wanted))
        # A number may have a fraction further down.
        expected.append(
            pa.field(name, pa.float64() if pa.types.is_floating(wanted) and not pa.types.is_boolean(flat) else flat)
        )
    folders = [pa.field(name, kind) for name, kind in kinds.items()]
    schema, read_as = pa.schema([*fields, *folders]), pa.schema([*expected, *folders])
    fragments: list[JsonFragment] = []
    for group in grouped(files.files):
        (first, *others) = group
        if others or first.codec is not None or first.size <= 2 * FRAGMENT_BYTES:
            fragments.append(JsonFragment(files.place, group, schema, read_as))
        else:
            fragments += [
                JsonFragment(files.place, group, schema, read_as, start, start + FRAGMENT_BYTES)
                for start in range(0, first.size, FRAGMENT_BYTES)
            ]
    return Source(schema, tuple(fragments), files.origin())


def lines(
    place: Place, file: File, start: int = 0, stop: int | None = None, size: int = _BLOCK_BYTES
) -> Iterator[bytes]:
    """The lines that begin from one byte on and before another, in blocks of whole lines.

    Parameters
    ----------
    size
        Bytes of a block; of a longer line a block is as long as it must be.
    """
    try:
        stream = place.stream(file, max(start - 1, 0))
        at = start  # where the text in `held` begins
        held = b""
        if start:  # the line that is cut here belongs to the part before
            at -= 1
            while True:
                read = stream.read(size)
                end = read.find(b"\n")
                if not read or end >= 0:
                    break
                at += len(read)
            if not read:
                return
            at += end + 1
            held = read[end + 1 :]
        while stop is None or at < stop:
            read = stream.read(size)
            held += read
            last = held.rfind(b"\n") + 1 if read else len(held)
            if stop is not None and at + last > stop:
                # The last line that begins before `stop` ends at the first line break from `stop - 1` on.
                end = held.find(b"\n", max(stop - 1 - at, 0))
                last = end + 1 if end >= 0 else last
            if held[:last].strip():
                yield held[:last]
            at += last
            held = held[last:]
            if not read:
                return
    except (pa.ArrowException, OSError) as error:
        unreadable(file.path, error)


def _flat(kind: pa.DataType) -> pa.DataType:
    """What a column is read as: Arrow takes some texts for times."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return kind
    return pa.string()


def _nested(name: str, path: str) -> UnusableData:
    return UnusableData(
        f"column {name!r} of {path} holds objects or lists: give each of their values a name of its own"
    )


def _first(place: Place, file: File) -> pa.Schema:
    """What the first lines of a file hold."""
    for block in lines(place, file):
        try:
            options = pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1)
            return pyarrow.json.read_json(pa.BufferReader(block), read_options=options).schema
        except pa.ArrowException:
            columns: dict[str, list[Any]] = {}
            for row in _objects(block, file.path):
                for name, value in row.items():
                    columns.setdefault(name, []).append(value)
            return pa.schema([pa.field(name, _kind(values)) for name, values in columns.items()])
    return pa.schema([])


def _kind(values: list[Any]) -> pa.DataType:
    kinds = {type(value) for value in values if value is not None}
    if kinds & {dict, list}:
        return pa.list_(pa.null())
    if kinds and kinds <= {int, float}:
        return pa.int64() if kinds == {int} else pa.float64()
    return pa.bool_() if kinds == {bool} else pa.string() if kinds else pa.null()


def _rows(block: bytes, wanted: pa.Schema, expected: pa.Schema, path: str) -> pa.RecordBatch:
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=expected, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        return _one_by_one(block, wanted, path)
    columns = [table[field.name].combine_chunks() for field in wanted]
    for column, field in zip(columns, wanted, strict=True):
        # As a category 2**60 has other digits than 1.152921504606847e18, and Arrow reads both as the same number.
        if pa.types.is_floating(column.type) and pa.types.is_string(field.type):
            largest = pc.max(pc.abs(column)).as_py()
            if largest is not None and largest >= 2**53:
                return _one_by_one(block, wanted, path)
    return pa.record_batch(
        [_as(column, field.type) for column, field in zip(columns, wanted, strict=True)], schema=wanted
    )


def _as(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if pa.types.is_string(kind):
        encoded = array.dictionary_encode()
        return pa.array([category(value) for value in encoded.dictionary.to_pylist()], pa.string()).take(
            encoded.indices
        )
    return (array.cast(pa.int8()) if pa.types.is_boolean(array.type) else array).cast(kind)


def _one_by_one(block: bytes, wanted: pa.Schema, path: str) -> pa.RecordBatch:
    """A block in which a column holds values of several types, or that is no JSON."""
    rows = _objects(block, path)
    arrays = []
    for field in wanted:
        values = [row.get(field.name) for row in rows]
        if any(isinstance(value, dict | list) for value in values):
            raise _nested(field.name, path)
        if pa.types.is_string(field.type):
            arrays.append(pa.array([category(value) for value in values], pa.string()))
        elif pa.types.is_floating(field.type):
            arrays.append(_numbers(values, field.name, path))
        else:
            try:
                arrays.append(pa.array(values, field.type))
            except pa.ArrowException as error:
                raise UnusableData(
                    f"column {field.name!r} of {path} is {field.type} in its first lines, but {error}"
                ) from None
    return pa.record_batch(arrays, schema=wanted)


def _numbers(values: Sequence[Any], name: str, path: str) -> pa.Array:
    try:
        return pa.array([None if value is None else _number(value) for value in values], pa.float64())
    except TypeError:
        first = next(value for value in values if value is not None and not isinstance(value, bool | int | float))
        raise UnusableData(
            f"column {name!r} of {path} holds text such as {first!r}, but the model calls it numeric: make it categorical"
        ) from None


def _number(value: Any) -> float:
    if not isinstance(value, bool | int | float):
        raise TypeError
    return float(value)


def _objects(block: bytes, path: str) -> list[dict[str, Any]]:
    texts = [text for text in block.split(b"\n") if text.strip()]
    try:
        rows = msgspec.json.decode(b"[" + b",".join(texts) + b"]")
    except (msgspec.DecodeError, RecursionError):
        rows = [_object(text, path) for text in texts]  # NaN and Infinity, as Python writes them; or what is wrong
    for row, text in zip(rows, texts, strict=True):
        if not isinstance(row, dict):
            raise UnusableData(f"{path} has a line that is no JSON object: {text[:80]!r}")
    return rows  # type: ignore[no-any-return]


def _object(text: bytes, path: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UnusableData(f"{path} has a line that is not JSON: {text[:80]!r}") from None
