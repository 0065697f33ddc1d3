"""A small model, its baseline and what a worker holds of it."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from reference.build import build
from reference.store import Store
from streaming.editions import ALWAYS, Edition, Task
from streaming.spec import ModelMonitor, parse
from streaming.worker import Worker

STARTED = 1_000_000
"""Processing time at which the job of the tests began, ms."""


def document(folder: Path, **sections: str) -> str:
    """A ModelMonitor's YAML; each section is YAML in flow style and replaces the default below."""
    chosen = {
        "model": "{features: [{name: x, type: numeric}, {name: where, type: categorical}]}",
        "window": "{duration: 10s, watermarkDelay: 2s, idleTimeout: 5s, emitEvery: 0s}",
        "reference": f"{{store: {folder / 'baselines'}}}",
        "job": f"{{checkpoint: {folder / 'checkpoint'}}}",
        **sections,
    }
    body = "\n".join(f"  {name}: {text}" for name, text in chosen.items())
    return f"apiVersion: driftline.io/v1\nkind: ModelMonitor\nmetadata: {{name: toy}}\nspec:\n{body}\n"


def training(rows: int = 5000) -> pa.Table:
    rng = np.random.default_rng(0)
    x, where = rng.normal(10.0, 2.0, rows), rng.choice(["ATL", "JFK", "SFO"], rows)
    return pa.table({"x": x, "where": where, "y": rng.normal(0.0, 1.0, rows)})


def publish(monitor: ModelMonitor) -> str:
    """Build and publish the baseline of a toy monitor; returns its version."""
    spec = monitor.spec
    return Store(spec.reference.store).publish(
        build(training(), spec.model, spec.reference, spec.outliers.learned, segments=spec.segments)
    )


def monitor_of(folder: Path, **sections: str) -> ModelMonitor:
    """A ModelMonitor whose baseline is published."""
    monitor = parse(document(folder, **sections), "toy.yaml")
    publish(monitor)
    return monitor


def worker_of(monitor: ModelMonitor) -> Worker:
    store = Store(monitor.spec.reference.store)
    version = store.current(monitor.name)
    return Worker(monitor, store.load(monitor.name, version), version)


def task_of(monitor: ModelMonitor, started: int = 0) -> Task:
    """What travels to the stages when this is the only model."""
    version = Store(monitor.spec.reference.store).current(monitor.name)
    return Task(((Edition(0, ALWAYS, version, monitor.model_dump_json(by_alias=True)),),), started)
