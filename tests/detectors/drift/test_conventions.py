"""Names, types of column, thresholds, directions and what counts as drift at the threshold itself are stock Evidently's."""

import numpy as np
import pandas as pd
import pytest
from theirs import KINDS, METHODS, REGISTERED, stock


def test_every_method_of_evidentlys_is_here():
    assert METHODS.keys() == REGISTERED


@pytest.mark.parametrize("name", METHODS)
def test_columns_and_thresholds_are_evidentlys(name):
    method = METHODS[name]()
    assert {KINDS[kind] for kind in method.applies_to} == set(stock(name).allowed_feature_types)
    assert method.threshold == stock(name).default_threshold


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, method in METHODS.items() for kind in sorted(method.applies_to)]
)
@pytest.mark.filterwarnings("ignore")
def test_drift_is_on_the_same_side_of_the_threshold(name, kind):
    rng = np.random.default_rng(8)
    if kind == "numeric":
        rows = rng.normal(size=60), rng.normal(0.2, 1.0, 60)
    else:
        rows = rng.choice(["a", "b"], 60), rng.choice(["a", "b"], 60, p=[0.6, 0.4])

    def drifted(threshold):
        np.random.seed(0)  # noqa: NPY002 - what Evidently draws from
        found = stock(name)(*map(pd.Series, rows), KINDS[kind], threshold)
        return found.drift_score, bool(found.drifted)

    score, _ = drifted(0.5)
    assert 0 < score < 1
    method = METHODS[name]
    assert drifted(score)[1] == (not method.strict)
    assert drifted(np.nextafter(score, 1))[1] == (method.direction == "p-value")
    assert drifted(np.nextafter(score, 0))[1] == (method.direction == "distance")
