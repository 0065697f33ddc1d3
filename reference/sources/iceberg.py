"""Iceberg tables, of one snapshot that is fixed when the source is opened."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from reference.data import Data, format_moment
from reference.errors import UnusableData
from reference.source import FRAGMENT_ROWS, Source
from reference.sources.files import unreadable
from reference.sources.window import Window, moment_of


@dataclass(frozen=True)
class IcebergFragment:
    """Some data files of a snapshot, with the rows that were deleted from them."""

    metadata: Any
    io: Any
    projection: Any
    """`pyiceberg.schema.Schema` of the snapshot."""
    tasks: tuple[Any, ...]
    schema: pa.Schema

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Its rows, in order."""
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import ArrowScan

        wanted = pa.schema([self.schema.field(name) for name in columns])
        # Of its own accord a scan reads files side by side: one at a time keeps them in order.
        scan = ArrowScan(self.metadata, self.io, self.projection.select(*columns), AlwaysTrue())
        for task in self.tasks:
            try:
                for batch in scan.to_record_batches([task]):
                    yield pa.record_batch(
                        [batch[name].cast(wanted.field(name).type) for name in columns], schema=wanted
                    )
            except (pa.ArrowException, OSError) as error:
                unreadable(task.file.file_path, error)


def open_iceberg(data: Data, window: Window | None) -> Source:
    """The rows of an Iceberg table.

    The catalog is the one of this name in PyIceberg's own configuration (`.pyiceberg.yaml`, `PYICEBERG_CATALOG__...`), with the options and
    secrets on top; without either, `type` must be among the options. Files that cannot have rows of the window, by the table's own
    statistics, are left out.

    Raises
    ------
    UnusableData
        When there is no such catalog, table or snapshot, or it cannot be reached.
    """
    try:
        from pyiceberg.catalog import load_catalog
        from pyiceberg.expressions import AlwaysTrue
    except ImportError:
        raise UnusableData("Iceberg tables are read by the package pyiceberg, which is not installed") from None
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    assert data.url is not None  # the settings ask for one
    found = re.fullmatch(r"iceberg://([^/]+)/(.+\..+)", data.url)
    if found is None:
        raise UnusableData(f"{data.url} names no Iceberg table: write iceberg://catalog/namespace.table")
    try:
        table = load_catalog(found[1], **data.all_options()).load_table(found[2])
        known = {one.snapshot_id for one in table.metadata.snapshots}
    except UnusableData:
        raise
    except Exception as error:  # noqa: BLE001 - each kind of catalog has errors of its own
        said = str(error).partition("\n")[0][:300]
        raise UnusableData(f"the Iceberg table {data.url} cannot be read: {type(error).__name__}: {said}") from None
    if data.snapshot is not None and data.snapshot not in known:
        newest = sorted(table.metadata.snapshots, key=lambda one: -one.timestamp_ms)[:5]
        listed = ", ".join(str(one.snapshot_id) for one in newest) or "none"
        raise UnusableData(f"the Iceberg table {data.url} has no snapshot {data.snapshot}: its newest are {listed}")
    current = table.current_snapshot()
    snapshot = data.snapshot if data.snapshot is not None else None if current is None else current.snapshot_id
    # By its number a snapshot is read under the columns that it had then, the newest one under those that the table has now.
    scan = table.scan() if data.snapshot is None else table.scan(snapshot_id=snapshot)
    projection = scan.projection()
    schema = schema_to_pyarrow(projection, include_field_ids=False)
    where = None if window is None else _may_hold(schema, data.time, window)
    planned = () if snapshot is None else (scan if where is None else scan.filter(where)).plan_files()
    tasks = sorted(planned, key=lambda task: task.file.file_path)
    for task in tasks:
        task.residual = AlwaysTrue()  # rows are chosen by who reads them, so that those without a time are counted
    groups: list[list[Any]] = []
    rows = 0
    for task in tasks:
        count = task.file.record_count
        if not groups or rows + count > FRAGMENT_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(task)
        rows += count
    metadata, io = table.metadata, table.io
    fragments = tuple(IcebergFragment(metadata, io, projection, tuple(group), schema) for group in groups)
    origin = {"kind": "iceberg", "url": data.url, "snapshot": snapshot, "table": str(table.metadata.table_uuid)}
    return Source(schema, fragments, origin)


def _may_hold(schema: pa.Schema, time: str | None, window: Window) -> Any:
    """What the manifests are asked: whether a file may have a row in the window, or without a time. None where they cannot say."""
    from pyiceberg import expressions

    asked: Any = expressions  # its constructors are rewritten by pydantic, which their annotations do not say
    if time is None or time not in schema.names or not pa.types.is_timestamp(schema.field(time).type):
        return None

    def text(microseconds: int) -> str:
        moment = format_moment(moment_of(microseconds)).removesuffix("Z")
        return moment if schema.field(time).type.tz is None else f"{moment}+00:00"

    bounds = []
    if window.since is not None:
        bounds.append(asked.GreaterThanOrEqual(time, text(window.since)))
    if window.until is not None:
        bounds.append(asked.LessThan(time, text(window.until)))
    inside = bounds[0] if len(bounds) == 1 else asked.And(*bounds)
    return asked.Or(asked.IsNull(time), inside)
