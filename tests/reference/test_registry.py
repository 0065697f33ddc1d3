"""The record in MLflow: a real tracking server, and one that is not there."""

import os
import socket
import subprocess
import time
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from reference.judge import Judgement
from reference.registry import MLflow, record

ROOT = Path(__file__).resolve().parents[2]
SERVER = "mlflow==3.17.*"
"""The whole of MLflow pins numpy, pandas and pyarrow otherwise than we do, so its server has an environment of its own."""
HOME = ROOT / "build" / "mlflow-server"

# The client's own modules use what pydantic and others are about to drop.
pytestmark = pytest.mark.filterwarnings("default")


def judged(version="0123456789ab", previous=None, decision="accept", **changes) -> Judgement:
    said = {
        "model": "toy",
        "model_version": "1",
        "version": version,
        "previous": previous,
        "judged_at": "2026-01-01T00:00:00.000Z",
        "rows": 1000,
        "previous_rows": None,
        "decision": decision,
        "reasons": [],
        "columns": [],
        "drifted_columns": 0,
        "judged_columns": 0,
        "share_threshold": 0.5,
        "checks": [],
        "comparisons": [],
        **changes,
    }
    return Judgement(**said)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_registry_that_is_away_is_told_of_in_a_moment():
    settings = MLflow(tracking_uri=f"http://me:secret@127.0.0.1:{free_port()}", timeout="1s")
    began = time.monotonic()
    answer = record(settings, judged(), current="0123456789ab", store="baselines")
    assert answer.status == "pending"
    assert answer.text.startswith("MLflow at http://127.0.0.1:")
    assert "secret" not in answer.text
    assert time.monotonic() - began < 20
    assert not [name for name in os.environ if name.startswith("MLFLOW_HTTP")]


def test_one_model_version_is_meant():
    with pytest.raises(ValidationError, match="remove one of them"):
        MLflow(tracking_uri="http://mlflow", version="1", alias="champion")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """The URL of a real tracking server; its environment is made once and kept under build/."""
    python = HOME / "bin" / "python"
    ready = HOME / "ready"
    if not ready.exists():
        venv.create(HOME, with_pip=True, clear=True)
        command = [python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", SERVER]
        subprocess.run(command, check=True, timeout=900)
        ready.touch()
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW"))}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                *(python, "-I", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")),
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**environment, "MLFLOW_DISABLE_TELEMETRY": "true"},
            start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while True:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                        break
                except OSError:
                    time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 15)
            process.wait(30)


@pytest.mark.slow
def test_a_real_registry_has_version_and_judgement(server: str):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server, server)
    run = client.create_run(client.create_experiment("toy"))
    client.create_registered_model("toy")
    # The artifact that a real training would have logged; its place is all that matters here.
    client.create_model_version("toy", f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias("toy", "champion", "1")

    settings = MLflow(tracking_uri=server, alias="champion")
    store = "s3://key:secret@bucket/baselines"
    first = record(settings, judged("a" * 12), current="a" * 12, store=store, sha256="f" * 64, outcome="promoted")
    assert (first.status, first.text) == ("recorded", f"toy version 1 at {server}")
    assert record(settings, judged("a" * 12), current="a" * 12, store=store, outcome="unchanged").status == "recorded"
    rejected = judged("b" * 12, "a" * 12, "reject")
    assert record(MLflow(tracking_uri=server), rejected, current="a" * 12, store=store).status == "recorded"

    tags = client.get_model_version("toy", "1").tags
    assert tags == {
        "driftline.baseline": "a" * 12,
        "driftline.store": "s3://bucket/baselines",
        "driftline.refresh.version": "b" * 12,
        "driftline.refresh.decision": "reject",
        "driftline.refresh.outcome": "unchanged",
        "driftline.refresh.rows": "1000",
        "driftline.refresh.sha256": "f" * 64,
    }
    files = [artifact.path for artifact in client.list_artifacts(run.info.run_id, "driftline")]
    first_file = f"driftline/judgement-{'a' * 12}-first.json"
    assert files == [first_file, f"driftline/judgement-{'b' * 12}-{'a' * 12}.json"]
    kept = Path(client.download_artifacts(run.info.run_id, first_file)).read_bytes()
    assert Judgement.from_json(kept) == judged("a" * 12)

    unknown = record(MLflow(tracking_uri=server, version="7"), judged(), current=None, store=store)
    assert unknown.status == "pending"
    assert "RESOURCE_DOES_NOT_EXIST" in unknown.text
