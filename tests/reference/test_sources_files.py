"""Files as sources: fragments are the table, in order; columns by name; what is wrong is named."""

import gzip
import json
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.data import Data, Options
from reference.errors import UnusableData
from reference.schema import Column, Model
from reference.sources import open_source
from reference.sources.chosen import recut
from reference.sources.csv import numbers
from reference.sources.files import listing
from reference.sources.jsonl import lines

MODEL = Model(name="m", features=(Column(name="x", type="numeric"), Column(name="c", type="categorical")))


def frame(rows: int = 1000, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "x": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
            "c": rng.choice(np.array(["a", "007", "ä", None], object), rows),
            "more": rng.integers(0, 9, rows),
        }
    )


def table(rows: int = 1000, seed: int = 0) -> pa.Table:
    return pa.Table.from_pandas(frame(rows, seed), preserve_index=False)


def expected(tables) -> dict[str, list]:
    return pa.concat_tables(tables).select(["x", "c"]).to_pydict()


def read(source, **_) -> dict[str, list]:
    return source.table(["x", "c"]).to_pydict()


def written(folder: Path, kind: str, *tables: pa.Table) -> str:
    """The tables, each a file of a folder."""
    folder.mkdir(exist_ok=True)
    for place, one in enumerate(tables):
        path = folder / f"part-{place}.{kind}"
        if kind == "parquet":
            pq.write_table(one, path, row_group_size=100)
            continue
        text = (
            one.to_pandas().to_csv(index=False)
            if "csv" in kind
            else one.to_pandas().to_json(orient="records", lines=True)
        )
        data = text.encode()
        if kind.endswith("gz"):
            data = gzip.compress(data)
        if kind.endswith("zst"):
            data = pa.compress(data, "zstd", asbytes=True)
        path.write_bytes(data)
    (folder / "_SUCCESS").touch()
    return str(folder)


KINDS = ["parquet", "csv", "csv.gz", "csv.zst", "jsonl", "jsonl.gz", "ndjson.zst"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_one_table_in_the_order_of_its_files(tmp_path, kind):
    tables = [table(500, 1), table(300, 2)]
    url = written(tmp_path / "data", kind, *tables)
    source = open_source(Data(url=url), MODEL)
    found = read(source)
    assert found["c"] == expected(tables)["c"]
    assert (
        found["x"] == pytest.approx(expected(tables)["x"], abs=1e-9, nan_ok=True) or found["x"] == expected(tables)["x"]
    )
    assert source.origin["files"] == 2
    assert read(open_source(Data(url=f"{url}/part-*"), MODEL)) == found
    (one,) = open_source(Data(url=f"{url}/part-1.{kind}"), MODEL).fragments
    assert sum(batch.num_rows for batch in one.batches(["c"])) == 300


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_fragments_can_be_sent_and_read_twice(tmp_path, kind):
    source = open_source(Data(url=written(tmp_path / "data", kind, table())), MODEL)
    parts = pickle.loads(pickle.dumps(source.fragments))
    again = [batch for part in parts for batch in part.batches(["c", "x"])]
    assert pa.Table.from_batches(again).select(["x", "c"]).to_pydict() == read(source)
    assert again[0].schema.names == ["c", "x"]


@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=5), group=st.integers(1, 300))
def test_any_row_groups_give_the_same_batches(tmp_path_factory, sizes, group):
    folder = tmp_path_factory.mktemp("groups")
    whole = table(sum(sizes), 3)
    at = np.cumsum([0, *sizes])
    for place, (start, stop) in enumerate(pairwise(at)):
        pq.write_table(whole.slice(start, stop - start), folder / f"{place}.parquet", row_group_size=group)
    source = open_source(Data(url=str(folder)), MODEL)
    batches = [batch for part in source.fragments for batch in part.batches(["x", "c"])]
    assert [batch.num_rows for batch in batches] == [sum(sizes)]
    assert pa.Table.from_batches(batches).to_pydict() == expected([whole])


@given(sizes=st.lists(st.integers(0, 50), max_size=8), rows=st.integers(1, 40))
def test_recut_keeps_rows_and_order(sizes, rows):
    at = np.cumsum([0, *sizes])
    parts = [
        pa.record_batch({"i": np.arange(a, b), "c": pa.array([str(i % 3) for i in range(a, b)]).dictionary_encode()})
        for a, b in pairwise(at)
    ]
    cut = list(recut(iter(parts), rows))
    assert [i for batch in cut for i in batch["i"].to_pylist()] == list(range(sum(sizes)))
    assert [c for batch in cut for c in batch["c"].to_pylist()] == [str(i % 3) for i in range(sum(sizes))]
    assert all(batch.num_rows == rows for batch in cut[:-1])
    assert all(0 < batch.num_rows <= rows for batch in cut[-1:])


def test_columns_are_mapped_and_predictions_are_optional(tmp_path):
    pq.write_table(pa.table({"Amount": [1.0], "kind": ["a"], "w": [2.0]}), tmp_path / "t.parquet")
    model = MODEL.model_copy(update={"predictions": (Column(name="p", type="numeric"),)})
    data = Data(url=str(tmp_path / "t.parquet"), columns={"x": "Amount", "c": "kind"}, weight="w")
    assert open_source(data, model).table().to_pydict() == {"x": [1.0], "c": ["a"], "w": [2.0]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, r"lacks the column 'x', the column 'c'. It has 'Amount', 'kind'"),
        ({"x": "Amuont", "c": "kind"}, r"lacks the column 'Amuont' of 'x' \(did you mean 'Amount'\?\)"),
        ({"X": "Amount"}, r"columns names 'X', which is no feature.*\(did you mean 'x'\?\): known are: x, c"),
    ],
)
def test_an_absent_column_is_named_with_its_nearest(tmp_path, columns, message):
    pq.write_table(pa.table({"Amount": [1.0], "kind": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(UnusableData, match=message):
        open_source(Data(url=str(tmp_path / "t.parquet"), columns=columns), MODEL)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_file_that_changes_between_two_readings_is_refused(tmp_path, kind):
    url = written(tmp_path / "data", kind, table())
    source = open_source(Data(url=url), MODEL)
    read(source)
    written(tmp_path / "data", kind, table(1200, 9))
    with pytest.raises(UnusableData, match=rf"part-0.{kind} changed while it was being read: build again"):
        read(source)


def test_folders_may_say_columns(tmp_path):
    for year, where in (("2012", "x%2Fy"), ("2013", "z")):
        folder = tmp_path / f"year={year}" / f"c={where}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"v": [1.0, 2.0]}), folder / "a.parquet")
        (folder / "b.csv").write_text("v\n1\n2\n")
    for kind in ("parquet", "csv"):
        data = Data(url=str(tmp_path), format=kind, columns={"x": "year"})
        source = open_source(data, MODEL)
        assert source.schema.field("x").type == pa.int64()
        assert read(source) == {"x": [2012] * 2 + [2013] * 2, "c": ["x/y"] * 2 + ["z"] * 2}


def test_files_may_have_a_column_in_another_width_but_not_of_another_kind(tmp_path):
    pq.write_table(pa.table({"x": [1], "c": pa.array(["a"]).dictionary_encode()}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"c": ["b"], "x": [2.5]}), tmp_path / "2.parquet")
    assert read(open_source(Data(url=str(tmp_path)), MODEL)) == {"x": [1.0, 2.5], "c": ["a", "b"]}
    pq.write_table(pa.table({"x": ["high"], "c": ["b"]}), tmp_path / "3.parquet")
    with pytest.raises(UnusableData, match=r"column 'x' is double in .*1.parquet and string in .*3.parquet"):
        open_source(Data(url=str(tmp_path)), MODEL)


@pytest.mark.parametrize(("first", "second"), [("2.csv", "1.csv"), ("1.csv", "2.csv")])
def test_a_csv_file_that_lacks_a_column_is_named(tmp_path, first, second):
    (tmp_path / first).write_text("c,x\na,1\n")
    (tmp_path / second).write_text("c\na\n")
    with pytest.raises(UnusableData, match=rf"{second} lacks the column 'x', which .*{first} has"):
        open_source(Data(url=str(tmp_path)), MODEL)


@pytest.mark.parametrize(
    ("name", "said", "message"),
    [
        ("nothing.parquet", None, "no training table at .*nothing.parquet: give a file in Parquet, CSV or JSON lines"),
        ("*.csv", None, r"no training table at .*\*.csv: give files"),
        ("t.xlsx", None, "the name of '.*t.xlsx' says no format: say which with `format`"),
        ("bad.parquet", None, "bad.parquet cannot be read: "),
        ("cut.csv.gz", None, "cut.csv.gz cannot be read: "),
        ("mixed", None, r"has files of more than one format \(1 csv, 1 jsonl\)"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, said, message):
    (tmp_path / "t.xlsx").write_bytes(b"x")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing else")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"c,x\n" + b"a,1\n" * 100_000)[:-100])
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.csv").write_text("c,x\n")
    (tmp_path / "mixed" / "b.jsonl").write_text("{}\n")
    with pytest.raises(UnusableData, match=message):
        read(open_source(Data(url=str(tmp_path / name), format=said), MODEL))


def test_a_file_system_that_is_not_known():
    with pytest.raises(UnusableData, match=r"nosuch://bucket/t.csv cannot be reached: Protocol not known: nosuch"):
        listing("nosuch://bucket/t.csv", Options({}))


def test_a_url_of_any_file_system(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    with memory.open("/sources/t.parquet", "wb") as file:
        pq.write_table(table(50), file)
    memory.pipe("/sources/t.csv", b"c,x\na,1\n")
    assert read(open_source(Data(url="memory://sources/t.parquet"), MODEL)) == expected([table(50)])
    assert read(open_source(Data(url="memory://sources/t.csv"), MODEL)) == {"c": ["a"], "x": [1.0]}


def test_files_of_an_object_store(tmp_path, s3):
    """A real server that speaks S3: partitioned files, a window, a change between two readings."""
    import fsspec

    fs = fsspec.filesystem("s3")
    for name, seed in (("day=1/a.parquet", 1), ("day=2/a.parquet", 2)):
        with fs.open(f"{s3}/sources/{name}", "wb") as file:
            pq.write_table(table(400, seed), file, row_group_size=100)
    source = open_source(Data(url=f"{s3}/sources/"), MODEL)
    assert read(source) == expected([table(400, 1), table(400, 2)])
    assert read(open_source(Data(url=f"{s3}/sources/*/a.parquet"), MODEL)) == read(source)
    parts = pickle.loads(pickle.dumps(source.fragments))
    with fs.open(f"{s3}/sources/day=2/a.parquet", "wb") as file:
        pq.write_table(table(400, 3), file)
    with pytest.raises(UnusableData, match=r"day=2/a.parquet changed while it was being read"):
        [batch for part in parts for batch in part.batches(["x"])]
    with pytest.raises(UnusableData, match=r"no training table at s3://.*/nothing/"):
        open_source(Data(url=f"{s3}/nothing/"), MODEL)


# Text formats ---------------------------------------------------------------------------------------------------------


def test_csv_values_may_hold_line_breaks_and_delimiters(tmp_path):
    rows = pd.DataFrame({"c": ['a;"\nb', "plain", "\n\n"] * 60_000, "x": np.arange(180_000.0)})
    rows.to_csv(tmp_path / "t.csv", index=False, sep=";")
    source = open_source(Data(url=str(tmp_path / "t.csv"), options={"delimiter": ";"}), MODEL)
    found = source.table(["c", "x"])
    assert found["c"].to_pylist() == rows["c"].tolist()
    assert found["x"].to_pylist() == rows["x"].tolist()


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        ([" 1", "2.5 ", "NA", "", None, "nan"], [1, 2.5, None, None, None, None]),
        (["True", "false", "1", "NA"], [1, 0, 1, None]),
        (["-inf", "1e400"], [-np.inf, np.inf]),
    ],
)
def test_csv_numbers(texts, values):
    assert numbers(pa.array(texts, pa.string()), "x").to_pylist() == values


def test_a_csv_number_is_read_alike_wherever_it_stands(tmp_path):
    """Types do not depend on where blocks end: whole numbers first, truth values and fractions far down."""
    (tmp_path / "t.csv").write_text("c,x\n" + "1,1\n" * 1_200_000 + "True,True\nA,1.5\n")
    found = open_source(Data(url=str(tmp_path / "t.csv")), MODEL).table(["c", "x"])
    assert found.slice(1_199_999).to_pydict() == {"c": ["1", "True", "A"], "x": [1, 1, 1.5]}


def test_a_column_that_is_a_number_and_a_category_needs_types(tmp_path):
    data = {"columns": {"x": "v", "c": "v"}}
    (tmp_path / "t.csv").write_text("v\n1\n")
    pq.write_table(pa.table({"v": [1]}), tmp_path / "t.parquet")
    assert read(open_source(Data(url=str(tmp_path / "t.parquet"), **data), MODEL)) == {"x": [1], "c": [1]}
    with pytest.raises(
        UnusableData, match=r"the columns \['v'\] are asked for as numbers and as categories, and csv has no types"
    ):
        open_source(Data(url=str(tmp_path / "t.csv"), **data), MODEL)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_time_may_be_a_feature(tmp_path, name):
    rows = [{"c": "a", "x": second * 1000} for second in range(10)]
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    jsonl(tmp_path / "t.jsonl", rows)
    data = Data(url=str(tmp_path / name), time="x", time_unit="ms", since="1970-01-01T00:00:07Z")
    assert open_source(data, MODEL).table(["x"])["x"].to_pylist() == [7000, 8000, 9000]


def test_without_a_model_csv_columns_are_numbers_when_they_hold_nothing_else(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,t\n" + "1,1,2013-01-01\n" * 1000 + "2,x,2013-01-02\n")
    source = open_source(Data(url=str(tmp_path / "t.csv"), time="t"))
    assert source.schema == pa.schema([("a", pa.float64()), ("b", pa.string()), ("t", pa.string())])
    assert source.table().slice(1000).to_pydict() == {"a": [2.0], "b": ["x"], "t": ["2013-01-02"]}


def jsonl(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("far", [0, 300_000])
def test_json_values_mean_what_they_mean_in_messages(tmp_path, far):
    odd = [
        {"c": 7, "x": 2}, {"c": 7.0, "x": None}, {"c": True}, {"c": "7", "x": 2.5}, {"c": None, "x": True},
        {"c": 0.1, "x": float("nan")}, {"c": 2**70, "x": 2**60, "other": {"a": [1]}},
    ]  # fmt: skip
    url = jsonl(tmp_path / "t.jsonl", [{"c": "2013-01-01", "x": 1}] * far + odd)
    found = open_source(Data(url=url), MODEL).table(["c", "x"]).slice(far)
    assert found["c"].to_pylist() == ["7", "7", "true", "7", None, "0.1", str(2**70)]
    x = found["x"].to_pylist()
    assert x[:5] == [2, None, None, 2.5, 1]
    assert np.isnan(x[5])
    assert x[6] == 2.0**60


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["2013-01-01", "a"], ["2013-01-01", "a"]),
        ([1, 2, None], ["1", "2", None]),
        ([1.0, 2.5], ["1", "2.5"]),
        ([0.5, 2**60, 2.0**60], ["0.5", "1152921504606846976", "1.152921504606847e+18"]),
        ([True, False], ["true", "false"]),
    ],
)
def test_json_categories_of_one_type(tmp_path, values, texts):
    url = jsonl(tmp_path / "t.jsonl", [{"c": value, "x": 1} for value in values])
    assert open_source(Data(url=url), MODEL).table(["c"])["c"].to_pylist() == texts


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"c": {"a": 1}, "x": 1}], "column 'c' of .*t.jsonl holds objects or lists"),
        ([{"c": "a", "x": 1}, {"c": [1], "x": 1}], "column 'c' of .*t.jsonl holds objects or lists"),
        ([{"c": "a", "x": 1}, {"c": "a", "x": "high"}], "column 'x' of .* holds text such as 'high', but the model calls it numeric"),
        ([{"c": "a"}], "lacks the column 'x'"),
        ([{"c": "a", "x": 1}, 3], "has a line that is no JSON object: b'3'"),
    ],
)  # fmt: skip
def test_json_that_is_no_table_is_refused_by_name(tmp_path, rows, message):
    with pytest.raises(UnusableData, match=message):
        read(open_source(Data(url=jsonl(tmp_path / "t.jsonl", rows)), MODEL))


def test_a_line_that_is_not_json_is_shown(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"c": "a", "x": 1}\n{"c": "a", "x"\n')
    with pytest.raises(UnusableData, match=r"has a line that is not JSON: b'\{\"c\": \"a\", \"x\"'"):
        read(open_source(Data(url=str(tmp_path / "t.jsonl")), MODEL))


@given(
    texts=st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"")), max_size=20),
    step=st.integers(1, 30),
    size=st.integers(1, 40),
    ended=st.booleans(),
)
def test_each_line_is_in_one_part_of_a_file(tmp_path_factory, texts, step, size, ended):
    path = tmp_path_factory.mktemp("lines") / "t.jsonl"
    whole = b"\n".join(texts) + (b"\n" if ended else b"")
    path.write_bytes(whole)
    if not whole:
        return
    files = listing(str(path), Options({}))
    (file,) = files.files
    found = []
    for start in range(0, len(whole), step):
        for block in lines(files.place, file, start, start + step, size):
            found += block.split(b"\n")
    assert [one for one in found if one.strip()] == [one for one in texts if one.strip()]


def test_a_large_file_of_json_lines_is_several_fragments(tmp_path, monkeypatch):
    monkeypatch.setattr("reference.sources.jsonl.FRAGMENT_BYTES", 10_000)
    url = jsonl(tmp_path / "t.jsonl", [{"c": str(i), "x": i} for i in range(5000)])
    source = open_source(Data(url=url), MODEL)
    assert len(source.fragments) > 5
    assert source.table(["x"])["x"].to_pylist() == list(range(5000))
