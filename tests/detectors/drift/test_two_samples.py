"""Tests of two numeric samples: against scipy where Evidently refuses or rounds, the bounds from a ruler, and what is defined besides."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from detectors.distribution import Ramps, difference, distribution
from detectors.drift import DRIFT, anderson, cramer_von_mises, es, mannw
from detectors.errors import NotApplicable
from detectors.ranks import pieces
from detectors.statistics.column import ColumnSummary
from detectors.statistics.ruler import Ruler

# The oracle says so whenever its table ends.
pytestmark = pytest.mark.filterwarnings("ignore:p-value (capped|floored):UserWarning")

METHODS = ["anderson", "cramer_von_mises", "mannw", "t_test", "ed", "es"]


def score(name, reference, window):
    return DRIFT[name]().compare(reference, window).score


def whole(columns, a, b):
    return columns.numeric(np.array(a, float)), columns.numeric(np.array(b, float))


# Equal to scipy -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [(2, 2), (2, 7), (9, 6), (10, 10), (12, 11), (20, 3)])
@pytest.mark.parametrize("digits", [0, 9])
def test_cramer_von_mises_counts_all_orders_of_small_samples(columns, sizes, digits):
    rng = np.random.default_rng(sum(sizes))
    a, b = rng.normal(size=sizes[0]).round(digits), rng.normal(0.7, 1.0, sizes[1]).round(digits)
    expected = stats.cramervonmises_2samp(a, b, method="exact").pvalue
    assert score("cramer_von_mises", *whole(columns, a, b)) == pytest.approx(expected, rel=1e-12)


def test_cramer_von_mises_of_a_single_value_is_the_share_of_ranks_that_are_as_far_out(columns):
    nine = np.arange(9.0)
    found = [score("cramer_von_mises", *whole(columns, nine, [at])) for at in (-0.5, 0.5, 1.5, 4.5, 8.5)]
    assert found == pytest.approx([0.2, 0.4, 0.6, 1.0, 0.2])


@pytest.mark.parametrize("sizes", [(1, 1), (1, 40), (5, 2), (8, 8), (8, 300), (2000, 3), (9, 9), (30, 400)])
@pytest.mark.parametrize("shift", [-0.8, 0.0, 0.8])
def test_mann_whitney_counts_all_orders_next_to_few_values(columns, sizes, shift):
    rng = np.random.default_rng(sum(sizes))
    a, b = rng.normal(size=sizes[0]), rng.normal(shift, 1.0, sizes[1])
    expected = stats.mannwhitneyu(a, b, alternative="less").pvalue
    assert score("mannw", *whole(columns, a, b)) == pytest.approx(expected, rel=1e-9)


def test_mann_whitney_of_few_values_against_very_many_is_a_sum_of_uniform_numbers():
    # Two uniform numbers add up to at most x with probability x^2 / 2.
    n = 10**9
    assert mannw._counted_p(n // 2, 2, n) == pytest.approx(0.125, abs=1e-4)
    assert mannw._counted_p(2 * n, 2, n) == 1
    assert mannw._counted_p(0, 2, n) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("sizes", [(1, 3), (2, 2), (4, 9), (30, 200)])
def test_anderson_is_standardised_as_in_the_paper(columns, sizes):
    rng = np.random.default_rng(sum(sizes))
    a, b = rng.normal(size=sizes[0]), rng.normal(size=sizes[1])
    found = anderson._statistic(pieces(*whole(columns, a, b)), *sizes)
    expected = stats.anderson_ksamp([a, b], variant="midrank").statistic
    assert (found - 1) / anderson._deviation(*sizes) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("size", [10**5, 10**9])
def test_anderson_has_the_limiting_deviation_in_large_samples(size):
    assert anderson._deviation(size, size) == pytest.approx(math.sqrt(2 * (math.pi**2 - 9) / 3), rel=1e-4)


def test_t_test_needs_the_moments_only(columns):
    rng = np.random.default_rng(4)
    a, b = rng.normal(10, 2, 70_000), rng.normal(10.03, 2, 50_000)
    reference, window = (
        dataclasses.replace(column, values=None, sample=None, distinct=None) for column in whole(columns, a, b)
    )
    verdict = DRIFT["t_test"]().compare(reference, window)
    assert verdict.score == pytest.approx(stats.ttest_ind(a, b).pvalue, rel=1e-9)
    assert verdict.exact
    assert verdict.explanation == {}


# From a ruler ---------------------------------------------------------------------------------------------------------
@st.composite
def counted(draw, *, tied=None):
    """Reference and window, raw and as counted on the ruler of the reference; coarse, so that bins hold many values."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m = draw(st.integers(40, 600)), draw(st.integers(40, 600))
    shift, spread = draw(st.sampled_from([0.0, 0.1, 1.0, -3.0])), draw(st.sampled_from([0.2, 1.0, 1.5]))
    kind = draw(st.sampled_from(["normal", "skewed", "heavy-tailed"]))
    make = {
        "normal": rng.standard_normal,
        "skewed": rng.standard_exponential,
        "heavy-tailed": lambda k: rng.standard_t(2, k),
    }[kind]
    a, b = make(n), make(m) * spread + shift
    if draw(st.booleans()) if tied is None else tied:
        a, b = a.round(1), b.round(1)
        a[rng.random(n) < 0.3] = 0.0
        b[rng.random(m) < draw(st.sampled_from([0.0, 0.3]))] = 0.0
    ruler = Ruler.of(np.sort(a), draw(st.sampled_from([8, 32, 128])))
    return a, b, ruler


def on_ruler(columns, a, b, ruler):
    return columns.numeric(a, ruler, whole=False), columns.numeric(b, ruler, whole=False)


def shares(reference, window):
    return reference.bins / reference.count, window.bins / window.count


def widths(column):
    """Of each bin, as far as the column has values."""
    return np.diff(np.clip(column.ruler.marks, column.low, column.high), prepend=column.low, append=column.high)


@given(rows=counted())
@settings(max_examples=60, deadline=None)
def test_pieces_keep_the_counts_of_each_bin(columns, rows):
    reference, window = on_ruler(columns, *rows)
    cut = pieces(reference, window)
    assert not cut.exact
    assert np.all(cut.p + cut.q > 0)
    for column, mass in ((reference, cut.p), (window, cut.q)):
        upto = np.cumsum(column.bins)
        # Every mark is between two pieces, so what is counted up to a mark is also counted up to some piece.
        assert np.abs(np.append(0, np.cumsum(mass))[:, None] - upto).min(axis=0).max() < 1e-6
        assert mass.sum() == pytest.approx(column.count)


@given(rows=counted(tied=False))
@settings(max_examples=80, deadline=None)
def test_cramer_von_mises_from_the_ruler_is_within_its_bound(columns, rows):
    a, b, _ = rows
    reference, window = on_ruler(columns, *rows)
    n, m = len(a), len(b)
    true = stats.cramervonmises_2samp(a, b, method="asymptotic").statistic
    found = cramer_von_mises._statistic(cramer_von_mises._rank_sum(pieces(reference, window), n, m), n, m)
    p, q = shares(reference, window)
    assert abs(math.sqrt(found) - math.sqrt(true)) <= np.max(p + q) * math.sqrt(n * m / (n + m)) + 1e-9


@given(rows=counted(tied=False))
@settings(max_examples=80, deadline=None)
def test_anderson_from_the_ruler_is_within_its_bound(columns, rows):
    a, b, _ = rows
    reference, window = on_ruler(columns, *rows)
    n, m = len(a), len(b)
    true = stats.anderson_ksamp([a, b], variant="midrank").statistic * anderson._deviation(n, m) + 1
    found = anderson._statistic(pieces(reference, window), n, m)
    p, q = shares(reference, window)
    bound = np.max(p + q) * math.sqrt(2 * n * m / (n + m) * (math.log(n + m) + 5))
    assert abs(math.sqrt(found) - math.sqrt(true)) <= bound


@given(rows=counted())
@settings(max_examples=80, deadline=None)
def test_mann_whitney_from_the_ruler_is_within_the_pairs_of_a_bin(columns, rows):
    a, b, _ = rows
    reference, window = on_ruler(columns, *rows)
    true = stats.mannwhitneyu(a, b).statistic
    assert abs(mannw._larger(pieces(reference, window)) - true) <= reference.bins @ window.bins + 1e-6


@given(rows=counted())
@settings(max_examples=80, deadline=None)
def test_energy_distance_from_the_ruler_is_within_its_bound(columns, rows):
    a, b, _ = rows
    reference, window = on_ruler(columns, *rows)
    of_each = [
        math.sqrt(np.sum(widths(column) * share**2))
        for column, share in zip((reference, window), shares(reference, window), strict=True)
    ]
    found = score("ed", reference, window)
    range_ = max(a.max(), b.max()) - min(a.min(), b.min())
    assert abs(found - stats.energy_distance(a, b)) <= math.sqrt(2) / 3 * sum(of_each) + 1e-5 * math.sqrt(range_)
    x, means = difference(distribution(reference), distribution(window), 2)
    assert found == pytest.approx(math.sqrt(2 * np.diff(x) @ means), rel=1e-9)


@given(rows=counted(), scale=st.floats(0.1, 3))
@settings(max_examples=80, deadline=None)
def test_characteristic_functions_from_the_ruler_are_within_their_bound(columns, rows, scale):
    for raw, column in zip(rows[:2], on_ruler(columns, *rows), strict=True):
        (true, covariance), (found, like) = (
            es._waves(distribution(known), scale) for known in (columns.numeric(raw), column)
        )
        share, width = column.bins / column.count, widths(column)
        bounds = {t: share @ np.minimum(2, (t * width / scale) ** 2 / 6) for t in (0.4, 0.8, 1.2, 1.6)}
        assert np.all(np.abs(found - true) <= np.array([bounds[0.4], bounds[0.8]] * 2) + 1e-5)
        # A covariance is a mean of waves at up to twice the points less a product of two means.
        assert np.max(np.abs(covariance - like)) <= bounds[1.6] + 2 * bounds[0.8] + 1e-5


# About one and a half times the largest differences seen with 14 seeds.
CLOSE = {
    "continuous": {"anderson": 5e-4, "cramer_von_mises": 0.0015, "mannw": 5e-4, "ed": 1e-5, "es": 5e-4},
    "with a common value": {"anderson": 0.009, "cramer_von_mises": 0.022, "mannw": 0.01, "ed": 5e-5, "es": 0.008},
    "rounded": {"anderson": 7e-4, "cramer_von_mises": 0.002, "mannw": 0.001, "ed": 1e-5, "es": 5e-4},
}


@pytest.mark.parametrize("kind", CLOSE)
@pytest.mark.parametrize("shift", [0.0, 0.01, -0.02])
def test_p_values_from_the_ruler_are_close_where_they_are_neither_0_nor_1(kind, shift, sketched, sketched_both):
    rng = np.random.default_rng(8)
    size = 20_000
    a, b = rng.normal(size=size), rng.normal(shift, 1.0 - shift, size)
    if kind == "with a common value":
        a[rng.random(size) < 0.4], b[rng.random(size) < 0.4] = 0.0, 0.0
    if kind == "rounded":
        a, b = a.round(3), b.round(3)
    true = {
        "anderson": stats.anderson_ksamp([a, b], variant="midrank"),
        "cramer_von_mises": stats.cramervonmises_2samp(a, b),
        "mannw": stats.mannwhitneyu(a, b, alternative="less"),
        "es": stats.epps_singleton_2samp(a, b),
    }
    expected = {name: test.pvalue for name, test in true.items()} | {"ed": stats.energy_distance(a, b)}
    for made in (sketched, sketched_both):
        pair = made.pair(a, b)
        for name, bound in CLOSE[kind].items():
            verdict = DRIFT[name]().compare(*pair)
            assert verdict.score == pytest.approx(expected[name], rel=0, abs=bound), name
            assert not verdict.exact


def test_a_common_value_next_to_rare_ones_is_a_tie(sketched_both):
    rng = np.random.default_rng(2)
    rows = [np.where(rng.random(5000) < 0.4, 0.0, rng.normal(size=5000)) for _ in range(2)]
    cut = pieces(*sketched_both.pair(*rows))
    largest = np.argmax(cut.p + cut.q)
    assert cut.tied[largest]
    for raw, mass in zip(rows, (cut.p, cut.q), strict=True):
        assert mass[largest] == pytest.approx(np.count_nonzero(raw == 0.0), abs=3)


@pytest.mark.parametrize("name", METHODS)
def test_few_values_are_counted_one_by_one_at_any_size(name, sketched_both):
    rng = np.random.default_rng(3)
    a, b = rng.poisson(3.0, 5000).astype(float), rng.poisson(3.05, 3000).astype(float)
    pair = sketched_both.pair(a, b)
    verdict = DRIFT[name]().compare(*pair)
    exact = [dataclasses.replace(column, values=np.sort(raw)) for column, raw in zip(pair, (a, b), strict=True)]
    assert verdict.exact
    assert verdict.score == pytest.approx(score(name, *exact), rel=1e-9)


# Defined besides ------------------------------------------------------------------------------------------------------
CONSTANT, OTHER = [0.1] * 40, [0.2] * 30


@pytest.mark.parametrize("made", ["columns", "sketched", "sketched_both"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("times", [1, 3])
def test_a_constant_that_stays_is_no_drift_and_one_that_changes_is(name, made, times, request):
    pair = request.getfixturevalue(made).pair
    same = DRIFT[name]().compare(*pair(CONSTANT, CONSTANT * times))
    assert same.score == pytest.approx(0 if name == "ed" else 1, abs=1e-9)
    assert not same.drifted
    changed = DRIFT[name]().compare(*pair(CONSTANT, OTHER * times))
    assert changed.drifted
    if name != "ed":
        assert changed.score <= 0.001


@pytest.mark.parametrize(
    ("name", "reference", "window", "expected"),
    [
        ("t_test", [1.0], [2.0], 1),
        ("t_test", [1.0], [1.0], 1),
        ("t_test", [1.0, 1.0], [2.0], 0),
        ("mannw", [1.0], [2.0], 0.5),
        ("anderson", [1.0], [2.0], 1),
        ("anderson", [1.0, 2.0], [2.0], 1),
        ("anderson", [1.0, 2.0], [1.0, 2.0], 0.25),
        ("cramer_von_mises", [1.0], [2.0], 1),
        ("ed", [1.0], [2.0], math.sqrt(2)),
        ("es", [1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0, 9.0], 1),
        ("es", [], [5.0], math.nan),
    ],
)
def test_outcomes_of_samples_that_are_too_small(columns, name, reference, window, expected):
    assert score(name, *whole(columns, reference, window)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("factor", [1e-170, 1e200, 2.0**1000])
def test_the_size_of_the_numbers_does_not_matter(name, factor, columns):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=60), rng.normal(0.3, 1.0, 50)
    unit = math.sqrt(factor) if name == "ed" else 1
    expected = score(name, *whole(columns, a, b)) * unit
    assert score(name, *whole(columns, a * factor, b * factor)) == pytest.approx(expected, rel=1e-6)


def test_means_that_differ_by_rounding_are_equal():
    old = ColumnSummary("x", "numeric", 10**6, low=0.3, high=np.nextafter(0.3, 1), mean=0.3, m2=1e-27)
    new = dataclasses.replace(old, mean=np.nextafter(0.3, 1))
    assert score("t_test", old, new) == 1


def test_mann_whitney_looks_for_larger_values_only(columns):
    a = np.arange(100.0)
    assert score("mannw", *whole(columns, a, a + 15)) < 0.01
    assert score("mannw", *whole(columns, a, a - 15)) > 0.99
    assert DRIFT["mannw"]().compare(*whole(columns, a, a - 200)).drifted


def test_epps_singleton_scales_by_the_deviation_when_half_of_the_values_are_the_same(columns):
    rng = np.random.default_rng(6)
    a, b = (np.where(rng.random(400) < 0.7, 0.0, rng.normal(mean, 1.0, 400)) for mean in (0.0, 3.0))
    assert np.subtract(*np.percentile(np.concatenate((a, b)), [75, 25])) == 0
    assert score("es", *whole(columns, a, b)) < 1e-6
    assert score("es", *whole(columns, a, np.roll(a, 7))) == pytest.approx(1)


def test_epps_singleton_of_a_column_without_a_ruler_tests_its_sample(columns):
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=300), rng.normal(0.5, 1.0, 5000)
    reference, window = columns.numeric(a), columns.numeric(b, whole=False)
    verdict = DRIFT["es"]().compare(reference, window)
    assert verdict.score == pytest.approx(stats.epps_singleton_2samp(a, window.sample).pvalue, rel=1e-9)
    assert not verdict.exact
    assert verdict.explanation == {}
    with pytest.raises(NotApplicable, match="'x' has neither its values nor a sample of them"):
        DRIFT["es"]().compare(reference, dataclasses.replace(window, sample=None))


@pytest.mark.parametrize("name", ["anderson", "cramer_von_mises", "mannw", "ed"])
def test_without_values_and_ruler_a_method_says_what_is_missing(name, columns):
    column = columns.numeric(np.arange(50.0), whole=False)
    with pytest.raises(NotApplicable, match="neither its values nor ruler counts: build a baseline first"):
        DRIFT[name]().compare(column, column)


@pytest.mark.parametrize("name", METHODS)
def test_the_explanation_is_where_the_shares_moved(name, columns, sketched_both):
    rng = np.random.default_rng(9)
    a = rng.uniform(0, 10, 2000)
    b = np.where(rng.random(2000) < 0.3, rng.uniform(7, 8, 2000), rng.uniform(0, 10, 2000))
    for made in (columns, sketched_both):
        explanation = DRIFT[name]().compare(*made.pair(a, b)).explanation
        assert list(explanation.values()) == sorted(explanation.values(), reverse=True)
        low, high = next(iter(explanation)).strip("[])").split(", ")
        assert float(low) >= (4 if name == "ed" else 6)
        assert float(high) <= 9


def test_a_reference_from_the_ruler_meets_a_whole_window():
    # Larger than what keeps its values, next to a small window that does.
    rng = np.random.default_rng(12)
    a, b = rng.normal(size=30_000), rng.normal(0.2, 1.0, 200)
    ruler = Ruler.of(np.sort(a))
    values = np.sort(b)
    bins = np.bincount(np.searchsorted(ruler.marks, a), minlength=ruler.size)
    sums = np.bincount(np.searchsorted(ruler.marks, a), weights=a, minlength=ruler.size)
    reference = ColumnSummary(
        *("x", "numeric", len(a)),
        low=a.min(),
        high=a.max(),
        mean=a.mean(),
        m2=a.var() * len(a),
        ruler=ruler,
        bins=bins,
        sums=sums,
    )
    window = ColumnSummary(
        *("x", "numeric", len(b)), low=b.min(), high=b.max(), mean=b.mean(), m2=b.var() * len(b), values=values
    )
    assert isinstance(distribution(reference), Ramps)
    assert score("anderson", reference, window) == pytest.approx(
        stats.anderson_ksamp([a, b], variant="midrank").pvalue, abs=1e-3
    )
    assert score("cramer_von_mises", reference, window) == pytest.approx(
        stats.cramervonmises_2samp(a, b).pvalue, abs=1e-3
    )
    assert score("mannw", reference, window) == pytest.approx(
        stats.mannwhitneyu(a, b, alternative="less").pvalue, abs=1e-3
    )
    assert score("ed", reference, window) == pytest.approx(stats.energy_distance(a, b), rel=1e-3)
    assert score("es", reference, window) == pytest.approx(stats.epps_singleton_2samp(a, b).pvalue, abs=1e-3)
    assert score("t_test", reference, window) == pytest.approx(stats.ttest_ind(a, b).pvalue, rel=1e-9)
