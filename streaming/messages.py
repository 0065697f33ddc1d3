"""The wire formats of the inference topic, decoded batch-wise into columns.

CloudEvents in binary and in structured mode, and the envelope of older inference loggers, in any mix; bodies of KServe's
V1 protocol and of V2 (Open Inference Protocol). What each message means is said by `streaming.protocol`, one message at
a time; most messages are read many at once by a skeleton (`streaming.skeletons`) that was learned from one of them.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reference.schema import Model, Schema
from streaming.bodies import arranged, values
from streaming.headers import header_columns
from streaming.learning import Found, skeleton
from streaming.positions import positions
from streaming.protocol import (
    CLOUD_EVENT_TYPES,
    END_OF_TIME,
    LONGEST_ID,
    STRUCTURED,
    Event,
    Kind,
    Reason,
    Refused,
    body_of,
    event_of_headers,
    event_of_value,
    parse_json,
    shown,
)
from streaming.rows import Pieces, Rows
from streaming.skeletons import Chunk, Skeleton
from streaming.tensors import parse_body
from streaming.tokens import PADDING, Bools, Ints, Text, are_utf8, offsets_of, times

__all__ = ["Decoded", "Decoder", "Reason", "Rejected", "Rows"]

_LOG = logging.getLogger(__name__)

Door = Literal["value", "structured", "request", "response"]
"""Where the event is: in a value of unknown kind, in a structured CloudEvent, or around a body (by headers)."""

_HEADERS = ("ce_specversion", "ce_id", "ce_type", "ce_time", "ce_inferenceservicename", "content-type")
_CHUNK_BYTES = 1 << 20
_CHUNK_MESSAGES = 8192
_LARGEST_SAMPLE = 1 << 18
_MOST_SKELETONS = 32
_MOST_MISSES = 3


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that cannot be used, and why."""

    message: int
    """Index in the batch."""
    reason: Reason
    text: str
    """For a person: the thing, its value, and what would do."""
    time: int | None
    """Event time in milliseconds since the epoch, when it could be read."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a batch of messages came to."""

    ids: list[str]
    """(messages,) request id; empty for rejected messages."""
    times: Ints
    """(messages,) event time in milliseconds since the epoch, rounded down; undefined for rejected messages."""
    requests: Rows
    responses: Rows
    rejected: list[Rejected]
    """By message, each at most once."""


class Decoder:
    """Decodes the inference topic of one model. It learns as it goes, which changes its speed and nothing else.

    Parameters
    ----------
    model
        What the model takes and answers, its names filled in.
    max_bytes
        A longer value is refused unread.
    keep_wrong
        Whether a value of the wrong type is a cell like any other, marked in `Block.wrong` and missing for all else, instead of a
        reason to refuse the message.
    """

    def __init__(self, model: Model, *, max_bytes: int = 1 << 20, keep_wrong: bool = False) -> None:
        self.max_bytes = max_bytes
        self.keep_wrong = keep_wrong
        self.protocol = model.protocol
        self.service = model.inference_service or model.name
        self.schemas: dict[Kind, Schema] = {"request": model.request_schema, "response": model.response_schema}
        self._known: dict[Door, list[Skeleton]] = {"value": [], "structured": [], "request": [], "response": []}

    def decode(self, values: pa.BinaryArray, headers: pa.ListArray | None, timestamps: NDArray[np.int64]) -> Decoded:
        """Decode a batch; every message is either decoded or rejected, whatever its bytes.

        Parameters
        ----------
        values
            The Kafka values, null for a tombstone.
        headers
            The column ``headers`` as Spark's Kafka source has it: lists of (key, value).
        timestamps
            (messages,) Kafka's own time in milliseconds since the epoch.
        """
        return _Batch(self, values, headers, timestamps).decoded()

    def event(self, value: bytes, door: Door, headers: Mapping[str, bytes | None], kafka_time: int) -> Event:
        """What surrounds the body of one message, as it was written.

        Raises
        ------
        Refused
            When nothing can be recognised.
        """
        if door in ("request", "response"):
            return event_of_headers(headers, kafka_time)
        return event_of_value(parse_json(value), kafka_time, structured=door == "structured")


class _Batch:
    """One call of `Decoder.decode`."""

    def __init__(
        self, decoder: Decoder, values: pa.BinaryArray, headers: pa.ListArray | None, timestamps: NDArray[np.int64]
    ) -> None:
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        self.decoder = decoder
        self.values = values if values.type == pa.binary() else values.cast(pa.binary())
        self.count = len(values)
        self.offsets = offsets_of(self.values)
        self.kafka = np.asarray(timestamps, np.int64)
        self.columns = {} if headers is None or not self.count else header_columns(headers, _HEADERS)
        self.ids: NDArray[np.object_] = np.full(self.count, "", np.object_)
        self.times = self.kafka.copy()
        self.left = np.ones(self.count, np.bool_)
        """Messages that are not decided yet."""
        self.rejected: list[Rejected] = []
        self.pieces: dict[Kind, Pieces] = {kind: Pieces(schema) for kind, schema in decoder.schemas.items()}

    def decoded(self) -> Decoded:
        doors = self._doors()
        self._refuse_by_size(doors)
        everything = np.arange(self.count)
        door: Door
        for door in ("value", "structured", "request", "response"):
            which = everything[self.left & (doors == _DOORS[door])]
            if which.size and (door == "request" or door == "response"):  # noqa: PLR1714 - for the type checker
                which = self._read_headers(which, door)
                if not len(self.decoder.schemas[door]):
                    continue
            for part in self._parts(which):
                self._decode_part(part, door)
        for one in self.rejected:
            self.ids[one.message] = ""
        self.rejected.sort(key=lambda one: one.message)
        return Decoded(
            self.ids.tolist(), self.times, self.pieces["request"].rows(), self.pieces["response"].rows(), self.rejected
        )

    # What headers say -------------------------------------------------------------------------------------------------

    def _headers_of(self, message: int) -> dict[str, bytes | None]:
        return {name: column[message].as_py() for name, column in self.columns.items() if column[message].is_valid}

    def _doors(self) -> NDArray[np.int8]:
        doors = np.full(self.count, _DOORS["value"], np.int8)
        event = np.zeros(self.count, np.bool_)
        content = self.columns.get("content-type")
        if content is not None:
            encoded = content.fill_null(b"").dictionary_encode()
            kinds = [_door_of(media) for media in encoded.dictionary.to_pylist()]
            indices = encoded.indices.to_numpy()
            doors = np.array([_DOORS[kind or "value"] for kind in kinds], np.int8)[indices]
            event = np.array([kind is not None for kind in kinds], np.bool_)[indices]
            for message in np.flatnonzero(doors == _DOORS["unknown"]):
                media = shown(content[message].as_py().decode("utf-8", "replace"))
                text = f"content type {media} cannot be read: send {STRUCTURED}"
                self._reject(int(message), Reason.UNKNOWN_FORMAT, text, None)
        version = self.columns.get("ce_specversion")
        if version is not None:
            binary = version.is_valid().to_numpy(zero_copy_only=False) & ~event
            doors[binary] = _DOORS["request"]
            kind = self.columns.get("ce_type")
            if kind is not None:
                doors[binary & _true(pc.equal(kind, _TYPE_OF["response"]))] = _DOORS["response"]
        return doors

    def _read_headers(self, which: Ints, door: Kind) -> Ints:
        """Note ids and times of CloudEvents in binary mode; the messages whose body may be read."""
        ok = np.ones(len(which), np.bool_)
        at = pa.array(which)
        whole = len(which) == self.count

        def column(name: str) -> pa.BinaryArray | None:
            found = self.columns.get(name)
            return found if found is None or whole else found.take(at)

        version, kind, ids = column("ce_specversion"), column("ce_type"), column("ce_id")
        if version is None or kind is None or ids is None:
            ok[:] = False
        else:
            ok &= _true(pc.starts_with(version, b"1."))
            ok &= _true(pc.equal(kind, _TYPE_OF[door]))
            sizes = pc.binary_length(ids).fill_null(0).to_numpy()
            ok &= are_utf8(ids) & (sizes > 0) & (sizes <= LONGEST_ID)  # of more bytes, the slow way counts characters
        service = column("ce_inferenceservicename")
        if service is not None and self.decoder.service is not None:
            other = pc.not_equal(service, self.decoder.service.encode())
            ok &= ~_true(other)
        moments = self.kafka[which]
        fine = (moments >= 0) & (moments < END_OF_TIME)
        written = column("ce_time")
        if written is not None:
            if written.null_count:
                present = written.is_valid().to_numpy(zero_copy_only=False)
                moments[present], fine[present] = times(written.drop_null())
            else:
                moments, fine = times(written)
        ok &= fine
        for message in which[~ok]:
            self._one_by_one(int(message), door)
        which = which[ok]
        if which.size and ids is not None:
            self.times[which] = moments[ok]
            self.ids[which] = (ids if ok.all() else ids.filter(pa.array(ok))).cast(pa.string()).to_numpy(False)
            self.left[which] = False
        return which

    def _refuse_by_size(self, doors: NDArray[np.int8]) -> None:
        sizes = pc.binary_length(self.values).fill_null(0).to_numpy()
        for message in np.flatnonzero(self.left & ((sizes == 0) | (sizes > self.decoder.max_bytes))):
            size = int(sizes[message])
            time = None
            if doors[message] in (_DOORS["request"], _DOORS["response"]):
                time = self._header_time(int(message))
            if size:
                text = f"{size} bytes are more than the {self.decoder.max_bytes} that kafka.maxMessageBytes allows"
                self._reject(int(message), Reason.TOO_LARGE, text, time)
            else:
                self._reject(int(message), Reason.EMPTY, "the message has no value", time)

    def _header_time(self, message: int) -> int | None:
        try:
            return event_of_headers(self._headers_of(message), int(self.kafka[message])).milliseconds
        except Refused:
            return None

    # Many at once -----------------------------------------------------------------------------------------------------

    def _parts(self, which: Ints) -> list[Ints]:
        """The messages in parts whose bytes fit a processor's cache."""
        if not which.size:
            return []
        sizes = self.offsets[which + 1] - self.offsets[which]
        parts = np.maximum((np.cumsum(sizes) - 1) // _CHUNK_BYTES, np.arange(len(which)) // _CHUNK_MESSAGES)
        return np.split(which, np.flatnonzero(np.diff(parts)) + 1)

    def _chunk(self, part: Ints) -> Chunk:
        starts, ends = self.offsets[part], self.offsets[part + 1]
        low, high = int(starts[0]), int(ends[-1])
        if high - low > 2 * int((ends - starts).sum()):  # much between them belongs to others
            copied = self.values.take(pa.array(part))
            offsets = offsets_of(copied)
            starts, ends, low, high = offsets[:-1], offsets[1:], int(offsets[0]), int(offsets[-1])
            source = copied.buffers()[2]
        else:
            source = self.values.buffers()[2]
        data = np.zeros(high - low + PADDING, np.uint8)
        data[: high - low] = np.frombuffer(source, np.uint8, high - low, low)
        return Chunk(Text(pa.py_buffer(data)), starts - low, ends - low)

    def _decode_part(self, part: Ints, door: Door) -> None:
        chunk = self._chunk(part)
        left = np.arange(len(part))
        known = self.decoder._known[door]  # noqa: SLF001
        for index, one in enumerate(list(known)):
            if not left.size:
                break
            left, hit = self._match(one, chunk, part, left)
            if hit and index:
                known.remove(one)
                known.insert(0, one)
        misses = 0
        while left.size and misses < _MOST_MISSES:
            sample = int(part[left[0]])
            left = left[1:]
            good = self._one_by_one(sample, door)
            if not good or not left.size:
                continue
            learned = self._learn(sample, door)
            if learned is None or any(one.shape == learned.shape for one in known):
                misses += 1
                continue
            left, hit = self._match(learned, chunk, part, left)
            if hit:
                known.insert(0, learned)
                del known[_MOST_SKELETONS:]
            else:
                misses += 1
        for message in part[left]:
            self._one_by_one(int(message), door)

    def _match(self, one: Skeleton, chunk: Chunk, part: Ints, left: Ints) -> tuple[Ints, bool]:
        kind = one.shape.kind
        try:
            matched, left = one.match(chunk, left, self.pieces[kind].words)
        except Exception:  # noqa: BLE001 - what a skeleton fails on, the slow way reads: nothing may stop the query
            _LOG.exception("skeleton %s failed on %d messages: they are read one by one", one.shape, left.size)
            return left, False
        if matched is None or not matched.messages.size:
            return left, False
        messages = part[matched.messages]
        self.left[messages] = False
        if matched.ids is not None:
            self.ids[messages] = matched.ids.cast(pa.string()).to_numpy(False)
        if matched.times is not None:
            self.times[messages] = matched.times
        if len(one.schema):
            self.pieces[kind].add(matched, messages)
        return left, True

    def _learn(self, message: int, door: Door) -> Skeleton | None:
        value = self.values[message].as_py()
        if len(value) > _LARGEST_SAMPLE:
            return None
        try:
            parsed = positions(value)
            if door in ("request", "response"):
                kind: Kind = "request" if door == "request" else "response"
                identity = time = None
                body = parsed
            else:
                event = event_of_value(parsed, int(self.kafka[message]), structured=door == "structured")
                kind = event.checked(self.decoder.service)
                identity, time, body = event.id, event.time, body_of(event.body)
            schema = self.decoder.schemas[kind]
            rows, layout = arranged(body, kind, schema, self.decoder.protocol) if len(schema) else ([], "fixed")
        except (Refused, ValueError, RecursionError):
            return None
        role: Literal["rfc3339", "seconds"] = "rfc3339" if isinstance(time, str) else "seconds"
        return skeleton(value, parsed, Found(identity, time, role, rows, layout), kind, schema)

    # One by one -------------------------------------------------------------------------------------------------------

    def _reject(self, message: int, reason: Reason, text: str, time: int | None) -> None:
        self.left[message] = False
        self.rejected.append(Rejected(message, reason, text, time))

    def _one_by_one(self, message: int, door: Door) -> bool:
        """Read one message by the letter of `streaming.protocol`; False when it is rejected."""
        time = None
        try:
            value = self.values[message].as_py()
            event = self.decoder.event(value, door, self._headers_of(message), int(self.kafka[message]))
            time = event.milliseconds
            kind = event.checked(self.decoder.service)
            schema = self.decoder.schemas[kind]
            rows: Sequence[Any] = ()
            if len(schema):
                body = parse_body(value) if door in ("request", "response") else body_of(event.body, parse_body)
                arrangement, _ = arranged(body, kind, schema, self.decoder.protocol)
                rows = values(arrangement, schema, keep_wrong=self.decoder.keep_wrong)
        except Refused as refused:
            self._reject(message, refused.reason, refused.text, time)
            return False
        except Exception as error:  # noqa: BLE001 - an exception here would take the worker down, and the query with it
            self._reject(message, Reason.INTERNAL, f"{type(error).__name__}: {shown(str(error))}", time)
            return False
        self.left[message] = False
        self.ids[message] = str(event.id)
        self.times[message] = event.milliseconds or 0
        self.pieces[kind].slow += [(message, instance, row) for instance, row in enumerate(rows)]
        return True


_DOORS: Mapping[str, int] = {"unknown": -1, "value": 0, "structured": 1, "request": 2, "response": 3}
_TYPE_OF: Mapping[str, bytes] = {kind: name.encode() for name, kind in CLOUD_EVENT_TYPES.items()}


def _door_of(content_type: bytes) -> Literal["structured", "unknown"] | None:
    """The door for a content type; None where it says nothing about events."""
    media = content_type.split(b";")[0].strip().lower()
    if media == STRUCTURED.encode():
        return "structured"
    return "unknown" if media.startswith(b"application/cloudevents") else None


def _true(array: pa.BooleanArray) -> Bools:
    """Null is False."""
    found: Bools = array.fill_null(False).to_numpy(zero_copy_only=False)
    return found
