from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Score
from detectors.frequencies import frequencies, without_zeros
from detectors.statistics.column import ColumnSummary


class PopulationStability(DriftDetector):
    """Population stability index over the same bins or categories.

    ``sum (p - q) ln(p / q)`` in nats, p and q the shares of reference and window: the Kullback-Leibler divergences both ways together; at
    least 0, symmetric, no upper bound. Empty bins get a small share as in `kl_div` (and are not scaled again, as in Evidently).
    Bins as in `jensenshannon`, not the ten quantile bins of credit scoring.

    From ruler counts shares are off by at most the window's mass in two bins of the ruler; a bin that is truly empty may then hold a
    little, or the other way round, which the logarithm magnifies.

    Parameters
    ----------
    threshold
        Drift is declared at or above it. In nats. Credit scoring reads below 0.1 as stable and above 0.25 as shifted.

    Notes
    -----
    Misleads in small windows: with b bins and n values its expectation without any drift is about ``b / n``, more with empty bins.
    Nearest neighbours: `kl_div`, one of its two halves; `jensenshannon`, bounded and free of zero filling.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> old = ColumnSummary("c", "categorical", 10, counts={"a": 9, "b": 1})
    >>> new = ColumnSummary("c", "categorical", 10, counts={"a": 1, "b": 9})
    >>> round(PopulationStability().compare(old, new).score, 4)
    3.5156

    References
    ----------
    Jeffreys (1946), Proc. R. Soc. A 186; Yurdakul & Naranjo (2020), J. Risk Model Validation 14(4).
    """

    direction: ClassVar[Direction] = "distance"
    unit: ClassVar[str] = "nats"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric", "categorical"})

    name: Literal["psi"] = "psi"
    threshold: float = Field(0.1, gt=0)

    @override
    def score(self, reference: ColumnSummary, window: ColumnSummary) -> Score:
        both = frequencies(reference, window)
        p, q = (without_zeros(shares) for shares in both.shares)
        parts = (p - q) * np.log(p / q)
        return Score(float(parts.sum()), both.exact, both.explain(parts))
