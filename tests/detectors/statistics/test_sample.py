"""A sample by the smallest keys is uniform, and whole while it can be; distinct counts keep to their error."""

import numpy as np
import pytest
from scipy import stats

from detectors.statistics.block import Block, Codes
from detectors.statistics.distinct import KEPT, Distinct
from detectors.statistics.sample import RowSample, mixed


def rows(n: int, first: int = 0) -> Block:
    at = np.arange(first, first + n)
    codes = Codes((at % 3 - 1).astype(np.int32), ("a", "b"))
    return Block(at[:, None].astype(float), np.zeros((n, 1), bool), (codes,), mixed(at.astype(np.uint64)))


def test_a_small_table_is_sampled_whole_with_its_rows_together():
    sample = RowSample.of(rows(7), 10) + RowSample.of(rows(2, first=7), 10)
    assert sorted(sample.numeric[:, 0]) == list(range(9))
    for (number,), text in zip(sample.numeric, sample.categorical[0], strict=True):
        assert text == (None, "a", "b")[int(number) % 3]


def test_every_row_is_as_likely_as_any_other():
    """Chi-square over tenths of the table: rows are numbered in their order of arrival."""
    n, size = 20_000, 2_000
    whole = RowSample.of(rows(n), size)
    parts = RowSample.of(rows(n // 4), size)
    for k in range(1, 4):
        parts += RowSample.of(rows(n // 4, first=k * n // 4), size)
    np.testing.assert_array_equal(whole.keys, parts.keys)
    np.testing.assert_array_equal(whole.numeric, parts.numeric)
    assert stats.chisquare(np.histogram(whole.numeric[:, 0], bins=10, range=(0, n))[0]).pvalue > 0.001


def test_hashes_of_neighbours_are_spread_evenly():
    shares = mixed(np.arange(100_000, dtype=np.uint64)) / 2.0**64
    assert stats.kstest(shares, "uniform").pvalue > 0.001


@pytest.mark.parametrize("n", [0, 1, KEPT - 1])
def test_few_distinct_values_are_counted_exactly(n):
    values = np.sort(np.repeat(np.arange(n) / 7, 3))
    assert (Distinct.of([values]) + Distinct.of([values[::2]])).estimate(0) == n


def test_many_distinct_values_are_counted_within_four_standard_errors():
    rng = np.random.default_rng(3)
    errors = []
    for _ in range(30):
        n = int(rng.integers(5_000, 100_000))
        pool = rng.normal(size=n)
        total = Distinct.empty(1)
        for part in np.array_split(np.concatenate((pool, rng.choice(pool, n))), 3):
            total += Distinct.of([np.sort(part)])
        errors.append(total.estimate(0) / n - 1)
    assert np.abs(errors).max() < 4 / np.sqrt(KEPT - 2)
    assert abs(np.mean(errors)) < 4 / np.sqrt(KEPT - 2) / np.sqrt(30)


def test_texts_are_counted_too():
    codes = Codes(np.array([0, 1, 1, -1], np.int32), ("a", "b", "never used"))
    assert Distinct.of([], [codes]).estimate(0) == 2
