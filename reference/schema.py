"""The ``model`` section of a ModelMonitor: what a model is called, what it takes and what it answers."""

import re
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from detectors.base import ColumnType
from detectors.settings import Settings
from reference.category import shortened

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _dns_label(name: str) -> str:
    if not _DNS_LABEL.fullmatch(name):
        msg = f"{name!r} is not a DNS label: use at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
        raise ValueError(msg)
    return name


Name = Annotated[str, AfterValidator(_dns_label), Field(json_schema_extra={"pattern": _DNS_LABEL.pattern})]
"""A name that Kubernetes, Kafka and a file system all take."""


class Column(Settings):
    """One feature of a request, or one output of a response."""

    name: str = Field(min_length=1)
    """As in the training table and in named instances."""
    type: ColumnType
    """`numeric`, or `categorical` (strings, booleans, codes)."""
    min: float | None = None
    """Smallest allowed value, in the feature's own unit; numeric only."""
    max: float | None = None
    """Largest allowed value, in the feature's own unit; numeric only."""
    categories: tuple[Annotated[str, AfterValidator(shortened)], ...] | None = None
    """The allowed categories; categorical only. Without it those of the reference are."""

    @model_validator(mode="after")
    def _bounds_fit_the_type(self) -> Self:
        if self.type == "categorical" and (self.min is not None or self.max is not None):
            msg = f"feature {self.name!r} is categorical, so it has no min or max: remove them or make it numeric"
            raise ValueError(msg)
        if self.type == "numeric" and self.categories is not None:
            msg = f"feature {self.name!r} is numeric, so it has no categories: remove them or make it categorical"
            raise ValueError(msg)
        if self.min is not None and self.max is not None and self.min > self.max:
            msg = f"feature {self.name!r} has min {self.min} above max {self.max}: swap them"
            raise ValueError(msg)
        return self


class Schema:
    """An ordered list of columns, split by type the way a `Block` holds them."""

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self.columns = columns
        self.names = tuple(column.name for column in columns)
        self.numeric = tuple(column for column in columns if column.type == "numeric")
        self.categorical = tuple(column for column in columns if column.type == "categorical")
        self.in_block_order = self.numeric + self.categorical

    def __len__(self) -> int:
        return len(self.columns)


class Model(Settings):
    """What a model is called, what it takes and what it answers."""

    name: Name | None = None
    """Default: the document's `metadata.name`."""
    version: str = "1"
    """Stands in every report; the model's own version, not the baseline's."""
    features: tuple[Column, ...] = Field(min_length=1)
    """In the order of unnamed instances."""
    predictions: tuple[Column, ...] = ()
    """In the order of unnamed predictions; empty: responses only move the clock, nothing of them is counted."""
    protocol: Literal["auto", "v1", "v2"] = "auto"
    """The bodies to accept: KServe V1 (`instances`), V2 / Open Inference Protocol (`inputs`), or either."""
    inference_service: str | None = None
    """The `inferenceservicename` that CloudEvents of this model carry. Default: `name`."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for section, columns in (("features", self.features), ("predictions", self.predictions)):
            names = [column.name for column in columns]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                msg = f"{section} names {twice} more than once: every column needs a name of its own"
                raise ValueError(msg)
        return self

    @cached_property
    def request_schema(self) -> Schema:
        """The features."""
        return Schema(self.features)

    @cached_property
    def response_schema(self) -> Schema:
        """The predictions."""
        return Schema(self.predictions)
