"""Outlier detectors: what each flags, and what all keep to."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter, ValidationError

from detectors.base import FittingColumn, Flagged
from detectors.outliers import LEARNED, OUTLIERS, OutlierMethod
from detectors.outliers.bounds import Bounds
from detectors.outliers.k_sigma import KSigma
from detectors.outliers.missing import Missing
from detectors.outliers.nonfinite import NonFinite
from detectors.outliers.unseen_category import UnseenCategory
from detectors.outliers.wrong_type import WrongType
from detectors.statistics.block import Block, Codes
from detectors.statistics.column import ColumnSummary


def block(numeric, missing=None, *categorical, wrong=None):
    numeric = np.asarray(numeric, float)
    codes = []
    for column in categorical:
        values = tuple(sorted({value for value in column if value is not None}))
        codes.append(
            Codes(np.array([-1 if v is None else values.index(v) for v in column], np.int32).reshape(-1), values)
        )
    missing = np.zeros(numeric.shape, bool) if missing is None else np.asarray(missing, bool)
    return Block(numeric, missing, tuple(codes), wrong=wrong)


@pytest.fixture(scope="session")
def reference():
    """Two numeric columns that hang together, one of them skewed."""
    rng = np.random.default_rng(5)
    x = rng.normal(10.0, 2.0, 2000)
    return np.column_stack((x, np.exp((x - 10) / 2) + rng.exponential(0.1, 2000)))


@pytest.fixture(scope="session")
def fitting(columns, reference):
    """Those columns and a categorical one, without missing values."""
    return [
        *(FittingColumn(columns.numeric(x)) for x in reference.T),
        FittingColumn(columns.categorical(["a", "b"] * 50)),
    ]


@pytest.fixture(scope="session", params=list(OUTLIERS))
def fitted(request, fitting, reference):
    detector = OUTLIERS[request.param]()
    return detector.fitted(fitting, detector.learn(reference)) if request.param in LEARNED else detector.fit(fitting)


anything = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def blocks(draw):
    rows = draw(st.integers(0, 12))
    order = draw(st.sampled_from("CF"))
    numeric = draw(arrays(float, (rows, 2), elements=st.one_of(anything, st.floats(5, 15)), fill=st.just(1.0)))
    missing = draw(arrays(bool, (rows, 2))) & np.isnan(numeric)
    strings = draw(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=rows, max_size=rows))
    wrong = draw(st.none() | arrays(bool, (rows, 3)))
    return block(np.array(numeric, order=order), missing, strings, wrong=wrong)


@given(rows=blocks())
@settings(max_examples=30)
def test_the_parts_of_an_answer_fit_together(fitted, rows):
    flagged = fitted.flag(rows)
    k, m = len(flagged.rows), len(flagged.cell_rows)
    assert len(flagged.scores) == k
    assert len(flagged.cell_columns) == len(flagged.low) == len(flagged.high) == len(flagged.contributions) == m
    assert np.all(np.diff(flagged.rows) > 0)
    assert np.all(np.diff(flagged.cell_rows) >= 0)
    assert set(flagged.cell_rows.tolist()) == set(range(k))
    assert np.all(np.isfinite(flagged.scores))
    assert np.all(flagged.scores >= flagged.threshold)
    assert np.all((flagged.cell_columns >= 0) & (flagged.cell_columns < 3))
    added = np.zeros(k)
    np.add.at(added, flagged.cell_rows, flagged.contributions)
    np.testing.assert_allclose(added, flagged.scores)
    for array in (flagged.rows, flagged.cell_rows, flagged.cell_columns):
        assert array.dtype == np.int64


def assert_same(one, other):
    for name in ("rows", "scores", "cell_rows", "cell_columns", "low", "high", "contributions"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


def joined(parts, starts):
    """The answers to the pieces of a block as one answer."""
    counts = np.cumsum([0, *(len(part.rows) for part in parts)])

    def all_of(name, shift):
        return np.concatenate([getattr(part, name) + by for part, by in zip(parts, shift, strict=True)])

    none = [0] * len(parts)
    return Flagged(
        all_of("rows", starts),
        all_of("scores", none),
        parts[0].threshold,
        all_of("cell_rows", counts[:-1]),
        *(all_of(name, none) for name in ("cell_columns", "low", "high", "contributions")),
    )


@given(rows=blocks(), cuts=st.lists(st.integers(0, 12), max_size=7))
@settings(max_examples=25)
def test_a_batch_may_be_cut_anywhere(fitted, rows, cuts):
    cuts = [0, *sorted(min(cut, rows.rows) for cut in cuts), rows.rows]
    parts = [fitted.flag(rows.take(slice(a, b))) for a, b in itertools.pairwise(cuts)]
    assert_same(joined(parts, cuts[:-1]), fitted.flag(rows))


def test_large_batches_may_be_cut_and_shuffled(fitted, reference):
    """To the last bit, although matrix products are not so exact."""
    rng = np.random.default_rng(8)
    x = reference[rng.integers(0, len(reference), 9000)] + rng.normal(size=(9000, 2)) ** 5 * (
        rng.random((9000, 1)) < 0.1
    )
    x[rng.random(x.shape) < 0.03] = np.nan
    x[rng.random(x.shape) < 0.003] = 1e300
    missing = np.isnan(x) & (rng.random(x.shape) < 0.5)
    words = [["a", "b", "c", None][i] for i in rng.choice(4, 9000, p=[0.5, 0.48, 0.01, 0.01])]
    rows = block(np.asfortranarray(x), missing, words, wrong=rng.random((9000, 3)) < 0.01)
    whole = fitted.flag(rows)
    assert len(whole.rows) > 5
    for pieces in range(2, 9):
        cuts = [0, *np.sort(rng.integers(0, 9000, pieces - 1)).tolist(), 9000]
        parts = [fitted.flag(rows.take(slice(a, b))) for a, b in itertools.pairwise(cuts)]
        assert_same(joined(parts, cuts[:-1]), whole)
    order = rng.permutation(9000)
    shuffled = fitted.flag(rows.take(order))
    back = np.argsort(order[shuffled.rows])
    np.testing.assert_array_equal(order[shuffled.rows][back], whole.rows)
    np.testing.assert_array_equal(shuffled.scores[back], whole.scores)
    cells = np.lexsort((shuffled.cell_columns, order[shuffled.rows[shuffled.cell_rows]]))
    np.testing.assert_array_equal(shuffled.cell_columns[cells], whole.cell_columns)
    np.testing.assert_array_equal(shuffled.contributions[cells], whole.contributions)


@pytest.mark.parametrize(
    "fitted",
    ["bounds", "percentiles", "k_sigma", "tukey", "mad", "mahalanobis", "pca_reconstruction", "autoencoder"],
    indirect=True,
)
@given(row=st.integers(0, 3), column=st.integers(0, 1), value=st.sampled_from([1e300, -1e300, 1e9, -1e12, 1.7e308]))
def test_a_number_that_is_far_out_is_flagged(fitted, row, column, value):
    """By all that look at how large it is: an isolation forest only asks what it is larger than."""
    x = np.array([[10.0, 1.0]] * 4)
    x[row, column] = value
    flagged = fitted.flag(block(x, None, ["a"] * 4))
    assert flagged.rows.tolist() == [row]
    assert flagged.contributions[flagged.cell_columns == column][0] >= flagged.contributions.max() * (1 - 1e-9)


def test_a_fitted_detector_travels(fitted):
    rows = block([[np.inf, -5.0], [10.0, 1.0]], None, ["z", "a"])
    again = pickle.loads(pickle.dumps(fitted))
    assert again.name == fitted.name in OUTLIERS
    np.testing.assert_array_equal(again.flag(rows).scores, fitted.flag(rows).scores)


def test_the_reference_itself_is_inside_its_bounds(fitting, reference):
    rows = block(reference, None, ["a"] * len(reference))
    for detector in (Bounds(), UnseenCategory(), Missing(), NonFinite(), WrongType()):
        assert len(detector.fit(fitting).flag(rows).rows) == 0


def declared(at_least=None, at_most=None, categories=None, **reference):
    summary = ColumnSummary("x", "categorical" if "counts" in reference else "numeric", 100, **reference)
    return FittingColumn(summary, at_least, at_most, categories)


def test_bounds_are_declared_or_the_references():
    x = block([[-1.0], [0.0], [5.0], [10.0], [12.0]])
    reference = {"low": 0.0, "high": 10.0, "m2": 400.0}
    assert Bounds().fit([declared(**reference)]).flag(x).rows.tolist() == [0, 4]
    assert Bounds().fit([declared(at_least=3.0, **reference)]).flag(x).rows.tolist() == [0, 1]
    assert Bounds(source="reference").fit([declared(at_least=3.0, **reference)]).flag(x).rows.tolist() == [0, 4]
    assert Bounds(source="declared").fit([declared(**reference)]).flag(x).rows.tolist() == []
    assert Bounds(margin=0.15).fit([declared(**reference)]).flag(x).rows.tolist() == [4]
    assert Bounds(margin=0.15).fit([declared(0.0, 10.0, **reference)]).flag(x).rows.tolist() == [0, 4]


def test_bounds_say_how_far_outside_and_of_what_range():
    flagged = (
        Bounds().fit([declared(0.0, 10.0), declared(at_most=1.0, m2=400.0)]).flag(block([[15.0, 5.0], [5.0, 2.0]]))
    )
    assert flagged.rows.tolist() == [0, 1]
    assert flagged.cell_rows.tolist() == [0, 0, 1]
    assert flagged.cell_columns.tolist() == [0, 1, 1]
    # Half a range above; 4 above in standard deviations of 2; 1 above likewise.
    assert flagged.contributions.tolist() == [1.5, 3.0, 1.5]
    assert flagged.scores.tolist() == [4.5, 1.5]
    np.testing.assert_array_equal(flagged.low, [0.0, np.nan, np.nan])
    np.testing.assert_array_equal(flagged.high, [10.0, 1.0, 1.0])
    assert flagged.threshold == 1.0


def test_bounds_of_a_reference_without_values_allow_everything():
    empty = FittingColumn(ColumnSummary("x", "numeric", 0))
    assert len(Bounds().fit([empty]).flag(block([[1e9], [np.nan]])).rows) == 0


def test_k_sigma_is_in_standard_deviations():
    fitted = KSigma(k=2).fit(
        [declared(low=0.0, high=20.0, mean=10.0, m2=400.0), declared(low=0, high=9, mean=0.0, m2=100.0)]
    )
    flagged = fitted.flag(block([[14.0, 2.0], [14.5, -3.0], [np.nan, np.inf]]))
    assert flagged.rows.tolist() == [1]
    assert flagged.contributions.tolist() == [2.25, 3.0]
    assert flagged.scores.tolist() == [5.25]
    assert flagged.low.tolist() == [6.0, -2.0]
    assert flagged.high.tolist() == [14.0, 2.0]
    assert flagged.threshold == 2.0


def test_k_sigma_leaves_constant_columns_alone(columns):
    constant = FittingColumn(columns.numeric(np.full(50, 0.1)))
    assert len(KSigma().fit([constant]).flag(block([[0.1], [5.0]])).rows) == 0
    assert Bounds().fit([constant]).flag(block([[0.1], [5.0]])).rows.tolist() == [1]


def test_unseen_categories_are_those_that_are_neither_declared_nor_known():
    rows = block(np.empty((4, 0)), None, ["a", "b", "c", None])
    assert UnseenCategory().fit([declared(counts={"a": 1, "b": 1})]).flag(rows).rows.tolist() == [2]
    allowed = declared(counts={"a": 1, "b": 1}, categories=frozenset("ac"))
    assert UnseenCategory().fit([allowed]).flag(rows).rows.tolist() == [1]
    too_many = declared(counts={"a": 1}, unlisted=9)
    assert UnseenCategory().fit([too_many]).flag(rows).rows.tolist() == []


def test_a_listed_category_that_nobody_uses_is_not_flagged():
    rows = Block(np.empty((1, 0)), np.empty((1, 0), bool), (Codes(np.array([1], np.int32), ("z", "a")),))
    assert UnseenCategory().fit([declared(counts={"a": 1})]).flag(rows).rows.tolist() == []


def test_columns_are_numbered_numeric_ones_first():
    numeric = declared(0.0, 1.0)
    rows = block([[5.0], [np.nan]], [[False], [True]], ["new", "a"], ["b", None])
    both = [numeric, declared(counts={"a": 1}), declared(counts={"b": 1})]
    assert UnseenCategory().fit(both).flag(rows).cell_columns.tolist() == [1]
    flagged = Missing().fit(both).flag(rows)
    assert flagged.rows.tolist() == [1]
    assert flagged.scores.tolist() == [2.0]
    assert flagged.cell_columns.tolist() == [0, 2]


def test_missing_values_are_flagged_where_there_never_were_any():
    rows = block([[np.nan, np.nan]], [[True, True]])
    columns = [declared(missing=0), declared(missing=7)]
    assert Missing().fit(columns).flag(rows).cell_columns.tolist() == [0]
    assert Missing(always=True).fit(columns).flag(rows).cell_columns.tolist() == [0, 1]


def test_nonfinite_values_are_flagged_where_there_never_were_any():
    rows = block([[np.nan, np.inf], [np.nan, 1.0]], [[False, False], [True, False]])
    columns = [declared(), declared(nonfinite=1)]
    assert NonFinite().fit(columns).flag(rows).cell_columns.tolist() == [0]
    assert NonFinite(always=True).fit(columns).flag(rows).scores.tolist() == [2.0]


def test_cells_of_the_wrong_type_are_flagged():
    rows = block([[np.nan], [1.0]], [[True], [False]], ["a", None], wrong=np.array([[True, False], [False, True]]))
    both = [declared(), declared(counts={"a": 1})]
    flagged = WrongType().fit(both).flag(rows)
    assert flagged.rows.tolist() == [0, 1]
    assert flagged.cell_columns.tolist() == [0, 1]
    assert flagged.scores.tolist() == [1.0, 1.0]
    assert WrongType().fit(both).flag(rows.take(np.array([1]))).rows.tolist() == [0]
    assert WrongType().fit(both).flag(block([[np.nan]], [[True]], ["a"])).rows.tolist() == []


@pytest.mark.parametrize("name", OUTLIERS)
def test_a_name_is_a_detector(name):
    field = TypeAdapter(OutlierMethod)
    assert field.validate_python(name) == OUTLIERS[name]() == field.validate_python({"name": name})
    assert OUTLIERS[name].applies_to <= {"numeric", "categorical"}
    assert OUTLIERS[name].unit


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValidationError, match="there is no outlier detector 'ksigma'; known are: k_sigma, bounds, "):
        TypeAdapter(OutlierMethod).validate_python("ksigma")
