import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import special, stats
from typing_extensions import override

from detectors.errors import NotApplicable
from detectors.multivariate.base import FEWEST, FittedMultivariate, Joint, Measured, MultivariateDetector
from detectors.statistics.sample import mixed

_MOST = 1000
_PARTS = 5


class DomainClassifier(MultivariateDetector):
    """ROC AUC of a classifier that learns to tell the window's rows from the reference's.

    Both samples of rows, at most 1,000 of each, are cut into five parts at random. Each of the last four is judged by gradient-boosted trees
    that have learnt from the parts before it; the score is the mean of the four AUCs, weighted by the root of how much was
    learnt. 0.5: the trees can only guess; 1: they tell every row.

    So no row is judged by trees that knew it, nor by trees that knew rows whose judges knew it. In a cross-validation they do, and the
    variance of the mean AUC is up to twice what it seems to be. Here the four are uncorrelated, and chance is that of Mann and Whitney's
    statistic, exactly.

    Trees look at the order of values only: a column's unit does not matter, nor do extreme values. All numeric columns take part. The parts are
    drawn by the rows' keys, so the order of rows does not matter. It costs about 0.1 s a window; with a hundred
    columns 0.3 s, and 1 s when there is something to explain.

    The explanation, given of drift only, shares out by how much the AUC falls when a column's values are dealt out anew among the rows judged.

    Parameters
    ----------
    threshold
        Drift needs at least this AUC, in (0.5, 1). 0.55, Evidently's for embeddings, is what the best classifier has after a shift of one
        column by a sixth of its standard deviation; these trees, with a thousand rows and ten columns, after a shift by a third.
    false_alarm_rate
        Drift needs an AUC that chance has with at most this probability. 0.1 % is an AUC of 0.546 with 1,000 rows in both
        samples, of 0.608 with 100 in the window.

    Notes
    -----
    Misleads where neighbours in time are alike and the window is short: it learns the hour, which differs every hour. What cannot be
    learnt from a thousand rows it does not find however large the window: a change in one row of a hundred, the correlation of
    one pair among thirty columns. Nearest neighbours: `gaussian`, sharper for means and correlations, at a hundredth of the
    cost; `mmd_rff`.

    Examples
    --------
    >>> from detectors.multivariate.base import Joint
    >>> rng, names = np.random.default_rng(1), ("x", "y")
    >>> old, new = rng.normal(size=(1_000, 2)), rng.normal(size=(1_000, 2))
    >>> fitted = DomainClassifier().learn(Joint.of(names, old))
    >>> fitted.compare(Joint.of(names, new)).drifted
    False
    >>> ring = new / np.hypot(*new.T)[:, None] * 2**0.5  # means, variances and correlation as before
    >>> verdict = fitted.compare(Joint.of(names, ring))
    >>> verdict.score > 0.9, verdict.drifted
    (True, True)

    References
    ----------
    Lopez-Paz & Oquab (2017), Revisiting classifier two-sample tests, ICLR; Dawid (1984), Present position and potential developments:
    some personal views, statistical theory, the prequential approach, J. R. Statist. Soc. A 147; Mann & Whitney (1947), Annals of
    Mathematical Statistics 18.
    """

    quick: ClassVar[bool] = False
    needs_sample: ClassVar[bool] = True

    name: Literal["domain_classifier"] = "domain_classifier"
    threshold: float = Field(0.55, gt=0.5, lt=1)

    @override
    def learn(self, reference: Joint) -> "FittedDomainClassifier":
        try:
            import sklearn.ensemble  # noqa: F401 - better to hear of it now than at the first window
        except ImportError:
            msg = f"{self.name!r} learns with scikit-learn, which is not installed: install driftline[learning]"
            raise NotApplicable(msg) from None
        return FittedDomainClassifier(self, self.known(reference), *_drawn(reference, salt=0))


@dataclass(frozen=True, eq=False)
class FittedDomainClassifier(FittedMultivariate):
    """Rows of the reference."""

    rows: NDArray[np.float64]
    """(k, columns)"""
    part: NDArray[np.int64]
    """(k,) the part of each."""

    @override
    def measure(self, window: Joint) -> Measured | None:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # comes with scikit-learn

        # A thousand rows are not worth a second thread, and where other work is done threads that wait for each other take ten times as long.
        with threadpool_limits(1, "openmp"):
            return self._measure(window)

    def _measure(self, window: Joint) -> Measured | None:
        rows, part = _drawn(window, salt=1)
        if len(rows) < FEWEST:
            return None
        x = _ranks(np.concatenate((self.rows, rows)))
        new = np.repeat([False, True], [len(self.rows), len(rows)])
        part = np.concatenate((self.part, part))
        judges = [_trees().fit(x[part < k], new[part < k]) for k in range(1, _PARTS)]
        judged = [(x[part == k], new[part == k]) for k in range(1, _PARTS)]
        found = [_auc(trees.decision_function(z)[None], own) for trees, (z, own) in zip(judges, judged, strict=True)]
        aucs, variances = np.concatenate(found, axis=1)
        weight = np.sqrt(np.arange(1, _PARTS))
        weight /= weight.sum()
        score = float(weight @ aucs)
        limit = 0.5 - math.sqrt(float(weight**2 @ variances)) * float(special.ndtri(self.settings.false_alarm_rate))
        falls = np.zeros(x.shape[1])
        if score >= max(limit, self.settings.threshold):
            # As many judgements as there are columns: only where there is something to explain.
            for k, (trees, (z, own)) in enumerate(zip(judges, judged, strict=True)):
                without = trees.decision_function(_without(z)).reshape(x.shape[1], -1)
                falls += weight[k] * (aucs[k] - _auc(without, own)[0])
        whole = len(rows) == window.comoments.n and len(self.rows) == self.known.rows
        return Measured(score, limit, np.maximum(falls, 0.0)[self.known.scales.columns], whole)


def _trees() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=30, max_leaf_nodes=8, min_samples_leaf=10, max_bins=64, early_stopping=False, random_state=0
    )


def _drawn(joint: Joint, salt: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(k, columns) complete rows of the sample, at most 1,000, and (k,) the part of each: equal parts, drawn by the rows' keys.

    Rows of equal keys go different ways, so that a few distinct rows are in all parts; rows of equal keys in the other sample, too.
    """
    if joint.sample is None:
        return joint.complete(), np.empty(0, np.int64)
    keys = joint.sample.keys[np.isfinite(joint.sample.numeric).all(axis=1)][:_MOST]
    k = len(keys)
    first = np.searchsorted(keys, keys)
    drawn = mixed(mixed(keys + np.uint64(salt)) + (np.arange(k) - first).astype(np.uint64))
    order = np.argsort(drawn, kind="stable")
    return joint.complete()[:_MOST][order], np.arange(k) * _PARTS // max(k, 1)


def _ranks(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, columns) of each value the number of distinct smaller ones in its column."""
    return np.column_stack([np.unique(column, return_inverse=True)[1] for column in rows.T]).astype(np.float64)


def _without(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(columns * n, columns) the rows, once for each column, with its values dealt out anew."""
    n, columns = rows.shape
    dealt = np.tile(rows, (columns, 1, 1))
    order = np.random.default_rng(n).permutation(n)
    every = np.arange(columns)
    dealt[every, :, every] = rows[order].T
    return dealt.reshape(columns * n, columns)


def _auc(scores: NDArray[np.float64], new: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(k,) area under the ROC curve of (k, n) scores, and its variance when they tell nothing."""
    ranks = stats.rankdata(scores, axis=1)
    n, m = int(new.sum()), int((~new).sum())
    auc = (ranks[:, new].sum(axis=1) - n * (n + 1) / 2) / (n * m)
    # The variance of the ranks themselves, which ties make smaller.
    return auc, ranks.var(axis=1, ddof=1) / (n * m * (n + m))
