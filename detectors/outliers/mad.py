from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from detectors.base import ColumnType, FittingColumn, OutlierDetector
from detectors.limits import FittedLimits, Limits, median_deviation, quantiles
from detectors.statistics.column import ColumnSummary

_NORMAL = 0.6745
"""Median absolute deviation of the normal distribution, in standard deviations, as rounded in the paper."""


class MedianAbsoluteDeviation(OutlierDetector):
    """Flags an instance in which a number has a large modified z-score.

    The modified z-score is ``0.6745 |x - median| / MAD``, where ``MAD = median |x - median|``, both of the reference: for a normal
    distribution the distance to its centre in standard deviations, but outliers in the reference hardly move it. Contribution of a
    cell: its modified z-score, when it is above the threshold. The score of an instance is the sum over such cells.

    Median and MAD are exact while the baseline keeps every value of the column. From ruler counts the values of a bin count as evenly
    spread in it: the share of the reference below the median, and within one MAD of it, is one half to within the mass of one, and
    of three bins (about 1/1024 each). Seen: the MAD off by less than 0.3 %, of a rounded feature by less than
    one step.

    Where more than half of the values are equal the MAD is zero; 0.6745 standard deviations, what it is for a normal distribution, then
    take its place, so that the score is a plain z-score around the median. Columns that are constant in the reference are not
    judged (`bounds` does). Missing and non-finite values are not looked at here: `missing` and `nonfinite` do that.

    Parameters
    ----------
    threshold
        Modified z-score above which a value is flagged; about a number of standard deviations. The authors recommend 3.5.

    Notes
    -----
    False alarms on a normal feature: 0.047 % of its clean values at 3.5; of instances with 30 independent normal features 1.4 %. Misleads
    on skewed and heavy-tailed features: of exponential values 4.1 % are beyond 3.5, since the scale comes from the bulk alone.
    Nearest neighbours: `k_sigma`, the same with mean and standard deviation, which outliers in the reference do move; `tukey`, whose
    two sides need not be alike.

    Examples
    --------
    >>> from detectors.statistics.block import Block
    >>> from detectors.statistics.column import ColumnSummary
    >>> wait = FittingColumn(ColumnSummary("wait", "numeric", 101, low=0.0, high=100.0, values=np.arange(101.0)))
    >>> block = Block(np.array([[150.0], [200.0]]), np.zeros((2, 1), bool))
    >>> flagged = MedianAbsoluteDeviation().fit([wait]).flag(block)
    >>> flagged.rows.tolist(), flagged.scores.tolist(), [round(high, 1) for high in flagged.high.tolist()]
    ([1], [4.047], [179.7])

    References
    ----------
    Iglewicz & Hoaglin (1993), How to Detect and Handle Outliers, ASQC Basic References in Quality Control 16.
    """

    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric"})
    unit: ClassVar[str] = "modified z-scores"

    name: Literal["mad"] = "mad"
    threshold: float = Field(3.5, gt=0)

    @override
    def fit(self, columns: Sequence[FittingColumn]) -> FittedLimits:
        numeric = [column.reference for column in columns if column.reference.type == "numeric"]
        return FittedLimits.of(self.name, self.threshold, map(self._limits, numeric))

    def _limits(self, reference: ColumnSummary) -> Limits:
        if reference.count == 0 or reference.low == reference.high:
            return Limits()
        median = float(quantiles(reference, np.array([0.5]))[0])
        unit = median_deviation(reference, median) / _NORMAL
        if unit == 0:
            unit = reference.std()
        if not 0 < unit < np.inf:
            return Limits()
        return Limits(median - self.threshold * unit, median + self.threshold * unit, median, median, unit)
