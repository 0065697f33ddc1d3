"""The drift report of a window from summaries, beside stock Evidently's from the rows.

    python benchmarks/report.py                # part of `make bench-detectors`
    python benchmarks/report.py --no-evidently # ours alone, a few seconds

Reference and window have 100,000 rows of 30 numeric features. Evidently is given the raw rows (`DataDriftPreset`, its default
methods); ours is given what a window has when it ends, the merged summary, and the baseline as it is loaded, and writes
the whole drift record with the same default methods. What depends on the reference alone is worked out at the first
window of a process and kept: that first report is a figure of its own. Times are the processor's, on one core, which
neighbours on the machine disturb less than the clock on the wall.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from detectors.drift import DRIFT
from detectors.errors import NotApplicable
from detectors.statistics.block import Block, Codes
from detectors.statistics.column import ColumnSummary
from detectors.statistics.table import TableSummary, merged, summarise
from reference.baseline import Baseline
from reference.build import build
from streaming.pane import Pane
from streaming.publish import Report, columns_of, drift_record
from streaming.spec import ModelMonitor, parse
from streaming.worker import Worker

ROWS = 100_000
FEATURES = 30
BATCH = 10_000
WINDOWS = 3
"""Different windows, so that nothing can be kept of one for the next."""
CATEGORIES = {"two": ["no", "yes"], "eight": [f"c{i}" for i in range(8)], "hundred": [f"c{i}" for i in range(100)]}
"""Categorical features, only for the methods that are made for such."""


def rows(rng: np.random.Generator, *, shifted: bool) -> dict[str, np.ndarray]:
    """The raw values: some features of each kind that tables have; in a window, half of them have drifted a little."""
    make: list[Callable[[float], np.ndarray]] = [
        lambda by: rng.normal(50.0 + 2 * by, 10.0, ROWS),
        lambda by: rng.lognormal(3.0 + 0.1 * by, 1.0, ROWS),
        lambda by: rng.standard_t(2.5, ROWS) * (1 + 0.1 * by),
        lambda by: rng.beta(2.0 + 0.2 * by, 3.0, ROWS),
        lambda by: rng.poisson(2.0 + 0.1 * by, ROWS).astype(float),
        lambda by: rng.integers(0, 4, ROWS).astype(float) * (rng.random(ROWS) > 0.1 * by),
        lambda by: rng.normal(0.1 * by, 1.0, ROWS).round(2),
        lambda by: np.where(rng.random(ROWS) < 0.3, 0.0, rng.gamma(2.0, 3.0 + 0.3 * by, ROWS)),
        lambda by: rng.normal(0.1 * by, 1.0, ROWS),
        lambda by: rng.poisson(400.0 + 2 * by, ROWS).astype(float),
    ]
    return {f"f{j}": make[j % len(make)](float(shifted and j % 2)) for j in range(FEATURES)}


def codes(rng: np.random.Generator, *, shifted: bool) -> dict[str, np.ndarray]:
    """Codes of the categorical features; in a window the later categories have become a little rarer."""
    return {
        name: np.minimum(rng.integers(0, len(known), ROWS), rng.integers(0, len(known) * (3 - shifted), ROWS)).astype(
            np.int32
        )
        for name, known in CATEGORIES.items()
    }


def worker(features: dict[str, np.ndarray], categories: dict[str, np.ndarray]) -> Worker:
    """What a worker holds: the baseline of these rows, from the bytes in which a store keeps it."""
    # Some methods want a sample of rows.
    monitor = monitor_of([*features], [*categories], ["empirical_mmd"] if categories else ["auto"])
    strings = {name: np.take(CATEGORIES[name], where) for name, where in categories.items()}
    built = build(pa.table({**features, **strings}), monitor.spec.model, monitor.spec.reference)
    return Worker(monitor, Baseline.from_bytes(built.to_bytes()), built.version)


def monitor_of(numeric: list[str], categorical: list[str], methods: list[str]) -> ModelMonitor:
    features = [
        *({"name": name, "type": "numeric"} for name in numeric),
        *({"name": name, "type": "categorical"} for name in categorical),
    ]
    document = {
        "apiVersion": "driftline.io/v1",
        "kind": "ModelMonitor",
        "metadata": {"name": "bench"},
        "spec": {"model": {"features": features}, "drift": {"methods": methods}},
    }
    return parse(msgspec.json.encode(document).decode(), "bench")


def summary(me: Worker, features: dict[str, np.ndarray], categories: dict[str, np.ndarray]) -> TableSummary:
    """Of a whole window, merged from batches."""
    numeric = np.asfortranarray(np.column_stack(list(features.values())))
    block = Block(
        numeric,
        np.isnan(numeric),
        tuple(Codes(where, tuple(CATEGORIES[name])) for name, where in categories.items()),
    )
    parts = [block.take(slice(at, at + BATCH)) for at in range(0, ROWS, BATCH)]
    return merged(me.plans.request, [summarise(me.plans.request, part) for part in parts])


def reported(me: Worker, window: Pane) -> bytes:
    """The drift record as it goes to its topic."""
    report = Report("", 0, "final", 1, 0)
    return msgspec.json.encode(drift_record(me, report, window, columns_of(window), "1970-01-01T00:00:00.000Z"))


def quickest(call: Callable[[], object], seconds: float) -> float:
    """Milliseconds of the quickest of several runs."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.process_time()
        call()
        best = min(best, time.process_time() - begin)
    return best * 1e3


def evidently_ms(reference: dict[str, np.ndarray], window: dict[str, np.ndarray], times: int = 2) -> float:
    """Stock Evidently's report of the raw rows; the quickest of some runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        definition = DataDefinition(numerical_columns=list(reference))
        now, before = (pd.DataFrame(values) for values in (window, reference))
        taken = []
        for _ in range(times):
            begin = time.process_time()
            data = (Dataset.from_pandas(frame, definition) for frame in (now, before))
            Report([DataDriftPreset()]).run(*data).dict()
            taken.append(time.process_time() - begin)
    return min(taken) * 1e3


def of_each_method(me: Worker, window: TableSummary) -> Iterator[tuple[str, float]]:
    """Milliseconds a column of every method of our own, over the columns that it can be asked about."""
    for name, kind in DRIFT.items():
        if name == "callable":
            continue
        method, asked = kind(), []
        for column, reference in me.baseline.request.items():
            if reference.type in method.applies_to:
                try:
                    method.compare(reference, window.column(column))
                except NotApplicable:
                    continue
                asked.append(reference)

        def compare(method: Any = method, asked: list[ColumnSummary] = asked) -> None:
            for reference in asked:
                method.compare(reference, window.column(reference.name))

        if asked:
            yield name, quickest(compare, 0.5) / len(asked)


def figures(*, evidently: bool = True) -> dict[str, Any]:
    """What was measured, in milliseconds, and how many times as fast as Evidently our report is."""
    rng = np.random.default_rng(5)
    reference = rows(rng, shifted=False)
    windows = [rows(rng, shifted=True) for _ in range(WINDOWS)]
    me = worker(reference, {})
    panes = [replace(me.no_rows, requests=summary(me, window, {})) for window in windows]
    begin = time.process_time()
    reported(me, panes[0])
    found: dict[str, Any] = {
        "report_first_ms": (time.process_time() - begin) * 1e3,
        "report_ms": sum(quickest(lambda pane=pane: reported(me, pane), 1.0) for pane in panes) / len(panes),
    }
    if evidently:
        found["evidently_report_ms"] = evidently_ms(reference, windows[0])
        found["report_vs_evidently"] = found["evidently_report_ms"] / found["report_ms"]
    categories = [codes(rng, shifted=shifted) for shifted in (False, True)]
    everything = worker(reference, categories[0])
    found["ms_per_column"] = dict(of_each_method(everything, summary(everything, windows[0], categories[1])))
    return found


def show(found: dict[str, Any]) -> None:
    """Print what `figures` gave."""
    for title, key, shown in (
        ("drift report, 100,000 x 30", "figure", {k: v for k, v in found.items() if k != "ms_per_column"}),
        ("from summaries", "method", found["ms_per_column"]),
    ):
        table = Table(title=title, title_justify="left")
        table.add_column(key)
        table.add_column("value" if key == "figure" else "ms per column", justify="right")
        for name, value in shown.items():
            table.add_row(name, f"{value:,.0f}" if value >= 100 else f"{value:.3g}")
        Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-evidently", action="store_true")
    show(figures(evidently=not parser.parse_args().no_evidently))
