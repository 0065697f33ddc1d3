"""What others say about the same numbers: river's sequential detectors, stock Evidently's stat tests, alibi-detect's tests."""

import json
import subprocess
import sys
import tempfile
import venv
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from river import drift
from river.drift import binary

HERE = Path(__file__).parent
ALIBI = "alibi-detect==0.13.0"
ALIBI_HOME = HERE.parent / "build" / "alibi-detect"
_SECONDS = 900

RIVER: dict[str, Any] = {
    "page_hinkley": drift.PageHinkley,
    "adwin": drift.ADWIN,
    "kswin": lambda: drift.KSWIN(seed=0),
    "ddm": binary.DDM,
    "eddm": binary.EDDM,
    "hddm_a": binary.HDDMA,
    "hddm_w": binary.HDDMW,
}
"""River's detectors of the same names, at its defaults. It has no CUSUM."""


def river_alarms(name: str, series: NDArray[np.float64]) -> list[int]:
    """The observations at which river's detector alarms."""
    detector, found = RIVER[name](), []
    for i, value in enumerate(series.tolist()):
        detector.update(value)
        if detector.drift_detected:
            found.append(i)
    return found


def evidently_tests(
    reference: NDArray[Any], methods: Sequence[str | None]
) -> Callable[[NDArray[Any]], dict[str, tuple[float, bool]]]:
    """A function from a window's raw rows to score and verdict of Evidently's stat tests; None is its own choice, ``default``.

    The tests are taken from its registry: a report of its own draws plots besides, and takes 0.1 s a column.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently.legacy.calculations.stattests import get_stattest
        from evidently.legacy.core import ColumnType
    kind = ColumnType.Numerical if np.issubdtype(reference.dtype, np.number) else ColumnType.Categorical
    old = pd.Series(reference)

    def verdicts(window: NDArray[Any]) -> dict[str, tuple[float, bool]]:
        new, found = pd.Series(window), {}
        for method in methods:
            answer = get_stattest(old, new, kind, method)(old, new, kind, None)
            found[method or "default"] = (float(answer.drift_score), bool(answer.drifted))
        return found

    return verdicts


def alibi_python() -> str | None:
    """A Python that has alibi-detect, made under build/ when it is not there yet; None when that fails.

    It needs numpy below 2, so it cannot live in the project's own environment.
    """
    python = ALIBI_HOME / "bin" / "python"
    ready = ALIBI_HOME / ALIBI
    if ready.exists():
        return str(python)
    print(f"making {ALIBI_HOME.relative_to(HERE.parent)} for {ALIBI} (1.1 GB, two minutes)", file=sys.stderr)
    try:
        venv.create(ALIBI_HOME, with_pip=True, clear=True)
        command = [str(python), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ALIBI]
        subprocess.run(command, check=True, timeout=_SECONDS, capture_output=True, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        print(f"without alibi-detect, which cannot be installed here: {said.strip()[-300:]}", file=sys.stderr)
        return None
    ready.touch()
    return str(python)


def alibi_verdicts(arrays: dict[str, NDArray[Any]], job: dict[str, Any]) -> dict[str, Any] | None:
    """What `_alibi_worker.py` answers; None when alibi-detect is not to be had."""
    python = alibi_python()
    if python is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        for name, array in arrays.items():
            np.save(Path(folder) / f"{name}.npy", array, allow_pickle=False)
        (Path(folder) / "job.json").write_text(json.dumps(job))
        # -I: what this process is told by its environment, the project's folders among it, is not for that one.
        command = [python, "-I", "-W", "ignore", str(HERE / "_alibi_worker.py"), folder]
        done = subprocess.run(command, check=False, timeout=_SECONDS, capture_output=True, text=True)
        if done.returncode:
            print(f"without alibi-detect, whose worker failed: {done.stderr.strip()[-500:]}", file=sys.stderr)
            return None
        answer: dict[str, Any] = json.loads((Path(folder) / "answer.json").read_text())
    return answer
