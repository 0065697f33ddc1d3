"""Two distributions that were counted on one ruler are compared bin by bin: the same as by sorting all corners."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detectors.distribution import Ramps, Steps, apart, difference, distribution
from detectors.frequencies import by_bin
from detectors.statistics.column import once
from detectors.statistics.ruler import Ruler

tame = st.floats(-100, 100, allow_subnormal=False)
samples = st.one_of(
    arrays(float, st.integers(1, 200), elements=tame),
    arrays(float, st.integers(1, 200), elements=st.integers(0, 30).map(float)),
    arrays(float, st.integers(1, 200), elements=st.floats(-1.7e308, 1.7e308)),
)


def integral(x, means):
    """In quarters, as the range of all floats is wider than a float."""
    return np.concatenate(([0.0], np.cumsum(np.diff(x / 4) * means)))


@pytest.mark.parametrize("power", [1, 2])
@given(reference=samples, window=samples, resolution=st.sampled_from([16, 1024]))
@example(reference=np.array([-1.7e308, 1.7e308]), window=np.array([-1.0, 0.0, 1.6e308]), resolution=16)
@settings(max_examples=100)
def test_one_ruler_gives_what_all_corners_give(power, sketched_both, reference, window, resolution):
    ruler = Ruler.of(np.sort(reference), resolution)
    a, b = (Ramps.of(sketched_both.numeric(rows, ruler)) for rows in (reference, window))
    x, means = difference(a, b, power)
    assert np.all(x[1:] >= x[:-1])
    assert np.all(np.isfinite(means))
    corners, expected = difference(replace(a, ruler=None), b, power)
    assert x[0] == corners[0]
    assert x[-1] == corners[-1]
    np.testing.assert_allclose(
        np.interp(corners / 4, x / 4, integral(x, means)),
        integral(corners, expected),
        rtol=1e-9,
        atol=1e-13 * (corners[-1] / 4 - corners[0] / 4),
    )


@given(rows=samples)
@settings(max_examples=50)
def test_ramps_hold_what_was_counted(sketched_both, rows):
    ruler = Ruler.of(np.sort(rows), 16)
    column = sketched_both.numeric(rows, ruler)
    known = Ramps.of(column)
    assert known.total == len(rows)
    assert np.all(known.starts <= known.ends)
    assert np.all(known.ends[:-1] <= known.starts[1:])
    np.testing.assert_array_equal(known.upto(ruler.marks), np.cumsum(column.bins)[:-1])
    assert rows.min() <= known.starts[0]
    assert known.ends[-1] <= rows.max()


def test_by_value_or_one_by_one_is_the_same(columns):
    rng = np.random.default_rng(3)
    reference, window = rng.poisson(3.0, 500).astype(float), rng.poisson(4.0, 700).astype(float)
    by_value = [distribution(columns.numeric(rows, whole=False, discrete=True)) for rows in (reference, window)]
    one_by_one = [Steps(np.sort(rows)) for rows in (reference, window)]
    for power in (1, 2):
        found, expected = (
            float(np.diff(x) @ means) for x, means in (difference(*both, power) for both in (by_value, one_by_one))
        )
        assert found == pytest.approx(expected, rel=1e-12)


def test_what_is_known_of_a_reference_is_kept_with_it_and_with_no_copy(columns):
    column = columns.numeric(np.arange(5.0))
    calls = []
    half = once(lambda of: calls.append(of) or of.count / 2)
    assert half(column) == half(column) == 2.5
    assert len(calls) == 1
    assert half(replace(column, count=8)) == 4.0


def test_a_window_is_spread_within_a_bin_as_the_reference_is(sketched):
    """From a loop over the bins that edges cut."""
    rng = np.random.default_rng(4)
    reference, window = rng.lognormal(size=20_000), rng.lognormal(0.05, 1.0, 30_000)
    a, b = sketched.pair(reference, window)
    found = by_bin(a, b)
    ordered = np.sort(reference)
    below = []
    for edge in found.edges[1:-1]:
        j = int(np.searchsorted(a.ruler.marks, edge))
        low, high = (np.searchsorted(ordered, mark, side="right") for mark in (a.ruler.marks[j - 1], a.ruler.marks[j]))
        inside, count = ordered[low:high], b.bins[j]
        before = b.bins[:j].sum()
        like = len(inside) and count > 1
        if like:
            limit = 3 * inside.std() * math.sqrt(1 / count + 1 / len(inside))
            like = abs(b.sums[j] / count - inside.mean()) <= limit
        below.append(before + count * np.mean(inside < edge) if like else Ramps.of(b).below(np.array([edge]))[0])
    np.testing.assert_allclose(np.cumsum(found.window)[:-1], below, rtol=1e-12)


@given(
    large=arrays(float, st.integers(40, 300), elements=st.one_of(tame, st.integers(0, 9).map(float))),
    small=arrays(float, st.integers(1, 9), elements=st.one_of(tame, st.integers(0, 9).map(float))),
    bins=st.integers(1, 12),
    power=st.sampled_from([1, 2]),
)
@example(large=np.full(40, 3.0), small=np.array([3.0]), bins=1, power=1)
@example(large=np.full(40, 3.0), small=np.array([4.0]), bins=2, power=1)
@example(large=np.array([-1.7e308] * 20 + [1.7e308] * 20), small=np.array([1.0]), bins=5, power=1)
@settings(max_examples=100)
def test_two_samples_are_apart_in_each_bin_by_what_all_their_values_say(large, small, bins, power):
    a, b = Steps(np.sort(large)), Steps(np.sort(small))
    low, high = min(a.low, b.low), max(a.high, b.high)
    edges = 4 * np.linspace(low / 4, high / 4, bins + 1) if low < high else np.array([low - 0.5, low + 0.5])
    x = np.unique(np.concatenate((a.values, b.values, edges)))
    gaps = np.abs(a.upto(x[:-1]) / a.total - b.upto(x[:-1]) / b.total) ** power * np.diff(x / 4)
    expected = [gaps[(i <= x[:-1]) & (x[:-1] < j)].sum() for i, j in itertools.pairwise(edges)]
    for both in ((a, b), (b, a)):
        np.testing.assert_allclose(apart(*both, power, edges), expected, rtol=1e-11, atol=1e-15 * (high / 4 - low / 4))


@pytest.mark.parametrize("power", [1, 2])
@given(reference=samples, window=samples, bins=st.integers(1, 12))
@settings(max_examples=50)
def test_bins_add_up_to_the_whole(power, sketched_both, reference, window, bins):
    ruler = Ruler.of(np.sort(reference), 16)
    a, b = (Ramps.of(sketched_both.numeric(rows, ruler)) for rows in (reference, window))
    low, high = min(a.low, b.low), max(a.high, b.high)
    parts = apart(a, b, power, 4 * np.linspace(low / 4, high / 4, bins + 1))
    assert np.all(parts >= 0)
    whole = integral(*difference(a, b, power))[-1]
    assert parts.sum() == pytest.approx(whole, rel=1e-11, abs=1e-14 * (high / 4 - low / 4))
