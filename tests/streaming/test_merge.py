"""Event time by hand: the operator without Spark, batch by batch."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pandas as pd
import pytest
from by_hand import Operator
from toy import STARTED, monitor_of, worker_of

from detectors.drift.ks import KolmogorovSmirnov
from detectors.statistics.block import Block, Codes
from detectors.statistics.table import summarise
from streaming.fold import CLOCK, LATE, PANE
from streaming.merge import Head
from streaming.pane import Pane
from streaming.publish import _corrected
from streaming.reports import ColumnDrift
from streaming.worker import Worker

S = 1000


class Stream:
    """Drives one key through batches as Spark would."""

    def __init__(self, me: Worker, started: int = STARTED) -> None:
        self.me, self.operator, self.now = me, Operator(me, started=started), STARTED

    def batch(self, *messages, late=(), now=None):
        """Messages are (partition, time in s); `late` are (time in s, letter) that the fold holds for late."""
        self.now = self.now + S if now is None else now
        rows = []
        for partition, at in messages:
            rows += [(PANE, int(at * S) // self.me.pane * self.me.pane, 0, self.pane(1).to_bytes())]
            rows += [(CLOCK, int(at * S), partition, None)]
        for at, letter in late:
            body = msgspec.msgpack.encode((self.pane(1).to_bytes(), [letter]))
            rows.append((LATE, int(at * S) // self.me.pane * self.me.pane, 0, body))
        return self._call(pd.DataFrame(rows, columns=["kind", "time", "number", "body"]))

    def pane(self, rows, messages=1):
        x = np.full((rows, 1), 10.0)
        block = Block(x, np.zeros(x.shape, bool), (Codes(np.zeros(rows, np.int32), ("ATL",)),))
        return replace(self.me.no_rows, requests=summarise(self.me.plans.request, block), messages=messages)

    def fire(self):
        """The key's timer expires."""
        assert self.operator.timer is not None
        self.now = max(self.now, self.operator.timer)
        return self._call(None)

    def _call(self, rows):
        return [
            SimpleNamespace(topic=topic, start=_start(record), **record)
            for topic, body in self.operator.call(rows, self.now)
            for record in [json.loads(body) if body.startswith(b"{") else {"letter": body}]
        ]

    @staticmethod
    def finals(records):
        return [
            (r.start, r.counts["requests"])
            for r in records
            if getattr(r, "kind", "") == "statistics" and r.status == "final"
        ]


def _start(record):
    return pd.Timestamp(record["window"]["start"]).timestamp() if "window" in record else None


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    return Stream(worker_of(monitor_of(tmp_path)))


def test_a_window_reports_early_and_often_then_once_finally(stream):
    first = stream.batch((0, 1))
    assert [(r.kind, r.status, r.revision) for r in first] == [
        ("statistics", "provisional", 1),
        ("drift", "provisional", 1),
    ]
    assert [r.revision for r in stream.batch((0, 2))] == [2, 2]
    last = stream.batch((0, 12))
    assert stream.finals(last) == [(0, 2)]
    assert [(r.kind, r.status, r.revision, r.start) for r in last][:2] == [
        ("statistics", "final", 3, 0),
        ("drift", "final", 3, 0),
    ]
    assert last[0].id.endswith("/statistics/final")  # no revision: a crash may change how often it was provisional


def test_nothing_is_reported_of_a_window_that_did_not_change(stream):
    stream.batch((0, 11))
    assert [r.start for r in stream.batch((0, 1))] == [0, 0]


def test_the_watermark_is_the_slowest_partitions(stream):
    stream.batch((0, 1), (1, 1))
    assert stream.finals(stream.batch((0, 30))) == []
    assert stream.finals(stream.batch((1, 12))) == [(0, 2)]


def test_an_idle_partition_holds_nobody_up(stream):
    stream.batch((0, 1), (1, 1))
    assert stream.finals(stream.batch((0, 30), now=STARTED + 4 * S)) == []
    assert stream.finals(stream.batch((0, 31), now=STARTED + 7 * S)) == [(0, 2)]


def test_a_silent_stream_closes_its_last_windows_by_timer(stream):
    stream.batch((0, 1), (0, 25), now=STARTED + S)
    assert stream.operator.timer == STARTED + 6 * S
    assert stream.finals(stream.fire()) == [(20, 1)]
    assert stream.operator.timer is None
    assert not stream.operator.state  # and its panes are gone


def test_the_first_window_closes_before_the_timer(stream):
    assert stream.finals(stream.batch((0, 1))) == []
    assert stream.finals(stream.batch((0, 25))) == [(0, 1)]


def test_late_messages_are_dead_letters_and_counted_once(stream):
    stream.batch((0, 1))
    stream.batch((0, 13))
    late = stream.batch((0, 14), late=[(2, b"letter")])
    assert [r.letter for r in late if hasattr(r, "letter")] == [b"letter"]
    final = [r for r in stream.batch((0, 25)) if r.kind == "statistics" and r.status == "final"]
    assert [(r.start, r.counts["late"], r.counts["requests"]) for r in final] == [(10, 1, 2)]
    final = [r for r in stream.batch((0, 35)) if r.kind == "statistics" and r.status == "final"]
    assert [(r.start, r.counts["late"]) for r in final] == [(20, 0)]


def test_what_the_fold_wrongly_holds_for_late_is_counted(stream):
    stream.batch((0, 1))
    assert [r for r in stream.batch(late=[(2, b"letter")]) if hasattr(r, "letter")] == []
    assert stream.finals(stream.batch((0, 13))) == [(0, 2)]


def test_rows_within_the_delay_are_never_late(stream):
    stream.batch((0, 11.9))
    assert stream.finals(stream.batch((0, 9.9))) == []
    assert stream.finals(stream.batch((0, 12))) == [(0, 1)]


def test_the_frontier_never_moves_back(stream):
    stream.batch((0, 30))
    before = stream.operator.frontier
    stream.batch((1, 1), late=[(1, b"letter")])
    assert stream.operator.frontier == before


def test_sliding_windows_are_made_of_panes(tmp_path):
    window = "{duration: 10s, slide: 5s, watermarkDelay: 0s, idleTimeout: 5s, emitEvery: 0s}"
    stream = Stream(worker_of(monitor_of(tmp_path, window=window)))
    assert stream.finals(stream.batch((0, 1), (0, 6), (0, 7))) == [(-5, 1)]
    assert sorted(stream.operator.state) == [(0, 0), (0, 5000)]
    assert stream.finals(stream.batch((0, 16))) == [(0, 3), (5, 2)]
    assert sorted(stream.operator.state) == [(0, 15000)]


def test_provisional_reports_wait_for_emit_every_and_then_come_by_timer(tmp_path):
    window = "{duration: 10s, watermarkDelay: 2s, idleTimeout: 60s, emitEvery: 3s}"
    stream = Stream(worker_of(monitor_of(tmp_path, window=window)))
    assert len(stream.batch((0, 1), now=STARTED)) == 2
    assert stream.batch((0, 2), now=STARTED + S) == []
    assert stream.operator.timer == STARTED + 3 * S
    assert [r.revision for r in stream.fire()] == [2, 2]


def test_provisional_reports_can_be_switched_off(tmp_path):
    window = "{duration: 10s, watermarkDelay: 2s, idleTimeout: 5s, provisional: false}"
    stream = Stream(worker_of(monitor_of(tmp_path, window=window)))
    assert stream.batch((0, 1)) == []
    assert stream.finals(stream.batch((0, 12))) == [(0, 1)]


def test_silence_before_the_job_began_is_not_the_streams(tmp_path):
    me = worker_of(monitor_of(tmp_path))
    stream = Stream(me)
    stream.batch((0, 1), now=STARTED + S)
    again = Stream(me, started=STARTED + 100 * S)  # the job was down for 99 s
    again.operator.__dict__ |= stream.operator.__dict__ | {"started": STARTED + 100 * S}
    assert stream.finals(again._call(None)) == []
    again.now = STARTED + 101 * S
    assert again.finals(again._call(None)) == []
    assert again.operator.timer == STARTED + 105 * S
    assert again.finals(again.fire()) == [(0, 1)]


def test_state_is_gone_when_windows_are(stream):
    for at in range(0, 500, 5):
        stream.batch((0, at))
    assert len(stream.operator.state) <= 2
    assert len(stream.operator.head) < 200


def test_a_sparse_stream_loses_nothing_under_the_default_settings(tmp_path):
    """One request every 90 s, as its time comes; windows of 5 minutes, idle after one."""
    me = worker_of(monitor_of(tmp_path, window="{}"))
    stream = Stream(me)
    counted = 0
    for i in range(40):
        now = STARTED + 90 * S * i
        while stream.operator.head and stream.operator.timer is not None and stream.operator.timer < now:
            counted += sum(count for _, count in stream.finals(stream.fire()))
        counted += sum(count for _, count in stream.finals(stream.batch((0, now / S), now=now)))
        assert msgspec.msgpack.decode(stream.operator.head, type=Head).late == 0
        assert stream.operator.frontier < now
    while stream.operator.timer is not None:
        counted += sum(count for _, count in stream.finals(stream.fire()))
    assert counted == 40


def test_a_window_of_today_waits_until_it_is_over(tmp_path):
    stream = Stream(worker_of(monitor_of(tmp_path)))
    at = STARTED / S
    stream.batch((0, at + 1), now=STARTED + S)
    assert stream.operator.timer == STARTED + 6 * S  # the partition is idle
    assert stream.finals(stream.fire()) == []
    assert stream.operator.timer == STARTED + 12 * S  # the window's end and the delay
    assert stream.finals(stream.fire()) == [(at, 1)]


def test_what_comes_behind_the_frontier_without_its_bytes_is_counted(stream):
    """The fold did not know the frontier: its file was lost."""
    stream.batch((0, 1))
    stream.batch((0, 13))
    assert stream.finals(stream.batch((0, 2))) == []
    final = [r for r in stream.batch((0, 25)) if r.kind == "statistics" and r.status == "final"]
    assert [(r.start, r.counts["late"]) for r in final] == [(10, 1)]


def test_a_backlog_of_many_windows_is_merged_a_few_panes_at_a_time(stream):
    everything = stream.batch(*((0, at) for at in range(0, 5000, 5)))
    assert sum(count for _, count in stream.finals(everything)) == 998
    assert len(stream.operator.state) == 1


def test_what_was_held_up_on_its_way_is_not_late_after_a_silence(stream):
    """Event times lie far behind the clock on the wall; a silence closes the open window and no later one."""
    stream.batch((0, 1))
    assert stream.finals(stream.fire()) == [(0, 1)]
    assert stream.operator.frontier == 10 * S
    stream.batch((0, 11))
    assert stream.finals(stream.fire()) == [(10, 1)]


def test_a_correction_only_takes_drift_back():
    """A user's function may call a small p-value no drift; and what drifted by its range stays drifted."""

    def column(name: str, score: float, *, drifted: bool) -> ColumnDrift:
        return ColumnDrift(
            name=name, source="request", type="numeric", method="my.tests:mine", direction="p-value", score=score,
            threshold=0.05, drifted=drifted, exact=True, explanation={},
        )  # fmt: skip

    given = [column("a", 0.001, drifted=False), column("b", 0.04, drifted=True), column("c", 0.9, drifted=True)]
    answered = [(KolmogorovSmirnov(), one) for one in given]
    assert [one.drifted for _, one in _corrected(answered)] == [False, False, True]


def test_overlapping_windows_are_summed_with_few_additions(tmp_path, monkeypatch):
    window = "{duration: 60s, slide: 1s, watermarkDelay: 0s, idleTimeout: 5s, emitEvery: 0s}"
    me = worker_of(monitor_of(tmp_path, window=window))
    stream = Stream(me)
    rows = {at: 1 + at % 3 for at in range(150) if at % 7}
    stream.batch(*[(0, at) for at, many in rows.items() for _ in range(many)])
    added, plain = [], Pane.__add__
    monkeypatch.setattr(Pane, "__add__", lambda a, b: (added.append(1), plain(a, b))[1])
    found = stream.batch((0, 149))
    monkeypatch.undo()
    counted = {r.start: r.counts["requests"] for r in found if r.kind == "statistics"}
    rows[149] += 1
    assert counted == {start: sum(rows.get(at, 0) for at in range(int(start), int(start) + 60)) for start in counted}
    assert len(counted) == 60
    assert len(added) < 4 * 60
