"""What the catalogues hold, read off the classes themselves: for tables, docs and whoever chooses a detector."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticUndefined

from detectors.settings import Settings

_SYMBOL = {("p-value", False): "<=", ("p-value", True): "<", ("distance", False): ">=", ("distance", True): ">"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One setting of a detector."""

    name: str
    """As in a ModelMonitor."""
    default: Any
    """None where it must be given."""
    required: bool
    """Whether it must be given."""
    meaning: str
    """What it does, with its unit."""


@dataclass(frozen=True, slots=True)
class Description:
    """One member of a catalogue."""

    name: str
    summary: str
    """The first sentence of the class."""
    applies_to: tuple[str, ...] | None
    """Types of column; None where the class does not say."""
    direction: str | None
    """`p-value` or `distance`; None of a detector that only alarms, whose score is large when it does."""
    unit: str | None
    """Of its score and its threshold; None where the class does not say."""
    drifted_when: str | None
    """For example ``score <= 0.05``, with the default threshold; None of a detector that only alarms."""
    threshold: float | None
    """The default of a method's threshold; None of a detector that only alarms, which has parameters instead."""
    parameters: tuple[Parameter, ...]


def catalogues() -> dict[str, Mapping[str, type[Settings]]]:
    """Kind of detector -> its catalogue. The import takes a moment, which who asks for none of them should not wait for."""
    from detectors.drift import DRIFT
    from detectors.multivariate import MULTIVARIATE
    from detectors.outliers import OUTLIERS
    from detectors.sequential import SEQUENTIAL
    from detectors.traffic import TRAFFIC

    return {
        "drift": DRIFT,
        "multivariate": MULTIVARIATE,
        "sequential": SEQUENTIAL,
        "outliers": OUTLIERS,
        "traffic": TRAFFIC,
    }


def describe(detector: type[Settings]) -> Description:
    """What one class of a catalogue does, takes and answers."""
    doc = inspect.getdoc(detector) or ""
    meanings = parameter_docs(doc)
    fields = detector.model_fields
    direction, rule, threshold = None, None, None
    if "direction" in fields:  # of a function that a ModelMonitor names, which decides itself
        direction, threshold, rule = fields["direction"].default, fields["threshold"].default, "the function says so"
    elif hasattr(detector, "direction"):
        direction, threshold = detector.direction, fields["threshold"].default
        rule = f"score {_SYMBOL[direction, getattr(detector, 'strict', False)]} {threshold:g}"
    applies_to = getattr(detector, "applies_to", None)
    return Description(
        name=fields["name"].default,
        summary=re.split(r"(?<=\.)\s|:\s|:$", " ".join(doc.partition("\n\n")[0].split()))[0].rstrip("."),
        applies_to=None if applies_to is None else tuple(sorted(applies_to, reverse=True)),
        direction=direction,
        unit=getattr(detector, "unit", None),
        drifted_when=rule,
        threshold=threshold,
        parameters=tuple(
            Parameter(
                field.alias or name,
                None if field.default is PydanticUndefined else field.default,
                field.is_required(),
                meanings.get(name) or " ".join((field.description or "").split()),
            )
            for name, field in fields.items()
            if name != "name"
        ),
    )


def parameter_docs(doc: str) -> dict[str, str]:
    r"""Parameter -> its text, from the section ``Parameters`` of a docstring in numpy's form.

    >>> parameter_docs("Text.\n\nParameters\n----------\nk, m\n    In standard\n    deviations.\n\nNotes\n-----\nNone.")
    {'k': 'In standard deviations.', 'm': 'In standard deviations.'}
    """
    section = re.search(r"^Parameters\n-{3,}\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", doc, re.MULTILINE | re.DOTALL)
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else ():
        if line and not line[0].isspace():
            names = [name.strip() for name in line.partition(":")[0].split(",")]
        elif line.strip():
            for name in names:
                texts[name] = f"{texts.get(name, '')} {line.strip()}".strip()
    return texts
