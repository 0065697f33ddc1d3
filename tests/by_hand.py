"""Both stages without Spark: state in a dictionary, calls by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
from toy import STARTED

from streaming.editions import ALWAYS, Crew, Task, Term, Watched
from streaming.fold import RECORD, fold
from streaming.marks import Key, Mark, Marks
from streaming.meeting import Meeting
from streaming.merge import Head, Merge, Panes, join_wait
from streaming.performance import Performances
from streaming.worker import Worker


class MapState(dict):
    """What is asked of Spark's map state."""

    def containsKey(self, key):  # noqa: N802
        return key in self

    def getValue(self, key):  # noqa: N802
        return self[key]

    def updateValue(self, key, value):  # noqa: N802
        self[key] = value

    def removeKey(self, key):  # noqa: N802
        del self[key]


class ValueState:
    """What `Meeting` asks of Spark's value state."""

    def __init__(self) -> None:
        self.value = None

    def get(self):
        return self.value

    def update(self, value):
        self.value = value

    def clear(self):
        self.value = None


class Operator:
    """One key of the stateful stage; between two calls there is nothing but bytes, as between two batches of Spark."""

    def __init__(self, me: Worker | Watched, segment: str = "", started: int = STARTED) -> None:
        self.model = Watched((Term(0, me),)) if isinstance(me, Worker) else me
        self.segment, self.started = segment, started
        self.state, self.series, self.head = MapState(), MapState(), b""
        self.waiting, self.performance, self.pending = MapState(), MapState(), ValueState()
        self.mark: Mark | None = None
        self.timer: int | None = None
        self.frontier: int | None = None

    def is_due(self, now: int) -> bool:
        """Whether the key wants to be called."""
        return self.timer is not None and self.timer <= now

    def call(
        self, rows: pd.DataFrame | None, now: int, closed: int = ALWAYS, batch: int = 0
    ) -> list[tuple[str, bytes]]:
        """The records of one batch, or of an expired timer (None); `closed` is the frontier of a segment's model."""
        head = msgspec.msgpack.decode(self.head, type=Head) if self.head else Head()
        before = head.frontier
        panes = Panes(self.state, self.series, head, self.model, self.segment)
        performance = Performances(self.performance, self.waiting, head.measuring, self.model, self.segment, now)
        meeting = Meeting(self.pending, head.meeting, join_wait(self.model), now)
        merge = Merge(self.model, self.segment, head, panes, performance, meeting, now, self.started, closed)
        found = list(merge.absorb(rows)) if rows is not None else []
        found += merge.advance()
        merge.panes.write()
        merge.performance.write()
        assert merge.head.panes == sorted(self.state)
        assert {(edition, start) for edition, parts in merge.head.parts.items() for start in parts} <= set(self.state)
        self.mark = merge.mark(batch, before)
        self.head, self.timer, self.frontier = msgspec.msgpack.encode(merge.head), merge.head.timer, merge.head.frontier
        return found


class Monitor:
    """A whole monitor: every call of `batch` is a micro-batch, with new processes in between."""

    def __init__(self, task: Task, folder: Path) -> None:
        self.task, self.folder = task, str(folder / "marks")
        self.operators: dict[Key, Operator] = {}
        self.number = 0

    def batch(self, messages: Sequence[pa.RecordBatch], now: int) -> list[tuple[str, bytes]]:
        """The records of one micro-batch; each of the messages' batches is a Spark task."""
        marks, crew = Marks(self.folder), Crew(self.task)
        closed = marks.frontiers(self.number)
        folded = [
            row for part in messages for out in fold(iter([part]), self.task, self.folder) for row in out.to_pylist()
        ]
        records = [(row["topic"], row["body"]) for row in folded if row["kind"] == RECORD]
        keys: dict[Key, list[dict[str, Any]]] = {key: [] for key, one in self.operators.items() if one.is_due(now)}
        for row in folded:
            keys.setdefault((row["model"], row["segment"]), []).append(row)
        left = {}
        for (name, segment), rows in sorted(keys.items()):
            model = crew.model(name)
            assert model is not None
            operator = self.operators.setdefault((name, segment), Operator(model, segment))
            operator.model = model
            folded_rows = [row for row in rows if row["kind"] != RECORD]
            frame = pd.DataFrame(folded_rows) if folded_rows else None
            records += operator.call(frame, now, closed.get((name, ""), ALWAYS), self.number)
            left[name, segment] = operator.mark
        marks.write(0, left)
        self.number += 1
        return records


def finals(records: list[tuple[str, bytes]], kind: str) -> list[dict[str, Any]]:
    """The final records of a kind, by the start of their windows."""
    read = [json.loads(body) for _, body in records]
    chosen = [one for one in read if one["kind"] == kind and one["status"] == "final"]
    return sorted(chosen, key=lambda one: one["window"]["start"])
