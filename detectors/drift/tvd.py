from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Score
from detectors.frequencies import by_category
from detectors.resampling import dealt, tables
from detectors.statistics.column import ColumnSummary


class TotalVariation(DriftDetector):
    """Permutation test of the total variation distance between the shares of categories in reference and window.

    ``TVD = sum |p - q| / 2``; the p-value is the share of 1,000 random divisions of all values, into two samples as large as reference and
    window, whose TVD is at least the one seen. It may be 0, as in Evidently.

    Divisions are drawn as counts, not as rows, and seeded by the counts: the same window has the same p-value everywhere. Its standard
    error is ``sqrt(p (1 - p) / 1000)``, 0.0095 at the threshold of 0.1. Distances are compared as whole numbers, so divisions exactly as far
    apart as the samples count. Evidently compares rounded numbers and loses some of these, in an order that changes from
    process to process: in small samples its p-value is then lower, by the probability of such a tie at most.

    One category in both gives p = 1. Categories beyond the cap of the summary are counted together as one, and the verdict is not exact
    then; nor is it with more than 5e8 values in one sample, which are made fewer in proportion. Cost: 0.1 ms a category, whatever the
    number of rows.

    Parameters
    ----------
    threshold
        Drift is declared below it. A probability.

    Notes
    -----
    Misleads in large windows, where it finds differences too small to matter, and next to the threshold, where the draw decides. Weak
    against a change of a rare category among many: every category counts by how much its share moved. Nearest neighbours: `chisquare` and
    `g_test`, which need no draw but take the reference as the truth; `fisher_exact`, exact for two categories.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> old = ColumnSummary("c", "categorical", 50, counts={"a": 20, "b": 20, "c": 10})
    >>> new = ColumnSummary("c", "categorical", 50, counts={"a": 30, "b": 5, "c": 15})
    >>> verdict = TotalVariation().compare(old, new)
    >>> verdict.score < 0.02, verdict.drifted
    (True, True)

    References
    ----------
    Fisher (1935), The Design of Experiments, section 21; Good (2005), Permutation, Parametric and Bootstrap Tests of Hypotheses.
    """

    direction: ClassVar[Direction] = "p-value"
    strict: ClassVar[bool] = True
    unit: ClassVar[str] = "probability"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"categorical"})

    name: Literal["TVD"] = "TVD"
    threshold: float = Field(0.1, gt=0, le=1)

    @override
    def score(self, reference: ColumnSummary, window: ColumnSummary) -> Score:
        both = by_category(reference, window)
        old, new, exact = tables(both)
        together = old + new

        def far(counts: NDArray[np.int64]) -> NDArray[np.int64]:
            """TVD times twice the product of the sample sizes: a whole number, below 2^60 for the sizes that there are."""
            distances: NDArray[np.int64] = np.abs(counts * together.sum() - together * new.sum()).sum(axis=-1)
            return distances

        p, q = both.shares
        return Score(float(np.mean(far(dealt(old, new)) >= far(new))), exact, both.explain(np.abs(p - q)))
