"""Compressed bodies, and that none of them is a bomb."""

import gzip
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.cloudevents import InvalidEvent, UnsupportedEvent
from streaming.logger.encoding import TooLong, content_encoding, gunzipped


@given(st.binary(max_size=2000), st.integers(0, 9))
def test_what_was_packed_comes_out(data, level):
    assert gunzipped(gzip.compress(data, level), max(len(data), 1)) == data


@given(st.binary(min_size=2, max_size=2000))
def test_the_limit_is_that_of_the_unpacked_body(data):
    packed = gzip.compress(data)
    assert gunzipped(packed, len(data)) == data
    with pytest.raises(TooLong, match=f"larger than {len(data) - 1} bytes when it is unpacked"):
        gunzipped(packed, len(data) - 1)


def test_a_bomb_costs_no_more_than_the_limit():
    bomb = gzip.compress(bytes(200 << 20), 9)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(TooLong):
        gunzipped(bomb, 1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert time.process_time() - start < 0.5


def test_thousands_of_empty_members_are_refused_at_once():
    start = time.process_time()
    with pytest.raises(InvalidEvent, match="send one member"):
        gunzipped(gzip.compress(b"") * 50_000, 1 << 20)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "cut off"),
        (b"{}", "no gzip"),
        (zlib.compress(b"{}"), "no gzip"),
        (gzip.compress(b"{}" * 100, mtime=0)[:-9], "cut off"),
        (gzip.compress(b"{}", mtime=0)[:-8] + b"\0" * 8, "no gzip"),
        (gzip.compress(b"{}", mtime=0) + b"x", "1 bytes follow"),
    ],
)
def test_what_is_no_gzip_says_why(body, reason):
    with pytest.raises(InvalidEvent, match=reason):
        gunzipped(body, 1000)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_bytes_raise_anything_else(one, other):
    for body in (one, gzip.compress(one) + other, gzip.compress(one)[: len(other)], b"\x1f\x8b\x08" + one):
        try:
            assert len(gunzipped(body, 100)) <= 100
        except InvalidEvent as problem:
            assert str(problem)  # noqa: PT017 - either way is right


def test_encodings_by_their_headers():
    assert not content_encoding([(b"content-type", b"gzip")])
    assert not content_encoding([(b"content-encoding", b"identity"), (b"content-encoding", b"")])
    for value in (b"gzip", b"GZIP", b" x-gzip ", b"identity, gzip"):
        assert content_encoding([(b"content-encoding", value)])
    for value in (b"br", b"deflate", b"gzip, gzip", b"gzip, br", b"\xff"):
        with pytest.raises(UnsupportedEvent, match="send gzip or identity"):
            content_encoding([(b"content-encoding", value)])
    with pytest.raises(UnsupportedEvent):
        content_encoding([(b"content-encoding", b"gzip"), (b"content-encoding", b"gzip")])
