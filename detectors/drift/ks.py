import warnings
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Score
from detectors.distribution import Distribution, distribution
from detectors.errors import NotApplicable
from detectors.frequencies import differences
from detectors.statistics.column import ColumnSummary, once
from detectors.statistics.ruler import Ruler

_EXACT_SIZE = 10_000
"""Up to this size of the larger sample scipy counts lattice paths instead of taking the limiting distribution."""
_TAIL = 2.2
"""From this ``n d^2`` on the p-value is Smirnov's sum, but for what floats of this size cannot show."""
_CERTAIN = 0.04
"""Up to this ``n d^2`` the p-value is above 1 - 1e-12."""
_NOTHING = 370.0
"""From this ``n d^2`` on the p-value is less than any float."""
_MANY = 700
"""From so many terms on, Smirnov's sum is taken as an integral."""
_POINTS = 256
_ODD = 1 / np.arange(31.0, 1.0, -2.0)
"""1/31, 1/29, ..., 1/3."""


class KolmogorovSmirnov(DriftDetector):
    """Two-sample Kolmogorov-Smirnov test: p-value of ``D = max |F_ref(x) - F_win(x)|``.

    The p-value is scipy's: from the exact distribution of D while the larger sample has at most 10,000 values, else
    from ``kstwo`` with the effective size ``n m / (n + m)``.

    From ruler counts D is the largest difference at the marks, where both distributions are known exactly. It is too small by at
    most the larger of the two samples' mass in one bin (about 1/1024 for the reference, unless one value is more common), so the
    p-value is never below the true one. Seen: D off by 0.0004 with 20,000 against 100,000 values.

    Parameters
    ----------
    threshold
        Drift is declared at or below it. A probability.

    Notes
    -----
    Misleads in large windows, where it finds differences too small to matter, and on discrete features, where the p-value is too
    large. Weak in the tails (`anderson` is made for them). Nearest neighbour: `wasserstein`, a distance that does not depend
    on the sample size.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> old = ColumnSummary("x", "numeric", 8, low=0.0, high=7.0, values=np.arange(8.0))
    >>> new = ColumnSummary("x", "numeric", 8, low=5.0, high=12.0, values=np.arange(8.0) + 5)
    >>> verdict = KolmogorovSmirnov().compare(old, new)
    >>> round(verdict.score, 4), verdict.drifted
    (0.087, False)

    References
    ----------
    Hodges (1958), Arkiv för Matematik 3(43); Smirnov (1939), Bull. Univ. Moscou 2(2).
    """

    direction: ClassVar[Direction] = "p-value"
    unit: ClassVar[str] = "probability"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric"})

    name: Literal["ks"] = "ks"
    threshold: float = Field(0.05, gt=0, le=1)

    @override
    def score(self, reference: ColumnSummary, window: ColumnSummary) -> Score:
        a, b = distribution(reference), distribution(window)
        exact = a.exact and b.exact
        if max(a.total, b.total) <= _EXACT_SIZE:
            value = _exact_p(*_samples(reference, window, a, b))
        else:
            if exact:
                # D of two whole samples is next to a value of the one and next to a value of the other: take what has fewer.
                at = min(a.corners, b.corners, key=len)
                d = max(_largest(a.upto(at), b.upto(at), a, b), _largest(a.below(at), b.below(at), a, b))
            else:
                ruler = _ruler(reference, window)
                d = _largest(_upto_marks(reference, a, ruler), _upto_marks(window, b, ruler), a, b)
            value = _limiting_p(d, round(a.total * b.total / (a.total + b.total)))
        return Score(min(max(value, 0.0), 1.0), exact, differences(reference, window))


def _largest(p: NDArray[np.float64], q: NDArray[np.float64], a: Distribution, b: Distribution) -> float:
    return float(np.max(np.abs(p / a.total - q / b.total)))


def _exact_p(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    with warnings.catch_warnings():
        # Where counting paths overflows, scipy says so and takes the limiting distribution.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(stats.ks_2samp(a, b).pvalue)


def _limiting_p(d: float, n: int) -> float:
    """P-value of d in the distribution of D for one sample of n, as scipy's, which takes 50 ms where it sums 50,000 terms."""
    if n * d * d >= _NOTHING:
        return 0.0
    if n * d * d <= _CERTAIN:
        return 1.0
    if n * d * d >= _TAIL and n >= _MANY and d < 0.5:
        return _smirnov(d, n)
    return float(stats.kstwo.sf(d, n))


def _smirnov(d: float, n: int) -> float:
    """Twice Smirnov's sum over ``j`` of ``C(n,j) d (d + j/n)^(j-1) (1 - d - j/n)^(n-j)``, to a relative error of 1e-12.

    The terms are a smooth function of j that vanishes with all its derivatives at both ends. So their sum is the integral, and
    so is the trapezoidal rule on far fewer points. The binomial in saddle-point form loses no digits.

    References
    ----------
    Loader (2000), Fast and accurate computation of binomial probabilities; Trefethen & Weideman (2014), SIAM Review 56(3).
    """
    t = n * d
    step = (n - t) / _POINTS
    j: NDArray[np.float64] = step * np.arange(1.0, _POINTS)
    k = n - j
    exponent = _stirling(np.float64(n)) - _stirling(j) - _stirling(k) - j * _above_log(t / j) - k * _above_log(-t / k)
    terms = t / (t + j) * np.sqrt(n / (2 * np.pi * j * k)) * np.exp(exponent)
    return 2 * step * float(terms.sum())


def _stirling(m: Any) -> Any:
    """Log of m! less Stirling's formula for it."""
    r = 1 / (m * m)
    return (1 / 12 - r * (1 / 360 - r * (1 / 1260 - r / 1680))) / m


def _above_log(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """``u - log(1 + u)``, by the series of its logarithm where the two nearly cancel."""
    s = u / (2 + u)
    near = s * (u - 2 * s * s * np.polyval(_ODD, s * s))
    return np.where(np.abs(s) < 0.25, near, u - np.log1p(u))


def _samples(
    reference: ColumnSummary, window: ColumnSummary, a: Distribution, b: Distribution
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two samples that have the same D at the marks; the samples themselves when they are whole."""
    if reference.values is not None and window.values is not None:
        return reference.values, window.values
    if a.exact and b.exact:
        marks = np.union1d(a.corners, b.corners)
        upto = a.upto(marks), b.upto(marks)
    else:
        ruler = _ruler(reference, window)
        marks = ruler.ceilings
        upto = _upto_marks(reference, a, ruler), _upto_marks(window, b, ruler)
    p, q = (np.repeat(marks, np.rint(np.diff(counts, prepend=0.0)).astype(np.int64)) for counts in upto)
    return p, q


def _upto_marks(column: ColumnSummary, known: Distribution, ruler: Ruler) -> NDArray[np.float64]:
    """(bins,) how many values are at most the upper mark of each bin."""
    return _cumulated(column) if column.ruler is ruler and column.bins is not None else known.upto(ruler.ceilings)


@once
def _cumulated(column: ColumnSummary) -> NDArray[np.float64]:
    assert column.bins is not None
    return np.cumsum(column.bins, dtype=np.float64)


def _ruler(reference: ColumnSummary, window: ColumnSummary) -> Ruler:
    ruler = reference.ruler or window.ruler
    if ruler is None:
        msg = f"column {window.name!r} has neither its values nor ruler counts: build a baseline first"
        raise NotApplicable(msg)
    return ruler
