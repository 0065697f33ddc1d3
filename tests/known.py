"""A known stream of messages, what becomes of it by hand, and whether two runs came to the same."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import toy
from by_hand import Monitor
from numpy.typing import NDArray

from detectors.statistics.quantiles import RANK_ERROR
from reference.build import build
from reference.store import Store
from streaming.spec import ModelMonitor

LENGTH, SECONDS, DELAY = 10, 60, 4
"""Of a window, of the stream, and what may come late, s."""
WINDOWS = SECONDS // LENGTH
PARTS = ("where=ATL", "where=JFK", "where=LAX", "where=(other)")
"""The segments."""
SECTIONS = {
    "model": "{features: [{name: x, type: numeric, min: -50}, {name: where, type: categorical}, {name: y, type: numeric}], "
    "predictions: [{name: p, type: numeric}]}",
    "outliers": "{detectors: [bounds, unseen_category, missing, nonfinite, mahalanobis]}",
    "drift": "{multivariate: [gaussian], minWindows: 2}",
    "sequential": "[{column: x, detector: adwin}, {column: x, statistic: mean, detector: {name: page_hinkley, minInstances: 2, threshold: 1}}]",
    "segments": "{by: [where]}",
    # Windows close by the stream's own last messages, so that nothing in here depends on how fast the machine is.
    "window": f"{{duration: {LENGTH}s, watermarkDelay: {DELAY}s, idleTimeout: 10m, emitEvery: 500ms}}",
}
"""Of a ModelMonitor of the stream."""


def publish(monitor: ModelMonitor) -> str:
    """Build and publish the baseline of such a ModelMonitor; returns its version."""
    rng = np.random.default_rng(0)
    rows = 5000
    x, y = rng.normal(10.0, 2.0, rows), rng.normal(0.0, 1.0, rows)
    table = pa.table({"x": x, "where": rng.choice(["ATL", "JFK", "LAX"], rows), "y": y, "p": x + y})
    spec = monitor.spec
    return Store(spec.reference.store).publish(
        build(table, spec.model, spec.reference, spec.outliers.learned, segments=spec.segments)
    )


@dataclass(frozen=True)
class Stream:
    """Messages in the order in which they arrive, which is not that of their event times: these are up to 2 s older."""

    begin: int
    """Event time at which it begins, s since the epoch; a multiple of `LENGTH`."""
    values: list[bytes]
    x: NDArray[np.float64]
    """(requests,) feature x; not finite where it is missing."""
    where: NDArray[np.str_]
    """(requests,) the segment's value."""
    window: NDArray[np.int64]
    """(requests,) number of the window that each belongs to."""

    def requests(self, messages: Iterable["Placed"]) -> int:
        """How many of these messages count as requests of a window."""
        return sum(value.startswith(_REQUEST) and b'[[1.0, "ATL"]]' not in value for _, value in messages)

    @classmethod
    def of(cls, begin: int, requests: int, seed: int = 5) -> "Stream":
        """So many requests over a minute: outliers, missing values, drift from the middle on, responses, and what cannot be read."""
        rng = np.random.default_rng(seed)
        assert begin % LENGTH == 0
        arrival = SECONDS * np.arange(requests) / requests
        # Whole milliseconds, as RFC 3339 would have them.
        at = np.maximum(arrival - rng.uniform(0, 2, requests), 0).round(3)
        x = rng.normal(10 + 3 * (arrival > SECONDS / 2), 2.0).round(3)
        y = rng.normal(0.0, 1.0, requests).round(3)
        where = rng.choice(["ATL", "JFK", "LAX", "never seen"], requests, p=[0.5, 0.3, 0.19, 0.01])
        x[rng.random(requests) < 0.01] = -99.0
        x[rng.random(requests) < 0.01] = np.nan
        values = []
        for i in range(requests):
            cells = [None if np.isnan(x[i]) else x[i], str(where[i]), y[i]]
            values.append(_message("request", i, begin + at[i], {"instances": [cells]}))
            if i % 5 == 0:
                values.append(_message("response", i, begin + at[i], {"predictions": [round(10 + y[i], 3)]}))
            if i % 100 == 7:
                values.append(b'{"type":"request","id":"cut-%d","time":' % i)
            if i % 100 == 57:
                values.append(_message("request", i, begin + at[i], {"instances": [[1.0, "ATL"]]}))
        return cls(begin, values, x, where, (at // LENGTH).astype(np.int64))

    def late(self) -> list[bytes]:
        """Messages whose windows have closed long ago, once the first one has."""
        return [
            _message("request", 10**6 + i, self.begin - 86_400.0, {"instances": [[1.0, "ATL", 1.0]]}) for i in range(9)
        ]

    def last(self) -> bytes:
        """A message that closes all windows, once every partition has one."""
        return _message("request", 10**7, self.begin + SECONDS + 2 * DELAY, {"instances": [[10.0, "ATL", 0.0]]})

    def of_window(self, number: int, segment: str) -> NDArray[np.float64]:
        """The finite values of x in a window, all of them or a segment's, ascending."""
        value = segment.partition("=")[2].replace("(other)", "never seen")
        mine = (self.window == number) & ((self.where == value) if segment else True)
        return np.sort(self.x[mine & np.isfinite(self.x)])


def _message(kind: str, number: int, at: float, payload: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "id": f"id-{number}", "time": round(at, 3), "payload": payload}).encode()


_REQUEST = b'{"type": "request"'
Placed = tuple[int, bytes]
"""Kafka partition and message."""


def spread(values: Iterable[bytes], partitions: int) -> list[Placed]:
    """Messages in turn to each partition."""
    return [(i % partitions, value) for i, value in enumerate(values)]


class Topic:
    """A topic without Kafka: messages get the offsets that Kafka would give them."""

    def __init__(self) -> None:
        self._next: Counter[int] = Counter()

    def add(self, messages: Sequence[Placed], at: int) -> list[pa.RecordBatch]:
        """One Arrow batch for each partition, as Spark reads them.

        Parameters
        ----------
        at
            Kafka's timestamp of all of them, ms.
        """
        by_partition: dict[int, list[bytes]] = defaultdict(list)
        for partition, value in messages:
            by_partition[partition].append(value)
        found = []
        for partition, values in sorted(by_partition.items()):
            n, first = len(values), self._next[partition]
            self._next[partition] += n
            found.append(
                pa.record_batch(
                    {
                        "key": pa.nulls(n, pa.binary()),
                        "value": pa.array(values, pa.binary()),
                        "partition": pa.array(np.full(n, partition, np.int32)),
                        "offset": pa.array(np.arange(first, first + n)),
                        "timestamp": pa.array(np.full(n, at * 1000)).cast(pa.timestamp("us", "UTC")),
                        "headers": pa.nulls(n, pa.binary()),
                    }
                )
            )
        return found


Records = dict[str, list[dict[str, Any]]]
"""Kind -> what was written."""


def by_hand(
    monitor: ModelMonitor, folder: Path, batches: Sequence[Sequence[Placed]], now: int, back: Sequence[int] = ()
) -> Records:
    """What comes of messages in these micro-batches, without Spark and without any fault.

    Parameters
    ----------
    now
        Time of the first batch, ms; each later one is a second after the one before.
    back
        How far the clock has gone back at each batch, ms; it stays there.
    """
    whole, topic, found = Monitor(toy.task_of(monitor), folder), Topic(), []
    for number, messages in enumerate(batches):
        read = topic.add(messages, now)
        found += whole.batch(read, now + 1000 * number - (back[number] if back else 0))
    for further in range(1, 4):  # segments hear a batch later of what has closed
        found += whole.batch([], now + 1000 * (len(batches) + 2 * further) - (back[-1] if back else 0))
    written = [json.loads(body) for _, body in found]
    kinds = ("outlier", "statistics", "drift", "deadletter")
    return {kind: [one for one in written if one["kind"] == kind] for kind in kinds}


def finals(records: Records, kind: str) -> dict[str, dict[str, Any]]:
    """Final reports by id; what came twice must be the same but for when it was written, and what a sketch or a sum rounds."""
    found: dict[str, dict[str, Any]] = {}
    for record in records[kind]:
        if record["status"] == "final":
            alike(found.setdefault(record["id"], record), record)
    of_window = {(record["segment"], record["window"]["start"]) for record in found.values()}
    assert len(of_window) == len(found), "one final report of a kind for each window"
    return found


def same(calm: Records, hurt: Records, stream: Stream, *, moved: bool = False) -> None:
    """Whether two runs on the same stream came to the same reports.

    Parameters
    ----------
    moved
        Whether messages have other partitions or offsets, so that ids that name these differ.
    """
    for kind in ("statistics", "drift"):
        one, other = finals(calm, kind), finals(hurt, kind)
        assert sorted(one) == sorted(other), kind
        assert len({(r["window"]["start"]) for r in other.values() if r["segment"] == ""}) == WINDOWS
        for key, record in one.items():
            alike(record, other[key])
    for records in (calm, hurt):
        for record in finals(records, "statistics").values():
            _percentiles_are_right(record, stream)
        requests = [r["counts"]["requests"] for r in finals(records, "statistics").values() if r["segment"] == ""]
        assert sum(requests) == len(stream.x), "each of them once"
    late = [Counter[str]() for _ in range(2)]  # which window tells of a late message depends on where batches are cut
    for total, records in zip(late, (calm, hurt), strict=True):
        for record in finals(records, "statistics").values():
            total[record["segment"]] += record["counts"]["late"]
    assert late[0] == late[1]
    for kind in ("outlier", "deadletter"):
        names = [{_identity(record, moved=moved): record for record in records[kind]} for records in (calm, hurt)]
        assert names[0], kind
        assert names[0].keys() == names[1].keys(), kind
        for name, record in names[0].items():
            alike(_anywhere(record), _anywhere(names[1][name]))
    assert {record["reason"] for record in hurt["deadletter"]} >= {"malformed_json", "wrong_arity"}


def _identity(record: dict[str, Any], *, moved: bool) -> Any:
    if not moved:
        return record["id"]
    if record["kind"] == "deadletter":
        return record["reason"], record["value"]
    return record["requestId"], record["source"], record["instance"], record["detector"]


_COORDINATES = {"id", "topic", "partition", "offset", "timestamp"}
"""Where a message lies in Kafka; `same` has looked at ids before."""


def _anywhere(record: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in record.items() if field not in _COORDINATES}


_FREE = {"detectedAt", "revision", "late"}
"""When a report was written, how often before that, and which of them tells of late messages, no run promises."""


def alike(one: Any, other: Any, name: str = "") -> None:
    """Counts and words to the bit, other numbers to 1e-12; percentiles are another matter."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), name
        for key, value in one.items():
            if key not in _FREE and not _is_percentile(key):
                alike(value, other[key], f"{name}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), name
        for place, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            alike(mine, theirs, f"{name}[{place}]")
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-12, abs=1e-12), name
    else:
        assert one == other, name


def _is_percentile(name: str) -> bool:
    return name == "iqr" or (name[:1] == "p" and name[1:].isdecimal())


def _percentiles_are_right(record: dict[str, Any], stream: Stream) -> None:
    """That the share of values below a percentile is what its name says, to within the sketch's error."""
    start = np.datetime64(record["window"]["start"].rstrip("Z"), "s").astype(int)
    values = stream.of_window(int(start - stream.begin) // LENGTH, record["segment"])
    (column,) = (one for one in record["columns"] if (one["name"], one["source"]) == ("x", "request"))
    assert column["count"] == len(values)
    bound = 1 / len(values) + (0 if record["exact"] else 2 * RANK_ERROR)
    for name, value in column["values"].items():
        if _is_percentile(name) and name != "iqr":
            below, upto = np.searchsorted(values, value, "left"), np.searchsorted(values, value, "right")
            assert below / len(values) - bound <= float(name[1:]) / 100 <= upto / len(values) + bound, (name, value)
