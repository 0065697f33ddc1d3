from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from detectors.base import ColumnType, FittingColumn, OutlierDetector
from detectors.limits import FittedLimits, Limits
from detectors.statistics.column import ColumnSummary


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
    nearly always out: at k = 3 one instance in 13 of 30 independent normal features. Nearest neighbours: `bounds`; `tukey` and `mad`,
    whose scale outliers in the reference hardly move.

    Examples
    --------
    >>> from detectors.statistics.block import Block
    >>> from detectors.statistics.column import ColumnSummary
    >>> age = FittingColumn(ColumnSummary("age", "numeric", 100, low=18.0, high=98.0, mean=40.0, m2=10_000.0))
    >>> block = Block(np.array([[30.0], [75.0]]), np.zeros((2, 1), bool))
    >>> flagged = KSigma(k=3).fit([age]).flag(block)
    >>> flagged.rows.tolist(), flagged.scores.tolist(), flagged.low.tolist(), flagged.high.tolist()
    ([1], [3.5], [10.0], [70.0])
    """

    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric"})
    unit: ClassVar[str] = "standard deviations of the reference"

    name: Literal["k_sigma"] = "k_sigma"
    k: float = Field(3.0, gt=0)

    @override
    def fit(self, columns: Sequence[FittingColumn]) -> FittedLimits:
        numeric = [column.reference for column in columns if column.reference.type == "numeric"]
        return FittedLimits.of(self.name, self.k, map(self._limits, numeric))

    def _limits(self, reference: ColumnSummary) -> Limits:
        mean, std = reference.mean, reference.std()
        if not (reference.low < reference.high and 0 < std < np.inf):
            return Limits()
        return Limits(mean - self.k * std, mean + self.k * std, mean, mean, std)
