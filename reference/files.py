"""Files that are there whole or not at all, on any file system that fsspec knows."""

import os
import secrets
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem


def write_whole(fs: Any, path: str, data: bytes, *, durable: bool = True) -> None:
    """Write a file in one step.

    Parameters
    ----------
    durable
        Wait until a local disk has it. An object store's put is one step and durable as it is.
    """
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    part = Path(f"{path}.{secrets.token_hex(4)}.part")
    with part.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    part.replace(path)
