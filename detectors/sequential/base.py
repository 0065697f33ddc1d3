"""Detectors that watch one series, observation by observation: their settings, what they keep, what they say.

A detector is its settings; ``start()`` gives the `State` in which it stands in one series. A state takes whole arrays, answers
with the changes in them, and survives a restart as a few bytes.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from detectors.errors import IncompatibleSummaries, SummaryFormatError
from detectors.settings import Settings

Kind = Literal["warning", "drift"]
Direction = Literal["up", "down"]
Mode = Literal["both", "up", "down"]

BLOCK = 8192
"""Most observations that are looked at in one go: larger temporary arrays leave the cache and are slower."""
LARGEST = 1e100
"""A number beyond it (either sign) counts as it, so that no square and no sum overflows."""
_FIRST_BLOCK = 64
_MAGIC = b"DLC1"
_DIGEST = 8


@dataclass(frozen=True, slots=True)
class Change:
    """One answer of a sequential detector."""

    index: int
    """The observation at which it spoke: its position in the series since `start`, from 0, skipped ones counted."""
    kind: Kind
    """``warning``: the warning zone is entered. ``drift``: the alarm, after which the detector begins anew."""
    statistic: float
    """What was tested, in the unit that the detector states."""
    threshold: float
    """What it was tested against, same unit. Above it is worse, except for `eddm`, where below is."""
    direction: Direction | None = None
    """Where the series went; None where the test does not tell."""


class Memory(msgspec.Struct):
    """What a detector remembers since its last alarm: plain numbers and arrays of float64, nothing else."""

    n: int = 0
    """Observations since then, skipped ones not counted. `State` keeps it, and raises it after each block."""


M = TypeVar("M", bound=Memory)
"""The memory of one detector."""


@dataclass(frozen=True, slots=True)
class Checks:
    """Every check that a block of observations gave rise to; the arrays are parallel, one place for each test."""

    at: NDArray[np.int64]
    """(k,) the observation of the block that was tested, ascending."""
    statistic: NDArray[np.float64]
    """(k,)"""
    threshold: NDArray[np.float64]
    """(k,) of drift."""
    drift: NDArray[np.bool_]
    """(k,)"""
    up: NDArray[np.bool_] | None = None
    """(k,) whether the series rose; None where the test does not tell."""
    warning: NDArray[np.bool_] | None = None
    """(k,) whether this is the warning zone, drift or not; None for a detector that does not warn."""
    warning_threshold: NDArray[np.float64] | None = None
    """(k,)"""

    @classmethod
    def none(cls) -> "Checks":
        """Nothing was tested."""
        return cls(np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0, np.bool_))

    def worse(self, down: "Checks") -> "Checks":
        """Of a test for a rise (self) and one for a fall of the same observations, the one that says more."""
        ours, theirs = self.severity(), down.severity()
        if not theirs.any() or not ours.any():
            return down if theirs.any() else self
        fell = theirs > ours

        def chosen(a: NDArray[Any] | None, b: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if a is None or b is None else np.where(fell, b, a)

        return Checks(
            self.at,
            np.where(fell, down.statistic, self.statistic),
            np.where(fell, down.threshold, self.threshold),
            self.drift | down.drift,
            ~fell,
            chosen(self.warning, down.warning),
            chosen(self.warning_threshold, down.warning_threshold),
        )

    def severity(self) -> NDArray[np.int8]:
        """(k,) 0 for nothing; drift outweighs a warning."""
        severity = 2 * self.drift.astype(np.int8)
        return severity if self.warning is None else severity + self.warning

    def change(self, i: int, kind: Kind, index: int) -> Change:
        """What test i says about the observation at this index of the series."""
        threshold = self.threshold if kind == "drift" or self.warning_threshold is None else self.warning_threshold
        direction: Direction | None = None if self.up is None else "up" if self.up[i] else "down"
        return Change(index, kind, float(self.statistic[i]), float(threshold[i]), direction)


class SequentialDetector(Settings, Generic[M]):
    """Watches one series for a change; the settings of one test, which `start` sets to work.

    A subclass has ``name: Literal["its_name"] = "its_name"`` and its parameters as fields, each with its unit, `fresh` and `scan`.
    """

    binary: ClassVar[bool] = False
    """Whether it wants errors: 0 right, 1 wrong (or values between). What lies outside [0, 1] is skipped like a missing value."""

    name: str

    def start(self) -> "State[M]":
        """The state before the first observation."""
        return State(self, self.fresh())

    def fresh(self) -> M:
        """The memory at the start and after each alarm."""
        raise NotImplementedError

    def scan(self, memory: M, x: NDArray[np.float64]) -> Checks:
        """Every test of a block of observations, as if none of them were an alarm; brings the memory to the end of the block.

        The caller looks for the first alarm, and forgets memory and later tests when there is one. The numbers must not
        depend on where a series is cut into blocks: sums go on from the memory's (`running`), one addition at a time.

        Parameters
        ----------
        x
            (n,) with n > 0, all finite and at most `LARGEST`; in [0, 1] when the detector is `binary`. A block never goes
            across a multiple of `block` observations since the last alarm.
        """
        raise NotImplementedError

    @property
    def block(self) -> int:
        """Most observations in one `scan`; a power of two."""
        return BLOCK

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that differ when the settings do."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=8).digest()


@dataclass(slots=True)
class State(Generic[M]):
    """Where a detector stands in one series: a few numbers, never the series.

    Cutting a series into pieces, anywhere, changes no change; neither does writing the state to bytes and reading it back in between.
    """

    detector: SequentialDetector[M]
    memory: M
    seen: int = 0
    """Observations so far, skipped ones counted: the index of the next one."""
    skipped: int = 0
    """How many of them were missing, not finite, or outside [0, 1] where the detector wants errors."""
    warned: bool = False
    """Whether the last test was in the warning zone."""

    def update(self, values: ArrayLike) -> list[Change]:
        """The changes in the next observations of the series, in order. Never raises on data.

        Parameters
        ----------
        values
            (n,) consecutive observations, oldest first.
        """
        x = np.asarray(values, np.float64).reshape(-1)
        usable = (x >= 0) & (x <= 1) if self.detector.binary else np.isfinite(x)
        places = np.flatnonzero(usable)
        x = np.clip(x[places], -LARGEST, LARGEST)
        self.skipped += len(usable) - len(places)
        places += self.seen
        self.seen += len(usable)
        changes: list[Change] = []
        start = 0
        while start < len(x):
            start += self._advance(x[start : start + self._room()], places[start:], changes)
        return changes

    def _advance(self, x: NDArray[np.float64], places: NDArray[np.int64], changes: list[Change]) -> int:
        """Take one block up to its first alarm; how many observations that were."""
        tests = self.detector.scan(self.memory, x)
        self.memory.n += len(x)
        alarms = np.flatnonzero(tests.drift)
        end = int(alarms[0]) if len(alarms) else len(tests.at)
        if tests.warning is not None and end:
            zone = tests.warning[:end]
            entered = zone & ~np.concatenate(([self.warned], zone[:-1]))
            changes += [tests.change(i, "warning", int(places[tests.at[i]])) for i in np.flatnonzero(entered).tolist()]
            self.warned = bool(zone[-1])
        if not len(alarms):
            return len(x)
        last = int(tests.at[end])
        changes.append(tests.change(end, "drift", int(places[last])))
        self.memory, self.warned = self.detector.fresh(), False
        return last + 1

    def _room(self) -> int:
        """Up to where the next block may go: as many observations again as were seen since the last alarm.

        Whatever follows an alarm in its block is looked at twice; like this that stays in proportion. It depends on nothing
        but the number of observations, so pieces of a series end at the same places as the whole.
        """
        n = self.memory.n
        step = min(self.detector.block, max(_FIRST_BLOCK, 1 << (n.bit_length() - 1 if n else 0)))
        return step - n % step

    def to_bytes(self) -> bytes:
        """The binary form: magic and version, a checksum, then MessagePack of plain numbers and little-endian arrays."""
        body = msgspec.msgpack.encode(
            (self.detector.fingerprint, self.seen, self.skipped, self.warned, self.memory), enc_hook=_pack
        )
        return _MAGIC + _checksum(body) + body

    @classmethod
    def from_bytes(cls, data: bytes, detector: SequentialDetector[M]) -> "State[M]":
        """Read the binary form back; every bit of it is as it was.

        Raises
        ------
        SummaryFormatError
            When these are not the bytes of a state of this version.
        IncompatibleSummaries
            When the detector that wrote it had other settings: begin anew with `SequentialDetector.start`.
        """
        if data[:4] != _MAGIC:
            msg = f"these bytes begin with {data[:4]!r}, a state of this version begins with {_MAGIC!r}"
            raise SummaryFormatError(msg)
        body = data[4 + _DIGEST :]
        if data[4 : 4 + _DIGEST] != _checksum(body):
            msg = f"these {len(data)} bytes are not a whole state: their checksum is another one"
            raise SummaryFormatError(msg)
        try:
            fingerprint, seen, skipped, warned, memory = msgspec.msgpack.decode(body, type=_Body)
            if fingerprint != detector.fingerprint:
                msg = (
                    f"this state was kept under settings {fingerprint.hex()}, not under {detector.fingerprint.hex()}, "
                    f"which are {detector!r}: begin anew"
                )
                raise IncompatibleSummaries(msg)
            return cls(
                detector,
                msgspec.msgpack.decode(memory, type=type(detector.fresh()), dec_hook=_unpack),
                seen,
                skipped,
                warned,
            )
        except msgspec.MsgspecError as error:
            msg = f"these {len(data)} bytes are not a state of {detector.name!r}: {error}"
            raise SummaryFormatError(msg) from None


_Body = tuple[bytes, int, int, bool, msgspec.Raw]


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST).digest()


def _pack(value: Any) -> bytes:
    return np.asarray(value).astype("<f8").tobytes()


def _unpack(_: type, value: Any) -> NDArray[np.float64]:
    return np.frombuffer(value, "<f8").astype(np.float64)


def running(before: float, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) a sum after each step.

    numpy's `accumulate` adds strictly in order, so it makes no difference in any bit where the steps are cut into blocks.
    """
    return np.add.accumulate(np.concatenate(([before], steps)))[1:]


def lowest(before: float, values: NDArray[np.float64], *, latest: bool) -> tuple[NDArray[np.int64], float]:
    """Where the lowest value so far was, and what it is in the end.

    Parameters
    ----------
    before
        The lowest value of earlier blocks.
    latest
        Whether a value that equals the lowest takes its place.

    Returns
    -------
    (n,) for each value the place of the lowest up to it, -1 where that was in an earlier block; then the lowest of all.
    """
    so_far = np.minimum.accumulate(np.concatenate(([before], values)))
    lower = values <= so_far[:-1] if latest else values < so_far[:-1]
    return np.maximum.accumulate(np.where(lower, np.arange(len(values)), -1)), float(so_far[-1])


def kept(where: NDArray[np.int64], values: NDArray[Any], before: float) -> NDArray[Any]:
    """(n,) the value at each place that `lowest` gave; ``before`` where that was in an earlier block."""
    return np.where(where < 0, before, values[where])
