"""How well the model did on its training table is in the baseline, segment by segment."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

from detectors.performance.estimate import ReferencePerformance
from detectors.performance.settings import Performance
from reference.baseline import Baseline
from reference.build import build
from reference.errors import UnusableData
from reference.performance import label_of
from reference.schema import Column, Model
from reference.segments import Segments
from reference.settings import Reference
from reference.table import read_table

FEATURES = (Column(name="where", type="categorical"),)
NUMBER = Model(name="m", features=FEATURES, predictions=(Column(name="fare", type="numeric"),))
CLASS = Model(name="m", features=FEATURES, predictions=(Column(name="kind", type="categorical"),))
OF_NUMBER = Performance(metrics=("mae",), label="truth")
OF_CLASS = Performance(metrics=("accuracy", "f1"), label="truth")


def training(rows=2000):
    rng = np.random.default_rng(0)
    kind, fare = rng.choice(["1", "2", "3"], rows), rng.normal(10.0, 2.0, rows)
    where = rng.choice(["JFK", "LGA", "EWR"], rows, p=[0.6, 0.38, 0.02])
    return pd.DataFrame({"where": where, "fare": fare, "kind": kind})


def built(frame, model, performance):
    table = pa.table({name: frame[name].to_numpy() for name in frame})
    segments = Segments(by=("where",))
    made = build(table, model, Reference(), segments=segments, performance=performance)
    return Baseline.from_bytes(made.to_bytes())


def measured(data, names):
    return ReferencePerformance.from_bytes(data).sums.metrics(names)


def test_errors_of_a_number_are_those_of_scikit_learn():
    frame = training()
    frame["truth"] = frame["fare"] + np.where(frame["where"] == "JFK", 1.0, 3.0) + np.arange(len(frame)) % 7
    frame.loc[5, "truth"] = np.nan
    baseline = built(frame, NUMBER, OF_NUMBER)
    known = frame.dropna()
    assert measured(baseline.performance, ["mae"])["mae"] == pytest.approx(
        mean_absolute_error(known["truth"], known["fare"])
    )
    for name, part in baseline.segments.items():
        rows = known[known["where"] == name.removeprefix("where=")]
        if len(rows) < 100:
            assert part.performance is None
        else:
            mae = mean_absolute_error(rows["truth"], rows["fare"])
            assert measured(part.performance, ["mae"])["mae"] == pytest.approx(mae)
    assert {name for name, part in baseline.segments.items() if part.performance} == {"where=JFK", "where=LGA"}


def test_classes_may_be_numbers_in_the_table():
    frame = training()
    frame["truth"] = np.where(np.arange(len(frame)) % 5, frame["kind"].astype(float), 3.0)
    found = measured(built(frame, CLASS, OF_CLASS).performance, ["accuracy", "f1"])
    truth = frame["truth"].astype(int).astype(str)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, frame["kind"]))
    assert found["f1"] == pytest.approx(f1_score(truth, frame["kind"], average="macro"))


def test_performance_belongs_to_the_version_and_is_optional():
    frame = training()
    frame["truth"] = frame["fare"]
    without = [built(frame, NUMBER, None), built(frame, NUMBER, Performance(metrics=("mae",)))]
    assert [baseline.performance for baseline in without] == [None, None]
    assert without[0].version == without[1].version != built(frame, NUMBER, OF_NUMBER).version


def test_what_is_missing_is_named():
    frame = training()
    with pytest.raises(UnusableData, match=r"lacks \['truth'\]"):
        built(frame, NUMBER, OF_NUMBER)
    frame["truth"] = 1.0
    with pytest.raises(UnusableData, match=r"lacks \['fare'\]"):
        built(frame.drop(columns="fare"), NUMBER, OF_NUMBER)
    with pytest.raises(UnusableData, match=r"performance\.label: 19 rows"):
        built(frame[:19], NUMBER, OF_NUMBER)


def test_the_labels_of_a_csv_file_have_the_type_of_their_task(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("where,fare,kind,truth,else\nJFK,1.5,01,01,x\n")
    assert label_of(Performance(), NUMBER) is None
    for model, performance, truth in ((NUMBER, OF_NUMBER, 1.0), (CLASS, OF_CLASS, "01")):
        table = read_table(path, model, label_of(performance, model))
        assert table["truth"].to_pylist() == [truth]
        assert "else" not in table.column_names
