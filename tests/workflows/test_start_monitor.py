"""The workflow start-monitor: kept as it was, linted by Argo itself, and as careful as it says."""

import base64
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from streaming.spec import ModelMonitor, load, parse
from workflows.argo import as_document, object_name
from workflows.errors import UnsupportedShape
from workflows.render import WORKFLOWS, rendered
from workflows.start_monitor import monitor_name, start_monitor

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = ROOT / "examples/minimal/monitor.yaml"
LINT = pytest.mark.skipif(
    shutil.which("argo") is None, reason="there is no argo command on PATH: install that of Argo Workflows 3.7 to lint"
)


def monitor_of(sections: str = "", name: str = "iris", metadata: str = "") -> ModelMonitor:
    return parse(
        f"metadata: {{name: {name}{metadata}}}\nspec:\n  model: {{features: [{{name: x, type: numeric}}]}}\n{sections}",
        "m.yaml",
    )


def document(monitor: ModelMonitor) -> dict[str, Any]:
    return as_document(start_monitor(monitor))


def templates(monitor: ModelMonitor) -> dict[str, dict[str, Any]]:
    return {template["name"]: template for template in document(monitor)["spec"]["templates"]}


def manifest(monitor: ModelMonitor, step: str) -> dict[str, Any]:
    return yaml.safe_load(templates(monitor)[step]["resource"]["manifest"])


def pod(monitor: ModelMonitor) -> dict[str, Any]:
    return manifest(monitor, "deployment")["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_match_their_golden_files(golden, name: str):
    golden(f"deploy/argo/{name}.yaml", rendered(load(MINIMAL))[f"{name}.yaml"])


def test_nothing_in_deploy_argo_is_left_over():
    assert {path.name for path in (ROOT / "deploy/argo").iterdir()} == {f"{name}.yaml" for name in WORKFLOWS}


def test_the_same_input_gives_the_same_bytes():
    command = [sys.executable, "-m", "workflows.cli", "workflows", "render", "--config", str(MINIMAL)]
    texts = {
        subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("0", "1")
    }
    assert texts == {(ROOT / "deploy/argo/start-monitor.yaml").read_text()}


def test_render_writes_one_file_a_workflow(tmp_path: Path, capsys):
    from workflows.cli import main

    out = tmp_path / "a" / "b"
    assert main(["workflows", "render", "--config", str(MINIMAL), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out / f"{name}.yaml") for name in WORKFLOWS]
    assert (out / "start-monitor.yaml").read_text() == (ROOT / "deploy/argo/start-monitor.yaml").read_text()


# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.argo
@LINT
@pytest.mark.parametrize(
    "sections",
    [
        "",
        "  job: {checkpoint: s3://bucket/checkpoint}\n  reference: {store: s3://bucket/baselines}\n",
        "  job: {checkpoint: /data/checkpoint}\n",
        "  model: {features: [{name: '{{x}}', type: numeric}]}\n",
    ],
    ids=["defaults", "object store", "absolute path", "braces"],
)
def test_argo_finds_nothing_to_complain_of(tmp_path: Path, sections: str):
    monitor = (
        parse(f"metadata: {{name: iris}}\nspec:\n{sections}", "m") if "model:" in sections else monitor_of(sections)
    )
    for name, text in rendered(monitor).items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(["argo", "lint", "--offline", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.argo
@LINT
def test_argo_would_find_a_mistake(tmp_path: Path):
    """The test above means something: a parameter that nobody gives is refused."""
    text = rendered(load(MINIMAL))["start-monitor.yaml"].replace(
        "inputs.parameters.image}}", "inputs.parameters.imag}}"
    )
    (tmp_path / "w.yaml").write_text(text)
    done = subprocess.run(["argo", "lint", "--offline", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "inputs.parameters.imag" in done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------------------------------
def test_the_configuration_is_the_monitor_itself():
    monitor = load(MINIMAL)
    assert parse(manifest(monitor, "configuration")["data"]["monitor.yaml"], "again") == monitor


def test_braces_in_the_configuration_are_no_parameters_of_argo():
    monitor = parse("metadata: {name: m}\nspec: {model: {features: [{name: '{{inputs.x}}', type: numeric}]}}", "m")
    configuration = manifest(monitor, "configuration")
    assert "data" not in configuration
    assert parse(base64.b64decode(configuration["binaryData"]["monitor.yaml"]).decode(), "again") == monitor


def test_another_configuration_is_another_pod():
    def annotations(monitor: ModelMonitor) -> dict[str, str]:
        return manifest(monitor, "deployment")["spec"]["template"]["metadata"]["annotations"]

    assert annotations(monitor_of()) == annotations(monitor_of())
    assert annotations(monitor_of()) != annotations(monitor_of("  window: {duration: 1h}\n"))


@pytest.mark.parametrize(("heap", "pod_memory"), [("2g", "2868Mi"), ("512m", "896Mi"), ("10g", "14336Mi")])
def test_resources_come_from_the_monitor(heap: str, pod_memory: str):
    (container,) = pod(monitor_of(f"  job: {{driver: {{cores: 3, memory: {heap}}}, image: 'r/driftline:7'}}\n"))[
        "containers"
    ]
    for kind in ("requests", "limits"):
        assert container["resources"][kind] == {"cpu": "3", "memory": pod_memory}
    image, *_ = document(monitor_of("  job: {image: 'r/driftline:7'}\n"))["spec"]["arguments"]["parameters"]
    assert (image["name"], image["value"]) == ("image", "r/driftline:7")


def test_the_pod_has_no_privileges():
    spec = pod(load(MINIMAL))
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] != 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
        }
    steps = document(load(MINIMAL))["spec"]["securityContext"]
    assert (steps["runAsNonRoot"], steps["seccompProfile"]) == (True, {"type": "RuntimeDefault"})


def test_two_monitors_never_share_a_checkpoint():
    deployment = manifest(load(MINIMAL), "deployment")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    assert document(load(MINIMAL))["spec"]["synchronization"] == {"mutexes": [{"name": "start-monitor-iris"}]}


def mounts(monitor: ModelMonitor) -> dict[str, str]:
    spec = pod(monitor)
    names = {volume["name"] for volume in spec["volumes"]}
    found = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    assert set(found.values()) == names
    return found


def test_what_must_last_is_on_the_claim():
    home, cloud = "/var/lib/driftline", "  job: {checkpoint: 's3://b/c'}\n  reference: {store: 's3://b/s'}\n"
    assert mounts(monitor_of())[home] == "lasting"
    absolute = mounts(monitor_of("  job: {checkpoint: /data/checkpoint}\n"))
    assert (absolute["/data/checkpoint"], absolute[home]) == ("lasting", "lasting")
    assert mounts(monitor_of("  job: {checkpoint: 'file:///data/c'}\n"))["/data/c"] == "lasting"
    assert mounts(monitor_of(cloud))[home] == "home"
    assert "checkpoint" not in templates(monitor_of(cloud))
    assert "persistentvolumeclaims" not in rendered(monitor_of(cloud))["start-monitor.yaml"]


def test_every_parameter_explains_itself_and_reaches_its_step():
    spec = document(load(MINIMAL))["spec"]
    given = {parameter["name"] for parameter in spec["arguments"]["parameters"]}
    for parameter in spec["arguments"]["parameters"]:
        assert parameter["description"].endswith(".")
        assert parameter["value"] in parameter.get("enum", [parameter["value"]])
    used = set()
    for template in spec["templates"]:
        declared = {parameter["name"] for parameter in template.get("inputs", {}).get("parameters", [])}
        mentioned = set(re.findall(r"\{\{inputs\.parameters\.([\w-]+)\}\}", yaml.safe_dump(template)))
        assert mentioned == declared, template["name"]
        used |= mentioned
    assert given <= used


def test_it_waits_for_the_deployment_that_it_applied():
    running = templates(load(MINIMAL))["running"]
    assert "status.observedGeneration == {{inputs.parameters.generation}}" in running["resource"]["successCondition"]
    assert running["resource"]["action"] == "get"
    assert running["timeout"] == "{{inputs.parameters.timeout}}"
    (generation,) = templates(load(MINIMAL))["deployment"]["outputs"]["parameters"]
    assert generation == {"name": "generation", "valueFrom": {"jsonPath": "{.metadata.generation}"}}


def test_only_what_may_be_done_twice_is_retried():
    for template in templates(load(MINIMAL)).values():
        if "resource" not in template:
            assert "retryStrategy" not in template
            continue
        policy = {"apply": "Always", "get": "OnError"}[template["resource"]["action"]]
        assert template["retryStrategy"]["retryPolicy"] == policy
        assert template["retryStrategy"]["backoff"]
    assert document(load(MINIMAL))["spec"]["activeDeadlineSeconds"] > 0


def applied(monitor: ModelMonitor) -> Iterator[dict[str, Any]]:
    for template in templates(monitor).values():
        if "resource" in template:
            yield yaml.safe_load(template["resource"]["manifest"])


def test_the_role_allows_what_the_steps_do_and_no_more():
    account, role, binding, template = yaml.safe_load_all(rendered(load(MINIMAL))["start-monitor.yaml"])
    name = template["metadata"]["name"]
    assert {account["metadata"]["name"], role["metadata"]["name"], binding["metadata"]["name"]} == {name}
    assert template["spec"]["serviceAccountName"] == name
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name}]
    touched = {f"{one['kind'].lower()}s" for one in applied(load(MINIMAL))}
    allowed = {resource for rule in role["rules"] for resource in rule["resources"]}
    assert allowed == touched | {"workflowtaskresults"}
    for rule in role["rules"]:
        assert "*" not in yaml.safe_dump(rule)
        assert set(rule["verbs"]) <= {"get", "create", "patch"}
        if "get" in rule["verbs"]:
            assert rule["resourceNames"] == ["monitor-iris"]


def test_the_namespace_is_the_monitor_s():
    documents = list(yaml.safe_load_all(rendered(monitor_of(metadata=", namespace: ml"))["start-monitor.yaml"]))
    assert {one["metadata"]["namespace"] for one in documents} == {"ml"}
    assert documents[2]["subjects"][0]["namespace"] == "ml"


def test_a_master_elsewhere_is_refused_in_words(tmp_path: Path, capsys):
    from workflows.cli import main

    with pytest.raises(UnsupportedShape, match=r"spec\.job\.master is 'k8s://https://x'"):
        start_monitor(monitor_of("  job: {master: 'k8s://https://x'}\n"))
    config = tmp_path / "m.yaml"
    config.write_text(MINIMAL.read_text() + "  job: {master: yarn}\n")
    assert main(["workflows", "render", "--config", str(config)]) == 2
    assert capsys.readouterr().err.startswith("driftline: spec.job.master is 'yarn'")


def test_names_stay_short_and_apart():
    long = "a" * 62
    names = {object_name("start-monitor", long + end) for end in "xyz"}
    assert len(names) == 3
    assert all(len(name) <= 52 for name in names)
    assert monitor_name(monitor_of(name="iris")) == "monitor-iris"


def test_a_misspelt_field_fails_while_it_is_built():
    from argo_workflows.exceptions import ApiAttributeError, ApiTypeError

    from workflows.argo import RetryStrategy

    with pytest.raises((ApiAttributeError, ApiTypeError, TypeError)):
        RetryStrategy(limit=3)
