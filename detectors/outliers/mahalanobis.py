from typing import Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from detectors.quadratic import QuadraticDetector, correlations

_SMALLEST = 1e-6


class Mahalanobis(QuadraticDetector):
    """Flags an instance whose numbers lie far from the mean of the reference, measured along its correlations.

    Score: the squared Mahalanobis distance ``d^2 = (x - mean)' S^-1 (x - mean)`` with mean and (population) covariance S of the
    reference. Its unit is a squared standard deviation; for normal features it is chi-squared distributed with as many degrees of
    freedom as there are columns.

    Contribution of a number: its squared component of the whitened row ``w = P^(-1/2) z``, where z is the row in standard
    deviations and P the correlation matrix. Of all whitenings this one (ZCA-cor) has each component closest to the number that it
    stands for. The squares add up to d^2, and none is negative, as they may be in ``z_j (P^-1 z)_j``.

    One half of the rows gives mean and covariance, the other half the threshold (see `threshold_of` in `detectors.learned`; with fewer than
    ``1 / falseAlarmRate`` rows in it, the largest score). Columns that are constant in the reference are left out. Eigenvalues of P
    below 1e-6 are raised to it: where columns depend on one another exactly, an instance that breaks the rule is far out, but
    rounding (to a thousandth of a standard deviation) is not.

    Missing and non-finite numbers are left out of the distance, which is then that of the others; it is never larger than with
    them. An instance without any number is not judged (NaN). Numbers beyond a million standard deviations count as a million.

    Notes
    -----
    Misleads when the reference has outliers itself, which widen the covariance until they hide; when it has fewer than some ten rows
    a column; and on features with several clusters, whose middle is empty but has distance 0. Skewed features use up the false
    alarms that are allowed on their long side. Nearest neighbours: `k_sigma`, the same column by column; `pca_reconstruction`, which
    only looks across the main directions; `isolation_forest`, which assumes no shape.

    Examples
    --------
    >>> from detectors.base import FittingColumn
    >>> from detectors.statistics.block import Block
    >>> from detectors.statistics.column import ColumnSummary
    >>> rng = np.random.default_rng(1)
    >>> size = rng.normal(size=20_000)
    >>> rows = np.column_stack((size, size + rng.normal(scale=0.1, size=20_000)))
    >>> columns = [FittingColumn(ColumnSummary(name, "numeric", 20_000)) for name in ("length", "weight")]
    >>> fitted = Mahalanobis().fitted(columns, Mahalanobis().learn(rows))
    >>> flagged = fitted.flag(Block(np.array([[2.0, 2.0], [1.0, -1.0]]), np.zeros((2, 2), bool)))
    >>> flagged.rows.tolist(), flagged.contributions.round().tolist()
    ([1], [207.0, 207.0])

    References
    ----------
    Mahalanobis (1936), Proc. Nat. Inst. Sci. India 2(1). Garthwaite & Koch (2016), Evaluating the contributions of individual variables to
    a quadratic form, Aust. N. Z. J. Stat. 58(1). Kessy, Lewin & Strimmer (2018), Optimal whitening and decorrelation, The
    American Statistician 72(4).
    """

    name: Literal["mahalanobis"] = "mahalanobis"

    @override
    def learnt(self, z: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        values, vectors = np.linalg.eigh(correlations(z))
        return {"root": (vectors / np.sqrt(np.maximum(values, _SMALLEST))) @ vectors.T}
