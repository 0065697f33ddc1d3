"""`driftline traffic`: to a model server, to the real logger, to a real Kafka; Ctrl-C; what it refuses."""

import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, TopicPartition

from workflows.cli import main

ROWS = 600


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    rows = range(ROWS)
    columns = {
        "length": [i / 10 if i % 20 else None for i in rows],
        "colour": ["red" if i % 4 else "blue" for i in rows],
        "species": ["setosa" if i % 3 else "virginica" for i in rows],
        "at": pa.array([1_700_000_000 + i for i in rows], pa.timestamp("s")),
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def config(tmp_path: Path, table: Path) -> Path:
    return written(tmp_path, table)


def written(folder: Path, table: Path, bootstrap: str = "localhost:1", name: str = "iris") -> Path:
    path = folder / "monitor.yaml"
    path.write_text(
        f"""\
apiVersion: driftline.io/v1
kind: ModelMonitor
metadata: {{name: {name}}}
spec:
  model:
    features:
      - {{name: length, type: numeric}}
      - {{name: colour, type: categorical}}
    predictions:
      - {{name: species, type: categorical}}
  kafka: {{bootstrapServers: "{bootstrap}", topicTimeout: 5s}}
  reference:
    store: {folder / "baselines"}
    data: {{url: {table}, time: at}}
  logger: {{port: 0}}
"""
    )
    return path


class Server(http.server.ThreadingHTTPServer):
    """Answers each post with 200, and keeps it."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 200
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(server.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    it = Server()
    thread = threading.Thread(target=it.serve_forever, args=(0.05,))
    thread.start()
    yield it
    it.shutdown()
    thread.join()
    it.server_close()


def summary(capsys, *arguments: object, code: int = 0) -> dict:
    assert main(["traffic", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def records(bootstrap: str, topic: str) -> list:
    """Everything in a topic."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "enable.auto.commit": False})
    try:
        numbers = consumer.list_topics(topic).topics[topic].partitions
        partitions = [TopicPartition(topic, number, 0) for number in numbers]
        left = sum(consumer.get_watermark_offsets(partition)[1] for partition in partitions)
        consumer.assign(partitions)
        found = []
        while left:
            batch = consumer.consume(left, timeout=10)
            assert batch, f"{left} records are missing"
            left -= len(batch)
            found += batch
        return found
    finally:
        consumer.close()


def test_a_table_goes_to_a_model_server_with_its_truth(config, server, tmp_path, capsys):
    truth = tmp_path / "truth.jsonl"
    injections = ["shift:length=+30:0.5@100ms..200ms", "unseen:colour=XX:0.1"]
    asked = [part for text in injections for part in ("--inject", text)]
    before = signal.getsignal(signal.SIGINT)
    said = summary(
        capsys,
        "-c",
        config,
        "--url",
        server.url,
        "--rate",
        1000,
        "--batch",
        2,
        "--ids",
        "run",
        "--truth",
        truth,
        *asked,
    )
    assert signal.getsignal(signal.SIGINT) == before
    assert (said["requests"], said["answered"], said["instances"], said["codes"]) == (300, 300, ROWS, {"200": 300})
    assert set(said["latencyMs"]) == {"p50", "p95", "p99", "p999", "max", "mean"}
    bodies = {headers["ce-id"]: json.loads(body)["instances"] for _, headers, body in server.seen}
    assert len(server.seen) == len(bodies) == 300
    assert {path for path, _, _ in server.seen} == {"/v1/models/iris:predict"}
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    unseen = {(line["id"], i) for line in lines for i in line["injected"].get(injections[1], [])}
    assert unseen == {(id_, i) for id_, rows in bodies.items() for i, row in enumerate(rows) if row["colour"] == "XX"}
    shifted = {
        (line["id"], i) for line in lines for i in line["injected"].get("shift:length=30.0:0.5@100ms..200ms", [])
    }
    plain = {f"run-{i // 2:08d}": (i // 2) for i in range(ROWS)}
    differs = {
        (id_, i)
        for id_, rows in bodies.items()
        for i, row in enumerate(rows)
        if row["length"] is not None and row["length"] != (plain[id_] * 2 + i) / 10
    }
    assert shifted == differs != set()
    assert all(0.1 <= line["due"] < 0.2 for line in lines if "shift:length=30.0:0.5@100ms..200ms" in line["injected"])
    assert said["injected"] == {"shift:length=30.0:0.5@100ms..200ms": len(shifted), injections[1]: len(unseen)}


def test_the_pace_of_the_time_column_and_the_open_protocol(config, server, capsys):
    said = summary(capsys, "-c", config, "--url", server.url, "--speed", 600, "--protocol", "v2", "--for", "500ms")
    assert said["requests"] == 300  # one a second, 600 times faster
    assert said["rate"] is None
    path, headers, body = min(server.seen, key=lambda one: one[1]["ce-id"])
    assert path == "/v2/models/iris/infer"
    assert headers["x-event-time"] == "2023-11-14T22:13:20.000000000Z"
    assert [tensor["name"] for tensor in json.loads(body)["inputs"]] == ["length", "colour"]


def test_what_a_person_sees(config, server, capsys):
    assert (
        main(["traffic", "-c", str(config), "--url", server.url, "--rate", "2000", "--inject", "missing:length=0.5"])
        == 0
    )
    shown = capsys.readouterr().out
    assert "from when it was due" in shown
    assert "missing:length=0.5 changed" in shown
    assert "200 x 600" in shown


def test_refused_requests_are_a_failure(config, server, capsys):
    server.status = 503
    assert main(["traffic", "-c", str(config), "--url", server.url, "--rate", "500", "--for", "100ms"]) == 1
    told = capsys.readouterr()
    assert "503 x 50" in told.out
    assert "50 messages were not answered well: 503" in told.err


def test_the_flights_of_the_demo(server, capsys):
    flights = Path(__file__).parents[2] / "examples/flights/monitor.yaml"
    asked = ["--data", "demo:flights", "--url", server.url, "--batch", 20, "--for", "200ms"]
    said = summary(capsys, "-c", flights, *asked, "--times", "column")
    assert (said["requests"], said["instances"]) == (20, 400)
    _, headers, body = min(server.seen, key=lambda one: one[1]["ce-id"])
    assert headers["x-event-time"] == "2013-01-01T10:15:00.000000000Z"
    assert len(json.loads(body)["instances"]) == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--inject", "shift:width=3"], "column 'width' is no feature of the model"),
        (["--inject", "shift:length"], "value ''"),
        (["--inject", "unseen:colour="], "value ''"),
        (["--rate", "5", "--speed", "2"], "give one of them"),
        (["--rate", "0"], "--rate 0: write a number above 0"),
        (["--rate", "nan"], "--rate nan"),
        (["--for", "2"], "--for: '2' is not a duration"),
        (["--for", "0s"], "longer than nothing"),
        (["--patience", "soon"], "--patience: 'soon'"),
        (["--ids", "a b"], "--ids 'a b'"),
        (["--data", "/nowhere.parquet"], "/nowhere.parquet"),
        (["--times", "column", "--time", "when"], "lacks the column 'when'"),
        (["--url", "nowhere"], "'nowhere' is no address"),
        (["--to", "kafka", "--url", "nowhere"], "'nowhere' is not host:port"),
        (["--to", "kafka", "--host", "a"], "--host is for HTTP"),
        (["--protocol", "v2", "--layout", "rows"], "feature 'colour' is categorical"),
        (["--truth", "/nowhere/truth"], "/nowhere/truth"),
    ],
)
def test_bad_input_is_named_before_anything_is_sent(config, server, capsys, options, said):
    url = [] if "--url" in options else ["--url", server.url]
    code = main(["traffic", "-c", str(config), *url, *options])
    told = capsys.readouterr()
    assert code == (1 if options[0] == "--truth" else 2), told.err
    assert said in told.err
    assert not server.seen


def test_a_server_needs_an_address(config, capsys):
    assert main(["traffic", "-c", str(config)]) == 2
    assert "--to server needs --url" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_its_summary(config, server, tmp_path, number, code):
    truth = tmp_path / "truth.jsonl"
    command = ["traffic", "-c", config, "--url", server.url, "--rate", 300, "--for", "10m", "--json", "--truth", truth]
    process = subprocess.Popen(
        [sys.executable, "-m", "workflows.cli", *map(str, command), "--inject", "missing:colour=0.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 180
        while len(server.seen) < 50:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == code, err
    assert "Traceback" not in err
    said = json.loads(out)
    assert said["answered"] == said["sent"] == len(server.seen) >= 50
    ids = {headers["ce-id"] for _, headers, _ in server.seen}
    assert len(ids) == len(server.seen)
    changed = {json.loads(line)["id"] for line in truth.read_text().splitlines()}
    assert changed <= ids
    assert len(changed) == said["injected"]["missing:colour=0.5"] > 0


def test_a_second_signal_waits_for_nobody(config):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [
            "traffic",
            "-c",
            str(config),
            "--url",
            url,
            "--rate",
            "50",
            "--for",
            "10m",
            "--patience",
            "10m",
            "--json",
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "workflows.cli", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            silent.settimeout(180)
            connection, _ = silent.accept()
            with connection:
                connection.recv(100)
                process.send_signal(signal.SIGINT)
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(1)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    said = json.loads(out)
    assert said["sent"] == said["failed"] == said["codes"]["timeout"] > 0


def test_every_id_is_in_kafka_once_behind_the_real_logger(kafka, tmp_path, table, capsys):
    name = f"m{uuid.uuid4().hex[:12]}"
    config = written(tmp_path, table, kafka.bootstrap_servers, name)
    with (tmp_path / "logger.log").open("w") as log:
        logger = subprocess.Popen(
            [sys.executable, "-m", "workflows.cli", "logger", "serve", "-c", str(config)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        first = logger.stdout.readline()
        assert "http://127.0.0.1:" in first, (tmp_path / "logger.log").read_text()
        port = int(first.split("http://127.0.0.1:")[1].split("/")[0])
        url = f"http://127.0.0.1:{port}/"
        said = summary(
            capsys, "-c", config, "--to", "logger", "--url", url, "--rate", 500, "--ids", "a", "--patience", "30s"
        )
    finally:
        logger.terminate()
        logger.wait(30)
        logger.stdout.close()
    assert (said["requests"], said["sent"], said["answered"]) == (ROWS, 2 * ROWS, 2 * ROWS)
    assert_all_there(kafka, name, "a")


def test_every_id_is_in_kafka_once_without_a_logger(kafka, tmp_path, table, capsys):
    name = f"m{uuid.uuid4().hex[:12]}"
    config = written(tmp_path, table, name=name)
    asked = ["--to", "kafka", "--url", kafka.bootstrap_servers, "--rate", 5000, "--ids", "b", "--times", "column"]
    said = summary(capsys, "-c", config, *asked)
    assert said["codes"] == {"acknowledged": 2 * ROWS}
    found = assert_all_there(kafka, name, "b")
    times = {record.key(): dict(record.headers())["ce_time"] for record in found}
    assert times[b"b-00000001"] == b"2023-11-14T22:13:21.000000000Z"


def assert_all_there(kafka, name: str, ids: str) -> list:
    """A request and a response of every row, in one partition, as the monitor reads them."""
    found = records(kafka.bootstrap_servers, f"{name}-inference")
    kinds = Counter((record.key().decode(), dict(record.headers())["ce_type"].decode()) for record in found)
    wanted = [
        (f"{ids}-{i:08d}", f"org.kubeflow.serving.inference.{kind}")
        for i in range(ROWS)
        for kind in ("request", "response")
    ]
    assert kinds == Counter(wanted)
    partitions: dict[bytes, set[int]] = {}
    for record in found:
        partitions.setdefault(record.key(), set()).add(record.partition())
        headers = dict(record.headers())
        assert headers["ce_inferenceservicename"] == name.encode()
        assert headers["ce_id"] == record.key()
        assert headers["content-type"] == b"application/json"
    assert all(len(numbers) == 1 for numbers in partitions.values())
    answers = {
        record.key().decode(): json.loads(record.value())["predictions"]
        for record in found
        if dict(record.headers())["ce_type"].endswith(b"response")
    }
    assert answers[f"{ids}-00000000"] == ["virginica"]
    return found


def test_a_kafka_that_is_not_there_is_told(config, capsys):
    assert main(["traffic", "-c", str(config), "--to", "kafka"]) == 1
    assert "Kafka at localhost:1 (PLAINTEXT) cannot be reached" in capsys.readouterr().err
