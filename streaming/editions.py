"""Editions: under which ModelMonitor and against which baseline the windows of a model are counted, and from when on.

A window belongs to one edition for all its life. When a baseline is published or a ModelMonitor changes, windows that have
begun end as they began; those that begin later are counted on the new rulers. Where windows overlap, the panes that both
need are counted twice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from streaming.worker import Worker, settings_of

ALWAYS = -(2**62)
NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Edition:
    """A few strings that name everything a stage needs of one model; cheap to send with every task."""

    number: int
    """No other edition of this plan has it, nor ever had."""
    since: int
    """Windows that begin here or later belong to it, up to the next edition; event time, ms."""
    baseline: str
    """Version of the baseline."""
    monitor: str
    """The ModelMonitor as JSON, its paths absolute."""


@dataclass(frozen=True, slots=True)
class Task:
    """What travels with every task."""

    models: tuple[tuple[Edition, ...], ...]
    """For each model its editions, oldest first."""
    started: int
    """When this run of the job began, ms since the epoch: silence counts from then on at the earliest."""
    lives: tuple[tuple[str, int], ...] = ()
    """Topics that were created more than once, and how often: their offsets begin anew, and ids must not."""


@dataclass(frozen=True)
class Term:
    """An edition with everything it names, and the span of event time that it is for."""

    number: int
    me: Worker
    since: int = ALWAYS
    over: int = NEVER
    """Where the next edition begins."""

    @cached_property
    def last(self) -> int:
        """Start of the last window; for counted windows their one pane has no time."""
        if self.over == NEVER or self.me.every is not None:
            return NEVER
        return (self.over - 1) // self.me.pane * self.me.pane

    @cached_property
    def until(self) -> int:
        """Panes that begin here or later are in no window of this edition."""
        if self.me.every is not None:
            return self.over
        return NEVER if self.over == NEVER else self.last + self.me.duration

    def windows(self, pane: int) -> range:
        """The starts of the windows that hold the pane that begins then."""
        me = self.me
        return range(max(pane - me.duration + me.pane, self.since), min(pane, self.last) + 1, me.pane)

    def is_late(self, pane: int, frontier: int) -> bool:
        """Whether no window that holds this pane is open any more."""
        if self.me.every is not None:
            return False
        return pane < self.since or min(pane, self.last) + self.me.duration <= frontier


@dataclass(frozen=True)
class Watched:
    """One model, as a stage sees it."""

    terms: tuple[Term, ...]
    """Oldest first; a window belongs to one of them."""

    @property
    def newest(self) -> Worker:
        """The one that later windows are counted by."""
        return self.terms[-1].me

    @property
    def model(self) -> str:
        """The model's name."""
        return self.newest.model

    @cached_property
    def _numbered(self) -> dict[int, Term]:
        return {term.number: term for term in self.terms}

    def term(self, number: int) -> Term | None:
        """The edition of that number, where it is still in use."""
        return self._numbered.get(number)

    def open(self, frontier: int) -> Iterator[Term]:
        """Those that may still have windows, newest first."""
        return (term for term in reversed(self.terms) if term.until > frontier)


def watched(editions: Sequence[Edition], workers: Callable[[str, str], Worker] = Worker.load) -> Watched:
    """A model's editions; `workers` gives what a ModelMonitor (as JSON) and a version of its baseline come to."""
    ends = [edition.since for edition in editions[1:]] + [NEVER]
    return Watched(
        tuple(
            Term(edition.number, workers(edition.monitor, edition.baseline), edition.since, over)
            for edition, over in zip(editions, ends, strict=True)
        )
    )


@dataclass(frozen=True)
class Crew:
    """All models of a task; each is read when its first message comes."""

    task: Task
    _workers: dict[tuple[str, str], Worker] = field(default_factory=dict)

    @cached_property
    def _editions(self) -> dict[str, tuple[Edition, ...]]:
        return {settings_of(editions[-1].monitor).name: editions for editions in self.task.models}

    @cached_property
    def _topics(self) -> dict[str, tuple[str, bool]]:
        found = {}
        for model, editions in self._editions.items():
            for edition in editions:
                monitor = settings_of(edition.monitor)
                for topic in monitor.inputs:
                    found[topic] = (model, topic != monitor.topics.inference)
        return found

    @cached_property
    def _read(self) -> dict[str, Watched]:
        return {}

    def model(self, name: str) -> Watched | None:
        """One of the models."""
        if name not in self._read and name in self._editions:
            self._read[name] = watched(self._editions[name], self._worker)
        return self._read.get(name)

    def name(self, topic: str) -> str:
        """A topic as ids name it: one that was deleted and created again has other messages at the same offsets."""
        lives = dict(self.task.lives).get(topic, 1)
        return topic if lives == 1 else f"{topic}~{lives}"

    def _worker(self, monitor: str, baseline: str) -> Worker:
        key = (monitor, baseline)
        if key not in self._workers:
            self._workers[key] = Worker.load(*key)
        return self._workers[key]

    def after(self, task: Task) -> "Crew":
        """Of another task, with what both have in common."""
        named = {(edition.monitor, edition.baseline) for editions in task.models for edition in editions}
        return Crew(task, {key: worker for key, worker in self._workers.items() if key in named})

    def of_topic(self, topic: str | None) -> tuple[Watched, bool] | None:
        """The model whose messages a topic holds, and whether they are labels; without a name that of the only one there is."""
        name, labels = (next(iter(self._editions)), False) if topic is None else self._topics.get(topic, (None, False))
        found = None if name is None else self.model(name)
        return None if found is None else (found, labels)


_crews: list[Crew] = []
"""The one of this process, which does one task at a time: what earlier tasks named and this one does not is let go."""


def crew(task: Task) -> Crew:
    """What this process holds of the models of a task."""
    if not _crews:
        _crews.append(Crew(task))
    elif _crews[0].task != task:
        _crews[0] = _crews[0].after(task)
    return _crews[0]
