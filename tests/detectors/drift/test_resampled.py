"""Tests that draw at random, and those that Evidently refuses to make of most windows: against Evidently, scipy, and every table there is."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from detectors.drift import DRIFT
from detectors.drift.empirical_mmd import EmpiricalMMD, _discrepancies, _divisions, _kernel_root, _width
from detectors.drift.fisher_exact import FisherExact
from detectors.drift.g_test import GTest
from detectors.drift.tvd import TotalVariation
from detectors.errors import NotApplicable
from detectors.resampling import DRAWS, MOST_COUNTED, generator
from detectors.statistics.column import ColumnSummary

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from evidently.legacy.calculations.stattests import mmd_stattest, tvd_stattest
    from evidently.legacy.calculations.stattests.utils import permutation_test

TABLES = {
    "alike": ({"a": 20, "b": 15, "c": 10}, {"a": 12, "b": 9, "c": 9}),
    "apart": ({"a": 20, "b": 15, "c": 10}, {"a": 8, "b": 16, "c": 6}),
    "small": ({"a": 3, "b": 4, "c": 1}, {"a": 1, "b": 1, "c": 3}),
    "new": ({"a": 9, "b": 6}, {"a": 9, "b": 2, "c": 3}),
    "two": ({"a": 9, "b": 6}, {"a": 9, "b": 14}),
}


def counted(counts):
    return ColumnSummary("c", "categorical", sum(counts.values()), counts=counts)


def random(name):
    return np.random.default_rng(sum(map(ord, name)))


def slack(p, *draws):
    """Four standard errors of shares of so many draws each."""
    return 4 * math.sqrt(max(p * (1 - p), 0.001) * sum(1 / n for n in draws))


def every_table(reference, window):
    """(p, table) of every way to deal the values out: the window's counts and how probable they are."""
    keys = sorted({*reference, *window})
    together = [reference.get(key, 0) + window.get(key, 0) for key in keys]
    size = sum(window.values())
    tables = [table for table in itertools.product(*(range(most + 1) for most in together)) if sum(table) == size]
    ways = [math.prod(math.comb(t, w) for t, w in zip(together, table, strict=True)) for table in tables]
    return together, size, np.array(tables), np.array(ways, float) / math.comb(sum(together), size)


# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [30, 1000])
@pytest.mark.parametrize("share", [0.3, 0.45, 0.5])
def test_fisher_and_g_are_evidentlys_where_it_answers(size, share, columns, evidently):
    rng = np.random.default_rng(size)
    rows = (rng.choice(["no", "yes"], size), rng.choice(["no", "yes"], size, p=[share, 1 - share]))
    expected = evidently(*rows, ["fisher_exact", "g_test"])
    for name, score in expected.items():
        verdict = DRIFT[name]().compare(*columns.pair(*rows))
        assert verdict.score == pytest.approx(score, rel=1e-9)
        assert verdict.drifted == (score < 0.1)
        assert verdict.exact


def test_g_is_evidentlys_with_many_categories(columns, evidently):
    rng = np.random.default_rng(5)
    rows = rng.choice(list("abcdef"), 400), rng.choice(list("abcdef"), 400, p=[0.2, 0.2, 0.2, 0.2, 0.1, 0.1])
    assert GTest().compare(*columns.pair(*rows)).score == pytest.approx(
        evidently(*rows, ["g_test"])["g_test"], rel=1e-9
    )


@pytest.mark.parametrize("name", ["alike", "apart", "small", "two"])
def test_g_scales_what_is_expected(name):
    reference, window = TABLES[name]
    n, m = sum(reference.values()), sum(window.values())
    expected = [count * m / n for count in reference.values()]
    right = stats.power_divergence(list(window.values()), expected, lambda_="log-likelihood").pvalue
    assert GTest().compare(counted(reference), counted(window)).score == pytest.approx(right, rel=1e-9)


def test_a_category_that_never_was_is_drift_for_g():
    verdict = GTest().compare(counted({"a": 50, "b": 50}), counted({"a": 50, "b": 49, "c": 1}))
    assert verdict.score == 0
    assert verdict.drifted
    assert next(iter(verdict.explanation)) == "c"


@pytest.mark.parametrize("name", [name for name in DRIFT if name != "callable"])
def test_one_category_is_no_drift(name, columns):
    if "categorical" in DRIFT[name].applies_to:
        verdict = DRIFT[name]().compare(*columns.pair(["a"] * 7, ["a"] * 12))
        assert verdict.score == (1 if verdict.score else 0)
        assert not verdict.drifted


def test_fisher_is_scipys_at_any_size():
    for old, new in [((9, 6), (9, 14)), ((900, 100), (85, 15)), ((5_000_000, 5_000_000), (40, 60)), ((7, 0), (0, 3))]:
        verdict = FisherExact().compare(*(counted(dict(zip("ab", counts, strict=True))) for counts in (old, new)))
        assert verdict.score == pytest.approx(stats.fisher_exact([new, old]).pvalue, rel=1e-9)
        assert verdict.exact


@pytest.mark.parametrize("name", ["alike", "apart", "small", "new"])
def test_fisher_with_more_categories_is_freeman_and_haltons(name):
    reference, window = TABLES[name]
    *_, tables, probabilities = every_table(reference, window)
    seen = [window.get(key, 0) for key in sorted({*reference, *window})]
    own = probabilities[(tables == seen).all(axis=1)]
    right = probabilities[probabilities <= own * (1 + 1e-9)].sum()
    verdict = FisherExact().compare(counted(reference), counted(window))
    assert abs(verdict.score - right) <= slack(right, DRAWS) + 1 / DRAWS
    assert verdict.exact


def test_counts_beyond_a_billion_are_made_fewer():
    old, new = counted({"a": 4_000_000_000, "b": 2_000_000_000}), counted({"a": 40, "b": 20})
    few = counted({"a": 400_000_000, "b": 200_000_000})
    for method in (FisherExact(), TotalVariation()):
        verdict = method.compare(old, new)
        assert not verdict.exact
        assert verdict.score == pytest.approx(method.compare(few, new).score, abs=0.05)
        assert method.compare(old, counted({"a": 3_999_000_000, "b": 2_001_000_000})).drifted
        three = counted({"a": 4_000_000_000, "b": 2_000_000_000, "c": MOST_COUNTED * 3})
        assert method.compare(three, three).score == 1


# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TABLES)
def test_tvd_is_the_share_of_all_divisions(name):
    reference, window = TABLES[name]
    together, size, tables, probabilities = every_table(reference, window)
    total = sum(together)
    far = np.abs(tables * total - np.array(together) * size).sum(axis=1)
    seen = np.array([window.get(key, 0) for key in sorted({*reference, *window})])
    observed = np.abs(seen * total - np.array(together) * size).sum()
    at_least, more = probabilities[far >= observed].sum(), probabilities[far > observed].sum()
    score = TotalVariation().compare(counted(reference), counted(window)).score
    assert abs(score - at_least) <= slack(at_least, DRAWS)

    rows = [pd.Series([key for key, count in counts.items() for _ in range(count)]) for counts in (reference, window)]
    tvd = tvd_stattest._total_variation_distance
    theirs = permutation_test(*rows, tvd(*rows), tvd, iterations=300)  # seeded by itself
    assert more - slack(more, 300) <= theirs <= at_least + slack(at_least, 300)


def test_tvd_is_evidentlys_where_no_two_divisions_tie(columns, evidently):
    rng = random("tvd")
    shares = rng.dirichlet(np.ones(12))
    rows = rng.choice(list("abcdefghijkl"), 331, p=shares), rng.choice(list("abcdefghijkl"), 293, p=shares)
    score = TotalVariation().compare(*columns.pair(*rows)).score
    assert abs(score - evidently(*rows, ["TVD"])["TVD"]) <= slack(score, 1000, DRAWS)


# ---------------------------------------------------------------------------------------------------------------------
def numbers(name):
    rng = random(name)
    match name:
        case "normal":
            return rng.normal(size=150), rng.normal(0.1, 1.0, 120)
        case "apart":
            return rng.normal(size=150), rng.normal(0.5, 1.0, 120)
        case "heavy-tailed":
            return rng.standard_cauchy(200), rng.standard_cauchy(60)
        case "few values":
            return rng.poisson(1.0, 100).astype(float), rng.poisson(1.3, 100).astype(float)
        case "mostly one":
            return np.where(rng.random(90) < 0.8, 0.0, rng.normal(size=90)), rng.normal(0, 0.5, 40)
        case "pair":
            return np.array([1.0, 2.0]), np.array([3.0, 1.5])
    raise ValueError(name)


NUMBERS = ["normal", "apart", "heavy-tailed", "few values", "mostly one", "pair"]


@pytest.mark.parametrize("name", NUMBERS)
def test_the_kernel_and_the_discrepancy_are_evidentlys(name):
    old, new = numbers(name)
    both = np.concatenate((old, new))
    root = _kernel_root(both, _width(old))
    kernel = mmd_stattest.kernel_matrix(old[:, None], new[:, None])
    np.testing.assert_allclose(root.T @ root, kernel, rtol=0, atol=1e-9 if name == "heavy-tailed" else 1e-11)
    assert len(root) <= min(len(both), 130)
    seen, *drawn = _discrepancies(
        root, divisions := _divisions(generator(both), len(old), len(new)), len(old), len(new)
    )
    right = mmd_stattest.mmd_2samp(kernel - np.diag(np.diagonal(kernel)), len(new))
    assert seen == pytest.approx(right, rel=1e-8, abs=1e-10)
    rows = np.argsort(divisions[:, 1], kind="stable")  # the first random division, put in order
    assert divisions[:, 1].sum() == len(new)
    shuffled = kernel[rows][:, rows]
    right = mmd_stattest.mmd_2samp(shuffled - np.diag(np.diagonal(shuffled)), len(new))
    assert drawn[0] == pytest.approx(right, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("name", NUMBERS)
def test_mmd_is_evidentlys_within_the_error_of_the_draws(name, columns, evidently):
    rows = numbers(name)
    np.random.seed(3)  # noqa: NPY002 - what Evidently draws from
    verdict = EmpiricalMMD().compare(*columns.pair(*rows))
    theirs = evidently(*rows, ["empirical_mmd"])["empirical_mmd"]
    assert abs(verdict.score - theirs) <= slack(verdict.score, 100, DRAWS)
    assert verdict.exact


def test_mmd_looks_at_a_thousand_values_of_each(columns, rng):
    reference, window = rng.normal(size=5000), rng.normal(0.3, 1.0, 3000)
    for made in (columns.pair(reference, window), columns.pair(reference, window[:1000])):
        verdict = EmpiricalMMD().compare(*made)
        assert verdict.drifted
        assert not verdict.exact


def test_mmd_without_values_and_without_a_sample_says_so():
    bare = ColumnSummary("x", "numeric", 5000, low=0.0, high=1.0)
    with pytest.raises(NotApplicable, match="'x' has neither its values nor a sample of them: keep a sample"):
        EmpiricalMMD().compare(bare, bare)


def test_mmd_of_a_sample_that_lacks_the_column_is_no_number():
    some = ColumnSummary("x", "numeric", 3, low=0.0, high=2.0, values=np.arange(3.0))
    rare = ColumnSummary("x", "numeric", 2, low=0.0, high=1.0, sample=np.empty(0))
    verdict = EmpiricalMMD().compare(some, rare)
    assert math.isnan(verdict.score)
    assert not verdict.drifted


@pytest.mark.parametrize("name", ["TVD", "fisher_exact", "empirical_mmd"])
def test_clean_windows_alarm_as_often_as_the_threshold_says(name, columns, rng):
    method = DRIFT[name]()
    make = (lambda: rng.normal(size=60)) if name == "empirical_mmd" else (lambda: rng.choice(list("abcde"), 60))
    alarms = sum(method.compare(*columns.pair(make(), make())).drifted for _ in range(300))
    assert 0.02 * 300 <= alarms <= 0.17 * 300  # 0.1, four standard errors; a bit less where p-values are few


def test_draws_are_seeded_by_what_they_are_about():
    a, b = np.arange(4), np.arange(4.0)
    assert generator(a).random() == generator(a.copy()).random()
    assert generator(np.array([0.0])).random() == generator(np.array([-0.0])).random()
    others = [generator(a), generator(b), generator(a[:3]), generator(a, a), generator(a[:2], a[2:])]
    assert len({each.random() for each in others}) == len(others)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(11)
