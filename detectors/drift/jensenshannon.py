import math
from typing import ClassVar, Literal

from pydantic import Field
from scipy.special import rel_entr
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Score
from detectors.frequencies import frequencies
from detectors.statistics.column import ColumnSummary


class JensenShannon(DriftDetector):
    """Jensen-Shannon distance between the shares of reference and window in the same bins or categories.

    ``sqrt((KL(p | m) + KL(q | m)) / 2)`` with ``m = (p + q) / 2`` and the natural logarithm: in [0, sqrt(ln 2)], symmetric, a
    metric. Bins are Sturges' over both samples together, or the values themselves when the reference has at most 20 of them.

    From ruler counts every edge cuts at most one bin of the ruler, so the share in a bin is off by at most the window's
    mass in the two bins at its edges (that of the reference too, when its values are not at hand). While the window stays
    in the reference's range there are marks at the edges themselves, and shares are exact. Seen with 20,000 against 20,000
    values: off by 0.0004, and by 0.0033 where a discrete window has none of the reference's values.

    Parameters
    ----------
    threshold
        Drift is declared at or above it. Dimensionless.

    Notes
    -----
    Misleads when a few far values stretch the bins until nearly everything is in one (`wasserstein` and `ks` have no bins),
    and in small windows, where many sparse bins or categories differ by chance. Nearest neighbours: `hellinger`, bounded too;
    `psi`, the symmetric sum of divergences that has no bound.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> old = ColumnSummary("c", "categorical", 10, counts={"a": 9, "b": 1})
    >>> new = ColumnSummary("c", "categorical", 10, counts={"a": 1, "b": 9})
    >>> round(JensenShannon().compare(old, new).score, 4)
    0.6067

    References
    ----------
    Lin (1991), IEEE Trans. Inf. Theory 37(1); Endres & Schindelin (2003), IEEE Trans. Inf. Theory 49(7).
    """

    direction: ClassVar[Direction] = "distance"
    unit: ClassVar[str] = "dimensionless, 0 to 0.83"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric", "categorical"})

    name: Literal["jensenshannon"] = "jensenshannon"
    threshold: float = Field(0.1, gt=0)

    @override
    def score(self, reference: ColumnSummary, window: ColumnSummary) -> Score:
        both = frequencies(reference, window)
        p, q = both.shares
        m = (p + q) / 2
        parts = (rel_entr(p, m) + rel_entr(q, m)) / 2
        return Score(math.sqrt(max(float(parts.sum()), 0.0)), both.exact, both.explain(parts))
