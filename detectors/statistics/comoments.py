"""Covariance and correlation of the numeric columns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CoMoments:
    """Means and co-moments over the rows in which every numeric column is finite (complete rows).

    ``c[i, j]`` is the sum over those rows of ``(x_i - mean_i)(x_j - mean_j)``: symmetric, divided by ``n - 1`` it is the
    sample covariance.

    References
    ----------
    Pébay (2008), SAND2008-6212, section 3 (pairwise update of covariances).
    """

    n: int
    mean: NDArray[np.float64]
    """(columns,)"""
    c: NDArray[np.float64]
    """(columns, columns)"""

    @classmethod
    def empty(cls, columns: int) -> "CoMoments":
        """Of no rows: the neutral element of `+`."""
        return cls(0, np.zeros(columns), np.zeros((columns, columns)))

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "CoMoments":
        """Of (rows, columns) finite values."""
        if len(values) == 0:
            return cls.empty(values.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):
            mean = values.mean(axis=0)
            d = values - mean
            return cls(len(values), mean, d.T @ d)

    def __add__(self, other: "CoMoments") -> "CoMoments":
        if self.n == 0 or other.n == 0:
            return other if self.n == 0 else self
        n = self.n + other.n
        with np.errstate(over="ignore", invalid="ignore"):
            delta = other.mean - self.mean
            c = self.c + other.c + np.outer(delta, delta) * (self.n * other.n / n)
            return CoMoments(n, self.mean + delta * (other.n / n), c)

    def covariance(self, ddof: int = 1) -> NDArray[np.float64]:
        """(columns, columns) sample covariance; NaN with fewer than two complete rows."""
        if self.n <= ddof:
            return np.full_like(self.c, np.nan)
        return self.c / (self.n - ddof)

    def correlation(self) -> NDArray[np.float64]:
        """(columns, columns) Pearson correlation; NaN where a column is constant."""
        scale = np.sqrt(np.diag(self.c))
        with np.errstate(divide="ignore", invalid="ignore"):
            r = self.c / np.outer(scale, scale)
        clipped: NDArray[np.float64] = np.clip(r, -1.0, 1.0)
        return clipped
