"""Where theory says how often a detector alarms on a series that never changes, it does, roughly."""

import numpy as np
import pytest
from scipy import stats

from detectors.sequential import kswin
from detectors.sequential.adwin import Adwin
from detectors.sequential.cusum import Cusum
from detectors.sequential.hddm_a import HddmA
from detectors.sequential.hddm_w import HddmW
from detectors.sequential.kswin import Kswin


def alarms(detector, series) -> int:
    return sum(change.kind == "drift" for change in detector.start().update(series))


@pytest.mark.parametrize(("threshold", "mode"), [(4.0, "both"), (5.0, "both"), (5.0, "up")])
def test_cusum_runs_as_long_as_siegmund_says(threshold, mode):
    detector = Cusum(mean=3, std=2, threshold=threshold, mode=mode)
    series = np.random.default_rng(1).normal(3, 2, 300_000)
    expected = len(series) / detector.average_run_length()
    assert alarms(detector, series) == pytest.approx(expected, abs=3 * np.sqrt(expected) + 0.05 * expected)


@pytest.mark.parametrize("delta", [0.002, 0.2])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_adwin_alarms_at_fewer_checks_than_delta(delta, rate):
    series = np.random.default_rng(2).random(200_000) < rate
    assert alarms(Adwin(delta=delta), series.astype(float)) <= delta * len(series) / 32


@pytest.mark.parametrize("confidence", [0.001, 0.05])
@pytest.mark.parametrize("detector", [HddmA, HddmW])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_hddm_alarms_at_a_smaller_share_of_observations_than_its_confidence(detector, confidence, rate):
    series = np.random.default_rng(3).random(100_000) < rate
    setting = detector(drift_confidence=confidence, warning_confidence=0.1)
    assert alarms(setting, series.astype(float)) <= confidence * len(series)


def test_kswin_alarms_at_its_first_test_as_often_as_the_p_value_says():
    detector = Kswin(alpha=0.05)
    rng = np.random.default_rng(4)
    runs = 2000
    found = sum(alarms(detector, rng.normal(size=100)) for _ in range(runs))
    nominal = kswin.p_value(30, kswin.critical(30, 0.05))
    assert nominal <= 0.05
    low, high = stats.binom.ppf([0.001, 0.999], runs, nominal)
    assert low <= found <= high
