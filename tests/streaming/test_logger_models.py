"""One logger for many models: a process of its own, in front of a real Kafka, with files that come and go."""

import asyncio
import contextlib
import gzip
import http.client
import http.server
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from streaming.cloudevents import Event, events
from streaming.errors import InvalidMonitor
from streaming.logger.intake import Intake, NoModels
from streaming.logger.routes import Models, in_sample
from streaming.spec import parse

AT_LEAST_S = 40
"""Patience of a test, on a machine that has other work."""


def document(name: str, bootstrap: str = "localhost:1", *, logger: str = "", service: str = "") -> str:
    return f"""
apiVersion: driftline.io/v1
kind: ModelMonitor
metadata: {{name: {name}}}
spec:
  model:
    features: [{{name: who, type: categorical}}, {{name: x, type: numeric}}]
    {f"inferenceService: {service}" if service else ""}
  kafka: {{bootstrapServers: "{bootstrap}", partitions: 1}}
  job: {{refreshInterval: 200ms}}
  logger: {{port: 0, maxBodyBytes: 65536{f", {logger}" if logger else ""}}}
"""


def binary(identity: str, service: str | None, kind: str = "request") -> dict[str, str]:
    headers = {
        "Ce-Id": identity,
        "Ce-Specversion": "1.0",
        "Ce-Source": "/",
        "Ce-Type": f"org.kubeflow.serving.inference.{kind}",
        "Content-Type": "application/json",
    }
    return headers if service is None else {**headers, "Ce-Inferenceservicename": service}


@dataclass
class Running:
    process: subprocess.Popen[str]
    port: int
    folder: Path
    prefix: str
    bootstrap: str
    log: Path

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=AT_LEAST_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def write(self, name: str, text: str) -> None:
        (self.folder / f".{name}").write_text(text)
        (self.folder / f".{name}").rename(self.folder / name)

    def until(self, condition) -> None:
        deadline = time.monotonic() + AT_LEAST_S
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def records(self, model: str) -> list:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "test", "enable.auto.commit": False})
        try:
            partition = TopicPartition(f"{model}-inference", 0, 0)
            left = consumer.get_watermark_offsets(partition)[1]
            consumer.assign([partition])
            found: list = []
            while len(found) < left:
                batch = consumer.consume(left - len(found), timeout=10)
                assert batch
                found += batch
            return found
        finally:
            consumer.close()

    def figures(self) -> dict[str, float]:
        lines = self.ask("GET", "/metrics")[1].splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


class Copies(http.server.ThreadingHTTPServer):
    """A mirror that keeps what it takes."""

    daemon_threads = True

    def __init__(self) -> None:
        self.taken: list[Event] = []
        super().__init__(("127.0.0.1", 0), _Taker)


class _Taker(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Copies

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.taken += events([(k.lower().encode(), v.encode("latin-1")) for k, v in self.headers.items()], body)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def copies() -> Iterator[Copies]:
    with Copies() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def logger(kafka, tmp_path_factory, copies) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    prefix = f"m{uuid.uuid4().hex[:8]}"
    bootstrap = kafka.bootstrap_servers
    (folder / "a.yaml").write_text(document(f"{prefix}-a", bootstrap))
    mirror = f'sample: 0.5, redact: [{{feature: who}}], mirror: {{url: "http://127.0.0.1:{copies.server_port}/"}}'
    (folder / "b.yaml").write_text(document(f"{prefix}-b", bootstrap, logger=mirror))
    log = tmp_path_factory.mktemp("log") / "log"
    command = [sys.executable, "-m", "workflows.cli", "logger", "serve", "--config", str(folder)]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, text=True)
    try:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, log.read_text()
        it = Running(process, int(line.split("http://127.0.0.1:")[1].split("/")[0]), folder, prefix, bootstrap, log)
        it.until(lambda: it.ask("GET", "/readyz")[0] == 200)
        yield it
    finally:
        process.terminate()
        code = process.wait(AT_LEAST_S)
        process.stdout.close()
    assert code == 0
    assert "Traceback" not in log.read_text()


def test_events_go_to_the_model_that_the_path_or_the_event_names(logger):
    a, b = f"{logger.prefix}-a", f"{logger.prefix}-b"
    before = {model: len(logger.records(model)) for model in (a,)}
    assert logger.ask("POST", "/", b'{"instances":[["Bob",1]]}', binary("1", a))[0] == 200
    assert logger.ask("POST", f"/models/{a}", b"{}", binary("2", None))[0] == 200
    assert logger.ask("POST", f"/any/{a}", b"{}", binary("3", b))[0] == 200  # the path says more than the event
    assert len(logger.records(a)) - before[a] == 3

    unknown = logger.figures()["driftline_logger_events_unknown_total"]
    for path, headers in (("/", binary("4", "other")), ("/", binary("4", None)), ("/models/other", binary("4", a))):
        status, text = logger.ask("POST", path, b"{}", headers)
        assert (status, f"known are: {a}, {b}" in text) == (404, True)
    assert logger.figures()["driftline_logger_events_unknown_total"] - unknown == 3
    assert logger.ask("GET", f"/models/{a}")[0] == 405


def test_a_batch_may_hold_events_of_several_models(logger):
    a = f"{logger.prefix}-a"
    before = len(logger.records(a))
    batch = [
        {"specversion": "1.0", "id": str(i), "source": "/", "type": "t", "inferenceservicename": name, "data": {}}
        for i, name in enumerate([a, "other", a])
    ]
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    status, text = logger.ask("POST", "/", json.dumps(batch).encode(), headers)
    assert (status, "1 of 3 events: inference service 'other'" in text) == (404, True)
    assert len(logger.records(a)) - before == 2


def test_gzip(logger):
    a = f"{logger.prefix}-a"
    body = json.dumps({"instances": [["Bob", 1]] * 100}).encode()
    headers = {**binary("zipped", a), "Content-Encoding": "gzip"}
    assert logger.ask("POST", "/", gzip.compress(body), headers)[0] == 200
    (record,) = [one for one in logger.records(a) if one.key() == b"zipped"]
    assert record.value() == body
    assert "content-encoding" not in dict(record.headers())
    assert logger.ask("POST", "/", gzip.compress(bytes(65537)), headers)[0] == 413
    assert logger.ask("POST", "/", gzip.compress(bytes(200 << 20)), {**headers})[0] == 413
    assert logger.ask("POST", "/", b"{}", headers)[0] == 400
    status, text = logger.ask("POST", "/", b"{}", {**headers, "Content-Encoding": "br"})
    assert (status, "send gzip or identity" in text) == (415, True)


def test_sampled_redacted_and_copied(logger, copies):
    b = f"{logger.prefix}-b"
    wanted = {str(i) for i in range(40) if in_sample(str(i), 0.5)}
    for i in range(40):
        for kind, body in (("request", b'{"instances":[["Zaphod",1.50]]}'), ("response", b'{"predictions":[1]}')):
            assert logger.ask("POST", "/", body, binary(str(i), b, kind))[0] == 200
    records = logger.records(b)
    assert sorted(one.key().decode() for one in records) == sorted([*wanted, *wanted])
    for one in records:
        assert dict(one.headers())["driftline-sample"] == b"0.5"
        assert one.value() in {b'{"instances":[[null,1.50]]}', b'{"predictions":[1]}'}
    logger.until(lambda: len(copies.taken) == 80)  # every one, sampled or not
    assert {one.data for one in copies.taken} == {b'{"instances":[[null,1.50]]}', b'{"predictions":[1]}'}

    status, text = logger.ask("POST", "/", b'{"instances":[["Zaphod",1],["Zaphod"]]}', binary(min(wanted), b))
    assert status == 422
    assert "Zaphod" not in text
    assert len(logger.records(b)) == len(records)
    # A copy is not copied again, or two loggers that mirror each other would never end.
    assert logger.ask("POST", "/", b"{}", {**binary("copy", b), "driftline-mirrored": "1"})[0] in {200, 422}
    figures = logger.figures()
    assert figures[f'driftline_logger_events_sampled_out_total{{model="{b}"}}'] >= 80 - len(records)
    assert figures[f'driftline_logger_events_withheld_total{{model="{b}"}}'] >= 1
    assert figures[f'driftline_logger_mirror_copied_total{{url="http://127.0.0.1:{copies.server_port}/"}}'] == 80
    assert "Zaphod" not in logger.log.read_text()


def test_files_that_come_change_and_go(logger):
    c = f"{logger.prefix}-c"
    assert logger.ask("POST", "/", b"{}", binary("1", c))[0] == 404
    logger.write("c.yaml", document(c, logger.bootstrap))
    logger.until(lambda: logger.ask("POST", "/", b"{}", binary("1", c))[0] == 200)
    assert {one.key() for one in logger.records(c)} == {b"1"}

    logger.write("c.yaml", "kind: ModelMonitor")  # broken: the last good one is kept, and that is told
    logger.until(lambda: logger.figures()["driftline_logger_files_refused"] == 1)
    assert logger.ask("POST", "/", b"{}", binary("2", c))[0] == 200
    assert "c.yaml" in logger.log.read_text()

    logger.write("c.yaml", document(c, "elsewhere:9092"))
    time.sleep(0.5)
    assert logger.ask("POST", "/", b"{}", binary("3", c))[0] == 200
    logger.until(lambda: "start the logger again" in logger.log.read_text())

    logger.write("c.yaml", document(c, logger.bootstrap, service="renamed"))
    logger.until(lambda: logger.ask("POST", "/", b"{}", binary("4", "renamed"))[0] == 200)
    (logger.folder / "c.yaml").unlink()
    logger.until(lambda: logger.ask("POST", "/", b"{}", binary("5", "renamed"))[0] == 404)
    assert logger.figures()["driftline_logger_models"] == 2


# Without a process ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_served_at_all(tmp_path):
    with pytest.raises(NoModels, match="holds no ModelMonitor"):
        Intake(Models(tmp_path))
    (tmp_path / "a.yaml").write_text("kind: ModelMonitor")
    for path in (tmp_path, tmp_path / "a.yaml"):
        with pytest.raises(InvalidMonitor, match=r"a\.yaml"):
            Intake(Models(path))


def test_one_model_as_it_is():
    intake = Intake(Models(None, parse(document("a"), "a.yaml")))
    headers = [(name.lower().encode(), value.encode()) for name, value in binary("1", "other").items()]
    (kept,) = intake.take(intake.route_of("/"), headers, b"{}").kept
    assert (kept[0], kept[1].data) == ("a-inference", b"{}")


def test_a_folder_that_is_gone_for_a_moment(tmp_path, caplog):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "a.yaml").write_text(document("a"))
    intake = Intake(Models(folder))
    folder.rename(tmp_path / "away")
    for _ in range(3):
        asyncio.run(intake.refresh())
    assert list(intake.routes.routes) == ["a"]
    assert len(caplog.records) == 1  # told once
    (tmp_path / "away").rename(folder)
    asyncio.run(intake.refresh())
    assert list(intake.routes.routes) == ["a"]
    assert "driftline_logger_files_refused 0" in intake.metrics()
