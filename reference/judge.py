"""Is a new baseline fit to become the current one? Checks with numbers, limits from the ModelMonitor, and one decision.

What is looked at is only what a baseline holds (and, for leaks of the label, some rows of the training table), so judging takes a moment
however large the table was. The column of the new baseline is compared as if it were a window of the current one, by the methods that the
monitor itself uses.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detectors.base import DriftDetector
from detectors.distribution import Ramps, distribution
from detectors.drift import default_method
from detectors.errors import NotApplicable
from detectors.performance.estimate import ReferencePerformance
from detectors.performance.settings import METRICS, Performance
from detectors.statistics.column import ColumnSummary
from detectors.statistics.ruler import Ruler
from detectors.verdict import evidence
from reference.baseline import SOURCES, Baseline, Source
from reference.gate import Gate, Level, worst
from reference.leakage import Codes, Floats, binned, coded, of_class, of_number
from reference.performance import label_of
from reference.schema import Column, Model, Schema
from reference.table import blocks

_FEWEST_FOR_IDS = 1000
"""Whole numbers that do not repeat in fewer rows are no wonder."""
_GATE = Gate()
_NONE = Performance()


class Check(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """One number beside its limit."""

    check: str
    """Name, as in `reference.gate`."""
    level: Level
    value: float | None
    """Null where there is nothing to say: no current baseline, too few rows."""
    limit: float | None
    """The limit that was reached; of an accepted value the nearer one."""
    column: str | None = None
    """Null: of the whole table."""
    source: Source | None = None
    """Whether the column is a feature (`request`) or a prediction (`response`)."""
    metric: str | None = None
    """Of performance."""
    text: str
    """The same for people, with what would do."""


class Comparison(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """One drift method's answer about one column, the new baseline against the current one."""

    name: str
    source: Source
    type: Literal["numeric", "categorical"]
    method: str
    direction: Literal["p-value", "distance"]
    score: float | None
    """Null when there was nothing to compare."""
    threshold: float
    drifted: bool
    exact: bool
    explanation: dict[str, float]
    """What drove the score, largest first: bin or category -> its share of the difference."""
    auto: bool = False
    """Whether the method is Evidently's default choice."""
    error: str | None = None
    """Why there is no score, where the method failed."""


class Judgement(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """What was found of a new baseline, and what follows: `accept` and `warn` make it the current one, `reject` does not."""

    kind: Literal["judgement"] = "judgement"
    model: str
    model_version: str
    version: str
    """Of the new baseline."""
    previous: str | None
    """The current baseline that it was compared with; null where there was none."""
    judged_at: str
    """RFC 3339, UTC."""
    rows: int
    previous_rows: int | None
    decision: Level
    """The worst of the checks."""
    reasons: list[str]
    """Of a decision other than `accept`: what the worst checks say."""
    columns: list[str]
    """The columns that these are about, each once."""
    drifted_columns: int
    judged_columns: int
    """Columns that were compared."""
    share_threshold: float
    """Of `drift.share`: from this share on a window's data set would count as drifted."""
    checks: list[Check]
    """All of them, the worst first."""
    comparisons: list[Comparison]

    def to_json(self) -> bytes:
        """As it is kept beside the version; equal judgements give equal bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "Judgement":
        """What `to_json` gave; raises msgspec.DecodeError."""
        return msgspec.json.decode(data, type=cls)


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a judgement."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Judgement)}


@dataclass(frozen=True)
class DriftRules:
    """By which methods columns are compared: the section `drift` of a ModelMonitor."""

    methods: Sequence[DriftDetector | Literal["auto"]] = ("auto",)
    columns: Mapping[str, Sequence[DriftDetector | Literal["auto"]]] = field(default_factory=dict)
    """Column -> its own methods instead."""
    share: float = 0.5

    def of(self, reference: ColumnSummary, window: ColumnSummary) -> Iterator[tuple[DriftDetector, bool]]:
        """The methods of a column; each with whether it was chosen as Evidently chooses."""
        own = self.columns.get(reference.name)
        for chosen in self.methods if own is None else own:
            if chosen == "auto":
                yield default_method(reference, window), True
            elif own is not None or reference.type in chosen.applies_to:
                yield chosen, False


def judge(
    new: Baseline,
    current: Baseline | None,
    model: Model,
    gate: Gate = _GATE,
    *,
    drift: DriftRules | None = None,
    performance: Performance = _NONE,
    rows: pa.Table | None = None,
    trouble: str | None = None,
    judged_at: datetime | None = None,
) -> Judgement:
    """Compare a new baseline with what the model declares, with itself and with the current baseline.

    Parameters
    ----------
    current
        None: the checks that compare are left out.
    drift
        Default: Evidently's choice for every column.
    performance
        The ModelMonitor's, whose metrics and limits are looked at where the baseline has a performance.
    rows
        Some rows of the training table in a random order, with the features and the column `performance.label`; without them nothing is said
        of leaks of the label.
    trouble
        Why the current baseline cannot be read, if so: it is told, and nothing is compared.
    judged_at
        Default: now.

    Never raises on data: what cannot be computed is a check without a value, or a comparison with its error.
    """
    rules = DriftRules() if drift is None else drift
    comparisons = [] if current is None else list(_compared(new, current, rules))
    found = [
        *_of_trouble(trouble),
        *_of_rows(new, current, gate),
        *_of_schema(new, current, gate),
        *_of_columns(new, current, model, gate),
        *_of_pairs(new, current, gate),
        *_of_leaks(new, model, gate, performance, rows),
        *_of_drift(new, current, gate, comparisons),
        *_of_performance(new, current, gate, performance),
    ]
    found.sort(key=lambda check: ("reject", "warn", "accept").index(check.level))
    decision = worst([check.level for check in found])
    to_blame = [check for check in found if check.level == decision != "accept"]
    answers: dict[tuple[str, str], bool] = {}
    for one in comparisons:
        answers[one.source, one.name] = answers.get((one.source, one.name), False) or one.drifted
    at = datetime.now(UTC) if judged_at is None else judged_at
    return Judgement(
        model=new.model,
        model_version=new.model_version,
        version=new.version,
        previous=None if current is None else current.version,
        judged_at=at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        rows=new.rows,
        previous_rows=None if current is None else current.rows,
        decision=decision,
        reasons=[check.text for check in to_blame],
        columns=list(dict.fromkeys(check.column for check in to_blame if check.column is not None)),
        drifted_columns=sum(answers.values()),
        judged_columns=len(answers),
        share_threshold=rules.share,
        checks=found,
        comparisons=comparisons,
    )


def as_window(column: ColumnSummary, reference: ColumnSummary) -> ColumnSummary:
    """A column of one baseline as a window of another one has it: on the other's ruler, with the other's few values.

    Exact while every value is at hand. Else what was counted on one ruler is read at the marks of the other one, spread within a bin as
    `detectors.distribution.Ramps` spreads it: off by at most the mass of one bin, about 1/1024.
    """
    ruler = reference.ruler
    if column.type != "numeric" or reference.type != "numeric" or ruler is None or column.count == 0:
        return column
    counts = unlisted = None
    if column.values is not None:
        bins, places = ruler.tally(column.values)
        sums = ruler.sums(bins, places)
        if reference.counts is not None:
            values, times = np.unique(column.values, return_counts=True)
            counts, unlisted = dict(zip(values.tolist(), times.tolist(), strict=True)), 0
    else:
        spread = Ramps.of(column)
        upto = np.append(np.rint(spread.upto(ruler.marks)), column.count)
        bins = np.diff(upto, prepend=0).astype(np.int64)
        sums = _sums(spread, ruler, bins, column)
        if reference.counts is not None:
            atoms = np.array(sorted(reference.counts), np.float64)
            times = np.rint(spread.upto(atoms) - spread.below(atoms)).astype(np.int64)
            counts = {value: n for value, n in zip(atoms.tolist(), times.tolist(), strict=True) if n}
            unlisted = max(column.count - int(times.sum()), 0)
    if reference.counts is None:
        counts, unlisted = column.counts, column.unlisted
    return replace(column, ruler=ruler, bins=bins, sums=sums, counts=counts, unlisted=unlisted or 0)


def _sums(spread: Ramps, ruler: Ruler, bins: NDArray[np.int64], column: ColumnSummary) -> Floats:
    """(bins,) the sum of the values in each bin of another ruler."""
    marks = np.clip(np.concatenate(([column.low], ruler.marks, [column.high])), column.low, column.high)
    i = np.searchsorted(spread.ends, marks, side="right")
    at = np.minimum(i, len(spread.counts) - 1)
    start = spread.starts[at]
    part = np.where((i < len(spread.counts)) & (marks > start), spread.upto(marks) - spread.before[i], 0.0)
    # Counts are rounded, so it is the mean of a bin that is kept.
    exact = np.diff(np.concatenate(([0.0], spread.upto(marks[1:-1]), [float(column.count)])))
    low, high = np.concatenate(([column.low], marks[1:-1])), marks[1:]
    with np.errstate(over="ignore", invalid="ignore"):  # beyond the range of floats a bin's mean is its middle
        whole = np.concatenate(([0.0], np.cumsum(spread.counts * (spread.starts / 2 + spread.ends / 2))))
        upto = whole[i] + part * (start / 2 + marks / 2)
        upto[0], upto[-1] = 0.0, whole[-1]
        means = np.diff(upto) / np.where(exact > 0, exact, 1.0)
        means = np.where(np.isfinite(means), np.clip(means, low, high), low / 2 + high / 2)
        sums: Floats = np.where(exact > 0, means, high) * bins
    return sums


# --- Rows and schema -------------------------------------------------------------------------------------------------


def _of_trouble(trouble: str | None) -> Iterator[Check]:
    if trouble is not None:
        text = f"nothing is compared with the current baseline, which cannot be read: {trouble}"
        yield Check(check="currentBaseline", level="warn", value=None, limit=None, text=text)


def _of_rows(new: Baseline, current: Baseline | None, gate: Gate) -> Iterator[Check]:
    level = gate.rows.level(new.rows, low=True)
    limit = gate.rows.limit(level)
    text = f"the table has {new.rows:,} rows"
    if level != "accept":
        text += f", fewer than {limit:,g}: give it more"
    yield Check(check="rows", level=level, value=float(new.rows), limit=limit, text=text)
    if current is not None and current.rows:
        ratio = new.rows / current.rows
        level = gate.rows_ratio.level(ratio, low=True)
        limit = gate.rows_ratio.limit(level)
        text = f"the table has {new.rows:,} rows, the current baseline {current.rows:,}"
        if level != "accept":
            text += f": less than {limit:.0%} of it, so see whether a part is missing"
        yield Check(check="rowsRatio", level=level, value=ratio, limit=limit, text=text)


def _of_schema(new: Baseline, current: Baseline | None, gate: Gate) -> Iterator[Check]:
    if current is None:
        return
    same = new.model_version == current.model_version
    level: Level = gate.schema_change if same or gate.schema_change == "accept" else "warn"
    why = "although model.version is the same" if same else f"with model.version {new.model_version}"
    for source in SOURCES:
        ours, theirs = new.columns(source), current.columns(source)
        for name in {**theirs, **ours}:
            if name not in ours:
                said = "is gone"
            elif name not in theirs:
                said = "is new"
            elif ours[name].type != theirs[name].type:
                said = f"was {theirs[name].type} and is {ours[name].type}"
            else:
                continue
            text = f"{_named(name, source)} {said}, {why}"
            yield Check(check="schemaChange", level=level, value=1.0, limit=None, column=name, source=source, text=text)


# --- Single columns --------------------------------------------------------------------------------------------------


def _of_columns(new: Baseline, current: Baseline | None, model: Model, gate: Gate) -> Iterator[Check]:
    declared: dict[Source, dict[str, Column]] = {
        "request": {column.name: column for column in model.features},
        "response": {column.name: column for column in model.predictions},
    }
    for source in SOURCES:
        sampled = _sampled(new, source)
        for name, column in new.columns(source).items():
            known = None if current is None else current.columns(source).get(name)
            if known is not None and known.type != column.type:
                known = None
            if declared[source].get(name) is not None:
                yield _of_bounds(column, declared[source][name], source, gate)
            yield from _of_gaps(column, known, source, gate)
            yield _of_variety(column, known, source, gate)
            yield _of_names(column, sampled.get(name), source, gate)
            if column.type == "categorical" and known is not None:
                yield from _of_categories(column, known, source, gate)


def _measured(
    check: str,
    gate: Gate,
    column: ColumnSummary,
    source: Source,
    value: float,
    text: str,
    hint: str = "",
    unit: Callable[[float], str] = "{:.3g}".format,
) -> Check:
    """A check of a column by two limits; the hint is for those that are beyond one."""
    limits = gate.limits(check, column.name)
    level = limits.level(value) if math.isfinite(value) else "accept"
    limit = limits.limit(level)
    if level != "accept" and limit is not None:
        text = f"{text} ({'any at all is too much' if limit == 0 else f'limit {unit(limit)}'}){hint}"
    return Check(
        check=_camel(check),
        level=level,
        value=_number(value),
        limit=limit,
        column=column.name,
        source=source,
        text=f"{_named(column.name, source)}: {text}",
    )


def _of_gaps(column: ColumnSummary, known: ColumnSummary | None, source: Source, gate: Gate) -> Iterator[Check]:
    share = _share_missing(column)
    yield _measured(
        "missing", gate, column, source, share, f"{_percent(share)} of the values are missing", unit=_percent
    )
    infinite = column.nonfinite / max(_rows_of(column), 1)
    text = f"{_percent(infinite)} of the values are infinite or NaN"
    yield _measured("nonfinite", gate, column, source, infinite, text, unit=_percent)
    if known is not None:
        before = _share_missing(known)
        text = f"{_percent(share)} of the values are missing, {_percent(before)} in the current baseline"
        yield _measured("missing_change", gate, column, source, abs(share - before), text, unit=_percent)


def _of_bounds(column: ColumnSummary, declared: Column, source: Source, gate: Gate) -> Check:
    outside = 0.0
    text = "within what the model declares"
    if column.type == "categorical" and declared.type == "categorical":
        if declared.categories is not None and column.counts is not None and column.count:
            counts = cast("dict[str, int]", column.counts)
            strange = {key: n for key, n in counts.items() if key not in declared.categories}
            outside = (sum(strange.values()) + column.unlisted) / column.count
            few = ", ".join(repr(key) for key in sorted(strange, key=lambda key: (-strange[key], key))[:3])
            if outside:
                text = f"{_percent(outside)} of the values are none of the declared categories, for example {few}"
    elif column.type == "numeric" and declared.type == "numeric" and column.count:
        low, high = declared.min, declared.max
        below = low is not None and column.low < low
        above = high is not None and column.high > high
        if below or above:
            values = distribution(column)
            under = float(values.below(np.array([low]))[0]) if below else 0.0
            over = column.count - float(values.upto(np.array([high]))[0]) if above else 0.0
            # There is one at least, whatever bins say.
            outside = max(under + over, 1.0) / column.count
            text = (
                f"{_percent(outside)} of the values are outside of the declared [{_bound(low)}, {_bound(high)}]: "
                f"they reach from {column.low:.6g} to {column.high:.6g}"
            )
    return _measured("out_of_bounds", gate, column, source, outside, text, unit=_percent)


def _of_variety(column: ColumnSummary, known: ColumnSummary | None, source: Source, gate: Gate) -> Check:
    constant = _is_constant(column)
    level: Level = "accept"
    text = f"{_named(column.name, source)} varies"
    if constant:
        before = known is not None and not _is_constant(known)
        finding = gate.finding("constant", column.name)
        level = finding.new if before else finding.known
        text = f"{_named(column.name, source)} has one value in all rows" + (
            ", and more than one in the current baseline" if before else ": a model learns nothing from it"
        )
    return Check(
        check="constant", level=level, value=float(constant), limit=None, column=column.name, source=source, text=text
    )


def _of_names(
    column: ColumnSummary, sampled: "Sequence[str | None] | Floats | None", source: Source, gate: Gate
) -> Check:
    value = math.nan
    if column.type == "categorical":
        if column.counts is not None and not column.unlisted:
            value = sum(n == 1 for n in column.counts.values()) / column.count if column.count else math.nan
        elif sampled is not None:
            value = _unseen(np.unique([text for text in sampled if text is not None], return_counts=True)[1])
    elif isinstance(sampled, np.ndarray):
        finite = sampled[np.isfinite(sampled)]
        if len(finite) >= _FEWEST_FOR_IDS and bool((finite == np.rint(finite)).all()):
            values, times = np.unique(finite, return_counts=True)
            value = _unseen(times) if len(values) > 0.99 * len(finite) else 0.0
    text = (
        "it does not name rows"
        if math.isnan(value)
        else f"the next row has an unseen value with probability {_percent(value)}"
    )
    hint = ": it names rows, so every window will differ from it; drop it, or group its values"
    return _measured("identifier", gate, column, source, value, text, hint, unit=_percent)


def _unseen(times: NDArray[np.int64]) -> float:
    """Good and Turing's estimate of the probability of what was not seen yet, from how often each value was."""
    return float((times == 1).sum() / times.sum()) if len(times) else math.nan


def _of_categories(column: ColumnSummary, known: ColumnSummary, source: Source, gate: Gate) -> Iterator[Check]:
    ours, theirs = cast("dict[str, int]", column.counts or {}), cast("dict[str, int]", known.counts or {})
    for check, counts, others, total, unsure, said in (
        ("new_categories", ours, theirs, column.count, known.unlisted, "of the values are in categories that the current baseline has not"),
        ("lost_categories", theirs, ours, known.count, column.unlisted, "of the current baseline's values are in categories that are gone"),
    ):  # fmt: skip
        if unsure or not total:
            continue  # what is not listed is not known to be absent
        strange = {key: n for key, n in counts.items() if key not in others}
        share = sum(strange.values()) / total
        few = ", ".join(repr(key) for key in sorted(strange, key=lambda key: (-strange[key], key))[:3])
        text = f"{_percent(share)} {said}" + (f": {len(strange)}, for example {few}" if strange else "")
        yield _measured(check, gate, column, source, share, text, unit=_percent)


# --- Columns among each other ----------------------------------------------------------------------------------------


def _of_pairs(new: Baseline, current: Baseline | None, gate: Gate) -> Iterator[Check]:
    """Features that equal an earlier one."""
    twins = _twins(new)
    before = {} if current is None else _twins(current)
    for name, first in twins.items():
        finding = gate.finding("duplicated", name)
        fresh = current is not None and before.get(name) != first
        text = f"{name!r} equals {first!r} in every row that was sampled" + (
            ", and did not in the current baseline" if fresh else ""
        )
        yield Check(
            check="duplicated",
            level=finding.new if fresh else finding.known,
            value=1.0,
            limit=None,
            column=name,
            source="request",
            text=text,
        )


def _twins(baseline: Baseline) -> dict[str, str]:
    """Feature -> an earlier one whose summary and sampled rows are the same."""
    sampled = _sampled(baseline, "request")
    alike: dict[Any, list[str]] = {}
    found = {}
    for name, column in baseline.request.items():
        if _is_constant(column) or not column.count:
            continue
        key: Any = (column.type, column.count, column.missing)
        key += (
            (column.low, column.high) if column.type == "numeric" else (tuple(sorted((column.counts or {}).items())),)
        )
        mine = sampled.get(name)
        for other in alike.setdefault(key, []):
            theirs = sampled.get(other)
            if mine is None or theirs is None:
                continue
            if _equal(mine, theirs):
                found[name] = other
                break
        else:
            alike[key].append(name)
    return found


def _equal(a: "Floats | Sequence[str | None]", b: "Floats | Sequence[str | None]") -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b, equal_nan=True)
    return a == b


def _sampled(baseline: Baseline, source: Source) -> dict[str, "Floats | Sequence[str | None]"]:
    """Column -> its values in the sampled rows."""
    sample = baseline.samples.get(source)
    if sample is None:
        return {}
    columns = baseline.columns(source)
    numeric = [name for name, column in columns.items() if column.type == "numeric"]
    categorical = [name for name, column in columns.items() if column.type == "categorical"]
    return {
        **{name: sample.numeric[:, j] for j, name in enumerate(numeric)},
        **dict(zip(categorical, sample.categorical, strict=True)),
    }


def _of_leaks(
    new: Baseline, model: Model, gate: Gate, performance: Performance, rows: pa.Table | None
) -> Iterator[Check]:
    inputs, outputs = new.samples.get("request"), new.samples.get("response")
    if inputs is not None and outputs is not None and np.array_equal(inputs.keys, outputs.keys):
        said = _sampled(new, "response")
        targets = {name: _target(values) for name, values in said.items()}
        for name, values in _sampled(new, "request").items():
            feature = _bins(values)
            powers = {other: tell(feature) for other, tell in targets.items()}
            known = {other: power for other, power in powers.items() if math.isfinite(power)}
            if known:
                most = max(known, key=known.__getitem__)
                text = f"it alone tells the prediction {most!r} to {_percent(known[most])}"
                hint = ": the model may look at nothing else"
                yield _measured(
                    "prediction_leak", gate, new.request[name], "request", known[most], text, hint, unit=_percent
                )
    label = label_of(performance, model)
    if rows is None or label is None or label.name not in rows.column_names:
        return
    truth = next(iter(blocks(rows, Schema((label,)), max(rows.num_rows, 1))), None)
    features = next(iter(blocks(rows, model.request_schema, max(rows.num_rows, 1))), None)
    if truth is None or features is None:
        return
    codes = truth.categorical[0].codes.astype(np.int64) if truth.categorical else None
    schema = model.request_schema
    for j, column in enumerate(schema.in_block_order):
        if column.name not in new.request:
            continue
        if j < len(schema.numeric):
            feature = binned(features.numeric[:, j])
        else:
            feature = features.categorical[j - len(schema.numeric)].codes.astype(np.int64) + 1  # 0 is missing
        power = of_number(feature, truth.numeric[:, 0]) if codes is None else of_class(feature, codes)
        text = f"it alone tells the label {label.name!r} to {_percent(power)}"
        hint = ": was it known when the prediction was asked for?"
        if math.isfinite(power):
            yield _measured("label_leak", gate, new.request[column.name], "request", power, text, hint, unit=_percent)


def _bins(values: "Floats | Sequence[str | None]") -> Codes:
    return binned(values) if isinstance(values, np.ndarray) else coded(values)


def _target(values: "Floats | Sequence[str | None]") -> Callable[[Codes], float]:
    """How well a feature tells these values."""
    if isinstance(values, np.ndarray):
        return lambda feature: of_number(feature, values)
    codes = coded(values)
    absent = np.array([value is None for value in values])
    return lambda feature: of_class(feature, np.where(absent, -1, codes))


# --- Against the current baseline ------------------------------------------------------------------------------------


def _compared(new: Baseline, current: Baseline, rules: DriftRules) -> Iterator[Comparison]:
    for source in SOURCES:
        for name, column in new.columns(source).items():
            reference = current.columns(source).get(name)
            if reference is None or reference.type != column.type or not (reference.count and column.count):
                continue  # other checks tell of a column that changed its type, or has no values
            window = as_window(column, reference)
            for method, auto in rules.of(reference, window):
                yield _comparison(source, method, reference, window, auto=auto)


def _comparison(
    source: Source, method: DriftDetector, reference: ColumnSummary, window: ColumnSummary, *, auto: bool
) -> Comparison:
    """One answer; a method that fails is a missing score with its reason, and never stops the others."""
    score: float | None = None
    drifted, exact, explanation = False, False, dict[str, float]()
    error: str | None = None
    try:
        verdict = method.compare(reference, window)
        score, drifted = _number(verdict.score), bool(verdict.drifted)
        exact, explanation = verdict.exact, verdict.explanation
    except Exception as failure:  # noqa: BLE001 - whatever it is, it is told in the judgement
        error = f"{type(failure).__name__}: {failure}"
    return Comparison(
        name=reference.name,
        source=source,
        type=reference.type,
        method=method.label,
        direction=method.direction,
        score=score,
        threshold=method.threshold,
        drifted=drifted,
        exact=exact,
        explanation=explanation,
        auto=auto,
        error=error,
    )


def _of_drift(
    new: Baseline, current: Baseline | None, gate: Gate, comparisons: Sequence[Comparison]
) -> Iterator[Check]:
    if current is None:
        return
    answers: dict[tuple[Source, str], bool] = {}
    for one in comparisons:
        answers[one.source, one.name] = answers.get((one.source, one.name), False) or one.drifted
        yield _of_method(one, gate)
    for source, name in answers:
        column, known = new.columns(source)[name], current.columns(source)[name]
        value = displacement(known, column)
        said = "the cumulative shares" if column.type == "numeric" else "the shares of the categories"
        text = f"{said} differ by {_percent(value)} from those of the current baseline"
        yield _measured("displacement", gate, column, source, value, text, unit=_percent)
    if answers:
        share = sum(answers.values()) / len(answers)
        level = gate.drifted_share.level(share)
        limit = gate.drifted_share.limit(level)
        text = f"{sum(answers.values())} of {len(answers)} columns have drifted from the current baseline"
        yield Check(check="driftedShare", level=level, value=share, limit=limit, text=text)


def _of_method(one: Comparison, gate: Gate) -> Check:
    limits = gate.limits("drift", one.name)
    size = 0.0 if one.score is None else evidence(one.score, one.threshold, one.direction)
    level: Level = "accept"
    if one.drifted:
        # A range that left that of the reference is drift whatever the score.
        level = limits.level(max(size, 1.0))
        if level == "reject" and one.direction == "p-value":
            level = "warn"
    shown = "nothing to compare" if one.score is None else f"{one.score:.3g}, threshold {one.threshold:g}"
    text = (
        f"{one.method} against the current baseline is {shown}"
        if one.error is None
        else f"{one.method} failed: {one.error}"
    )
    if level == "reject":
        text += f": {size:.3g} times the threshold, limit {limits.reject:g}"
    return Check(
        check="drift",
        level=level,
        value=_number(size),
        limit=limits.limit(level),
        column=one.name,
        source=one.source,
        text=f"{_named(one.name, one.source)}: {text}",
    )


def displacement(old: ColumnSummary, new: ColumnSummary) -> float:
    """Largest difference of two columns' cumulative shares, of categories half the sum of the differences of shares; NaN where one is empty.

    >>> a = ColumnSummary("c", "categorical", 4, counts={"x": 3, "y": 1})
    >>> b = ColumnSummary("c", "categorical", 8, counts={"x": 2, "z": 6})
    >>> displacement(a, b)
    0.75
    """
    if not old.count or not new.count:
        return math.nan
    if old.type == "categorical":
        p, q = cast("dict[str, int]", old.counts or {}), cast("dict[str, int]", new.counts or {})
        keys = {**p, **q}
        gaps = [abs(p.get(key, 0) / old.count - q.get(key, 0) / new.count) for key in keys]
        # What neither lists may be the same: of unlisted values only their number is known to differ.
        return min((sum(gaps) + abs(old.unlisted / old.count - new.unlisted / new.count)) / 2, 1.0)
    try:
        a, b = distribution(old), distribution(new)
    except NotApplicable:
        return math.nan
    at = np.concatenate((a.corners, b.corners))
    gaps_upto = np.abs(a.upto(at) / a.total - b.upto(at) / b.total)
    gaps_below = np.abs(a.below(at) / a.total - b.below(at) / b.total)
    return float(max(gaps_upto.max(), gaps_below.max()))


def _of_performance(new: Baseline, current: Baseline | None, gate: Gate, performance: Performance) -> Iterator[Check]:
    if new.performance is None or not performance.metrics:
        return
    values = ReferencePerformance.from_bytes(new.performance).sums.metrics(performance.metrics)
    beyond = performance.alarms(values)
    for name, limit in performance.limits.items():
        level = gate.performance_limits if name in beyond else "accept"
        text = f"{name} on the training table is {values[name]:.4g}, its limit {limit:g}"
        yield Check(
            check="performanceLimits", level=level, value=_number(values[name]), limit=limit, metric=name, text=text
        )
    if current is None or current.performance is None:
        return
    before = ReferencePerformance.from_bytes(current.performance).sums.metrics(performance.metrics)
    for name, value in values.items():
        loss = _loss(name, before[name], value)
        level = gate.performance.level(loss)
        text = f"{name} on the training table is {value:.4g}, {before[name]:.4g} in the current baseline"
        if level != "accept":
            text += f": worse by {_percent(loss)}"
        reached = gate.performance.limit(level)
        yield Check(check="performance", level=level, value=_number(loss), limit=reached, metric=name, text=text)


def _loss(name: str, before: float, now: float) -> float:
    """1 - worse/better of a metric; 0 where it is better now, NaN where the better one is not above zero, so that there are no shares of it."""
    best = METRICS[name]
    if best == "zero" or math.isnan(before) or math.isnan(now):
        return math.nan
    if best == "high":
        return max(1 - now / before, 0.0) if before > 0 else math.nan
    return max(1 - before / now, 0.0) if min(before, now) > 0 else math.nan


# --- Words and numbers -----------------------------------------------------------------------------------------------


def _rows_of(column: ColumnSummary) -> int:
    return column.count + column.missing + column.nonfinite


def _share_missing(column: ColumnSummary) -> float:
    return column.missing / max(_rows_of(column), 1)


def _is_constant(column: ColumnSummary) -> bool:
    if not column.count:
        return False
    if column.type == "numeric":
        return column.low == column.high
    return not column.unlisted and column.counts is not None and sum(n > 0 for n in column.counts.values()) == 1


def _named(name: str, source: Source) -> str:
    return repr(name) if source == "request" else f"{name!r} (prediction)"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{share:.2g}"


def _bound(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))
