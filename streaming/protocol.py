"""What one message means: the reference reading of every wire format, one message at a time.

Here is what surrounds a body, and in `streaming.bodies` what is in it. Everything that `streaming.messages` decodes in
columns it decodes as these two say; whatever does not fit a known skeleton is read here. Plain Python and the standard
library's JSON, written to be checked by eye.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from reference.category import is_unicode

Kind = Literal["request", "response"]

CLOUD_EVENT_TYPES: Mapping[str, Kind] = {
    "org.kubeflow.serving.inference.request": "request",
    "org.kubeflow.serving.inference.response": "response",
}
STRUCTURED = "application/cloudevents+json"
END_OF_TIME = 253_402_300_800_000
"""The first millisecond of the year 10000, since the epoch: event times lie before it, and not before 1970."""
LONGEST_ID = 1000
"""Characters of a request id: every record of an outlier repeats it."""

_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Reason(StrEnum):
    """Why a message, or an instance of it, is in the dead-letter topic."""

    EMPTY = "empty"
    """No value (a tombstone), or one without a single byte."""
    TOO_LARGE = "too_large"
    """More bytes than `kafka.maxMessageBytes`; not read."""
    MALFORMED_JSON = "malformed_json"
    """Not JSON: cut off, not UTF-8, nested too deeply, half a surrogate pair, base64 that is none."""
    UNKNOWN_FORMAT = "unknown_format"
    """JSON, but neither a CloudEvent (of version 1, or 0.3) nor an envelope."""
    UNKNOWN_TYPE = "unknown_type"
    """Neither a request nor a response."""
    UNKNOWN_MODEL = "unknown_model"
    """An event of another inference service."""
    NO_ID = "no_id"
    """The request id is absent, empty, or not text."""
    BAD_ID = "bad_id"
    """The request id is longer than 1,000 characters: every record of an outlier would repeat it."""
    BAD_TIME = "bad_time"
    """The event time is absent where the format asks for it, unreadable, or outside of the years 1970 to 9999."""
    NO_INSTANCES = "no_instances"
    """The body holds none of the keys that this model's protocol allows, or an empty list under it."""
    WRONG_ARITY = "wrong_arity"
    """An instance or a tensor with another number of values than the model has columns."""
    WRONG_TYPE = "wrong_type"
    """A value that its column cannot hold: text for a number, a list for a category."""
    NO_LABEL = "no_label"
    """A message of the labels topic that holds no label."""
    UNMATCHED_LABEL = "unmatched_label"
    """No prediction came for this label while it waited. Said by the operator, not by the decoder."""
    LATE = "late"
    """Its window was closed already when it came. Said by the fold, not by the decoder."""
    INTERNAL = "internal"
    """A mistake of ours: the message met an exception that nobody foresaw; the text names it."""
    FUTURE = "future"
    """Its event time is further ahead of Kafka's than `window.maxClockSkew`. Said by the fold, not by the decoder."""


class Refused(Exception):
    """A message cannot be used; caught where the message was read, never seen outside."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


@dataclass(frozen=True, slots=True)
class Event:
    """What surrounds a body, as it was written: nothing is checked yet."""

    kind: Any
    """`request`, `response`, or what stood there instead."""
    id: Any
    time: Any
    """As written: seconds since the epoch in an envelope, RFC 3339 in a CloudEvent; None where absent."""
    milliseconds: int | None
    """The event time since the epoch, None where it could not be read."""
    service: Any
    """The inference service; None where the format does not carry it."""
    body: Any

    def checked(self, expected_service: str | None) -> Kind:
        """The kind of the event.

        Raises
        ------
        Refused
            With the first of unknown type, unknown model, no id, bad id, bad time.
        """
        if self.kind not in ("request", "response"):
            raise Refused(Reason.UNKNOWN_TYPE, f"type {shown(self.kind)} is neither a request's nor a response's")
        if self.service is not None and expected_service is not None and self.service != expected_service:
            raise Refused(
                Reason.UNKNOWN_MODEL,
                f"inference service {shown(self.service)} is not {expected_service!r}, which this monitor watches",
            )
        checked_id(self.id)
        if self.milliseconds is None:
            raise Refused(
                Reason.BAD_TIME,
                f"time {shown(self.time)} is not a time from 1970 to 9999: an envelope gives seconds since the epoch, "
                "a CloudEvent RFC 3339",
            )
        return "request" if self.kind == "request" else "response"


def checked_id(value: Any) -> str:
    """The id of a request.

    Raises
    ------
    Refused
        For what is none, as no id or as bad id.
    """
    if not isinstance(value, str) or not value or not is_unicode(value):
        raise Refused(Reason.NO_ID, f"id {shown(value)} is not the id of a request: send a text that is not empty")
    if len(value) > LONGEST_ID:
        raise Refused(
            Reason.BAD_ID,
            f"id {shown(value)} has {len(value)} characters: send one of at most {LONGEST_ID}",
        )
    return value


# Text, JSON and time --------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """The value as a person would want to see it in an error: short, and always printable."""
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    text = repr(text[:80] + "…" if len(text) > 80 else text) if isinstance(value, str) else text[:80]
    return text.encode("ascii", "backslashreplace").decode()


def _long_int(text: str) -> float:
    return int(text) if len(text) <= 4000 else float(text)


def parse_json(value: bytes) -> Any:
    """The JSON value, with NaN, Infinity and -Infinity as Python writes them.

    Raises
    ------
    Refused
        As malformed, whatever is wrong with it.
    """
    try:
        text = value.decode("utf-8")
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # more digits than Python wants to turn into an integer
            return json.loads(text, parse_int=_long_int)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
        raise Refused(Reason.MALFORMED_JSON, f"not JSON: {why}".encode("ascii", "backslashreplace").decode()) from None


def seconds_to_milliseconds(seconds: Any) -> int | None:
    """Milliseconds of an envelope's time, rounded down; None for what is no time from 1970 to 9999.

    Rounded to microseconds first, the finest that a double of today's seconds carries: 1700000000.123 is 123 ms, though
    the double itself lies a little below.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    try:
        micros = float(seconds) * 1e6
    except OverflowError:
        return None
    if not 0.0 <= micros < END_OF_TIME * 1e3:  # NaN is not either
        return None
    return round(micros) // 1000


def rfc3339_to_milliseconds(text: Any) -> int | None:
    """Milliseconds of a CloudEvent's time, rounded down; None for what is no time from 1970 to 9999."""
    found = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(found[group]) for group in range(1, 7))
    leap = second == 60
    offset = timedelta(hours=int(found[9]), minutes=int(found[10])) if found[8] else timedelta()
    if offset >= timedelta(days=1) or (found[8] and int(found[10]) > 59):
        return None
    try:
        local = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=UTC)
    except ValueError:
        return None
    since = local - _EPOCH - (-offset if found[8] == "-" else offset)
    whole = (since // timedelta(seconds=1) + leap) * 1000
    milliseconds = whole + int((found[7] or "0")[:3].ljust(3, "0"))
    return milliseconds if 0 <= milliseconds < END_OF_TIME else None


# Events ---------------------------------------------------------------------------------------------------------------


def event_of_headers(headers: Mapping[str, bytes | None], kafka_time: int) -> Event:
    """A CloudEvent in binary mode, without its body.

    Raises
    ------
    Refused
        For a version of CloudEvents that is not known.
    """
    attributes = {name: None if value is None else value.decode("utf-8", "replace") for name, value in headers.items()}
    _check_version(attributes.get("ce_specversion"))
    time = attributes.get("ce_time")
    return Event(
        kind=CLOUD_EVENT_TYPES.get(attributes.get("ce_type") or "", attributes.get("ce_type")),
        id=attributes.get("ce_id") if _is_utf8(headers.get("ce_id")) else None,
        time=time,
        milliseconds=_cloud_event_time(time, kafka_time),
        service=attributes.get("ce_inferenceservicename"),
        body=None,
    )


def event_of_value(value: Any, kafka_time: int, *, structured: bool) -> Event:
    """An envelope, or a CloudEvent in structured mode; `structured` when a header says that it is one.

    Raises
    ------
    Refused
        For what is neither.
    """
    if not isinstance(value, dict):
        raise Refused(Reason.UNKNOWN_FORMAT, f"{shown(value)} is neither an envelope nor a CloudEvent")
    if structured or "specversion" in value:
        _check_version(value.get("specversion"))
        written = value.get("type")
        time = value.get("time")
        return Event(
            kind=CLOUD_EVENT_TYPES.get(written, written) if isinstance(written, str) else written,
            id=value.get("id"),
            time=time,
            milliseconds=_cloud_event_time(time, kafka_time),
            service=value.get("inferenceservicename"),
            body=value,
        )
    if "type" not in value and "payload" not in value:
        keys = ", ".join(shown(key) for key in list(value)[:8])
        raise Refused(Reason.UNKNOWN_FORMAT, f"neither an envelope nor a CloudEvent: its keys are {keys or 'none'}")
    time = value.get("time")
    return Event(value.get("type"), value.get("id"), time, seconds_to_milliseconds(time), None, value)


def body_of(event: dict[str, Any], read: Callable[[bytes], Any] = parse_json) -> Any:
    """The body inside an envelope or a structured CloudEvent.

    Parameters
    ----------
    read
        Reads what `data_base64` holds.

    Raises
    ------
    Refused
        When `data_base64` does not hold JSON.
    """
    if "specversion" not in event:
        return event.get("payload")
    if "data" in event or "data_base64" not in event:
        return event.get("data")
    try:
        data = base64.b64decode(event["data_base64"], validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise Refused(Reason.MALFORMED_JSON, "data_base64 is not base64") from None
    return read(data)


def _check_version(version: Any) -> None:
    if not isinstance(version, str) or not (version.startswith("1.") or version == "0.3"):
        raise Refused(Reason.UNKNOWN_FORMAT, f"specversion {shown(version)} is not one of CloudEvents that is known")


def _cloud_event_time(time: Any, kafka_time: int) -> int | None:
    if time is None:
        return kafka_time if 0 <= kafka_time < END_OF_TIME else None
    return rfc3339_to_milliseconds(time)


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is not None and value.decode("utf-8") is not None
    except UnicodeDecodeError:
        return False
