from typing import ClassVar, Literal

from pydantic import Field
from scipy.special import kl_div, rel_entr
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Score
from detectors.frequencies import frequencies, without_zeros
from detectors.statistics.column import ColumnSummary


class KullbackLeibler(DriftDetector):
    """Kullback-Leibler divergence of the reference from the window, in the same bins or categories.

    ``sum p ln(p / q)`` in nats, p the shares of the reference and q those of the window; at least 0, not symmetric. A bin that is
    empty in one sample gets a small share (1/10,000, or a millionth of the smallest share when that is at most 1/10,000), then each side
    is scaled to add up to 1 again, as in Evidently. Bins as in `jensenshannon`.

    From ruler counts shares are off by at most the window's mass in two bins of the ruler; a bin whose true share is 0 may then hold a
    little, or the other way round, which this logarithm feels more than others do.

    Parameters
    ----------
    threshold
        Drift is declared at or above it. In nats.

    Notes
    -----
    Misleads through its zero filling: a category that vanished from the window weighs ``p ln(p / 0.0001)``, however small the window
    is; one that is new in it weighs next to nothing. Nearest neighbours: `psi`, which adds the divergence the other way round;
    `jensenshannon`, which needs no zero filling.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> old = ColumnSummary("c", "categorical", 10, counts={"a": 9, "b": 1})
    >>> new = ColumnSummary("c", "categorical", 10, counts={"a": 1, "b": 9})
    >>> round(KullbackLeibler().compare(old, new).score, 4)
    1.7578

    References
    ----------
    Kullback & Leibler (1951), Ann. Math. Statist. 22(1).
    """

    direction: ClassVar[Direction] = "distance"
    unit: ClassVar[str] = "nats"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric", "categorical"})

    name: Literal["kl_div"] = "kl_div"
    threshold: float = Field(0.1, gt=0)

    @override
    def score(self, reference: ColumnSummary, window: ColumnSummary) -> Score:
        both = frequencies(reference, window)
        p, q = (without_zeros(shares) for shares in both.shares)
        p, q = p / p.sum(), q / q.sum()
        # scipy's `kl_div` adds q - p to each term: none is negative then, and the sum is the same.
        return Score(max(float(rel_entr(p, q).sum()), 0.0), both.exact, both.explain(kl_div(p, q)))
