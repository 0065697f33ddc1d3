"""The inference logger, a process of its own, in front of a real Kafka."""

import asyncio
import atexit
import contextlib
import errno
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import KafkaError as ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from streaming.broker import EmbeddedKafka
from streaming.cloudevents import Event
from streaming.errors import ServiceUnavailable
from streaming.kafka import KafkaConnection, ensure_topics
from streaming.logger import endpoint, kafka_log, server, spooled_log
from streaming.logger.kafka_log import KafkaLog, NotAcknowledged, TooLarge
from streaming.logger.server import serve
from streaming.logger.spool import START, Record, Spool, encoded
from streaming.logger.spooled_log import SpooledLog
from streaming.spec import parse

ANSWER_WITHIN = timedelta(seconds=2)
PROGRAM = "import sys; from pathlib import Path; from streaming import logger, spec; sys.exit(logger.serve(spec.load(Path(sys.argv[1]))))"


def document(name: str, bootstrap: str, port: int = 0, spool: Path | None = None) -> str:
    kept = f", spool: {{directory: {spool}}}" if spool else ""
    return f"""
apiVersion: driftline.io/v1
kind: ModelMonitor
metadata: {{name: {name}}}
spec:
  model: {{features: [{{name: x, type: numeric}}]}}
  kafka: {{bootstrapServers: "{bootstrap}"}}
  logger: {{port: {port}, maxBodyBytes: 65536, acknowledgeTimeout: {ANSWER_WITHIN.seconds}s{kept}}}
"""


@dataclass
class Running:
    """A logger, and what a caller does with it."""

    process: subprocess.Popen[str]
    port: int
    topic: str

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())

    def post(self, event: str, body: bytes = b"{}", **headers: str):
        return self.ask("POST", "/", body, {**binary(event), **headers})

    def raw(self, data: bytes) -> bytes:
        """Whatever comes back until the logger closes, or is silent for a while."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(data)
            parts = []
            with contextlib.suppress(OSError):
                while part := connection.recv(65536):
                    parts.append(part)
            return b"".join(parts)

    def until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while (answer := self.ask("GET", "/readyz"))[0] != 200:
            assert time.monotonic() < deadline, answer
            time.sleep(0.2)


def binary(event: str, kind: str = "request") -> dict[str, str]:
    return {
        "Ce-Id": event,
        "Ce-Specversion": "1.0",
        "Ce-Source": "http://localhost:9081/",
        "Ce-Type": f"org.kubeflow.serving.inference.{kind}",
        "Ce-Time": "2026-01-02T03:04:05.123456789Z",
        "Ce-Inferenceservicename": "flights",
        "Content-Type": "application/json",
    }


@contextlib.contextmanager
def running(folder: Path, bootstrap: str, *, spool: Path | None = None, name: str | None = None) -> Iterator[Running]:
    """A logger until the context ends, which may find it killed."""
    name = name or f"m{uuid.uuid4().hex[:12]}"
    config = folder / f"{name}.yaml"
    config.write_text(document(name, bootstrap, spool=spool))
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(config)], stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, (folder / f"{name}.log").read_text()
        yield Running(process, int(line.split("http://127.0.0.1:")[1].split("/")[0]), f"{name}-inference")
    finally:
        process.terminate()
        try:
            code = process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()
    assert code in ({0, -signal.SIGKILL} if spool else {0})
    # Nothing that was sent, however hostile, was an accident inside.
    assert "Traceback" not in (folder / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def logger(kafka, tmp_path_factory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("logger"), kafka.bootstrap_servers) as it:
        it.until_ready()
        yield it


@pytest.fixture
def own_kafka(tmp_path) -> Iterator[EmbeddedKafka]:
    """A broker that a test may stop."""
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        yield broker


def records(bootstrap: str, topic: str) -> list:
    """Everything in a topic."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "enable.auto.commit": False})
    try:
        partitions = [
            TopicPartition(topic, number, 0) for number in consumer.list_topics(topic).topics[topic].partitions
        ]
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


def ids(bootstrap: str, topic: str) -> list[str]:
    return [record.key().decode() for record in records(bootstrap, topic)]


def found(logger: Running, kafka: EmbeddedKafka, event: str) -> list:
    return [record for record in records(kafka.bootstrap_servers, logger.topic) if record.key() == event.encode()]


def test_a_binary_event_is_in_kafka_when_it_is_answered(logger, kafka):
    body = b'{ "instances": [[1.50, 2]] }\n'
    assert logger.post("binary", body)[:2] == (200, b"")
    (record,) = found(logger, kafka, "binary")
    assert record.value() == body
    assert record.headers() == [
        ("ce_id", b"binary"),
        ("ce_specversion", b"1.0"),
        ("ce_source", b"http://localhost:9081/"),
        ("ce_type", b"org.kubeflow.serving.inference.request"),
        ("ce_time", b"2026-01-02T03:04:05.123456789Z"),
        ("ce_inferenceservicename", b"flights"),
        ("content-type", b"application/json"),
    ]


def test_a_structured_event_is_stored_in_binary_mode(logger, kafka):
    body = b'{"specversion":"1.0","id":"structured","source":"/s","type":"t","own":7,"data": {"a": 1.50}}'
    assert logger.ask("POST", "/", body, {"Content-Type": "application/cloudevents+json"})[0] == 200
    (record,) = found(logger, kafka, "structured")
    assert record.value() == b'{"a": 1.50}'
    assert dict(record.headers()) == {
        "ce_specversion": b"1.0",
        "ce_id": b"structured",
        "ce_source": b"/s",
        "ce_type": b"t",
        "ce_own": b"7",
        "content-type": b"application/json",
    }


def test_a_batch_is_stored_event_by_event(logger, kafka):
    batch = [{"specversion": "1.0", "id": f"batch-{i}", "source": "/s", "type": "t", "data": [i]} for i in range(100)]
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    assert logger.ask("POST", "/", json.dumps(batch).encode(), headers)[0] == 200
    stored = {record.key().decode(): record.value() for record in records(kafka.bootstrap_servers, logger.topic)}
    assert {f"batch-{i}": b"[%d]" % i for i in range(100)}.items() <= stored.items()

    batch[7].pop("id")
    status, body, _ = logger.ask("POST", "/", json.dumps(batch).encode(), headers)
    assert status == 400
    assert b"event 7: the CloudEvents attribute 'id' is missing" in body


def test_a_request_and_its_response_share_a_partition(logger, kafka):
    for i in range(8):
        logger.post(f"pair-{i}")
        logger.ask("POST", "/", b"{}", binary(f"pair-{i}", "response"))
    partitions: dict[bytes, set[int]] = {}
    for record in records(kafka.bootstrap_servers, logger.topic):
        if record.key().startswith(b"pair-"):
            partitions.setdefault(record.key(), set()).add(record.partition())
    assert len(partitions) == 8
    assert all(len(numbers) == 1 for numbers in partitions.values())
    assert len(set.union(*partitions.values())) > 1


def test_refusals_say_why(logger, kafka):
    before = len(records(kafka.bootstrap_servers, logger.topic))
    headers = binary("refused")
    del headers["Ce-Type"]
    status, body, _ = logger.ask("POST", "/", b"{}", headers)
    assert status == 400
    assert "ce-type is missing" in json.loads(body)["error"]

    status, body, fields = logger.ask("GET", "/")
    assert (status, fields["allow"]) == (405, "POST")
    status, body, fields = logger.ask("POST", "/metrics", b"")
    assert (status, fields["allow"]) == (405, "GET, HEAD")
    assert logger.ask("POST", "/v1/models/flights:predict", b"{}")[0] == 404
    assert logger.post("refused", **{"Content-Encoding": "br"})[0] == 415

    status, body, _ = logger.post("refused", b"x" * 65537)
    assert status == 413
    assert "65536 bytes" in json.loads(body)["error"]
    head = "".join(f"{name}: {value}\r\n" for name, value in binary("refused").items())
    head = f"POST / HTTP/1.1\r\nHost: x\r\n{head}Transfer-Encoding: chunked\r\n\r\n"
    assert logger.raw(head.encode() + b"ffff\r\n" + b"x" * 65535 + b"\r\n2\r\nxx\r\n").startswith(b"HTTP/1.1 413 ")
    assert len(records(kafka.bootstrap_servers, logger.topic)) == before
    assert logger.post("largest", b"x" * 65536)[0] == 200


def test_probes_and_metrics(logger):
    assert logger.ask("GET", "/healthz")[0] == 200
    assert logger.ask("GET", "/readyz")[0] == 200
    assert logger.ask("HEAD", "/healthz")[:2] == (200, b"")
    logger.post("counted")

    def figures() -> dict[str, float]:
        text = logger.ask("GET", "/metrics")[1].decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {
            sample.name + sample.labels.get("code", "") + sample.labels.get("le", ""): sample.value
            for sample in samples
        }

    before = figures()
    logger.post("counted", b"12345")
    logger.ask("POST", "/", b"")
    after = figures()
    changed = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    assert changed.pop("driftline_logger_acknowledge_seconds_sum") > 0
    assert {name: n for name, n in changed.items() if "bucket" not in name} == {
        "driftline_logger_answers_total200": 1,
        "driftline_logger_answers_total400": 1,
        "driftline_logger_events_acknowledged_total": 1,
        "driftline_logger_payload_bytes_total": 5,
        "driftline_logger_acknowledge_seconds_count": 1,
    }
    assert changed["driftline_logger_acknowledge_seconds_bucket+Inf"] == 1


def test_a_topic_that_takes_less_than_the_logger(kafka, tmp_path):
    with running(tmp_path, kafka.bootstrap_servers) as logger:
        logger.until_ready()
        topic = f"small-{uuid.uuid4().hex}"
        ensure_topics(kafka.connection, [topic], configs={"max.message.bytes": "2000"})

        async def append() -> None:
            log = KafkaLog(kafka.connection, max_bytes=10_000, patience=ANSWER_WITHIN)
            event = Event({"specversion": "1.0", "id": "1", "source": "/", "type": "t"}, None, os.urandom(5000))
            with pytest.raises(TooLarge, match=r"message\.max\.bytes"):
                await log.append(topic, event)
            await log.close(ANSWER_WITHIN)

        asyncio.run(append())


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
HOSTILE = {
    "no http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(100), b"400"),
    "a bare newline": (b"\n" * 1000, b""),
    "no such method": (b"FETCH / HTTP/1.1\r\n\r\n", b"400"),
    "connect": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
    "only a host": (b"GET http://host HTTP/1.1\r\nHost: a\r\n\r\n", b"40"),
    "path beyond ascii": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", b"40"),
    "a long path": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"4"),
    "one long header": (HEAD + b"ce-x: " + b"a" * 100_000, b"431"),
    "many headers": (HEAD + b"ce-x: a\r\n" * 20_000, b"431"),
    "a header with a NUL": (HEAD + b"ce-id: a\x00b\r\n\r\n", b"400"),
    "a length that is none": (HEAD + b"content-length: -1\r\n\r\n", b"400"),
    "two lengths": (HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", b"400"),
    "length and chunks": (HEAD + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
    "a length beyond numbers": (HEAD + b"content-length: 99999999999999999999999\r\n\r\n", b"400"),
    "a chunk size that is none": (HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", b"400"),
    "an attribute beyond utf-8": (HEAD + b"ce-id: %ff\r\ncontent-length: 0\r\n\r\n", b"400"),
    "half a body": (HEAD + b"content-length: 100\r\n\r\nhalf", b""),
    "an upgrade": (HEAD + b"connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n\r\n", b"400"),
    "trailers": (HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\nx: y\r\nce-id: z\r\n\r\n", b"400"),
    "deep json": (
        HEAD + b"content-type: application/cloudevents+json\r\ncontent-length: 60000\r\n\r\n" + b'{"a":' * 12_000,
        b"400",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests_get_a_reason_and_do_no_harm(logger, name):
    data, status = HOSTILE[name]
    answer = logger.raw(data)
    assert answer.startswith(b"HTTP/1.1 " + status if status else b"")
    assert logger.post(f"after-{name}")[0] == 200


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    b"POST / HTTP/1.1\r\n",
                    b"host: x\r\n",
                    b"\r\n",
                    b"ce-id: 1\r\n",
                    b"0\r\n\r\n",
                    b"content-length: 3\r\n",
                ]
            ),
            st.sampled_from(
                [
                    b"transfer-encoding: chunked\r\n",
                    b"expect: 100-continue\r\n",
                    b"connection: close\r\n",
                    b"{}",
                    b"ce-",
                ]
            ),
            st.binary(max_size=30),
        ),
        max_size=12,
    )
)
def test_any_bytes_are_survived(logger, parts):
    with socket.create_connection(("127.0.0.1", logger.port), timeout=2) as connection, contextlib.suppress(OSError):
        connection.sendall(b"".join(parts))
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(0.02)
        connection.recv(65536)
    assert logger.process.poll() is None


def test_slow_headers_and_slow_bodies_are_not_waited_for(kafka, monkeypatch):
    monkeypatch.setattr(server, "_HEAD_PATIENCE", timedelta(seconds=0.3))
    monkeypatch.setattr(endpoint, "_BODY_PATIENCE", timedelta(seconds=0.3))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monitor = parse(document("slow", kafka.bootstrap_servers, port), "slow.yaml")
    answers = []

    def callers() -> None:
        deadline = time.monotonic() + 20
        for sent in (b"", HEAD, HEAD + b"content-length: 5\r\n\r\nx"):
            while time.monotonic() < deadline:
                with (
                    contextlib.suppress(ConnectionRefusedError),
                    socket.create_connection(("127.0.0.1", port), 5) as it,
                ):
                    it.sendall(sent)
                    answers.append(it.recv(1000)[:12])
                    break
                time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=callers)
    thread.start()
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # should it come before the server listens for it
    try:
        assert serve(monitor) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
        thread.join()
    assert answers == [b"HTTP/1.1 408"] * 3


def test_an_address_that_is_taken_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServiceUnavailable, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            serve(parse(document("taken", "localhost:1", port), "taken.yaml"))


@pytest.mark.kafka
def test_kafka_away_and_back(own_kafka, tmp_path):
    """Callers get 503 while Kafka is away; what was answered with 200 is there, and nothing twice."""
    with running(tmp_path, own_kafka.bootstrap_servers) as logger:
        logger.until_ready()
        answers: dict[str, int] = {}
        reasons: dict[str, tuple[bytes, dict[str, str]]] = {}
        stop = threading.Event()

        def call(caller: int) -> None:
            for i in range(100_000):
                if stop.wait(0.01):
                    return
                event = f"{caller}-{i}"
                answers[event], body, headers = logger.post(event)
                reasons[event] = body, headers

        def wait_for(status: int) -> None:
            """Until somebody who asks from now on gets this answer."""
            known, deadline = set(answers), time.monotonic() + 40
            while not any(answers[event] == status for event in set(answers) - known):
                assert time.monotonic() < deadline
                time.sleep(0.05)

        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(call, caller) for caller in range(8)]
            try:
                wait_for(200)
                own_kafka.stop()
                wait_for(503)
                assert logger.ask("GET", "/healthz")[0] == 200
                status, body, headers = logger.ask("GET", "/readyz")
                assert status == 503
                assert b"Kafka" in body
                own_kafka.start()
                wait_for(200)
                logger.until_ready()
            finally:
                stop.set()
            for one in calls:
                one.result()
        stored = ids(own_kafka.bootstrap_servers, logger.topic)
        assert set(answers.values()) == {200, 503}
        assert {event for event, status in answers.items() if status == 200} <= set(stored)
        assert len(stored) == len(set(stored))
        body, headers = next(reasons[event] for event, status in answers.items() if status == 503)
        assert headers["retry-after"] == "1"
        assert "Kafka did not acknowledge" in json.loads(body)["error"]


@pytest.mark.kafka
def test_a_logger_that_starts_before_kafka(own_kafka, tmp_path):
    own_kafka.stop()
    with running(tmp_path, own_kafka.bootstrap_servers) as logger:
        assert logger.ask("GET", "/healthz")[0] == 200
        assert logger.ask("GET", "/readyz")[0] == 503
        start = time.monotonic()
        assert logger.post("early")[0] == 503
        assert time.monotonic() - start < ANSWER_WITHIN.seconds + 2
        own_kafka.start()
        logger.until_ready()
        assert logger.post("in-time")[0] == 200
        assert ids(own_kafka.bootstrap_servers, logger.topic) == ["in-time"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_was_accepted(kafka, tmp_path, how):
    with running(tmp_path, kafka.bootstrap_servers) as logger:
        logger.until_ready()
        answered: list[str] = []
        unanswered: list[str] = []

        def call(caller: int) -> None:
            for i in range(100_000):
                event = f"{caller}-{i}"
                try:
                    status, _, _ = logger.post(event)
                except ConnectionRefusedError:
                    return  # it accepts nobody any more
                except (OSError, http.client.HTTPException):
                    unanswered.append(event)
                    return
                assert status == 200
                answered.append(event)

        with ThreadPoolExecutor(16) as pool:
            calls = [pool.submit(call, caller) for caller in range(16)]
            time.sleep(1)
            logger.process.send_signal(how)
            assert logger.process.wait(20) == 0
            for one in calls:
                one.result()
        stored = ids(kafka.bootstrap_servers, logger.topic)
        assert len(answered) > 100
        assert len(stored) == len(set(stored))
        assert set(answered) <= set(stored)
        # A connection that the kernel had taken and the logger had not is reset; such events were never accepted.
        assert set(stored) - set(answered) <= set(unanswered)


def event(number: int, size: int = 10) -> Event:
    return Event({"specversion": "1.0", "id": str(number), "source": "/", "type": "t"}, None, b"x" * size)


def test_a_producer_that_gave_up_is_replaced(kafka):
    topic = f"replaced-{uuid.uuid4().hex}"
    ensure_topics(kafka.connection, [topic])

    class GivenUp:
        """librdkafka's producer after a fatal error, which cannot be provoked from outside."""

        def __init__(self, producer):
            self._producer = producer

        def produce(self, *_args, **_more):
            raise KafkaException(ClientError(ClientError._FATAL, "out of order sequence", fatal=True))

        def __getattr__(self, name):
            return getattr(self._producer, name)

        def __len__(self):
            return len(self._producer)

    async def append() -> None:
        log = KafkaLog(kafka.connection, max_bytes=1000, patience=timedelta(seconds=10))
        before = [log.append(topic, event(i)) for i in range(100)]
        log._producer = GivenUp(log._producer)
        await asyncio.gather(log.append(topic, event(100)), *(log.append(topic, event(i)) for i in range(101, 200)))
        done = await asyncio.gather(*before, return_exceptions=True)
        lost = {str(i) for i, problem in enumerate(done) if problem is not None}
        assert all(isinstance(problem, NotAcknowledged) for problem in done if problem is not None)
        assert await log.close(timedelta(seconds=10)) == 0
        stored = ids(kafka.bootstrap_servers, topic)
        assert len(stored) == len(set(stored))
        assert {str(i) for i in range(200)} - lost <= set(stored)

    asyncio.run(append())


@pytest.mark.parametrize("offset", [None, -1001])
def test_a_delivery_without_an_offset_is_none(kafka, offset):
    """librdkafka infers some deliveries (KAFKA-15591): they are not Kafka's word."""

    class Inferring:
        def __init__(self, producer):
            self._producer = producer

        def produce(self, *_args, on_delivery, **_more):
            on_delivery(None, types.SimpleNamespace(offset=lambda: offset))

        def __getattr__(self, name):
            return getattr(self._producer, name)

        def __len__(self):
            return len(self._producer)

    async def append() -> None:
        log = KafkaLog(kafka.connection, max_bytes=1000, patience=timedelta(seconds=10))
        log._producer = Inferring(log._producer)
        with pytest.raises(NotAcknowledged, match="no offset"):
            await asyncio.wait_for(log.append("any", event(1)), 5)
        await log.close(timedelta(seconds=1))

    asyncio.run(append())


def test_too_many_events_that_wait(monkeypatch):
    monkeypatch.setattr(kafka_log, "_QUEUE_KIB", 64)

    async def append() -> None:
        log = KafkaLog(
            KafkaConnection(bootstrap_servers="127.0.0.1:1"), max_bytes=20_000, patience=timedelta(seconds=1)
        )
        waiting = []

        def fill() -> None:
            waiting.extend(log.append("t", event(i, 10_000)) for i in range(100))

        with pytest.raises(NotAcknowledged, match="too many events wait"):
            fill()
        problems = await asyncio.gather(*waiting, return_exceptions=True)
        assert len(problems) > 3
        assert all(isinstance(problem, NotAcknowledged) for problem in problems)
        await log.close(timedelta(seconds=1))

    asyncio.run(append())


# With a spool --------------------------------------------------------------------------------------------------------
def kill(broker: EmbeddedKafka) -> None:
    """As the kernel does it when memory is short; the guard goes with it."""
    guard, broker._guard = broker._guard, None
    atexit.unregister(broker.stop)
    os.killpg(guard.pid, signal.SIGKILL)
    guard.wait()


class Load:
    """Callers who post without a pause of more than `pause`, and remember what they were answered.

    Ten events in a row of a caller have one id, so one key: they must come out of Kafka in their order.
    """

    def __init__(self, pause: float = 0.01, callers: int = 5) -> None:
        self.answers: dict[tuple[str, bytes], int] = {}
        self.slowest = 0.0
        self._pause, self._callers, self._stop = pause, callers, threading.Event()
        self._next = [0] * callers

    def _call(self, logger: Running, caller: int) -> None:
        while not self._stop.wait(self._pause):
            i = self._next[caller]
            self._next[caller] += 1
            one = f"{caller}-{i // 10}", b"%d" % i
            start = time.monotonic()
            try:
                self.answers[one] = logger.post(*one)[0]
            except (OSError, http.client.HTTPException):  # it was killed: nothing is promised of this one
                return
            self.slowest = max(self.slowest, time.monotonic() - start)

    @contextlib.contextmanager
    def on(self, logger: Running) -> Iterator[None]:
        self._stop.clear()
        with ThreadPoolExecutor(self._callers) as pool:
            calls = [pool.submit(self._call, logger, caller) for caller in range(self._callers)]
            try:
                yield
            finally:
                self._stop.set()
            for one in calls:
                one.result()

    def answered(self) -> set[tuple[str, bytes]]:
        return {one for one, status in self.answers.items() if status == 200}


def figure(logger: Running, name: str) -> float:
    text = logger.ask("GET", "/metrics")[1].decode()
    return next(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"driftline_logger_{name}"
    )


def until(condition, patience: float = 90) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def stored(bootstrap: str, topic: str) -> list[tuple[str, bytes]]:
    return [(record.key().decode(), record.value()) for record in records(bootstrap, topic)]


def in_order(found: list[tuple[str, bytes]]) -> bool:
    """Whether each key's events are in the order of their numbers."""
    newest: dict[str, int] = {}
    for key, value in found:
        if int(value) < newest.get(key, -1):
            return False
        newest[key] = int(value)
    return True


@pytest.mark.kafka
@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_with_a_spool_nobody_notices_that_the_broker_was_killed(own_kafka, tmp_path, seconds):
    load = Load()
    with running(tmp_path, own_kafka.bootstrap_servers, spool=tmp_path / "spool") as logger:
        logger.until_ready()
        with load.on(logger):
            time.sleep(1)
            kill(own_kafka)
            until(lambda: figure(logger, "kafka_away") == 1)
            status, body, _ = logger.ask("GET", "/readyz")
            assert status == 200
            assert b"Kafka does not take events; the spool has room" in body
            time.sleep(seconds)
            assert figure(logger, "spool_events") > 0
            own_kafka.start()
            until(lambda: figure(logger, "kafka_away") == 0)
            time.sleep(1)
        until(lambda: figure(logger, "spool_events") == 0)
        assert figure(logger, "spool_written_total") > 0
        assert figure(logger, "spool_bytes") == 0
        found = stored(own_kafka.bootstrap_servers, logger.topic)
    assert set(load.answers.values()) == {200}
    assert len(found) == len(set(found))
    assert set(found) == load.answered()
    assert in_order(found)


@pytest.mark.kafka
def test_a_logger_that_is_killed_at_any_moment_loses_nothing_that_it_answered(own_kafka, tmp_path):
    """Killed while Kafka is away, told to stop while it is, killed while it sends what it has."""
    load, name, spool = Load(pause=0.002), f"m{uuid.uuid4().hex[:12]}", tmp_path / "spool"

    def start() -> contextlib.AbstractContextManager[Running]:
        return running(tmp_path, own_kafka.bootstrap_servers, spool=spool, name=name)

    with start() as logger:
        logger.until_ready()
        kill(own_kafka)
        with load.on(logger):
            until(lambda: len(load.answered()) > 200)
            logger.process.kill()
    with start() as logger, load.on(logger):
        before = len(load.answered())
        until(lambda: len(load.answered()) > before + 200)
        logger.process.kill()
    with start() as logger:
        assert figure(logger, "spool_events") >= before  # all of the first and, if they were not cut, of the second
        with load.on(logger):
            until(lambda: len(load.answered()) > before + 400)
    assert logger.process.returncode == 0
    assert f"events stay in the spool {spool}" in (tmp_path / f"{name}.log").read_text()
    without = len(load.answered())

    with start() as logger, load.on(logger):
        own_kafka.start()
        until(lambda: figure(logger, "spool_replayed_total") > 0)
        logger.process.kill()
    with start() as logger:
        logger.until_ready()
        until(lambda: figure(logger, "spool_events") == 0)
        found = stored(own_kafka.bootstrap_servers, logger.topic)
    assert load.answered() <= set(found)
    assert set(load.answers.values()) == {200}
    # What was on its way when it was killed can be there twice, and what had arrived and was not noted yet.
    assert len(found) - len(set(found)) <= 2 * 5000
    assert len(load.answered()) > without


def away(tmp_path: Path, **more) -> tuple[SpooledLog, Spool]:
    """A log whose Kafka never answers."""
    spool = Spool(tmp_path / "spool", 1 << 20)
    more = {"max_bytes": 1 << 18, "patience": timedelta(seconds=0.05), "timeout": timedelta(seconds=0.3), **more}
    return SpooledLog(KafkaConnection(bootstrap_servers="127.0.0.1:1"), spool, **more), spool


def kept(spool: Spool) -> list[str]:
    """Ids of what is in a spool, in order."""
    found: list[str] = []
    records, place = spool.read(START)
    while records:
        found += [record.key for _, record in records]
        records, place = spool.read(place)
    return found


def test_a_spool_that_is_full_refuses_and_keeps_what_it_has(tmp_path):
    async def fill() -> None:
        log, spool = away(tmp_path)
        taken = [await log.append("t", event(0, 200_000))]
        assert taken == [False]
        taken += [await log.append("t", event(number, 200_000)) for number in range(1, 5)]
        with pytest.raises(NotAcknowledged, match=r"Kafka does not take events; the spool is full \(\d+ of 1048576"):
            await log.append("t", event(5, 200_000))
        assert len(taken) == 5
        assert (spool.events, log.full) == (5, 1)
        assert await log.append("t", event(9, 1000)) is False  # a small one still fits
        assert "Kafka does not take events" in log.readiness()
        spool.max_bytes = spool.used
        assert "the spool is full" in (await log.missing("t") or "")
        assert await log.close(ANSWER_WITHIN) == 0

    asyncio.run(fill())
    with Spool(tmp_path / "spool", 1 << 20) as spool:
        assert kept(spool) == ["0", "1", "2", "3", "4", "9"]


def test_a_disk_that_fails_while_kafka_is_away_is_told_and_forgiven(tmp_path, monkeypatch):
    async def fail() -> None:
        log, spool = away(tmp_path)
        assert await log.append("t", event(0)) is False
        real = os.fdatasync

        def broken(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fdatasync", broken)
        with pytest.raises(NotAcknowledged, match="cannot be written: No space left"):
            await log.append("t", event(1))
        with pytest.raises(NotAcknowledged, match="cannot be written: No space left"):
            log.append("t", event(2)).result()
        assert "No space left" in (await log.missing("t") or "")
        monkeypatch.setattr(os, "fdatasync", real)
        spool._failed_at = 0.0  # some time later
        assert await log.append("t", event(3)) is False
        assert await log.missing("t") is None
        await log.close(ANSWER_WITHIN)

    asyncio.run(fail())
    with Spool(tmp_path / "spool", 1 << 20) as spool:
        assert kept(spool) == ["0", "3"]


def test_what_is_with_the_producer_is_waited_for_when_the_disk_fails(tmp_path, monkeypatch):
    """It may be in Kafka yet: the caller hears so no sooner than without a spool."""

    async def fail() -> None:
        log, _ = away(tmp_path)
        monkeypatch.setattr(Spool, "append", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        start = time.monotonic()
        with pytest.raises(NotAcknowledged, match=r"did not answer within 0\.3 s; the spool cannot be written: broken"):
            await log.append("t", event(0))
        assert time.monotonic() - start > 0.3
        assert await log.close(ANSWER_WITHIN) == 1

    asyncio.run(fail())


def test_what_one_topic_refuses_does_not_hold_up_the_others(kafka, tmp_path):
    """Of the spool of an earlier run: an event too large for its topic, and events of a topic that comes late."""
    good, small, late = (f"{kind}-{uuid.uuid4().hex}" for kind in ("good", "small", "late"))
    ensure_topics(kafka.connection, [good])
    ensure_topics(kafka.connection, [small], configs={"max.message.bytes": "2000"})
    with Spool(tmp_path, 1 << 20) as spool:
        for number, (topic, size) in enumerate([(late, 1), (small, 5000), (good, 1), (small, 1), (late, 1)]):
            spool.append([encoded(Record(1, topic, str(number), [("ce_id", b"x")], os.urandom(size)))])

    async def send() -> None:
        spool = Spool(tmp_path, 1 << 20)
        log = SpooledLog(
            kafka.connection, spool, max_bytes=10_000, patience=timedelta(seconds=5), timeout=timedelta(seconds=5)
        )
        async with asyncio.timeout(60):
            while spool.events > 2:  # noqa: ASYNC110 - the spool knows no loop
                await asyncio.sleep(0.05)
            assert spool.refused == 1
            assert await log.append(good, event(9)) in (True, False)
            await asyncio.to_thread(ensure_topics, kafka.connection, [late])
            while spool.events:  # noqa: ASYNC110 - the spool knows no loop
                await asyncio.sleep(0.05)
        assert await log.close(timedelta(seconds=10)) == 0

    asyncio.run(send())
    assert ids(kafka.bootstrap_servers, good) == ["2", "9"]
    assert ids(kafka.bootstrap_servers, small) == ["3"]
    assert ids(kafka.bootstrap_servers, late) == ["0", "4"]
    assert [path.suffix for path in (tmp_path / "aside").iterdir()] == [".refused"]


def test_events_that_a_producer_gave_up_are_sent_by_the_next(kafka, tmp_path, monkeypatch):
    """Given up with a topic's refusal: callers are answered from the disk, and Kafka has each event once."""
    topic = f"given-up-{uuid.uuid4().hex}"
    ensure_topics(kafka.connection, [topic])
    monkeypatch.setattr(spooled_log, "_STUCK_S", 0.3)

    class Refusing:
        """A client whose answers are refusals until it is told otherwise."""

        def __init__(self, producer):
            self._producer, self.left = producer, 50

        def produce(self, *arguments, on_delivery, **more):
            if self.left > 0:
                self.left -= 1
                on_delivery(ClientError(ClientError.TOPIC_AUTHORIZATION_FAILED), None)
            else:
                self._producer.produce(*arguments, on_delivery=on_delivery, **more)

        def __getattr__(self, name):
            return getattr(self._producer, name)

        def __len__(self):
            return len(self._producer)

    async def send() -> None:
        spool = Spool(tmp_path, 1 << 20)
        log = SpooledLog(
            kafka.connection, spool, max_bytes=1000, patience=timedelta(seconds=5), timeout=timedelta(seconds=5)
        )
        log._kafka._producer = Refusing(log._kafka._producer)
        async with asyncio.timeout(60):
            futures = []
            for number in range(200):
                futures.append(log.append(topic, Event({"id": "same"}, None, b"%d" % number)))
                if number % 20 == 0:
                    await asyncio.sleep(0.02)
            answers = await asyncio.gather(*futures)
            while spool.events:  # noqa: ASYNC110 - the spool knows no loop
                await asyncio.sleep(0.05)
            assert False in answers
            await asyncio.sleep(0.5)
            assert await log.append(topic, Event({"id": "same"}, None, b"200")) is True  # directly again
        assert await log.close(timedelta(seconds=10)) == 0

    asyncio.run(send())
    found = stored(kafka.bootstrap_servers, topic)
    assert sorted(found) == sorted(("same", b"%d" % number) for number in range(201))
