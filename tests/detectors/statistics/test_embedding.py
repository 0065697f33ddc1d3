"""Features of rows, and sums of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import rbf_kernel

from detectors.statistics.embedding import EmbeddingSum, FourierFeatures, MomentFeatures, Scales

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(3000, 5)) * [1, 10, 0.1, 1000, 1] + [0, 5, 0, 1e6, 0]
SCALES = Scales.of(ROWS)
WEIGHTS = RNG.normal(size=(5, 300))


@pytest.mark.parametrize("far", [1.0, 1e4])
def test_fourier_features_are_cosines_and_sines(far):
    features = FourierFeatures(SCALES, WEIGHTS * far)
    z = SCALES.bent(ROWS)
    angle = z @ (WEIGHTS * far)
    expected = np.hstack((np.cos(angle), np.sin(angle))) / np.sqrt(300)
    np.testing.assert_allclose(features.of(z), expected, atol=1e-15 * far * 10)
    np.testing.assert_allclose(features.total(ROWS), expected.sum(axis=0), atol=1e-9)
    np.testing.assert_allclose((features.of(z) ** 2).sum(axis=1), 1.0)


def test_products_of_fourier_features_are_the_kernel():
    z = SCALES.bent(ROWS[:100])
    features = FourierFeatures(SCALES, np.random.default_rng(1).normal(size=(5, 20_000)) / 2)
    products = features.of(z) @ features.of(z).T
    assert np.abs(products - rbf_kernel(z, gamma=1 / 8)).max() < 5 / np.sqrt(20_000)


def test_moment_features_are_means_and_products():
    features = MomentFeatures(SCALES)
    z = SCALES.bent(ROWS)
    mean, products = features.moments(features.total(ROWS) / len(ROWS))
    np.testing.assert_allclose(mean, z.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(products, z.T @ z / len(z), atol=1e-12)


@given(cuts=st.lists(st.integers(0, 3000), max_size=7))
def test_sums_add(cuts):
    for features in (MomentFeatures(SCALES), FourierFeatures(SCALES, WEIGHTS)):
        total = EmbeddingSum.empty(features.size)
        for part in np.split(ROWS, sorted(cuts)):
            total += EmbeddingSum.of(features, part)
        assert total.n == 3000
        np.testing.assert_allclose(total.total, features.total(ROWS), atol=1e-9)


def test_a_key_tells_features_apart():
    other = Scales.of(ROWS[:2000])
    keys = {
        MomentFeatures(SCALES).key,
        MomentFeatures(other).key,
        FourierFeatures(SCALES, WEIGHTS).key,
        FourierFeatures(SCALES, WEIGHTS[:, :200]).key,
        FourierFeatures(other, WEIGHTS).key,
    }
    assert len(keys) == 5
    assert MomentFeatures(SCALES).key == MomentFeatures(Scales.of(ROWS)).key
