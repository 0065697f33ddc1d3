"""How well one column alone tells another one: what a leak, or a model that looks at one feature only, is recognised by.

The feature is cut into at most 64 bins of equal mass (each value its own where there are few; categories as they are; missing values
are a bin). In one half of the rows each bin learns what the target is on average, in the other half that is the prediction; then the halves change
places. So a column that names rows, which tells everything of the rows it was learnt from, tells nothing here.

- Of a numeric target: the share of the variance of its ranks that is explained, so heavy tails have no say.
- Of a class: 2 AUC - 1 of each class against the rest, averaged by how frequent the classes are; the 20 most frequent ones.

References
----------
Hanley & McNeil (1982), The meaning and use of the area under a ROC curve, Radiology 143(1). Kaufman, Rosset, Perlich & Stitelman (2012), Leakage in data
mining, ACM TKDD 6(4).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

FEWEST_ROWS = 100
"""With fewer there is nothing to learn."""
_BINS = 64
_CLASSES = 20
_FEWEST_OF_A_CLASS = 10


def binned(values: Floats) -> Codes:
    """(n,) bins of numbers, from 0 on; the last is for NaN and infinite ones."""
    finite = values[np.isfinite(values)]
    marks = np.unique(finite)
    if len(marks) > _BINS:
        marks = np.unique(np.quantile(finite, np.arange(1, _BINS) / _BINS, method="lower"))
    return np.where(np.isfinite(values), np.searchsorted(marks, values), len(marks) + 1)


def coded(texts: Sequence[str | None]) -> Codes:
    """(n,) a whole number for each category, from 0 on; a missing value is a category here."""
    known: dict[str | None, int] = {}
    return np.array([known.setdefault(text, len(known)) for text in texts], np.int64)


def of_number(feature: Codes, target: Floats) -> float:
    """How well bins tell a number, 0 to 1; NaN with fewer than 100 rows or a constant target.

    >>> x = np.random.default_rng(1).normal(size=2000)
    >>> noise = np.random.default_rng(2).normal(size=2000)
    >>> [round(of_number(binned(x), y), 2) for y in (np.exp(x), x**2, noise)]
    [1.0, 1.0, 0.0]
    """
    usable = np.isfinite(target)
    feature, target = feature[usable], target[usable]
    if len(target) < FEWEST_ROWS or target.min() == target.max():
        return math.nan
    ranks = stats.rankdata(target)
    left = ranks - _learnt(feature, ranks)
    return float(np.clip(1 - (left @ left) / (len(ranks) * ranks.var()), 0, 1))


def of_class(feature: Codes, target: Codes) -> float:
    """How well bins tell a class, 0 to 1; NaN with fewer than 100 rows or a single class.

    Parameters
    ----------
    target
        (n,) from 0 on; -1 where it is missing.
    """
    usable = target >= 0
    feature, target = feature[usable], target[usable]
    rows = len(target)
    if rows < FEWEST_ROWS:
        return math.nan
    sizes = np.bincount(target)
    most = np.argsort(-sizes, kind="stable")[:_CLASSES]
    judged = [c for c in most.tolist() if _FEWEST_OF_A_CLASS <= sizes[c] <= rows - _FEWEST_OF_A_CLASS]
    if not judged:
        return math.nan
    ginis = []
    for c in judged:
        hit = (target == c).astype(np.float64)
        ranks, n = stats.rankdata(_learnt(feature, hit)), float(sizes[c])
        auc = (ranks @ hit - n * (n + 1) / 2) / (n * (rows - n))
        ginis.append(2 * auc - 1)
    return float(np.clip(np.average(ginis, weights=sizes[judged]), 0, 1))


def _learnt(feature: Codes, target: Floats) -> Floats:
    """(n,) the mean target of each row's bin in the half of the rows that it is not in; of all of that half where it has none."""
    said = np.empty(len(target))
    halves = np.arange(len(target)) % 2
    bins = int(feature.max(initial=0)) + 1
    for half in (0, 1):
        seen, unseen = halves != half, halves == half
        counts = np.bincount(feature[seen], minlength=bins)
        sums = np.bincount(feature[seen], weights=target[seen], minlength=bins)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), target[seen].mean())
        said[unseen] = means[feature[unseen]]
    return said
