"""Training tables as blocks: the same columns, types and categories that the monitor decodes from messages."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from detectors.statistics.block import Block, Codes
from reference.category import LONGEST, category
from reference.errors import UnusableData
from reference.schema import Column, Model, Schema

BATCH_ROWS = 65_536


def read_table(path: Path, model: Model, label: Column | None = None) -> pa.Table:
    """The model's columns of a Parquet, CSV or JSON lines file, and that of labels where there is one, as far as it has them.

    A CSV file has no types of its own, so the model's are taken: a category is the text that stands in the file (007,
    True and NA are just that; only an empty field without quotes is missing), and a number is a double.

    Raises
    ------
    UnusableData
        When there is no such file, or it is of none of these formats.
    """
    from reference.data import Data, format_of  # sources are cut into the blocks of this module
    from reference.sources import open_files
    from reference.sources.chosen import Wanted

    if not path.is_file():
        msg = f"no training table at {path}: give a Parquet or CSV file with --data"
        raise UnusableData(msg)
    if format_of(path.name) is None:
        msg = f"{path} ends in {path.suffix.lower()!r}: give a .parquet, .csv or .csv.gz file"
        raise UnusableData(msg)
    data = Data(url=str(path))
    wanted = Wanted.of(data, model, label)
    assert wanted.names is not None  # there is a model
    raw = open_files(data, wanted)
    names = [name for name in raw.schema.names if name in wanted.names]
    return raw.table(names) if names else pa.table({})


def blocks(table: pa.Table, schema: Schema, rows: int = BATCH_ROWS) -> Iterator[Block]:
    """The table, cut into blocks of at most so many rows.

    Raises
    ------
    UnusableData
        When a numeric column holds something else, naming the column and the first such value.
    """
    numeric = [numbers(table[column.name], column) for column in schema.numeric]
    categorical = [_categories(table[column.name], column) for column in schema.categorical]
    for start in range(0, table.num_rows, rows):
        stop = min(start + rows, table.num_rows)
        values = np.empty((stop - start, len(numeric)), np.float64, order="F")
        missing = np.zeros((stop - start, len(numeric)), np.bool_, order="F")
        for j, array in enumerate(numeric):
            part = array.slice(start, stop - start)
            values[:, j] = part.to_numpy(zero_copy_only=False)  # Arrow's nulls become NaN
            if part.null_count:
                missing[:, j] = part.is_null().to_numpy(zero_copy_only=False)
        yield Block(values, missing, tuple(_part(codes, start, stop) for codes in categorical))


def numbers(column: pa.ChunkedArray, spec: Column) -> pa.Array:
    """A numeric column as one array of float64 with nulls.

    Raises
    ------
    UnusableData
        When it holds something else, naming the column and the first such value.
    """
    array = _whole(column)
    kind = array.type
    if array.null_count == len(array):
        return pa.nulls(len(array), pa.float64())
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif _is_text(kind):
        first = _first_text(array)
        msg = f"column {spec.name!r} holds text such as {first!r}, but the model calls it numeric: make it categorical"
        raise UnusableData(msg)
    try:
        return array.cast(pa.float64(), safe=False)
    except pa.ArrowException:
        msg = f"column {spec.name!r} holds {kind}, which is no number: convert it, or make the feature categorical"
        raise UnusableData(msg) from None


def _categories(column: pa.ChunkedArray, spec: Column) -> Codes:
    """The column as codes; every distinct value is written once, by `category`."""
    encoded = _whole(column)
    if pa.types.is_float16(encoded.type):
        encoded = encoded.cast(pa.float64())
    try:
        encoded = encoded.dictionary_encode()
    except (pa.ArrowException, TypeError):
        raise UnusableData(no_text(spec, encoded.type)) from None
    known: dict[str, int] = {}
    lookup = np.array(
        [
            *(
                -1 if text is None else known.setdefault(text, len(known))
                for text in texts_of(encoded.dictionary, spec).to_pylist()
            ),
            -1,  # the last for null
        ],
        np.int32,
    )
    indices = encoded.indices.fill_null(len(lookup) - 1).to_numpy(zero_copy_only=False)
    return Codes(lookup[indices], tuple(known))


def texts_of(distinct: pa.Array, spec: Column) -> pa.Array:
    """(as many,) the texts that stand for distinct values of a categorical column, null for what counts as missing.

    Raises
    ------
    UnusableData
        When they have no text, naming the column.
    """
    kind = distinct.type
    try:
        if _is_text(kind):
            plain = distinct.cast(pa.large_string())
            plain.validate(full=True)
            if (pc.max(pc.binary_length(plain)).as_py() or 0) <= LONGEST:
                return plain  # nothing to shorten
        return pa.array(_texts(distinct), pa.large_string())
    except (pa.ArrowException, TypeError, ValueError):
        raise UnusableData(no_text(spec, kind)) from None


def no_text(spec: Column, kind: pa.DataType) -> str:
    """What is said of a categorical column of such a type."""
    return f"column {spec.name!r} holds {kind}, which has no text: convert it to strings"


def _texts(distinct: pa.Array) -> list[str | None]:
    kind = distinct.type
    if pa.types.is_decimal(kind):
        number = int if kind.scale <= 0 else float
        return [None if value is None else category(number(value)) for value in distinct.to_pylist()]
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        distinct = distinct.cast(pa.string())
    return [category(value) for value in distinct.to_pylist()]


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """One array, of the values themselves."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _first_text(array: pa.Array) -> str | None:
    """The first that is no number; the first of all when each is one."""
    first = None
    for value in array.to_pylist():
        if value is None:
            continue
        first = value if first is None else first
        try:
            float(value)
        except ValueError:
            return str(value)
    return first


def _part(column: Codes, start: int, stop: int) -> Codes:
    """Some rows, with the categories that they have."""
    found, codes = np.unique(column.codes[start:stop], return_inverse=True)
    gone = int(len(found) > 0 and found[0] < 0)
    return Codes((codes - gone).astype(np.int32), tuple(column.values[code] for code in found[gone:].tolist()))
