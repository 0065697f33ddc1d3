"""The fold on Arrow batches, without Spark: what leaves a task."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import toy

from streaming import fold as fold_module
from streaming.editions import Task, crew
from streaming.fold import CLOCK, LATE, PANE, RECORD, fold
from streaming.marks import Mark, Marks
from streaming.pane import Pane
from streaming.worker import Worker

NOW = 1_767_225_600_000
"""2026-01-01, ms."""


@pytest.fixture
def task(tmp_path: Path) -> Task:
    monitor = toy.monitor_of(tmp_path)
    return toy.task_of(monitor)


def batch(*values: bytes, kafka_time: int = NOW) -> pa.RecordBatch:
    n = len(values)
    return pa.record_batch(
        {
            "key": pa.nulls(n, pa.binary()),
            "value": pa.array(values, pa.binary()),
            "partition": pa.array(np.zeros(n, np.int32)),
            "offset": pa.array(np.arange(n)),
            "timestamp": pa.array(np.full(n, kafka_time * 1000)).cast(pa.timestamp("us", "UTC")),
            "headers": pa.nulls(n, pa.binary()),
        }
    )


def message(i: int, at: int, *instance) -> bytes:
    body = {"type": "request", "id": f"id-{i}", "time": at / 1000, "payload": {"instances": [list(instance)]}}
    return json.dumps(body).encode()


def folded(task: Task, folder: Path, *batches: pa.RecordBatch) -> list[dict]:
    rows = [row for part in fold(iter(batches), task, str(folder)) for row in part.to_pylist()]
    assert all(row["model"] == "toy" for row in rows)
    return rows


def me_of(task: Task) -> Worker:
    return crew(task).model("toy").newest


def of(rows: list[dict], kind: int) -> list[dict]:
    return [row for row in rows if row["kind"] == kind]


def panes(rows: list[dict], me: Worker) -> dict[int, Pane]:
    return {row["time"]: Pane.from_bytes(row["body"], me.plans) for row in of(rows, PANE)}


def test_a_task_leaves_one_summary_a_pane_and_its_clock(task, tmp_path):
    values = [message(i, NOW + i * 10, 10.0, "ATL") for i in range(2000)]
    rows = folded(task, tmp_path / "none", batch(*values[:700]), batch(*values[700:]))
    found = panes(rows, me_of(task))
    assert {start: (pane.requests.rows, pane.messages) for start, pane in found.items()} == {
        NOW: (1000, 1000),
        NOW + 10_000: (1000, 1000),
    }
    assert [(row["number"], row["time"]) for row in of(rows, CLOCK)] == [(0, NOW + 19_990)]
    assert of(rows, RECORD) == of(rows, LATE) == []


def test_what_lies_behind_the_frontier_brings_its_bytes_and_all_its_counts(task, tmp_path):
    """After a crash the frontier may be ahead of the state: the operator must then be able to count everything."""
    values = [message(1, NOW, 1e6, "ATL"), message(2, NOW, 10.0, "ATL", "more"), message(3, NOW, 10.0, "ATL")]
    ahead = tmp_path / "ahead"
    Marks(str(ahead)).write(0, {("toy", ""): Mark(1, NOW + 60_000, 0)})
    calm, hurt = folded(task, tmp_path / "none", batch(*values)), folded(task, ahead, batch(*values))
    me = me_of(task)
    (expected,) = panes(calm, me).values()
    assert of(hurt, PANE) == []
    ((body, letters),) = (msgspec.msgpack.decode(row["body"]) for row in of(hurt, LATE))
    late = Pane.from_bytes(body, me.plans)
    assert (
        (late.messages, late.dead, late.outliers) == (expected.messages, expected.dead, expected.outliers) == (2, 1, 1)
    )
    assert late.requests.rows == 2
    assert [json.loads(letter)["reason"] for letter in letters] == ["late", "late"]
    assert of(calm, CLOCK) == of(hurt, CLOCK)


def test_a_clock_in_the_year_3000_moves_nothing_even_when_kafka_believes_it(task, tmp_path):
    year_3000 = 32_503_680_000_000
    rows = folded(task, tmp_path / "none", batch(message(1, year_3000, 10.0, "ATL"), kafka_time=year_3000))
    assert of(rows, CLOCK) == of(rows, PANE) == []
    assert [json.loads(row["body"])["reason"] for row in of(rows, RECORD)] == ["future"]


def test_thousands_of_panes_do_not_pile_up(task, tmp_path):
    values = [message(i, NOW - i * 10_000, 10.0, "ATL") for i in range(300)]
    rows = folded(task, tmp_path / "none", batch(*values))
    assert len({row["time"] for row in of(rows, PANE)}) == 300


def test_what_nobody_foresaw_becomes_a_dead_letter_and_the_others_are_counted(task, tmp_path, monkeypatch):
    real = fold_module.summarise

    def fragile(plan, block):
        if (block.numeric[:, :1] == 13.0).any():
            raise ZeroDivisionError("thirteen")
        return real(plan, block)

    monkeypatch.setattr(fold_module, "summarise", fragile)
    values = [message(i, NOW, 13.0 if i == 5 else 10.0, "ATL") for i in range(20)]
    rows = folded(task, tmp_path / "none", batch(*values))
    letters = [json.loads(row["body"]) for row in of(rows, RECORD)]
    assert [(letter["reason"], letter["offset"]) for letter in letters] == [("internal", 5)]
    assert "thirteen" in letters[0]["message"]
    assert sum(pane.requests.rows for pane in panes(rows, me_of(task)).values()) == 19


def test_an_empty_or_damaged_file_of_marks_is_none(tmp_path):
    marks = Marks(str(tmp_path))
    (tmp_path / "0.json").write_bytes(b"")
    assert marks.read() == {}
    marks.write(0, {("toy", ""): Mark(3, 5, 2)})
    assert marks.read() == {("toy", ""): Mark(3, 5, 2)}


def test_a_batch_that_is_done_again_reads_the_frontier_that_it_read_before(tmp_path):
    marks = Marks(str(tmp_path))
    marks.write(0, {("toy", ""): Mark(3, 5, 2)})
    assert [marks.frontiers(batch)["toy", ""] for batch in (3, 4)] == [2, 5]


def test_a_dead_letter_fits_its_topic_even_where_an_older_topic_takes_more(task, tmp_path):
    most = me_of(task).monitor.spec.kafka.largest_message
    rows = folded(task, tmp_path / "none", batch(b"x" * (most + 10)))
    (letter,) = (json.loads(row["body"]) for row in of(rows, RECORD))
    assert letter["size"] == most + 10
    assert len(of(rows, RECORD)[0]["body"]) < me_of(task).monitor.spec.kafka.largest_record
