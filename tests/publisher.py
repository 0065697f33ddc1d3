"""Processes that work on a store until they are done or killed, and what must hold of the store whatever was killed."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import pyarrow as pa

from reference.baseline import Baseline
from reference.errors import BaselineNotFound, PromotionConflict
from reference.store import Store

# Forked from a process that has imported this file and does nothing else: as good as one of its own, and there in no time.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["publisher", "s3fs"])

Say = Callable[[str], None]
Told = Callable[[], str]


class Child:
    """A process that runs ``work(say, told, *arguments)``: `say` sends a line to the test, `told` waits for one.

    It has the environment of the test.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        self._ours, theirs = _PROCESSES.Pipe()
        self.process = _PROCESSES.Process(target=_run, args=(theirs, dict(os.environ), work, arguments), daemon=True)
        self.process.start()
        theirs.close()
        assert self._ours.recv() == "ready"

    def tell(self, line: str = "go") -> None:
        """Send it a line."""
        self._ours.send(line)

    def said(self) -> Iterator[str]:
        """What it says, until it ends or is killed."""
        try:
            while True:
                yield self._ours.recv()
        except (EOFError, ConnectionResetError):
            return

    def done(self) -> list[str]:
        """All that it says until it ends, which must be well."""
        lines = list(self.said())
        self.process.join(60)
        assert self.process.exitcode == 0, lines
        self._close()
        return lines

    def killed(self, after: float) -> list[str]:
        """Let it begin, and kill it so many seconds later (SIGKILL); all that it said. It may have ended before."""
        self.tell()
        time.sleep(after)
        self.process.kill()
        lines = list(self.said())
        self.process.join(60)
        self._close()
        return lines

    def _close(self) -> None:
        self._ours.close()
        self.process.close()


def _run(pipe: Connection, environment: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    pipe.send("ready")
    work(pipe.send, pipe.recv, *arguments)
    pipe.close()


def baseline(seed: int) -> Baseline:
    """A small one of the model "m"; another for each seed."""
    from reference.build import build
    from reference.schema import Column, Model
    from reference.settings import Reference

    model = Model(name="m", features=(Column(name="x", type="numeric"),))
    return build(pa.table({"x": [float(seed), 1.0, 2.0]}), model, Reference())


def publish(say: Say, told: Told, url: str, baselines: list[bytes], tidy: bool = False) -> None:
    """Publish baselines in turn, each with a judgement; with `tidy`, remove all that may be after each."""
    store, made = Store(url), [Baseline.from_bytes(data) for data in baselines]
    told()
    for each in made:
        try:
            say(store.publish(each, beside={"judgement.json": b"{}" * 500}, decision="accept"))
        except PromotionConflict as error:
            if "is being removed" not in str(error):  # who was killed while removing it may still be at it
                raise
        if tidy:
            store.gc("m", keep=2, grace=timedelta(0))


def race(say: Say, told: Told, url: str, baselines: list[bytes]) -> None:
    """Publish baselines, each when told what it was compared with."""
    store = Store(url)
    for each in [Baseline.from_bytes(data) for data in baselines]:
        expected = told()
        try:
            say(f"won {store.publish(each, expected=expected)}")
        except PromotionConflict:
            say(f"lost {each.version}")


def sound(store: Store, known: set[str]) -> str:
    """See that whatever the store of the model "m" shows is whole; the version that is current, "" when there is none.

    `known`: the versions that may be found. No other process works on the store meanwhile.
    """
    found = store.versions("m")
    assert {each["version"] for each in found} <= known
    for each in found:
        assert "damaged" not in each
        assert store.load("m", each["version"]).version == each["version"]
        if (filing := store.beside("m", each["version"])) is not None:
            for name in filing.files:
                store.read_beside("m", each["version"], name, filing)
    history = store.history("m")
    assert [record.number for record in history] == list(range(len(history), 0, -1))
    try:
        current = store.current("m")
    except BaselineNotFound:
        return ""
    assert store.load("m").version == current
    return current


def refresh(say: Say, told: Told, url: str, data: str) -> None:
    """What the command does: build from a file of more rows than are held in memory, judge, publish, promote, tidy."""
    from reference.build import build
    from reference.data import Data
    from reference.refresh import Rules, settle, tidied
    from reference.schema import Column, Model
    from reference.settings import Reference
    from reference.sources import open_source

    model = Model(name="m", features=(Column(name="x", type="numeric"), Column(name="c", type="categorical")))
    settings = Reference(store=url, raw_rows=1000, resolution=64, keep=2)
    told()
    source = open_source(Data(url=data), model)
    settled = settle(build(source, model, settings), Rules(model, settings), render=lambda *_: {"report.html": b"page"})
    done = tidied(settled, settings).refreshed
    say(f"{done.outcome} {done.version}")
