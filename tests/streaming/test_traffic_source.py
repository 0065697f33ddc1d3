"""A past range of a real topic as rows: the same that the monitor counts."""

import json
import pickle
import time
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from by_hand import Monitor, finals
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from toy import document, publish, task_of

from reference.build import build
from reference.data import Data
from reference.errors import UnusableData
from streaming import traffic_source
from streaming.errors import KafkaError
from streaming.job import prepare_topics
from streaming.messages import Decoder
from streaming.spec import parse
from streaming.traffic_source import open_traffic

pytestmark = pytest.mark.kafka
TRAFFIC = Data(format="traffic")
MODEL = (
    "{features: [{name: x, type: numeric}, {name: where, type: categorical}], predictions: [{name: y, type: numeric}]}"
)
N = 3000
NOW = int(time.time()) - 600
"""Of the events, s."""


def event(kind: str, name: str, at: float, rows: list) -> bytes:
    key = "instances" if kind == "request" else "predictions"
    return json.dumps({"type": kind, "id": name, "time": at, "payload": {key: rows}}).encode()


class Sent:
    """What goes into a topic, and the rows that should come out."""

    def __init__(self, kafka, topic: str) -> None:
        self.producer = Producer({**kafka.connection.for_confluent(), "message.max.bytes": 20_000_000})
        self.topic = topic
        self.rows: list[tuple] = []

    def put(self, value: bytes | None, partition: int, at: float, headers=()) -> None:
        """`at` is Kafka's timestamp, s."""
        self.producer.produce(
            self.topic,
            value,
            partition=partition,
            timestamp=int(at * 1000),
            headers=list(headers),
            on_delivery=_delivered,
        )
        self.producer.poll(0)

    def flush(self) -> None:
        self.producer.flush()


def _delivered(error, _) -> None:
    assert error is None, error


def traffic(sent: Sent, *, seed: int = 0, first: float = NOW) -> pd.DataFrame:
    """Requests with their responses in other partitions and in any order, CloudEvents among envelopes; the rows they are."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(N):
        at = first + i * 0.1
        x, where, y = (
            rng.normal(10, 2, 2).tolist(),
            rng.choice(["ATL", "JFK"], 2).tolist(),
            rng.normal(0, 1, 2).tolist(),
        )
        x[0] = None if i % 50 == 0 else x[0]
        many = 2 if i % 7 == 0 else 1
        asked = [list(pair) for pair in zip(x, where, strict=True)][:many]
        if i % 3 == 0:
            attributes = {
                "ce_specversion": "1.0", "ce_id": f"r{i}", "ce_source": "s", "ce_inferenceservicename": "toy",
                "ce_type": "org.kubeflow.serving.inference.request",
                "ce_time": pd.Timestamp(at, unit="s", tz="UTC").isoformat(),
            }  # fmt: skip
            sent.put(json.dumps({"instances": asked}).encode(), i % 4, at, attributes.items())
        else:
            sent.put(event("request", f"r{i}", at, asked), i % 4, at)
        if i % 10:
            sent.put(event("response", f"r{i}", at + 0.05, y[:many]), (i * 3) % 4, at + 0.05)
        answers = y[:many] if i % 10 else [None] * many
        rows += [(i % 4, i, *row, answer) for row, answer in zip(asked, answers, strict=True)]
    frame = pd.DataFrame(rows, columns=["partition", "i", "x", "where", "y"])
    return frame.sort_values(["partition", "i"], kind="stable").reset_index(drop=True)


@pytest.fixture
def monitor(kafka, tmp_path, request):
    """A monitor of a topic of its own."""
    topic = f"traffic-{request.node.name.replace('[', '-').replace(']', '')}"[:100]
    text = document(
        tmp_path,
        model=MODEL,
        kafka=f"{{bootstrapServers: '{kafka.bootstrap_servers}', topics: {{inference: '{topic}'}}}}",
        window="{duration: 10m, watermarkDelay: 10s, idleTimeout: 8s, emitEvery: 0s}",
        outliers="{detectors: []}",
        statistics="{metrics: [mean, min, max, missingShare]}",
    )
    made = parse(text, "traffic.yaml")
    publish(made)
    prepare_topics(made)
    return made


def frame_of(source) -> pd.DataFrame:
    return source.table().to_pandas()


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    """Whatever bucket a row is in; rows of one bucket keep their order."""
    order = ["x", "where", "y"]
    pd.testing.assert_frame_equal(
        found[order].sort_values(order, ignore_index=True),
        wanted[order].astype({"x": float, "y": float}).sort_values(order, ignore_index=True),
    )


def test_requests_are_rows_with_their_predictions(kafka, monitor, tmp_path):
    sent = Sent(kafka, monitor.topics.inference)
    wanted = traffic(sent)
    sent.flush()
    source = open_traffic(monitor, TRAFFIC, str(tmp_path / "a"))
    pd.testing.assert_frame_equal(frame_of(source), wanted[["x", "where", "y"]].astype({"x": float, "y": float}))
    assert source.origin["rows"] == len(wanted)
    assert source.origin["rowsWithoutPrediction"] == wanted["y"].isna().sum()
    assert (source.origin["rejected"], source.origin["predictionsWithoutRow"]) == ({}, 0)
    sent.put(event("request", "later", NOW, [[1.0, "ATL"]]), 0, NOW)
    sent.flush()
    parts = pickle.loads(pickle.dumps(source.fragments))
    batches = [batch for part in parts for batch in part.batches(["y", "x"])]
    assert pa.Table.from_batches(batches).equals(source.table(["y", "x"]))
    assert build(source, monitor.spec.model, monitor.spec.reference).rows == len(wanted)


def test_many_buckets_give_the_same_rows(kafka, monitor, tmp_path, monkeypatch):
    sent = Sent(kafka, monitor.topics.inference)
    wanted = traffic(sent)
    sent.flush()
    monkeypatch.setattr(traffic_source, "FRAGMENT_ROWS", 400)
    monkeypatch.setattr(traffic_source, "_HELD_ROWS", 1000)
    monkeypatch.setattr(traffic_source, "_MESSAGES", 500)
    source = open_traffic(monitor, TRAFFIC, str(tmp_path / "a"))
    assert len(source.fragments) > 5
    same(frame_of(source), wanted)
    again = open_traffic(monitor, TRAFFIC, str(tmp_path / "b"))
    assert again.table().equals(source.table())


@pytest.mark.parametrize("more", [{"until": NOW + 200}, {"until": NOW + 200, "last": "100s"}, {"since": NOW + 250.05}])
def test_a_range_is_by_kafkas_timestamps(kafka, monitor, tmp_path, more):
    sent = Sent(kafka, monitor.topics.inference)
    wanted = traffic(sent)
    sent.flush()
    said = {
        key: pd.Timestamp(value, unit="s", tz="UTC").floor("ms").to_pydatetime() if key != "last" else value
        for key, value in more.items()
    }
    until = more.get("until", NOW + 10_000)
    since = more.get("since", until - 100 if "last" in more else 0)
    source = open_traffic(monitor, Data(format="traffic", **said), str(tmp_path / "a"))
    at = NOW + wanted["i"] * 0.1
    same(frame_of(source), wanted[(at >= since) & (at < until)])
    assert set(source.origin) >= {"since" if since else "until", "offsets", "messages"}


def consumed(kafka, topic: str) -> list:
    """Every message of the topic."""
    consumer = Consumer({**kafka.connection.for_confluent(), "group.id": "all", "enable.partition.eof": True})
    partitions = list(consumer.list_topics(topic, 10).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    found, ended = [], 0
    while ended < len(partitions):
        message = consumer.poll(10)
        assert message is not None
        if message.error():
            ended += 1
        else:
            found.append(message)
    consumer.close()
    return found


def as_spark_reads(messages: list) -> pa.RecordBatch:
    """The columns of Spark's Kafka source, its headers as one binary string."""

    def flat(headers) -> bytes | None:
        if headers is None:
            return None
        parts = [str(len(headers)).encode(), *(part for key, value in headers for part in (key.encode(), value or b""))]
        return b"\0".join(parts)

    return pa.record_batch(
        {
            "key": pa.nulls(len(messages), pa.binary()),
            "value": pa.array([one.value() for one in messages], pa.binary()),
            "partition": pa.array([one.partition() for one in messages], pa.int32()),
            "offset": pa.array([one.offset() for one in messages], pa.int64()),
            "timestamp": pa.array([one.timestamp()[1] * 1000 for one in messages]).cast(pa.timestamp("us", "UTC")),
            "headers": pa.array([flat(one.headers()) for one in messages], pa.binary()),
        }
    )


def test_the_baseline_of_a_range_says_what_the_monitors_statistics_say(kafka, monitor, tmp_path):
    """Bad messages among good ones: what one leaves out the other does."""
    sent = Sent(kafka, monitor.topics.inference)
    first = NOW // 600 * 600
    traffic(sent, first=first)
    bad = {
        "empty": b"",
        "malformed_json": b'{"type":"request","id":"t","time":1,"payl',
        "wrong_arity": event("request", "w", first, [[1.0, "ATL", 3.0]]),
        "wrong_type": event("request", "w", first, [["eleven", "ATL"]]),
        "too_large": event("request", "w", first, [[1.0, "x" * (2 << 20)]]),
        "future": event("request", "w", first + 86_400, [[1.0, "ATL"]]),
        "bad_time": event("response", "w", -5.0, [1.0]),
    }
    for value in bad.values():
        sent.put(value, 1, first + 1)
    sent.put(None, 2, first + 1)
    sent.put(event("response", "alone", first + 1, [3.5, 4.5]), 2, first + 1)
    sent.flush()
    source = open_traffic(monitor, TRAFFIC, str(tmp_path / "a"))
    baseline = build(source, monitor.spec.model, monitor.spec.reference)

    messages = consumed(kafka, monitor.topics.inference)
    run = Monitor(task_of(monitor), tmp_path)
    at = (first + 610) * 1000
    records = run.batch([as_spark_reads(messages)], at)
    records += run.batch([], at + 60_000) + run.batch([], at + 120_000)
    (record,) = finals(records, "statistics")
    told = {column["name"]: column for column in record["columns"]}
    assert baseline.rows == told["x"]["count"] + told["x"]["missing"]
    assert source.origin["rejected"] == dict.fromkeys(bad, 1) | {"empty": 2}
    for name in ("x", "where"):
        assert baseline.request[name].count == told[name]["count"], told[name]
        assert baseline.request[name].missing == told[name]["missing"]
    assert told["x"]["values"]["mean"] == pytest.approx(baseline.request["x"].mean, rel=1e-12)
    # Two predictions came without a request: the monitor counts them, and they are no rows.
    assert source.origin["predictionsWithoutRow"] == 2
    y = baseline.response["y"]
    assert told["y"]["count"] == y.count + 2
    assert told["y"]["values"]["mean"] * told["y"]["count"] == pytest.approx(y.mean * y.count + 8.0, rel=1e-9)


def test_the_first_of_several_responses_counts(kafka, monitor, tmp_path):
    sent = Sent(kafka, monitor.topics.inference)
    sent.put(event("response", "a", NOW, [1.0]), 0, NOW)
    sent.put(event("request", "a", NOW, [[1.0, "ATL"], [2.0, "JFK"]]), 1, NOW)
    sent.put(event("response", "a", NOW, [2.0, 3.0]), 2, NOW)
    sent.flush()
    source = open_traffic(monitor, TRAFFIC, str(tmp_path / "a"))
    assert source.table().to_pydict() == {"x": [1.0, 2.0], "where": ["ATL", "JFK"], "y": [1.0, 3.0]}
    assert (source.origin["predictionsAgain"], source.origin["rowsWithoutPrediction"]) == (1, 0)


def test_missing_values_and_nan_stay_apart(kafka, monitor, tmp_path):
    sent = Sent(kafka, monitor.topics.inference)
    sent.put(
        b'{"type":"request","id":"n","time":%d,"payload":{"instances":[[NaN,null],[null,"7"],[1,7]]}}' % NOW, 0, NOW
    )
    sent.flush()
    table = open_traffic(monitor, TRAFFIC, str(tmp_path / "a")).table()
    assert table["x"].null_count == 1
    assert np.isnan(table["x"][0].as_py())
    assert table["where"].to_pylist() == [None, "7", "7"]
    assert table["y"].null_count == 3


def test_an_empty_range_and_an_absent_topic_are_named(kafka, monitor, tmp_path):
    with pytest.raises(
        UnusableData, match="has no request from its beginning to its end that can be read, of 0 messages"
    ):
        open_traffic(monitor, TRAFFIC, str(tmp_path))
    sent = Sent(kafka, monitor.topics.inference)
    sent.put(b"{}", 0, NOW)
    sent.flush()
    with pytest.raises(UnusableData, match=r"of 1 messages \(unknown_format 1\)"):
        open_traffic(monitor, TRAFFIC, str(tmp_path))
    spec = monitor.spec
    topics = spec.kafka.topics.model_copy(update={"inference": "nosuch"})
    other = monitor.model_copy(
        update={"spec": spec.model_copy(update={"kafka": spec.kafka.model_copy(update={"topics": topics})})}
    )
    with pytest.raises(KafkaError, match="has no topic 'nosuch' that can be read"):
        open_traffic(other, TRAFFIC, str(tmp_path))


def test_a_column_of_both_is_refused(monitor, tmp_path):
    spec = monitor.spec
    model = spec.model.model_copy(update={"predictions": spec.model.features[:1]})
    twice = monitor.model_copy(update={"spec": spec.model_copy(update={"model": model})})
    with pytest.raises(UnusableData, match=r"\['x'\] are features and predictions at once"):
        open_traffic(twice, TRAFFIC, str(tmp_path))


def test_rows_are_as_the_decoder_reads_the_same_messages(kafka, monitor, tmp_path):
    sent = Sent(kafka, monitor.topics.inference)
    traffic(sent, seed=5)
    sent.flush()
    messages = [one for one in consumed(kafka, monitor.topics.inference) if one.headers() is None]
    decoded = Decoder(monitor.spec.model).decode(
        pa.array([one.value() for one in messages]), None, np.array([one.timestamp()[1] for one in messages])
    )
    table = open_traffic(monitor, TRAFFIC, str(tmp_path / "a")).table()
    assert Counter(table["x"].to_pylist()) >= Counter(
        None if gone else value
        for value, gone in zip(
            decoded.requests.block.numeric[:, 0].tolist(), decoded.requests.block.missing[:, 0].tolist(), strict=True
        )
    )
