"""Who a workflow is, and all that it may do: a ServiceAccount, a Role with the least that works, and what binds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_API = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class Rule:
    """Verbs on one kind of object."""

    group: str
    """API group; empty for Kubernetes' core."""
    resource: str
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()
    """Only these objects; empty: any. What is created has no name yet, so `create` cannot be bound to one."""


REPORTS_RESULTS = Rule("argoproj.io", "workflowtaskresults", ("create", "patch"))
"""Every pod of a workflow tells the controller so how its step ended."""


def applies(group: str, resource: str, name: str) -> tuple[Rule, Rule]:
    """What `kubectl apply` of one object takes."""
    return Rule(group, resource, ("get", "patch"), (name,)), Rule(group, resource, ("create",))


def access(name: str, namespace: str | None, labels: dict[str, str], rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """ServiceAccount, Role and RoleBinding of one name."""
    place = {} if namespace is None else {"namespace": namespace}
    metadata = {"name": name, "labels": labels, **place}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {
            "apiVersion": f"{_API}/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [
                {
                    "apiGroups": [rule.group],
                    "resources": [rule.resource],
                    **({"resourceNames": list(rule.names)} if rule.names else {}),
                    "verbs": list(rule.verbs),
                }
                for rule in rules
            ],
        },
        {
            "apiVersion": f"{_API}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": _API, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, **place}],
        },
    ]
