"""Rows that were served: a past range of the inference topic, decoded as the monitor decodes it."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from detectors.outliers.wrong_type import WrongType
from detectors.statistics.block import Block
from detectors.statistics.sample import mixed
from reference.data import Data
from reference.errors import UnusableData
from reference.schema import Column, Schema
from reference.source import FRAGMENT_ROWS, Source
from reference.sources.chosen import recut
from reference.sources.files import Place, unreadable
from reference.sources.window import Window, window_of
from streaming.errors import KafkaError
from streaming.identity import keys_of, message_keys
from streaming.messages import Decoder
from streaming.pairing import paired
from streaming.pane import milliseconds
from streaming.protocol import Kind, Reason
from streaming.spec import ModelMonitor

if TYPE_CHECKING:
    from streaming.rows import Rows

_TIMEOUT_S = 30.0
_WAIT_S = 0.1
"""So long the client gathers messages, even when the partition has no more."""
_MESSAGES = 10_000
"""That are decoded at a time."""
_HELD_ROWS = FRAGMENT_ROWS
"""Rows that are gathered before they are written, so that row groups do not become tiny."""
_MOST_BUCKETS = 256
_KEY = "\0key"
"""Column of the staged files; no feature is called that."""


@dataclass(frozen=True)
class TrafficFragment:
    """The requests of some request ids, in the order of the topic, each with its prediction."""

    place: Place
    requests: str
    """Path of a Parquet file."""
    responses: str | None
    """None where none of these requests was answered."""
    features: frozenset[str]
    schema: pa.Schema
    """Features and predictions."""

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Its rows, in order."""
        answered = [name for name in columns if name not in self.features]
        rows = _read(self.place, self.requests, [*(name for name in columns if name in self.features), _KEY])
        if answered and self.responses is not None:
            responses = _read(self.place, self.responses, [*answered, _KEY])
            which = paired(_keys(responses), _keys(rows))
            places = pa.array(which, mask=which < 0)
        for name in answered:
            kind = self.schema.field(name).type
            values = pa.nulls(rows.num_rows, kind) if self.responses is None else responses[name].take(places)
            rows = rows.append_column(name, values)
        yield from recut(iter(rows.select(list(columns)).combine_chunks().to_batches()))


def open_traffic(monitor: ModelMonitor, data: Data, staging: str, *, now: datetime | None = None) -> Source:
    """The requests that a model was sent, as rows of its features, with its predictions where their response is in the range, too.

    `since`, `until` and `last` are Kafka's timestamps: in each partition the range begins with the first message that is not older than
    `since`, and ends before the first that is not older than `until`, or where the topic ends now. The range is read once, here, and staged
    as Parquet by hashes of the request ids, because a build reads its rows twice, the topic may forget them meanwhile, and a response may
    be in another partition than its request. The same range gives the same rows in the same order.

    The rows are those that the monitor counts, but for what was late there, which is known only to who was there: what cannot be decoded,
    and event times of the future, are left out and counted by reason in ``origin``. A value of the wrong type is missing when the detector
    `wrong_type` lets its message through. Of several responses to one request the first in the range (by partition, then offset) counts;
    responses without a request in the range give no rows.

    Parameters
    ----------
    data
        With ``format: traffic``.
    staging
        An empty directory or URL; on a cluster one that Spark's workers reach. The caller removes it when the baseline is built.

    Raises
    ------
    KafkaError
        The cluster cannot be reached, or has no such topic.
    UnusableData
        No request is in the range, or a feature and a prediction have one name.
    """
    import fsspec

    model = monitor.spec.model
    shared = sorted({column.name for column in model.features} & {column.name for column in model.predictions})
    if shared:
        raise UnusableData(f"{shared} are features and predictions at once: rows of the traffic need a name for each")
    at = datetime.now(UTC) if now is None else now
    window = window_of(data, at) if data.filtered else Window(None, None)
    fs, root = fsspec.core.url_to_fs(staging)
    fs.makedirs(root, exist_ok=True)
    with _Topic(monitor) as topic:
        ranges = topic.ranges(window)
        messages = sum(stop - start for start, stop in ranges.values())
        staged = _Staged(Place(fs), root, model.request_schema, model.response_schema, messages)
        with staged:
            for partition, (start, stop) in ranges.items():
                for batch in topic.batches(partition, start, stop):
                    staged.add(batch, monitor)
    told = staged.told()
    name = monitor.topics.inference
    if not staged.rows:
        shown = ", ".join(f"{reason} {count}" for reason, count in told["rejected"].items()) or "nothing was refused"
        asked = window.told()
        raise UnusableData(
            f"topic {name!r} has no request from {asked.get('since', 'its beginning')} to {asked.get('until', 'its end')} "
            f"that can be read, of {messages} messages ({shown}): choose another range"
        )
    schema = pa.schema([_field(column) for column in (*model.features, *model.predictions)])
    offsets = {str(partition): list(span) for partition, span in ranges.items()}
    origin = {"kind": "traffic", "topic": name, **window.told(), "offsets": offsets, "messages": messages, **told}
    return Source(schema, staged.fragments(schema), origin)


def _field(column: Column) -> pa.Field:
    return pa.field(column.name, pa.float64() if column.type == "numeric" else pa.string())


@dataclass(frozen=True)
class _Batch:
    """Messages of one partition."""

    values: pa.BinaryArray
    headers: pa.ListArray | None
    timestamps: NDArray[np.int64]
    """(messages,) Kafka's, ms."""


class _Topic:
    """The inference topic."""

    def __init__(self, monitor: ModelMonitor) -> None:
        from confluent_kafka import Consumer

        kafka = monitor.spec.kafka
        self.name = monitor.topics.inference
        self.where = f"Kafka at {kafka.bootstrap_servers}"
        self._complaints: list[Any] = []
        options: dict[str, Any] = {
            **kafka.for_confluent(),
            "group.id": f"driftline-reference-{monitor.name}",
            "client.id": "driftline-reference",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "isolation.level": "read_uncommitted",  # as the monitor's own source reads
            "fetch.message.max.bytes": kafka.largest_message,
            "error_cb": self._complaints.append,
            "log_level": 0,
        }
        self._consumer = Consumer(options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def ranges(self, window: Window) -> dict[int, tuple[int, int]]:
        """Partition -> offsets of the first message and of the one behind the last."""
        from confluent_kafka import KafkaException, TopicPartition

        try:
            known = self._consumer.list_topics(self.name, _TIMEOUT_S).topics[self.name]
            if known.error is not None:
                raise KafkaError(f"{self.where} has no topic {self.name!r} that can be read: {known.error.str()}")
            ends = {
                partition: self._consumer.get_watermark_offsets(TopicPartition(self.name, partition), _TIMEOUT_S)
                for partition in sorted(known.partitions)
            }

            def first(microseconds: int) -> dict[int, int]:
                """Of each partition the first message that is not older; where there is none, its end."""
                at = -(-microseconds // 1000)
                asked = [TopicPartition(self.name, partition, at) for partition in ends]
                found = self._consumer.offsets_for_times(asked, _TIMEOUT_S)
                return {one.partition: one.offset if one.offset >= 0 else ends[one.partition][1] for one in found}

            begin = (
                {partition: low for partition, (low, _) in ends.items()}
                if window.since is None
                else first(window.since)
            )
            end = (
                {partition: high for partition, (_, high) in ends.items()}
                if window.until is None
                else first(window.until)
            )
        except KafkaException as error:
            raise KafkaError(f"{self.where} cannot be asked for {self.name!r}: {self._said(error)}") from None
        return {partition: (begin[partition], max(end[partition], begin[partition])) for partition in ends}

    def batches(self, partition: int, start: int, stop: int) -> Iterator[_Batch]:
        """The messages from one offset on and before another."""
        from confluent_kafka import KafkaError as Code
        from confluent_kafka import TopicPartition

        if start >= stop:
            return
        self._consumer.assign([TopicPartition(self.name, partition, start)])
        heard = time.monotonic()
        while True:
            found = self._consumer.consume(_MESSAGES, _WAIT_S)
            if found:
                heard = time.monotonic()
            elif time.monotonic() - heard > _TIMEOUT_S:
                raise KafkaError(
                    f"{self.where} has said nothing of {self.name!r} for {_TIMEOUT_S:g} s: {self._said(None)}"
                )
            # Offsets may have gaps (markers of transactions, compaction), so the end is where one is beyond, or the partition ends.
            errors = [error for one in found if (error := one.error()) is not None]
            fatal = [error for error in errors if error.code() != Code._PARTITION_EOF]  # noqa: SLF001 - its public name
            if fatal:
                raise KafkaError(
                    f"{self.where} cannot be read from {self.name!r}, partition {partition}: {fatal[0].str()}"
                )
            messages = [one for one in found if one.error() is None]
            inside = [one for one in messages if (one.offset() or 0) < stop]
            if inside:
                yield _batch(inside)
            if errors or len(inside) < len(messages) or (inside and (inside[-1].offset() or 0) >= stop - 1):
                return

    def _said(self, error: Exception | None) -> str:
        """What is wrong: the client's complaints know it better than its time-outs."""
        if self._complaints:
            return str(self._complaints[-1].str())
        return "no reason was given" if error is None else str(error.args[0].str())


def _batch(messages: Sequence[Any]) -> _Batch:
    headers = [one.headers() for one in messages]
    column = None
    if any(headers):
        pairs = [pair for of_one in headers for pair in of_one or ()]
        sizes = [0, *(len(of_one or ()) for of_one in headers)]
        names = pa.array([name.encode() for name, _ in pairs], pa.binary())
        texts = pa.array([value.encode() if isinstance(value, str) else value for _, value in pairs], pa.binary())
        absent = np.array([of_one is None for of_one in headers])
        column = pa.ListArray.from_arrays(
            pa.array(np.cumsum(sizes), pa.int32()),
            pa.StructArray.from_arrays([names, texts], names=["key", "value"]),
            mask=pa.array(absent),
        )
    values = pa.array([one.value() for one in messages], pa.binary())
    return _Batch(values, column, np.array([one.timestamp()[1] for one in messages], np.int64))


@dataclass
class _Staged:
    """Requests and responses on disk, in buckets by request id: those that belong together meet in memory, one bucket at a time."""

    place: Place
    root: str
    request: Schema
    response: Schema
    messages: int
    """In the range."""
    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    _held: dict[Kind, list[pa.Table]] = field(default_factory=lambda: {"request": [], "response": []})
    _count: int = 0
    _seen: int = 0
    _buckets: int = 0
    _files: dict[tuple[Kind, int], tuple[str, pq.ParquetWriter]] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _decoder: Decoder | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._write()
        finally:
            self._stack.close()

    def add(self, batch: _Batch, monitor: ModelMonitor) -> None:
        """Decode some messages."""
        if self._decoder is None:
            keep_wrong = any(isinstance(detector, WrongType) for detector in monitor.spec.outliers.detectors)
            spec = monitor.spec
            self._decoder = Decoder(spec.model, max_bytes=spec.kafka.max_message_bytes, keep_wrong=keep_wrong)
        decoded = self._decoder.decode(batch.values, batch.headers, batch.timestamps)
        self.rejected.update(str(one.reason) for one in decoded.rejected)
        good = np.ones(len(batch.values), np.bool_)
        good[[one.message for one in decoded.rejected]] = False
        latest = np.minimum(batch.timestamps, int(datetime.now(UTC).timestamp() * 1000))
        future = good & (decoded.times > latest + milliseconds(monitor.spec.window.max_clock_skew))
        if future.any():
            self.rejected[str(Reason.FUTURE)] += int(np.count_nonzero(future))
            good &= ~future
        self._seen += len(batch.values)
        keys = message_keys(decoded.ids)
        parts: tuple[tuple[Kind, Schema, Rows], ...] = (
            ("request", self.request, decoded.requests),
            ("response", self.response, decoded.responses),
        )
        for kind, schema, rows in parts:
            kept = rows if good.all() else rows.take(np.flatnonzero(good[rows.message]))
            if len(schema) and kept.block.rows:
                table = _table(schema, kept.block)
                table = table.append_column(_KEY, pa.array(keys_of(keys[kept.message], kept.instance)))
                self._held[kind].append(table)
                self._count += table.num_rows
        if self._count >= _HELD_ROWS:
            self._write()

    def _write(self) -> None:
        """Put what is held into its buckets."""
        if not self._count:
            return
        if not self._buckets:  # by how many rows a message has had up to now
            expected = self._count / max(self._seen, 1) * self.messages
            self._buckets = int(min(max(np.ceil(expected / FRAGMENT_ROWS), 1), _MOST_BUCKETS))
        for kind, tables in self._held.items():
            if not tables:
                continue
            table = pa.concat_tables(tables)
            tables.clear()
            self.rows += table.num_rows if kind == "request" else 0
            # Which bucket a request is in must not depend on the low bits that the join's own table goes by.
            buckets = (mixed(_keys(table)) % np.uint64(self._buckets)).astype(np.int64)
            order = np.argsort(buckets, kind="stable")
            ends = np.searchsorted(buckets[order], np.arange(self._buckets + 1))
            table = table.take(pa.array(order))
            for bucket in np.flatnonzero(np.diff(ends)).tolist():
                part = table.slice(ends[bucket], ends[bucket + 1] - ends[bucket])
                self._writer(kind, bucket, part.schema).write_table(part)
        self._count = 0

    def _writer(self, kind: Kind, bucket: int, schema: pa.Schema) -> pq.ParquetWriter:
        if (kind, bucket) not in self._files:
            path = f"{self.root}/{kind}-{bucket:03}.parquet"
            file = self._stack.enter_context(self.place.fs.open(path, "wb"))
            writer = self._stack.enter_context(pq.ParquetWriter(file, schema, compression="lz4"))
            self._files[kind, bucket] = path, writer
        return self._files[kind, bucket][1]

    def fragments(self, schema: pa.Schema) -> tuple[TrafficFragment, ...]:
        """One a bucket that has requests."""
        features, found = frozenset(self.request.names), []
        for bucket in range(self._buckets):
            if ("request", bucket) in self._files:
                request, _ = self._files["request", bucket]
                response, _ = self._files.get(("response", bucket), (None, None))
                found.append(TrafficFragment(self.place, request, response, features, schema))
        return tuple(found)

    def told(self) -> dict[str, Any]:
        """For the manifest: what was there and what was left out."""
        without = alone = again = 0
        if len(self.response):
            for bucket in range(self._buckets):
                asked, answers = (self._bucket_keys(kind, bucket) for kind in ("request", "response"))
                without += int(np.count_nonzero(paired(answers, asked) < 0))
                alone += int(np.count_nonzero(paired(asked, answers) < 0))
                again += len(answers) - len(np.unique(answers))
        told: dict[str, Any] = {"rows": self.rows, "rejected": dict(sorted(self.rejected.items()))}
        if len(self.response):
            told |= {"rowsWithoutPrediction": without, "predictionsWithoutRow": alone, "predictionsAgain": again}
        return told

    def _bucket_keys(self, kind: Any, bucket: int) -> NDArray[np.uint64]:
        if (kind, bucket) not in self._files:
            return np.empty(0, np.uint64)
        return _keys(_read(self.place, self._files[kind, bucket][0], [_KEY]))


def _table(schema: Schema, block: Block) -> pa.Table:
    """Rows under the names of their columns; a missing value is null, and NaN is a value."""
    columns: dict[str, pa.Array] = {}
    for j, column in enumerate(schema.numeric):
        columns[column.name] = pa.array(block.numeric[:, j], mask=np.ascontiguousarray(block.missing[:, j]))
    for column, codes in zip(schema.categorical, block.categorical, strict=True):
        words = pa.array(codes.values, pa.string())
        columns[column.name] = words.take(pa.array(codes.codes, mask=codes.codes < 0))
    return pa.table({name: columns[name] for name in schema.names})


def _keys(table: pa.Table) -> NDArray[np.uint64]:
    keys: NDArray[np.uint64] = table[_KEY].to_numpy()
    return keys


def _read(place: Place, path: str, columns: Sequence[str]) -> pa.Table:
    try:
        with place.fs.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
            return parquet.read(columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        unreadable(path, error)
