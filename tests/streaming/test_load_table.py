"""Requests out of a table: each row once, as the monitor reads it; times; and the histogram of latencies."""

import itertools
import json
import math
import threading

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.data import Data
from reference.errors import UnusableData
from reference.schema import Column, Model
from reference.source import source_of_table
from reference.sources.window import Clock
from streaming.bodies import arranged, values
from streaming.load.injections import parse
from streaming.load.table import Ahead, Pace, Requests, event_time, of_frame, opened
from streaming.load.tally import Histogram
from streaming.protocol import rfc3339_to_milliseconds

MODEL = Model(
    name="m",
    features=(
        Column(name="x", type="numeric"),
        Column(name="n", type="numeric"),
        Column(name="c", type="categorical"),
        Column(name="k", type="categorical"),
    ),
    predictions=(Column(name="p", type="numeric"), Column(name="q", type="categorical")),
)
NUMBERS = Model(name="m", features=(Column(name="x", type="numeric"), Column(name="n", type="numeric")))


def table_of(rows) -> pa.Table:
    x, n, c, k, p, q = zip(*rows, strict=True)
    return pa.table(
        {
            "x": pa.array(x, pa.float64()),
            "n": pa.array(n, pa.int64()),
            "c": pa.array(c, pa.string()).dictionary_encode(),
            "k": pa.array(k, pa.int64()),
            "p": pa.array(p, pa.float32()),
            "q": pa.array(q, pa.bool_()),
        }
    )


ROWS = st.lists(
    st.tuples(
        st.none() | st.floats(width=64),
        st.none() | st.integers(-(2**53), 2**53),
        st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        st.none() | st.integers(-(2**53), 2**53),
        st.none() | st.floats(width=32),
        st.none() | st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


def finite(value):
    """What JSON can carry."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(ROWS, st.integers(1, 9), st.sampled_from(["v1", "v2"]), st.sampled_from(["named", "rows"]))
def test_the_monitor_reads_every_row_once_and_in_order(rows, size, protocol, layout):
    if (protocol, layout) == ("v2", "rows"):
        layout = "named"  # a matrix holds no categories
    made = Requests(
        source_of_table(table_of(rows)),
        MODEL,
        pace=Pace(rate=10.0),
        ids="i",
        size=size,
        protocol=protocol,
        layout=layout,
    )
    assert made.has_answers
    found = list(made)
    assert [request.id for request in found] == [f"i-{number:08d}" for number in range(math.ceil(len(rows) / size))]
    assert [request.due for request in found] == [number / 10 for number in range(len(found))]
    sent = {"request": [], "response": []}
    for request in found:
        for kind, body, schema in (
            ("request", request.body, MODEL.request_schema),
            ("response", request.answer, MODEL.response_schema),
        ):
            read, _ = arranged(json.loads(body), kind, schema, protocol)
            assert len(read) == request.instances
            sent[kind] += values(read, schema)
    asked = table_of(rows).to_pylist()
    wanted = values([[finite(row[name]) for name in MODEL.request_schema.names] for row in asked], MODEL.request_schema)
    assert sent["request"] == wanted
    wanted = values(
        [[finite(row[name]) for name in MODEL.response_schema.names] for row in asked], MODEL.response_schema
    )
    assert sent["response"] == wanted


def test_a_matrix_of_numbers_and_its_refusal():
    source = source_of_table(pa.table({"x": [1.0, None], "n": [3, 4]}))
    (request,) = Requests(source, NUMBERS, pace=Pace(rate=1), ids="i", size=2, protocol="v2", layout="rows")
    (tensor,) = json.loads(request.body)["inputs"]
    assert tensor == {"name": "input-0", "shape": [2, 2], "datatype": "FP64", "data": [1.0, 3.0, None, 4.0]}
    assert request.answer is None
    with pytest.raises(UnusableData, match="feature 'c' is categorical: send named tensors"):
        Requests(source, MODEL, pace=Pace(rate=1), ids="i", protocol="v2", layout="rows")


def test_a_table_is_begun_anew_until_the_time_is_over():
    source = source_of_table(pa.table({"x": np.arange(700.0), "n": np.arange(700)}))
    found = list(Requests(source, NUMBERS, pace=Pace(rate=300), ids="i", size=1, seconds=5.0))
    assert len(found) == 1500
    assert len({request.id for request in found}) == 1500
    sent = [json.loads(request.body)["instances"][0]["n"] for request in found]
    assert sent == [*range(700), *range(700), *range(100)]
    assert len(list(Requests(source, NUMBERS, pace=Pace(rate=300), ids="i"))) == 700


def test_times_of_a_column_say_when_requests_are_due(tmp_path):
    path = tmp_path / "rows.csv"
    times = ["2013-01-01T00:00:00Z", "2013-01-01T00:01:00Z", "", "2013-01-01T00:00:30Z", "2013-01-01T00:02:00.5Z"]
    path.write_text("x,n,at\n" + "".join(f"{i},{i},{at}\n" for i, at in enumerate(times)))
    data = Data(url=str(path), time="at")
    clock = Clock("at")
    source = opened(data, NUMBERS, timed=True)
    made = Requests(source, NUMBERS, pace=Pace(speed=60.0), ids="i", clock=clock)
    # A row without a time, or with one of the past, follows the one before it.
    assert [round(request.due, 6) for request in made] == [0, 1, 1, 1, 2.008333]
    assert [event_time(request, 0.0) for request in made][-1] == "2013-01-01T00:02:00.500000000Z"
    anew = list(Requests(source, NUMBERS, pace=Pace(speed=60.0), ids="i", clock=clock, seconds=6.0))
    assert [round(request.due, 3) for request in anew[5:7]] == [2.51, 3.51]  # 120.5 s and a quarter of that for the gap
    assert all(a.due <= b.due for a, b in itertools.pairwise(anew))
    by_rate = list(Requests(source, NUMBERS, pace=Pace(rate=4), ids="i", clock=clock))
    assert [request.due for request in by_rate] == [0, 0.25, 0.5, 0.75, 1.0]
    assert by_rate[1].time_ms == rfc3339_to_milliseconds("2013-01-01T00:01:00Z")
    (first, *_) = Requests(source, NUMBERS, pace=Pace(speed=60.0), ids="i", clock=clock, keep_times=False)
    assert first.time_ms is None
    assert event_time(first, 1_700_000_000.25) == "2023-11-14T22:13:20.250000000Z"
    with pytest.raises(UnusableData, match="lacks the column 'when'"):
        opened(Data(url=str(path), time="when"), NUMBERS, timed=True)


def test_what_cannot_be_sent_is_told():
    empty = source_of_table(pa.table({"x": pa.array([], pa.float64()), "n": pa.array([], pa.int64())}))
    with pytest.raises(UnusableData, match="has no rows"):
        list(Requests(empty, NUMBERS, pace=Pace(rate=1), ids="i"))
    with pytest.raises(UnusableData, match="fewer than two numbers"):
        list(Requests(empty, NUMBERS, pace=Pace(rate=1), ids="i", injections=[parse("shift:x=1sd")]))
    model = Model(features=(Column(name="x", type="categorical"),))
    times = source_of_table(pa.table({"x": pa.array([1], pa.timestamp("us"))}))
    with pytest.raises(UnusableData, match=r"column 'x' holds timestamp\[us\]"):
        list(Requests(times, model, pace=Pace(rate=1), ids="i"))
    late = of_frame(pa.table({"x": ["a"], "t": pa.array([None], pa.int64())}), model, "t")
    with pytest.raises(UnusableData, match="column 't' has no time in its first 1 rows"):
        list(Requests(late, model, pace=Pace(speed=1), ids="i", clock=Clock("t", "ms")))


def test_the_truth_names_exactly_the_instances_that_differ():
    rows = pa.table({"x": np.arange(1000.0), "n": np.arange(1000)})
    injections = [parse("shift:x=+2sd:0.3@1s..2s"), parse("missing:n=0.2")]
    plain = Requests(source_of_table(rows), NUMBERS, pace=Pace(rate=100), ids="i", size=3)
    changed = Requests(
        source_of_table(rows), NUMBERS, pace=Pace(rate=100), ids="i", size=3, injections=injections, seed=5
    )
    again = Requests(
        source_of_table(rows), NUMBERS, pace=Pace(rate=100), ids="i", size=3, injections=injections, seed=5
    )
    assert list(changed) == list(again)
    sd = rows["x"].to_numpy().std(ddof=1)
    seen = set()
    for before, after in zip(plain, changed, strict=True):
        old, new = (json.loads(request.body)["instances"] for request in (before, after))
        shifted = after.injected.get(str(injections[0]), [])
        emptied = after.injected.get(str(injections[1]), [])
        assert [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a["x"] != b["x"]] == shifted
        assert [i for i, b in enumerate(new) if b["n"] is None] == emptied
        assert all(new[i]["x"] == pytest.approx(old[i]["x"] + 2 * sd) for i in shifted)
        assert not shifted or 1 <= after.due < 2
        seen |= set(after.injected)
    assert seen == set(map(str, injections))


def test_what_is_made_ahead_is_all_there_and_its_error_too():
    def items():
        yield from range(1000)
        raise UnusableData("the file has gone")

    ahead = Ahead(items(), block=64)
    found = [number for _ in range(15) for number in ahead.ready(10)]
    assert found == [*range(960)]  # whole blocks
    with pytest.raises(UnusableData, match="has gone"):
        ahead.ready(10)
    ahead.close()
    ahead = Ahead(iter(range(100)), block=64)
    assert [*ahead.ready(10), *ahead.ready(10), *ahead.ready(10)] == [*range(100)]
    ahead.close()
    endless = Ahead(itertools.count(), block=1)
    endless.close()
    assert "requests" not in {thread.name for thread in threading.enumerate()}


@given(st.lists(st.floats(0, 100_000), min_size=1, max_size=200), st.floats(0.1, 100))
def test_percentiles_are_exact_to_a_bucket(durations, percent):
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    (found,) = histogram.percentiles(percent)
    exact = sorted(durations)[max(math.ceil(percent / 100 * len(durations) - 1e-9), 1) - 1]
    assert min(exact, 2**36 / 1e6) - 1e-6 <= found <= exact * (1 + 1 / 128) + 2e-6
    assert histogram.count == len(durations)
    assert histogram.max == max(durations)
