"""What outlier detectors that learn a model share: columns made alike, a threshold that keeps its promise, parts that add up."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from detectors.base import ColumnType, FittingColumn, Flagged, LearnedOutlierDetector
from detectors.errors import NotApplicable
from detectors.statistics.block import Block

FAR = 1e6
"""A number that is further from the mean counts as so far, in standard deviations: no score overflows, or drowns in rounding."""
NOISE = 1e-6
"""A squared deviation below is no outlier, whatever the reference: a thousandth of a standard deviation."""
_FEWEST = 50
_CELLS = 2**17
"""Cells looked at together, so that what is made of them stays in the processor's cache (1 MB)."""
_BITS, _SMALL = 30, -20
"""Scores are rounded to so many binary digits, those below 2^-20 as if they were that large."""
_CLOSE = 2.0**_BITS * 1e-12
"""A quick score that is so close to the middle between two rounded ones, in their distance, may belong to either."""
_SURE = 1e-6
"""How much the quick score may differ from the exact one, relative to the threshold."""

Product = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""A matrix product: numpy's, or `in_order`."""


@dataclass(frozen=True)
class Scale:
    """Which numeric columns a model looks at, and what makes them alike."""

    used: NDArray[np.float64]
    """(numeric columns,) 1 where the column varied in the reference, else 0."""
    mean: NDArray[np.float64]
    """(used columns,)"""
    std: NDArray[np.float64]
    """(used columns,) positive."""

    @classmethod
    def of(cls, rows: NDArray[np.float64]) -> "Scale":
        """Of (n, numeric columns) numbers, those that are finite.

        A column whose standard deviation is below 1e-13 of its largest value differs by rounding alone, and counts as constant.
        """
        used, mean, std = np.zeros(rows.shape[1]), [], []
        for j, column in enumerate(rows.T):
            values = column[np.isfinite(column)]
            largest = np.abs(values).max(initial=0.0)
            if largest == 0:
                continue
            # In units of the largest value no square is too large for a float.
            values = values / largest
            spread = float(values.std())
            if spread > 1e-13 and spread * largest > 1e-300:
                used[j] = 1
                mean.append(float(values.mean()) * largest)
                std.append(spread * largest)
        return cls(used, np.array(mean), np.array(std))

    def standardised(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, used columns) distances to the mean in standard deviations, at most `FAR`; NaN where a number is missing or not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            z = (rows[:, self.used > 0] - self.mean) / self.std
        return np.where(np.isfinite(rows[:, self.used > 0]), np.clip(z, -FAR, FAR), np.nan)


@dataclass(frozen=True)
class FittedModel(ABC):
    """An outlier model with its threshold, that scores whole batches.

    A subclass says how far out rows are twice: `quick` for all of them, in the fastest way, and `parts` for those that may be
    flagged, by operations that do not depend on which other rows are in the batch (a matrix product does: in its last bits). So
    the same row gets the same answer, however rows are ordered or cut into batches.
    """

    name: str
    threshold: float
    scale: Scale

    @abstractmethod
    def quick(self, z: NDArray[np.float64], there: NDArray[np.bool_] | None) -> NDArray[np.float64]:
        """(n,) scores, right to about 1e-12.

        Parameters
        ----------
        z
            (used columns, n) standardised numbers; `neutral` where there is none.
        there
            (used columns, n) False where there is none; None when all are there.
        """

    @abstractmethod
    def parts(self, z: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(n, used columns) contributions, at least 0 and 0 where nothing is there; those of a row add up to its score.

        Parameters
        ----------
        z, there
            (n, used columns) as for `quick`.
        """

    @property
    def neutral(self) -> NDArray[np.float64]:
        """(used columns,) what takes the place of a number that is not there, standardised: the mean."""
        return np.zeros(len(self.scale.mean))

    def score(self, block: Block) -> NDArray[np.float64]:
        """(rows,) scores, those below the threshold to nine digits; NaN where no number is there. Never raises on data.

        Equal rows have equal scores in any batch: those of the reference are marks of the ruler that scores are counted on, and an
        instance that is a bit below its mark would be counted elsewhere.
        """
        scores = np.empty(block.rows)
        for start, found, _, _ in self._scored(block, rounded=True):
            scores[start : start + len(found)] = found
        return scores

    def flag(self, block: Block) -> Flagged:
        """Flag the offending instances of a batch. Never raises on data."""
        rows, parts = [], []
        for start, _, flagged, contributions in self._scored(block):
            if len(flagged):
                rows.append(flagged + start)
                parts.append(contributions)
        if not rows:
            return Flagged.nothing(self.threshold)
        contributions = np.concatenate(parts)
        cell_rows, cell_columns = np.nonzero(contributions)
        nowhere = np.full(len(cell_rows), np.nan)
        return Flagged(
            np.concatenate(rows),
            contributions.sum(axis=1),
            self.threshold,
            cell_rows,
            np.flatnonzero(self.scale.used)[cell_columns],
            nowhere,
            nowhere,
            contributions[cell_rows, cell_columns],
        )

    def _scored(
        self, block: Block, *, rounded: bool = False
    ) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]]:
        """Piece by piece: its first row, its scores, which of its rows are flagged, and their contributions."""
        for start, z, holes in self._pieces(block.numeric):
            there = np.ones(z.shape, np.bool_) if holes is None else ~holes
            if holes is None:
                scores = self.quick(z, None)
            else:
                scores = np.empty(z.shape[1])
                some = holes.any(axis=0)
                scores[~some] = self.quick(z[:, ~some], None)
                scores[some] = self.quick(z[:, some], there[:, some])
                scores[holes.all(axis=0)] = np.nan
            unsure = scores >= self.threshold * (1 - _SURE)
            if rounded:
                unsure |= np.abs(_steps(scores)[0] % 1 - 0.5) < _CLOSE
            near = np.flatnonzero(unsure)
            contributions = self.parts(np.ascontiguousarray(z[:, near].T), there[:, near].T)
            scores[near] = contributions.sum(axis=1)
            out = scores[near] >= self.threshold
            if rounded:
                steps, power = _steps(scores)
                below = np.minimum(np.ldexp(np.rint(steps), power), np.nextafter(self.threshold, 0))
                scores = np.where(scores >= self.threshold, scores, below)
            yield start, scores, near[out], contributions[out]

    def _pieces(self, x: NDArray[np.float64]) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.bool_] | None]]:
        """A few rows at a time: the first, their standardised numbers by column, and where there are none."""
        used = self.scale.used > 0
        mean, shrink = self.scale.mean[:, None], 1 / self.scale.std[:, None]
        step = max(_CELLS // len(mean), 64)
        buffer = np.empty(len(mean) * min(step, len(x)))
        for start in range(0, len(x), step):
            part = x[start : start + step].T
            if not used.all():
                part = part[used]
            z = buffer[: part.size].reshape(part.shape)
            with np.errstate(over="ignore", invalid="ignore"):
                np.subtract(part, mean, out=z)
                np.multiply(z, shrink, out=z)
                # NaN is neither.
                tame = z.max() <= FAR and z.min() >= -FAR
            holes = None
            if not tame:
                holes = ~np.isfinite(part)
                np.clip(z, -FAR, FAR, out=z)
                if holes.any():
                    np.copyto(z, self.neutral[:, None], where=holes)
                else:
                    holes = None
            yield start, z, holes


def _steps(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Scores as multiples of 2 to a power, such that whole multiples are rounded scores."""
    power = np.maximum(np.frexp(scores)[1], _SMALL) - _BITS
    return np.ldexp(scores, -power), power


class ModelDetector(LearnedOutlierDetector):
    """Learns from one half of the rows, and takes its threshold from the other half.

    A subclass says what the model of standardised rows is, and how its arrays become a `FittedModel`.
    """

    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric"})

    def learnt(self, z: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The arrays of the model, the same for the same rows.

        Parameters
        ----------
        z
            (n, used columns) standardised numbers, shuffled; NaN where there is none.
        """
        raise NotImplementedError

    def knowing(self, scale: Scale, threshold: float, model: Mapping[str, NDArray[np.float64]]) -> FittedModel:
        """The detector with the arrays that `learnt` gave."""
        raise NotImplementedError

    @override
    def learn(self, rows: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        rows = rows[np.isfinite(rows).any(axis=1)]
        if len(rows) < _FEWEST:
            msg = f"{len(rows)} rows of the reference hold a number, and a model needs {_FEWEST} at least"
            raise NotApplicable(msg)
        half = len(rows) // 2
        scale = Scale.of(rows[:half])
        if not scale.used.any():
            msg = "there is no numeric column that varies in the reference"
            raise NotApplicable(msg)
        model = self.learnt(scale.standardised(rows[:half]))
        # A thousand rows beyond the threshold place it well enough.
        unseen = rows[half:][: math.ceil(1000 / self.false_alarm_rate)]
        scores = self.knowing(scale, math.inf, model).score(Block(unseen, np.isnan(unseen)))
        threshold = threshold_of(scores[~np.isnan(scores)], self.false_alarm_rate)
        threshold = max(threshold, NOISE * len(scale.mean))
        return {**model, "used": scale.used, "mean": scale.mean, "std": scale.std, "threshold": np.array([threshold])}

    @override
    def fitted(self, columns: Sequence[FittingColumn], model: Mapping[str, NDArray[np.float64]]) -> FittedModel:
        numeric = sum(column.reference.type == "numeric" for column in columns)
        if numeric != len(model["used"]):
            msg = f"{self.name!r} learnt from {len(model['used'])} numeric columns, and there are {numeric}: build the baseline anew"
            raise NotApplicable(msg)
        return self.knowing(Scale(model["used"], model["mean"], model["std"]), float(model["threshold"][0]), model)


def threshold_of(scores: NDArray[np.float64], false_alarm_rate: float) -> float:
    """The score from which on a row is flagged: just above the k-th smallest of n, ``k = ceil((n + 1)(1 - false alarm rate))``.

    The score of another row of the same distribution, which neither the model nor this function has seen, is as likely to take any place
    among those n. So it is flagged with a probability of at most ``(n + 1 - k) / (n + 1) <= false alarm rate``, whatever
    the distribution and the model. That is on average over references: with one reference the rate deviates from the
    nominal by about ``sqrt(rate / n)``. With fewer than ``1 / rate - 1`` scores k is beyond n; the largest score is taken
    then, and the rate is up to 1 / (n + 1).

    >>> threshold_of(np.arange(99.0), 0.1)
    89.00000000000001
    >>> threshold_of(np.arange(8.0), 0.1)
    7.000000000000001

    References
    ----------
    Papadopoulos, Proedrou, Vovk & Gammerman (2002), Inductive confidence machines for regression, ECML. Vovk, Gammerman & Shafer (2005),
    Algorithmic Learning in a Random World, section 4.1.
    """
    n = len(scores)
    if n == 0:
        msg = "no row that was held back has a number in a column that varies: the threshold would be a guess"
        raise NotApplicable(msg)
    # Less a little, so that 1000 times 0.999 is not rounded up to 1000.
    rank = min(math.ceil((n + 1) * (1 - false_alarm_rate) - 1e-9), n)
    return float(np.nextafter(np.partition(scores, rank - 1)[rank - 1], math.inf))


def in_order(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, m) matrix product of (n, k) and (k, m) whose every row depends on that row of a alone, to the last bit.

    BLAS adds up in an order that depends on how many rows there are and which one it is.
    """
    product = np.zeros((len(a), b.shape[1]))
    for j, row in enumerate(b):
        product += a[:, j, None] * row
    return product
