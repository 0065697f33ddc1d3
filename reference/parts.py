"""The reference, segment by segment: the rows of each, counted on the rulers and lists of the whole."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from detectors.errors import NotApplicable
from detectors.statistics.block import Block
from detectors.statistics.column import ColumnSummary
from detectors.statistics.sample import mixed
from detectors.statistics.table import summarise
from reference.baseline import FEWEST_ROWS, Part, Table, plan_of
from reference.count import joined
from reference.performance import Labelled
from reference.schema import Column, Schema
from reference.segments import Division

FEWEST_VALUES = 1000
"""So many rows of a segment have their single values kept, however many segments share `reference.rawRows`."""


@dataclass(frozen=True)
class Counted:
    """One table of the reference, and what was counted of it."""

    schema: Schema
    blocks: Sequence[Block]
    whole: Mapping[str, ColumnSummary]
    rows: NDArray[np.int64] | None = None
    """(n,) which rows of the training table these are; None: all of them, in order."""


def parts_of(
    tables: Mapping[Table, Counted],
    divisions: Sequence[Division],
    raw_rows: int,
    labelled: Labelled | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, Part]:
    """The part of each segment, by its name.

    A column at a time is sorted by segment, so the cost grows with the rows and columns and the number of divisions, hardly with the number
    of segments, and two copies of one column are in memory.

    Parameters
    ----------
    tables
        Of requests always; of responses and of scores where there are any.
    divisions
        By features of the requests.
    labelled
        Predictions and labels of the training table, where performance is learnt.
    """
    named = [column.name for column in tables["request"].schema.categorical]
    every = []
    for division in divisions:
        j = named.index(division.by.feature or "")
        every.append(
            np.concatenate([division.places(part.categorical[j], part.rows) for part in tables["request"].blocks])
        )
    columns: dict[str, dict[Table, dict[str, ColumnSummary]]] = {
        name: {"request": {}, "response": {}, "score": {}} for division in divisions for name in division.names
    }
    sizes: dict[str, int] = {}
    performance: dict[str, bytes] = {}
    done, total = 0, sum(len(counted.schema) for counted in tables.values())
    for table, counted in tables.items():
        if not len(counted.schema):
            continue
        groups = [
            _Groups.of(places if counted.rows is None else places[counted.rows], len(division.names), raw_rows)
            for places, division in zip(every, divisions, strict=True)
        ]
        if table == "request":
            for group, division in zip(groups, divisions, strict=True):
                sizes |= zip(division.names, group.sizes, strict=True)
                performance |= _performance(division.names, group, labelled)
        for column in counted.schema.columns:
            read = _numeric(column, counted) if column.type == "numeric" else _categorical(column, counted)
            for group, division in zip(groups, divisions, strict=True):
                for name, size, summary in zip(division.names, group.sizes, read(group), strict=True):
                    if table != "score" or size >= FEWEST_ROWS:
                        columns[name][table][column.name] = summary
            done += 1
            progress(done / total)
    return {
        name: Part(
            sizes[name],
            **columns[name],
            performance=performance.get(name),
            apart=division.values if name == division.rest else None,
        )
        for division in divisions
        for name in division.names
    }


def scores_of(
    scores: Counted, places: Sequence[NDArray[np.int32]], divisions: Sequence[Division], raw_rows: int
) -> dict[str, dict[str, ColumnSummary]]:
    """The summaries of the outlier models' scores in each segment that has enough of them, by its name.

    Parameters
    ----------
    places
        For each division, (scores,) the segment of each row that was scored.
    """
    found: dict[str, dict[str, ColumnSummary]] = {name: {} for division in divisions for name in division.names}
    for at, division in zip(places, divisions, strict=True):
        groups = _Groups.of(at, len(division.names), raw_rows)
        for column in scores.schema.columns:
            for name, size, summary in zip(division.names, groups.sizes, _numeric(column, scores)(groups), strict=True):
                if size >= FEWEST_ROWS:
                    found[name][column.name] = summary
    return found


def _performance(names: Sequence[str], groups: "_Groups", labelled: Labelled | None) -> dict[str, bytes]:
    """That of the segments with enough rows."""
    found = {}
    for name, (begin, end) in zip(names, groups.bounds, strict=True):
        if labelled is not None and end - begin >= FEWEST_ROWS:
            with suppress(NotApplicable):
                found[name] = labelled.learnt(groups.order[begin:end])
    return found


@dataclass(frozen=True)
class _Groups:
    """The rows of a table, by segment."""

    order: NDArray[np.int64]
    """(rows,) the rows, segment by segment."""
    bounds: list[tuple[int, int]]
    """Where in `order` each segment begins and ends."""
    chosen: list[NDArray[np.int64] | None]
    """For each segment which of its rows have their single values kept; None: all of them, and so they are the whole of it."""

    @classmethod
    def of(cls, places: NDArray[np.int32], segments: int, raw_rows: int) -> "_Groups":
        most = max(raw_rows // segments, FEWEST_VALUES)
        order = np.argsort(
            places.astype(np.int16), kind="stable"
        )  # there are 1,001 at most, and 16 bits are sorted by radix
        bounds = list(pairwise(np.searchsorted(places[order], np.arange(segments + 1)).tolist()))
        chosen: list[NDArray[np.int64] | None] = []
        for begin, end in bounds:
            if end - begin <= min(most, raw_rows):
                chosen.append(None)
            else:
                # By a hash of their number in the table.
                keys = mixed(order[begin:end].astype(np.uint64))
                chosen.append(np.argsort(keys, kind="stable")[:most])
        return cls(order, bounds, chosen)

    @property
    def sizes(self) -> list[int]:
        return [end - begin for begin, end in self.bounds]


_Read = Callable[[_Groups], list[ColumnSummary]]


def _numeric(column: Column, counted: Counted) -> _Read:
    """What makes each segment's summary of a numeric column."""
    j = [one.name for one in counted.schema.numeric].index(column.name)
    numbers = np.concatenate([part.numeric[:, j] for part in counted.blocks])
    missing = np.concatenate([part.missing[:, j] for part in counted.blocks])
    plan = plan_of(dict(counted.whole), Schema((column,)), percentiles=False, comoments=False)
    plan = replace(plan, exact_rows=len(numbers))

    def read(groups: _Groups) -> list[ColumnSummary]:
        grouped, absent = numbers[groups.order, np.newaxis], missing[groups.order, np.newaxis]
        summaries = []
        for (begin, end), chosen in zip(groups.bounds, groups.chosen, strict=True):
            summary = summarise(plan, Block(grouped[begin:end], absent[begin:end])).column(column.name)
            if chosen is not None:
                some = grouped[begin:end, 0][chosen]
                summary = replace(summary, values=None, sample=np.sort(some[np.isfinite(some)]))
            summaries.append(summary)
        return summaries

    return read


def _categorical(column: Column, counted: Counted) -> _Read:
    """What makes each segment's summary of a categorical column; categories that the whole does not list are not listed here."""
    j = [one.name for one in counted.schema.categorical].index(column.name)
    all_codes = joined([part.categorical[j] for part in counted.blocks])
    place = {value: code for code, value in enumerate(all_codes.values)}
    listed = [value for value in cast("dict[str, int]", counted.whole[column.name].counts) if value in place]
    codes = np.array([place[value] for value in listed], np.int64)

    def read(groups: _Groups) -> list[ColumnSummary]:
        grouped = all_codes.codes[groups.order]
        summaries = []
        for begin, end in groups.bounds:
            tally = np.bincount(grouped[begin:end] + 1, minlength=len(all_codes.values) + 1)
            missing, total = int(tally[0]), end - begin - int(tally[0])
            counts = {value: n for value, n in zip(listed, tally[1:][codes].tolist(), strict=True) if n}
            distinct = int(np.count_nonzero(tally[1:]))
            unlisted = total - sum(counts.values())
            summaries.append(
                ColumnSummary(
                    column.name, "categorical", total, missing, distinct=distinct, counts=counts, unlisted=unlisted
                )
            )
        return summaries

    return read
