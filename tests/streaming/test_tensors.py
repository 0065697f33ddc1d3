"""The binary tensor extension of V2: what it means is what the same tensors mean in JSON."""

import base64
import json
import math
import struct

import numpy as np
import pyarrow as pa
import pytest
from binary import DTYPES, body, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.schema import Column, Model
from streaming.messages import Decoded, Decoder, Reason
from streaming.protocol import Refused
from streaming.tensors import parse_body, split

MODEL = Model(
    name="m",
    features=(Column(name="a", type="numeric"), Column(name="b", type="categorical"), Column(name="c", type="numeric")),
    predictions=(Column(name="y", type="numeric"),),
)


def decode(*values: bytes, kind: str = "request", model: Model = MODEL, structured: bool = False) -> Decoded:
    type_ = f"org.kubeflow.serving.inference.{kind}"
    pairs = {
        "ce_specversion": "1.0",
        "ce_id": "1",
        "ce_source": "/",
        "ce_type": type_,
        "content-type": "application/json",
    }
    if structured:
        whole = {"specversion": "1.0", "id": "1", "source": "/", "type": type_}
        values = tuple(
            json.dumps({**whole, "data_base64": base64.b64encode(value).decode()}).encode() for value in values
        )
        pairs = {"content-type": "application/cloudevents+json"}
    headers = pa.array(
        [[{"key": key, "value": value.encode()} for key, value in pairs.items()]] * len(values),
        pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())])),
    )
    return Decoder(model).decode(pa.array(values, pa.binary()), headers, np.full(len(values), 1_700_000_000_000))


def refused(value: bytes, **more) -> tuple[Reason, str]:
    (one,) = decode(value, **more).rejected
    return one.reason, one.text


COLUMNS = [
    tensor("a", "FP32", [2], [0.1, math.nan]),
    tensor("b", "BYTES", [2, 1], ["Oslo", "åre"]),
    tensor("c", "INT64", [2], [-1, 2**60]),
]


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("gap", [b"", b" \r\n"])
def test_columns_in_bytes(structured, gap):
    decoded = decode(body(COLUMNS, gap=gap), structured=structured)
    assert not decoded.rejected
    block = decoded.requests.block
    np.testing.assert_array_equal(block.numeric[:, 0], [float(np.float32(0.1)), math.nan])
    np.testing.assert_array_equal(block.numeric[:, 1], [-1.0, 2.0**60])
    (column,) = block.categorical
    assert [column.values[code] for code in column.codes] == ["Oslo", "åre"]
    assert not block.missing.any()


def test_a_response_and_a_matrix():
    found = decode(body([tensor("out", "FP64", [3], [1.5, 2.5, -0.0])], "outputs", id="é"), kind="response")
    np.testing.assert_array_equal(found.responses.block.numeric[:, 0], [1.5, 2.5, -0.0])
    numbers = Model(name="m", features=(Column(name="a", type="numeric"), Column(name="b", type="numeric")))
    found = decode(body([tensor("x", "FP16", [2, 2], [1, 2, 3, 65504])]), model=numbers)
    np.testing.assert_array_equal(found.requests.block.numeric, [[1, 2], [3, 65504]])


def test_bfloat16_is_the_upper_half_of_a_float():
    value = b'{"inputs":[{"name":"a","shape":[2],"datatype":"BF16","parameters":{"binary_data_size":4}}]}'
    read = parse_body(value + struct.pack("<HH", 0x3F80, 0xC000))
    assert read["inputs"][0]["data"] == [1.0, -2.0]


def test_other_messages_of_the_batch_are_read_all_the_same():
    plain = b'{"inputs":[{"name":"a","shape":[1],"datatype":"FP32","data":[1]}]}'
    broken = body(COLUMNS)[:-1]
    decoded = decode(plain, body(COLUMNS), broken, plain, body(COLUMNS), plain)
    assert [one.message for one in decoded.rejected] == [2]
    assert decoded.requests.message.tolist() == [0, 1, 1, 3, 4, 4, 5]


HEAD = b'{"inputs":[{"name":"a","shape":%s,"datatype":"%s","parameters":{"binary_data_size":%s}}]}'


@pytest.mark.parametrize(
    ("value", "reason", "text"),
    [
        (body(COLUMNS)[:-1], "wrong_arity", "40 bytes by their binary_data_size, and 39 bytes"),
        (body(COLUMNS) + b"\0", "wrong_arity", "follow the JSON"),
        (HEAD % (b"[2]", b"FP32", b"4") + b"\0" * 4, "wrong_arity", "has 4 bytes, its shape [2] of FP32 has 8"),
        (HEAD % (b"[1]", b"FP32", b"-4"), "wrong_arity", "send a number of bytes"),
        (HEAD % (b"[1]", b"FP32", b'"4"') + b"\0" * 4, "wrong_arity", "send a number of bytes"),
        (HEAD % (b"[1]", b"FP32", b"true") + b"\0", "wrong_arity", "send a number of bytes"),
        (HEAD % (b"[1]", b"FP32", b"9" * 5000), "wrong_arity", "send a number of bytes"),
        (HEAD % (b"[1]", b"FP32", b"9" * 4000), "wrong_arity", "follow the JSON"),
        (HEAD % (b"[1]", b"FP8", b"1") + b"\0", "wrong_type", "datatype 'FP8', which is none"),
        (HEAD % (b"[-1]", b"FP32", b"4") + b"\0" * 4, "wrong_arity", "send a list of at most"),
        (HEAD % (b"[" + b"9," * 100 + b"9]", b"FP32", b"4") + b"\0" * 4, "wrong_arity", "send a list of at most"),
        (HEAD % (b"[2]", b"BOOL", b"2") + b"\1\2", "wrong_type", "is BOOL and has a byte 2"),
        (HEAD % (b"[1]", b"BYTES", b"5") + b"\1\0\0\0\xff", "wrong_type", "element 0 is no text"),
        (HEAD % (b"[1]", b"BYTES", b"5") + b"\xff\xff\xff\xffa", "wrong_arity", "0 whole elements"),
        (HEAD % (b"[2]", b"BYTES", b"5") + b"\1\0\0\0a", "wrong_arity", "1 whole elements"),
        (HEAD % (b"[1]", b"BYTES", b"10") + b"\1\0\0\0a" * 2, "wrong_arity", "1 whole elements"),
        (HEAD % (b"[9000000000]", b"BYTES", b"3") + b"\1\0\0", "wrong_arity", "0 whole elements"),
        (HEAD % (b"[1]", b"BYTES", b"5") + b"\1\0\0\0a", "wrong_type", "'a' is 'a', not a number"),
        (HEAD % (b"[0]", b"FP32", b"0"), "no_instances", "empty list"),
        (b'{"inputs":[{"name":"a","shape":[1],"datatype":"FP32"}]}', "no_instances", "neither a list of data nor"),
        (b'{"a":"binary_data_size"}\xff', "malformed_json", "not JSON"),
        (b'{"binary_data_size":1', "malformed_json", "not JSON"),
        (b'{"binary_data_size":' + b"[" * 100_000, "malformed_json", "nested too deeply"),
        (
            b'{"inputs":[{"name":"a","shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}}]}\0\0\0\0',
            "wrong_arity",
            "has both data and binary_data_size",
        ),
    ],
)  # fmt: skip
def test_nonsense_goes_to_the_dead_letters_with_its_reason(value, reason, text):
    found, said = refused(value)
    assert (found, text in said) == (reason, True), said
    assert said.isprintable()


@given(
    st.binary(max_size=40),
    st.integers(-1, 40),
    st.lists(st.integers(0, 9), max_size=3),
    st.sampled_from([*DTYPES, "BYTES", "BF16"]),
)
def test_no_bytes_raise_anything_else(rest, size, shape, datatype):
    head = HEAD % (json.dumps(shape).encode(), datatype.encode(), b"%d" % size)
    try:
        read = parse_body(head + rest)
    except Refused:
        return
    assert len(read["inputs"][0]["data"]) == math.prod(shape)
    assert size <= len(rest)


def elements(datatype: str) -> st.SearchStrategy:
    if datatype == "BYTES":
        return st.text(st.characters(codec="utf-8"), max_size=5)
    if datatype == "BOOL":
        return st.booleans()
    if datatype.startswith("FP"):
        return st.floats(width=int(datatype[2:]))
    info = np.iinfo(DTYPES[datatype])
    return st.integers(int(info.min), int(info.max))


@settings(deadline=None)
@given(st.data())
def test_binary_is_what_the_same_values_are_in_json(data):
    count = data.draw(st.integers(1, 4))
    tensors = []
    for name in data.draw(st.permutations(["a", "b", "c"])):
        datatype = data.draw(st.sampled_from([*DTYPES, "BYTES"] if name == "b" else list(DTYPES)))
        values = data.draw(st.lists(elements(datatype), min_size=count, max_size=count))
        tensors.append(tensor(name, datatype, data.draw(st.sampled_from([[count], [count, 1]])), values))
    binary = [data.draw(st.booleans()) for _ in tensors]
    mixed = [
        one if is_binary else {**{k: v for k, v in one.items() if k != "values"}, "data": one["values"]}
        for one, is_binary in zip(tensors, binary, strict=True)
    ]
    plain = [{**{k: v for k, v in one.items() if k != "values"}, "data": one["values"]} for one in tensors]
    name = data.draw(st.text(st.characters(codec="utf-8")))
    found = decode(body(mixed, model_name=name))
    wanted = decode(json.dumps({"inputs": plain}, ensure_ascii=False).encode())
    assert not found.rejected
    np.testing.assert_array_equal(found.requests.block.numeric, wanted.requests.block.numeric)
    assert found.requests.block.categorical[0].values == wanted.requests.block.categorical[0].values


@given(
    st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))),
    st.binary(),
    st.booleans(),
)
def test_the_json_ends_where_it_ends(members, rest, ascii_only):
    head = json.dumps(members, ensure_ascii=ascii_only).encode()
    assert split(b" \n" + head + rest) == (b" \n" + head, rest)


def test_what_kserve_itself_sends():
    """The client of the `kserve` package writes the extension; its header says where the JSON ends, and is not needed."""
    kserve = pytest.importorskip("kserve")
    columns = [("a", "FP32", np.array([1.5, 2.5], np.float32)), ("b", "BYTES", np.array([b"Oslo", b"Bergen"], object))]
    inputs = []
    for name, datatype, array in columns:
        one = kserve.InferInput(name, [2], datatype)
        one.set_data_from_numpy(array, binary_data=True)
        inputs.append(one)
    sent, json_length = kserve.InferRequest("m", inputs, request_id="1").to_rest()
    assert split(bytes(sent)) == (bytes(sent)[:json_length], bytes(sent)[json_length:])
    block = decode(bytes(sent)).requests.block
    assert block.numeric[:, 0].tolist() == [1.5, 2.5]
    assert [block.categorical[0].values[code] for code in block.categorical[0].codes] == ["Oslo", "Bergen"]
