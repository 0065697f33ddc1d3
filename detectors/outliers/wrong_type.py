from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from typing_extensions import override

from detectors.base import ColumnType, FittingColumn, Flagged, OutlierDetector
from detectors.cells import cells
from detectors.statistics.block import Block


class WrongType(OutlierDetector):
    """Flags an instance in which a value has the wrong type.

    That is text, a list or an object where the schema says numeric, and a list or an object where it says categorical. Contribution
    of a cell: 1. The score of an instance is how many of its values are so; the threshold is 1.

    Such a value counts as missing everywhere else. It needs no reference: the schema says which type is right.

    Notes
    -----
    Misleads when a client writes numbers as text ("3.5") and the model's server converts them: the model then works while every
    instance is flagged. Nearest neighbours: `missing`, which such a value is as well where the reference never lacks one, and
    `unseen_category`, for values of the right type.

    Examples
    --------
    >>> block = Block(np.array([[30.0], [np.nan]]), np.array([[False], [True]]), wrong=np.array([[False], [True]]))
    >>> WrongType().fit([]).flag(block).rows.tolist()
    [1]
    """

    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric", "categorical"})
    unit: ClassVar[str] = "values"

    name: Literal["wrong_type"] = "wrong_type"

    @override
    def fit(self, columns: Sequence[FittingColumn]) -> "FittedWrongType":
        return FittedWrongType()


@dataclass(frozen=True)
class FittedWrongType:
    """Knows nothing: the block says which cells are wrong."""

    name: str = "wrong_type"

    def flag(self, block: Block) -> Flagged:
        """Instances with a value of the wrong type."""
        if block.wrong is None:
            return Flagged.nothing(1.0)
        rows, columns = cells(block.wrong)
        return Flagged.cells(1.0, rows, columns, np.ones(len(rows)))
