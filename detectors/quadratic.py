"""Outlier scores that are the squared length of a linear map of the standardised numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from detectors.learned import FittedModel, ModelDetector, Product, Scale, in_order

_RIDGE = 1e-9
_CELLS = 2**20


@dataclass(frozen=True)
class FittedQuadratic(FittedModel):
    """Score ``|R z|^2`` with a symmetric matrix R; the contribution of a number is its own component, squared.

    A number that is not there takes the value that makes the score smallest, so a gap can only lower a score: it is that of the
    numbers that are there (for a Mahalanobis distance: their own distance; for principal components: their residual from the
    components fitted to them alone). A gap's own component is shared out among the others in proportion.
    """

    root: NDArray[np.float64]
    """(used columns, used columns) symmetric."""

    @override
    def quick(self, z: NDArray[np.float64], there: NDArray[np.bool_] | None) -> NDArray[np.float64]:
        if there is not None:
            z = self._filled(z.T, there.T, np.matmul).T
        scores: NDArray[np.float64] = np.square(self.root @ z).sum(axis=0)
        return scores

    @override
    def parts(self, z: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
        lacking = np.flatnonzero(~there.all(axis=1))
        if len(lacking):
            z = z.copy()
            z[lacking] = self._filled(z[lacking], there[lacking], in_order)
        parts: NDArray[np.float64] = np.square(in_order(z, self.root))
        if len(lacking):
            total = parts[lacking].sum(axis=1, keepdims=True)
            parts[lacking] *= there[lacking]
            left = parts[lacking].sum(axis=1, keepdims=True)
            parts[lacking] *= total / np.where(left > 0, left, 1.0)
        return parts

    @cached_property
    def _form(self) -> NDArray[np.float64]:
        """Of which the score is the quadratic form."""
        return self.root @ self.root

    def _filled(self, z: NDArray[np.float64], there: NDArray[np.bool_], product: Product) -> NDArray[np.float64]:
        """(n, used columns) with the numbers in place of the gaps that make the score smallest.

        They solve the linear equations that the form has at the gaps: one matrix for each pattern of gaps.
        """
        z = np.where(there, z, 0.0)
        pull = product(z, self._form)
        lacking = ~there
        gaps = lacking.sum(axis=1)
        for k in np.unique(gaps[(gaps > 0) & (gaps < z.shape[1])]).tolist():
            alike = np.flatnonzero(gaps == k)
            step = max(_CELLS // k**2, 1)
            for start in range(0, len(alike), step):
                rows = alike[start : start + step]
                columns = np.nonzero(lacking[rows])[1].reshape(-1, k)
                patterns, which = np.unique(columns, axis=0, return_inverse=True)
                between = self._form[patterns[:, :, None], patterns[:, None, :]] + _RIDGE * np.eye(k)
                inverse = np.linalg.inv(between)[which.ravel()]
                found = -(inverse * pull[rows[:, None], columns][:, None, :]).sum(axis=2)
                z[rows[:, None], columns] = found
        return z


class QuadraticDetector(ModelDetector):
    """An outlier detector whose model is the matrix R; a subclass says what R is (`learnt` gives it as ``root``)."""

    unit: ClassVar[str] = "squared standard deviations of the reference"

    @override
    def knowing(self, scale: Scale, threshold: float, model: Mapping[str, NDArray[np.float64]]) -> FittedQuadratic:
        return FittedQuadratic(self.name, threshold, scale, model["root"])


def correlations(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """(columns, columns) mean product of two standardised columns over the rows that have both; 0 where no row has.

    Without gaps that is Pearson's correlation. With gaps the columns' means and deviations are those of all their numbers, and the
    matrix may have eigenvalues below zero: its user cuts them.
    """
    there = ~np.isnan(z)
    filled = np.where(there, z, 0.0)
    both = there.astype(np.float64)
    mean: NDArray[np.float64] = (filled.T @ filled) / np.maximum(both.T @ both, 1.0)
    np.fill_diagonal(mean, 1.0)
    return (mean + mean.T) / 2
