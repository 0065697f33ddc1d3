"""Rows of batches are put into segments as pandas would put them."""

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from detectors.statistics.block import Block, Codes
from reference.schema import Column, Model
from reference.segments import Segments
from streaming.segments import Segmentation

MODEL = Model(
    name="m",
    features=(
        Column(name="a", type="categorical"),
        Column(name="x", type="numeric"),
        Column(name="carrier", type="categorical"),
    ),
)
SEGMENTS = Segments(
    by=(
        {"feature": "carrier", "values": ["AA", "U/A"]},
        {"header": "ce_source", "values": ["shop"]},
        {"header": "ce_metadata", "member": "x-country", "values": ["de", "fr"]},
    )
)
DIVISIONS = SEGMENTS.divisions({})
CARRIERS = st.sampled_from(["AA", "U/A", "DL", "\n", None])
COUNTRIES = st.sampled_from(["de", "fr", "it", None])


def block_of(carriers):
    column = pd.Categorical(carriers)
    codes = Codes(column.codes.astype(np.int32), tuple(map(str, column.categories)))
    rows = len(carriers)
    other = Codes(np.zeros(rows, np.int32), ("AA",))
    return Block(np.zeros((rows, 1)), np.zeros((rows, 1), np.bool_), (other, codes))


def headers_of(countries):
    """Those of messages that come from the shop where they name a country; null without one."""
    rows = [
        None if c is None else [("ce_source", b"shop"), ("ce_metadata", b'{"x-country": ["%s"]}' % c.encode())]
        for c in countries
    ]
    pair = pa.struct([("key", pa.string()), ("value", pa.binary())])
    return pa.array(rows, pa.list_(pair))


def named(found):
    return [[names[place] for place in places] for places, names in found]


@given(st.lists(COUNTRIES, min_size=1, max_size=5), st.lists(st.tuples(st.integers(0, 4), CARRIERS), max_size=20))
def test_every_row_is_in_one_segment_of_each_entry(countries, rows):
    message = np.array(sorted(number % len(countries) for number, _ in rows), np.int64)
    carriers = [carrier for _, carrier in rows]
    segmentation = Segmentation(DIVISIONS, MODEL.request_schema)
    found = named(segmentation.of(block_of(carriers), headers_of(countries), message))
    said = [countries[m] for m in message]
    assert found == [
        [{"AA": "carrier=AA", "U/A": "carrier=U%2FA"}.get(carrier, "carrier=(other)") for carrier in carriers],
        ["ce_source=(other)" if country is None else "ce_source=shop" for country in said],
        [f"x-country={country}" if country in ("de", "fr") else "x-country=(other)" for country in said],
    ]
    assert {name for each in found for name in each} <= set(segmentation.names())


def test_without_headers_all_rows_are_with_the_rest():
    found = named(Segmentation(DIVISIONS, MODEL.request_schema).of(block_of(["AA"]), None, np.zeros(1, np.int64)))
    assert found == [["carrier=AA"], ["ce_source=(other)"], ["x-country=(other)"]]


def test_responses_are_told_apart_by_headers_only():
    segmentation = Segmentation(DIVISIONS, None)
    rows = Block(np.zeros((2, 1)), np.zeros((2, 1), np.bool_))
    found = named(segmentation.of(rows, headers_of(["de", None]), np.array([0, 1])))
    assert found == [["ce_source=shop", "ce_source=(other)"], ["x-country=de", "x-country=(other)"]]
    assert segmentation.names() == [
        "ce_source=shop",
        "ce_source=(other)",
        "x-country=de",
        "x-country=fr",
        "x-country=(other)",
    ]


def test_the_number_of_segments_does_not_grow_with_what_clients_send():
    rng = np.random.default_rng(0)
    carriers = [f"{number}/\n" for number in rng.integers(0, 100_000, 100_000)]
    ((places, names), *_) = Segmentation(DIVISIONS, MODEL.request_schema).of(
        block_of(carriers), None, np.zeros(len(carriers), np.int64)
    )
    assert set(places.tolist()) == {names.index("carrier=(other)")}
