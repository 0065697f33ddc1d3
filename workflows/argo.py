"""Argo's own nouns for the long class names of the generated SDK, and what every workflow of ours has.

The only module that imports the SDK. Its classes check names and types while a workflow is built, so that a misspelt field fails
here and not on a cluster.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

from argo_workflows import models
from argo_workflows.api_client import ApiClient

Arguments: TypeAlias = models.IoArgoprojWorkflowV1alpha1Arguments
Backoff: TypeAlias = models.IoArgoprojWorkflowV1alpha1Backoff
DAG: TypeAlias = models.IoArgoprojWorkflowV1alpha1DAGTemplate
Inputs: TypeAlias = models.IoArgoprojWorkflowV1alpha1Inputs
Mutex: TypeAlias = models.IoArgoprojWorkflowV1alpha1Mutex
ObjectMeta: TypeAlias = models.ObjectMeta
Outputs: TypeAlias = models.IoArgoprojWorkflowV1alpha1Outputs
Parameter: TypeAlias = models.IoArgoprojWorkflowV1alpha1Parameter
PodGC: TypeAlias = models.IoArgoprojWorkflowV1alpha1PodGC
PodSecurityContext: TypeAlias = models.PodSecurityContext
Resource: TypeAlias = models.IoArgoprojWorkflowV1alpha1ResourceTemplate
RetryStrategy: TypeAlias = models.IoArgoprojWorkflowV1alpha1RetryStrategy
SeccompProfile: TypeAlias = models.SeccompProfile
Synchronization: TypeAlias = models.IoArgoprojWorkflowV1alpha1Synchronization
Task: TypeAlias = models.IoArgoprojWorkflowV1alpha1DAGTask
Template: TypeAlias = models.IoArgoprojWorkflowV1alpha1Template
TTLStrategy: TypeAlias = models.IoArgoprojWorkflowV1alpha1TTLStrategy
ValueFrom: TypeAlias = models.IoArgoprojWorkflowV1alpha1ValueFrom
WorkflowSpec: TypeAlias = models.IoArgoprojWorkflowV1alpha1WorkflowSpec
WorkflowTemplate: TypeAlias = models.IoArgoprojWorkflowV1alpha1WorkflowTemplate

USER = 10_001
"""Of every process of ours in a pod; any number but 0."""

_NAME_LENGTH = 52
"""What Kubernetes and Argo leave of 63 characters when they have added a suffix of their own."""

_STEP = """\
containers:
- name: main
  resources:
    limits: {memory: 256Mi}
    requests: {cpu: 50m, memory: 64Mi}
"""
"""A step that only talks to the API server is small, and says so to the scheduler."""


def object_name(role: str, model: str) -> str:
    """``role-model``, cut where it would be too long, and then still its own by a hash."""
    name = f"{role}-{model}"
    if len(name) <= _NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _NAME_LENGTH - len(digest) - 1].rstrip('-')}-{digest}"


def labels(component: str, model: str) -> dict[str, str]:
    """The labels that Kubernetes recommends, and whose model it is."""
    return {
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/instance": model,
        "app.kubernetes.io/managed-by": "argo-workflows",
        "app.kubernetes.io/name": "driftline",
        "driftline.io/model": model,
    }


def workflow_template(
    name: str,
    *,
    model: str,
    namespace: str | None,
    description: str,
    entrypoint: str,
    parameters: Sequence[Parameter],
    templates: Sequence[Template],
    deadline: timedelta,
) -> WorkflowTemplate:
    """A WorkflowTemplate as all of ours are: not root, with a deadline, one run at a time, tidied up afterwards.

    It runs under a ServiceAccount of the same name (`workflows.access`).
    """
    placed = {} if namespace is None else {"namespace": namespace}
    return WorkflowTemplate(
        api_version="argoproj.io/v1alpha1",
        kind="WorkflowTemplate",
        metadata=ObjectMeta(
            name=name,
            labels=labels(entrypoint, model),
            annotations={"workflows.argoproj.io/description": description},
            **placed,
        ),
        spec=WorkflowSpec(
            entrypoint=entrypoint,
            arguments=Arguments(parameters=list(parameters)),
            templates=list(templates),
            service_account_name=name,
            security_context=PodSecurityContext(
                run_as_non_root=True,
                run_as_user=USER,
                run_as_group=USER,
                seccomp_profile=SeccompProfile(type="RuntimeDefault"),
            ),
            pod_spec_patch=_STEP,
            active_deadline_seconds=int(deadline.total_seconds()),
            synchronization=Synchronization(mutexes=[Mutex(name=name)]),
            # What failed stays for a day to be looked at.
            ttl_strategy=TTLStrategy(seconds_after_success=3600, seconds_after_failure=86_400),
            pod_gc=PodGC(strategy="OnPodSuccess"),
        ),
    )


def idempotent(policy: str = "Always") -> RetryStrategy:
    """Three more attempts, 5, 10 and 20 seconds apart: only for steps that may be done twice.

    Parameters
    ----------
    policy
        Argo's: ``Always``, or ``OnError`` for a step whose failure is an answer, and only whose pod may get lost.
    """
    return RetryStrategy(limit="3", retry_policy=policy, backoff=Backoff(duration="5s", factor="2", max_duration="2m"))


def inputs(parameters: Iterable[Parameter]) -> Inputs:
    """Parameters that a template must be given; their values are those of the workflow unless the caller says others."""
    return Inputs(parameters=[Parameter(name=parameter.name) for parameter in parameters])


def given(values: Mapping[str, str]) -> Arguments:
    """What a task gives to its template."""
    return Arguments(parameters=[Parameter(name=name, value=value) for name, value in values.items()])


def as_document(thing: Any) -> dict[str, Any]:
    """An object of the SDK as Kubernetes writes it."""
    document: dict[str, Any] = ApiClient.sanitize_for_serialization(thing)
    return document
