"""A catalogue of detectors as a field of a ModelMonitor: a bare name, or the name with its settings."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from detectors.settings import Settings


class _BareName:
    """Adds the shorthand to the JSON Schema, so that editors offer the names."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "enum": self.names}, handler(schema)]}


def one_of(kind: str, catalogue: Mapping[str, type[Settings]]) -> Any:
    """The type of a field that holds one member of a catalogue.

    It takes ``ks``, ``{name: ks, threshold: 0.01}`` or a member itself. An unknown name is answered with the known
    ones, the nearest first.

    Parameters
    ----------
    kind
        What a member is called in messages, for example ``drift method``.
    """

    def with_name(value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
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
    return Annotated[tagged, BeforeValidator(with_name), _BareName(list(catalogue))]
