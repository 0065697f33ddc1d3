"""Scores, chance and explanations against independent formulas on raw rows."""

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel

from detectors.drift import DRIFT
from detectors.multivariate import MULTIVARIATE
from detectors.multivariate.base import Joint
from detectors.multivariate.chance import SquaredDistance, upper, upper_by_gamma, upper_of_sum
from detectors.multivariate.domain_classifier import _auc
from detectors.statistics.column import ColumnSummary
from detectors.statistics.embedding import Scales


def names(rows):
    return tuple(f"c{j}" for j in range(rows.shape[1]))


def compare(method, reference, window, size=1000):
    known = Joint.of(names(reference), reference)
    return method.learn(known).compare(Joint.of(names(window), window, method.embedding(known), size))


def bent(reference, rows):
    """Bounded scales, written anew; the reference in the order in which its sample keeps it."""
    sample = Joint.of(names(reference), reference).complete()
    low, middle, high = np.quantile(sample, [0.25, 0.5, 0.75], axis=0, method="lower")

    def bend(x):
        t = (x - middle) * 1.349 / (high - low)
        return 3 * t / np.sqrt(9 + t**2)

    return tuple((bend(x) - bend(sample).mean(axis=0)) / bend(sample).std(axis=0) for x in (sample, rows))


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(6, 6))
    reference = rng.normal(size=(4000, 6)) @ mix
    reference[:, 0] = np.exp(reference[:, 0] / 3)
    window = rng.normal(size=(700, 6)) @ (mix + 0.15 * rng.normal(size=(6, 6))) + 0.2
    window[:, 0] = np.exp(window[:, 0] / 3)
    return reference, window


@pytest.mark.parametrize("explained", [0.3, 0.65, 0.9])
def test_pca_is_the_reconstruction_error_of_the_rows(tables, explained):
    reference, window = tables
    z, w = bent(reference, window)
    _, s, directions = np.linalg.svd(z[:2000], full_matrices=False)
    kept = int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), explained)) + 1
    v = directions[:kept]
    error = [((x - x @ v.T @ v) ** 2).sum(axis=1).mean() for x in (z[2000:], w)]
    verdict = compare(MULTIVARIATE["pca"](explained=explained), reference, window)
    assert verdict.score == pytest.approx(abs(error[1] / error[0] - 1), rel=1e-3)
    # Scikit-learn moves the origin to the mean of what it learns from, which is nearly 0 here.
    pca = PCA(explained).fit(z[:2000])
    error = [((x - pca.inverse_transform(pca.transform(x))) ** 2).sum(axis=1).mean() for x in (z[2000:], w)]
    assert verdict.score == pytest.approx(abs(error[1] / error[0] - 1), abs=0.02)


def test_pca_finds_errors_that_fall():
    rng = np.random.default_rng(1)
    reference, window = rng.normal(size=(4000, 4)), rng.normal(size=(500, 4))
    reference += rng.normal(size=(4000, 1))
    window = 0.5 * window + rng.normal(size=(500, 1)) * 1.3
    assert compare(MULTIVARIATE["pca"](), reference, window).drifted


def test_gaussian_is_its_formula_on_the_rows(tables):
    reference, window = tables
    z, w = bent(reference, window)
    p = np.linalg.inv(np.cov(z.T) + 1e-3 * np.eye(6))
    d, a = w.mean(axis=0) - z.mean(axis=0), np.cov(w.T) - np.cov(z.T)
    raw = d @ p @ d + np.trace(p @ a @ p @ a) / 2
    method = MULTIVARIATE["gaussian"]()
    score = compare(method, reference, window).score
    assert 0.8 * raw < score < raw
    known = Joint.of(names(reference), reference)
    fitted = method.learn(known)
    moved = np.trace(p @ np.cov(z.T)) ** 2 / (2 * 700 * 699)
    assert score == pytest.approx(raw - fitted.chance.mean(700, 4000) - moved, rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_gaussian_is_jeffreys_divergence_of_two_normals_to_leading_order(shift):
    rng = np.random.default_rng(2)
    reference, window = (rng.normal(size=(n, 3)) for n in (40_000, 40_000))
    window[:, 0] = (0.2 * window[:, 1] + np.sqrt(0.96) * window[:, 0]) * 1.1 + shift
    known = Joint.of(names(reference), reference, size=40_000)
    method = MULTIVARIATE["gaussian"]()
    features = method.embedding(known)
    score = method.learn(known).compare(Joint.of(names(window), window, features)).score
    z, w = (features.scales.bent(rows) for rows in (reference, window))
    # By Monte Carlo with scipy's densities: KL one way and the other.
    p, q = (stats.multivariate_normal(x.mean(axis=0), np.cov(x.T)) for x in (z, w))
    x, y = p.rvs(100_000, random_state=1), q.rvs(100_000, random_state=2)
    jeffreys = (p.logpdf(x) - q.logpdf(x)).mean() + (q.logpdf(y) - p.logpdf(y)).mean()
    assert score == pytest.approx(jeffreys, rel=0.2)


def exact_mmd(z, w, gamma):
    """Squared, unbiased."""
    n, m = len(w), len(z)
    zz, ww = rbf_kernel(z, gamma=gamma), rbf_kernel(w, gamma=gamma)
    return (zz.sum() - m) / (m * (m - 1)) + (ww.sum() - n) / (n * (n - 1)) - 2 * rbf_kernel(z, w, gamma=gamma).mean()


def test_mmd_is_that_of_the_full_kernel(tables):
    reference, window = tables
    z, w = bent(reference, window)
    h = 0.5 * np.median(np.sqrt(((z[:1000, None] - z[None, :1000]) ** 2).sum(axis=2))[np.triu_indices(1000, 1)])
    exact = np.sqrt(exact_mmd(z, w, 1 / (2 * h**2)))
    many = compare(MULTIVARIATE["mmd_rff"](frequencies=4096), reference, window).score
    usual = compare(MULTIVARIATE["mmd_rff"](), reference, window).score
    assert many == pytest.approx(exact, rel=0.03)
    assert usual == pytest.approx(exact, rel=0.1)


def test_auc_is_scikit_learns_and_its_chance_scipys():
    rng = np.random.default_rng(3)
    scores = np.round(rng.normal(size=(20, 150)), 1)
    new = rng.random(150) < 0.2
    auc, variance = _auc(scores, new)
    for k in range(20):
        assert auc[k] == pytest.approx(roc_auc_score(new, scores[k]))
        u = stats.mannwhitneyu(
            scores[k, new], scores[k, ~new], alternative="greater", method="asymptotic", use_continuity=False
        )
        assert stats.norm.sf((auc[k] - 0.5) / np.sqrt(variance[k])) == pytest.approx(u.pvalue)


@pytest.mark.parametrize("rate", [0.05, 0.01, 0.001])
def test_a_tail_by_three_moments_is_exact_for_gamma_and_normal(rate):
    assert upper(0.0, rate) == pytest.approx(stats.norm.isf(rate))
    for df in (1, 3, 40, 4_000_000):
        skewness = np.sqrt(8 / df)
        assert upper(skewness, rate) == pytest.approx((stats.chi2.isf(rate, df) - df) / np.sqrt(2 * df), rel=1e-5)
        assert upper(-skewness, rate) == pytest.approx((df - stats.chi2.ppf(rate, df)) / np.sqrt(2 * df), rel=1e-5)


def exceeds(weights, x):
    """Probability that ``sum w z²`` exceeds x, from its characteristic function (Davies 1973)."""
    step = np.pi / (4 * weights.sum() + 2 * x)
    k = np.arange(40_000) + 0.5
    phase, length = np.zeros(len(k)), np.zeros(len(k))
    for weight, count in zip(*np.unique(weights, return_counts=True), strict=True):
        turn = 2 * step * k * weight
        phase += count * np.arctan(turn) / 2
        length += count * np.log1p(turn**2) / 4
    return 0.5 + (np.sin(phase - step * k * x) * np.exp(-length) / (np.pi * k)).sum()


SPECTRA = {
    "two": np.array([1.0, 0.3, 0.2]),
    "falling fast": 0.5 ** np.arange(12),
    "falling": 0.8 ** np.arange(40),
    "one over k": 1 / np.arange(1.0, 60),
    "one over root k": np.arange(1.0, 200) ** -0.5,
    "one and many": np.r_[1, np.full(400, 0.05)],
    "three and many": np.r_[1, 1, 1, np.full(50, 0.2)],
    "equal": np.ones(50),
}


@pytest.mark.parametrize("weights", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("rate", [0.05, 0.01, 0.001])
def test_the_tail_of_a_weighted_sum_is_that_of_its_characteristic_function(weights, rate):
    assert exceeds(weights, upper_of_sum(weights, rate) + weights.sum()) == pytest.approx(rate, rel=0.08)


def test_the_oracle_of_weighted_sums_is_right():
    assert exceeds(np.ones(5), 20.0) == pytest.approx(stats.chi2.sf(20, 5), rel=1e-4)


def test_a_sum_next_to_its_median_is_taken_for_a_gamma():
    weights = np.array([1.0, 0.5])
    assert upper_of_sum(weights, 0.49) == upper_by_gamma(weights, 0.49)


@pytest.mark.parametrize("n", [10, 40, 200])
def test_chance_of_a_squared_distance_is_what_simulation_finds(n):
    """Of skewed rows with features of very different size, in samples so small that no limit holds."""
    rng = np.random.default_rng(4)
    scale = np.array([1.0, 0.6, 0.3, 0.3, 0.1, 0.1])
    few = (rng.exponential(size=(2000, 6)) - 1) * scale
    m = 1000
    chance = SquaredDistance.of(few @ few.T, float((scale**2).sum()), 0.01)
    far = np.concatenate(
        [
            (
                ((rng.exponential(size=(2000, n, 6)).mean(axis=1) - rng.gamma(m, 1 / m, size=(2000, 6))) * scale) ** 2
            ).sum(axis=1)
            for _ in range(20)
        ]
    )
    assert chance.mean(n, m) == pytest.approx(far.mean(), rel=0.03)
    assert (far - chance.mean(n, m) > chance.upper(n, m)).mean() == pytest.approx(0.01, abs=0.002)


def independent(rng, n):
    return rng.normal(size=(n, 4))


def dependent(rng, n):
    """The same marginals, two columns correlated."""
    rows = independent(rng, n)
    rows[:, 1] = 0.7 * rows[:, 0] + np.sqrt(0.51) * rows[:, 1]
    return rows


@pytest.mark.parametrize("name", MULTIVARIATE)
@pytest.mark.parametrize("apart", [True, False])
def test_a_change_that_no_column_shows_is_found_and_explained(name, apart):
    """Two columns come apart, or come together, while each holds the very values that it held."""
    rng = np.random.default_rng(5)
    reference, window = dependent(rng, 4000), dependent(rng, 1500)
    changed = window.copy()
    changed[:, 1] = rng.permutation(window[:, 1])
    if not apart:
        # Of independent columns `pca` looks at some only, whichever they are: here at those that move.
        reference[:, 1] = rng.permutation(reference[:, 1])
        window, changed = changed, window
    for j in range(4):
        before, after = (np.sort(x[:, j]) for x in (window, changed))
        old, new = (ColumnSummary("x", "numeric", 1500, low=v[0], high=v[-1], values=v) for v in (before, after))
        assert DRIFT["ks"]().compare(old, new).score == pytest.approx(1.0)
    method = MULTIVARIATE[name]() if name != "pca" else MULTIVARIATE[name](explained=0.5)
    assert not compare(method, reference, window).drifted
    verdict = compare(method, reference, changed)
    if name != "pca" or apart:
        assert verdict.drifted
        assert set(list(verdict.explanation)[:2]) == {"c0", "c1"}
        assert sum(list(verdict.explanation.values())[:2]) > 0.6


@pytest.mark.parametrize("name", ["gaussian", "mmd_rff", "domain_classifier"])
def test_the_column_that_moved_is_named(name):
    rng = np.random.default_rng(6)
    window = independent(rng, 1000)
    window[:, 2] = 1.2 * window[:, 2] + 0.5
    explanation = compare(MULTIVARIATE[name](), independent(rng, 4000), window).explanation
    assert next(iter(explanation)) == "c2"
    assert explanation["c2"] > 0.6


@pytest.mark.parametrize("name", ["mmd_rff", "domain_classifier"])
def test_a_change_of_shape_alone_is_found(name):
    rng = np.random.default_rng(7)
    window = independent(rng, 2000)[:, :2]
    ring = window / np.hypot(*window.T)[:, None] * np.sqrt(2)
    assert compare(MULTIVARIATE[name](), independent(rng, 4000)[:, :2], ring).drifted
    assert not compare(MULTIVARIATE[name](), independent(rng, 4000)[:, :2], window).drifted


def test_heavy_tails_do_not_alarm():
    """One row in a thousand is most of such a column's variance."""
    rng = np.random.default_rng(8)
    reference = rng.standard_cauchy(size=(5000, 4))
    for name in ("pca", "gaussian", "mmd_rff"):
        method = MULTIVARIATE[name](threshold=1e-9, false_alarm_rate=0.01)
        known = Joint.of(names(reference), reference)
        fitted, features = method.learn(known), method.embedding(known)
        windows = [Joint.of(names(reference), rng.standard_cauchy(size=(300, 4)), features, 10) for _ in range(300)]
        assert sum(fitted.compare(window).drifted for window in windows) <= stats.binom.isf(1e-4, 300, 0.01)


def test_scales_are_bounded_and_leave_out_what_hardly_varies():
    rng = np.random.default_rng(9)
    rows = np.column_stack(
        (
            rng.normal(size=1000),
            np.full(1000, 3.0),
            rng.random(1000) < 0.01,
            np.where(rng.random(1000) < 0.1, rng.lognormal(3, 2, size=1000), 0.0),
        )
    )
    scales = Scales.of(rows)
    assert scales.columns.tolist() == [0, 3]
    z = scales.bent(rows)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(z.std(axis=0), 1)
    far = scales.bent(np.array([[1e308, 0, 0, -1e308], [-np.finfo(float).max, 1e300, 0, np.finfo(float).max]]))
    assert (np.abs(far) <= 3 / scales.std + np.abs(scales.mean / scales.std) + 1e-9).all()
