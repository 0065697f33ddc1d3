"""What the two stages cost in Python, without Spark and Kafka: processor time by message, value, segment, report and label."""

import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from _results import Results
from _stream import POOL, Floats, bodies_of, envelope, monitor_of, rows_of, task_of

from reference.build import build
from reference.store import Store
from streaming.broker import EmbeddedKafka
from streaming.editions import Crew, Task
from streaming.fold import PANE, fold
from streaming.spec import ModelMonitor
from streaming.waiting import Index, Terms, Waiting

ARROW = 16_384
"""Messages of an Arrow batch, as `streaming.job.session` has it."""
WIDTHS = (1, 4, 16, 64)
CARRIERS = 20
_WINDOW = {"duration": "5m", "emitEvery": "0s"}
_NOWHERE = "none"
"""A folder of marks that does not exist."""
_TIMES = 3
_SUMMARIES = 9


class _Map(dict[Any, Any]):
    """What `Waiting` asks of Spark's map state."""

    def getValue(self, key: Any) -> Any:  # noqa: N802 - Spark's name
        return self[key]

    def updateValue(self, key: Any, value: Any) -> None:  # noqa: N802
        self[key] = value

    def removeKey(self, key: Any) -> None:  # noqa: N802
        del self[key]


def _seconds(work: Callable[[], object]) -> float:
    """Processor time of the best of a few times."""
    found = []
    for _ in range(_TIMES):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return min(found)


def batches(bodies: Sequence[bytes], count: int, span: int) -> list[pa.RecordBatch]:
    """Kafka messages as the fold gets them, spread over so many ms of event time up to now."""
    begin = time.time_ns() // 1_000_000 // span * span - span
    values = [envelope(i, begin + i * span // count, bodies[i % POOL]) for i in range(count)]
    made = []
    for at in range(0, count, ARROW):
        mine = values[at : at + ARROW]
        n = len(mine)
        stamps = pa.array(np.full(n, time.time_ns() // 1000)).cast(pa.timestamp("us", "UTC"))
        made.append(
            pa.record_batch(
                {
                    "key": pa.nulls(n, pa.binary()),
                    "value": pa.array(mine, pa.binary()),
                    "partition": pa.array(np.zeros(n, np.int32)),
                    "offset": pa.array(np.arange(at, at + n)),
                    "timestamp": stamps,
                    "headers": pa.nulls(n, pa.binary()),
                }
            )
        )
    return made


def folded(task: Task, messages: Sequence[pa.RecordBatch]) -> list[dict[str, Any]]:
    """What one Spark task gives for these messages."""
    return [row for part in fold(iter(messages), task, _NOWHERE) for row in part.to_pylist()]


def costs(folder: Path, broker: EmbeddedKafka, results: Results, scale: float) -> None:
    """All figures of this file."""
    rng = np.random.default_rng(11)
    count = max(int(8 * ARROW * scale), 4096)
    _of_messages(folder, broker, results, rng, count)
    _of_segments(folder, broker, results, rng, count)
    _of_labels(results, rng, max(int(500_000 * scale), 20_000))


def _published(monitor: ModelMonitor, table: pa.Table) -> Task:
    spec = monitor.spec
    Store(spec.reference.store).publish(
        build(table, spec.model, spec.reference, spec.outliers.learned, segments=spec.segments)
    )
    return task_of(monitor)


def _table(rng: np.random.Generator, features: int) -> pa.Table:
    values = rows_of(rng, 20_000, features)
    return pa.table({f"f{j}": values[:, j] for j in range(features)})


def _of_messages(folder: Path, broker: EmbeddedKafka, results: Results, rng: np.random.Generator, count: int) -> None:
    """Fold, merge and report for models of different widths; straight lines through what that takes."""
    by_width: dict[str, list[float]] = defaultdict(list)
    for width in WIDTHS:
        monitor = monitor_of(folder / "models", f"cost{width}", broker, width, window=_WINDOW)
        task = _published(monitor, _table(rng, width))
        bodies = bodies_of(rng, 1, width, one_in=1000)
        messages = batches(bodies, count, 60_000)
        folded(task, messages[:1])  # reads the baseline, learns the messages' shape
        by_width["fold"].append(_seconds(partial(folded, task, messages)) / count)
        rows = folded(task, messages)
        report, merge = _report(task, rows, count)
        by_width["report"].append(report)
        by_width["merge"].append(merge)
        by_width["state"].append(float(np.mean([len(row["body"]) for row in rows if row["kind"] == PANE])))
        by_width["message"].append(float(np.mean([len(envelope(0, 10**12, body)) for body in bodies])))
        print(
            f"{width} features: {by_width['fold'][-1] * 1e6:.2f} us a message, {report * 1e3:.2f} ms a report, "
            f"{merge * 1e3:.2f} ms a further summary",
            flush=True,
        )
    for kind, whole, part, unit in (
        ("fold", "fold_us_per_message", "fold_us_per_feature", 1e6),
        ("report", "report_ms_per_window", "report_ms_per_feature", 1e3),
        ("merge", "merge_ms_per_summary", "merge_ms_per_feature", 1e3),
        ("state", "state_bytes_per_window", "state_bytes_per_feature", 1),
        ("message", "message_bytes", "message_bytes_per_feature", 1),
    ):
        start, slope = _line(by_width[kind])
        results.figure(whole, start * unit)
        results.figure(part, slope * unit)


def _line(values: Sequence[float]) -> tuple[float, float]:
    """Cost of none and of each further feature: least squares, each width weighted by its own size."""
    widths, found = np.array(WIDTHS, float), np.array(values)
    slope, start = np.polyfit(widths, found, 1, w=1 / found)
    return max(float(start), 0.0), max(float(slope), 0.0)


def _report(task: Task, rows: Sequence[dict[str, Any]], count: int) -> tuple[float, float]:
    """Processor time of the stateful stage for one key in one batch, and of each further summary that it is given.

    State in, merge, compare, two reports, state out.
    """
    by_hand = _by_hand()
    model = Crew(task).model(_name(task))
    assert model is not None
    operator = by_hand.Operator(model)
    summaries = [row for row in rows if row["kind"] == PANE]
    now = time.time_ns() // 1_000_000
    records = operator.call(pd.DataFrame(summaries), now)  # what depends on the baseline alone is worked out once
    assert len(records) == 2, [topic for topic, _ in records]
    counted = msgspec.json.decode(records[0][1])["counts"]["requests"]
    assert counted == count, f"{counted} of {count} messages are counted"
    turns = iter(range(1, 1000))

    def batch(frame: pd.DataFrame) -> None:
        assert len(operator.call(frame, now + 1000 * next(turns))) == 2

    one, many = (_seconds(partial(batch, pd.DataFrame(summaries * times))) for times in (1, _SUMMARIES))
    return one, (many - one) / (_SUMMARIES - 1)


def _name(task: Task) -> str:
    (editions,) = task.models
    return str(msgspec.json.decode(editions[-1].monitor)["metadata"]["name"])


def _by_hand() -> Any:
    """The tests' own way to run both stages on a dictionary."""
    tests = str(Path(__file__).parents[1] / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    return importlib.import_module("by_hand")


def _of_segments(folder: Path, broker: EmbeddedKafka, results: Results, rng: np.random.Generator, count: int) -> None:
    """The same model with and without segments: 4 numeric features, and a categorical one that the segments are made of."""
    names = [f"c{i:02d}" for i in range(CARRIERS)]
    table = _table(rng, 4)
    table = table.append_column("carrier", pa.array([names[i % CARRIERS] for i in range(table.num_rows)]))
    features = [{"name": f"f{j}", "type": "numeric"} for j in range(4)] + [{"name": "carrier", "type": "categorical"}]
    plain = bodies_of(rng, 1, 4, one_in=1000)
    bodies = [body[:-3] + f',"{names[i % CARRIERS]}"]]}}'.encode() for i, body in enumerate(plain)]
    many, few = batches(bodies, count, 60_000), batches(bodies, 5 * CARRIERS, 60_000)
    took = {}
    for name, segments in (("whole", {}), ("parts", {"by": ["carrier"], "most": CARRIERS})):
        sections: dict[str, Any] = {"model": {"features": features}, "segments": segments, "window": _WINDOW}
        task = _published(monitor_of(folder / "models", name, broker, 4, **sections), table)
        summaries = sum(row["kind"] == PANE for row in folded(task, few))
        assert summaries == (1 + CARRIERS if segments else 1), f"{name}: {summaries} summaries"
        took[name] = _seconds(partial(folded, task, many)), _seconds(partial(folded, task, few))
    (whole, whole_of_few), (parts, parts_of_few) = took["whole"], took["parts"]
    print(f"{CARRIERS} segments: {(parts - whole) / count * 1e6:.2f} us more a message", flush=True)
    results.figure("segments_us_per_message", (parts - whole) / count * 1e6)
    results.figure("segment_us_per_batch", (parts_of_few - whole_of_few) / CARRIERS * 1e6)


def _of_labels(results: Results, rng: np.random.Generator, count: int) -> None:
    """Predictions that wait for labels, in batches of 10,000, and labels that find them, all of one key."""
    terms = Terms(retention=7 * 86_400_000, label_wait=600_000)
    state, index = _Map(), Index()
    keys = rng.integers(0, 2**64, count, dtype=np.uint64)
    values: Floats = rng.normal(size=(count, 1))
    panes = np.sort(rng.integers(0, 3600, count)) * 1000
    step, now = 10_000, 86_400_000
    begin = time.process_time()
    for at in range(0, count, step):
        some = slice(at, at + step)
        here = Waiting(state, index, terms, now)
        here.predict(panes[some], keys[some], values[some])
        here.round()
        here.write()
    waiting = time.process_time() - begin
    size = sum(len(value) for (value,) in state.values())
    order = rng.permutation(count)
    begin = time.process_time()
    for at in range(0, count, step):
        these = order[at : at + step]
        here = Waiting(state, index, terms, now)
        here.label(keys[these], np.ones(len(these)), [b""] * len(these))
        here.round()
        here.write()
    labelled = time.process_time() - begin
    print(f"labels: {waiting / count * 1e6:.2f} us a prediction, {labelled / count * 1e6:.2f} us a label", flush=True)
    assert index.counts.matched == count, f"{index.counts.matched} of {count} labels found their prediction"
    results.figure("prediction_us", waiting / count * 1e6)
    results.figure("label_us", labelled / count * 1e6)
    results.figure("prediction_bytes", size / count)
