"""One monitor per checkpoint: the lease that a monitor holds for as long as it runs.

Two queries on one checkpoint would plan the same batches and overwrite each other's state. Spark notices when both write
the same line of a log, which is late. So a monitor takes the lease first and refuses to start without it.

On a local disk the lease is a lock of the kernel's (flock): it goes when its process ends, however it ends, and a killed
monitor can be started again at once. Spark's JVM is a process of its own and outlives a killed driver by a moment, so it
holds a lock too.

Elsewhere the lease is a small file that its holder renews. Who finds one that is not renewed any more takes it over; who
sees it renewed refuses. This is not a consensus: a holder that stood still for longer than the file is good for (a frozen
machine) may go on until its next look, at most one renewal later. Where the store can create a file exclusively (a
conditional put), two that start at the same moment are told apart by that; else the last writer wins, and both look again
after a pause.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import fsspec
from fsspec.implementations.local import LocalFileSystem

from reference.files import write_whole
from streaming.errors import StreamingError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system says that has no locks."""
_JVM_PATIENCE_S = 30.0
"""How long the JVM of a killed driver may take to end."""


class CheckpointInUse(StreamingError):
    """Another monitor runs on the checkpoint."""

    exit_code = 2


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    owner: str
    """A random name; no two monitors share one."""
    host: str
    pid: int
    since: float
    """Seconds since the epoch, as is `renewed`."""
    renewed: float

    @classmethod
    def me(cls) -> Self:
        """The process that asks, now."""
        now = time.time()
        return cls(secrets.token_hex(8), socket.gethostname(), os.getpid(), now, now)

    def again(self) -> "Holder":
        """The same, renewed now."""
        return Holder(self.owner, self.host, self.pid, self.since, time.time())

    def to_json(self) -> bytes:
        """As it stands in the file."""
        times = {"since": _rfc3339(self.since), "renewed": _rfc3339(self.renewed)}
        return json.dumps({"owner": self.owner, "host": self.host, "pid": self.pid, **times}).encode() + b"\n"

    @classmethod
    def of_json(cls, data: bytes) -> "Holder | None":
        """What a file says; None when it is nothing that `to_json` wrote."""
        try:
            value = json.loads(data)
            since, renewed = (datetime.fromisoformat(value[key]).timestamp() for key in ("since", "renewed"))
            return cls(str(value["owner"]), str(value["host"]), int(value["pid"]), since, renewed)
        except (ValueError, KeyError, TypeError):
            return None

    def __str__(self) -> str:
        """As a message names it."""
        return f"process {self.pid} on {self.host}, since {_rfc3339(self.since)}, last renewed {_rfc3339(self.renewed)}"


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Pace:
    """How often a lease is renewed and when it is given up, in seconds.

    `pause` must be longer than a write of the store takes, `stale` several times `renewal`.
    """

    renewal: float = 10.0
    """Between two renewals."""
    stale: float = 60.0
    """So old, a lease without renewal may be taken over."""
    pause: float = 2.0
    """Between writing a lease and looking whether it stands."""

    @property
    def doubt(self) -> float:
        """A holder that could not renew for so long gives up: a whole renewal before another may take over."""
        return self.stale - 2 * self.renewal


class Lease:
    """The right to run on a checkpoint; held inside ``with``.

    Parameters
    ----------
    checkpoint
        A directory, or any URL that fsspec knows.
    say
        Told, in one line, when entering has to wait.

    Raises
    ------
    CheckpointInUse
        On entering, when another monitor holds it; the text says which.
    """

    def __init__(self, checkpoint: str, *, pace: Pace | None = None, say: Callable[[str], None] | None = None) -> None:
        fs, root = fsspec.core.url_to_fs(checkpoint)
        self._checkpoint = checkpoint
        self._pace = Pace() if pace is None else pace
        self._path = f"{root}/driftline/lease"
        self._file = _File(fs, f"{self._path}.json", self._pace, say)
        self._way: _Way = _Lock(Path(self._path)) if isinstance(fs, LocalFileSystem) else self._file
        self._ended = threading.Event()
        self._heart: threading.Thread | None = None
        self._lost: str | None = None
        self._jvm: Any = None

    def __enter__(self) -> Self:
        me = Holder.me()
        try:
            other = self._way.take(me)
        except OSError as error:
            if not isinstance(self._way, _Lock) or error.errno not in _NO_LOCKS:
                raise
            self._way = self._file  # a mount without locks
            other = self._way.take(me)
        if other is not None:
            raise CheckpointInUse(
                f"another monitor runs on the checkpoint {self._checkpoint}: {other}; stop it first, or give this one a "
                "spec.job.checkpoint of its own",
            )
        self._heart = threading.Thread(target=self._renew, args=(me,), name="driftline-lease", daemon=True)
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._heart is not None:
            self._heart.join(self._pace.renewal)
        self._way.give_back()

    @property
    def lost(self) -> str | None:
        """Why it is no longer held, or None. A monitor without a lease must stop at once, its batch half done."""
        return self._lost

    def bind(self, spark: "SparkSession", patience: float = _JVM_PATIENCE_S) -> None:
        """Have the JVM of a local checkpoint hold a lock too; waits for the JVM of a killed driver to end.

        Raises
        ------
        CheckpointInUse
            It does not end.
        """
        if not isinstance(self._way, _Lock):
            return
        path = f"{self._path}.jvm"
        jvm: Any = spark._jvm  # noqa: SLF001 - there is no public way to it
        file = jvm.java.io.RandomAccessFile(path, "rw")
        deadline = time.monotonic() + patience
        while (lock := file.getChannel().tryLock()) is None:
            if time.monotonic() > deadline:
                file.close()
                raise CheckpointInUse(
                    f"the JVM of an earlier monitor still works on the checkpoint {self._checkpoint}: end it "
                    f"('fuser {path}' says which process it is), then start again",
                )
            time.sleep(0.1)
        self._jvm = file, lock  # a file that nobody refers to is closed, and its lock with it

    def _renew(self, me: Holder) -> None:
        good = time.monotonic()
        while self._lost is None and not self._ended.wait(self._pace.renewal):
            try:
                lost = self._way.renew(me.again())
                good = time.monotonic()
            except Exception as error:  # noqa: BLE001 - whatever the store raises, it may be well again in a moment
                silent = time.monotonic() - good
                lost = f"could not be renewed for {silent:.0f} s: {error}" if silent > self._pace.doubt else None
            if lost is not None:
                self._lost = f"the lease of the checkpoint {self._checkpoint} {lost}"


class _Way(Protocol):
    """How a lease is kept."""

    def take(self, me: Holder) -> str | None:
        """Take it, or say who has it."""

    def renew(self, me: Holder) -> str | None:
        """Keep it, or say how it was lost; any exception means that this is not known."""

    def give_back(self) -> None:
        """Let the next one have it at once."""


class _Lock:
    """A lock of the kernel's on a file, which says who has it for those who have not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def take(self, me: Holder) -> str | None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = Holder.of_json(os.pread(descriptor, 4096, 0))
                os.close(descriptor)
                return "its lease does not say which" if holder is None else str(holder)
            except OSError:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            if self._moved() is None:
                break
            os.close(descriptor)  # somebody removed the file in between, and another lock counts now
        with contextlib.suppress(OSError):  # a full disk: the lock counts, not what the file says
            self._write(me)
        return None

    def renew(self, me: Holder) -> str | None:
        moved = self._moved()
        if moved is None:
            with contextlib.suppress(OSError):
                self._write(me)
        return moved

    def give_back(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _moved(self) -> str | None:
        """How the file is not the one that is locked any more."""
        try:
            there, here = self._path.stat(), os.fstat(self._descriptor)
        except FileNotFoundError:
            return f"is gone: {self._path} was removed"
        return (
            None
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
            else f"is gone: {self._path} was replaced"
        )

    def _write(self, holder: Holder) -> None:
        data = holder.to_json()
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))


class _File:
    """A file that its holder renews, on a file system without locks."""

    def __init__(self, fs: Any, path: str, pace: Pace, say: Callable[[str], None] | None) -> None:
        self._fs = fs
        self._path = path
        self._pace = pace
        self._say = say
        self._mine: str | None = None

    def take(self, me: Holder) -> str | None:
        found = self._read()
        if found is not None:
            if (alive := self._watch(found)) is not None:
                return alive
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path)
        # Who waited wrote the wrong time down.
        if not self._create(me.again().to_json()):
            return self._other()
        time.sleep(self._pace.pause)
        if not self._is(me.owner):
            return self._other()
        self._mine = me.owner
        return None

    def renew(self, me: Holder) -> str | None:
        if not self._is(me.owner):
            return f"was taken: by {self._other()}"
        self._put(me.to_json())
        return None

    def give_back(self) -> None:
        # Whoever comes next waits a minute if this fails, and that is all.
        with contextlib.suppress(Exception):
            if self._mine is not None and self._is(self._mine):
                self._fs.rm_file(self._path)
        self._mine = None

    def _watch(self, found: bytes) -> str | None:
        """Whether somebody renews the lease: who; None once it is stale.

        Clocks of two machines may differ, so a lease that looks old is watched too, for more than two renewals.
        """
        holder = Holder.of_json(found)
        began = time.monotonic()
        if self._say is not None:
            who = "somebody" if holder is None else str(holder)
            self._say(
                f"the checkpoint has a lease ({who}); waiting for up to {self._pace.stale:.0f} s to see whether it is renewed"
            )
        while (watched := time.monotonic() - began) < self._pace.stale:
            old = holder is not None and time.time() - holder.renewed > self._pace.stale
            if old and watched > 2.5 * self._pace.renewal:
                return None
            time.sleep(self._pace.renewal / 10)
            now = self._read()
            if now is None:
                return None
            if now != found:
                return self._other()
        return None

    def _read(self) -> bytes | None:
        self._fs.invalidate_cache(self._path.rpartition("/")[0])
        try:
            data: bytes = self._fs.cat_file(self._path)
        except FileNotFoundError:
            return None
        return data

    def _is(self, owner: str) -> bool:
        holder = Holder.of_json(self._read() or b"")
        return holder is not None and holder.owner == owner

    def _other(self) -> str:
        holder = Holder.of_json(self._read() or b"")
        return "one that has just started or stopped" if holder is None else str(holder)

    def _create(self, data: bytes) -> bool:
        """Make the file where there is none; False when there is one after all."""
        if isinstance(self._fs, LocalFileSystem):
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            try:
                # Linked whole into its place: a reader sees all of it or nothing.
                part = Path(f"{self._path}.{secrets.token_hex(4)}.part")
                part.write_bytes(data)
                os.link(part, self._path)
            except FileExistsError:
                return False
            finally:
                part.unlink(missing_ok=True)
            return True
        try:
            self._fs.pipe_file(self._path, data, mode="create")
        except FileExistsError:
            return False
        except (TypeError, ValueError, NotImplementedError):  # a store that knows no conditional put
            self._put(data)
        return True

    def _put(self, data: bytes) -> None:
        write_whole(self._fs, self._path, data)
