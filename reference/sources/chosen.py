"""Of the rows and columns that a table has, those that a model's baseline is built from, under the model's names."""

import difflib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from reference.data import Data, format_moment
from reference.errors import UnusableData
from reference.schema import Column, Model
from reference.source import Fragment, Source
from reference.sources.window import Clock, Times, Window, microseconds_of, moment_of, window_of
from reference.table import BATCH_ROWS

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """The columns that are asked of a table."""

    names: Mapping[str, str] | None
    """Name in the source -> column of the table; None: every column, under its own name."""
    required: frozenset[str] = frozenset()
    """Names without which there is no baseline."""
    text: frozenset[str] = frozenset()
    """Columns of the table that formats without types read as text; all others are numbers there."""
    twofold: tuple[str, ...] = ()
    """Columns of the table that are asked for as numbers and as text; only formats with types can do that."""

    @classmethod
    def of(cls, data: Data, model: Model | None, label: Column | None = None) -> "Wanted":
        """What a model needs of its data.

        Raises
        ------
        UnusableData
            When the settings name what the model does not have, or read one column in two ways.
        """
        if model is None:
            if data.columns:
                names = ", ".join(data.columns)
                raise UnusableData(
                    f"reference.data.columns names {names}, and without a model there are none: remove it"
                )
            return cls(None, text=frozenset({data.time} if data.time else ()))
        columns = {column.name: column for column in (*model.features, *model.predictions)}
        features = frozenset(column.name for column in model.features)
        if label is not None:
            columns.setdefault(label.name, label)
        for name in data.columns:
            if name not in columns:
                raise UnusableData(
                    f"reference.data.columns names {name!r}, which is no feature, prediction or label of the model"
                    f"{_nearest(name, list(columns))}: known are: {', '.join(columns)}"
                )
        named = {name: data.columns.get(name, name) for name in columns}
        if data.weight is not None:
            if named.get(data.weight, data.weight) != data.weight:
                raise UnusableData(
                    f"reference.data.weight is the column {data.weight!r}, and the feature of that name is read from "
                    f"{named[data.weight]!r}: give the weights another name"
                )
            named[data.weight] = data.weight
        text = {named[name] for name, column in columns.items() if column.type == "categorical"}
        numbers = {named[name] for name, column in columns.items() if column.type == "numeric"}
        if data.weight is not None:
            numbers.add(data.weight)
        if data.time is not None and data.time not in numbers:
            text.add(data.time)
        required = features | (frozenset({data.weight}) if data.weight else frozenset())
        return cls(named, required, frozenset(text), tuple(sorted(text & numbers)))

    def resolved(self, available: Sequence[str], url: str) -> dict[str, str]:
        """Name in the source -> column of a table that has these columns.

        Raises
        ------
        UnusableData
            When the table lacks a required one, or has it twice.
        """
        if self.names is None:
            return {name: name for name in available}
        known = set(available)
        found = {name: column for name, column in self.names.items() if column in known}
        absent = [name for name in self.names if name not in found and name in self.required]
        if absent:
            listed = ", ".join(_missing(name, self.names[name], available) for name in absent)
            shown = ", ".join(map(repr, available[:50])) + (", ..." if len(available) > 50 else "")
            raise UnusableData(
                f"{url} lacks {listed}. It has {shown or 'no column at all'}: map names with reference.data.columns"
            )
        twice = [column for column, count in Counter(available).items() if count > 1 and column in found.values()]
        if twice:
            raise UnusableData(f"{url} has the columns {twice} more than once: a name must say which is meant")
        return found


def _missing(name: str, column: str, available: Sequence[str]) -> str:
    said = f"the column {column!r} of {name!r}" if column != name else f"the column {name!r}"
    return said + _nearest(column, available)


def _nearest(name: str, known: Sequence[str]) -> str:
    lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower(), lower, 1)
    return f" (did you mean {lower[found[0]]!r}?)" if found else ""


@dataclass(frozen=True)
class Chosen:
    """Some rows and columns of a fragment, in batches of one size: small ones would make every later step slow."""

    part: Fragment
    names: Mapping[str, str]
    """Name of a column -> that of the fragment."""
    clock: Clock | None = None
    window: Window | None = None

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Its rows, in order."""
        yield from recut(self._filtered(columns))

    def _filtered(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        asked = list(dict.fromkeys(self.names[name] for name in columns))
        filtering = self.clock is not None and self.window is not None
        if self.clock is not None and filtering and self.clock.column not in asked:
            asked.append(self.clock.column)
        for batch in self.part.batches(asked):
            rows = pa.record_batch([batch[self.names[name]] for name in columns], names=list(columns))
            if self.clock is not None and self.window is not None:
                held = self.window.holds(*self.clock.read(batch[self.clock.column]))
                if not held.all():
                    rows = rows.filter(pa.array(held))
            if rows.num_rows:
                yield rows


def recut(batches: Iterator[pa.RecordBatch], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """The same rows, so many in every batch but the last."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        at = 0
        while at < batch.num_rows:
            part = batch.slice(at, rows - count)
            held.append(part)
            at += part.num_rows
            count += part.num_rows
            if count == rows:
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


def _joined(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(parts) == 1:
        return parts[0]
    (whole,) = pa.Table.from_batches(parts).unify_dictionaries().combine_chunks().to_batches()
    return whole


def chosen(raw: Source, data: Data, wanted: Wanted, window: Window | None, now: datetime) -> Source:
    """The rows of a table that the settings ask for, under the model's names.

    Parameters
    ----------
    raw
        The table, its columns under their own names. It may lack rows that cannot be in the window, but none without a time.
    window
        Which rows; None where the newest row must be known first, or where all are wanted.

    Raises
    ------
    UnusableData
        When columns are missing, the time column holds no times, or no row is left.
    """
    url = str(raw.origin.get("url", "the table"))
    names = wanted.resolved(raw.schema.names, url)
    schema = pa.schema([(name, raw.schema.field(column).type) for name, column in names.items()])
    if not data.filtered:
        return Source(schema, tuple(Chosen(part, names) for part in raw.fragments), raw.origin)
    assert data.time is not None  # the settings refuse a filter without it
    if data.time not in raw.schema.names:
        raise UnusableData(
            f"{url} lacks the column {data.time!r}, which reference.data.time names{_nearest(data.time, raw.schema.names)}"
        )
    clock = Clock(data.time, data.time_unit)
    at = microseconds_of(now)
    if window is None:
        found = sum(_each(_times, raw.fragments, clock, at), Times())
        window = window_of(data, now, found.newest)
    looked = _each(_held, raw.fragments, clock, window, at)
    total = sum((times for times, _ in looked), Times())
    kept = sum(held for _, held in looked)
    if kept == 0:
        raise _nothing(url, clock, window, total)
    fragments = tuple(
        Chosen(part, names, None if held == times.rows else clock, None if held == times.rows else window)
        for part, (times, held) in zip(raw.fragments, looked, strict=True)
        if held
    )
    told = {"time": data.time, **window.told(), "rows": kept, "rowsWithoutTime": total.without}
    return Source(schema, fragments, {**raw.origin, **told})


def _nothing(url: str, clock: Clock, window: Window, found: Times) -> UnusableData:
    told = window.told()
    asked = f"from {told.get('since', 'the beginning')} to {told.get('until', 'the end')}"
    if found.oldest is None:
        without = f", and {found.without} have no time" if found.without else ""
        return UnusableData(f"{url} has no rows {asked} by {clock.column!r}{without}: choose another range")
    newest = found.oldest if found.newest is None else found.newest
    return UnusableData(
        f"{url} has no rows {asked}: by {clock.column!r} those that were looked at are "
        f"from {format_moment(moment_of(found.oldest))} to {format_moment(moment_of(newest))}"
    )


def _times(part: Fragment, clock: Clock, now: int) -> Times:
    return sum((Times.of(*clock.read(batch[0]), now) for batch in part.batches([clock.column])), Times())


def _held(part: Fragment, clock: Clock, window: Window, now: int) -> tuple[Times, int]:
    found, held = Times(), 0
    for batch in part.batches([clock.column]):
        times, there = clock.read(batch[0])
        found += Times.of(times, there, now)
        held += int(np.count_nonzero(window.holds(times, there)))
    return found, held


def _each(look: Callable[..., T], parts: Sequence[Fragment], *more: Any) -> list[T]:
    """What is found in each fragment; decoding leaves Python, so threads help."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda part: look(part, *more), parts))
