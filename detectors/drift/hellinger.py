import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Score
from detectors.frequencies import by_bin, by_category, union_distinct
from detectors.statistics.column import ColumnSummary


class Hellinger(DriftDetector):
    """Hellinger distance between the shares of reference and window in the same bins or categories.

    ``sqrt(1 - sum sqrt(p q))``: in [0, 1], symmetric, a metric. Numeric columns are always binned, however few distinct values they
    have, by Sturges' rule for the number of *distinct* values of both samples together (Evidently's choice).

    From ruler counts shares are off as in `jensenshannon`. Besides, that number of distinct values is then an estimate, so now and
    then there is one bin more or less than Evidently would take: the distance between distributions that differ little changes by
    about a twentieth then.

    Parameters
    ----------
    threshold
        Drift is declared at or above it. Dimensionless.

    Notes
    -----
    Misleads when a few far values stretch the bins, and in small windows, where many sparse bins differ by chance.
    Nearest neighbour: `jensenshannon`, which behaves alike and is bounded by sqrt(ln 2) instead of 1.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> old = ColumnSummary("c", "categorical", 10, counts={"a": 9, "b": 1})
    >>> new = ColumnSummary("c", "categorical", 10, counts={"a": 1, "b": 9})
    >>> round(Hellinger().compare(old, new).score, 4)
    0.6325

    References
    ----------
    Hellinger (1909), J. reine angew. Math. 136; Cieslak et al. (2012), Data Min. Knowl. Discov. 24(1).
    """

    direction: ClassVar[Direction] = "distance"
    unit: ClassVar[str] = "dimensionless, 0 to 1"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric", "categorical"})

    name: Literal["hellinger"] = "hellinger"
    threshold: float = Field(0.1, gt=0)

    @override
    def score(self, reference: ColumnSummary, window: ColumnSummary) -> Score:
        if reference.type == "categorical":
            both = by_category(reference, window)
        else:
            both = by_bin(reference, window, union_distinct(reference, window))
        p, q = both.shares
        overlap = min(float(np.sqrt(p * q).sum()), 1.0)
        return Score(math.sqrt(1.0 - overlap), both.exact, both.explain((np.sqrt(p) - np.sqrt(q)) ** 2))
