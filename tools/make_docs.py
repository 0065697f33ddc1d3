"""Writes docs/configuration.md, docs/detectors.md and docs/cli.md from the code: from the JSON Schema, the docstrings and the commands themselves.

`make golden` runs it (by tests/tools/test_make_docs.py), and `make check-golden` fails when they differ.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import typer.main

from detectors.describe import Description, catalogues, describe
from streaming.spec import json_schema
from workflows.cli import EXTRAS, app

Object = Mapping[str, Any]

GENERATED = "<!-- Written by tools/make_docs.py from the code: change that, then `make golden`. -->\n"

CONFIGURATION = """\
# A ModelMonitor, key by key

One YAML document configures a model, and every room reads it. `driftline validate FILE` checks it without starting anything
and answers each mistake with its line, its path, its value and what would do. `deploy/schema/modelmonitor.schema.json` is
its JSON Schema, which editors use for completion (`# yaml-language-server: $schema=…` in the first line). Unknown
keys are errors.

Twelve lines are enough (`examples/minimal/monitor.yaml`):

```yaml
apiVersion: driftline.io/v1
kind: ModelMonitor
metadata:
  name: iris
spec:
  model:
    features:
      - {name: sepal_length, type: numeric, min: 0, max: 10}
      - {name: colour, type: categorical}
```

Durations are written with their unit: `500ms`, `15s`, `1h30m`. Texts that YAML would read as something else are written in quotes: a
category `"no"`, a version `"1.0"`. Secrets are never written here, only where they are: `{env: NAME}` or `{file: PATH}`.
"""

DETECTORS = """\
# The detectors

Each is named in a ModelMonitor, bare or with settings: `ks`, or `{name: ks, threshold: 0.01}`. `driftline detectors list` prints this catalogue,
`--json` for programs. The docstring of each (in the file that is named like it, in the folder of its kind) has its formula, when it
misleads, its nearest neighbours and the paper; docs/agreement.md compares the drift methods with Evidently, docs/honesty.md tells how often
detectors alarm on clean data and how soon on drift, docs/adding-a-detector.md how to write one.
"""

KINDS = {
    "drift": "Drift of one column (`spec.drift.methods`, `spec.drift.columns`)",
    "multivariate": "Drift of all numeric features together (`spec.drift.multivariate`)",
    "sequential": "Changes in a series (`spec.sequential`)",
    "outliers": "Outliers among instances (`spec.outliers.detectors`)",
    "traffic": "Adversarial and abusive traffic (`spec.traffic.detectors`)",
}

CLI = """\
# The command `driftline`

Every sub-command belongs to a room and imports that room only when it runs, so an image holds what its own command needs.
`driftline COMMAND --help` says the same as this page.

## Exit codes

| code | meaning |
| --- | --- |
| 0 | Done. |
| 1 | Failed: a service that is not there in time, a job that died, an extra that is not installed. |
| 2 | Bad input: a ModelMonitor, a training table, an option. Nothing was started. |
| 4 | The gate did not let a baseline become the current one. Everything else was done. |
| 130 | Interrupted by Ctrl-C. |

What a user can mend is one line on stderr for each thing that is wrong, `driftline: file:line: path: what would do`. A traceback is a
bug of ours: please report it. Tables are for people, `--json` is for programs; stdout carries the result and nothing else.

## What is installed

The core reads and checks ModelMonitors, builds baselines and knows every detector. The rest are extras:

"""


def configuration() -> str:
    """docs/configuration.md."""
    schema = json_schema()
    parts = [CONFIGURATION]
    places: dict[str, list[str]] = {}
    for path, section, defaults in _sections(schema, schema, "", {}):
        text = f"{_paragraph(section.get('description', ''))}\n\n{_keys(section, schema, defaults)}"
        places.setdefault(text, []).append(f"`{path}`" if path else "The document")
    parts += [f"\n## {', '.join(paths)}\n\n{text}" for text, paths in places.items()]
    return GENERATED + "".join(parts)


def detectors() -> str:
    """docs/detectors.md."""
    parts = [DETECTORS]
    for kind, members in catalogues().items():
        described = [describe(member) for member in members.values()]
        parts.append(f"\n## {KINDS[kind]}\n")
        parts += map(_detector, described)
    return GENERATED + "".join(parts)


def cli() -> str:
    """docs/cli.md."""
    extras: dict[str, list[str]] = {}
    for module, extra in EXTRAS.items():
        extras.setdefault(extra, []).append(module)
    lines = [f"- `driftline[{extra}]`: {', '.join(modules)}\n" for extra, modules in extras.items()]
    return GENERATED + CLI + "".join(lines) + "".join(_commands(typer.main.get_command(app), "driftline"))


def _sections(here: Object, schema: Object, path: str, defaults: Object) -> Iterator[tuple[str, Object, Object]]:
    """Every mapping of the document with its path and the defaults that it has there, outer ones first."""
    yield path, here, defaults
    for key, field in here["properties"].items():
        inner, many = _inner(field, schema)
        if inner is not None:
            own = defaults.get(key, field.get("default"))
            yield from _sections(
                inner, schema, f"{path}.{key}{'[]' * many}".lstrip("."), own if isinstance(own, dict) else {}
            )


def _inner(field: Object, schema: Object) -> tuple[Object | None, bool]:
    """The section that a key holds, if it holds one, and whether it holds a list of them."""
    many = field.get("type") == "array"
    if many:
        field = field["items"]
    for option in (field, *field.get("anyOf", ())):
        if "$ref" in option:
            found = schema["$defs"][option["$ref"].rpartition("/")[2]]
            if "properties" in found:
                return found, many
    return None, many


def _keys(section: Object, schema: Object, defaults: Object) -> str:
    rows = ["| key | takes | default | |\n| --- | --- | --- | --- |\n"]
    for key, field in section["properties"].items():
        inner, _ = _inner(field, schema)
        if key in section.get("required", ()):
            default = "required"
        else:
            value = defaults.get(key, field.get("default"))
            section_of_its_own = inner is not None and isinstance(value, dict)
            default = "" if value is None or section_of_its_own else f"`{_flow(value)}`"
        about = _paragraph(field.get("description", ""))
        rows.append(f"| `{key}` | {_cell(_takes(field, schema))} | {_cell(default)} | {_cell(about)} |\n")
    return "".join(rows)


def _takes(field: Object, schema: Object) -> str:
    """What belongs in a place, in words."""
    if "$ref" in field:
        return _takes(schema["$defs"][field["$ref"].rpartition("/")[2]], schema)
    if "properties" in field:
        return "mapping"
    if "anyOf" in field:
        options = [option for option in field["anyOf"] if option.get("type") != "null"]
        return ", or ".join(dict.fromkeys(_takes(option, schema) for option in options))
    if "oneOf" in field:
        return "one with settings"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{name}`" for name in field["enum"])
    if field.get("type") == "array":
        return f"list of: {_takes(field['items'], schema)}"
    if field.get("type") == "object":
        values = field.get("additionalProperties")
        return f"name -> {_takes(values, schema)}" if isinstance(values, dict) else "mapping"
    if "examples" in field:
        return f"duration, as `{field['examples'][0]}`"
    name = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "string": "text"}[
        field["type"]
    ]
    limits = [
        f"{sign} {field[key]:g}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in field
    ]
    return f"{name} {', '.join(limits)}".strip()


def _flow(value: Any) -> str:
    """A default as it would be written."""
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict):
        return value["name"] if "name" in value else "{}" if not value else json.dumps(value)
    return value if isinstance(value, str) else json.dumps(value)


def _detector(one: Description) -> str:
    facts = [f"for {' and '.join(one.applies_to)} columns"] if one.applies_to else []
    if one.unit:
        facts.append(f"score: {one.unit}")
    if one.drifted_when:
        facts.append(f"alarm when the {one.direction} is {one.drifted_when.removeprefix('score ')}")
    settings = "".join(
        f"- `{each.name}` (`{_flow(each.default)}`): {each.meaning.replace('``', '`')}\n" for each in one.parameters
    )
    facts_text = f" {'; '.join(facts).capitalize()}." if facts else ""
    return f"\n### {one.name}\n\n{one.summary}.{facts_text}\n{chr(10) if settings else ''}{settings}"


def _commands(command: Any, path: str) -> Iterator[str]:
    """Each command under its full name."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, f"{path} {name}")
    if hasattr(command, "commands"):
        return
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and "--help" not in p.opts]
    usage = " ".join([path, *(p.metavar or p.name.upper() for p in arguments), *("[OPTIONS]" for _ in options[:1])])
    yield f"\n## {path}\n\n{_paragraph(command.help)}\n\n```\n{usage}\n```\n"
    rows = [f"- `{p.metavar or p.name.upper()}`: {p.help}\n" for p in arguments if p.help]
    for option in options:
        spelling = ", ".join(f"`{name}`" for name in option.opts)
        value = "" if option.is_flag else f" `{option.metavar or _choices(option)}`"
        needed = " Required." if option.required else ""
        shown = option.default not in {None, False} and option.show_default and not option.required
        default = f" Default: `{option.default}`." if shown else ""
        rows.append(f"- {spelling}{value}: {option.help}{needed}{default}\n")
    if rows:
        yield "\n" + "".join(rows)


def _choices(option: Any) -> str:
    annotation = option.type_descriptor.annotation
    return "|".join(get_args(annotation)) or annotation.__name__.upper()


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
