"""A draft of features says what the data says, and asks what it cannot."""

import datetime as dt
import doctest

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reference import infer as module
from reference.errors import UnusableData
from reference.infer import infer
from reference.schema import Column
from reference.source import source_of_table

ROWS = 1000


@pytest.fixture(scope="module")
def draft():
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "real": rng.normal(size=ROWS),
            "share": rng.random(ROWS),
            "count": rng.poisson(400.0, ROWS),
            "code": pa.array(rng.integers(0, 3, ROWS), mask=np.arange(ROWS) < 100),
            "row": np.arange(ROWS),
            "uuid": [f"{i:032x}" for i in range(ROWS)],
            "city": pa.array(rng.choice(["Oslo", 'Rome: "a" #1'], ROWS)).dictionary_encode(),
            "zip": [f"{i % 60:05d}" for i in range(ROWS)],
            "yes": rng.random(ROWS) < 0.5,
            "constant": [7] * ROWS,
            "void": pa.nulls(ROWS, pa.string()),
            "nan": np.full(ROWS, np.nan),
            "when": [dt.datetime(2026, 1, 1)] * ROWS,  # noqa: DTZ001 - as most tables have it
            "list": [[1]] * ROWS,
        }
    )
    return infer(source_of_table(table))


def test_types_bounds_and_categories_are_proposed(draft):
    found = {one.name: one.column for one in draft.columns if one.column}
    assert found == {
        "real": Column(name="real", type="numeric"),
        "share": Column(name="share", type="numeric", min=0, max=1),
        "count": Column(name="count", type="numeric", min=0),
        "code": Column(name="code", type="numeric", min=0),
        "city": Column(name="city", type="categorical", categories=("Oslo", 'Rome: "a" #1')),
        "zip": Column(name="zip", type="categorical"),
        "yes": Column(name="yes", type="categorical", categories=("false", "true")),
    }
    seen = {one.name: one for one in draft.columns}
    assert seen["code"].missing == 0.1
    assert (seen["code"].distinct, seen["zip"].distinct, seen["real"].distinct) == (3, 60, ROWS)


@pytest.mark.parametrize(
    ("name", "remark"),
    [
        ("code", "only 3 values: make it categorical if they are codes"),
        ("row", "an id"),
        ("uuid", "an id"),
        ("zip", "every text is a number"),
        ("constant", "always 7"),
        ("void", "every value is missing"),
        ("nan", "no value is a finite number"),
        ("when", "a time"),
        ("list", "nested"),
    ],
)
def test_what_a_person_should_look_at_is_remarked(draft, name, remark):
    (one,) = (one for one in draft.columns if one.name == name)
    assert any(remark in said for said in one.remarks)
    (told,) = (row for row in draft.to_json() if row["column"] == name)
    assert told["remarks"] == list(one.remarks)


def test_the_draft_is_a_section_of_a_model_monitor(draft):
    features = yaml.safe_load(draft.to_yaml())["model"]["features"]
    assert [Column.model_validate(one) for one in features] == [one.column for one in draft.columns if one.column]


@given(name=st.text(min_size=1), text=st.lists(st.text(), min_size=2, max_size=5, unique=True))
def test_any_text_survives_the_draft(name, text):
    draft = infer(source_of_table(pa.table({name: text * 3})))
    assert yaml.safe_load(draft.to_yaml())["model"]["features"] == [
        {"name": name, "type": "categorical", "categories": sorted(text)}
    ]


def test_nothing_to_draft_from_is_refused():
    with pytest.raises(
        UnusableData, match=r"no column of the data can be a feature: it has \['t \(timestamp\[us\]\)'\]"
    ):
        infer(source_of_table(pa.table({"t": pa.array([], pa.timestamp("us"))})))
    with pytest.raises(UnusableData, match="no rows"):
        infer(source_of_table(pa.table({"x": pa.array([], pa.float64())})))


def test_the_example_is_right():
    assert doctest.testmod(module).failed == 0
