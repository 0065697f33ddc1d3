"""Checkpoints that were damaged: what is said of them, and that a repaired one counts what an undamaged one counts."""

import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import fsspec
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from streaming.checkpoint import CorruptCheckpoint, check, examine, explain, repair
from streaming.kafka import ensure_topics


def write(path: Path, data: bytes) -> None:
    """A file and Hadoop's checksum of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    sums = [zlib.crc32(data[start : start + 512]) for start in range(0, len(data), 512)]
    crc(path).write_bytes(b"crc\0" + struct.pack(f">i{len(sums)}I", 512, *sums))


def crc(path: Path) -> Path:
    return path.with_name(f".{path.name}.crc")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Three finished batches, as Spark leaves them: version 1 is a snapshot, 2 and 3 are changes."""
    root = tmp_path / "checkpoint"
    write(root / "metadata", b'{"id":"100fd4b7-ec28-441f-876d-dc31e59d05d7"}')
    for batch in range(3):
        write(root / f"offsets/{batch}", b'v1\n{"batchWatermarkMs":0,"conf":{}}\n{"in":{"0":%d}}' % (100 * batch))
        write(root / f"commits/{batch}", b'v1\n{"nextBatchWatermarkMs":0}')
    schema = root / "state/0/_stateSchema/default/0_27ff"
    write(schema, b"columns")
    stores = {"stateStoreInfo": [{"storeName": "default", "stateSchemaFilePaths": [f"file:{schema}"]}]}
    write(root / "state/0/_metadata/v2/0", b"v2\n" + json.dumps(stores).encode())
    for partition in range(2):
        folder = root / f"state/0/{partition}"
        for version in range(1, 4):
            write(folder / f"{version}.changelog", os.urandom(1500))
        write(folder / "SSTs/000008-9564.sst", os.urandom(2554))
        tables = [{"localFileName": "000008.sst", "dfsSstFileName": "000008-9564.sst", "sizeBytes": 2554}]
        with zipfile.ZipFile(folder / "1.zip", "w") as archive:
            archive.writestr("OPTIONS-000007", os.urandom(3000))
            archive.writestr("metadata", "v1\n" + json.dumps({"sstFiles": tables}))
        write(folder / "1.zip", (folder / "1.zip").read_bytes())
    return root


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_whole_checkpoint_and_none_at_all_are_fine(checkpoint, tmp_path):
    assert examine(str(checkpoint), free_bytes=0) == []
    assert examine(str(tmp_path / "new"), free_bytes=0) == []
    assert repair(str(checkpoint), dry_run=False) == []
    (checkpoint / "commits/2").unlink()  # killed in the middle of batch 2
    crc(checkpoint / "commits/2").unlink()
    assert examine(str(checkpoint), free_bytes=0) == []


MENDABLE: dict[str, tuple[str, Callable[[Path], object], str, set[str]]] = {
    # what it does, to what; what is said; what is set aside
    "empty offsets": ("offsets/2", empty, "is empty", {"offsets/2", "commits/2", "state/0/0/3.changelog", "state/0/1/3.changelog"}),
    "cut offsets": ("offsets/2", half, "is cut off", {"offsets/2", "commits/2", "state/0/0/3.changelog", "state/0/1/3.changelog"}),
    "empty commits": ("commits/2", empty, "is empty", {"commits/2"}),
    "cut commits": ("commits/2", half, "is cut off", {"commits/2"}),
    "no metadata": ("metadata", Path.unlink, "is missing", set()),
    "empty metadata": ("metadata", empty, "is empty", {"metadata"}),
    "cut changes": ("state/0/1/3.changelog", half, "is cut off", {"commits/2", "state/0/0/3.changelog", "state/0/1/3.changelog"}),
    "flipped changes": ("state/0/1/3.changelog", flip, "does not match its checksum", {"commits/2", "state/0/0/3.changelog", "state/0/1/3.changelog"}),
    "no changes": ("state/0/0/3.changelog", Path.unlink, "is missing", {"commits/2", "state/0/1/3.changelog"}),
    "cut snapshot": ("state/0/0/1.zip", half, "is cut off", {"state/0/0/1.zip"}),
    "no tables": ("state/0/1/SSTs/000008-9564.sst", Path.unlink, "needs SSTs/000008-9564.sst, which is missing", {"state/0/1/1.zip"}),
    "cut tables": ("state/0/1/SSTs/000008-9564.sst", half, "which is cut off", {"state/0/1/1.zip"}),
}  # fmt: skip


@pytest.mark.parametrize("name", MENDABLE)
def test_what_can_be_mended_is_said_and_mended_and_nothing_is_deleted(name, checkpoint):
    file, damage, words, moved = MENDABLE[name]
    damage(checkpoint / file)
    problems = examine(str(checkpoint), free_bytes=0)
    assert len(problems) == 1
    assert words in problems[0].text
    assert "driftline monitor repair" in problems[0].text
    with pytest.raises(CorruptCheckpoint, match=words):
        check(str(checkpoint))
    before = files(checkpoint)
    assert "would be mended" in repair(str(checkpoint), dry_run=True)[0]
    assert files(checkpoint) == before, "a dry run touches nothing"
    assert len(repair(str(checkpoint), dry_run=False)) == 1
    assert examine(str(checkpoint), free_bytes=0) == []
    aside = checkpoint / "driftline/set-aside"
    kept = (
        {str(path.relative_to(next(aside.iterdir()))) for path in aside.rglob("*") if path.is_file()}
        if moved
        else set()
    )
    assert {path for path in kept if not path.rpartition("/")[2].startswith(".")} == moved
    assert {path for path in kept if path.endswith(".crc")} == {str(crc(Path(path))) for path in moved}


def test_the_only_batch_is_set_aside_with_all_of_the_state(checkpoint):
    """Spark begins with batch 0 only where `state` is empty, schemas and all."""
    for batch in (1, 2):
        for folder in ("offsets", "commits"):
            (checkpoint / folder / str(batch)).unlink()
            crc(checkpoint / folder / str(batch)).unlink()
    half(checkpoint / "offsets/0")
    (said,) = repair(str(checkpoint), dry_run=False)
    assert "from the beginning" in said
    assert not (checkpoint / "state").exists()
    assert list(checkpoint.glob("driftline/set-aside/*/state/0/_metadata/v2/0"))
    assert examine(str(checkpoint), free_bytes=0) == []


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


HOPELESS: dict[str, tuple[list[str], Callable[[Path], object], str]] = {
    "two batches": (["offsets/2", "offsets/1"], empty, "and offsets/1 is empty"),
    "a gap": (["offsets/1"], Path.unlink, "offsets/1, where batch 2 begins, is missing"),
    "two versions": (["state/0/0/3.changelog", "state/0/0/2.changelog"], half, "2.changelog, of the state, is cut off"),
    "no schema": (["state/0/_stateSchema/default/0_27ff"], empty, "the columns of the state, is missing or empty"),
    "no operator": (["state/0/_metadata/v2/0"], empty, "which says what the state holds, is empty"),
    "no state": (["state"], shutil.rmtree, "the open windows, is missing"),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_what_cannot_be_mended_is_left_alone(name, checkpoint):
    paths, damage, words = HOPELESS[name]
    for path in paths:
        damage(checkpoint / path)
    problems = examine(str(checkpoint), free_bytes=0)
    assert any(words in problem.text and "restore" in problem.text for problem in problems)
    before = files(checkpoint)
    assert all("left alone" in line for line in repair(str(checkpoint), dry_run=False))
    assert files(checkpoint) == before


def test_a_newer_spark_is_named_and_not_mended(checkpoint):
    write(checkpoint / "offsets/2", (checkpoint / "offsets/2").read_bytes().replace(b"v1", b"v9"))
    assert "written by another version of Spark (v9)" in examine(str(checkpoint), free_bytes=0)[0].text
    assert "left alone" in repair(str(checkpoint), dry_run=False)[0]


def test_a_checksum_without_its_file_is_set_aside(checkpoint):
    (checkpoint / "commits/2").unlink()
    assert "is a checksum without its file" in examine(str(checkpoint), free_bytes=0)[0].text
    repair(str(checkpoint), dry_run=False)
    assert not crc(checkpoint / "commits/2").exists()


def test_a_checkpoint_that_was_moved_is_told_from(checkpoint, tmp_path):
    moved = checkpoint.rename(tmp_path / "elsewhere")
    assert f"was made at file:{checkpoint}" in examine(str(moved), free_bytes=0)[0].text


def test_the_unfinished_batch_goes_too_when_the_state_below_it_is_damaged(checkpoint):
    write(checkpoint / "offsets/3", b'v1\n{"batchWatermarkMs":0,"conf":{}}\n{"in":{"0":300}}')
    half(checkpoint / "state/0/1/3.changelog")
    repair(str(checkpoint), dry_run=False)
    assert {path.name for path in (checkpoint / "offsets").glob("[0-9]*")} == {"0", "1", "2"}
    assert {path.name for path in (checkpoint / "commits").glob("[0-9]*")} == {"0", "1"}
    assert examine(str(checkpoint), free_bytes=0) == []


def test_an_object_store_is_examined_and_repaired_as_well(checkpoint):
    fs = fsspec.filesystem("memory")
    fs.put(str(checkpoint), "/bucket/checkpoint", recursive=True)
    place = "memory://bucket/checkpoint"
    assert examine(place) == []
    fs.pipe_file("/bucket/checkpoint/commits/2", b"")
    assert "is empty" in examine(place)[0].text
    repair(place, dry_run=False)
    assert examine(place) == []
    fs.rm("/bucket", recursive=True)


def test_a_short_disk_is_a_warning_and_a_full_or_forbidden_one_is_fatal(checkpoint, monkeypatch):
    problem, *none = examine(str(checkpoint), free_bytes=1 << 62)
    assert ("MB free" in problem.text, problem.fatal, none) == (True, False, [])

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.pipe_file", full)
    problem, *none = examine(str(checkpoint), free_bytes=0)
    assert ("a disk is full" in problem.text, problem.fatal, none) == (True, True, [])


def test_a_file_where_the_checkpoint_should_be_is_fatal(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in examine(str(tmp_path / "file"))[0].text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("java.io.IOException: No space left on device", "a disk is full"),
        ("org.apache.kafka.common.errors.TimeoutException: Timed out waiting for a node assignment. Call: describeTopics", "Kafka does not answer"),
        ("Partition toy-inference-0's offset was changed from 100 to 0, some data may have been missed.\nSome data may have been lost", "Kafka no longer has messages"),
        ("Error: UnknownTopicOrPartitionException: This server does not host this topic-partition.", "a topic is gone"),
        ("[CANNOT_LOAD_STATE_STORE.UNCATEGORIZED] An error occurred during loading state.  SQLSTATE: 58030", "state are damaged or missing"),
        ("Failed to read log file file:/x/offsets/3. Incomplete log file", "a log of the checkpoint"),
        ("Failed to read log file file:/x/offsets/3. [INVALID_LOG_VERSION.MAX_SUPPORTED_VERSION] UnsupportedLogVersion.", "a newer Spark"),
        ("batch 2 doesn't exist", "a log of the checkpoint"),
        ("[CONCURRENT_STREAM_LOG_UPDATE] Concurrent update to the log.", "another query writes"),
        ("java.lang.OutOfMemoryError: Java heap space", "the JVM is out of memory"),
        ("org.apache.spark.SparkException: Python worker exited unexpectedly (crashed)", "a Python worker died"),
        ("[STREAMING_PYTHON_RUNNER_INITIALIZATION_FAILURE] Streaming Runner initialization failed", "cannot import Driftline"),
    ],
)  # fmt: skip
def test_failures_are_explained_in_one_line(text, said):
    sentence = explain(text)
    assert said in sentence
    assert "\n" not in sentence


def test_an_unknown_failure_is_not_explained_and_causes_are_read():
    assert explain("something else") is None
    outer = RuntimeError("the query failed")
    outer.__cause__ = OSError(28, "No space left on device")
    assert "a disk is full" in explain(outer)
    assert "the JVM died" in explain(ConnectionRefusedError(111, "Connection refused"))


# ---------------------------------------------------------------------------------------------------------------------
# A query of Spark's own with state in RocksDB, so that this holds whatever the monitor's stages are.
QUERY = """
import json, sys
from pyspark.sql import SparkSession
from streaming.checkpoint import explain
from streaming.jars import jars

servers = sys.argv[1]
spark = (
    SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", "2")
    .config("spark.jars", ",".join(map(str, jars("spark-kafka"))))
    .config("spark.sql.streaming.stateStore.providerClass", "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider")
    .config("spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled", "true")
    .getOrCreate()
)
for checkpoint, target in map(json.loads, sys.stdin):
    lines = (
        spark.readStream.format("kafka").option("kafka.bootstrap.servers", servers).option("subscribe", "repair-in")
        .option("startingOffsets", "earliest").option("maxOffsetsPerTrigger", "100").load()
    )
    counts = lines.groupBy("key").count().selectExpr("key", "cast(count as string) as value")
    said = None
    try:
        query = (
            counts.writeStream.format("kafka").option("kafka.bootstrap.servers", servers).option("topic", target)
            .option("checkpointLocation", checkpoint).outputMode("update").trigger(availableNow=True).start()
        )
        query.awaitTermination()
    except Exception as error:
        said = explain(error) or repr(error)
    print("said", json.dumps(said), flush=True)
"""
DAMAGES: dict[str, tuple[list[str], Callable[[Path], object], str]] = {
    "offsets-half": (["offsets/3"], half, "a log of the checkpoint"),
    "commits-half": (["commits/3"], half, "a log of the checkpoint"),
    "metadata-empty": (["metadata"], empty, "a log of the checkpoint"),
    "changes-half": (["state/0/0/4.changelog", "state/0/1/4.changelog"], half, "state are damaged"),
    "checksum-alone": (["commits/3"], Path.unlink, "driftline monitor repair"),
}


@pytest.mark.spark
def test_a_repaired_checkpoint_counts_what_an_undamaged_one_counts(kafka, tmp_path):
    """Spark refuses each damaged checkpoint, for a reason that we put into words; repaired, it goes on and no count is off."""
    producer = Producer(kafka.connection.for_confluent())
    truth: Counter[str] = Counter()

    def produce(first: int, last: int) -> None:
        for number in range(first, last):
            truth[f"key-{number % 7}"] += 1
            producer.produce("repair-in", b"x", f"key-{number % 7}", partition=0)
        producer.flush()

    topics = ["repair-in", *(f"repair-{name}" for name in ("base", *DAMAGES))]
    ensure_topics(kafka.connection, topics, timeout=timedelta(seconds=60))
    log = (tmp_path / "log").open("w")
    with subprocess.Popen(
        [sys.executable, "-c", QUERY, kafka.bootstrap_servers],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    ) as process:

        def run(checkpoint: Path, target: str) -> str | None:
            """Run the query until it has read all there is; how its failure is explained."""
            process.stdin.write(json.dumps([str(checkpoint), target]) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith("said "):
                    return json.loads(line[5:])
            pytest.fail((tmp_path / "log").read_text()[-3000:])

        produce(0, 400)
        base = tmp_path / "base"
        assert run(base, "repair-base") is None
        assert max(int(path.name) for path in (base / "commits").glob("[0-9]*")) == 3
        assert examine(str(base), free_bytes=0) == []
        produce(400, 500)
        for name, (paths, damage, words) in DAMAGES.items():
            place = Path(shutil.copytree(base, tmp_path / name))
            for path in paths:
                damage(place / path)
            assert examine(str(place), free_bytes=0), name
            assert words in (run(place, f"repair-{name}") or "it went on"), name
            repair(str(place), dry_run=False)
            assert examine(str(place), free_bytes=0) == [], name
            assert run(place, f"repair-{name}") is None, name
            assert last_counts(kafka, f"repair-{name}") == truth, name
        process.stdin.close()
    log.close()


def last_counts(broker, topic: str) -> dict[str, int]:
    """The newest count of each key."""
    consumer = Consumer({**broker.connection.for_confluent(), "group.id": "read", "enable.partition.eof": True})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    found: dict[str, int] = {}
    ended = 0
    while ended < len(partitions):
        record = consumer.poll(10)
        assert record is not None
        if record.error():
            ended += 1
        else:
            found[record.key().decode()] = int(record.value())
    consumer.close()
    return found
