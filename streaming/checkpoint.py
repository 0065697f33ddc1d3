"""What can be wrong with a checkpoint, said in words, and what of it can be mended without losing anything.

    <checkpoint>/metadata                the query's id
    <checkpoint>/offsets/N               what batch N reads: written before it begins
    <checkpoint>/commits/N               batch N is done: written when its reports are in Kafka
    <checkpoint>/state/0/P/V.changelog   what a batch changed in partition P; batch N makes version N + 1 of version N
    <checkpoint>/state/0/P/V.zip         the whole of version V, now and then; the tables that it names are in SSTs/
    <checkpoint>/driftline/              ours: stamp, lease, frontiers, and what a repair set aside

A full disk or a lost power supply leaves the newest of these files empty or cut off, and Spark then does not start. Going
back to before the newest batch is safe: its messages are still in Kafka, the version of the state that it began with is
still there, and doing a batch again is what happens after every crash. Its reports come twice, with equal ids. Going back
further is not for a program to decide, so `repair` does not.

On a local disk Hadoop keeps a checksum beside each file (``.NAME.crc``), and it is compared. A checksum without its file
stops Spark, too ("multiple streaming queries"), so who removes a file by hand must remove both.
"""

import contextlib
import json
import math
import re
import shutil
import struct
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from streaming.errors import StreamingError

FREE_BYTES = 1 << 30
"""Less than this free on the checkpoint's disk is worth a warning."""
_KNOWN_VERSIONS = ("v1", "v2")
"""Of the lines that Spark 4.2 reads."""
_CRC_CHUNK = 512
_CHECKED_BYTES = 256 << 20
"""Files are compared with their checksums up to so many bytes a partition; that takes less than a second."""


class CorruptCheckpoint(StreamingError):
    """A checkpoint that Spark would not start on."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """Something about a checkpoint."""

    text: str
    """What, and what would do."""
    fatal: bool = True
    """Whether Spark would refuse to start, or die of it soon."""

    def __str__(self) -> str:
        """As it is printed."""
        return self.text


def examine(checkpoint: str, *, free_bytes: int = FREE_BYTES) -> list[Problem]:
    """What is wrong with a checkpoint, before Spark starts. One that is not there yet is fine."""
    place = _Place(checkpoint)
    problems = [*place.unwritable(), *place.short_of_space(free_bytes)]
    if any(problem.fatal for problem in problems):
        return problems
    found = _Checkpoint(place).faults()
    mendable = any(fault.mend for fault in found)
    advice = (
        "'driftline monitor repair --config FILE' says what it would mend, and mends it with --yes"
        if mendable
        else f"restore {checkpoint} from a backup, or give spec.job.checkpoint a new directory (the monitor then begins at kafka.startingOffsets)"
    )
    return problems + [
        Problem(f"{fault.text}: {advice if fault.fatal else 'Spark does not read it'}", fault.fatal) for fault in found
    ]


def check(checkpoint: str) -> list[str]:
    """Warnings about a checkpoint.

    Raises
    ------
    CorruptCheckpoint
        When Spark would not start on it; one line for each thing that is wrong.
    """
    problems = examine(checkpoint)
    if fatal := [problem.text for problem in problems if problem.fatal]:
        raise CorruptCheckpoint("\n".join(fatal))
    return [problem.text for problem in problems]


def repair(checkpoint: str, *, dry_run: bool) -> list[str]:
    """Mend what can be mended without losing a message or a report; says what it did, a line for each thing.

    Nothing is deleted: what is in the way goes to ``driftline/set-aside/<time>/``. No monitor may run on the checkpoint;
    the caller holds its lease.

    Parameters
    ----------
    dry_run
        Only say what it would do.
    """
    place = _Place(checkpoint)
    said: list[str] = []
    aside = f"driftline/set-aside/{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for _ in range(4):  # what one step uncovers, the next one mends: logs, then state
        faults = _Checkpoint(place).faults()
        steps = [fault for fault in faults if fault.mend]
        for fault in steps:
            said.append(f"{fault.text}: {'would be ' if dry_run else ''}mended: {fault.mend}")
            if not dry_run:
                for name in fault.move:
                    place.set_aside(name, aside)
                for name, data in fault.write:
                    place.write(name, data)
        if dry_run or not steps:
            return said + [
                f"{fault.text}: left alone: no way to mend it is safe"
                for fault in faults
                if not fault.mend and fault.fatal
            ]
    return said


@dataclass(frozen=True)
class _Fault:
    """Something that is wrong, and the safe way to mend it, where there is one."""

    text: str
    mend: str = ""
    move: tuple[str, ...] = ()
    write: tuple[tuple[str, bytes], ...] = ()
    fatal: bool = True


class _Place:
    """A directory on any file system, by names relative to it."""

    def __init__(self, checkpoint: str) -> None:
        self.url = checkpoint
        self._fs: Any
        self._fs, self._root = fsspec.core.url_to_fs(checkpoint)
        self.local = isinstance(self._fs, LocalFileSystem)
        self._fs.invalidate_cache()

    def names(self, folder: str) -> dict[str, int]:
        """The files of a folder with their sizes in bytes."""
        try:
            entries = self._fs.ls(f"{self._root}/{folder}", detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {
            entry["name"].rpartition("/")[2]: int(entry["size"] or 0)
            for entry in entries
            if entry["type"] != "directory"
        }

    def folders(self, folder: str) -> list[str]:
        try:
            entries = self._fs.ls(f"{self._root}/{folder}", detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory"]

    def read(self, name: str) -> bytes | None:
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return data

    def open(self, name: str) -> Any:
        return self._fs.open(f"{self._root}/{name}", "rb")

    def relative(self, path: str) -> str | None:
        """The name here of a path that Spark wrote down; None when it is elsewhere."""
        bare, root = (re.sub(r"^\w+:/*", "", text) for text in (path, self._root))
        bare, root = bare.lstrip("/"), root.lstrip("/")
        return bare[len(root) + 1 :] if bare.startswith(f"{root}/") else None

    def write(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{name}", data)

    def set_aside(self, name: str, folder: str) -> None:
        """Move a file with its checksum, or a folder."""
        parent, _, base = name.rpartition("/")
        for each in (base, _crc(base)):
            source, target = f"{parent}/{each}".lstrip("/"), f"{folder}/{parent}/{each}".replace("//", "/")
            if self._fs.exists(f"{self._root}/{source}"):
                self._fs.makedirs(f"{self._root}/{target}".rpartition("/")[0], exist_ok=True)
                whole = self._fs.isdir(f"{self._root}/{source}")
                self._fs.mv(f"{self._root}/{source}", f"{self._root}/{target}", recursive=whole)

    def unwritable(self) -> list[Problem]:
        """Whether a file can be written; on a local disk also a byte in it, which a full one refuses."""
        probe = f"{self._root}/driftline/.probe-{uuid.uuid4().hex}"
        try:
            if self.local:
                Path(self._root, "driftline").mkdir(parents=True, exist_ok=True)
            try:
                self._fs.pipe_file(probe, b"probe\n")
            finally:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(probe)
        except Exception as error:  # noqa: BLE001 - a store may raise anything of its own
            known = explain(str(error))
            return [
                Problem(
                    known
                    if known is not None
                    else f"the checkpoint {self.url} cannot be written: {error}: mend that, or name another in spec.job.checkpoint"
                )
            ]
        return []

    def short_of_space(self, least: int) -> list[Problem]:
        if not self.local:
            return []
        free = shutil.disk_usage(self._root).free
        if free >= least:
            return []
        return [
            Problem(
                f"the disk of the checkpoint {self.url} has {free / 1e6:,.0f} MB free: make room before it is full, which stops the monitor",
                fatal=False,
            ),
        ]

    def broken(self, name: str, size: int, crc: int | None, *, read: bool) -> str | None:
        """How a file is not what was written; None when nothing can be seen.

        Parameters
        ----------
        crc
            The size of its checksum file, if there is one.
        read
            Whether to compare contents and not only sizes.
        """
        if size == 0:
            return "is empty"
        if crc is None:
            return None
        if crc != 8 + 4 * math.ceil(size / _CRC_CHUNK):
            return "is cut off"
        parent, _, base = name.rpartition("/")
        if not read or (sums := self.read(f"{parent}/{_crc(base)}")) is None:
            return None
        if sums[:4] != b"crc\0" or struct.unpack(">i", sums[4:8])[0] != _CRC_CHUNK:
            return None  # of a kind that we do not know
        with self.open(name) as file:
            for (wanted,) in struct.iter_unpack(">I", sums[8:]):
                if zlib.crc32(file.read(_CRC_CHUNK)) != wanted:
                    return "does not match its checksum"
        return None


def _crc(base: str) -> str:
    return f".{base}.crc"


def _numbered(names: Iterable[str], ending: str = "") -> dict[int, str]:
    pattern = re.compile(rf"(\d+){re.escape(ending)}")
    return {int(match[1]): name for name in names if (match := pattern.fullmatch(name))}


class _Checkpoint:
    """What is in a checkpoint, read once."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._files = {folder: place.names(folder) for folder in ("offsets", "commits")}
        self._logs = {folder: _numbered(files) for folder, files in self._files.items()}

    def faults(self) -> list[_Fault]:
        """All that is wrong; what a repair must do first comes first."""
        offsets, commits = self._logs["offsets"], self._logs["commits"]
        if not offsets and not commits:
            return []
        faults = [*self._metadata(), *self._log_faults()]
        # What the state has to be follows from the logs.
        return (
            faults
            if any(fault.fatal for fault in faults)
            else [*faults, *self._operator_faults(), *self._state_faults()]
        )

    def _metadata(self) -> list[_Fault]:
        data = self._place.read("metadata")
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if data is not None and json.loads(data)["id"]:
                return []
        new = json.dumps({"id": str(uuid.uuid4())}, separators=(",", ":")).encode()
        how = "is missing" if data is None else "is empty" if not data else "is not JSON with an id"
        return [
            _Fault(
                f"metadata, the query's id, {how}",
                "it gets a new id, which nothing else depends on",
                ("metadata",),
                (("metadata", new),),
            )
        ]

    def _damage(self, folder: str, number: int) -> str | None:
        """How a line of a log cannot be read; None when it can."""
        name = self._logs[folder].get(number)
        data = None if name is None else self._place.read(f"{folder}/{name}")
        if data is None:
            return "is missing"
        if not data.strip():
            return "is empty"
        lines = data.decode("utf-8", "replace").splitlines()
        if lines[0] not in _KNOWN_VERSIONS:
            newer = re.fullmatch(r"v\d+", lines[0])
            return f"was written by another version of Spark ({lines[0]})" if newer else "is not what Spark writes"
        if len(lines) < (3 if folder == "offsets" else 2):
            return "is cut off"
        for line in lines[1:]:
            if line != "-":  # a source that had nothing
                try:
                    json.loads(line)
                except ValueError:
                    return "is cut off"
        return None

    @property
    def _last(self) -> int:
        return max([*self._logs["offsets"], *self._logs["commits"]])

    def _log_faults(self) -> list[_Fault]:
        last = self._last
        faults: list[_Fault] = []
        before = self._damage("offsets", last - 1) if last > 0 else None
        planned = self._damage("offsets", last)
        done = self._damage("commits", last) if last in self._logs["commits"] else None
        if planned is not None and "version of Spark" in planned:
            faults.append(_Fault(f"offsets/{last} {planned}"))
        elif planned is not None:
            text = f"offsets/{last}, what batch {last} reads, {planned}"
            if before is None:
                newer = tuple(f"{folder}/{last}" for folder in ("offsets", "commits"))
                # Before batch 0 Spark wants nothing at all in `state`.
                state = self._state_after(last) if last > 0 else ["state"]
                where = f"where batch {last - 1} ended" if last > 0 else "the beginning"
                faults.append(
                    _Fault(
                        text,
                        f"batch {last} is set aside with the state that it made, and planned again from {where}; "
                        "what it had reported comes again with equal ids, and its messages may be divided among batches otherwise",
                        (*newer, *state),
                    ),
                )
            else:
                faults.append(_Fault(f"{text}, and offsets/{last - 1} {before}"))
        elif done is not None:
            faults.append(
                _Fault(
                    f"commits/{last}, that batch {last} is done, {done}",
                    f"it is set aside, and batch {last} is done again with the same messages; what it had reported comes again with equal ids",
                    (f"commits/{last}",),
                )
            )
        if planned is None and before is not None:
            faults.append(_Fault(f"offsets/{last - 1}, where batch {last} begins, {before}"))
        faults += [
            _Fault(f"{folder}/{name} is a checksum without its file", "it is set aside", (f"{folder}/{name}",))
            for folder in ("offsets", "commits")
            for name in self._files[folder]
            if (match := re.fullmatch(r"\.(\d+)\.crc", name))
            and match[1] not in self._files[folder]
            and int(match[1]) >= last
        ]
        return faults

    @cached_property
    def _partitions(self) -> dict[str, dict[str, int]]:
        """The files of every partition of the state, by folder."""
        return {
            f"state/{operator}/{partition}": self._place.names(f"state/{operator}/{partition}")
            for operator in self._place.folders("state")
            for partition in self._place.folders(f"state/{operator}")
            if partition.isdecimal()
        }

    def _state_after(self, version: int) -> list[str]:
        return [
            f"{folder}/{name}"
            for folder, files in self._partitions.items()
            for name in files
            if (match := re.fullmatch(r"(\d+)\.(zip|changelog)", name)) and int(match[1]) > version
        ]

    @property
    def _version(self) -> int:
        """The version of the state that the next batch begins with."""
        return max(self._logs["commits"], default=-1) + 1

    def _operator_faults(self) -> list[_Fault]:
        faults: list[_Fault] = []
        if self._version == 0:
            return faults
        operators = self._place.folders("state")
        if not operators:
            return [_Fault("state, the open windows, is missing")]
        for operator in operators:
            if "metadata" in self._place.names(f"state/{operator}/_metadata"):
                continue  # an operator of Spark's own, which has less to say
            folder = f"state/{operator}/_metadata/v2"
            known = _numbered(self._place.names(folder))
            if not known:
                faults.append(_Fault(f"{folder}, which says what the state holds, is missing"))
                continue
            name = f"{folder}/{known[max(known)]}"
            data = self._place.read(name) or b""
            try:
                value = json.loads(data.decode().partition("\n")[2])
                schemas = [path for store in value["stateStoreInfo"] for path in store.get("stateSchemaFilePaths", ())]
            except (ValueError, KeyError, TypeError, AttributeError):
                faults.append(
                    _Fault(
                        f"{name}, which says what the state holds, is {'empty' if not data else 'not what Spark writes'}"
                    )
                )
                continue
            for path in schemas:
                inside = self._place.relative(path)
                if inside is None and self._place.local:
                    # Spark writes absolute paths, so a checkpoint cannot be moved.
                    at = path.partition("/state/")[0]
                    faults.append(
                        _Fault(f"the checkpoint was made at {at}, and Spark looks for its files there: move it back"),
                    )
                elif inside is not None and not self._place.read(inside):
                    faults.append(_Fault(f"{inside}, the columns of the state, is missing or empty"))
        return faults

    def _state_faults(self) -> list[_Fault]:
        version = self._version
        faults: list[_Fault] = []
        lost: list[str] = []
        for folder, files in self._partitions.items():
            unsound = self._unsound(folder, files, version)
            if not unsound:
                continue
            text = "; ".join(f"{folder}/{name}, of the state, {how}" for name, how in unsound)
            snapshots = [name for name, _ in unsound if name.endswith(".zip")]
            older = {name: size for name, size in files.items() if name not in snapshots}
            if snapshots and not self._unsound(folder, older, version):
                faults.append(
                    _Fault(
                        text,
                        "the snapshot is set aside; an older one and the changes since give the same state",
                        tuple(f"{folder}/{name}" for name in snapshots),
                    ),
                )
            else:
                lost.append(text)
        if not lost:
            return faults
        # All partitions go back together, to what the newest finished batch began with.
        last = version - 1
        if (
            self._last <= version
            and self._damage("offsets", last) is None
            and not any(self._unsound(folder, files, last) for folder, files in self._partitions.items())
        ):
            planned = [f"offsets/{version}"] if self._last == version else []
            faults.append(
                _Fault(
                    "; ".join(lost),
                    f"batch {last} is done again with the same messages, on the state that it began with; what it had reported comes "
                    "again with equal ids",
                    (f"commits/{last}", *planned, *self._state_after(last)),
                ),
            )
        else:
            faults += [_Fault(text) for text in lost]
        return faults

    def _unsound(self, folder: str, files: dict[str, int], version: int) -> list[tuple[str, str]]:
        """Files that a version of the state needs and that are not there or not whole, and how."""
        if version == 0 or any(re.fullmatch(r"\d+_.+\.(zip|changelog)", name) for name in files):
            return []  # the second form has lineages in its names, and is not looked into
        snapshots = _numbered(files, ".zip")
        base = max((number for number in snapshots if number <= version), default=0)
        needed = [f"{number}.changelog" for number in range(base + 1, version + 1)]
        unsound = [(name, "is missing") for name in needed if name not in files]
        budget = _CHECKED_BYTES
        for name in [*([snapshots[base]] if base else []), *(name for name in needed if name in files)]:
            budget -= files[name]
            how = self._place.broken(f"{folder}/{name}", files[name], files.get(_crc(name)), read=budget > 0)
            if how is not None:
                unsound.append((name, how))
            elif name.endswith(".zip"):
                unsound += self._tables(folder, name)
        return unsound

    def _tables(self, folder: str, name: str) -> list[tuple[str, str]]:
        """How the tables that a snapshot names are not there or not whole, as a fault of the snapshot."""
        try:
            with self._place.open(f"{folder}/{name}") as file, zipfile.ZipFile(file) as archive:
                value = json.loads(archive.read("metadata").decode().partition("\n")[2])
            tables = {table["dfsSstFileName"]: int(table["sizeBytes"]) for table in value["sstFiles"]}
        except (zipfile.BadZipFile, EOFError, zlib.error):
            return [(name, "is no whole zip file")]
        except (ValueError, KeyError, TypeError):
            return []  # of a kind that we do not know: Spark will say
        there = self._place.names(f"{folder}/SSTs") if tables else {}
        for table, size in tables.items():
            if table not in there:
                return [(name, f"needs SSTs/{table}, which is missing")]
            if there[table] != size:
                return [(name, f"needs SSTs/{table}, which is {'empty' if not there[table] else 'cut off'}")]
        return []


_RESTORE = "restore it from a backup, or give spec.job.checkpoint a new directory (the monitor then begins at kafka.startingOffsets)"
_REPAIR = "'driftline monitor repair --config FILE' says what can be mended"

_KNOWN: Sequence[tuple[str, str]] = (
    # The first that matches speaks, so causes stand before what they cause.
    (
        r"No space left on device|ENOSPC|Disk quota exceeded",
        "a disk is full (the checkpoint's, or Spark's own under spark.local.dir): make room and start again; the monitor goes on where it was",
    ),
    (
        r"Read-only file system",
        "the disk of the checkpoint is read-only: it was mounted so, or it failed (see the kernel's log)",
    ),
    (
        r"Permission denied|AccessDenied|AccessControlException",
        "a file of the checkpoint may not be read or written: give the monitor's user the right to do both",
    ),
    (
        r"OutOfMemoryError: unable to create (new )?native thread",
        "the machine or container has no room for more threads: raise its limit of processes",
    ),
    (
        r"OutOfMemoryError|GC overhead limit exceeded",
        "the JVM is out of memory: raise spec.job.driver.memory, or lower spec.job.maxOffsetsPerTrigger",
    ),
    (
        r"MemoryError|ArrowMemoryError|exit(ed)? (with )?code:? 137|oom.?kill",
        "a Python worker was out of memory: give the container more, or lower spec.job.maxOffsetsPerTrigger",
    ),
    (
        r"UNKNOWN_TOPIC_OR_PARTITION|UnknownTopicOrPartitionException|does not host this topic-partition",
        "a topic is gone: make it again (a restart does it with kafka.createTopics); if it was the inference topic, give spec.job.checkpoint a new directory, because the old one knows offsets of the old topic",
    ),
    (
        r"Some data may have been lost|KAFKA_DATA_LOSS|OffsetOutOfRangeException|failOnDataLoss|Partition .{1,200} have been deleted",
        "Kafka no longer has messages that the monitor has not read: the topic was deleted and made again, or its retention is shorter than the monitor was away. What is gone is gone: give spec.job.checkpoint a new directory to begin at what is there, and lengthen the retention",
    ),
    (
        r"SaslAuthenticationException|SslAuthenticationException|Authentication failed",
        "Kafka does not accept who we are: look at spec.kafka (username, password, certificates)",
    ),
    (
        r"TopicAuthorizationException|GroupAuthorizationException|ClusterAuthorizationException|Not authorized to access",
        "Kafka does not allow what the monitor needs: to read the inference topic and to write the report topics",
    ),
    (
        r"RecordTooLargeException",
        "Kafka takes no record of this size: let max.message.bytes of the report topics be what kafka.maxMessageBytes leads to (docs/operations.md)",
    ),
    (
        r"No resolvable bootstrap urls",
        "the name of the Kafka broker is unknown: look at kafka.bootstrapServers, or at the name server",
    ),
    (
        r"TimeoutException: (Timed out waiting for a node|Call\(|Topic .{1,300} not present in metadata|Timeout (of \d+ms )?expired|Failed to (get|update))|Connection to node .{1,60} could not be established|DisconnectException|Cannot fetch record for offset|Expiring \d+ record",
        "Kafka does not answer: see that the brokers are up and reachable; start again then, and the monitor goes on where it was",
    ),
    (r"STREAMING_CHECKPOINT_MISSING_METADATA_FILE", f"the checkpoint has lost the file 'metadata': {_REPAIR}"),
    (
        r"INVALID_LOG_VERSION|UnsupportedLogVersion|UNSUPPORTED_STATE_STORE_METADATA_VERSION",
        "the checkpoint was written by a newer Spark: run the version of Driftline that made it, or a newer one",
    ),
    (
        r"Rename destination .{1,400}\.crc already exists",
        f"the checkpoint has a checksum (.N.crc) whose file was removed by hand: {_REPAIR}",
    ),
    (
        r"CONCURRENT_STREAM_LOG_UPDATE|Multiple streaming queries are concurrently using|CONCURRENT_QUERY",
        f"another query writes the same checkpoint, or files were removed from it by hand: see that one monitor runs; {_REPAIR}",
    ),
    (
        r"Incomplete log file|Failed to read log file|batch -?\d+ doesn't exist",
        f"a log of the checkpoint (offsets or commits) is cut off or missing: {_REPAIR}",
    ),
    (
        r"(?s)(?=.*(JsonEOFException|JsonParseException|MismatchedInputException))(?=.*(OffsetSeq|CommitLog|HDFSMetadataLog|StreamMetadata))",
        f"a log of the checkpoint (metadata, offsets or commits) is cut off: {_REPAIR}",
    ),
    (
        r"STATE_STORE_.{0,40}SCHEMA|STATE_SCHEMA|StateSchemaNotCompatible|STATE_STORE_UNSUPPORTED_SCHEMA_EVOLUTION|does not match existing state|INVALID_STATE_SCHEMA",
        "the checkpoint's state has other columns than this version of Driftline: run the version that made it, or give spec.job.checkpoint a new directory",
    ),
    (
        r"STDS_FAILED_TO_READ_OPERATOR_METADATA|STREAMING_STATEFUL_OPERATOR_MISSING_STATE_DIRECTORY|_stateSchema/\S+ does not exist|StateSchemaCompatibilityChecker|OperatorStateMetadata",
        f"the checkpoint has lost what says how its state is kept: {_RESTORE}",
    ),
    (
        r"CANNOT_LOAD_STATE_STORE|CANNOT_READ_STREAMING_STATE_FILE|CANNOT_READ_DELTA_FILE|CANNOT_READ_SNAPSHOT_FILE|ChecksumException|RocksDBException: (Corruption|IO error)",
        f"files of the checkpoint's state are damaged or missing: {_REPAIR}; else {_RESTORE}",
    ),
    (
        r"Python worker (exited unexpectedly|failed to connect)|crashed\)|EOFException.{0,400}BasePythonRunner|SparkException: Python worker",
        "a Python worker died (killed, out of memory, or a crash in native code): start again; the monitor goes on where it was. When it comes back, see the kernel's log, and give the container more memory",
    ),
    (
        r"CANNOT_WRITE_STATE_STORE",
        "the checkpoint's state cannot be written: look at its disk or store (room, rights); start again then, and the monitor goes on where it was",
    ),
    (
        r"STREAMING_PYTHON_RUNNER_INITIALIZATION_FAILURE|ModuleNotFoundError|ImportError",
        "Python workers cannot import Driftline: install the same version on every machine, and let PYSPARK_PYTHON name its interpreter",
    ),
    (
        r"Py4JNetworkError|ConnectionRefusedError|Answer from Java side is empty|Connection refused.{0,200}py4j|Java side .{0,40}(closed|empty)",
        "the JVM died: see its last lines and hs_err_pid*.log in the working directory; start again, and the monitor goes on where it was",
    ),
)


def explain(failure: BaseException | str) -> str | None:
    """One sentence on what happened and what to do, for a failure of the query; None when it is none that we know."""
    text = failure if isinstance(failure, str) else "\n".join(_told(failure))
    for pattern, sentence in _KNOWN:
        if re.search(pattern, text):
            return sentence
    return None


def _told(failure: BaseException) -> Iterable[str]:
    """All that an exception says of itself and of what caused it; PySpark keeps causes and Java's stacks to itself."""
    seen: set[int] = set()
    each: Any = failure
    while isinstance(each, BaseException) and id(each) not in seen:
        seen.add(id(each))
        yield f"{type(each).__name__}: {each}"
        yield str(getattr(each, "_stackTrace", None) or "")
        each = getattr(each, "_cause", None) or each.__cause__ or each.__context__
