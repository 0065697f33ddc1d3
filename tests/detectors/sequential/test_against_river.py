"""The alarms and warnings of the same series under the same settings are river's, place by place.

River has no CUSUM: ours is compared with the textbook's recursion. It draws KSWIN's samples from Python's generator: ours is compared
with those draws in the place of its own.
"""

import math
import random
import statistics
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from river import drift
from river.drift import binary
from scipy import stats

from detectors.sequential import kswin
from detectors.sequential.adwin import Adwin, borders
from detectors.sequential.cusum import Cusum
from detectors.sequential.ddm import Ddm
from detectors.sequential.eddm import Eddm
from detectors.sequential.hddm_a import HddmA
from detectors.sequential.hddm_w import HddmW
from detectors.sequential.kswin import Kswin
from detectors.sequential.page_hinkley import PageHinkley


def theirs(detector, series) -> list[tuple[int, str]]:
    """Where river's flags come up."""
    found, warned = [], False
    for i, x in enumerate(np.asarray(series).tolist()):
        detector.update(x)
        warning = getattr(detector, "warning_detected", False)
        if detector.drift_detected:
            found.append((i, "drift"))
        elif warning and not warned:
            found.append((i, "warning"))
        warned = warning and not detector.drift_detected
    return found


def ours(detector, series) -> list[tuple[int, str]]:
    return [(change.index, change.kind) for change in detector.start().update(np.asarray(series, float))]


@st.composite
def errors(draw):
    """Errors at rates that change from piece to piece; a rate of 0 or 1 makes a constant piece."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    rate = st.one_of(st.sampled_from([0.0, 0.05, 0.5, 1.0]), st.floats(0.01, 0.99))
    pieces = draw(st.lists(st.tuples(st.integers(1, 800), rate), min_size=1, max_size=5))
    return np.concatenate([(rng.random(n) < p).astype(float) for n, p in pieces])


@st.composite
def shares(draw):
    """Any values in [0, 1]."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    shape = st.floats(0.2, 5.0)
    pieces = draw(st.lists(st.tuples(st.integers(1, 600), shape, shape), min_size=1, max_size=4))
    return np.concatenate([rng.beta(a, b, n) for n, a, b in pieces])


@st.composite
def numbers(draw):
    """Noise whose level and spread change from piece to piece, around any level and in any unit."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    pieces = draw(
        st.lists(st.tuples(st.integers(1, 1500), st.floats(-4, 4), st.floats(0.1, 3)), min_size=1, max_size=5)
    )
    return np.concatenate([rng.normal(level, spread, n) for n, level, spread in pieces])


confidences = st.tuples(st.floats(1e-6, 0.3), st.floats(1e-6, 0.3)).map(sorted)


@given(series=numbers())
def test_page_hinkley_at_its_defaults(series):
    assert ours(PageHinkley(), series) == theirs(drift.PageHinkley(), series)


@given(
    series=numbers(),
    least=st.integers(1, 100),
    delta=st.floats(0, 0.5),
    threshold=st.floats(0.5, 30),
    alpha=st.one_of(st.just(1.0), st.floats(0.5, 0.99999)),
    mode=st.sampled_from(["both", "up", "down"]),
)
def test_page_hinkley(series, least, delta, threshold, alpha, mode):
    setting = {"min_instances": least, "delta": delta, "threshold": threshold, "alpha": alpha, "mode": mode}
    assert ours(PageHinkley(**setting), series) == theirs(drift.PageHinkley(**setting), series)


@given(series=st.one_of(numbers(), errors(), shares()))
def test_adwin_at_its_defaults(series):
    assert ours(Adwin(), series) == theirs(drift.ADWIN(), series)


@given(
    series=st.one_of(numbers(), errors()),
    delta=st.floats(1e-5, 0.5),
    clock=st.integers(1, 100),
    buckets=st.integers(2, 9),
    shortest=st.integers(1, 20),
    grace=st.integers(0, 100),
)
def test_adwin(series, delta, clock, buckets, shortest, grace):
    setting = {
        "delta": delta,
        "clock": clock,
        "max_buckets": buckets,
        "min_window_length": shortest,
        "grace_period": grace,
    }
    assert ours(Adwin(**setting), series) == theirs(drift.ADWIN(**setting), series)


@given(n=st.integers(1, 3000), most=st.integers(2, 7))
def test_borders_are_those_of_buckets_that_are_merged_one_by_one(n, most):
    rows = [[]]
    for i in range(1, n + 1):
        rows[0].append(i)
        for j in range(len(rows)):
            if len(rows[j]) > most:
                if j + 1 == len(rows):
                    rows.append([])
                rows[j + 1].append(rows[j][1])
                del rows[j][:2]
    assert borders(np.array([n]), most)[0].tolist() == [end for row in rows[::-1] for end in row]


@given(series=errors())
def test_ddm_at_its_defaults(series):
    assert ours(Ddm(), series) == theirs(binary.DDM(), series)


@given(series=errors(), start=st.integers(1, 200), levels=st.tuples(st.floats(0.5, 5), st.floats(0.5, 5)).map(sorted))
def test_ddm(series, start, levels):
    setting = {"warm_start": start, "warning_threshold": levels[0], "drift_threshold": levels[1]}
    assert ours(Ddm(**setting), series) == theirs(binary.DDM(**setting), series)


@given(series=errors())
def test_eddm_at_its_defaults(series):
    assert ours(Eddm(), series) == theirs(binary.EDDM(), series)


@given(series=errors(), start=st.integers(1, 200), levels=st.tuples(st.floats(0.3, 0.99), st.floats(0.3, 0.99)))
def test_eddm(series, start, levels):
    setting = {"warm_start": start, "alpha": max(levels), "beta": min(levels)}
    assert ours(Eddm(**setting), series) == theirs(binary.EDDM(**setting), series)


@given(series=st.one_of(errors(), shares()), two_sided=st.booleans())
def test_hddm_a_at_its_default_confidences(series, two_sided):
    assert ours(HddmA(two_sided_test=two_sided), series) == theirs(binary.HDDMA(two_sided_test=two_sided), series)


@given(series=st.one_of(errors(), shares()), confidence=confidences, two_sided=st.booleans())
def test_hddm_a(series, confidence, two_sided):
    setting = {
        "drift_confidence": confidence[0],
        "warning_confidence": confidence[1],
        "two_sided_test": two_sided,
    }
    assert ours(HddmA(**setting), series) == theirs(binary.HDDMA(**setting), series)


@given(series=st.one_of(errors(), shares()), two_sided=st.booleans())
@example(series=np.repeat([0.0, 1.0, 0.0, 1.0], [1000, 3, 2, 10]), two_sided=True)
@example(series=np.repeat([0.3, 0.9, 0.1], [1000, 30, 500]), two_sided=True)
def test_hddm_w_at_its_default_confidences(series, two_sided):
    assert ours(HddmW(two_sided_test=two_sided), series) == theirs(binary.HDDMW(two_sided_test=two_sided), series)


@given(
    series=st.one_of(errors(), shares()),
    confidence=confidences,
    weight=st.floats(0.001, 0.1),
    two_sided=st.booleans(),
)
def test_hddm_w(series, confidence, weight, two_sided):
    setting = {
        "drift_confidence": confidence[0],
        "warning_confidence": confidence[1],
        "lambda_val": weight,
        "two_sided_test": two_sided,
    }
    assert ours(HddmW(**setting), series) == theirs(binary.HDDMW(**setting), series)


def rivers_draws(seed, first, count, pool, size):
    rng = random.Random(seed)
    return np.array([rng.sample(range(pool), size) for _ in range(first + count)])[first:]


@settings(max_examples=10, deadline=None)
@given(
    series=st.one_of(numbers(), errors()).map(lambda series: series[:600]),
    alpha=st.floats(1e-3, 0.05),
    newest=st.integers(8, 40),
    older=st.integers(0, 60),
    seed=st.integers(0, 1000),
)
def test_kswin_with_rivers_draws(series, alpha, newest, older, seed):
    setting = {"alpha": alpha, "stat_size": newest, "window_size": 2 * newest + older, "seed": seed}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kswin, "draws", rivers_draws)
        assert ours(Kswin(**setting), series) == theirs(drift.KSWIN(**setting), series)


def test_kswin_alarms_as_often_as_rivers():
    rng = np.random.default_rng(3)
    series = [rng.normal(size=4000) for _ in range(2)]
    counts = [
        [len(found(detector(seed=i), x)) for i, x in enumerate(series)]
        for detector, found in ((Kswin, ours), (drift.KSWIN, theirs))
    ]
    # About 10 each: a difference of three standard deviations.
    assert abs(sum(counts[0]) - sum(counts[1])) <= 3 * math.sqrt(sum(map(sum, counts)))


def test_draws_are_uniform_without_replacement_and_do_not_depend_on_the_block():
    drawn = kswin.draws(5, 0, 20_000, 70, 30)
    assert all(len(set(row)) == 30 for row in drawn[:100].tolist())
    assert drawn.min() == 0
    assert drawn.max() == 69
    times = np.bincount(drawn.ravel(), minlength=70)
    assert stats.chisquare(times).pvalue > 1e-3
    alone = np.concatenate([kswin.draws(5, i, 1, 70, 30) for i in range(40, 60)])
    assert np.array_equal(np.sort(alone), np.sort(drawn[40:60]))
    assert not np.array_equal(np.sort(alone[0]), np.sort(kswin.draws(6, 40, 1, 70, 30)[0]))


@pytest.mark.parametrize("size", [2, 7, 30, 200])
def test_p_values_and_distances_are_scipys(size):
    rng = np.random.default_rng(size)
    a, b = np.round(rng.normal(size=(2, 20, size)), 1)
    for distance, x, y in zip(kswin.distances(a, b).tolist(), a, b, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # where rounding takes its p-value beyond 1
            test = stats.ks_2samp(x, y, method="exact")
        assert distance / size == pytest.approx(test.statistic, abs=1e-12)
        if test.pvalue < 0.99:
            assert kswin.p_value(size, distance) == pytest.approx(test.pvalue, rel=1e-9)


def textbook(detector: Cusum, series) -> list[int]:
    """Page's recursion, as Montgomery prints it, over a target from the first observations after the start and after each alarm."""
    alarms, seen, up, down = [], [], 0.0, 0.0
    mean, std = detector.mean, detector.std
    for i, x in enumerate(series):
        seen.append(x)
        if None in (detector.mean, detector.std) and len(seen) < detector.warm_up:
            continue
        if mean is None:
            mean = statistics.fmean(seen)
        if std is None:
            std = statistics.stdev(seen)
        up = max(0.0, up + (x - mean) - detector.slack * std)
        down = max(0.0, down - (x - mean) - detector.slack * std)
        limit = detector.threshold * std
        if (detector.mode != "down" and up > limit) or (detector.mode != "up" and down > limit):
            alarms.append(i)
            seen, up, down = [], 0.0, 0.0
            mean, std = detector.mean, detector.std
    return alarms


@settings(deadline=None)
@given(
    series=numbers().map(lambda series: series[:1200]),
    mean=st.one_of(st.none(), st.floats(-2, 2)),
    std=st.one_of(st.none(), st.floats(0.2, 3)),
    warm_up=st.integers(2, 100),
    slack=st.floats(0, 2),
    threshold=st.floats(0.5, 20),
    mode=st.sampled_from(["both", "up", "down"]),
)
def test_cusum_is_the_textbooks(series, mean, std, warm_up, slack, threshold, mode):
    detector = Cusum(mean=mean, std=std, warm_up=warm_up, slack=slack, threshold=threshold, mode=mode)
    assert [index for index, _ in ours(detector, series)] == textbook(detector, series)


def test_cusum_after_a_warm_up_of_equal_values():
    state = Cusum().start()
    assert state.update(np.full(500, 0.1)) == []
    (change,) = state.update(np.array([0.1, 0.10001]))
    assert (change.index, change.direction) == (501, "up")


def test_cusum_stays_exact_over_a_long_series():
    """The walk behind a sum falls for ever; its height must not lose digits."""
    series = np.random.default_rng(2).normal(size=200_000)
    state = Cusum(mean=0, std=1, threshold=50).start()
    assert state.update(series) == []
    up = 0.0
    for x in series.tolist():
        up = max(0.0, up + x - 0.5)
    assert state.memory.up.walk - state.memory.up.low == pytest.approx(up, abs=1e-9)


@pytest.mark.parametrize(
    ("shift", "run"), [(0, 168), (0.25, 74.2), (0.5, 26.6), (0.75, 13.3), (1, 8.38), (1.5, 4.75), (2, 3.34)]
)
def test_average_run_length_is_the_tables(shift, run):
    """Table 9.3 of Montgomery, two-sided, slack 1/2, threshold 4."""
    assert Cusum(threshold=4).average_run_length(shift) == pytest.approx(run, rel=0.06)
