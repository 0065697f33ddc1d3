"""Build a baseline from a training table: rulers first, then the same fold and merge that windows get."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import numpy as np
import pyarrow as pa

from detectors.statistics.block import Block
from detectors.statistics.column import ColumnSummary
from detectors.statistics.comoments import CoMoments
from detectors.statistics.ruler import Ruler
from detectors.statistics.table import Plan, TableSummary, summarise
from reference.baseline import FEW_VALUES, Baseline
from reference.errors import UnusableData
from reference.schema import Model, Schema
from reference.settings import Reference
from reference.table import blocks


def build(
    table: pa.Table,
    model: Model,
    settings: Reference,
    progress: Callable[[float], None] = lambda _: None,
) -> Baseline:
    """The baseline of a training table.

    Parameters
    ----------
    table
        One row an instance; columns named like the model's features and, where it has them, predictions.
    progress
        Told the share that is done, 0 to 1.

    Raises
    ------
    UnusableData
        When the table has no rows, lacks a feature, or holds text where the model says numeric.
    """
    absent = [column.name for column in model.features if column.name not in table.column_names]
    if absent:
        msg = f"the training table lacks the features {absent}: it has {table.column_names}"
        raise UnusableData(msg)
    if table.num_rows == 0:
        msg = "the training table has no rows: a baseline needs some"
        raise UnusableData(msg)
    predictions = Schema(tuple(column for column in model.predictions if column.name in table.column_names))
    request, comoments = _columns(table, model.request_schema, settings, lambda done: progress(done * 0.9))
    response, _ = _columns(table, predictions, settings, lambda done: progress(0.9 + done * 0.1))
    assert model.name is not None  # a ModelMonitor fills it in
    created = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Baseline(model.name, model.version, table.num_rows, request, response, comoments, created)


def _columns(
    table: pa.Table, schema: Schema, settings: Reference, progress: Callable[[float], None]
) -> tuple[dict[str, ColumnSummary], CoMoments | None]:
    """The summary of every column of one schema."""
    if not len(schema):
        return {}, None
    parts = list(blocks(table, schema))
    ordered = [_sorted_values(parts, j) for j in range(len(schema.numeric))]
    rulers = tuple(Ruler.of(values, settings.resolution) for values in ordered)
    few = {j: frozenset(known) for j, values in enumerate(ordered) if (known := _few_values(values)) is not None}
    plan = Plan(
        numeric=tuple(column.name for column in schema.numeric),
        categorical=tuple(column.name for column in schema.categorical),
        rulers=rulers,
        discrete=few,
        listed=tuple(frozenset(column.categories or ()) for column in schema.categorical),
        percentiles=False,  # the reference's are exact: its values, or its ruler's marks
        comoments=len(schema.numeric) > 1,
        max_categories=max(table.num_rows, 1),  # all of them: they are in memory anyhow
    )
    total = TableSummary.empty(plan)
    for done, part in enumerate(parts, 1):
        total += summarise(plan, part)
        progress(done / len(parts))
    kept = {
        column.name: (values if table.num_rows <= settings.raw_rows else None, _distinct(values))
        for column, values in zip(schema.numeric, ordered, strict=True)
    }
    columns = {}
    for column in schema.columns:
        summary = total.column(column.name)
        if column.name in kept:
            values, distinct = kept[column.name]
            summary = replace(summary, values=values, distinct=distinct)
        elif column.type == "categorical":
            summary = _most_frequent(summary, settings.max_categories, frozenset(column.categories or ()))
        columns[column.name] = summary
    return columns, total.comoments


def _most_frequent(column: ColumnSummary, cap: int, declared: frozenset[str]) -> ColumnSummary:
    """With exact counts of the declared categories and of so many others, those by count and then by text; the rest unlisted."""
    counts = cast("dict[str, int]", column.counts)
    free = sorted((key for key in counts if key not in declared), key=lambda key: (-counts[key], key))
    if len(free) <= cap:
        return column
    dropped = set(free[cap:])
    kept = {key: count for key, count in counts.items() if key not in dropped}
    return replace(column, counts=kept, unlisted=column.unlisted + sum(counts[key] for key in dropped))


def _sorted_values(parts: list[Block], column: int) -> np.ndarray:
    values = np.concatenate([part.numeric[:, column] for part in parts])
    return np.sort(values[np.isfinite(values)])


def _distinct(ordered: np.ndarray) -> int:
    return int(np.count_nonzero(np.diff(ordered))) + (len(ordered) > 0)


def _few_values(ordered: np.ndarray) -> list[float] | None:
    return np.unique(ordered).tolist() if _distinct(ordered) <= FEW_VALUES else None
