"""The Java that Spark and Kafka run on. Needs nothing but Python, so that `make` can ask before it installs anything."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from streaming.errors import JavaError

SUPPORTED = (17, 21)
"""The long-term versions that both Spark 4.2 and Kafka 4.3 are tested with upstream."""

_ADVICE = (
    "install one (Debian: apt install openjdk-17-jre-headless; macOS: brew install openjdk@17) "
    "and put it on PATH or name it in JAVA_HOME"
)


@functools.cache
def java() -> Path:
    """The `java` command: that of JAVA_HOME where it is set (as Spark does), else the one on PATH.

    Raises
    ------
    JavaError
        There is none, it is neither 17 nor 21, or it lacks the module jdk.incubator.vector that Spark opens.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which(str(Path(home) / "bin" / "java")) if home else shutil.which("java")
    where = f"JAVA_HOME={home}" if home else "PATH"
    needed = "driftline needs Java 17 or 21"
    if found is None:
        raise JavaError(f"{needed}, and found none on {where}: {_ADVICE}")
    # -version answers on stderr, and so does whatever JAVA_TOOL_OPTIONS makes it say first.
    answer = _run(found, "-version")
    version = re.search(r'version "(?:1\.)?(\d+)[^"]*"', answer.stderr)
    if answer.returncode != 0 or version is None:
        said = (answer.stderr.strip().splitlines() or ["nothing"])[0]
        raise JavaError(f"{needed}, and {found} (on {where}) does not start; it says {said!r}: {_ADVICE}")
    if int(version[1]) not in SUPPORTED:
        raise JavaError(f"{needed}, and {found} (on {where}) is Java {version[1]}: {_ADVICE}")
    if _run(found, "--add-modules", "jdk.incubator.vector", "-version").returncode != 0:
        raise JavaError(
            f"{needed} with the module jdk.incubator.vector, which Spark opens and the cut-down Java {version[1]} at "
            f"{found} (on {where}) lacks: {_ADVICE}",
        )
    return Path(found)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:  # not executable after all, or for another processor
        return subprocess.CompletedProcess(command, 1, "", str(error))


if __name__ == "__main__":
    try:
        java()
    except JavaError as error:
        sys.exit(str(error))
