"""What every drift detector keeps to, whatever its formula."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from detectors.distribution import difference, distribution
from detectors.drift import DRIFT, DriftMethod, default_method
from detectors.errors import NotApplicable
from detectors.for_evidently import _feature_types
from detectors.frequencies import by_bin, sturges_edges
from detectors.resampling import DRAWS
from detectors.statistics.block import Block
from detectors.statistics.column import ColumnSummary
from detectors.statistics.ruler import Ruler
from detectors.statistics.table import Plan, summarise

NUMERIC = [name for name, method in DRIFT.items() if "numeric" in method.applies_to]
CATEGORICAL = [name for name, method in DRIFT.items() if "categorical" in method.applies_to]
ONE_SIDED = {"mannw"}
NEEDED = {"callable": {"function": "stattests:apart", "threshold": 0.3, "direction": "distance"}}
"""Settings that have no default."""


def a(name, **settings):
    """A method of this name."""
    if name == "callable":
        _feature_types()  # imports Evidently, for which no example has the time
    return DRIFT[name](**NEEDED.get(name, {}) | settings)


reals = st.floats(allow_nan=False, allow_infinity=False)
tame = st.floats(-100, 100, allow_subnormal=False)


def numbers(elements=reals, least=1, most=60):
    """Continuous samples, or samples of few values."""
    few = st.lists(elements, min_size=1, max_size=4).flatmap(
        lambda pool: st.lists(st.sampled_from(pool), min_size=least, max_size=most)
    )
    whole = arrays(float, st.integers(least, most), elements=st.integers(0, 40).map(float))
    return st.one_of(arrays(float, st.integers(least, most), elements=elements), whole, few.map(np.array))


words = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1, max_size=60)


@pytest.fixture(scope="session", params=NUMERIC)
def numeric(request):
    return a(request.param)


@pytest.fixture(scope="session", params=CATEGORICAL)
def categorical(request):
    return a(request.param)


@pytest.fixture(scope="session", params=["whole", "window from the ruler", "both from the ruler"])
def made(request, columns, sketched, sketched_both):
    return {"whole": columns, "window from the ruler": sketched, "both from the ruler": sketched_both}[request.param]


def is_none(method, verdict):
    """No drift at all."""
    if method.direction == "p-value":
        return verdict.score >= 0.2
    return verdict.score == pytest.approx(0, abs=1e-7)


@given(rows=numbers())
@settings(max_examples=15)
def test_a_column_does_not_drift_from_itself(numeric, made, rows):
    verdict = numeric.compare(*made.pair(rows, rows))
    # From different sources of the same rows, nearly so.
    if verdict.exact or numeric.direction == "p-value":
        assert is_none(numeric, verdict)
    assert not verdict.drifted


@given(rows=words)
@settings(max_examples=25)
def test_categories_do_not_drift_from_themselves(categorical, columns, rows):
    verdict = categorical.compare(*columns.pair(rows, rows))
    assert is_none(categorical, verdict)
    assert not verdict.drifted


@given(reference=numbers(), window=numbers())
@settings(max_examples=20)
def test_finite_values_give_a_finite_score(numeric, made, reference, window):
    verdict = numeric.compare(*made.pair(reference, window))
    assert [type(part) for part in (verdict.score, verdict.drifted, verdict.exact)] == [float, bool, bool]
    assert math.isfinite(verdict.score)
    assert verdict.score >= 0
    assert numeric.direction == "distance" or verdict.score <= 1
    assert all(math.isfinite(share) and 0 < share <= 1 for share in verdict.explanation.values())
    assert len(verdict.explanation) <= 5
    assert sum(verdict.explanation.values()) <= 1 + 1e-9


@given(reference=words, window=words)
@settings(max_examples=40)
def test_categories_give_a_finite_score(categorical, columns, reference, window):
    verdict = categorical.compare(*columns.pair(reference, window))
    assert [type(part) for part in (verdict.score, verdict.drifted, verdict.exact)] == [float, bool, bool]
    assert math.isfinite(verdict.score)
    assert verdict.score >= 0
    assert set(verdict.explanation) <= {*reference, *window}


def mixtures(rng, n):
    """Samples of several kinds, by type."""
    wild = rng.choice([-1.0, 1.0], n) * 10.0 ** rng.uniform(-300, 300, n)
    holes = np.where(rng.random(n) < 0.2, rng.choice([np.nan, np.inf, -np.inf], n), rng.normal(size=n))
    numeric = {"many": rng.normal(size=n), "few": rng.poisson(3.0, n) / 7, "wild": wild, "with holes": holes}
    categories = {"few": rng.choice(["a", "b"], n), "with holes": rng.choice(["a", "b", "c", None], n)}
    return {"numeric": numeric, "categorical": {kind: rows.astype(object) for kind, rows in categories.items()}}


@pytest.fixture(scope="session")
def panes(monitored):
    """Type -> what it is, the reference, a window at once, and its rows in another order, 1 to 8 panes added."""
    found = {"numeric": [], "categorical": []}
    for parts, raw_rows in itertools.product(range(1, 9), (100_000, 0)):
        rng = np.random.default_rng(parts)
        olds, news = mixtures(rng, 150), mixtures(rng, 90)
        for type_, kind in ((type_, kind) for type_, kinds in news.items() for kind in kinds):
            baseline, new = monitored.reference(olds[type_][kind], raw_rows), news[type_][kind]
            cuts, mixed = np.sort(rng.integers(0, 91, parts - 1)).tolist(), rng.permutation(new)
            for exact_rows in (1000, 0):
                at_once = monitored.window(baseline, new, exact_rows=exact_rows)
                in_panes = monitored.window(baseline, mixed, cuts, exact_rows=exact_rows)
                which = f"{kind}, {parts} panes, {raw_rows} rows kept of the reference and {exact_rows} of the window"
                found[type_].append((which, baseline.request["x"], at_once, in_panes))
    return found


@pytest.mark.parametrize(
    ("name", "type_"), [(name, type_) for name, method in DRIFT.items() for type_ in sorted(method.applies_to)]
)
def test_neither_the_order_of_rows_nor_the_panes_they_come_in_matter(name, type_, panes):
    method = a(name)
    for which, reference, at_once, in_panes in panes[type_]:
        expected, found = method.compare(reference, at_once), method.compare(reference, in_panes)
        assert found.score == pytest.approx(expected.score, rel=1e-12, abs=0), which
        assert (found.drifted, found.exact) == (expected.drifted, expected.exact), which
        assert found.explanation == pytest.approx(expected.explanation, rel=1e-12), which


@given(reference=numbers(least=30), window=numbers(least=30), gap=st.floats(1e-3, 1e6), up=st.booleans())
@settings(max_examples=12)
def test_a_total_shift_is_always_drift(numeric, made, reference, window, gap, up):
    # By a gap that floats of this size can show.
    reference, window = reference / 1e10, window / 1e10
    gap = max(gap, 1e-9 * (np.max(np.abs(reference)) + np.max(np.abs(window))))
    by = np.max(reference) - np.min(window) + gap if up else np.min(reference) - np.max(window) - gap
    assert numeric.compare(*made.pair(reference, window + by)).drifted


@given(reference=words, window=words)
@settings(max_examples=30)
def test_categories_that_never_were_are_always_drift(categorical, columns, reference, window):
    assert categorical.compare(*columns.pair(reference * 20, [f"new {word}" for word in window * 20])).drifted


SYMMETRIC = ("jensenshannon", "psi", "hellinger", "ks", "anderson", "cramer_von_mises", "t_test", "ed", "es")
"""Of two numeric samples. The others take the reference as the truth (`kl_div`), for the unit (`wasserstein`, `empirical_mmd`), or
look one way (`mannw`)."""


@pytest.mark.parametrize("name", SYMMETRIC)
@given(reference=numbers(tame), window=numbers(tame), whole=st.booleans())
@settings(max_examples=30)
def test_symmetry(name, columns, reference, window, whole):
    # From the ruler, `hellinger` estimates how many distinct values there are from those of the reference.
    ruler, whole = Ruler.of(np.sort(np.concatenate((reference, window)))), whole or name == "hellinger"
    one, other = (columns.numeric(rows, ruler, whole=whole) for rows in (reference, window))
    # Both with more than 20 distinct values or both with fewer: that choice is made by the reference alone.
    if not whole or (len(np.unique(reference)) > 20) == (len(np.unique(window)) > 20):
        method = DRIFT[name]()
        assert method.compare(one, other).score == pytest.approx(method.compare(other, one).score, rel=1e-9, abs=1e-7)


@given(reference=numbers(tame), window=numbers(tame))
def test_symmetry_but_for_the_unit_or_the_direction(columns, reference, window):
    one, other = columns.numeric(reference), columns.numeric(window)
    distance = DRIFT["wasserstein"]()
    there = distance.compare(one, other).score * max(np.std(reference), 0.001)
    back = distance.compare(other, one).score * max(np.std(window), 0.001)
    assert there == pytest.approx(back, rel=1e-9, abs=1e-9)
    # Whoever looks for larger values from one side looks for smaller ones from the other.
    upwards = DRIFT["mannw"]()
    downwards = columns.numeric(-window), columns.numeric(-reference)
    assert upwards.compare(one, other).score == pytest.approx(upwards.compare(*downwards).score, rel=1e-9)


@pytest.mark.parametrize("name", ["jensenshannon", "psi", "hellinger", "z", "fisher_exact", "TVD"])
@given(reference=words, window=words)
@settings(max_examples=30)
def test_symmetry_of_categories(name, columns, reference, window):
    one, other = columns.pair(reference, window)
    there, back = DRIFT[name]().compare(one, other).score, DRIFT[name]().compare(other, one).score
    # Tests that draw do so anew: five standard errors of their difference.
    drawn = name == "TVD" or (name == "fisher_exact" and len({*reference, *window}) > 2)
    error = 5 * math.sqrt(2 * max(there * (1 - there), back * (1 - back), 0.002) / DRAWS) if drawn else 1e-7
    assert there == pytest.approx(back, rel=1e-9, abs=error)


@pytest.mark.parametrize("name", DRIFT)
@pytest.mark.parametrize("empty", ["reference", "window", "both"])
def test_nothing_to_compare_is_no_drift(name, empty, columns):
    made = columns.categorical if "numeric" not in DRIFT[name].applies_to else columns.numeric
    some, none = made(["a", "b"] if made == columns.categorical else np.array([1.0, 2.0])), made([])
    reference = none if empty in {"reference", "both"} else some
    window = none if empty in {"window", "both"} else some
    verdict = a(name).compare(reference, window)
    assert math.isnan(verdict.score)
    assert not verdict.drifted


def test_missing_and_nonfinite_values_are_left_out(numeric, columns, rng):
    reference, window = rng.normal(size=200), rng.normal(0.5, 1.0, 200)
    holes = np.concatenate((window, [np.nan, np.inf, -np.inf]))
    assert (
        numeric.compare(*columns.pair(reference, window)).score
        == numeric.compare(*columns.pair(reference, holes)).score
    )


@pytest.fixture(scope="session")
def rng():
    return np.random.default_rng(7)


@example(n=1, low=1.7976931348623157e308, width=0.0)
@given(n=st.integers(1, 10**6), low=reals, width=st.floats(0, 1e12))
def test_sturges_edges_are_numpys(n, low, width):
    high = low + width
    values = np.full(min(n, 5000), low)
    values[-1] = high
    if len(values) == 1:
        high = low = values[0]
    try:
        expected = np.histogram_bin_edges(values, bins="sturges")
    except ValueError:  # numpy: too many bins for the range
        assert len(sturges_edges(len(values), low, high)) >= 2
        return
    np.testing.assert_array_equal(sturges_edges(len(values), low, high), expected)


# The oracle counts lattice paths; where they are all but sure, its share of them may round to more than 1, and it says so.
@pytest.mark.filterwarnings("ignore:ks_2samp. Exact calculation unsuccessful:RuntimeWarning")
@example(reference=np.arange(200.0) % 41, window=np.append(np.arange(199.0) % 41, 0.0))
@given(reference=numbers(tame, 50, 400), window=numbers(tame, 50, 400))
@settings(max_examples=40)
def test_ks_from_the_ruler_is_within_the_mass_of_one_bin(sketched, sketched_both, reference, window):
    for made in (sketched, sketched_both):
        a, b = made.pair(reference, window)
        if a.counts is not None:
            return
        n, m = a.count, b.count
        true = stats.ks_2samp(reference, window)
        at_marks = np.max(np.abs(np.cumsum(a.bins)[:-1] / n - np.cumsum(b.bins)[:-1] / m))
        widest = max(np.max(a.bins) / n, np.max(b.bins) / m)
        assert at_marks <= true.statistic + 1e-12
        assert true.statistic <= at_marks + widest + 1e-12
        score = DRIFT["ks"]().compare(a, b).score
        assert score >= true.pvalue - 1e-12
        if at_marks == pytest.approx(true.statistic, abs=1e-12):
            assert score == pytest.approx(true.pvalue)


@given(reference=numbers(tame, 50, 400), window=numbers(tame, 50, 400))
@settings(max_examples=40)
def test_wasserstein_from_the_ruler_is_within_the_bins_where_the_distributions_cross(sketched_both, reference, window):
    a, b = sketched_both.pair(reference, window)
    if a.counts is not None:
        return
    true = stats.wasserstein_distance(reference, window)
    x, means = difference(distribution(a), distribution(b), 1)
    found = float(np.diff(x) @ means)
    low, high = min(a.low, b.low), max(a.high, b.high)
    width = np.diff(np.clip(a.ruler.marks, low, high), prepend=low, append=high)
    p, q = a.bins / a.count, b.bins / b.count
    before = np.cumsum(p) - p - np.cumsum(q) + q
    crossing = (-p < before) & (before < q)
    assert abs(found - true) <= np.sum(width * (p + q), where=crossing) + 1e-9 * (high - low)


@given(reference=numbers(tame, 50, 400), window=numbers(tame, 50, 400))
@settings(max_examples=40)
def test_shares_from_the_ruler_are_within_the_bins_that_an_edge_cuts(sketched, sketched_both, reference, window):
    for made in (sketched, sketched_both):
        a, b = made.pair(reference, window)
        if a.counts is not None:
            return
        found = by_bin(a, b)
        for rows, column, counted in ((reference, a, found.reference), (window, b, found.window)):
            true = np.histogram(rows, found.edges)[0]
            cut = column.bins[np.searchsorted(a.ruler.marks, found.edges, side="left")]
            assert np.all(np.abs(true - counted) <= cut[:-1] + cut[1:] + 1e-6)
            assert counted.sum() == pytest.approx(len(rows))


def test_a_window_inside_the_reference_gives_exact_histograms(sketched, rng):
    reference = rng.normal(size=20_000)
    window = np.clip(rng.normal(0.1, 1.0, 30_000), reference.min(), reference.max())
    found = by_bin(*sketched.pair(reference, np.concatenate((window, [reference.min(), reference.max()]))))
    true = np.histogram(np.concatenate((window, [reference.min(), reference.max()])), found.edges)[0]
    np.testing.assert_allclose(found.window, true, atol=1e-6)


def test_a_method_asked_about_the_wrong_columns_says_so(columns, rng):
    wide = columns.numeric(rng.normal(size=5000), whole=False)
    with pytest.raises(NotApplicable, match="'x' has no counts by value: use a numeric method"):
        DRIFT["chisquare"]().compare(wide, wide)
    with pytest.raises(NotApplicable, match="neither its values nor ruler counts: build a baseline first"):
        DRIFT["wasserstein"]().compare(wide, wide)


def test_too_many_categories_are_one_category_more():
    reference = ColumnSummary("x", "categorical", 100, counts={"a": 50, "b": 30}, unlisted=20)
    window = ColumnSummary("x", "categorical", 100, counts={"a": 20, "b": 20}, unlisted=60)
    verdict = DRIFT["jensenshannon"]().compare(reference, window)
    assert verdict.drifted
    assert not verdict.exact
    assert next(iter(verdict.explanation)) == "(other)"


def test_the_explanation_names_what_moved(columns, rng):
    reference, window = rng.normal(size=500), rng.normal(size=500)
    window[:100] = 9.5
    window[100] = 10.0
    (bin_, share), *_ = DRIFT["wasserstein"]().compare(*columns.pair(reference, window)).explanation.items()
    assert bin_.startswith("[")
    assert 0 < share < 1
    verdict = DRIFT["psi"]().compare(*columns.pair(reference, window))
    assert next(iter(verdict.explanation)).endswith(", 10]")


@pytest.mark.parametrize("name", [name for name in DRIFT if name not in NEEDED])
def test_a_name_is_a_method(name):
    field = TypeAdapter(DriftMethod)
    assert field.validate_python(name) == DRIFT[name]() == field.validate_python({"name": name})
    assert field.validate_python({"name": name, "threshold": 0.25}).threshold == 0.25
    assert DRIFT[name]().name == name
    assert field.dump_python(DRIFT[name](threshold=0.5)) == {"name": name, "threshold": 0.5}


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValidationError, match="there is no drift method 'kss'; known are: ks, wasserstein, "):
        TypeAdapter(DriftMethod).validate_python("kss")
    with pytest.raises(ValidationError, match="give the drift method a name; known are: wasserstein, ks"):
        TypeAdapter(DriftMethod).validate_python({"threshold": 0.1})


def test_the_schema_offers_the_names():
    schema = TypeAdapter(DriftMethod).json_schema()
    assert schema["anyOf"][0] == {"type": "string", "enum": [name for name in DRIFT if name not in NEEDED]}


def test_a_large_numeric_reference_with_few_values_is_compared_by_value(columns, rng):
    rows = rng.integers(0, 4, 5000).astype(float)
    assert default_method(*columns.pair(rows, rows)).name == "jensenshannon"


@pytest.mark.parametrize("reference_rows", [500, 5000])
def test_a_large_window_whose_values_are_all_missing_is_no_accident(reference_rows):
    """Beyond 1,000 rows the window keeps counts on the ruler only, and all of them are zero."""
    known = np.random.default_rng(0).normal(size=(reference_rows, 1))
    plan = Plan(numeric=("x",), categorical=(), rulers=(Ruler.of(np.sort(known[:, 0]), 64),))

    def column(values: np.ndarray) -> ColumnSummary:
        return summarise(plan, Block(np.asfortranarray(values), np.asfortranarray(np.isnan(values)))).column("x")

    reference, window = column(known), column(np.full((2000, 1), np.nan))
    assert window.values is None
    assert window.missing == 2000
    assert default_method(reference, window).name in {"ks", "wasserstein"}
    for name, method in DRIFT.items():
        if name != "callable":
            verdict = method().compare(reference, window)
            assert math.isnan(verdict.score), name
            assert not verdict.drifted, name
