"""CloudEvents 1.0 over HTTP, as they arrive: binary, structured or batched; and as Kafka keeps them: binary.

A pure function of headers and body, without a server and without Kafka. The payload is never parsed and never changed.
"""

import binascii
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import msgspec

from streaming.errors import StreamingError

REQUIRED = ("specversion", "id", "source", "type")
"""Attributes that every event has."""

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"

_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_items = msgspec.json.Decoder(list[msgspec.Raw])


class InvalidEvent(StreamingError):
    """What arrived is no CloudEvent; the text says what is missing or wrong, for the answer to the sender."""


class UnsupportedEvent(InvalidEvent):
    """It may be an event, but in a form that is not read here."""


@dataclass(frozen=True, slots=True)
class Event:
    """One CloudEvent."""

    attributes: Mapping[str, str]
    """Context attributes and extensions by their CloudEvents names, in the order of arrival; all of `REQUIRED`."""
    content_type: str | None
    """Of `data`; None when the sender did not say."""
    data: bytes
    """The payload, untouched."""
    notes: tuple[tuple[str, str], ...] = ()
    """Further Kafka headers, which are ours and no part of the event."""

    @property
    def id(self) -> str:
        """KServe gives a request and its response the same one, so it is the Kafka key."""
        return self.attributes["id"]

    def kafka_headers(self) -> list[tuple[str, str | bytes | None]]:
        """Record headers of the Kafka protocol binding, binary mode."""
        headers: list[tuple[str, str | bytes | None]] = [(f"ce_{name}", text) for name, text in self.attributes.items()]
        if self.content_type is not None:
            headers.append(("content-type", self.content_type))
        headers += self.notes
        return headers


def events(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> list[Event]:
    """The events of one HTTP request; more than one, or none, only in batched mode.

    Parameters
    ----------
    headers
        Names in lower case, as ASGI gives them.

    Raises
    ------
    InvalidEvent
        The request holds no CloudEvent, or one that lacks something.
    UnsupportedEvent
        The body is compressed, or in another event format than JSON.
    """
    attributes: dict[str, str] = {}
    content_type = None
    for name, value in headers:
        if name.startswith(b"ce-"):
            attribute = name[3:].decode("latin-1")
            attributes[attribute] = _header_text(attribute, value)
        elif name == b"content-type":
            content_type = value.decode("latin-1")
        elif name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise UnsupportedEvent(
                f"content-encoding {value.decode('latin-1')!r} is not read here: send the body as it is"
            )
    match (content_type or "").partition(";")[0].strip().lower():
        case "application/cloudevents+json":
            return [_structured(body)]
        case "application/cloudevents-batch+json":
            return [_structured(item, f"event {i}: ") for i, item in enumerate(_items(body))]
        case other if other.startswith("application/cloudevents"):
            raise UnsupportedEvent(
                f"content-type {other!r} is not read here: send {STRUCTURED}, {BATCHED} or binary mode"
            )
    attributes.pop("datacontenttype", None)  # in this mode the content type itself is that attribute
    _complete(attributes, "the header ce-{} is missing or empty: in binary mode it is the CloudEvents attribute {!r}")
    return [Event(attributes, content_type, body)]


def _complete(attributes: Mapping[str, str], complaint: str) -> None:
    for name in REQUIRED:
        if not attributes.get(name):
            raise InvalidEvent(complaint.format(name, name))
    if attributes["specversion"] != "1.0":
        raise InvalidEvent(f"specversion {attributes['specversion'][:20]!r} is not known: send CloudEvents '1.0'")


def _header_text(name: str, value: bytes) -> str:
    """An attribute from its header: quoted strings (older senders) and percent-encoding undone, once each."""
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == 0x22:
        value = _unescaped(value[1:-1])
    if b"%" in value:
        value = unquote_to_bytes(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidEvent(f"the header ce-{name} is not UTF-8: percent-encode what is not ASCII") from None


def _unescaped(value: bytes) -> bytes:
    if b"\\" not in value:
        return value
    out, escaped = bytearray(), False
    for byte in value:
        if byte == 0x5C and not escaped:
            escaped = True
        else:
            out.append(byte)
            escaped = False
    return bytes(out)


def _items(body: bytes) -> list[msgspec.Raw]:
    try:
        return _raw_items.decode(body)
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"the body is no JSON array of events: {error}") from None


def _structured(event: bytes | msgspec.Raw, where: str = "") -> Event:
    """An event in the JSON format; `data` keeps its bytes exactly as they stand in it."""
    try:
        members = _raw_members.decode(event)
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"{where}the body is no JSON object: {error}") from None
    data, encoded = members.pop("data", None), members.pop("data_base64", None)
    attributes = {name: text for name, raw in members.items() if (text := _json_text(name, raw, where)) is not None}
    content_type = attributes.pop("datacontenttype", None)
    _complete(attributes, where + "the CloudEvents attribute {!r} is missing or empty")
    if encoded is not None:
        if data is not None:
            raise InvalidEvent(f"{where}there are both data and data_base64: send one of them")
        return Event(attributes, content_type, _decoded(encoded, where))
    if data is None:
        return Event(attributes, content_type, b"")
    if _is_json(content_type):
        return Event(attributes, content_type or "application/json", bytes(data))
    # Text that is not JSON travels as a JSON string; anything else is JSON whatever the content type says.
    value = _json_value("data", data, where)
    return Event(attributes, content_type, value.encode() if isinstance(value, str) else bytes(data))


def _is_json(content_type: str | None) -> bool:
    media_type = (content_type or "application/json").partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))


def _json_value(name: str, raw: msgspec.Raw, where: str) -> object:
    try:
        return msgspec.json.decode(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"{where}{name[:40]!r} is no JSON: {error}") from None


def _json_text(name: str, raw: msgspec.Raw, where: str) -> str | None:
    """An attribute as a string, the way the Kafka binding writes it; None where it is null."""
    value = _json_value(name, raw, where)
    if value is None:
        return None
    if isinstance(value, str):
        return value
    return bytes(raw).decode()  # true, 42: their JSON text is their canonical form


def _decoded(raw: msgspec.Raw, where: str) -> bytes:
    text = _json_value("data_base64", raw, where)
    try:
        if isinstance(text, str):
            return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise InvalidEvent(f"{where}data_base64 is no base64 string")
