"""The ``segments`` section of a ModelMonitor: by which values rows are told apart, and what the parts are called."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from detectors.settings import Settings
from detectors.statistics.block import Codes
from detectors.statistics.column import ColumnSummary
from reference.category import is_unicode, shortened
from reference.schema import Model

OTHER = "(other)"
"""In a segment's name: every value without a segment of its own, and none."""


class FeatureOrHeader(Settings):
    """Where a text is found that every request brings."""

    feature: str | None = Field(default=None, min_length=1)
    """A categorical feature."""
    header: str | None = Field(default=None, min_length=1)
    """A Kafka header, for instance `ce_source`."""
    member: str | None = Field(default=None, min_length=1)
    """The header holds a JSON object, and this member of it is meant: `header: ce_metadata`, `member: x-country` for a request header
    that KServe's logger was told to pass on."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.feature is None) == (self.header is None) or (self.member is not None and self.header is None):
            msg = "give either `feature`, or `header` (with `member` when the header holds a JSON object)"
            raise ValueError(msg)
        return self


def _value(text: str) -> str:
    if not is_unicode(text):
        msg = f"{text!r} is not Unicode: no message can hold it"
        raise ValueError(msg)
    return shortened(text)


class By(FeatureOrHeader):
    """What the rows are told apart by. The bare text `carrier` is short for `{feature: carrier}`."""

    values: tuple[Annotated[str, AfterValidator(_value)], ...] | None = Field(default=None, min_length=1)
    """The values that have a segment of their own. Default: the most frequent ones of the reference. Those of a header must be given."""

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, said: Any) -> Any:
        return {"feature": said} if isinstance(said, str) else said

    @model_serializer(mode="wrap")
    def _as_text(self, full: SerializerFunctionWrapHandler) -> Any:
        return self.feature if self.header is None and self.values is None else full(self)

    @model_validator(mode="after")
    def _values_can_be_known(self) -> Self:
        if self.header is not None and self.values is None:
            msg = (
                f"a baseline knows nothing of headers, so the values of {self.label!r} must be listed: "
                "add for example `values: [de, fr]`"
            )
            raise ValueError(msg)
        values = self.values or ()
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            msg = f"values lists {twice} more than once: name each value once"
            raise ValueError(msg)
        return self

    @property
    def label(self) -> str:
        """What stands before the value in a segment's name: the feature, the member or the header."""
        label = self.feature or self.member or self.header
        assert label is not None  # one of them is given
        return label


class _OrText:
    """Adds the short form to the JSON Schema."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


class Segments(Settings):
    """The same reports for each value of some features or headers.

    The segments of one entry divide the rows: each row is in one of them. Their number is known beforehand, whatever clients send.
    """

    by: tuple[Annotated[By, _OrText()], ...] = ()
    """Features by name, or with values: `[carrier, {feature: origin, values: [JFK, LGA]}]`; headers with their values:
    `{header: ce_metadata, member: x-country, values: [de, fr]}`. Each is looked at by itself, not in combination."""
    most: int = Field(default=20, ge=1, le=1000)
    """So many segments of one entry at most; further values share one called `(other)`, which has the rows without a value, too."""

    @model_validator(mode="after")
    def _segments_have_names_of_their_own(self) -> Self:
        labels = [escaped(by.label) for by in self.by]
        for place, by in enumerate(self.by):
            if labels[place] in labels[:place]:
                msg = f"by names {by.label!r} twice, and segments are told apart by that name: remove one of them"
                raise ValueError(msg)
            if by.values is not None and len(by.values) > self.most:
                msg = f"by lists {len(by.values)} values of {by.label!r}, and most is {self.most}: raise it, or list fewer"
                raise ValueError(msg)
        return self

    def misfits(self, model: Model) -> list[tuple[int, str]]:
        """What does not fit a model, in words, with the place in `by`."""
        known = {column.name: column.type for column in model.features}
        able = ", ".join(name for name, kind in known.items() if kind == "categorical") or "none"
        found = []
        for place, by in enumerate(self.by):
            if by.feature is None or known.get(by.feature) == "categorical":
                continue
            if by.feature in known:
                text = f"{by.feature!r} is numeric, and only a categorical feature has values to make segments of: those are: {able}"
            else:
                text = f"{by.feature!r} is no feature of the model: its categorical ones are: {able}"
            found.append((place, text))
        return found

    def divisions(self, known: Mapping[str, ColumnSummary]) -> tuple["Division", ...]:
        """The entries with their values settled, in the order of `by`.

        Parameters
        ----------
        known
            The features of the baseline. Of equally frequent values those that come first as text are taken.
        """
        return tuple(Division(by, self._values(by, known)) for by in self.by)

    def _values(self, by: By, known: Mapping[str, ColumnSummary]) -> tuple[str, ...]:
        if by.values is not None:
            return by.values
        column = known.get(by.feature or "")
        if column is None or column.type != "categorical":
            return ()
        counts = sorted((column.counts or {}).items(), key=lambda item: (-item[1], str(item[0])))
        return tuple(str(value) for value, _ in counts[: self.most])


@dataclass(frozen=True)
class Division:
    """One entry with its values settled: it puts every row into one segment."""

    by: By
    values: tuple[str, ...]
    """Those with a segment of their own."""
    names: tuple[str, ...] = field(init=False)
    """Of all segments of this entry; the last is that of all other rows."""
    _place: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = {value: name_of(self.by.label, value) for value in self.values}
        names = (*dict.fromkeys(named.values()), f"{escaped(self.by.label)}={OTHER}")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "_place", {value: names.index(name) for value, name in named.items()})

    @property
    def rest(self) -> str:
        """Name of the segment of all rows that are in no other one."""
        return self.names[-1]

    def places(self, column: Codes | None, rows: int) -> NDArray[np.int32]:
        """(rows,) the place in `names` of each row's segment.

        Parameters
        ----------
        column
            What the rows say; None when none of them says anything.
        """
        rest = len(self.names) - 1
        if column is None:
            return np.full(rows, rest, np.int32)
        # Nothing of it is kept: a batch has a vocabulary of its own, and twenty categories take three microseconds.
        lookup = np.array([*(self._place.get(value, rest) for value in column.values), rest], np.int32)
        return lookup[column.codes]  # a missing value has code -1: the last


_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f%/\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, what turns the direction of text, half characters; "/", which joins the parts of a record's id; "%"."""


def name_of(label: str, value: str) -> str:
    """The name of a segment: of at most 401 characters, none of which is hard to handle; other values have other names.

    >>> name_of("carrier", "AA")
    'carrier=AA'
    >>> name_of("route", "JFK/LAX")
    'route=JFK%2FLAX'
    >>> name_of("carrier", "(other)")
    'carrier=%28other)'
    """
    text = escaped(value)
    return f"{escaped(label)}={text if text != OTHER else OTHER.replace('(', '%28')}"


def escaped(text: str) -> str:
    """The text with unsafe characters as %XX of their UTF-8, and shortened as a category is; at most 200 characters."""
    safe = _UNSAFE.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass")), text
    )
    return shortened(safe)
