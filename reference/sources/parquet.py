"""Parquet: a fragment is some row groups; only the columns that are asked for are read."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from reference.data import Data
from reference.errors import UnusableData
from reference.source import FRAGMENT_ROWS, Source
from reference.sources.files import File, Listing, Place, scalar, unreadable
from reference.sources.window import Window
from reference.table import BATCH_ROWS


@dataclass(frozen=True)
class DatasetFragment:
    """Row groups of Parquet files, read by Arrow one after the other."""

    parts: tuple[Any, ...]
    """`pyarrow.dataset.ParquetFileFragment`, which can be pickled."""
    schema: pa.Schema
    place: Place | None = None
    files: tuple[File, ...] = ()
    """Those that must not change; a table format's own never do."""

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Its rows, in order."""
        for file in self.files:
            assert self.place is not None  # goes with files
            self.place.checked(file)
        for part in self.parts:
            # Over a network a row group is fetched at once. From a disk that only costs: it is held whole, and copied.
            local = isinstance(part.filesystem, LocalFileSystem)
            options = ds.ParquetFragmentScanOptions(pre_buffer=not local, use_buffered_stream=local)
            try:
                # Without threads the order is fixed, and who reads many fragments has threads of his own.
                yield from part.to_batches(
                    schema=self.schema,
                    columns=list(columns),
                    batch_size=BATCH_ROWS,
                    batch_readahead=1,
                    fragment_readahead=1,
                    fragment_scan_options=options,
                    use_threads=False,
                )
            except (pa.ArrowException, OSError) as error:
                unreadable(part.path, error)


def open_parquet(files: Listing, columns: Sequence[str] | None, data: Data, window: Window | None) -> Source:
    """The rows of Parquet files.

    Parameters
    ----------
    columns
        Those that are wanted: every file that lacks one that another has is refused. None: all.
    window
        Row groups whose statistics say that they lie outside are left out; rows without a time stay in.

    Raises
    ------
    UnusableData
        Naming the file that cannot be read or whose columns differ from the others'.
    """
    parquet, system = ds.ParquetFileFormat(), files.place.arrow()
    kinds = files.partitions
    whole = []
    for file in files.files:
        said = ds.scalar(True)
        for name, value in file.partition:
            same = ds.field(name).is_null() if value is None else ds.field(name) == scalar(value, kinds[name])
            said = said & same
        whole.append(parquet.make_fragment(file.path, filesystem=system, partition_expression=said))

    def footer(index: int) -> pa.Schema:
        try:
            return whole[index].physical_schema
        except (pa.ArrowException, OSError) as error:
            unreadable(files.files[index].path, error)

    with ThreadPoolExecutor(16) as pool:  # of many files over a network, most of the time is waiting
        schemas = list(pool.map(footer, range(len(whole))))
    schema = _schema_of_all(files, schemas, columns)
    for name, kind in kinds.items():
        if name not in schema.names:
            schema = schema.append(pa.field(name, kind))
    where = None if window is None else may_hold(schema, data.time, window)

    def groups(index: int) -> list[tuple[Any, int]]:
        try:
            split = whole[index].split_by_row_group(filter=where, schema=schema)
            return [(group, group.row_groups[0].num_rows) for group in split]
        except (pa.ArrowException, OSError) as error:
            unreadable(files.files[index].path, error)

    with ThreadPoolExecutor(16) as pool:
        split = list(pool.map(groups, range(len(whole))))
    fragments: list[DatasetFragment] = []
    parts: list[Any] = []
    read: list[File] = []
    rows = 0

    def close() -> None:
        nonlocal rows
        if parts:
            fragments.append(DatasetFragment(tuple(parts), schema, files.place, tuple(read)))
        parts.clear()
        read.clear()
        rows = 0

    for file, found in zip(files.files, split, strict=True):
        for group, count in found:
            if rows and rows + count > FRAGMENT_ROWS:
                close()
            parts.append(group)
            if file not in read[-1:]:
                read.append(file)
            rows += count
    close()
    return Source(schema, tuple(fragments), files.origin())


def _schema_of_all(files: Listing, schemas: Sequence[pa.Schema], columns: Sequence[str] | None) -> pa.Schema:
    """One schema that every file can be read as."""
    first = schemas[0]
    if all(schema.equals(first) for schema in schemas):
        return first.remove_metadata()
    asked = [name for name in first.names if columns is None or name in columns]
    for file, schema in zip(files.files, schemas, strict=True):
        lacking = sorted(set(asked) - set(schema.names))
        more = sorted(set(schema.names) - set(first.names))
        more = [name for name in more if columns is None or name in columns]
        if lacking or more:
            one, whole = (file, files.files[0]) if lacking else (files.files[0], file)
            raise UnusableData(
                f"{one.path} lacks the columns {lacking or more}, which {whole.path} has: "
                "the files of one table have the same columns"
            )
    fields = []
    for name in asked:
        known = [_plain(schema.field(name)) for schema in schemas]
        together = known[0]
        for file, one in zip(files.files, known, strict=True):
            try:
                (together,) = pa.unify_schemas([pa.schema([together]), pa.schema([one])], promote_options="permissive")
            except pa.ArrowException:
                raise UnusableData(
                    f"column {name!r} is {together.type} in {files.files[0].path} and {one.type} in {file.path}: "
                    "the files of one table have the same types"
                ) from None
        fields.append(together)
    return pa.schema(fields)


def _plain(field: pa.Field) -> pa.Field:
    """A field whose dictionary, if it has one, is left to each file."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return pa.field(field.name, kind)


def may_hold(schema: pa.Schema, time: str | None, window: Window) -> Any:
    """What a row group's statistics are asked: whether a row may be in the window, or have no time. None where they cannot say."""
    if time is None or time not in schema.names:
        return None
    kind = schema.field(time).type
    if not pa.types.is_timestamp(kind):
        return None
    per_second = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[kind.unit]

    def bound(microseconds: int, slack: int) -> pa.Scalar:
        """Rounded down, so that nothing is left out; beyond what the type can hold its first or last moment."""
        units = microseconds * per_second // 1_000_000 + slack
        return pa.scalar(min(max(units, -(2**63) + 1), 2**63 - 1), pa.int64()).cast(kind)

    field = ds.field(time)
    inside = ds.scalar(True)
    if window.since is not None:
        inside = inside & (field >= bound(window.since, 0))
    if window.until is not None:
        inside = inside & (field <= bound(window.until, 1))
    return field.is_null() | inside
