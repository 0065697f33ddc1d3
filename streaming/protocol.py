"""What one message means: the reference reading of every wire format, one message at a time.

Everything that `streaming.messages` decodes in columns it decodes as this module says; whatever does not fit a known
skeleton is read here. Plain Python and the standard library's JSON, written to be checked by eye.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from reference.schema import Schema

Kind = Literal["request", "response"]
Layout = Literal["rows", "scalars", "fixed"]

CLOUD_EVENT_TYPES: Mapping[str, Kind] = {
    "org.kubeflow.serving.inference.request": "request",
    "org.kubeflow.serving.inference.response": "response",
}
STRUCTURED = "application/cloudevents+json"
END_OF_TIME = 253_402_300_800_000
"""The first millisecond of the year 10000, since the epoch: event times lie before it, and not before 1970."""

_BODY_KEYS: Mapping[Kind, tuple[str, str]] = {
    "request": ("instances", "inputs"),
    "response": ("predictions", "outputs"),
}
_DATATYPES = frozenset(
    "BOOL BYTES UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BF16".split()  # noqa: SIM905
)
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
    BAD_TIME = "bad_time"
    """The event time is absent where the format asks for it, unreadable, or outside of the years 1970 to 9999."""
    NO_INSTANCES = "no_instances"
    """The body holds none of the keys that this model's protocol allows, or an empty list under it."""
    WRONG_ARITY = "wrong_arity"
    """An instance or a tensor with another number of values than the model has columns."""
    WRONG_TYPE = "wrong_type"
    """A value that its column cannot hold: text for a number, a list for a category."""
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
            With the first of unknown type, unknown model, no id, bad time.
        """
        if self.kind not in ("request", "response"):
            raise Refused(Reason.UNKNOWN_TYPE, f"type {shown(self.kind)} is neither a request's nor a response's")
        if self.service is not None and expected_service is not None and self.service != expected_service:
            raise Refused(
                Reason.UNKNOWN_MODEL,
                f"inference service {shown(self.service)} is not {expected_service!r}, which this monitor watches",
            )
        if not isinstance(self.id, str) or not self.id or not is_unicode(self.id):
            raise Refused(
                Reason.NO_ID, f"id {shown(self.id)} is not the id of a request: send a text that is not empty"
            )
        if self.milliseconds is None:
            raise Refused(
                Reason.BAD_TIME,
                f"time {shown(self.time)} is not a time from 1970 to 9999: an envelope gives seconds since the epoch, "
                "a CloudEvent RFC 3339",
            )
        return "request" if self.kind == "request" else "response"


# Text, JSON and time --------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """The value as a person would want to see it in an error: short, and always printable."""
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    text = repr(text[:80] + "…" if len(text) > 80 else text) if isinstance(value, str) else text[:80]
    return text.encode("ascii", "backslashreplace").decode()


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def body_of(event: dict[str, Any]) -> Any:
    """The body inside an envelope or a structured CloudEvent.

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
        return parse_json(base64.b64decode(event["data_base64"], validate=True))
    except (TypeError, ValueError, binascii.Error):
        raise Refused(Reason.MALFORMED_JSON, "data_base64 is not base64") from None


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


# Bodies ---------------------------------------------------------------------------------------------------------------


def arranged(body: Any, kind: Kind, schema: Schema, protocol: str) -> tuple[list[Sequence[Any]], Layout]:
    """The JSON values of a body as rows in the order of the schema, and how the rows lay in it.

    The layout is `rows` for a list of lists and `scalars` for a list of values, which can be of any length without
    anything else in the body changing, else `fixed`.

    Raises
    ------
    Refused
        For a body without instances, or with some of another size.
    """
    v1, v2 = _BODY_KEYS[kind]
    rows: list[Sequence[Any]]
    layout: Layout
    if isinstance(body, dict) and protocol != "v2" and v1 in body:
        rows, layout = _arranged_v1(body[v1], v1, schema)
    elif isinstance(body, dict) and protocol != "v1" and v2 in body:
        rows, layout = _arranged_v2(body[v2], v2, schema), "fixed"
    else:
        wanted = {"v1": f"`{v1}`", "v2": f"`{v2}`"}.get(protocol, f"`{v1}` or `{v2}`")
        raise Refused(Reason.NO_INSTANCES, f"the body is no object with {wanted}, as a {kind} of this model has")
    if not rows:
        raise Refused(Reason.NO_INSTANCES, f"the body of the {kind} has an empty list of instances")
    return rows, layout


def _arranged_v1(instances: Any, key: str, schema: Schema) -> tuple[list[Sequence[Any]], Layout]:
    if not isinstance(instances, list):
        raise Refused(Reason.NO_INSTANCES, f"`{key}` is {shown(instances)}, not a list")
    width, lists, scalars = len(schema), 0, 0
    rows: list[Sequence[Any]] = []
    for index, instance in enumerate(instances):
        if isinstance(instance, list):
            if len(instance) != width:
                raise Refused(
                    Reason.WRONG_ARITY, f"instance {index} has {len(instance)} values, the model has {width} columns"
                )
            rows.append(instance)
            lists += 1
        elif isinstance(instance, dict):
            rows.append([instance.get(name) for name in schema.names])
        elif width == 1:
            rows.append([instance])
            scalars += 1
        else:
            raise Refused(
                Reason.WRONG_ARITY, f"instance {index} is {shown(instance)}, the model has {width} columns: send a list"
            )
    return rows, "rows" if lists == len(rows) else "scalars" if scalars == len(rows) else "fixed"


def _arranged_v2(tensors: Any, key: str, schema: Schema) -> list[Sequence[Any]]:
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise Refused(Reason.NO_INSTANCES, f"`{key}` is not a list of tensors")
    if not tensors:
        return []
    width = len(schema)
    known = {tensor.get("name"): tensor for tensor in tensors if tensor.get("name") in schema.names}
    if len(tensors) == 1 and (not known or width > 1):
        tensor = tensors[0]
        shape = _shape(tensor)
        if len(shape) == 2 and shape[1] == width:
            data = _flat(tensor, shape)
            return [data[start : start + width] for start in range(0, len(data), width)]
        if width == 1:
            known = {schema.names[0]: tensor}
    if not known:
        raise Refused(
            Reason.WRONG_ARITY,
            f"`{key}` has neither a tensor named like a column nor one of shape [n, {width}], for {width} columns",
        )
    columns: dict[Any, list[Any]] = {}
    rows = -1
    for name, tensor in known.items():
        shape = _shape(tensor)
        if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) or rows not in (-1, shape[0]):
            raise Refused(
                Reason.WRONG_ARITY,
                f"tensor {shown(name)} has shape {list(shape)}: a column has [n] or [n, 1], the same n in all",
            )
        rows = shape[0]
        columns[name] = _flat(tensor, shape)
    absent: list[Any] = [None] * rows
    return list(zip(*(columns.get(name, absent) for name in schema.names), strict=True))


def _shape(tensor: dict[str, Any]) -> tuple[int, ...]:
    shape = tensor.get("shape")
    name = shown(tensor.get("name"))
    if not isinstance(shape, list) or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape):
        raise Refused(Reason.WRONG_ARITY, f"tensor {name} has shape {shown(shape)}: send a list of sizes")
    if not isinstance(tensor.get("datatype"), str) or tensor["datatype"] not in _DATATYPES:
        raise Refused(Reason.WRONG_TYPE, f"tensor {name} has datatype {shown(tensor.get('datatype'))}, which is none")
    return tuple(shape)


def _flat(tensor: dict[str, Any], shape: tuple[int, ...]) -> list[Any]:
    """The data of a tensor, flat and row-major, whether it was nested or not."""
    data = tensor.get("data")
    name = shown(tensor.get("name"))
    if not isinstance(data, list):
        raise Refused(Reason.NO_INSTANCES, f"tensor {name} has no list of data (binary tensors cannot be read)")
    if len(shape) == 2 and len(data) == shape[0] and all(isinstance(row, list) for row in data):
        if any(len(row) != shape[1] for row in data):
            raise Refused(Reason.WRONG_ARITY, f"tensor {name} has rows that are not {shape[1]} long, as its shape says")
        data = [value for row in data for value in row]
    if len(data) != math.prod(shape):
        raise Refused(
            Reason.WRONG_ARITY, f"tensor {name} has {len(data)} values, its shape {list(shape)} says otherwise"
        )
    return data


# Values ---------------------------------------------------------------------------------------------------------------


def number(value: Any) -> float:
    """A value of a numeric column; the caller sees to None, which is missing.

    Raises
    ------
    TypeError
        For what is no number and no boolean.
    """
    if not isinstance(value, int | float):
        raise TypeError
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def category(value: Any) -> str | None:
    """The canonical text of a value of a categorical column; None for a missing one.

    Whole numbers are written without a fraction, so that 3 and 3.0 are one category. NaN is missing: it is what a data
    frame holds, and a Python client sends, where a text is missing.

    Raises
    ------
    TypeError
        For lists, objects, and text that is not Unicode.
    """
    if isinstance(value, str):
        if not is_unicode(value):
            raise TypeError
        return value
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    raise TypeError


def values(rows: list[Sequence[Any]], schema: Schema) -> list[list[Any]]:
    """The rows with every value as its column holds it: a float, a text, or None where missing.

    Raises
    ------
    Refused
        Naming the first instance and column whose value does not fit.
    """
    readers = [number if column.type == "numeric" else category for column in schema.columns]
    as_they_are = {float, type(None)} if not schema.categorical else set[type]()
    read = []
    for index, row in enumerate(rows):
        if as_they_are.issuperset(map(type, row)):
            read.append(list(row))
            continue
        try:
            read.append([None if cell is None else reader(cell) for reader, cell in zip(readers, row, strict=True)])
        except TypeError:
            raise _wrong_type(index, row, schema) from None
    return read


def _wrong_type(index: int, row: Sequence[Any], schema: Schema) -> Refused:
    for column, cell in zip(schema.columns, row, strict=True):
        try:
            _ = None if cell is None else number(cell) if column.type == "numeric" else category(cell)
        except TypeError:
            what = "a number" if column.type == "numeric" else "a category"
            text = f"instance {index}: {shown(column.name)} is {shown(cell)}, not {what}"
            return Refused(Reason.WRONG_TYPE, text)
    raise AssertionError(index)
