"""What the logger does with the events of one model: which are its own, how many are kept, what of them, who gets a copy."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from detectors.settings import Duration, Settings
from reference.schema import Column
from reference.secret import Secret
from streaming.document import misplaced


class Match(Settings):
    """Which events of the inference service are this model's, where more than one model is behind it."""

    component: str | None = Field(default=None, min_length=1)
    """`predictor`, `transformer` or `explainer`, as KServe's agent says it. Default: any."""
    endpoint: str | None = Field(default=None, min_length=1)
    """`default` or `canary`, as KServe's agent says it. Default: any."""


class Redaction(Settings):
    """One feature or prediction that does not leave the logger as it came."""

    feature: str = Field(min_length=1)
    """Name of the feature or prediction."""
    how: Literal["drop", "hash"] = "drop"
    """`drop` writes null; `hash` a keyed hash, the same for the same category, so that categories can still be counted."""
    key: Secret | None = None
    """Where the key of the hash is, 16 bytes at least; `hash` only."""

    @model_validator(mode="after")
    def _has_a_key_where_it_is_used(self) -> Self:
        if self.how == "hash" and self.key is None:
            raise misplaced(
                ["key"], "is missing: a hash without a key can be undone by trying; give env or file, or use `drop`"
            )
        if self.how == "drop" and self.key is not None:
            raise misplaced(["key"], "does nothing where the value is dropped: remove it, or use `hash`")
        return self


def misfits(rules: Sequence[Redaction], columns: Mapping[str, Column]) -> Iterator[tuple[int, str, str]]:
    """What of the rules does not fit the features and predictions: which rule, its key, and why."""
    for place, rule in enumerate(rules):
        column = columns.get(rule.feature)
        if column is None:
            known = ", ".join(columns)
            yield place, "feature", f"{rule.feature!r} is no feature or prediction of the model: known are: {known}"
        elif rule.feature in {other.feature for other in rules[:place]}:
            yield place, "feature", f"{rule.feature!r} is named twice: it is redacted in one way"
        elif rule.how == "hash" and column.type == "numeric":
            yield (
                place,
                "how",
                f"{rule.feature!r} is numeric, and a hash is no number: use `drop`, or make it categorical",
            )


class Mirror(Settings):
    """Another logger that gets a copy of every event; whether it takes it changes nothing here."""

    url: str
    """`http://` or `https://`; nothing else is ever called, and redirects are not followed."""
    queue: int = Field(default=1000, ge=1, le=100_000)
    """Events that may wait for it (and 64 MiB of them); what comes beyond is not copied, and counted."""
    timeout: Duration = timedelta(seconds=5)
    """How long it may take for one event. A failure is tried twice more."""

    @field_validator("url")
    @classmethod
    def _is_a_plain_url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            fine = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            parts, fine = None, False
        if parts is not None and "@" in parts.netloc:  # not shown: it may hold a password
            msg = "a URL with a user name or a password does not belong in a document: remove what stands before the @"
            raise ValueError(msg)
        if not fine:
            msg = f"{value!r} is no URL of a logger, as in 'http://other-logger.models.svc/'"
            raise ValueError(msg)
        return value

    @field_validator("timeout")
    @classmethod
    def _takes_some_time(cls, value: timedelta) -> timedelta:
        if value <= timedelta():
            msg = "0s is no time at all: it must be longer"
            raise ValueError(msg)
        return value
