"""The workflow `start-monitor`: one monitor of one model in one pod, configured, given a checkpoint, and running."""

import base64
import hashlib
import math
import re
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

from streaming.spec import ModelMonitor, Resources, dump
from workflows.access import REPORTS_RESULTS, Rule, applies
from workflows.argo import (
    DAG,
    USER,
    Outputs,
    Parameter,
    Resource,
    Task,
    Template,
    ValueFrom,
    WorkflowTemplate,
    given,
    idempotent,
    inputs,
    labels,
    object_name,
    workflow_template,
)
from workflows.errors import UnsupportedShape
from workflows.manifest import to_yaml

CONFIG = PurePosixPath("/etc/driftline/monitor.yaml")
"""Where the ModelMonitor is in the pod."""
HOME = PurePosixPath("/var/lib/driftline")
"""Working directory in the pod: relative paths of a ModelMonitor are below it, on the claim."""
DEADLINE = timedelta(minutes=30)
"""Of the whole workflow; waiting for the roll-out has one of its own, the parameter `timeout`."""

_PYTHON_SHARE = 0.4
"""Memory beside the Java heap, as a share of it: what Spark itself adds on Kubernetes for Python."""


def name_of(monitor: ModelMonitor) -> str:
    """Of the workflow template and its ServiceAccount."""
    return object_name("start-monitor", monitor.name)


def monitor_name(monitor: ModelMonitor) -> str:
    """Of the Deployment, its ConfigMap and its claim."""
    return object_name("monitor", monitor.name)


def start_monitor(monitor: ModelMonitor) -> WorkflowTemplate:
    """Template that starts the streaming job of one model and waits until it is running.

    It applies the configuration, the claim of the checkpoint and a Deployment, and waits until the one pod of the Deployment as
    it is now has been up for half a minute. All of it can be done again: a running monitor is replaced when something
    changed, goes on from its checkpoint, and is left alone when nothing did.

    Raises
    ------
    UnsupportedShape
        When `job.master` is not local: a monitor with executors of its own takes another shape than one pod.
    """
    if not re.fullmatch(r"local(\[.+\])?", monitor.spec.job.master):
        raise UnsupportedShape(
            f"spec.job.master is {monitor.spec.job.master!r}, and start-monitor runs a monitor in a single pod: "
            "write local[*], or start the job by other means",
        )
    parameters = [
        Parameter(
            name="image", value=monitor.spec.job.image, description="Container image with the command driftline."
        ),
        Parameter(
            name="image-pull-policy",
            value="IfNotPresent",
            enum=["IfNotPresent", "Always", "Never"],
            description="When a node asks the registry for the image: Never, where images are loaded by hand.",
        ),
        Parameter(
            name="checkpoint-size",
            value="5Gi",
            description="Size of the volume that keeps offsets, state and local baselines; it can grow later, not shrink.",
        ),
        Parameter(
            name="timeout",
            value="10m",
            description="How long the monitor may take until it is up, its image pulled and its volume bound.",
        ),
    ]
    passed_on = {parameter.name: f"{{{{inputs.parameters.{parameter.name}}}}}" for parameter in parameters}
    pod_parameters = [parameter for parameter in parameters if parameter.name in {"image", "image-pull-policy"}]
    claims = _claim_mounts(monitor)
    tasks = [Task(name="configuration", template="configuration")]
    templates = [_applied("configuration", _configuration(monitor))]
    if claims:
        size = [parameter for parameter in parameters if parameter.name == "checkpoint-size"]
        tasks.append(
            Task(name="checkpoint", template="checkpoint", arguments=given(_only(passed_on, "checkpoint-size")))
        )
        templates.append(_applied("checkpoint", _claim(monitor), inputs=inputs(size)))
    else:
        parameters = [parameter for parameter in parameters if parameter.name != "checkpoint-size"]
    tasks += [
        Task(
            name="deployment",
            template="deployment",
            depends=" && ".join(task.name for task in tasks),
            arguments=given(_only(passed_on, "image", "image-pull-policy")),
        ),
        Task(
            name="running",
            template="running",
            depends="deployment",
            arguments=given(
                {"generation": "{{tasks.deployment.outputs.parameters.generation}}", **_only(passed_on, "timeout")}
            ),
        ),
    ]
    templates += [
        _applied(
            "deployment",
            _deployment(monitor, claims),
            inputs=inputs(pod_parameters),
            outputs=Outputs(
                parameters=[Parameter(name="generation", value_from=ValueFrom(json_path="{.metadata.generation}"))]
            ),
        ),
        _running(monitor),
    ]
    return workflow_template(
        name_of(monitor),
        model=monitor.name,
        namespace=monitor.metadata.namespace,
        description=f"Start the monitor of model {monitor.name}, or replace a running one, and wait until it is up.",
        entrypoint="start-monitor",
        parameters=parameters,
        templates=[
            Template(name="start-monitor", inputs=inputs(parameters), dag=DAG(tasks=tasks)),
            *templates,
        ],
        deadline=DEADLINE,
    )


def rules(monitor: ModelMonitor) -> list[Rule]:
    """All that this workflow may do."""
    name = monitor_name(monitor)
    applied = [*applies("", "configmaps", name), *applies("apps", "deployments", name)]
    if _claim_mounts(monitor):
        applied += applies("", "persistentvolumeclaims", name)
    return [REPORTS_RESULTS, *applied]


def _only(values: dict[str, str], *names: str) -> dict[str, str]:
    return {name: values[name] for name in names}


def _applied(name: str, manifest: dict[str, Any], **more: Any) -> Template:
    """A step that applies one object: done twice, it is done once."""
    return Template(
        name=name,
        resource=Resource(action="apply", manifest=to_yaml(manifest)),
        retry_strategy=idempotent(),
        **more,
    )


def _running(monitor: ModelMonitor) -> Template:
    """Waits for the Deployment as it was applied: its status may still tell of the one before."""
    manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": monitor_name(monitor)}}
    conditions = (
        "status.observedGeneration == {{inputs.parameters.generation}}",
        "status.updatedReplicas == 1",
        "status.availableReplicas == 1",
        "status.replicas == 1",
    )
    return Template(
        name="running",
        inputs=inputs([Parameter(name="generation"), Parameter(name="timeout")]),
        resource=Resource(action="get", manifest=to_yaml(manifest), success_condition=", ".join(conditions)),
        timeout="{{inputs.parameters.timeout}}",
        retry_strategy=idempotent("OnError"),  # a time that ran out is an answer, a lost pod is none
    )


def _metadata(monitor: ModelMonitor) -> dict[str, Any]:
    return {"name": monitor_name(monitor), "labels": labels("monitor", monitor.name)}


def _configuration(monitor: ModelMonitor) -> dict[str, Any]:
    text = dump(monitor)
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(monitor)}
    if "{{" in text:  # Argo would take it for a parameter
        return {**manifest, "binaryData": {CONFIG.name: base64.b64encode(text.encode()).decode()}}
    return {**manifest, "data": {CONFIG.name: text}}


def _claim(monitor: ModelMonitor) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(monitor),
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "{{inputs.parameters.checkpoint-size}}"}},
        },
    }


def _claim_mounts(monitor: ModelMonitor) -> list[dict[str, Any]]:
    """Where the claim is mounted: at the working directory, and at every absolute path that must last."""
    places = {"checkpoint": monitor.spec.job.checkpoint, "baselines": monitor.spec.reference.store}
    local = {name: place.removeprefix("file://") for name, place in places.items()}
    lasting = {name: PurePosixPath(place) for name, place in local.items() if "://" not in place}
    mounts: list[dict[str, Any]] = []
    if any(not path.is_absolute() for path in lasting.values()):
        mounts.append({"name": "lasting", "mountPath": str(HOME)})
    mounts += [
        {"name": "lasting", "mountPath": str(path), "subPath": name}
        for name, path in lasting.items()
        if path.is_absolute()
    ]
    return mounts


def _deployment(monitor: ModelMonitor, claims: list[dict[str, Any]]) -> dict[str, Any]:
    name, job = monitor_name(monitor), monitor.spec.job
    selector = {key: value for key, value in labels("monitor", monitor.name).items() if "managed-by" not in key}
    memory = _pod_memory(job.driver)
    volumes: list[dict[str, Any]] = [
        {"name": "configuration", "configMap": {"name": name}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts = [
        {"name": "configuration", "mountPath": str(CONFIG.parent), "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
        *claims,
    ]
    if claims:
        volumes.append({"name": "lasting", "persistentVolumeClaim": {"claimName": name}})
    if not any(mount["mountPath"] == str(HOME) for mount in claims):
        volumes.append({"name": "home", "emptyDir": {}})
        mounts.append({"name": "home", "mountPath": str(HOME)})
    container = {
        "name": "monitor",
        "image": "{{inputs.parameters.image}}",
        "imagePullPolicy": "{{inputs.parameters.image-pull-policy}}",
        "command": ["driftline"],
        "args": ["monitor", "run", "--config", str(CONFIG)],
        "workingDir": str(HOME),
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - as above
            {"name": "SPARK_LOCAL_DIRS", "value": "/tmp/spark"},  # noqa: S108 - as above
        ],
        # Secrets by reference: `kafka.password: {env: NAME}` finds NAME here.
        "envFrom": [{"secretRef": {"name": name, "optional": True}}],
        # The limit of cores is what the Java VM, and so local[*], takes for the number of cores.
        "resources": {
            "limits": {"cpu": str(job.driver.cores), "memory": memory},
            "requests": {"cpu": str(job.driver.cores), "memory": memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": mounts,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(monitor),
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 3,
            # Two monitors on one checkpoint would spoil it: the old one is gone before the new one comes.
            "strategy": {"type": "Recreate"},
            # A pod that falls over and is started again is not available in between.
            "minReadySeconds": 30,
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {
                    "labels": labels("monitor", monitor.name),
                    # Another configuration is another pod.
                    "annotations": {
                        "driftline.io/configuration": hashlib.sha256(dump(monitor).encode()).hexdigest()[:16]
                    },
                },
                "spec": {
                    "automountServiceAccountToken": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": USER,
                        "runAsGroup": USER,
                        "fsGroup": USER,
                        "fsGroupChangePolicy": "OnRootMismatch",
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "terminationGracePeriodSeconds": 60,
                    "containers": [container],
                    "volumes": volumes,
                },
            },
        },
    }


def _pod_memory(driver: Resources) -> str:
    """Memory of the pod: the Java heap that the ModelMonitor asks for, and the Python workers beside it."""
    size, unit = int(driver.memory[:-1]), driver.memory[-1]
    heap = size * (1024 if unit == "g" else 1)
    return f"{heap + max(384, math.ceil(heap * _PYTHON_SHARE))}Mi"
