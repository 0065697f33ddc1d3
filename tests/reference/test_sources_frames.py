"""Data frames of a program: the same rows as from a file."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reference.data import Data
from reference.errors import UnusableData
from reference.schema import Column, Model
from reference.sources import open_source
from reference.sources.frames import source_of_frame

MODEL = Model(name="m", features=(Column(name="x", type="numeric"), Column(name="c", type="categorical")))
ASKED = {"columns": {"x": "X"}, "time": "t", "since": "2013-01-02", "weight": "w"}


def frame(rows: int = 500) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    at = pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(rng.integers(0, 5 * 86_400, rows), unit="s")
    return pd.DataFrame(
        {
            "X": rng.normal(size=rows),
            "c": pd.Categorical(rng.choice(["a", "b"], rows)),
            "t": pd.Series(at).astype("datetime64[us, UTC]"),
            "w": rng.random(rows),
            "object": [object()] * rows,
        }
    )


def test_pandas_arrow_and_files_give_the_same_rows(tmp_path):
    known = frame()
    table = pa.Table.from_pandas(known.drop(columns="object"), preserve_index=False)
    pq.write_table(table, tmp_path / "t.parquet")
    whole = open_source(Data(url=str(tmp_path / "t.parquet"), **ASKED), MODEL).table()
    assert whole.num_rows == (known["t"] >= "2013-01-02").sum() > 300
    for one in (known, table, known.set_index("w", drop=False)):
        source = source_of_frame(one, MODEL, **ASKED)
        assert source.table().to_pydict() == whole.to_pydict()
        assert source.origin["rows"] == whole.num_rows


def test_values_of_several_types_are_categories_as_in_messages():
    mixed = pd.DataFrame({"x": [1, 2, 3, 4], "c": [7, "7", True, None]})
    assert source_of_frame(mixed, MODEL).table()["c"].to_pylist() == ["7", "7", "true", None]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [1, "high"], "c": ["a", "b"]}, "column 'x' of the data frame cannot be read"),
        ({"x": [1, 2], "c": [object(), "b"]}, "column 'c' of the data frame cannot be read"),
        ({"x": [1, 2], "C": ["a", "b"]}, r"the data frame lacks the column 'c' \(did you mean 'C'\?\)"),
    ],
)
def test_what_is_no_table_is_named(columns, message):
    with pytest.raises(UnusableData, match=message):
        source_of_frame(pd.DataFrame(columns), MODEL)


def test_all_columns_without_a_model():
    assert source_of_frame(pd.DataFrame({"a": [1], "b": ["x"]})).table().to_pydict() == {"a": [1], "b": ["x"]}


@pytest.mark.spark
def test_a_spark_data_frame_is_computed_once(tmp_path):
    from pyspark.sql import SparkSession, functions

    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        known = frame().drop(columns="object")
        known["c"] = known["c"].astype(str)
        rows = spark.createDataFrame(known).coalesce(1).withColumn("noise", functions.rand())
        model = MODEL.model_copy(update={"features": (*MODEL.features, Column(name="noise", type="numeric"))})
        source = source_of_frame(rows, model, staging=str(tmp_path), **ASKED)
        found = source.table()
        assert found.select(["x", "c", "w"]).equals(source_of_frame(known, MODEL, **ASKED).table(["x", "c", "w"]))
        assert found["noise"].equals(source.table()["noise"])
        with pytest.raises(UnusableData, match="a Spark DataFrame is written once before it is read: say where"):
            source_of_frame(rows, model)
    finally:
        spark.stop()
