"""What is kept on disk while Kafka is away."""

from datetime import timedelta
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from detectors.settings import Duration, Settings, format_duration
from streaming.document import misplaced


class Spool(Settings):
    """Where events wait that Kafka does not take in time; with it callers are answered while Kafka is away."""

    directory: Path
    """On a local disk, durable, and of this logger alone. Made when it does not exist."""
    max_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Of everything in it; events beyond that are refused, and counted."""
    patience: Duration = timedelta(milliseconds=200)
    """How long Kafka may take for an event before it is spooled, and with it all others until Kafka takes them again."""

    @model_validator(mode="after")
    def _has_patience(self) -> Self:
        if not timedelta(milliseconds=10) <= self.patience <= timedelta(seconds=60):
            raise misplaced(
                ["patience"], f"{format_duration(self.patience)} is not between 10ms and 1m: 200ms is a good one"
            )
        return self
