from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from detectors.quadratic import QuadraticDetector, correlations


class PcaReconstruction(QuadraticDetector):
    """Flags an instance that the main directions of the reference cannot reproduce.

    Score: ``|z - V V' z|^2``, the squared distance of the row z (in standard deviations of the reference) to the plane that the k
    principal components V of the reference's correlation matrix span; k is the fewest that explain the wanted share of the variance, and
    at most one less than there are columns. In statistical process control this is the Q statistic, or SPE. Contribution of a
    number: its squared residual. Unit: a squared standard deviation.

    One half of the rows gives the components, the other half the threshold (see `threshold_of` in `detectors.learned`; with fewer than
    ``1 / falseAlarmRate`` rows in it, the largest score). Columns that are constant in the reference are left out. The threshold is at least
    1e-6 for each column: where the components reproduce the reference exactly, rounding is no outlier.

    The components are fitted to the numbers that are there: a missing or non-finite one contributes 0, and the residual is never larger
    than with it. An instance without any number is not judged (NaN). Numbers beyond a million standard deviations count as a million.

    Parameters
    ----------
    explained
        Share of the variance that the components explain, in (0, 1).

    Notes
    -----
    Misleads on what moves along the components, however far: of features that hardly depend on one another some are components of their
    own, and nothing in them is ever flagged. It asks whether the features still go together, not whether they are large.
    Nearest neighbours: `mahalanobis`, which looks in all directions; `autoencoder`, the same with a curved surface for a plane.

    Examples
    --------
    >>> from detectors.base import FittingColumn
    >>> from detectors.statistics.block import Block
    >>> from detectors.statistics.column import ColumnSummary
    >>> rng = np.random.default_rng(1)
    >>> size = rng.normal(size=20_000)
    >>> rows = np.column_stack((size, size + rng.normal(scale=0.1, size=20_000)))
    >>> columns = [FittingColumn(ColumnSummary(name, "numeric", 20_000)) for name in ("length", "weight")]
    >>> fitted = PcaReconstruction().fitted(columns, PcaReconstruction().learn(rows))
    >>> flagged = fitted.flag(Block(np.array([[9.0, 9.0], [1.0, -1.0]]), np.zeros((2, 2), bool)))
    >>> flagged.rows.tolist(), flagged.contributions.round(1).tolist()
    ([1], [1.0, 1.0])

    References
    ----------
    Jackson & Mudholkar (1979), Control procedures for residuals associated with principal component analysis, Technometrics 21(3).
    Nelson, Taylor & MacGregor (1996), Missing data methods in PCA and PLS, Chemom. Intell. Lab. Syst. 35(1).
    """

    name: Literal["pca_reconstruction"] = "pca_reconstruction"
    explained: float = Field(0.95, gt=0, lt=1)

    @override
    def learnt(self, z: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        values, vectors = np.linalg.eigh(correlations(z))
        variances = np.maximum(values[::-1], 0.0)
        share = np.cumsum(variances) / variances.sum()
        # The small amount is for rounding.
        k = min(int(np.searchsorted(share, self.explained - 1e-12)) + 1, len(values) - 1)
        left = vectors[:, : len(values) - k]
        return {"root": left @ left.T}
