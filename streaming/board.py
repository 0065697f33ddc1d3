"""What the report page shows, kept in one SQLite file beside it, together with how far the topics were read.

The records and the offsets that they led to are saved in one transaction. So a reporter that is killed goes on where
its file ends and counts nothing twice, the page outlives the topics' retention, and starting costs a second instead of
another reading of every topic. Delete the file and everything that the topics still hold is read again.

Bounded: the last windows of each segment, the last flagged instances, dead letters and events, counts of everything, and
the ids of the last records that were counted, because a record can come twice (the monitor's sink is at-least-once).

A window is known by its span and its baseline, a counted one by its number: its span grows with every report.
"""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import msgspec

from streaming.errors import StreamingError
from streaming.reports import DeadLetter, Drift, Event, Outlier, Performance, Record, Statistics

WINDOWS = 500
"""Of all requests, on the page."""
OF_SEGMENT = 120
"""Windows of each segment: there can be a hundred segments."""
_UNFINISHED = 20_000
"""Of each segment, windows that wait for their second record: one topic may be read long before the other."""
SEGMENTS = 12
"""In detail on the page, all requests counted as one: those with the newest windows, and among them those that drifted most."""
RECENT = 24
"""Windows by which segments are compared."""
OUTLIERS = 50
LETTERS = 20
EVENTS = 50
_SEEN = 200_000
_PREVIEW = 400
"""Characters of base64 that are kept of a dead message, which may be megabytes long."""

_VERSION = 2
_SCHEMA = f"""
create table about (model text not null);
create table offsets (topic text, partition integer, next integer not null, primary key (topic, partition));
create table windows (
    segment text, start text, "end" text, baseline text, number text, place text, drift blob, statistics blob,
    performance blob, primary key (segment, baseline, place)
);
create index in_order on windows (segment, start, "end");
create table latest (kind text, id text, record blob not null, primary key (kind, id));
create table tallies (kind text, name text, count integer not null, primary key (kind, name));
create table seen (number integer primary key autoincrement, hash blob not null unique);
pragma user_version = {_VERSION};
"""


_R = TypeVar("_R", Drift, Statistics)
_OfWindow = Drift | Statistics | Performance


class Key(NamedTuple):
    """Which window, in the order of time."""

    start: str
    end: str
    segment: str
    baseline: str
    number: str = ""
    """Of a counted window."""

    @property
    def place(self) -> str:
        """What tells it from the other windows of its segment and baseline, whatever its reports say of its span."""
        return self.number or f"{self.start}/{self.end}"


@dataclass(slots=True)
class Entry:
    """What is known of one window: the last revision of each record."""

    drift: Drift | None = None
    statistics: Statistics | None = None
    performance: Performance | None = None

    @property
    def final(self) -> bool:
        """Whether the window is closed. Its performance is told from then on, and corrected as labels come."""
        return self.reported or self.performance is not None

    @property
    def reported(self) -> bool:
        """Whether a final record of what is in it is there."""
        return any(record is not None and record.status == "final" for record in (self.drift, self.statistics))

    def put(self, record: _OfWindow) -> None:
        """Take a newer revision."""
        setattr(self, record.kind, record)


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
        self.events: dict[str, Event] = {}
        """The last events, by id."""
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
            elif kind == "event":
                self.events[identity] = msgspec.json.decode(record, type=Event)
            else:
                self.letters[identity] = msgspec.json.decode(record, type=DeadLetter)
        for (segment,) in self._db.execute("select distinct segment from windows").fetchall():
            rows = self._db.execute(
                'select start, "end", segment, baseline, number, drift, statistics, performance from windows '
                'where segment = ? order by start desc, "end" desc limit ?',
                (segment, self._most(segment)),
            ).fetchall()
            self.windows[segment] = {Key(*row[:5]): _entry(*row[5:]) for row in reversed(rows)}
            self._arrange(segment)

    def add(self, record: Record) -> None:
        """Take one record; a second time, or an older revision, changes nothing."""
        if record.model != self.model:
            return
        if isinstance(record, _OfWindow):
            self._add_window(record)
        elif isinstance(record, Event):
            self.events[record.id] = record
            if len(self.events) > EVENTS:
                del self.events[min(self.events, key=lambda i: (self.events[i].detected_at, i))]
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

    def ranked(self) -> list[str]:
        """All segments: the one without a name first, then those with the newest windows, and among them those that drifted most."""

        def rank(segment: str) -> tuple[bool, str, int, int]:
            windows = self.windows[segment]
            return segment == "", next(reversed(windows)).start, drifted_recently(windows)[0], _alarmed(windows)

        present = sorted(segment for segment in self.windows if self.windows[segment])
        return sorted(present, key=rank, reverse=True)

    def shown(self) -> dict[str, dict[Key, Entry]]:
        """The segments on the page: as they are ranked."""
        return {segment: self.windows[segment] for segment in self.ranked()[:SEGMENTS]}

    def silent(self) -> Event | None:
        """The event that says so, while the model has no traffic."""
        told = max(
            (one for one in self.events.values() if one.reason in ("noTraffic", "trafficResumed")),
            key=lambda one: (one.detected_at, one.id),
            default=None,
        )
        if told is None or told.reason == "trafficResumed":
            return None
        # A monitor that was started anew does not know that traffic was missing, and does not tell when it is back.
        for key, entry in reversed(self.windows.get("", {}).items()):
            if key.start > told.detected_at:
                return None
            for record in (entry.drift, entry.statistics):
                if record is not None and record.status == "provisional" and record.detected_at > told.detected_at:
                    return None
        return told

    @property
    def unsaved(self) -> int:
        """How many windows wait to be saved."""
        return len(self._fresh)

    def finished(self) -> Iterator[Entry]:
        """The windows of which a final record came since the last `save`, each with all its final records, whole."""
        for key, fresh in self._fresh.items():
            if fresh.reported:
                stored = self._stored(key)
                yield Entry(_final(fresh.drift or stored.drift), _final(fresh.statistics or stored.statistics))

    def save(self) -> None:
        """Put everything on disk, in one transaction; it is there when this returns."""
        db = self._db
        db.execute("begin immediate")
        try:
            self._save_windows()
            db.execute("delete from latest")
            latest: list[tuple[str, Outlier | DeadLetter | Event]] = [
                *(("outlier", record) for record in self.outliers.values()),
                *(("deadletter", record) for record in self.letters.values()),
                *(("event", record) for record in self.events.values()),
            ]
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

    def _add_window(self, record: _OfWindow) -> None:
        key = self._key(record)
        shown = self.windows.setdefault(key.segment, {})
        entry = shown.get(key) or self._fresh.get(key) or self._stored(key)
        known: _OfWindow | None = getattr(entry, record.kind)
        if known is not None and known.status == "final":
            return
        if known is not None and record.status != "final" and record.revision <= known.revision:
            return
        whole = Entry(entry.drift, entry.statistics, entry.performance)
        for place in (shown.setdefault(key, whole), self._fresh.setdefault(key, Entry())):
            place.put(record)
        self._arrange(key.segment)

    def _key(self, record: _OfWindow) -> Key:
        """The window of a record. A counted one that is known already is moved to the span that it has now."""
        key = Key(record.window.start, record.window.end, record.segment, record.baseline, _number(record))
        if not key.number:
            return key
        for windows in (self.windows.get(key.segment, {}), self._fresh):
            for known in reversed(windows):
                if known.number == key.number and known[2:] == key[2:]:
                    # Its final record has the last word.
                    if known[:2] == key[:2] or isinstance(record, Performance) or windows[known].reported:
                        return known
                    self._move(known, key)
                    return key
        return key

    def _move(self, known: Key, key: Key) -> None:
        for windows in (self.windows.get(key.segment, {}), self._fresh):
            if known in windows:
                windows[key] = windows.pop(known)

    def _most(self, segment: str) -> int:
        """Windows that are kept of it."""
        return min(self.limit, OF_SEGMENT) if segment else self.limit

    def _arrange(self, segment: str) -> None:
        """In the order of time, no more than the page shows, and in detail only what the page shows in detail."""
        shown = self.windows[segment]
        keys = list(shown)
        if len(keys) > 1 and (keys[-1] < keys[-2] or keys[-1].number):
            keys = _in_order(keys)
            shown = self.windows[segment] = {key: shown[key] for key in keys}
        most = self._most(segment)
        for key in keys[: max(len(keys) - most, 0)]:
            del shown[key]
        detailed = 2
        for key in reversed(keys[-most:]):
            entry = shown[key]
            if detailed > 0 or not entry.final:
                detailed -= entry.final
            elif not _is_slim(entry):
                _slim(entry)
            else:
                break

    def _stored(self, key: Key) -> Entry:
        row = self._db.execute(
            "select drift, statistics, performance from windows where segment = ? and baseline = ? and place = ?",
            (key.segment, key.baseline, key.place),
        ).fetchone()
        return _entry(*row) if row else Entry()

    def _save_windows(self) -> None:
        db = self._db
        for key, entry in self._fresh.items():
            db.execute(
                'insert into windows (start, "end", segment, baseline, number, place) values (?, ?, ?, ?, ?, ?) '
                'on conflict do update set start = excluded.start, "end" = excluded."end"',
                (*key, key.place),
            )
            records = (r and msgspec.json.encode(r) for r in (entry.drift, entry.statistics, entry.performance))
            db.execute(
                "update windows set drift = coalesce(?, drift), statistics = coalesce(?, statistics), "
                "performance = coalesce(?, performance) where segment = ? and baseline = ? and place = ?",
                (*records, key.segment, key.baseline, key.place),
            )
        for segment in {key.segment for key in self._fresh}:
            for condition, limit in (
                # Whole, or performance alone: labels come for windows that are long gone from the page.
                ("(drift is null) = (statistics is null)", self._most(segment)),
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


def drifted_recently(windows: dict[Key, Entry]) -> tuple[int, int]:
    """How many of the last closed windows drifted, and how many these are."""
    last = [e.drift for e in reversed(windows.values()) if e.drift is not None and e.drift.status == "final"][:RECENT]
    return sum(drift.drifted for drift in last), len(last)


def _alarmed(windows: dict[Key, Entry]) -> int:
    """How many of the last windows are beyond a limit of performance."""
    last = [entry.performance for entry in reversed(windows.values()) if entry.performance is not None][:RECENT]
    return sum(one.alarm.raised for one in last)


def _number(record: _OfWindow) -> str:
    """Of a counted window, which its id names: model, segment, number, kind and revision."""
    if record.every is None:
        return ""
    parts = record.id.rsplit("/", 3)
    return parts[1] if len(parts) == 4 and parts[1].isdecimal() else record.id


def _in_order(keys: list[Key]) -> list[Key]:
    """By time. Counted windows follow each other by number, also where the one that closed later begins earlier."""
    counted = sorted((key for key in keys if key.number), key=lambda key: (len(key.number), key.number, key))
    begins = dict(zip(counted, accumulate((key.start for key in counted), max), strict=True))
    order = {key: number for number, key in enumerate(counted)}
    return sorted(keys, key=lambda key: (begins.get(key, key.start), order.get(key, -1), key))


def _entry(drift: bytes | None, statistics: bytes | None, performance: bytes | None) -> Entry:
    def read(record: bytes | None, type_: type[Any]) -> Any:
        return None if record is None else msgspec.json.decode(record, type=type_)

    return Entry(read(drift, Drift), read(statistics, Statistics), read(performance, Performance))


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
