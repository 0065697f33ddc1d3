"""With what the performance of an edition's windows is measured: settings, plan and reference, which outlive their edition."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.performance.estimate import ReferencePerformance
from detectors.performance.plan import PerformancePlan
from detectors.performance.settings import Performance
from detectors.statistics.block import Block, Codes
from reference.category import category

Floats = NDArray[np.float64]


class _Packed(msgspec.Struct, array_like=True):
    """A `Yardstick` as MessagePack takes it. Its version is the first field."""

    version: int
    settings: str
    plan: bytes
    reference: bytes | None
    unestimated: str | None
    baseline: str
    model_version: str
    duration: int
    pane: int
    every: int | None


_decode = msgspec.msgpack.Decoder(_Packed).decode


@dataclass(frozen=True)
class Yardstick:
    """All that is needed to measure and to report the performance of windows once their edition is gone.

    Predictions and labels wait for each other for days, and meanwhile a new baseline may know other classes. So they travel and wait
    as numbers that mean the same under every edition: a class as a hash of its text (44 bits, as `PerformancePlan` has for classes that
    it does not know), from which `told` and `labelled` make the index that a plan wants.
    """

    settings: Performance
    plan: PerformancePlan
    reference: ReferencePerformance | None
    """How well the model did on the training table."""
    unestimated: str | None
    """Why there is no such reference."""
    baseline: str
    """Version."""
    model_version: str
    duration: int
    """Length of a window, ms."""
    pane: int
    """Length of a pane, ms."""
    every: int | None
    """Instances of a counted window."""

    @cached_property
    def layout(self) -> bytes:
        """8 bytes that differ when predictions are other columns; only those of one layout can wait together."""
        what = (self.plan.task, self.plan.prediction, self.plan.columns)
        return hashlib.blake2b(repr(what).encode(errors="backslashreplace"), digest_size=8).digest()

    @property
    def width(self) -> int:
        """Numbers of a prediction."""
        return 1 + len(self.plan.columns)

    @cached_property
    def _neutral(self) -> PerformancePlan:
        """It knows no class: each is a hash."""
        return PerformancePlan(self.plan.task, self.plan.prediction, self.plan.columns)

    def predictions(self, block: Block, numeric: Sequence[str], categorical: Sequence[str]) -> Floats:
        """(rows, width) the predictions of a block of responses, as they wait.

        Parameters
        ----------
        numeric, categorical
            Names of the block's columns.
        """
        # With a threshold the class is made of the probability, whenever it is asked for.
        plan = self._neutral if self.plan.threshold is None else self.plan
        return plan.encode(block, numeric, categorical)

    def labels(self, values: Sequence[Any]) -> Floats:
        """(n,) labels as they were read from JSON, as they wait."""
        return self._neutral.labels(values, category)

    def told(self, predictions: Floats) -> Floats:
        """(n, width) predictions that waited, as the plan wants them."""
        if self.plan.task == "regression":
            return predictions
        first = predictions[:, 0] if self.plan.threshold is not None else self._indices(predictions[:, 0])
        return self.plan.rows(first, predictions[:, 1:])

    def labelled(self, labels: Floats) -> Floats:
        """(n,) labels that waited, as the plan wants them."""
        return labels if self.plan.task == "regression" else self._indices(labels)

    @cached_property
    def _hashes(self) -> tuple[Floats, NDArray[np.int64]]:
        """Hashes of the plan's classes, ascending, and which is whose."""
        k = len(self.plan.classes)
        hashes = self._neutral.indices(Codes(np.arange(k, dtype=np.int32), self.plan.classes))
        order = np.argsort(hashes)
        return hashes[order], order

    def _indices(self, hashes: Floats) -> Floats:
        """The indices of classes; one that is not the plan's keeps its hash, where the plan tells such classes apart."""
        known, order = self._hashes
        others = len(self.plan.classes) + (
            hashes if self.plan.threshold is None else np.where(np.isnan(hashes), hashes, 0.0)
        )
        if not len(known):
            return others
        at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        return np.where(known[at] == hashes, order[at], others)

    def to_bytes(self) -> bytes:
        """As state keeps it."""
        return msgspec.msgpack.encode(
            _Packed(
                1,
                self.settings.model_dump_json(by_alias=True),
                self.plan.to_bytes(),
                None if self.reference is None else self.reference.to_bytes(),
                self.unestimated,
                self.baseline,
                self.model_version,
                self.duration,
                self.pane,
                self.every,
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Yardstick":
        """What `to_bytes` gave."""
        read = _decode(data)
        reference = None if read.reference is None else ReferencePerformance.from_bytes(read.reference)
        return cls(
            Performance.model_validate_json(read.settings),
            PerformancePlan.from_bytes(read.plan) if reference is None else reference.plan,
            reference,
            read.unestimated,
            read.baseline,
            read.model_version,
            read.duration,
            read.pane,
            read.every,
        )


def plan_of(
    settings: Performance, predictions: Sequence[tuple[str, Any]], classes: Sequence[str], data: bytes | None
) -> tuple[PerformancePlan, ReferencePerformance | None, str | None]:
    """The plan, the reference's performance where it is of use, and else why not.

    Parameters
    ----------
    predictions
        Name and type of each prediction of the model.
    classes
        Those that are known without labels, the most frequent first.
    data
        What the baseline says of performance.
    """
    if data is not None:
        reference = ReferencePerformance.from_bytes(data)
        if reference.plan.made_by(settings, predictions):
            return reference.plan, reference, None
        why = "the baseline was built with other settings of performance: build it anew"
    elif settings.label is None:
        why = "performance.label names no column of the training table with the truth"
    else:
        why = "the baseline has no performance: build it from a table with labels and predictions"
    return PerformancePlan.of(settings, predictions, classes), None, why
