"""The second of a build's two passes: all rows, counted on rulers that are laid by now, with the same fold that windows get.

What is counted of a fragment is a sum of what is counted of tables of fixed size, and all is the sum over the fragments in their order; so
it is the same to the bit whoever counts which fragment. Whole numbers (counts, bins) do not depend on the fragments either.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detectors.performance.estimate import ReferencePerformance, positions
from detectors.performance.plan import PerformancePlan
from detectors.performance.sums import Packed, PerformanceSums
from detectors.performance.sums import summarise as summarise_performance
from detectors.statistics.block import Block, Codes
from detectors.statistics.sample import mixed
from detectors.statistics.table import Plan, TableSummary, summarise
from reference.look import keys_of, tables, weights_of
from reference.schema import Column, Schema
from reference.segments import Division
from reference.source import Fragment
from reference.table import BATCH_ROWS, blocks

_STRETCH = 4
"""So many tables of rows are divided into segments at a time: the more, the fewer small pieces."""
_COPY = np.uint64(0x9E3779B97F4A7C15)
_OF_WEIGHT = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class Weighing:
    """How often each row counts: w times in the mean, and a whole number of times.

    A row of weight w counts floor(w) times, and once more with probability w - floor(w), which a hash of its place decides: so counts stay
    whole and exact, their expectations are the weighted ones, and the same rows are the same again. The variance that this adds to a count
    is at most a quarter for each row.
    """

    column: str
    scale: float
    """1 / the mean weight."""

    def times(self, weights: NDArray[np.float64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """(rows,) how often each row counts.

        Parameters
        ----------
        keys
            Of the rows' places.
        """
        w = weights * self.scale
        whole = np.floor(w)
        chance = (mixed(keys ^ _OF_WEIGHT) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return (whole + (chance < w - whole)).astype(np.int64)


def copied(times: NDArray[np.int64], keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Which rows stand for the copies of all rows, and the keys of the copies; that of a first copy is the row's own."""
    rows = np.repeat(np.arange(len(times)), times)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)
    of_copy = keys[rows]
    again = number > 0
    of_copy[again] = mixed(of_copy[again] + number[again].astype(np.uint64) * _COPY)
    return rows, of_copy


@dataclass(frozen=True)
class Dividing:
    """What is counted of the segments of one division."""

    division: Division
    keep: int
    """Rows of which single values are kept, in each segment."""
    performance: Mapping[int, ReferencePerformance] = field(default_factory=dict)
    """Place of a segment -> its bins of predictions."""


@dataclass(frozen=True)
class Divided:
    """What was counted of the segments of one division; all by segment."""

    rows: NDArray[np.int64]
    """(segments,)"""
    request: tuple[TableSummary, ...]
    """The numeric columns only."""
    response: tuple[TableSummary, ...]
    categories: tuple[NDArray[np.int64], ...]
    """For each categorical column of requests, then of responses: (segments, listed + 2); the last two are others and missing ones."""
    performance: Mapping[int, tuple[PerformanceSums, ...]]

    def __add__(self, other: "Divided") -> "Divided":
        return Divided(
            self.rows + other.rows,
            tuple(a + b for a, b in zip(self.request, other.request, strict=True)),
            tuple(a + b for a, b in zip(self.response, other.response, strict=True)),
            tuple(a + b for a, b in zip(self.categories, other.categories, strict=True)),
            {place: _both(sums, other.performance[place]) for place, sums in self.performance.items()},
        )


@dataclass(frozen=True)
class Count:
    """What was counted of a fragment, or of all so far."""

    rows: int
    request: TableSummary
    """The numeric columns only."""
    response: TableSummary
    categories: tuple[NDArray[np.int64], ...]
    """For each column of `Counter.recounted`: (candidates + 2,); the last two are others and missing ones."""
    divided: tuple[Divided, ...]
    performance: tuple[PerformanceSums, ...]

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.rows + other.rows,
            self.request + other.request,
            self.response + other.response,
            tuple(a + b for a, b in zip(self.categories, other.categories, strict=True)),
            tuple(a + b for a, b in zip(self.divided, other.divided, strict=True)),
            _both(self.performance, other.performance),
        )


def _both(a: Sequence[PerformanceSums], b: Sequence[PerformanceSums]) -> tuple[PerformanceSums, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


@dataclass(frozen=True)
class Labels:
    """What is counted of predictions and their labels."""

    column: Column
    whole: ReferencePerformance
    """Its plan and bins; its sums are those of a sample."""


@dataclass(frozen=True)
class Counter:
    """Counts one fragment after the other; it is the same for every worker."""

    request: Schema
    response: Schema
    plans: tuple[Plan, Plan]
    """Of the numeric columns of requests, and of responses."""
    recounted: Mapping[str, pa.Array]
    """Categorical column -> the categories that are counted in this pass: where the first could not count all."""
    listed: Mapping[str, pa.Array] = field(default_factory=dict)
    """Categorical column -> the categories that are counted in segments."""
    weighing: Weighing | None = None
    dividing: tuple[Dividing, ...] = ()
    labels: Labels | None = None

    @cached_property
    def schema(self) -> Schema:
        """The columns that are read: those with numbers, and of the others only what is asked for."""
        columns = (*self.request.columns, *self.response.columns)
        wanted = set(self.recounted) | {one.division.by.feature for one in self.dividing}
        if self.dividing:
            wanted |= set(self.listed)
        if self.labels is not None:
            wanted |= {self.labels.whole.plan.prediction, *self.labels.whole.plan.columns}
            columns = (*columns, self.labels.column)
        known: dict[tuple[str, str], Column] = {}
        for column in columns:
            if column.type == "numeric" or column.name in wanted or (self.labels and column is self.labels.column):
                known.setdefault((column.name, column.type), column)
        return Schema(tuple(known.values()))

    @cached_property
    def columns(self) -> list[str]:
        """The table's columns that are read, each once."""
        weight = () if self.weighing is None else (self.weighing.column,)
        return list(dict.fromkeys((*self.schema.names, *weight)))

    def __call__(self, place: int, fragment: Fragment) -> Count:
        """Count one fragment."""
        nothing = self.empty()
        total, divided = replace(nothing, divided=()), nothing.divided
        waiting: list[Block] = []
        first = 0
        for table in tables(fragment, self.columns):
            for block in self._blocks(table, keys_of(place, first, table.num_rows)):
                total += self._of(block)
                if self.dividing:
                    waiting.append(block)
                if len(waiting) == _STRETCH:
                    divided = self._with_segments(divided, waiting)
                    waiting = []
            first += table.num_rows
        return replace(total, divided=self._with_segments(divided, waiting) if waiting else divided)

    def empty(self) -> Count:
        """Of no rows."""
        return Count(
            0,
            TableSummary.empty(self.plans[0]),
            TableSummary.empty(self.plans[1]),
            tuple(np.zeros(len(values) + 2, np.int64) for values in self.recounted.values()),
            tuple(self._nothing(one) for one in self.dividing),
            () if self.labels is None else _no_sums(self.labels.whole),
        )

    def sum_of(self, counts: Iterator[Count]) -> Count:
        """Of all fragments, in their order."""
        total = self.empty()
        for one in counts:
            total += one
        return total

    def _blocks(self, table: pa.Table, keys: NDArray[np.uint64]) -> Iterator[Block]:
        """The rows, each as often as it counts."""
        if self.weighing is None:
            for block in blocks(table, self.schema):
                yield replace(block, keys=keys)
            return
        weights = weights_of(table[self.weighing.column], self.weighing.column)
        rows, keys = copied(self.weighing.times(weights, keys), keys)
        for start in range(0, len(rows), BATCH_ROWS):
            some = slice(start, start + BATCH_ROWS)
            for block in blocks(table.take(pa.array(rows[some])), self.schema):
                yield replace(block, keys=keys[some])

    def _of(self, block: Block) -> Count:
        request, response = self._numbers(block)
        categories = tuple(_tally(self._column(block, name), values) for name, values in self.recounted.items())
        performance: tuple[PerformanceSums, ...] = ()
        if self.labels is not None:
            predictions, labels = self._encoded(block)
            performance = _in_bins(self.labels.whole, predictions, labels)
        return Count(
            block.rows,
            summarise(self.plans[0], request),
            summarise(self.plans[1], response),
            categories,
            (),
            performance,
        )

    def _numbers(self, block: Block) -> tuple[Block, Block]:
        """The numeric columns of requests and of responses."""
        places = {column.name: j for j, column in enumerate(self.schema.numeric)}
        parts = []
        for schema in (self.request, self.response):
            at = [places[column.name] for column in schema.numeric]
            whole = at == list(range(at[0], at[0] + len(at))) if at else True
            cut: Any = slice(at[0], at[0] + len(at)) if at and whole else at
            parts.append(Block(block.numeric[:, cut], block.missing[:, cut], keys=block.keys))
        return parts[0], parts[1]

    def _column(self, block: Block, name: str) -> Codes:
        return block.categorical[[column.name for column in self.schema.categorical].index(name)]

    def _encoded(self, block: Block) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predictions and labels, as the plan of performance has them."""
        assert self.labels is not None  # see the callers
        return encoded(self.labels.whole.plan, block, self.schema, self.response, self.labels.column)

    def _with_segments(self, known: Sequence[Divided], waiting: Sequence[Block]) -> tuple[Divided, ...]:
        block = _joined(waiting)
        request, response = self._numbers(block)
        found = []
        for one, before in zip(self.dividing, known, strict=True):
            feature = one.division.by.feature
            assert feature is not None  # headers have no reference
            segments = len(one.division.names)
            places = one.division.places(self._column(block, feature), block.rows)
            order = np.argsort(
                places.astype(np.int16), kind="stable"
            )  # there are 1,001 at most, and 16 bits are sorted by radix
            bounds = np.searchsorted(places[order], np.arange(segments + 1)).tolist()
            plans = self._kept(one)
            performance = {}
            if one.performance:
                predictions, labels = self._encoded(block)
                for place, bins in one.performance.items():
                    rows = order[bounds[place] : bounds[place + 1]]
                    performance[place] = _in_bins(bins, predictions[rows], labels[rows])
            found.append(
                before
                + Divided(
                    np.diff(bounds).astype(np.int64),
                    _by_segment(plans[0], request, order, bounds),
                    _by_segment(plans[1], response, order, bounds),
                    tuple(
                        _tally(self._column(block, name), values, places, segments)
                        for name, values in self.listed.items()
                    ),
                    performance,
                )
            )
        return tuple(found)

    def _kept(self, one: Dividing) -> tuple[Plan, Plan]:
        """The plans of segments: as those of the whole, with a sample instead of co-moments."""
        return self._segment_plans[one.keep]

    @cached_property
    def _segment_plans(self) -> dict[int, tuple[Plan, Plan]]:
        """By how many rows are kept. Summaries of one plan add without a look at its marks, so there is one of each."""
        request, response = (replace(plan, comoments=False) for plan in self.plans)
        return {
            one.keep: (replace(request, sample=one.keep), replace(response, sample=one.keep)) for one in self.dividing
        }

    def _nothing(self, one: Dividing) -> Divided:
        segments = len(one.division.names)
        plans = self._kept(one)
        return Divided(
            np.zeros(segments, np.int64),
            (TableSummary.empty(plans[0]),) * segments,
            (TableSummary.empty(plans[1]),) * segments,
            tuple(np.zeros((segments, len(values) + 2), np.int64) for values in self.listed.values()),
            {place: _no_sums(known) for place, known in one.performance.items()},
        )

    def pack(self, count: Count) -> bytes:
        """The binary form: MessagePack of little-endian arrays. Never pickle."""
        body = {
            "rows": count.rows,
            "request": count.request.to_bytes(),
            "response": count.response.to_bytes(),
            "categories": [tally.tobytes() for tally in count.categories],
            "divided": [
                {
                    "rows": one.rows.tobytes(),
                    "request": [summary.to_bytes() for summary in one.request],
                    "response": [summary.to_bytes() for summary in one.response],
                    "categories": [tally.tobytes() for tally in one.categories],
                    "performance": [(place, [x.packed() for x in sums]) for place, sums in one.performance.items()],
                }
                for one in count.divided
            ],
            "performance": [sums.packed() for sums in count.performance],
        }
        return msgspec.msgpack.encode(body)

    def unpack(self, data: bytes) -> Count:
        """What `pack` gave."""
        body = msgspec.msgpack.decode(data, type=_Count)
        divided = []
        for one, packed in zip(self.dividing, body.divided, strict=True):
            plans = self._kept(one)
            shape = (len(one.division.names), -1)
            divided.append(
                Divided(
                    np.frombuffer(packed.rows, np.int64),
                    tuple(TableSummary.from_bytes(each, plans[0]) for each in packed.request),
                    tuple(TableSummary.from_bytes(each, plans[1]) for each in packed.response),
                    tuple(np.frombuffer(tally, np.int64).reshape(shape) for tally in packed.categories),
                    {place: _sums(one.performance[place].plan, sums) for place, sums in packed.performance},
                )
            )
        return Count(
            body.rows,
            TableSummary.from_bytes(body.request, self.plans[0]),
            TableSummary.from_bytes(body.response, self.plans[1]),
            tuple(np.frombuffer(tally, np.int64) for tally in body.categories),
            tuple(divided),
            () if self.labels is None else _sums(self.labels.whole.plan, body.performance),
        )


def encoded(
    plan: PerformancePlan, block: Block, schema: Schema, response: Schema, label: Column
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predictions and labels of a block, as a plan of performance has them.

    Parameters
    ----------
    schema
        Of the block.
    response
        The predictions among its columns; some of them may not be there.
    """
    numeric = {column.name: j for j, column in enumerate(schema.numeric)}
    categorical = {column.name: j for j, column in enumerate(schema.categorical)}
    numbers = [column.name for column in response.numeric if column.name in numeric]
    texts = [column.name for column in response.categorical if column.name in categorical]
    at = [numeric[name] for name in numbers]
    outputs = Block(
        block.numeric[:, at], block.missing[:, at], tuple(block.categorical[categorical[name]] for name in texts)
    )
    truth = (
        plan.indices(block.categorical[categorical[label.name]])
        if label.type == "categorical"
        else block.numeric[:, numeric[label.name]]
    )
    return plan.encode(outputs, numbers, texts), truth


def _in_bins(
    known: ReferencePerformance, predictions: NDArray[np.float64], labels: NDArray[np.float64]
) -> tuple[PerformanceSums, ...]:
    """The sums of the rows of each bin; unusable rows are in none."""
    position = positions(known.plan, predictions)
    usable = np.flatnonzero(np.isfinite(position) & np.isfinite(labels))
    bins = np.searchsorted(known.edges, position[usable])
    order = usable[np.argsort(bins.astype(np.int16), kind="stable")]  # there are a few hundred at most
    cuts = np.concatenate(([0], np.cumsum(np.bincount(bins, minlength=len(known.edges) + 1)))).tolist()
    predictions, labels = predictions[order], labels[order]
    return tuple(summarise_performance(known.plan, predictions[a:b], labels[a:b]) for a, b in pairwise(cuts))


def _no_sums(known: ReferencePerformance) -> tuple[PerformanceSums, ...]:
    return (PerformanceSums.empty(known.plan),) * len(known.bins)


def _sums(plan: PerformancePlan, packed: Sequence[Packed]) -> tuple[PerformanceSums, ...]:
    return tuple(PerformanceSums.unpacked(plan, one) for one in packed)


def _by_segment(plan: Plan, block: Block, order: NDArray[np.int64], bounds: Sequence[int]) -> tuple[TableSummary, ...]:
    assert block.keys is not None  # see `Counter._blocks`
    numeric, missing = np.asfortranarray(block.numeric[order]), np.asfortranarray(block.missing[order])
    keys = block.keys[order]
    return tuple(summarise(plan, Block(numeric[a:b], missing[a:b], keys=keys[a:b])) for a, b in pairwise(bounds))


def _tally(
    column: Codes, values: pa.Array, places: NDArray[np.int32] | None = None, segments: int = 1
) -> NDArray[np.int64]:
    """How often each of some categories occurs, then all others, then none; of each segment where `places` are given."""
    found = pa.array(column.values, pa.large_string())
    known = pa.compute.index_in(found, value_set=values).fill_null(len(values)).to_numpy(zero_copy_only=False)
    width = len(values) + 2
    lookup = np.append(known.astype(np.int64), width - 1)  # the last for the missing, which have code -1
    if places is None:
        return np.bincount(lookup[column.codes], minlength=width)
    at = lookup[column.codes] + places.astype(np.int64) * width
    return np.bincount(at, minlength=segments * width).reshape(segments, width)


def _joined(parts: Sequence[Block]) -> Block:
    """Blocks one behind the other."""
    if len(parts) == 1:
        return parts[0]
    keys = [part.keys for part in parts if part.keys is not None]
    return Block(
        _stacked([part.numeric for part in parts]),
        _stacked([part.missing for part in parts]),
        tuple(joined(columns) for columns in zip(*(part.categorical for part in parts), strict=True)),
        np.concatenate(keys),
    )


def _stacked(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    rows = sum(map(len, parts))
    whole = np.empty((rows, parts[0].shape[1]), parts[0].dtype, order="F")
    np.concatenate(parts, out=whole)
    return whole


def joined(columns: Sequence[Codes]) -> Codes:
    """The columns of some blocks as one."""
    known: dict[str, int] = {}
    parts = []
    for column in columns:
        lookup = np.array([*(known.setdefault(value, len(known)) for value in column.values), -1], np.int32)
        parts.append(lookup[column.codes])
    return Codes(np.concatenate(parts), tuple(known))


class _Divided(msgspec.Struct):
    rows: bytes
    request: list[bytes]
    response: list[bytes]
    categories: list[bytes]
    performance: list[tuple[int, list[Packed]]]


class _Count(msgspec.Struct):
    rows: int
    request: bytes
    response: bytes
    categories: list[bytes]
    divided: list[_Divided]
    performance: list[Packed]
