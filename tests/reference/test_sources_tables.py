"""Delta and Iceberg tables, written by their own libraries."""

import pickle
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog import load_catalog
from pyiceberg.types import StringType

from reference.data import Data
from reference.errors import UnusableData
from reference.schema import Column, Model
from reference.sources import open_source

MODEL = Model(name="m", features=(Column(name="x", type="numeric"), Column(name="c", type="categorical")))
DAY = pd.Timedelta("1d")


def rows(day: int, n: int = 200) -> pa.Table:
    """One day's rows; a few have no time."""
    rng = np.random.default_rng(day)
    at = pd.Series(
        pd.Timestamp("2013-01-01", tz="UTC") + day * DAY + pd.to_timedelta(rng.integers(0, 86_400, n), unit="s")
    )
    at = at.where(pd.Series(np.arange(n) % 50 > 0)).astype("datetime64[us, UTC]")
    return pa.table({"x": rng.normal(size=n), "c": rng.choice(["a", "b"], n), "t": pa.Array.from_pandas(at)})


def same(source, table: pa.Table) -> None:
    """Rows of the table, in any order of its files; and the fragments can be sent."""
    parts = pickle.loads(pickle.dumps(source.fragments))
    found = pa.Table.from_batches([batch for part in parts for batch in part.batches(["c", "x"])])
    order = [("x", "ascending")]
    assert found.sort_by(order).to_pydict() == table.select(["c", "x"]).sort_by(order).to_pydict()
    assert source.table(["c", "x"]) == found


def delta(folder, days=range(4)) -> str:
    for day in days:
        write_deltalake(str(folder), rows(day), mode="append", partition_by=["c"])
    return str(folder)


def test_a_delta_table_is_read_at_a_fixed_version(tmp_path):
    url = delta(tmp_path / "table")
    source = open_source(Data(url=url), MODEL)
    write_deltalake(url, rows(9), mode="overwrite")
    same(source, pa.concat_tables([rows(day) for day in range(4)]))
    assert (source.origin["kind"], source.origin["version"]) == ("delta", 3)
    same(open_source(Data(url=f"delta://{url}", snapshot=1), MODEL), pa.concat_tables([rows(0), rows(1)]))
    same(open_source(Data(url=f"delta://{url}"), MODEL), rows(9))


def test_rows_that_were_deleted_from_a_delta_table_are_gone(tmp_path):
    url = delta(tmp_path / "table", [0])
    DeltaTable(url).delete("x < 0")
    table = rows(0)
    same(open_source(Data(url=url), MODEL), table.filter(pa.array(table["x"].to_numpy() >= 0)))


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_files_outside_of_the_window_are_not_read_and_rows_without_a_time_are_counted(tmp_path, kind, catalog):
    if kind == "delta":
        data = Data(url=delta(tmp_path / "table"), time="t", since="2013-01-02", until="2013-01-04")
    else:
        table = catalog.create_table("flights.window", rows(0).schema)
        for day in range(4):
            table.append(rows(day))
        data = iceberg(catalog, "flights.window", time="t", since="2013-01-02", until="2013-01-04")
    source = open_source(data, MODEL)
    wanted = pa.concat_tables([rows(1), rows(2)])
    same(source, wanted.filter(wanted["t"].is_valid()))
    assert source.origin["rowsWithoutTime"] == 16
    assert source.origin["rows"] == 392


@pytest.fixture
def catalog(tmp_path):
    (tmp_path / "warehouse").mkdir()
    settings = {"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": f"file://{tmp_path}/warehouse"}
    made = load_catalog("lake", **settings)
    made.create_namespace("flights")
    yield made
    made.close()


def iceberg(catalog, name: str, **more) -> Data:
    kept = {key: catalog.properties[key] for key in ("type", "uri", "warehouse")}
    return Data(url=f"iceberg://lake/{name}", options=kept, **more)


def test_an_iceberg_table_is_read_at_a_fixed_snapshot(catalog):
    table = catalog.create_table("flights.t", rows(0).schema)
    table.append(rows(0))
    first = table.current_snapshot().snapshot_id
    table.append(rows(1))
    source = open_source(iceberg(catalog, "flights.t"), MODEL)
    table.delete("x < 0")
    whole = pa.concat_tables([rows(0), rows(1)])
    same(source, whole)
    assert source.origin["snapshot"] not in (first, table.current_snapshot().snapshot_id)
    same(open_source(iceberg(catalog, "flights.t", snapshot=first), MODEL), rows(0))
    same(open_source(iceberg(catalog, "flights.t"), MODEL), whole.filter(pa.array(whole["x"].to_numpy() >= 0)))


def test_columns_of_an_iceberg_table_may_be_renamed_and_added(catalog):
    table = catalog.create_table("flights.t", rows(0).schema)
    table.append(rows(0))
    with table.update_schema() as update:
        update.rename_column("x", "y")
        update.add_column("c2", StringType())
    data = iceberg(catalog, "flights.t", columns={"x": "y", "c": "c2"})
    found = open_source(data, MODEL).table(["c", "x"])
    assert found["c"].null_count == 200
    assert sorted(found["x"].to_pylist()) == sorted(rows(0)["x"].to_pylist())


@pytest.mark.parametrize(
    ("url", "more", "message"),
    [
        ("delta:///nowhere/at/all", {}, "the Delta table delta:///nowhere/at/all cannot be read: "),
        ("{delta}", {"snapshot": 99}, "at version 99 cannot be read: "),
        ("iceberg://lake/t", {}, "names no Iceberg table: write iceberg://catalog/namespace.table"),
        ("iceberg://lake/flights.none", {}, "cannot be read: NoSuchTableError"),
        ("iceberg://lake/flights.t", {"snapshot": 99}, r"has no snapshot 99: its newest are \d+"),
        ("iceberg://lake/flights.t", {"options": {"type": "nosuch"}}, "the Iceberg table .* cannot be read: "),
    ],
)
def test_tables_that_are_not_there_are_named(tmp_path, catalog, url, more, message):
    catalog.create_table("flights.t", rows(0).schema).append(rows(0))
    options = {} if "iceberg" not in url else dict(iceberg(catalog, "flights.t").options)
    data = Data(
        **{"url": url.replace("{delta}", delta(tmp_path / "table", [0])), "options": options, "format": None, **more}
    )
    if "{delta}" in url:
        data = data.model_copy(update={"format": "delta"})
    with pytest.raises(UnusableData, match=message):
        open_source(data, MODEL)


def test_an_empty_iceberg_table_has_no_rows(catalog):
    catalog.create_table("flights.t", rows(0).schema)
    source = open_source(iceberg(catalog, "flights.t"), MODEL)
    assert source.table().num_rows == 0
    assert source.origin["snapshot"] is None
    with pytest.raises(UnusableData, match="has no rows from 2013-01-01"):
        open_source(iceberg(catalog, "flights.t", time="t", since=datetime(2013, 1, 1, tzinfo=UTC)), MODEL)
