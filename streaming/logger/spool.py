"""Events on disk, until Kafka has them: segments that are only appended to, each frame with its checksums.

    <directory>/lock                      held by the logger that runs on it
    <directory>/000000000001.events       frames: mark, length, checksum of the payload, checksum of the head; payload
    <directory>/000000000001.sent         which of them Kafka has: offset, checksum; removed with the segment
    <directory>/aside/000000000001-4096.corrupt   what could not be read, for whoever wants to look at it

An event counts once the group that it was written with is on the disk (`fdatasync`). That Kafka has it is written without
waiting for the disk: a killed process forgets nothing of it, and after a power cut some events are sent twice.

No Kafka and no event loop here: one thread at a time calls.
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import socket
import struct
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from streaming.errors import StreamingError

log = logging.getLogger("driftline.logger")

_MARK = b"\xd1spl"
_FRAME = struct.Struct("<4sIII")
_HEAD = struct.Struct("<QQ4sII")
_SENT = struct.Struct("<II")
_LARGEST_SEGMENT = 16 << 20
_SMALLEST_SEGMENT = 64 << 10
_RETRY_S = 1.0
"""A disk that failed is not asked again before."""
_REMEMBERED_S = 10.0
"""So long a failure counts for who asks whether there is one; then the next event has to find out."""
_NAME = re.compile(r"(\d{12})\.(events|sent)")


class SpoolUnusable(StreamingError):
    """The directory cannot be used: another logger uses it, or it cannot be written."""

    exit_code = 2


class Ref(NamedTuple):
    """Where an event is in the spool; ascending in the order of arrival."""

    segment: int
    offset: int


START = Ref(0, 0)


class Record(msgspec.Struct, array_like=True, frozen=True):
    """An event as Kafka is to have it."""

    time: int
    """Milliseconds since the epoch, when it was spooled."""
    topic: str
    key: str
    headers: list[tuple[str, bytes | None]]
    value: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encoded(record: Record) -> bytes:
    """The record as the payload of a frame."""
    return _encoder.encode(record)


def framed_size(payload: bytes) -> int:
    """Bytes that it takes on disk."""
    return _FRAME.size + len(payload)


@dataclass(slots=True, eq=False)
class _Segment:
    number: int
    path: Path
    size: int = 0
    """Bytes that are known to be on disk."""
    count: int = 0
    """Records in them."""
    began: float = 0.0
    """When the first was spooled, seconds since the epoch."""
    sent: set[int] = field(default_factory=set)
    """Offsets of those that Kafka has."""
    sent_file: int = -1

    @property
    def left(self) -> int:
        return self.count - len(self.sent)


class Spool:
    """The spool in a directory; `close` gives the directory back.

    Opening reads all of it: a frame that was not written to its end is cut off, and one that does not match its checksum
    is set aside; both are counted, and what is around them stays.

    Parameters
    ----------
    max_bytes
        Of everything in the directory.

    Raises
    ------
    SpoolUnusable
        Another logger uses the directory, or it cannot be written.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.torn = 0
        """Segments whose end was cut off."""
        self.corrupt = 0
        """Stretches that could not be read, set aside."""
        self.refused = 0
        """Events that Kafka will never take, set aside."""
        self.failure: str | None = None
        """Why the disk takes nothing, as of the last attempt."""
        self._failed_at = -_RETRY_S
        self._segment_bytes = min(max(max_bytes // 16, _SMALLEST_SEGMENT), _LARGEST_SEGMENT)
        self._segments: dict[int, _Segment] = {}
        self._aside_bytes = 0
        self._active: _Segment | None = None
        self._file = -1
        """Of the active segment."""
        self._reading = (-1, -1)
        """Segment and file that was read last."""
        try:
            (directory / "aside").mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolUnusable(
                f"the spool {directory} cannot be used: {error.strerror}; give spec.logger.spool.directory one that can be written",
            ) from None
        try:
            self._take_lock()
            self._recover()
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def used(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in list(self._segments.values())) + self._aside_bytes

    @property
    def events(self) -> int:
        """That Kafka is not known to have."""
        return sum(segment.left for segment in list(self._segments.values()))

    @property
    def oldest(self) -> float | None:
        """When the oldest segment began, seconds since the epoch: no event that waits is older."""
        return next((segment.began for segment in list(self._segments.values())), None)

    @property
    def rests(self) -> bool:
        """Whether the disk failed a moment ago, so that it is not asked again yet."""
        return self.failure is not None and time.monotonic() - self._failed_at < _RETRY_S

    def problem(self) -> str | None:
        """Why it takes nothing, for who asks now and then; None when it does."""
        if self.failure is not None and time.monotonic() - self._failed_at < _REMEMBERED_S:
            return f"the spool cannot be written: {self.failure}"
        if self.used + _SMALLEST_SEGMENT > self.max_bytes:
            return f"the spool is full ({self.used} of {self.max_bytes} bytes)"
        try:
            disk = os.statvfs(self.directory)
        except OSError as error:
            return f"the spool is gone: {error.strerror}"
        if disk.f_flag & os.ST_RDONLY:
            return "the spool cannot be written: its disk is read-only"
        if disk.f_bavail * disk.f_frsize < _SMALLEST_SEGMENT:
            return "the spool cannot be written: its disk is full"
        return None

    def append(self, payloads: Sequence[bytes]) -> list[Ref]:
        """Write them, and wait until they are on the disk.

        Raises
        ------
        OSError
            None of them counts; the next attempt takes a new segment. (They may be there all the same after a crash.)
        """
        try:
            refs = self._append(payloads)
        except OSError as error:
            self.failure = error.strerror or str(error)
            self._failed_at = time.monotonic()
            self._give_up_active()
            raise
        self.failure = None
        return refs

    def read(self, start: Ref, limit: int = 1 << 20) -> tuple[list[tuple[Ref, Record]], Ref]:
        """Some records from `start` on that Kafka is not known to have, in order, and where to go on.

        Nothing is returned only at the end.
        """
        place = start
        for segment in [one for one in self._segments.values() if one.number >= start.segment]:
            place = max(place, Ref(segment.number, 0))
            want = limit
            while place.offset < segment.size and segment.number in self._segments:
                data = os.pread(self._file_of(segment), min(want, segment.size - place.offset), place.offset)
                found, corrupt, end = _frames(segment.number, data, place.offset)
                whole = place.offset + len(data) >= segment.size
                if not data or corrupt or (whole and end < segment.size):
                    self._look_through(segment)  # it went bad on the disk
                    if segment.left <= 0:
                        self._remove(segment)
                if end == place.offset and not whole:
                    want *= 2  # a frame larger than what was read
                records = []
                for at, payload in found:
                    if at not in segment.sent:
                        ref = Ref(segment.number, at)
                        try:
                            records.append((ref, _decoder.decode(payload)))
                        except msgspec.DecodeError:  # its checksum is right: what wrote it was not this
                            self.set_aside(ref, payload, "corrupt")
                place = Ref(segment.number, segment.size if whole else end)
                if records:
                    return records, place
        return [], place

    def acknowledge(self, refs: Iterable[Ref]) -> None:
        """Kafka has these; a segment of which it has everything is removed."""
        fresh: dict[int, list[int]] = {}
        for number, offset in refs:
            segment = self._segments.get(number)
            if segment is not None and offset not in segment.sent:
                segment.sent.add(offset)
                fresh.setdefault(number, []).append(offset)
        for number, offsets in fresh.items():
            segment = self._segments[number]
            if segment.left > 0:
                self._note(segment, offsets)
            else:
                self._remove(segment)

    def set_aside(self, ref: Ref, payload: bytes, why: str) -> None:
        """Keep it beside the spool, counted, and never send it: `why` is ``refused`` or ``corrupt``."""
        self._keep(ref.segment, ref.offset, payload, why)
        self.acknowledge([ref])

    def close(self) -> None:
        """Close the files; what waits stays for the next who opens the directory."""
        if self._lock < 0:
            return
        for segment in list(self._segments.values()):
            if segment.left <= 0:
                self._remove(segment)
            elif segment.sent_file >= 0:
                os.close(segment.sent_file)
                segment.sent_file = -1
        self._close_active()
        self._close_reading()
        os.close(self._lock)
        self._lock = -1

    # Opening ---------------------------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                holder = json.loads(os.pread(self._lock, 4096, 0))
                who = f"process {holder['pid']} on {holder['host']}"
            except (ValueError, KeyError, TypeError):
                who = "another process"
            raise SpoolUnusable(
                f"the spool {self.directory} is in use by {who}: give every logger a spec.logger.spool.directory of its own",
            ) from None
        except OSError as error:
            raise SpoolUnusable(
                f"the spool {self.directory} is on a file system without locks ({error.strerror}): give "
                "spec.logger.spool.directory a local disk",
            ) from None
        with contextlib.suppress(OSError):  # on a full disk: the lock counts, not what the file says
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def _recover(self) -> None:
        names = [match for path in self.directory.iterdir() if (match := _NAME.fullmatch(path.name))]
        for number in sorted(int(match[1]) for match in names if match[2] == "events"):
            path = self._path(number)
            segment = self._segments[number] = _Segment(number, path, path.stat().st_size, began=path.stat().st_mtime)
            self._read_sent(segment)
            self._look_through(segment)
            if number in self._segments and segment.left <= 0:
                self._remove(segment)
        for match in names:
            if int(match[1]) not in self._segments:
                (self.directory / match[0]).unlink(missing_ok=True)  # what is left of a segment that was removed
        aside = list((self.directory / "aside").iterdir())
        self._aside_bytes = sum(path.stat().st_size for path in aside)
        known = [int(match[1]) for match in names] + [int(n) for path in aside if (n := path.name[:12]).isdecimal()]
        self._next = max(known, default=0) + 1

    def _read_sent(self, segment: _Segment) -> None:
        with contextlib.suppress(FileNotFoundError):
            data = segment.path.with_suffix(".sent").read_bytes()
            for place in range(0, len(data) - _SENT.size + 1, _SENT.size):
                offset, check = _SENT.unpack_from(data, place)
                if check == _sent_check(segment.number, offset):
                    segment.sent.add(offset)

    def _look_through(self, segment: _Segment) -> None:
        """Count what is in a segment; set aside what cannot be read, cut off an end that was never written."""
        data = segment.path.read_bytes()[: segment.size]
        found, corrupt, end = _frames(segment.number, data, 0)
        for offset, piece in corrupt:
            self._keep(segment.number, offset, piece, "corrupt")
        if end < segment.size:
            log.warning(
                "spool: %s ends with %d bytes of an event that was not written to its end: cut",
                segment.path.name,
                segment.size - end,
            )
            self.torn += 1
            segment.size = end
            with contextlib.suppress(OSError):  # then it is cut again at the next start
                os.truncate(segment.path, end)
        segment.count = len(found)
        segment.sent &= {offset for offset, _ in found}
        for _, payload in found[:1]:
            with contextlib.suppress(msgspec.DecodeError):
                segment.began = _decoder.decode(payload).time / 1000

    # Writing ---------------------------------------------------------------------------------------------------------

    def _append(self, payloads: Sequence[bytes]) -> list[Ref]:
        segment = self._active
        if segment is None or segment.size >= self._segment_bytes:
            self._close_active()
            segment = self._begin()
        refs: list[Ref] = []
        parts: list[bytes] = []
        size = segment.size
        for payload in payloads:
            check = zlib.crc32(payload)
            own = _head_check(segment.number, size, len(payload), check)
            parts += (_FRAME.pack(_MARK, len(payload), check, own), payload)
            refs.append(Ref(segment.number, size))
            size += _FRAME.size + len(payload)
        data, at = memoryview(b"".join(parts)), segment.size
        while data:
            written = os.pwrite(self._file, data, at)
            data, at = data[written:], at + written
        os.fdatasync(self._file)
        segment.size = size
        segment.count += len(payloads)
        return refs

    def _begin(self) -> _Segment:
        segment = _Segment(self._next, self._path(self._next), began=time.time())
        self._next += 1
        self._file = os.open(segment.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._segments[segment.number] = self._active = segment
        folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return segment

    def _give_up_active(self) -> None:
        """After a failure nobody knows what of the last group is on the disk: cut it off, and begin anew."""
        segment = self._active
        if segment is None:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, segment.size)
        self._close_active()
        if segment.left <= 0:
            self._remove(segment)

    def _close_active(self) -> None:
        self._active = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _note(self, segment: _Segment, offsets: Sequence[int]) -> None:
        data = b"".join(_SENT.pack(offset, _sent_check(segment.number, offset)) for offset in offsets)
        try:
            if segment.sent_file < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                segment.sent_file = os.open(segment.path.with_suffix(".sent"), flags, 0o600)
                # Whatever a killed process left half written, entries begin at multiples of their size.
                size = os.fstat(segment.sent_file).st_size
                os.ftruncate(segment.sent_file, size - size % _SENT.size)
            os.write(segment.sent_file, data)
        except OSError as error:  # they would be sent twice if this process were killed: worth a line, no more
            log.warning("spool: what Kafka has cannot be noted: %s", error.strerror)

    def _remove(self, segment: _Segment) -> None:
        """The events first: what remains if it ends here is swept up at the next start."""
        if segment is self._active:
            self._close_active()
        if segment.number == self._reading[0]:
            self._close_reading()
        if segment.sent_file >= 0:
            os.close(segment.sent_file)
            segment.sent_file = -1
        try:
            segment.path.unlink(missing_ok=True)
            segment.path.with_suffix(".sent").unlink(missing_ok=True)
        except OSError as error:  # read-only by now; the next start removes it, or sends its events again
            log.warning("spool: %s, which Kafka has, cannot be removed: %s", segment.path.name, error.strerror)
            self.failure, self._failed_at = error.strerror, time.monotonic()
        self._segments.pop(segment.number, None)

    def _keep(self, number: int, offset: int, data: bytes, why: str) -> None:
        path = self.directory / "aside" / f"{number:012}-{offset}.{why}"
        if path.exists():
            return
        log.error("spool: %d bytes at %d of segment %d are %s: kept as %s", len(data), offset, number, why, path)
        if why == "refused":
            self.refused += 1
        else:
            self.corrupt += 1
        try:
            path.write_bytes(data)
            self._aside_bytes += len(data)
        except OSError as error:
            log.error("spool: they could not be kept: %s", error.strerror)  # noqa: TRY400 - the reason says it all

    # Reading ---------------------------------------------------------------------------------------------------------

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:012}.events"

    def _file_of(self, segment: _Segment) -> int:
        if self._reading[0] != segment.number:
            self._close_reading()
            self._reading = segment.number, os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._reading[1]

    def _close_reading(self) -> None:
        if self._reading[1] >= 0:
            os.close(self._reading[1])
        self._reading = (-1, -1)


def _head_check(number: int, offset: int, length: int, check: int) -> int:
    """Of a frame's head; holds its place, so that an event that contains a spool is not taken for one."""
    return zlib.crc32(_HEAD.pack(number, offset, _MARK, length, check))


def _sent_check(number: int, offset: int) -> int:
    return zlib.crc32(_HEAD.pack(number, offset, b"sent", 0, 0))


def _frames(number: int, data: bytes, base: int) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]], int]:
    """Offsets and payloads of the good frames, those of stretches that are none, and where the rest begins.

    Parameters
    ----------
    base
        Offset of `data` in the segment.
    """
    good: list[tuple[int, bytes]] = []
    corrupt: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        length, check = _head(number, data, base, at)
        if length >= 0:
            end = at + _FRAME.size + length
            if end > len(data):
                break
            payload = data[at + _FRAME.size : end]
            if zlib.crc32(payload) == check:
                good.append((base + at, payload))
            else:
                corrupt.append((base + at, data[at:end]))
        else:
            end = data.find(_MARK, at + 1)
            while end >= 0 and _head(number, data, base, end)[0] < 0:
                end = data.find(_MARK, end + 1)
            if end < 0:
                break
            corrupt.append((base + at, data[at:end]))
        at = end
    return good, corrupt, base + at


def _head(number: int, data: bytes, base: int, at: int) -> tuple[int, int]:
    """Length and checksum of the payload; a negative length where no frame begins."""
    if at + _FRAME.size > len(data):
        return -1, 0
    mark, length, check, own = _FRAME.unpack_from(data, at)
    if mark != _MARK or own != _head_check(number, base + at, length, check):
        return -1, 0
    return length, check
