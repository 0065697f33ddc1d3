"""A judgement's page and its run in a stock Evidently."""

import json
import sys
import warnings
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pytest

from reference.build import build
from reference.judge import judge
from reference.schema import Column, Model
from reference.settings import Reference
from streaming.judgement_page import page, report

# Evidently divides by what may be zero and asks numpy for what it is about to drop.
pytestmark = pytest.mark.filterwarnings("default")

NASTY = "<script>alert(1)</script>"
MODEL = Model(
    name="toy",
    features=(
        Column(name="x", type="numeric"),
        Column(name=NASTY, type="categorical"),
        Column(name="n", type="numeric"),
    ),
)


def table(shift=0.0, seed=1):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "x": rng.normal(shift, 1, 3000),
            NASTY: rng.choice(["a", "b & c", "<d>"], 3000),
            "n": pa.array(rng.gamma(2, size=3000), mask=rng.random(3000) < 0.1),
        }
    )


def judged(shift):
    old, new = (build(one, MODEL, Reference()) for one in (table(seed=2), table(shift)))
    return judge(new, old, MODEL), new, old


def test_the_page_is_well_formed_fetches_nothing_and_names_the_columns():
    text = page(*judged(6.0))
    root = ET.fromstring(text.partition("\n")[2])
    said = " ".join(root.itertext())
    assert "Rejected" in said
    assert NASTY in said
    assert not list(root.iter("script"))
    assert "'x': the cumulative shares differ by" in said
    assert "http" not in text.replace("http-equiv", "")
    (worst, *_) = root.iter("figure")
    assert worst.get("class") == "reject"
    assert "".join(worst.find("figcaption/b").itertext()) == "x"


def test_the_page_of_a_first_baseline_and_of_one_without_values():
    _, new, _ = judged(0.0)
    text = page(judge(new, None, MODEL), new, None)
    assert "there was no baseline to compare with" in text
    empty = {**new.request, "x": replace(new.request["x"], count=0, values=np.empty(0))}
    bare = replace(new, request=empty)
    ET.fromstring(page(judge(bare, new, MODEL), bare, new).partition("\n")[2])


def test_the_run_is_what_evidently_computes_of_the_tables(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.core.report import Snapshot
        from evidently.core.serialization import SnapshotModel
        from evidently.presets import DataDriftPreset
        from evidently.ui.workspace import Workspace

        judgement, new, old = judged(0.5)
        files = report(judgement, new, old)
        run = Snapshot.load_model(SnapshotModel.parse_raw(files["snapshot.json"]))
        definition = DataDefinition(numerical_columns=["x", "n"], categorical_columns=[NASTY])
        frames = [Dataset.from_pandas(one.to_pandas(), definition) for one in (table(0.5), table(seed=2))]
        theirs = Report([DataDriftPreset()]).run(*frames)
    ours = {metric["metric_name"]: metric["value"] for metric in json.loads(run.json())["metrics"]}
    shared = 0
    for metric in json.loads(theirs.json())["metrics"]:
        value = ours[metric["metric_name"]]
        assert value == pytest.approx(metric["value"], rel=1e-9)
        shared += 1
    assert shared == 4  # three columns, and how many of them drifted
    workspace = Workspace.create(str(tmp_path))
    project = workspace.create_project("toy")
    workspace.add_run(project.id, run)
    (stored,) = workspace.list_runs(project.id)
    assert workspace.get_run(project.id, stored).metadata["decision"] == judgement.decision == "warn"


def test_without_evidently_there_is_the_page(monkeypatch):
    judgement, new, old = judged(0.0)
    report(judgement, new, old)  # so that all of it has been imported
    for name in [name for name in sys.modules if name.partition(".")[0] == "evidently"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "streaming.snapshots")
    assert set(report(judgement, new, old)) == {"report.html"}
