from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from typing_extensions import override

from detectors.base import ColumnType, FittingColumn, Flagged, OutlierDetector
from detectors.statistics.block import Block


class UnseenCategory(OutlierDetector):
    """Flags an instance that has a category which is neither declared nor, when none are declared, known from the reference.

    Contribution of a cell: 1. The score of an instance is how many of its columns have such a category; the threshold is 1.

    A column whose reference had too many categories to list them all is only judged when its categories are declared. Missing
    values are not looked at here: `missing` does that.

    Notes
    -----
    Misleads on open-ended categories (identifiers, free text), where new values are normal, and with a small reference that rare
    categories are not in. Nearest neighbour: `bounds`, the same question for numbers.

    Examples
    --------
    >>> from detectors.statistics.block import Codes
    >>> from detectors.statistics.column import ColumnSummary
    >>> origin = FittingColumn(ColumnSummary("origin", "categorical", 9, counts={"EWR": 5, "JFK": 4}))
    >>> block = Block(np.empty((3, 0)), np.empty((3, 0), bool), (Codes(np.array([0, 1, -1]), ("JFK", "SFO")),))
    >>> UnseenCategory().fit([origin]).flag(block).rows.tolist()
    [1]
    """

    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"categorical"})
    unit: ClassVar[str] = "values"

    name: Literal["unseen_category"] = "unseen_category"

    @override
    def fit(self, columns: Sequence[FittingColumn]) -> "FittedUnseenCategory":
        categorical = [column for column in columns if column.reference.type == "categorical"]
        return FittedUnseenCategory(tuple(_known(column) for column in categorical))


@dataclass(frozen=True)
class FittedUnseenCategory:
    """The known categories of each categorical column; None where the column is not judged."""

    known: tuple[frozenset[str] | None, ...]
    name: str = "unseen_category"

    def flag(self, block: Block) -> Flagged:
        """Instances with an unknown category."""
        rows, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        first = block.numeric.shape[1]
        for j, (column, known) in enumerate(zip(block.categorical, self.known, strict=True), start=first):
            if known is None or known.issuperset(column.values):
                continue
            # One more at the end, for the code -1 of a missing value.
            unseen = np.array([value not in known for value in column.values] + [False])
            rows.append(np.flatnonzero(unseen[column.codes]))
            columns.append(np.full(len(rows[-1]), j))
        where = np.concatenate(rows)
        return Flagged.cells(1.0, where, np.concatenate(columns), np.ones(len(where)))


def _known(column: FittingColumn) -> frozenset[str] | None:
    if column.categories is not None:
        return column.categories
    if column.reference.counts is None or column.reference.unlisted:
        return None
    return frozenset(str(category) for category in column.reference.counts)
