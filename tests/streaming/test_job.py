"""The one query on a real Spark and a real Kafka: bad input, kill and resume, graceful stop."""

import base64
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import toy
from confluent_kafka import Producer
from live import envelope, finals, read, running, stop, wait_for

from detectors.statistics.quantiles import RANK_ERROR
from streaming import plan
from streaming.job import prepare_topics
from streaming.spec import ModelMonitor, parse

pytestmark = pytest.mark.spark
WINDOW = "{duration: 10s, watermarkDelay: 4s, idleTimeout: 8s, emitEvery: 500ms}"


def config(folder: Path, broker, run: str, window: str = WINDOW, **sections) -> tuple[Path, ModelMonitor]:
    """A ModelMonitor with outputs of its own, its baseline published and its topics there."""
    folder.mkdir(parents=True, exist_ok=True)
    outputs = ", ".join(f"{kind}: '{run}-{kind}'" for kind in ("outliers", "statistics", "drift", "deadletter"))
    text = toy.document(
        folder,
        kafka=f"{{bootstrapServers: '{broker.bootstrap_servers}', topics: {{inference: '{run.partition('_')[0]}-in', {outputs}}}}}",
        window=window,
        **{"outliers": "{detectors: [bounds, unseen_category, missing, nonfinite]}", **sections},
    )
    path = folder / f"{run}.yaml"
    path.write_text(text)
    monitor = parse(text, str(path))
    toy.publish(monitor)
    prepare_topics(monitor)
    return path, monitor


def test_bad_messages_end_in_the_dead_letter_topic_and_good_ones_are_all_counted(kafka, tmp_path):
    path, monitor = config(tmp_path, kafka, "hostile")
    now = int(time.time() / 10) * 10 - 20.0
    good = [envelope(i, now + i * 0.01, [[10.0 + i % 3, "ATL"]]) for i in range(600)]
    ce = {"ce_specversion": "1.0", "ce_id": "x", "ce_source": "s", "ce_type": "org.kubeflow.serving.inference.request"}
    week = now - 7 * 86_400
    bad = {
        "empty": b"",
        "malformed_json": b'{"type":"request","id":"t","time":1,"payl',
        "wrong_arity": envelope(9001, now, [[1.0, "ATL", 3.0]]),
        "wrong_type": envelope(9002, now, [["eleven", "ATL"]]),
        "too_large": envelope(9003, now, [[1.0, "x" * 10_000_000]]),
        "future": envelope(9004, 32503680000.0, [[1.0, "ATL"]]),
    }
    counted = [
        b'{"type":"request","id":"nan","time":%f,"payload":{"instances":[[NaN,"ATL"]]}}' % now,
        envelope(9005, now, [[None, "ATL"]]),
        envelope(9006, now, [[10.0, "never seen"]]),
    ]
    with running(path) as process:
        producer = Producer({**kafka.connection.for_confluent(), "message.max.bytes": 20_000_000})
        topic = monitor.topics.inference
        for i, value in enumerate(good):
            producer.produce(topic, value, partition=i % 4)
            if i % 100 == 50:
                for other in (*bad.values(), *counted) if i == 50 else ():
                    producer.produce(topic, other, partition=i % 4)
        unknown = {**ce, "ce_inferenceservicename": "another", "ce_time": "2026-01-01T00:00:00Z"}
        producer.produce(topic, b'{"instances":[[1,"ATL"]]}', headers=list(unknown.items()), partition=0)
        producer.flush()
        log = path.with_suffix(".log")
        statistics = wait_for(
            lambda: [r for r in read(kafka, monitor.topics.statistics) if r["status"] == "final"], process, log
        )
        producer.produce(topic, envelope(9007, week, [[10.0, "ATL"]]), partition=0)  # its window has long closed
        producer.produce(topic, envelope(9008, now + 40, [[10.0, "ATL"]]), partition=0)
        producer.flush()
        reasons = {*bad, "unknown_model", "late"}
        wait_for(lambda: reasons <= {r["reason"] for r in read(kafka, monitor.topics.deadletter)}, process, log)
        wait_for(lambda: any(r["counts"]["late"] == 1 for r in read(kafka, monitor.topics.statistics)), process, log)
        assert stop(process) == 0
    dead = read(kafka, monitor.topics.deadletter)
    by_reason = {record["reason"]: record for record in dead}
    assert set(by_reason) == reasons
    assert len(dead) == len(reasons), "each of them once"
    for reason, value in bad.items():
        assert base64.b64decode(by_reason[reason]["value"] or "") == value, reason
    assert base64.b64decode(by_reason["late"]["value"]) == envelope(9007, week, [[10.0, "ATL"]])
    counts = [r["counts"] for r in statistics]
    assert sum(c["requests"] for c in counts) == len(good) + len(counted)
    assert (sum(c["missing"] for c in counts), sum(c["nonfinite"] for c in counts)) == (1, 1)
    assert sum(c["dead"] for c in counts) == 2  # wrong_arity and wrong_type; the others tell no time of this model
    outliers = {r["requestId"]: r for r in read(kafka, monitor.topics.outliers)}
    assert outliers["id-9006"]["detector"] == "unseen_category"
    assert outliers["id-9006"]["features"][0]["value"] == "never seen"
    assert {outliers["id-9005"]["detector"], outliers["nan"]["detector"]} == {"missing", "nonfinite"}


EVERYTHING = {
    "model": "{features: [{name: x, type: numeric}, {name: where, type: categorical}, {name: y, type: numeric}]}",
    "outliers": "{detectors: [bounds, unseen_category, missing, nonfinite, mahalanobis]}",
    "drift": "{methods: [auto, es], multivariate: [gaussian, mmd_rff], minWindows: 2, correction: benjaminiHochberg}",
    "sequential": "[{column: x, detector: adwin}, {outliers: mahalanobis, detector: ddm}, {count: requests, detector: kswin}, "
    "{column: x, statistic: mean, detector: {name: page_hinkley, minInstances: 2, threshold: 1}}]",
    "traffic": "{detectors: [near_duplicates, extraction], client: {feature: where}}",
}


def test_a_killed_monitor_resumes_with_equal_final_reports(kafka, tmp_path):
    """SIGKILL of driver, JVM and workers in mid-stream, three times; the other run is left alone."""
    calm_path, calm = config(tmp_path / "calm", kafka, "kill_calm", **EVERYTHING)
    path, hurt = config(tmp_path / "hurt", kafka, "kill_hurt", **EVERYTHING)
    rng = np.random.default_rng(3)
    begin = int(time.time() / 10) * 10 - 100.0
    count, seconds = 12_000, 60
    producer = Producer(kafka.connection.for_confluent())

    def send(first: int, last: int) -> None:
        for i in range(first, last):
            at = begin + seconds * i / count
            x = rng.normal(10 + 3 * (i > count / 2), 2.0)
            producer.produce(
                calm.topics.inference,
                envelope(i, at, [[round(x, 3), str(rng.choice(["ATL", "JFK", "LAX"])), round(rng.normal(0, 1), 3)]]),
                partition=i % 4,
            )
            producer.poll(0)
        producer.flush()

    log = path.with_suffix(".log")
    sent = 0
    for part in range(3):
        with running(path) as process:
            already = len(read(kafka, hurt.topics.statistics))
            for _ in range(4):
                send(sent, sent + 1000)
                sent += 1000
                time.sleep(0.4)
            wait_for(lambda n=already: len(read(kafka, hurt.topics.statistics)) > n, process, log)
            time.sleep(0.3 * part)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    windows = 6

    def done(monitor):
        return len(finals(read(kafka, monitor.topics.drift))) == windows

    before = len(log.read_text())
    with running(path) as process:
        # All may have been done before it was killed: then it has to be up before it can be told to stop.
        wait_for(lambda: done(hurt) and "reading from" in log.read_text()[before:], process, log)
        assert stop(process) == 0
    with running(calm_path) as process:
        wait_for(lambda: done(calm), process, calm_path.with_suffix(".log"))
        assert stop(process) == 0

    for topic in ("statistics", "drift"):
        one = finals(read(kafka, getattr(calm.topics, topic)))
        other = finals(read(kafka, getattr(hurt.topics, topic)))
        assert set(one) == set(other)
        for key, record in one.items():
            if topic == "drift":
                assert record["columns"] == other[key]["columns"], key
                assert record["rows"] == other[key]["rows"] == count / windows
                for answers in ("sequential", "traffic", "multivariate", "alarm"):
                    _assert_alike(record[answers], other[key][answers])
            else:
                assert record["counts"] == other[key]["counts"]
                _assert_close(record["columns"], other[key]["columns"])
    last = max(one)
    assert {s["series"]: s["observations"] for s in one[last]["sequential"]} == {
        "x": count, "flagged by mahalanobis": count, "requests": windows, "mean of x": windows
    }  # fmt: skip
    assert any(s["drifted"] for record in one.values() for s in record["sequential"] if s["series"] == "x")
    ids = [record["id"] for record in read(kafka, hurt.topics.outliers)]
    assert set(ids) == {record["id"] for record in read(kafka, calm.topics.outliers)}
    assert len(set(ids)) > count / 10


def _assert_alike(calm, hurt) -> None:
    """The same but for rounding: sums of floats depend on their order in the last digits."""
    if isinstance(calm, dict):
        assert calm.keys() == hurt.keys()
        for key, value in calm.items():
            _assert_alike(value, hurt[key])
    elif isinstance(calm, list):
        for one, other in zip(calm, hurt, strict=True):
            _assert_alike(one, other)
    elif isinstance(calm, float):
        assert hurt == pytest.approx(calm, rel=1e-6, abs=1e-9)
    else:
        assert calm == hurt


def _assert_close(calm: list[dict], hurt: list[dict]) -> None:
    """Counts to the bit, moments to 1e-12, percentiles within the sketch's bound."""
    for one, other in zip(calm, hurt, strict=True):
        assert (one["count"], one["distribution"], one["categories"]) == (
            other["count"],
            other["distribution"],
            other["categories"],
        )
        for name, value in one["values"].items():
            if name in {"min", "max", "mean", "stddev"} and value is not None:
                assert other["values"][name] == pytest.approx(value, rel=1e-12)
            elif name.startswith("p"):  # values are spread over about 6 standard deviations of 2
                assert other["values"][name] == pytest.approx(value, abs=12 * 4 * RANK_ERROR)


def test_a_stopped_monitor_goes_on_where_it_was(kafka, tmp_path):
    path, monitor = config(tmp_path, kafka, "stop", WINDOW.replace("idleTimeout: 8s", "idleTimeout: 5m"))
    now = int(time.time() / 10) * 10 - 20.0
    producer = Producer(kafka.connection.for_confluent())
    log = path.with_suffix(".log")
    for half in range(2):
        for i in range(100):
            producer.produce(monitor.topics.inference, envelope(half * 100 + i, now + half + i / 100, [[10.0, "ATL"]]))
        producer.flush()
        expected = 100 * (half + 1)
        with running(path) as process:
            wait_for(
                lambda n=expected: any(r["counts"]["requests"] == n for r in read(kafka, monitor.topics.statistics)),
                process,
                log,
            )
            assert stop(process) == 0
    said = log.read_text()
    assert "Traceback" not in said
    assert "TaskKilled" not in said, "the last batch was not interrupted"


def test_a_checkpoint_with_other_partitions_is_refused_before_spark_starts(kafka, tmp_path):
    path, monitor = config(
        tmp_path, kafka, "stamp", job=f"{{checkpoint: {tmp_path / 'checkpoint'}, statePartitions: 3}}"
    )
    plan.write(monitor.spec.job.checkpoint, plan.Plan(state_partitions=2))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "workflows.cli", "monitor", "run", "--config", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "has 2 partitions, and spec.job.statePartitions is 3" in done.stderr
    assert "spec.job.checkpoint a new directory" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 30


def test_times_are_rfc3339(kafka, tmp_path):
    from streaming.pane import rfc3339

    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(-1) == "1969-12-31T23:59:59.999Z"
    assert datetime.fromisoformat(rfc3339(1_700_000_000_123)).timestamp() == 1_700_000_000.123
    assert rfc3339(2**62).startswith("9999")
