"""Laws of summaries: `+` is associative and commutative, exact where it must be, and the binary form is faithful."""

import contextlib
import itertools
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from detectors.errors import IncompatibleSummaries, SummaryFormatError
from detectors.statistics.block import Block, Codes
from detectors.statistics.embedding import FourierFeatures, MomentFeatures, Scales
from detectors.statistics.metrics import METRICS
from detectors.statistics.quantiles import CROWDED, RANK_ERROR
from detectors.statistics.ruler import Ruler
from detectors.statistics.table import Plan, TableSummary, merged, summarise

NUMBERS = st.one_of(
    st.floats(-1e6, 1e6, allow_nan=False, width=32),
    st.sampled_from([0.0, 1.0, 2.0, 5.0]),
    st.sampled_from([np.nan, np.inf, -np.inf]),
)
WORDS = ("", "ATL", "Σ", "a\x00b", "JFK")
UP_TO_40 = st.integers(0, 40)
REFERENCE = np.sort(np.random.default_rng(7).gamma(2.0, 100.0, 5000))
SCALES = Scales(
    np.arange(2), np.array([200.0, 1.0]), np.array([140.0, 1.0]), np.array([0.1, 0.0]), np.array([0.8, 1.0])
)
PLAN = Plan(
    numeric=("x", "few"),
    categorical=("where",),
    rulers=(Ruler.of(REFERENCE), Ruler.of(np.array([0.0, 1.0, 2.0]))),
    discrete={1: frozenset({0.0, 1.0, 2.0})},
    listed=(frozenset({"ATL"}),),
    exact_rows=20,
    distinct=True,
    sample=10,
    embeddings=(
        MomentFeatures(SCALES),
        FourierFeatures(SCALES, np.array([[0.3, 1.0, -2.0], [0.1, -0.7, 1.5]])),
    ),
)


def block(x, few, missing, codes) -> Block:
    numeric = np.asfortranarray(np.column_stack((x, few)).astype(np.float64))
    gone = np.asfortranarray(np.column_stack((missing, np.zeros(len(x), bool))))
    return Block(np.where(gone, np.nan, numeric), gone, (Codes(np.asarray(codes, np.int32), WORDS),))


@st.composite
def blocks(draw, rows=UP_TO_40):
    n = draw(rows)
    return block(
        np.array(draw(st.lists(NUMBERS, min_size=n, max_size=n))),
        np.array(draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, 7.5]), min_size=n, max_size=n))),
        np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool),
        draw(st.lists(st.integers(-1, len(WORDS) - 1), min_size=n, max_size=n)),
    )


def joined(*parts: Block) -> Block:
    return Block(
        np.asfortranarray(np.vstack([part.numeric for part in parts])),
        np.asfortranarray(np.vstack([part.missing for part in parts])),
        (Codes(np.concatenate([part.categorical[0].codes for part in parts]), WORDS),),
    )


def assert_same(a: TableSummary, b: TableSummary) -> None:
    """Counts, extremes, ruler counts, categories and raw values to the bit; moments to rounding."""
    assert a.rows == b.rows
    for name in ("count", "missing", "nonfinite", "low", "high"):
        np.testing.assert_array_equal(getattr(a.moments, name), getattr(b.moments, name))
    np.testing.assert_array_equal(a.bins.counts, b.bins.counts)
    np.testing.assert_array_equal(a.bins.places, b.bins.places)
    assert a.categories == b.categories
    assert a.discrete == b.discrete
    assert (a.values is None) == (b.values is None)
    for mine, theirs in zip(a.values or (), b.values or (), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(a.distinct.hashes, b.distinct.hashes, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(a.sample.keys, b.sample.keys)
    np.testing.assert_array_equal(a.sample.numeric, b.sample.numeric)
    assert a.sample.categorical == b.sample.categorical
    for ours, theirs in zip(a.embedded, b.embedded, strict=True):
        assert ours.n == theirs.n
        np.testing.assert_allclose(ours.total, theirs.total, atol=1e-9)
    reach = np.maximum(np.abs(a.moments.low), np.abs(a.moments.high))
    reach = np.where(np.isfinite(reach), reach, 0) + 1e-30
    n = np.maximum(a.moments.count, 1)
    np.testing.assert_allclose(a.moments.mean / reach, b.moments.mean / reach, atol=1e-12)
    for power, name in ((2, "m2"), (3, "m3"), (4, "m4")):
        scale = n * reach**power
        np.testing.assert_allclose(getattr(a.moments, name) / scale, getattr(b.moments, name) / scale, atol=1e-12)
    assert a.comoments.n == b.comoments.n
    scale = max(a.comoments.n, 1) * np.outer(reach, reach)
    np.testing.assert_allclose(a.comoments.c / scale, b.comoments.c / scale, atol=1e-12)


@given(blocks(), blocks())
def test_adding_commutes(a, b):
    one, other = summarise(PLAN, a), summarise(PLAN, b)
    assert_same(one + other, other + one)


@given(blocks(), blocks(), blocks())
def test_adding_associates_and_equals_one_summary_of_all_rows(a, b, c):
    x, y, z = (summarise(PLAN, part) for part in (a, b, c))
    assert_same((x + y) + z, x + (y + z))
    assert_same((x + y) + z, summarise(PLAN, joined(a, b, c)))


@given(blocks())
def test_the_empty_summary_is_neutral(a):
    whole = summarise(PLAN, a)
    assert_same(TableSummary.empty(PLAN) + whole, whole)
    assert_same(whole + TableSummary.empty(PLAN), whole)


@settings(max_examples=20)
@given(st.randoms(use_true_random=False), st.integers(1, 8))
def test_any_partitioning_and_row_order_give_equal_counts(random, parts):
    rng = np.random.default_rng(random.getrandbits(32))
    n = 3000
    whole = block(
        rng.gamma(2.0, 120.0, n), rng.integers(0, 4, n), rng.random(n) < 0.05, rng.integers(-1, len(WORDS), n)
    )
    order = rng.permutation(n)
    shuffled = whole.take(order)
    cuts = np.sort(rng.integers(0, n, parts - 1))
    pieces = [shuffled.take(slice(a, b)) for a, b in itertools.pairwise([0, *cuts.tolist(), n])]
    total = merged(PLAN, [summarise(PLAN, piece) for piece in pieces])
    assert_same(total, summarise(PLAN, whole))
    rank = np.searchsorted(np.sort(whole.numeric[~whole.missing[:, 0], 0]), total.quantiles.at(0, np.array([0.5]))[0])
    assert abs(rank / (~whole.missing[:, 0]).sum() - 0.5) <= 3 * RANK_ERROR


WINDOWS = {
    "like the reference": lambda x: x,
    "shifted": lambda x: x + 150.0,
    "far away": lambda x: x * 0.1 + 1e5,
    "squeezed": lambda x: 200.0 + x * 1e-4,
    "partly beyond": lambda x: np.where(x > 200, x * 100, x),
}


@pytest.mark.parametrize("moved", WINDOWS.values(), ids=WINDOWS)
def test_percentiles_stay_within_their_bound_wherever_values_lie(moved):
    values = moved(np.random.default_rng(8).gamma(2.0, 100.0, 40_000))
    ordered = np.sort(values)
    parts = [block(part, part * 0, part < -1, [0] * len(part)) for part in np.array_split(values, 5)]
    total = merged(PLAN, [summarise(PLAN, part) for part in parts])
    ranks = np.array([0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0])
    for summary in (total, TableSummary.from_bytes(total.to_bytes(), PLAN)):
        found = summary.quantiles.at(0, ranks)
        below, upto = (np.searchsorted(ordered, found, side) / len(ordered) for side in ("left", "right"))
        bound = 0.002 if moved is WINDOWS["like the reference"] else CROWDED + RANK_ERROR
        assert (below - bound <= ranks).all()
        assert (ranks <= upto + bound).all()
        assert (found[0], found[-1]) == (ordered[0], ordered[-1])


def test_without_rulers_a_sketch_has_every_value():
    plan = replace(PLAN, rulers=None, discrete={}, embeddings=())
    values = np.random.default_rng(9).normal(size=5000)
    whole = summarise(plan, block(values, values * 0, values < -9, [0] * len(values)))
    rank = (values <= whole.quantiles.at(0, np.array([0.25]))[0]).mean()
    assert abs(rank - 0.25) <= 2 * RANK_ERROR


@given(blocks(rows=st.integers(1, 60)))
def test_the_binary_form_round_trips(a):
    whole = summarise(PLAN, a)
    again = TableSummary.from_bytes(whole.to_bytes(), PLAN)
    assert_same(whole, again)
    assert again.to_bytes() == whole.to_bytes()


@given(blocks(), st.integers(0, 10_000), st.integers(0, 255))
def test_damaged_bytes_are_refused_or_read_but_never_crash(a, at, value):
    data = bytearray(summarise(PLAN, a).to_bytes())
    data[at % len(data)] = value
    with contextlib.suppress(SummaryFormatError, IncompatibleSummaries):
        TableSummary.from_bytes(bytes(data), PLAN)
    with pytest.raises(SummaryFormatError):
        TableSummary.from_bytes(bytes(data[: len(data) // 2]), PLAN)


def test_summaries_on_other_rulers_do_not_add():
    other = Plan(PLAN.numeric, PLAN.categorical, (Ruler.of(REFERENCE * 2), PLAN.rulers[1]), PLAN.discrete, PLAN.listed)
    a = block([1.0], [1.0], [False], [0])
    with pytest.raises(IncompatibleSummaries, match="rulers of one baseline"):
        summarise(PLAN, a) + summarise(other, a)
    with pytest.raises(IncompatibleSummaries):
        TableSummary.from_bytes(summarise(PLAN, a).to_bytes(), other)


def test_the_version_stands_first():
    data = TableSummary.empty(PLAN).to_bytes()
    assert data[:4] == b"DLS2"
    assert msgspec.msgpack.decode(data[4:])["rows"] == 0
    with pytest.raises(SummaryFormatError, match="DLS2"):
        TableSummary.from_bytes(b"DLS9" + data[4:], PLAN)


def test_statistics_equal_scipy_and_the_seed_systems_errors_are_not_made():
    rng = np.random.default_rng(1)
    x = rng.normal(50.0, 3.0, 5000)
    parts = [summarise(PLAN, block(p, p * 0, p < -1e9, [0] * len(p))) for p in np.array_split(x, 7)]
    column = merged(PLAN, parts).column("x")
    expected = {
        "min": x.min(), "max": x.max(), "sum": x.sum(), "pow2sum": (x * x).sum(), "avg": x.mean(), "mean": x.mean(),
        "stddev": x.std(ddof=1), "stddevPopulation": x.std(), "variance": x.var(ddof=1),
        "skewness": stats.skew(x), "kurtosis": stats.kurtosis(x),
    }  # fmt: skip
    assert set(expected) == set(METRICS)
    for name, value in expected.items():
        assert METRICS[name](column) == pytest.approx(value, rel=1e-9, abs=1e-9), name
    # The system that this follows computes the mean as (max - min) / count.
    assert METRICS["mean"](column) != pytest.approx((x.max() - x.min()) / len(x), rel=0.5)


def test_covariance_and_correlation_equal_numpy():
    rng = np.random.default_rng(2)
    x, few = rng.normal(size=999), rng.integers(0, 3, 999).astype(float)
    co = merged(
        PLAN,
        [
            summarise(PLAN, block(x[i::4], few[i::4], np.zeros(len(x[i::4]), bool), [0] * len(x[i::4])))
            for i in range(4)
        ],
    ).comoments
    np.testing.assert_allclose(co.covariance(), np.cov(x, few), rtol=1e-12)
    np.testing.assert_allclose(co.correlation(), np.corrcoef(x, few), rtol=1e-12)


def test_missing_is_not_zero_and_nan_is_not_missing():
    a = block([0.0, 5.0, np.nan, np.inf], [1.0] * 4, [True, False, False, False], [-1, 0, 1, 2])
    column = summarise(PLAN, a).column("x")
    assert (column.count, column.missing, column.nonfinite) == (1, 1, 2)
    assert column.low == column.high == column.mean == 5.0
    assert summarise(PLAN, a).column("where").missing == 1


def test_values_beyond_the_ruler_are_counted():
    far = block([1e12, -1e12, 1e300], [0.0] * 3, [False] * 3, [0] * 3)
    column = summarise(PLAN, far).column("x")
    assert column.bins.sum() == 3
    assert (column.bins[0], column.bins[-1]) == (1, 2)


def test_values_are_kept_up_to_the_limit_and_not_beyond():
    a, b = block(*_ones(20)), block(*_ones(1))
    assert summarise(PLAN, a).values is not None
    assert (summarise(PLAN, a) + summarise(PLAN, b)).values is None


def _ones(n):
    return [1.0] * n, [1.0] * n, [False] * n, [0] * n


@given(st.lists(st.text(max_size=3), max_size=200), st.integers(1, 5), st.integers(1, 6))
def test_bounded_categories_stay_within_their_error(words, cap, parts):
    values = tuple(sorted(set(words)))
    codes = np.array([values.index(word) for word in words], np.int32)
    plan = Plan((), ("w",), (), {}, (frozenset({"a"}),), max_categories=cap, comoments=False)
    pieces = [
        summarise(plan, Block(np.empty((len(part), 0)), np.empty((len(part), 0), bool), (Codes(part, values),)))
        for part in np.array_split(codes, parts)
    ]
    counts = merged(plan, pieces).categories[0]
    truth = {word: words.count(word) for word in values}
    assert counts.total == len(words)
    assert counts.counts.get("a", 0) == truth.get("a", 0)
    for word, true in truth.items():
        assert true - counts.error <= counts.counts.get(word, 0) <= true
    assert counts.error <= len(words) / (cap + 1)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300))
def test_the_mean_of_a_bin_is_within_half_a_unit(values):
    ruler = PLAN.rulers[0]
    ordered = np.sort(np.array(values))
    counts, places = ruler.tally(ordered)
    sums = ruler.sums(counts, places)
    bins = np.searchsorted(ruler.marks, ordered, side="left")
    truth = np.bincount(bins, ordered, minlength=ruler.size)
    width = np.diff(ruler.marks)
    inner = slice(1, -1)
    slack = counts[inner] * (width * 2.0**-21 + 1e-12 * np.maximum(np.abs(ruler.marks[1:]), 1))
    assert (np.abs(sums[inner] - truth[inner]) <= slack).all()
    np.testing.assert_array_equal(counts, np.bincount(bins, minlength=ruler.size))


def test_an_atom_has_a_mark_of_its_own_and_its_sum_is_exact():
    ruler = Ruler.of(np.repeat([0.1, 0.7, 3.0], [5, 9, 2]).astype(float))
    counts, places = ruler.tally(np.array([0.1, 0.1, 0.7, 3.0, 3.0, 3.0]))
    sums = ruler.sums(counts, places)
    filled = counts > 0
    np.testing.assert_allclose(sums[filled] / counts[filled], [0.1, 0.7, 3.0], rtol=1e-15)


def test_plans_that_count_differently_have_different_fingerprints():
    one, two = Ruler(np.array([1.0, 2.0])), Ruler(np.array([3.0]))
    plans = [
        PLAN,
        replace(PLAN, listed=(frozenset({"a", "b"}), *PLAN.listed[1:])),
        replace(PLAN, max_categories=7),
        replace(PLAN, rulers=None),
        replace(PLAN, rulers=()),
        replace(PLAN, rulers=(one, two)),
        replace(PLAN, rulers=(Ruler(np.array([1.0])), Ruler(np.array([2.0, 3.0])))),
    ]
    assert len({plan.fingerprint for plan in plans}) == len(plans)
