from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Score
from detectors.distribution import apart, pair, spread
from detectors.frequencies import bin_label, largest, sturges_edges
from detectors.statistics.column import ColumnSummary

_SMALLEST_STD = 0.001


class Wasserstein(DriftDetector):
    """Wasserstein (earth mover's) distance, in standard deviations of the reference.

    ``integral of |F_ref(x) - F_win(x)| dx / max(std_ref, 0.001)``: how far the values must be moved on average to turn one
    sample into the other. The population standard deviation, as in Evidently.

    From ruler counts the integral is exact over every bin in which one cumulative distribution stays above the other
    (sums give it), so also over all the tails. In a bin where they cross it is off by at most the mass of the
    reference and of the window there times the bin's width.

    Parameters
    ----------
    threshold
        Drift is declared at or above it. In standard deviations of the reference.

    Notes
    -----
    Misleads when a few huge values make the standard deviation of the reference large: everything else may then drift
    unseen (`ks` looks at ranks and does not mind). A reference with standard deviation below 0.001, in whatever unit the
    feature has, is divided by 0.001: rescale such features. A constant column that stays what it was scores 0.
    Nearest neighbours: `ed` squares the same difference, `ks` takes its maximum.

    Examples
    --------
    >>> import numpy as np
    >>> from detectors.statistics.column import ColumnSummary
    >>> def column(x):
    ...     x = np.array(x)
    ...     return ColumnSummary(
    ...         "x", "numeric", len(x), low=x[0], high=x[-1], mean=x.mean(), m2=((x - x.mean()) ** 2).sum(), values=x
    ...     )
    >>> Wasserstein().compare(column([0.0, 1.0, 2.0]), column([1.0, 2.0, 3.0])).score.__round__(4)
    1.2247

    References
    ----------
    Vallender (1974), Theory Probab. Appl. 18(4); Ramdas, García Trillos & Cuturi (2017), Entropy 19(2).
    """

    direction: ClassVar[Direction] = "distance"
    unit: ClassVar[str] = "standard deviations of the reference"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric"})

    name: Literal["wasserstein"] = "wasserstein"
    threshold: float = Field(0.1, gt=0)

    @override
    def score(self, reference: ColumnSummary, window: ColumnSummary) -> Score:
        p, q = pair(reference, window)
        edges = sturges_edges(p.total + q.total, min(p.low, q.low), max(p.high, q.high))
        moved = apart(p, q, 1, edges)
        return Score(
            float(moved.sum()) / max(spread(reference), _SMALLEST_STD) * 4,
            p.exact and q.exact,
            largest(moved, lambda i: bin_label(edges, i)),
        )
