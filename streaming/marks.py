"""Marks: what the stateful stage has come to with each key, told to the fold of the next batch and to the driver.

The stateful operator alone decides which rows are late. But a late message must reach the dead-letter topic with its
original bytes, and those do not cross the shuffle. So when a batch ends the operator leaves each key's frontier beside the
checkpoint, and the fold of the next batch sends the bytes along of those messages only that lie behind it. Segments close
their windows by the frontier of their model, so that a window has the same rows in all of them together as in the whole.

A batch may be done twice, after a crash. It must then read what it read before, so each mark keeps the frontier of the batch
before its own, too.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import fsspec
import msgspec

from reference.files import write_whole

Key = tuple[str, str]
"""Model and segment."""


class Mark(msgspec.Struct, array_like=True):
    """Of one key, after one batch."""

    batch: int
    """Which batch of the query left it."""
    frontier: int
    """Windows that end here or earlier have closed; event time, ms."""
    before: int
    """The frontier that it found."""
    newest: int = -(2**62)
    """Newest event time, ms."""
    seen: int = 0
    """Processing time at which the key last had a message, ms."""
    open: dict[int, int] = msgspec.field(default_factory=dict)
    """Edition -> windows that have not closed."""
    panes: int = 0
    """Panes in the state."""
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    """Since the key began: `requests`, `outliers`, `late`, and dead letters as ``dead:<reason>``."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[tuple[str, str, Mark]]).decode


class Marks:
    """One small JSON file for each partition of the stateful stage."""

    def __init__(self, folder: str) -> None:
        self._fs: Any
        self._fs, self._root = fsspec.core.url_to_fs(folder)

    def read(self) -> dict[Key, Mark]:
        """The newest mark of every key."""
        known: dict[Key, Mark] = {}
        self._fs.invalidate_cache(self._root)
        try:
            names = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return known
        for name in names:
            if name.endswith(".json"):
                for key, mark in self._file(name).items():
                    if key not in known or known[key].batch < mark.batch:
                        known[key] = mark
        return known

    def frontiers(self, batch: int) -> dict[Key, int]:
        """The frontier of every key as it was when a batch began, ms since the epoch."""
        return self.frontiers_and_clock(batch)[0]

    def frontiers_and_clock(self, batch: int) -> tuple[dict[Key, int], int]:
        """The same, and the latest processing time that any key has seen, ms since the epoch: it is no earlier now."""
        known = self.read()
        frontiers = {key: mark.frontier if mark.batch < batch else mark.before for key, mark in known.items()}
        return frontiers, max((mark.seen for mark in known.values()), default=0)

    def write(self, partition: int, changed: Mapping[Key, Mark]) -> None:
        """Record how far a partition of the stateful stage has come; other keys keep their marks."""
        path = f"{self._root}/{partition}.json"
        known = self._file(path) | dict(changed)
        data = _encode([(*key, mark) for key, mark in sorted(known.items(), key=lambda item: item[0])])
        write_whole(self._fs, path, data, durable=False)

    def _file(self, path: str) -> dict[Key, Mark]:
        """One file; after a crash of the machine it may be gone or empty, which costs the bytes of late messages only."""
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            return {(model, segment): mark for model, segment, mark in _decode(self._fs.cat_file(path))}
        return {}


def batch_number() -> int:
    """The number of the micro-batch that this task belongs to; far ahead of all where there is none, as in tests."""
    from pyspark import TaskContext

    context = TaskContext.get()
    number = None if context is None else context.getLocalProperty("streaming.sql.batchId")
    return 2**62 if number is None else int(number)
