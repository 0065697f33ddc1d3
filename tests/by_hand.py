"""The operator without Spark: its state in a dictionary, its calls by hand."""

import json
from typing import Any

import msgspec
import pandas as pd

from streaming.merge import Head, Merge, Panes
from streaming.worker import Worker


class MapState(dict):
    """What `Panes` asks of Spark's map state."""

    def containsKey(self, key):  # noqa: N802
        return key in self

    def getValue(self, key):  # noqa: N802
        return self[key]

    def updateValue(self, key, value):  # noqa: N802
        self[key] = value

    def removeKey(self, key):  # noqa: N802
        del self[key]


class Operator:
    """One key of the stateful stage; between two calls there is nothing but bytes, as between two batches of Spark."""

    def __init__(self, me: Worker) -> None:
        self.me, self.state, self.series, self.head = me, MapState(), MapState(), b""
        self.timer: int | None = None
        self.frontier: int | None = None

    def call(self, rows: pd.DataFrame | None, now: int) -> list[tuple[str, bytes]]:
        """The records of one batch, or of an expired timer (None)."""
        head = msgspec.msgpack.decode(self.head, type=Head) if self.head else Head()
        merge = Merge(self.me, "", head, Panes(self.state, self.series, head.parts, self.me), now)
        found = list(merge.absorb(rows)) if rows is not None else []
        found += merge.advance()
        merge.panes.write()
        assert set(merge.head.parts) <= {start for (start,) in self.state}
        self.head, self.timer, self.frontier = msgspec.msgpack.encode(merge.head), merge.head.timer, merge.head.frontier
        return found


def finals(records: list[tuple[str, bytes]], kind: str) -> list[dict[str, Any]]:
    """The final records of a kind, by the start of their windows."""
    read = [json.loads(body) for _, body in records]
    chosen = [one for one in read if one["kind"] == kind and one["status"] == "final"]
    return sorted(chosen, key=lambda one: one["window"]["start"])
