"""Which baseline is current, and which ones were: a numbered record of every promotion, and a copy of the newest.

    <model>/promotions/00000007.json   the seventh; never changed, never removed
    <model>/current                    a copy of the newest: all that a monitor reads

To promote is to create the record with the next number, which of several writers one can do. That decides. The copy follows; when a writer
dies before it wrote the copy, or an older copy comes late, the next writer puts it right. So `current` names the old baseline or the new one,
always.

Each record holds the hash of itself and of the one before it, so the records are a chain: a file that was changed is noticed when it is read,
a record that was changed together with its own hash is noticed by the history.
"""

import getpass
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from fsspec.implementations.local import LocalFileSystem

from reference.errors import CorruptBaseline, StoreError
from reference.files import create_whole, put_new, read_whole, write_whole

CURRENT = "current"
PROMOTIONS = "promotions"
REMOVAL = timedelta(minutes=2)
"""So long a removal that was announced may go on; until then nobody promotes what it removes."""
STEPS_BACK = 50
"""So many rollbacks can follow one another."""

_AT_ONCE = 64
"""Records that are read together; an object store answers them at the same time."""

Kind = Literal["promotion", "rollback", "removal"]


@dataclass(frozen=True)
class Promotion:
    """One record: what became current, who did it and why.

    A removal changes nothing of what is current. It is one of the records so that it has its turn among the promotions: no version becomes
    current while it is being removed.
    """

    number: int
    """From 1 on, without a gap."""
    kind: Kind
    version: str
    """The current version from here on."""
    manifest: str
    """SHA-256 of that version's manifest."""
    replaced: str
    """The version that was current before; empty for the first."""
    when: str
    """RFC 3339."""
    by: str
    why: str = ""
    forced: bool = False
    """Against the judgement."""
    judgement: str = ""
    """Which of the filings beside the version was the newest; empty when there was none."""
    back: tuple[str, ...] = ()
    """Where rollbacks lead, one after the other."""
    removing: Mapping[str, str] = field(default_factory=dict)
    """Version that is being removed -> until when (RFC 3339)."""
    before: str = ""
    """SHA-256 of the record before this one."""
    token: str = ""
    """Random: no two writers write the same record."""
    digest: str = field(default="", compare=False)
    """SHA-256 of this record."""

    def binding(self, now: datetime) -> dict[str, str]:
        """The removals that may still go on."""
        return {version: until for version, until in self.removing.items() if datetime.fromisoformat(until) > now}


def sealed(document: Mapping[str, Any]) -> bytes:
    """JSON with the hash of itself, so that a change of it is noticed."""
    return json.dumps({**document, "digest": _digest(document)}, indent=2).encode() + b"\n"


def unsealed(data: bytes, what: str) -> dict[str, Any]:
    """The document that `sealed` wrote, its `digest` with it.

    Raises
    ------
    CorruptBaseline
        Naming what it is, when it is not as it was written.
    """
    try:
        document = json.loads(data)
        said = document["digest"]
    except (ValueError, TypeError, KeyError):
        document, said = {}, None
    if said is None or said != _digest({key: value for key, value in document.items() if key != "digest"}):
        msg = f"{what} is not what was written: it was changed or cut off, and is not used"
        raise CorruptBaseline(msg)
    return dict(document)


def _bytes(promotion: Promotion) -> bytes:
    return sealed({key: value for key, value in asdict(promotion).items() if key != "digest"})


def _digest(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def rfc3339(moment: datetime) -> str:
    """To the millisecond, UTC."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def someone() -> str:
    """Who runs this: `DRIFTLINE_USER`, else the name of the account."""
    named = os.environ.get("DRIFTLINE_USER")
    if named:
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        return f"uid {os.getuid()}"


@dataclass(frozen=True)
class Promotions:
    """The records of one model.

    Parameters
    ----------
    fs, folder
        The model's folder, and the fsspec file system that it is on.
    shown
        As messages name the folder.
    """

    fs: Any
    folder: str
    shown: str

    def current(self) -> Promotion | None:
        """What monitors read: one file, one read. Raises CorruptBaseline when it is not what was written."""
        data = read_whole(self.fs, f"{self.folder}/{CURRENT}")
        return None if data is None else self._parsed(data, CURRENT)

    def newest(self) -> Promotion | None:
        """What writers read: the newest record, also when its copy was not written yet."""
        shown = self.shown_or_none()
        if shown is None:
            numbers = self._numbers()
            listed = self._record(numbers[-1]) if numbers else None
            return None if listed is None else self._last(listed)
        try:
            recorded = self._record(shown.number)
        except CorruptBaseline:
            recorded = shown  # its copy is whole
        if recorded != shown:
            gone = "is missing" if recorded is None else "is another one"
            msg = (
                f"{self.shown}/{CURRENT} is a copy of {self._name(shown.number)}, and that {gone}: one of them was changed; "
                f"when the record is right, remove {CURRENT} and promote again"
            )
            raise CorruptBaseline(msg)
        return self._last(shown)

    def history(self) -> Iterator[Promotion]:
        """All records, newest first, the chain of their hashes checked; read as far as they are asked for."""
        last = self.newest()
        if last is None:
            return
        yield last
        for begin in range(last.number - 1, 0, -_AT_ONCE):
            numbers = range(begin, max(begin - _AT_ONCE, 0), -1)
            paths = {number: f"{self.folder}/{self._name(number)}" for number in numbers}
            found = self.fs.cat(list(paths.values()), on_error="omit")
            for number, path in paths.items():
                data = found.get(self.fs._strip_protocol(path))  # noqa: SLF001 - `cat` names what it read so
                earlier = None if data is None else self._parsed(data, self._name(number))
                if earlier is None or earlier.digest != last.before:
                    gone = "is missing" if earlier is None else "is not the one that the next record names"
                    msg = f"{self.shown}/{self._name(number)} {gone}: the history before it is not trusted"
                    raise CorruptBaseline(msg)
                yield earlier
                last = earlier

    def claim(self, after: Promotion | None, wanted: Promotion) -> Promotion | None:
        """Make `wanted` the record that follows `after`; None when another writer has made that record first.

        Raises
        ------
        StoreError
            When the store takes a conditional put and ignores the condition, so that it cannot tell two writers apart.
        """
        self._tells_writers_apart()
        wanted = replace(
            wanted,
            number=1 if after is None else after.number + 1,
            before="" if after is None else after.digest,
            token=secrets.token_hex(8),
        )
        data = _bytes(wanted)
        if not create_whole(self.fs, f"{self.folder}/{self._name(wanted.number)}", data):
            return None
        made = self._parsed(data, CURRENT)
        self.show(made)
        return made

    def show(self, newest: Promotion) -> None:
        """Have `current` be a copy of the newest record.

        Another writer may be at the same thing with a newer record, so this looks before and after: whoever writes last has seen the newest.
        For a moment an older copy can stand there; should its writer die in that moment, the next writer puts it right.
        """
        shown = self.shown_or_none()
        last = self._last(newest)  # after the look at the copy: so that one is not newer
        while shown != last:
            write_whole(self.fs, f"{self.folder}/{CURRENT}", _bytes(last))
            shown, last = last, self._last(last)

    def shown_or_none(self) -> Promotion | None:
        """The copy; None also when it is damaged."""
        try:
            return self.current()
        except CorruptBaseline:
            return None

    def _last(self, record: Promotion) -> Promotion:
        """The newest of the records from this one on."""
        while (following := self._record(record.number + 1)) is not None:
            record = following
        return record

    def _record(self, number: int) -> Promotion | None:
        data = read_whole(self.fs, f"{self.folder}/{self._name(number)}")
        return None if data is None else self._parsed(data, self._name(number))

    def _parsed(self, data: bytes, name: str) -> Promotion:
        document = unsealed(data, f"{self.shown}/{name}")
        try:
            return Promotion(**{**document, "back": tuple(document["back"])})
        except (TypeError, KeyError) as error:
            msg = f"{self.shown}/{name} is not of this version of Driftline: {error}"
            raise CorruptBaseline(msg) from None

    def _numbers(self) -> list[int]:
        folder = f"{self.folder}/{PROMOTIONS}"
        self.fs.invalidate_cache(folder)
        try:
            names = [entry.rpartition("/")[2] for entry in self.fs.ls(folder, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        stems = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        return sorted(int(stem) for stem in stems if stem.isdecimal() and int(stem) > 0)

    def _tells_writers_apart(self) -> None:
        """See that the store refuses to create what is there; old servers take the condition and overwrite."""
        if isinstance(self.fs, LocalFileSystem):
            return
        path = f"{self.folder}/{self._name(0)}"
        mark = b"{}\n"
        if put_new(self.fs, path, mark) and put_new(self.fs, path, mark):
            msg = (
                f"{self.shown} is on a store that takes a conditional put (If-None-Match: *) and ignores the condition, so two that promote at "
                "once would overwrite each other: use a store that has it, as Amazon S3, MinIO, GCS and Azure have"
            )
            raise StoreError(msg)

    @staticmethod
    def _name(number: int) -> str:
        return f"{PROMOTIONS}/{number:08d}.json"
