"""More executors, and what things cost: a Spark standalone cluster on this machine, and the cost of messages, windows and labels.

    make bench-scale                                # 6 minutes, writes the tables of docs/sizing.md, too
    make bench-scale ARGS="--scale 0.05"            # a try, which writes nothing
    make bench-scale ARGS=--page                    # only writes the tables anew, from benchmarks/results/*.json

(a) A master and two workers of one core each, started by pyspark's own script (`bin/spark-class`). One topic of eight partitions, 800,000
messages of 4 features and the first 100,000 to warm up, is drained by the monitor with one executor, with two, and by `local[2]`, each
with a checkpoint of its own. The final reports of all three must be equal: counts and histograms exactly, moments and drift scores to
1e-12. The driver and Kafka share the cores with the executors, so two executors cannot be twice as fast here.
(b) Processor time of the two stages in Python, without Spark and Kafka, for models of 1 to 64 features: straight lines through what
a message, a report and a segment take. And of predictions that wait for their labels.
"""

import argparse
import contextlib
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
from _costs import costs
from _results import Results
from _sizing_page import write as write_page
from _stream import (
    bodies_of,
    broker_in,
    fill,
    limited,
    monitor_of,
    publish,
    rate,
    records,
    running,
    task_of,
    wait_for,
)

from streaming.broker import EmbeddedKafka
from streaming.job import session, start

PARTITIONS = 8
BATCH = 100_000
WINDOW = {"duration": "1m", "watermarkDelay": "5s"}
INFERENCE = "scale-inference"
_EQUAL = 1e-12
_VARIES = frozenset({"id", "model", "detectedAt", "revision", "baseline"})
"""What two runs may say differently: when, which model's name, and in how many revisions."""


@contextlib.contextmanager
def cluster(folder: Path, workers: int) -> Iterator[str]:
    """A master and workers of one core each; gives the master's address."""
    import pyspark

    home = Path(pyspark.__file__).parent
    script = str(home / "bin" / "spark-class")
    environment = {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_NO_DAEMONIZE": "1"}
    deploy = "org.apache.spark.deploy"
    log = folder / "master.log"
    command = [script, f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(running(command, log, **environment))
        said = wait_for(
            lambda: re.search(r"Starting Spark master at (spark://\S+)", log.read_text()), master, log, 60, "the master"
        )
        for number in range(workers):
            its = folder / f"worker{number}.log"
            command = [script, f"{deploy}.worker.Worker", "--host", "127.0.0.1", "--webui-port", "0", "--cores", "1"]
            command += ["--memory", "2g", "--work-dir", str(folder / f"work{number}"), said[1]]
            worker = stack.enter_context(running(command, its, **environment))
            wait_for(partial(_has_registered, its), worker, its, 60, "a worker")
        yield said[1]


def _has_registered(log: Path) -> bool:
    return "Successfully registered with master" in log.read_text()


def processor_time() -> dict[str, float]:
    """Processor seconds so far of the JVMs that run tasks, and of Python workers, of this benchmark."""
    spent = {"jvm": 0.0, "python": 0.0}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            times = process.cpu_times()
            if "CoarseGrainedExecutorBackend" in command and process.name() == "java":
                spent["jvm"] += times.user + times.system
            elif "pyspark.daemon" in command:
                spent["python"] += times.user + times.system + times.children_user + times.children_system
    return spent


def drained(
    folder: Path, broker: EmbeddedKafka, name: str, master: str, executors: int, total: int, batch: int
) -> dict[str, float]:
    """Drain the topic once; messages a second, and processor time of a message, us."""
    print(f"{name}: {master}, {executors} executors", flush=True)
    monitor = monitor_of(
        folder / "models",
        name,
        broker,
        4,
        partitions=PARTITIONS,
        window=WINDOW,
        kafka={
            "bootstrapServers": broker.bootstrap_servers,
            "partitions": PARTITIONS,
            "topics": {"inference": INFERENCE},
        },
        job={
            "master": master,
            "executors": {"instances": executors, "memory": "1g"},
        },
    )
    publish(monitor, rng=np.random.default_rng(7))
    before: dict[str, float] = {}
    spark = session(monitor)
    try:
        query = start(spark, monitor, task_of(monitor), monitor.inputs, batch)
        speed = rate(query, total, 400, lambda: before.update(processor_time()))
        spent = processor_time()
    finally:
        spark.stop()
    after_first = total - batch
    return {"rate": speed, **{kind: (spent[kind] - before[kind]) / after_first * 1e6 for kind in spent}}


def finals(broker: EmbeddedKafka, name: str, kind: str) -> dict[str, dict[str, Any]]:
    """Start of a window -> what its final report says, but for what may differ between two runs."""
    found = {}
    for _, record in records(broker, f"{name}-{kind}", dict):
        if record["status"] == "final":
            found[record["window"]["start"]] = {key: value for key, value in record.items() if key not in _VARIES}
    return found


def differences(one: Any, other: Any, at: str = "") -> Iterator[str]:
    """Where two reports differ: whole numbers and words by anything, other numbers by more than 1e-12 of their size."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted(one.keys() | other.keys()):
            yield from differences(one.get(key), other.get(key), f"{at}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            yield from differences(mine, theirs, f"{at}[{place}]")
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=_EQUAL, abs_tol=_EQUAL):
            yield f"{at}: {one!r} and {other!r}"
    elif one != other:
        yield f"{at}: {one!r} and {other!r}"


def executors(folder: Path, broker: EmbeddedKafka, results: Results, scale: float) -> None:
    """Part (a)."""
    batch = max(int(BATCH * min(1.0, 4 * scale)), 2000)
    total = int(800_000 * scale) + batch
    warm = monitor_of(folder / "models", "scale", broker, 4, partitions=PARTITIONS)
    publish(warm, rng=np.random.default_rng(7))
    print(f"writing {total:,} messages", flush=True)
    fill(broker, INFERENCE, total, bodies_of(np.random.default_rng(8), 1, 4, one_in=1000), PARTITIONS)
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    with cluster(folder, 2) as master:
        one = drained(folder, broker, "one", master, 1, total, batch)
        two = drained(folder, broker, "two", master, 2, total, batch)
    local = drained(folder, broker, "local", "local[2]", 2, total, batch)
    windows = 0
    for kind in ("statistics", "drift"):
        expected = finals(broker, "one", kind)
        assert expected, f"no window has closed: {total:,} messages are too few"
        windows = len(expected)
        for name in ("two", "local"):
            other = finals(broker, name, kind)
            # A report less is a window that closes with the next batch.
            assert expected.keys() == other.keys(), (
                f"{kind}: other windows with {name}: {sorted(expected.keys() ^ other.keys())}"
            )
            found = next(differences(expected, other), None)
            assert found is None, f"{kind} of one executor and of {name}: {found}"
    results.note(
        f"{windows} windows of a minute: final statistics and drift of 1 executor, 2 executors and local[2] are equal"
    )
    results.figure("messages_per_s_1", one["rate"])
    results.figure("messages_per_s_2", two["rate"])
    results.figure("messages_per_s_local_2", local["rate"])
    results.figure("speed_up_2_executors", two["rate"] / one["rate"])
    results.figure("executor_jvm_us_per_message", one["jvm"])
    results.figure("executor_python_us_per_message", one["python"])
    results.figure("windows_equal", windows)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--scale", type=float, default=1.0, help="share of the messages")
    arguments.add_argument(
        "--only", choices=["executors", "costs"], help="measure one part anew, keep the other's figures"
    )
    arguments.add_argument("--page", action="store_true", help="only write the tables of docs/sizing.md anew")
    chosen = arguments.parse_args()
    if chosen.page:
        write_page()
        return
    results = Results("scale")
    with (
        limited(1500),
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        broker_in(Path(folder)) as broker,
    ):
        if chosen.only != "executors":
            costs(Path(folder), broker, results, chosen.scale)
        if chosen.only != "costs":
            executors(Path(folder), broker, results, chosen.scale)
    if chosen.scale == 1.0:
        results.write(keep=chosen.only is not None)
        write_page()
    results.show()


if __name__ == "__main__":
    main()
