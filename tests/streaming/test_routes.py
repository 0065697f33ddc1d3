"""Whose an event is, what share of the events is kept, and files that come, change and go."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.secret import MissingSecret
from streaming.cloudevents import Event
from streaming.errors import InvalidMonitor, UnwantedMonitor
from streaming.logger.routes import SAMPLE_HEADER, Models, Routes, UnknownModel, in_sample, route_of
from streaming.spec import ModelMonitor, parse


def document(name: str, *, namespace: str = "", service: str = "", kafka: str = "", logger: str = "") -> str:
    return f"""
apiVersion: driftline.io/v1
kind: ModelMonitor
metadata: {{name: {name}{f", namespace: {namespace}" if namespace else ""}}}
spec:
  model:
    features: [{{name: x, type: numeric}}, {{name: who, type: categorical}}]
    {f"inferenceService: {service}" if service else ""}
  kafka: {{bootstrapServers: "localhost:9092"{f", {kafka}" if kafka else ""}}}
  logger: {{{logger}}}
"""


def monitor(name: str, **more: str) -> ModelMonitor:
    return parse(document(name, **more), name)


def routes(*monitors: ModelMonitor, alone: bool = False) -> Routes:
    return Routes({one.name: route_of(one) for one in monitors}, alone=alone)


def event(identity: str = "1", **attributes: str) -> Event:
    return Event({"specversion": "1.0", "id": identity, "source": "/", "type": "t", **attributes}, None, b"{}")


def test_a_path_names_a_model():
    some = routes(monitor("a", namespace="prod"), monitor("b"))
    assert some.of_path("/") is None
    assert some.of_path("/prod/a").topic == "a-inference"
    assert some.of_path("/models/a").name == "a"
    assert some.of_path("/models/b/").name == "b"
    assert some.of_path("/anywhere/b").name == "b"  # it says no namespace, so it has no other
    for path in ("/test/a", "/models/c", "/a", "/models/a/x", "/v1/models/a:predict", "//", "/models/"):
        if path.strip("/"):
            with pytest.raises(UnknownModel, match="known are: a, b"):
                some.of_path(path)


def test_an_event_names_a_model():
    some = routes(
        monitor("a", service="shared", namespace="prod"), monitor("b", service="shared", namespace="test"), monitor("c")
    )
    assert some.of_event(event(inferenceservicename="shared", namespace="prod")).name == "a"
    assert some.of_event(event(inferenceservicename="shared", namespace="test", component="predictor")).name == "b"
    assert some.of_event(event(inferenceservicename="c", namespace="prod", endpoint="default")).name == "c"
    assert some.of_event(event(InferenceServiceName="shared", Namespace="test")).name == "b"
    for attributes in ({"inferenceservicename": "shared", "namespace": "dev"}, {"inferenceservicename": "a"}, {}):
        with pytest.raises(UnknownModel, match="known are: a, b, c"):
            some.of_event(event(**attributes))


def test_component_and_endpoint_tell_models_apart():
    some = routes(
        monitor("all", service="s"),
        monitor("canary", service="s", logger="match: {endpoint: canary}"),
        monitor("raw", service="s", logger="match: {component: transformer, endpoint: default}"),
    )
    assert some.of_event(event(inferenceservicename="s")).name == "all"
    assert some.of_event(event(inferenceservicename="s", component="predictor", endpoint="default")).name == "all"
    assert some.of_event(event(inferenceservicename="s", component="predictor", endpoint="canary")).name == "canary"
    assert some.of_event(event(inferenceservicename="s", component="transformer", endpoint="default")).name == "raw"


def test_the_only_model():
    alone, one_of_a_folder = routes(monitor("a"), alone=True), routes(monitor("a"))
    assert alone.of_event(event()).name == one_of_a_folder.of_event(event()).name == "a"
    assert alone.of_event(event(inferenceservicename="other")).name == "a"  # the monitor says that it is another's
    with pytest.raises(UnknownModel, match="'other' is no model"):
        one_of_a_folder.of_event(event(inferenceservicename="other"))
    with pytest.raises(UnknownModel, match="known are: none"):
        routes().of_event(event())


words = st.sampled_from(["", "a", "b", "c", "shared", "prod", "models", "x" * 300, "é\0"])


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["", "prod", "test"]), st.sampled_from(["", "shared"])),
        unique_by=lambda one: one[0],
    ),
    st.dictionaries(
        st.sampled_from(["inferenceservicename", "Namespace", "namespace", "component", "endpoint"]), words
    ),
    st.lists(words),
    st.booleans(),
)
def test_every_event_has_one_model_or_a_reason(models, attributes, path, alone):
    some = routes(
        *(monitor(name, namespace=namespace, service=service) for name, namespace, service in models), alone=alone
    )
    for ask in (lambda: some.of_event(event(**attributes)), lambda: some.of_path("/" + "/".join(path))):
        try:
            found = ask()
        except UnknownModel as problem:
            assert "known are: " in str(problem)  # noqa: PT017 - either way is right
            assert len(str(problem)) < 1500  # noqa: PT017
        else:
            assert found is None or found in some.routes.values()


# Sampling -------------------------------------------------------------------------------------------------------------


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_what_is_in_a_sample_is_in_every_larger_one(identity, one, other):
    small, large = sorted((one, other))
    assert in_sample(identity, small) <= in_sample(identity, large)
    assert in_sample(identity, 1.0)
    assert not in_sample(identity, 0.0)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("form", ["{}", "request-{:08}", "{:032x}"])
def test_the_share_is_what_was_asked_for(rate, form):
    n = 20_000
    kept = sum(in_sample(form.format(number), rate) for number in range(n))
    assert abs(kept - n * rate) < 4.5 * (n * rate * (1 - rate)) ** 0.5  # once in 150,000 by chance, and then always


def test_request_and_response_share_their_fate_and_say_the_rate():
    route = route_of(monitor("a", logger="sample: 0.25"))
    assert route.notes == ((SAMPLE_HEADER, "0.25"),)
    kept = [route.keeps(event(str(i), kind="request")) for i in range(200)]
    assert kept == [route.keeps(event(str(i), kind="response")) for i in range(200)]
    assert 0 < sum(kept) < 200
    everything = route_of(monitor("a"))
    assert everything.notes == ()
    assert everything.keeps(event())


# Files ----------------------------------------------------------------------------------------------------------------


def write(folder: Path, name: str, text: str) -> Path:
    """As editors do it: another file in its place."""
    (folder / f".{name}").write_text(text)
    return (folder / f".{name}").rename(folder / name)


def names(models: Models) -> list[str]:
    return sorted(models.read()[0].routes)


def test_files_come_change_and_go(tmp_path):
    write(tmp_path, "a.yaml", document("a"))
    models = Models(tmp_path)
    assert names(models) == ["a"]
    write(tmp_path, "b.yml", document("b", kafka="topics: {inference: my-own}"))
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / ".c.yaml").write_text("half of a file")
    found, refused = models.read()
    assert (found.routes["b"].topic, refused) == ("my-own", [])
    before = found.routes["a"]
    write(tmp_path, "b.yml", document("b", logger="sample: 0.5"))
    found, _ = models.read()
    assert (found.routes["b"].sample, found.routes["b"].topic) == (0.5, "b-inference")
    assert found.routes["a"] is before  # what has not changed is not read again
    (tmp_path / "a.yaml").unlink()
    assert names(models) == ["b"]
    (tmp_path / "b.yml").unlink()
    assert names(models) == []


def test_a_broken_file_leaves_its_model_as_it_was(tmp_path):
    write(tmp_path, "a.yaml", document("a"))
    write(tmp_path, "b.yaml", document("b", logger="sample: 0.5"))
    models = Models(tmp_path)
    models.read()
    write(tmp_path, "b.yaml", "kind: ModelMonitor\n")
    for _ in range(2):
        found, (refusal,) = models.read()
        assert found.routes["b"].sample == 0.5
        assert isinstance(refusal.error, InvalidMonitor)
        assert refusal.file.endswith("b.yaml")
    write(tmp_path, "b.yaml", document("b"))
    found, refused = models.read()
    assert (found.routes["b"].sample, refused) == (1, [])


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"name": "b", "kafka": "securityProtocol: SSL"}, r"spec\.kafka\.securityProtocol is 'SSL', and 'PLAINTEXT'"),
        ({"name": "b", "logger": "port: 9999"}, r"spec\.logger\.port is 9999, and 8085 in the running logger"),
        ({"name": "b", "logger": "maxBodyBytes: 2048"}, r"spec\.logger\.maxBodyBytes is 2048"),
        ({"name": "a"}, "is described by .* already"),
        (
            {"name": "b", "kafka": "topics: {inference: a-inference}"},
            "the topic 'a-inference' is that of model 'a' already",
        ),
        ({"name": "b", "service": "a"}, "takes the events of inference service 'a' already: tell them apart"),
    ],
)
def test_what_cannot_be_served_beside_the_others_is_refused(tmp_path, second, reason):
    write(tmp_path, "1.yaml", document("a"))
    write(tmp_path, "2.yaml", document(**second))
    found, (refusal,) = Models(tmp_path).read()
    assert list(found.routes) == ["a"]
    assert isinstance(refusal.error, UnwantedMonitor)
    with pytest.raises(UnwantedMonitor, match=reason):
        raise refusal.error


def test_the_first_file_does_not_move_a_running_logger(tmp_path):
    write(tmp_path, "a.yaml", document("a"))
    models = Models(tmp_path)
    models.read()
    write(tmp_path, "a.yaml", document("a", logger="port: 9999"))
    found, (refusal,) = models.read()
    assert found.routes["a"].monitor.spec.logger.port == 8085
    assert "start the logger again" in str(refusal.error)


def test_two_files_that_exchange_their_topics(tmp_path):
    write(tmp_path, "a.yaml", document("a", kafka="topics: {inference: one}"))
    write(tmp_path, "b.yaml", document("b", kafka="topics: {inference: two}"))
    models = Models(tmp_path)
    models.read()
    write(tmp_path, "a.yaml", document("a", kafka="topics: {inference: two}"))
    found, refused = models.read()
    assert len(found.topics) == len(set(found.topics))  # never two models in one topic
    write(tmp_path, "b.yaml", document("b", kafka="topics: {inference: one}"))
    found, refused = models.read()
    assert ({name: route.topic for name, route in found.routes.items()}, refused) == ({"a": "two", "b": "one"}, [])


def test_a_key_that_comes_later(tmp_path, monkeypatch):
    monkeypatch.delenv("DRIFTLINE_TEST_KEY", raising=False)
    write(tmp_path, "a.yaml", document("a"))
    write(
        tmp_path, "b.yaml", document("b", logger="redact: [{feature: who, how: hash, key: {env: DRIFTLINE_TEST_KEY}}]")
    )
    models = Models(tmp_path)
    found, (refusal,) = models.read()
    assert list(found.routes) == ["a"]
    assert isinstance(refusal.error, MissingSecret)
    monkeypatch.setitem(os.environ, "DRIFTLINE_TEST_KEY", "k" * 16)
    found, refused = models.read()
    assert (sorted(found.routes), refused) == (["a", "b"], [])
