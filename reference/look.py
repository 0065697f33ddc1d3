"""The first of a build's two passes: what must be known of the rows before they can be counted.

Rulers need quantiles, category lists need the frequent categories, and outlier models need some whole rows. So this pass counts rows and
categories, finds the extremes, and keeps a uniform sample of whole rows. What a fragment tells adds up to what the source tells, to the bit
whoever reads which fragment, as long as the parts are added in the fragments' order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detectors.statistics.distinct import Distinct, smallest
from detectors.statistics.sample import mixed
from reference.category import LONGEST
from reference.errors import UnusableData
from reference.schema import Column, Schema
from reference.source import Fragment
from reference.table import BATCH_ROWS, no_text, numbers, texts_of

LISTED = 65_536
"""Up to so many categories of a column are counted exactly in this pass; beyond, those that may be frequent are found."""
_PLACE_BITS = 40
"""A row's place is its fragment's number, and in 40 bits its number in the fragment."""
_KEY = "key"
_NEVER = np.uint64(2**64 - 1)


def keys_of(fragment: int, first: int, rows: int) -> NDArray[np.uint64]:
    """(rows,) hashes of the places of rows that follow one another, by which they are sampled.

    Parameters
    ----------
    fragment
        The number of the fragment in its source.
    first
        The number of the first row in its fragment.
    """
    begin = (fragment << _PLACE_BITS) + first
    return mixed(np.arange(begin, begin + rows, dtype=np.uint64))


def tables(fragment: Fragment, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
    """The rows of a fragment in tables of that many, whatever batches it gives: so the same rows are always added up in the same order."""
    waiting: list[pa.RecordBatch] = []
    held = 0
    for batch in fragment.batches(columns):
        waiting.append(batch)
        held += batch.num_rows
        if held < rows:
            continue
        table = pa.Table.from_batches(waiting)
        for start in range(0, held - held % rows, rows):
            yield table.slice(start, rows)
        held %= rows
        waiting = table.slice(table.num_rows - held).to_batches() if held else []
    if held:
        yield pa.Table.from_batches(waiting)


@dataclass(frozen=True)
class Categories:
    """How often each category of a column occurs, in Arrow's arrays: a million distinct ones never become Python objects.

    Exact while there are at most 65,536; beyond, the reduction of `detectors.statistics.categories`: a count is too low by at most `error`,
    and what is in none occurs at most `error` times, which is at most one in 65,536 of the values.
    """

    values: pa.Array
    """Canonical texts, each once."""
    counts: NDArray[np.int64]
    missing: int = 0
    unlisted: int = 0
    error: int = 0
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """The smallest hashes of the texts that there were when some had to be dropped."""

    @classmethod
    def empty(cls) -> "Categories":
        """Of no rows."""
        return cls(pa.array([], pa.large_string()), np.empty(0, np.int64))

    @classmethod
    def of(cls, column: pa.ChunkedArray, spec: Column) -> "Categories":
        """Of some rows."""
        if pa.types.is_dictionary(column.type):
            parts = [_of_dictionary(chunk, spec) for chunk in column.chunks]
            return cls.sum_of(parts)
        if pa.types.is_float16(column.type):
            column = column.cast(pa.float64())
        try:
            found = column.value_counts()
        except pa.ArrowException:
            raise UnusableData(no_text(spec, column.type)) from None
        values, counts = found.field("values"), found.field("counts")
        return _canonical(values, counts.to_numpy(zero_copy_only=False).astype(np.int64), spec)

    @classmethod
    def sum_of(cls, parts: Sequence["Categories"]) -> "Categories":
        """Of all of them."""
        if len(parts) == 1:
            return parts[0]
        missing, unlisted = sum(part.missing for part in parts), sum(part.unlisted for part in parts)
        error = sum(part.error for part in parts)
        if not parts:
            return cls.empty()
        values, counts = _grouped(
            pa.chunked_array([part.values for part in parts]), np.concatenate([part.counts for part in parts])
        )
        hashes = smallest(np.concatenate([part.hashes for part in parts]))
        return cls(values, counts, missing, unlisted, error, hashes).reduced()

    @property
    def total(self) -> int:
        """Values that are not missing."""
        return int(self.counts.sum()) + self.unlisted

    @property
    def exact(self) -> bool:
        """Whether every count is exact."""
        return self.unlisted == 0

    def reduced(self) -> "Categories":
        """With at most 65,536 categories: subtract the 65,537th largest count from all, and drop those with nothing left."""
        if len(self.counts) <= LISTED:
            return self
        cut = int(np.partition(self.counts, -(LISTED + 1))[-(LISTED + 1)])
        kept = self.counts > cut
        dropped = int(np.minimum(self.counts, cut).sum())
        return Categories(
            self.values.filter(pa.array(kept)),
            self.counts[kept] - cut,
            self.missing,
            self.unlisted + dropped,
            self.error + cut,
            self._hashed(),
        )

    def _hashed(self) -> NDArray[np.uint64]:
        return smallest(np.concatenate((self.hashes, _hashes(self.values))))

    @property
    def distinct(self) -> int:
        """How many categories there are: exact while all are counted, else with a standard error of 2.2 %."""
        if self.exact:
            return len(self.counts)
        return min(round(Distinct((self._hashed(),)).estimate(0)), self.total)


def _grouped(values: pa.ChunkedArray, counts: NDArray[np.int64]) -> tuple[pa.Array, NDArray[np.int64]]:
    encoded = values.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    total = np.zeros(len(encoded.dictionary), np.int64)
    np.add.at(total, encoded.indices.to_numpy(zero_copy_only=False), counts)
    return encoded.dictionary, total


_LONGEST_BYTES = 4 * LONGEST
"""Of a text that is not shortened."""


def _hashes(texts: pa.LargeStringArray) -> NDArray[np.uint64]:
    """(as many,) a hash of each text.

    Sums of bytes times numbers that depend on their place (multilinear hashing: two texts share a sum with probability 2^-64 at best,
    2^-56 at worst), mixed so that they are spread evenly.
    """
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    if data is None or not len(texts):
        return mixed(np.zeros(len(texts), np.uint64))
    size = np.diff(ends)
    octets = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    place = np.arange(len(octets)) - np.repeat(ends[:-1] - ends[0], size)
    factors = mixed(np.arange(_LONGEST_BYTES, dtype=np.uint64)) | np.uint64(1)
    terms = (octets.astype(np.uint64) + np.uint64(1)) * factors[place]
    upto = np.concatenate((np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)))
    return mixed(upto[ends[1:] - ends[0]] - upto[ends[:-1] - ends[0]])


def _of_dictionary(chunk: pa.DictionaryArray, spec: Column) -> Categories:
    codes = chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    tally = np.bincount(codes + 1, minlength=len(chunk.dictionary) + 1)
    found = _canonical(chunk.dictionary, tally[1:], spec)
    return replace(found, missing=found.missing + int(tally[0]))


def _canonical(values: pa.Array, counts: NDArray[np.int64], spec: Column) -> Categories:
    """Distinct raw values as the texts that stand for them in messages; several may have the same."""
    texts = texts_of(values, spec)
    absent = np.zeros(len(texts), np.bool_)
    if texts.null_count:
        absent = texts.is_null().to_numpy(zero_copy_only=False)
    missing = int(counts[absent].sum())
    used = ~absent & (counts > 0)
    if not used.all():
        texts, counts = texts.filter(pa.array(used)), counts[used]
    merged, total = _grouped(pa.chunked_array([texts]), counts)
    return Categories(merged, total, missing)


@dataclass(frozen=True)
class Weights:
    """Sums of the sample weights."""

    total: float = 0.0
    squares: float = 0.0

    @property
    def effective(self) -> float:
        """Kish's effective sample size: so many rows of equal weight tell a mean as exactly.

        References
        ----------
        Kish (1965), Survey Sampling, section 11.7.
        """
        return self.total * self.total / self.squares if self.squares else 0.0


@dataclass(frozen=True)
class Look:
    """What the first pass tells of a fragment, or of all so far."""

    rows: int
    low: NDArray[np.float64]
    """(numeric columns,) smallest finite value; infinite where there is none."""
    high: NDArray[np.float64]
    missing: NDArray[np.int64]
    """(numeric columns,)"""
    categories: tuple[Categories, ...]
    """Of the categorical columns."""
    weights: Weights
    sample: "Rows"


@dataclass(frozen=True)
class Rows:
    """Some whole rows of the source as they stand there, those with the smallest keys."""

    size: int
    keys: NDArray[np.uint64]
    """(k,) in no order, unless `ordered`."""
    table: pa.Table

    def limit(self) -> np.uint64:
        """No row with this key or a larger one can come into the sample any more."""
        if len(self.keys) < self.size:
            return _NEVER
        return np.uint64(np.partition(self.keys, self.size - 1)[self.size - 1])

    def ordered(self) -> "Rows":
        """At most `size` rows, by key: so shuffled."""
        order = np.argsort(self.keys, kind="stable")[: self.size]
        return Rows(self.size, self.keys[order], self.table.take(pa.array(order)).combine_chunks())

    @classmethod
    def of(cls, size: int, keys: Sequence[NDArray[np.uint64]], parts: Sequence[pa.Table]) -> "Rows":
        """The sample of several parts."""
        every, table = np.concatenate(keys), pa.concat_tables(parts)
        if len(every) > size:
            chosen = np.sort(np.argpartition(every, size - 1)[:size]) if size else np.empty(0, np.int64)
            every, table = every[chosen], table.take(pa.array(chosen))
        return cls(size, every, table.combine_chunks())


@dataclass
class Looker:
    """Looks at one fragment after the other; a worker has its own.

    Examples
    --------
    >>> from reference.source import TableFragment
    >>> looker = Looker(Schema((Column(name="x", type="numeric"),)), size=10)
    >>> look = looker(0, TableFragment(pa.table({"x": [3.0, None, 4.0]})))
    >>> look.rows, float(look.low[0]), float(look.high[0])
    (3, 3.0, 4.0)
    """

    schema: Schema
    """The columns that are read."""
    size: int
    """Rows of the sample."""
    weight: str | None = None
    """Column of sample weights."""
    limit: int = field(default=int(_NEVER))
    """Rows whose key is not below it are known not to come into the sample. It spares work and changes nothing."""

    @cached_property
    def columns(self) -> list[str]:
        """The table's columns that are read, each once."""
        weight = () if self.weight is None else (self.weight,)
        return list(dict.fromkeys((*self.schema.names, *weight)))

    def __call__(self, place: int, fragment: Fragment) -> Look:
        """Look at one fragment.

        Raises
        ------
        UnusableData
            When a numeric column holds something else, or a weight is none.
        """
        numeric, categorical = self.schema.numeric, self.schema.categorical
        low, high = np.full(len(numeric), np.inf), np.full(len(numeric), -np.inf)
        missing = np.zeros(len(numeric), np.int64)
        counted: list[list[Categories]] = [[] for _ in categorical]
        rows, total, squares = 0, 0.0, 0.0
        keys: list[NDArray[np.uint64]] = []
        parts: list[pa.Table] = []
        held, limit = 0, np.uint64(self.limit)
        for table in tables(fragment, self.columns):
            for j, column in enumerate(numeric):
                values = numbers(table[column.name], column)
                missing[j] += values.null_count
                a, b = _extremes(values)
                low[j], high[j] = min(low[j], a), max(high[j], b)
            for seen, column in zip(counted, categorical, strict=True):
                seen.append(Categories.of(table[column.name], column))
                if sum(len(one.counts) for one in seen[1:]) > 2 * LISTED:
                    seen[:] = [Categories.sum_of(seen)]
            if self.weight is not None:
                w = weights_of(table[self.weight], self.weight)
                total, squares = total + float(w.sum()), squares + float(w @ w)
            key = keys_of(place, rows, table.num_rows)
            chosen = np.flatnonzero(key < limit)
            if len(chosen) == table.num_rows:
                parts.append(table)
                keys.append(key)
            elif len(chosen):
                parts.append(table.take(pa.array(chosen)))
                keys.append(key[chosen])
            held, rows = held + len(chosen), rows + table.num_rows
            if held > 2 * self.size:
                one = Rows.of(self.size, keys, parts)
                keys, parts, held = [one.keys], [one.table], len(one.keys)
                limit = min(limit, one.limit() + np.uint64(1))
        sample = Rows.of(self.size, keys, parts) if parts else Rows(self.size, np.empty(0, np.uint64), pa.table({}))
        sums = tuple(Categories.sum_of(seen) for seen in counted)
        return Look(rows, low, high, missing, sums, Weights(total, squares), sample)

    def pack(self, look: Look) -> bytes:
        """The binary form: MessagePack of little-endian arrays, and of rows as Arrow's stream. Never pickle."""
        body = {
            "rows": look.rows,
            "low": look.low.tobytes(),
            "high": look.high.tobytes(),
            "missing": look.missing.tobytes(),
            "categories": [
                (
                    _stream(pa.table({"text": one.values, "count": one.counts})),
                    one.missing,
                    one.unlisted,
                    one.error,
                    one.hashes.tobytes(),
                )
                for one in look.categories
            ],
            "weights": (look.weights.total, look.weights.squares),
            "sample": (look.sample.keys.tobytes(), _stream(look.sample.table)),
        }
        return msgspec.msgpack.encode(body)

    def unpack(self, data: bytes) -> Look:
        """What `pack` gave."""
        body: dict[str, Any] = msgspec.msgpack.decode(data)
        categories = []
        for stream, missing, unlisted, error, hashes in body["categories"]:
            table = _streamed(stream)
            texts = table["text"].combine_chunks()
            categories.append(
                Categories(
                    texts if isinstance(texts, pa.Array) else pa.concat_arrays(texts.chunks),
                    table["count"].to_numpy(),
                    missing,
                    unlisted,
                    error,
                    np.frombuffer(hashes, np.uint64),
                )
            )
        keys, rows = body["sample"]
        return Look(
            body["rows"],
            np.frombuffer(body["low"]),
            np.frombuffer(body["high"]),
            np.frombuffer(body["missing"], np.int64),
            tuple(categories),
            Weights(*body["weights"]),
            Rows(self.size, np.frombuffer(keys, np.uint64), _streamed(rows)),
        )

    def sum_of(self, looks: Iterator[Look]) -> Look:
        """Of all fragments, in their order. Meanwhile `limit` falls, so that fragments which are looked at later keep fewer rows."""
        rows, weights = 0, Weights()
        low = np.full(len(self.schema.numeric), np.inf)
        high, missing = -low, np.zeros(len(low), np.int64)
        categories = [Categories.empty() for _ in self.schema.categorical]
        keys: list[NDArray[np.uint64]] = []
        parts: list[pa.Table] = []
        for look in looks:
            rows += look.rows
            low, high = np.minimum(low, look.low), np.maximum(high, look.high)
            missing = missing + look.missing
            categories = [Categories.sum_of((a, b)) for a, b in zip(categories, look.categories, strict=True)]
            weights = Weights(weights.total + look.weights.total, weights.squares + look.weights.squares)
            if len(look.sample.keys):
                keys.append(look.sample.keys)
                parts.append(look.sample.table)
            if sum(map(len, keys)) > 2 * self.size:
                one = Rows.of(self.size, keys, parts)
                keys, parts = [one.keys], [one.table]
                self.limit = min(self.limit, int(one.limit()) + 1)
        empty = Rows(self.size, np.empty(0, np.uint64), pa.table({}))
        sample = Rows.of(self.size, keys, parts).ordered() if parts else empty
        return Look(rows, low, high, missing, tuple(categories), weights, sample)


def weights_of(column: pa.ChunkedArray, name: str) -> NDArray[np.float64]:
    """(rows,) sample weights.

    Raises
    ------
    UnusableData
        When one is missing, negative or not finite, naming it.
    """
    try:
        values = numbers(column, Column(name=name, type="numeric")).to_numpy(zero_copy_only=False)
    except UnusableData:
        first = next((value for value in column.to_pylist() if value is not None), None)
        msg = f"column {name!r} of weights holds {column.type}, for example {first!r}: a weight is a number; name another column"
        raise UnusableData(msg) from None
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        found = column[int(np.argmax(wrong))].as_py()
        msg = f"column {name!r} of weights holds {found!r}: a weight is a finite number, 0 or more; leave out such rows or give them one"
        raise UnusableData(msg)
    return np.asarray(values, np.float64)


def _extremes(values: pa.Array) -> tuple[float, float]:
    array = values.to_numpy(zero_copy_only=False)
    if not len(array):
        return np.inf, -np.inf
    low, high = float(array.min()), float(array.max())
    if np.isfinite(low) and np.isfinite(high):
        return low, high
    array = array[np.isfinite(array)]
    return float(array.min(initial=np.inf)), float(array.max(initial=-np.inf))


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _streamed(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_all()
