from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import override

from detectors.base import ColumnType, FittingColumn, OutlierDetector
from detectors.limits import FittedLimits, Limits, quantiles
from detectors.statistics.column import ColumnSummary


class Percentiles(OutlierDetector):
    """Flags an instance in which a number is below a low or above a high percentile of the reference.

    Contribution of a cell: ``1 + distance to the percentile / width``, dimensionless, where the width is that between the two percentiles
    (the standard deviation of the reference when they are equal, the feature's own unit when that is zero too). The score of an
    instance is the sum over its cells; the threshold is 1.

    The percentiles are numpy's while the baseline keeps every value of the column. From ruler counts they lie between the same two marks
    as the true ones, and the share of the reference beyond each is off by at most what the bin between those holds: a
    thousandth of the reference, near its ends at most as much as lies beyond the bin.

    Missing and non-finite values are not looked at here: `missing` and `nonfinite` do that.

    Parameters
    ----------
    low
        Percentile of the reference below which a value is flagged, in percent; at 0 those below its smallest value.
    high
        Percentile of the reference above which a value is flagged, in percent; at 100 those above its largest value.

    Notes
    -----
    False alarms: ``low + 100 - high`` percent of the clean values of every column, whatever its distribution; 0.1 % by default. Over many
    features they add up: of instances with 30 independent features 3 % are flagged. Misleads with a reference of fewer than some thousand
    values, of which the outermost ones decide. Nearest neighbours: `bounds` (percentiles 0 and 100), and `k_sigma`, which assumes a
    normal distribution but can look beyond what the reference holds.

    Examples
    --------
    >>> from detectors.statistics.block import Block
    >>> from detectors.statistics.column import ColumnSummary
    >>> wait = FittingColumn(ColumnSummary("wait", "numeric", 101, low=0.0, high=100.0, values=np.arange(101.0)))
    >>> block = Block(np.array([[50.0], [99.5]]), np.zeros((2, 1), bool))
    >>> flagged = Percentiles(low=1, high=99).fit([wait]).flag(block)
    >>> flagged.rows.tolist(), flagged.low.tolist(), flagged.high.tolist()
    ([1], [1.0], [99.0])

    References
    ----------
    Hyndman & Fan (1996), Sample quantiles in statistical packages, The American Statistician 50(4); definition 7.
    """

    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric"})
    unit: ClassVar[str] = "1 + widths between the percentiles"

    name: Literal["percentiles"] = "percentiles"
    low: float = Field(0.05, ge=0, lt=100)
    high: float = Field(99.95, gt=0, le=100)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high:
            msg = f"low ({self.low:g}) must be below high ({self.high:g}): both are percentiles"
            raise ValueError(msg)
        return self

    @override
    def fit(self, columns: Sequence[FittingColumn]) -> FittedLimits:
        numeric = [column.reference for column in columns if column.reference.type == "numeric"]
        return FittedLimits.of(self.name, 1.0, map(self._limits, numeric), offset=1.0)

    def _limits(self, reference: ColumnSummary) -> Limits:
        if reference.count == 0:
            return Limits()
        low, high = quantiles(reference, np.array([self.low, self.high]) / 100).tolist()
        unit = high - low
        if not 0 < unit < np.inf:
            unit = reference.std()
        return Limits(low, high, low, high, unit if 0 < unit < np.inf else 1.0)
