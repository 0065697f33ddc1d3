"""Streams that change where we know it, for judging detectors honestly: false alarms, delays, changes that were missed.

Everything is seeded: the same arguments give the same arrays. Series of numbers come from numpy; tables of features with a target
come from river's SEA, Hyperplane and Friedman generators; errors come from a model of river's that predicts such a table.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from river import linear_model, optim, preprocessing, tree
from river.datasets import synth

Generator = Literal["sea", "hyperplane", "friedman"]
Observation = tuple[dict[int, float], float]


@dataclass(frozen=True, slots=True)
class Stream:
    """One series and where it changes."""

    name: str
    values: NDArray[np.float64]
    """(n,) numbers, or errors of 0 and 1."""
    drifts: tuple[int, ...]
    """The first observation of each change, ascending."""
    width: int = 1
    """Observations that each change takes."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of features with a target, and where they change."""

    name: str
    features: NDArray[np.float64]
    """(n, features)"""
    target: NDArray[np.float64]
    """(n,) 0 or 1, or a number where `regression`."""
    drifts: tuple[int, ...]
    """The first row of each change, ascending."""
    drifting: tuple[int, ...]
    """The features whose own distribution changes; none where only the target's dependence on them does."""
    regression: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a detector did on one stream."""

    delays: tuple[int | None, ...]
    """Observations from each change to its alarm; None where it was missed."""
    false_alarms: int
    """Alarms that belong to no change."""
    clean: int
    """Observations at which an alarm would be false."""


def clean(seed: int, n: int = 20_000) -> Stream:
    """Standard normal noise that never changes."""
    return Stream("clean", np.random.default_rng(seed).normal(size=n), ())


def abrupt(seed: int, n: int = 20_000, at: Sequence[int] = (5_000, 10_000, 15_000), shift: float = 1.0) -> Stream:
    """Normal noise whose mean goes up at once, each time by so many standard deviations."""
    return Stream("abrupt", _noise(seed, n) + shift * _passed(n, at), tuple(at))


def gradual(
    seed: int, n: int = 20_000, at: Sequence[int] = (5_000, 12_000), width: int = 2_000, shift: float = 1.0
) -> Stream:
    """Old and new mean by turns: over the width, an observation is of the new one with a probability that goes from 0 to 1."""
    rng = np.random.default_rng(seed)
    new = sum(rng.random(n) < _ramp(n, start, width) for start in at)
    return Stream("gradual", rng.normal(size=n) + shift * new, tuple(at), width)


def incremental(
    seed: int, n: int = 20_000, at: Sequence[int] = (5_000, 12_000), width: int = 2_000, shift: float = 1.0
) -> Stream:
    """The mean moves in a straight line over the width."""
    level = sum(_ramp(n, start, width) for start in at)
    return Stream("incremental", _noise(seed, n) + shift * level, tuple(at), width)


def recurring(seed: int, n: int = 20_000, period: int = 4_000, shift: float = 1.0) -> Stream:
    """Two means by turns, each for a period."""
    at = tuple(range(period, n, period))
    return Stream("recurring", _noise(seed, n) + shift * (_passed(n, at) % 2), at)


def bernoulli(seed: int, pieces: Sequence[tuple[int, float]] = ((10_000, 0.1), (10_000, 0.2))) -> Stream:
    """Independent errors of 0 and 1: so many observations at each rate."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([(rng.random(size) < rate).astype(np.float64) for size, rate in pieces])
    ends = itertools.accumulate(size for size, _ in pieces[:-1])
    return Stream("bernoulli", values, tuple(ends))


def concept(generator: Generator, seed: int, n: int = 10_000, at: Sequence[int] = (5_000,)) -> Table:
    """A table whose target comes to depend on the features in another way, while these stay as they are.

    SEA takes its next variant at each place, abruptly; Friedman swaps its features, and swaps them back; Hyperplane begins to turn (or
    stops) and turns on with every row.
    """
    rows = {"sea": _sea, "hyperplane": _hyperplane, "friedman": _friedman}[generator](seed, at)
    return _table(f"{generator}, concept", generator, itertools.islice(rows, n), tuple(at), ())


def covariate(generator: Generator, seed: int, n: int = 10_000, at: Sequence[int] = (5_000,)) -> Table:
    """A table whose first feature changes, while the target depends on the features as before.

    From the first place on, back at the second, and so on, rows are let pass with a probability in proportion to the feature.
    """
    rows = {"sea": _sea, "hyperplane": _hyperplane, "friedman": _friedman}[generator](seed, ())
    most = 10.0 if generator == "sea" else 1.0
    rng = random.Random(seed)

    def passed() -> Iterator[Observation]:
        for i in range(n):
            row = next(rows)
            while sum(i >= place for place in at) % 2 and rng.random() * most > row[0][0]:
                row = next(rows)
            yield row

    return _table(f"{generator}, covariate", generator, passed(), tuple(at), (0,))


def errors(
    table: Table, model: Literal["linear", "tree"], frozen_after: int | None = None, skip: int = 1_000
) -> Stream:
    """The errors of a model that predicts each row and then learns from it.

    0 and 1 for a class; the absolute error for a number. Where only a feature changed, the model may be as right as before, so that
    there is nothing to find; where the target did, a model that always learns recovers, and the errors come down again.

    Parameters
    ----------
    frozen_after
        Rows to learn from; after them it only predicts, as most models in production do. None: it always learns.
    skip
        Rows of the beginning to leave out, while it still knows little. Drifts are counted from there.
    """
    learner = _model(table, model)
    found = np.empty(len(table.target))
    for i, (row, target) in enumerate(zip(table.features.tolist(), table.target.tolist(), strict=True)):
        x = dict(enumerate(row))
        answer = target if table.regression else int(target)
        guess = learner.predict_one(x)
        found[i] = abs(answer - (guess or 0.0)) if table.regression else float(guess != answer)
        if frozen_after is None or i < frozen_after:
            learner.learn_one(x, answer)
    drifts = tuple(place - skip for place in table.drifts if place >= skip)
    return Stream(f"{table.name}, {model}", found[skip:], drifts)


def judged(alarms: Sequence[int], stream: Stream, within: int) -> Judgement:
    """Which alarms found a change, and how late.

    The first alarm within so many observations of the end of a change (and before the next) found it. Others between are neither
    right nor false; all the rest is false.

    Parameters
    ----------
    alarms
        Observations at which a detector alarmed, ascending.
    within
        How late an alarm may be.
    """
    n = len(stream.values)
    delays: list[int | None] = []
    justified = np.zeros(n, np.bool_)
    for start, after in itertools.pairwise((*stream.drifts, n)):
        end = min(start + stream.width + within, after)
        justified[start:end] = True
        delays.append(next((alarm - start for alarm in alarms if start <= alarm < end), None))
    false = sum(not justified[alarm] for alarm in alarms)
    return Judgement(tuple(delays), false, int(np.count_nonzero(~justified)))


def _noise(seed: int, n: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=n)


def _passed(n: int, at: Sequence[int]) -> NDArray[np.int64]:
    """(n,) how many of the places are behind."""
    return np.searchsorted(np.asarray(at), np.arange(n), side="right").astype(np.int64)


def _ramp(n: int, start: int, width: int) -> NDArray[np.float64]:
    return np.clip((np.arange(n) - start) / width, 0.0, 1.0)


def _sea(seed: int, at: Sequence[int]) -> Iterator[Observation]:
    variants = [iter(synth.SEA(variant=variant, noise=0.05, seed=seed + variant)) for variant in (2, 3, 0, 1)]
    for i in itertools.count():
        yield next(variants[sum(i >= place for place in at) % len(variants)])


def _hyperplane(seed: int, at: Sequence[int]) -> Iterator[Observation]:
    plane = synth.Hyperplane(seed=seed, n_features=5, n_drift_features=3, noise_percentage=0.05)
    for i, row in enumerate(plane):
        yield row
        plane.mag_change = 0.005 * (sum(i + 1 >= place for place in at) % 2)


def _friedman(seed: int, at: Sequence[int]) -> Iterator[Observation]:
    never = 1 << 60
    position = (*at, never, never + 1)[:2]
    return iter(synth.FriedmanDrift(drift_type="gra", position=position, seed=seed))


def _table(
    name: str, generator: Generator, rows: Iterator[Observation], drifts: tuple[int, ...], drifting: tuple[int, ...]
) -> Table:
    features, target = zip(*rows, strict=True)
    return Table(
        name,
        np.array([list(row.values()) for row in features], np.float64),
        np.array(target, np.float64),
        drifts,
        drifting,
        generator == "friedman",
    )


def _model(table: Table, model: Literal["linear", "tree"]):  # noqa: ANN202 - river's pipelines have no common type
    if model == "tree":
        return tree.HoeffdingTreeRegressor() if table.regression else tree.HoeffdingTreeClassifier()
    scaled = preprocessing.StandardScaler()
    if table.regression:
        return scaled | linear_model.LinearRegression(optimizer=optim.SGD(0.01))
    return scaled | linear_model.LogisticRegression(optimizer=optim.SGD(0.05))
