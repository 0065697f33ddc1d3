"""Rows of a table as the requests of a replay: when each is due, its id, its bodies, and what was injected."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from queue import Empty, Full, Queue
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reference.category import category
from reference.data import Data
from reference.errors import UnusableData
from reference.schema import Column, Model
from reference.source import Source
from reference.sources.chosen import recut
from reference.sources.window import Clock
from reference.table import numbers
from streaming.load.injections import Injection, Injector, Spread, Values, check, needs_spread

Protocol = Literal["v1", "v2"]
Layout = Literal["named", "rows"]

EVENT_TIME = " event time"
"""Name under which `opened` reads the time column: no feature can have it by accident."""
_BLOCK_ROWS = 256
"""Rows that are turned into requests at once: about a millisecond, for that long the loop that sends may have to wait."""
_AHEAD = 16
"""Blocks that are ready before they are due."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a model."""

    number: int
    id: str
    due: float
    """Seconds after the first request."""
    time_ms: int | None
    """Event time of its first row, since the epoch; None: when it is due."""
    instances: int
    body: bytes
    answer: bytes | None
    """Of the model, where the table has predictions."""
    injected: Mapping[str, Sequence[int]]
    """Injection -> numbers of the instances in this request that it has changed."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When requests are due: so many a second, or as the time column says."""

    rate: float = 0.0
    """Requests per second; 0: the time column says it."""
    speed: float = 0.0
    """How much faster than life; 1 is as it was."""

    def due(self, first: int, starts: NDArray[np.int64], origin: int) -> NDArray[np.float64]:
        """(requests,) seconds after the first request.

        Parameters
        ----------
        first
            Number of the first of these requests.
        starts
            (requests,) their event times, microseconds since the epoch.
        origin
            Event time of the first request of all.
        """
        if self.rate:
            return np.asarray((first + np.arange(len(starts))) / self.rate, np.float64)
        return np.asarray((starts - origin) / 1e6 / self.speed, np.float64)


def opened(data: Data, model: Model, *, timed: bool) -> Source:
    """The rows of ``reference.data``; the time column, where it is asked for, as `EVENT_TIME`.

    Raises
    ------
    UnusableData
        There is nothing there, or it lacks a feature or the time column.
    """
    from reference.sources import open_source

    data = data.model_copy(update={"weight": None})
    if not timed or data.time is None:
        return open_source(data, model)
    columns = {**data.columns, EVENT_TIME: data.time}
    source = open_source(data.model_copy(update={"columns": columns}), _timed(model))
    if EVENT_TIME not in source.schema.names:
        raise UnusableData(f"{data.url} lacks the column {data.time!r}, which says when requests are due")
    return source


def of_frame(frame: Any, model: Model, time: str | None) -> Source:
    """The same of rows that a program has already."""
    from reference.sources.frames import source_of_frame

    if time is None:
        return source_of_frame(frame, model)
    source = source_of_frame(frame, _timed(model), columns={EVENT_TIME: time})
    if EVENT_TIME not in source.schema.names:
        raise UnusableData(f"the table lacks the column {time!r}, which says when requests are due")
    return source


def _timed(model: Model) -> Model:
    time = Column(name=EVENT_TIME, type="categorical")  # so that formats without types read it as text
    return model.model_copy(update={"predictions": (*model.predictions, time)})


class Requests:
    """The requests that the rows of a source make, in its order; each iteration gives the same ones.

    Parameters
    ----------
    size
        Rows of a request; the last of the table may have fewer.
    pace
        When each is due.
    ids
        Begins every id; the number of the request follows.
    seconds
        Only requests that are due before this; then the table is begun anew as often as that takes. None: the table once.
    clock
        How `EVENT_TIME` is read; None: the table has no times.
    keep_times
        Whether those are the event times of requests; else it is the moment when they are due.
    layout
        Instances and tensors by name, or as bare rows in the order of the features.

    Raises
    ------
    UnusableInjection
        One does not fit the model.
    UnusableData
        The source has no rows, or a column holds what no request can.
    """

    def __init__(
        self,
        source: Source,
        model: Model,
        *,
        pace: Pace,
        ids: str,
        size: int = 1,
        protocol: Protocol = "v1",
        layout: Layout = "named",
        injections: Sequence[Injection] = (),
        seed: int = 0,
        seconds: float | None = None,
        clock: Clock | None = None,
        keep_times: bool = True,
    ) -> None:
        check(injections, model)
        self.ids = ids
        self.protocol = protocol
        self._source, self._pace, self._size, self._layout = source, pace, size, layout
        self._keep_times = keep_times and clock is not None
        self._injections, self._seed, self._seconds, self._clock = tuple(injections), seed, seconds, clock
        self._features = model.features
        has_answers = bool(model.predictions) and all(c.name in source.schema.names for c in model.predictions)
        self._predictions = model.predictions if has_answers else ()
        self._service = model.inference_service or model.name or ""
        if layout == "rows" and protocol == "v2" and any(c.type != "numeric" for c in self._features):
            mixed = next(c.name for c in self._features if c.type != "numeric")
            raise UnusableData(f"a V2 matrix holds numbers, and feature {mixed!r} is categorical: send named tensors")

    @property
    def has_answers(self) -> bool:
        """Whether the table has all predictions of the model."""
        return bool(self._predictions)

    @cached_property
    def spreads(self) -> Mapping[str, Spread]:
        """Mean and standard deviation of the columns for which injections ask, from one reading of the table."""
        found = {}
        for name in needs_spread(self._injections):
            column = next(c for c in self._features if c.name == name)
            parts = [
                numbers(pa.chunked_array([batch[name]]), column).to_numpy(zero_copy_only=False)
                for part in self._source.fragments
                for batch in part.batches([name])
            ]
            values = np.concatenate(parts) if parts else np.zeros(0)
            values = values[np.isfinite(values)]
            if len(values) < 2:
                raise UnusableData(f"column {name!r} has fewer than two numbers, so it has no standard deviation")
            found[name] = Spread(float(values.mean()), float(values.std(ddof=1)))
        return found

    def __iter__(self) -> Iterator[Request]:
        """Every request, in the order in which they are due."""
        injector = Injector(self._injections, self._seed, self.spreads, self._readers())
        names = [column.name for column in (*self._features, *self._predictions)]
        if self._clock is not None:
            names.append(EVENT_TIME)
        number = first_row = 0
        origin = latest = shift = 0
        while True:
            rows = 0
            for batch in self._batches(names):
                rows += batch.num_rows
                times = np.zeros(batch.num_rows, np.int64)
                if self._clock is not None:
                    read, there = self._clock.read(batch[EVENT_TIME])
                    if not number and not there.any():
                        raise UnusableData(f"column {self._clock.column!r} has no time in its first {len(there)} rows")
                    # Requests follow one another: a row without a time, or with an earlier one, is due with the one before.
                    floor = latest if number else int(read[there.argmax()])
                    times = np.maximum.accumulate(np.maximum(np.where(there, read + shift, floor), floor))
                    origin = origin if number else int(times[0])
                    latest = int(times[-1])
                starts = times[:: self._size]
                due = self._pace.due(number, starts, origin)
                made = self._requests(batch, number, first_row, due, starts, injector)
                for request in made:
                    if self._seconds is not None and request.due >= self._seconds:
                        return
                    yield request
                number += len(starts)
                first_row += batch.num_rows
            if not rows:
                raise UnusableData(
                    f"{self._source.origin.get('url', 'the table')} has no rows, so there is nothing to send"
                )
            if self._seconds is None:
                return
            if (
                self._clock is not None
            ):  # the next pass begins where this one ended, as far on as rows are apart on average
                span = latest - origin - shift
                shift += span + max(span // max(rows - 1, 1), 1)

    def _batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        step = max(_BLOCK_ROWS // self._size, 1) * self._size
        return recut((batch for part in self._source.fragments for batch in part.batches(names)), step)

    def _readers(self) -> dict[str, Callable[[str], Any]]:
        """What makes a value of a categorical column of numbers or booleans out of a text."""
        return {
            column.name: _reader(self._source.schema.field(column.name).type)
            for column in self._features
            if column.type == "categorical"
        }

    def _requests(
        self,
        batch: pa.RecordBatch,
        number: int,
        first_row: int,
        due: NDArray[np.float64],
        starts: NDArray[np.int64],
        injector: Injector,
    ) -> Iterator[Request]:
        values = {
            column.name: _values(batch.column(place), column)
            for place, column in enumerate((*self._features, *self._predictions))
        }
        features = {column.name: values[column.name] for column in self._features}
        marks = injector.inject(features, first_row, np.repeat(due, self._size)[: batch.num_rows])
        cells = [_cells(features[column.name]) for column in self._features]
        answers = [_cells(values[column.name]) for column in self._predictions]
        touched = [
            (str(injection), mark) for injection, mark in zip(self._injections, marks, strict=True) if mark.any()
        ]
        for place, at in enumerate(due.tolist()):
            begin, end = place * self._size, min((place + 1) * self._size, batch.num_rows)
            injected = {
                text: np.flatnonzero(mark[begin:end]).tolist() for text, mark in touched if mark[begin:end].any()
            }
            id_ = f"{self.ids}-{number + place:08d}"
            yield Request(
                number + place,
                id_,
                at,
                int(starts[place]) // 1000 if self._keep_times else None,
                end - begin,
                self._body([column[begin:end] for column in cells], id_),
                self._answer([column[begin:end] for column in answers], id_) if answers else None,
                injected,
            )

    def _body(self, columns: list[list[Any]], id_: str) -> bytes:
        if self.protocol == "v1":
            return msgspec.json.encode({"instances": _rows(columns, self._features, named=self._layout == "named")})
        if self._layout == "rows":
            flat = [value for row in zip(*columns, strict=True) for value in row]
            shape = [len(columns[0]), len(columns)]
            inputs = [{"name": "input-0", "shape": shape, "datatype": "FP64", "data": flat}]
        else:
            inputs = _tensors(columns, self._features)
        return msgspec.json.encode({"id": id_, "inputs": inputs})

    def _answer(self, columns: list[list[Any]], id_: str) -> bytes:
        if self.protocol == "v1":
            if len(columns) == 1:
                return msgspec.json.encode({"predictions": columns[0]})
            return msgspec.json.encode({"predictions": _rows(columns, self._predictions, named=True)})
        outputs = _tensors(columns, self._predictions)
        return msgspec.json.encode({"model_name": self._service, "id": id_, "outputs": outputs})


def _reader(kind: pa.DataType) -> Callable[[str], Any]:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_boolean(kind):
        return _boolean
    if pa.types.is_integer(kind):
        return int
    return float if pa.types.is_floating(kind) else str


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _values(array: pa.Array, column: Column) -> Values:
    """Numbers as float64, NaN where missing; categories as Python objects of the type that they have in the table."""
    if column.type == "numeric":
        return np.array(numbers(pa.chunked_array([array]), column).to_numpy(zero_copy_only=False), np.float64)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    found = np.empty(len(array), object)
    try:
        found[:] = [None if value is None or category(value) is None else value for value in array.to_pylist()]
    except TypeError:
        raise UnusableData(
            f"column {column.name!r} holds {array.type}, which JSON has no value for: convert it to text, numbers or booleans"
        ) from None
    return found


def _cells(values: Values) -> list[Any]:
    """As JSON has them; what is no finite number is null."""
    cells: list[Any] = values.tolist()
    if values.dtype != object:
        for place in np.flatnonzero(~np.isfinite(values.astype(np.float64))).tolist():
            cells[place] = None
    return cells


def _rows(columns: list[list[Any]], schema: Sequence[Column], *, named: bool) -> list[Any]:
    if not named:
        return list(zip(*columns, strict=True))
    names = [column.name for column in schema]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _tensors(columns: list[list[Any]], schema: Sequence[Column]) -> list[dict[str, Any]]:
    """One tensor a column; what is missing is null, which the monitor reads, though the protocol has no word for it."""
    return [
        {"name": column.name, "shape": [len(data)], "datatype": _datatype(column, data), "data": data}
        for column, data in zip(schema, columns, strict=True)
    ]


def _datatype(column: Column, data: list[Any]) -> str:
    if column.type == "numeric":
        return "FP64"
    kinds = {type(value) for value in data if value is not None}
    names = {frozenset({bool}): "BOOL", frozenset({int}): "INT64", frozenset({float}): "FP64"}
    return names.get(frozenset(kinds), "BYTES")


def event_time(request: Request, start: float) -> str:
    """As KServe's agent writes it: RFC 3339 with nanoseconds and Z.

    Parameters
    ----------
    start
        When the first request is due, seconds since the epoch.
    """
    micros = round((start + request.due) * 1e6) if request.time_ms is None else request.time_ms * 1000
    return f"{datetime.fromtimestamp(micros // 1_000_000, UTC):%Y-%m-%dT%H:%M:%S}.{micros % 1_000_000:06d}000Z"


class Ahead:
    """What an iterable gives, made by a thread, a little before it is wanted, in blocks.

    The thread reads files and encodes; who sends only takes. `close` ends it.
    """

    def __init__(self, items: Iterable[Any], block: int = _BLOCK_ROWS) -> None:
        self._items, self._block = items, block
        self._queue: Queue[Any] = Queue(_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._make, name="requests", daemon=True)
        self._thread.start()

    def ready(self, patience: float = 0.0) -> list[Any] | None:
        """The next block; empty at the end, None when it is not ready within so many seconds.

        Raises
        ------
        Exception
            What ended the iterable.
        """
        try:
            found = self._queue.get(timeout=patience) if patience else self._queue.get_nowait()
        except Empty:
            return None
        if isinstance(found, BaseException):
            raise found
        block: list[Any] = found
        return block

    def close(self) -> None:
        """End the thread; what is ready is left."""
        self._closed.set()
        self._thread.join()

    def _make(self) -> None:
        block: list[Any] = []
        try:
            for item in self._items:
                block.append(item)
                if len(block) == self._block:
                    if not self._put(block):
                        return
                    block = []
        except BaseException as error:  # noqa: BLE001 - raised where the block is wanted
            self._put(error)
            return
        if block:
            self._put(block)
        self._put([])

    def _put(self, block: Any) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(block, timeout=0.1)
            except Full:
                continue
            return True
        return False
