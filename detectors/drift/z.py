import math
from typing import ClassVar, Literal

from pydantic import Field
from scipy import stats
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Score
from detectors.frequencies import by_category
from detectors.statistics.column import ColumnSummary


class ProportionsZ(DriftDetector):
    """Two-proportions z-test of the share of the first category (in sorted order) in reference and window.

    ``z = (p1 - p2) / sqrt(P (1 - P) (1/n + 1/m))`` with the pooled share P; two-sided p-value from the normal distribution. All other
    categories count as one, so it is meant for two of them. The p-value is ``2 (1 - cdf(|z|))``, as in Evidently: below
    1e-15 it is 0.

    The same single category in both gives p = 1.

    Parameters
    ----------
    threshold
        Drift is declared below it. A probability.

    Notes
    -----
    Misleads when either sample has fewer than about five of one kind, and with more than two categories, where only the
    first is looked at. With large windows it finds differences too small to matter. Nearest neighbours: `fisher_exact`,
    which does not mind small samples; `chisquare`, which looks at all categories but takes the reference as the truth.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> old = ColumnSummary("c", "categorical", 100, counts={"no": 50, "yes": 50})
    >>> new = ColumnSummary("c", "categorical", 50, counts={"no": 35, "yes": 15})
    >>> round(ProportionsZ().compare(old, new).score, 4)
    0.0198

    References
    ----------
    Fleiss, Levin & Paik (2003), Statistical Methods for Rates and Proportions, chapter 3.
    """

    direction: ClassVar[Direction] = "p-value"
    strict: ClassVar[bool] = True
    unit: ClassVar[str] = "probability"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"categorical"})

    name: Literal["z"] = "z"
    threshold: float = Field(0.05, gt=0, le=1)

    @override
    def score(self, reference: ColumnSummary, window: ColumnSummary) -> Score:
        both = by_category(reference, window)
        if len(both.keys) == 1:
            return Score(1.0, both.exact)
        p, q = both.shares
        n, m = reference.count, window.count
        pooled = (both.reference[0] + both.window[0]) / (n + m)
        z = (p[0] - q[0]) / math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
        return Score(float(2 * (1 - stats.norm.cdf(abs(z)))), both.exact, both.explain(abs(p - q)))
