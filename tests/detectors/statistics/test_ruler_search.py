"""Where a value's bin is searched for never changes which bin it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.statistics import compiled
from detectors.statistics.ruler import Ruler

strange = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.skipif(not compiled.HERE, reason="Numba is not installed: there is one way only")
@given(
    seed=st.integers(0, 1000),
    spread=st.floats(0.01, 30.0),
    least=st.sampled_from([0.0, 1e-300, 1.0, 1e6]),
    sign=st.sampled_from([1.0, -1.0]),
    more=st.lists(strange, max_size=20),
)
def test_values_of_heavy_tails_are_counted_where_sorted_ones_are(seed, spread, least, sign, more):
    rng = np.random.default_rng(seed)
    reference = sign * (least + rng.lognormal(0.0, spread, 3000))
    ruler = Ruler.of(np.sort(reference[np.isfinite(reference)]), 256)
    values = np.concatenate(
        [
            reference,
            rng.normal(size=50),
            ruler.marks,
            np.nextafter(ruler.marks, np.inf),
            more,
            [0.0, -0.0, -1e300, 1e300],
        ]
    )
    values = values[np.isfinite(values)]
    counts, places = ruler.count(rng.permutation(values))
    expected, expected_places = ruler.tally(np.sort(values))
    assert counts.tolist() == expected.tolist()
    assert places.tolist() == expected_places.tolist()
