"""Labels that wait for their predictions remember where they came from: who waits in vain goes to the dead-letter topic."""

import base64
import json
import time
from typing import Any

import msgspec

from streaming.pane import rfc3339
from streaming.protocol import Reason, parse_json
from streaming.reports import DeadLetter
from streaming.spec import ModelMonitor


class Letter(msgspec.Struct, array_like=True):
    """Where a label came from, with its message; about 60 bytes and the message."""

    name: str
    """The topic as ids have it."""
    partition: int
    offset: int
    place: int | None
    """Which label of its message it is; None where it is the only one."""
    timestamp: int
    """Kafka's, ms."""
    time: int
    """When the label became known, ms."""
    key: bytes | None
    value: bytes
    """A message of this label alone, which is the one that came where it holds no other."""

    def to_bytes(self) -> bytes:
        """As it waits."""
        return _encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Letter":
        """What `to_bytes` gave."""
        return _decode(data)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Letter).decode


def alone(value: bytes, place: int, label: Any) -> bytes:
    """A message of one of the labels of a message, so that a thousand labels do not keep a thousand times a thousand."""
    read = parse_json(value)
    said = {"id": read["id"], "instance": read.get("instance", 0) + place, "label": label}
    return json.dumps({**said, "time": read["time"]} if read.get("time") is not None else said).encode()


def dead_letter(monitor: ModelMonitor, letter: Letter, text: str) -> bytes:
    """The JSON of the dead letter of a label without a prediction."""
    at = f"{letter.name}/{letter.partition}/{letter.offset}"
    most = monitor.spec.kafka.largest_message
    record = DeadLetter(
        id=f"{at}/deadletter" if letter.place is None else f"{at}/{letter.place}/deadletter",
        model=monitor.name,
        model_version=monitor.spec.model.version,
        detected_at=rfc3339(time.time_ns() // 1_000_000),
        reason=Reason.UNMATCHED_LABEL.value,
        message=text,
        topic=monitor.topics.labels,
        partition=letter.partition,
        offset=letter.offset,
        timestamp=rfc3339(letter.timestamp),
        event_time=rfc3339(letter.time),
        key=None if letter.key is None else base64.b64encode(letter.key).decode(),
        value=base64.b64encode(letter.value[:most]).decode(),
        size=len(letter.value),
    )
    return msgspec.json.encode(record)
