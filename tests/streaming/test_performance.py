"""Predictions, labels and performance through both stages by hand: whatever comes first, and however it is cut."""

import base64
import json
import time
from itertools import pairwise

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from by_hand import Monitor
from confluent_kafka import Producer
from live import finals, read, running, stop, wait_for
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, r2_score, roc_auc_score
from toy import document, task_of

from reference.build import build
from reference.store import Store
from streaming.editions import ALWAYS, Edition, Task
from streaming.job import prepare_topics
from streaming.merge import Head
from streaming.spec import dump, parse

S = 1000
START = 1_767_225_600_000
"""2026-01-01, ms."""
NOW = START + 3600 * S
WINDOW = "{duration: 10s, watermarkDelay: 2s, idleTimeout: 1h, emitEvery: 0s}"
NUMBER = "{features: [{name: x, type: numeric}, {name: carrier, type: categorical}], predictions: [{name: fare, type: numeric}]}"
CHANCE = "{features: [{name: x, type: numeric}, {name: carrier, type: categorical}], predictions: [{name: chance, type: numeric}]}"
OF_NUMBER = "{metrics: [mae, r2], label: truth, matchEvery: 0s, limits: {mae: 1.5}}"
OF_CHANCE = "{metrics: [accuracy, rocAuc, logLoss], label: truth, threshold: 0.5, positive: '1', matchEvery: 0s}"
SHORT = OF_NUMBER.replace("matchEvery", "labelRetention: 60s, labelWait: 20s, matchEvery")


def flights(rows: int, seed: int, high: float = 6.0) -> pd.DataFrame:
    """What is predicted tells what happens, and errors grow with it."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, high, rows)
    chance = 1 / (1 + np.exp(3 - x))
    return pd.DataFrame(
        {
            "id": [f"{seed}-{i}" for i in range(rows)],
            "at": np.sort(rng.uniform(0, 9.99, rows)).round(3),
            "x": x,
            "carrier": rng.choice(["AA", "B6", "DL"], rows, p=[0.5, 0.3, 0.2]),
            "fare": 10 + x,
            "chance": chance,
            "truth_of_fare": 10 + x + rng.normal(0, 0.3 + x / 3, rows),
            "truth_of_chance": rng.binomial(1, chance),
        }
    )


def flat(headers):
    """As `streaming.headers.FLAT` writes them."""
    return "\0".join([str(len(headers)), *(text for pair in headers.items() for text in pair)]).encode()


class Stream:
    """A monitor by hand, and the topics that it reads."""

    def __init__(self, folder, model=NUMBER, performance=OF_NUMBER, window=WINDOW, rows=20_000, **sections):
        text = document(folder, model=model, performance=performance, window=window, **sections)
        self.monitor, self.folder, self.offset, self.now = parse(text, "toy.yaml"), folder, 0, NOW
        self.prediction = self.monitor.spec.model.predictions[0].name
        self.publish(flights(rows, 0))
        self.whole = Monitor(task_of(self.monitor), folder)
        self.records = []

    def publish(self, table):
        """A baseline of this table."""
        spec = self.monitor.spec
        table = table.assign(truth=table[f"truth_of_{self.prediction}"])
        made = build(
            pa.Table.from_pandas(table.drop(columns=["id", "at"]), preserve_index=False),
            spec.model, spec.reference, segments=spec.segments, performance=spec.performance,
        )  # fmt: skip
        return Store(spec.reference.store).publish(made)

    def answers(self, table, first=0.0):
        """Requests and responses of a table, each beside the other."""
        found = []
        for identity, at, x, carrier, answer in table[["id", "at", "x", "carrier", self.prediction]].itertuples(
            index=False
        ):
            shared = {"id": identity, "time": START / S + first + at}
            found.append({"type": "request", **shared, "payload": {"instances": [[x, carrier]]}})
            found.append({"type": "response", **shared, "payload": {"predictions": [answer]}})
        return found

    def labels(self, table):
        truth = table[f"truth_of_{self.prediction}"].tolist()
        return [{"id": identity, "label": label} for identity, label in zip(table["id"], truth, strict=True)]

    def send(self, messages=(), labels=(), now=None, cut=1):
        """One micro-batch of both topics, `cut` tasks each; its new records."""
        self.now = self.now + S if now is None else now
        topics = self.monitor.topics
        parts = [
            self._batch(some[begin:end], topic)
            for some, topic in ((messages, topics.inference), (labels, topics.labels))
            for begin, end in pairwise(np.linspace(0, len(some), cut + 1).astype(int).tolist())
            if end > begin
        ]
        found = [(topic, json.loads(body)) for topic, body in self.whole.batch(parts, self.now)]
        self.records += found
        return [record for topic, record in found if topic == topics.performance]

    def _batch(self, messages, topic):
        n, first = len(messages), self.offset
        self.offset += n
        headers = [
            flat(message.pop("headers")) if isinstance(message, dict) and "headers" in message else None
            for message in messages
        ]
        values = [message if isinstance(message, bytes) else json.dumps(message).encode() for message in messages]
        return pa.record_batch(
            {
                "key": pa.nulls(n, pa.binary()),
                "value": pa.array(values, pa.binary()),
                "partition": pa.array(np.zeros(n, np.int32)),
                "offset": pa.array(np.arange(first, first + n)),
                "timestamp": pa.array(np.full(n, NOW * S)).cast(pa.timestamp("us", "UTC")),
                "topic": pa.array([topic] * n),
                "headers": pa.array(headers, pa.binary()),
            }
        )

    def tick(self, at, identity="tick"):
        """A request that moves the clock, in seconds."""
        message = {"type": "request", "id": identity, "time": START / S + at, "payload": {"instances": [[1.0, "AA"]]}}
        return self.send([message])

    def of(self, kind, segment=""):
        return [record for _, record in self.records if record["kind"] == kind and record.get("segment", "") == segment]

    def finals(self, segment=""):
        return {
            one["window"]["start"][17:19]: one for one in self.of("performance", segment) if one["status"] == "final"
        }

    @property
    def operator(self):
        return self.whole.operators["toy", ""]

    def head(self, segment=""):
        return msgspec.msgpack.decode(self.whole.operators["toy", segment].head, type=Head)


def test_labels_in_the_batch_of_their_predictions(tmp_path):
    stream, table = Stream(tmp_path), flights(300, 1)
    assert stream.send(stream.answers(table), stream.labels(table)) == []
    (record,) = stream.tick(15)
    assert (record["status"], record["revision"], record["id"].split("/")[-2:]) == (
        "final",
        1,
        ["performance", "final"],
    )
    assert record["metrics"]["mae"] == pytest.approx(mean_absolute_error(table["truth_of_fare"], table["fare"]))
    assert record["metrics"]["r2"] == pytest.approx(r2_score(table["truth_of_fare"], table["fare"]))
    assert record["counts"] == {
        "predictions": 300, "labelled": 300, "unusable": 0, "waiting": 0, "expired": 0, "duplicates": 0
    }  # fmt: skip
    assert record["estimated"] is None
    assert record["baseline"] == Store(stream.monitor.spec.reference.store).current("toy")
    reference = flights(20_000, 0)
    assert record["reference"]["mae"] == pytest.approx(
        mean_absolute_error(reference["truth_of_fare"], reference["fare"])
    )


def test_later_labels_correct_a_window(tmp_path):
    stream, table = Stream(tmp_path), flights(300, 1)
    stream.send(stream.answers(table))
    (first,) = stream.tick(15)
    assert (first["status"], first["revision"], first["counts"]["waiting"]) == ("provisional", 1, 300)
    assert first["metrics"] == {"mae": None, "r2": None}
    assert first["alarm"] == {"raised": False, "metrics": [], "judgedBy": "estimate"}
    (second,) = stream.send(labels=stream.labels(table[:100]))
    assert (second["status"], second["revision"], second["id"].split("/")[-1]) == ("provisional", 2, "r2")
    assert second["metrics"]["mae"] == pytest.approx(
        mean_absolute_error(table["truth_of_fare"][:100], table["fare"][:100])
    )
    assert second["alarm"]["judgedBy"] == "labels"
    assert second["window"] == first["window"]
    (third,) = stream.send(labels=stream.labels(table[100:]))
    assert (third["status"], third["revision"]) == ("final", 3)
    assert third["metrics"]["mae"] == pytest.approx(mean_absolute_error(table["truth_of_fare"], table["fare"]))
    assert stream.head().measuring.due == {}


def test_labels_may_come_before_their_predictions(tmp_path):
    stream, table = Stream(tmp_path), flights(50, 1)
    stream.send(labels=stream.labels(table))
    stream.send(stream.answers(table))
    (record,) = stream.tick(15)
    assert (record["status"], record["counts"]["labelled"]) == ("final", 50)


def test_a_label_without_a_prediction_is_a_dead_letter_after_its_wait(tmp_path):
    stream = Stream(tmp_path, performance=SHORT)
    one, many = {"id": "nobody", "label": 1.5}, {"id": "none", "instance": 3, "labels": [2**70, 2.5], "time": 1.7e9}
    stream.send(labels=[one, many, b'{"id": "half'])
    assert [letter["reason"] for letter in stream.of("deadletter")] == ["malformed_json"]
    assert stream.operator.timer <= stream.now + 21 * S
    stream.send(now=stream.now + 15 * S)
    assert len(stream.of("deadletter")) == 1
    stream.send(now=stream.operator.timer)
    stream.send(now=stream.now + 6 * S)
    letters = stream.of("deadletter")[1:]
    assert [(letter["reason"], letter["topic"], letter["offset"]) for letter in letters] == [
        ("unmatched_label", "toy-labels", 0), ("unmatched_label", "toy-labels", 1), ("unmatched_label", "toy-labels", 1)
    ]  # fmt: skip
    assert [json.loads(base64.b64decode(letter["value"])) for letter in letters] == [
        one, {"id": "none", "instance": 3, "label": 2**70, "time": 1.7e9}, {"id": "none", "instance": 4, "label": 2.5, "time": 1.7e9}
    ]  # fmt: skip
    assert len({letter["id"] for letter in letters}) == 3
    assert not stream.operator.waiting
    assert stream.operator.mark.counts["dead:unmatched_label"] == 3


def test_a_second_label_changes_nothing_and_is_counted(tmp_path):
    stream, table = Stream(tmp_path), flights(40, 1)
    stream.send(stream.answers(table), stream.labels(table[:30]))
    stream.tick(15)
    again = [{**label, "label": 0.0} for label in stream.labels(table[:5])]
    assert stream.send(labels=again) == []
    (record,) = stream.send(labels=stream.labels(table[30:]))
    assert (record["status"], record["counts"]["duplicates"]) == ("final", 5)
    assert record["metrics"]["mae"] == pytest.approx(mean_absolute_error(table["truth_of_fare"], table["fare"]))


def test_null_and_text_are_labels_that_measure_nothing(tmp_path):
    stream, table = Stream(tmp_path), flights(40, 1)
    labels = stream.labels(table)
    labels[0]["label"], labels[1]["label"] = None, "unknown"
    stream.send(stream.answers(table), labels)
    (record,) = stream.tick(15)
    assert (record["status"], record["counts"]["labelled"], record["counts"]["unusable"]) == ("final", 40, 2)
    assert record["metrics"]["mae"] == pytest.approx(mean_absolute_error(table["truth_of_fare"][2:], table["fare"][2:]))


def test_one_response_may_have_many_instances(tmp_path):
    stream = Stream(tmp_path)
    answer = {"type": "response", "id": "r", "time": START / S + 1, "payload": {"predictions": [1.0, 2.0, 3.0]}}
    stream.send([answer], [{"id": "r", "labels": [2.0, 2.0]}, {"id": "r", "instance": 2, "label": 5.0}])
    (record,) = stream.tick(15)
    assert (record["counts"]["labelled"], record["metrics"]["mae"]) == (3, 1.0)


@pytest.mark.parametrize("every", [1, 3])
def test_final_records_are_scikit_learns_however_batches_are_cut(tmp_path, every):
    """Predictions in order, labels shuffled over four batches each; both topics cut into tasks."""
    stream = Stream(tmp_path, CHANCE, OF_CHANCE)
    tables = [flights(200, seed) for seed in (1, 2, 3)]
    labels = [label for table in tables for label in stream.labels(table)]
    np.random.default_rng(5).shuffle(labels)
    messages = [message for k, table in enumerate(tables) for message in stream.answers(table, 10.0 * k)]
    cuts = np.linspace(0, 1, 4 * every + 1)
    for begin, end in pairwise(cuts):
        some = messages[int(begin * len(messages)) : int(end * len(messages))]
        others = labels[int(begin * len(labels)) : int(end * len(labels))]
        stream.send(some, others, cut=every)
    stream.tick(45)
    finals = stream.finals()
    assert list(finals) == ["00", "10", "20"]
    for table, record in zip(tables, finals.values(), strict=True):
        truth, chance = table["truth_of_chance"], table["chance"]
        assert record["metrics"]["accuracy"] == accuracy_score(truth, chance >= 0.5)
        assert record["metrics"]["logLoss"] == pytest.approx(log_loss(truth, chance))
        assert record["metrics"]["rocAuc"] == pytest.approx(roc_auc_score(truth, chance), abs=2e-3)
        assert record["counts"]["labelled"] == 200


def test_sliding_windows_are_sums_of_panes(tmp_path):
    stream = Stream(tmp_path, window=WINDOW.replace("10s", "10s, slide: 5s"))
    table = flights(400, 1)
    stream.send(stream.answers(table), stream.labels(table[::2]))
    stream.tick(60)
    first = stream.of("performance")
    assert [(one["window"]["start"][17:19], one["counts"]["predictions"], one["status"]) for one in first] == [
        ("55", int((table["at"] < 5).sum()), "provisional"), ("00", 400, "provisional"), ("05", int((table["at"] >= 5).sum()), "provisional")
    ]  # fmt: skip
    last = stream.send(labels=stream.labels(table[1::2]))
    assert [(one["revision"], one["status"]) for one in last] == [(2, "final")] * 3
    for record, some in zip(last, (table["at"] < 5, table["at"] >= 0, table["at"] >= 5), strict=True):
        mae = mean_absolute_error(table["truth_of_fare"][some], table["fare"][some])
        assert record["metrics"]["mae"] == pytest.approx(mae)


def test_counted_windows_are_measured_one_by_one(tmp_path):
    stream = Stream(tmp_path, window="{every: 100, watermarkDelay: 2s, idleTimeout: 1h, emitEvery: 0s}")
    tables = [flights(100, seed) for seed in (1, 2)]
    for k, table in enumerate(tables):
        stream.send(stream.answers(table, 10.0 * k), stream.labels(table[:50]))
    first, second = stream.of("performance")
    assert [first["every"], first["counts"]["predictions"], first["counts"]["waiting"]] == [100, 100, 50]
    assert [first["id"].split("/")[2], second["id"].split("/")[2]] == ["000000000", "000000001"]
    last = stream.send(labels=[label for table in tables for label in stream.labels(table[50:])])
    assert [one["status"] for one in last] == ["final"] * 2
    for record, table, before in zip(last, tables, (first, second), strict=True):
        assert record["metrics"]["mae"] == pytest.approx(mean_absolute_error(table["truth_of_fare"], table["fare"]))
        assert record["window"] == before["window"]
    assert not [place for place in stream.operator.performance if place[1] > 0]


@pytest.mark.parametrize(("model", "performance"), [(NUMBER, OF_NUMBER), (CHANCE, OF_CHANCE)])
def test_the_estimate_is_near_the_truth_when_predictions_drift(tmp_path, model, performance):
    """Before a single label, and only predictions come of which there were few."""
    stream, table = Stream(tmp_path, model, performance), flights(9000, 1)
    table = table[table["x"] > 4.5]
    stream.send(stream.answers(table))
    (before,) = stream.tick(15)
    (after,) = stream.send(labels=stream.labels(table))
    assert before["covered"] == 1.0
    for name, true in after["metrics"].items():
        foreseen = before["estimated"][name]
        width = foreseen["high"] - foreseen["low"]
        assert foreseen["low"] - width / 2 < true < foreseen["high"] + width / 2
    name = next(iter(after["metrics"]))
    far = abs(before["reference"][name] - after["metrics"][name])
    assert abs(before["estimated"][name]["value"] - after["metrics"][name]) < far / 4


def test_an_alarm_goes_by_the_estimate_then_by_labels(tmp_path):
    stream, table = Stream(tmp_path), flights(2000, 1)
    table = table[table["x"] > 4.0].assign(truth_of_fare=lambda t: t["fare"])
    stream.send(stream.answers(table))
    (first,) = stream.tick(15)
    assert first["alarm"] == {"raised": True, "metrics": ["mae"], "judgedBy": "estimate"}
    (few,) = stream.send(labels=stream.labels(table[:10]))
    assert (few["metrics"]["mae"], few["alarm"]["judgedBy"]) == (0.0, "estimate")
    (many,) = stream.send(labels=stream.labels(table[10:50]))
    assert many["alarm"] == {"raised": False, "metrics": [], "judgedBy": "labels"}


def test_without_a_reference_there_is_no_estimate(tmp_path):
    stream, table = Stream(tmp_path, performance=OF_NUMBER.replace("label: truth, ", "")), flights(30, 1)
    stream.send(stream.answers(table))
    (record,) = stream.tick(15)
    assert (record["estimated"], record["reference"], record["alarm"]["judgedBy"]) == (None, None, None)
    assert "names no column" in record["unestimated"]
    (record,) = stream.send(labels=stream.labels(table))
    assert record["metrics"]["mae"] == pytest.approx(mean_absolute_error(table["truth_of_fare"], table["fare"]))


def test_when_the_retention_is_over_windows_are_final_and_nothing_is_kept(tmp_path):
    stream, tables = Stream(tmp_path, performance=SHORT), [flights(50, seed) for seed in range(1, 12)]
    sizes = []
    for k, table in enumerate(tables):
        stream.send(stream.answers(table, 10.0 * k), stream.labels(table[:20]))
        sizes.append((len(stream.operator.performance), len(stream.operator.waiting)))
    assert max(sizes[-3:]) <= max(sizes[:-3])  # no more than at the retention's length
    stream.tick(400)
    finals = stream.finals()
    assert [one["counts"]["expired"] for one in finals.values()] == [30] * len(finals)
    assert len([one for one in stream.of("performance") if one["status"] == "final"]) == 11
    assert not stream.operator.waiting
    assert not [place for place in stream.operator.performance if place[1] > 0]
    assert len(stream.operator.head) < 300


def test_what_a_waiting_prediction_costs(tmp_path):
    """As streaming/performance.py says: 18 bytes of a regression, 26 of a class with one probability."""
    for name, model, performance, cost in (("a", NUMBER, OF_NUMBER, 18), ("b", CHANCE, OF_CHANCE, 26)):
        stream = Stream(tmp_path / name, model, performance)
        stream.send(stream.answers(flights(5000, 1)))
        size = sum(len(value) for (value,) in stream.operator.waiting.values())
        assert (cost - 1.5) * 5000 < size < cost * 5000


def edition(stream, number, since, version):
    return Edition(number, since, version, stream.monitor.model_dump_json(by_alias=True))


CLASS = "{features: [{name: x, type: numeric}, {name: carrier, type: categorical}], predictions: [{name: fare, type: categorical}]}"


def test_editions_change_while_labels_are_waited_for(tmp_path):
    """Two baselines with other classes; a window of the first is corrected when its edition is long gone."""
    performance = "{metrics: [accuracy, f1], label: truth, matchEvery: 0s, labelRetention: 60s}"
    stream = Stream(tmp_path, CLASS, performance)

    def classes(table, names):
        rng = np.random.default_rng(3)
        fare = rng.choice(names, len(table))
        return table.assign(fare=fare, truth_of_fare=np.where(rng.random(len(table)) < 0.8, fare, names[0]))

    first = stream.publish(classes(flights(3000, 0), ["c", "b", "a"]))
    stream.whole.task = Task(((edition(stream, 0, ALWAYS, first),),), 0)
    old, new = classes(flights(100, 1), ["a", "b", "c", "new"]), classes(flights(100, 2), ["a", "d"])
    stream.send(stream.answers(old))
    second = stream.publish(classes(flights(3000, 9), ["a", "d"]))
    stream.whole.task = Task(((edition(stream, 0, ALWAYS, first), edition(stream, 1, START + 10 * S, second)),), 0)
    stream.send(stream.answers(new, 10.0))
    stream.tick(25)
    assert [(one["baseline"], one["window"]["start"][17:19], one["status"]) for one in stream.of("performance")] == [
        (first, "00", "provisional"), (second, "10", "provisional")
    ]  # fmt: skip
    stream.whole.task = Task(((edition(stream, 1, START + 10 * S, second),),), 0)
    corrected = stream.send(labels=stream.labels(old) + stream.labels(new))
    assert [(one["baseline"], one["status"], one["counts"]["labelled"]) for one in corrected] == [
        (first, "final", 100), (second, "final", 100)
    ]  # fmt: skip
    for record, table in zip(corrected, (old, new), strict=True):
        assert record["metrics"]["accuracy"] == accuracy_score(table["truth_of_fare"], table["fare"])
    stream.tick(400)
    assert not [place for place in stream.operator.performance if place[0] == 0]


def test_nothing_is_left_when_nobody_asks_for_performance_any_more(tmp_path):
    stream, table = Stream(tmp_path), flights(50, 1)
    stream.send(stream.answers(table), [{"id": "nobody", "label": 1.0}])
    version = Store(stream.monitor.spec.reference.store).current("toy")
    spec = stream.monitor.spec.model_copy(update={"performance": type(stream.monitor.spec.performance)()})
    asked, stream.monitor = stream.monitor, stream.monitor.model_copy(update={"spec": spec})
    before = Edition(0, ALWAYS, version, asked.model_dump_json(by_alias=True))
    stream.whole.task = Task(((before, edition(stream, 1, START + 10 * S, version)),), 0)
    assert stream.tick(15) == []
    assert not stream.operator.waiting
    assert not stream.operator.performance
    assert [letter["reason"] for letter in stream.of("deadletter")] == ["unmatched_label"]


def test_other_predictions_than_before_do_not_meet_the_labels_of_those(tmp_path):
    """Another column is compared with labels from now on: what waited of the old one is let go."""
    model = NUMBER.replace(
        "[{name: fare, type: numeric}]", "[{name: fare, type: numeric}, {name: chance, type: numeric}]"
    )
    stream = Stream(tmp_path, model.replace("name: chance", "name: other"), OF_NUMBER)
    table = flights(50, 1)
    pairs = [
        {**one, "payload": {"predictions": [[*one["payload"]["predictions"], 0.0]]}}
        if one["type"] == "response"
        else one
        for one in stream.answers(table)
    ]
    stream.send(pairs)
    version = Store(stream.monitor.spec.reference.store).current("toy")
    section = stream.monitor.spec.performance.model_copy(update={"prediction": "other"})
    spec = stream.monitor.spec.model_copy(update={"performance": section})
    asked, stream.monitor = stream.monitor, stream.monitor.model_copy(update={"spec": spec})
    before = Edition(0, ALWAYS, version, asked.model_dump_json(by_alias=True))
    stream.whole.task = Task(((before, edition(stream, 1, START + 10 * S, version)),), 0)
    (record,) = stream.tick(15)
    assert (record["prediction"], record["counts"]["waiting"]) == ("fare", 50)
    assert stream.send(labels=stream.labels(table)) == []
    assert stream.head().measuring.index.predictions == {}


CARRIERS = "{by: [carrier]}"


def drained(stream):
    """Windows of segments close a batch after those of their model."""
    for k in range(3):
        stream.tick(100 + k)
    return stream


def test_segments_divide_the_predictions_however_batches_are_cut(tmp_path):
    """Requests and responses side by side, one batch after the other, and the responses first."""
    found, table = [], flights(400, 1)
    for way in range(4):
        stream = Stream(tmp_path / str(way), segments=CARRIERS)
        both, labels = stream.answers(table), stream.labels(table)
        requests, responses = both[::2], both[1::2]
        if way == 0:
            stream.send(both, labels)
        elif way == 1:
            stream.send(requests, labels[:100])
            stream.send(responses, labels[100:], cut=3)
        elif way == 2:
            stream.send(responses, labels, cut=2)
            stream.send(requests)
        else:
            for k in range(5):
                stream.send(both[k::5], labels[k::5], cut=2)
        drained(stream)
        found.append({})
        for carrier in ("AA", "B6", "DL"):
            mine, name = table[table["carrier"] == carrier], f"carrier={carrier}"
            record = stream.finals(name)["00"]
            assert record["counts"]["predictions"] == record["counts"]["labelled"] == len(mine)
            assert record["counts"]["duplicates"] is None
            mae = mean_absolute_error(mine["truth_of_fare"], mine["fare"])
            assert record["metrics"]["mae"] == pytest.approx(mae, rel=1e-12)
            statistics = [one for one in stream.of("statistics", name) if one["window"]["start"][17:19] == "00"][-1]
            drift = [one for one in stream.of("drift", name) if one["window"]["start"][17:19] == "00"][-1]
            assert statistics["counts"]["responses"] == len(mine)
            assert {column["name"] for column in drift["columns"] if column["source"] == "response"} == {"fare"}
            found[-1][carrier] = [record["metrics"], record["reference"], drift["columns"]]
        assert stream.finals()["00"]["counts"]["predictions"] == 400
        assert stream.finals("carrier=(other)") == {}
    for other in found[1:]:
        assert json.loads(json.dumps(other), parse_float=lambda x: round(float(x), 9)) == json.loads(
            json.dumps(found[0]), parse_float=lambda x: round(float(x), 9)
        )


def test_a_response_without_its_request_is_in_no_segment(tmp_path):
    stream, table = (
        Stream(tmp_path, segments=CARRIERS, window=WINDOW.replace("emitEvery", "joinWait: 20s, emitEvery")),
        flights(40, 1),
    )
    both = stream.answers(table)
    stream.send(both[1::2])
    operator = stream.whole.operators["toy", "carrier=AA"]
    assert operator.timer == stream.now + 20 * S
    assert len(operator.pending.value[0]) < 60 * 40 + 200
    stream.send(now=operator.timer)
    assert operator.pending.value is None
    stream.send(both[::2])
    drained(stream)
    assert stream.of("performance")[0]["counts"]["predictions"] == 40
    assert not stream.of("performance", "carrier=AA")
    stream.send(now=stream.now + 30 * S)
    assert all(one.pending.value is None for one in stream.whole.operators.values())


def test_instances_of_one_request_may_be_in_several_segments(tmp_path):
    stream = Stream(tmp_path, segments=CARRIERS)
    shared = {"id": "r", "time": START / S + 1}
    request = {"type": "request", **shared, "payload": {"instances": [[1.0, "AA"], [2.0, "B6"], [3.0, "AA"]]}}
    response = {"type": "response", **shared, "payload": {"predictions": [1.0, 2.0, 3.0]}}
    stream.send([request])
    stream.send([response], [{"id": "r", "labels": [2.0, 4.0, 6.0]}])
    drained(stream)
    assert stream.finals("carrier=AA")["00"]["metrics"]["mae"] == 2.0
    assert stream.finals("carrier=B6")["00"]["metrics"]["mae"] == 2.0


def test_headers_put_a_response_into_its_segment_and_else_its_request_does(tmp_path):
    stream = Stream(tmp_path, segments="{by: [{header: country, values: [de, fr]}]}")
    table = flights(6, 1)
    both = stream.answers(table)
    for one in both[::2]:
        one["headers"] = {"country": "de"}
    both[1]["headers"] = {"country": "fr"}
    both[3]["headers"] = {"country": "it"}
    stream.send(both, stream.labels(table))
    drained(stream)
    predictions = {
        name: stream.finals(f"country={name}").get("00", {}).get("counts", {}).get("predictions")
        for name in ("de", "fr", "(other)")
    }
    assert predictions == {"de": 4, "fr": 1, "(other)": 1}
    (unjudged,) = stream.finals("country=de").values()
    assert (unjudged["reference"], unjudged["counts"]["labelled"]) == (None, 4)
    assert "no header 'country'" in unjudged["unestimated"]


def test_labels_of_other_segments_are_let_go_silently(tmp_path):
    stream, table = Stream(tmp_path, performance=SHORT, segments=CARRIERS), flights(100, 1)
    stream.send(stream.answers(table), stream.labels(table))
    assert stream.whole.operators["toy", "carrier=DL"].waiting
    stream.send(now=stream.now + 25 * S)
    for name in ("AA", "B6", "DL", "(other)"):
        assert not stream.head(f"carrier={name}").measuring.index.labels
    assert stream.of("deadletter") == []


@pytest.mark.spark
def test_labels_of_a_real_topic_correct_a_window_that_has_closed(kafka, tmp_path):
    """The monitor as a user runs it: estimate first, then the truth, segment by segment; a label of nobody is a dead letter."""
    names = ("inference", "labels", "outliers", "statistics", "drift", "performance", "deadletter", "events")
    topics = ", ".join(f"{kind}: 'live-{kind}'" for kind in names)
    stream = Stream(
        tmp_path,
        performance=OF_NUMBER.replace("matchEvery: 0s", "matchEvery: 1s, labelWait: 6s"),
        window="{duration: 10s, watermarkDelay: 2s, idleTimeout: 6s, emitEvery: 500ms}",
        segments=CARRIERS,
        kafka=f"{{bootstrapServers: '{kafka.bootstrap_servers}', topics: {{{topics}}}}}",
    )
    monitor, path, table = stream.monitor, tmp_path / "live.yaml", flights(600, 1)
    path.write_text(dump(monitor))
    prepare_topics(monitor)
    first = int(time.time() / 10) * 10 - 30.0
    producer, log = Producer(kafka.connection.for_confluent()), path.with_suffix(".log")

    def produce(topic, messages):
        for message in messages:
            producer.produce(topic, json.dumps(message).encode(), key=message["id"].encode())
        producer.flush()

    def told(segment=""):
        return [one for one in read(kafka, monitor.topics.performance) if one["segment"] == segment]

    with running(path) as process:
        produce(monitor.topics.inference, stream.answers(table, first - START / S))
        before = wait_for(told, process, log, 300)[0]
        assert (before["status"], before["counts"]["predictions"], before["counts"]["labelled"]) == (
            "provisional",
            600,
            0,
        )
        produce(monitor.topics.labels, [*stream.labels(table), {"id": "nobody", "label": 1.0}])
        parts = [table, *(table[table["carrier"] == carrier] for carrier in ("AA", "B6", "DL"))]
        for part, segment in zip(parts, ("", "carrier=AA", "carrier=B6", "carrier=DL"), strict=True):
            wait_for(lambda name=segment: finals(told(name)), process, log)
            (final,) = finals(told(segment)).values()
            assert final["counts"]["labelled"] == len(part)
            mae = mean_absolute_error(part["truth_of_fare"], part["fare"])
            assert final["metrics"]["mae"] == pytest.approx(mae, rel=1e-9)
            foreseen = told(segment)[0]["estimated"]["mae"]
            assert abs(foreseen["value"] - mae) < foreseen["high"] - foreseen["low"]
        wait_for(lambda: read(kafka, monitor.topics.deadletter), process, log)
        assert stop(process) == 0
    (letter,) = read(kafka, monitor.topics.deadletter)
    assert (letter["reason"], letter["topic"]) == ("unmatched_label", "live-labels")
    assert "Traceback" not in log.read_text()
