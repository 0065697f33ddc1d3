"""The embedded Kafka: real, durable, and gone when its owner is."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from streaming.broker import EmbeddedKafka, _properties
from streaming.errors import BrokerError
from streaming.kafka import ensure_topics

pytestmark = pytest.mark.kafka

OWNER = """
import sys, time
from streaming.broker import EmbeddedKafka
with EmbeddedKafka(sys.argv[1]) as kafka:
    try:
        print(kafka.port, flush=True)  # inside: the test may be faster than the next line
        time.sleep(120)
    finally:
        # What an owner does last: it still needs the broker.
        from streaming.kafka import ensure_topics
        print(ensure_topics(kafka.connection, ["written-last"]), flush=True)
"""


def produce(broker: EmbeddedKafka, topic: str, *values: bytes, timestamp_ms: int | None = None) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "message.max.bytes": 16 * 2**20})
    failures = []
    for value in values:
        producer.produce(
            topic,
            value,
            on_delivery=lambda error, _: failures.append(error) if error else None,
            **({} if timestamp_ms is None else {"timestamp": timestamp_ms}),
        )
    assert producer.flush(30) == 0
    assert failures == []


def consume(broker: EmbeddedKafka, topic: str, count: int) -> list:
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap_servers, "group.id": f"g-{topic}", "fetch.message.max.bytes": 16 * 2**20}
    )
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        return consumer.consume(count, timeout=30)
    finally:
        consumer.close()


def open_port(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def closed(port: int, within_s: float = 25) -> bool:
    deadline = time.monotonic() + within_s
    while open_port(port) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not open_port(port)


def test_what_is_produced_is_consumed(kafka):
    ensure_topics(kafka.connection, ["broker-round-trip"])
    produce(kafka, "broker-round-trip", b"one", b"two")
    assert [message.value() for message in consume(kafka, "broker-round-trip", 2)] == [b"one", b"two"]


def test_takes_ten_megabytes(kafka):
    ensure_topics(kafka.connection, ["broker-big"])
    produce(kafka, "broker-big", b"x" * 10_000_000)
    [message] = consume(kafka, "broker-big", 1)
    assert len(message.value()) == 10_000_000


@pytest.mark.parametrize("year", [1971, 2013, 3000])
def test_takes_records_of_any_age_and_keeps_their_time(kafka, year):
    topic = f"broker-year-{year}"
    ensure_topics(kafka.connection, [topic])
    time_ms = (year - 1970) * 31_556_952_000
    produce(kafka, topic, b"then", timestamp_ms=time_ms)
    [message] = consume(kafka, topic, 1)
    assert message.timestamp()[1] == time_ms


def test_a_consumer_group_is_served_without_delay(kafka):
    ensure_topics(kafka.connection, ["broker-group"])
    produce(kafka, "broker-group", b"one")
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "quick", "auto.offset.reset": "earliest"}
    )
    try:
        consumer.subscribe(["broker-group"])
        [message] = consumer.consume(1, timeout=20)
        assert message.value() == b"one"
    finally:
        consumer.close()


def test_a_restart_on_the_same_directory_keeps_ports_and_data(tmp_path):
    broker = EmbeddedKafka(tmp_path)
    with broker:
        ensure_topics(broker.connection, ["kept"], partitions=1)
        produce(broker, "kept", b"before")
        first = broker.port
        assert broker.running
    assert not broker.running
    assert not open_port(first)
    with EmbeddedKafka(tmp_path) as again:
        assert again.port == first
        assert ensure_topics(again.connection, ["kept"]) == {"kept": 1}
        produce(again, "kept", b"after")
        assert [message.value() for message in consume(again, "kept", 2)] == [b"before", b"after"]
        # A second broker on the directory of a running one would ruin it.
        with pytest.raises(BrokerError, match=f"is in use: process {os.getpid()} runs a broker"):
            EmbeddedKafka(tmp_path).start()
        again.stop()
        again.stop()  # twice is once


@pytest.fixture
def owner(tmp_path):
    """A process that owns a broker, in a process group of its own as a terminal would make it."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    port = int(process.stdout.readline())
    yield process, port
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert closed(port)


def test_ctrl_c_reaches_the_owner_which_flushes_and_stops_the_broker(owner):
    process, port = owner
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole group gets it
    assert process.stdout.readline() == "{'written-last': 1}\n"
    process.wait(60)
    assert not open_port(port)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_owner_that_is_killed_takes_the_broker_with_it(owner, how):
    process, port = owner
    assert open_port(port)
    process.send_signal(how)
    process.wait(60)
    assert closed(port)


def test_a_new_owner_waits_until_the_broker_of_a_killed_one_is_gone(owner, tmp_path):
    process, port = owner
    process.kill()
    process.wait(60)
    with EmbeddedKafka(tmp_path) as broker:
        assert broker.port == port


def test_a_killed_broker_comes_back_with_what_it_had(tmp_path):
    with EmbeddedKafka(tmp_path) as broker:
        ensure_topics(broker.connection, ["kept"])
        produce(broker, "kept", b"before")
        os.killpg(broker._guard.pid, signal.SIGKILL)
        broker._guard.wait()
        assert not broker.running
        broker.start()
        [message] = consume(broker, "kept", 1)
        assert message.value() == b"before"


def test_a_setting_that_kafka_refuses_is_in_the_error(tmp_path):
    with pytest.raises(BrokerError, match=r"num\.network\.threads"):
        EmbeddedKafka(tmp_path, settings={"num.network.threads": "many"}).start()


def test_a_port_that_is_taken_is_in_the_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        broker = EmbeddedKafka(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(BrokerError, match="Address already in use"):
            broker.start()
        assert not broker.running


def test_every_address_needs_a_name(tmp_path):
    with pytest.raises(BrokerError, match="give advertised_host"):
        EmbeddedKafka(tmp_path, listen_host="0.0.0.0")


def test_the_port_is_unknown_before_the_start(tmp_path):
    with pytest.raises(BrokerError, match="was not started yet"):
        _ = EmbeddedKafka(tmp_path).port


def test_properties_are_escaped_as_java_reads_them():
    assert _properties({"a": 'c:\\x "é𝄞"\n'}) == 'a=c:\\\\x \\"\\u00e9\\ud834\\udd1e\\"\\n\n'
