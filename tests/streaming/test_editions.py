"""Editions by hand: a baseline or a ModelMonitor that changes while windows are open."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import toy
from by_hand import Monitor, finals

from reference.build import build
from reference.store import Store
from streaming.editions import ALWAYS, NEVER, Edition, Task, Term
from streaming.errors import IncompatibleCheckpoint
from streaming.marks import Mark, Marks
from streaming.plan import VERSION, Plan, Topic, Wanted, adopted, differs, read, write
from streaming.spec import ModelMonitor, parse

START = 1_767_225_600_000
"""2026-01-01, ms."""
S = 1000


def messages(times: list[float], first: int = 0) -> pa.RecordBatch:
    """A request at each of the times, in seconds."""
    values = [
        json.dumps(
            {
                "type": "request",
                "id": f"r{first + i}",
                "time": START / S + at,
                "payload": {"instances": [[10.0, "ATL"]]},
            }
        ).encode()
        for i, at in enumerate(times)
    ]
    n = len(values)
    return pa.record_batch(
        {
            "key": pa.nulls(n, pa.binary()),
            "value": pa.array(values, pa.binary()),
            "partition": pa.array(np.zeros(n, np.int32)),
            "offset": pa.array(np.arange(first, first + n)),
            "timestamp": pa.array(np.full(n, (START + 3600 * S) * S)).cast(pa.timestamp("us", "UTC")),
            "headers": pa.nulls(n, pa.binary()),
        }
    )


@dataclass
class Stream:
    """One model whose files and baselines change; the driver's part is played by `change`."""

    monitor: ModelMonitor
    folder: Path
    plan: Plan = field(default_factory=Plan)
    sent: int = 0
    records: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.whole = Monitor(Task((), 0), self.folder)
        self.change(self.monitor)

    def change(self, monitor: ModelMonitor) -> list[str]:
        version = Store(monitor.spec.reference.store).current(monitor.name)
        wanted = {monitor.name: Wanted(monitor, version)}
        self.plan, changes = adopted(self.plan, wanted, Marks(self.whole.folder).read())
        assert not differs(self.plan, wanted)
        self.whole.task = self.plan.task(0)
        return [change.text for change in changes]

    def send(self, *times: float) -> list[tuple[str, bytes]]:
        found = self.whole.batch([messages(list(times), self.sent)], START + 3600 * S + self.sent)
        self.sent += len(times)
        self.records += found
        return found

    def windows(self) -> dict[int, tuple[int, str]]:
        """Start in seconds -> (requests, baseline) of the final windows."""
        found = {}
        for record in finals(self.records, "statistics"):
            start = int(np.datetime64(record["window"]["start"].rstrip("Z"), "ms").astype(int)) - START
            assert start // S not in found, "a window has one edition"
            found[start // S] = (record["counts"]["requests"], record["baseline"])
        return found


def published(monitor: ModelMonitor, seed: int) -> str:
    rng = np.random.default_rng(seed)
    table = pa.table({"x": rng.normal(10.0, 2.0, 500), "where": rng.choice(["ATL", "JFK"], 500)})
    return Store(monitor.spec.reference.store).publish(build(table, monitor.spec.model, monitor.spec.reference))


@pytest.mark.parametrize("slide", ["", "slide: 5s, "])
def test_windows_that_have_begun_end_as_they_began(tmp_path, slide):
    window = f"{{duration: 10s, {slide}watermarkDelay: 2s, idleTimeout: 5s, emitEvery: 0s}}"
    monitor = parse(toy.document(tmp_path, window=window), "toy.yaml")
    older = published(monitor, 1)
    stream = Stream(monitor, tmp_path)
    stream.send(*np.arange(0, 13, 0.5))
    newer = published(monitor, 2)
    (text,) = stream.change(monitor)
    assert newer in text
    stream.send(*np.arange(13, 40, 0.5))
    stream.send(*np.arange(9.25, 40, 0.5))  # a second partition's worth, and the first quarter of it is late
    stream.send(100.0)
    found = stream.windows()
    switch = 15 if slide else 20
    assert {start for start, (_, baseline) in found.items() if baseline == older} == set(
        range(-5 if slide else 0, switch, 5 if slide else 10)
    )
    assert {start for start, (_, baseline) in found.items() if baseline == newer} == set(
        range(switch, 40, 5 if slide else 10)
    )
    alone = Stream(monitor, tmp_path / "alone")  # under one baseline all the time
    for times in (np.arange(0, 13, 0.5), np.arange(13, 40, 0.5), np.arange(9.25, 40, 0.5), [100.0]):
        alone.send(*times)
    assert {start: rows for start, (rows, _) in found.items()} == {s: rows for s, (rows, _) in alone.windows().items()}
    letters = [sorted(json.loads(b)["id"] for _, b in s.records if b"deadletter" in b) for s in (stream, alone)]
    assert letters[0] == letters[1]
    assert letters[0]
    flagged = [json.loads(b)["id"] for _, b in stream.records if json.loads(b)["kind"] == "outlier"]
    assert len(set(flagged)) == len(flagged), "an instance is scored once, though two editions count it"


def test_an_edition_that_is_done_is_struck_and_its_panes_are_gone(tmp_path):
    monitor = parse(toy.document(tmp_path), "toy.yaml")
    published(monitor, 1)
    stream = Stream(monitor, tmp_path)
    stream.send(1.0, 2.0)
    published(monitor, 2)
    stream.change(monitor)
    assert [edition.number for edition in stream.plan.models["toy"]] == [0, 1]
    stream.send(21.0, 30.0)
    published(monitor, 3)
    stream.change(monitor)
    assert [edition.number for edition in stream.plan.models["toy"]] == [1, 2]
    stream.send(60.0)
    assert {edition for edition, _ in stream.whole.operators["toy", ""].state} == {2}


def test_late_messages_of_an_edition_that_is_gone_are_dead_letters(tmp_path):
    monitor = parse(toy.document(tmp_path), "toy.yaml")
    published(monitor, 1)
    stream = Stream(monitor, tmp_path)
    stream.send(1.0, 13.0)
    published(monitor, 2)
    stream.change(monitor)
    stream.send(21.0, 60.0)
    records = stream.send(5.0, 61.0)
    assert [json.loads(b)["reason"] for topic, b in records if topic == monitor.topics.deadletter] == ["late"]


def test_a_change_before_any_message_takes_effect_at_once(tmp_path):
    monitor = parse(toy.document(tmp_path), "toy.yaml")
    published(monitor, 1)
    stream = Stream(monitor, tmp_path)
    newer = published(monitor, 2)
    (text,) = stream.change(monitor)
    assert "at once" in text
    assert [(edition.since, edition.baseline) for edition in stream.plan.models["toy"]] == [(ALWAYS, newer)]


def test_two_changes_in_one_window_are_one(tmp_path):
    monitor = parse(toy.document(tmp_path), "toy.yaml")
    older = published(monitor, 1)
    stream = Stream(monitor, tmp_path)
    stream.send(1.0)
    published(monitor, 2)
    stream.change(monitor)
    newest = published(monitor, 3)
    stream.change(monitor)
    stream.send(11.0, 25.0, 60.0)
    assert [edition.baseline for edition in stream.plan.models["toy"]] == [older, newest]
    assert {baseline for _, baseline in stream.windows().values()} == {older, newest}


def test_windows_of_another_length_begin_where_their_panes_do(tmp_path):
    monitor = parse(toy.document(tmp_path), "toy.yaml")
    published(monitor, 1)
    stream = Stream(monitor, tmp_path)
    stream.send(1.0, 5.0)
    longer = parse(toy.document(tmp_path, window="{duration: 7s, watermarkDelay: 2s}"), "toy.yaml")
    (text,) = stream.change(longer)
    assert text.startswith("window, for windows that begin at ")
    stream.send(*np.arange(5.0, 40.0, 0.5), 60.0)
    since = stream.plan.models["toy"][-1].since
    assert (since % 7000, since > START + 5 * S) == (0, True)
    assert min(start for start in stream.windows() if start > 0) == (since - START) // S


def test_what_no_window_depends_on_changes_without_an_edition(tmp_path):
    monitor = parse(toy.document(tmp_path), "toy.yaml")
    published(monitor, 1)
    stream = Stream(monitor, tmp_path)
    stream.send(1.0)
    other = parse(toy.document(tmp_path, reports="{html: other.html}"), "toy.yaml")
    assert stream.change(other) == []
    assert [edition.number for edition in stream.plan.models["toy"]] == [0]


def test_a_counted_window_of_the_old_edition_closes_with_it(tmp_path):
    counted = "{every: 10, watermarkDelay: 2s, emitEvery: 0s}"
    monitor = parse(toy.document(tmp_path, window=counted), "toy.yaml")
    older = published(monitor, 1)
    stream = Stream(monitor, tmp_path)
    stream.send(*np.arange(0, 14, 1.0))
    stream.send(*np.arange(14, 17, 1.0))
    newer = published(monitor, 2)
    stream.change(monitor)
    stream.send(*np.arange(17, 29, 1.0))
    found = finals(stream.records, "statistics")
    assert [(r["counts"]["requests"], r["baseline"], r["every"]) for r in found] == [
        (14, older, 10),
        (3, older, 10),
        (12, newer, 10),
    ]
    assert [r["id"].split("/")[2] for r in found] == ["000000000", "000000001", "000000002"]
    spans = [(r["window"]["start"][17:22], r["window"]["end"][17:23]) for r in found]
    assert spans == [("00.00", "13.001"), ("14.00", "16.001"), ("17.00", "28.001")]
    assert not stream.whole.operators["toy", ""].state


def test_a_removed_model_ends_its_open_windows_and_then_is_gone(tmp_path):
    monitor = parse(toy.document(tmp_path), "toy.yaml")
    published(monitor, 1)
    stream = Stream(monitor, tmp_path)
    stream.send(1.0)
    marks = Marks(stream.whole.folder)
    plan, (change,) = adopted(stream.plan, {}, marks.read())
    assert (change.reason, plan.retired, plan.inputs()) == ("modelRemoved", ["toy"], {})
    assert not differs(plan, {})
    stream.whole.task = plan.task(0)
    stream.whole.batch([], START + 7200 * S)
    assert adopted(plan, {}, marks.read())[0].models == {}


def test_a_term_holds_the_windows_that_begin_in_it(tmp_path):
    monitor = parse(toy.document(tmp_path, window="{duration: 10s, slide: 5s}"), "toy.yaml")
    published(monitor, 1)
    me = toy.worker_of(monitor)
    term = Term(0, me, 20 * S, 33 * S)
    assert (term.last, term.until) == (30 * S, 40 * S)
    assert list(term.windows(20 * S)) == [20 * S]
    assert list(term.windows(30 * S)) == [25 * S, 30 * S]
    assert list(term.windows(35 * S)) == [30 * S]
    assert [term.is_late(35 * S, frontier) for frontier in (39 * S, 40 * S)] == [False, True]
    assert term.is_late(15 * S, ALWAYS)
    assert Term(0, me).until == NEVER


def test_a_plan_is_kept_and_one_of_another_version_is_refused(tmp_path):
    plan = Plan(state_partitions=2, models={"m": [Edition(0, ALWAYS, "b", "{}")]}, topics={"t": Topic("id", 2, {0: 5})})
    assert read(str(tmp_path)) is None
    write(str(tmp_path), plan)
    assert read(str(tmp_path)) == plan
    assert plan.task(7).lives == (("t", 2),)
    file = tmp_path / "driftline" / "plan.json"
    for text in (file.read_text().replace(f'"version": {VERSION}', '"version": 2'), "{", "[]", ""):
        file.write_text(text)
        with pytest.raises(IncompatibleCheckpoint, match=r"spec\.job\.checkpoint a new directory"):
            read(str(tmp_path))


def test_state_without_a_plan_is_refused_and_never_begun_anew(tmp_path):
    (tmp_path / "offsets").mkdir()
    with pytest.raises(IncompatibleCheckpoint, match="no plan of this version"):
        read(str(tmp_path))


def test_a_model_without_a_mark_is_new(tmp_path):
    monitor = parse(toy.document(tmp_path), "toy.yaml")
    published(monitor, 1)
    version = Store(monitor.spec.reference.store).current("toy")
    marks = {("toy", ""): Mark(1, START, START, START + 15 * S)}
    plan, changes = adopted(Plan(), {"toy": Wanted(monitor, version)}, marks)
    assert [change.reason for change in changes] == ["modelAdded"]
    assert plan.models["toy"][0].since == ALWAYS
