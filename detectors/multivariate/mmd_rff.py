import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import special
from scipy.spatial.distance import pdist
from typing_extensions import override

from detectors.multivariate.base import FittedMultivariate, Joint, Known, Measured, MultivariateDetector
from detectors.multivariate.chance import SquaredDistance
from detectors.statistics.embedding import FourierFeatures
from detectors.statistics.sample import mixed

_FEW = 1000
"""Rows of the reference whose distances and products are looked at."""


class MaximumMeanDiscrepancy(MultivariateDetector):
    """Maximum mean discrepancy of window and reference, by random Fourier features.

    Score: the distance between the mean feature vectors of the two, less what chance adds to its square on average; 0 where chance adds more
    than there is. It has no unit and is below 1.42. The kernel is ``exp(-|x - y|² / 2 h²)`` of rows on bounded scales (`Scales`), with h half
    the median distance between rows of the reference. With infinitely many features the distance is 0 for equal distributions only;
    F random frequencies, so 2 F features, give its square with a standard error below ``2 / sqrt(F)``, and small scores, for which most
    frequencies differ alike, within a tenth. The features add up: the score is computed from sums over all complete rows, at about 1 µs a
    row of 30 columns with 128 frequencies.

    What chance does is learnt from products of the features of the reference's rows, for the very frequencies in use:
    nothing is assumed of the rows, and the approximation makes no false alarm.

    Parameters
    ----------
    threshold
        Drift needs at least this distance: 0.03 is about a shift of one of 10 independent normal columns by 0.17 standard
        deviations, of one of 30 by 0.3, or two of 10 correlated by 0.5.
    false_alarm_rate
        Drift needs a distance that a clean window of this size has with at most this probability.
    frequencies
        Number F of random frequencies. Fewer are less work, more find what few do not look at.
    bandwidth
        h as a multiple of the median distance between rows of the reference. The median itself, which is usual, finds shifts as
        well as half of it, but changes of variance and of correlation half as well.

    Notes
    -----
    Misleads with many columns: rows are then all about equally far from each other, and a change in one column drowns. What a few
    rows do moves a mean of bounded features by their share at most. Nearest neighbours: `domain_classifier`, which looks for the columns
    that matter; `gaussian`, sharper for means and covariances.

    Examples
    --------
    >>> from detectors.multivariate.base import Joint
    >>> rng, names = np.random.default_rng(1), ("x", "y")
    >>> old, new = rng.normal(size=(5_000, 2)), rng.normal(size=(1_000, 2))
    >>> reference, method = Joint.of(names, old), MaximumMeanDiscrepancy()
    >>> fitted, features = method.learn(reference), method.embedding(reference)
    >>> fitted.compare(Joint.of(names, new, features)).drifted
    False
    >>> ring = new / np.hypot(*new.T)[:, None] * 2**0.5  # means, variances and correlation as before
    >>> verdict = fitted.compare(Joint.of(names, ring, features))
    >>> round(verdict.score, 1), verdict.drifted
    (0.2, True)

    References
    ----------
    Gretton, Borgwardt, Rasch, Schölkopf & Smola (2012), A kernel two-sample test, JMLR 13; Rahimi & Recht (2007), Random features
    for large-scale kernel machines, NIPS; Zhao & Meng (2015), FastMMD, Neural Computation 27.
    """

    name: Literal["mmd_rff"] = "mmd_rff"
    threshold: float = Field(0.03, gt=0)
    frequencies: int = Field(128, ge=16, le=4096)
    bandwidth: float = Field(0.5, gt=0)

    @override
    def embedding(self, reference: Joint) -> FourierFeatures:
        return self._features(self.known(reference), reference.complete()[:_FEW])

    @override
    def learn(self, reference: Joint) -> "FittedMmd":
        known = self.known(reference)
        complete = reference.complete()
        features = self._features(known, complete[:_FEW])
        few = features.of(known.scales.bent(complete[:_FEW]))
        k = len(complete)
        mean = features.total(complete) / k
        # A row's own product is 1.
        chance = SquaredDistance.of(few @ few.T, (1 - float(mean @ mean)) * k / (k - 1), self.false_alarm_rate)
        return FittedMmd(self, known, mean=mean, chance=chance, look=features.weights**2)

    def _features(self, known: Known, rows: NDArray[np.float64]) -> FourierFeatures:
        median = float(np.median(pdist(known.scales.bent(rows))))
        bandwidth = self.bandwidth * (median if median > 0 else 1.0)
        shape = (len(known.names), self.frequencies)
        # A generator of a library may draw other numbers in another version of it; windows are compared across versions.
        bits = mixed(mixed(np.arange(math.prod(shape), dtype=np.uint64)))
        uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        return FourierFeatures(known.scales, special.ndtri(uniform).reshape(shape) / bandwidth)


@dataclass(frozen=True, eq=False)
class FittedMmd(FittedMultivariate):
    """The mean feature vector of the reference, and what chance does to it."""

    mean: NDArray[np.float64]
    """(2 F,)"""
    chance: SquaredDistance
    look: NDArray[np.float64]
    """(c, F) squared weights: how much a frequency looks along a column."""

    @override
    def measure(self, window: Joint) -> Measured | None:
        if window.embedded is None:
            return None
        n, m = window.embedded.n, self.known.rows
        half = len(self.mean) // 2
        difference = (window.embedded.total / n - self.mean) ** 2
        squared = float(difference.sum()) - self.chance.mean(n, m)
        limit = self.chance.upper(n, m)
        by_chance = (1 / half - self.mean[:half] ** 2 - self.mean[half:] ** 2) * (1 / n + 1 / m)
        excess = difference[:half] + difference[half:] - by_chance
        # How much more of the difference there is at frequencies that look along a column than at others.
        parts = np.maximum((self.look - self.look.mean(axis=1, keepdims=True)) @ excess, 0.0)
        return Measured(math.sqrt(max(squared, 0.0)), math.sqrt(max(limit, 0.0)), parts, exact=False)
