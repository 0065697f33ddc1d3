"""Percentiles, Tukey's fences and modified z-scores: numbers from scipy, and how near the ruler comes to them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from detectors.base import FittingColumn
from detectors.limits import quantiles
from detectors.outliers.bounds import Bounds
from detectors.outliers.k_sigma import KSigma
from detectors.outliers.mad import MedianAbsoluteDeviation
from detectors.outliers.percentiles import Percentiles
from detectors.outliers.tukey import Tukey
from detectors.statistics.block import Block
from detectors.statistics.column import ColumnSummary
from detectors.statistics.ruler import Ruler

LIMITS = (Bounds, Percentiles, KSigma, Tukey, MedianAbsoluteDeviation)


def block(values):
    x = np.asarray(values, float).reshape(-1, 1)
    return Block(x, np.zeros(x.shape, bool))


def flagged(detector, column, values):
    return detector.fit([FittingColumn(column)]).flag(block(values))


def samples(n):
    rng = np.random.default_rng(n)
    return {
        "normal": rng.normal(size=n),
        "exponential": rng.exponential(size=n),
        "lognormal": rng.lognormal(sigma=2, size=n),
        "cauchy": rng.standard_cauchy(n),
        "rounded": np.round(rng.normal(size=n), 2),
        "two peaks": np.where(rng.random(n) < 0.5, 0.0, 10.0) + rng.normal(size=n),
        "poisson": rng.poisson(3, n).astype(float),
    }


@pytest.fixture(scope="module")
def skewed(columns):
    return columns.numeric(np.random.default_rng(1).exponential(size=5001))


def test_percentiles_are_numpys(skewed):
    values = np.linspace(-1, 20, 5001)
    found = flagged(Percentiles(low=1, high=97.3), skewed, values)
    low, high = np.percentile(skewed.values, [1, 97.3])
    np.testing.assert_array_equal(found.rows, np.flatnonzero((values < low) | (values > high)))
    assert set(found.low.tolist()) == {low}
    assert set(found.high.tolist()) == {high}
    beyond = np.maximum(low - values, values - high)[found.rows]
    np.testing.assert_allclose(found.scores, 1 + beyond / (high - low))


def test_percentiles_flag_what_they_say_they_do(skewed):
    assert len(flagged(Percentiles(low=2, high=99), skewed, skewed.values).rows) == pytest.approx(0.03 * 5001, abs=2)
    assert len(flagged(Percentiles(low=0, high=100), skewed, skewed.values).rows) == 0


def test_percentiles_must_be_in_order():
    with pytest.raises(ValueError, match=r"low \(99\) must be below high \(1\)"):
        Percentiles(low=99, high=1)


def test_tukeys_fences_are_scipys(skewed):
    values = np.linspace(-5, 20, 5001)
    found = flagged(Tukey(k=1.5), skewed, values)
    first, third = np.quantile(skewed.values, [0.25, 0.75])
    iqr = stats.iqr(skewed.values)
    low, high = first - 1.5 * iqr, third + 1.5 * iqr
    np.testing.assert_array_equal(found.rows, np.flatnonzero((values < low) | (values > high)))
    beyond = np.maximum(first - values, values - third)[found.rows]
    np.testing.assert_allclose(found.scores, beyond / iqr)
    np.testing.assert_allclose(found.high, high)


def test_modified_z_scores_are_scipys(skewed):
    values = np.linspace(-5, 20, 5001)
    found = flagged(MedianAbsoluteDeviation(), skewed, values)
    z = 0.6745 * np.abs(values - np.median(skewed.values)) / stats.median_abs_deviation(skewed.values)
    np.testing.assert_array_equal(found.rows, np.flatnonzero(z > 3.5))
    np.testing.assert_allclose(found.scores, z[found.rows])


@pytest.mark.parametrize(
    ("detector", "share"), [(Tukey(), 0.00698), (Tukey(k=3), 2.34e-6), (MedianAbsoluteDeviation(), 0.000465)]
)
def test_false_alarms_on_a_normal_feature_are_as_documented(columns, detector, share):
    reference = columns.numeric(stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000))
    (limits,) = (detector._limits(reference),)
    assert stats.norm.cdf(limits.low) + stats.norm.sf(limits.high) == pytest.approx(share, rel=0.01)


@pytest.mark.parametrize("size", [2000, 50_000])
def test_limits_from_a_ruler_are_as_near_as_documented(columns, size):
    shares = np.array([0.0, 0.0005, 0.25, 0.5, 0.75, 0.9995, 1.0])
    for name, values in samples(size).items():
        ordered = np.sort(values)
        few = len(np.unique(values)) <= 20
        column = columns.numeric(values, Ruler.of(ordered), whole=False, discrete=few)
        found = quantiles(column, shares)
        below, upto = (np.searchsorted(ordered, found, side) / size for side in ("left", "right"))
        bins = np.diff(np.searchsorted(ordered, column.ruler.marks, "right"), prepend=0) / size
        mass = bins[np.minimum(np.searchsorted(column.ruler.marks, found), len(bins) - 1)]
        assert np.all(below <= shares + mass), name
        assert np.all(upto >= shares - mass), name
        assert (found[0], found[-1]) == (ordered[0], ordered[-1])
        true, near = (0.6745 * MedianAbsoluteDeviation()._limits(one).unit for one in (columns.numeric(values), column))
        assert near == pytest.approx(true, rel=0.003, abs=0.01 if name == "rounded" else 0), name


def test_counted_values_are_exact(columns):
    values = np.repeat([1.0, 2.0, 3.0, 5.0, 9.0], [10, 30, 25, 20, 16])
    counted = columns.numeric(values, Ruler.of(values), whole=False, discrete=True)
    for detector in (Percentiles(low=10, high=90), Tukey(), MedianAbsoluteDeviation()):
        ours, exact = detector._limits(counted), detector._limits(columns.numeric(values))
        assert (ours.low, ours.high, ours.unit) == pytest.approx((exact.low, exact.high, exact.unit))


def test_where_most_values_are_equal_the_standard_deviation_is_the_scale(columns):
    values = np.concatenate((np.zeros(900), np.arange(100.0)))
    column = columns.numeric(values)
    assert MedianAbsoluteDeviation()._limits(column).unit == pytest.approx(values.std())
    assert Tukey()._limits(column).unit == pytest.approx(1.349 * values.std(), rel=1e-4)
    found = flagged(MedianAbsoluteDeviation(), column, [0.0, 50.0, 1e6])
    assert found.rows.tolist() == [2]


@pytest.mark.parametrize("detector", [Tukey(), MedianAbsoluteDeviation(), KSigma()])
def test_constant_columns_are_left_alone(columns, detector):
    assert len(flagged(detector, columns.numeric(np.full(50, 0.1)), [0.1, 5.0]).rows) == 0


@pytest.mark.parametrize("detector", LIMITS)
def test_a_reference_without_values_allows_everything(detector):
    assert len(flagged(detector(), ColumnSummary("x", "numeric", 0), [1e9, np.nan, -np.inf]).rows) == 0


@pytest.mark.parametrize("detector", LIMITS)
@given(
    values=arrays(float, st.integers(1, 12), elements=st.floats(allow_nan=False, allow_infinity=False)),
    whole=st.booleans(),
)
def test_any_reference_gives_limits(columns, detector, values, whole):
    column = columns.numeric(values, Ruler.of(np.sort(values)), whole=whole)
    found = flagged(detector(), column, [*values, -1e308, 0.0, np.inf, 1e308, np.nan])
    assert np.all(np.isfinite(found.scores))
    assert np.all(found.scores >= found.threshold)
    assert not {len(values) + 2, len(values) + 4} & set(found.rows.tolist())
