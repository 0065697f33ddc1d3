"""Where rows come from: a source is a fixed list of fragments, and each can be read alone, by any worker, always the same."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from reference.errors import UnusableData

FRAGMENT_ROWS = 524_288
"""Rows of a fragment of a table in memory; about as many is a good size for others."""


class Fragment(Protocol):
    """A part of a source that one worker reads alone: a row group, a file, a range of offsets.

    It is small and can be pickled, so that it can be sent to a Spark worker; it holds the way to the rows, not the rows. Each time it is
    read it gives the same rows in the same order: a build reads it twice.
    """

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Its rows, in order.

        Parameters
        ----------
        columns
            The columns that are wanted, in the order that the batches have them; `Source.schema` has them all.
        """
        ...


@dataclass(frozen=True)
class Source:
    """Rows that a baseline is built from."""

    schema: pa.Schema
    """The columns there are. A batch's column has the type that stands here."""
    fragments: tuple[Fragment, ...]
    """In a fixed order; together they are the rows, each once."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Where the rows are from, as JSON for the manifest: kind, url, version of the table, since, until, what was left out."""

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, in memory.

        Parameters
        ----------
        columns
            Those that are wanted; None: all.

        Raises
        ------
        UnusableData
            When the source lacks one of them.
        """
        names = self.schema.names if columns is None else list(columns)
        absent = [name for name in names if name not in self.schema.names]
        if absent:
            msg = f"the data lacks the columns {absent}: it has {self.schema.names}"
            raise UnusableData(msg)
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.Table.from_batches([batch for part in self.fragments for batch in part.batches(names)], schema)


@dataclass(frozen=True)
class TableFragment:
    """Some rows of a table that is in memory."""

    rows: pa.Table

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Its rows, in order."""
        yield from self.rows.select(list(columns)).to_batches()


def source_of_table(table: pa.Table, origin: Mapping[str, Any] | None = None) -> Source:
    """A table that is in memory, as a source.

    Examples
    --------
    >>> source_of_table(pa.table({"x": [1.0, 2.0]})).table(["x"]).num_rows
    2
    """
    starts = range(0, table.num_rows, FRAGMENT_ROWS)
    fragments = tuple(TableFragment(table.slice(start, FRAGMENT_ROWS)) for start in starts)
    return Source(table.schema, fragments, {"kind": "table", "rows": table.num_rows} if origin is None else origin)
