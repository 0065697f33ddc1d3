"""Floods are seen, natural repetition is not one, and the counts are as exact as they claim."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.datasets import load_digits

from detectors.statistics.block import Block, Codes
from detectors.statistics.sample import RowSample
from detectors.traffic import near_duplicates
from detectors.traffic.base import OTHER
from detectors.traffic.encoding import Units
from detectors.traffic.near_duplicates import NearDuplicates, Tally


@pytest.fixture(scope="module")
def fitted(requests):
    return NearDuplicates().learn(requests.reference(), *requests.columns)


def judged(fitted, block, clients=None):
    return fitted.compare(fitted.observe(block, clients))


@pytest.mark.parametrize("count", [100, 1000, 30_000])
def test_natural_requests_are_no_flood(fitted, requests, count):
    for seed in range(5):
        block = requests.natural(count, seed)
        verdicts = judged(fitted, block, requests.senders([f"c{i % 7}" for i in range(count)]))
        assert all(math.isnan(verdict.score) or verdict.score < 0.01 for verdict in verdicts)


@pytest.mark.parametrize("count", [200, 2000, 20_000])
def test_natural_repetition_is_no_flood(requests, count):
    """Four coarse columns: of many requests most have been seen before."""
    coarse = slice(0, 1)

    def block(rows, seed=0):
        return requests.made(requests.numbers[rows, coarse], *requests.texts[rows].T, keys=seed)

    reference = RowSample.of(block(np.arange(10_000)), 10_000)
    fitted = NearDuplicates(false_alarm_rate=0.05).learn(reference, ["month"], ["carrier", "origin", "dest"])
    explained = []
    for seed in range(40):
        verdict = judged(fitted, block(requests.rows(count, seed), seed))[0]
        assert not verdict.drifted
        assert verdict.facts["repeated"] > 0.03
        assert verdict.facts["repeated"] == pytest.approx(verdict.facts["expected"], abs=0.15)
        explained.append(verdict.score == 0)
    # In at most one window of twenty does anything count for a flood at all.
    assert stats.binomtest(explained.count(False), len(explained), 0.05, "greater").pvalue > 0.001


@pytest.mark.parametrize("count", [200, 2000, 50_000])
@pytest.mark.parametrize("share", [0.07, 0.3, 1.0])
def test_a_flood_of_one_request_is_seen(fitted, requests, count, share):
    copies = int(count * share)
    flood = requests.replay(copies, 3)
    block = flood if share == 1 else requests.joined(requests.natural(count - copies, 4), flood)
    verdict, others = judged(fitted, block)
    assert verdict.drifted
    assert verdict.score == pytest.approx(share, abs=0.011)
    assert verdict.facts["heaviest"] == pytest.approx(share, abs=0.011)
    assert next(iter(verdict.explanation.values())) == pytest.approx(share, abs=0.011)
    assert others.client == OTHER
    expected = [*flood.numeric[0].tolist(), *(column.values[column.codes[0]] for column in flood.categorical)]
    assert list(verdict.example) == [*requests.columns[0], *requests.columns[1]]
    assert list(verdict.example.values()) == [None if value != value else value for value in expected]  # noqa: PLR0124


@pytest.mark.parametrize(("count", "distinct"), [(500, 10), (500, 100), (20_000, 10), (20_000, 1000), (20_000, 5000)])
def test_a_replayed_set_is_seen(fitted, requests, count, distinct):
    """No request is heavy when a thousand take turns."""
    verdict = judged(fitted, requests.replay(count, 5, distinct))[0]
    assert verdict.drifted
    assert verdict.facts["distinct"] == pytest.approx(
        len(np.unique(np.random.default_rng(5).integers(0, distinct, count))), rel=0.15
    )
    assert verdict.facts["repeated"] > 0.2 > verdict.facts["expected"]


def test_a_flood_from_many_clients_is_seen_all_together(fitted, requests):
    """Each of them sends too little to be judged."""
    block = requests.joined(requests.natural(1000, 6), requests.replay(1000, 6))
    clients = requests.senders([f"c{i % 40}" for i in range(2000)])
    verdicts = judged(fitted, block, clients)
    assert verdicts[0].drifted
    assert all(math.isnan(verdict.score) for verdict in verdicts[1:])


def test_the_flooding_client_is_named_and_nobody_else(fitted, requests):
    block = requests.joined(requests.natural(20_000, 7), requests.replay(200, 7))
    names = [f"c{i % 20}" for i in range(20_000)] + ["flood"] * 200
    verdicts = judged(fitted, block, requests.senders(names))
    assert [verdict.client for verdict in verdicts if verdict.drifted] == ["flood"]
    assert [verdict.example for verdict in verdicts].count({}) == len(verdicts) - 1


@pytest.mark.parametrize(("width", "noise", "share"), [(1, 0.03, 0.1), (4, 0.05, 0.1), (30, 0.01, 0.2)])
def test_copies_with_noise_are_seen(width, noise, share):
    """As far as the docstring says."""
    random = np.random.default_rng(width)
    names = [f"x{j}" for j in range(width)]

    def block(numeric, seed):
        keys = np.random.default_rng(seed).integers(0, 2**64, len(numeric), dtype=np.uint64)
        return Block(np.asfortranarray(numeric), np.isnan(numeric), (), keys)

    fitted = NearDuplicates().learn(RowSample.of(block(random.normal(size=(10_000, width)), 0), 10_000), names, [])
    caught = 0
    for seed in range(10):
        rows = random.normal(size=(1000, width))
        copies = int(1000 * share)
        rows[:copies] = rows[0] + random.uniform(-noise, noise, (copies, width))
        caught += judged(fitted, block(rows, seed))[0].drifted
    assert caught >= 9


def test_too_much_noise_is_missed(requests, fitted):
    """What the docstring says, too; a wider tolerance sees it."""
    low = np.nanstd(requests.numbers, axis=0)
    one = np.repeat(requests.complete(1, 1), 500, axis=0)
    noisy = one + np.random.default_rng(2).uniform(-0.2, 0.2, one.shape) * low
    block = requests.made(noisy, *np.repeat(requests.texts[:1], 500, axis=0).T)
    assert not judged(fitted, block)[0].drifted
    assert judged(NearDuplicates(tolerance=4).learn(requests.reference(), *requests.columns), block)[0].drifted


def test_images_of_digits():
    """Sixty-four pixels of 17 shades: a few of them sent again and again are seen, the set itself is natural."""
    rows = np.random.default_rng(0).permutation(load_digits().data)
    names = [f"p{j}" for j in range(64)]

    def block(numeric):
        keys = np.random.default_rng(1).integers(0, 2**64, len(numeric), dtype=np.uint64)
        return Block(np.asfortranarray(numeric), np.isnan(numeric), (), keys)

    fitted = NearDuplicates().learn(RowSample.of(block(rows[:1000]), 1000), names, [])
    assert not judged(fitted, block(rows[1000:]))[0].drifted
    assert judged(fitted, block(np.vstack((rows[1000:], np.repeat(rows[1000:1020], 40, axis=0)))))[0].drifted


def test_what_is_missing_is_a_cell_of_its_own(requests):
    random = np.random.default_rng(4)
    fitted = NearDuplicates().learn(
        RowSample.of(
            requests.made(random.normal(size=(2000, 1)), random.integers(0, 99, 2000).astype(str).tolist()), 2000
        ),
        ["a"],
        ["b"],
    )
    nothing = requests.made(np.full((300, 1), np.nan), [None] * 300)
    verdict = judged(fitted, nothing)[0]
    assert verdict.score == 1
    assert verdict.example == {"a": None, "b": None}
    far = judged(fitted, requests.made(np.full((300, 1), -np.inf), ["x"] * 300))[0]
    assert far.example == {"a": "-inf", "b": "x"}


def test_few_requests_are_not_judged(fitted, requests):
    verdict = judged(fitted, requests.replay(99, 1))[0]
    assert math.isnan(verdict.score)
    assert not verdict.drifted
    assert judged(fitted, requests.replay(100, 1))[0].drifted


# How it counts.


@given(
    sent=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60).map(lambda i: int(i**1.5))), max_size=300),
    size=st.integers(8, 20),
    cuts=st.integers(1, 8),
)
@settings(max_examples=100)
def test_heavy_cells_keep_the_bound_of_misra_and_gries(sent, size, cuts):
    total, error = Tally.empty(), np.zeros(3, np.int64)
    same = np.arange(3)
    for part in np.array_split(np.array(sent, np.int64).reshape(-1, 2), cuts):
        tags = near_duplicates._tags(part[:, 0], part[:, 1].astype(np.uint64))
        some, lost = Tally.of(tags).heaviest(size, np.zeros(3, np.int64))
        total, error = total.joined(some, same, same).heaviest(size, error + lost)
    true = Counter(sent)
    found = dict(zip(zip(total.groups.tolist(), total.cells.tolist(), strict=True), total.counts.tolist(), strict=True))
    for group in range(3):
        requests = sum(count for (other, _), count in true.items() if other == group)
        kept = sum(count for (other, _), count in found.items() if other == group)
        assert error[group] <= (requests - kept) / (size + 1)
        assert sum(other == group for other, _ in found) <= size
    for tag, count in true.items():
        assert count - error[tag[0]] <= found.get(tag, 0) <= count
    assert set(found) <= set(true)


@given(seed=st.integers(0, 2**32 - 1), cuts=st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_sampled_cells_have_exact_counts(seed, cuts):
    random = np.random.default_rng(seed)
    cells = near_duplicates.mixed(random.integers(0, 2000, 5000, dtype=np.uint64)) & near_duplicates._CELL
    total, same = Tally.empty(), np.arange(1)
    for part in np.array_split(cells, cuts):
        total = total.joined(Tally.of(part).smallest(512), same, same).smallest(512)
    values, counts = np.unique(cells, return_counts=True)
    np.testing.assert_array_equal(total.cells, values[:512])
    np.testing.assert_array_equal(total.counts, counts[:512])


def test_distinct_cells_are_counted_within_their_error(fitted, requests):
    scope = fitted.observe(requests.natural(20_000, 1), None).of(None)
    cells = near_duplicates._fingerprints(requests.natural(20_000, 1), fitted.units, 0.1)[0]
    assert not scope.whole
    assert scope.distinct() == pytest.approx(len(np.unique(cells)), rel=4 * 0.044)


def test_rarefaction_is_what_simulation_gives():
    random = np.random.default_rng(3)
    counts = random.zipf(1.8, 400)
    everything = np.repeat(np.arange(400), counts)
    total = len(everything)
    for drawn in (10, 200, total // 2):
        seen = [len(np.unique(random.choice(everything, drawn, replace=False))) for _ in range(400)]
        expected = float(np.sum(near_duplicates._met(counts, total, drawn)))
        assert expected == pytest.approx(np.mean(seen), abs=4 * np.std(seen) / 20)
    assert np.sum(near_duplicates._met(counts, total, total)) == pytest.approx(400)


@pytest.mark.parametrize(("total", "drawn"), [(50, 20), (1000, 500), (10**9, 5000), (300, 300)])
def test_meeting_a_cell_is_hypergeometric(total, drawn):
    counts = np.array([1, 2, 3, 10, 40])
    exact = 1 - stats.hypergeom.pmf(0, total, counts, drawn)
    np.testing.assert_allclose(near_duplicates._met(counts, total, drawn), exact, atol=3e-4, rtol=1e-3)


def test_the_tail_is_binomial():
    found, there, requests, rows = 9, 3, 500, 10_000
    expected = stats.binomtest(found, found + there, requests / (requests + rows), "greater").pvalue
    assert special.betainc(found, there + 1, requests / (requests + rows)) == pytest.approx(expected)
    tally = Tally(np.zeros(1, np.int64), np.array([5], np.uint64), np.array([found]))
    natural = near_duplicates._Natural(np.array([5], np.uint64), np.array([there]))
    for rate, share in ((expected * 1.01, found / requests - there / rows), (expected * 0.99, 0.0)):
        assert near_duplicates._beyond_chance(tally, natural, requests, rows, rate).tolist() == [pytest.approx(share)]


def test_cells_are_those_that_rounding_gives():
    random = np.random.default_rng(6)
    numeric = random.normal(size=(20_000, 2))
    numeric[::9, 1] = np.nan
    texts = Codes(random.integers(-1, 3, 20_000).astype(np.int32), ("x", "y", "z"))
    block = Block(np.asfortranarray(numeric), np.isnan(numeric), (texts,))
    units = Units(np.array([0.005, 0.0]), np.array([1.0, 2.0]))
    tags = near_duplicates._fingerprints(block, units, 0.1)
    places = (numeric - units.centre) / (units.spread * 0.1)
    for grid, whole in zip(tags, (np.floor(places + 0.5), np.floor(places)), strict=True):
        plain = {
            (tuple(np.nan_to_num(row, nan=1e9)), code)
            for row, code in zip(whole.tolist(), texts.codes.tolist(), strict=True)
        }
        assert len(np.unique(grid)) == len(plain)
    again = near_duplicates._fingerprints(Block(np.ascontiguousarray(numeric), block.missing, (texts,)), units, 0.1)
    np.testing.assert_array_equal(tags, again)
