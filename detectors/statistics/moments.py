"""Counts, extremes and central moments of every numeric column at once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from detectors.statistics.block import Block


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, missing, non-finite, min, max and central moments 1 to 4 of each numeric column.

    All arrays are (columns,). Only finite values enter the moments. Adding uses the pairwise formulas for central
    moments, which do not cancel the way sums of powers do: the relative error stays near machine precision even for
    a mean far from zero. Counts, min and max add exactly; moments to rounding.

    References
    ----------
    Pébay (2008), Formulas for robust, one-pass parallel computation of covariances and arbitrary-order statistical
    moments, Sandia report SAND2008-6212.
    """

    count: NDArray[np.int64]
    missing: NDArray[np.int64]
    nonfinite: NDArray[np.int64]
    low: NDArray[np.float64]
    """+inf where there is no value, so that adding needs no special case."""
    high: NDArray[np.float64]
    """-inf where there is no value."""
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    """Sum over the values of (x - mean)^2; likewise `m3` and `m4`."""
    m3: NDArray[np.float64]
    m4: NDArray[np.float64]

    @classmethod
    def empty(cls, columns: int) -> "Moments":
        """Of no rows: the neutral element of `+`."""
        whole, real = np.zeros(columns, np.int64), np.zeros(columns)
        return cls(whole, whole, whole, np.full(columns, np.inf), np.full(columns, -np.inf), real, real, real, real)

    @classmethod
    def of(cls, block: Block, columns: Sequence[NDArray[np.float64]]) -> "Moments":
        """Of one batch.

        Parameters
        ----------
        columns
            The finite values of each numeric column; one after the other, they stay in the processor's cache.
        """
        count = np.array([len(values) for values in columns], np.int64)
        missing = np.zeros(len(columns), np.int64)
        if len(columns) and bool((count < block.rows).any()):
            missing = block.missing.sum(axis=0)
        of_each = np.array([_moments(values) for values in columns]).reshape(-1, 6).T
        return cls(count, missing, block.rows - count - missing, *np.ascontiguousarray(of_each))

    def __add__(self, other: "Moments") -> "Moments":
        """Of both."""
        n, m = self.count.astype(np.float64), other.count.astype(np.float64)
        total = n + m
        safe = np.maximum(total, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            delta = np.where((n > 0) & (m > 0), other.mean - self.mean, 0.0)
            step = delta / safe
            mean = np.where(n > 0, np.where(m > 0, self.mean + step * m, self.mean), other.mean)
            pull = delta * step * n * m
            m2 = self.m2 + other.m2 + pull
            m3 = self.m3 + other.m3 + pull * step * (n - m) + 3 * step * (n * other.m2 - m * self.m2)
            m4 = (
                self.m4
                + other.m4
                + pull * step * step * (n * n - n * m + m * m)
                + 6 * step * step * (n * n * other.m2 + m * m * self.m2)
                + 4 * step * (n * other.m3 - m * self.m3)
            )
        return Moments(
            self.count + other.count,
            self.missing + other.missing,
            self.nonfinite + other.nonfinite,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            mean,
            m2,
            m3,
            m4,
        )

    def arrays(self) -> list[NDArray[np.int64] | NDArray[np.float64]]:
        """The fields in order, for the binary form."""
        return [getattr(self, field.name) for field in fields(self)]


def _moments(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Low, high, mean and the central moments of the finite values of one column."""
    from detectors.statistics import compiled

    if len(values) == 0:
        return np.inf, -np.inf, 0.0, 0.0, 0.0, 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # 1e300 to the fourth is inf, which is what is reported
        mean = float(values.mean())
        if compiled.HERE:
            return float(values.min()), float(values.max()), mean, *compiled.powers(values, mean)
        d = values - mean
        squares = d * d
        powers = float(squares.sum()), float(squares @ d), float(squares @ squares)
        return float(values.min()), float(values.max()), mean, *powers
