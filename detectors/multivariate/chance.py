"""What chance does to a distance: tails of a mean, and of a squared distance between two mean vectors."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

_SYMMETRIC = 1e-3
_NOTHING = 1e-60


def upper(skewness: float, rate: float) -> float:
    """What a variable of mean 0, variance 1 and this skewness exceeds with a small probability, in standard deviations.

    By a gamma distribution with these three moments (Pearson's type III), which is exact for sums of equal gammas, and so
    for chi-square.

    >>> round(upper(0.0, 0.001), 4), round(upper(2.0, 0.001), 4)  # the normal distribution, the exponential one
    (3.0902, 5.9078)
    """
    if abs(skewness) < _SYMMETRIC:
        z = -float(special.ndtri(rate))
        return z + skewness * (z * z - 1) / 6
    shape = 4 / skewness**2
    if skewness > 0:
        return (float(special.gammainccinv(shape, rate)) - shape) / math.sqrt(shape)
    return (shape - float(special.gammaincinv(shape, rate))) / math.sqrt(shape)


def upper_by_gamma(weights: NDArray[np.float64], rate: float) -> float:
    """As `upper_of_sum`, by a gamma distribution: exact for equal weights, at 0.1 % up to twice the rate for others."""
    spread = math.sqrt(2 * float((weights**2).sum()))
    return spread * upper(8 * float(((weights / spread) ** 3).sum()), rate)


def upper_of_sum(weights: NDArray[np.float64], rate: float) -> float:
    """What ``sum w (z² - 1)`` of independent normal z exceeds with a small probability.

    By Lugannani and Rice's saddlepoint formula: at rates from 5 % to 0.01 % the true probability is within 8 % of the rate, however
    the weights lie.

    Parameters
    ----------
    weights
        Not negative, one of them positive.

    References
    ----------
    Kuonen (1999), Saddlepoint approximations for distributions of quadratic forms in normal variables, Biometrika 86.
    """
    spread = math.sqrt(2 * float((weights**2).sum()))
    w = weights / spread
    wanted = -float(special.ndtri(rate))

    def short(t: float) -> float:
        """By how much the tail beyond the place whose saddlepoint is t is too large, in normal quantiles."""
        left = 1 - 2 * t * w
        root = math.sqrt(2 * float((2 * (t * w) ** 2 / left + t * w + np.log(left) / 2).sum()))
        curved = t * math.sqrt(2 * float(((w / left) ** 2).sum()))
        return wanted - root - math.log(curved / root) / root

    low, high = 0.05, (1 - 1e-9) / (2 * float(w.max()))
    if short(low) < 0 or short(high) > 0:  # next to the median, or rarer than anything that happens
        return upper_by_gamma(weights, rate)
    t = float(optimize.brentq(short, low, high))
    return spread * float((2 * t * w**2 / (1 - 2 * t * w)).sum())


@dataclass(frozen=True, slots=True)
class SquaredDistance:
    """The squared distance between the mean feature vectors of two clean samples, as chance makes it.

    With a kernel k, the product of two rows' features less their mean, the squared length of the mean of n rows is
    ``(1/n²) sum_ij k(x_i, x_j)``. Its first three cumulants follow from expectations of k over one, two and three independent rows,
    for every n, without any assumption about the rows. For many rows it is a sum of squared normals weighted by k's eigenvalues, whose tail
    is known. For few it is that of a gamma distribution with the three cumulants, times what a gamma distribution is off by for many.

    References
    ----------
    Imhof (1961), Computing the distribution of quadratic forms in normal variables, Biometrika 48; Gretton et al. (2012), A kernel
    two-sample test, JMLR 13; Székely & Rizzo (2014), Partial distance correlation, Annals of Statistics 42 (centring without bias).
    """

    trace: float
    """E k(x, x)."""
    squares: float
    """E k(x, y)²: the sum of squared eigenvalues."""
    triangles: float
    """E k(x, y) k(y, z) k(z, x): the sum of cubed eigenvalues."""
    cubes: float
    """E k(x, y)³."""
    lengths: tuple[float, float, float, float]
    """With t = k(x, x) less its mean, and u that of y: E t², E t³, E k(x, y)² t, E k(x, y) t u."""
    rate: float
    beyond: float
    """What it exceeds its mean by with probability `rate`, over what a gamma distribution does, for many rows."""

    @classmethod
    def of(cls, products: NDArray[np.float64], trace: float, rate: float) -> "SquaredDistance":
        """From (k, k) products of the features of some rows, k at least 4, and E k(x, x), which more rows may tell."""
        k = len(products)
        own = np.diag(products)
        others = (products.sum(axis=1) - own) / (k - 1)
        mean = float(others.mean())
        lengths = own - 2 * others + mean
        t = lengths - lengths.mean()
        # Centred so that its squares have no bias.
        beside = others * ((k - 1) / (k - 2))
        pairs = products - beside[:, None] - beside + mean * (k / (k - 2))
        np.fill_diagonal(pairs, 0.0)
        squared = pairs * pairs
        every = k * (k - 1.0)
        average = products.mean(axis=1)
        weights = np.maximum(np.linalg.eigvalsh(products - average[:, None] - average + average.mean()), 0.0)
        return cls(
            max(trace, 0.0),
            float(squared.sum()) / (k * (k - 3.0)),
            float(np.einsum("ij,ij->", pairs @ pairs, pairs)) / (every * (k - 2)),
            float(np.einsum("ij,ij->", squared, pairs)) / every,
            (
                float(t @ t) / k,
                float((t**3).sum()) / k,
                float((squared @ t).sum()) / every,
                float(t @ pairs @ t) / every,
            ),
            rate,
            upper_of_sum(weights, rate) / upper_by_gamma(weights, rate) if weights.any() else 1.0,
        )

    def mean(self, n: int, m: int) -> float:
        """Of samples of n and m rows."""
        return self.trace * (1 / n + 1 / m)

    def upper(self, n: int, m: int) -> float:
        """By how much the squared distance of samples of n and m rows exceeds its mean with probability `rate`."""
        variance = 2 * self.squares * (1 / n + 1 / m) ** 2 + self._variance(n) + self._variance(m)
        third = 8 * self.triangles * (1 / n + 1 / m) ** 3 + self._third(n) + self._third(m)
        if variance < _NOTHING:
            return 0.0
        return math.sqrt(variance) * upper(third / variance**1.5, self.rate) * self.beyond

    def _variance(self, n: int) -> float:
        """What a sample of n rows has besides the limit for many rows."""
        return (self.lengths[0] - 2 * self.squares) / n**3

    def _third(self, n: int) -> float:
        _, own_cubed, pair_own, own_own = self.lengths
        return (
            (16 / n - 24) * self.triangles / n**4
            + 4 * (n - 1) * (self.cubes + 3 * pair_own) / n**5
            + 6 * (n - 1) * own_own / n**5
            + own_cubed / n**5
        )
