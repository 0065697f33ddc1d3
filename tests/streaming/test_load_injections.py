"""What is injected into a replay: how it is written, and what it does, beside pandas."""

import itertools
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.schema import Column, Model
from streaming.load.injections import (
    KINDS,
    Amount,
    Injection,
    Injector,
    Spread,
    UnusableInjection,
    check,
    needs_spread,
    parse,
)

MODEL = Model(
    features=(
        Column(name="x", type="numeric"),
        Column(name="y", type="numeric"),
        Column(name="c", type="categorical"),
        Column(name="d", type="categorical"),
    )
)
SPREADS = {"x": Spread(10.0, 2.0), "y": Spread(-1.0, 0.5)}
RATE = 10.0

names = st.text(st.characters(exclude_characters="=,", exclude_categories=["Cs"]), min_size=1, max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
shares = st.floats(0, 1, exclude_min=True)
spans = st.integers(0, 10**9).map(lambda ms: timedelta(milliseconds=ms))


@st.composite
def injections(draw) -> Injection:
    kind = draw(st.sampled_from(KINDS))
    columns = (draw(names),)
    value: Amount | str | None = None
    share = draw(shares)
    if kind == "swap":
        columns = tuple(draw(st.lists(names, min_size=2, max_size=2, unique=True)))
    elif kind in ("shift", "outlier"):
        value = Amount(draw(numbers), draw(st.booleans()))
    elif kind == "scale":
        value = Amount(draw(numbers))
    elif kind == "unseen":
        value = draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8))
    elif kind == "stuck":
        value, share = draw(st.none() | st.just("70") | st.just("a:b@c")), 1.0
    begin = draw(spans)
    end = draw(st.none() | spans.map(lambda span: begin + span + timedelta(milliseconds=1)))
    return Injection(kind, columns, value, share, begin, end)


@given(injections())
def test_what_is_written_is_read_back(injection):
    assert parse(str(injection)) == injection


@given(
    st.text(max_size=30) | st.builds("{}:{}".format, st.sampled_from(KINDS), st.text("xy=+-@.:,13esdm%", max_size=20))
)
def test_any_text_is_an_injection_or_refused_with_its_part(text):
    refused = None
    try:
        injection = parse(text)
    except UnusableInjection as error:
        refused = error
    if refused is None:
        assert parse(str(injection)) == injection
    else:
        assert str(refused).startswith(f"--inject {text!r}: ")
        assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shft:x=1", r"kind 'shft' \(did you mean 'shift'\?\)"),
        ("shift", "kind 'shift': write KIND:COLUMN"),
        ("shift:x", "value ''"),
        ("shift:x=a", "value 'a': write a number"),
        ("shift:x=1e999", "value '1e999': write a number"),
        ("shift:=3", "column ''"),
        ("scale:x=2sd", "value '2sd'"),
        ("shift:x=1:2", "share '2'"),
        ("shift:x=1:most", "share 'most'"),
        ("missing:x=0", "share '0'"),
        ("unseen:c=", "value ''"),
        ("unseen:c=12:30", "a category with a colon needs one behind it"),
        ("swap:x", "columns 'x': write two different ones"),
        ("swap:x,x", "columns 'x,x'"),
        ("shift:x=1@1..2", "interval '1..2': '1' is not a duration"),
        ("shift:x=1@2m..1m", "interval '2m..1m': its end must be after"),
    ],
)
def test_a_refusal_names_the_part_and_the_value(text, said):
    with pytest.raises(UnusableInjection, match=said):
        parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shift:z=1", r"column 'z' is no feature of the model.*known are x, y, c, d"),
        ("shift:c=1", "column 'c' is categorical, and shift is for numeric ones"),
        ("unseen:x=1", "column 'x' is numeric, and unseen is for categorical ones"),
        ("swap:x,c", "'x' is numeric and 'c' is categorical"),
        ("stuck:x=high", "value 'high': write a number"),
    ],
)
def test_an_injection_must_fit_the_model(text, said):
    with pytest.raises(UnusableInjection, match=said):
        check([parse(text)], MODEL)


def test_only_what_counts_in_deviations_needs_the_table_beforehand():
    asked = ["shift:x=1", "shift:y=2sd", "outlier:x=3", "outlier:x=3sd", "missing:x=0.5"]
    assert needs_spread([*map(parse, asked)]) == ("y", "x")


@st.composite
def frames(draw) -> pd.DataFrame:
    size = draw(st.integers(1, 60))
    holes = st.floats(-1e6, 1e6, allow_subnormal=False) | st.just(np.nan)
    words = st.sampled_from(["a", "b", None])
    return pd.DataFrame(
        {
            "x": pd.Series(draw(st.lists(holes, min_size=size, max_size=size)), dtype=float),
            "y": pd.Series(draw(st.lists(holes, min_size=size, max_size=size)), dtype=float),
            "c": pd.Series(draw(st.lists(words, min_size=size, max_size=size)), dtype=object),
            "d": pd.Series(draw(st.lists(words, min_size=size, max_size=size)), dtype=object),
        }
    )


ASKED = st.lists(
    st.sampled_from(
        [
            "shift:x=+30",
            "shift:y=-1.5sd:0.5@1s..3s",
            "scale:x=0:0.3",
            "missing:x=0.3@2s..",
            "missing:c=0.5",
            "unseen:c=XX:0.4",
            "swap:x,y:0.5",
            "swap:c,d@..2s",
            "stuck:x@1s..",
            "stuck:d=b",
            "outlier:y=10sd:0.2",
        ]
    ),
    max_size=4,
)


def injected(frame, texts, seed, cuts=()):
    """The frame after injections, cut into blocks, and what was marked."""
    injector = Injector([*map(parse, texts)], seed, SPREADS)
    edges = [0, *sorted(cut for cut in set(cuts) if 0 < cut < len(frame)), len(frame)]
    parts, marks = [], []
    for begin, end in itertools.pairwise(edges):
        columns = {name: frame[name].to_numpy()[begin:end].copy() for name in frame}
        marks.append(injector.inject(columns, begin, np.arange(begin, end) / RATE))
        parts.append(
            pd.DataFrame({name: pd.Series(values, dtype=frame[name].dtype) for name, values in columns.items()})
        )
    joined = [np.concatenate([block[k] for block in marks]) for k in range(len(texts))]
    assert injector.touched == [int(mark.sum()) for mark in joined]
    return pd.concat(parts, ignore_index=True), joined


def by_pandas(frame: pd.DataFrame, texts: list[str], seed: int):
    """The same, said in pandas, from the definition in docs/logger.md."""
    frame, marks = frame.copy(), []
    due = pd.Series(np.arange(len(frame)) / RATE)
    for position, text in enumerate(texts):
        injection = parse(text)
        draw = pd.Series(
            np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, position]))).random(len(frame))
        )
        within = due.ge(injection.begin.total_seconds())
        if injection.end is not None:
            within &= due.lt(injection.end.total_seconds())
        chosen = within & draw.lt(injection.share)
        before = frame.copy()
        first = injection.columns[0]
        amount = 0.0
        if isinstance(injection.value, Amount):
            amount = injection.value.number * (SPREADS[first].sd if injection.value.in_sd else 1)
        match injection.kind:
            case "shift":
                frame[first] = before[first].mask(chosen, before[first] + amount)
            case "scale":
                frame[first] = before[first].mask(chosen, before[first] * amount)
            case "missing":
                frame.loc[chosen, first] = None
            case "unseen":
                frame.loc[chosen, first] = injection.value
            case "swap":
                second = injection.columns[1]
                frame[first] = before[first].mask(chosen, before[second])
                frame[second] = before[second].mask(chosen, before[first])
            case "stuck" if within.any():
                held = before.loc[within, first].iloc[0] if injection.value is None else injection.value
                frame[first] = pd.Series(
                    [held if inside else old for inside, old in zip(within, before[first], strict=True)],
                    dtype=before[first].dtype,
                )
            case "outlier":
                side = draw.lt(injection.share / 2).map({True: -1.0, False: 1.0})
                frame[first] = before[first].mask(chosen, SPREADS[first].mean + side * amount)
        same = frame[first].eq(before[first]) | (frame[first].isna() & before[first].isna())
        marks.append(~same.to_numpy(dtype=bool))
    return frame, marks


@given(frames(), ASKED, st.integers(0, 2**31), st.lists(st.integers(1, 60), max_size=4))
def test_injections_do_what_pandas_does_however_rows_are_cut(frame, texts, seed, cuts):
    wanted, wanted_marks = by_pandas(frame, texts, seed)
    found, marks = injected(frame, texts, seed, cuts)
    pd.testing.assert_frame_equal(found, wanted, check_exact=True)
    for mark, wanted_mark in zip(marks, wanted_marks, strict=True):
        assert mark.tolist() == wanted_mark.tolist()


def test_seeds_differ_and_a_share_is_about_that_share():
    frame = pd.DataFrame({"x": np.arange(20_000.0), "y": 0.0, "c": "a", "d": "b"})
    (first,), (second,) = (injected(frame, ["shift:x=1:0.25"], seed)[1] for seed in (1, 2))
    assert (first != second).any()
    assert abs(first.mean() - 0.25) < 0.02
    found, (mark,) = injected(frame, ["outlier:x=10sd:0.1"], 3)
    assert set(found["x"][mark]) == {-10.0, 30.0}  # both sides, at the mean and ten deviations
    (one,) = injected(frame, ["shift:x=1:0.25"], 1)[1]
    both = injected(frame, ["shift:x=1:0.25", "missing:y=0.5"], 1)[1]
    assert (one == both[0]).all()  # another injection behind it changes nothing


def test_a_category_is_of_the_type_that_the_table_has():
    injector = Injector([parse("unseen:c=7")], 0, {}, {"c": int})
    columns = {"c": np.array([1, None], object)}
    injector.inject(columns, 0, np.zeros(2))
    assert columns["c"].tolist() == [7, 7]
    with pytest.raises(UnusableInjection, match="value 'XX' is not of the type that column 'c' has"):
        Injector([parse("unseen:c=XX")], 0, {}, {"c": int}).inject(columns, 0, np.zeros(2))
