from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from detectors.base import ColumnType, FittingColumn, Flagged, OutlierDetector
from detectors.cells import cells
from detectors.statistics.block import Block


class Missing(OutlierDetector):
    """Flags an instance that has no value where the reference always had one.

    Contribution of a cell: 1. The score of an instance is how many of its values are missing so; the threshold is 1. Missing means
    JSON ``null`` or an absent key; NaN and infinity are `nonfinite`'s.

    Parameters
    ----------
    always
        Flag every missing value, also in columns where the reference has missing values itself.

    Notes
    -----
    Misleads with a reference from which incomplete rows were dropped before training: then every missing value is flagged, which may be
    wanted. A column with missing values in the reference is left alone however many there are now: the share of missing values
    in the window statistics shows that. Nearest neighbour: `nonfinite`.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> age = FittingColumn(ColumnSummary("age", "numeric", 100, missing=0))
    >>> block = Block(np.array([[30.0], [np.nan]]), np.array([[False], [True]]))
    >>> Missing().fit([age]).flag(block).rows.tolist()
    [1]
    """

    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric", "categorical"})
    unit: ClassVar[str] = "values"

    name: Literal["missing"] = "missing"
    always: bool = False

    @override
    def fit(self, columns: Sequence[FittingColumn]) -> "FittedMissing":
        judged = np.array([self.always or column.reference.missing == 0 for column in columns], np.bool_)
        numeric = sum(column.reference.type == "numeric" for column in columns)
        return FittedMissing(judged[:numeric], judged[numeric:])


@dataclass(frozen=True)
class FittedMissing:
    """Which columns are judged."""

    numeric: NDArray[np.bool_]
    """(numeric columns,)"""
    categorical: NDArray[np.bool_]
    """(categorical columns,)"""
    name: str = "missing"

    def flag(self, block: Block) -> Flagged:
        """Instances without a value where there should be one."""
        rows, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        if block.missing.any():
            found_rows, found_columns = cells(block.missing & self.numeric)
            rows.append(found_rows)
            columns.append(found_columns)
        first = block.numeric.shape[1]
        for j, (column, judged) in enumerate(zip(block.categorical, self.categorical, strict=True), start=first):
            if judged:
                rows.append(np.flatnonzero(column.codes < 0))
                columns.append(np.full(len(rows[-1]), j))
        where = np.concatenate(rows)
        return Flagged.cells(1.0, where, np.concatenate(columns), np.ones(len(where)))
