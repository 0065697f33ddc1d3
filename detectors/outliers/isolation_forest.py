from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from detectors.errors import NotApplicable
from detectors.learned import FittedModel, ModelDetector, Scale

_SEED = 1
_ROWS = 500
"""Rows that walk down all trees together, so that where they are stays in the processor's cache."""


class IsolationForest(ModelDetector):
    """Flags an instance that few random splits are enough to set apart from the reference.

    Each of the trees splits a few rows of the reference at random places of random columns until every row is alone. Score:
    ``2^(-h / c(sample size))``, where h is the mean depth at which the instance ends, plus the depth ``c(m)`` that was still
    expected of the m rows that end there too: ``c(m) = 2 (ln(m - 1) + 0.5772) - 2 (m - 1) / m``, with c(1) = 0 and c(2) = 1. Above
    0.5 is shallower than the average, near 1 alone at once. Dimensionless.

    Contribution of a number: a split that leaves an instance with m of k rows has brought it ``c(k) - c(m) - 1`` splits closer to being alone
    than expected, which is credited to the split's column. Over the path these credits add up to ``c(sample size) - depth``. The
    score is shared out in proportion to each column's mean credit over the trees, none where that is negative: such a column says
    that the instance is ordinary.

    One half of the rows grows the trees, the other half gives the threshold (see `threshold_of` in `detectors.learned`; with fewer than
    ``1 / falseAlarmRate`` rows in it, the largest score). Columns that are constant in the reference are left out. A missing or non-finite
    number is replaced by the median of the reference and contributes 0. An instance without any number is not judged (NaN).

    Growing is scikit-learn's (with a fixed seed), on standardised numbers of single precision; scoring needs numpy only and is the same.

    Parameters
    ----------
    trees
        How many; more make the score less noisy, and as much slower.
    sample_size
        Rows of the reference that each tree splits; the depth of a tree is at most its binary logarithm.

    Notes
    -----
    Misleads on an instance that is far out in one of many columns: only the splits of that column can see it, and none of them lies
    beyond the outermost row that its tree has seen, so that a thousand standard deviations score no more than four. It prefers
    directions along the axes. Nearest neighbours: `mahalanobis`, far better where the features are roughly normal;
    `autoencoder`.

    Examples
    --------
    >>> from detectors.base import FittingColumn
    >>> from detectors.statistics.block import Block
    >>> from detectors.statistics.column import ColumnSummary
    >>> rows = np.random.default_rng(1).normal(size=(4000, 2))
    >>> columns = [FittingColumn(ColumnSummary(name, "numeric", 4000)) for name in ("x", "y")]
    >>> fitted = IsolationForest().fitted(columns, IsolationForest().learn(rows))
    >>> flagged = fitted.flag(Block(np.array([[0.0, 0.0], [5.0, -5.0]]), np.zeros((2, 2), bool)))
    >>> flagged.rows.tolist(), flagged.cell_columns.tolist()
    ([1], [0, 1])

    References
    ----------
    Liu, Ting & Zhou (2008), Isolation forest, ICDM. Carletti, Terzi & Susto (2023), Interpretable anomaly detection with DIFFI, Eng. Appl. AI
    119; Saabas (2014), Interpreting random forests (credits along the path that add up).
    """

    unit: ClassVar[str] = "2^(-depth / expected depth)"

    name: Literal["isolation_forest"] = "isolation_forest"
    trees: int = Field(100, ge=1, le=500)
    sample_size: int = Field(256, ge=2, le=4096)

    @override
    def learnt(self, z: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        try:
            from sklearn.ensemble import IsolationForest as Forest
        except ImportError:
            msg = f"{self.name!r} learns with scikit-learn, which is not installed: install driftline[learning]"
            raise NotApplicable(msg) from None
        # The mean may lie where no row is, a median of the lower kind cannot.
        neutral = np.nanquantile(z, 0.5, axis=0, method="lower")
        forest = Forest(n_estimators=self.trees, max_samples=min(self.sample_size, len(z)), random_state=_SEED)
        forest.fit(np.where(np.isnan(z), neutral, z).astype(np.float32))
        depth = max(estimator.tree_.max_depth for estimator in forest.estimators_)
        grown = [_laid_out(estimator.tree_, depth) for estimator in forest.estimators_]
        column, split, rows = (np.array(arrays, np.float64) for arrays in zip(*grown, strict=True))
        return {"neutral": neutral, "column": column, "split": split, "rows": rows}

    @override
    def knowing(self, scale: Scale, threshold: float, model: Mapping[str, NDArray[np.float64]]) -> "FittedForest":
        names = ("neutral", "column", "split", "rows")
        return FittedForest(self.name, threshold, scale, *(model[name] for name in names))


def _laid_out(tree: Any, depth: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A tree of scikit-learn as a complete one, node k above nodes 2k + 1 and 2k + 2.

    Returns
    -------
    column
        (2^depth - 1,) what each inner node splits; -1 where the tree has ended.
    split
        (2^depth - 1,) up to here an instance goes left; infinite where the tree has ended, so that all do.
    rows
        (2^(depth + 1) - 1,) how many rows of the sample come by; below a leaf as many as in it.
    """
    levels = [np.zeros(1, np.int64)]
    for _ in range(depth):
        above = levels[-1]
        left, right = tree.children_left[above], tree.children_right[above]
        below = np.where(left < 0, above, (left, right))
        levels.append(below.T.ravel())
    node, upper = np.concatenate(levels), np.concatenate(levels[:-1] or [np.empty(0, np.int64)])
    ended = tree.children_left[upper] < 0
    return (
        np.where(ended, -1.0, tree.feature[upper]),
        np.where(ended, np.inf, tree.threshold[upper]),
        tree.n_node_samples[node].astype(np.float64),
    )


def _expected_depth(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean number of splits until one of so many rows is alone; the c of the paper."""
    many = np.maximum(rows, 3.0)
    depth = 2 * (np.log(many - 1) + np.euler_gamma) - 2 * (many - 1) / many
    return np.where(rows > 2, depth, np.where(rows == 2, 1.0, 0.0))


@dataclass(frozen=True)
class FittedForest(FittedModel):
    """The trees, laid out as complete ones of one depth: node k is above nodes 2k + 1 and 2k + 2."""

    instead: NDArray[np.float64]
    """(used columns,) standardised median, which takes the place of a number that is not there."""
    column: NDArray[np.float64]
    """(trees, inner nodes) what each node splits; -1 where the tree has ended."""
    split: NDArray[np.float64]
    """(trees, inner nodes) up to here an instance goes left; infinite where the tree has ended."""
    rows: NDArray[np.float64]
    """(trees, nodes) how many rows of the tree's sample come by."""

    @property
    @override
    def neutral(self) -> NDArray[np.float64]:
        return self.instead

    @override
    def quick(self, z: NDArray[np.float64], there: NDArray[np.bool_] | None) -> NDArray[np.float64]:
        scores = np.empty(z.shape[1])
        for start in range(0, z.shape[1], _ROWS):
            *_, ends = self._paths(z[:, start : start + _ROWS])
            scores[start : start + _ROWS] = self._scores(ends)
        return scores

    @override
    def parts(self, z: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
        if len(z) == 0:
            return np.zeros(z.shape)
        return np.concatenate([self._parts(z[i : i + _ROWS], there[i : i + _ROWS]) for i in range(0, len(z), _ROWS)])

    def _parts(self, z: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
        credit = np.zeros(z.size)
        first = np.arange(len(z)) * z.shape[1]
        ends = np.empty(0, np.int32)
        for ends in self._paths(z.T):
            # Level by level, and tree by tree in each: so the sum of a cell does not depend on the other rows.
            where, gain = first + self._tables.by[ends], self._tables.gain[ends]
            credit += np.bincount(where.ravel(), weights=gain.ravel(), minlength=z.size)
        share = np.maximum(credit.reshape(z.shape), 0.0) * there
        total = share.sum(axis=1, keepdims=True)
        share = np.where(total > 0, share, there)
        share /= np.where(total > 0, total, there.sum(axis=1, keepdims=True))
        return share * self._scores(ends)[:, None]

    def _scores(self, ends: NDArray[np.int32]) -> NDArray[np.float64]:
        """(n,) from the (trees, n) nodes of the lowest level."""
        depth = np.zeros(ends.shape[1])
        # One tree after the other: numpy's own sum over trees depends on how many rows there are.
        for tree in self._tables.depth[ends]:
            depth += tree
        return np.exp2(-depth / (len(ends) * _expected_depth(self.rows[0, 0])))

    def _paths(self, z: NDArray[np.float64]) -> Iterator[NDArray[np.int32]]:
        """(trees, n) the nodes that (used columns, n) rows come by: the roots, and so on down to the lowest level."""
        (trees, nodes), tables, n = self.rows.shape, self._tables, np.int32(z.shape[1])
        x = z.astype(np.float32).ravel()
        row = np.arange(n, dtype=np.int32)
        # Tree t has the nodes from t times nodes on.
        first = (np.arange(trees, dtype=np.int32) * np.int32(nodes))[:, None]
        cell = tables.column * n
        at = first + np.zeros(n, np.int32)
        yield at
        for _ in range(nodes.bit_length() - 1):
            where = cell.take(at)
            where += row
            right = x.take(where) > tables.split.take(at)
            at = at + at
            at += right
            at += 1 - first
            yield at

    @cached_property
    def _tables(self) -> "_Tables":
        trees, nodes = self.rows.shape
        inner, expected = nodes // 2, _expected_depth(self.rows)
        # An instance is compared in single precision; the next such number below a split tells the same ones apart.
        single = self.split.astype(np.float32)
        single = np.where(single > self.split, np.nextafter(single, np.float32(-np.inf)), single)
        column, split = np.zeros((trees, nodes), np.int32), np.full((trees, nodes), np.inf, np.float32)
        column[:, :inner], split[:, :inner] = np.maximum(self.column, 0), single
        above = np.arange(nodes - 1) // 2
        real = self.column[:, above] >= 0
        by, gain, depth = np.zeros((trees, nodes), np.int32), np.zeros((trees, nodes)), np.zeros((trees, nodes))
        by[:, 1:] = column[:, above]
        gain[:, 1:] = np.where(real, expected[:, above] - expected[:, 1:] - 1, 0.0)
        for level in range(1, nodes.bit_length()):
            here = np.arange(2**level - 1, 2 ** (level + 1) - 1)
            depth[:, here] = depth[:, above[here - 1]] + real[:, here - 1]
        return _Tables(column.ravel(), split.ravel(), (depth + expected).ravel(), by.ravel(), gain.ravel())


@dataclass(frozen=True, slots=True)
class _Tables:
    """What a walk looks up; of all nodes of all trees, end to end."""

    column: NDArray[np.int32]
    """What the node splits."""
    split: NDArray[np.float32]
    """Up to here an instance goes left."""
    depth: NDArray[np.float64]
    """Expected number of splits, of an instance that ends here."""
    by: NDArray[np.int32]
    """What the node above splits."""
    gain: NDArray[np.float64]
    """How many splits closer to its end the split above has brought an instance than expected."""
