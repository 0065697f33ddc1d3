from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from detectors.base import ColumnType, FittingColumn, OutlierDetector
from detectors.limits import FittedLimits, Limits


class Bounds(OutlierDetector):
    """Flags an instance in which a number is below the smallest or above the largest allowed value.

    Contribution of a cell: ``1 + distance to the bound / width``, dimensionless, where the width is that of the allowed range (the
    standard deviation of the reference when only one end is given, the feature's own unit when that is zero too). The score
    of an instance is the sum over its cells; the threshold is 1.

    Missing and non-finite values are not looked at here: `missing` and `nonfinite` do that.

    Parameters
    ----------
    source
        Where the bounds come from. ``declared``: the ModelMonitor only. ``reference``: the smallest and the largest value of the
        reference only. ``auto``: the declared bounds of a feature when it has any, else the reference's.
    margin
        By how much the range of the reference is widened at each end, as a share of its width. Declared bounds stay as they are.

    Notes
    -----
    Misleads with bounds from the reference, when that holds impossible values (they become allowed), and when it is small: of n
    values like the reference's, 2 / (n + 1) lie outside by chance. Values inside the range but far from all others pass.
    Nearest neighbour: `k_sigma`, which a single extreme reference value cannot widen so much.

    Examples
    --------
    >>> from detectors.statistics.block import Block
    >>> from detectors.statistics.column import ColumnSummary
    >>> age = FittingColumn(ColumnSummary("age", "numeric", 3, low=18.0, high=98.0), low=0.0, high=100.0)
    >>> block = Block(np.array([[30.0], [150.0]]), np.zeros((2, 1), bool))
    >>> flagged = Bounds().fit([age]).flag(block)
    >>> flagged.rows.tolist(), flagged.scores.tolist()
    ([1], [1.5])
    """

    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric"})
    unit: ClassVar[str] = "1 + widths of the allowed range"

    name: Literal["bounds"] = "bounds"
    source: Literal["auto", "declared", "reference"] = "auto"
    margin: float = Field(0.0, ge=0)

    @override
    def fit(self, columns: Sequence[FittingColumn]) -> FittedLimits:
        numeric = [column for column in columns if column.reference.type == "numeric"]
        return FittedLimits.of(self.name, 1.0, map(self._limits, numeric), offset=1.0)

    def _limits(self, column: FittingColumn) -> Limits:
        reference = column.reference
        low, high = -np.inf, np.inf
        declared = column.low is not None or column.high is not None
        if declared and self.source != "reference":
            low = low if column.low is None else column.low
            high = high if column.high is None else column.high
        elif self.source != "declared" and reference.count > 0:
            more = self.margin * (reference.high - reference.low)
            low, high = reference.low - more, reference.high + more
        unit = high - low
        if not 0 < unit < np.inf:
            unit = reference.std()
        return Limits(low, high, low, high, unit if 0 < unit < np.inf else 1.0)
