"""A baseline of ten million rows, beside what others make of the same file: rows per second, and the most memory.

    make bench-reference

The table has 30 features: 12 normal ones, 6 with heavy tails (lognormal, Pareto), 6 of whole numbers, 3 categorical with 20 values and 3 with
5,000. It is made once, as Parquet in row groups of 500,000 rows, and kept under build/.

Each contestant runs alone, in a process of its own. Ours is timed from the start of the process to its end: imports, reading, both passes, and
the baseline published in a store. The others are timed from the first byte they read to their last number, without imports and without the start of
Spark, so they are flattered. `whylogs` is slow, and its rate does not depend on the number of rows: it reads only the first 2,000,000.

- pandas: `read_parquet(file).describe(include="all")`; it holds the whole table.
- whylogs: a profile, row group by row group; in its own environment under build/whylogs.
- Spark: `spark.read.parquet(file).summary().collect()` on all cores of this machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
BUILD = HERE.parent / "build"
WHYLOGS = "whylogs==1.6.4"
WHYLOGS_HOME = BUILD / "whylogs"
GROUP = 500_000
FEW, MANY = 20, 5000
_MOST_FOR_WHYLOGS = 2_000_000
_SECONDS = 3600
_MIB = 1024


def table_of(group: int, rows: int) -> pa.Table:
    """The rows of one row group, the same in every run."""
    rng = np.random.default_rng([7, group])
    columns: dict[str, Any] = {f"normal{j}": rng.normal(j, 1 + j, rows) for j in range(12)}
    columns |= {f"lognormal{j}": rng.lognormal(0, 1 + j, rows) for j in range(4)}
    columns |= {f"pareto{j}": rng.pareto(1.2 + j, rows) for j in range(2)}
    columns |= {
        "digit": rng.integers(0, 10, rows),
        "thousand": rng.integers(0, 1000, rows),
        "poisson": rng.poisson(3, rows),
        "wide": rng.integers(0, 2**40, rows),
        "geometric": rng.geometric(0.01, rows),
        "bit": rng.integers(0, 2, rows),
    }
    few, many = (pa.array([f"value {k:04d}" for k in range(count)]) for count in (FEW, MANY))
    for j in range(3):
        columns[f"few{j}"] = few.take(pa.array(rng.integers(0, FEW, rows)))
        columns[f"many{j}"] = many.take(pa.array((MANY * rng.random(rows) ** 2).astype(np.int64)))
    return pa.table(columns)


def data_of(rows: int) -> Path:
    """The file with so many rows, made when it is not there."""
    path = BUILD / f"reference-{rows}.parquet"
    if path.exists():
        return path
    print(f"making {path.relative_to(HERE.parent)} ({rows * 172 / 2**20:,.0f} MiB)", file=sys.stderr)
    BUILD.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    with pq.ParquetWriter(part, table_of(0, 1).schema) as writer:
        for group, first in enumerate(range(0, rows, GROUP)):
            writer.write_table(table_of(group, min(GROUP, rows - first)), row_group_size=GROUP)
    part.replace(path)
    return path


def categorical(name: str) -> bool:
    return name.startswith(("few", "many"))


# --- The contestants, each in a process of its own -------------------------------------------------------------------


def ours(path: str) -> dict[str, Any]:
    """Build a baseline and publish it."""
    from reference.build import build
    from reference.data import Data
    from reference.schema import Column, Model
    from reference.settings import Reference
    from reference.sources import open_source
    from reference.store import Store

    names = pq.read_schema(path).names
    features = tuple(Column(name=name, type="categorical" if categorical(name) else "numeric") for name in names)
    model = Model(name="bench", features=features)
    baseline = build(open_source(Data(url=path), model), model, Reference())
    with tempfile.TemporaryDirectory() as folder:
        Store(folder).publish(baseline)
    return {"rows": baseline.rows, "version": baseline.version}


def pandas_describe(path: str) -> dict[str, Any]:
    """Read the file, describe the frame."""
    import pandas as pd

    started = time.perf_counter()
    frame = pd.read_parquet(path)
    frame.describe(include="all")
    return {"seconds": time.perf_counter() - started, "rows": len(frame), "version": pd.__version__}


def spark_summary(path: str) -> dict[str, Any]:
    """Read the file, summarise the frame."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master("local[*]")
        .config("spark.driver.memory", "8g")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    spark.range(1).count()
    started = time.perf_counter()
    rows = spark.read.parquet(path).summary().collect()
    seconds = time.perf_counter() - started
    version = spark.version
    spark.stop()
    return {"seconds": seconds, "rows": int(rows[0][1]), "version": version}


CONTESTANTS = {"ours": ours, "pandas_describe": pandas_describe, "spark_summary": spark_summary}


def whylogs_python() -> str | None:
    """A Python that has whylogs, made under build/ when it is not there yet; None when that fails."""
    python, ready = WHYLOGS_HOME / "bin" / "python", WHYLOGS_HOME / WHYLOGS
    if ready.exists():
        return str(python)
    print(f"making {WHYLOGS_HOME.relative_to(HERE.parent)} for {WHYLOGS}", file=sys.stderr)
    try:
        venv.create(WHYLOGS_HOME, with_pip=True, clear=True)
        wanted = [WHYLOGS, "pandas<3", "pyarrow"]
        command = [str(python), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        subprocess.run(command, check=True, timeout=_SECONDS, capture_output=True, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        print(f"without whylogs, which cannot be installed here: {said.strip()[-300:]}", file=sys.stderr)
        return None
    ready.touch()
    return str(python)


def run(command: list[str]) -> dict[str, Any] | None:
    """What a contestant printed last, with the seconds and MiB of its process and those that it started; None when it failed."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None  # it was asked for
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    whole = time.perf_counter() - started
    if child.returncode:
        print(f"{' '.join(command[-2:])} ended with {child.returncode}", file=sys.stderr)
        return None
    answer: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    return {
        "seconds": whole,
        **answer,
        "process_s": whole,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / _MIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rival-rows", type=int, help="rows of the file that pandas and Spark read; default: as many")
    parser.add_argument("--only", nargs="*", default=["ours", "pandas_describe", "whylogs", "spark_summary"])
    parser.add_argument("--no-write", action="store_true", help="leave the file of results as it is")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.contestant:
        print(json.dumps(CONTESTANTS[chosen.contestant](chosen.path)))
        return

    from _results import Results

    results = Results("reference")
    path, for_rivals = data_of(chosen.rows), data_of(chosen.rival_rows or chosen.rows)
    found: dict[str, dict[str, Any]] = {}
    for name in chosen.only:
        file = str(path if name == "ours" else for_rivals)
        if name == "whylogs":
            python = whylogs_python()
            most = str(min(_MOST_FOR_WHYLOGS, chosen.rival_rows or chosen.rows))
            command = (
                [] if python is None else [python, "-I", "-W", "ignore", str(HERE / "_whylogs_worker.py"), file, most]
            )
        else:
            command = [sys.executable, __file__, "--contestant", name, "--path", file]
        answer = run(command) if command else None
        if answer is not None:
            found[name] = answer
    rate = {name: answer["rows"] / answer["seconds"] for name, answer in found.items()}
    if "ours" in found:
        results.figure("rows_per_s", rate["ours"])
        for name in ("pandas_describe", "whylogs", "spark_summary"):
            if name in rate:
                results.figure(f"vs_{name}", rate["ours"] / rate[name])
        results.figure("peak_mib", found["ours"]["peak_mib"])
        results.figure("seconds", found["ours"]["seconds"])
    results.table(
        "contestants",
        [
            {
                "name": name,
                "version": answer["version"],
                "rows": answer["rows"],
                "seconds": round(answer["seconds"], 2),
                "cpu_s": round(answer["cpu_s"], 2),
                "rows_per_s": round(rate[name]),
                "peak_mib": round(answer["peak_mib"]),
            }
            for name, answer in found.items()
        ],
    )
    for name, answer in found.items():
        results.note(
            f"{name} {answer['version']}: {answer['rows']:,} rows in {answer['seconds']:.1f} s, {rate[name]:,.0f} rows/s, "
            f"{answer['cpu_s']:.1f} s of processor time, at most {answer['peak_mib']:,.0f} MiB"
        )
    if not chosen.no_write:
        results.write()
    results.show()


if __name__ == "__main__":
    main()
