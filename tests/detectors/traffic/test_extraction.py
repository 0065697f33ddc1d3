"""Made-up queries are seen, natural ones are left alone, and the numbers are those of others."""

import math

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats
from sklearn.datasets import load_breast_cancer
from sklearn.neighbors import NearestNeighbors

from detectors.statistics.sample import RowSample
from detectors.traffic import extraction
from detectors.traffic.base import OTHER
from detectors.traffic.extraction import Extraction

ATTACKS = ["probing", "sweep", "line", "grid", "augmentation"]


@pytest.fixture(scope="module")
def fitted(requests):
    return Extraction().learn(requests.reference(), *requests.columns)


def judged(fitted, block, clients=None):
    return fitted.compare(fitted.observe(block, clients))


def chance(alarms, trials, rate):
    """Whether so many alarms are what a rate gives, within 99.9 %."""
    low, high = stats.binomtest(alarms, trials).proportion_ci(0.999)
    return low <= rate <= high


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attacker_is_seen(fitted, requests, attack):
    for seed in range(6):
        verdict = judged(fitted, getattr(requests, attack)(300, seed))[0]
        # A sweep of a feature of few distinct values can hardly be told: `near_duplicates` sees it.
        few = len(np.unique(getattr(requests, attack)(300, seed).numeric, axis=0)) < 40
        assert verdict.drifted or few, (attack, seed, verdict)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_long_attack_is_seen_in_its_sample(fitted, requests, attack):
    verdict = judged(fitted, getattr(requests, attack)(3000, 11))[0]
    assert verdict.drifted
    assert verdict.score == pytest.approx(0.001)


def test_clean_clients_raise_as_many_alarms_as_they_should(fitted, requests):
    scores = []
    for seed in range(10):
        block = requests.natural(80 * 50, 1000 + seed)
        verdicts = judged(fitted, block, requests.senders([f"c{i % 50}" for i in range(block.rows)]))
        assert len(verdicts) == 51
        scores += [verdict.score for verdict in verdicts[1:]]
        assert verdicts[0].score > 0.001
    scores = np.array(scores)
    assert np.isfinite(scores).all()
    # Above the threshold the score is the plain p-value.
    for rate in (0.5, 0.2, 0.05, 0.01):
        assert chance(int(np.sum(scores <= rate)), len(scores), rate), rate
    assert stats.binomtest(int(np.sum(scores <= 0.001)), len(scores), 0.001, "greater").pvalue > 0.001


@pytest.mark.parametrize("rows", [1024, 2500])
def test_a_small_reference_keeps_the_rate(requests, rows):
    alarms = trials = 0
    for seed in range(6):
        some = requests.rows(rows + 64 * 60, 50 + seed)
        reference = RowSample.of(requests.block(some[:rows]), rows)
        fitted = Extraction(resamples=499, threshold=0.01).learn(reference, *requests.columns)
        block = requests.block(some[rows:], seed)
        verdicts = judged(fitted, block, requests.senders([f"c{i % 50}" for i in range(block.rows)]))
        alarms += sum(verdict.score <= 0.05 for verdict in verdicts[1:])
        trials += len(verdicts) - 1
    assert stats.binomtest(alarms, trials, 0.05, "greater").pvalue > 0.001


@pytest.mark.parametrize(("column", "values"), [("origin", 3), ("month", 12), ("hour", 14)])
def test_a_narrow_natural_client_is_left_alone(fitted, requests, flights, column, values):
    """A client that is one airport, one month, one hour has nearer neighbours than the reference; its twins have them, too."""
    there = flights[column].to_numpy()[10_000:]
    alarms = 0
    for value in flights[column].value_counts().index[:values]:
        rows = np.flatnonzero(there == value)[:150] + 10_000
        alarms += judged(fitted, requests.block(rows))[0].drifted
    assert alarms <= values // 6


def test_the_attacker_is_named_and_nobody_else(fitted, requests):
    natural = requests.natural(2000, 5)
    block = requests.joined(natural, requests.augmentation(120, 5), requests.line(120, 6))
    names = [f"c{i % 20}" for i in range(2000)] + ["thief"] * 120 + [None] * 120
    verdicts = judged(fitted, block, requests.senders(names))
    assert [verdict.client for verdict in verdicts if verdict.drifted] == ["thief", OTHER]
    assert {verdict.client: verdict.requests for verdict in verdicts}["thief"] == 120


def test_a_share_of_made_up_queries_is_seen(fitted, requests):
    for attack in ("probing", "line", "augmentation"):
        caught = 0
        for seed in range(4):
            block = requests.joined(requests.natural(80, 70 + seed), getattr(requests, attack)(80, seed))
            caught += judged(fitted, block)[0].drifted
        assert caught >= 3, attack


def test_the_explanation_names_what_is_swept(fitted, requests):
    low, high = requests.box
    swept = np.repeat(requests.complete(1, 3), 200, axis=0)
    swept[:, 6] = np.linspace(low[6], high[6], 200)
    texts = np.repeat(requests.texts[:1], 200, axis=0).T
    verdict = judged(fitted, requests.made(swept, *texts))[0]
    assert verdict.explanation == {"distance": 1.0}
    assert verdict.facts["distance"] < 0.1 * verdict.facts["expected"]
    assert verdict.facts["requests"] == 64
    assert 0 < verdict.facts["shapiro_wilk"] < 1


def test_another_data_set():
    """Measurements of 569 tumours: a reference of 512 rows is the least there may be."""
    rows = np.random.default_rng(0).permutation(load_breast_cancer().data)
    names = [f"x{j}" for j in range(30)]

    def block(numeric):
        return extraction.Block(np.asfortranarray(numeric), np.isnan(numeric))

    fitted = Extraction().learn(RowSample.of(block(rows[:520]), 520), names, [])
    assert list(fitted.nulls) == [32]
    assert not judged(fitted, block(rows[520:]))[0].drifted
    low, high = rows[:520].min(axis=0), rows[:520].max(axis=0)
    noise = np.random.default_rng(1).uniform(low, high, (60, 30))
    steps = rows[520:528].repeat(8, axis=0) + 0.1 * rows.std(axis=0) * np.random.default_rng(2).choice(
        [-1, 1], (64, 30)
    )
    assert judged(fitted, block(noise))[0].drifted
    assert judged(fitted, block(steps))[0].drifted


def test_repeated_requests_are_not_its_business(fitted, requests):
    assert math.isnan(judged(fitted, requests.replay(500, 1, distinct=20))[0].score)
    block = requests.joined(requests.natural(100, 2), requests.replay(5, 2, distinct=1))
    assert not judged(fitted, block)[0].drifted


def test_few_requests_are_not_judged(fitted, requests):
    verdict = judged(fitted, requests.natural(31, 1))[0]
    assert math.isnan(verdict.score)
    assert (verdict.drifted, verdict.requests) == (False, 31)
    assert not math.isnan(judged(fitted, requests.natural(33, 1))[0].score)


def test_distances_are_those_of_scikit_learn(fitted, requests):
    block = requests.natural(60, 4)
    points = extraction._Points.of(block, slice(None), fitted.units)
    vectors = points.vectors()
    hot = [(texts[:, None] == np.unique(texts)) * np.sqrt(0.5) for texts in points.texts.T]
    distances, _ = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(np.hstack((vectors, *hot))).kneighbors()
    found = extraction._distances(extraction._squared(vectors[None], points.texts[None])[0])
    np.testing.assert_allclose(found, np.sort(distances[:, 0]), atol=2e-6)


def test_the_statistic_is_that_of_scipy():
    sample = np.sort(np.random.default_rng(1).uniform(size=50) ** 1.3)
    pool = (np.arange(1_000_000) + 0.5) / 1_000_000
    theirs = stats.goodness_of_fit(
        stats.uniform, sample, known_params={"loc": 0, "scale": 1}, statistic="ad", n_mc_samples=1
    )
    assert float(extraction._anderson_darling(sample, pool)) == pytest.approx(theirs.statistic, rel=1e-4)


def test_the_p_value_is_a_rank(fitted):
    null = fitted.nulls[64]
    assert len(null.statistics) == 1999
    assert null.p_value(np.inf) == 1 / 2000
    assert null.p_value(-np.inf) == 1
    assert null.p_value(float(np.median(null.statistics))) == pytest.approx(0.5, abs=0.001)


def test_twins_are_distinct_and_near(fitted, requests):
    points = extraction._Points.of(requests.natural(40, 9), slice(None), fitted.units)
    near = fitted._neighbours(points.vectors(), points.texts)
    assert near.shape == (40, 48)
    vectors = fitted.reference.vectors()
    to_all = ((points.vectors()[0] - vectors) ** 2).sum(axis=1) + (points.texts[0] != fitted.reference.texts).sum(
        axis=1
    )
    np.testing.assert_allclose(to_all[near[0]], np.sort(to_all)[:48], atol=1e-9)
    # The same request forty times: each twin is another row, so no distance is zero.
    crowd = fitted._twins(np.repeat(near[:1], 40, axis=0), 7, np.random.default_rng(0))
    assert crowd.shape == (7, 40)
    assert (crowd > 0).all()


def test_a_threshold_that_no_p_value_reaches_is_refused():
    with pytest.raises(ValidationError, match=r"threshold 0\.001 needs at least 999 resamples, there are 500"):
        Extraction(resamples=500)
    assert Extraction(resamples=999).threshold == 0.001
