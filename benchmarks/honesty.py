"""Whether detectors keep their word: false alarms on clean data, delays on streams that change where we know it.

    make bench-honesty                               # everything, about 15 minutes on one core
    make bench-honesty ARGS="--only summaries"       # some parts anew, the figures of the others are kept
    make bench-honesty ARGS="--windows 500 --series 2" # a quick look; writes nothing

Rates are counted over 10,000 clean windows, with the counts that chance allows if the nominal rate is the true one. Beside ours are
river's sequential detectors, Evidently's tests and alibi-detect's, on the same numbers; alibi-detect lives in an environment of its own,
made once under build/ (without network, the benchmark goes on without it). Everything is seeded.
Writes benchmarks/results/honesty.json, and its tables into docs/honesty.md.
"""

import argparse
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

# One core, as a Spark worker has it: BLAS reads this when numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import _delays as delays
import _false_alarms as alarms
import _honesty_page as page
import numpy as np
from _results import Results
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

WINDOWS, SERIES = 10_000, 10
OTHERS = ("numpy", "scipy", "scikit-learn", "river", "evidently")
Found = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the benchmark that can be run alone."""

    steps: Callable[[int, int], float]
    """How much it will tell of, for so many windows and series."""
    measure: Callable[[np.random.Generator, int, int, alarms.Tell], Found]
    """From random numbers, windows, series and whom to tell of progress to tables."""


def of_trials(key: str, trials: Sequence[alarms.Trial]) -> Part:
    def measure(rng: np.random.Generator, windows: int, _: int, tell: alarms.Tell) -> Found:
        return {key: [row for trial in trials for count in trial.run(rng, windows, tell) for row in count.rows()]}

    return Part(lambda windows, _: sum(trial.windows(windows) for trial in trials), measure)


def of_windows(
    key: str, steps: float, measure: Callable[[np.random.Generator, int, alarms.Tell], list[dict[str, Any]]]
) -> Part:
    """A part that looks at so many windows for each one that is asked for."""
    return Part(lambda windows, _: steps * windows, lambda rng, windows, _, tell: {key: measure(rng, windows, tell)})


def sequential(_: np.random.Generator, __: int, series: int, tell: alarms.Tell) -> Found:
    return {
        "sequential_false_alarms": delays.false_alarms(series, tell),
        "sequential_delays": delays.sequential(series, tell),
    }


def by_window(_: np.random.Generator, __: int, series: int, tell: alarms.Tell) -> Found:
    columns, tables, versions = delays.by_window(_half(series), tell)
    return {
        "windows": columns,
        "tables": tables,
        "alibi": [{"package": name, "version": number} for name, number in versions.items()],
    }


def _half(series: int) -> int:
    return max(series // 2, 1)


PARTS = {
    "values": of_trials("values", alarms.TRIALS),
    "summaries": of_trials("summaries", alarms.FROM_SUMMARIES),
    "warned": of_trials("warned", alarms.WARNED),
    "reference": of_windows("reference", 3, alarms.kept_reference),
    "corrected": of_windows("corrected", 2.2, alarms.corrected),
    "multivariate": of_windows("multivariate", 6 + 1 / 30, alarms.multivariate),
    "outliers": of_windows("outliers", 4, alarms.outliers),
    "sequential": Part(lambda _, series: 51 * series, sequential),
    "windows": Part(lambda _, series: 41 * _half(series), by_window),
}


def measured(results: Results, parts: Sequence[str], windows: int, series: int) -> None:
    """Measure these parts, with a line of progress for each on a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for part in parts:
            steps = PARTS[part].steps(windows, series)
            task = progress.add_task(part, total=steps)
            begin = time.perf_counter()
            # Each part has random numbers of its own, so that it comes out the same alone.
            rng = np.random.default_rng(zlib.crc32(part.encode()))
            for key, rows in PARTS[part].measure(rng, windows, series, teller(progress, task)).items():
                results.table(key, rows)
            results.figure(f"{part}_s", time.perf_counter() - begin)
            progress.update(task, completed=steps)


def teller(progress: Progress, task: TaskID) -> alarms.Tell:
    return lambda advance: progress.advance(task, advance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, help="measure these parts anew, keep the others' figures")
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--series", type=int, default=SERIES)
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page from the results")
    chosen = parser.parse_args()
    if chosen.page:
        page.write()
        return
    results = Results("honesty")
    measured(results, chosen.only or [*PARTS], chosen.windows, chosen.series)
    results.table("versions", [{"package": name, "version": version(name)} for name in OTHERS])
    if (chosen.windows, chosen.series) == (WINDOWS, SERIES):
        tables = json.loads(results.write(keep=chosen.only is not None).read_text())["tables"]
        page.write()
    else:
        tables = results.tables
        json.dump(tables, sys.stdout, indent=1)
    for line in page.findings(tables):
        results.note(line)
    results.show()


if __name__ == "__main__":
    main()
