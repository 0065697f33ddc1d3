"""From a built baseline to the current one: judge, publish, promote or not. What a schedule calls, and safe to run twice, also at once.

The same data give the same version, and a version that is current already is left alone. A new one is judged against the current one and promoted only
if that is still the current one (compare and swap); when another publisher was faster, it is judged again against the other's. A version that
was rolled back from is not promoted again by a schedule that builds it again from the same data: that takes a person, or other data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa

from detectors.performance.settings import Performance
from reference.baseline import Baseline
from reference.errors import BaselineNotFound, CorruptBaseline, PromotionConflict
from reference.gate import Level
from reference.judge import DriftRules, Judgement, judge
from reference.performance import label_of
from reference.schema import Model
from reference.settings import Reference
from reference.source import Source
from reference.store import Store

JUDGEMENT = "judgement.json"
"""Name of the file beside a version."""
REJECTED = 4
"""Exit code of a refresh whose baseline did not become current."""
Outcome = Literal["promoted", "unchanged", "rejected", "held", "published"]
Render = Callable[[Judgement, Baseline, Baseline | None], Mapping[str, bytes]]
"""Further files beside a version: a page, a snapshot."""

_ROUNDS = 10
"""So often another publisher may be faster before we give up."""
_SAMPLE = 10_000
"""Rows that leaks of the label are looked for in."""
_FRAGMENTS = 16
"""Parts of the data that they are from."""


class Refreshed(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """What a refresh came to: what a workflow branches on."""

    model: str
    outcome: Outcome
    """`promoted`: the version is the current one now. `unchanged`: it has been before. `rejected`: the gate did not let it pass. `held`: it was
    rolled back from, and only a person makes it current again. `published`: it was not meant to become current."""
    decision: Level
    """Of the gate."""
    version: str
    """That was built."""
    previous: str | None
    """That was current before; null when there was none."""
    current: str | None
    """That is current now."""
    forced: bool
    """Whether it became current against the gate."""
    rows: int
    reasons: list[str]
    """Of a decision other than `accept`."""
    columns: list[str]
    """The columns that these are about."""
    store: str
    removed: list[str] = []
    """Old versions that were removed."""
    registry: Literal["recorded", "pending"] | None = None
    """Whether MLflow knows; `pending`: the next refresh tells it. Null: none is configured."""
    registry_text: str | None = None

    @property
    def exit_code(self) -> int:
        """0, or 4 when the version that was built is not the current one although it was meant to be."""
        return REJECTED if self.outcome in {"rejected", "held"} else 0


@dataclass(frozen=True)
class Force:
    """Who promotes against the gate, and why."""

    by: str
    why: str


@dataclass(frozen=True)
class Rules:
    """What a new baseline is judged by: sections of a ModelMonitor."""

    model: Model
    settings: Reference
    drift: DriftRules = field(default_factory=DriftRules)
    performance: Performance = field(default_factory=Performance)


@dataclass(frozen=True)
class Settled:
    """What became of a built baseline."""

    refreshed: Refreshed
    judgement: Judgement


def settle(
    baseline: Baseline,
    rules: Rules,
    *,
    rows: pa.Table | None = None,
    render: Render = lambda *_: {},
    promote: bool = True,
    scheduled: bool = False,
    force: Force | None = None,
) -> Settled:
    """Judge a baseline, publish it, and make it the current one if the gate lets it.

    Parameters
    ----------
    rows
        Some rows of the training table with the label, as `labelled_rows` gives them.
    render
        Makes further files that are kept beside the version, after the judgement.
    promote
        False: only publish it.
    scheduled
        Nobody asked for this very version: one that was rolled back from stays away.
    force
        Promote it whatever the gate says.

    Raises
    ------
    PromotionConflict
        When others promote faster than this one judges, ten times in a row.
    """
    store = Store(rules.settings.store)
    model, version = baseline.model, baseline.version
    conflict: PromotionConflict | None = None
    for _ in range(_ROUNDS):
        previous = store.latest(model)
        if previous == version:
            if _loaded(store, model, version)[1] is not None:
                _published(store, baseline, promote=False, why="mended")
            kept = _kept(store, model, version)
            judgement = kept if kept is not None else _judged(baseline, None, rules, rows)
            return Settled(_refreshed("unchanged", judgement, store.url, previous, previous), judgement)
        current, trouble = _loaded(store, model, previous)
        judgement = _judged(baseline, current, rules, rows, previous=previous, trouble=trouble)
        kept = _kept(store, model, version)
        held = scheduled and force is None and version in store.left(model)
        if kept is not None and _as_of(kept, judgement) == judgement:
            judgement = kept
            _published(store, baseline, promote=False)
        else:
            files = {JUDGEMENT: judgement.to_json(), **render(judgement, baseline, current)}
            _published(store, baseline, promote=False, beside=files, decision=judgement.decision)
        if held:
            return Settled(_refreshed("held", judgement, store.url, previous, previous), judgement)
        if not promote:
            return Settled(_refreshed("published", judgement, store.url, previous, previous), judgement)
        forced = judgement.decision == "reject" and force is not None
        if judgement.decision == "reject" and not forced:
            return Settled(_refreshed("rejected", judgement, store.url, previous, previous), judgement)
        try:
            store.promote(
                model,
                version,
                expected=previous or "",
                by=None if force is None else force.by,
                why=f"judged: {judgement.decision}" if force is None else force.why,
                forced=forced,
            )
        except PromotionConflict as error:
            conflict = error
            continue
        return Settled(_refreshed("promoted", judgement, store.url, previous, version, forced=forced), judgement)
    assert conflict is not None
    raise conflict


def labelled_rows(source: Source, model: Model, performance: Performance) -> pa.Table | None:
    """Up to 10,000 rows with features and label, from up to 16 parts of the data that are spread evenly, in a random order; the same every time.

    None when no label is named, or the data has none.
    """
    label = label_of(performance, model)
    if label is None or label.name not in source.schema.names:
        return None
    names = list(dict.fromkeys([*(column.name for column in model.features), label.name]))
    if not source.fragments or any(name not in source.schema.names for name in names):
        return None
    places = np.unique(np.linspace(0, len(source.fragments) - 1, _FRAGMENTS).round().astype(int)).tolist()
    share = -(-_SAMPLE // len(places))
    some = []
    for place in places:
        left, chance = share, np.random.default_rng(place)
        for batch in source.fragments[place].batches(names):
            taken = min(left, batch.num_rows)
            some.append(batch.take(pa.array(chance.permutation(batch.num_rows)[:taken])))
            left -= taken
            if not left:
                break
    table = pa.Table.from_batches(some, pa.schema([source.schema.field(name) for name in names]))
    return table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))


def _as_of(judgement: Judgement, other: Judgement) -> Judgement:
    """A judgement as if it had been made at the time of the other one."""
    return msgspec.structs.replace(judgement, judged_at=other.judged_at)


def _judged(
    baseline: Baseline,
    current: Baseline | None,
    rules: Rules,
    rows: pa.Table | None,
    *,
    previous: str | None = None,
    trouble: str | None = None,
) -> Judgement:
    found = judge(
        baseline,
        current,
        rules.model,
        rules.settings.gate,
        drift=rules.drift,
        performance=rules.performance,
        rows=rows,
        trouble=trouble,
    )
    return found if trouble is None else msgspec.structs.replace(found, previous=previous)


def _published(store: Store, baseline: Baseline, **how: Any) -> None:
    store.publish(baseline, origin=baseline.origin, effective_rows=baseline.origin.get("effectiveRows"), **how)


def _loaded(store: Store, model: str, version: str | None) -> tuple[Baseline | None, str | None]:
    """A baseline, or why it cannot be read: a damaged one must not keep a sound one away."""
    if version is None:
        return None, None
    try:
        return store.load(model, version), None
    except (CorruptBaseline, BaselineNotFound) as error:
        return None, str(error)


def _kept(store: Store, model: str, version: str) -> Judgement | None:
    """The newest judgement beside a version; None when there is none that can be read."""
    try:
        return Judgement.from_json(store.read_beside(model, version, JUDGEMENT))
    except (BaselineNotFound, CorruptBaseline, msgspec.DecodeError):
        return None


def _refreshed(
    outcome: Outcome,
    judgement: Judgement,
    store: str,
    previous: str | None,
    current: str | None,
    *,
    forced: bool = False,
) -> Refreshed:
    return Refreshed(
        model=judgement.model,
        outcome=outcome,
        decision=judgement.decision,
        version=judgement.version,
        previous=previous,
        current=current,
        forced=forced,
        rows=judgement.rows,
        reasons=judgement.reasons,
        columns=judgement.columns,
        store=store,
    )


def tidied(settled: Settled, settings: Reference, *, named: Sequence[str] = ()) -> Settled:
    """After a refresh: old versions are removed, and the registry is told.

    Parameters
    ----------
    named
        Versions that a ModelMonitor names, which stay.
    """
    store, done = Store(settings.store), settled.refreshed
    gone = store.gc(done.model, keep=settings.keep, named=named)
    answer: dict[str, Any] = {"removed": [each.version for each in gone]}
    if settings.mlflow is not None:
        from reference.registry import record

        manifest = store.manifest(done.model, done.version)
        told = record(
            settings.mlflow,
            settled.judgement,
            current=done.current,
            store=done.store,
            sha256=manifest["sha256"],
            outcome=done.outcome,
        )
        answer |= {"registry": told.status, "registry_text": told.text}
    return replace(settled, refreshed=msgspec.structs.replace(done, **answer))


def promoted(
    baseline: Baseline, rules: Rules, *, render: Render = lambda *_: {}, force: Force | None = None, why: str = ""
) -> Settled:
    """A version that is in the store becomes the current one, because a person wants it.

    Its own judgement counts while it is about the current baseline: it may know of leaks of the label, which the stored version does not tell. Else
    it is judged again.

    Raises
    ------
    PromotionConflict
        When another was faster.
    """
    store = Store(rules.settings.store)
    model, version = baseline.model, baseline.version
    previous, kept = store.latest(model), _kept(store, model, version)
    if kept is None or kept.previous != previous or previous == version:
        return settle(baseline, rules, render=render, force=force)
    if kept.decision == "reject" and force is None:
        return Settled(_refreshed("rejected", kept, store.url, previous, previous), kept)
    forced = kept.decision == "reject"
    who, said = (None, why) if force is None else (force.by, force.why)
    store.promote(model, version, expected=previous or "", by=who, why=said, forced=forced)
    return Settled(_refreshed("promoted", kept, store.url, previous, version, forced=forced), kept)
