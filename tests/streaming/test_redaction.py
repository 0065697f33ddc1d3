"""What is redacted is in no byte that leaves; what is not, is there as it was."""

import json
import math
import re

import msgspec
import pytest
from binary import body as binary_body
from binary import tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.schema import Model
from reference.secret import MissingSecret
from streaming.cloudevents import Event
from streaming.errors import InvalidMonitor
from streaming.logger.redaction import Hash, Redactor, Withheld
from streaming.logger.settings_events import Redaction
from streaming.spec import parse
from streaming.tensors import parse_body

KEY = "0123456789abcdef"
MODEL = Model.model_validate(
    {
        "name": "m",
        "features": [
            {"name": "passenger", "type": "categorical"},
            {"name": "x", "type": "numeric"},
            {"name": "age", "type": "numeric"},
        ],
        "predictions": [{"name": "y", "type": "numeric"}, {"name": "who", "type": "categorical"}],
    }
)
SECRET = "Zaphod7Beeblebrox"
SECRET_NUMBER = 987654321.25


@pytest.fixture(autouse=True, scope="module")
def key():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRIFTLINE_TEST_KEY", KEY)
        yield


def redactor(*rules: str, model: Model = MODEL) -> Redactor:
    """`passenger`, `age`: dropped; `#passenger`: hashed."""
    key = {"env": "DRIFTLINE_TEST_KEY"}
    return Redactor(
        model,
        [
            Redaction.model_validate(
                {"feature": rule[1:], "how": "hash", "key": key} if rule[0] == "#" else {"feature": rule}
            )
            for rule in rules
        ],
    )


def redacted(body: bytes | str, *rules: str, model: Model = MODEL) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    event = Event({"specversion": "1.0", "id": "1", "source": "/", "type": "t"}, "application/json", data)
    found = redactor(*rules, model=model).redacted(event)
    assert (found.attributes, found.content_type) == (event.attributes, event.content_type)
    return found.data


def hashed(value: str) -> str:
    return str(Hash("passenger", KEY.encode()).of(value))


def test_v1_by_position_keeps_the_bytes_of_the_rest():
    body = '{"instances": [["Bob", 1.50, 40], [null, 2e0, NaN], ["Ann", -Infinity, 1]], "parameters": { "a": 1.0 }}'
    want = '{"instances":[[null,1.50,null],[null,2e0,null],[null,-Infinity,null]],"parameters":{ "a": 1.0 }}'
    assert redacted(body, "passenger", "age").decode() == want
    want = f'{{"instances":[["{hashed("Bob")}",1.50,40],[null,2e0,NaN],["{hashed("Ann")}",-Infinity,1]],"parameters":{{ "a": 1.0 }}}}'
    assert redacted(body, "#passenger").decode() == want


def test_v1_by_name_at_any_depth_and_however_the_name_is_written():
    body = r'{"instances": [{"\u0070assenger": "Bob", "x": 1.50, "more": [{"passenger": ["Bob"]}]}], "meta": {"passenger": "Bob"}, "passenger": 1}'
    want = '{"instances":[{"passenger":null,"x":1.50,"more":[{"passenger":null}]}],"meta":{"passenger":null},"passenger":null}'
    assert redacted(body, "passenger").decode() == want


def test_v2_by_name_and_by_position():
    named = '{"id":"7","inputs":[{"name":"passenger","shape":[2,1],"datatype":"BYTES","data":[["Bob"],["Ann"]]},{"name":"x","shape":[2],"datatype":"FP64","data":[1.50,2]}]}'
    want = '{"id":"7","inputs":[{"name":"passenger","shape":[2,1],"datatype":"BYTES","data":[null,null]},{"name":"x","shape":[2],"datatype":"FP64","data":[1.50,2]}]}'
    assert redacted(named, "passenger").decode() == want
    matrix = '{"inputs":[{"name":"all","shape":[2,3],"datatype":"FP64","data":[[1,1.50,40],[2,2.50,50]]}]}'
    want = '{"inputs":[{"name":"all","shape":[2,3],"datatype":"FP64","data":[1,1.50,null,2,2.50,null]}]}'
    assert redacted(matrix, "age").decode() == want


def test_responses_too():
    assert redacted('{"predictions": [[1.5, "Bob"]]}', "who") == b'{"predictions":[[1.5,null]]}'
    assert (
        redacted('{"predictions": [1.5, {"passenger": "Bob"}]}', "passenger")
        == b'{"predictions":[1.5,{"passenger":null}]}'
    )
    out = '{"outputs":[{"name":"passenger","shape":[1],"datatype":"BYTES","data":["Bob"]}]}'
    assert b"Bob" not in redacted(out, "passenger")


def test_binary_tensors():
    body = binary_body(
        [
            tensor("passenger", "BYTES", [2], ["Bob", "Ann"]),
            tensor("x", "FP32", [2], [0.1, math.inf]),
            tensor("age", "INT64", [2], [40, 50]),
        ]
    )
    found = redacted(body, "#passenger", "age")
    assert b"Bob" not in found
    read = {one["name"]: one["data"] for one in parse_body(found)["inputs"]}
    assert read == {
        "passenger": [hashed("Bob"), hashed("Ann")],
        "x": parse_body(body)["inputs"][1]["data"],
        "age": [None, None],
    }
    assert found.endswith(body[-24:-16])  # the four bytes of each x, as they came

    matrix = binary_body([tensor("all", "FP32", [2, 3], [1, math.nan, 40, 2, 2.5, 50])])
    (one,) = parse_body(redacted(matrix, "age"))["inputs"]
    assert one["data"][2] is one["data"][5] is None
    assert math.isnan(one["data"][1])
    assert [one["data"][at] for at in (0, 3, 4)] == [1, 2, 2.5]


def test_a_feature_that_is_called_like_a_part_of_a_tensor():
    model = Model.model_validate(
        {"name": "m", "features": [{"name": "name", "type": "categorical"}, {"name": "data", "type": "numeric"}]}
    )
    body = '{"inputs":[{"name":"name","shape":[1],"datatype":"BYTES","data":["Bob"]},{"name":"data","shape":[1],"datatype":"FP64","data":[1]}]}'
    want = body.replace('"Bob"', "null")
    assert redacted(body, "name", model=model).decode() == want
    assert (
        redacted('{"instances":[{"name":"Bob","data":1}]}', "name", model=model)
        == b'{"instances":[{"name":null,"data":1}]}'
    )


V2 = '{"inputs":[{"name":"passenger","shape":%s,"datatype":"BYTES","data":%s}]}'


@pytest.mark.parametrize(
    "body",
    [
        "Bob",
        "[]",
        '"Bob"',
        '{"name": "Bob"}',
        '{"instances": "Bob"}',
        '{"instances": {"passenger": "Bob"}}',
        '{"instances": ["Bob"]}',
        '{"instances": [["Bob", 1]]}',
        '{"instances": [["Bob", 1, 2, 3]]}',
        '{"instances": [[["Bob"], 1, 2]]}',
        '{"instances": [[1, {"first": "Bob"}, 2]]}',
        '{"instances": [[1, 2, 3]]}{"passenger": "Bob"}',
        '{"instances": [[1, 2, 3]], "passenger": "Bob"',
        '{"inputs": {"passenger": "Bob"}}',
        '{"inputs": ["Bob"]}',
        V2 % ("[2]", '["Bob"]'),
        V2 % ("[1]", '[["Bob"]]'),
        V2 % ("[1, 1, 1]", '["Bob"]'),
        V2 % ("[9000000000000]", '["Bob"]'),
        V2 % ('"Bob"', '["Bob"]'),
        V2 % ("[true]", '["Bob"]'),
        '{"inputs":[{"name":"passenger","shape":[1],"datatype":"BYTES"}],"x":"Bob"}',
        '{"inputs":[{"name":"unheard of","shape":[1],"datatype":"BYTES","data":["Bob"]}]}',
        '{"inputs":[{"shape":[1],"datatype":"BYTES","data":["Bob"]}]}',
        '{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","parameters":{"binary_data_size":3}}]}Bobby',
        '{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[1],"note":"binary_data_size"}]}Bob',
        '{"a":' * 30 + '"Bob"' + "}" * 30,
        '{"predictions": [1], "deep": ' + '{"a":' * 30 + '{"passenger":"Bob"}' + "}" * 31,
        '{"predictions": [1], "deep": ' + "[" * 100_000 + '{"passenger":"Bob"}' + "]" * 100_000 + "}",
        b'{"instances": [["Bob", 1, "\xff"]]}',
        '{"instances": [["Bob", 1, 2]]}'.encode("utf-16"),
        b"\xef\xbb\xbf" + b'{"instances": [["Bob", 1, 2]]}',
    ],
)
def test_what_cannot_be_read_does_not_leave_and_is_not_quoted(body):
    with pytest.raises(Withheld) as found:
        redacted(body, "passenger")
    assert "Bob" not in str(found.value)
    assert str(found.value).isprintable()


def test_no_second_key_of_the_same_name_hides_a_value():
    for body in (
        '{"instances": [["Bob", 1, 2]], "instances": [["x", 1, 2]]}',
        '{"instances": [{"passenger": "Bob", "passenger": 1}]}',
        '{"note": {"passenger": "Bob"}, "note": 1, "instances": []}',
        V2.replace('"data":', '"data":["Bob"],"data":') % ("[1]", '["x"]'),
    ):
        assert b"Bob" not in redacted(body, "passenger")


def test_an_empty_body_holds_nothing():
    assert redacted(b"", "passenger") == b""


def test_a_hash_counts_categories_as_they_would_be():
    same = {
        redacted(f'{{"instances":[[{text},1,2]]}}', "#passenger") for text in ("3", "3.0", '"3"', "3e0", '"\\u0033"')
    }
    assert len(same) == 1
    other = Hash("who", KEY.encode()).of("3")
    assert other != hashed("3")  # equal values of two features cannot be told to be equal
    assert Hash("passenger", b"another key, long enough").of("3") != hashed("3")
    assert Hash("passenger", b"k" * 100).of("3") != Hash("passenger", b"k" * 64).of("3")
    assert re.fullmatch("[0-9a-f]{32}", hashed("3"))
    with pytest.raises(Withheld, match="'passenger' is no category"):
        redacted('{"instances":[{"passenger":["Bob"]}]}', "#passenger")


def test_keys_are_there_and_long_enough(monkeypatch):
    monkeypatch.setenv("DRIFTLINE_TEST_KEY", "short")
    with pytest.raises(MissingSecret, match=r"the key of the hash of 'passenger' .* has 5 bytes: give at least 16"):
        redactor("#passenger")
    monkeypatch.delenv("DRIFTLINE_TEST_KEY")
    with pytest.raises(MissingSecret, match="DRIFTLINE_TEST_KEY"):
        redactor("#passenger")


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ("{feature: z}", r"redact\[0\]\.feature: 'z' is no feature or prediction of the model: known are: x, who"),
        ("{feature: x}, {feature: x}", r"redact\[1\]\.feature: 'x' is named twice"),
        ("{feature: x, how: hash, key: {env: K}}", r"redact\[0\]\.how: 'x' is numeric, and a hash is no number"),
        ("{feature: who, how: hash}", r"redact\[0\]\.key: is missing: a hash without a key can be undone by trying"),
        ("{feature: who, key: {env: K}}", r"redact\[0\]\.key: does nothing where the value is dropped"),
    ],
)
def test_settings_that_make_no_sense(rules, reason):
    text = f"""
apiVersion: driftline.io/v1
kind: ModelMonitor
metadata: {{name: m}}
spec:
  model: {{features: [{{name: x, type: numeric}}, {{name: who, type: categorical}}]}}
  logger: {{redact: [{rules}]}}
"""
    with pytest.raises(InvalidMonitor, match=reason):
        parse(text, "m.yaml")


# Laws -----------------------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-99, 99), st.floats(-99, 99), st.text('abc\\"é/\n', max_size=4)
)
jsons = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["passenger", "a", "age", "é"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def written(value, draw) -> str:
    """JSON in one of the ways that clients write it."""
    space = draw(st.sampled_from([None, 1]))
    return json.dumps(value, ensure_ascii=draw(st.booleans()), indent=space)


@st.composite
def bodies(draw):
    """A body, the two secrets in the cells of `passenger` and `age`, and anything else anywhere else."""
    n = draw(st.integers(1, 3))
    x = draw(st.lists(st.one_of(st.none(), st.floats()), min_size=n, max_size=n))
    form = draw(st.sampled_from(["rows", "objects", "columns", "matrix", "binary"]))
    more = draw(st.dictionaries(st.sampled_from(["id", "parameters", "note", "é"]), jsons, max_size=2))
    if form == "rows":
        body = {"instances": [[SECRET, value, SECRET_NUMBER] for value in x]}
    elif form == "objects":
        body = {
            "instances": [
                {"x": value, "age": SECRET_NUMBER, "passenger": SECRET, **draw(st.dictionaries(st.just("more"), jsons))}
                for value in x
            ]
        }
    elif form == "matrix":
        cells = [cell for value in x for cell in (SECRET, value, SECRET_NUMBER)]
        body = {
            "inputs": [
                {"name": draw(st.sampled_from(["all", "x"])), "shape": [n, 3], "datatype": "BYTES", "data": cells}
            ]
        }
    else:
        columns = {
            "passenger": ("BYTES", [SECRET] * n),
            "x": ("FP64", [math.nan if v is None else v for v in x]),
            "age": ("FP64", [SECRET_NUMBER] * n),
        }
        tensors = [
            tensor(name, kind, draw(st.sampled_from([[n], [n, 1]])), values)
            for name, (kind, values) in draw(st.permutations(list(columns.items())))
        ]
        if form == "binary":
            return binary_body(tensors, **more), n
        for one in tensors:
            one["data"] = one.pop("values")
        body = {"inputs": tensors}
    return written({**more, **body}, draw).encode(), n


@settings(deadline=None)
@given(bodies(), st.sampled_from([("passenger", "age"), ("#passenger", "age")]))
def test_a_redacted_value_is_in_no_byte(made, rules):
    body, n = made
    try:
        found = redacted(body, *rules)
    except Withheld as problem:  # of a list or an object that is called so, there is no hash
        assert "is no category" in str(problem)  # noqa: PT017 - that is the one reason
        assert rules[0] == "#passenger"
        return
    read, sent = parse_body(found), parse_body(body)
    text = json.dumps(read)
    for secret in (SECRET, str(SECRET_NUMBER)):
        assert secret.encode() not in found
        assert secret not in text
    assert msgspec.json.encode(SECRET_NUMBER) not in found
    # And the rest is what it was: the values of x, in their order.
    assert repr(column(read, 1, "x")) == repr(column(sent, 1, "x"))
    assert column(read, 2, "age") == [None] * n
    assert column(read, 0, "passenger") == [hashed(SECRET) if rules[0][0] == "#" else None] * n


def column(body, place: int, name: str) -> list:
    if "instances" in body:
        return [row[name] if isinstance(row, dict) else row[place] for row in body["instances"]]
    if len(body["inputs"]) == 1:
        return body["inputs"][0]["data"][place::3]
    (one,) = (one for one in body["inputs"] if one["name"] == name)
    return one["data"]


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=60), bodies().map(lambda one: one[0])), st.data())
def test_damaged_bodies_are_withheld_or_hold_nothing(body, data):
    """Whatever a bit flip or a cut does to a body, the parser never gives up in another way."""
    if body:
        at = data.draw(st.integers(0, len(body) - 1))
        new = data.draw(st.sampled_from([b"", b"\0", b'"', b"]", b"}", b",", b"\xff", b"\\"]))
        body = body[:at] + new + body[at + data.draw(st.integers(0, 2)) :]
    try:
        found = redacted(body, "passenger", "age")
    except Withheld as problem:
        assert SECRET not in str(problem)  # noqa: PT017 - either way is right
    else:
        parse_body(found) if found.strip() else None


@given(jsons, jsons)
def test_members_of_that_name_are_gone_wherever_they_are(one, other):
    found = json.loads(redacted(json.dumps({"predictions": [one], "a": other, "passenger": one}), "passenger"))

    def expected(value):
        if isinstance(value, dict):
            return {key: None if key == "passenger" else expected(inner) for key, inner in value.items()}
        return [expected(inner) for inner in value] if isinstance(value, list) else value

    assert found == expected({"predictions": [one], "a": other, "passenger": one})
