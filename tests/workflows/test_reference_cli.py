"""`driftline reference`: from a ModelMonitor and a table to a current baseline, and back."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError

from reference.gate import Gate
from reference.settings import Reference
from reference.store import Store
from workflows.cli import main

MONITOR = """\
apiVersion: driftline.io/v1
kind: ModelMonitor
metadata: {{name: toy}}
spec:
  model:
    features:
      - {{name: x, type: numeric}}
      - {{name: c, type: categorical}}
    predictions:
      - {{name: p, type: numeric}}
  performance: {{metrics: [mae], label: truth}}
  segments: {{by: [c]}}
  reference:
    store: {store}
    data: {{url: {data}, time: at}}
    keep: 3
"""


def write(path: Path, seed: int, shift: float = 0.0, rows: int = 2000) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(shift, 1, rows)
    p = x + rng.normal(0, 3, rows)
    at = np.datetime64("2013-01-01", "ms") + np.arange(rows) * np.timedelta64(86_400_000 * 60 // rows, "ms")
    table = {"x": x, "c": rng.choice(["red", "blue"], rows), "p": p, "truth": p + rng.normal(0, 1, rows), "at": at}
    pq.write_table(pa.table(table), path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "train.parquet", 1)
    return tmp_path / "train.parquet"


@pytest.fixture
def config(tmp_path: Path, data: Path) -> Path:
    path = tmp_path / "monitor.yaml"
    path.write_text(MONITOR.format(store=tmp_path / "store", data=data))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def run(config: Path, capsys):
    """``run("list", ...)``: exit code, stdout and stderr; with ``--json`` stdout is read."""

    def command(name: str, *arguments: object):
        code = main(["reference", name, "--config", str(config), *map(str, arguments)])
        said = capsys.readouterr()
        return code, (json.loads(said.out) if "--json" in arguments and said.out else said.out), said.err

    return command


def test_a_refresh_says_what_it_came_to(run, tmp_path: Path, data: Path, store: Store):
    summary = tmp_path / "summary.json"
    code, out, err = run("refresh", "--summary", summary)
    first = json.loads(summary.read_text())
    assert (code, first["outcome"], first["decision"], first["previous"]) == (0, "promoted", "accept", None)
    assert (out, err) == (f"baseline {first['version']} of toy: 2,000 rows, now current in {store.url}\n", "")

    code, again, _ = run("refresh", "--json")
    assert (code, again["outcome"], again["version"]) == (0, "unchanged", first["version"])

    write(data, 2, shift=8.0)
    code, out, err = run("refresh", "--summary", summary)
    rejected = json.loads(summary.read_text())
    assert code == 4
    assert (rejected["outcome"], rejected["columns"], rejected["current"]) == ("rejected", ["x"], first["version"])
    lines = err.splitlines()
    assert lines[0].startswith(f"driftline: baseline {rejected['version']} of toy: 2,000 rows, rejected; ")
    assert any("'x': the cumulative shares differ by" in line for line in lines)
    assert store.current("toy") == first["version"]

    code, out, _ = run("report", "--version", rejected["version"], "--out", tmp_path / "out")
    page = (tmp_path / "out" / f"{rejected['version']}-report.html").read_text()
    assert code == 0
    assert "Rejected" in page
    assert "the cumulative shares differ by" in page
    _, judgement, _ = run("report", "--version", rejected["version"], "--json")
    assert (judgement["decision"], judgement["columns"]) == ("reject", ["x"])


def test_to_force_is_to_say_why_and_to_go_back_is_one_command(run, data: Path, store: Store, monkeypatch):
    run("refresh")
    first = store.current("toy")
    write(data, 2, shift=8.0)
    code, built, _ = run("build", "--json")
    version = built["version"]
    assert (code, built["refresh"]["outcome"]) == (4, "rejected")
    assert run("promote", version)[0] == 4
    code, _, err = run("promote", version, "--force")
    assert (code, "--why must say why" in err) == (2, True)
    monkeypatch.setenv("DRIFTLINE_USER", "ada")
    code, out, _ = run("promote", version, "--force", "--why", "new sensor")
    assert (code, store.current("toy")) == (0, version)
    assert "now current" in out
    assert "forced" in out
    code, out, _ = run("rollback", "--why", "complaints")
    assert (code, store.current("toy")) == (0, first)
    assert out == f"baseline {first} of toy is current again in {store.url}, instead of {version}\n"
    code, done, err = run("refresh", "--json")
    assert (code, done["outcome"], store.current("toy")) == (4, "held", first)
    _, history, _ = run("history", "--json")
    assert [(one["kind"], one["version"], one["by"], one["why"], one["forced"]) for one in history[:2]] == [
        ("rollback", first, "ada", "complaints", False),
        ("promotion", version, "ada", "new sensor", True),
    ]
    assert "new sensor" in run("history")[1]


def test_what_was_rolled_back_from_is_not_brought_back_by_the_schedule(run, data: Path, store: Store):
    run("refresh")
    write(data, 2)
    run("refresh")
    left = store.current("toy")
    run("rollback")
    code, _, err = run("refresh")
    assert code == 4
    assert f"{left} makes it current again" in err
    assert run("promote", left)[0] == 0
    assert store.current("toy") == left


def test_only_rows_of_a_time_are_built_from(run, store: Store):
    code, built, _ = run("build", "--since", "2013-01-31", "--until", "2013-02-10", "--no-promote", "--json")
    assert (code, built["refresh"]["outcome"], built["refresh"]["current"]) == (0, "published", None)
    assert built["rows"] == pytest.approx(2000 / 6, abs=2)
    assert store.manifest("toy", built["version"])["origin"]["since"] == "2013-01-31T00:00:00Z"
    _, listed, _ = run("list", "--json")
    assert [(one["version"], one["current"], one["decision"]) for one in listed] == [(built["version"], False, "warn")]
    assert "warn" in run("list")[1]


def test_segments_are_shown(run):
    run("build")
    code, out, _ = run("show", "--segments")
    assert code == 0
    assert "c=red" in out
    _, shown, _ = run("show", "--segments", "--json")
    assert sum(one["rows"] for one in shown["segments"]) == 2000


def test_two_versions_are_compared(run, data: Path, store: Store):
    run("build")
    first = store.current("toy")
    write(data, 2, shift=0.3)
    run("build")
    code, out, _ = run("diff", first, "current")
    assert code == 0
    (row,) = (line for line in out.splitlines() if line.split()[:1] == ["x"])
    assert "wasserstein 0." in row
    assert row.rstrip().endswith("drifted")
    _, found, _ = run("diff", first, store.current("toy"), "--json")
    x = next(one for one in found["columns"] if one["column"] == "x")
    assert x["mean"][1] - x["mean"][0] == pytest.approx(0.3, abs=0.1)
    assert next(one for one in found["drift"] if one["name"] == "x")["drifted"]
    assert run("diff", first, "nowhere")[0] == 2


def test_a_draft_is_a_section_of_a_model_monitor(data: Path, capsys):
    assert main(["reference", "infer", "--data", str(data)]) == 0
    features = yaml.safe_load(capsys.readouterr().out)["model"]["features"]
    assert [(one["name"], one["type"]) for one in features] == [
        ("x", "numeric"),
        ("c", "categorical"),
        ("p", "numeric"),
        ("truth", "numeric"),
    ]
    assert main(["reference", "infer", "--data", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 2000
    assert main(["reference", "infer", "--data", "jdbc:postgresql://host/db"]) == 2


def test_gc_says_what_it_would_remove(run, store: Store):
    run("refresh")
    code, out, _ = run("gc", "--dry-run")
    assert (code, out) == (0, "nothing to remove\n")
    assert run("gc", "--json")[1] == {"model": "toy", "dryRun": False, "removed": []}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--last", "3"], "--last: '3' is not a duration"),
        (["--since", "yesterday"], "--since: 'yesterday' is no point of time"),
        (["--data", "nowhere.parquet"], "no training table at"),
        (["--since", "2014-01-01"], "no rows"),
        (["--since", "1500-01-01", "--until", "1501-01-01"], "no rows"),
        (["--until", "2600-01-01", "--since", "2500-01-01"], "no rows"),
        (["--last", "0s"], "reference.data: last is no time at all"),
        (["--since", "0001-01-01T00:00:00+14:00"], "--since: '0001-01-01T00:00:00+14:00' is in UTC not in the years"),
        (["--weight", "c"], "column 'c' of weights holds string, for example "),
        (["--staging", "nosuch://place"], "--staging: nosuch://place is no place that can be written"),
        (["--data", "jdbc:postgresql://h/d"], "need either `dbtable` or `query`"),
        (["--format", "csv"], "train.parquet cannot be read: "),
    ],
)
def test_what_cannot_be_read_is_exit_code_2(run, store: Store, arguments: list[str], complaint: str):
    code, out, err = run("build", *arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.splitlines()) == 1
    assert not store.versions("toy")


def test_a_place_that_cannot_be_written_is_told_before_work_starts(run, data: Path, store: Store, tmp_path: Path):
    for summary in (data / "s.json", tmp_path):
        code, out, err = run("refresh", "--summary", summary)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert err.startswith("driftline: --summary: ")
    assert not store.versions("toy")
    run("refresh")
    code, _, err = run("report", "--out", data)
    assert (code, err.startswith(f"driftline: --out: {data} cannot be made a directory")) == (2, True)


def test_current_is_a_version_and_to_go_back_to_it_is_nothing(run, store: Store, tmp_path: Path):
    run("refresh")
    code, out, _ = run("report", "--version", "current", "--out", tmp_path / "out")
    assert (code, len(out.splitlines())) == (0, 3)
    version = store.current("toy")
    code, out, _ = run("rollback", "--to", version)
    assert (code, out) == (0, f"baseline {version} of toy is current in {store.url} already\n")


def test_a_refresh_beside_an_unreadable_baseline_says_so_on_its_page(run, data: Path, store: Store, tmp_path: Path):
    run("refresh")
    first = store.current("toy")
    (Path(store.url) / "toy" / first / "baseline.bin").unlink()
    write(data, 2)
    assert run("refresh")[0] == 0
    run("report", "--out", tmp_path / "out")
    page = (tmp_path / "out" / f"{store.current('toy')}-report.html").read_text()
    assert f"baseline {first} is current and cannot be read" in page


def test_a_refresh_needs_data(config: Path, run):
    config.write_text(config.read_text().replace("    data:", "    # data:"))
    code, _, err = run("refresh")
    assert code == 2
    assert "spec.reference.data: is missing" in err
    assert "give one with --data" in run("build")[2]


def test_limits_are_for_columns_that_exist(config: Path, run):
    config.write_text(config.read_text() + "    gate: {columns: {z: {drift: {warn: 2}}}}\n")
    code, _, err = run("refresh")
    assert code == 2
    assert "spec.reference.gate.columns.z: 'z' is no feature or prediction of the model: known are: x, c, p" in err


def test_another_column_is_no_feature_but_a_weight(config: Path, tmp_path: Path, run, data: Path, store: Store):
    table = pq.read_table(data)
    pq.write_table(table.append_column("w", pa.array(np.where(np.arange(2000) % 2, 2.0, 0.5))), data)
    code, built, _ = run("build", "--weight", "w", "--json")
    assert code == 0
    assert store.manifest("toy", built["version"])["effectiveRows"] == pytest.approx(2000 * 1.25**2 / 2.125, rel=1e-3)


def test_the_section_is_read_and_written():
    section = Reference.model_validate(
        {"keep": 5, "gate": {"missing": {"reject": 0.3}}, "mlflow": {"trackingUri": "http://m"}}
    )
    assert Reference.model_validate(section.model_dump(by_alias=True)) == section
    assert section.gate == Gate.model_validate({"missing": {"reject": 0.3}})
    with pytest.raises(ValidationError):
        Reference.model_validate({"gate": {"misssing": {"reject": 0.3}}})


# --- Real services -----------------------------------------------------------------------------------------------------
@pytest.mark.spark
def test_spark_builds_the_same_version(config: Path, store: Store):
    """In a process of its own: the command stops its Spark, which may be that of another test here."""
    config.write_text(config.read_text().replace("keep: 3", "keep: 3\n    rawRows: 100"))
    versions = []
    for engine in ("local", "spark"):
        command = ["reference", "build", "--config", config, "--engine", engine, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "workflows.cli", *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).resolve().parents[2],
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        built = json.loads(done.stdout)
        versions.append((built["version"], built["refresh"]["outcome"]))
    assert versions == [(store.current("toy"), "promoted"), (store.current("toy"), "unchanged")]


@pytest.mark.kafka
def test_served_traffic_is_a_reference(config: Path, run, kafka, store: Store):
    from confluent_kafka import Producer

    from streaming.job import prepare_topics
    from streaming.spec import load

    text = config.read_text().replace("name: toy", "name: served")
    address = kafka.bootstrap_servers
    config.write_text(f"{text}  kafka: {{bootstrapServers: '{address}', partitions: 2}}\n")
    monitor = load(config)
    prepare_topics(monitor)
    producer = Producer({"bootstrap.servers": address})
    at = int(time.time()) - 60
    for i in range(300):
        event = {"type": "request", "id": str(i), "time": at, "payload": {"instances": [[i / 100, "red"]]}}
        answer = {"type": "response", "id": str(i), "time": at, "payload": {"predictions": [float(i)]}}
        for message in (event, answer):
            producer.produce(monitor.topics.inference, json.dumps(message).encode(), timestamp=at * 1000)
    assert producer.flush(30) == 0
    code, built, err = run("build", "--format", "traffic", "--last", "1h", "--json")
    assert code == 0, err
    assert built["rows"] == 300
    assert next(one["mean"] for one in built["columns"] if one["column"] == "x") == pytest.approx(1.495)
    assert next(one["mean"] for one in built["columns"] if one["column"] == "p") == pytest.approx(149.5)
    assert store.manifest("served", built["version"])["origin"]["kind"] == "traffic"
    assert "served traffic has no labels" in err
