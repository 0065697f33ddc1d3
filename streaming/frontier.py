"""The frontier: up to which event time each key has closed its windows, told by the operator to the fold.

The stateful operator alone decides which rows are late. But a late message must reach the dead-letter topic with its
original bytes, and those do not cross the shuffle. So when a batch ends the operator leaves each key's frontier beside
the checkpoint, and the fold of the next batch sends the bytes along of those messages only that lie behind it.
Micro-batches follow one another, so what the fold reads is what the operator knew at the end of the batch before; after
a crash it may be ahead of the restored state, which only sends a few bytes too many.
"""

import contextlib
import json
from typing import Any

import fsspec

from reference.files import write_whole

Key = tuple[str, str]
"""Model and segment."""


class Frontiers:
    """One small JSON file for each partition of the stateful stage."""

    def __init__(self, folder: str) -> None:
        self._fs: Any
        self._fs, self._root = fsspec.core.url_to_fs(folder)

    def read(self) -> dict[Key, int]:
        """The frontier of every key, ms since the epoch."""
        known: dict[Key, int] = {}
        self._fs.invalidate_cache(self._root)
        try:
            names = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return known
        for name in names:
            if name.endswith(".json"):
                for key, frontier in self._file(name).items():
                    known[key] = max(frontier, known.get(key, frontier))
        return known

    def write(self, partition: int, changed: dict[Key, int]) -> None:
        """Record what a partition of the stateful stage has closed; keys that did not change keep their frontier."""
        path = f"{self._root}/{partition}.json"
        known = self._file(path)
        if all(known.get(key) == frontier for key, frontier in changed.items()):
            return
        known |= changed
        data = json.dumps([(*key, frontier) for key, frontier in sorted(known.items())]).encode()
        write_whole(self._fs, path, data, durable=False)

    def _file(self, path: str) -> dict[Key, int]:
        """One file; after a crash of the machine it may be gone or empty, which costs the bytes of late messages only."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return {(model, segment): frontier for model, segment, frontier in json.loads(self._fs.cat_file(path))}
        return {}
