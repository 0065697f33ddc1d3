"""docs/adding-a-detector.md works as it is written: in a copy of the repository, by nothing but its three steps."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/adding-a-detector.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for room in ("detectors", "reference", "streaming", "workflows", "tests"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    blocks = re.findall(r"(?:`([\w/]+\.py)`[^\n]*\n\n)?```python\n(.*?)```", PAGE, re.DOTALL)
    files = {path: text for path, text in blocks if path.endswith(("mean_shift.py",))}
    assert len(files) == 2
    for path, text in files.items():
        (folder / path).write_text(text, encoding="utf-8")
    import_line, name_line = (text for path, text in blocks if path not in files)
    catalogue = folder / "detectors/drift/__init__.py"
    text = catalogue.read_text(encoding="utf-8")
    for line, before in ((import_line, "from detectors.drift.psi"), (name_line, '}\n"""Every drift method')):
        assert text.count(before) == 1
        text = text.replace(before, line + before)
    catalogue.write_text(text, encoding="utf-8")
    return folder


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_its_own_test_the_laws_and_the_rules_of_docstrings_hold(copy):
    said = run(
        copy,
        *(
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            "mean_shift",
            "tests/detectors/drift/test_mean_shift.py",
        ),
        *("tests/detectors/drift/test_laws.py", "tests/detectors/test_docstrings.py"),
    )
    (passed,) = re.findall(r"(\d+) passed", said)
    assert int(passed) > 15


def test_the_catalogue_and_a_model_monitor_know_it(copy):
    listed = json.loads(run(copy, "-m", "workflows.cli", "detectors", "list", "--json"))
    names = json.dumps(listed)
    assert "mean_shift" in names
    code = (
        "from detectors.drift import DRIFT; from streaming.spec import parse; "
        "text = 'apiVersion: driftline.io/v1\\nkind: ModelMonitor\\nmetadata: {name: m}\\nspec:\\n  model: {features: "
        "[{name: x, type: numeric}]}\\n  drift: {methods: [{name: mean_shift, threshold: 0.5}]}\\n'; "
        "print(parse(text, 'm.yaml').spec.drift.methods[0].threshold, DRIFT['mean_shift'].__module__)"
    )
    assert run(copy, "-c", code).split() == ["0.5", "detectors.drift.mean_shift"]
