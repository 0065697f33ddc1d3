"""Compiled loops say what numpy says, whole numbers to the bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detectors.statistics import compiled
from detectors.statistics.block import Block
from detectors.statistics.distinct import KEPT, Distinct
from detectors.statistics.ruler import Ruler
from detectors.statistics.table import Plan, summarise

pytestmark = pytest.mark.skipif(
    not compiled.HERE, reason="Numba is not installed, or has no place for what it compiles"
)

RNG = np.random.default_rng(11)
RULERS = {
    "normal": Ruler.of(np.sort(RNG.normal(10.0, 2.0, 20_000))),
    "skewed": Ruler.of(np.sort(RNG.lognormal(0.0, 3.0, 20_000))),
    "far apart": Ruler.of(np.array([-1e308, 0.0, 1e308])),
    "tiny": Ruler.of(np.array([0.0, 5e-324, 1e-323])),
    "discrete": Ruler.of(np.repeat([0.0, 1.0, 2.0], 9)),
    "one mark": Ruler(np.zeros(1)),
}
ANY = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("ruler", RULERS.values(), ids=RULERS)
@given(data=st.data())
def test_values_in_any_order_are_counted_as_sorted_ones(ruler, data):
    near = st.sampled_from(ruler.marks.tolist())
    close = near.map(lambda x: float(np.nextafter(x, np.inf)))
    values = data.draw(arrays.arrays(np.float64, st.integers(0, 50), elements=ANY | near | close))
    values = values[np.isfinite(values)]
    for ours, numpys in zip(ruler.count(values), ruler.tally(np.sort(values)), strict=True):
        np.testing.assert_array_equal(ours, numpys)


COLUMNS = {
    "all different": RNG.normal(10.0, 2.0, 30_000),
    "each twice or so": RNG.normal(10.0, 2.0, 30_000).round(4),
    "many times": RNG.integers(0, 3000, 30_000).astype(float),
    "few": RNG.integers(-2, 3, 30_000) * 0.0,
    "just as many as are kept": RNG.permutation(np.repeat(np.arange(float(KEPT)), 5)),
    "far out": RNG.standard_cauchy(30_000) * 1e150,
}


@pytest.mark.parametrize("values", COLUMNS.values(), ids=COLUMNS)
def test_a_summary_is_the_same_without_the_compiler(values, monkeypatch):
    plan = Plan(("x",), (), (RULERS["normal"],), distinct=True, comoments=False)
    block = Block(values[:, None], np.zeros((len(values), 1), np.bool_))
    ours = summarise(plan, block)
    monkeypatch.setattr(compiled, "HERE", False)
    numpys = summarise(plan, block)
    np.testing.assert_array_equal(ours.bins.counts, numpys.bins.counts)
    np.testing.assert_array_equal(ours.bins.places, numpys.bins.places)
    np.testing.assert_array_equal(ours.distinct.hashes[0], numpys.distinct.hashes[0])
    for mine, theirs in zip(ours.moments.arrays(), numpys.moments.arrays(), strict=True):
        # Beyond the range of floats the order of addition decides between an infinity and NaN; a report says null of either.
        np.testing.assert_array_equal(np.isfinite(mine), np.isfinite(theirs))
        some = np.isfinite(mine)
        np.testing.assert_allclose(mine[some], theirs[some], rtol=1e-12, atol=1e-9)


def test_both_zeros_are_one_value():
    zeros = np.tile([0.0, -0.0], 3 * KEPT)
    assert Distinct.of([zeros]).estimate(0) == 1
