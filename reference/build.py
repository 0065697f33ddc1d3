"""Build a baseline from a training table: rulers first, then the same fold and merge that windows get."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detectors.base import FittingColumn, LearnedOutlierDetector
from detectors.errors import NotApplicable
from detectors.performance.settings import Performance
from detectors.statistics.block import Block
from detectors.statistics.column import ColumnSummary
from detectors.statistics.comoments import CoMoments
from detectors.statistics.ruler import Ruler
from detectors.statistics.sample import RowSample, mixed
from detectors.statistics.table import Plan, TableSummary, summarise
from reference.baseline import FEW_VALUES, Baseline, Source, Table, with_sample
from reference.errors import UnusableData
from reference.parts import Counted, parts_of
from reference.performance import Labelled
from reference.schema import Column, Model, Schema
from reference.segments import Segments
from reference.settings import Reference
from reference.table import blocks

Progress = Callable[[float], None]
_UNDIVIDED = Segments()


def build(
    table: pa.Table,
    model: Model,
    settings: Reference,
    learned: Sequence[LearnedOutlierDetector] = (),
    progress: Progress = lambda _: None,
    *,
    segments: Segments = _UNDIVIDED,
    performance: Performance | None = None,
) -> Baseline:
    """The baseline of a training table.

    Parameters
    ----------
    table
        One row an instance; columns named like the model's features and, where it has them, predictions.
    learned
        Outlier detectors whose models are learnt from the features.
    progress
        Told the share that is done, 0 to 1.
    segments
        What the reference is divided by, besides. A segment of one feature's keeps its single values while it has at most
        `raw_rows` divided by the number of that feature's segments, but at least 1,000; beyond, so many that are chosen at random.
    performance
        When it names a label, the table has that column, and what the model predicted.

    Raises
    ------
    UnusableData
        When the table has no rows, lacks a feature or what `performance` asks for, holds text where the model says numeric, or is too small
        or too plain for an outlier model.
    """
    absent = [column.name for column in model.features if column.name not in table.column_names]
    if absent:
        msg = f"the training table lacks the features {absent}: it has {table.column_names}"
        raise UnusableData(msg)
    if table.num_rows == 0:
        msg = "the training table has no rows: a baseline needs some"
        raise UnusableData(msg)
    predictions = Schema(tuple(column for column in model.predictions if column.name in table.column_names))
    features, outputs = list(blocks(table, model.request_schema)), list(blocks(table, predictions))
    labelled = None if performance is None else Labelled.of(performance, model, table, predictions, outputs)
    columns = len(model.features) + len(predictions)
    entries = sum(by.feature is not None for by in segments.by)
    of_request, of_response, of_models, of_segments = _stages(
        progress, len(model.features), len(predictions), columns if learned else 0, columns * entries
    )
    request, comoments = _columns(features, model.request_schema, settings, of_request)
    response, _ = _columns(outputs, predictions, settings, of_response)
    samples: dict[Source, RowSample] = {"request": _sample(features, settings.sample_rows)}
    if len(predictions):
        samples["response"] = _sample(outputs, settings.sample_rows)
    models, scores = _models(features, model.request_schema, request, settings, learned, of_models)
    tables: dict[Table, Counted] = {
        "request": Counted(model.request_schema, features, request),
        "response": Counted(predictions, outputs, response),
        "score": scores,
    }
    divisions = [division for division in segments.divisions(request) if division.by.feature is not None]
    assert model.name is not None  # a ModelMonitor fills it in
    return Baseline(
        model.name,
        model.version,
        table.num_rows,
        with_sample(request, samples.get("request")),
        with_sample(response, samples.get("response")),
        comoments,
        dict(scores.whole),
        models,
        samples,
        parts_of(tables, divisions, settings.raw_rows, labelled, of_segments) if divisions else {},
        None if labelled is None else _performance(labelled),
        created=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )


def _performance(labelled: Labelled) -> bytes:
    try:
        return labelled.learnt()
    except NotApplicable as error:
        msg = f"performance.label: {error}"
        raise UnusableData(msg) from None


def _stages(progress: Progress, *costs: int) -> list[Progress]:
    """For stages that follow one another, what each tells the share to that it has done itself."""

    def tell(before: int, cost: int, done: float) -> None:
        progress((before + done * cost) / sum(costs))

    return [partial(tell, sum(costs[:place]), cost) for place, cost in enumerate(costs)]


def _sample(parts: Sequence[Block], size: int) -> RowSample:
    """Rows chosen by a hash of their number in the table; in the order of that hash, so shuffled."""
    total, first = None, 0
    for part in parts:
        keys = mixed(np.arange(first, first + part.rows, dtype=np.uint64))
        one = RowSample.of(replace(part, keys=keys), size)
        total = one if total is None else total + one
        first += part.rows
    assert total is not None  # a table without rows was refused
    return total


_UNSEEN = 0.2
"""Share of the rows that no model learns from."""


def _models(
    parts: Sequence[Block],
    schema: Schema,
    known: dict[str, ColumnSummary],
    settings: Reference,
    learned: Sequence[LearnedOutlierDetector],
    progress: Progress,
) -> tuple[dict[str, dict[str, NDArray[np.float64]]], Counted]:
    """The outlier models by their keys, and the scores that they give rows they have not seen."""
    made = Schema(tuple(Column(name=detector.name, type="numeric") for detector in learned))
    if not learned:
        return {}, Counted(made, [], {})
    numbers = [Block(part.numeric, part.missing) for part in parts]
    rows = _sample(numbers, settings.learning_rows).numeric
    kept_back = max(int(len(rows) * _UNSEEN), 1)
    unseen, seen = rows[:kept_back], np.where(np.isfinite(rows[kept_back:]), rows[kept_back:], np.nan)
    asked = Block(np.asfortranarray(unseen), np.isnan(unseen))
    columns = [FittingColumn(known[column.name], column.min, column.max) for column in schema.in_block_order]
    models, scores = {}, []
    for done, detector in enumerate(learned, 1):
        try:
            model = detector.learn(seen)
            scores.append(detector.fitted(columns, model).score(asked))
        except NotApplicable as error:
            msg = f"outliers.detectors: {detector.name!r} cannot learn from this table: {error}"
            raise UnusableData(msg) from None
        models[detector.key] = model
        progress(done / len(learned))
    values = np.asfortranarray(np.column_stack(scores))
    block = Block(values, np.isnan(values))
    summaries, _ = _columns([block], made, settings, lambda _: None)
    shuffled = np.argsort(mixed(np.arange(sum(part.rows for part in parts), dtype=np.uint64)))  # as `_sample` does
    return models, Counted(made, [block], summaries, shuffled[:kept_back])


def _columns(
    parts: Sequence[Block], schema: Schema, settings: Reference, progress: Progress
) -> tuple[dict[str, ColumnSummary], CoMoments | None]:
    """The summary of every column of one schema."""
    if not len(schema):
        return {}, None
    rows = sum(part.rows for part in parts)
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
        max_categories=max(rows, 1),  # all of them: they are in memory anyhow
    )
    total = TableSummary.empty(plan)
    for done, part in enumerate(parts, 1):
        total += summarise(plan, part)
        progress(done / len(parts))
    kept = {
        column.name: (values if rows <= settings.raw_rows else None, _distinct(values))
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


def _sorted_values(parts: Sequence[Block], column: int) -> np.ndarray:
    values = np.concatenate([part.numeric[:, column] for part in parts])
    return np.sort(values[np.isfinite(values)])


def _distinct(ordered: np.ndarray) -> int:
    return int(np.count_nonzero(np.diff(ordered))) + (len(ordered) > 0)


def _few_values(ordered: np.ndarray) -> list[float] | None:
    return np.unique(ordered).tolist() if _distinct(ordered) <= FEW_VALUES else None
