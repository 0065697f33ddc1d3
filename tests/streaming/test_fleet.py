"""Many models in one job: files and baselines come, change and go while it runs."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import toy
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from live import envelope, finals, read, running, stop, wait_for

from reference.build import build
from reference.store import Store
from streaming.fleet import Fleet
from streaming.job import check_baseline, prepare_topics
from streaming.spec import ModelMonitor, parse

LENGTH = 5


def document(folder: Path, servers: str, name: str, **sections: str) -> str:
    text = toy.document(
        folder,
        **{
            "kafka": f"{{bootstrapServers: '{servers}', partitions: 2}}",
            "window": f"{{duration: {LENGTH}s, watermarkDelay: 1s, idleTimeout: 4s, emitEvery: 500ms, noTraffic: 8s}}",
            "outliers": "{detectors: [bounds, missing]}",
            "job": f"{{checkpoint: {folder / 'checkpoint'}, refreshInterval: 1s}}",
            **sections,
        },
    )
    return text.replace("{name: toy}", f"{{name: {name}}}")


def publish(monitor: ModelMonitor, mean: float = 10.0) -> str:
    rng = np.random.default_rng(int(mean))
    table = pa.table({"x": rng.normal(mean, 2.0, 3000), "where": rng.choice(["ATL", "JFK"], 3000)})
    return Store(monitor.spec.reference.store).publish(build(table, monitor.spec.model, monitor.spec.reference))


class Sender:
    """Sends requests of now, and remembers how many."""

    def __init__(self, broker) -> None:
        self._producer = Producer(broker.connection.for_confluent())
        self.sent: dict[str, int] = {}

    def __call__(self, monitor: ModelMonitor, count: int = 50) -> None:
        for i in range(count):
            body = envelope(self.sent.get(monitor.name, 0) + i, time.time(), [[10.0 + i % 5, "ATL"]])
            self._producer.produce(monitor.topics.inference, body, partition=i % 2)
        self._producer.flush()
        self.sent[monitor.name] = self.sent.get(monitor.name, 0) + count


@pytest.mark.spark
def test_files_baselines_and_topics_change_while_it_runs(kafka, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    documents = {name: document(tmp_path, kafka.bootstrap_servers, name) for name in ("fleet-a", "fleet-b", "fleet-c")}
    models = {name: parse(text, name) for name, text in documents.items()}
    versions = {name: publish(monitor) for name, monitor in models.items()}
    for name in ("fleet-a", "fleet-b"):
        (folder / f"{name}.yaml").write_text(documents[name])
    a, b, c = models.values()
    prepare_topics(a, b)
    send, log = Sender(kafka), folder.with_suffix(".log")

    def reports(monitor: ModelMonitor) -> list[dict]:
        return read(kafka, monitor.topics.statistics)

    def counted(monitor: ModelMonitor) -> int:
        return sum(r["counts"]["requests"] for r in finals(reports(monitor)).values())

    def reasons(monitor: ModelMonitor) -> list[str]:
        return [event["reason"] for event in read(kafka, monitor.topics.events)]

    with running(folder) as process:
        send(a)
        send(b)
        wait_for(lambda: reports(a) and reports(b), process, log)
        # A file comes, another is broken: the first takes effect, of the second its model goes on as it was.
        (folder / "fleet-c.yaml").write_text(documents["fleet-c"])
        (folder / "fleet-b.yaml").write_text(documents["fleet-b"].replace("duration: 5s", "duration: soon"))
        wait_for(lambda: "monitorRefused" in reasons(b), process, log)
        wait_for(lambda: "modelAdded" in log_of(log, "fleet-c"), process, log)
        send(c)
        send(b)
        wait_for(lambda: reports(c), process, log)
        # A baseline is published: windows that begin from then on are compared with it.
        newer = publish(a, mean=11.0)
        wait_for(lambda: "baselineAdopted" in reasons(a), process, log)
        deadline = time.monotonic() + 60
        while not any(r["baseline"] == newer and r["status"] == "final" for r in reports(a)):
            assert time.monotonic() < deadline
            send(a, 10)
            time.sleep(0.5)
        # A topic is deleted and created again: it is read from its beginning.
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        wait_for(lambda: counted(c) == 50, process, log)
        admin.delete_topics([c.topics.inference])[c.topics.inference].result(30)
        time.sleep(1)
        admin.create_topics([NewTopic(c.topics.inference, 2, 1)])[c.topics.inference].result(30)
        send(c)
        wait_for(lambda: "topicRecreated" in reasons(c), process, log)
        wait_for(lambda: counted(c) == 100, process, log)
        # A model that should have traffic and has none says so.
        wait_for(lambda: "noTraffic" in reasons(b), process, log)
        # A file goes.
        (folder / "fleet-b.yaml").unlink()
        wait_for(lambda: "modelRemoved" in reasons(b), process, log)
        send(a, 10)
        # It comes back: what came meanwhile is read, and nothing twice.
        send(b)
        (folder / "fleet-b.yaml").write_text(documents["fleet-b"])
        wait_for(lambda: counted(b) == send.sent["fleet-b"], process, log)
        assert stop(process) == 0
    said = log.read_text()
    assert "Traceback" not in said
    for monitor in (a, b, c):
        found = finals(reports(monitor)).values()
        if monitor is not a:  # whose last window is open
            assert counted(monitor) == send.sent[monitor.name], monitor.name
        assert not read(kafka, monitor.topics.deadletter)
        ends = [r["window"]["start"] for r in found]
        assert len(set(ends)) == len(ends), "a window has one edition"
    known = {r["window"]["start"]: r["baseline"] for r in finals(reports(a)).values()}
    assert set(known.values()) == {versions["fleet-a"], newer}
    assert [known[start] for start in sorted(known)] == sorted(known.values(), key=[versions["fleet-a"], newer].index)


def log_of(log: Path, model: str) -> str:
    """What the log says of one model."""
    return "\n".join(line for line in log.read_text().splitlines() if f"driftline: {model}:" in line)


class Folder:
    """ModelMonitors in a directory, and what is read of them."""

    def __init__(self, path: Path) -> None:
        self.path, self.models = path, path / "models"
        self.models.mkdir(parents=True)
        self.checked: list[tuple[str, str]] = []
        self.fleet = Fleet(self.models, self._check)

    def _check(self, monitor: ModelMonitor, version: str) -> None:
        self.checked.append((monitor.name, version))
        check_baseline(monitor, version)

    def put(self, name: str, file: str | None = None, published: bool = True, **sections: str) -> ModelMonitor:
        text = document(self.path, "localhost:1", name, **sections)
        (self.models / (file or f"{name}.yaml")).write_text(text)
        monitor = parse(text, name)
        if published:
            publish(monitor)
        return monitor

    def read(self) -> tuple[list[str], list[str]]:
        """Models that are wanted, and why others are not."""
        reading = self.fleet.read()
        return sorted(reading.wanted), [refusal.why for refusal in reading.refused]


def test_a_file_that_cannot_be_used_is_refused_and_the_others_go_on(tmp_path):
    folder = Folder(tmp_path)
    folder.put("a")
    (folder.models / "b.yaml").write_text("{")
    folder.put("c", published=False)
    (folder.models / ".d.yaml").write_text("what an editor leaves")
    (folder.models / "notes.txt").write_text("not a model")
    wanted, why = folder.read()
    assert wanted == ["a"]
    assert len(why) == 2
    assert "b.yaml" in why[0]
    assert "no baseline of model 'c'" in why[1]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"job": "{checkpoint: elsewhere}"}, "spec.job.checkpoint is '"),
        ({"kafka": "{bootstrapServers: 'other:9092'}"}, "spec.kafka.bootstrap_servers is 'other:9092', and 'localhost:1' in"),
        ({"kafka": "{bootstrapServers: 'localhost:1', topics: {inference: a-inference}}"}, "'a-inference' is read for model 'a' already"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_into_the_job_is_refused(tmp_path, sections, said):
    folder = Folder(tmp_path)
    folder.put("a")
    folder.put("b", **sections)
    wanted, (why,) = folder.read()
    assert wanted == ["a"]
    assert said in why


def test_a_model_has_one_file(tmp_path):
    folder = Folder(tmp_path)
    folder.put("a")
    folder.put("a", "copy.yaml")
    wanted, (why,) = folder.read()
    assert wanted == ["a"]
    assert "has one file" in why


def test_what_was_good_stays_until_something_good_comes(tmp_path):
    folder = Folder(tmp_path)
    good = folder.put("a")
    before = folder.fleet.read().wanted["a"]
    (folder.models / "a.yaml").write_text("spec: {}")
    reading = folder.fleet.read()
    assert reading.wanted == {"a": before}
    assert [(refusal.model, refusal.of_baseline) for refusal in reading.refused] == [("a", False)]
    folder.put("a")
    newer = Store(good.spec.reference.store)
    baseline = tmp_path / "baselines" / "a" / publish(good, 12.0) / "baseline.bin"
    baseline.write_bytes(baseline.read_bytes()[:-1])
    reading = folder.fleet.read()
    assert reading.wanted["a"].baseline == before.baseline != newer.current("a")
    assert [(refusal.model, refusal.of_baseline) for refusal in reading.refused] == [("a", True)]
    version = publish(good, 13.0)
    assert folder.fleet.read().wanted["a"].baseline == version
    (folder.models / "a.yaml").unlink()
    assert folder.read() == ([], [])


def test_what_has_not_changed_is_not_looked_into_again(tmp_path, monkeypatch):
    folder = Folder(tmp_path)
    folder.put("a")
    folder.put("b")
    assert folder.read() == (["a", "b"], [])
    monkeypatch.setattr("streaming.fleet.load", lambda path: pytest.fail(f"{path} is read again"))
    assert folder.read() == (["a", "b"], [])
    assert len(folder.checked) == 2


def test_the_example_of_a_fleet_is_one(tmp_path):
    """examples/fleet: its files fit into one job, and their baselines serve them."""
    rng = np.random.default_rng(0)
    n = 2000
    probability = rng.beta(2, 5, n)
    tables = {
        "churn": pa.table(
            {
                "months": rng.integers(0, 100, n).astype(float),
                "spend": rng.lognormal(3, 1, n),
                "country": rng.choice(["de", "fr", "se"], n),
                "probability": probability,
                "churned": (rng.random(n) < probability).astype(int).astype(str),
            }
        ),
        "pricing": pa.table({"area": rng.gamma(9, 10, n), "rooms": rng.poisson(3, n) * 1.0, "price": rng.gamma(5, 100, n)}),
    }  # fmt: skip
    folder = Folder(tmp_path)
    for file in sorted(Path("examples/fleet").glob("*.yaml")):
        text = file.read_text() + f"  reference: {{store: {tmp_path / 'baselines'}}}\n"
        (folder.models / file.name).write_text(text)
        spec = parse(text, file.name).spec
        baseline = build(
            tables[file.stem], spec.model, spec.reference, segments=spec.segments, performance=spec.performance
        )
        Store(spec.reference.store).publish(baseline)
        assert set(baseline.segments) == (
            {"country=de", "country=fr", "country=se", "country=(other)"} if spec.segments.by else set()
        )
    assert folder.read() == (["churn", "pricing"], [])
