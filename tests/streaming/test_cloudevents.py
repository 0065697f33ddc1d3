"""CloudEvents over HTTP, read without a server; forms and names from the CloudEvents 1.0.2 bindings."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.cloudevents import BATCHED, STRUCTURED, Event, InvalidEvent, UnsupportedEvent, events

AGENT = [  # as KServe's agent v0.15.2 sends a request
    (b"host", b"logger.default.svc"),
    (b"user-agent", b"Go-http-client/1.1"),
    (b"ce-component", b"predictor"),
    (b"ce-endpoint", b"default"),
    (b"ce-id", b"0a1b2c3d"),
    (b"ce-inferenceservicename", b"flights"),
    (b"ce-metadata", b"{}"),
    (b"ce-namespace", b"default"),
    (b"ce-source", b"http://localhost:9081/"),
    (b"ce-specversion", b"1.0"),
    (b"ce-time", b"2026-01-02T03:04:05.123456789Z"),
    (b"ce-type", b"org.kubeflow.serving.inference.request"),
    (b"content-type", b"application/json"),
]
BODY = b'{ "instances": [[1.50, 2]] }\n'
STRUCTURED_HEADERS = [(b"content-type", b"application/cloudevents+json; charset=utf-8")]
BATCHED_HEADERS = [(b"content-type", BATCHED.encode())]
REQUIRED = {"specversion": "1.0", "id": "7", "source": "/s", "type": "t"}


def without(name: bytes) -> list[tuple[bytes, bytes]]:
    return [(key, value) for key, value in AGENT if key != name]


def structured(**members: object) -> Event:
    (event,) = events(STRUCTURED_HEADERS, json.dumps({**REQUIRED, **members}).encode())
    return event


def test_binary_mode_keeps_the_body_and_every_attribute():
    (event,) = events(AGENT, BODY)
    assert event.data == BODY
    assert event.id == "0a1b2c3d"
    assert event.kafka_headers() == [
        ("ce_component", "predictor"),
        ("ce_endpoint", "default"),
        ("ce_id", "0a1b2c3d"),
        ("ce_inferenceservicename", "flights"),
        ("ce_metadata", "{}"),
        ("ce_namespace", "default"),
        ("ce_source", "http://localhost:9081/"),
        ("ce_specversion", "1.0"),
        ("ce_time", "2026-01-02T03:04:05.123456789Z"),
        ("ce_type", "org.kubeflow.serving.inference.request"),
        ("content-type", "application/json"),
    ]


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),  # the specification's own example
        ("Euro €".encode(), "Euro €"),
        (b'"quoted \\"text\\" \\\\"', 'quoted "text" \\'),
        (b"50%", "50%"),
        (b'{"x-request-id":["a"]}', '{"x-request-id":["a"]}'),
    ],
)
def test_header_values_are_decoded_once(sent, meant):
    (event,) = events([*AGENT, (b"ce-extension", sent)], b"")
    assert event.attributes["extension"] == meant


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type"])
def test_a_missing_attribute_is_named(name):
    with pytest.raises(InvalidEvent, match=f"header ce-{name} is missing"):
        events(without(f"ce-{name}".encode()), BODY)
    with pytest.raises(InvalidEvent, match=f"header ce-{name} is missing or empty"):
        events([*without(f"ce-{name}".encode()), (f"ce-{name}".encode(), b" ")], BODY)
    rest = {key: value for key, value in REQUIRED.items() if key != name}
    with pytest.raises(InvalidEvent, match=f"attribute '{name}' is missing"):
        events(STRUCTURED_HEADERS, json.dumps(rest).encode())
    with pytest.raises(InvalidEvent, match=f"event 1: the CloudEvents attribute '{name}' is missing"):
        events(BATCHED_HEADERS, json.dumps([REQUIRED, rest]).encode())


def test_another_version_of_cloudevents_is_refused():
    with pytest.raises(InvalidEvent, match=r"specversion '0\.3' is not known"):
        events([*without(b"ce-specversion"), (b"ce-specversion", b"0.3")], BODY)


def test_structured_data_keeps_its_bytes():
    body = b'{"specversion":"1.0","id":"7","source":"/s","type":"t","data": { "instances": [[1.50,\t2]] } , "n": 42, "b": true, "z": null}'
    (event,) = events(STRUCTURED_HEADERS, body)
    assert event.data == b'{ "instances": [[1.50,\t2]] }'
    assert event.content_type == "application/json"
    assert event.attributes == {**REQUIRED, "n": "42", "b": "true"}


def test_structured_data_by_content_type():
    assert structured(data="a\nb", datacontenttype="text/plain").data == b"a\nb"
    assert structured(data="a", datacontenttype="application/json").data == b'"a"'
    assert structured(data={"a": 1}, datacontenttype="application/x-own").data == b'{"a": 1}'
    assert structured(data="a", datacontenttype="application/vnd.own+json").data == b'"a"'
    assert structured(data_base64="AP8=", datacontenttype="application/octet-stream").data == b"\x00\xff"
    assert structured().data == b""
    assert structured().content_type is None


def test_a_batch_keeps_its_order_and_may_be_empty():
    found = events(BATCHED_HEADERS, json.dumps([{**REQUIRED, "id": str(i), "data": [i]} for i in range(5)]).encode())
    assert [(event.id, event.data) for event in found] == [(str(i), b"[%d]" % i) for i in range(5)]
    assert events(BATCHED_HEADERS, b"[]") == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no JSON object"),
        (b"[]", "no JSON object"),
        (b'{"specversion":', "no JSON object"),
        (b'{"\xff": 1}', "no JSON object"),
        (b'{"specversion":"1.0","id":"\\ud800","source":"/s","type":"t"}', "no JSON"),
        (b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":1,"data_base64":"AA=="}', "both"),
        (b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"%"}', "base64"),
        (b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":7}', "base64"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no JSON object"),
    ],
)
def test_what_is_no_structured_event_says_why(body, reason):
    with pytest.raises(InvalidEvent, match=reason):
        events(STRUCTURED_HEADERS, body)


def test_forms_that_are_not_read():
    with pytest.raises(UnsupportedEvent, match="gzip"):
        events([*AGENT, (b"content-encoding", b"gzip")], BODY)
    with pytest.raises(UnsupportedEvent, match="cloudevents\\+avro"):
        events([(b"content-type", b"application/cloudevents+avro")], b"")
    assert events([*AGENT, (b"content-encoding", b"identity")], BODY)


names = st.sampled_from([b"ce-id", b"ce-type", b"ce-source", b"ce-specversion", b"ce-\xe9", b"content-type", b"x"])
values = st.one_of(st.binary(max_size=20), st.sampled_from([b"1.0", b"1", STRUCTURED.encode(), BATCHED.encode()]))


@given(st.lists(st.tuples(names, values)), st.one_of(st.binary(), st.sampled_from([b"[{}]", b'{"id":1}', b"[[]]"])))
def test_no_bytes_raise_anything_else(headers, body):
    try:
        for event in events(headers, body):
            assert event.id
            assert event.kafka_headers()
            event.id.encode()
    except InvalidEvent as problem:
        assert str(problem)  # noqa: PT017 - either way is right


@given(st.binary(), st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1))
def test_binary_and_structured_mode_are_the_same_event(data, text):
    quoted = "".join(f"%{byte:02X}" for byte in text.encode()).encode()
    headers = [(b"ce-specversion", b"1.0"), (b"ce-id", quoted), (b"ce-source", b"/s"), (b"ce-type", b"t")]
    (binary,) = events([*headers, (b"content-type", b"application/octet-stream")], data)
    members = {**REQUIRED, "id": text, "datacontenttype": "application/octet-stream"}
    members["data_base64"] = base64.b64encode(data).decode()
    (in_json,) = events(STRUCTURED_HEADERS, json.dumps(members).encode())
    assert (dict(binary.attributes), binary.content_type, binary.data) == (
        dict(in_json.attributes),
        in_json.content_type,
        in_json.data,
    )
