"""A baseline as a table: what a person wants to know of each of its columns."""

import math
from typing import Any

import numpy as np

from detectors.statistics.column import ColumnSummary
from reference.baseline import FEWEST_ROWS, Baseline, Part

QUARTILES = {"p25": 0.25, "p50": 0.5, "p75": 0.75}
TOP = 5
"""How many of the most frequent categories are told."""


def describe(baseline: Baseline | Part) -> list[dict[str, Any]]:
    """One row a column, features first; what a column has not (the mean of a categorical one) is None.

    Percentiles are exact while the baseline keeps every value; beyond, each is the mark of the ruler at or above it.
    """
    return [
        _row(source, column)
        for source, columns in (("request", baseline.request), ("response", baseline.response))
        for column in columns.values()
    ]


def describe_segments(baseline: Baseline) -> list[dict[str, Any]]:
    """One row a segment that the baseline was built with; `describe` tells of the columns of one."""
    return [
        {
            "segment": name,
            "rows": part.rows,
            "share": part.rows / baseline.rows,
            "compared": part.rows >= FEWEST_ROWS,
        }
        for name, part in baseline.segments.items()
    ]


def _row(source: str, column: ColumnSummary) -> dict[str, Any]:
    numeric = column.type == "numeric" and column.count > 0
    distinct = column.distinct
    if distinct is None and column.counts is not None and not column.unlisted:
        distinct = len(column.counts)
    top: dict[str, int] | None = None
    if column.type == "categorical" and column.counts is not None:
        ordered = sorted(column.counts.items(), key=lambda item: (-item[1], str(item[0])))
        top = {str(category): count for category, count in ordered[:TOP]}
    return {
        "column": column.name,
        "source": source,
        "type": column.type,
        "rows": column.count,
        "missing": column.missing,
        "nonfinite": column.nonfinite,
        "mean": _number(column.mean) if numeric else None,
        "stddev": _number(column.std(ddof=1)) if numeric else None,
        "min": _number(column.low) if numeric else None,
        **dict(zip(QUARTILES, _quartiles(column) if numeric else [None] * len(QUARTILES), strict=True)),
        "max": _number(column.high) if numeric else None,
        "distinct": distinct,
        "top": top,
    }


def _quartiles(column: ColumnSummary) -> list[float | None]:
    ranks = np.array(list(QUARTILES.values()))
    if column.values is not None:
        return [_number(x) for x in np.quantile(column.values, ranks)]
    if column.ruler is None or column.bins is None:
        return [None] * len(ranks)
    ends = np.append(column.ruler.marks, column.high)
    places = np.searchsorted(np.cumsum(column.bins), ranks * column.count)
    return [_number(x) for x in np.clip(ends[places], column.low, column.high)]


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
