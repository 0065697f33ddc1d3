from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy import stats
from scipy.special import kl_div, xlogy
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Score
from detectors.frequencies import by_category
from detectors.statistics.column import ColumnSummary


class GTest(DriftDetector):
    """G-test (likelihood ratio) of the window's counts against those that the reference lets expect.

    ``G = 2 sum observed ln(observed / expected)`` with ``expected = reference count * n_win / n_ref``; p-value from the chi-square
    distribution with (categories - 1) degrees of freedom. The reference is taken as the truth, not as a sample. Evidently does not scale
    what is expected, and so refuses a window that is not as large as the reference; where it answers, both are equal.

    A category that the reference never had gives p = 0. One category in both gives p = 1. Categories beyond the cap of the summary are
    counted together as one, and the verdict is not exact then.

    Parameters
    ----------
    threshold
        Drift is declared below it. A probability.

    Notes
    -----
    Misleads where `chisquare` does: when the reference is small beside the window, since its own sampling error is ignored; when expected
    counts are below about five, where its p-value is too small rather more often; and with open-ended categories, where one new value is
    enough. Nearest neighbours: `chisquare`, the same to second order in the difference; `kl_div`, which is G / (2 n) with reference and
    window exchanged and does not grow with the window.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> old = ColumnSummary("c", "categorical", 100, counts={"a": 50, "b": 30, "c": 20})
    >>> new = ColumnSummary("c", "categorical", 20, counts={"a": 6, "b": 8, "c": 6})
    >>> round(GTest().compare(old, new).score, 4)
    0.1884

    References
    ----------
    Wilks (1938), Ann. Math. Statist. 9(1); Sokal & Rohlf (1981), Biometry, chapter 17.
    """

    direction: ClassVar[Direction] = "p-value"
    strict: ClassVar[bool] = True
    unit: ClassVar[str] = "probability"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"categorical"})

    name: Literal["g_test"] = "g_test"
    threshold: float = Field(0.1, gt=0, le=1)

    @override
    def score(self, reference: ColumnSummary, window: ColumnSummary) -> Score:
        both = by_category(reference, window)
        observed, expected = both.window, both.reference * (both.window.sum() / both.reference.sum())
        with np.errstate(divide="ignore"):
            g = 2 * float(xlogy(observed, observed / expected).sum())
        freedom = len(observed) - 1
        value = float(stats.chi2.sf(g, freedom)) if freedom else 1.0
        # `kl_div` adds expected - observed to each term: none is negative then, and the sum is the same.
        parts = kl_div(observed, expected)
        if not np.isfinite(g):
            parts = np.where(expected == 0, observed, 0.0)
        return Score(value, both.exact, both.explain(parts))
