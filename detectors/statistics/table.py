"""The summary of a table: every sufficient statistic of a batch, a pane, a window or the whole reference.

``summarise(plan, batch)`` makes one, ``a + b`` is the summary of both, and any drift score or statistic is read off the
sum. The plan, which comes from the baseline, says what is counted and on which rulers; summaries of one plan add.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from datasketches import kll_doubles_sketch
from numpy.typing import NDArray

from detectors import limits
from detectors.errors import IncompatibleSummaries, SummaryFormatError
from detectors.statistics.block import Block
from detectors.statistics.categories import MAX_LISTED, CategoryCounts
from detectors.statistics.column import ColumnSummary
from detectors.statistics.comoments import CoMoments
from detectors.statistics.distinct import Distinct
from detectors.statistics.embedding import Embedding, EmbeddingSum
from detectors.statistics.moments import Moments
from detectors.statistics.quantiles import Quantiles
from detectors.statistics.ruler import Ruler, RulerCounts
from detectors.statistics.sample import RowSample

EXACT_ROWS = 1000
"""A summary keeps every value while it has at most so many rows, where Evidently's default tests want them."""
_MAGIC = b"DLS2"
_MOMENTS = 9


@dataclass(frozen=True)
class Plan:
    """What is counted of a table, column by column."""

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    rulers: tuple[Ruler, ...] | None = None
    """One for each numeric column; None while there is no baseline."""
    discrete: dict[int, frozenset[float]] = field(default_factory=dict)
    """Numeric columns with few distinct values in the reference -> those values: each is counted by itself."""
    listed: tuple[frozenset[str], ...] = ()
    """For each categorical column, the categories of the reference: never dropped from the counts."""
    percentiles: bool = True
    comoments: bool = True
    distinct: bool = False
    """Whether distinct values are counted beyond those of a whole column."""
    sample: int = 0
    """Rows of which a sample is kept."""
    embeddings: tuple[Embedding, ...] = ()
    """Random features whose sums over the complete rows are kept."""
    exact_rows: int = EXACT_ROWS
    max_categories: int = MAX_LISTED

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that differ when two plans do not count the same."""
        digest = hashlib.blake2b(digest_size=8)
        counted = (self.percentiles, self.comoments, self.distinct, self.sample, self.exact_rows, self.max_categories)
        digest.update(repr((self.numeric, self.categorical, counted)).encode())
        digest.update(repr([(j, sorted(values)) for j, values in sorted(self.discrete.items())]).encode())
        digest.update(repr([sorted(known) for known in self.listed]).encode())
        digest.update(repr(None if self.rulers is None else [len(ruler.marks) for ruler in self.rulers]).encode())
        for ruler in self.rulers or ():
            digest.update(ruler.marks.tobytes())
        for embedding in self.embeddings:
            digest.update(embedding.key)
        return digest.digest()

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """Where each column's bins begin and end in the rulers' common arrays."""
        return np.concatenate(([0], np.cumsum([ruler.size for ruler in self.rulers or ()], dtype=np.int64)))


@dataclass(frozen=True, slots=True)
class TableSummary:
    """Everything that is known of the rows seen so far."""

    plan: Plan
    rows: int
    moments: Moments
    comoments: CoMoments | None
    bins: RulerCounts | None
    sketches: Quantiles | None
    values: tuple[NDArray[np.float64], ...] | None
    """Every finite value of each numeric column, sorted; None once there were more than `plan.exact_rows` rows."""
    categories: tuple[CategoryCounts, ...]
    """Of the categorical columns."""
    discrete: tuple[CategoryCounts, ...]
    """Of the numeric columns in `plan.discrete`, in ascending order."""
    distinct: Distinct | None = None
    sample: RowSample | None = None
    embedded: tuple[EmbeddingSum, ...] = ()
    """For each of `plan.embeddings`."""

    @classmethod
    def empty(cls, plan: Plan) -> "TableSummary":
        """Of no rows: the neutral element of `+`."""
        n = len(plan.numeric)
        return cls(
            plan,
            0,
            Moments.empty(n),
            CoMoments.empty(n) if plan.comoments else None,
            None if plan.rulers is None else RulerCounts.empty(int(plan.bounds[-1])),
            Quantiles.empty(n) if plan.percentiles else None,
            (np.empty(0),) * n,
            tuple(
                CategoryCounts({}, cap=plan.max_categories, listed=listed)
                for listed in plan.listed or (frozenset(),) * len(plan.categorical)
            ),
            tuple(
                CategoryCounts({}, cap=plan.max_categories, listed=known) for _, known in sorted(plan.discrete.items())
            ),
            Distinct.empty(n + len(plan.categorical)) if plan.distinct else None,
            RowSample.empty(plan.sample, n, len(plan.categorical)) if plan.sample else None,
            tuple(EmbeddingSum.empty(embedding.size) for embedding in plan.embeddings),
        )

    def __add__(self, other: "TableSummary") -> "TableSummary":
        """Of both.

        Raises
        ------
        IncompatibleSummaries
            When they were not counted on the same plan.
        """
        if self.plan is not other.plan and self.plan.fingerprint != other.plan.fingerprint:
            msg = (
                f"summaries of plans {self.plan.fingerprint.hex()} and {other.plan.fingerprint.hex()} do not add: "
                "count both on the rulers of one baseline"
            )
            raise IncompatibleSummaries(msg)
        if self.rows == 0 or other.rows == 0:
            return self if other.rows == 0 else other
        rows = self.rows + other.rows
        values = None
        if self.values is not None and other.values is not None and rows <= self.plan.exact_rows:
            values = tuple(np.sort(np.concatenate(pair)) for pair in zip(self.values, other.values, strict=True))
        return TableSummary(
            self.plan,
            rows,
            self.moments + other.moments,
            _both(self.comoments, other.comoments),
            _both(self.bins, other.bins),
            _both(self.sketches, other.sketches),
            values,
            tuple(a + b for a, b in zip(self.categories, other.categories, strict=True)),
            tuple(a + b for a, b in zip(self.discrete, other.discrete, strict=True)),
            _both(self.distinct, other.distinct),
            _both(self.sample, other.sample),
            tuple(a + b for a, b in zip(self.embedded, other.embedded, strict=True)),
        )

    @property
    def quantiles(self) -> "Percentiles | None":
        """What percentiles are read off by; None when they were not asked for."""
        return Percentiles(self) if self.sketches is not None else None

    def column(self, name: str) -> ColumnSummary:
        """One column, as a drift detector sees it.

        Raises
        ------
        KeyError
            When the plan has no such column.
        """
        plan = self.plan
        if name in plan.categorical:
            counts = self.categories[plan.categorical.index(name)]
            return ColumnSummary(
                name,
                "categorical",
                counts.total,
                counts.missing,
                distinct=len(counts.counts) if counts.exact else None,
                counts=counts.counts,
                unlisted=counts.unlisted,
            )
        if name not in plan.numeric:
            raise KeyError(name)
        j = plan.numeric.index(name)
        m = self.moments
        known: dict[str, Any] = {}
        if self.bins is not None and plan.rulers is not None:
            span = slice(plan.bounds[j], plan.bounds[j + 1])
            ruler, counts_in = plan.rulers[j], self.bins.counts[span]
            known |= {"ruler": ruler, "bins": counts_in, "sums": ruler.sums(counts_in, self.bins.places[span])}
        if j in plan.discrete:
            counts = self.discrete[sorted(plan.discrete).index(j)]
            known |= {"counts": counts.counts, "unlisted": counts.unlisted}
            known["distinct"] = len(counts.counts) if counts.exact else None
        if self.values is not None:
            values = self.values[j]
            known["values"] = values
            known.setdefault("distinct", int(np.count_nonzero(np.diff(values))) + (len(values) > 0))
        elif self.sample is not None:
            known["sample"] = self.sample.values(j)
        some = m.count[j] > 0
        return ColumnSummary(
            name,
            "numeric",
            int(m.count[j]),
            int(m.missing[j]),
            int(m.nonfinite[j]),
            float(m.low[j]) if some else np.nan,
            float(m.high[j]) if some else np.nan,
            float(m.mean[j]) if some else np.nan,
            float(m.m2[j]),
            float(m.m3[j]),
            float(m.m4[j]),
            **known,
        )

    def columns(self) -> Iterator[ColumnSummary]:
        """All columns, the numeric ones first."""
        for name in (*self.plan.numeric, *self.plan.categorical):
            yield self.column(name)

    def to_bytes(self) -> bytes:
        """The binary form: magic and version, the plan's fingerprint, then MessagePack of little-endian arrays.

        Ruler counts are written sparsely while few bins are filled, so a summary of a hundred rows is small.
        """
        body = {
            "plan": self.plan.fingerprint,
            "rows": self.rows,
            "moments": [array.tobytes() for array in self.moments.arrays()],
            "comoments": None
            if self.comoments is None
            else (self.comoments.n, self.comoments.mean.tobytes(), self.comoments.c.tobytes()),
            "bins": None if self.bins is None else _pack_bins(self.bins),
            "quantiles": None if self.sketches is None else [s.serialize() for s in self.sketches.sketches],
            "values": None if self.values is None else [values.tobytes() for values in self.values],
            "categories": [_pack_counts(counts) for counts in self.categories],
            "discrete": [_pack_counts(counts) for counts in self.discrete],
            "distinct": None if self.distinct is None else [hashes.tobytes() for hashes in self.distinct.hashes],
            "sample": None if self.sample is None else self.sample.packed(),
            "embedded": [(embedded.n, embedded.total.tobytes()) for embedded in self.embedded],
        }
        return _MAGIC + msgspec.msgpack.encode(body)

    @classmethod
    def from_bytes(cls, data: bytes, plan: Plan) -> "TableSummary":
        """Read the binary form back.

        Raises
        ------
        SummaryFormatError
            When these are not the bytes of a summary of this version.
        IncompatibleSummaries
            When it was counted on another plan.
        """
        if data[:4] != _MAGIC:
            msg = f"these bytes begin with {data[:4]!r}, a summary of this version begins with {_MAGIC!r}"
            raise SummaryFormatError(msg)
        try:
            body = msgspec.msgpack.decode(memoryview(data)[4:], type=_Packed)
            if body.plan != plan.fingerprint:
                msg = f"this summary was counted on plan {body.plan.hex()}, not on {plan.fingerprint.hex()}"
                raise IncompatibleSummaries(msg)
            return _unpack(cls, body, plan)
        except (msgspec.MsgspecError, ValueError, IndexError, TypeError, RuntimeError) as error:  # the last by a sketch
            if isinstance(error, IncompatibleSummaries):
                raise
            msg = f"these {len(data)} bytes are not a whole summary: {error}"
            raise SummaryFormatError(msg) from None


@dataclass(frozen=True, slots=True)
class Percentiles:
    """The percentiles of a summary's numeric columns.

    Exact from every single value. With a ruler, off by at most what one bin holds, and for values unlike the reference's, by less
    than 1/128 of the rows and the error of a sketch of them; without one, by the error of a sketch of all.
    """

    table: TableSummary

    def at(self, column: int, ranks: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values at these ranks (0 to 1) of one column; NaN when it is empty."""
        sketches, plan = self.table.sketches, self.table.plan
        assert sketches is not None  # see TableSummary.quantiles
        if plan.rulers is None:
            return sketches.at(column, ranks)
        known = self.table.column(plan.numeric[column])
        if not known.count:
            return np.full(len(ranks), np.nan)
        found = limits.quantiles(known, ranks)
        if known.values is not None or known.bins is None or sketches.sketches[column].is_empty():
            return found
        upto = np.cumsum(known.bins)
        marks = np.concatenate(([-np.inf], plan.rulers[column].ceilings))
        for i, rank in enumerate((ranks * known.count).tolist()):
            if 0 < rank < known.count:
                at = int(np.searchsorted(upto, rank))
                count = int(known.bins[at])
                share = (rank - int(upto[at]) + count) / count
                value = sketches.within(column, float(marks[at]), float(marks[at + 1]), count, share)
                if value is not None:
                    found[i] = min(max(value, known.low), known.high)
        return found


def summarise(plan: Plan, block: Block) -> TableSummary:
    """The summary of one batch of rows.

    Parameters
    ----------
    block
        Its columns are those of the plan, in the plan's order. Column-major numbers (``order="F"``) are ten times as
        fast as row-major ones.
    """
    from detectors.statistics import compiled

    if block.rows == 0:
        return TableSummary.empty(plan)
    x = block.numeric
    columns = [_finite(x[:, j]) for j in range(x.shape[1])]
    if not compiled.HERE:  # all that follows then asks for them in order
        columns = [np.sort(values) for values in columns]
    complete = x
    if (plan.comoments or plan.embeddings) and any(len(values) < block.rows for values in columns):
        complete = x[np.isfinite(x).all(axis=1)]
    tallies = [ruler.count(values) for ruler, values in zip(plan.rulers or (), columns, strict=plan.rulers is not None)]
    sketches = None
    if plan.percentiles:
        sketches = Quantiles.of(columns) if plan.rulers is None else Quantiles.of_crowded(columns, plan.rulers, tallies)
    listed = plan.listed or (frozenset(),) * len(plan.categorical)
    return TableSummary(
        plan,
        block.rows,
        Moments.of(block, columns),
        CoMoments.of(complete) if plan.comoments else None,
        None if plan.rulers is None else RulerCounts.of(tallies),
        sketches,
        tuple(map(np.sort, columns)) if block.rows <= plan.exact_rows else None,
        tuple(
            CategoryCounts.of(column, plan.max_categories, known)
            for column, known in zip(block.categorical, listed, strict=True)
        ),
        tuple(
            CategoryCounts.of_numbers(columns[j], plan.max_categories, known)
            for j, known in sorted(plan.discrete.items())
        ),
        Distinct.of(columns, block.categorical) if plan.distinct else None,
        RowSample.of(block, plan.sample) if plan.sample else None,
        tuple(EmbeddingSum.of(embedding, complete) for embedding in plan.embeddings),
    )


def _finite(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """The finite values of a column, one behind the other in memory."""
    values = np.ascontiguousarray(column)
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(values.sum()):  # a quarter of the time of asking each
            return values
    return values[np.isfinite(values)]


def merged(plan: Plan, parts: Sequence[TableSummary]) -> TableSummary:
    """The sum of any number of summaries."""
    total = TableSummary.empty(plan)
    for part in parts:
        total += part
    return total


class _Packed(msgspec.Struct):
    plan: bytes
    rows: int
    moments: list[bytes]
    comoments: tuple[int, bytes, bytes] | None
    bins: tuple[int, bytes, bytes, bytes] | None
    quantiles: list[bytes] | None
    values: list[bytes] | None
    categories: list[tuple[dict[str, int], int, int, int]]
    discrete: list[tuple[dict[float, int], int, int, int]]
    distinct: list[bytes] | None
    sample: tuple[bytes, bytes, list[list[str | None]]] | None
    embedded: list[tuple[int, bytes]]


def _both(a: Any, b: Any) -> Any:
    return None if a is None or b is None else a + b


def _pack_counts(counts: CategoryCounts) -> tuple[Any, ...]:
    return counts.counts, counts.missing, counts.error, counts.unlisted


def _pack_bins(bins: RulerCounts) -> tuple[int, bytes, bytes, bytes]:
    filled = np.flatnonzero(bins.counts)
    if len(filled) * 2 > len(bins.counts):
        return len(bins.counts), b"", bins.counts.tobytes(), bins.places.tobytes()
    return (
        len(bins.counts),
        filled.astype(np.uint32).tobytes(),
        bins.counts[filled].tobytes(),
        bins.places[filled].tobytes(),
    )


def _unpack(cls: type[TableSummary], body: _Packed, plan: Plan) -> TableSummary:
    columns = len(plan.numeric)
    if len(body.moments) != _MOMENTS:
        msg = f"it has {len(body.moments)} moments, not {_MOMENTS}"
        raise ValueError(msg)
    moments = [
        np.frombuffer(array, np.int64 if k < 3 else np.float64)  # the three counts come first
        for k, array in enumerate(body.moments)
    ]
    if any(len(array) != columns for array in moments):
        msg = f"its moments are not of {columns} columns"
        raise ValueError(msg)
    comoments = None
    if body.comoments is not None:
        n, mean, c = body.comoments
        comoments = CoMoments(n, np.frombuffer(mean), np.frombuffer(c).reshape(columns, columns))
    bins = None
    if body.bins is not None:
        size, at, counts, places = body.bins
        if size != plan.bounds[-1]:
            msg = f"it has {size} bins, its plan {plan.bounds[-1]}"
            raise ValueError(msg)
        if at:
            where = np.frombuffer(at, np.uint32)
            all_counts, all_places = np.zeros(size, np.int64), np.zeros(size, np.int64)
            all_counts[where], all_places[where] = np.frombuffer(counts, np.int64), np.frombuffer(places, np.int64)
            bins = RulerCounts(all_counts, all_places)
        elif counts:
            bins = RulerCounts(np.frombuffer(counts, np.int64), np.frombuffer(places, np.int64))
        else:
            bins = RulerCounts(np.zeros(size, np.int64), np.zeros(size, np.int64))
    return cls(
        plan,
        body.rows,
        Moments(*moments),  # type: ignore[arg-type] # whole numbers first, see above
        comoments,
        bins,
        None
        if body.quantiles is None
        else Quantiles(tuple(kll_doubles_sketch.deserialize(sketch) for sketch in body.quantiles)),
        None if body.values is None else tuple(np.frombuffer(values) for values in body.values),
        tuple(
            CategoryCounts(*packed, cap=plan.max_categories, listed=listed)
            for packed, listed in zip(
                body.categories, plan.listed or (frozenset(),) * len(plan.categorical), strict=True
            )
        ),
        tuple(
            CategoryCounts(*packed, cap=plan.max_categories, listed=known)
            for packed, (_, known) in zip(body.discrete, sorted(plan.discrete.items()), strict=True)
        ),
        None if body.distinct is None else Distinct(tuple(np.frombuffer(h, np.uint64) for h in body.distinct)),
        None if body.sample is None else RowSample.unpacked(plan.sample, columns, *body.sample),
        tuple(EmbeddingSum(n, np.frombuffer(total)) for n, total in body.embedded),
    )
