"""What a wrong ModelMonitor is answered with: line, path, value and what would do, once."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from detectors.drift import DRIFT
from detectors.outliers import OUTLIERS
from streaming.errors import InvalidMonitor
from streaming.reports import RECORDS, json_schema
from streaming.spec import DriftSection, ModelMonitor, dump, load, parse
from streaming.spec import json_schema as monitor_schema

GOOD = """\
apiVersion: driftline.io/v1
kind: ModelMonitor
metadata:
  name: iris
spec:
  model:
    features:
      - {name: length, type: numeric, min: 0, max: 8}
      - {name: colour, type: categorical, categories: [red, blue]}
    predictions:
      - {name: species, type: categorical}
"""


def complaints(text: str) -> list[str]:
    with pytest.raises(InvalidMonitor) as caught:
        parse(text, "m.yaml")
    assert caught.value.exit_code == 2
    lines = str(caught.value).splitlines()
    assert len(lines) == len(caught.value.problems)
    return lines


def spec(section: str) -> str:
    """The good document with one more section, which begins in line 12."""
    return f"{GOOD}  {section}\n"


def test_good_document_has_names_filled_in():
    monitor = parse(GOOD, "m.yaml")
    assert monitor.name == "iris"
    assert monitor.spec.model.inference_service == "iris"
    assert monitor.topics.outliers == "iris-outliers"


ONE_LINE = {
    # unknown keys, at every level
    GOOD + "spce: {}\n": "m.yaml:12: spce: is an unknown key: did you mean 'spec'?",
    GOOD.replace("name: iris", "name: iris\n  lables: {}"): "m.yaml:5: metadata.lables: is an unknown key: did you mean 'labels'?",
    spec("windw: {}"): "m.yaml:12: spec.windw: is an unknown key: did you mean 'window'?",
    spec("window: {duratoin: 5m}"): "m.yaml:12: spec.window.duratoin: is an unknown key: did you mean 'duration'?",
    spec("window: {watermark_delay: 5s}"): (
        "m.yaml:12: spec.window.watermark_delay: is an unknown key: did you mean 'watermarkDelay'?"
    ),
    spec("kafka: {topics: {outlier: x}}"): (
        "m.yaml:12: spec.kafka.topics.outlier: is an unknown key: did you mean 'outliers'?"
    ),
    spec("job: {driver: {memroy: 2g}}"): "m.yaml:12: spec.job.driver.memroy: is an unknown key: did you mean 'memory'?",
    GOOD.replace("min: 0", "minimum: 0"): (
        "m.yaml:8: spec.model.features[0].minimum: is an unknown key: did you mean 'min'?"
    ),
    spec("outliers: {detectors: [{name: k_sigma, kk: 4}]}"): (
        "m.yaml:12: spec.outliers.detectors[0].kk: is an unknown key: did you mean 'k'?"
    ),
    spec("drift: {methods: [auto, {name: ks, treshold: 0.1}]}"): (
        "m.yaml:12: spec.drift.methods[1].treshold: is an unknown key: did you mean 'threshold'?"
    ),
    spec("drift: {columns: {length: [{name: ks, treshold: 0.1}]}}"): (
        "m.yaml:12: spec.drift.columns.length[0].treshold: is an unknown key: did you mean 'threshold'?"
    ),
    # a key that belongs somewhere else, and one that belongs nowhere
    GOOD + "features: []\n": "m.yaml:12: features: is an unknown key here: it belongs to spec.model",
    spec("colour: red"): (
        "m.yaml:12: spec.colour: is an unknown key: this place takes "
        "model, kafka, window, statistics, outliers, drift, performance, segments, sequential, traffic, reference, reports, job, logger"
    ),
    # missing
    GOOD.replace("  name: iris", "  labels: {}"): (
        "m.yaml:3: metadata.name: is missing: add it "
        "(names the model, its topics, its baselines and its objects on a cluster)"
    ),
    GOOD.replace("type: numeric, ", ""): "m.yaml:8: spec.model.features[0].type: is missing: add it, one of numeric, categorical",
    # wrong types
    spec("window: 5m"): (
        "m.yaml:12: spec.window: is a text, and a mapping belongs here with the keys "
        "duration, slide, every, watermarkDelay, idleTimeout, maxClockSkew, emitEvery, provisional, joinWait, noTraffic"
    ),
    spec("drift: {methods: ks}"): "m.yaml:12: spec.drift.methods: 'ks' is a text, and a list belongs here: write [ks]",
    spec("kafka: {partitions: many}"): (
        "m.yaml:12: spec.kafka.partitions: 'many' is not a whole number "
        "(of the inference topic when the project creates it; the stateless stage scales with them)"
    ),
    spec("drift: {methods: [{name: ks, threshold: low}]}"): (
        "m.yaml:12: spec.drift.methods[0].threshold: 'low' is not a number"
    ),
    spec("window: {provisional: maybe}"): (
        "m.yaml:12: spec.window.provisional: 'maybe' is not true or false (whether windows report before they close)"
    ),
    spec("drift:"): "m.yaml:12: spec.drift: is empty: it takes a mapping, or remove it for the default",
    GOOD.replace("name: colour", "name: no"): (
        "m.yaml:9: spec.model.features[1].name: no is read as true or false, and belongs in quotes: 'no'"
    ),
    GOOD.replace("[red, blue]", "[red, 1]"): (
        "m.yaml:9: spec.model.features[1].categories[1]: 1 is read as a whole number, and belongs in quotes: '1'"
    ),
    GOOD.replace("  model:", "  model:\n    version: 2024-01-31"): (
        "m.yaml:7: spec.model.version: 2024-01-31 is read as a date, and belongs in quotes: '2024-01-31'"
    ),
    # wrong values
    GOOD.replace("ModelMonitor", "Model"): "m.yaml:2: kind: 'Model' is not what belongs here: write ModelMonitor",
    GOOD.replace("line.io/v1", "line.io/v2"): (
        "m.yaml:1: apiVersion: 'driftline.io/v2' is not what belongs here: write driftline.io/v1"
    ),
    GOOD.replace("name: iris", "name: Iris_1"): (
        "m.yaml:4: metadata.name: 'Iris_1' is not a DNS label: "
        "use at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
    ),
    GOOD.replace("type: numeric", "type: float"): (
        "m.yaml:8: spec.model.features[0].type: 'float' is not known here: known are: numeric, categorical"
    ),
    spec("logger: {port: 70000}"): (
        "m.yaml:12: spec.logger.port: 70000 is out of range: it must be at most 65535 (0 chooses a free one)"
    ),
    spec("job: {driver: {memory: 2GB}}"): (
        r"m.yaml:12: spec.job.driver.memory: '2GB' is not of the form ^\d+[mg]$ (as Spark and the JVM write it: `512m`, `2g`)"
    ),
    GOOD.replace("max: 8", "max: .inf"): (
        "m.yaml:8: spec.model.features[0].max: inf is not a finite number: leave it out where there is no bound"
    ),
    # drift methods and outlier detectors
    spec("drift: {methods: [kss]}"): (
        "m.yaml:12: spec.drift.methods[0]: there is no drift method 'kss'; known are: "
        f"{', '.join(['ks', *(name for name in DRIFT if name != 'ks')])}, auto"
    ),
    spec("drift: {columns: {length: [median]}}"): (
        "m.yaml:12: spec.drift.columns.length[0]: there is no drift method 'median'; known are: "
        f"{', '.join(DRIFT)}, auto"
    ),
    spec("drift: {methods: [3]}"): (
        f"m.yaml:12: spec.drift.methods[0]: a whole number is no name: known are: "
        f"{', '.join(name for name in DRIFT if name != 'callable')}, auto"
    ),
    spec("drift: {methods: [{threshold: 0.1}]}"): (
        f"m.yaml:12: spec.drift.methods[0]: give the drift method a name; known are: {', '.join(DRIFT)}, auto"
    ),
    spec("drift: {methods: [ks, nowhere.tests:mine]}"): (
        "m.yaml:12: spec.drift.methods[1]: there is no module 'nowhere': "
        "install it where the monitor runs, or put its directory on PYTHONPATH"
    ),
    spec("drift: {columns: {length: [{name: callable, function: 'stattests:NOT_A_FUNCTION'}]}}"): (
        "m.yaml:12: spec.drift.columns.length[0].function: 'stattests:NOT_A_FUNCTION' is no function: it is of type int"
    ),
    spec("drift: {methods: [callable]}"): "m.yaml:12: spec.drift.methods[0].function: is missing: add it",
    spec("drift: {methods: [{name: callable, function: 'stattests:apart', direction: up}]}"): (
        "m.yaml:12: spec.drift.methods[0].direction: 'up' is not known here: known are: p-value, distance"
    ),
    spec("drift: {methods: [{name: ks, threshold: 3}]}"): (
        "m.yaml:12: spec.drift.methods[0].threshold: 3 is out of range: it must be at most 1"
    ),
    spec("outliers: {detectors: [bound]}"): (
        "m.yaml:12: spec.outliers.detectors[0]: there is no outlier detector 'bound'; known are: "
        f"{', '.join(OUTLIERS)}"
    ),
    spec("drift: {columns: {colour: [ks]}}"): (
        "m.yaml:12: spec.drift.columns.colour[0]: 'ks' is for numeric columns: 'colour' is categorical"
    ),
    spec("drift: {columns: {width: [ks]}}"): (
        "m.yaml:12: spec.drift.columns.width: 'width' is no feature or prediction of the model: known are: "
        "length, colour, species"
    ),
    # windows
    spec("window: {duration: 5m, slide: 2m}"): (
        "m.yaml:12: spec.window.slide: duration 5m is not divisible by slide 2m: windows are made of panes one slide "
        "long, so choose a slide that divides the duration"
    ),
    spec("window: {duration: 300}"): (
        "m.yaml:12: spec.window.duration: 300 is not a duration: "
        "write a number and a unit (ms, s, m, h, d), for example '15s' or '1h30m'"
    ),
    spec("window: {duration: '300'}"): (
        "m.yaml:12: spec.window.duration: '300' is not a duration: "
        "write a number and a unit (ms, s, m, h, d), for example '15s' or '1h30m'"
    ),
    spec("window: {duration: 0s}"): (
        "m.yaml:12: spec.window.duration: 0s is no time at all: it must be longer than 0s"
    ),
    # columns
    GOOD.replace("name: colour", "name: length"): (
        "m.yaml:6: spec.model: features names ['length'] more than once: every column needs a name of its own"
    ),
    GOOD.replace("categories: [red, blue]", "min: 0"): (
        "m.yaml:9: spec.model.features[1]: feature 'colour' is categorical, so it has no min or max: "
        "remove them or make it numeric"
    ),
    GOOD.replace("min: 0, max: 8", "categories: [a]"): (
        "m.yaml:8: spec.model.features[0]: feature 'length' is numeric, so it has no categories: "
        "remove them or make it categorical"
    ),
    GOOD.partition("    features")[0] + "    features: []\n": (
        "m.yaml:7: spec.model.features: is empty: it needs at least 1 (in the order of unnamed instances)"
    ),
    GOOD.partition("    features")[0] + "    features: [length]\n": (
        "m.yaml:7: spec.model.features[0]: is a text, and a mapping belongs here with the keys name, type, min, max, categories"
    ),
    # Kafka
    spec("kafka: {bootstrapServers: kafka}"): (
        "m.yaml:12: spec.kafka.bootstrapServers: 'kafka' is not host:port, as in "
        "'kafka-0.example:9092,kafka-1.example:9092'"
    ),
    # the text itself
    "": "m.yaml: holds nothing, not a mapping: a ModelMonitor begins with 'apiVersion: driftline.io/v1'",
    "- a\n": "m.yaml: holds a list, not a mapping: a ModelMonitor begins with 'apiVersion: driftline.io/v1'",
    GOOD + "spec: {}\n": "m.yaml:12: the key 'spec' is there twice, first in line 5: remove one of them",
    GOOD + "---\n" + GOOD: (
        "m.yaml:12: is not YAML: there are several documents: put each ModelMonitor into a file of its own"
    ),
    GOOD + "  \tx: 1\n": (
        "m.yaml:12: is not YAML: while scanning for the next token, found character '\\t' that cannot start any token"
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line"), ONE_LINE.items(), ids=[line.partition(" ")[2][:60] for line in ONE_LINE.values()]
)
def test_one_mistake_is_one_line(text: str, line: str):
    assert complaints(text) == [line]


def test_missing_sections_are_each_named():
    assert complaints("apiVersion: driftline.io/v1\n") == [
        "m.yaml:1: metadata: is missing: add it",
        "m.yaml:1: spec: is missing: add it",
    ]
    assert complaints("metadata: {name: iris}\nspec: {}\n") == ["m.yaml:2: spec.model: is missing: add it"]
    assert complaints("metadata: {name: iris}\nspec: {model: {}}\n") == [
        "m.yaml:2: spec.model.features: is missing: add it (in the order of unnamed instances)"
    ]


def test_several_mistakes_come_in_the_order_of_the_lines():
    text = GOOD.replace("type: numeric", "type: float") + "  windw: {}\n  drift: {methods: [kss]}\nextra: 1\n"
    assert [line.split(": ")[0:2] for line in complaints(text)] == [
        ["m.yaml:8", "spec.model.features[0].type"],
        ["m.yaml:12", "spec.windw"],
        ["m.yaml:13", "spec.drift.methods[0]"],
        ["m.yaml:14", "extra"],
    ]


def test_a_password_that_was_written_down_is_not_repeated():
    text = spec("kafka: {securityProtocol: SASL_SSL, saslMechanism: PLAIN, username: {env: U}, password: hunter2}")
    (line,) = complaints(text)
    assert line == "m.yaml:12: spec.kafka.password: is a text, and a mapping belongs here with the keys env, file"


def test_sasl_without_a_password_names_what_it_needs():
    (line,) = complaints(spec("kafka: {securityProtocol: SASL_SSL}"))
    assert line == "m.yaml:12: spec.kafka: securityProtocol SASL_SSL needs saslMechanism, username, password"


def test_null_names_are_filled_in_like_absent_ones():
    monitor = parse(GOOD.replace("  model:", "  model:\n    name:\n    inferenceService:"), "m.yaml")
    assert (monitor.name, monitor.spec.model.inference_service) == ("iris", "iris")


def test_a_file_that_cannot_be_read_is_a_line_too(tmp_path: Path):
    for path, reason in ((tmp_path / "no.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(InvalidMonitor) as caught:
            load(path)
        assert str(caught.value) == f"{path}: cannot be read: {reason}"
    (tmp_path / "latin.yaml").write_bytes("größe: 1".encode("latin-1"))
    with pytest.raises(InvalidMonitor, match="it is not text in UTF-8"):
        load(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [x]",
        "a: &x [*x]",
        "? [a]\n: 1",
        "1: 2",
        "a: 2024-13-45",
        "[" * 3000,
        "\x00",
        "%YAML 9",
    ],
)
def test_odd_yaml_is_refused_in_words(text: str):
    assert all(line.startswith("m.yaml") for line in complaints(text))


def test_aliases_do_not_multiply_work():
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30))
    assert len(complaints(bomb)) == 32  # every key is unknown, and two are missing


# ---------------------------------------------------------------------------------------------------------------------
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(here: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


FULL = {
    **yaml.safe_load(GOOD),
    "spec": {
        **yaml.safe_load(GOOD)["spec"],
        "kafka": {"bootstrapServers": "k:1", "topics": {"drift": "d"}, "partitions": 2},
        "window": {"duration": "10s", "slide": "5s"},
        "statistics": {"metrics": ["mean"], "edges": {"length": [1, 2]}, "percentiles": [1, 2]},
        "outliers": {"detectors": ["bounds", {"name": "k_sigma", "k": 3}]},
        "drift": {"methods": ["auto", "ks", {"name": "psi", "threshold": 1}], "columns": {"length": ["ks"]}},
        "job": {"driver": {"cores": 1}, "spark": {"a": "b"}},
    },
}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.sampled_from(places(FULL)), value=JSON)
@example(place=("spec", "drift", "methods", 0), value={"name": ["ks"]})
@example(place=("spec", "outliers", "detectors", 0), value={"name": {}})
@example(place=("spec", "model"), value={"features": {"a": "numeric"}})
def test_whatever_stands_anywhere_is_read_or_answered_in_words(place: tuple[str | int, ...], value: Any):
    """No value in any place raises anything but InvalidMonitor, and then with distinct lines."""
    document = json.loads(json.dumps(FULL))
    if place:
        here = document
        for step in place[:-1]:
            here = here[step]
        here[place[-1]] = value
    else:
        document = value
    try:
        monitor = parse(yaml.safe_dump(document, allow_unicode=True), "m.yaml")
    except InvalidMonitor as error:
        lines = [str(problem) for problem in error.problems]
        assert lines
        assert len(set(lines)) == len(lines)
        assert not any("Input should" in line for line in lines), lines
    else:
        assert parse(dump(monitor), "again") == monitor


# ---------------------------------------------------------------------------------------------------------------------
NAMES = st.sampled_from(["length", "width", "größe", "no", "1", "a: b", "#x", "'q'", "{x}"])
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
DURATIONS = st.integers(1, 10**9).map(lambda ms: timedelta(milliseconds=ms))


@st.composite
def documents(draw: st.DrawFn) -> ModelMonitor:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    features = []
    for name in names:
        if draw(st.booleans()):
            low, high = sorted(draw(st.tuples(NUMBERS, NUMBERS)))
            features.append({"name": name, "type": "numeric", "min": draw(st.sampled_from([None, low])), "max": high})
        else:
            categories = draw(st.none() | st.lists(NAMES | st.just("null"), unique=True))
            features.append({"name": name, "type": "categorical", "categories": categories})
    pane = draw(DURATIONS)
    methods = st.lists(
        st.sampled_from(["auto", "stattests:apart", *(name for name in DRIFT if name != "callable")])
        | st.builds(dict, name=st.just("psi"), threshold=st.floats(0.01, 1))
    )
    return ModelMonitor.model_validate(
        {
            "metadata": {"name": "m", "labels": draw(st.dictionaries(NAMES, NAMES, max_size=2))},
            "spec": {
                "model": {"features": features, "version": draw(NAMES)},
                "window": {"duration": pane * draw(st.integers(1, 5)), "slide": draw(st.sampled_from([None, pane]))},
                "drift": {"methods": draw(methods), "share": draw(st.floats(0.001, 1))},
                "outliers": {"detectors": draw(st.lists(st.sampled_from(sorted(OUTLIERS)), unique=True))},
                "job": {"timeout": draw(st.none() | DURATIONS), "driver": {"cores": draw(st.integers(1, 99))}},
            },
        },
    )


@settings(deadline=None)
@given(monitor=documents())
def test_dumped_documents_read_back_equal(monitor: ModelMonitor):
    text = dump(monitor)
    assert parse(text, "again") == monitor
    assert dump(parse(text, "again")) == text


def test_dump_says_only_what_differs_from_the_defaults():
    assert yaml.safe_load(dump(parse(spec("drift: {methods: [auto, {name: ks}], share: 0.5}"), "m.yaml")))["spec"] == {
        "model": {
            "name": "iris",
            "features": [
                {"name": "length", "type": "numeric", "min": 0.0, "max": 8.0},
                {"name": "colour", "type": "categorical", "categories": ["red", "blue"]},
            ],
            "predictions": [{"name": "species", "type": "categorical"}],
            "inferenceService": "iris",
        },
        "drift": {"methods": ["auto", "ks"]},
    }


def test_detectors_made_in_python_keep_their_names():
    monitor = parse(GOOD, "m.yaml")
    chosen = monitor.spec.model_copy(
        update={"drift": DriftSection(methods=(DRIFT["psi"](threshold=0.2), DRIFT["ks"]()))}
    )
    written = yaml.safe_load(dump(monitor.model_copy(update={"spec": chosen})))
    assert written["spec"]["drift"] == {"methods": [{"name": "psi", "threshold": 0.2}, "ks"]}


# ---------------------------------------------------------------------------------------------------------------------
def test_json_schema_of_the_monitor_is_kept(golden):
    golden("deploy/schema/modelmonitor.schema.json", json.dumps(monitor_schema(), indent=2, ensure_ascii=False) + "\n")


@pytest.mark.parametrize("topic", RECORDS)
def test_json_schema_of_what_is_written_is_kept(golden, topic: str):
    golden(
        f"deploy/schema/{topic}.schema.json",
        json.dumps(json_schema(RECORDS[topic]), indent=2, ensure_ascii=False) + "\n",
    )


def test_json_schema_knows_every_method_and_detector():
    text = json.dumps(monitor_schema())
    assert all(f'"{name}"' in text for name in (*DRIFT, *OUTLIERS))


def test_defaults_in_the_json_schema_are_what_a_document_may_say():
    """They are read back as they stand there, so an editor that fills them in writes nothing wrong."""
    schema = monitor_schema()
    defaults = {
        key: field["default"] for key, field in schema["$defs"]["Spec"]["properties"].items() if "default" in field
    }
    assert parse(
        yaml.safe_dump({**yaml.safe_load(GOOD), "spec": {**yaml.safe_load(GOOD)["spec"], **defaults}}), "m"
    ) == parse(GOOD, "m")
    for section in schema["$defs"].values():
        for field in section.get("properties", {}).values():
            if isinstance(field.get("default"), str) and "pattern" in field:
                assert re.search(field["pattern"], field["default"]), field


def test_minimal_example_is_twelve_lines():
    path = Path("examples/minimal/monitor.yaml")
    assert len(path.read_text().splitlines()) == 12
    assert load(path).name == "iris"


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ("logger: {autoscaling: {maxScale: 3}}", "spec.logger.autoscaling.maxScale"),
    ],
)
def test_what_this_version_cannot_do_is_refused_and_not_ignored(section, path):
    text = (
        "apiVersion: driftline.io/v1\nkind: ModelMonitor\nmetadata: {name: toy}\n"
        f"spec:\n  model: {{features: [{{name: x, type: numeric}}]}}\n  {section}\n"
    )
    with pytest.raises(InvalidMonitor) as caught:
        parse(text, "toy.yaml")
    assert f"{path}: is not available in this version" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ("  sequential: [{column: kind, detector: adwin}]", "'kind' is categorical"),
        ("  sequential: [{column: kind, statistic: mean, detector: adwin}]", "'kind' is categorical"),
        ("  sequential: [{column: age, score: typo, detector: adwin}]", "no window has 'typo' of 'age'"),
        ("  sequential: [{column: kind, score: ks, detector: adwin}]", "no window has 'ks' of 'kind'"),
        ("  drift: {methods: [ks], columns: {age: [psi]}}\n  sequential: [{column: age, score: ks, detector: adwin}]", "it may have psi"),
        ("  traffic: {client: {feature: kind}}", "does nothing without traffic.detectors"),
    ],
)  # fmt: skip
def test_what_would_never_have_a_number_is_refused(sections, said):
    text = (
        "apiVersion: driftline.io/v1\nkind: ModelMonitor\nmetadata: {name: toy}\nspec:\n"
        "  model: {features: [{name: age, type: numeric}, {name: kind, type: categorical}]}\n"
    )
    with pytest.raises(InvalidMonitor, match=re.escape(said)):
        parse(text + sections + "\n", "toy.yaml")


@pytest.mark.parametrize(
    "series",
    ["column: kind, statistic: distinct", "column: kind, score: jensenshannon", "column: age, score: wasserstein", "column: age"],
)  # fmt: skip
def test_what_has_a_number_may_be_watched(series):
    text = (
        "apiVersion: driftline.io/v1\nkind: ModelMonitor\nmetadata: {name: toy}\nspec:\n"
        "  model: {features: [{name: age, type: numeric}, {name: kind, type: categorical}]}\n"
        f"  sequential: [{{{series}, detector: adwin}}]\n"
    )
    assert parse(text, "toy.yaml").spec.sequential
