"""The same messages give the same reports, however they are divided among partitions and batches."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import known
import numpy as np
import pytest
import toy
from by_hand import Monitor
from confluent_kafka import Producer
from hypothesis import given, settings
from hypothesis import strategies as st
from known import DELAY, SECONDS, Placed, Records, Stream, Topic, by_hand, same, spread
from live import read, records, running, stop, wait_for
from toy import task_of, worker_of

from detectors.statistics.table import TableSummary
from reference.store import Store
from streaming.job import prepare_topics
from streaming.pane import Pane
from streaming.spec import ModelMonitor, parse

BEGIN = 1_767_225_600
"""2026-01-01, s."""
NOW = (BEGIN + 3600) * 1000
STREAM = Stream.of(BEGIN, 9000)
"""Windows have 1,500 requests and are counted on rulers and by sketches; those of most segments have fewer, and keep their values."""
QUIET = {
    **known.SECTIONS,
    "drift": "{minWindows: 2}",  # to fit a multivariate method anew in every process would take most of the time
    "window": known.SECTIONS["window"].replace("emitEvery: 500ms", "provisional: false"),
}


@dataclass(frozen=True)
class Reading:
    """How a topic is read."""

    partitions: int
    upto: tuple[tuple[float, ...], ...]
    """For each batch but the last, how far each partition is read, s of arrival."""

    def batches(self) -> list[list[Placed]]:
        """The messages of each micro-batch."""
        messages = spread(STREAM.values, self.partitions)
        number = np.arange(len(messages))
        upto = np.array(self.upto).reshape(-1, self.partitions)[:, number % self.partitions]
        batch = (SECONDS * number / len(messages) >= upto).sum(axis=0)
        return [[messages[i] for i in np.flatnonzero(batch == n)] for n in range(len(upto) + 1)]


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    """No partition is behind another by more than the delay, less how far messages of one are out of order: then none is late."""
    partitions = draw(st.sampled_from([1, 2, 8]))
    ends = sorted(draw(st.lists(st.floats(0, SECONDS), max_size=5)))
    behind = st.lists(st.floats(0, DELAY - 2), min_size=partitions, max_size=partitions)
    return Reading(partitions, tuple(tuple(end - lag for lag in draw(behind)) for end in ends))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("determinism")


def reported(folder: Path, name: str, reading: Reading, back: Sequence[int] = ()) -> Records:
    monitor = parse(toy.document(folder, **QUIET), "toy.yaml")
    last = [(partition, STREAM.last()) for partition in range(reading.partitions)]
    return by_hand(monitor, folder / name, [*reading.batches(), last], NOW, back)


@pytest.fixture(scope="module")
def calm(folder: Path) -> Records:
    """What is reported of all messages in one batch of one partition."""
    known.publish(parse(toy.document(folder, **QUIET), "toy.yaml"))
    return reported(folder, "calm", Reading(1, ()))


@given(reading=readings())
@settings(max_examples=8)
def test_reports_do_not_depend_on_partitions_and_batches(reading, calm, folder, tmp_path_factory):
    found = reported(folder, tmp_path_factory.mktemp("reports").name, reading)
    same(calm, found, STREAM, moved=True)


def test_a_clock_that_jumps_back_changes_no_final_report(calm, folder):
    """Half an hour in the middle, and a little again and again, as NTP does it: windows close by event time, which does not jump.

    What waits for the clock waits for as much longer as it jumped: provisional reports of open windows, and final ones of silent
    streams and silent segments.
    """
    reading = Reading(2, tuple((end, end) for end in (15.0, 30.0, 45.0)))
    half_an_hour = 1_800_000
    found = reported(folder, "back", reading, [0, 0, half_an_hour, half_an_hour + 1500, half_an_hour + 3000])
    same(calm, found, STREAM, moved=True)


def test_no_message_is_from_the_future_because_a_workers_clock_jumps_back(calm, folder, monkeypatch):
    """Once a batch is done, it is known to be no earlier."""
    clock = chain([NOW, NOW], repeat((BEGIN - 3600) * 1000))
    monkeypatch.setattr("streaming.fold.time", SimpleNamespace(time_ns=lambda: next(clock) * 10**6))
    before, first = [(0, STREAM.values[0])], STREAM.values[1:]
    monitor = parse(toy.document(folder, **QUIET), "toy.yaml")
    found = by_hand(monitor, folder / "worker", [before, spread(first, 2), [(p, STREAM.last()) for p in range(2)]], NOW)
    assert {letter["reason"] for letter in found["deadletter"]} == {letter["reason"] for letter in calm["deadletter"]}
    same(calm, found, STREAM, moved=True)


def summaries(folder: Path, reading: Reading, name: str) -> dict[int, Pane]:
    """Start -> the pane in the state, while all windows are open."""
    monitor = parse(
        toy.document(folder, **{**QUIET, "window": QUIET["window"].replace(f"Delay: {DELAY}s", "Delay: 1h")}),
        "toy.yaml",
    )
    whole, topic = Monitor(task_of(monitor), folder / name), Topic()
    for messages in reading.batches():
        whole.batch(topic.add(messages, NOW), NOW)
    plans = worker_of(monitor).plans
    state = whole.operators["toy", ""].state
    return {start: Pane.from_bytes(body, plans) for (_, start), (body,) in state.items()}


@pytest.mark.parametrize("partitions", [2, 8])
def test_counts_on_rulers_are_equal_to_the_bit_and_moments_to_rounding(partitions, calm, folder):
    lags = np.linspace(0, DELAY - 2, partitions)
    cut = Reading(partitions, tuple(tuple(end - lags) for end in (3.0, 20.5, 41.0)))
    ones, others = summaries(folder, Reading(1, ()), f"one-{partitions}"), summaries(folder, cut, f"cut-{partitions}")
    assert ones.keys() == others.keys()
    assert len(ones) == SECONDS // known.LENGTH
    for start, one in ones.items():
        other = others[start]
        assert (one.messages, one.dead, one.outliers) == (other.messages, other.dead, other.outliers)
        for (table, mine), (_, theirs) in zip(one.tables(), other.tables(), strict=True):
            equal(mine, theirs, table)


def equal(one: TableSummary, other: TableSummary, name: str) -> None:
    assert one.rows == other.rows
    assert one.bins is not None
    assert other.bins is not None
    assert np.array_equal(one.bins.counts, other.bins.counts), name
    assert np.array_equal(one.bins.places, other.bins.places), name
    assert one.categories == other.categories, name
    assert one.discrete == other.discrete, name
    for mine, theirs in zip(one.moments.arrays(), other.moments.arrays(), strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-12, atol=0, err_msg=name)


@pytest.mark.spark
@pytest.mark.slow
def test_spark_reads_one_two_and_eight_partitions_alike(kafka, tmp_path):
    """Three models of one job have the same messages, and batches of 2,000."""
    monitors = {}
    for partitions in (1, 2, 8):
        name = f"read-by-{partitions}"
        text = toy.document(
            tmp_path,
            **known.SECTIONS,
            kafka=f"{{bootstrapServers: '{kafka.bootstrap_servers}', partitions: {partitions}}}",
            job=f"{{checkpoint: {tmp_path / 'checkpoint'}, maxOffsetsPerTrigger: 6000}}",
        ).replace("{name: toy}", f"{{name: {name}}}")
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / f"{name}.yaml").write_text(text)
        monitors[partitions] = parse(text, name)
        known.publish(monitors[partitions])
    prepare_topics(*monitors.values())
    begin = int(time.time() / known.LENGTH) * known.LENGTH - 2 * SECONDS
    stream = Stream.of(begin, 9000)
    producer = Producer(kafka.connection.for_confluent())
    for partitions, monitor in monitors.items():
        for partition, value in [*spread(stream.values, partitions), *((p, stream.last()) for p in range(partitions))]:
            producer.produce(monitor.topics.inference, value, partition=partition)
        producer.flush()
    windows = known.WINDOWS * (1 + len(known.PARTS))

    def done(monitor: ModelMonitor) -> bool:
        return len({r["id"] for r in read(kafka, monitor.topics.drift) if r["status"] == "final"}) == windows

    with running(tmp_path / "models") as process:
        wait_for(lambda: all(map(done, monitors.values())), process, tmp_path / "models.log", 300)
        assert stop(process) == 0

    def found(partitions: int) -> Records:
        monitor = monitors[partitions]
        text = json.dumps(records(kafka, monitor))
        version = Store(monitor.spec.reference.store).current(monitor.name)
        return json.loads(text.replace(f"read-by-{partitions}", "read-by-1").replace(version, "the baseline"))

    same(found(1), found(2), stream, moved=True)
    same(found(1), found(8), stream, moved=True)
