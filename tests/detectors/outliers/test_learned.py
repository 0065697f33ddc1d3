"""Outlier detectors that learn: numbers from scikit-learn and scipy, false alarms, gaps, and what cannot be learnt."""

import itertools
import sys

import numpy as np
import pytest
from scipy import linalg, stats
from sklearn import ensemble, neural_network
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA

from detectors.base import FittingColumn
from detectors.errors import NotApplicable
from detectors.learned import threshold_of
from detectors.outliers import LEARNED, OUTLIERS
from detectors.outliers.autoencoder import Autoencoder
from detectors.outliers.isolation_forest import IsolationForest
from detectors.outliers.mahalanobis import Mahalanobis
from detectors.outliers.pca_reconstruction import PcaReconstruction
from detectors.statistics.block import Block
from detectors.statistics.column import ColumnSummary

COLUMNS = 8


def block(x):
    x = np.asfortranarray(x, float)
    return Block(x, np.isnan(x))


def fitting(columns):
    return [FittingColumn(ColumnSummary(str(j), "numeric", 9)) for j in range(columns)]


def learnt(detector, rows):
    return detector.fitted(fitting(rows.shape[1]), detector.learn(rows))


def gaussian(rng, n):
    """Three things behind eight columns of very different scales."""
    behind = np.random.default_rng(0).normal(size=(3, COLUMNS))
    x = rng.normal(size=(n, 3)) @ behind + 0.5 * rng.normal(size=(n, COLUMNS))
    return x * 10.0 ** np.arange(-3, COLUMNS - 3) + 50.0


def skewed(rng, n):
    x = (gaussian(rng, n) - 50.0) / 10.0 ** np.arange(-3, COLUMNS - 3)
    x[:, ::2] = np.exp(0.5 * x[:, ::2])
    x[:, 1] = rng.poisson(np.exp(0.3 * x[:, 3]))
    return x


ROWS = {"gaussian": gaussian, "skewed": skewed}


@pytest.fixture(scope="module", params=list(itertools.product(LEARNED, ROWS)), ids="-".join)
def known(request):
    """A detector that learnt from 10,000 rows, and where these came from."""
    name, kind = request.param
    detector = OUTLIERS[name](false_alarm_rate=0.01)
    return learnt(detector, ROWS[kind](np.random.default_rng(1), 10_000)), ROWS[kind]


def test_false_alarms_are_as_many_as_wanted(known):
    fitted, rows = known
    flagged = len(fitted.flag(block(rows(np.random.default_rng(2), 20_000))).rows)
    # Of 5,000 held back rows the 4,951st gives the threshold, whose true rank has a beta distribution.
    low, high = stats.betabinom(20_000, 50, 4951).interval(0.999)
    assert low <= flagged <= high


def test_gaps_give_no_false_alarms(known):
    fitted, rows = known
    x = rows(np.random.default_rng(3), 20_000)
    x[np.random.default_rng(4).random(x.shape) < 0.1] = np.nan
    x[np.random.default_rng(5).random(x.shape) < 0.02] = np.inf
    flagged = fitted.flag(block(x))
    assert len(flagged.rows) / 20_000 <= 0.0125
    assert np.all(np.isfinite(x[flagged.rows[flagged.cell_rows], flagged.cell_columns]))


def test_scores_and_flags_are_the_same_numbers(known):
    fitted, rows = known
    x = rows(np.random.default_rng(6), 5000)
    x[np.random.default_rng(7).random(x.shape) < 0.03] = np.nan
    x[:3], x[3] = [[np.nan], [np.inf], [-np.inf]], 1e300
    scores, flagged = fitted.score(block(x)), fitted.flag(block(x))
    np.testing.assert_array_equal(np.isnan(scores), np.arange(5000) < 3)
    np.testing.assert_array_equal(flagged.rows, np.flatnonzero(scores >= fitted.threshold))
    np.testing.assert_array_equal(flagged.scores, scores[flagged.rows])
    added = np.bincount(flagged.cell_rows, weights=flagged.contributions)
    np.testing.assert_allclose(added, flagged.scores, rtol=1e-9)
    assert np.all(flagged.contributions > 0)


def test_a_row_has_the_same_score_in_any_company(known):
    """To the last bit, so that equal rows lie in equal bins."""
    fitted, rows = known
    x = rows(np.random.default_rng(8), 3001)
    x[::7] *= 1.7
    x[np.random.default_rng(9).random(x.shape) < 0.02] = np.nan
    whole, scores = fitted.flag(block(x)), fitted.score(block(x))
    assert len(whole.rows) > 50
    for size in (1, 2, 3, 5, 61, 1024):
        some = range(0, min(150 * size, 3001), size)
        parts = [fitted.flag(block(x[i : i + size])) for i in some]
        upto = min(some[-1] + size, 3001)
        rows_found = np.concatenate([part.rows + i for part, i in zip(parts, some, strict=True)])
        found = np.concatenate([part.contributions for part in parts])
        np.testing.assert_array_equal(rows_found, whole.rows[whole.rows < upto])
        np.testing.assert_array_equal(found, whole.contributions[: len(found)])
        np.testing.assert_array_equal(
            np.concatenate([fitted.score(block(x[i : i + size])) for i in some]), scores[:upto]
        )
    np.testing.assert_array_equal(fitted.score(Block(x, np.isnan(x))), scores)


@pytest.fixture(scope="module")
def halves():
    """Reference rows, the half of them that is learnt from, and others."""
    rng = np.random.default_rng(11)
    rows = skewed(rng, 4000)
    return rows, rows[:2000], skewed(rng, 500) * rng.choice([1.0, 3.0], (500, 1))


def test_mahalanobis_is_scikit_learns(halves):
    rows, learnt_from, others = halves
    fitted = learnt(Mahalanobis(), rows)
    expected = EmpiricalCovariance().fit(learnt_from).mahalanobis(others)
    np.testing.assert_allclose(fitted.score(block(others)), expected, rtol=1e-8)


def test_mahalanobis_is_shared_out_by_zca_cor_whitening(halves):
    rows, learnt_from, others = halves
    flagged = learnt(Mahalanobis(), rows).flag(block(others))
    whitening = linalg.inv(linalg.sqrtm(np.corrcoef(learnt_from.T)))
    z = (others - learnt_from.mean(axis=0)) / learnt_from.std(axis=0)
    expected = (z[flagged.rows] @ whitening) ** 2
    np.testing.assert_allclose(flagged.contributions, expected[flagged.cell_rows, flagged.cell_columns], rtol=1e-6)


def test_mahalanobis_with_gaps_is_that_of_the_others(halves):
    rows, learnt_from, others = halves
    fitted = learnt(Mahalanobis(), rows)
    x, rng = others.copy(), np.random.default_rng(1)
    x[rng.random(x.shape) < 0.3] = np.nan
    scores = fitted.score(block(x))
    mean, covariance = learnt_from.mean(axis=0), np.cov(learnt_from.T, ddof=0)
    for row, score in zip(x, scores, strict=True):
        there = np.flatnonzero(np.isfinite(row))
        d = (row - mean)[there]
        assert score == pytest.approx(d @ np.linalg.solve(covariance[np.ix_(there, there)], d), rel=1e-6)


@pytest.mark.parametrize("detector", [Mahalanobis(), PcaReconstruction(), PcaReconstruction(explained=0.5)])
def test_a_gap_can_only_lower_the_score(halves, detector):
    rows, _, others = halves
    fitted = learnt(detector, rows)
    x = others.copy()
    x[np.random.default_rng(2).random(x.shape) < 0.3] = np.nan
    assert np.all(fitted.score(block(x)) <= fitted.score(block(others)) * (1 + 1e-6) + 1e-6)


def test_columns_that_depend_on_one_another_do_not_explode():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(5000, 3))
    x = np.column_stack((x, x[:, 0], x[:, 1] + x[:, 2], np.full(5000, 7.0)))
    usual = x[0] * (1 + 1e-7)
    strange = np.array([1.0, 0.0, 0.0, -1.0, 0.0, 7.0])
    for detector in (Mahalanobis(), PcaReconstruction()):
        model = detector.learn(x)
        assert model["used"].tolist() == [1, 1, 1, 1, 1, 0]
        flagged = detector.fitted(fitting(6), model).flag(block([usual, strange, [np.nan] * 5 + [7.0]]))
        assert flagged.rows.tolist() == [1]
        assert set(flagged.cell_columns.tolist()) <= {0, 1, 2, 3, 4}
        main = flagged.contributions[np.isin(flagged.cell_columns, [0, 3])]
        assert main.sum() > 0.99 * flagged.scores[0]


def test_pca_reconstruction_is_scikit_learns(halves):
    rows, learnt_from, others = halves
    detector = PcaReconstruction(explained=0.8)
    flagged = learnt(detector, rows).flag(block(others))
    mean, std = learnt_from.mean(axis=0), learnt_from.std(axis=0)
    pca = PCA(n_components=0.8, svd_solver="full").fit((learnt_from - mean) / std)
    z = (others - mean) / std
    residual = (z - pca.inverse_transform(pca.transform(z))) ** 2
    np.testing.assert_allclose(learnt(detector, rows).score(block(others)), residual.sum(axis=1), rtol=1e-8)
    np.testing.assert_allclose(
        flagged.contributions, residual[flagged.rows][flagged.cell_rows, flagged.cell_columns], rtol=1e-6
    )


def test_pca_reconstruction_with_gaps_fits_the_others(halves):
    rows, learnt_from, others = halves
    mean, std = learnt_from.mean(axis=0), learnt_from.std(axis=0)
    components = PCA(n_components=0.8, svd_solver="full").fit((learnt_from - mean) / std).components_
    x = others.copy()
    x[:, 2], x[::2, 5] = np.nan, np.inf
    scores = learnt(PcaReconstruction(explained=0.8), rows).score(block(x))
    for row, score in zip(x, scores, strict=True):
        there = np.flatnonzero(np.isfinite(row))
        z = ((row - mean) / std)[there]
        plane = components[:, there].T
        assert score == pytest.approx(((z - plane @ np.linalg.lstsq(plane, z)[0]) ** 2).sum(), rel=1e-6)


def test_what_moves_along_the_components_is_not_strange():
    x = np.random.default_rng(4).normal(size=(5000, 1)) * [1.0, 1.0, 3.0]
    x += np.random.default_rng(5).normal(size=x.shape) * 0.1
    fitted = learnt(PcaReconstruction(), x)
    assert fitted.flag(block([[50.0, 50.0, 150.0], [1.0, -1.0, 0.0]])).rows.tolist() == [1]


def recorded(monkeypatch, module, name):
    """Every estimator of this class that is made."""
    made = []
    of = getattr(module, name)

    def make(*args, **kwargs):
        made.append(of(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(module, name, make)
    return made


@pytest.mark.parametrize("settings", [{}, {"trees": 7, "sample_size": 999}, {"trees": 3, "sample_size": 2}])
def test_the_isolation_forest_is_scikit_learns(monkeypatch, halves, settings):
    rows, learnt_from, others = halves
    made = recorded(monkeypatch, ensemble, "IsolationForest")
    fitted = learnt(IsolationForest(**settings), rows)
    z = fitted.scale.standardised(others)
    expected = -made[0].score_samples(z.astype(np.float32))
    np.testing.assert_allclose(fitted.score(block(others)), expected, rtol=1e-9)
    assert len(learnt_from) > 999


def test_an_isolation_forest_credits_the_columns_that_isolate():
    rng = np.random.default_rng(3)
    fitted = learnt(IsolationForest(false_alarm_rate=0.01), rng.normal(size=(10_000, 4)))
    x = np.zeros((2, 4))
    x[0, [1, 2]], x[1, [0, 2, 3]] = [9.0, -9.0], [7.0, 7.0, -7.0]
    flagged = fitted.flag(block(x))
    shares = np.zeros((2, 4))
    shares[flagged.cell_rows, flagged.cell_columns] = flagged.contributions
    shares /= flagged.scores[:, None]
    assert np.all(shares[0, [1, 2]] > 0.4)
    assert np.all(shares[1, [0, 2, 3]] > 0.25)


@pytest.mark.parametrize("columns", [1, 2, COLUMNS])
def test_the_autoencoder_is_scikit_learns(monkeypatch, halves, columns):
    rows, _, others = halves
    made = recorded(monkeypatch, neural_network, "MLPRegressor")
    fitted = learnt(Autoencoder(), rows[:, :columns])
    z = fitted.scale.standardised(others[:, :columns])
    z = z[np.abs(z).max(axis=1) < 10]
    x = z * fitted.scale.std + fitted.scale.mean
    expected = (z - made[0].predict(z).reshape(z.shape)) ** 2
    np.testing.assert_allclose(fitted.score(block(x)), expected.sum(axis=1), rtol=1e-6)


def test_an_autoencoder_follows_a_curve():
    angle = np.random.default_rng(1).uniform(0, np.pi, 8000)
    arc = np.column_stack((np.cos(angle), np.sin(angle))) + np.random.default_rng(2).normal(size=(8000, 2)) * 0.01
    inside = block([[0.0, 0.3], [0.0, 1.0], [0.6, 0.8], [-0.8, 0.6]])
    assert learnt(Autoencoder(bottleneck=1, false_alarm_rate=0.01), arc).flag(inside).rows.tolist() == [0]
    assert learnt(PcaReconstruction(explained=0.5, false_alarm_rate=0.01), arc).flag(inside).rows.tolist() == []


@pytest.mark.parametrize("name", LEARNED)
def test_what_is_learnt_is_arrays_and_always_the_same(name):
    rows = skewed(np.random.default_rng(1), 1000)
    rows[::5, 2] = np.nan
    first, again = (OUTLIERS[name]().learn(rows.copy()) for _ in range(2))
    assert first.keys() == again.keys()
    for key, array in first.items():
        assert array.dtype == np.float64
        assert np.all(np.isfinite(array) | (array == np.inf))
        np.testing.assert_array_equal(array, again[key])
    kept = {key: np.frombuffer(array.tobytes()).reshape(array.shape) for key, array in first.items()}
    fitted = OUTLIERS[name]().fitted(fitting(COLUMNS), kept)
    np.testing.assert_array_equal(fitted.score(block(rows)), learnt(OUTLIERS[name](), rows).score(block(rows)))


@pytest.mark.parametrize("name", LEARNED)
def test_a_strange_reference_gives_a_model(name):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 8))
    x[:, 1], x[:, 2], x[:, 3], x[:, 4] = np.nan, 5.0, x[:, 0], rng.choice([-1.7e308, 1.7e308], 400)
    x[:, 5] *= 5e-324
    x[::3, 0], x[7, 6], x[::2, 7] = np.nan, 1e300, np.nan
    fitted = learnt(OUTLIERS[name](), x)
    assert fitted.scale.used.tolist() == [1, 0, 0, 1, 1, 0, 1, 1]
    scores = fitted.score(block(np.vstack((x, -x, np.full((1, 8), np.nan)))))
    assert np.isnan(scores[-1])
    assert np.all(np.isfinite(scores[:-1]))


@pytest.mark.parametrize("name", LEARNED)
def test_what_cannot_be_learnt_is_said(monkeypatch, name):
    detector = OUTLIERS[name]()
    with pytest.raises(NotApplicable, match="build the baseline anew"):
        detector.fit(fitting(2))
    with pytest.raises(NotApplicable, match="40 rows of the reference hold a number"):
        detector.learn(np.vstack((np.zeros((40, 2)), np.full((60, 2), np.nan))))
    with pytest.raises(NotApplicable, match="no numeric column that varies"):
        detector.learn(np.ones((100, 2)))
    model = detector.learn(np.random.default_rng(1).normal(size=(100, 2)))
    with pytest.raises(NotApplicable, match="learnt from 2 numeric columns, and there are 3"):
        detector.fitted(fitting(3), model)
    if name in ("isolation_forest", "autoencoder"):
        for module in ("sklearn.ensemble", "sklearn.neural_network", "sklearn.exceptions"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(NotApplicable, match=r"install driftline\[learning\]"):
            detector.learn(np.random.default_rng(1).normal(size=(100, 2)))


def test_the_threshold_keeps_its_promise_on_average():
    rng = np.random.default_rng(2)
    for n, rate in ((999, 0.001), (50, 0.1), (20, 0.05)):
        thresholds = [threshold_of(rng.normal(size=n), rate) for _ in range(2000)]
        missed = stats.norm.sf(thresholds)
        rank = min(np.ceil((n + 1) * (1 - rate) - 1e-9), n)
        expected = (n + 1 - rank) / (n + 1)
        assert missed.mean() == pytest.approx(expected, abs=4 * missed.std() / np.sqrt(2000))
        assert expected <= rate


def test_with_few_rows_the_threshold_is_the_largest_score():
    assert threshold_of(np.array([1.0, 5.0, 3.0]), 0.001) == np.nextafter(5.0, np.inf)
    assert threshold_of(np.full(5000, 2.0), 0.1) > 2.0
