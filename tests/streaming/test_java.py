"""A missing or wrong Java is one line that says what to install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streaming.errors import JavaError
from streaming.java import java


@pytest.fixture(autouse=True)
def forget_java(monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    java.cache_clear()
    yield
    java.cache_clear()


@pytest.fixture
def fake_java(tmp_path, monkeypatch):
    """Puts a script in place of the `java` on PATH."""

    def fake(text: str) -> Path:
        path = tmp_path / "java"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
        return path

    return fake


@pytest.mark.parametrize("version", ["17.0.15", "17", "21.0.7", "21-ea"])
def test_accepts_17_and_21(fake_java, version):
    path = fake_java(
        f"echo 'Picked up JAVA_TOOL_OPTIONS: -Dx' >&2; echo 'openjdk version \"{version}\" 2025-04-15' >&2"
    )
    assert java() == path


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'openjdk version \"11.0.2\" 2019-01-15' >&2", "is Java 11:"),
        ("echo 'java version \"1.8.0_402\"' >&2", "is Java 8:"),
        ("echo 'openjdk version \"25\" 2025-09-16' >&2", "is Java 25:"),
        ("echo 'Unable to locate a Java Runtime.' >&2; exit 1", "it says 'Unable to locate a Java Runtime.'"),
        (
            'test "$1" = -version && echo \'openjdk version "17.0.1"\' >&2',
            "the module jdk.incubator.vector, which Spark opens and the cut-down Java 17",
        ),
    ],
)
def test_says_what_is_wrong_and_what_to_install(fake_java, script, said):
    path = fake_java(script)
    with pytest.raises(JavaError) as error:
        java()
    text = str(error.value)
    assert said in text
    assert str(path) in text
    assert "apt install openjdk-17-jre-headless" in text
    assert "\n" not in text


def test_java_home_wins(monkeypatch, fake_java, tmp_path):
    fake_java("echo 'openjdk version \"17\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(JavaError, match="found none on JAVA_HOME="):
        java()


def test_make_asks_before_anything_is_installed(tmp_path):
    """The check runs on a bare Python: no package of ours, none of others."""
    (tmp_path / "bin").mkdir()
    asked = subprocess.run(
        [sys.executable, "-S", "-m", "streaming.java"],
        cwd=Path(__file__).parents[2],
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 1
    [line] = asked.stderr.splitlines()
    assert line.startswith("driftline needs Java 17 or 21, and found none on PATH")
