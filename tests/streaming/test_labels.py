"""The labels topic: what every message means, whatever its bytes."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streaming.identity import instance_keys
from streaming.labels import DecodedLabels, LabelDecoder
from streaming.protocol import Reason, rfc3339_to_milliseconds, seconds_to_milliseconds

KAFKA = 1_700_000_000_000


def decode(messages, kafka=KAFKA, max_bytes=1 << 20) -> DecodedLabels:
    return LabelDecoder(max_bytes).decode(pa.array(messages, pa.binary()), np.full(len(messages), kafka))


def one(message, **more) -> DecodedLabels:
    return decode([message if isinstance(message, bytes | None) else json.dumps(message).encode()], **more)


def key(identity, instance=0):
    return instance_keys([identity], np.array([0]), np.array([instance]))[0]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
labels = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), texts
)
moments = st.one_of(
    st.none(),
    st.integers(-1, 2 * 10**11 + 5 * 10**10),
    st.floats(0, 2.6e11),
    st.datetimes().map(lambda t: t.isoformat() + "Z"),
    st.sampled_from(
        ["2016-12-31T23:59:60Z", "2024-02-30T00:00:00Z", "2024-02-29T00:00:00+01:30", "yesterday", "", True, []]
    ),
)
"""Times, some of which are none."""
messages = st.fixed_dictionaries(
    {"id": texts},
    optional={
        "label": labels,
        "labels": st.lists(labels, max_size=3),
        "instance": st.one_of(st.integers(-2, 2**32), st.booleans()),
        "time": moments,
        "source": st.one_of(labels, st.lists(labels), st.dictionaries(texts, labels)),
    },
)


def meaning(message):
    """The format once more: labels with their keys and times; None for a message that has to be refused."""
    instance, time = message.get("instance", 0), message.get("time")
    given_labels = [message["label"]] if "label" in message else message.get("labels", [])
    if isinstance(time, str):
        at = rfc3339_to_milliseconds(time)
    else:
        at = KAFKA if time is None else seconds_to_milliseconds(time)
    refused = ("label" in message and "labels" in message) or isinstance(instance, bool) or not 0 <= instance < 2**31
    if refused or not message["id"] or not given_labels or at is None:
        return None
    return [(key(message["id"], instance + i), at, label) for i, label in enumerate(given_labels)]


@given(st.lists(messages, max_size=8))
def test_every_message_means_the_same_in_any_company(batch):
    decoded = decode([json.dumps(message).encode() for message in batch])
    found = [[] for _ in batch]
    for at, *label in zip(decoded.message, decoded.keys, decoded.times, decoded.values, strict=True):
        found[at].append(tuple(label))
    for rejected in decoded.rejected:
        assert found[rejected.message] == []
        assert rejected.text.isprintable()
        found[rejected.message] = None
    expected = [meaning(message) for message in batch]
    assert found == expected
    kinds = [[type(label) for _, _, label in one or ()] for one in found]
    assert kinds == [[type(label) for _, _, label in one or ()] for one in expected]
    assert decoded.message.tolist() == sorted(decoded.message.tolist())


whole = json.dumps({"id": "r-1", "instance": 2, "label": 1.5, "time": "2023-11-14T22:13:20Z", "x": [1]}).encode()
mutants = st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole)), st.binary(max_size=3)).map(
    lambda cut: whole[: cut[0]] + cut[2] + whole[cut[1] :]
)


@given(st.lists(st.one_of(st.none(), st.binary(), mutants), max_size=5))
@example([b"[" * 100_000, b'{"id":"a","label":' + b"[" * 100_000, b'{"id":"a","label":' + b"9" * 9000 + b"}"])
@example(
    [
        b'{"id":"a","label":1,"time":1e400}',
        b'{"id":"a","label":1,"time":' + b"9" * 400 + b"}",
        b'{"id":"\\ud800","label":1}',
    ]
)
@example(
    [
        b'{"id":"a","label":"\\ud800"}',
        b'{"id":"a","label":"\xff"}',
        b'\xef\xbb\xbf{"id":"a","label":1}',
        b'["a",1]',
        b"nul",
    ]
)
def test_any_bytes_are_decoded_or_rejected(batch):
    decoded = decode(batch)
    rejected = [refused.message for refused in decoded.rejected]
    assert rejected == sorted(set(rejected))
    assert sorted({*rejected, *decoded.message.tolist()}) == list(range(len(batch)))
    assert not {*rejected} & {*decoded.message.tolist()}
    assert all(isinstance(value, str) or value is None or math.isfinite(value) for value in decoded.values)
    assert ((decoded.times >= 0) & (decoded.times < 253_402_300_800_000)).all()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (None, Reason.EMPTY),
        (b"", Reason.EMPTY),
        (b'{"id":"a","label":1}' + b" " * 200, Reason.TOO_LARGE),
        (b'{"id":"a","label":1', Reason.MALFORMED_JSON),
        (b'{"id":"a","label":1,"x":"\xff"}', Reason.MALFORMED_JSON),
        (["a", 1], Reason.UNKNOWN_FORMAT),
        ({"label": 1}, Reason.NO_ID),
        ({"id": "", "label": 1}, Reason.NO_ID),
        ({"id": 7, "label": 1}, Reason.NO_ID),
        (b'{"id":"\\ud800","label":1}', Reason.NO_ID),
        ({"id": "x" * 101, "label": 1}, None),
        ({"id": "a", "label": 1, "time": "now"}, Reason.BAD_TIME),
        ({"id": "a", "label": 1, "time": -1}, Reason.BAD_TIME),
        ({"id": "a", "label": 1, "time": True}, Reason.BAD_TIME),
        ({"id": "a"}, Reason.NO_LABEL),
        ({"id": "a", "labels": []}, Reason.NO_LABEL),
        ({"id": "a", "label": [1]}, Reason.WRONG_TYPE),
        ({"id": "a", "label": math.nan}, Reason.WRONG_TYPE),
        (b'{"id":"a","label":1e999}', Reason.WRONG_TYPE),
        ({"id": "a", "labels": 1}, Reason.WRONG_TYPE),
        ({"id": "a", "label": 1, "labels": [1]}, Reason.WRONG_TYPE),
        ({"id": "a", "label": 1, "instance": -1}, Reason.WRONG_TYPE),
        ({"id": "a", "label": 1, "instance": 1.0}, Reason.WRONG_TYPE),
        ({"id": "a", "label": 1, "instance": None}, Reason.WRONG_TYPE),
    ],
)
def test_reasons(message, reason):
    found = one(message, max_bytes=200).rejected
    assert [refused.reason for refused in found] == ([reason] if reason else [])


def test_a_long_id_is_refused():
    assert one({"id": "x" * 1000, "label": 1}).rejected == []
    assert one({"id": "x" * 1001, "label": 1}).rejected[0].reason is Reason.BAD_ID


def test_a_rejected_label_has_its_time_where_it_could_be_read():
    assert one({"id": "a", "time": 1.5}).rejected[0].time == 1500
    assert one({"id": "a", "label": 1}, kafka=-1).rejected[0].time is None


@pytest.mark.parametrize("time", [0.0019999999, 1_700_000_000.123, 1_700_000_000.9999996, 253_402_300_799.999])
def test_times_are_rounded_as_in_an_envelope(time):
    assert one({"id": "a", "label": 1, "time": time}).times.tolist() == [seconds_to_milliseconds(time)]


def test_several_labels_of_one_request():
    decoded = decode([b'{"id":"a","instance":3,"labels":["x",null]}', b'{"id":"b","label":true,"time":0.0019}'])
    assert decoded.keys.tolist() == [key("a", 3), key("a", 4), key("b")]
    assert decoded.values == ["x", None, True]
    assert decoded.times.tolist() == [KAFKA, KAFKA, 1]
    assert decoded.message.tolist() == [0, 0, 1]
