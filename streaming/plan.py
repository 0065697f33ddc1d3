"""The plan: what a job watches, under which editions, kept beside the checkpoint.

The state of the job makes sense only together with it: open windows are counted as their edition says. So the plan is written
before the query starts that works by it, and a checkpoint without one, or with one of another version, is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import fsspec
import msgspec

from reference.files import write_whole
from streaming.editions import ALWAYS, Edition, Task
from streaming.errors import IncompatibleCheckpoint
from streaming.fold import ALL
from streaming.marks import Key, Mark
from streaming.pane import milliseconds, rfc3339
from streaming.reports import EventReason
from streaming.spec import ModelMonitor
from streaming.worker import settings_of

VERSION = 4
_NOT_OF_WINDOWS = {"job", "logger", "reports", "reference", "kafka"}
"""Sections that may change without a new edition."""


class Topic(msgspec.Struct, rename="camel"):
    """A topic that is read, or was."""

    id: str
    """Kafka's own, which a topic that is deleted and created again does not keep."""
    lives: int = 1
    """How often it was created, as far as the job has seen."""
    left: dict[int, int] = {}
    """Partition -> offset at which reading stopped, while its model is watched no more."""


class Plan(msgspec.Struct, rename="camel"):
    """What is watched."""

    version: int = VERSION
    state_partitions: int = 0
    models: dict[str, list[Edition]] = {}
    """Model -> its editions, oldest first."""
    retired: list[str] = []
    """Models that are watched no more, but still have open windows."""
    topics: dict[str, Topic] = {}
    numbered: int = 0
    """Editions there ever were. State that outlives an edition names it, so no number is used twice."""
    bound: int | None = None
    """Messages of a micro-batch at most, as throughput was measured last."""
    spark: str = ""
    """Version of Spark that worked on the checkpoint last; Spark itself does not note it there."""

    def task(self, started: int) -> Task:
        """What travels with every task of a query that works by this plan."""
        lives = tuple((name, topic.lives) for name, topic in sorted(self.topics.items()) if topic.lives > 1)
        return Task(tuple(tuple(editions) for _, editions in sorted(self.models.items())), started, lives)

    def inputs(self) -> dict[str, str]:
        """Topic that is read -> its model."""
        found: dict[str, str] = {}
        for model, editions in self.models.items():
            if model not in self.retired:
                for edition in editions:
                    monitor = settings_of(edition.monitor)
                    found |= dict.fromkeys(monitor.inputs, model)
        return found


@dataclass(frozen=True)
class Wanted:
    """One model as its file and its store say now."""

    monitor: ModelMonitor
    """Its paths absolute."""
    baseline: str
    """Version."""


@dataclass(frozen=True)
class Change:
    """What is different from now on, for people."""

    model: str
    reason: EventReason
    text: str


def read(checkpoint: str) -> Plan | None:
    """The plan beside a checkpoint; None where nothing has begun.

    Raises
    ------
    IncompatibleCheckpoint
        When there is state without a plan that this version understands.
    """
    fs, root = fsspec.core.url_to_fs(checkpoint)
    again = "give spec.job.checkpoint a new directory (the monitor then begins at kafka.startingOffsets, and open windows are lost)"
    try:
        data = fs.cat_file(f"{root}/driftline/plan.json")
    except FileNotFoundError:
        if fs.exists(f"{root}/driftline/stamp.json") or fs.exists(f"{root}/offsets"):
            raise IncompatibleCheckpoint(
                f"the checkpoint {checkpoint} has no plan of this version beside it: {again}, or go on with the version that made it"
            ) from None
        return None
    try:
        version = json.loads(data)["version"]
        plan = msgspec.json.decode(data, type=Plan) if version == VERSION else None
    except (ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
        raise IncompatibleCheckpoint(
            f"the plan {checkpoint}/driftline/plan.json cannot be read ({error}): bring it back from a copy, or {again}"
        ) from None
    if plan is None:
        raise IncompatibleCheckpoint(
            f"the checkpoint {checkpoint} was made by another version of the monitor (its plan is of version {version}, not {VERSION}): "
            f"{again}, or go on with the version that made it"
        )
    return plan


def write(checkpoint: str, plan: Plan) -> None:
    """Keep the plan."""
    fs, root = fsspec.core.url_to_fs(checkpoint)
    data = msgspec.json.format(msgspec.json.encode(plan))
    write_whole(fs, f"{root}/driftline/plan.json", data + b"\n")


def adopted(plan: Plan, wanted: Mapping[str, Wanted], marks: Mapping[Key, Mark]) -> tuple[Plan, list[Change]]:
    """The plan with what is wanted now, to be followed from the next window of each model on.

    Parameters
    ----------
    marks
        Of a query that stands still between two batches: windows that have begun end as they began.
    """
    changes: list[Change] = []
    models, retired = {}, []
    for name, editions in plan.models.items():
        kept = _unfinished(name, editions, marks)
        if name in wanted:
            models[name] = kept
        elif _is_open(name, marks):
            models[name] = kept
            retired.append(name)
            if name not in plan.retired:
                changes.append(
                    Change(name, "modelRemoved", "its open windows end by the clock, and nothing new is read")
                )
        else:
            changes.append(Change(name, "modelRemoved", "nothing of it is open"))
    changes = [change for change in changes if change.model not in plan.retired]
    number = plan.numbered
    for name, one in wanted.items():
        if name in models:
            models[name], change = _with(models[name], one, number, marks.get((name, ALL)))
        else:
            models[name] = [_edition(one, number, ALWAYS)]
            change = ("modelAdded", f"baseline {one.baseline}")
        if change is not None:
            number += 1
            changes.append(Change(name, *change))
    return msgspec.structs.replace(plan, models=models, retired=retired, numbered=number), changes


def differs(plan: Plan, wanted: Mapping[str, Wanted]) -> bool:
    """Whether something else is wanted than what the plan says."""
    if set(wanted) != set(plan.models) - set(plan.retired):
        return True
    return any(
        plan.models[name][-1].monitor != _json(one.monitor) or plan.models[name][-1].baseline != one.baseline
        for name, one in wanted.items()
    )


def _edition(one: Wanted, number: int, since: int) -> Edition:
    return Edition(number, since, one.baseline, _json(one.monitor))


def _json(monitor: ModelMonitor) -> str:
    return monitor.model_dump_json(by_alias=True)


def _with(
    editions: list[Edition], one: Wanted, number: int, mark: Mark | None
) -> tuple[list[Edition], tuple[EventReason, str] | None]:
    """The editions of a model with one more, where what is wanted is not what the newest one says."""
    last = editions[-1]
    if last.baseline == one.baseline and _windowed(settings_of(last.monitor)) == _windowed(one.monitor):
        return [*editions[:-1], replace(last, monitor=_json(one.monitor))], None
    newest = ALWAYS if mark is None else mark.newest
    pane = 1 if one.monitor.spec.window.every is not None else milliseconds(one.monitor.spec.window.pane)
    before = [edition for edition in editions if edition.since <= newest]
    since = ALWAYS if not before or newest == ALWAYS else (newest // pane + 1) * pane
    if since == ALWAYS:
        before = []
    when = (
        "at once: it has no windows yet" if since == ALWAYS else f"for windows that begin at {rfc3339(since)} or later"
    )
    if last.baseline != one.baseline:
        reason: EventReason = "baselineAdopted"
        text = f"baseline {one.baseline} instead of {last.baseline}, {when}"
    else:
        reason, text = "monitorChanged", f"{', '.join(_changed(settings_of(last.monitor), one.monitor))}, {when}"
    return [*before, _edition(one, number, since)], (reason, text)


def _windowed(monitor: ModelMonitor) -> dict[str, Any]:
    """All of a ModelMonitor that windows depend on."""
    spec = monitor.model_dump(mode="json", by_alias=True)["spec"]
    kept = {name: section for name, section in spec.items() if name not in _NOT_OF_WINDOWS}
    return {**kept, "topics": monitor.topics.model_dump(), "maxMessageBytes": spec["kafka"]["maxMessageBytes"]}


def _changed(before: ModelMonitor, after: ModelMonitor) -> Sequence[str]:
    """Sections that differ, by name."""
    old, new = _windowed(before), _windowed(after)
    return [name for name in new if old.get(name) != new[name]]


def _unfinished(model: str, editions: list[Edition], marks: Mapping[Key, Mark]) -> list[Edition]:
    """Without the editions whose last windows have closed, in all segments."""
    mine = [mark for (name, _), mark in marks.items() if name == model]
    whole = marks.get((model, ALL))
    if whole is None:
        return editions
    kept = []
    for edition, after in zip(editions, [*editions[1:], None], strict=True):
        window = settings_of(edition.monitor).spec.window
        over = after is not None and after.since + milliseconds(window.duration) <= whole.frontier
        if not over or any(mark.open.get(edition.number) for mark in mine):
            kept.append(edition)
    return kept


def _is_open(model: str, marks: Mapping[Key, Mark]) -> bool:
    return any(sum(mark.open.values()) for (name, _), mark in marks.items() if name == model)
