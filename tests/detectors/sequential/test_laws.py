"""What every sequential detector keeps to, whatever it tests."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter, ValidationError

from detectors.errors import IncompatibleSummaries, SummaryFormatError
from detectors.sequential import SEQUENTIAL, SequentialMethod
from detectors.sequential.adwin import Adwin
from detectors.sequential.base import BLOCK, State
from detectors.sequential.cusum import Cusum
from detectors.sequential.ddm import Ddm
from detectors.sequential.eddm import Eddm
from detectors.sequential.hddm_a import HddmA
from detectors.sequential.hddm_w import HddmW
from detectors.sequential.kswin import Kswin
from detectors.sequential.page_hinkley import PageHinkley

DETECTORS = [
    Cusum(),
    Cusum(mean=0, std=1, mode="up"),
    PageHinkley(),
    PageHinkley(threshold=5, delta=0.1, alpha=0.99),
    Adwin(),
    Adwin(clock=1, max_buckets=2, delta=0.1),
    Kswin(),
    Kswin(window_size=400, stat_size=20, seed=3),
    Ddm(),
    Eddm(),
    HddmA(two_sided_test=True),
    HddmW(two_sided_test=True),
    HddmW(lambda_val=0.01),
]
MOST_BYTES = {"cusum": 200, "page_hinkley": 150, "adwin": 1000, "kswin": 8 * 400 + 100, "hddm_w": 200}


@pytest.fixture(
    scope="session", params=DETECTORS, ids=lambda detector: f"{detector.name}-{detector.fingerprint.hex()[:4]}"
)
def detector(request):
    return request.param


def drifting(detector, seed, n):
    """A series with changes in it, and with gaps."""
    rng = np.random.default_rng(seed)
    pieces = np.array_split(np.arange(n), rng.integers(1, 6))
    if detector.binary:
        series = np.concatenate([(rng.random(len(piece)) < rng.random()).astype(float) for piece in pieces])
    else:
        series = np.concatenate([rng.normal(rng.normal(), rng.uniform(0.5, 2), len(piece)) for piece in pieces])
    series[rng.random(n) < 0.02] = np.nan
    return series


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1 << 32), n=st.integers(0, 3000), cuts=st.lists(st.floats(0, 1), max_size=12))
def test_cutting_a_series_changes_nothing_nor_does_a_restart(detector, seed, n, cuts):
    series = drifting(detector, seed, n)
    whole = detector.start()
    changes = whole.update(series)
    state, found = detector.start(), []
    for piece in np.split(series, sorted(int(cut * n) for cut in cuts)):
        found += state.update(piece)
        state = State.from_bytes(state.to_bytes(), detector)
    assert found == changes
    assert state.to_bytes() == whole.to_bytes()


def test_one_by_one_is_the_same_as_at_once(detector):
    series = np.concatenate([drifting(detector, seed, 400) for seed in range(4)])
    state, changes = detector.start(), detector.start().update(series)
    assert len(changes) > 0
    assert [change for x in series for change in state.update(np.array([x]))] == changes


def test_blocks_end_at_the_same_places_however_long_the_series(detector):
    """Across the largest block, where sums are begun anew, and with cuts next to it."""
    rng = np.random.default_rng(4)
    n = 2 * BLOCK + 100
    series = rng.integers(0, 2, n).astype(float) if detector.binary else rng.normal(0, 0.001, n)
    whole = detector.start()
    changes = whole.update(series)
    state, found = detector.start(), []
    for piece in np.split(series, [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 7, 2 * BLOCK]):
        found += state.update(piece)
    assert found == changes
    assert state.to_bytes() == whole.to_bytes()


@settings(max_examples=25, deadline=None)
@given(
    series=arrays(
        float,
        st.integers(0, 400),
        elements=st.one_of(
            st.floats(allow_nan=True, allow_infinity=True),
            st.sampled_from([0.0, 1.0, 1e308, -1e308, 5e-324, 1e16]),
        ),
        fill=st.sampled_from([0.0, 1.0, 1e100, np.nan]),
    ),
    after=st.integers(0, 100),
)
def test_any_series_has_an_answer(detector, series, after):
    state = detector.start()
    changes = state.update(series) + state.update(np.full(after, 0.5))
    assert state.seen == len(series) + after
    usable = (series >= 0) & (series <= 1) if detector.binary else np.isfinite(series)
    assert state.skipped == np.count_nonzero(~usable)
    indices = [change.index for change in changes]
    assert indices == sorted(set(indices))
    for change in changes:
        assert change.kind in ("warning", "drift")
        assert np.isfinite([change.statistic, change.threshold]).all()
        assert change.index >= len(series) or usable[change.index]
    again = State.from_bytes(state.to_bytes(), detector)
    assert again.to_bytes() == state.to_bytes()


def test_skipped_observations_only_move_the_places(detector):
    series = drifting(detector, 8, 2000)
    usable = series[~np.isnan(series)]
    places = np.flatnonzero(~np.isnan(series))
    state = detector.start()
    expected = [(places[change.index], change.statistic) for change in detector.start().update(usable)]
    assert [(change.index, change.statistic) for change in state.update(series)] == expected
    assert (state.seen, state.skipped) == (2000, 2000 - len(usable))


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1])
def test_a_constant_series_never_changes(detector, constant):
    if getattr(detector, "mean", None) is None:  # a target that the series misses for ever is another matter
        assert detector.start().update(np.full(3000, constant)) == []


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e12])
def test_a_great_change_is_found_soon_and_in_its_direction(detector, unit):
    if detector.binary or isinstance(detector, PageHinkley | Adwin) or getattr(detector, "std", None) is not None:
        unit = 1.0  # these have thresholds in the unit of the series
    rng = np.random.default_rng(12)
    before, after = (0.1, 0.9) if detector.binary else (0.0, 6.0)
    series = np.concatenate([np.full(500, before), np.full(200, after)])
    series = (rng.random(700) < series).astype(float) if detector.binary else unit * (series + rng.normal(0, 1, 700))
    changes = [change for change in detector.start().update(series) if change.kind == "drift" and change.index >= 500]
    assert changes
    assert changes[0].index < 600
    assert changes[0].direction in ("up", None)
    assert (changes[0].direction is None) == (detector.name == "kswin")


@pytest.mark.parametrize(
    "detector",
    [Cusum(), Cusum(mode="down"), PageHinkley(mode="down"), PageHinkley(), Adwin(), HddmA(two_sided_test=True)],
    ids=lambda detector: detector.name,
)
def test_a_fall_is_down(detector):
    series = np.repeat([1.0, 0.0], [400, 200]) + (0 if detector.binary else np.tile([-0.3, 0.3], 300))
    changes = detector.start().update(series if detector.name != "page_hinkley" else 5 * series)
    assert {change.direction for change in changes} == {"down"}


@pytest.mark.parametrize(
    "detector",
    [Cusum(), PageHinkley(), Adwin(), Kswin(), HddmA(two_sided_test=True), HddmW(two_sided_test=True)],
    ids=lambda detector: detector.name,
)
def test_upside_down_a_series_changes_at_the_same_places(detector):
    """What looks both ways looks both ways alike."""
    other = {"up": "down", "down": "up", None: None}
    for seed in range(4):
        series = drifting(detector, seed, 3000)
        changes = detector.start().update(series)
        mirrored = detector.start().update(1 - series if detector.binary else -series)
        assert [(change.index, change.kind, other[change.direction]) for change in changes] == [
            (change.index, change.kind, change.direction) for change in mirrored
        ]
        assert [change.statistic for change in mirrored] == pytest.approx([change.statistic for change in changes])


def test_a_state_is_small(detector):
    state = detector.start()
    largest = 0
    for _ in range(4):
        state.update(drifting(detector, 5, 20_000))
        largest = max(largest, len(state.to_bytes()))
    assert largest <= MOST_BYTES.get(detector.name, 150)


def test_bytes_that_are_no_state_are_refused(detector):
    state = detector.start()
    state.update(drifting(detector, 6, 500))
    data = state.to_bytes()
    for at in range(len(data)):
        broken = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(SummaryFormatError):
            State.from_bytes(broken, detector)
    for bad in (b"", b"DLC", data[:-1], data + b"\0", b"DLC9" + data[4:]):
        with pytest.raises(SummaryFormatError, match="state"):
            State.from_bytes(bad, detector)


def test_a_state_of_other_settings_is_refused():
    data = Adwin().start().to_bytes()
    with pytest.raises(IncompatibleSummaries, match="begin anew"):
        State.from_bytes(data, Adwin(delta=0.01))
    with pytest.raises(IncompatibleSummaries):
        State.from_bytes(data, Cusum())


def test_a_state_can_be_pickled(detector):
    state = detector.start()
    state.update(drifting(detector, 7, 300))
    assert pickle.loads(pickle.dumps(state)).to_bytes() == state.to_bytes()
    assert pickle.loads(pickle.dumps(detector)) == detector


def test_an_alarm_begins_anew():
    state = Adwin().start()
    series = np.repeat([0.0, 1.0], [640, 200])
    (change,) = state.update(series)
    alone = Adwin().start()
    alone.update(series[change.index + 1 :])
    assert state.memory.n == alone.memory.n
    assert np.array_equal(state.memory.sums, alone.memory.sums)


@pytest.mark.parametrize("name", list(SEQUENTIAL))
def test_the_catalogue_reads_a_name_and_what_it_wrote(name):
    adapter = TypeAdapter(SequentialMethod)
    detector = adapter.validate_python(name)
    assert isinstance(detector, SEQUENTIAL[name])
    assert adapter.validate_python(detector.model_dump(by_alias=True)) == detector
    assert adapter.validate_json(detector.model_dump_json(by_alias=True)) == detector
    assert SEQUENTIAL[name].model_fields["name"].default == name
    assert all("_" not in key for key in adapter.dump_python(detector, by_alias=True))


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValidationError, match="there is no sequential detector 'adwim'; known are: adwin"):
        TypeAdapter(SequentialMethod).validate_python("adwim")


@pytest.mark.parametrize("name", list(SEQUENTIAL))
def test_a_detector_says_what_it_is(name):
    lines = SEQUENTIAL[name].__doc__ or ""
    text = " ".join(lines.split())
    for part in ("Misleads", "earest neighbour", ">>>", "References", "alse alarm", "µs an observation", "state is"):
        assert part in text
    for field in SEQUENTIAL[name].model_fields:
        assert field == "name" or f"\n    {field}\n" in lines


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "kswin", "statSize": 60}, "at most half of windowSize, which is 100"),
        ({"name": "kswin", "statSize": 4}, "no p-value is below 0.029"),
        ({"name": "eddm", "alpha": 0.8}, "alpha is 0.8: at least beta, which is 0.9"),
        ({"name": "ddm", "warningThreshold": 4}, "at most driftThreshold, which is 3.0"),
        ({"name": "hddm_a", "driftConfidence": 0.1}, "at least driftConfidence, which is 0.1"),
        ({"name": "hddm_w", "driftConfidence": 0.1}, "at least driftConfidence, which is 0.1"),
        ({"name": "hddm_w", "lambdaVal": 0.5}, "drift needs a difference above 1.52"),
        ({"name": "cusum", "std": 0}, "greater than 0"),
        ({"name": "adwin", "maxBuckets": 1}, "greater than or equal to 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(SequentialMethod).validate_python(settings)
