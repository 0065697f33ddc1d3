"""Build a baseline from training data: rulers first, then the same fold and merge that windows get.

Two ways lead to the same numbers. As many rows as would be sampled are held in memory instead, and rulers are laid by all of them. More rows
are read twice and never held: the first pass (`reference.look`) samples rows, the second (`reference.count`) counts all of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detectors.base import FittingColumn, LearnedOutlierDetector
from detectors.errors import NotApplicable
from detectors.performance.estimate import ReferencePerformance, learn
from detectors.performance.plan import PerformancePlan
from detectors.performance.settings import Performance
from detectors.statistics.block import Block
from detectors.statistics.column import ColumnSummary
from detectors.statistics.comoments import CoMoments
from detectors.statistics.ruler import Ruler
from detectors.statistics.sample import RowSample, mixed
from detectors.statistics.table import Plan, TableSummary, summarise
from reference.baseline import FEW_VALUES, FEWEST_ROWS, Baseline, Part, Table, with_sample
from reference.baseline import Source as OfMessages
from reference.count import Count, Counter, Divided, Dividing, Labels, Weighing, copied, encoded
from reference.errors import UnusableData
from reference.executor import Executor, RowCounter, Threads
from reference.look import Categories, Look, Looker, Weights, keys_of, tables, weights_of
from reference.parts import FEWEST_VALUES, Counted, parts_of, scores_of
from reference.performance import Labelled, label_of, see_to
from reference.schema import Column, Model, Schema
from reference.segments import Division, Segments
from reference.settings import Reference
from reference.source import Source, source_of_table
from reference.table import blocks

Progress = Callable[[float], None]
T = TypeVar("T")
_UNDIVIDED = Segments()
_THREADS = Threads()
_PER_MARK = 128
"""Rows of the sample for each mark of a ruler. A bin's share then has a standard deviation of 9 %: of 1,000 bins the fullest holds some 1.3 times
as much as it should. Twice the rows would make it 1.2 times, and twice the memory."""
_LARGEST_SAMPLE = 2**19
_NO_NUMBERS = Plan((), (), rulers=(), percentiles=False, comoments=False, exact_rows=0)


def build(
    data: Source | pa.Table,
    model: Model,
    settings: Reference,
    learned: Sequence[LearnedOutlierDetector] = (),
    progress: Progress = lambda _: None,
    *,
    segments: Segments = _UNDIVIDED,
    performance: Performance | None = None,
    weight: str | None = None,
    executor: Executor = _THREADS,
) -> Baseline:
    """The baseline of training data.

    Up to n rows every number is that of all values; n is 128 `resolution` (at most 524,288), or `raw_rows`, `sample_rows` or `learning_rows`
    where one of them is more: 131,072 by default. Beyond, these stay exact: counts of rows, missing values and listed
    categories, extremes, moments (to rounding), and how many values lie between the marks of a ruler. The marks are
    quantiles of a sample of n rows, so a bin's share of all rows differs from 1/resolution by a standard deviation of about 1/sqrt(n resolution); with the default that is 9 % of it. As the counts at the
    marks are exact, percentiles and distances are off by at most what one bin holds. The number of distinct values is exact below 2,048,
    beyond it has a standard error of 2.2 %. Categories are listed exactly unless there are more than 65,536; then
    one that is not listed makes up less than 1/65,536 of the values or is rarer than all that are.

    Memory holds the sample, a few batches for each thread and the categories; it does not grow with the rows.

    Parameters
    ----------
    data
        One row an instance; columns named like the model's features and, where it has them, predictions.
    learned
        Outlier detectors whose models are learnt from the features.
    progress
        Told the share that is done, 0 to 1.
    segments
        What the reference is divided by, besides. A segment of one feature's keeps its single values while it has at most
        `raw_rows` divided by the number of that feature's segments, but at least 1,000; beyond, so many that are chosen at random.
    performance
        When it names a label, the data has that column, and what the model predicted.
    weight
        A column of sample weights, which need not have any sum: see `reference.count.Weighing`. `rows` is then how many rows were counted, and
        Kish's effective sample size is in the baseline's `origin`.
    executor
        Who reads the data when it is large: threads, or Spark. The baseline is the same to the bit on processors of one kind.

    Raises
    ------
    UnusableData
        When the data has no rows, lacks a feature or what `performance` asks for, holds text where the model says numeric, has a weight that
        is none, or is too small or too plain for an outlier model.
    """
    source = data if isinstance(data, Source) else source_of_table(data)
    there = source.schema.names
    absent = [column.name for column in model.features if column.name not in there]
    if absent:
        msg = f"the training table lacks the features {absent}: it has {there}"
        raise UnusableData(msg)
    if weight is not None and weight not in there:
        msg = f"the training table lacks the column {weight!r} of weights: it has {there}"
        raise UnusableData(msg)
    job = _Job(source, model, settings, tuple(learned), segments, performance, weight, executor)
    if not isinstance(data, Source) and data.num_rows <= job.sample_size:
        return job.in_memory(progress)
    look = job.looked(lambda share: progress(0.4 * share))
    if 0 < look.rows <= job.sample_size:
        return job.in_memory(lambda share: progress(0.4 + 0.6 * share))
    if look.rows == 0:
        raise UnusableData(_EMPTY)
    return job.streamed(look, lambda share: progress(0.4 + 0.6 * share))


_EMPTY = "the training table has no rows: a baseline needs some"


@dataclass(frozen=True)
class _Job:
    """One build."""

    source: Source
    model: Model
    settings: Reference
    learned: tuple[LearnedOutlierDetector, ...]
    segments: Segments
    performance: Performance | None
    weight: str | None
    executor: Executor

    @property
    def predictions(self) -> Schema:
        """Those that the data has."""
        return Schema(tuple(column for column in self.model.predictions if column.name in self.source.schema.names))

    @property
    def label(self) -> Column | None:
        """The column of labels."""
        return None if self.performance is None else label_of(self.performance, self.model)

    @property
    def schema(self) -> Schema:
        """All columns that are looked at; a feature and a prediction may be one."""
        label = () if self.label is None else (self.label,)
        if self.label is not None:
            see_to([self.label.name], self.source.schema.names)
        known: dict[tuple[str, str], Column] = {}
        for column in (*self.model.features, *self.predictions.columns, *label):
            known.setdefault((column.name, column.type), column)
        return Schema(tuple(known.values()))

    # --- In memory ---------------------------------------------------------------------------------------------------

    def in_memory(self, progress: Progress) -> Baseline:
        """From all rows at once."""
        columns = list(dict.fromkeys(self.schema.names))
        weights = Weights()
        if self.weight is None:
            table = self.source.table(columns)
        else:
            table, weights = _weighted(self.source, columns, self.weight)
        if table.num_rows == 0:
            raise UnusableData(_EMPTY)
        model, settings, predictions = self.model, self.settings, self.predictions
        features, outputs = list(blocks(table, model.request_schema)), list(blocks(table, predictions))
        labelled = None
        if self.performance is not None:
            labelled = Labelled.of(self.performance, model, table, predictions, outputs)
        columns_at_all = len(model.features) + len(predictions)
        entries = sum(by.feature is not None for by in self.segments.by)
        of_request, of_response, of_models, of_segments = _stages(
            progress,
            len(model.features),
            len(predictions),
            columns_at_all if self.learned else 0,
            columns_at_all * entries,
        )
        request, comoments = _columns(features, model.request_schema, settings, of_request)
        response, _ = _columns(outputs, predictions, settings, of_response)
        samples: dict[OfMessages, RowSample] = {"request": _sample(features, settings.sample_rows)}
        if len(predictions):
            samples["response"] = _sample(outputs, settings.sample_rows)
        numbers = [Block(part.numeric, part.missing) for part in features] if self.learned else []
        rows = _sample(numbers, settings.learning_rows).numeric if numbers else np.empty((0, 0))
        models, scores = _models(rows, model.request_schema, request, settings, self.learned, of_models)
        if self.learned:
            shuffled = np.argsort(mixed(np.arange(table.num_rows, dtype=np.uint64)))  # as `_sample` does
            scores = replace(scores, rows=shuffled[: scores.blocks[0].rows])
        counted: dict[Table, Counted] = {
            "request": Counted(model.request_schema, features, request),
            "response": Counted(predictions, outputs, response),
            "score": scores,
        }
        divisions = self._divisions(request)
        parts = parts_of(counted, divisions, settings.raw_rows, labelled, of_segments) if divisions else {}
        return self._baseline(
            table.num_rows,
            request,
            response,
            comoments,
            dict(scores.whole),
            models,
            samples,
            parts,
            None if labelled is None else _performance(labelled),
            weights,
        )

    # --- Streamed ----------------------------------------------------------------------------------------------------

    @property
    def sample_size(self) -> int:
        """Rows that the first pass keeps."""
        settings = self.settings
        of_marks = min(_PER_MARK * settings.resolution, _LARGEST_SAMPLE)
        return max(settings.raw_rows, settings.sample_rows, settings.learning_rows if self.learned else 0, of_marks)

    def looked(self, progress: Progress) -> Look:
        """What the first pass tells."""
        looker = Looker(self.schema, self.sample_size, self.weight)
        fragments = self.source.fragments
        if self.executor.remote:
            rows = sum(self.executor.run(RowCounter((looker.columns[0],)), fragments))
            # So that more rows than are wanted are expected below the limit, by six standard deviations.
            likely = self.sample_size + 6 * self.sample_size**0.5
            limit = int(2**64 * likely / rows) if rows > likely else looker.limit
            look = replace(looker, limit=limit)
            found = look.sum_of(_told(self.executor.run(look, fragments), len(fragments), progress))
            if len(found.sample.keys) == min(self.sample_size, found.rows):
                return found
        return looker.sum_of(_told(self.executor.run(looker, fragments), len(fragments), progress))

    def streamed(self, look: Look, progress: Progress) -> Baseline:
        """From what the first pass told, and a second one."""
        model, settings, predictions = self.model, self.settings, self.predictions
        weighing = None if self.weight is None else _weighing(self.weight, look.rows, look.weights)
        sampled = look.sample.table
        keys = look.sample.keys
        if weighing is not None:
            times = weighing.times(weights_of(sampled[weighing.column], weighing.column), keys)
            rows, keys = copied(times, keys)
            order = np.argsort(keys, kind="stable")[: self.sample_size]
            keys, sampled = keys[order], sampled.take(pa.array(rows[order]))
        (some,) = blocks(sampled, self.schema, max(sampled.num_rows, 1))
        some = replace(some, keys=keys)
        categorical = self._categories(look, weighing)
        extremes = {c.name: (low, high) for c, low, high in zip(self.schema.numeric, look.low, look.high, strict=True)}
        of_request, of_response = self._part(some, model.request_schema), self._part(some, predictions)
        plans = (
            _plan(of_request, model.request_schema, extremes, settings.resolution, comoments=True),
            _plan(of_response, predictions, extremes, settings.resolution, comoments=False),
        )
        divisions = self._divisions(categorical)
        labels = self._labels(look, some)
        counter = Counter(
            model.request_schema,
            predictions,
            plans,
            {},
            {column.name: pa.array(list(column.counts or ()), pa.large_string()) for column in categorical.values()}
            if divisions
            else {},
            weighing,
            tuple(self._dividing(division, some, labels) for division in divisions),
            labels,
        )
        of_count, of_models = _stages(progress, 9, 1 if self.learned else 0)
        count = self._run(counter, of_count) if counter.columns else replace(counter.empty(), rows=look.rows)
        if count.rows == 0:
            raise UnusableData(_EMPTY)
        request = _summaries(model.request_schema, count.request, categorical)
        response = _summaries(predictions, count.response, categorical)
        learning = np.ascontiguousarray(of_request.numeric[: settings.learning_rows])
        models, scores = _models(learning, model.request_schema, request, settings, self.learned, of_models)
        samples: dict[OfMessages, RowSample] = {"request": RowSample.of(of_request, settings.sample_rows)}
        if len(predictions):
            samples["response"] = RowSample.of(of_response, settings.sample_rows)
        parts: dict[str, Part] = {}
        if divisions:
            places = [self._places(division, some) for division in divisions]
            scored: dict[str, dict[str, ColumnSummary]] = {}
            if self.learned:
                unseen = scores.blocks[0].rows
                scored = scores_of(scores, [at[:unseen] for at in places], divisions, settings.raw_rows)
            parts = self._parts(counter, count, request, response, scored)
        performance = None
        if labels is not None:
            performance = replace(labels.whole, bins=count.performance).to_bytes()
        return self._baseline(
            count.rows,
            request,
            response,
            count.request.comoments,
            dict(scores.whole),
            models,
            samples,
            parts,
            performance,
            look.weights,
        )

    def _run(self, counter: Counter, progress: Progress) -> Count:
        fragments = self.source.fragments
        return counter.sum_of(_told(self.executor.run(counter, fragments), len(fragments), progress))

    def _part(self, block: Block, schema: Schema) -> Block:
        """The columns of requests, or of responses, of sampled rows."""
        numeric = [[column.name for column in self.schema.numeric].index(column.name) for column in schema.numeric]
        categorical = [column.name for column in self.schema.categorical]
        return Block(
            block.numeric[:, numeric],
            block.missing[:, numeric],
            tuple(block.categorical[categorical.index(column.name)] for column in schema.categorical),
            block.keys,
        )

    def _categories(self, look: Look, weighing: Weighing | None) -> dict[str, ColumnSummary]:
        """The categorical columns. Where the first pass could not count all, those that may be frequent are counted now."""
        columns = {c.name: c for c in (*self.model.features, *self.predictions.columns) if c.type == "categorical"}
        seen = {c.name: one for c, one in zip(self.schema.categorical, look.categories, strict=True)}
        again = {
            name: _candidates(seen[name], column)
            for name, column in columns.items()
            if weighing is not None or not seen[name].exact
        }
        counted: Mapping[str, NDArray[np.int64]] = {}
        if again:
            schema = Schema(tuple(columns[name] for name in again))
            counter = Counter(schema, Schema(()), (_NO_NUMBERS, _NO_NUMBERS), again, weighing=weighing)
            counted = dict(zip(again, self._run(counter, lambda _: None).categories, strict=True))
        found = {}
        for name, column in columns.items():
            one = seen[name]
            values, counts, unlisted, missing = one.values, one.counts, one.unlisted, one.missing
            if name in counted:
                values, counts = again[name], counted[name][:-2]
                unlisted, missing = counted[name][-2:].tolist()
            known = {text: n for text, n in zip(values.to_pylist(), counts.tolist(), strict=True) if n}
            summary = ColumnSummary(
                name,
                "categorical",
                int(counts.sum()) + unlisted,
                missing,
                distinct=one.distinct,
                counts=known,
                unlisted=unlisted,
            )
            found[name] = _most_frequent(summary, self.settings.max_categories, frozenset(column.categories or ()))
        return found

    def _divisions(self, known: dict[str, ColumnSummary]) -> list[Division]:
        return [division for division in self.segments.divisions(known) if division.by.feature is not None]

    def _places(self, division: Division, block: Block) -> NDArray[np.int32]:
        names = [column.name for column in self.schema.categorical]
        return division.places(block.categorical[names.index(division.by.feature or "")], block.rows)

    def _labels(self, look: Look, some: Block) -> Labels | None:
        """The bins of predictions that performance is counted in, by sampled rows."""
        label = self.label
        if label is None or self.performance is None:
            return None
        classes: list[str] = []
        if label.type == "categorical":
            seen = look.categories[[column.name for column in self.schema.categorical].index(label.name)]
            counts = dict(zip(seen.values.to_pylist(), seen.counts.tolist(), strict=True))
            classes = sorted(counts, key=lambda text: (-counts[text], text))
        plan = PerformancePlan.of(self.performance, [(c.name, c.type) for c in self.model.predictions], classes)
        see_to([plan.prediction, *plan.columns], self.source.schema.names)
        try:
            whole = learn(plan, *encoded(plan, some, self.schema, self.predictions, label))
        except NotApplicable as error:
            raise UnusableData(_unlabelled(error)) from None
        return Labels(label, whole)

    def _dividing(self, division: Division, some: Block, labels: Labels | None) -> Dividing:
        keep = max(self.settings.raw_rows // len(division.names), FEWEST_VALUES)
        bins: dict[int, ReferencePerformance] = {}
        if labels is not None:
            places = self._places(division, some)
            predictions, truth = encoded(labels.whole.plan, some, self.schema, self.predictions, labels.column)
            for place in range(len(division.names)):
                rows = np.flatnonzero(places == place)
                try:
                    bins[place] = learn(labels.whole.plan, predictions[rows], truth[rows])
                except NotApplicable:
                    continue  # as `Part.performance` says
        return Dividing(division, keep, bins)

    def _parts(
        self,
        counter: Counter,
        count: Count,
        request: Mapping[str, ColumnSummary],
        response: Mapping[str, ColumnSummary],
        scored: Mapping[str, dict[str, ColumnSummary]],
    ) -> dict[str, Part]:
        parts = {}
        for one, divided in zip(counter.dividing, count.divided, strict=True):
            division = one.division
            for place, name in enumerate(division.names):
                rows = int(divided.rows[place])
                whole = rows <= min(one.keep, self.settings.raw_rows)
                bins = one.performance.get(place)
                parts[name] = Part(
                    rows,
                    _part_columns(
                        self.model.request_schema, divided.request[place], request, counter, divided, place, whole=whole
                    ),
                    _part_columns(
                        self.predictions, divided.response[place], response, counter, divided, place, whole=whole
                    ),
                    scored.get(name, {}),
                    None
                    if bins is None or rows < FEWEST_ROWS
                    else replace(bins, bins=divided.performance[place]).to_bytes(),
                    division.values if name == division.rest else None,
                )
        return parts

    def _baseline(
        self,
        rows: int,
        request: dict[str, ColumnSummary],
        response: dict[str, ColumnSummary],
        comoments: CoMoments | None,
        score: dict[str, ColumnSummary],
        models: dict[str, dict[str, NDArray[np.float64]]],
        samples: dict[OfMessages, RowSample],
        parts: dict[str, Part],
        performance: bytes | None,
        weights: Weights,
    ) -> Baseline:
        origin = dict(self.source.origin)
        if self.weight is not None:
            origin |= {"weight": self.weight, "effectiveRows": round(weights.effective, 1)}
        assert self.model.name is not None  # a ModelMonitor fills it in
        return Baseline(
            self.model.name,
            self.model.version,
            rows,
            with_sample(request, samples.get("request")),
            with_sample(response, samples.get("response")),
            comoments,
            score,
            models,
            samples,
            parts,
            performance,
            created=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            origin=origin,
        )


def _told(parts: Iterable[T], many: int, progress: Progress) -> Iterator[T]:
    for done, part in enumerate(parts, 1):
        yield part
        progress(done / many)


def _weighing(column: str, rows: int, weights: Weights) -> Weighing:
    if weights.total <= 0:
        msg = f"all weights in column {column!r} are 0: no row counts; give some rows a weight"
        raise UnusableData(msg)
    return Weighing(column, rows / weights.total)


def _weighted(source: Source, columns: Sequence[str], weight: str) -> tuple[pa.Table, Weights]:
    """All rows, each as often as it counts."""
    parts, keys = [], []
    for place, fragment in enumerate(source.fragments):
        first = 0
        for part in tables(fragment, list(dict.fromkeys((*columns, weight)))):
            parts.append(part)
            keys.append(keys_of(place, first, part.num_rows))
            first += part.num_rows
    if not parts:
        raise UnusableData(_EMPTY)
    table = pa.concat_tables(parts)
    w = weights_of(table[weight], weight)
    sums = Weights(float(w.sum()), float(w @ w))
    rows, _ = copied(_weighing(weight, len(w), sums).times(w, np.concatenate(keys)), np.concatenate(keys))
    return table.take(pa.array(rows)).select(list(columns)), sums


def _candidates(seen: Categories, column: Column) -> pa.Array:
    """The categories that are counted in a second pass: those that may be frequent, and those that are declared."""
    declared = pa.array(column.categories or (), pa.large_string())
    new = declared.filter(pa.compute.invert(pa.compute.is_in(declared, value_set=seen.values)))
    return pa.concat_arrays([seen.values, new])


def _plan(
    some: Block, schema: Schema, extremes: Mapping[str, tuple[float, float]], resolution: int, *, comoments: bool
) -> Plan:
    """How the numeric columns of a schema are counted, by sampled rows and the extremes of all."""
    ordered = [_with_ends(_sorted_values([some], j), *extremes[column.name]) for j, column in enumerate(schema.numeric)]
    few = {j: frozenset(known) for j, values in enumerate(ordered) if (known := _few_values(values)) is not None}
    return Plan(
        numeric=tuple(column.name for column in schema.numeric),
        categorical=(),
        rulers=tuple(Ruler.of(values, resolution) for values in ordered),
        discrete=few,
        percentiles=False,
        comoments=comoments and len(ordered) > 1,
        distinct=True,
        exact_rows=0,
    )


def _with_ends(ordered: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Sorted values of a sample, and the extremes of all where it has not got them: histograms span the whole range."""
    before = [low] if np.isfinite(low) and (not len(ordered) or low < ordered[0]) else []
    after = [high] if np.isfinite(high) and (not len(ordered) or high > ordered[-1]) else []
    return np.concatenate((before, ordered, after)) if before or after else ordered


def _summaries(
    schema: Schema, total: TableSummary, categorical: Mapping[str, ColumnSummary]
) -> dict[str, ColumnSummary]:
    """Of every column of a schema, in its order."""
    found = {}
    for column in schema.columns:
        if column.type == "categorical":
            found[column.name] = categorical[column.name]
            continue
        summary = total.column(column.name)
        # That a column has more values than few, the sample may not have told.
        few = summary.counts is not None and not summary.unlisted and len(summary.counts) <= FEW_VALUES
        found[column.name] = _with_distinct(summary, total, listed=few)
    return found


def _with_distinct(summary: ColumnSummary, total: TableSummary, *, listed: bool) -> ColumnSummary:
    """With the number of distinct values, and counts of each only where they are few."""
    if not listed:
        summary = replace(summary, counts=None, unlisted=0)
    assert total.distinct is not None  # see `_plan`
    estimate = round(total.distinct.estimate(total.plan.numeric.index(summary.name)))
    return replace(summary, distinct=min(estimate, summary.count))


def _part_columns(
    schema: Schema,
    total: TableSummary,
    known: Mapping[str, ColumnSummary],
    counter: Counter,
    divided: Divided,
    place: int,
    *,
    whole: bool,
) -> dict[str, ColumnSummary]:
    """Of every column of one segment.

    Parameters
    ----------
    whole
        Whether the sample is all rows of the segment.
    """
    found = {}
    for column in schema.columns:
        if column.type == "categorical":
            values = counter.listed[column.name].to_pylist()
            tally = divided.categories[list(counter.listed).index(column.name)][place]
            *listed, unlisted, missing = tally.tolist()
            counts = {value: n for value, n in zip(values, listed, strict=True) if n}
            distinct = None if unlisted else len(counts)
            found[column.name] = ColumnSummary(
                column.name,
                "categorical",
                sum(listed) + unlisted,
                missing,
                distinct=distinct,
                counts=counts,
                unlisted=unlisted,
            )
            continue
        summary = _with_distinct(total.column(column.name), total, listed=known[column.name].counts is not None)
        if whole:
            kept = summary.values if summary.sample is None else summary.sample
            assert kept is not None  # of no rows the values, else the sample
            summary = replace(summary, values=kept, sample=None, distinct=_distinct(kept))
        found[column.name] = summary
    return found


def _unlabelled(error: NotApplicable) -> str:
    return f"performance.label: {error}"


def _performance(labelled: Labelled) -> bytes:
    try:
        return labelled.learnt()
    except NotApplicable as error:
        raise UnusableData(_unlabelled(error)) from None


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
    rows: NDArray[np.float64],
    schema: Schema,
    known: dict[str, ColumnSummary],
    settings: Reference,
    learned: Sequence[LearnedOutlierDetector],
    progress: Progress,
) -> tuple[dict[str, dict[str, NDArray[np.float64]]], Counted]:
    """The outlier models by their keys, and the scores that they give rows they have not seen, which are the first ones.

    Parameters
    ----------
    rows
        (n, numeric columns) shuffled.
    """
    made = Schema(tuple(Column(name=detector.name, type="numeric") for detector in learned))
    if not learned:
        return {}, Counted(made, [], {})
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
    return models, Counted(made, [block], summaries)


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
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + (len(ordered) > 0)


def _few_values(ordered: np.ndarray) -> list[float] | None:
    return np.unique(ordered).tolist() if _distinct(ordered) <= FEW_VALUES else None
