from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from detectors.base import ColumnType, FittingColumn, Flagged, OutlierDetector
from detectors.cells import cells
from detectors.statistics.block import Block


class NonFinite(OutlierDetector):
    """Flags an instance in which a number is NaN or infinite where the reference never had such a value.

    Contribution of a cell: 1. The score of an instance is how many of its numbers are so; the threshold is 1. A value that is not
    there at all is `missing`'s.

    Parameters
    ----------
    always
        Flag every non-finite number, also in columns where the reference has some itself.

    Notes
    -----
    Misleads when a client writes NaN for "no value": then it says the same as `missing`, its nearest neighbour.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> age = FittingColumn(ColumnSummary("age", "numeric", 100))
    >>> block = Block(np.array([[30.0], [np.inf], [np.nan]]), np.array([[False], [False], [True]]))
    >>> NonFinite().fit([age]).flag(block).rows.tolist()
    [1]
    """

    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric"})
    unit: ClassVar[str] = "values"

    name: Literal["nonfinite"] = "nonfinite"
    always: bool = False

    @override
    def fit(self, columns: Sequence[FittingColumn]) -> "FittedNonFinite":
        references = [column.reference for column in columns if column.reference.type == "numeric"]
        return FittedNonFinite(
            np.array([self.always or reference.nonfinite == 0 for reference in references], np.bool_)
        )


@dataclass(frozen=True)
class FittedNonFinite:
    """Which columns are judged."""

    judged: NDArray[np.bool_]
    """(numeric columns,)"""
    name: str = "nonfinite"

    def flag(self, block: Block) -> Flagged:
        """Instances with a number that is there but not finite."""
        finite = np.isfinite(block.numeric)
        if finite.all():
            return Flagged.nothing(1.0)
        rows, columns = cells(~finite & ~block.missing & self.judged)
        return Flagged.cells(1.0, rows, columns, np.ones(len(rows)))
