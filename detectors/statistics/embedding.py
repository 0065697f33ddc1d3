"""Sums of random features of rows: what a kernel two-sample test needs, without the rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Embedding:
    """Random Fourier features of a Gaussian kernel: ``sqrt(2/D) cos(scaled rows @ weights + phases)``.

    References
    ----------
    Rahimi & Recht (2007), Random features for large-scale kernel machines, NIPS.
    """

    mean: NDArray[np.float64]
    """(columns,) subtracted from a row."""
    scale: NDArray[np.float64]
    """(columns,) then divided by this; positive."""
    weights: NDArray[np.float64]
    """(columns, D)"""
    phases: NDArray[np.float64]
    """(D,) in [0, 2 pi)."""

    @property
    def size(self) -> int:
        """Number of features D."""
        return len(self.phases)

    def of(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, D) features of (n, columns) finite values."""
        with np.errstate(over="ignore", invalid="ignore"):
            # Values so far out that a cosine means nothing are all taken as equally far.
            z = np.clip((rows - self.mean) / self.scale, -1e6, 1e6)
        features: NDArray[np.float64] = np.cos(z @ self.weights + self.phases)
        features *= np.sqrt(2 / self.size)
        return features


@dataclass(frozen=True, slots=True)
class EmbeddingSum:
    """How many rows, and the sum of their features."""

    n: int
    total: NDArray[np.float64]
    """(D,)"""

    @classmethod
    def empty(cls, size: int) -> "EmbeddingSum":
        """Of no rows: the neutral element of `+`."""
        return cls(0, np.zeros(size))

    @classmethod
    def of(cls, embedding: Embedding, rows: NDArray[np.float64]) -> "EmbeddingSum":
        """Of (n, columns) finite values."""
        return cls(len(rows), embedding.of(rows).sum(axis=0))

    def __add__(self, other: "EmbeddingSum") -> "EmbeddingSum":
        return EmbeddingSum(self.n + other.n, self.total + other.total)
