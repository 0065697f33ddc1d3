"""The wire format of the labels topic: what was true, by the id of the request that asked for it.

``{"id": "...", "instance": 0, "label": 1.5, "time": 1700000000.25}``. `instance` is the index of the instance in its request (0 where
absent), `label` a number, text, boolean or null, `time` when the label became known: seconds since the epoch or RFC 3339, Kafka's own
time where absent. ``"labels": [...]`` instead of `label` labels as many instances in a row, from `instance` on. Other keys are ignored.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from reference.category import is_unicode
from streaming.identity import instance_keys
from streaming.messages import Rejected
from streaming.protocol import (
    END_OF_TIME,
    LONGEST_ID,
    Reason,
    Refused,
    checked_id,
    parse_json,
    rfc3339_to_milliseconds,
    seconds_to_milliseconds,
    shown,
)
from streaming.tokens import are_utf8, times

__all__ = ["MOST_INSTANCES", "DecodedLabels", "Label", "LabelDecoder"]

Label = str | bool | int | float | None
"""As JSON has it. Numbers are finite, and whole ones no larger than a float can be."""

MOST_INSTANCES = 2**31
"""An index of an instance is below it."""


@dataclass(frozen=True, slots=True)
class DecodedLabels:
    """The labels of a batch; messages ascend, and instances within a message."""

    keys: NDArray[np.uint64]
    """(labels,) whose label it is: `identity.instance_keys`."""
    values: list[Label]
    """(labels,)"""
    times: NDArray[np.int64]
    """(labels,) when the label became known, ms since the epoch, rounded down."""
    message: NDArray[np.int64]
    """(labels,) index of the message in the batch."""
    rejected: list[Rejected]
    """By message, each at most once; no message is both here and there."""


_Usual = str | bool | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float | None


class _Message(msgspec.Struct):
    """A message as most are; `_Batch.read_slowly` says what any other means."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_ID)]
    label: _Usual | UnsetType = UNSET
    labels: Annotated[list[_Usual], msgspec.Meta(min_length=1)] | UnsetType = UNSET
    instance: Annotated[int, msgspec.Meta(ge=0, lt=MOST_INSTANCES)] = 0
    time: float | str | None = None


class LabelDecoder:
    """Decodes the labels topic.

    Parameters
    ----------
    max_bytes
        A longer value is refused unread.
    """

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self.max_bytes = max_bytes
        self._decode = msgspec.json.Decoder(_Message).decode

    def decode(self, values: pa.BinaryArray, timestamps: NDArray[np.int64]) -> DecodedLabels:
        """Decode a batch; every message is either decoded or rejected, whatever its bytes.

        Parameters
        ----------
        values
            The Kafka values, null for a tombstone.
        timestamps
            (messages,) Kafka's own time in milliseconds since the epoch.
        """
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        values = values if values.type == pa.binary() else values.cast(pa.binary())
        batch = _Batch(values.to_pylist(), np.asarray(timestamps, np.int64), self.max_bytes)
        sizes = pc.binary_length(values).fill_null(0).to_numpy()
        good = are_utf8(values) & (sizes > 0) & (sizes <= self.max_bytes)
        batch.read(np.flatnonzero(good).tolist(), self._decode)
        for message in np.flatnonzero(~good).tolist():
            batch.read_slowly(message)
        return batch.decoded()


class _Batch:
    """One call of `LabelDecoder.decode`."""

    def __init__(self, values: list[bytes | None], kafka: NDArray[np.int64], max_bytes: int) -> None:
        self.values, self.kafka, self.max_bytes = values, kafka, max_bytes
        self.at: list[int] = []
        """Messages that hold labels, and in parallel what they hold."""
        self.ids: list[str] = []
        self.first: list[int] = []
        self.labels: list[Sequence[Label]] = []
        self.moments: list[int] = []
        self.rejected: list[Rejected] = []

    def read(self, messages: list[int], decode: Callable[[bytes], _Message]) -> None:
        """Decode messages as most are; the others slowly."""
        at, read = [], []
        for message in messages:
            try:
                one = decode(self.values[message] or b"")
            except (ValueError, RecursionError):
                self.read_slowly(message)
            else:
                if (one.label is UNSET) is (one.labels is UNSET):
                    self.read_slowly(message)
                else:
                    at.append(message)
                    read.append(one)
        moments, known = _times([one.time for one in read], self.kafka[at])
        if not known.all():
            for place in np.flatnonzero(~known).tolist():
                self.read_slowly(at[place])
            kept = np.flatnonzero(known)
            at, read, moments = [at[i] for i in kept], [read[i] for i in kept], moments[kept]
        self.at += at
        self.ids += [one.id for one in read]
        self.first += [one.instance for one in read]
        self.labels += [one.labels or (one.label,) for one in read]  # type: ignore[misc] # one of the two is set
        self.moments += moments.tolist()

    def read_slowly(self, message: int) -> None:
        """What the message means, or why it means nothing."""
        time = None
        try:
            read = self._object(message)
            time = _milliseconds(read.get("time"), int(self.kafka[message]))
            identity, first, labels = checked_id(read.get("id")), _instance(read), _labels(read)
            moment = _known(time, read.get("time"))
        except Refused as refused:
            self.rejected.append(Rejected(message, refused.reason, refused.text, time))
            return
        self.at.append(message)
        self.ids.append(identity)
        self.first.append(first)
        self.labels.append(labels)
        self.moments.append(moment)

    def _object(self, message: int) -> dict[str, Any]:
        value = self.values[message]
        if not value:
            raise Refused(Reason.EMPTY, "the message has no value")
        if len(value) > self.max_bytes:
            text = f"{len(value)} bytes are more than the {self.max_bytes} that kafka.maxMessageBytes allows"
            raise Refused(Reason.TOO_LARGE, text)
        read = parse_json(value)
        if not isinstance(read, dict):
            raise Refused(Reason.UNKNOWN_FORMAT, f"{shown(read)} is no label: send an object with id and label")
        return read

    def decoded(self) -> DecodedLabels:
        """All of it, in the order of messages."""
        self.rejected.sort(key=lambda one: one.message)
        at, moments = np.array(self.at, np.int64), np.array(self.moments, np.int64)
        of = np.repeat(np.arange(len(at)), [len(labels) for labels in self.labels])
        # Labels of one message lie together: where its first one is says which of them a label is.
        within = np.arange(len(of)) - np.searchsorted(of, of)
        keys = instance_keys(self.ids, of, np.array(self.first, np.int64)[of] + within)
        values = list(chain.from_iterable(self.labels))
        order = np.argsort(at[of], kind="stable")
        if not bool((order[1:] > order[:-1]).all()):
            values = [values[i] for i in order.tolist()]
            keys, of = keys[order], of[order]
        return DecodedLabels(keys, values, moments[of], at[of], self.rejected)


def _times(written: list[float | str | None], kafka: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(messages,) milliseconds of what was written, of Kafka's time where nothing was, and whether they are a time."""
    moments, known = kafka.copy(), (kafka >= 0) & (kafka < END_OF_TIME)
    floats = [i for i, time in enumerate(written) if time.__class__ is float]
    if floats:
        # As `protocol.seconds_to_milliseconds` of each.
        micros = np.array([written[i] for i in floats], np.float64) * 1e6
        known[floats] = (micros >= 0) & (micros < END_OF_TIME * 1e3)
        moments[floats] = np.rint(np.where(known[floats], micros, 0)).astype(np.int64) // 1000
    texts = [i for i, time in enumerate(written) if time.__class__ is str]
    if texts:
        moments[texts], known[texts] = times(pa.array([written[i] for i in texts], pa.string()).cast(pa.binary()))
    return moments, known


def _milliseconds(time: Any, kafka: int) -> int | None:
    if time is None:
        return kafka if 0 <= kafka < END_OF_TIME else None
    return rfc3339_to_milliseconds(time) if isinstance(time, str) else seconds_to_milliseconds(time)


def _known(milliseconds: int | None, written: Any) -> int:
    if milliseconds is None:
        text = f"time {shown(written)} is not a time from 1970 to 9999: send seconds since the epoch, or RFC 3339"
        raise Refused(Reason.BAD_TIME, text)
    return milliseconds


def _instance(read: dict[str, Any]) -> int:
    instance = read.get("instance", 0)
    if isinstance(instance, bool) or not isinstance(instance, int) or not 0 <= instance < MOST_INSTANCES:
        raise Refused(
            Reason.WRONG_TYPE,
            f"instance {shown(instance)} is not the index of an instance: send a whole number from 0 on",
        )
    return instance


def _labels(read: dict[str, Any]) -> Sequence[Label]:
    if "labels" not in read:
        if "label" not in read:
            raise Refused(Reason.NO_LABEL, "there is no label: send `label`, or a list `labels` for several instances")
        return (_label(read["label"]),)
    labels = read["labels"]
    if "label" in read:
        raise Refused(Reason.WRONG_TYPE, "there are both `label` and `labels`: send one of them")
    if not isinstance(labels, list):
        raise Refused(Reason.WRONG_TYPE, f"`labels` is {shown(labels)}, not a list")
    if not labels:
        raise Refused(Reason.NO_LABEL, "`labels` is empty")
    return [_label(label) for label in labels]


def _label(value: Any) -> Label:
    """The label, if it is one."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and is_unicode(value):
        return value
    if isinstance(value, int | float):
        try:
            finite = math.isfinite(value)
        except OverflowError:  # a whole number beyond all floats
            finite = False
        if finite:
            return value
    raise Refused(Reason.WRONG_TYPE, f"label {shown(value)} is neither a finite number, nor text, a boolean or null")
