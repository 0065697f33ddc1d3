"""Wire formats: what every message means, one at a time and in any company."""

import base64
import hashlib
import json
import math
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectors.statistics import compiled
from reference.schema import Column, Model
from streaming.messages import Decoded, Decoder, Reason
from streaming.protocol import rfc3339_to_milliseconds, seconds_to_milliseconds

HEADERS = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
KAFKA_TIME = 1_700_000_000_000
REQUEST, RESPONSE = "org.kubeflow.serving.inference.request", "org.kubeflow.serving.inference.response"

relaxed = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


def column(name, kind="numeric"):
    return Column(name=name, type=kind)


@pytest.fixture(autouse=True)
def no_skeleton_may_fail(caplog):
    """The decoder would go on one message at a time, and only say so in its log."""
    yield
    assert not [record.getMessage() for record in caplog.get_records("call") if record.name == "streaming.messages"]


def model(*kinds, predictions=(), **more):
    """A model whose columns are n (numeric) or c (categorical)."""
    types = {"n": "numeric", "c": "categorical"}
    return Model(
        name="iris",
        features=tuple(column(f"x{i}", types[kind]) for i, kind in enumerate(kinds)),
        predictions=tuple(column(f"y{i}", types[kind]) for i, kind in enumerate(predictions)),
        **more,
    )


FOUR = model(*"nnnn", predictions="n")


def decode(decoder, messages, headers=None, times=None) -> Decoded:
    headers = headers or [None] * len(messages)
    pairs = [None if one is None else [{"key": k, "value": v} for k, v in one] for one in headers]
    times = np.full(len(messages), KAFKA_TIME) if times is None else np.array(times, np.int64)
    return decoder.decode(pa.array(messages, pa.binary()), pa.array(pairs, HEADERS), times)


def one(message, *, of=FOUR, headers=None, **more) -> Decoded:
    message = message if isinstance(message, bytes | None) else json.dumps(message).encode()
    return decode(Decoder(of, **more), [message], [headers])


def envelope(payload, *, kind="request", id_="a", time=1_700_000_000.5, **more):
    return {"type": kind, "id": id_, "time": time, "payload": payload, **more}


def cloud_headers(*, kind=REQUEST, id_="a", time="2023-11-14T22:13:20.123456789Z", service="iris"):
    """As KServe's agent (v0.15.2) sends them, and Knative's KafkaSink writes them."""
    pairs = {
        "ce_specversion": "1.0",
        "ce_id": id_,
        "ce_source": "http://localhost:9081/",
        "ce_type": kind,
        "ce_time": time,
        "ce_inferenceservicename": service,
        "ce_namespace": "default",
        "ce_component": "predictor",
        "ce_endpoint": "default",
        "ce_metadata": "{}" if kind == REQUEST else "null",
        "content-type": "application/json",
    }
    return [(key, value.encode()) for key, value in pairs.items() if value is not None]


def rows_of(decoded: Decoded):
    """Everything that was decoded, as plain lists: by message (id, time, kind, rows) or the reason."""
    messages: dict[int, tuple] = {}
    for rejected in decoded.rejected:
        assert rejected.message not in messages
        assert rejected.text.isprintable()
        assert decoded.ids[rejected.message] == ""
        messages[rejected.message] = (str(rejected.reason), rejected.time)
    rows: dict[int, list] = {}
    for kind, table in (("request", decoded.requests), ("response", decoded.responses)):
        assert list(table.message) == sorted(table.message)
        block = table.block
        assert block.missing.shape == block.numeric.shape
        for i, message in enumerate(table.message.tolist()):
            mine = rows.setdefault(message, [])
            assert table.instance[i] == len(mine)
            numbers = [
                None if gone else repr(value)
                for value, gone in zip(block.numeric[i].tolist(), block.missing[i].tolist(), strict=True)
            ]
            assert all(math.isnan(x) for x in block.numeric[i][block.missing[i]])
            words = [None if c.codes[i] < 0 else c.values[c.codes[i]] for c in block.categorical]
            mine.append((kind, *numbers, *words))
    assert not set(rows) & set(messages)
    return [
        messages.get(i) or (decoded.ids[i], int(decoded.times[i]), rows.get(i, [])) for i in range(len(decoded.ids))
    ]


# The oracle: the formats read once more, by somebody else, with nothing but the standard library ----------------------


class No(Exception):
    pass


def oracle(value, headers, of, kafka_time=KAFKA_TIME, max_bytes=1 << 20):
    """(id, time, rows), or (reason, time)."""
    state = {"time": None}
    try:
        return _oracle(value, {k: v for k, v in headers or [] if v is not None}, of, kafka_time, max_bytes, state)
    except No as no:
        return (str(no), state["time"])


def _oracle(value, headers, of, kafka_time, max_bytes, state):
    content = headers.get("content-type", b"").split(b";")[0].strip().lower()
    structured = content == b"application/cloudevents+json"
    if content.startswith(b"application/cloudevents") and not structured:
        raise No("unknown_format")
    binary = "ce_specversion" in headers and not structured

    def cloud_time(text):
        return kafka_time if text is None and kafka_time >= 0 else _oracle_time(text)

    if binary:
        names = ("specversion", "type", "id", "time", "inferenceservicename")
        event = {n: headers[f"ce_{n}"].decode("utf-8", "replace") for n in names if f"ce_{n}" in headers}
        if event["specversion"][:2] == "1." or event["specversion"] == "0.3":
            state["time"] = cloud_time(event.get("time"))
    if not value:
        raise No("empty")
    if len(value) > max_bytes:
        raise No("too_large")
    if not binary:
        event = _oracle_json(value)
        if not isinstance(event, dict):
            raise No("unknown_format")
    cloud = binary or structured or "specversion" in event
    if cloud:
        version = event.get("specversion")
        if not isinstance(version, str) or not (version[:2] == "1." or version == "0.3"):
            raise No("unknown_format")
        state["time"] = cloud_time(event.get("time"))
        kind = {REQUEST: "request", RESPONSE: "response"}.get(str(event.get("type")))
        if kind is None:
            raise No("unknown_type")
        if event.get("inferenceservicename") not in (None, of.inference_service or of.name):
            raise No("unknown_model")
    else:
        if "type" not in event and "payload" not in event:
            raise No("unknown_format")
        time = event.get("time")
        if isinstance(time, int | float) and not isinstance(time, bool) and 0 <= time < 253402300800:
            state["time"] = round(float(time) * 1e6) // 1000
        kind = event.get("type")
        if kind not in ("request", "response"):
            raise No("unknown_type")
    id_ = event.get("id")
    if not isinstance(id_, str) or not id_ or not _writable(id_):
        raise No("no_id")
    if binary and not _decodes(headers["ce_id"]):
        raise No("no_id")
    if id_[1000:]:
        raise No("bad_id")
    if state["time"] is None:
        raise No("bad_time")
    columns = of.features if kind == "request" else of.predictions
    if not columns:
        return (id_, state["time"], [])
    if binary:
        body = _oracle_json(value)
    elif not cloud:
        body = event.get("payload")
    elif "data" not in event and "data_base64" in event:
        try:
            body = _oracle_json(base64.b64decode(event["data_base64"], validate=True))
        except (TypeError, ValueError):
            raise No("malformed_json") from None
    else:
        body = event.get("data")
    rows = [
        [_oracle_cell(c, cell) for c, cell in zip(columns, row, strict=True)] for row in _oracle_rows(body, kind, of)
    ]
    order = sorted(range(len(columns)), key=lambda i: columns[i].type != "numeric")
    return (id_, state["time"], [(kind, *(row[i] for i in order)) for row in rows])


def _oracle_json(value):
    def constant(text):
        return float(text.replace("Infinity", "inf"))

    try:
        return json.loads(value.decode(), parse_constant=constant)
    except RecursionError:
        raise No("malformed_json") from None
    except ValueError:
        raise No("malformed_json") from None


def _oracle_time(text):
    if not isinstance(text, str):
        return None
    if not re.fullmatch(
        r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)", text, re.ASCII
    ):
        return None
    fraction = re.search(r"\.(\d+)", text)
    zone = "+00:00" if text[-1] in "zZ" else text[-6:]
    leap = text[17:19] == "60"
    try:
        naive = datetime.strptime(text[:10] + "T" + text[11:17] + ("59" if leap else text[17:19]), "%Y-%m-%dT%H:%M:%S")  # noqa: DTZ007
    except ValueError:
        return None
    away = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:])) * (-1 if zone[0] == "-" else 1)
    seconds = (naive.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC) - away) // timedelta(seconds=1) + leap
    time = seconds * 1000 + int(((fraction[1] if fraction else "") + "000")[:3])
    return time if 0 <= time < 253402300800000 else None


def _oracle_rows(body, kind, of):
    columns = of.features if kind == "request" else of.predictions
    names = [c.name for c in columns]
    v1, v2 = ("instances", "inputs") if kind == "request" else ("predictions", "outputs")
    if isinstance(body, dict) and v1 in body and of.protocol in ("auto", "v1"):
        if not isinstance(body[v1], list) or not body[v1]:
            raise No("no_instances")
        rows = []
        for instance in body[v1]:
            if isinstance(instance, dict):
                rows.append([instance.get(name) for name in names])
            elif isinstance(instance, list) and len(instance) == len(names):
                rows.append(instance)
            elif not isinstance(instance, list) and len(names) == 1:
                rows.append([instance])
            else:
                raise No("wrong_arity")
        return rows
    if isinstance(body, dict) and v2 in body and of.protocol in ("auto", "v2"):
        tensors = body[v2]
        if not isinstance(tensors, list) or not tensors or not all(isinstance(t, dict) for t in tensors):
            raise No("no_instances")
        return _oracle_tensors(tensors, names)
    raise No("no_instances")


def _oracle_tensors(tensors, names):
    def shape_of(tensor):
        shape = tensor.get("shape")
        if not isinstance(shape, list) or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in shape):
            raise No("wrong_arity")
        if not re.fullmatch(r"BOOL|BYTES|U?INT(8|16|32|64)|FP(16|32|64)|BF16", str(tensor.get("datatype"))):
            raise No("wrong_type")
        return shape

    def flat(tensor, shape):
        data = tensor.get("data")
        if not isinstance(data, list):
            raise No("no_instances")
        if len(shape) == 2 and len(data) == shape[0] and all(isinstance(row, list) for row in data):
            if {len(row) for row in data} - {shape[1]}:
                raise No("wrong_arity")
            data = [cell for row in data for cell in row]
        if len(data) != math.prod(shape):
            raise No("wrong_arity")
        return data

    named = {t["name"]: t for t in tensors if t.get("name") in names}
    only = tensors[0] if len(tensors) == 1 and (not named or len(names) > 1) else None
    if only is not None:
        shape = shape_of(only)
        if len(shape) == 2 and shape[1] == len(names):
            data = flat(only, shape)
            rows = [data[i * len(names) : (i + 1) * len(names)] for i in range(shape[0])]
            if not rows:
                raise No("no_instances")
            return rows
        if len(names) == 1:
            named = {names[0]: only}
    if not named:
        raise No("wrong_arity")
    columns, sizes = {}, set()
    for name, tensor in named.items():
        shape = shape_of(tensor)
        sizes.add(shape[0] if shape else -1)
        if len(shape) not in (1, 2) or shape[1:] not in ([], [1]) or len(sizes) > 1:
            raise No("wrong_arity")
        columns[name] = flat(tensor, shape)
    (size,) = sizes
    if not size:
        raise No("no_instances")
    return [[columns[name][i] if name in columns else None for name in names] for i in range(size)]


def _oracle_cell(of, cell):
    if cell is None:
        return None
    if of.type == "numeric":
        if not isinstance(cell, int | float):
            raise No("wrong_type")
        try:
            return repr(float(cell))
        except OverflowError:
            return "inf" if cell > 0 else "-inf"
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        if math.isnan(cell):
            return None
        if math.isinf(cell):
            return "Infinity" if cell > 0 else "-Infinity"
        return str(int(cell)) if cell == int(cell) and abs(cell) < 2**53 else repr(cell)
    if isinstance(cell, int) or (isinstance(cell, str) and _writable(cell)):
        text = str(cell)
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=4).hexdigest()
        return f"{text[:150]}…#{digest}" if text[200:] else text
    raise No("wrong_type")


def _writable(text):
    return not any(0xD800 <= ord(c) < 0xE000 for c in text)


def _decodes(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# Any mix of formats ---------------------------------------------------------------------------------------------------

MODELS = [
    FOUR,
    model("n"),
    model("c", predictions="c"),
    model(*"ncn", predictions="nc"),
    model(*"cn", predictions="nn", protocol="v1"),
    model(*"nn", predictions="c", protocol="v2", inference_service="flowers"),
]

plain_numbers = st.one_of(
    st.integers(-1000, 1000),
    st.floats(-1e6, 1e6).map(lambda x: round(x, 3)),
    st.floats(allow_nan=False, allow_infinity=False),
)
odd_numbers = st.one_of(
    st.sampled_from([None, True, False, math.nan, math.inf, -math.inf, 10**400, -(10**400), 2**64, 0, -0.0, 1e-320]),
    st.integers(),
)
words = st.one_of(
    st.sampled_from(["UA", "JFK", "a,b", "],[", '"', "\\", "null", "1", "\u00e9", "\ud800", "\n", ' "x": ', ""]),
    st.sampled_from(["long " * 40, "long " * 40 + "a", "long " * 40 + "b", "\u00e9" * 201, "\\" * 300]),
    st.text(max_size=8),
)
bad_cells = st.one_of(st.just([]), st.just({}), st.just([1]), words)


@st.composite
def clients(draw, of):
    """A way of writing messages: what one client does all the time."""
    return {
        "format": draw(st.sampled_from(["envelope", "binary", "binary", "structured", "structured+header", "base64"])),
        "kind": draw(st.sampled_from(["request", "request", "response"])),
        "body": draw(st.sampled_from(["rows", "named", "tensors", "matrix", "matrix nested", "scalars"])),
        "separators": draw(st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")])),
        "ascii": draw(st.booleans()),
        "reverse": draw(st.booleans()),
        "time": draw(st.sampled_from(["Z", "+02:00", "-00:30", "none"])),
        "extra": draw(st.booleans()),
        "odd": draw(st.sampled_from([0, 0, 0.1, 0.5])),
        "bad": draw(st.sampled_from([0, 0, 0, 0.05, 0.3])),
        "service": draw(st.sampled_from([None, of.inference_service or of.name, of.inference_service or of.name, "x"])),
    }


@st.composite
def bodies(draw, client, of):
    columns = of.features if client["kind"] == "request" else of.predictions
    count = draw(st.sampled_from([1, 1, 1, 2, 3, 0]))

    def cell(kind):
        chance = draw(st.floats(0, 1))
        if chance < client["bad"]:
            return draw(bad_cells)
        if chance > 1 - client["odd"]:
            return draw(odd_numbers)
        return draw(plain_numbers if kind == "numeric" else st.one_of(words, st.integers(0, 3)))

    rows = [[cell(c.type) for c in columns] for _ in range(count)]
    if rows and draw(st.floats(0, 1)) < client["bad"]:
        draw(st.sampled_from(rows)).append(1)
    v1, v2 = ("instances", "inputs") if client["kind"] == "request" else ("predictions", "outputs")
    style, extra = client["body"], {"parameters": {"n": draw(st.integers(0, 9))}} if client["extra"] else {}
    if style == "rows":
        return {v1: rows, **extra}
    if style == "scalars":
        return {v1: [row[0] if row else 1 for row in rows]}
    if style == "named":
        order = list(zip((c.name for c in columns), range(len(columns)), strict=True))
        order = order[::-1] if client["reverse"] else order
        return {v1: [{name: row[i] for name, i in order} | extra for row in rows]}
    if style == "tensors":
        deep = draw(st.booleans())
        order = list(enumerate(columns))
        return {
            "id": draw(st.text("ab", max_size=3)),
            v2: [
                {
                    "name": c.name,
                    "shape": [count, 1] if deep else [count],
                    "datatype": "FP64" if c.type == "numeric" else "BYTES",
                    "data": [row[i] for row in rows],
                }
                for i, c in (order[::-1] if client["reverse"] else order)
            ],
        }
    data = rows if style == "matrix nested" else [cell for row in rows for cell in row]
    return {v2: [{"name": "input-0", "shape": [count, len(columns)], "datatype": "FP32", "data": data}]}


@st.composite
def messages(draw, client, of):
    """(value, headers) of one message of a client."""
    body = draw(bodies(client, of))

    def dumps(value):
        value = dict(reversed(value.items())) if client["reverse"] and isinstance(value, dict) else value
        text = json.dumps(value, separators=client["separators"], ensure_ascii=client["ascii"])
        return text.encode("utf-8", "surrogatepass")

    id_ = draw(st.one_of(st.uuids().map(str), st.text(max_size=3), st.sampled_from(["req-1", "a", "b", None, 7])))
    seconds = draw(st.one_of(st.integers(0, 2 * 10**9), st.floats(0, 2e9).map(lambda x: round(x, 3)), st.floats()))
    moment = datetime.fromtimestamp(seconds % 4e9 if math.isfinite(seconds) else 0, UTC)
    text = None if client["time"] == "none" else moment.strftime("%Y-%m-%dT%H:%M:%S.%f789") + client["time"]
    event_type = REQUEST if client["kind"] == "request" else RESPONSE
    if client["format"] == "envelope":
        extra = {"trace": id_} if client["extra"] else {}
        return dumps(envelope(body, kind=client["kind"], id_=id_, time=seconds, **extra)), None
    if client["format"] == "binary":
        if not isinstance(id_, str) or not _writable(id_):
            id_ = "x"
        return dumps(body), cloud_headers(kind=event_type, id_=id_, time=text, service=client["service"])
    event = {"specversion": "1.0", "id": id_, "source": "/x", "type": event_type, "traceparent": draw(st.text("0f"))}
    event |= {} if text is None else {"time": text}
    event |= {} if client["service"] is None else {"inferenceservicename": client["service"]}
    if client["format"] == "base64":
        event["data_base64"] = base64.b64encode(dumps(body)).decode()
    else:
        event["data"] = body
    content = b"application/cloudevents+json; charset=UTF-8"
    return dumps(event), [("content-type", content)] if client["format"] == "structured+header" else None


@st.composite
def batches(draw, *, mutated=False):
    of = draw(st.sampled_from(MODELS))
    few = draw(st.lists(clients(of), min_size=1, max_size=3))
    batch = [draw(messages(draw(st.sampled_from(few)), of)) for _ in range(draw(st.integers(1, 8)))]
    # the same messages again, so that skeletons are learned from some and looked for in others
    again = [draw(st.sampled_from(batch)) for _ in range(draw(st.integers(0, 16)))]
    if mutated:
        again = [(draw(mutations(value)), draw(header_mutations(headers))) for value, headers in again]
    return of, batch + again


SPLINTERS = [b"]", b"[", b"},{", b"],[", b",", b'"', b"\\", b"null", b"NaN", b"nan", b"01", b".5", b"1.", b"1.e5", b"-",
             b"+1", b"1e999", b"1e-999", b"\x00", b"\n", b" ", b"\xff", b"\xed\xa0\x80", b"true", b"-Infinity", b"\xef\xbb\xbf",
             b'{"instances":[[1,2,3,4]]}', b'","time":1,"payload":{"instances":[[', b"e", b"E5", b"00"]  # fmt: skip


@st.composite
def mutations(draw, value):
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        at = draw(st.integers(0, len(value)))
        how = draw(st.sampled_from(["insert", "replace", "cut", "drop", "double"]))
        if how == "insert":
            value = value[:at] + draw(st.sampled_from(SPLINTERS)) + value[at:]
        elif how == "replace":
            value = value[:at] + draw(st.one_of(st.sampled_from(SPLINTERS), st.binary(max_size=2))) + value[at + 1 :]
        elif how == "cut":
            value = value[:at]
        elif how == "drop":
            value = value[:at] + value[at + draw(st.integers(1, 4)) :]
        else:
            value = value + value[at:]
    return value


@st.composite
def header_mutations(draw, headers):
    if headers is None or draw(st.integers(0, 3)):
        return headers
    headers = list(headers)
    at = draw(st.integers(0, len(headers) - 1))
    key, value = headers[at]
    how = draw(st.sampled_from(["drop", "null", "bytes", "twice", "content"]))
    if how == "drop":
        del headers[at]
    elif how == "null":
        headers[at] = (key, None)
    elif how == "bytes":
        headers[at] = (
            key,
            draw(st.one_of(st.binary(max_size=4), st.sampled_from([value + b"\xff", value[:-1], b"0.3"]))),
        )
    elif how == "twice":
        headers.append((key, draw(st.sampled_from([b"", b"b", value]))))
    else:
        content = st.sampled_from(
            [b"application/cloudevents-batch+json", b"Application/CloudEvents+JSON", b"text/plain"]
        )
        headers.append(("content-type", draw(content)))
    return headers


def last_of_each(headers):
    """A header given twice counts as its last."""
    return None if headers is None else list(dict(headers).items())


@relaxed
@given(batches())
def test_any_mix_reads_as_the_oracle_reads_each_message(case):
    of, batch = case
    decoded = decode(Decoder(of), [value for value, _ in batch], [headers for _, headers in batch])
    assert rows_of(decoded) == [oracle(value, headers, of) for value, headers in batch]


@relaxed
@given(batches(mutated=True))
def test_mutated_messages_read_as_the_oracle_reads_each_of_them(case):
    of, batch = case
    decoded = decode(Decoder(of), [value for value, _ in batch], [headers for _, headers in batch])
    assert rows_of(decoded) == [oracle(value, last_of_each(headers), of) for value, headers in batch]


@relaxed
@given(batches(mutated=True), st.randoms(use_true_random=False))
def test_what_a_decoder_has_learned_changes_nothing(case, random):
    of, batch = case
    decoder = Decoder(of)
    alone = [rows_of(decode(Decoder(of), [value], [headers]))[0] for value, headers in batch]
    for _ in range(3):
        order = random.sample(range(len(batch)), len(batch))
        decoded = decode(decoder, [batch[i][0] for i in order], [batch[i][1] for i in order])
        assert rows_of(decoded) == [alone[i] for i in order]


# Clients whose skeletons are known before anything is mutated, so that every mutant is held against them.


def corpus():
    for of in MODELS:
        for kind, columns in (("request", of.features), ("response", of.predictions)):
            for style in range(12 if columns else 2):
                yield of, [written(of, kind, columns, style, i) for i in range(8)]


def written(of, kind, columns, style, i):
    def cell(c, k):
        return (i + k) / 7 if c.type == "numeric" else ["UA", "B6", None, 3, "\u00e9"][(i + k) % 5]

    rows = [[cell(c, k + j) for j, c in enumerate(columns)] for k in range(2 if style % 2 else 1)]
    n, v1, v2 = len(rows), *(("instances", "inputs") if kind == "request" else ("predictions", "outputs"))
    body = [
        {v1: rows},
        {v1: [{c.name: row[j] for j, c in enumerate(columns)} | {"customer": f"c{i}"} for row in rows]},
        {v2: [{"name": c.name, "shape": [n, 1], "datatype": "FP64", "data": [row[j] for row in rows]}
              for j, c in enumerate(columns)], "id": f"b{i}"},
        {v2: [{"name": "all", "shape": [n, len(columns)], "datatype": "FP64", "data": [c for row in rows for c in row]}]},
        {v2: [{"name": "all", "shape": [n, len(columns)], "datatype": "FP64", "data": rows}]},
        {v1: [row[0] if len(row) == 1 else row for row in rows]},
    ][style // 2 % 6]  # fmt: skip
    separators = [(",", ":"), (", ", ": ")][(style + len(columns)) % 2]
    type_ = REQUEST if kind == "request" else RESPONSE
    time = f"2023-11-14T22:13:2{i}.{i}Z"
    if style % 3 == 0:
        return json.dumps(
            envelope(body, kind=kind, id_=f"{i}", time=1.7e9 + i / 8), separators=separators
        ).encode(), None
    if style % 3 == 1:
        headers = cloud_headers(kind=type_, id_=f"{i}", time=time, service=None)
        return json.dumps(body, separators=separators).encode(), headers
    event = {"specversion": "1.0", "id": f"{i}", "type": type_, "time": time, "data": body, "trace": f"{i}"}
    return json.dumps(event, separators=separators).encode(), None


CORPUS = list(corpus())


@settings(relaxed, max_examples=300)
@given(st.data())
def test_mutants_of_what_was_learned(data):
    of, clean = data.draw(st.sampled_from(CORPUS))
    decoder = Decoder(of)
    decode(decoder, [value for value, _ in clean], [headers for _, headers in clean])
    several = data.draw(st.lists(st.sampled_from(clean), min_size=1, max_size=6))
    batch = [(data.draw(mutations(value)), headers) for value, headers in several]
    decoded = decode(decoder, [value for value, _ in batch], [headers for _, headers in batch])
    assert rows_of(decoded) == [oracle(value, headers, of) for value, headers in batch]


@pytest.mark.parametrize("index", range(len(CORPUS)))
def test_clients_are_read_by_skeletons_once_they_are_known(index, monkeypatch):
    of, clean = CORPUS[index]
    values, headers = [value for value, _ in clean], [headers for _, headers in clean]
    expected = [oracle(value, header, of) for value, header in clean]
    decoder = Decoder(of)
    assert rows_of(decode(decoder, values, headers)) == expected
    if all(len(one) == 3 for one in expected):
        monkeypatch.setattr("streaming.messages._Batch._one_by_one", lambda *_: pytest.fail("read one by one"))
    assert rows_of(decode(decoder, values, headers)) == expected


random_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5), st.just("request")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from("type id time payload instances inputs name shape datatype data specversion x0".split()),  # noqa: SIM905
            inner,
            max_size=5,
        ),
    ),
    max_leaves=20,
)
header_keys = st.sampled_from(["ce_specversion", "ce_id", "ce_type", "ce_time", "content-type", "x", ""])
header_values = st.one_of(
    st.none(), st.binary(max_size=8), st.sampled_from([b"1.0", REQUEST.encode(), RESPONSE.encode()])
)


@relaxed
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.binary(max_size=64), random_json.map(lambda x: json.dumps(x).encode())),
            st.one_of(st.none(), st.lists(st.tuples(header_keys, header_values), max_size=6)),
            st.integers(-(2**63), 2**63 - 1),
        ),
        max_size=20,
    ),
    st.sampled_from(MODELS),
)
def test_no_bytes_whatever_raise(batch, of):
    decoded = decode(Decoder(of), [b[0] for b in batch], [b[1] for b in batch], [b[2] for b in batch])
    read = rows_of(decoded)  # asserts that none is both decoded and rejected
    assert len(read) == len(batch)
    assert all(one.reason != Reason.INTERNAL for one in decoded.rejected)
    assert all(decoded.ids[i] for i in range(len(batch)) if len(read[i]) == 3)


# Neighbours -----------------------------------------------------------------------------------------------------------


def good(i):
    return json.dumps(envelope({"instances": [[i, i + 0.5, -i, 1e-7 * i]]}, id_=f"id-{i}", time=i)).encode()


@pytest.mark.parametrize(
    "halves",
    [
        (good(1)[:60], good(1)[60:]),
        (good(1) + b"," + good(2), b""),
        (good(1) + b"\n" + good(2), b" "),
        (good(1)[:-1] + b",", b'"x":1}'),
        (b"[" + good(1), good(2) + b"]"),
        (b'{"type":"request","id":"a', b'","time":1,"payload":{"instances":[[1,2,3,4]]}}'),
        (good(1).replace(b"]]", b"],[5,6"), b",7,8]]}}"),
        (good(1).replace(b"]]", b", 5]]"), good(2).replace(b"[[2, ", b"[[")),
        (good(1).replace(b'"id-1"', b'"id-2","id":"id-1'), good(2)[60:]),
    ],
)
def test_messages_that_split_or_join_never_touch_their_neighbours(halves):
    around = [good(i) for i in range(10, 20)]
    for place in range(len(around) + 1):
        batch = [*around[:place], *halves, *around[place:]]
        read = rows_of(decode(Decoder(FOUR), batch))
        assert read == [oracle(value, None, FOUR) for value in batch]
        assert sum(len(one) == 3 for one in read) == 10


def test_one_bad_message_in_a_large_batch_is_the_only_one_rejected():
    batch = [good(i) for i in range(20_000)]
    batch[12_345] = b'{"type": "request", "id": "bad", "time": 1, "payload": {"instances": [[1, 2, "x", 4]]}}'
    decoded = decode(Decoder(FOUR), batch)
    assert [(one.message, one.reason) for one in decoded.rejected] == [(12_345, Reason.WRONG_TYPE)]
    assert decoded.rejected[0].text == "instance 0: 'x2' is 'x', not a number"
    assert decoded.rejected[0].time == 1000
    assert np.array_equal(decoded.requests.message, np.delete(np.arange(20_000), 12_345))
    expected = np.array([[i, i + 0.5, -i, 1e-7 * i] for i in range(20_000) if i != 12_345])
    assert np.array_equal(decoded.requests.block.numeric, expected)
    assert decoded.ids == [f"id-{i}" if i != 12_345 else "" for i in range(20_000)]


def test_slices_of_a_larger_array_read_the_same():
    batch = [good(i) for i in range(50)]
    values = pa.array(batch, pa.binary())
    headers = pa.array([[{"key": "x", "value": b"y"}]] * 50, HEADERS)
    times = np.full(50, KAFKA_TIME)
    decoded = Decoder(FOUR).decode(values.slice(7, 20), headers.slice(7, 20), times[7:27])
    assert decoded.ids == [f"id-{i}" for i in range(7, 27)]
    assert decoded.requests.block.numeric[:, 0].tolist() == list(range(7, 27))


def test_an_empty_batch():
    decoded = Decoder(model(*"nc")).decode(pa.array([], pa.binary()), None, np.empty(0, np.int64))
    assert decoded.ids == []
    assert decoded.requests.block.rows == 0
    assert len(decoded.requests.block.categorical) == 1


# Reasons --------------------------------------------------------------------------------------------------------------

ROW = {"instances": [[1, 2, 3, 4]]}


def tensor(**more):
    return {"inputs": [{"name": "t", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]} | more]}


REASONS = {
    Reason.EMPTY: [None, b""],
    Reason.MALFORMED_JSON: [
        b" ", b"{", b"\xff", b'{"a":1}}', b"nan", b"[" * 100_000, b'\xef\xbb\xbf{"type":1}', b'{"x":01}', b'{"x":"\n"}',
        {"specversion": "1.0", "id": "a", "type": REQUEST, "data_base64": "?"},
        {"specversion": "1.0", "id": "a", "type": REQUEST, "data_base64": "ey"},
    ],
    Reason.UNKNOWN_FORMAT: [
        [], 3, "x", ROW, {}, {"specversion": "2.0"}, {"specversion": 1.0, "type": REQUEST, "id": "a", "data": ROW},
    ],
    Reason.UNKNOWN_TYPE: [
        envelope(ROW, kind="event"), envelope(ROW, kind=None), envelope(ROW, kind=[]), {"payload": ROW},
        {"specversion": "1.0", "type": "org.kubeflow.serving.inference.feedback", "id": "a", "data": ROW},
    ],
    Reason.UNKNOWN_MODEL: [
        {"specversion": "1.0", "type": REQUEST, "id": "a", "inferenceservicename": "titanic", "data": ROW},
    ],
    Reason.NO_ID: [
        envelope(ROW, id_=""), envelope(ROW, id_=None), envelope(ROW, id_=3), envelope(ROW, id_="\ud800"),
        {"type": "request", "time": 1, "payload": ROW},
    ],
    Reason.BAD_ID: [
        envelope(ROW, id_="x" * 1001), envelope(ROW, id_="\u00e9" * 1001), envelope(ROW, id_="x" * 1001, time=None),
        {"specversion": "1.0", "type": REQUEST, "id": "x" * 1001, "data": ROW},
    ],
    Reason.BAD_TIME: [
        envelope(ROW, time=None), envelope(ROW, time="2023-11-14T22:13:20Z"), envelope(ROW, time=True),
        envelope(ROW, time=-1), envelope(ROW, time=math.nan), envelope(ROW, time=253402300800), envelope(ROW, time=10**400),
        {"specversion": "1.0", "type": REQUEST, "id": "a", "time": "yesterday", "data": ROW},
    ],
    Reason.NO_INSTANCES: [
        envelope(None), envelope([]), envelope({}), envelope({"instances": []}), envelope({"instances": 5}),
        envelope({"inputs": []}), envelope({"inputs": [1]}), envelope({"predictions": [1]}), envelope(tensor(data=None)),
        envelope(tensor(shape=[0, 4], data=[])),
    ],
    Reason.WRONG_ARITY: [
        envelope({"instances": [[1, 2, 3]]}), envelope({"instances": [[1, 2, 3, 4], [1, 2, 3, 4, 5]]}),
        envelope({"instances": [7]}), envelope({"instances": ["abcd"]}), envelope({"instances": [[]]}),
        envelope(tensor(shape=[4])), envelope(tensor(shape=[2, 4])), envelope(tensor(shape=None)),
        envelope(tensor(shape=[1, 4.0])), envelope(tensor(shape=[2, 4], data=[[1, 2, 3], [4, 5, 6, 7, 8]])),
        envelope({"inputs": [{"name": "x0", "shape": [1], "datatype": "FP64", "data": [1]},
                             {"name": "x1", "shape": [2], "datatype": "FP64", "data": [1, 2]}]}),
    ],
    Reason.WRONG_TYPE: [
        envelope({"instances": [[1, 2, 3, "4"]]}), envelope({"instances": [[1, 2, 3, [4]]]}),
        envelope({"instances": [{"x2": {}}]}), envelope(tensor(datatype="STRING")), envelope(tensor(datatype=None)),
        envelope(tensor(data=[[1], [2], [3], [4]])),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("reason", "message"), [(r, m) for r, several in REASONS.items() for m in several])
def test_reasons(reason, message):
    decoded = one(message)
    assert [rejected.reason for rejected in decoded.rejected] == [reason]
    assert rows_of(decoded) == [
        oracle(message if isinstance(message, bytes | None) else json.dumps(message).encode(), None, FOUR)
    ]


@pytest.mark.parametrize("door", ["envelope", "structured", "headers"])
@pytest.mark.parametrize("letter", ["x", "é", "\U0001f600", '"'])
def test_ids_of_a_thousand_characters_and_no_more(door, letter):
    ids = ["a", "b", letter * 1000, letter * 1001, "x" * 100_000, "c", letter * 1001]
    bodies, headers = [], []
    for id_ in ids:
        by_headers = door == "headers"
        event = {"specversion": "1.0", "type": REQUEST, "id": id_, "data": ROW}
        body = ROW if by_headers else event if door == "structured" else envelope(ROW, id_=id_)
        bodies.append(json.dumps(body, ensure_ascii=letter == '"').encode())
        headers.append(cloud_headers(id_=id_) if by_headers else None)
    decoded = decode(Decoder(FOUR), bodies, headers)
    assert [(one.message, one.reason) for one in decoded.rejected] == [(i, Reason.BAD_ID) for i in (3, 4, 6)]
    assert all(len(one.text) < 2000 and one.time is not None for one in decoded.rejected)
    assert decoded.ids == ["a", "b", letter * 1000, "", "", "c", ""]
    assert decoded.requests.message.tolist() == [0, 1, 2, 5]


def test_long_categories_are_cut_alike_by_every_reading():
    of = model(*"cn")
    cells = ["a", "x" * 200, "x" * 201, "x" * 300 + "a", "x" * 300 + "b", "\u00e9" * 201, "\n" * 201, 10**250]
    batch = [json.dumps(envelope({"instances": [[cell, 1]]})).encode() for cell in cells * 5]
    together = rows_of(decode(Decoder(of), batch))
    assert together == [rows_of(decode(Decoder(of), [value]))[0] for value in batch]
    assert together == [oracle(value, None, of) for value in batch]
    words = [rows[0][2] for _, _, rows in together[: len(cells)]]
    assert words[:2] == ["a", "x" * 200]
    assert words[3][:152] == "x" * 150 + "…#"
    assert len(set(words)) == len(words)
    assert all(len(word) == 160 for word in words[2:])


def test_every_reason_of_the_decoder_has_an_example():
    elsewhere = {Reason.TOO_LARGE, Reason.LATE, Reason.FUTURE, Reason.INTERNAL, Reason.NO_LABEL, Reason.UNMATCHED_LABEL}
    assert set(Reason) - set(REASONS) == elsewhere


def test_too_large_says_so_without_reading():
    decoded = one(envelope(ROW), max_bytes=20)
    (rejected,) = decoded.rejected
    assert rejected.reason == Reason.TOO_LARGE
    assert rejected.time is None
    by_headers = one({"instances": []}, headers=cloud_headers(), max_bytes=10)
    assert by_headers.rejected[0].time == 1_700_000_000_123


def test_a_mistake_of_ours_is_a_dead_letter_too(monkeypatch):
    monkeypatch.setattr("streaming.messages.values", lambda *_, **__: 1 / 0)
    (rejected,) = one(envelope(ROW)).rejected
    assert (rejected.reason, rejected.text) == (Reason.INTERNAL, "ZeroDivisionError: 'division by zero'")
    assert rejected.time == 1_700_000_000_500


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (envelope({"instances": [[1, 2, 3, 4], [1, 2, 3]]}), "instance 1 has 3 values, the model has 4 columns"),
        (envelope({"instances": [{"x1": "high"}]}), "instance 0: 'x1' is 'high', not a number"),
        (envelope(ROW, kind="feedback"), "type 'feedback' is neither a request's nor a response's"),
    ],
)
def test_texts_name_what_is_wrong(message, text):
    assert one(message).rejected[0].text == text


# Fixtures seen in the wild --------------------------------------------------------------------------------------------


def test_what_kserves_agent_sends():
    agent = [
        (b'{"instances": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]}', cloud_headers(id_="0ae6e0f1")),
        (b'{"predictions": [1, 1]}', cloud_headers(kind=RESPONSE, id_="0ae6e0f1", time="2023-11-14T22:13:20.223Z")),
    ] * 10
    decoded = decode(Decoder(FOUR), [value for value, _ in agent], [headers for _, headers in agent])
    assert not decoded.rejected
    assert set(decoded.ids) == {"0ae6e0f1"}
    assert decoded.times[:2].tolist() == [1_700_000_000_123, 1_700_000_000_223]
    assert decoded.requests.message[:4].tolist() == [0, 0, 2, 2]
    assert decoded.requests.instance[:4].tolist() == [0, 1, 0, 1]
    assert decoded.requests.block.numeric[:2].tolist() == [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
    assert decoded.responses.message[:4].tolist() == [1, 1, 3, 3]
    assert (decoded.responses.block.numeric == 1).all()


def test_an_event_of_another_service_is_not_ours():
    decoded = one({"instances": [[1, 2, 3, 4]]}, headers=cloud_headers(service="titanic"))
    assert [r.reason for r in decoded.rejected] == [Reason.UNKNOWN_MODEL]
    assert decoded.rejected[0].time == 1_700_000_000_123


def test_a_cloud_event_without_a_time_happened_when_kafka_says():
    messages = [json.dumps(ROW).encode()] * 3
    headers = [cloud_headers(time=None), cloud_headers(), cloud_headers(time=None)]
    decoded = decode(Decoder(FOUR), messages, headers, [5, 6, -1])
    assert decoded.times[:2].tolist() == [5, 1_700_000_000_123]
    assert [(r.message, r.reason) for r in decoded.rejected] == [(2, Reason.BAD_TIME)]


def test_responses_of_a_model_without_predictions_are_recognised():
    of = model(*"nn")
    batch = [
        (json.dumps(envelope({"predictions": [{"a": i}, [i]]}, kind="response", id_=f"{i}")).encode(), None)
        for i in range(20)
    ] + [(b"not even JSON", cloud_headers(kind=RESPONSE))]
    decoded = decode(Decoder(of), [value for value, _ in batch], [headers for _, headers in batch])
    assert not decoded.rejected
    assert decoded.ids == [*map(str, range(20)), "a"]
    assert decoded.responses.block.rows == 0


@pytest.mark.parametrize("copies", [1, 5])
@pytest.mark.parametrize(
    ("of", "body", "rows"),
    [
        (FOUR, {"instances": [{"x3": 4, "x0": 1, "more": 9}]}, [["1.0", None, None, "4.0"]]),
        (FOUR, {"instances": [[True, False, None, 10**400]], "signature_name": "x"}, [["1.0", "0.0", None, "inf"]]),
        (FOUR, tensor(shape=[1, 4], data=[[1, 2, 3, 4]]), [["1.0", "2.0", "3.0", "4.0"]]),
        (FOUR, tensor(shape=[2, 4], data=list(range(8))), [["0.0", "1.0", "2.0", "3.0"], ["4.0", "5.0", "6.0", "7.0"]]),
        (model("n"), {"instances": [1, 2.5]}, [["1.0"], ["2.5"]]),
        (model("n"), tensor(shape=[2], data=[1, 2]), [["1.0"], ["2.0"]]),
        (model("c"), {"instances": [3, 3.0, "3", True, "true", None, 0.5]}, [["3"]] * 3 + [["true"]] * 2 + [[None], ["0.5"]]),
        (model(*"cn"), {"instances": [["a,b", 1], ['],["\\', 2], ["\u00e9", 3]]}, [["1.0", "a,b"], ["2.0", '],["\\'], ["3.0", "é"]]),
        (model(*"nc"), {"inputs": [{"name": "x1", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]},
                                   {"name": "x0", "shape": [2, 1], "datatype": "INT64", "data": [1, 2]},
                                   {"name": "other", "shape": [9], "datatype": "?"}]}, [["1.0", "a"], ["2.0", "b"]]),
    ],
)  # fmt: skip
def test_bodies(of, body, rows, copies):
    decoded = decode(Decoder(of), [json.dumps(envelope(body)).encode()] * copies)
    assert not decoded.rejected
    assert [read[2] for read in rows_of(decoded)] == [[("request", *row) for row in rows]] * copies


def test_numbers_are_read_exactly():
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 2**63, 4000, dtype=np.int64).view(np.float64)
    values = np.where(np.isfinite(bits), bits, 0.1).reshape(-1, 4)
    batch = [json.dumps(envelope({"instances": [row]})).encode() for row in values.tolist()]
    decoded = decode(Decoder(FOUR), batch)
    assert np.array_equal(decoded.requests.block.numeric, values)


def test_a_batch_means_the_same_without_the_compiler(monkeypatch):
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(300, 2, 4)).round(3).astype(object)
    rows[rng.random(rows.shape) < 0.02] = None
    rows[7, 1, 2], rows[11, 0, 0] = "text", float("inf")
    bodies = [{"instances": row.tolist()[: 1 + i % 2]} for i, row in enumerate(rows)]
    batch = [json.dumps(envelope(body)).encode() for body in bodies]
    ours = decode(Decoder(FOUR), batch)
    monkeypatch.setattr(compiled, "HERE", False)
    others = decode(Decoder(FOUR), batch)
    assert ours.rejected == others.rejected
    assert len(ours.rejected) == 1
    for part in ("message", "instance"):
        np.testing.assert_array_equal(getattr(ours.requests, part), getattr(others.requests, part))
    np.testing.assert_array_equal(ours.requests.block.numeric, others.requests.block.numeric)
    np.testing.assert_array_equal(ours.requests.block.missing, others.requests.block.missing)


def test_protocol_restricts_the_bodies():
    assert one(envelope(tensor()), of=model(*"nnnn", protocol="v1")).rejected[0].reason == Reason.NO_INSTANCES
    assert one(envelope(ROW), of=model(*"nnnn", protocol="v2")).rejected[0].reason == Reason.NO_INSTANCES
    assert one(envelope(tensor()), of=model(*"nnnn", protocol="v2")).requests.block.rows == 1


# Times ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2023-11-14T22:13:20.999999999Z", 1_700_000_000_999),
        ("2023-11-15t00:13:20.5+02:00", 1_700_000_000_500),
        ("2023-11-14 17:13:20-05:00", 1_700_000_000_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000),
        ("3000-01-01T00:00:00Z", 32_503_680_000_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ("1969-12-31T23:59:59.999Z", None),
        ("2023-11-14T22:13:20", None),
        ("2023-11-14T22:13Z", None),
        ("2023-11-14", None),
        ("2023-02-30T00:00:00Z", None),
        ("2023-11-14T22:13:20.Z", None),
        ("2023-11-14T22:13:20+2500", None),
        ("2023-11-14T22:13:20+25:00", None),
        ("", None),
        (None, None),
    ],
)
def test_rfc3339(text, milliseconds):
    assert rfc3339_to_milliseconds(text) == milliseconds
    if text is not None:
        headers = [cloud_headers(time=text), *[cloud_headers()] * 3]
        decoded = decode(Decoder(FOUR), [json.dumps(ROW).encode()] * 4, headers)
        assert decoded.ids == ["a" if milliseconds is not None else "", "a", "a", "a"]
        assert milliseconds is None or decoded.times[0] == milliseconds


@given(st.integers(0, 253_402_300_799_999))
def test_times_survive_both_spellings(milliseconds):
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    assert rfc3339_to_milliseconds(moment.isoformat(timespec="milliseconds")) == milliseconds
    if milliseconds < 2**32 * 1000:
        assert seconds_to_milliseconds(milliseconds / 1000) == milliseconds
