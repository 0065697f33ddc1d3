"""Files under one URL: which there are, what they are, and that they stay what they were."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote

import pyarrow as pa

from reference.data import Format, Options, format_of
from reference.errors import UnusableData

_GLOB = re.compile(r"[*?\[]")
_STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "modified")
"""What file systems call the sign that a file is another one now."""
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_CODECS = {"gz": "gzip", "zst": "zstd", "zstd": "zstd", "bz2": "bz2", "lz4": "lz4"}


@dataclass(frozen=True)
class File:
    """One file as it was when the source was opened."""

    path: str
    size: int
    """Bytes."""
    stamp: str
    partition: tuple[tuple[str, str | None], ...] = ()
    """Columns whose value the folders say (`year=2013/month=05/`)."""

    @property
    def codec(self) -> str | None:
        """How it is compressed, by its name."""
        return _CODECS.get(self.path.rpartition(".")[2].lower())


@dataclass(frozen=True)
class Place:
    """A file system that fsspec knows; it can be sent to a worker."""

    fs: Any

    def arrow(self) -> Any:
        """The same for pyarrow."""
        import pyarrow.fs
        from fsspec.implementations.local import LocalFileSystem

        if isinstance(self.fs, LocalFileSystem):
            return pyarrow.fs.LocalFileSystem()
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self.fs))

    def checked(self, file: File) -> File:
        """The file, when it is still the one that was listed.

        Raises
        ------
        UnusableData
            When it has changed or gone: a build that reads twice would count rows of two tables.
        """
        try:
            self.fs.invalidate_cache(file.path)
            size, stamp = _size_and_stamp(self.fs.info(file.path))
        except OSError as error:
            unreadable(file.path, error)
        if (size, stamp) != (file.size, file.stamp):
            msg = f"{file.path} changed while it was being read: build again when nobody writes to it"
            raise UnusableData(msg)
        return file

    def stream(self, file: File, start: int = 0) -> Any:
        """Its bytes from a place on, as pyarrow reads them, uncompressed."""
        opened = self.fs.open(file.path, "rb")
        if start:
            opened.seek(start)
        raw = pa.PythonFile(opened, "r")
        return raw if file.codec is None else pa.CompressedInputStream(raw, file.codec)


@dataclass(frozen=True)
class Listing:
    """The files of one source, in the order of their paths."""

    url: str
    format: Format
    place: Place
    files: tuple[File, ...]

    @property
    def partitions(self) -> dict[str, pa.DataType]:
        """Columns whose values the folders say; whole numbers, or text."""
        values: dict[str, list[str]] = {}
        for file in self.files:
            for name, value in file.partition:
                values.setdefault(name, [])
                if value is not None:
                    values[name].append(value)
        return {
            name: pa.int64() if all(re.fullmatch(r"-?\d{1,18}", value) for value in said) else pa.string()
            for name, said in values.items()
        }

    def origin(self) -> dict[str, Any]:
        """For the manifest."""
        size = sum(file.size for file in self.files)
        return {"kind": self.format, "url": self.url, "files": len(self.files), "bytes": size}


def scalar(value: str | None, kind: pa.DataType) -> pa.Scalar:
    """What a folder's name says, as a value of its column."""
    return pa.scalar(None if value is None else int(value) if kind == pa.int64() else value, kind)


def unreadable(path: str, error: Exception) -> NoReturn:
    """Raise what is wrong with a file, in one line."""
    reason = (error.strerror if isinstance(error, OSError) else None) or next(iter(str(error).splitlines()), "")
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in reason[:300])
    raise UnusableData(f"{path} cannot be read: {shown}") from None


def listing(url: str, options: Options, said: Format | None = None) -> Listing:
    """The files that a URL names.

    Parameters
    ----------
    url
        A file, a directory (everything in it and below, but for names that begin with `_` or `.`, which are others' notes), or a pattern.
    said
        The format; None: what the names say.

    Raises
    ------
    UnusableData
        When there are none, they cannot be reached, or they are of more than one format.
    """
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
        root = root.rstrip("/") or root
        if _GLOB.search(root) and not fs.exists(root):
            base = root[: _GLOB.search(root).start()].rpartition("/")[0]  # type: ignore[union-attr] # it was found above
            found: dict[str, Any] = {}
            for path, info in fs.glob(root, detail=True).items():
                found |= fs.find(path, detail=True) if info["type"] == "directory" else {path: info}
            shared, many = base, True
        else:
            info = fs.info(root)
            many = info["type"] == "directory"
            found = fs.find(root, detail=True) if many else {root: info}
            shared = root
    except FileNotFoundError:
        found, shared, many = {}, "", False
    except (ImportError, ValueError) as error:  # a scheme that fsspec does not know, or whose package is not there
        raise UnusableData(f"{url} cannot be reached: {error}") from None
    except Exception as error:  # noqa: BLE001 - each file system has errors of its own
        raise UnusableData(f"{url} cannot be reached: {type(error).__name__}: {str(error)[:300]}") from None
    visible = {path: info for path, info in found.items() if not many or _visible(path, shared)}
    kept, kind = _of_one_format(url, sorted(visible), said, many=many)
    if not kept:
        what = "a file" if not _GLOB.search(url) else "files"
        raise UnusableData(f"no training table at {url}: give {what} in Parquet, CSV or JSON lines with --data")
    files = tuple(
        File(path, *_size_and_stamp(visible[path]), _partition(path, shared) if many else ()) for path in kept
    )
    whole = tuple(file for file in files if file.size or not many)
    if not whole:
        raise UnusableData(f"the files at {url} are empty, for example {kept[0]}: a baseline needs some rows")
    return Listing(url, kind, Place(fs), whole)


def _of_one_format(url: str, paths: Sequence[str], said: Format | None, *, many: bool) -> tuple[list[str], Format]:
    if said is not None and not many:
        return list(paths), said
    kinds: dict[Format | None, list[str]] = {}
    for path in paths:
        kinds.setdefault(format_of(path), []).append(path)
    if said is not None:
        return kinds.get(said) or kinds.get(
            None, []
        ), said  # of names that say nothing, what the settings say is believed
    known = {kind: found for kind, found in kinds.items() if kind is not None}
    if len(known) > 1:
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in known.items())
        raise UnusableData(f"{url} has files of more than one format ({counts}): say which with `format`")
    if known:
        ((kind, found),) = known.items()
        return found, kind
    if paths:
        raise UnusableData(f"{url}: the name of {paths[0]!r} says no format: say which with `format`")
    return [], "parquet"


def _visible(path: str, shared: str) -> bool:
    inside = path.removeprefix(shared)
    return not any(part.startswith((".", "_")) and "=" not in part for part in inside.split("/"))


def _partition(path: str, shared: str) -> tuple[tuple[str, str | None], ...]:
    inside = path.removeprefix(shared)
    pairs = (part.partition("=") for part in inside.split("/")[:-1] if "=" in part)
    return tuple((unquote(name), None if value == _NO_VALUE else unquote(value)) for name, _, value in pairs if name)


def _size_and_stamp(info: Mapping[str, Any]) -> tuple[int, str]:
    stamp = next((str(info[name]) for name in _STAMPS if info.get(name) is not None), "")
    return int(info.get("size") or 0), stamp
