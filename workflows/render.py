"""All workflows of a model as YAML: what `driftline workflows render` writes, and what is kept in deploy/argo."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streaming.spec import ModelMonitor
from workflows.access import Rule, access
from workflows.argo import WorkflowTemplate, as_document
from workflows.manifest import to_yaml
from workflows.start_monitor import rules as start_monitor_rules
from workflows.start_monitor import start_monitor


@dataclass(frozen=True, slots=True)
class Workflow:
    """One builder, and what its workflow may do."""

    build: Callable[[ModelMonitor], WorkflowTemplate]
    rules: Callable[[ModelMonitor], Sequence[Rule]]


WORKFLOWS: dict[str, Workflow] = {
    "start-monitor": Workflow(start_monitor, start_monitor_rules),
}
"""Every workflow by the name of its file."""


def rendered(monitor: ModelMonitor) -> dict[str, str]:
    """File name -> its documents: ServiceAccount, Role, RoleBinding, WorkflowTemplate. The same input gives the same bytes.

    Raises
    ------
    UnsupportedShape
        When a workflow cannot run this ModelMonitor.
    """
    return {f"{name}.yaml": _documents(workflow, monitor) for name, workflow in WORKFLOWS.items()}


def _documents(workflow: Workflow, monitor: ModelMonitor) -> str:
    template = as_document(workflow.build(monitor))
    metadata = template["metadata"]
    who = access(metadata["name"], metadata.get("namespace"), metadata["labels"], workflow.rules(monitor))
    return to_yaml(*who, template)
