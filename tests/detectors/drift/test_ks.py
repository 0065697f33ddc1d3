"""The p-values of `ks` in large samples are scipy's, which sums as many terms as there are values."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from detectors.drift.ks import _limiting_p


@given(n=st.integers(2, 20_000), scaled=st.floats(0.001, 50.0))
@example(n=700, scaled=2.2)
@example(n=700, scaled=174.9)
@example(n=701, scaled=200.0)
@example(n=1000, scaled=249.9)
@example(n=20_000, scaled=2.2)
@example(n=20_000, scaled=369.0)
@settings(max_examples=60, deadline=None)
def test_p_values_are_scipys(n, scaled):
    """`scaled` is n d^2, from no difference at all to a p-value of 1e-320."""
    d = min(math.sqrt(scaled / n), 1.0)
    expected = float(stats.kstwo.sf(d, n))
    # Below 1e-300 floats have fewer digits.
    assert _limiting_p(d, n) == pytest.approx(expected, rel=1e-11, abs=1e-300)


@pytest.mark.parametrize("scaled", [2.2, 3.0, 10.0, 100.0])
def test_p_values_of_very_large_samples(scaled):
    n = 10**9
    d = math.sqrt(scaled / n)
    # Maag and Dicaire's approximation, whose error falls with n.
    assert _limiting_p(d, n) == pytest.approx(2 * math.exp(-((6 * n * d + 1) ** 2) / (18 * n)), rel=1e-6)
