"""The vocabulary of multivariate drift: the numeric columns of a table, looked at together.

Every score here is a distance: an estimate of how large the change is, in the detector's own unit, that does not grow with the
window. Two things must be true for it to be drift. It must be large enough to matter (`threshold`), which keeps huge windows from
alarming at trifles, as a p-value would. And it must be larger than chance makes it in a clean window of this size (`false_alarm_rate`),
which keeps small windows from alarming at noise. The `Verdict` carries the larger of these two limits.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from detectors.base import Direction, Verdict
from detectors.errors import NotApplicable
from detectors.frequencies import largest
from detectors.settings import Settings
from detectors.statistics.block import Block
from detectors.statistics.comoments import CoMoments
from detectors.statistics.embedding import Embedding, EmbeddingSum, Scales
from detectors.statistics.sample import RowSample

FEWEST = 10
"""A window with fewer complete rows is not judged."""
_FEWEST_TO_LEARN = 50
_APART = 10.0
_ROUNDING = 1e-13
_FARTHEST = 1e30


@dataclass(frozen=True, slots=True)
class Joint:
    """What is known of the numeric columns of a reference or of a window together.

    Only complete rows count: those in which every numeric column is finite.
    """

    columns: tuple[str, ...]
    comoments: CoMoments
    sample: RowSample | None = None
    """Some of the rows, incomplete ones among them; None when no sample was kept."""
    embedded: EmbeddingSum | None = None
    """Of a window: sum of the features of all complete rows; None when the detector has no embedding."""

    @classmethod
    def of(
        cls, columns: tuple[str, ...], rows: NDArray[np.float64], embedding: Embedding | None = None, size: int = 10_000
    ) -> "Joint":
        """Of (n, columns) numbers at once; NaN or infinite where a row is not complete.

        Parameters
        ----------
        size
            Rows of the sample, at most.
        """
        complete = rows[np.isfinite(rows).all(axis=1)]
        return cls(
            columns,
            CoMoments.of(complete),
            RowSample.of(Block(rows, np.isnan(rows)), size),
            None if embedding is None else EmbeddingSum.of(embedding, complete),
        )

    def complete(self) -> NDArray[np.float64]:
        """(k, columns) the complete rows of the sample, in its order."""
        if self.sample is None:
            return np.empty((0, len(self.columns)))
        rows = self.sample.numeric
        return rows[np.isfinite(rows).all(axis=1)]


@dataclass(frozen=True, eq=False)
class Known:
    """What every method knows of the reference."""

    columns: tuple[str, ...]
    comoments: CoMoments
    scales: Scales
    rows: int
    """How many complete rows the sample has."""

    @property
    def names(self) -> list[str]:
        """Of the columns that are not left out."""
        return [self.columns[j] for j in self.scales.columns]

    def apart(self, window: CoMoments) -> NDArray[np.float64]:
        """(columns,) how far each mean has moved, as a multiple of what puts nearly all rows out of reach of the reference's.

        That is ten standard deviations of both sides together: at 1, at most one row in a hundred of either side lies beyond a
        point between the means (Cantelli's inequality), whatever the distributions. Columns that never vary in the reference
        are looked at, too.
        """
        reference = self.comoments
        if reference.n == 0:
            return np.zeros(len(self.columns))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            far = np.abs(window.mean - reference.mean)
            reach = np.sqrt(np.diag(reference.c) / reference.n) + np.sqrt(np.diag(window.c) / window.n)
            reach += _ROUNDING * np.maximum(np.abs(reference.mean), np.abs(window.mean))
            ratio = np.where(far > 0, far / (_APART * reach), 0.0)
        apart: NDArray[np.float64] = np.minimum(np.nan_to_num(ratio), _FARTHEST)
        return apart


@dataclass(frozen=True, slots=True)
class Measured:
    """What a method makes of one window, before anyone decides whether it is drift."""

    distance: float
    chance: float
    """The distance that a clean window of this size exceeds with a probability of `false_alarm_rate`."""
    parts: NDArray[np.float64]
    """(columns that are not left out,) what each column has to do with it: not negative, in any unit."""
    exact: bool = True
    """Whether every complete row went into it (else it is within the bound that the detector states)."""


class MultivariateDetector(Settings):
    """The settings of one multivariate drift detector; `learn` makes it know the reference.

    A subclass has ``name: Literal["its_name"] = "its_name"`` and ``threshold: float = …`` as fields, and `learn`.
    """

    direction: ClassVar[Direction] = "distance"
    strict: ClassVar[bool] = False
    quick: ClassVar[bool] = True
    """Whether a verdict takes milliseconds, so that windows that are still open get one, too."""
    needs_sample: ClassVar[bool] = False
    """Whether it wants a sample of the window's rows; one of the reference's rows all of them want."""

    name: str
    threshold: float
    false_alarm_rate: float = Field(0.001, gt=0, lt=0.5)
    """Share of clean windows that it takes for drift at most: a distance that chance reaches more often is none, whatever the threshold."""

    def embedding(self, reference: Joint) -> Embedding | None:  # noqa: ARG002 - one needs none
        """The features that the window must sum up for this detector; None when it needs none.

        Raises
        ------
        NotApplicable
            As `learn`.
        """
        return None

    def learn(self, reference: Joint) -> "FittedMultivariate":
        """Everything that depends on the reference alone, computed once.

        Raises
        ------
        NotApplicable
            When the reference has too few complete rows or columns that vary, or no row sample.
        """
        raise NotImplementedError

    def known(self, reference: Joint, columns: int = 1) -> Known:
        """What every method learns from: the scales, and how many rows there are.

        Raises
        ------
        NotApplicable
            When fewer columns vary, or there are too few rows.
        """
        rows = reference.complete()
        if len(rows) < _FEWEST_TO_LEARN:
            found = "has no sample of rows" if reference.sample is None else f"has {len(rows)} in its sample"
            msg = f"{self.name!r} learns from at least {_FEWEST_TO_LEARN} complete rows, the reference {found}: build the baseline anew, from more rows"
            raise NotApplicable(msg)
        known = Known(reference.columns, reference.comoments, Scales.of(rows), len(rows))
        if len(known.names) < columns:
            found = ", ".join(known.names) or "none"
            msg = f"{self.name!r} needs {columns} or more numeric columns that vary in the reference; found: {found}"
            raise NotApplicable(msg)
        return known


@dataclass(frozen=True, eq=False)
class FittedMultivariate:
    """A multivariate detector that knows the reference; pure and picklable."""

    settings: MultivariateDetector
    known: Known

    @property
    def name(self) -> str:
        """The detector's name in the catalogue."""
        return self.settings.name

    def compare(self, window: Joint) -> Verdict:
        """Score the columns of a window together and decide; the explanation names columns. Never raises on data.

        With fewer than ten complete rows the score is NaN, and that is no drift. A window in which a column's mean has moved by
        more than ten standard deviations (of both sides together) is drift whatever the score: a method may look elsewhere, or leave the
        column out.
        """
        if window.comoments.n < FEWEST:
            return Verdict(math.nan, self.settings.threshold, drifted=False)
        apart = self.known.apart(window.comoments)
        shifted = bool((apart > 1).any())
        explanation = largest(np.where(apart > 1, apart, 0.0), self.known.columns.__getitem__)
        found = self.measure(window)
        if found is None:
            return Verdict(math.nan, self.settings.threshold, shifted, explanation=explanation)
        if not shifted:
            explanation = largest(found.parts, self.known.names.__getitem__)
        limit = max(self.settings.threshold, found.chance)
        return Verdict(found.distance, limit, shifted or found.distance >= limit, found.exact, explanation)

    def measure(self, window: Joint) -> Measured | None:
        """The distance of a window with enough complete rows; None when what the method needs of it is not there."""
        raise NotImplementedError
