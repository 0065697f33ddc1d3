"""Delta tables, of one version that is fixed when the source is opened."""

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from reference.data import Data, Options
from reference.errors import UnusableData
from reference.source import FRAGMENT_ROWS, Source
from reference.sources.parquet import DatasetFragment, may_hold
from reference.sources.window import Window


def place_of(url: str) -> str:
    """Where a table is: `delta://` before a path or another URL says only that there is one.

    >>> place_of("delta:///lake/flights"), place_of("delta://s3://lake/flights"), place_of("delta+s3://lake/flights")
    ('/lake/flights', 's3://lake/flights', 's3://lake/flights')
    """
    return re.sub(r"^delta(://|\+)", "", url)


def open_delta(data: Data, window: Window | None) -> Source:
    """The rows of a Delta table.

    Files that cannot have rows of the window, by the table's own statistics, are left out.

    Raises
    ------
    UnusableData
        When there is no such table or version, it cannot be reached, or it uses features that this reader does not know.
    """
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise UnusableData("Delta tables are read by the package deltalake, which is not installed") from None
    assert data.url is not None  # the settings ask for one
    options: Options = data.all_options()
    try:
        table = DeltaTable(place_of(data.url), version=data.snapshot, storage_options=dict(options) or None)
        rows = table.to_pyarrow_dataset()
    except (DeltaError, OSError, ValueError) as error:
        which = "" if data.snapshot is None else f" at version {data.snapshot}"
        raise UnusableData(
            f"the Delta table {data.url}{which} cannot be read: {str(error).partition(chr(10))[0]}"
        ) from None
    where = None if window is None else may_hold(rows.schema, data.time, window)
    parts = sorted(rows.get_fragments(filter=where), key=lambda part: part.path)
    fragments = tuple(DatasetFragment(group, rows.schema) for group in _grouped(parts, rows.schema, where))
    origin = {"kind": "delta", "url": data.url, "version": table.version(), "table": str(table.metadata().id)}
    return Source(rows.schema, fragments, origin)


def _grouped(parts: Sequence[Any], schema: pa.Schema, where: Any) -> list[tuple[Any, ...]]:
    """Row groups, so many together as a fragment should have rows."""
    groups: list[list[Any]] = []
    rows = 0
    for part in parts:
        for one in part.split_by_row_group(filter=where, schema=schema):
            count = one.row_groups[0].num_rows
            if not groups or rows + count > FRAGMENT_ROWS:
                groups.append([])
                rows = 0
            groups[-1].append(one)
            rows += count
    return [tuple(group) for group in groups]
