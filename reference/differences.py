"""Two baselines column by column."""

import math
from typing import Any

from reference.baseline import Baseline
from reference.describe import describe
from reference.judge import displacement

_PAIRS = ("mean", "stddev", "min", "p25", "p50", "p75", "max", "distinct")


def differences(a: Baseline, b: Baseline) -> list[dict[str, Any]]:
    """One row for each column that both have as the same type, in the order of `a`; each number is a pair, of `a` and of `b`.

    `missing` is a share of the rows, `gained` and `lost` are categories, and `displacement` is as `reference.judge.displacement` says.
    """
    rows = {(row["source"], row["column"], row["type"]): row for row in describe(b)}
    found = []
    for row in describe(a):
        source, column, kind = row["source"], row["column"], row["type"]
        other = rows.get((source, column, kind))
        if other is None:
            continue
        old, new = a.columns(source)[column], b.columns(source)[column]
        moved = displacement(old, new)
        gained, lost = set(new.counts or ()) - set(old.counts or ()), set(old.counts or ()) - set(new.counts or ())
        found.append(
            {
                "column": column,
                "source": source,
                "type": kind,
                "rows": [row["rows"], other["rows"]],
                "missing": [_missing(row), _missing(other)],
                **{name: [row[name], other[name]] for name in _PAIRS},
                "gained": sorted(map(str, gained)) if kind == "categorical" else [],
                "lost": sorted(map(str, lost)) if kind == "categorical" else [],
                "displacement": moved if math.isfinite(moved) else None,
            }
        )
    return found


def _missing(row: dict[str, Any]) -> float:
    return float(row["missing"] / max(row["rows"] + row["missing"] + row["nonfinite"], 1))
