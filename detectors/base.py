"""The vocabulary of detectors: what they are given and what they answer."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from detectors.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectors.statistics.block import Block
    from detectors.statistics.column import ColumnSummary

ColumnType = Literal["numeric", "categorical"]
Direction = Literal["p-value", "distance"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer of a drift detector about one column of one window."""

    score: float
    """The p-value or the distance. NaN when there was nothing to compare."""
    threshold: float
    drifted: bool
    exact: bool = True
    """Whether the score was computed from every single value (else within the bound that the detector states)."""
    explanation: dict[str, float] = field(default_factory=dict)
    """What drove the score, largest first: bin or category -> its share of the difference."""


class DriftDetector(Settings):
    """Compares one column of a window with the reference; pure, so that any worker may call it.

    A detector is a frozen document of its settings (so it *is* its own section of a ModelMonitor). A subclass has
    ``name: Literal["its_name"] = "its_name"`` and ``threshold: float = …`` as fields, and the class variables here.
    """

    direction: ClassVar[Direction]
    """``p-value``: small means drift. ``distance``: large means drift."""
    applies_to: ClassVar[frozenset[ColumnType]]

    name: str
    threshold: float

    def compare(self, reference: "ColumnSummary", window: "ColumnSummary") -> Verdict:
        """Score one column of a window against the same column of the reference.

        Never raises on data: where the method is not defined (an empty window, a constant column) the docstring of
        the detector says what comes out.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Flagged:
    """The instances of a batch that one outlier detector flagged, and the cells that explain each of them.

    ``k`` flagged rows, ``m >= k`` cells; the arrays of each group are parallel.
    """

    rows: NDArray[np.int64]
    """(k,) index of the instance in the block, ascending, each once."""
    scores: NDArray[np.float64]
    """(k,) how far out the instance is, in the detector's own unit; larger is worse."""
    threshold: float
    """The score from which on the detector flags, same unit."""
    cell_rows: NDArray[np.int64]
    """(m,) position in `rows` of the instance that the cell belongs to, ascending."""
    cell_columns: NDArray[np.int64]
    """(m,) column of the cell: the block's numeric columns first, then its categorical ones."""
    low: NDArray[np.float64]
    """(m,) lower end of the violated range in the feature's unit; NaN where there is none."""
    high: NDArray[np.float64]
    """(m,) upper end of the violated range in the feature's unit; NaN where there is none."""
    contributions: NDArray[np.float64]
    """(m,) the cell's part of the score; the parts of one row add up to its score."""

    @classmethod
    def nothing(cls, threshold: float) -> "Flagged":
        """No instance is flagged."""
        whole, real = np.empty(0, np.int64), np.empty(0)
        return cls(whole, real, threshold, whole, whole, real, real, real)


class FittedOutlierDetector(Protocol):
    """An outlier detector with its limits in arrays, ready to score whole batches; pure and picklable."""

    name: str

    def flag(self, block: "Block") -> Flagged:
        """Flag the offending instances of a batch. Never raises on data."""
        ...


class OutlierDetector(Settings):
    """The settings of one outlier detector; `fit` turns them and the reference into limits.

    A subclass has ``name: Literal["its_name"] = "its_name"`` and its parameters as fields, each with its unit.
    """

    name: str

    def fit(self, columns: "Sequence[FittingColumn]") -> FittedOutlierDetector:
        """Limits for these columns (the block's numeric columns first, then its categorical ones)."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class FittingColumn:
    """What an outlier detector may know of one column when it is fitted."""

    reference: "ColumnSummary"
    low: float | None = None
    """The smallest allowed value, as the ModelMonitor declares it."""
    high: float | None = None
    """The largest allowed value, as the ModelMonitor declares it."""
    categories: frozenset[str] | None = None
    """The allowed categories, as the ModelMonitor declares them."""
