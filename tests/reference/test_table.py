"""Training tables: the same categories and numbers as the decoder reads from messages."""

import gzip
import json
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.build import build
from reference.category import category, shortened
from reference.errors import UnusableData
from reference.schema import Column, Model
from reference.settings import Reference
from reference.table import blocks, read_table
from streaming.messages import Decoder

CATEGORY = Model(name="m", features=(Column(name="c", type="categorical"),))
NUMBER = Model(name="m", features=(Column(name="x", type="numeric"),))
BOTH = Model(name="m", features=(Column(name="c", type="categorical"), Column(name="x", type="numeric")))
LONG = "long " * 50


def words(array, rows=65_536):
    read = []
    for block in blocks(pa.table({"c": array}), CATEGORY.request_schema, rows):
        (column,) = block.categorical
        assert column.codes.dtype == np.int32
        assert len(set(column.values)) == len(column.values)
        read += [None if code < 0 else column.values[code] for code in column.codes.tolist()]
    return read


def sent(values):
    """What the decoder makes of the same values."""
    message = {"type": "request", "id": "a", "time": 1, "payload": {"instances": [[value] for value in values]}}
    decoded = Decoder(CATEGORY).decode(pa.array([json.dumps(message).encode()]), None, np.array([0]))
    assert not decoded.rejected
    (column,) = decoded.requests.block.categorical
    return [None if code < 0 else column.values[code] for code in column.codes.tolist()]


FLOATS = [0.5, 3.0, -0.0, 0.0, 1e20, 2.0**53, 2.0**53 - 1, math.inf, -math.inf, math.nan, None, 1e-7, 0.1]


@pytest.mark.parametrize(
    ("array", "same"),
    [
        (pa.array(FLOATS), FLOATS),
        (pa.array([3.0, 1e20]), [3.0, 1e20]),
        (pa.array([0.1, 3.0], pa.float32()), [float(np.float32(0.1)), 3.0]),
        (pa.array(np.array([0.5, 3.0, np.nan], np.float16)), [0.5, 3.0, None]),
        (pa.array([1, -(2**63), 2**63 - 1, None]), [1, -(2**63), 2**63 - 1, None]),
        (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (pa.array([True, False, None]), [True, False, None]),
        (pa.array([Decimal("3.50"), Decimal("3.00"), None]), [3.5, 3, None]),
        (pa.array([Decimal(10**30)], pa.decimal128(38, 0)), [10**30]),
        (pa.array([1.0, math.nan, None, 2.5, 1.0]).dictionary_encode(), [1.0, None, None, 2.5, 1.0]),
        (pa.array(["a", "007", "", None, LONG, "a"]), ["a", "007", "", None, LONG, "a"]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array(["a", None, "b"]).dictionary_encode(), ["a", None, "b"]),
        (pa.array(["a", None, "b"], pa.string_view()), ["a", None, "b"]),
        (pa.array([b"a", None], pa.binary()), ["a", None]),
        (pa.nulls(3), [None] * 3),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_a_category_reads_as_the_decoder_reads_it(array, same):
    assert words(array) == sent(same)
    assert words(array, rows=2) == sent(same)
    assert words(pa.chunked_array([array[:1], array[1:]])) == sent(same)


@given(st.lists(st.one_of(st.none(), st.floats()), min_size=1, max_size=20))
def test_floats_read_as_the_decoder_reads_them(values):
    assert words(pa.array(values, pa.float64())) == sent(values)


def test_dates_keep_arrows_spelling():
    assert words(pa.array([0, None], pa.date32())) == ["1970-01-01", None]


def test_what_has_no_text_is_refused():
    for array in (pa.array([[1], [2]]), pa.array([b"\xff"])):
        with pytest.raises(UnusableData, match=r"column 'c' holds .*, which has no text: convert it to strings"):
            words(array)


@given(st.text(max_size=400))
def test_long_categories_are_cut_and_stay_apart(text):
    cut = shortened(text)
    assert cut == (text if len(text) <= 200 else text[:150] + cut[150:])
    assert len(cut) <= 200
    assert shortened(cut) == cut
    assert category("x" * 300 + "a") != category("x" * 300 + "b")


def test_declared_categories_are_cut_as_those_of_messages_are():
    assert Column(name="c", type="categorical", categories=(LONG, "a")).categories == (category(LONG), "a")


@pytest.mark.parametrize("packed", [False, True])
def test_csv_is_read_as_the_model_says(tmp_path, packed):
    text = b'x,more,c\n1,2020-01-01,007\n2.5,,True\nNA,z,NA\n,,\n1e3,,""\n nan,,3.0\n-inf,,2020-01-01 00:00:00\n'
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(text) if packed else text)
    table = read_table(path, BOTH)
    assert table.column_names == ["x", "c"]
    assert table["c"].to_pylist() == ["007", "True", "NA", None, "", "3.0", "2020-01-01 00:00:00"]
    assert table["x"].to_pylist() == [1, 2.5, None, None, 1000, None, -math.inf]


def test_csv_numbers_far_down_may_have_fractions(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("c,x\n" + "1,1\n" * 400_000 + "A,1.5\n")
    table = read_table(path, BOTH)
    assert (table["c"].type, table["x"].type) == (pa.string(), pa.float64())
    assert table["x"][-1].as_py() == 1.5


def test_csv_booleans_are_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x\nTrue\nfalse\n\nNA\n")
    assert numbers(read_table(path, NUMBER))[0] == [1, 0, None]


def numbers(table):
    (block,) = blocks(table, NUMBER.request_schema)
    values, gone = block.numeric[:, 0].tolist(), block.missing[:, 0].tolist()
    return [None if g else v for v, g in zip(values, gone, strict=True)], gone


def test_text_in_a_numeric_csv_column_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x\n1\n2\nhigh\n")
    with pytest.raises(UnusableData, match="column 'x' holds text such as 'high', but the model calls it numeric"):
        numbers(read_table(path, NUMBER))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.null()])
def test_a_numeric_column_of_nulls_alone_is_missing(kind):
    table = pa.table({"x": pa.nulls(3, kind)})
    assert numbers(table) == ([None] * 3, [True] * 3)
    assert build(table, NUMBER, Reference()).request["x"].missing == 3


@pytest.mark.parametrize(
    "array",
    [
        pa.array(np.array([1, 2.5], np.float16)),
        pa.array([Decimal("1.0"), Decimal("2.5")]),
        pa.array([1, 2.5]).dictionary_encode(),
    ],
    ids=str,
)
def test_numbers_of_any_width(array):
    assert numbers(pa.table({"x": array}))[0] == [1, 2.5]


def test_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"z": [1], "c": ["007"], "x": [1]}), path)
    assert read_table(path, BOTH).to_pydict() == {"c": ["007"], "x": [1]}


@pytest.mark.parametrize(("text", "names"), [("z\n1\n", []), ("x\n", ["x"])])
def test_csv_without_what_is_wanted(tmp_path, text, names):
    path = tmp_path / "t.csv"
    path.write_text(text)
    table = read_table(path, BOTH)
    assert (table.column_names, table.num_rows) == (names, 0)


def test_no_csv_at_all(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("")
    with pytest.raises(UnusableData, match="cannot be read"):
        read_table(path, BOTH)
