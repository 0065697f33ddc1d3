"""From messages to verdicts with everything switched on, without Spark: fold, state in bytes, merge, records."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from by_hand import Monitor, finals
from toy import document, task_of, worker_of

from detectors.multivariate import MULTIVARIATE
from detectors.outliers import LEARNED
from detectors.statistics.block import Block
from detectors.statistics.table import summarise
from reference.build import build
from reference.store import Store
from streaming.errors import BaselineMismatch
from streaming.job import check_baseline
from streaming.pane import Pane
from streaming.spec import parse

START = 1_767_225_600_000
"""2026-01-01, ms."""
S = 1000
MODEL = (
    "{features: [{name: x, type: numeric}, {name: y, type: numeric}, {name: where, type: categorical}, "
    "{name: z, type: numeric}], predictions: [{name: p, type: numeric}]}"
)


def rows(n: int, seed: int, *, broken: bool = False, shift: float = 0.0) -> pd.DataFrame:
    """x and y belong together unless broken, which no single column shows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(10.0, 2.0, n)
    y = (10.0 - x if broken else x - 10.0) + rng.normal(0, 0.5, n)
    return pd.DataFrame(
        {
            "x": x + shift,
            "y": y,
            "where": rng.choice(["ATL", "JFK", "SFO"], n),
            "z": rng.gamma(2.0, 50.0, n),
            "p": rng.normal(0, 1, n),
        }
    )


def monitor_of(folder: Path, **sections: str):
    monitor = parse(document(folder, model=MODEL, **sections), "whole.yaml")
    spec = monitor.spec
    table = pa.Table.from_pandas(rows(20_000, 1), preserve_index=False)
    Store(spec.reference.store).publish(
        build(table, spec.model, spec.reference, spec.outliers.learned, segments=spec.segments)
    )
    return monitor


class Stream:
    """A monitor by hand: every call of `send` is a micro-batch of its own, with a new process in between."""

    def __init__(self, monitor, folder: Path) -> None:
        self.monitor, self.whole, self.sent = monitor, Monitor(task_of(monitor), folder), 0

    def send(self, table: pd.DataFrame, first_s: float, last_s: float, cut: int = 1) -> list[tuple[str, bytes]]:
        """Requests (without the predictions), evenly over the seconds from first to last."""
        times = np.linspace(first_s, last_s, len(table)).round(3)
        values = [
            json.dumps(
                {"type": "request", "id": f"r{self.sent + i}", "time": START / S + at, "payload": {"instances": [row]}}
            ).encode()
            for i, (at, row) in enumerate(zip(times, table.drop(columns="p").to_numpy(object).tolist(), strict=True))
        ]
        return self.bytes(values, cut)

    def bytes(self, values: list[bytes], cut: int = 1) -> list[tuple[str, bytes]]:
        n, first = len(values), self.sent
        self.sent += n
        whole = pa.record_batch(
            {
                "key": pa.nulls(n, pa.binary()),
                "value": pa.array(values, pa.binary()),
                "partition": pa.array(np.zeros(n, np.int32)),
                "offset": pa.array(np.arange(first, first + n)),
                "timestamp": pa.array(np.full(n, (START + 3600 * S) * S)).cast(pa.timestamp("us", "UTC")),
                "headers": pa.nulls(n, pa.binary()),
            }
        )
        size = -(-n // cut)
        return self.whole.batch([whole.slice(at, size) for at in range(0, n, size)], START + 3600 * S + first)


def test_the_example_that_watches_everything_runs(tmp_path):
    """examples/watchful: each of its sections has an answer in the records."""
    text = Path("examples/watchful/monitor.yaml").read_text() + f"  reference: {{store: {tmp_path / 'baselines'}}}\n"
    monitor = parse(text, "watchful.yaml")

    def loans(n: int, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        income = rng.lognormal(10, 0.5, n)
        return pd.DataFrame(
            {
                "income": income,
                "debt": income * rng.gamma(2.0, 0.3, n),
                "age": rng.integers(18, 90, n).astype(float),
                "branch": rng.choice(["north", "south"], n),
                "p": rng.beta(2, 5, n),
            }
        )

    spec = monitor.spec
    table = pa.Table.from_pandas(loans(5000, 0).rename(columns={"p": "probability"}), preserve_index=False)
    Store(spec.reference.store).publish(build(table, spec.model, spec.reference, spec.outliers.learned))
    stream = Stream(monitor, tmp_path)
    records = (
        stream.send(loans(1500, 1), 0, 59) + stream.send(loans(1500, 2), 60, 119) + stream.send(loans(5, 3), 200, 201)
    )
    (drift, *_), (statistics, *_) = finals(records, "drift"), finals(records, "statistics")
    assert {(c["name"], c["method"]) for c in drift["columns"] if c["source"] == "request"} == {
        ("income", "wasserstein"), ("income", "ks"), ("debt", "wasserstein"), ("age", "wasserstein"), ("branch", "jensenshannon"),
    }  # fmt: skip
    assert [c["name"] for c in drift["columns"] if c["source"] == "score"] == ["mahalanobis"]
    assert not any(c["drifted"] or c["error"] for c in drift["columns"])
    assert [m["method"] for m in drift["multivariate"] if not m["drifted"] and m["score"] is not None] == [
        "gaussian",
        "mmd_rff",
    ]
    assert [s["detector"] for s in drift["sequential"]] == ["adwin", "cusum"]
    assert {(t["detector"], t["client"]) for t in drift["traffic"]} >= {("near_duplicates", None), ("extraction", None)}
    assert drift["alarm"] == {"raised": False, "windows": 0, "minWindows": 3}
    income = next(c for c in statistics["columns"] if c["name"] == "income")
    assert income["values"].keys() >= {"mean", "median", "mad", "p50", "distinct", "missingShare"}
    assert income["values"]["distinct"] == pytest.approx(1500, rel=0.1)
    known = table["income"].to_numpy()
    assert income["values"]["mad"] == pytest.approx(np.median(np.abs(known - np.median(known))), rel=0.15)


def named(drift, method):
    (one,) = [each for each in drift["multivariate"] if each["method"] == method]
    return one


def test_a_change_that_no_column_shows_is_found_by_all_multivariate_methods(tmp_path):
    monitor = monitor_of(
        tmp_path, drift=f"{{methods: [{{name: ks, threshold: 0.001}}], multivariate: [{', '.join(MULTIVARIATE)}]}}"
    )
    stream = Stream(monitor, tmp_path)
    records = stream.send(rows(800, 2), 0, 9.9, cut=3)
    records += stream.send(rows(1500, 3, broken=True), 10, 19.9, cut=2)
    records += stream.send(rows(10, 4), 30, 31)
    clean, broken, *_ = finals(records, "drift")
    for drift, found in ((clean, False), (broken, True)):
        assert not any(column["drifted"] for column in drift["columns"])
        for method in MULTIVARIATE:
            answer = named(drift, method)
            assert answer["error"] is None
            assert answer["drifted"] is found, (method, answer)
    for method in MULTIVARIATE:
        first, second, *_ = named(broken, method)["explanation"]
        assert {first, second} == {"x", "y"}, method


def test_learnt_outliers_flag_rows_and_their_scores_are_watched_for_drift(tmp_path):
    monitor = monitor_of(tmp_path, outliers=f"{{detectors: [{', '.join(LEARNED)}]}}", drift="{methods: [wasserstein]}")
    check_baseline(monitor, worker_of(monitor).version)
    stream = Stream(monitor, tmp_path)
    clean, broken = rows(1500, 2), rows(1500, 3, broken=True)
    records = stream.send(clean, 0, 9.9) + stream.send(broken, 10, 19.9) + stream.send(rows(10, 4), 30, 31)
    first, second, *_ = finals(records, "drift")
    for name in LEARNED:
        flagged = [json.loads(body) for _, body in records if json.loads(body).get("detector") == name]
        by_window = [
            sum(int(one["eventTime"][18:19]) < 10 and one["eventTime"][17] == ten for one in flagged) for ten in "01"
        ]
        assert by_window[0] <= 12, name  # nominal: 1.5 of 1,500
        for one in flagged:
            assert sum(feature["contribution"] for feature in one["features"]) == pytest.approx(one["score"])
        (score,) = [c for c in first["columns"] if c["source"] == "score" and c["name"] == name]
        assert not score["drifted"], name
    for name in ("mahalanobis", "pca_reconstruction", "autoencoder"):
        (score,) = [c for c in second["columns"] if c["source"] == "score" and c["name"] == name]
        assert score["drifted"], name
    assert second["judgedColumns"] == 3  # scores are no features


def test_a_baseline_without_the_model_is_refused(tmp_path):
    monitor = monitor_of(tmp_path)
    version = worker_of(monitor).version
    asked = parse(document(tmp_path, model=MODEL, outliers="{detectors: [mahalanobis]}"), "whole.yaml")
    with pytest.raises(BaselineMismatch, match=r"mahalanobis.*build it anew"):
        check_baseline(asked, version)


def without_numbers(series):
    """Sums of floats depend on their order in the last digits."""
    return {**series, "changes": [{**change, "statistic": None} for change in series["changes"]]}


SERIES = (
    "[{column: x, statistic: mean, detector: {name: page_hinkley, minInstances: 5, threshold: 3, delta: 0.1}}, "
    "{column: y, detector: adwin}, {outliers: bounds, detector: ddm}, {share: outliers, detector: cusum}, "
    "{column: x, score: wasserstein, detector: kswin}]"
)


@pytest.mark.parametrize(
    "window", ["{duration: 10s, watermarkDelay: 2s}", "{duration: 20s, slide: 10s, watermarkDelay: 2s}"]
)
def test_series_are_watched_once_in_order_whatever_the_batches(tmp_path, window):
    """The changes are those of the detector on the whole series, in the order of event time."""
    found = []
    for cut in (1, 4):
        folder = tmp_path / str(cut)
        monitor = monitor_of(folder, sequential=SERIES, window=window, drift="{methods: [wasserstein]}")
        stream = Stream(monitor, folder)
        records = []
        for k in range(40):
            table = rows(60, 100 + k, shift=3.0 * (k >= 20)).assign(y=lambda t, k=k: t["y"] + 2.0 * (k >= 20))
            if cut == 4:  # out of order within the window
                table = table.iloc[::-1]
                records += stream.send(table, 10 * k + 9.9, 10 * k, cut)
            else:
                records += stream.send(table, 10 * k, 10 * k + 9.9, cut)
        records += stream.send(rows(3, 5), 1000, 1001)
        found.append([[{**s, "window": d["window"]} for s in d["sequential"]] for d in finals(records, "drift")])
    for whole, pieces in zip(*found, strict=True):
        assert [without_numbers(one) for one in whole] == [without_numbers(one) for one in pieces]
    mean, instances, flags, _, _ = zip(*found[0], strict=True)
    assert [one["observations"] for one in mean] == list(range(1, len(mean) + 1))
    fed = [one["observations"] for one in instances]
    assert fed[-1] >= 2400
    assert fed == sorted(fed)
    for series, earliest in ((mean, START + 200 * S), (instances, START + 200 * S)):
        changes = [c for one in series for c in one["changes"] if c["change"] == "drift"]
        assert changes, series[0]["series"]
        when = pd.Timestamp(changes[0]["eventTime"]).timestamp() * S
        assert earliest - 20 * S <= when <= earliest + 100 * S
    assert all(one["series"] == "flagged by bounds" for one in flags)


def test_an_alarm_needs_its_windows_in_a_row_and_survives_every_batch(tmp_path):
    monitor = monitor_of(
        tmp_path,
        drift="{methods: [{name: ks, threshold: 0.001}], share: 0.2, minWindows: 3, correction: benjaminiHochberg}",
    )
    stream = Stream(monitor, tmp_path)
    records = []
    for k, shift in enumerate([0, 5, 5, 0, 5, 5, 5, 5, 0]):
        records += stream.send(rows(300, k, shift=shift), 10 * k, 10 * k + 9.9)
    records += stream.send(rows(3, 99), 1000, 1001)
    drifts = finals(records, "drift")[:9]
    assert [d["alarm"]["windows"] for d in drifts] == [0, 1, 2, 0, 1, 2, 3, 4, 0]
    assert [d["alarm"]["raised"] for d in drifts] == [False] * 6 + [True, True, False]
    assert next(iter(drifts[6]["explanation"])) == "x"
    for d in drifts:
        tests = [c for c in d["columns"] if c["direction"] == "p-value"]
        assert all(c["adjusted"] >= c["score"] - 1e-12 for c in tests)


def test_a_value_of_the_wrong_type_is_an_outlier_when_asked_for(tmp_path):
    monitor = monitor_of(tmp_path, outliers="{detectors: [wrong_type, missing]}")
    stream = Stream(monitor, tmp_path)
    good = rows(5, 1).drop(columns="p").to_numpy(object).tolist()
    bad = [*good[:2], [10.0, "n/a", "ATL", 1.0], good[3], [10.0, 0.0, {"no": 1}, None]]
    values = [
        json.dumps({"type": "request", "id": "r", "time": START / S + 1, "payload": {"instances": bad}}).encode(),
        json.dumps({"type": "request", "id": "s", "time": START / S + 20, "payload": {"instances": good}}).encode(),
    ]
    records = stream.bytes(values)
    outliers = [json.loads(body) for topic, body in records if topic == monitor.topics.outliers]
    wrong = [
        (o["instance"], [(f["name"], f["value"]) for f in o["features"]])
        for o in outliers
        if o["detector"] == "wrong_type"
    ]
    assert wrong == [(2, [("y", "'n/a'")]), (4, [("where", '{"no": 1}')])]
    assert not [topic for topic, _ in records if topic == monitor.topics.deadletter]
    (first,) = finals(records, "statistics")
    assert first["counts"]["requests"] == 5


def test_a_flood_and_a_probe_are_found_by_client(tmp_path):
    """One client repeats itself, one sweeps a grid; the others are as in training. Who is who stands in a feature."""
    monitor = monitor_of(
        tmp_path,
        traffic="{detectors: [extraction, near_duplicates], client: {feature: where}}",
        drift="{methods: [ks]}",
    )
    stream = Stream(monitor, tmp_path)
    usual = rows(1200, 7).assign(where=lambda t: np.where(np.arange(len(t)) % 2, "a", "b"))
    rng = np.random.default_rng(8)
    flood = pd.concat([rows(1, 9)] * 400, ignore_index=True).assign(
        where="flooder", x=lambda t: t["x"] + rng.normal(0, 1e-3, len(t))
    )
    sweep = pd.concat([rows(1, 10)] * 400, ignore_index=True).assign(where="prober", z=np.linspace(0, 600, 400))
    everything = pd.concat([usual, flood, sweep]).sample(frac=1.0, random_state=1)
    records = stream.send(everything, 0, 9.9, cut=5) + stream.send(usual, 10, 19.9) + stream.send(rows(5, 3), 30, 31)
    attacked, clean, *_ = finals(records, "drift")
    alarms = {(t["detector"], t["client"]) for t in attacked["traffic"] if t["drifted"]}
    assert ("near_duplicates", "flooder") in alarms
    assert ("extraction", "prober") in alarms
    assert not {client for _, client in alarms} & {"a", "b"}
    assert not [t for t in clean["traffic"] if t["drifted"]]
    assert {t["client"] for t in clean["traffic"]} == {None, "a", "b"}
    (flooded,) = [t for t in attacked["traffic"] if (t["detector"], t["client"]) == ("near_duplicates", "flooder")]
    assert flooded["example"]["y"] == pytest.approx(flood["y"].iloc[0])


THREE = "{{features: [{}], predictions: [{{name: p, type: numeric}}]}}"


@pytest.mark.parametrize("order", ["zyx", "yz"])
def test_a_baseline_may_know_its_features_in_another_order_and_others(tmp_path, order):
    """What is kept of whole rows is found by name, not by place."""

    def monitor_with(names: str, **sections: str):
        model = THREE.format(", ".join(f"{{name: {name}, type: numeric}}" for name in names))
        return parse(document(tmp_path, model=model, **sections), "whole.yaml")

    rng = np.random.default_rng(0)
    made = {name: rng.normal(at, 1.0, 6000) for name, at in (("x", 0.0), ("y", 1e3), ("z", -1e5))}
    built = monitor_with("xyz", outliers="{detectors: [mahalanobis]}")
    table = pa.table({name: values[:5000] for name, values in made.items()})
    Store(built.spec.reference.store).publish(
        build(table, built.spec.model, built.spec.reference, built.spec.outliers.learned)
    )
    me = worker_of(monitor_with(order, drift="{multivariate: [gaussian]}"))
    me.prepare()
    window = np.asfortranarray(np.column_stack([made[name][5000:] for name in order]))
    ((_, fitted, joint),) = me.together(summarise(me.plans.request, Block(window, np.isnan(window))))
    assert not fitted.compare(joint).drifted
    with pytest.raises(BaselineMismatch, match=r"learnt from the numeric features x, y, z.*build it anew"):
        check_baseline(monitor_with(order, outliers="{detectors: [mahalanobis]}"), me.version)


def test_a_wrong_answer_is_told_of_though_the_baseline_has_no_answers(tmp_path):
    model = "{features: [{name: x, type: numeric}], predictions: [{name: p, type: numeric}]}"
    monitor = parse(document(tmp_path, model=model, outliers="{detectors: [wrong_type, missing]}"), "whole.yaml")
    spec = monitor.spec
    Store(spec.reference.store).publish(build(pa.table({"x": np.arange(100.0)}), spec.model, spec.reference))
    answer = {"type": "response", "id": "r", "time": START / S + 1, "payload": {"predictions": ["oops", None, 1.0]}}
    records = Stream(monitor, tmp_path).bytes([json.dumps(answer).encode()])
    outliers = [json.loads(body) for topic, body in records if topic == monitor.topics.outliers]
    assert [(o["detector"], o["instance"]) for o in outliers] == [("wrong_type", 0)]


def test_dead_letters_cost_no_more_than_other_messages(tmp_path, monkeypatch):
    """They are counted together: adding panes takes milliseconds where traffic is looked at."""
    monitor = monitor_of(
        tmp_path, traffic="{detectors: [near_duplicates]}", sequential="[{column: x, detector: adwin}]"
    )
    added = []
    plain = Pane.__add__
    monkeypatch.setattr(Pane, "__add__", lambda a, b: (added.append(1), plain(a, b))[1])
    bad = json.dumps(
        {"type": "request", "id": "r", "time": START / S + 1, "payload": {"instances": [[1.0, "n/a", "ATL", 1.0]]}}
    ).encode()
    later = json.dumps(
        {"type": "request", "id": "s", "time": START / S + 30, "payload": {"instances": [[1.0, 1.0, "ATL", 1.0]]}}
    ).encode()
    records = Stream(monitor, tmp_path).bytes([bad] * 200 + [later])
    assert finals(records, "statistics")[0]["counts"]["dead"] == 200
    assert len(added) < 20
