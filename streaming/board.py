"""What the report page shows, kept in one SQLite file beside it, together with how far the topics were read.

The records and the offsets that they led to are saved in one transaction. So a reporter that is killed goes on where
its file ends and counts nothing twice, the page outlives the topics' retention, and starting costs a second instead of
another reading of every topic. Delete the file and everything that the topics still hold is read again.

Bounded: the last windows of each segment, the last flagged instances, the last dead letters, counts of everything, and
the ids of the last records that were counted, because a record can come twice (the monitor's sink is at-least-once).
"""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import msgspec

from streaming.errors import StreamingError
from streaming.reports import DeadLetter, Drift, Outlier, Record, Statistics

WINDOWS = 500
"""Of each segment, on the page."""
_UNFINISHED = 20_000
"""Of each segment, windows that wait for their second record: one topic may be read long before the other."""
SEGMENTS = 12
"""On the page, those with the newest windows."""
OUTLIERS = 50
LETTERS = 20
_SEEN = 200_000
_PREVIEW = 400
"""Characters of base64 that are kept of a dead message, which may be megabytes long."""

_VERSION = 1
_SCHEMA = f"""
create table about (model text not null);
create table offsets (topic text, partition integer, next integer not null, primary key (topic, partition));
create table windows (
    segment text, start text, "end" text, baseline text, drift blob, statistics blob,
    primary key (segment, start, "end", baseline)
);
create table latest (kind text, id text, record blob not null, primary key (kind, id));
create table tallies (kind text, name text, count integer not null, primary key (kind, name));
create table seen (number integer primary key autoincrement, hash blob not null unique);
pragma user_version = {_VERSION};
"""


_R = TypeVar("_R", Drift, Statistics)


class Key(NamedTuple):
    """Which window, in the order of time."""

    start: str
    end: str
    segment: str
    baseline: str


@dataclass(slots=True)
class Entry:
    """What is known of one window: the last revision of each record."""

    drift: Drift | None = None
    statistics: Statistics | None = None

    @property
    def final(self) -> bool:
        """Whether the window is closed."""
        return any(record is not None and record.status == "final" for record in (self.drift, self.statistics))


class Board:
    """What the page shows.

    Parameters
    ----------
    path
        The SQLite file; made when it does not exist. One process at a time can have it open.
    model
        Records of other models are ignored.

    Raises
    ------
    StreamingError
        The file belongs to another model or another reporter, or is no such file.
    """

    def __init__(self, path: Path, model: str, *, windows: int = WINDOWS) -> None:
        self.path = path
        self.model = model
        self.limit = windows
        self.windows: dict[str, dict[Key, Entry]] = {}
        """Segment -> its windows on the page, oldest first."""
        self.outliers: dict[str, Outlier] = {}
        """The last flagged instances (by event time), by id."""
        self.letters: dict[str, DeadLetter] = {}
        """The last dead letters (by Kafka's time), by id, their values cut short."""
        self.tallies: dict[tuple[str, str], int] = {}
        """(what, name) -> how many: `reason` of dead letters, `detector` and `feature` of outliers, `unreadable`."""
        self.positions: dict[tuple[str, int], int] = {}
        """(topic, partition) -> the next offset to read."""
        self._fresh: dict[Key, Entry] = {}
        """Records that are not on disk yet, whole."""
        self._seen: dict[bytes, None] = {}
        self._new: list[bytes] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=2)
            self._db.execute("pragma locking_mode = exclusive")
            self._db.execute("begin exclusive")
            self._open()
            self._db.execute("commit")
        except sqlite3.Error as error:
            self.close()
            if "locked" in str(error):
                raise StreamingError(
                    f"{path} is in use by another reporter: stop it, or give this one another page"
                ) from None
            raise StreamingError(f"{path} is not the state of a report page ({error}): move it away") from None
        except StreamingError:
            self.close()
            raise

    def _open(self) -> None:
        (version,) = self._db.execute("pragma user_version").fetchone()
        if version == 0:
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute("insert into about values (?)", (self.model,))
        elif version != _VERSION:
            raise StreamingError(
                f"{self.path} has format {version}, this version reads {_VERSION}: move it away, it is built anew",
            )
        (model,) = self._db.execute("select model from about").fetchone()
        if model != self.model:
            raise StreamingError(f"{self.path} belongs to model {model!r}, not to {self.model!r}: give it another page")
        self.positions = {(t, p): n for t, p, n in self._db.execute("select topic, partition, next from offsets")}
        self.tallies = {(k, n): c for k, n, c in self._db.execute("select kind, name, count from tallies")}
        self._seen = {bytes(h): None for (h,) in self._db.execute("select hash from seen order by number")}
        for kind, identity, record in self._db.execute("select kind, id, record from latest order by rowid"):
            if kind == "outlier":
                self.outliers[identity] = msgspec.json.decode(record, type=Outlier)
            else:
                self.letters[identity] = msgspec.json.decode(record, type=DeadLetter)
        for (segment,) in self._db.execute("select distinct segment from windows").fetchall():
            rows = self._db.execute(
                'select start, "end", segment, baseline, drift, statistics from windows where segment = ? '
                'order by start desc, "end" desc limit ?',
                (segment, self.limit),
            ).fetchall()
            self.windows[segment] = {Key(*row[:4]): _entry(*row[4:]) for row in reversed(rows)}
            self._arrange(segment)

    def add(self, record: Record) -> None:
        """Take one record; a second time, or an older revision, changes nothing."""
        if record.model != self.model:
            return
        if isinstance(record, Drift | Statistics):
            self._add_window(record)
        elif isinstance(record, Outlier) and self._first(record.id):
            self.count("detector", record.detector)
            for feature in record.features:
                self.count("feature", feature.name)
            self.outliers[record.id] = record
            if len(self.outliers) > OUTLIERS:
                del self.outliers[min(self.outliers, key=lambda i: (self.outliers[i].event_time, i))]
        elif isinstance(record, DeadLetter) and self._first(record.id):
            self.count("reason", record.reason)
            if record.value is not None:
                record.value = record.value[:_PREVIEW]
            self.letters[record.id] = record
            if len(self.letters) > LETTERS:
                del self.letters[min(self.letters, key=lambda i: (self.letters[i].timestamp, i))]

    def count(self, kind: str, name: str) -> None:
        """One more of them."""
        self.tallies[kind, name] = self.tallies.get((kind, name), 0) + 1

    def tally(self, kind: str) -> list[tuple[str, int]]:
        """Names and counts, the largest first."""
        return sorted(((n, c) for (k, n), c in self.tallies.items() if k == kind), key=lambda item: (-item[1], item[0]))

    def shown(self) -> dict[str, dict[Key, Entry]]:
        """The segments on the page: the one without a name first, then those with the newest windows."""
        newest = sorted(
            (segment for segment in self.windows if self.windows[segment]),
            key=lambda segment: (segment == "", next(reversed(self.windows[segment]))),
            reverse=True,
        )
        return {segment: self.windows[segment] for segment in newest[:SEGMENTS]}

    @property
    def unsaved(self) -> int:
        """How many windows wait to be saved."""
        return len(self._fresh)

    def finished(self) -> Iterator[Entry]:
        """The windows of which a final record came since the last `save`, each with all its final records, whole."""
        for key, fresh in self._fresh.items():
            if fresh.final:
                stored = self._stored(key)
                yield Entry(_final(fresh.drift or stored.drift), _final(fresh.statistics or stored.statistics))

    def save(self) -> None:
        """Put everything on disk, in one transaction; it is there when this returns."""
        db = self._db
        db.execute("begin immediate")
        try:
            self._save_windows()
            db.execute("delete from latest")
            latest: list[tuple[str, Outlier | DeadLetter]] = [("outlier", record) for record in self.outliers.values()]
            latest += [("deadletter", record) for record in self.letters.values()]
            db.executemany(
                "insert into latest values (?, ?, ?)", [(k, r.id, msgspec.json.encode(r)) for k, r in latest]
            )
            db.executemany(
                "insert or replace into tallies values (?, ?, ?)", [(*k, c) for k, c in self.tallies.items()]
            )
            db.executemany("insert or ignore into seen (hash) values (?)", [(h,) for h in self._new])
            db.execute("delete from seen where number <= (select max(number) from seen) - ?", (_SEEN,))
            db.executemany(
                "insert or replace into offsets values (?, ?, ?)", [(*t, n) for t, n in self.positions.items()]
            )
        except BaseException:
            db.execute("rollback")
            raise
        db.execute("commit")
        self._fresh.clear()
        self._new.clear()

    def close(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(AttributeError):
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add_window(self, record: Drift | Statistics) -> None:
        key = Key(record.window.start, record.window.end, record.segment, record.baseline)
        shown = self.windows.setdefault(key.segment, {})
        entry = shown.get(key) or self._fresh.get(key) or self._stored(key)
        known = entry.drift if isinstance(record, Drift) else entry.statistics
        if known is not None and known.status == "final":
            return
        if known is not None and record.status != "final" and record.revision <= known.revision:
            return
        for place in (
            shown.setdefault(key, Entry(entry.drift, entry.statistics)),
            self._fresh.setdefault(key, Entry()),
        ):
            if isinstance(record, Drift):
                place.drift = record
            else:
                place.statistics = record
        self._arrange(key.segment)

    def _arrange(self, segment: str) -> None:
        """In the order of time, no more than the page shows, and in detail only what the page shows in detail."""
        shown = self.windows[segment]
        keys = list(shown)
        if len(keys) > 1 and keys[-1] < keys[-2]:
            keys.sort()
            shown = self.windows[segment] = {key: shown[key] for key in keys}
        for key in keys[: max(len(keys) - self.limit, 0)]:
            del shown[key]
        detailed = 2
        for key in reversed(keys[-self.limit :]):
            entry = shown[key]
            if detailed > 0 or not entry.final:
                detailed -= entry.final
            elif not _is_slim(entry):
                _slim(entry)
            else:
                break

    def _stored(self, key: Key) -> Entry:
        row = self._db.execute(
            'select drift, statistics from windows where start = ? and "end" = ? and segment = ? and baseline = ?',
            key,
        ).fetchone()
        return _entry(*row) if row else Entry()

    def _save_windows(self) -> None:
        db = self._db
        for key, entry in self._fresh.items():
            db.execute('insert or ignore into windows (start, "end", segment, baseline) values (?, ?, ?, ?)', key)
            drift, statistics = (r and msgspec.json.encode(r) for r in (entry.drift, entry.statistics))
            db.execute(
                "update windows set drift = coalesce(?, drift), statistics = coalesce(?, statistics) "
                'where start = ? and "end" = ? and segment = ? and baseline = ?',
                (drift, statistics, *key),
            )
        for segment in {key.segment for key in self._fresh}:
            for condition, limit in (
                ("drift is not null and statistics is not null", self.limit),
                ("true", _UNFINISHED),
            ):
                db.execute(
                    f'delete from windows where segment = ? and {condition} and (start, "end") < '  # noqa: S608 - both are ours
                    '(select start, "end" from windows where segment = ? order by start desc, "end" desc limit 1 offset ?)',
                    (segment, segment, limit - 1),
                )

    def _first(self, identity: str) -> bool:
        """Whether this record has not been counted yet."""
        mark = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=10).digest()
        if mark in self._seen:
            return False
        self._seen[mark] = None
        self._new.append(mark)
        if len(self._seen) > _SEEN:
            del self._seen[next(iter(self._seen))]
        return True


def _entry(drift: bytes | None, statistics: bytes | None) -> Entry:
    return Entry(
        None if drift is None else msgspec.json.decode(drift, type=Drift),
        None if statistics is None else msgspec.json.decode(statistics, type=Statistics),
    )


def _final(record: _R | None) -> _R | None:
    return record if record is not None and record.status == "final" else None


def _is_slim(entry: Entry) -> bool:
    detailed = entry.statistics is not None and bool(entry.statistics.columns)
    return not detailed and not (entry.drift is not None and any(column.explanation for column in entry.drift.columns))


def _slim(entry: Entry) -> None:
    """Drop what the page shows of the latest window only; the records themselves stay whole, on disk."""
    replace = msgspec.structs.replace
    if entry.drift is not None:
        columns = [replace(column, explanation={}) for column in entry.drift.columns]
        entry.drift = replace(entry.drift, columns=columns)
    if entry.statistics is not None:
        entry.statistics = replace(entry.statistics, columns=[], covariance=None, correlation=None)
