"""Event times of any kind as one number, and the rows between two of them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reference.data import Data, format_moment
from reference.errors import UnusableData

Unit = Literal["s", "ms", "us", "ns"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PER_SECOND: dict[Unit, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_FIRST = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
"""The first moment of the year 1, microseconds since the epoch."""
_YEAR_10000 = 253_402_300_800_000_000
"""Microseconds since the epoch; as far the other way is before the year 1."""
_RFC3339 = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?([Zz]|[+-][0-9]{2}:?[0-9]{2})?)?$"
)
_ZONE = r"([Zz]|:[0-9.]+[+-][0-9]{2}:?[0-9]{2})$"


def microseconds_of(moment: datetime) -> int:
    """Microseconds since the epoch, rounded down."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(microseconds: int) -> datetime:
    """The inverse of `microseconds_of`."""
    return _EPOCH + timedelta(microseconds=microseconds)


@dataclass(frozen=True)
class Clock:
    """How the event time of a row is read."""

    column: str
    """Of the table."""
    unit: Unit | None = None
    """What numbers count."""

    def read(self, array: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The times of a column.

        Returns
        -------
        tuple
            (rows,) microseconds since the epoch, rounded down, 0 where there is none; (rows,) whether there is one.

        Raises
        ------
        UnusableData
            When the column holds something else, naming the first such value.
        """
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        kind = array.type
        if pa.types.is_null(kind):
            return np.zeros(len(array), np.int64), np.zeros(len(array), np.bool_)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            return self._of_text(array.cast(pa.string()))
        if pa.types.is_date(kind):
            return _whole(array.cast(pa.date32()).cast(pa.int32()).cast(pa.int64()), 1, 86_400)
        if pa.types.is_timestamp(kind):
            return _whole(array.cast(pa.int64()), _PER_SECOND[kind.unit], 1)
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            return self._of_numbers(array)
        msg = f"column {self.column!r} holds {kind}, which is no time: name a column of timestamps, dates, texts or numbers"
        raise UnusableData(msg)

    def _of_numbers(self, array: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        if self.unit is None:
            if array.null_count == len(array):
                return np.zeros(len(array), np.int64), np.zeros(len(array), np.bool_)
            msg = f"column {self.column!r} holds {array.type}: say what these numbers count since 1970 with timeUnit: s, ms, us or ns"
            raise UnusableData(msg)
        per_second = _PER_SECOND[self.unit]
        if not pa.types.is_integer(array.type):
            array = array.cast(pa.float64(), safe=False)
            numbers = array.to_numpy(zero_copy_only=False)
            there = np.isfinite(numbers)
            scaled = np.where(there, numbers, 0.0) * (1_000_000 / per_second)
            beyond = np.abs(scaled) >= _YEAR_10000
            found = np.floor(np.where(beyond, 0.0, scaled)).astype(np.int64)
        else:
            there = array.is_valid().to_numpy(zero_copy_only=False)
            numbers = array.fill_null(0).to_numpy(zero_copy_only=False)
            beyond = np.abs(numbers.astype(np.float64)) * (1_000_000 / per_second) >= _YEAR_10000
            whole = np.where(beyond, 0, numbers).astype(np.int64)
            found = whole * (1_000_000 // per_second) if per_second <= 1_000_000 else whole // (per_second // 1_000_000)
        if beyond.any():
            first = numbers[np.argmax(beyond)].item()
            msg = f"column {self.column!r} holds {first}, which is not in the years 1 to 9999 when it counts {self.unit}: look at timeUnit"
            raise UnusableData(msg)
        return found, there

    def _of_text(self, array: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        texts = pc.utf8_trim_whitespace(array)
        texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
        there = texts.is_valid().to_numpy(zero_copy_only=False)
        if not there.any():
            return np.zeros(len(array), np.int64), there
        good = pc.match_substring_regex(texts, _RFC3339)
        if not pc.all(good).as_py():
            try:
                numbers = pc.cast(texts, pa.float64())
            except pa.ArrowException:
                raise self._no_time(texts.filter(pc.invert(good))[0].as_py()) from None
            # Whole numbers keep all their digits.
            whole = pc.all(pc.match_substring_regex(texts, r"^[+-]?[0-9]{1,18}$")).as_py()
            return self._of_numbers(pc.cast(texts, pa.int64()) if whole else numbers)
        texts = pc.replace_substring_regex(texts, r"([.][0-9]{6})[0-9]+", r"\1")  # beyond microseconds
        texts = pc.utf8_upper(texts)
        zoned = pc.match_substring_regex(texts, _ZONE)
        try:
            absent = pa.scalar(None, pa.string())
            with_zone = pc.if_else(zoned, texts, absent).cast(pa.timestamp("us", "UTC")).cast(pa.int64())
            without = pc.if_else(zoned, absent, texts).cast(pa.timestamp("us")).cast(pa.int64())
        except pa.ArrowException:
            raise self._no_time(_first_wrong(texts, zoned)) from None
        return pc.coalesce(with_zone, without).fill_null(0).to_numpy(zero_copy_only=False), there

    def _no_time(self, text: str) -> UnusableData:
        return UnusableData(
            f"column {self.column!r} holds {text!r}, which is no time: RFC 3339 is read, for example '2013-05-01T12:00:00Z'"
        )


def _whole(array: pa.Array, per_second: int, seconds: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    there = array.is_valid().to_numpy(zero_copy_only=False)
    numbers = array.fill_null(0).to_numpy(zero_copy_only=False)
    if per_second <= 1_000_000:
        return numbers * (seconds * 1_000_000 // per_second), there
    return numbers // (per_second // 1_000_000), there


def _first_wrong(texts: pa.Array, zoned: pa.Array) -> str:
    """The first that looks like a time and is none: a thirteenth month."""
    for text, zone in zip(texts.to_pylist(), zoned.to_pylist(), strict=True):
        try:
            pa.scalar(text).cast(pa.timestamp("us", "UTC" if zone else None))
        except pa.ArrowException:
            return str(text)
    return ""  # not reached: one of them was refused


@dataclass(frozen=True)
class Window:
    """Event times from `since` on and before `until`."""

    since: int | None
    """Microseconds since the epoch."""
    until: int | None

    def holds(self, times: NDArray[np.int64], there: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(rows,) which rows have a time, and one in here."""
        held = there.copy()
        if self.since is not None:
            held &= times >= self.since
        if self.until is not None:
            held &= times < self.until
        return held

    def told(self) -> dict[str, str]:
        """For the manifest."""
        return {
            name: format_moment(moment_of(at))
            for name, at in (("since", self.since), ("until", self.until))
            if at is not None
        }


@dataclass(frozen=True)
class Times:
    """What was found in the time column of some rows."""

    rows: int = 0
    without: int = 0
    """Rows without a time."""
    oldest: int | None = None
    newest: int | None = None
    """Newest that is not in the future."""

    def __add__(self, other: "Times") -> "Times":
        return Times(
            self.rows + other.rows,
            self.without + other.without,
            _of_both(min, self.oldest, other.oldest),
            _of_both(max, self.newest, other.newest),
        )

    @classmethod
    def of(cls, times: NDArray[np.int64], there: NDArray[np.bool_], now: int) -> "Times":
        """Of one batch."""
        known = times[there]
        past = known[known <= now]
        return cls(
            len(times),
            len(times) - len(known),
            int(known.min()) if len(known) else None,
            int(past.max()) if len(past) else None,
        )


def _of_both(better: Any, a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return int(better(a, b))


def window_of(data: Data, now: datetime, newest: int | None = None) -> Window:
    """The window that the settings ask for.

    Parameters
    ----------
    newest
        Event time of the newest row that is not in the future, microseconds; for `lastFrom: data`.
    """
    since = None if data.since is None else microseconds_of(data.since)
    until = None if data.until is None else microseconds_of(data.until)
    if data.last is not None:
        if until is None:
            until = newest + 1 if data.last_from == "data" and newest is not None else microseconds_of(now)
        since = max(until - data.last // _MICROSECOND, _FIRST)
    return Window(since, until)


def needs_newest(data: Data) -> bool:
    """Whether the newest row must be known before the window is."""
    return data.last is not None and data.until is None and data.last_from == "data"
