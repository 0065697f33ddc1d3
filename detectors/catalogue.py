"""A catalogue of detectors as a field of a ModelMonitor: a bare name, or the name with its settings."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from detectors.settings import Settings


@dataclass(frozen=True, slots=True)
class Shorthand:
    """A bare text that is no name but a setting of one member."""

    mark: str
    """What such a text holds, and no name does."""
    name: str
    """The member."""
    field: str
    """Its setting that the text is."""
    pattern: str
    """Regular expression of such texts, for the JSON Schema."""


class _BareName:
    """Adds what may be written in place of a mapping to the JSON Schema, so that editors offer the names."""

    def __init__(self, names: list[str], shorthand: Shorthand | None) -> None:
        self.texts: list[JsonSchemaValue] = [{"type": "string", "enum": names}]
        if shorthand is not None:
            self.texts.append({"type": "string", "pattern": shorthand.pattern})

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [*self.texts, handler(schema)]}


def one_of(kind: str, catalogue: Mapping[str, type[Settings]], shorthand: Shorthand | None = None) -> Any:
    """The type of a field that holds one member of a catalogue.

    It takes ``ks``, ``{name: ks, threshold: 0.01}`` or a member itself. An unknown name is answered with the known
    ones, the nearest first.

    Parameters
    ----------
    kind
        What a member is called in messages, for example ``drift method``.
    shorthand
        What else a bare text may be.
    """

    def with_name(value: Any) -> Any:
        if isinstance(value, str):
            short = shorthand if shorthand is not None and shorthand.mark in value else None
            value = {"name": value} if short is None else {"name": short.name, short.field: value}
        if isinstance(value, Mapping):
            name = value.get("name")
            if name is None:
                msg = f"give the {kind} a name; known are: {', '.join(catalogue)}"
                raise ValueError(msg)
            if not isinstance(name, str) or name not in catalogue:
                near = difflib.get_close_matches(str(name), catalogue, n=len(catalogue), cutoff=0.6)
                known = ", ".join([*near, *(other for other in catalogue if other not in near)])
                msg = f"there is no {kind} {name!r}; known are: {known}"
                raise ValueError(msg)
        return value

    members = tuple(catalogue.values())
    union: Any = Union[members]  # noqa: UP007 - members are only known at run time
    tagged = Annotated[union, Field(discriminator="name")] if len(members) > 1 else union
    bare = [
        name for name, member in catalogue.items() if not any(f.is_required() for f in member.model_fields.values())
    ]
    return Annotated[tagged, BeforeValidator(with_name), _BareName(bare, shorthand)]
