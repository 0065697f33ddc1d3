"""`make` finds a usable Python, or says in one line what to install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FIND_PYTHON = Path(__file__).parents[2] / "tools" / "find-python"


def find(*directories: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, directories))
    return subprocess.run(
        ["/bin/sh", FIND_PYTHON], env={"PATH": path} | environment, capture_output=True, text=True, check=False
    )


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_takes_a_python_that_works(tmp_path):
    (tmp_path / "python3").symlink_to(sys.executable)
    found = find(tmp_path)
    assert found.returncode == 0
    assert found.stdout.strip() == str(tmp_path / "python3")


def test_passes_over_a_shim_with_no_version_behind_it(tmp_path):
    script(tmp_path / "python3.11", "echo 'no version is set' >&2; exit 127")
    (tmp_path / "python3").symlink_to(sys.executable)
    assert find(tmp_path).stdout.strip() == str(tmp_path / "python3")


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ('case "$2" in *ensurepip*) exit 1 ;; *) echo 3.9 ;; esac', "python3 (3.9)"),
        ('case "$2" in *ensurepip*) exit 1 ;; *) echo 3.12 ;; esac', "3.12 without the modules venv and ensurepip"),
        ("exit 1", "python3 (does not start)"),
        (None, "found none on PATH"),
    ],
)
def test_says_in_one_line_what_is_there_and_what_to_install(tmp_path, python, said):
    if python is not None:
        script(tmp_path / "python3", python)
    found = find(tmp_path)
    assert found.returncode == 1
    assert found.stdout == ""
    [line] = found.stderr.splitlines()
    assert said in line
    assert "needs Python 3.11 or newer" in line
    assert "apt install python3.11-venv" in line


def test_a_named_python_is_the_only_candidate(tmp_path):
    (tmp_path / "python3").symlink_to(sys.executable)
    found = find(tmp_path, PYTHON="/opt/none/python")
    assert found.returncode == 1
    assert "on /opt/none/python" in found.stderr
