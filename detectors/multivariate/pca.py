import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from detectors.multivariate.base import FittedMultivariate, Joint, Measured, MultivariateDetector
from detectors.multivariate.chance import upper
from detectors.statistics.embedding import MomentFeatures

_ROUNDING = 1e-6


class PcaReconstructionDrift(MultivariateDetector):
    """Change of the error with which the reference's principal components reconstruct rows, relative to what it is in the reference.

    Columns are taken on bounded scales (`Scales`), on which the reference's means are 0 and its standard deviations 1. The components V are
    the fewest that explain the wanted share of the reference's variance; a row z is reconstructed as V V'z. The mean squared error of
    a window is ``tr((I - VV') M)`` with the mean M of the products zz': it is computed from sums over all complete rows. The score is
    ``|error / error of the reference - 1|``: errors that fall are drift, too. It has no unit; 0.1 is a change by a tenth.

    One half of the reference's sample gives the components, the other half the error: of rows that the components have seen it would be too
    small. Variance and skewness of one row's error in that half tell what chance does to the mean of any number of rows.

    Parameters
    ----------
    threshold
        Drift needs at least this change of the error; relative, no unit.
    false_alarm_rate
        Drift needs a change, up or down, that a clean window of this size has with at most this probability.
    explained
        Share of the variance that the components explain, in (0, 1).

    Notes
    -----
    Misleads on what moves along the components: when all columns rise together as they always did, the error stays. Of columns that
    hardly depend on one another some are components of their own, by chance, and nothing in them is seen; the more columns,
    the less a change of one of them is of the whole error. Nearest neighbours: `gaussian`, which looks in all directions; the outlier
    detector `pca_reconstruction`, the same for each row.

    Examples
    --------
    >>> from detectors.multivariate.base import Joint
    >>> rng, names = np.random.default_rng(1), ("length", "width", "weight")
    >>> size = rng.normal(size=(5_000, 1))
    >>> old, new = (size + rng.normal(scale=0.5, size=(5_000, 3)) for _ in range(2))
    >>> reference, method = Joint.of(names, old), PcaReconstructionDrift()
    >>> fitted, features = method.learn(reference), method.embedding(reference)
    >>> fitted.compare(Joint.of(names, new, features)).drifted
    False
    >>> new[:, 2] = rng.permutation(new[:, 2])  # as heavy as ever, but no longer by their size
    >>> verdict = fitted.compare(Joint.of(names, new, features))
    >>> round(verdict.score, 1), verdict.drifted, next(iter(verdict.explanation))
    (2.6, True, 'weight')

    References
    ----------
    Jackson & Mudholkar (1979), Control procedures for residuals associated with principal component analysis, Technometrics 21(3).
    As a drift method: Qahtan, Alharbi, Wang & Zhang (2015), A PCA-based change detection framework for multidimensional data streams,
    KDD, for the components; NannyML for their reconstruction error, and for 65 %.
    """

    name: Literal["pca"] = "pca"
    threshold: float = Field(0.1, gt=0)
    explained: float = Field(0.65, gt=0, lt=1)

    @override
    def embedding(self, reference: Joint) -> MomentFeatures:
        return MomentFeatures(self.known(reference, columns=2).scales)

    @override
    def learn(self, reference: Joint) -> "FittedPca":
        known = self.known(reference, columns=2)
        z = known.scales.bent(reference.complete())
        half = len(z) // 2
        # Means and standard deviations on the bounded scales are 0 and 1.
        values, vectors = np.linalg.eigh(z[:half].T @ z[:half])
        share = np.cumsum(values[::-1]) / values.sum()
        # The small amount is for rounding.
        kept = min(int(np.searchsorted(share, self.explained - 1e-12)) + 1, len(values) - 1)
        root = vectors[:, :-kept] @ vectors[:, :-kept].T
        residuals = (z[half:] @ root) ** 2
        errors = residuals.sum(axis=1)
        far = errors - errors.mean()
        return FittedPca(
            self,
            known,
            features=MomentFeatures(known.scales),
            root=root,
            within=residuals.mean(axis=0),
            rows=len(errors),
            error=float(errors.mean()) + _ROUNDING,
            variance=float((far**2).mean()),
            third=float((far**3).mean()),
        )


@dataclass(frozen=True, eq=False)
class FittedPca(FittedMultivariate):
    """The directions that the components leave out, and the squared errors of rows along them."""

    features: MomentFeatures
    root: NDArray[np.float64]
    """(c, c) projection onto what the components leave out."""
    within: NDArray[np.float64]
    """(c,) each column's mean squared residual in the reference."""
    rows: int
    """How many rows of the reference their errors are known of."""
    error: float
    """Mean squared error of rows of the reference, and a millionth, so that rounding is no drift where they are reconstructed exactly."""
    variance: float
    """Of one row's squared error."""
    third: float
    """Third central moment of one row's squared error."""

    @override
    def measure(self, window: Joint) -> Measured | None:
        if window.embedded is None:
            return None
        n, m = window.embedded.n, self.rows
        _, products = self.features.moments(window.embedded.total / n)
        columns = np.einsum("ij,ji->i", self.root @ products, self.root)
        change = (max(float(columns.sum()), 0.0) + _ROUNDING) / self.error - 1
        variance = self.variance * (1 / n + 1 / m)
        chance = 0.0
        if variance > (_ROUNDING * self.error) ** 2:
            skewness = self.third * (1 / n**2 - 1 / m**2) / variance**1.5
            rate = self.settings.false_alarm_rate / 2
            chance = math.sqrt(variance) * upper(math.copysign(1.0, change) * skewness, rate) / self.error
        return Measured(abs(change), chance, np.abs(columns - self.within))
