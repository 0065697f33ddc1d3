import math
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import chdtrc
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Score
from detectors.distribution import Distribution, Ramps, Steps, pair
from detectors.frequencies import differences
from detectors.resampling import some_values
from detectors.statistics.column import ColumnSummary

_POINT = 0.4
"""The characteristic functions are compared here and at its double, as Epps and Singleton advise; over the semi-interquartile range."""
_FEWEST = 5
_SMALL = 25
"""Below this size of the larger sample, W is corrected."""
_RANK = 1e-15
"""A smaller part of the largest eigenvalue is rounding."""
_SEMI_IQR = 0.6744897501960817
"""Of a normal distribution with standard deviation 1."""
_MOST = float(np.finfo(np.float64).max)
_LEAST = 5e-324


class EppsSingleton(DriftDetector):
    """Epps-Singleton test: p-value of the difference of both empirical characteristic functions at two points.

    ``W = N (g_ref - g_win)' S^+ (g_ref - g_win)``, where g is the mean of ``(cos t1 x, cos t2 x, sin t1 x, sin t2 x)``, S estimates the
    covariance of their difference times N, ``t = (0.4, 0.8) / s`` and s is half the interquartile range of both samples together. The p-value
    comes from the chi-square distribution with the rank of S as degrees of freedom, after a correction of W for samples below 25. As in scipy
    and Evidently, but for up to four distinct values: there the rank may count what rounding leaves over, here it is less than their number.

    Where Evidently has no answer: p = 1 with fewer than 5 values on either side; with an interquartile range of 0 (at least half of the
    values are the same), s is 0.6745 standard deviations, which is the same for a normal feature; one constant in both gives p = 1, two
    different ones p = 0.

    From ruler counts, values are spread over a bin as in `Ramps`. Each characteristic function is off by at most ``sum p_j min(2, (t w_j)^2 / 6)``, p_j
    the share and w_j the width of bin j, and s by at most the width of the bins that the quartiles are in. Seen with 20,000 to 100,000 values on
    each side: p off by 0.001, by 0.005 with a value that is common, by 0.13 with the tails of a Cauchy distribution. A column that was counted on
    no ruler is judged by its sample of rows, and the p-value is that of so many values then.

    Parameters
    ----------
    threshold
        Drift is declared below it. A probability.

    Notes
    -----
    Misleads in small samples: for up to about 25 values, and for very skewed features, p-values are too small or too large, since
    the chi-square distribution is only its limit. It comes late where one sample is much smaller than the other: clean windows of 200 to 500 rows
    against 1,000 alarm in 7 % at 5 %, and in 0.5 % at 0.1 % (docs/honesty.md), in scipy as here. Differences in the far tails are all but invisible, and in large windows it finds
    differences too small to matter. Nearest neighbours: `anderson` and `cramer_von_mises` compare cumulative distributions;
    `empirical_mmd` compares characteristic functions at all points.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> old = ColumnSummary("x", "numeric", 30, low=0.0, high=29.0, values=np.arange(30.0))
    >>> new = ColumnSummary("x", "numeric", 30, low=0.0, high=14.5, values=np.arange(30.0) / 2)
    >>> round(EppsSingleton().compare(old, new).score, 6)
    9.3e-05

    References
    ----------
    Epps & Singleton (1986), J. Stat. Comput. Simul. 26(3-4); Goerg & Kaiser (2009), Stata J. 9(3): the version for discrete features.
    """

    direction: ClassVar[Direction] = "p-value"
    strict: ClassVar[bool] = True
    unit: ClassVar[str] = "probability"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric"})

    name: Literal["es"] = "es"
    threshold: float = Field(0.05, gt=0, le=1)

    @override
    def score(self, reference: ColumnSummary, window: ColumnSummary) -> Score:
        counted = _is_counted(reference) and _is_counted(window)
        a, b = pair(reference, window) if counted else (_sampled(reference), _sampled(window))
        if a.total == 0 or b.total == 0:
            return Score(math.nan, exact=False)
        value = 1.0 if min(a.total, b.total) < _FEWEST else _p_value(a, b)
        return Score(value, a.exact and b.exact, differences(reference, window) if counted else {})


def _is_counted(column: ColumnSummary) -> bool:
    return column.values is not None or column.bins is not None or bool(column.counts)


def _sampled(column: ColumnSummary) -> Distribution:
    values, whole = some_values(column, column.count)
    return Steps(values, exact=whole)


def _p_value(a: Distribution, b: Distribution) -> float:
    n, m = a.total, b.total
    total = n + m
    x = np.concatenate((a.middles, b.middles))
    order = np.argsort(x, kind="stable")
    x, times = x[order], np.concatenate((a.weights, b.weights))[order]
    low, high = _quartiles(x, times) if a.exact and b.exact else _quartiles_of_ramps(a, b)
    scale = (high / 2 - low / 2) or _stand_in(x, times)
    (g, of_g), (h, of_h) = (_waves(sample, scale) for sample in (a, b))
    apart = g - h
    sizes, axes = np.linalg.eigh(total / n * of_g + total / m * of_h)
    kept = sizes > _RANK * sizes[-1]
    if a.exact and b.exact:
        # So many distinct values span no more dimensions, whatever rounding leaves in the others.
        kept &= np.arange(4, 0, -1) < 1 + np.count_nonzero(x[1:] != x[:-1])
    if not kept.any():
        # One constant in both, or a constant in each.
        return float(x[0] == x[-1] or not apart.any())
    w = total * float(np.sum((apart @ axes[:, kept]) ** 2 / sizes[kept]))
    if max(n, m) < _SMALL:
        w /= 1 + total**-0.45 + 10.1 * (n**-1.7 + m**-1.7)
    return float(chdtrc(np.count_nonzero(kept), w))


def _waves(sample: Distribution, scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (4,) and covariance (4, 4) of the cosines and the sines at both points; the second point is twice the first."""
    point = min(_POINT / scale, _MOST)
    if isinstance(sample, Ramps) and not sample.exact:
        return _waves_of_ramps(sample, point)
    with np.errstate(over="ignore"):
        angle = np.clip(point * sample.middles, -_MOST, _MOST)
    cos, sin = np.cos(angle), np.sin(angle)
    waves = np.stack((cos, 1 - 2 * sin**2, sin, 2 * sin * cos))
    # Of single values all weights are 1, which takes half the time to leave out.
    times = sample.weights.astype(np.int64) if isinstance(sample, Ramps) else None
    return np.average(waves, axis=1, weights=times), np.cov(waves, ddof=0, fweights=times)


def _waves_of_ramps(sample: Ramps, point: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From the characteristic function at 1 to 4 times the point, since a product of two waves is a sum of waves."""
    filled = sample.counts > 0
    share = sample.counts[filled] / sample.total
    middle, half = sample.middles[filled], (sample.ends / 2 - sample.starts / 2)[filled]
    points = np.minimum(np.arange(1, 5) * point, _MOST)[:, None]
    with np.errstate(over="ignore"):
        angle = np.clip(points * middle, -_MOST, _MOST)
        spread = np.sinc(np.minimum(points * half, _MOST) / np.pi)
    c = np.concatenate(([1.0], (np.cos(angle) * spread) @ share))
    s = np.concatenate(([0.0], (np.sin(angle) * spread) @ share))
    sums, gaps = np.array([[2, 3], [3, 4]]), np.array([[0, 1], [1, 0]])
    cross = (s[sums] + s[gaps] * [[0, 1], [-1, 0]]) / 2
    squares = np.block([[c[gaps] + c[sums], 2 * cross], [2 * cross.T, c[gaps] - c[sums]]]) / 2
    mean = np.array([c[1], c[2], s[1], s[2]])
    return mean, squares - np.outer(mean, mean)


def _quartiles(x: NDArray[np.float64], times: NDArray[np.float64]) -> tuple[float, float]:
    """Between the two values next to the rank, in proportion; of ascending values, and how often each occurs."""
    upto = np.cumsum(times)
    low, high = (share * (upto[-1] - 1) for share in (0.25, 0.75))
    return _at_rank(x, upto, low), _at_rank(x, upto, high)


def _at_rank(x: NDArray[np.float64], upto: NDArray[np.float64], rank: float) -> float:
    before = math.floor(rank)
    low, high = x[np.searchsorted(upto, [before, math.ceil(rank)], side="right")]
    part = rank - before
    return float(low * (1 - part) + high * part)


def _quartiles_of_ramps(a: Distribution, b: Distribution) -> tuple[float, float]:
    x = np.unique(np.concatenate((a.corners, b.corners)))
    counted = np.stack((a.below(x) + b.below(x), a.upto(x) + b.upto(x)), axis=1).ravel()
    total = a.total + b.total
    low, high = np.interp([share * (total - 1) + 0.5 for share in (0.25, 0.75)], counted, np.repeat(x, 2))
    return float(low), float(high)


def _stand_in(x: NDArray[np.float64], times: NDArray[np.float64]) -> float:
    """Half the interquartile range that a normal feature of the same standard deviation has; never 0."""
    unit = max(abs(x[0]), abs(x[-1])) or 1.0
    scaled = x / unit
    mean = np.average(scaled, weights=times)
    return float(_SEMI_IQR * math.sqrt(np.average((scaled - mean) ** 2, weights=times)) * unit) or _LEAST
