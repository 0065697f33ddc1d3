"""What the two tests of HDDM share: their confidences, and the cut that the newest observations are compared with."""

from typing import ClassVar, Self

import msgspec
from pydantic import Field, model_validator

from detectors.sequential.base import M, SequentialDetector


class Side(msgspec.Struct):
    """The cut of one side: the observation at which the mean, plus its bound, was at its lowest."""

    best: float = float("inf")
    """The lowest mean plus bound."""
    n: int = 0
    """Observations up to the cut."""
    mean: float = 0.0
    """Their mean, weighted where the test weights."""


class Hddm(SequentialDetector[M]):
    """A test whose bounds come from a confidence each for drift and for the warning zone."""

    binary: ClassVar[bool] = True

    drift_confidence: float = Field(0.001, gt=0, lt=1)
    warning_confidence: float = Field(0.005, gt=0, lt=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.warning_confidence < self.drift_confidence:
            msg = f"warningConfidence is {self.warning_confidence}: at least driftConfidence, which is {self.drift_confidence}"
            raise ValueError(msg)
        return self
