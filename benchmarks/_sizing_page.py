"""docs/sizing.md: its tables are written from benchmarks/results/*.json, between marks; its sentences are written by hand."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from _results import FOLDER

PAGE = Path(__file__).parents[1] / "docs" / "sizing.md"
SOURCES = ("stream", "scale", "soak")
REQUESTS, FEATURES, OPEN_S, DELAY_S, HEADROOM, REPLICAS, OUTLIERS = 1_000_000, 4, 60, 30, 2, 3, 0.001
"""The plan: requests/s of one model, its features, its windows and their delay in seconds, how many times the cores that just do, copies in
Kafka, and the share of requests that are outliers."""
CORES, TARGET_S = 4, 5
"""Of an executor; and how long a full batch takes, s."""
OUTLIER_BYTES = 700
"""Of a record about one feature, roughly."""
_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Figures = Mapping[str, float]


def figures() -> dict[str, float]:
    """All that was measured, under ``benchmark.figure``."""
    found: dict[str, float] = {}
    for name in SOURCES:
        path = FOLDER / f"{name}.json"
        if path.is_file():
            found |= {f"{name}.{key}": value for key, value in json.loads(path.read_text())["figures"].items()}
    return found


def write() -> None:
    """Write the tables of the page anew."""
    PAGE.write_text(page(PAGE.read_text(), figures()))


def page(text: str, known: Figures) -> str:
    """The page with these figures between its marks; a table that lacks one stays as it is."""

    def written(found: re.Match[str]) -> str:
        try:
            lines = list(TABLES[found[2]](known))
        except KeyError:
            return found[0]
        return found[1] + "\n" + "\n".join(lines) + "\n\n" + found[3]

    return _MARKED.sub(written, text)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _costs(known: Figures) -> Iterator[str]:
    rows = (
        ("a message: decode, score, fold", "scale.fold_us_per_message", "us"),
        ("each numeric feature of a message", "scale.fold_us_per_feature", "us"),
        ("a message, by the entry of `segments.by`", "scale.segments_us_per_message", "us"),
        ("a segment in a batch, however few messages", "scale.segment_us_per_batch", "us"),
        ("a report of a window: merge, compare, write", "scale.report_ms_per_window", "ms"),
        ("each feature of a report", "scale.report_ms_per_feature", "ms"),
        ("a further summary of the same window (one a task)", "scale.merge_ms_per_summary", "ms"),
        ("each feature of such a summary", "scale.merge_ms_per_feature", "ms"),
        ("a prediction that waits for its label", "scale.prediction_us", "us"),
        ("a label that finds its prediction", "scale.label_us", "us"),
        ("a message in an executor's JVM", "scale.executor_jvm_us_per_message", "us"),
        ("a message in its Python worker, all of it", "scale.executor_python_us_per_message", "us"),
    )
    command = {"scale": "make bench-scale", "stream": "make bench-stream"}
    yield from _table(
        ["processor time of", "one core", "measured by"],
        [[what, f"{_shown(known[key])} {unit}", f"`{command[key.partition('.')[0]]}`"] for what, key, unit in rows],
    )
    yield ""
    sizes = (
        ("a message of the envelope without features", "scale.message_bytes"),
        ("each feature in it", "scale.message_bytes_per_feature"),
        ("an open window in the state, and a summary in the shuffle", "scale.state_bytes_per_window"),
        ("each feature of these", "scale.state_bytes_per_feature"),
        ("a prediction that waits for its label", "scale.prediction_bytes"),
    )
    yield from _table(
        ["size of", "bytes", "measured by"], [[what, _shown(known[key]), "`make bench-scale`"] for what, key in sizes]
    )


def _executors(known: Figures) -> Iterator[str]:
    one, two, local = (known[f"scale.messages_per_s_{name}"] for name in ("1", "2", "local_2"))
    yield from _table(
        ["executors of one core", "messages/s", "speed-up"],
        [
            ["1", _shown(one), "1"],
            ["2", _shown(two), f"{two / one:.2f}"],
            ["`local[2]`", _shown(local), f"{local / one:.2f}"],
        ],
    )
    yield ""
    windows = known["scale.windows_equal"]
    yield f"The final statistics and drift reports of {windows:.0f} windows were equal in all three."


def cores(known: Figures) -> int:
    """Cores of the plan."""
    return math.ceil(REQUESTS / known["scale.messages_per_s_1"] * HEADROOM)


def _plan(known: Figures) -> Iterator[str]:
    speed, needed = known["scale.messages_per_s_1"], cores(known)
    just = REQUESTS / speed
    partitions = 2 * needed
    message = known["scale.message_bytes"] + FEATURES * known["scale.message_bytes_per_feature"]
    stream = message * REQUESTS / 1e6
    summary = known["scale.state_bytes_per_window"] + FEATURES * known["scale.state_bytes_per_feature"]
    windows = math.ceil((OPEN_S + DELAY_S) / OPEN_S) + 1
    report = known["scale.report_ms_per_window"] + FEATURES * known["scale.report_ms_per_feature"]
    merge = known["scale.merge_ms_per_summary"] + FEATURES * known["scale.merge_ms_per_feature"]
    key = report + (needed - 1) * merge
    label = known["scale.prediction_us"] + known["scale.label_us"]
    week = known["scale.prediction_bytes"] * 7 * 86_400
    yield from _table(
        ["what", "arithmetic", "comes to"],
        [
            [
                "cores that just do",
                f"{REQUESTS:,} messages/s / {_shown(speed)} messages/s of a core",
                f"{just:.1f}",
            ],
            ["executor cores", f"{just:.1f} x {HEADROOM}, to catch up while traffic goes on", f"**{needed}**"],
            ["executors", f"{CORES} cores each: one JVM, {CORES} Python workers", f"**{math.ceil(needed / CORES)}**"],
            ["Kafka partitions", f"2 x {needed} cores, so that cores can double", f"**{partitions}**"],
            ["of each partition", f"{REQUESTS:,} / {partitions}", f"{_shown(REQUESTS / partitions)} messages/s"],
            ["bytes of a message", f"{_shown(known['scale.message_bytes'])} + {FEATURES} x {known['scale.message_bytes_per_feature']:.1f}", f"{message:.0f}"],
            ["into Kafka, and out of it to the monitor", f"{message:.0f} B x {REQUESTS:,}/s", f"**{stream:.0f} MB/s**"],
            ["among brokers", f"{stream:.0f} MB/s x ({REPLICAS} - 1) copies", f"{stream * (REPLICAS - 1):.0f} MB/s"],
            ["kept for a day", f"{stream:.0f} MB/s x 86,400 s x {REPLICAS}", f"{stream * 86_400 * REPLICAS / 1e6:.1f} TB"],
            [
                "outlier records",
                f"{OUTLIERS:.1%} of {REQUESTS:,}/s, {OUTLIER_BYTES} B each",
                f"{REQUESTS * OUTLIERS * OUTLIER_BYTES / 1e6:.1f} MB/s",
            ],
            ["a summary", f"{_shown(known['scale.state_bytes_per_window'])} + {FEATURES} x {_shown(known['scale.state_bytes_per_feature'])} B", f"{summary / 1e3:.0f} kB"],
            ["shuffle of a batch", f"{needed} tasks x {summary / 1e3:.0f} kB", f"{needed * summary / 1e6:.1f} MB"],
            [
                "the model's own key, a batch",
                f"{report:.1f} ms + {needed - 1} x {merge:.2f} ms",
                f"**{key:.0f} ms** of one core",
            ],
            ["state", f"{windows} open windows x {summary / 1e3:.0f} kB", f"{windows * summary / 1e3:.0f} kB"],
            ["labels that one key can join", f"1 s / ({known['scale.prediction_us']:.2f} + {known['scale.label_us']:.2f} us)", f"{_shown(1e6 / label)} a second"],
            ["state of each labelled request/s", f"{known['scale.prediction_bytes']:.1f} B x 7 days", f"{week / 1e6:.1f} MB"],
        ],
    )  # fmt: skip
    executors = math.ceil(needed / CORES)
    bound = math.ceil(speed * needed * TARGET_S / 1e6) * 1_000_000
    yield from (
        "",
        "```yaml",
        "spec:",
        f"  kafka: {{partitions: {partitions}, replicationFactor: {REPLICAS}}}",
        f"  window: {{duration: {OPEN_S}s, watermarkDelay: {DELAY_S}s, emitEvery: 5s}}",
        "  job:",
        f"    maxOffsetsPerTrigger: {bound}   # what {needed} cores do in {TARGET_S} s",
        f"    targetBatch: {TARGET_S}s",
        f"    executors: {{instances: {executors}, cores: {CORES}, memory: 4g}}",
        "    driver: {cores: 2, memory: 4g}",
        "```",
    )


TABLES: Mapping[str, Callable[[Figures], Iterator[str]]] = {"costs": _costs, "executors": _executors, "plan": _plan}
