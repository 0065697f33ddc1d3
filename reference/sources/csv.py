"""CSV: types are the model's, and a category is the text that stands in the file."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from reference.errors import UnusableData
from reference.source import Source
from reference.sources.files import File, Listing, Place, scalar, unreadable

_NO_NUMBER = pa.csv.ConvertOptions().null_values
"""What may stand in a numeric column where there is no number: nothing, NA, null, NaN."""
_BLOCK_BYTES = 4 << 20
"""Of text at a time; a row must fit into it."""
FRAGMENT_BYTES = 64 << 20
"""Small files are read together up to so many bytes."""


@dataclass(frozen=True)
class CsvFragment:
    """Some files, one after the other; each is read in blocks, so memory does not grow with it."""

    place: Place
    files: tuple[File, ...]
    schema: pa.Schema
    """float64 for numbers, string for everything else; columns that the folders say are at the end."""
    delimiter: str = ","

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Its rows, in order."""
        for file in self.files:
            constant = dict(self.place.checked(file).partition)
            for batch in _texts(self.place, file, [name for name in columns if name not in constant], self.delimiter):
                arrays = []
                for name in columns:
                    kind = self.schema.field(name).type
                    if name in constant:
                        arrays.append(pa.repeat(scalar(constant[name], kind), batch.num_rows))
                    else:
                        arrays.append(numbers(batch[name], name) if pa.types.is_floating(kind) else batch[name])
                yield pa.record_batch(arrays, schema=pa.schema([self.schema.field(name) for name in columns]))


def open_csv(files: Listing, columns: Sequence[str] | None, text: frozenset[str], delimiter: str = ",") -> Source:
    """The rows of CSV files, whose first line names the columns.

    Parameters
    ----------
    columns
        Those that are wanted: a file that lacks one that another has is refused. None: all; what holds nothing but numbers is numeric then.
    text
        Columns that are text; the others are numbers.

    Raises
    ------
    UnusableData
        Naming the file that cannot be read, or lacks a column.
    """
    with ThreadPoolExecutor(16) as pool:
        headers = list(pool.map(lambda file: _header(files.place, file, delimiter), files.files))
    first = headers[0]
    for file, header in zip(files.files, headers, strict=True):
        lacking = sorted(set(first) ^ set(header))
        lacking = [name for name in lacking if columns is None or name in columns]
        if lacking:
            one, other = (file, files.files[0]) if lacking[0] in first else (files.files[0], file)
            raise UnusableData(
                f"{one.path} lacks the column {lacking[0]!r}, which {other.path} has: "
                "the files of one table have the same columns"
            )
    kinds = files.partitions
    fields = [pa.field(name, pa.string() if name in text else pa.float64()) for name in first if name not in kinds]
    schema = pa.schema([*fields, *(pa.field(name, kind) for name, kind in kinds.items())])
    fragments = tuple(CsvFragment(files.place, part, schema, delimiter) for part in grouped(files.files))
    if columns is None:
        schema = _settled(files, schema, delimiter)
        fragments = tuple(replace(part, schema=schema) for part in fragments)
    return Source(schema, fragments, files.origin())


def grouped(files: Sequence[File]) -> list[tuple[File, ...]]:
    """The files, small ones together."""
    groups: list[list[File]] = []
    size = 0
    for file in files:
        if not groups or size + file.size > FRAGMENT_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.size
    return [tuple(group) for group in groups]


def numbers(texts: pa.Array, name: str) -> pa.Array:
    """Texts as float64: a number, nothing (or NA and its kin) for a missing one, true and false as 1 and 0.

    Raises
    ------
    UnusableData
        With the first that is none of these.
    """
    trimmed = pc.utf8_trim_whitespace(texts)
    absent = pc.is_in(trimmed, value_set=pa.array(_NO_NUMBER))
    trimmed = pc.if_else(absent, pa.scalar(None, pa.string()), trimmed)
    try:
        return trimmed.cast(pa.float64())
    except pa.ArrowException:
        lower = pc.utf8_lower(trimmed)
        truth = pc.index_in(lower, value_set=pa.array(["false", "true"])).cast(pa.float64())
        left = pc.if_else(truth.is_valid(), pa.scalar(None, pa.string()), trimmed)
        try:
            return pc.coalesce(truth, left.cast(pa.float64()))
        except pa.ArrowException:
            first = _first_text(left)
            msg = f"column {name!r} holds text such as {first!r}, but the model calls it numeric: make it categorical"
            raise UnusableData(msg) from None


def _first_text(texts: pa.Array) -> str:
    for text in texts.drop_null().unique().to_pylist():
        try:
            pa.scalar(text).cast(pa.float64())
        except pa.ArrowException:
            return str(text)
    return ""  # not reached: one of them was refused


def _header(place: Place, file: File, delimiter: str) -> list[str]:
    # In one block of its own: the reader looks at the first rows, and a large block would be much to fetch for a line.
    try:
        with _reader(place, file, [], delimiter, 1 << 20) as reader:
            return list(reader.schema.names)
    except (pa.ArrowException, OSError) as error:
        unreadable(file.path, error)


def _texts(place: Place, file: File, columns: Sequence[str], delimiter: str) -> Iterator[pa.RecordBatch]:
    try:
        with _reader(place, file, columns, delimiter, _BLOCK_BYTES) as reader:
            yield from reader
    except (pa.ArrowException, OSError) as error:
        unreadable(file.path, error)


def _reader(place: Place, file: File, columns: Sequence[str], delimiter: str, block: int) -> pa.csv.CSVStreamingReader:
    options = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()),
        include_columns=list(columns),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    return pa.csv.open_csv(
        place.stream(file),
        read_options=pa.csv.ReadOptions(block_size=block, use_threads=False),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=options,
    )


def _settled(files: Listing, schema: pa.Schema, delimiter: str) -> pa.Schema:
    """The schema with those columns as text that somewhere hold some."""
    unsettled = {field.name for field in schema if pa.types.is_floating(field.type)}
    for file in files.files:
        if not unsettled:
            break
        for batch in _texts(files.place, file, sorted(unsettled), delimiter):
            for name in sorted(unsettled):
                try:
                    numbers(batch[name], name)
                except UnusableData:
                    unsettled.discard(name)
    return pa.schema(
        [
            field.with_type(pa.string()) if pa.types.is_floating(field.type) and field.name not in unsettled else field
            for field in schema
        ]
    )
