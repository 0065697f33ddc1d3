"""The benchmark of honesty is honest itself: what chance allows is right, and who breaks a promise is found out."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmarks():
    """Imports a file of the folder, which is no package and has a `detectors.py` of its own: so it comes last."""
    sys.path.append(str(ROOT / "benchmarks"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def alarms(benchmarks) -> ModuleType:
    return benchmarks("_false_alarms")


@pytest.mark.parametrize("rate", [0.05, 0.001])
def test_a_count_is_allowed_just_when_the_exact_interval_around_it_holds_the_rate(alarms, rate):
    low, high = alarms.binomial(1000, rate)
    for count in range(2 * high):
        interval = stats.binomtest(count, 1000).proportion_ci(alarms.CONFIDENCE, "exact")
        assert (low <= count <= high) == (interval.low <= rate <= interval.high)


def test_counts_under_a_threshold_from_few_scores_spread_as_far_as_is_allowed(alarms):
    rng, rows, held_out, rate, references = np.random.default_rng(1), 500, 199, 0.1, 3
    low, high = alarms.of_held_out(rows, held_out, rate, references)
    scores = np.sort(rng.normal(size=(20_000, references, held_out)), axis=2)
    threshold = scores[:, :, round(200 * (1 - rate)) - 1]
    counts = rng.binomial(rows, stats.norm.sf(threshold)).sum(axis=1)
    outside = np.mean((counts < low) | (counts > high))
    assert outside < 0.0025
    assert np.mean((counts <= low + 5) | (counts >= high - 5)) > 0.0005
    plain = alarms.binomial(rows * references, rate)
    assert low < plain[0] < plain[1] < high


def test_rates_that_spread_from_reference_to_reference_allow_more(alarms):
    rng, trials, references = np.random.default_rng(2), 400, 25
    alike = rng.binomial(trials, 0.05, references)
    spread = rng.binomial(trials, rng.beta(5, 95, references))
    plain, wide = alarms.binomial(trials * references, 0.05), alarms.of_kept(spread, trials, 0.05)
    assert alarms.of_kept(alike, trials, 0.05)[0] == pytest.approx(plain[0], abs=60)
    assert wide[0] < plain[0] - 20
    assert plain[1] + 20 < wide[1]
    assert wide[0] <= spread.sum() <= wide[1]


def counted(alarms, trial, windows: int) -> dict[str, list]:
    counts = trial.run(np.random.default_rng(1), windows, lambda _: None)
    return {count.method: [row["verdict"] for row in count.rows()] for count in counts}


def test_promises_are_kept(alarms):
    (trial,) = (trial for trial in alarms.TRIALS if "z" in trial.methods)
    assert counted(alarms, trial, 500) == {name: ["within", "within"] for name in trial.methods}


def test_who_takes_a_small_reference_for_the_truth_is_found_out(alarms):
    trial = alarms.WARNED[0]
    for verdicts in counted(alarms, trial, 5_000).values():
        assert verdicts[0] == "above"


def test_windows_are_clean_changed_or_neither(benchmarks):
    delays = benchmarks("_delays")
    column = delays.Column("s", "s 0", np.zeros(delays.ROWS), start=5_000, whole=5_300, end=8_000)
    truth = dict(zip(delays.windows(), column.truth(), strict=True))
    assert [truth[at] for at in (1_000, 4_800, 5_000, 5_200, 5_400, 7_800, 8_000)] == [
        *(False, False, None, None, True, True, False)
    ]
    called = [at >= 5_400 for at in delays.windows()]
    found = delays._right([column], [called])
    assert (found["median_windows"], found["missed"]) == (3.0, 0)
    assert (found["changed_called"], found["changed_windows"]) == (13, 13)
    assert (found["clean_called"], found["clean_windows"]) == (10, 30)


def test_river_and_we_alarm_at_the_same_places(benchmarks):
    delays = benchmarks("_delays")
    rivals, streams = benchmarks("_rivals"), benchmarks("streams")
    series = streams.abrupt(1, 3_000, (1_500,)).values
    for name in ("adwin", "page_hinkley"):
        assert delays.alarms(name, series) == rivals.river_alarms(name, series) != []


def test_the_page_shows_the_results(golden, benchmarks):
    page = benchmarks("_honesty_page")
    tables = json.loads((ROOT / "benchmarks/results/honesty.json").read_text())["tables"]
    golden("docs/honesty.md", page.page(page.PAGE.read_text(), tables))
