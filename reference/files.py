"""Files that are there whole or not at all, on any file system that fsspec knows."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

PART = ".part"
"""How the name of a file ends that is still being written; one that stays is what a killed process left."""


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
    with _part(path, data, durable=durable) as part:
        part.replace(path)


def create_whole(fs: Any, path: str, data: bytes) -> bool:
    """Write a file in one step where there is none yet; False, and nothing is written, where there is one.

    Of several that try at the same moment one succeeds. Locally that is a hard link, which is atomic on NFS of every version too, needs no
    lock, and leaves nothing that a killed process would have to give back. Elsewhere it is a conditional put (`If-None-Match: *`), which
    fsspec's drivers of S3, GCS and Azure have. A driver that only looks before it writes (sftp, webhdfs) can let two succeed at one moment:
    then the later one stands.

    An answer that was lost is looked up: when the file holds these very bytes, they were written. So no two writers may write the same.
    """
    return put_new(fs, path, data) or read_whole(fs, path) == data


def put_new(fs: Any, path: str, data: bytes) -> bool:
    """As `create_whole`; whether this very put was taken, whatever the file holds."""
    if isinstance(fs, LocalFileSystem):
        with _part(path, data, durable=True) as part:
            try:
                os.link(part, path)
            except FileExistsError:
                return False
        return True
    try:
        fs.pipe_file(path, data, mode="create")
    except Exception:
        # Drivers differ in what they raise for a refused put, and so do servers: a file that is there says why.
        if read_whole(fs, path) is None:
            raise
        return False
    return True


def read_whole(fs: Any, path: str) -> bytes | None:
    """All of a file, in one read; None where there is none."""
    try:
        return bytes(fs.cat_file(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


@contextmanager
def _part(path: str, data: bytes, *, durable: bool) -> Iterator[Path]:
    """A file beside `path` that holds the data, to be moved or linked there; gone afterwards."""
    directory = Path(path).parent
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        if durable:
            _sync(directory.parent)
    part = Path(f"{path}.{secrets.token_hex(4)}{PART}")
    try:
        with part.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        yield part
    finally:
        part.unlink(missing_ok=True)
    if durable:
        _sync(directory)


def _sync(directory: Path) -> None:
    """Wait until the disk has the names in a directory: only then does a file survive a power cut under its name."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
