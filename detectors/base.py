"""The vocabulary of detectors: what they are given and what they answer."""

import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from detectors.errors import NotApplicable
from detectors.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


@dataclass(frozen=True, slots=True)
class Score:
    """What a method makes of two columns, before anyone decides whether it is drift."""

    value: float
    """The p-value or the distance."""
    exact: bool = True
    """Whether every single value went into it (else it is within the bound that the detector states)."""
    explanation: dict[str, float] = field(default_factory=dict)
    """What drove it, largest first: bin or category -> its share."""


class DriftDetector(Settings):
    """Compares one column of a window with the reference; pure, so that any worker may call it.

    A detector is a frozen document of its settings (so it *is* its own section of a ModelMonitor). A subclass has
    ``name: Literal["its_name"] = "its_name"`` and ``threshold: float = …`` as fields, the class variables here, and
    `score`; everything that all methods share is here.
    """

    name: str
    threshold: float

    direction: ClassVar[Direction]
    """``p-value``: small means drift. ``distance``: large means drift."""
    strict: ClassVar[bool] = False
    """Whether a score that equals the threshold is not yet drift."""
    unit: ClassVar[str]
    """Of its score and its threshold."""
    applies_to: ClassVar[frozenset[ColumnType]]
    needs_values: ClassVar[bool] = False
    """Whether counts are not enough: without every value it wants those of a sample of rows (`ColumnSummary.sample`)."""

    @property
    def label(self) -> str:
        """What its answers are called in reports: the name, unless that says too little."""
        return self.name

    def compare(self, reference: "ColumnSummary", window: "ColumnSummary") -> Verdict:
        """Score one column of a window against the same column of the reference, and decide.

        Never raises on data. With an empty window or an empty reference there is nothing to compare: the score is NaN,
        and that is no drift. A window whose values all lie outside the range of the reference (or in none of its
        categories) is drift whatever the score: a distance over coarse bins, or a one-sided test, can be blind to it. For
        a p-value this needs samples so large that chance does it with a probability below the threshold.

        Raises
        ------
        NotApplicable
            When the method is not made for this type of column, which a ModelMonitor is checked for beforehand.
        """
        if reference.count == 0 or window.count == 0:
            return Verdict(math.nan, self.threshold, drifted=False)
        with np.errstate(over="ignore"):
            score = self.score(reference, window)
        value = min(score.value, sys.float_info.max)
        drifted = self.is_drift(value) or self._shifted_out(reference, window)
        return Verdict(value, self.threshold, drifted, score.exact, score.explanation)

    def is_drift(self, score: float) -> bool:
        """Whether a score is on the far side of the threshold."""
        beyond = score - self.threshold
        if self.direction == "p-value":
            beyond = -beyond
        return beyond > 0 or (beyond == 0 and not self.strict)

    def score(self, reference: "ColumnSummary", window: "ColumnSummary") -> Score:
        """The p-value or distance of two columns that both hold at least one value."""
        raise NotImplementedError

    def _shifted_out(self, reference: "ColumnSummary", window: "ColumnSummary") -> bool:
        if window.type == "categorical":
            if reference.counts is None or window.counts is None or reference.unlisted:
                return False
            return reference.counts.keys().isdisjoint(window.counts)
        if reference.low <= window.high and window.low <= reference.high:
            return False
        if self.direction == "distance":
            return True
        # Of all ways to deal the values out to the two samples, only two put them apart.
        n, m = reference.count, window.count
        ways = math.lgamma(n + m + 1) - math.lgamma(n + 1) - math.lgamma(m + 1)
        return math.log(2) - ways < math.log(self.threshold)


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

    @classmethod
    def cells(
        cls,
        threshold: float,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        contributions: NDArray[np.float64],
        low: NDArray[np.float64] | None = None,
        high: NDArray[np.float64] | None = None,
    ) -> "Flagged":
        """Every instance that has one of these cells; its score is the sum of their contributions.

        Parameters
        ----------
        rows
            (m,) index of each cell's instance in the block, in any order.
        """
        if len(rows) == 0:
            return cls.nothing(threshold)
        order = np.lexsort((columns, rows))
        flagged, cell_rows = np.unique(rows[order], return_inverse=True)
        contributions = contributions[order]
        nowhere = np.full(len(rows), np.nan)
        return cls(
            flagged.astype(np.int64),
            np.bincount(cell_rows, weights=contributions).astype(np.float64),
            threshold,
            cell_rows.astype(np.int64),
            columns[order].astype(np.int64),
            nowhere if low is None else low[order],
            nowhere if high is None else high[order],
            contributions,
        )


class FittedOutlierDetector(Protocol):
    """An outlier detector with its limits in arrays, ready to score whole batches; pure and picklable."""

    @property
    def name(self) -> str:
        """The detector's name in the catalogue."""
        ...

    def flag(self, block: "Block") -> Flagged:
        """Flag the offending instances of a batch. Never raises on data."""
        ...


class OutlierDetector(Settings):
    """The settings of one outlier detector; `fit` turns them and the reference into limits.

    A subclass has ``name: Literal["its_name"] = "its_name"`` and its parameters as fields, each with its unit, and the class
    variables here.
    """

    applies_to: ClassVar[frozenset[ColumnType]]
    unit: ClassVar[str]
    """Of the scores: `Flagged.scores` and `Flagged.threshold`."""

    name: str

    def fit(self, columns: "Sequence[FittingColumn]") -> FittedOutlierDetector:
        """Limits for these columns (the block's numeric columns first, then its categorical ones)."""
        raise NotImplementedError


class FittedScore(FittedOutlierDetector, Protocol):
    """A fitted outlier model: it has a score for every instance, flagged or not."""

    def score(self, block: "Block") -> NDArray[np.float64]:
        """(rows,) how far out each instance is, in the unit of `Flagged.scores`; NaN where there is nothing to judge. Never raises on data."""
        ...


class LearnedOutlierDetector(OutlierDetector):
    """An outlier detector with a model that is learnt from the reference's rows when the baseline is built.

    It looks at the numeric columns together. The model is a handful of named arrays, which the baseline keeps; nothing of it is
    code, so reading one from disk can run none.
    """

    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric"})

    false_alarm_rate: float = Field(0.001, gt=0, lt=1)
    """Share of clean instances that it flags: the threshold is that quantile of the scores of reference rows that the model has not seen."""

    @property
    def key(self) -> str:
        """Names the model in a baseline: detectors with other settings learn another one."""
        return self.model_dump_json()

    def learn(self, rows: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The model of these rows, as plain arrays; the same rows give the same arrays.

        Parameters
        ----------
        rows
            (n, numeric columns) of the reference in the block's order, shuffled; NaN where missing or not finite.
        """
        raise NotImplementedError

    def fitted(self, columns: "Sequence[FittingColumn]", model: "Mapping[str, NDArray[np.float64]]") -> FittedScore:
        """The detector with the arrays that `learn` gave."""
        raise NotImplementedError

    @override
    def fit(self, columns: "Sequence[FittingColumn]") -> FittedOutlierDetector:
        msg = f"{self.name!r} needs the model that is learnt when a baseline is built: build the baseline anew"
        raise NotApplicable(msg)


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
