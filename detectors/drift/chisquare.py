from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy import stats
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Score
from detectors.frequencies import by_category
from detectors.statistics.column import ColumnSummary


class ChiSquare(DriftDetector):
    """Pearson's chi-square test of the window's counts against those that the reference lets expect.

    ``X2 = sum (observed - expected)^2 / expected`` with ``expected = reference count * n_win / n_ref``; p-value from the chi-square
    distribution with (categories - 1) degrees of freedom. The reference is taken as the truth, not as a sample, as in Evidently.

    A category that the reference never had gives p = 0. One category in both gives p = 1. Categories beyond the cap of the summary are
    counted together as one, and the verdict is not exact then.

    Parameters
    ----------
    threshold
        Drift is declared below it. A probability.

    Notes
    -----
    Misleads when the reference is small beside the window, since its own sampling error is ignored (p too small: with 1,000 categories or
    more, next to 0 already for a window half as large as the reference); when expected counts are below about 5; and with open-ended
    categories, where one new value is enough. Nearest neighbours: `g_test`, the likelihood-ratio form; `jensenshannon`, a distance that
    does not grow with the window.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> old = ColumnSummary("c", "categorical", 100, counts={"a": 50, "b": 30, "c": 20})
    >>> new = ColumnSummary("c", "categorical", 20, counts={"a": 6, "b": 8, "c": 6})
    >>> round(ChiSquare().compare(old, new).score, 4)
    0.1953

    References
    ----------
    Pearson (1900), Philos. Mag. Ser. 5, 50(302).
    """

    direction: ClassVar[Direction] = "p-value"
    strict: ClassVar[bool] = True
    unit: ClassVar[str] = "probability"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"categorical"})

    name: Literal["chisquare"] = "chisquare"
    threshold: float = Field(0.05, gt=0, le=1)

    @override
    def score(self, reference: ColumnSummary, window: ColumnSummary) -> Score:
        both = by_category(reference, window)
        expected = both.reference * (window.count / reference.count)
        with np.errstate(divide="ignore"):
            parts = (both.window - expected) ** 2 / expected
        freedom = len(parts) - 1
        value = float(stats.chi2.sf(parts.sum(), freedom)) if freedom else 1.0
        p, q = both.shares
        return Score(value, both.exact, both.explain(parts) or both.explain(np.abs(p - q)))
