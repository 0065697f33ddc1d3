"""The shape of every setting: frozen, camelCase in YAML, unknown keys are errors."""

import os
import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Settings(BaseModel):
    """Base of every section of a ModelMonitor and of every detector: settings only, never data."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        # Read from the source code, which takes a second for all settings together; workers describe nothing to anybody.
        use_attribute_docstrings="DRIFTLINE_IN_WORKER" not in os.environ,
        allow_inf_nan=False,
    )


def parse_duration(value: Any) -> timedelta:
    """Read ``"15s"``, ``"1h30m"``, ``"500ms"`` or a timedelta.

    Raises
    ------
    ValueError
        Anything else, a bare number among it: its unit would be a guess.
    """
    if isinstance(value, timedelta):
        return value
    text = str(value).strip()
    parts = _DURATION.findall(text)
    if not isinstance(value, str) or not parts or "".join(number + unit for number, unit in parts) != text:
        msg = f"{value!r} is not a duration: write a number and a unit (ms, s, m, h, d), for example '15s' or '1h30m'"
        raise ValueError(msg)
    return sum((timedelta(**{_UNITS[unit]: float(number)}) for number, unit in parts), timedelta())


def format_duration(value: timedelta) -> str:
    """The shortest spelling that `parse_duration` reads back: 90 s is ``"1m30s"``."""
    left = round(value.total_seconds() * 1000)
    text = ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        whole, left = divmod(left, size)
        text += f"{whole}{unit}" if whole else ""
    return text or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d))+$", "examples": ["15s", "1h30m"]}),
]
"""A span of time, written ``15s`` or ``1h30m``."""
