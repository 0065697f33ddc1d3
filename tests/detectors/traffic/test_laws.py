"""What every traffic detector keeps to, whatever it looks for."""

import math
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter, ValidationError

from detectors.errors import IncompatibleSummaries, NotApplicable, SummaryFormatError
from detectors.statistics.block import Block, Codes
from detectors.statistics.sample import RowSample
from detectors.traffic import TRAFFIC, TrafficMethod
from detectors.traffic.base import OTHER

COLUMNS = (("a", "b"), ("c",))


@pytest.fixture(scope="session")
def small(requests):
    """Two numeric columns, one with missing values, and a categorical one."""
    random = np.random.default_rng(7)
    numeric = random.normal(size=(1500, 2))
    numeric[::50, 1] = np.nan
    return RowSample.of(requests.made(numeric, random.choice(["x", "y", None], 1500)), 1500)


@pytest.fixture(scope="session", params=list(TRAFFIC))
def detector(request):
    quick = {"resamples": 199, "threshold": 0.01} if request.param == "extraction" else {"min_requests": 1}
    return TRAFFIC[request.param](clients=10, **quick)


@pytest.fixture(scope="session")
def fitted(detector, small):
    return detector.learn(small, *COLUMNS)


@pytest.fixture(scope="session")
def batch(requests):
    """Three clients and some who are not known; a tenth of the requests repeats."""
    random = np.random.default_rng(8)
    numeric = random.normal(size=(400, 2))
    numeric[::10] = numeric[0]
    texts = random.choice(["x", "y", None], 400)
    texts[::10] = "x"
    return requests.made(numeric, texts, keys=9), requests.senders(random.choice(["p", "q", "r", None], 400).tolist())


anything = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def traffic(draw):
    rows = draw(st.integers(0, 60))
    numeric = draw(arrays(float, (rows, 2), elements=st.one_of(anything, st.floats(-3, 3)), fill=st.just(1.0)))
    texts = Codes(draw(arrays(np.int32, rows, elements=st.integers(-1, 1))), ("x", "new"))
    keys = draw(st.one_of(st.none(), arrays(np.uint64, rows, elements=st.integers(0, 2**64 - 1))))
    block = Block(np.array(numeric, order=draw(st.sampled_from("CF"))), np.isnan(numeric), (texts,), keys)
    clients = Codes(draw(arrays(np.int32, rows, elements=st.integers(-1, 15))), tuple(f"c{i}" for i in range(16)))
    return block, draw(st.sampled_from([clients, None]))


def plain(verdicts):
    """Comparable, although NaN is not equal to itself."""
    return [repr(verdict) for verdict in verdicts]


@given(data=traffic())
@settings(max_examples=60, deadline=None)
def test_any_data_gives_finite_verdicts(fitted, data):
    block, clients = data
    state = fitted.observe(block, clients)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdicts = fitted.compare(state + state)
    assert verdicts[0].client is None
    assert verdicts[0].requests == 2 * block.rows
    assert sum(verdict.requests for verdict in verdicts[1:]) == 2 * block.rows
    for verdict in verdicts:
        assert math.isnan(verdict.score) or 0 <= verdict.score <= 1
        assert not (math.isnan(verdict.score) and verdict.drifted)
        assert all(math.isfinite(x) for x in (*verdict.explanation.values(), *verdict.facts.values()))
        assert all(not isinstance(x, float) or math.isfinite(x) for x in verdict.example.values())
        assert len(verdict.explanation) <= 5
        assert sum(verdict.explanation.values()) <= 1 + 1e-9
        assert list(verdict.explanation.values()) == sorted(verdict.explanation.values(), reverse=True)


@given(data=traffic())
@settings(max_examples=40, deadline=None)
def test_a_state_survives_its_bytes(fitted, data):
    state = fitted.observe(*data)
    again = fitted.read(state.to_bytes())
    assert again.to_bytes() == state.to_bytes()
    assert plain(fitted.compare(again)) == plain(fitted.compare(state))
    assert (again + again).to_bytes() == (state + state).to_bytes()


@given(parts=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_neither_the_order_nor_the_partition_of_rows_matters(fitted, batch, parts, seed):
    block, clients = batch
    whole = fitted.observe(block, clients)
    order = np.random.default_rng(seed).permutation(block.rows)
    total = fitted.empty()
    for rows in np.array_split(order, parts):
        total += fitted.read(fitted.observe(block.take(rows), clients.take(rows)).to_bytes())
    expected, found = fitted.compare(whole), fitted.compare(total)
    assert plain(found[:1]) == plain(expected[:1])
    assert plain(found) == plain(expected)


def test_nothing_is_neutral(fitted, batch):
    state = fitted.observe(*batch)
    for sum_ in (state + fitted.empty(), fitted.empty() + state):
        assert sum_.to_bytes() == state.to_bytes()
    nothing = fitted.observe(batch[0].take(slice(0, 0)), batch[1].take(slice(0, 0)))
    assert nothing.to_bytes() == fitted.empty().to_bytes()
    (verdict,) = fitted.compare(nothing)
    assert verdict.client is None
    assert math.isnan(verdict.score)
    assert not verdict.drifted


def test_verdicts_come_in_order(fitted, batch):
    verdicts = fitted.compare(fitted.observe(*batch))
    assert [verdict.client for verdict in verdicts] == [None, "p", "q", "r", OTHER]
    assert [verdict.client for verdict in fitted.compare(fitted.observe(batch[0], None))] == [None, OTHER]


def test_a_state_is_bounded(fitted, requests):
    random = np.random.default_rng(3)
    total, sizes = fitted.empty(), []
    for i in range(12):
        block = requests.made(random.normal(size=(5000, 2)), random.choice(["x", "y"], 5000).tolist(), keys=i)
        sent = requests.senders([f"c{j}" for j in random.zipf(1.3, 5000) % 100_000])
        total += fitted.observe(block, sent)
        sizes.append(len(total.to_bytes()))
    most = 11 * ((64 * (8 + 2 * 4 + 8)) if fitted.name == "extraction" else ((512 + 2 * 128) * (8 + 3) + 100)) + 1000
    assert max(sizes) <= most
    assert len(total.clients.names) == 10


def test_other_plans_do_not_add(fitted, detector, small, batch):
    state = fitted.observe(*batch)
    others = [
        detector.model_copy(update={"clients": 3}).learn(small, *COLUMNS),
        detector.learn(RowSample(small.size, small.keys, small.numeric * 2, small.categorical), *COLUMNS),
        detector.learn(small, ("b", "a"), ("c",)),
    ]
    for other in others:
        with pytest.raises(IncompatibleSummaries, match="do not add"):
            state + other.observe(*batch)
        with pytest.raises(IncompatibleSummaries, match="is of plan"):
            other.read(state.to_bytes())


def test_bytes_that_are_no_state_are_refused(fitted, batch):
    data = fitted.observe(*batch).to_bytes()
    for spoilt in (b"", b"DLS1", data[:4], b"XXXX" + data[4:], *(data[:cut] for cut in range(4, len(data), 97))):
        with pytest.raises(SummaryFormatError):
            fitted.read(spoilt)
    # Bytes that are a MessagePack of the right form, but of nothing that was ever written.
    random = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        for at in random.integers(4, len(data), 3).tolist():
            changed[at] = int(random.integers(256))
        try:
            state = fitted.read(bytes(changed))
        except (SummaryFormatError, IncompatibleSummaries):
            continue
        assert isinstance(state.to_bytes(), bytes)


def test_another_process_answers_the_same(fitted, batch):
    again = pickle.loads(pickle.dumps(fitted))
    state = fitted.observe(*batch)
    assert again.observe(*batch).to_bytes() == state.to_bytes()
    assert plain(again.compare(state)) == plain(fitted.compare(state))


def test_learning_again_gives_the_same(detector, fitted, small, batch):
    state = fitted.observe(*batch)
    assert plain(detector.learn(small, *COLUMNS).compare(state)) == plain(fitted.compare(state))


def test_a_reference_too_small_is_refused(detector, requests):
    few = RowSample.of(requests.made(np.zeros((50, 2)), ["x"] * 50), 50)
    with pytest.raises(NotApplicable, match="at least"):
        detector.learn(few, *COLUMNS)
    with pytest.raises(NotApplicable, match="at least"):
        detector.learn(RowSample.empty(10, 2, 1), *COLUMNS)


@pytest.mark.parametrize("columns", [(2, 0), (0, 2)])
def test_tables_of_one_type(detector, requests, columns):
    random = np.random.default_rng(1)
    numeric, texts = columns

    def rows(n, seed):
        return requests.made(
            random.normal(size=(n, numeric)),
            *(random.integers(0, 200, n).astype(str).tolist() for _ in range(texts)),
            keys=seed,
        )

    fitted = detector.learn(RowSample.of(rows(4000, 1), 4000), ["a", "b"][:numeric], ["c", "d"][:texts])
    (verdict, _) = fitted.compare(fitted.observe(rows(300, 2), None))
    assert not verdict.drifted
    assert math.isfinite(verdict.score)


def test_a_wild_reference_is_learnt(detector, requests):
    random = np.random.default_rng(2)
    wild = random.choice([1e308, -1e308, 1e-320, np.inf, np.nan], 4000)
    block = requests.made(np.column_stack((wild, random.normal(size=4000) * 1e-310)), ["x"] * 4000)
    fitted = detector.learn(RowSample.of(block.take(slice(0, 3000)), 3000), *COLUMNS)
    verdict, *_ = fitted.compare(fitted.observe(block.take(slice(3000, 4000)), None))
    assert not verdict.drifted
    assert math.isfinite(verdict.score)


def test_the_catalogue():
    field = TypeAdapter(TrafficMethod)
    assert field.validate_python("extraction") == TRAFFIC["extraction"]()
    assert field.validate_python({"name": "near_duplicates", "minRequests": 20}).min_requests == 20
    with pytest.raises(ValidationError, match="there is no traffic detector 'extractoin'; known are: extraction"):
        field.validate_python("extractoin")
    assert list(TRAFFIC) == [member.model_fields["name"].default for member in TRAFFIC.values()]


@pytest.mark.parametrize("name", TRAFFIC)
def test_a_detector_says_what_it_is(name):
    text = TRAFFIC[name].__doc__ or ""
    for wanted in ("Misleads", "earest neighbour", ">>>", "References", "threshold\n"):
        assert wanted in text
    assert TRAFFIC[name].unit
    assert TRAFFIC[name].direction in {"p-value", "distance"}
