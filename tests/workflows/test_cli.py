"""The command line: what it prints, what it exits with, and what it does not import."""

import importlib
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from detectors.describe import catalogues
from detectors.drift import DRIFT
from streaming.errors import ServiceUnavailable
from streaming.reports import RECORDS
from workflows.cli import EXTRAS, app, main

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("pyspark", "confluent_kafka", "evidently", "pandas", "argo_workflows", "sklearn")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "monitor.yaml"
    path.write_text(
        f"""\
apiVersion: driftline.io/v1
kind: ModelMonitor
metadata: {{name: iris}}
spec:
  model:
    features:
      - {{name: length, type: numeric}}
      - {{name: colour, type: categorical}}
    predictions:
      - {{name: species, type: categorical}}
  reference: {{store: {tmp_path / "baselines"}}}
""",
    )
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "train.parquet"
    rows = 200
    pq.write_table(
        pa.table(
            {
                "length": [i / 10 if i % 20 else None for i in range(rows)],
                "colour": ["red" if i % 4 else "blue" for i in range(rows)],
                "unused": list(range(rows)),
            },
        ),
        path,
    )
    return path


def driftline(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-m", "workflows.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=60,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["validate", "examples/minimal/monitor.yaml"],
        ["schema"],
        ["detectors", "list"],
        ["monitor", "run", "--help"],
    ],
    ids=" ".join,
)
def test_light_commands_import_nothing_heavy(arguments: list[str]):
    script = (
        "import sys; from workflows.cli import main; code = main(sys.argv[1:]); "
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_help_is_short_and_tells_the_exit_codes():
    done = driftline("--help", COLUMNS="100")
    assert done.returncode == 0
    assert "Exit codes: 0 done; 1 failed" in done.stdout
    assert "130 interrupted" in " ".join(done.stdout.split())
    for command in (
        "validate",
        "schema",
        "demo",
        "reference",
        "monitor",
        "logger",
        "report",
        "workflows",
        "broker",
        "jars",
    ):
        assert command in done.stdout


def test_every_command_says_what_it_does():
    for command in app.registered_commands:
        assert command.callback.__doc__
    for group in app.registered_groups:
        assert group.typer_instance.info.help
        for command in group.typer_instance.registered_commands:
            assert command.callback.__doc__


# ---------------------------------------------------------------------------------------------------------------------
def test_validate_says_ok(config: Path, capsys):
    assert main(["validate", str(config)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{config}: OK: model iris, 2 features, 1 prediction, windows of 5m; no baseline yet\n"
    assert said.err == ""


def test_validate_gives_one_line_a_problem_and_goes_on(config: Path, tmp_path: Path, capsys):
    bad = tmp_path / "bad.yaml"
    bad.write_text(config.read_text() + "  window: {duration: 5, slid: 1m}\n")
    assert main(["validate", str(bad), str(config)]) == 2
    said = capsys.readouterr()
    first, second = said.err.splitlines()
    assert first.startswith(
        f"driftline: {bad}:12: spec.window.duration: 5 is not a duration: write a number and a unit"
    )
    assert second == f"driftline: {bad}:12: spec.window.slid: is an unknown key: did you mean 'slide'?"
    assert said.out.startswith(f"{config}: OK")


def test_validate_as_json(config: Path, tmp_path: Path, capsys):
    bad = tmp_path / "bad.yaml"
    bad.write_text(config.read_text().replace("numeric", "float"))
    assert main(["validate", "--json", str(bad), str(config)]) == 2
    first, second = json.loads(capsys.readouterr().out)
    (problem,) = first["problems"]
    assert (first["valid"], problem["line"], problem["path"]) == (False, 7, "spec.model.features[0].type")
    assert problem["message"].startswith(f"{bad}:7: spec.model.features[0].type: 'float' is not known here")
    assert (second["valid"], second["problems"]) == (True, [])


def test_validate_compares_with_the_baseline(config: Path, table: Path, tmp_path: Path, capsys):
    assert main(["reference", "build", "--config", str(config), "--data", str(table), "--json"]) == 0
    version = json.loads(capsys.readouterr().out)["version"]
    assert main(["validate", str(config)]) == 0
    assert f"baseline {version} fits" in capsys.readouterr().out

    config.write_text(
        config.read_text()
        .replace("length, type: numeric", "length, type: categorical")
        .replace("    predictions:", "      - {name: width, type: numeric}\n    predictions:"),
    )
    assert main(["validate", str(config)]) == 2
    lines = capsys.readouterr().err.splitlines()
    store = tmp_path / "baselines"
    assert lines == [
        f"driftline: {config}: spec.reference: baseline {version} in {store} does not fit the model: "
        f"{what}: build it again, or mend the model"
        for what in ("'length' is numeric there and categorical in the model", "'width' is missing from it")
    ]


def test_validate_misses_a_pinned_version(config: Path, capsys):
    config.write_text(config.read_text().replace("reference: {", "reference: {version: 0123456789ab, "))
    assert main(["validate", str(config)]) == 2
    assert "no baseline '0123456789ab' of model 'iris'" in capsys.readouterr().err


def test_validate_says_when_a_store_does_not_answer(config: Path, capsys):
    config.write_text(config.read_text().replace("store: ", "store: nosuch://x"))
    assert main(["validate", str(config)]) == 0
    assert "note: not compared with its baseline: nosuch://x" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
def test_schema_of_the_monitor(capsys):
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "deploy/schema/modelmonitor.schema.json").read_text()


@pytest.mark.parametrize("topic", [*RECORDS, "judgement"])
def test_schema_of_each_record(topic: str, capsys):
    assert main(["schema", "--record", topic]) == 0
    assert capsys.readouterr().out == (ROOT / f"deploy/schema/{topic}.schema.json").read_text()


def test_schema_of_no_record(capsys):
    assert main(["schema", "--record", "nonsense"]) == 2
    assert "'outliers', 'statistics', 'drift', 'performance', 'deadletter', 'events'" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
def test_reference_build_show_list(config: Path, table: Path, capsys):
    assert main(["reference", "list", "--config", str(config)]) == 0
    assert "no baseline of iris" in capsys.readouterr().err

    assert main(["reference", "build", "--config", str(config), "--data", str(table)]) == 0
    built = capsys.readouterr()
    version = built.out.split()[1]
    assert f"baseline {version} of iris: 200 rows, now current in" in built.out
    assert built.err == ""  # the bar is for terminals

    assert main(["reference", "show", "--config", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"baseline {version} of iris (model version 1), 200 rows, built 20")
    head, length = (
        next(line.split() for line in lines if line.strip().startswith(word)) for word in ("column", "length")
    )
    assert head == [
        "column",
        "type",
        "rows",
        "missing",
        "mean",
        "stddev",
        "min",
        "p25",
        "p50",
        "p75",
        "max",
        "distinct",
    ]
    assert length == ["length", "numeric", "190", "10", "10", "5.78586", "0.1", "5.025", "10", "14.975", "19.9", "190"]
    colour = next(line.split() for line in lines if line.strip().startswith("colour"))
    assert colour == ["colour", "categorical", "200", "0", "2", "red", "75.0%,", "blue", "25.0%"]

    assert main(["reference", "show", "--config", str(config), "--version", version, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["version"] == version
    assert [column["column"] for column in document["columns"]] == ["length", "colour"]
    assert document["columns"][0]["p50"] == 10
    assert document["columns"][1]["top"] == {"red": 150, "blue": 50}

    assert main(["reference", "list", "--config", str(config), "--json"]) == 0
    (manifest,) = json.loads(capsys.readouterr().out)
    assert (manifest["version"], manifest["current"]) == (version, True)
    assert main(["reference", "list", "--config", str(config)]) == 0
    assert f"{version} current" in " ".join(capsys.readouterr().out.split())


def test_reference_of_many_rows_reads_its_quartiles_off_the_ruler(config: Path, tmp_path: Path, capsys):
    config.write_text(config.read_text().replace("reference: {", "reference: {rawRows: 100, "))
    data = tmp_path / "t.csv"
    pa.csv.write_csv(pa.table({"length": [i / 2000 for i in range(2001)], "colour": ["red"] * 2001}), data)
    assert main(["reference", "build", "--config", str(config), "--data", str(data), "--json"]) == 0
    length = json.loads(capsys.readouterr().out)["columns"][0]
    assert [length["p25"], length["p50"], length["p75"]] == pytest.approx([0.25, 0.5, 0.75], abs=1 / 1024)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("nowhere.parquet", "no training table at {data}: give a file in Parquet, CSV or JSON lines with --data"),
        ("lacking.csv", "{data} lacks the column 'colour'. It has 'length': map names with reference.data.columns"),
    ],
)
def test_reference_build_refuses_unusable_data(config: Path, tmp_path: Path, capsys, data: str, complaint: str):
    (tmp_path / "lacking.csv").write_text("length\n1\n")
    path = tmp_path / data
    assert main(["reference", "build", "--config", str(config), "--data", str(path)]) == 2
    assert capsys.readouterr().err == f"driftline: {complaint.format(data=path)}\n"


def test_reference_show_without_a_baseline_says_how_to_build_one(config: Path, capsys):
    assert main(["reference", "show", "--config", str(config)]) == 2
    assert "build one with 'driftline reference build" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
CATALOGUE = catalogues()


def test_detectors_list_names_them_all(capsys):
    assert main(["detectors", "list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    names = {words[0] for words in lines if words}
    assert names >= {name for members in CATALOGUE.values() for name in members}
    (ks,) = (" ".join(words) for words in lines if words[:1] == ["ks"])
    assert ks.startswith("ks numeric p-value probability score <= 0.05")


def test_detectors_list_as_json_explains_every_setting(capsys):
    assert main(["detectors", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {kind: [one["name"] for one in members] for kind, members in listed.items()} == {
        kind: list(members) for kind, members in CATALOGUE.items()
    }
    for one in listed["drift"]:
        assert one["threshold"] == DRIFT[one["name"]].model_fields["threshold"].default
        assert one["direction"] in {"p-value", "distance"}
    for one in (*listed["drift"], *listed["outliers"]):
        assert one["unit"]
        assert one["applies_to"]
    for one in (one for members in listed.values() for one in members):
        assert one["summary"]
        for parameter in one["parameters"]:
            assert parameter["meaning"], f"{one['name']}.{parameter['name']} is not explained in its class"
            assert parameter["required"] == ((one["name"], parameter["name"]) == ("callable", "function"))


# ---------------------------------------------------------------------------------------------------------------------
COMMANDS = {
    "monitor run": "streaming.job",
    "logger serve": "streaming.logger",
    "report run": "streaming.reporter",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_document_is_answered_before_the_room_is_imported(command: str, tmp_path: Path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("spec: {}\n")
    done = driftline(*command.split(), "--config", bad)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"driftline: {bad}:1: metadata: is missing: add it",
        f"driftline: {bad}:1: spec.model: is missing: add it",
    ]


@pytest.fixture
def room(monkeypatch):
    """Put a stand-in for a room's module where the command imports it from."""
    importlib.import_module("streaming.spec")  # which has settings of rooms

    def put(name: str, **functions: object) -> None:
        module = types.ModuleType(name)
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, name, module)

    return put


def test_a_room_s_exit_code_is_the_command_s(config: Path, room):
    room("streaming.job", run=lambda path: {config: 7}[path])
    assert main(["monitor", "run", "--config", str(config)]) == 7
    room("streaming.reporter", run=lambda _monitor, *, once: 3 if once else 4)
    assert main(["report", "run", "--once", "-c", str(config)]) == 3


def test_a_function_is_imported_by_who_computes_drift_only(config: Path, room, capsys):
    config.write_text(config.read_text() + "  drift: {methods: [nowhere.tests:mine]}\n")
    room("streaming.logger", serve=lambda _config, spool: 0 if spool == Path("waits") else 1)
    room("streaming.reporter", run=lambda _monitor, *, once: int(once))
    room("streaming.job", run=lambda _path: 0)
    assert main(["logger", "serve", "--spool", "waits", "-c", str(config)]) == 0
    assert main(["report", "run", "-c", str(config)]) == 0
    assert main(["reference", "list", "-c", str(config)]) == 0
    for command in (["monitor", "run", "-c"], ["validate"]):
        capsys.readouterr()
        assert main([*command, str(config)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "spec.drift.methods[0]: there is no module 'nowhere': install it where the monitor runs" in line


def test_a_room_s_error_is_its_text_and_its_exit_code(config: Path, room, capsys):
    def run(_path: object) -> int:
        raise ServiceUnavailable("Kafka is not there\nand will not be")

    room("streaming.job", run=run)
    assert main(["monitor", "run", "--config", str(config)]) == 1
    assert capsys.readouterr().err == "driftline: Kafka is not there\ndriftline: and will not be\n"


def test_an_interrupt_is_quiet(config: Path, room, capsys):
    def run(_path: object) -> int:
        raise KeyboardInterrupt

    room("streaming.job", run=run)
    assert main(["monitor", "run", "--config", str(config)]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("module", "extra"), EXTRAS.items())
def test_a_missing_extra_is_named(config: Path, room, capsys, module: str, extra: str):
    def run(_path: object) -> int:
        raise ModuleNotFoundError(f"No module named '{module}.sql'", name=f"{module}.sql")

    room("streaming.job", run=run)
    assert main(["monitor", "run", "--config", str(config)]) == 1
    assert capsys.readouterr().err == (
        f"driftline: this command needs {module}, which is not installed: pip install 'driftline[{extra}]'\n"
    )


def test_a_missing_module_of_ours_is_a_bug_and_looks_like_one(config: Path, room):
    def run(_path: object) -> int:
        raise ModuleNotFoundError("No module named 'streaming.nowhere'", name="streaming.nowhere")

    room("streaming.job", run=run)
    with pytest.raises(ModuleNotFoundError):
        main(["monitor", "run", "--config", str(config)])


def test_extras_exist_and_bring_what_they_say():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS.values()) <= extras.keys()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["vaildate"], "No such command 'vaildate'. Did you mean 'validate'?: see driftline --help"),
        (["reference", "show"], "Missing option '--config' / '-c': see driftline reference show --help"),
        (
            ["monitor", "run", "--confg", "x"],
            "No such option: --confg (Possible options: --config): see driftline monitor run --help",
        ),
    ],
)
def test_a_wrong_option_is_one_line(arguments: list[str], complaint: str, capsys):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("driftline: ")
    assert complaint.split()[0:3] == line.split()[1:4]
    assert line.endswith("--help")


def test_a_place_that_cannot_be_written_is_one_line(config: Path, table: Path, tmp_path: Path, capsys):
    (tmp_path / "baselines").write_text("a file, not a directory")
    assert main(["reference", "build", "--config", str(config), "--data", str(table)]) == 1
    assert capsys.readouterr().err.startswith(f"driftline: the store {tmp_path / 'baselines'}: ")


def test_a_reader_that_leaves_early_is_no_traceback():
    done = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -m workflows.cli schema | head -1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""


@pytest.mark.kafka
def test_broker_runs_until_it_is_told_to_stop(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-m", "workflows.cli", "broker", "run", "--data", str(tmp_path / "kafka")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as broker:
        assert broker.stdout is not None
        host, _, port = broker.stdout.readline().strip().rpartition(":")
        assert host == "127.0.0.1"
        assert port.isdecimal()
        broker.send_signal(signal.SIGINT)
        _, err = broker.communicate(timeout=60)
    assert broker.returncode == 130
    assert "Traceback" not in err
