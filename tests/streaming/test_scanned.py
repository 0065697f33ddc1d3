"""The compiled reader of rows: every number that it takes is the nearest float, and it takes nothing but JSON."""

import math
import random
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.statistics import compiled
from streaming import scanned
from streaming.protocol import parse_json

pytestmark = pytest.mark.skipif(
    not compiled.HERE, reason="Numba is not installed, or has no place for what it compiles"
)


def read(texts, width=1, wanted=0, *, brackets=False):
    """(columns, rows) numbers, and how many rows each text has."""
    parts = [text.encode() for text in texts]
    data = np.frombuffer(b"".join(part + b"]" for part in parts) + bytes(64), np.uint8)
    sizes = np.array([len(part) for part in parts])
    starts = np.cumsum(sizes + 1) - sizes - 1
    found = np.full((width, sum(part.count(b",") + 1 for part in parts) // width + 1), np.nan)
    lengths = np.empty(len(parts), np.int64)
    scanned.rows(data, starts, starts + sizes, wanted, brackets, found, lengths)
    return found[:, : lengths[lengths > 0].sum()], lengths.tolist()


def assert_exact(texts, taken):
    """At least this share of the texts is taken, and each of those to the bit."""
    found, lengths = read(texts)
    expected = np.array([float(text) for text, length in zip(texts, lengths, strict=True) if length == 1])
    np.testing.assert_array_equal(found[0].view(np.uint64), expected.view(np.uint64))
    assert len(expected) >= taken * len(texts)


def test_numbers_are_the_nearest_floats():
    rng = random.Random(5)
    assert_exact([repr(rng.gauss(0, 10 ** rng.randint(-8, 8))) for _ in range(20_000)], 1.0)
    assert_exact([f"{rng.randrange(10 ** rng.randint(1, 19))}e{rng.randint(-60, 60)}" for _ in range(20_000)], 0.999)
    patterns = (struct.unpack("d", struct.pack("Q", rng.getrandbits(64)))[0] for _ in range(20_000))
    assert_exact([repr(x) for x in patterns if math.isfinite(x)], 0.9)


def test_numbers_next_to_a_tie_are_the_nearest_floats():
    rng = random.Random(6)
    ties = [(rng.getrandbits(53) | 1 << 53) * 2 + 1 for _ in range(5000)]
    beside = [(tie << rng.randint(0, 8)) + rng.choice([-1, 0, 1]) for tie in ties]
    assert_exact([str(number) for number in beside], 0.6)
    assert_exact([f"{number}e{rng.randint(-20, 20)}" for number in ties], 0.97)  # with e0 it is a tie


@given(st.text("0123456789-+.eE ,[]n", max_size=8))
def test_whatever_is_taken_is_json(text):
    found, lengths = read([text])
    if lengths == [-1]:
        return
    whole = parse_json(f"[{text}]".encode())
    assert lengths == [len(whole)]
    assert found[0].tolist() == whole


def test_signs_zeros_and_leading_zeros():
    found, lengths = read(["-0", "0.0e5", "0.000000000000000000012345678901234567", "-1E2", "0e-999"])
    assert lengths == [1] * 5
    assert found[0].tolist() == [0.0, 0.0, 1.2345678901234567e-20, -100.0, 0.0]
    assert np.signbit(found[0, 0])


def test_what_is_left_to_others():
    others = [
        "",
        "+1",
        "01",
        "-",
        "1.",
        ".5",
        "1.e5",
        "1e",
        "nan",
        "null",
        "1 ",
        " 1",
        "--1",
        "1e99999",
        "1,",
        "12345678901234567890",
    ]
    assert read(others)[1] == [-1] * len(others)


def test_rows_come_column_by_column_and_a_bad_message_leaves_nothing():
    found, lengths = read(["[1,2],[3, 4]", "[5,6],[7,x]", "[8,9]", "[1,2,3]", "[1]", "1,2"], 2, brackets=True)
    assert lengths == [2, -1, 1, -1, -1, -1]
    assert found.tolist() == [[1, 3, 8], [2, 4, 9]]
    assert read(["[1,2]", "[1,2],[3,4]"], 2, wanted=2, brackets=True)[1] == [-1, 2]
