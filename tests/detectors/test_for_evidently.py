"""Functions that Evidently takes as stat tests, run by us."""

import doctest
import importlib
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import stattests
from pydantic import TypeAdapter, ValidationError

from detectors import for_evidently
from detectors.drift import DriftMethod
from detectors.errors import NoAnswer, NotApplicable
from detectors.for_evidently import MOST_ROWS, UNRESOLVED, StatTestFunction
from detectors.statistics.column import ColumnSummary

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from evidently.legacy.calculations import stattests as stock
    from evidently.legacy.core import ColumnType

FIELD = TypeAdapter(DriftMethod)
SOME = np.arange(8.0)


@pytest.fixture
def rng():
    return np.random.default_rng(4)


# ---------------------------------------------------------------------------------------------------------------------
FUNCTIONS = {
    "psi:_psi": "psi_stat_test",
    "ks_stattest:_ks_stat_test": "ks_stat_test",
    "wasserstein_distance_norm:_wasserstein_distance_norm": "wasserstein_stat_test",
    "epps_singleton_stattest:_epps_singleton": "epps_singleton_test",
    "chisquare_stattest:_chi_stat_test": "chi_stat_test",
    "jensenshannon:_jensenshannon": "jensenshannon_stat_test",
    "z_stattest:_z_stat_test": "z_stat_test",
}


def theirs(rows, name, kind):
    """What Evidently itself makes of the rows, in their own order."""
    test = getattr(stock, name)
    result = test(*(pd.Series(each, name="x") for each in rows), kind, None)
    return float(result.drift_score), bool(result.drifted), result.actual_threshold


@pytest.mark.parametrize(
    ("function", "name", "kind"),
    [
        (function, name, kind.value)
        for function, name in FUNCTIONS.items()
        for kind in getattr(stock, name).allowed_feature_types
    ],
)
def test_a_stock_stat_test_says_what_it_says_in_evidently(function, name, kind, columns, rng):
    if kind == "num":
        rows = rng.normal(size=400), rng.normal(0.2, 1.0, 300)
    else:
        rows = rng.choice(["no", "yes"], 400), rng.choice(["no", "yes"], 300, p=[0.4, 0.6])
    score, drifted, threshold = theirs(rows, name, ColumnType(kind))
    package = "evidently.legacy.calculations.stattests"
    for text in (f"{package}.{function}", f"{package}:{name}"):  # the function, and the StatTest object
        detector = StatTestFunction(function=text, threshold=threshold, direction="distance")
        verdict = detector.compare(*columns.pair(*rows))
        assert verdict.score == pytest.approx(score, rel=1e-9)
        assert verdict.drifted == drifted
        assert verdict.threshold == threshold
        assert verdict.exact
        assert verdict.explanation


def test_a_stat_test_that_is_not_made_for_a_column_says_so(columns):
    detector = StatTestFunction(function="evidently.legacy.calculations.stattests:ks_stat_test")
    with pytest.raises(NotApplicable, match="ks_stat_test is for columns of type num: name it in drift"):
        detector.compare(*columns.pair(["a"], ["b"]))


def test_the_docs_example():
    assert doctest.testmod(for_evidently).failed == 0


# ---------------------------------------------------------------------------------------------------------------------
def given(reference, window, **settings):
    stattests.GIVEN.clear()
    verdict = StatTestFunction(function="stattests:told", **settings).compare(reference, window)
    return verdict, *stattests.GIVEN[-1]


def test_a_function_gets_what_evidently_gives_it(columns, rng):
    rows = rng.normal(size=50), np.append(rng.normal(size=30), [np.nan, np.inf])
    verdict, old, new, kind, threshold = given(*columns.pair(*rows), threshold=0.2)
    assert (verdict.score, verdict.drifted, verdict.threshold, verdict.exact) == (0.5, False, 0.2, True)
    assert kind is ColumnType.Numerical
    assert threshold == 0.2
    assert (old.name, new.name, old.dtype, list(old.index)) == ("x", "x", float, list(range(50)))
    np.testing.assert_array_equal(np.sort(old), np.sort(rows[0]))
    np.testing.assert_array_equal(np.sort(new), np.sort(rows[1][:30]))
    assert not old.is_monotonic_increasing

    _, old, new, kind, _ = given(*columns.pair(["a"] * 3 + ["b", None], ["c", "a"]))
    assert kind is ColumnType.Categorical
    assert (sorted(old), sorted(new), old.dtype) == (["a", "a", "a", "b"], ["a", "c"], object)


def test_the_order_of_rows_is_the_same_for_the_same_rows(columns, rng):
    rows = rng.normal(size=50)
    first, again = (given(*columns.pair(rows, mixed))[2] for mixed in (rows, rows[::-1]))
    pd.testing.assert_series_equal(first, again)


def test_a_large_window_is_given_as_its_sample(sketched, rng):
    verdict, old, new, *_ = given(*sketched.pair(rng.normal(size=5000), rng.normal(size=3000)))
    assert (len(old), len(new)) == (5000, 1000)
    assert not verdict.exact


def test_beyond_a_hundred_thousand_rows_it_is_that_many():
    many = ColumnSummary("c", "categorical", 30_000_000, counts={"a": 10_000_000, "b": 20_000_000})
    verdict, old, new, *_ = given(many, ColumnSummary("c", "categorical", 3, counts={"b": 3}))
    assert len(old) == MOST_ROWS
    assert (old == "a").mean() == pytest.approx(1 / 3, abs=0.01)
    assert list(new) == ["b"] * 3
    assert not verdict.exact
    long = np.linspace(0.0, 1.0, MOST_ROWS + 1)
    wide = ColumnSummary("x", "numeric", len(long), low=0.0, high=1.0, values=long)
    verdict, old, new, *_ = given(wide, wide)
    assert (len(old), len(new)) == (MOST_ROWS, MOST_ROWS)
    assert not verdict.exact


def test_categories_beyond_the_cap_are_one():
    reference = ColumnSummary("c", "categorical", 5, counts={"a": 3}, unlisted=2)
    verdict, old, new, *_ = given(reference, ColumnSummary("c", "categorical", 3, counts={"a": 1, "b": 2}))
    assert sorted(old) == ["(other)", "(other)", "a", "a", "a"]
    assert sorted(new) == ["(other)", "(other)", "a"]
    assert not verdict.exact


def test_what_there_is_nothing_to_compare_of_is_not_asked_for(columns):
    detector = StatTestFunction(function="stattests:failing")
    some = columns.numeric(SOME)
    rare = ColumnSummary("x", "numeric", 2, low=0.0, high=1.0, sample=np.empty(0))
    for verdict in (detector.compare(columns.numeric([]), some), detector.compare(some, rare)):
        assert np.isnan(verdict.score)
        assert not verdict.drifted
    bare = ColumnSummary("x", "numeric", 5000, low=0.0, high=1.0)
    with pytest.raises(NotApplicable, match="'x' has neither its values nor a sample of them"):
        detector.compare(bare, bare)


def test_without_evidently_types_are_texts(columns, monkeypatch):
    monkeypatch.setitem(sys.modules, "evidently.legacy.core", None)
    for_evidently._feature_types.cache_clear()
    try:
        assert given(*columns.pair(SOME, SOME))[3] == "num"
        assert given(*columns.pair(["a"], ["a"]))[3] == "cat"
    finally:
        for_evidently._feature_types.cache_clear()


# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            "nothing",
            "stattests:nothing returned None: a stat test returns (score, drifted), a number and True or False",
        ),
        ("one_number", "returned 0.5: a stat test returns"),
        ("three", "returned (0.5, True, 'why'): a stat test returns"),
        ("a_text", "returned ('0.5', True): a stat test returns"),
        ("rows_of_scores", "a stat test returns"),
        ("perhaps", "returned (0.5, None): a stat test returns"),
        ("not_a_number", "stattests:not_a_number returned the score nan: a score is a number"),
        ("leaving", "stattests:leaving called sys.exit(3)"),
        ("large", "stattests:large returned 7, which is no p-value: write 'direction: distance'"),
    ],
)
def test_what_a_function_returns_is_looked_at(function, said, columns):
    with pytest.raises(NoAnswer) as caught:
        StatTestFunction(function=f"stattests:{function}").compare(*columns.pair(SOME, SOME))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_distance_may_be_any_number(columns):
    pair = columns.pair(SOME, SOME)
    assert StatTestFunction(function="stattests:large", direction="distance").compare(*pair).score == 7
    boundless = StatTestFunction(function="stattests:boundless", direction="distance").compare(*pair)
    assert boundless.score == sys.float_info.max
    assert StatTestFunction(function="stattests:Nested.half").compare(*pair).drifted is False


def test_what_a_function_raises_is_passed_on(columns):
    with pytest.raises(ZeroDivisionError, match="no luck"):
        StatTestFunction(function="stattests:failing").compare(*columns.pair(SOME, SOME))


# ---------------------------------------------------------------------------------------------------------------------
def test_a_bare_text_with_a_colon_is_a_function():
    short = FIELD.validate_python("stattests:apart")
    assert short == StatTestFunction(function="stattests:apart")
    assert short.label == "stattests:apart"
    full = {"name": "callable", "function": "stattests:apart", "threshold": 0.2, "direction": "distance"}
    assert FIELD.dump_python(FIELD.validate_python(full)) == full
    schema = FIELD.json_schema()
    assert "callable" not in schema["anyOf"][0]["enum"]
    assert schema["anyOf"][1] == {"type": "string", "pattern": for_evidently.SHORTHAND.pattern}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            "nowhere:f",
            "there is no module 'nowhere': install it where the monitor runs, or put its directory on PYTHONPATH",
        ),
        ("xml.nowhere:f", "there is no module 'xml.nowhere'"),
        ("stattests:afar", "module 'stattests' has no 'afar'; it has: Nested, a_text, apart, "),
        ("stattests:Nested.whole", "module 'stattests' has no 'Nested.whole'"),
        ("stattests:NOT_A_FUNCTION", "'stattests:NOT_A_FUNCTION' is no function: it is of type int"),
        ("stattests:of_two", "cannot be called with (reference, current, feature_type, threshold), as Evidently calls"),
        (
            "my-package:f",
            "'my-package:f' is not of the form module:function, for example 'mypackage.tests:my_stattest'",
        ),
        ("a:b:c", "'a:b:c' is not of the form module:function"),
        (":f", "':f' is not of the form module:function"),
    ],
)
def test_a_function_that_is_not_there_is_told_of_when_settings_are_read(function, said):
    for written in (function, {"name": "callable", "function": function}):
        with pytest.raises(ValidationError) as caught:
            FIELD.validate_python(written)
        (error,) = caught.value.errors()
        assert said in error["msg"]
        assert error["loc"][-1] == "function"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "import no_such_thing",
            "module 'broken' needs 'no_such_thing', which is not installed where the monitor runs",
        ),
        ("raise SystemExit(3)", "module 'broken' cannot be imported: SystemExit: 3"),
        ("def f(:", "module 'broken' cannot be imported: SyntaxError: "),
        ("1 / 0", "module 'broken' cannot be imported: ZeroDivisionError: division by zero"),
        ("", "module 'broken' has no 'f'; it has: no functions"),
    ],
)
def test_a_module_that_does_not_import_is_told_of(text, said, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(ValidationError) as caught:
        FIELD.validate_python("broken:f")
    assert said in str(caught.value)
    sys.modules.pop("broken", None)


def test_who_computes_no_drift_imports_nothing(columns):
    detector = FIELD.validate_python("nowhere:f", context=UNRESOLVED)
    assert detector.function == "nowhere:f"
    with pytest.raises(ValueError, match="there is no module 'nowhere'"):
        detector.compare(*columns.pair(SOME, SOME))
    with pytest.raises(ValidationError, match="is not of the form"):
        FIELD.validate_python("no-where:f", context=UNRESOLVED)


def test_a_function_that_needs_no_name_in_the_document_is_missing():
    with pytest.raises(ValidationError, match="Field required"):
        FIELD.validate_python("callable")
