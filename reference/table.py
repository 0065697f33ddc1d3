"""Training tables as blocks: the same columns, types and categories that the monitor decodes from messages."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from detectors.statistics.block import Block, Codes
from reference.errors import UnusableData
from reference.schema import Column, Schema

BATCH_ROWS = 65_536


def read_table(path: Path, columns: set[str]) -> pa.Table:
    """The wanted columns of a Parquet or CSV file, as far as it has them.

    Raises
    ------
    UnusableData
        When there is no such file, or it is neither Parquet nor CSV.
    """
    if not path.is_file():
        msg = f"no training table at {path}: give a Parquet or CSV file with --data"
        raise UnusableData(msg)
    suffix = path.suffix.lower()
    try:
        if suffix in {".parquet", ".pq"}:
            names = [name for name in pq.read_schema(path).names if name in columns]
            return pq.read_table(path, columns=names)
        if suffix == ".csv" or path.name.lower().endswith(".csv.gz"):
            table = pa.csv.read_csv(path, convert_options=pa.csv.ConvertOptions(strings_can_be_null=True))
            return table.select([name for name in table.column_names if name in columns])
    except (pa.ArrowException, OSError) as error:
        msg = f"{path} cannot be read: {error}"
        raise UnusableData(msg) from None
    msg = f"{path} ends in {suffix!r}: give a .parquet, .csv or .csv.gz file"
    raise UnusableData(msg)


def blocks(table: pa.Table, schema: Schema, rows: int = BATCH_ROWS) -> Iterator[Block]:
    """The table, cut into blocks of at most so many rows.

    Raises
    ------
    UnusableData
        When a numeric column holds something else, naming the column and the first such value.
    """
    numeric = [_numbers(table[column.name], column) for column in schema.numeric]
    categorical = [_category_texts(table[column.name], column) for column in schema.categorical]
    for start in range(0, table.num_rows, rows):
        stop = min(start + rows, table.num_rows)
        values = np.empty((stop - start, len(numeric)), np.float64, order="F")
        missing = np.zeros((stop - start, len(numeric)), np.bool_, order="F")
        for j, array in enumerate(numeric):
            part = array.slice(start, stop - start)
            values[:, j] = part.to_numpy(zero_copy_only=False)  # Arrow's nulls become NaN
            if part.null_count:
                missing[:, j] = part.is_null().to_numpy(zero_copy_only=False)
        yield Block(values, missing, tuple(_codes(texts.slice(start, stop - start)) for texts in categorical))


def _numbers(column: pa.ChunkedArray, spec: Column) -> pa.Array:
    """One array of float64 with nulls."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        first = next(value for value in array.to_pylist() if value is not None)
        msg = f"column {spec.name!r} holds text such as {first!r}, but the model calls it numeric: make it categorical"
        raise UnusableData(msg)
    try:
        return array.cast(pa.float64(), safe=False)
    except pa.ArrowException:
        msg = f"column {spec.name!r} holds {kind}, which is no number: convert it, or make the feature categorical"
        raise UnusableData(msg) from None


def _category_texts(column: pa.ChunkedArray, spec: Column) -> pa.Array:
    """One array of strings: whole numbers without a fraction, booleans as JSON writes them."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    kind = array.type
    if pa.types.is_floating(kind):
        array = pc.if_else(pc.is_nan(array), None, array)
        if pc.all(pc.equal(pc.floor(array), array), min_count=0).as_py() and _fits_int(array):
            return array.cast(pa.int64()).cast(pa.string())
        texts = [None if x is None else str(int(x)) if float(x).is_integer() else repr(x) for x in array.to_pylist()]
        return pa.array(texts, pa.string())
    try:
        return array.cast(pa.string())
    except pa.ArrowException:
        msg = f"column {spec.name!r} holds {kind}, which has no text: convert it to strings"
        raise UnusableData(msg) from None


def _fits_int(array: pa.Array) -> bool:
    extremes = pc.min_max(array).as_py()
    return extremes["min"] is None or (extremes["min"] >= -(2**53) and extremes["max"] <= 2**53)


def _codes(texts: pa.Array) -> Codes:
    encoded = texts.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    return Codes(codes, tuple(encoded.dictionary.to_pylist()))
