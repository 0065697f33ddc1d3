"""Headers cross to Python as one flat string and are lists of pairs again there."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from reference.category import shortened
from streaming.headers import header_column, header_columns, nested

TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=8)
HEADERS = st.none() | st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)


def flat(headers):
    """As Spark's expression `FLAT` writes them; tests/streaming/test_job.py has the real one."""
    if headers is None:
        return None
    return "\0".join([str(len(headers)), *(text for pair in headers for text in pair)]).encode()


@given(st.lists(HEADERS, max_size=8), st.integers(0, 3))
def test_flat_headers_are_nested_again(rows, skip):
    array = pa.array([flat(row) for row in rows], pa.binary()).slice(min(skip, len(rows)))
    found = nested(array)
    expected = rows[min(skip, len(rows)) :]
    if not any(expected):
        assert found is None
        return
    assert [
        None if row is None else [(pair["key"].decode(), pair["value"].decode()) for pair in row]
        for row in found.to_pylist()
    ] == expected


def test_a_nul_inside_takes_the_headers_of_its_own_message_only():
    good = [("ce_id", "a"), ("ce_type", "b")]
    found = nested(pa.array([flat(good), flat([("ce_id", "a\0ce_type")]), flat(good)], pa.binary()))
    assert found.to_pylist()[1] is None
    assert header_columns(found, ["ce_id"])["ce_id"].to_pylist() == [b"a", None, b"a"]


def test_a_header_or_a_member_of_it_names_the_client():
    metadata = [
        b'{"x-client": ["a", "b"]}',
        b'{"x-client": 7}',
        b'{"other": 1}',
        b"no json",
        b'{"x-client": []}',
        b"[" * 9999,
    ]
    found = nested(pa.array([*(flat([("ce_metadata", text.decode())]) for text in metadata), None], pa.binary()))
    member = header_column(found, "ce_metadata", "x-client")
    assert [None if code < 0 else member.values[code] for code in member.codes] == [
        "a",
        "7",
        None,
        None,
        None,
        None,
        None,
    ]
    whole = header_column(found, "ce_metadata")
    shown = [*(t.decode() for t in metadata[:-1]), shortened("[" * 9999), None]
    assert [None if code < 0 else whole.values[code] for code in whole.codes] == shown
    assert header_column(found, "ce_source") is None
    assert header_column(None, "ce_source") is None
