"""Rows between two moments: the same that pandas' own filter gives, whatever the column holds and wherever the rows are."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reference.data import Data, format_moment, parse_moment
from reference.errors import UnusableData
from reference.schema import Column, Model
from reference.secret import MissingSecret
from reference.sources import open_source
from reference.sources.window import Clock, Window, microseconds_of, moment_of

MODEL = Model(name="m", features=(Column(name="i", type="numeric"),))
START = pd.Timestamp("2013-01-01", tz="UTC")
NOW = datetime(2013, 3, 1, tzinfo=UTC)

moments = st.datetimes(datetime(1960, 1, 1), datetime(2200, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001


def times(rows: int, seed: int = 0) -> pd.Series:
    """Two months in a random order, some of them missing."""
    rng = np.random.default_rng(seed)
    found = pd.Series(START + pd.to_timedelta(rng.integers(0, 59 * 86_400_000, rows), unit="ms"))
    return found.where(pd.Series(rng.random(rows) > 0.05))


def columns(known: pd.Series) -> dict[str, tuple[pa.Array, str | None]]:
    """The same times as columns of many kinds, with what numbers count."""
    there = known.notna()
    ms = known.astype("int64") // 1000 if known.dtype == "datetime64[us, UTC]" else known.astype("int64") // 1_000_000
    absent = ~there.to_numpy()
    text = [None if one is pd.NaT else one.isoformat() for one in known]
    local = [None if one is pd.NaT else one.tz_convert("Asia/Kolkata").isoformat() for one in known]
    naive = [None if one is pd.NaT else one.tz_localize(None).isoformat(" ") for one in known]
    stamp = pa.array(np.where(there, ms, 0), mask=absent).cast(pa.timestamp("ms", "UTC"))
    return {
        "timestamp": (stamp, None),
        "nanoseconds": (stamp.cast(pa.timestamp("ns")), None),
        "elsewhere": (stamp.cast(pa.timestamp("us", "America/New_York")), None),
        "text": (pa.array(text), None),
        "with offset": (pa.array(local), None),
        "without zone": (pa.array(naive), None),
        "dictionary": (pa.array(text).dictionary_encode(), None),
        "ms": (stamp.cast(pa.int64()), "ms"),
        "us": (stamp.cast(pa.timestamp("us")).cast(pa.int64()), "us"),
        "s": (pa.array(np.where(there, ms / 1000, np.nan)), "s"),
        "text of numbers": (stamp.cast(pa.int64()).cast(pa.string()), "ms"),
    }


@pytest.mark.parametrize("kind", list(columns(times(2))))
def test_a_filter_gives_the_rows_that_pandas_gives(tmp_path, kind):
    known = times(3000)
    array, unit = columns(known)[kind]
    pq.write_table(pa.table({"t": array, "i": np.arange(3000)}), tmp_path / "t.parquet", row_group_size=100)
    since, until = known[8], known[8] + pd.Timedelta("9d")
    data = Data(url=str(tmp_path), time="t", time_unit=unit, since=since.to_pydatetime(), until=until.to_pydatetime())
    source = open_source(data, MODEL)
    wanted = np.flatnonzero((known >= since) & (known < until))
    assert 8 in wanted
    assert source.table()["i"].to_pylist() == wanted.tolist()
    assert source.origin["rows"] == len(wanted)
    assert source.origin["rowsWithoutTime"] == known.isna().sum()
    assert parse_moment(source.origin["since"]) == since


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_text_formats_are_filtered_alike(tmp_path, name):
    known = times(2000)
    frame = pd.DataFrame({"t": [None if one is pd.NaT else one.isoformat() for one in known], "i": np.arange(2000)})
    if name == "t.csv":
        frame.to_csv(tmp_path / name, index=False)
    else:
        frame.to_json(tmp_path / name, orient="records", lines=True)
    source = open_source(Data(url=str(tmp_path / name), time="t", until="2013-01-08"), MODEL)
    assert source.table()["i"].to_pylist() == np.flatnonzero(known < START + pd.Timedelta("7d")).tolist()
    assert source.origin["rowsWithoutTime"] == known.isna().sum()


def test_dates_are_their_first_moment(tmp_path):
    days = [date(2013, 1, 1) + timedelta(days=i) for i in range(10)]
    pq.write_table(pa.table({"t": days, "i": range(10)}), tmp_path / "t.parquet")
    data = Data(url=str(tmp_path), time="t", since=date(2013, 1, 3), until="2013-01-05T00:00:00.000001Z")
    assert open_source(data, MODEL).table()["i"].to_pylist() == [2, 3, 4]


@given(
    places=st.lists(st.integers(-5, 5) | st.none(), min_size=1, max_size=40),
    since=st.none() | st.integers(-6, 6),
    until=st.none() | st.integers(-6, 6),
    group=st.integers(1, 10),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
)
def test_row_groups_that_statistics_leave_out_have_no_row_of_the_window(
    tmp_path_factory, places, since, until, group, unit
):
    """Half a second apart, on both sides of 1970: rounding to the column's unit must not lose a row."""
    folder = tmp_path_factory.mktemp("groups")
    if since is not None and until is not None and since >= until:
        return
    at = [None if one is None else moment_of(one * 500_000) for one in places]
    stamps = pa.array([None if one is None else microseconds_of(one) for one in at]).cast(pa.timestamp("us"))
    stamps = stamps.cast(pa.timestamp(unit), safe=False)
    kept_times = [
        None if one is None else one.replace(tzinfo=UTC) for one in stamps.cast(pa.timestamp("us")).to_pylist()
    ]
    pq.write_table(pa.table({"t": stamps, "i": np.arange(len(at))}), folder / "t.parquet", row_group_size=group)
    low, high = (None if one is None else moment_of(one * 500_000) for one in (since, until))
    if low is None and high is None:
        return
    data = Data(url=str(folder), time="t", since=low, until=high)
    wanted = [
        i
        for i, one in enumerate(kept_times)
        if one is not None and (low is None or one >= low) and (high is None or one < high)
    ]
    if not wanted:
        with pytest.raises(UnusableData, match="has no rows"):
            open_source(data, MODEL)
        return
    source = open_source(data, MODEL)
    assert source.table()["i"].to_pylist() == wanted
    assert source.origin["rowsWithoutTime"] == places.count(None)


@pytest.mark.parametrize(
    ("more", "first"),
    [
        ({"last": "10d"}, "2013-02-19"),
        ({"last": "10d", "until": "2013-02-01"}, "2013-01-22"),
        ({"last": "10d", "lastFrom": "data"}, None),
    ],
)
def test_last_ends_now_or_at_until_or_with_the_data(tmp_path, more, first):
    known = times(2000)
    newest = known.max()
    stamps = [None if one is pd.NaT else one.to_pydatetime() for one in known]
    stamps[0] = datetime(2014, 1, 1, tzinfo=UTC)  # a clock that is wrong
    pq.write_table(pa.table({"t": stamps, "i": np.arange(2000)}), tmp_path / "t.parquet")
    source = open_source(Data(url=str(tmp_path), time="t", **more), MODEL, now=NOW)
    since = newest + pd.Timedelta("1us") - pd.Timedelta("10d") if first is None else pd.Timestamp(first, tz="UTC")
    until = pd.Timestamp(more.get("until", NOW), tz="UTC") if "until" in more else pd.Timestamp(NOW)
    wanted = np.flatnonzero((known >= since) & (known < until))
    assert source.table()["i"].to_pylist() == wanted[wanted > 0].tolist()
    assert pd.Timestamp(source.origin["since"]) == since


@pytest.mark.parametrize(
    ("column", "unit", "message"),
    [
        (pa.array([1, 2]), None, "holds int64: say what these numbers count since 1970 with timeUnit"),
        (pa.array([1.5, 2]), None, "holds double: say what these numbers count"),
        (pa.array([10**15, 1]), "s", "holds 1000000000000000, which is not in the years 1 to 9999 when it counts s"),
        (pa.array(["2013-01-01", "soon"]), None, "holds 'soon', which is no time: RFC 3339 is read"),
        (pa.array(["2013-01-01", "2013-13-01"]), None, "holds '2013-13-01', which is no time"),
        (pa.array([[1], [2]]), None, "holds list<.*>, which is no time"),
    ],
)
def test_what_is_no_time_is_named(tmp_path, column, unit, message):
    pq.write_table(pa.table({"t": column, "i": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(UnusableData, match=f"column 't' {message}"):
        open_source(Data(url=str(tmp_path), time="t", time_unit=unit, since="2013-01-01"), MODEL)


@pytest.mark.parametrize("since", ["2014-01-01", "2013-01-05"])
def test_a_window_without_rows_says_where_rows_are(tmp_path, since):
    pq.write_table(
        pa.table({"t": ["2013-01-01T12:00:00Z", "2013-01-02 13:00", None], "i": [1, 2, 3]}), tmp_path / "t.parquet"
    )
    message = (
        f"has no rows from {since}T00:00:00Z to the end: by 't' .* from 2013-01-01T12:00:00Z to 2013-01-02T13:00:00Z"
    )
    with pytest.raises(UnusableData, match=message):
        open_source(Data(url=str(tmp_path), time="t", since=since), MODEL)
    with pytest.raises(
        UnusableData, match=r"lacks the column 'T', which reference.data.time names \(did you mean 't'\?\)"
    ):
        open_source(Data(url=str(tmp_path), time="T", since=since), MODEL)


@given(moments)
def test_moments_are_read_back(moment):
    assert parse_moment(format_moment(moment)) == moment
    assert moment_of(microseconds_of(moment)) == moment


@given(st.lists(moments | st.none(), max_size=20), moments, moments)
def test_texts_are_the_moments_they_spell(known, since, until):
    texts = pa.array([None if one is None else one.isoformat() for one in known], pa.string())
    found, there = Clock("t").read(texts)
    assert there.tolist() == [one is not None for one in known]
    assert found[there].tolist() == [microseconds_of(one) for one in known if one is not None]
    held = Window(microseconds_of(since), microseconds_of(until)).holds(found, there)
    assert held.tolist() == [one is not None and since <= one < until for one in known]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "url says where the rows are: give one, or `format: traffic`"),
        ({"url": "t.csv", "format": "traffic"}, "reads the model's own inference topic: remove url 't.csv'"),
        ({"url": "t.csv", "since": "2013-01-01"}, "choose rows by the event time: name its column in `time`"),
        ({"url": "t.csv", "time": "t", "since": "2013-01-02", "until": "2013-01-01"}, "is not before until 2013-01-01T00:00:00Z"),
        ({"url": "t.csv", "time": "t", "since": "2013-01-02", "last": "3d"}, "since and last both say where the rows begin"),
        ({"url": "t.csv", "time": "t", "since": "may"}, "'may' is no point of time: write a date or RFC 3339"),
        ({"url": "t.csv", "snapshot": 3}, "snapshot is for Delta and Iceberg tables, not for csv"),
        ({"url": "jdbc:postgresql://h/d", "options": {"password": "x"}}, r"options.password looks like a secret"),
        ({"url": "s3://b/t.csv", "options": {"secret": "x"}}, r"write `secrets: \{secret: \{env: VARIABLE\}\}`"),
        ({"url": "jdbc:postgresql://h/d?user=a&password=x"}, "url holds a password"),
        ({"url": "ftp://me:x@h/t.csv"}, "url holds a password"),
        ({"format": "traffic", "time": "t", "weight": "w"}, "and Kafka's times: remove time, weight"),
        ({"format": "traffic", "last": "1d", "lastFrom": "data"}, "lastFrom data asks for the newest row of a table"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_say_what_would(said, message):
    with pytest.raises(ValidationError, match=message):
        Data.model_validate(said)


def test_secrets_are_read_when_needed_and_never_printed(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("hidden2\n")
    data = Data(
        url="s3://b/t.csv",
        options={"client": "eu"},
        secrets={"secret": {"env": "OUR_SECRET"}, "token": {"file": tmp_path / "key"}},
    )
    with pytest.raises(MissingSecret, match=r"OUR_SECRET, which holds reference.data.secrets.secret, is not set"):
        data.all_options()
    monkeypatch.setenv("OUR_SECRET", "hidden1")
    options = data.all_options()
    assert dict(options) == {"client": "eu", "secret": "hidden1", "token": "hidden2"}
    assert "hidden" not in f"{options} {options!r} {data!r} {data.model_dump_json()}"
