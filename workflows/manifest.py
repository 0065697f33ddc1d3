"""Kubernetes documents as YAML: the same document gives the same bytes, whatever order it was built in."""

from typing import Any

import yaml

_FIRST = ("apiVersion", "kind", "metadata", "name", "namespace", "description")
"""Where people look first; all other keys are sorted."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - an anchor would be correct, and nobody could read it
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Texts of several lines as they are."""
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(*documents: Any) -> str:
    """One or several documents as one text."""
    return "---\n".join(
        yaml.dump(_ordered(document), Dumper=_Dumper, sort_keys=False, width=2**31, allow_unicode=True)
        for document in documents
    )


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        keys = [key for key in _FIRST if key in value] + sorted(key for key in value if key not in _FIRST)
        return {key: _ordered(value[key]) for key in keys}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    return value
