from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from detectors.base import FittingColumn, Flagged, OutlierDetector
from detectors.statistics.block import Block

_WORST = 1e300


class KSigma(OutlierDetector):
    """Flags an instance in which a number is more than k standard deviations away from the mean of the reference.

    Contribution of a cell: ``|x - mean| / std``, in (population) standard deviations of the reference, when it is above k. The score of
    an instance is the sum over such cells; the threshold is k.

    Columns that are constant in the reference have no scale and are not judged (`bounds` does). Missing and non-finite values are not
    looked at here: `missing` and `nonfinite` do that.

    Parameters
    ----------
    k
        Half-width of the allowed range, in standard deviations of the reference.

    Notes
    -----
    Misleads on skewed and heavy-tailed features, where far more than the normal distribution's 0.27 % lie beyond 3 sigma, and when the
    reference has outliers itself, which widen its standard deviation until they hide one another. With many features some cell is
    nearly always out: at k = 3 one instance in 13 of 30 independent normal features. Nearest neighbours: `bounds`; Tukey fences and
    the median absolute deviation, which outliers in the reference hardly move.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> age = FittingColumn(ColumnSummary("age", "numeric", 100, low=18.0, high=98.0, mean=40.0, m2=10_000.0))
    >>> block = Block(np.array([[30.0], [75.0]]), np.zeros((2, 1), bool))
    >>> flagged = KSigma(k=3).fit([age]).flag(block)
    >>> flagged.rows.tolist(), flagged.scores.tolist(), flagged.low.tolist(), flagged.high.tolist()
    ([1], [3.5], [10.0], [70.0])
    """

    name: Literal["k_sigma"] = "k_sigma"
    k: float = Field(3.0, gt=0)

    @override
    def fit(self, columns: Sequence[FittingColumn]) -> "FittedKSigma":
        references = [column.reference for column in columns if column.reference.type == "numeric"]
        mean = np.array([reference.mean for reference in references], np.float64)
        std = np.array([reference.std() for reference in references], np.float64)
        varies = np.array([reference.low < reference.high for reference in references], np.bool_) & (std > 0)
        varies &= np.isfinite(std)
        return FittedKSigma(np.where(varies, mean, 0.0), np.where(varies, std, np.inf), self.k)


@dataclass(frozen=True)
class FittedKSigma:
    """Mean and standard deviation of each numeric column; the latter infinite where the column is not judged."""

    mean: NDArray[np.float64]
    """(numeric columns,)"""
    std: NDArray[np.float64]
    """(numeric columns,) positive."""
    k: float
    name: str = "k_sigma"

    def flag(self, block: Block) -> Flagged:
        """Instances with a finite number too far from the mean."""
        x = block.numeric
        low, high = self.mean - self.k * self.std, self.mean + self.k * self.std
        outside = x < low
        outside |= x > high
        if not outside.any():
            return Flagged.nothing(self.k)
        rows, columns = np.nonzero(outside & np.isfinite(x))
        with np.errstate(over="ignore"):
            far = np.abs(x[rows, columns] - self.mean[columns]) / self.std[columns]
        return Flagged.cells(self.k, rows, columns, np.minimum(far, _WORST), low[columns], high[columns])
