"""Floods of requests that are the same, or nearly so."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import special
from typing_extensions import override

from detectors.base import Direction
from detectors.errors import NotApplicable
from detectors.statistics.block import Block, Codes
from detectors.statistics.sample import RowSample, content_keys, mixed
from detectors.traffic.base import Packed, TrafficDetector, TrafficVerdict, from_bytes, same_plan, to_bytes
from detectors.traffic.clients import Clients, PackedClients, added
from detectors.traffic.encoding import Units, block_of, hashes

_MAGIC = b"DLN1"
_GRIDS = 2
_BITS = np.uint64(52)
"""Of a cell's fingerprint; the other 12 are for the group, so that sorting one array sorts by both."""
_CELL = (np.uint64(1) << _BITS) - np.uint64(1)
_BITS_OF_COUNT = 48
_REACH = 2.0**50
"""Values so many cells out are all in one cell."""
_MISSING = 2.0**51
"""The cell of a missing value."""
_SAMPLED = 512
"""Distinct cells of each client whose number of requests is kept exactly."""
_LEAST_REFERENCE = 100
_AT_A_TIME = 1 << 14
_SHOWN = 5


class NearDuplicates(TrafficDetector):
    """Share of a client's requests that repeat others of it, beyond what is natural in the reference.

    A request's cell: numbers rounded to multiples of `tolerance`, categories as they are, a missing value as one more; hashed to
    52 bits. Every request of the window is counted, on two grids half a cell apart. The score is the largest of

    - on each grid, the **heavy** share: the requests in cells that hold more than chance explains, less the share of the same
      cells in the reference. Chance explains n of N requests against r of R reference rows unless the binomial tail of n out of
      n + r, with probability N / (N + R), is too small (two Poisson rates; Bonferroni over the cells);
    - the **repeated** share: among m = min(N, R / 2) requests drawn from the window, those whose cell is not new, less the same of
      the reference (rarefaction, computed, not simulated), less what chance and the error of counting explain. It sees a set of
      requests that is sent again and again while no single one is heavy.

    Heavy cells are counted by the mergeable Misra-Gries reduction, for each client and grid at most `cells` of them: a count is never too
    high, and too low by at most 1/cells of the client's requests; all are exact up to so many distinct cells. Distinct cells are
    counted by the 512 of each client with the smallest fingerprints (a bottom-k sample with exact counts): exactly if
    there are fewer, else with a standard error of 4.4 %.

    Facts: the ``heavy`` and the ``repeated`` share, the ``expected`` repeated share (that of the reference), ``distinct`` cells in the
    window, the share of the ``heaviest`` cell. Explanation: fingerprints of heavy cells by their share. Example: a request of a
    cell that was the heaviest in some part of the window.

    Costs: a client's state has some 9 bytes for each of at most 512 + 2 `cells` cells, and one request. A core counts 1 to 4 million
    rows of 30 numbers a second, 0.6 million when nearly each row has a client of its own.

    Parameters
    ----------
    threshold
        An alarm is raised at or above it. A share of the requests.
    tolerance
        Width of a cell, in units of a feature's spread in the reference (the smaller of standard deviation and interquartile
        range / 1.349).
    min_requests
        A client with fewer requests in the window is not judged.
    cells
        Cells counted for each client and grid.
    false_alarm_rate
        Probability, at most, that chance alone gives a client and window a score above 0, let alone one of `threshold`.
    clients
        See `TrafficDetector`.

    Notes
    -----
    Equal requests always share their cell. A grid cuts requests that differ by up to j cells in each of d numeric features apart with a
    probability of up to 1 - (1 - j)^d, into at most 2^(features cut) cells. The second grid helps when there are few features: in
    one, what lies within half a cell is never cut by both. With many, a flood shows as several heavy cells. Measured with copies of
    one request under uniform noise, tolerance 0.1: with 30 features, noise of +-0.01 spreads is caught from a share of 20 %
    on, +-0.02 from 50 % on if there are many copies, +-0.05 not; with 4 features, +-0.05 from 10 % on. A wider tolerance catches more.

    Misleads on clients that are uniform by nature (a probe, a sensor at rest, one use of the model): their requests are alike without
    malice. Where natural rows share cells (few or coarse features), less can be seen. Misses floods whose copies differ in
    a feature that is free to vary, such as an identifier. Nearest neighbours: `extraction`, for queries near each other but not
    equal; a drift detector such as `jensenshannon`, when all clients change together.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> def block(rows):
    ...     return Block(rows, np.isnan(rows))
    >>> reference = RowSample.of(block(rng.normal(size=(1000, 4))), 1000)
    >>> fitted = NearDuplicates().learn(reference, ["a", "b", "c", "d"], [])
    >>> natural = rng.normal(size=(500, 4))
    >>> flood = np.where(np.arange(500)[:, None] % 10 == 0, [0.0, 1.0, 2.0, 3.0], natural)
    >>> verdicts = [fitted.compare(fitted.observe(block(rows), None))[0] for rows in (natural, flood)]
    >>> [(round(verdict.score, 2), verdict.drifted) for verdict in verdicts], verdicts[1].example["c"]
    ([(0.0, False), (0.1, True)], 2.0)

    References
    ----------
    Misra & Gries (1982), Sci. Comput. Program. 2; Agarwal et al. (2013), Mergeable summaries, ACM TODS 38(4); Przyborowski & Wilenski
    (1940), Biometrika 31 (two Poisson rates); Hurlbert (1971), Ecology 52(4) (rarefaction); Karlin (1967), J. Math. Mech. 17(4)
    (variance of the number of occupied cells); Cohen & Kaplan (2007), Summarizing data using bottom-k sketches, PODC.
    """

    direction: ClassVar[Direction] = "distance"
    unit: ClassVar[str] = "share of the requests"

    name: Literal["near_duplicates"] = "near_duplicates"
    threshold: float = Field(0.05, gt=0, le=1)
    tolerance: float = Field(0.1, gt=0, le=100)
    min_requests: int = Field(100, ge=1)
    cells: int = Field(128, ge=8, le=4096)
    false_alarm_rate: float = Field(0.001, gt=0, lt=1)

    @override
    def learn(self, reference: RowSample, numeric: Sequence[str], categorical: Sequence[str]) -> "FittedNearDuplicates":
        if reference.rows < _LEAST_REFERENCE:
            msg = f"{self.name!r} needs a reference of at least {_LEAST_REFERENCE} rows, this one has {reference.rows}"
            raise NotApplicable(msg)
        units = Units.of(reference)
        tags = _fingerprints(block_of(reference), units, self.tolerance)
        natural = tuple(_Natural(*np.unique(cells, return_counts=True)) for cells in tags)
        return FittedNearDuplicates(self, (tuple(numeric), tuple(categorical)), units, reference.rows, natural)


@dataclass(frozen=True, slots=True)
class _Natural:
    """The cells of the reference on one grid."""

    cells: NDArray[np.uint64]
    """(k,) ascending."""
    counts: NDArray[np.int64]
    """(k,) rows in each."""

    def of(self, cells: NDArray[np.uint64]) -> NDArray[np.int64]:
        """How many reference rows are in these cells."""
        at = np.minimum(np.searchsorted(self.cells, cells), len(self.cells) - 1)
        return np.where(self.cells[at] == cells, self.counts[at], 0)


@dataclass(frozen=True, slots=True)
class Tally:
    """Requests by group and cell: parallel arrays, ascending by both; each cell once in a group."""

    groups: NDArray[np.int64]
    cells: NDArray[np.uint64]
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls) -> "Tally":
        """Of no requests."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int64))

    @classmethod
    def of(cls, tags: NDArray[np.uint64]) -> "Tally":
        """Of one batch's tags."""
        ordered, counts = np.unique(tags, return_counts=True)
        return cls((ordered >> _BITS).astype(np.int64), ordered & _CELL, counts)

    def joined(self, other: "Tally", mine: NDArray[np.int64], theirs: NDArray[np.int64]) -> "Tally":
        """Of both, where groups are renumbered."""
        groups = np.concatenate((mine[self.groups], theirs[other.groups]))
        tags = _tags(groups, np.concatenate((self.cells, other.cells)))
        ordered, where = np.unique(tags, return_inverse=True)
        counts = added(np.concatenate((self.counts, other.counts)), where, len(ordered))
        return Tally((ordered >> _BITS).astype(np.int64), ordered & _CELL, counts)

    def within(self, group: int) -> slice:
        """Where the cells of one group are."""
        return slice(*np.searchsorted(self.groups, [group, group + 1]))

    def take(self, rows: NDArray[np.bool_] | slice) -> "Tally":
        """Some of the cells."""
        return Tally(self.groups[rows], self.cells[rows], self.counts[rows])

    def smallest(self, size: int) -> "Tally":
        """With the smallest cells of each group only: a uniform sample of the distinct ones."""
        return self.take(np.arange(len(self.groups)) - np.searchsorted(self.groups, self.groups) < size)

    def heaviest(self, size: int, error: NDArray[np.int64]) -> "tuple[Tally, NDArray[np.int64]]":
        """With at most so many cells of each group (Misra-Gries), and by how much counts of each group are too low at most."""
        sizes = np.bincount(self.groups, minlength=len(error))
        over = np.flatnonzero(sizes > size)
        if len(over) == 0:
            return self, error
        # The counts of each group, ascending.
        ordered = np.sort((self.groups << _BITS_OF_COUNT) + self.counts)
        cut = np.zeros_like(error)
        cut[over] = ordered[np.cumsum(sizes)[over] - 1 - size] & ((1 << _BITS_OF_COUNT) - 1)
        left = self.counts - cut[self.groups]
        kept = left > 0
        return Tally(self.groups[kept], self.cells[kept], left[kept]), error + cut


@dataclass(frozen=True, slots=True)
class Examples:
    """For each group at most one request: of a cell that was the heaviest in some part of the group, the one with the smallest key."""

    groups: NDArray[np.int64]
    """(k,) ascending, each once."""
    cells: NDArray[np.uint64]
    keys: NDArray[np.uint64]
    numeric: NDArray[np.float64]
    """(k, numeric columns)"""
    texts: tuple[tuple[str | None, ...], ...]
    """(k, categorical columns)"""

    @classmethod
    def of(cls, block: Block, tags: NDArray[np.uint64], heavy: Tally) -> "Examples":
        """Of one batch."""
        top = _top(heavy.take(heavy.counts > 1))
        wanted = _tags(top.groups, top.cells)
        if len(wanted) == 0:
            return cls(top.groups, top.cells, top.cells, np.empty((0, block.numeric.shape[1])), ())
        at = np.minimum(np.searchsorted(wanted, tags), len(wanted) - 1)
        rows = np.flatnonzero(wanted[at] == tags)
        some = block.take(rows)
        keys = content_keys(some) if some.keys is None else some.keys
        order = np.lexsort((keys, at[rows]))
        first = order[np.searchsorted(at[rows][order], np.arange(len(wanted)))]
        columns = [column.codes[first].tolist() for column in some.categorical]
        texts = (
            tuple(
                None if code < 0 else column.values[code] for code, column in zip(codes, some.categorical, strict=True)
            )
            for codes in (zip(*columns, strict=True) if columns else [()] * len(first))
        )
        return cls(top.groups, top.cells, keys[first], some.numeric[first], tuple(texts))

    def take(self, rows: NDArray[np.bool_]) -> "Examples":
        """Some of them."""
        texts = tuple(text for text, wanted in zip(self.texts, rows.tolist(), strict=True) if wanted)
        return Examples(self.groups[rows], self.cells[rows], self.keys[rows], self.numeric[rows], texts)

    def joined(self, other: "Examples", heavy: Tally, mine: NDArray[np.int64], theirs: NDArray[np.int64]) -> "Examples":
        """Of both, where groups are renumbered: those of the heavier cells."""
        groups = np.concatenate((mine[self.groups], theirs[other.groups]))
        cells, keys = np.concatenate((self.cells, other.cells)), np.concatenate((self.keys, other.keys))
        counts = _counts(heavy, groups, cells)
        order = np.lexsort((keys, cells, -counts, groups))
        first = np.concatenate(([True], np.diff(groups[order]) > 0))[: len(order)]
        order = order[first & (counts[order] > 0)]
        texts = (*self.texts, *other.texts)
        numeric = np.concatenate((self.numeric, other.numeric))
        return Examples(
            groups[order], cells[order], keys[order], numeric[order], tuple(texts[i] for i in order.tolist())
        )


@dataclass(frozen=True, slots=True)
class Repetition:
    """What is known of the cells of some requests, client by client."""

    plan: bytes
    """Which settings and which reference it was made with."""
    size: int
    """So many heavy cells of a client at most."""
    clients: Clients
    heavy: tuple[Tally, ...]
    """For each grid."""
    errors: tuple[NDArray[np.int64], ...]
    """For each grid (groups,): by how much a heavy cell's count is too low at most; a cell that is not there had at most as many."""
    sampled: Tally
    """A uniform sample of the first grid's distinct cells, with exact counts."""
    examples: Examples

    def __add__(self, other: "Repetition") -> "Repetition":
        same_plan(self.plan, other.plan)
        if not (self.clients.requests.any() and other.clients.requests.any()):
            return self if self.clients.requests.any() else other
        clients, mine, theirs = self.clients.joined(other.clients)
        heavy, errors = [], []
        for grid in range(_GRIDS):
            error = added(
                np.concatenate((self.errors[grid], other.errors[grid])),
                np.concatenate((mine, theirs)),
                len(clients.requests),
            )
            kept, error = self.heavy[grid].joined(other.heavy[grid], mine, theirs).heaviest(self.size, error)
            heavy.append(kept)
            errors.append(error)
        return Repetition(
            self.plan,
            self.size,
            clients,
            tuple(heavy),
            tuple(errors),
            self.sampled.joined(other.sampled, mine, theirs).smallest(_SAMPLED),
            self.examples.joined(other.examples, heavy[0], mine, theirs),
        )

    def of(self, group: int | None) -> "_Scope":
        """The cells of one group, or of all requests."""
        if group is None:
            onto_one = np.zeros(len(self.clients.requests), np.int64)
            heavy = tuple(tally.joined(Tally.empty(), onto_one, onto_one) for tally in self.heavy)
            sampled = self.sampled.joined(Tally.empty(), onto_one, onto_one).smallest(_SAMPLED)
            return _Scope(int(self.clients.requests.sum()), 0, heavy, int(self.errors[0].sum()), sampled)
        heavy = tuple(tally.take(tally.within(group)) for tally in self.heavy)
        return _Scope(
            int(self.clients.requests[group]),
            group,
            heavy,
            int(self.errors[0][group]),
            self.sampled.take(self.sampled.within(group)),
        )

    def to_bytes(self) -> bytes:
        """The binary form: magic and version, then MessagePack of little-endian arrays."""
        examples = self.examples
        body = _Packed(
            self.plan,
            self.clients.packed(),
            [_packed(tally) for tally in (*self.heavy, self.sampled)],
            [error.tolist() for error in self.errors],
            examples.groups.tolist(),
            examples.cells.tobytes(),
            examples.keys.tobytes(),
            examples.numeric.tobytes(),
            examples.texts,
        )
        return to_bytes(_MAGIC, body)


class _PackedTally(msgspec.Struct, array_like=True):
    sizes: list[int]
    """Cells in each group."""
    cells: bytes
    counts: list[int]


class _Packed(Packed, array_like=True):
    clients: PackedClients
    tallies: list[_PackedTally]
    errors: list[list[int]]
    groups: list[int]
    cells: bytes
    keys: bytes
    numeric: bytes
    texts: tuple[tuple[str | None, ...], ...]


@dataclass(frozen=True, slots=True)
class _Scope:
    """The cells of the requests that one verdict is about."""

    requests: int
    group: int
    """In the tallies."""
    heavy: tuple[Tally, ...]
    error: int
    """By how much a count of the first grid's heavy cells is too low at most."""
    sampled: Tally

    def distinct(self) -> float:
        """Cells on the first grid: how many there are, about."""
        return len(self.sampled.cells) if self.whole else (_SAMPLED - 1) / self.share_sampled

    @property
    def whole(self) -> bool:
        """Whether the sample is all cells."""
        return len(self.sampled.cells) < _SAMPLED

    @property
    def share_sampled(self) -> float:
        """Probability with which a cell is among the sampled ones, the last of which sets it and does not count."""
        return 1.0 if self.whole else (float(self.sampled.cells[-1]) + 1) / float(_CELL)

    def distinct_among(self, drawn: int) -> tuple[float, float]:
        """Cells to be expected among so many requests drawn from these, and the standard error of that."""
        if self.whole:
            return float(np.sum(_met(self.sampled.counts, self.requests, drawn))), 0.0
        # Heavy cells are few and known, and would be a large error if the sample had them or missed them by chance.
        heavy = self.heavy[0]
        light = self.sampled.take(slice(0, _SAMPLED - 1))
        light = light.take(~np.isin(light.cells, heavy.cells))
        known = np.sum(_met(np.minimum(heavy.counts + self.error, self.requests), self.requests, drawn))
        light_cells = np.sum(_met(light.counts, self.requests, drawn)) / self.share_sampled
        return float(known + light_cells), float(light_cells) / math.sqrt(_SAMPLED - 2)


@dataclass(frozen=True)
class FittedNearDuplicates:
    """How often requests repeat each other naturally, cell by cell and altogether."""

    settings: NearDuplicates
    columns: tuple[tuple[str, ...], tuple[str, ...]]
    """Numeric and categorical ones."""
    units: Units
    rows: int
    """Of the reference."""
    natural: tuple[_Natural, ...]
    """For each grid."""
    name: str = "near_duplicates"

    @cached_property
    def plan(self) -> bytes:
        """8 bytes that differ when two states do not add."""
        settings = self.settings
        digest = hashlib.blake2b(digest_size=8)
        digest.update(repr((self.columns, settings.tolerance, settings.cells, settings.clients)).encode())
        digest.update(self.units.centre.tobytes() + self.units.spread.tobytes())
        return digest.digest()

    def empty(self) -> Repetition:
        """Of no requests."""
        numeric = np.empty((0, len(self.columns[0])))
        nothing, none = np.zeros(0, np.int64), np.zeros(0, np.uint64)
        return Repetition(
            self.plan,
            self.settings.cells,
            Clients.empty(self.settings.clients),
            (Tally.empty(),) * _GRIDS,
            (np.zeros(1, np.int64),) * _GRIDS,
            Tally.empty(),
            Examples(nothing, none, none, numeric, ()),
        )

    def observe(self, block: Block, clients: Codes | None) -> Repetition:
        """The cells of one batch."""
        size = self.settings.cells
        tracked, groups = Clients.of(clients, block.rows, self.settings.clients)
        none = np.zeros(len(tracked.requests), np.int64)
        tags = [_tags(groups, cells) for cells in _fingerprints(block, self.units, self.settings.tolerance)]
        tallies = [Tally.of(tag) for tag in tags]
        heavy = [tally.heaviest(size, none) for tally in tallies]
        return Repetition(
            self.plan,
            size,
            tracked,
            tuple(kept for kept, _ in heavy),
            tuple(error for _, error in heavy),
            tallies[0].smallest(_SAMPLED),
            Examples.of(block, tags[0], heavy[0][0]),
        )

    def read(self, data: bytes) -> Repetition:
        """Read the binary form of a state back."""
        return from_bytes(data, _MAGIC, self.plan, _Packed, self._unpacked)

    def _unpacked(self, body: _Packed) -> Repetition:
        clients = Clients.unpacked(body.clients, self.settings.clients)
        groups = len(clients.requests)
        *heavy, sampled = (_unpacked(tally, groups) for tally in body.tallies)
        errors = tuple(np.array(error, np.int64) for error in body.errors)
        if len(heavy) != _GRIDS or [len(error) for error in errors] != [groups] * _GRIDS:
            msg = f"it has counts for {len(heavy)} grids and errors for {[len(error) for error in errors]} groups of {groups}"
            raise ValueError(msg)
        rows = np.array(body.groups, np.int64)
        cells, keys = np.frombuffer(body.cells, np.uint64), np.frombuffer(body.keys, np.uint64)
        numeric = np.frombuffer(body.numeric).reshape(len(rows), len(self.columns[0]))
        widths = [len(texts) for texts in body.texts]
        if not len(rows) == len(cells) == len(keys) or widths != [len(self.columns[1])] * len(rows):
            msg = (
                f"it has {len(rows)} examples of {len(cells)} cells, with {widths} categories of {len(self.columns[1])}"
            )
            raise ValueError(msg)
        examples = Examples(rows, cells, keys, numeric, body.texts)
        return Repetition(body.plan, self.settings.cells, clients, tuple(heavy), errors, sampled, examples)

    def compare(self, state: Repetition) -> list[TrafficVerdict]:
        """Judge all requests, and each client's."""
        verdicts = [self._verdict(None, state.of(None), state.examples)]
        for client, group in state.clients.groups():
            mine = state.examples.take(state.examples.groups == group)
            verdicts.append(self._verdict(client, state.of(group), mine))
        return verdicts

    def _verdict(self, client: str | None, scope: _Scope, examples: Examples) -> TrafficVerdict:
        settings, requests = self.settings, scope.requests
        if requests < settings.min_requests:
            return TrafficVerdict(client, math.nan, settings.threshold, drifted=False, requests=requests)
        # The two grids and the repeated share are three tests.
        rate = settings.false_alarm_rate / (_GRIDS + 1)
        distinct = scope.distinct()
        heavy = [
            _beyond_chance(tally, natural, requests, self.rows, rate / (distinct + len(natural.cells)))
            for tally, natural in zip(scope.heavy, self.natural, strict=True)
        ]
        shares = [float(np.sum(beyond)) for beyond in heavy]
        grid = int(np.argmax(shares))
        repeated, expected, excess = self._repeated(scope, rate)
        score = min(max(shares[grid], excess), 1.0)
        drifted = score >= settings.threshold
        order = [i for i in np.argsort(-heavy[grid], kind="stable")[:_SHOWN].tolist() if heavy[grid][i] > 0]
        return TrafficVerdict(
            client,
            score,
            settings.threshold,
            drifted,
            requests,
            {f"{int(scope.heavy[grid].cells[i]):013x}": float(heavy[grid][i]) for i in order},
            {
                "heavy": shares[grid],
                "repeated": repeated,
                "expected": expected,
                "distinct": distinct,
                "heaviest": max(int(np.max(tally.counts, initial=0)) for tally in scope.heavy) / requests,
            },
            self._example(scope, examples) if drifted else {},
        )

    def _repeated(self, scope: _Scope, rate: float) -> tuple[float, float, float]:
        """Repeated shares among equally many requests of the window and of the reference, and the excess that chance does not explain.

        The number of distinct cells among m independent requests has a variance of at most what it still grows by from m to 2m (Karlin),
        and the rarefied number of the reference at most m / rows of that; Bernstein's inequality then bounds the tail.
        """
        drawn = min(scope.requests, self.rows // 2)
        counts = self.natural[0].counts
        natural, twice = (float(np.sum(_met(counts, self.rows, m))) for m in (drawn, 2 * drawn))
        found, error = scope.distinct_among(drawn)
        far = math.log(1 / rate)
        chance = math.sqrt(2 * far * (1 + drawn / self.rows) * max(twice - natural, 0.0)) + far / 3
        excess = natural - found - chance + float(special.ndtri(rate)) * error
        return max(1 - found / drawn, 0.0), 1 - natural / drawn, max(excess / drawn, 0.0)

    def _example(self, scope: _Scope, examples: Examples) -> dict[str, float | str | None]:
        if len(examples.groups) == 0:
            return {}
        counts = _counts(scope.heavy[0], np.zeros_like(examples.groups) + scope.group, examples.cells)
        i = int(np.argmax(counts))
        numbers = (None if math.isnan(x) else x if math.isfinite(x) else str(x) for x in examples.numeric[i].tolist())
        return dict(zip((*self.columns[0], *self.columns[1]), (*numbers, *examples.texts[i]), strict=True))


def _fingerprints(block: Block, units: Units, tolerance: float) -> list[NDArray[np.uint64]]:
    """For each grid (rows,) the cell of each request: numbers to the nearest multiple of a cell's width, and to the one below.

    Multiples are counted from the median. A cell is hashed to a sum of its coordinates times random odd numbers, and that is
    mixed: two cells have the same 52 bits with a probability of about 2^-52.
    """
    width = block.numeric.shape[1]
    factors = mixed(np.arange(1, width + len(block.categorical) + 1, dtype=np.uint64)) | np.uint64(1)
    nearest, below = np.zeros(block.rows, np.uint64), np.zeros(block.rows, np.uint64)
    with np.errstate(over="ignore"):
        per_unit = 1 / np.maximum(units.spread * tolerance, 1e-300)
        for start in range(0, block.rows, _AT_A_TIME):
            rows = slice(start, start + _AT_A_TIME)
            for j in range(width):
                place = (block.numeric[rows, j] - units.centre[j]) * per_unit[j]
                np.clip(place, -_REACH, _REACH, out=place)
                missing = np.isnan(place)
                if missing.any():
                    place[missing] = _MISSING
                floor = np.floor(place)
                cell = floor.astype(np.int64).view(np.uint64) * factors[j]
                below[rows] += cell
                nearest[rows] += cell + (place - floor >= 0.5) * factors[j]
    for factor, column in zip(factors[width:], block.categorical, strict=True):
        texts = hashes(column, slice(None)) * factor
        below += texts
        nearest += texts
    return [mixed(nearest) & _CELL, mixed(below) & _CELL]


def _tags(groups: NDArray[np.int64], cells: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return (groups.astype(np.uint64) << _BITS) | cells


def _counts(tally: Tally, groups: NDArray[np.int64], cells: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The counts of some cells; 0 where a cell is not in the tally."""
    if len(tally.cells) == 0:
        return np.zeros(len(cells), np.int64)
    known, wanted = _tags(tally.groups, tally.cells), _tags(groups, cells)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, tally.counts[at], 0)


def _top(tally: Tally) -> Tally:
    """The heaviest cell of each group; of equally heavy ones that with the smallest fingerprint."""
    order = np.lexsort((tally.cells, -tally.counts, tally.groups))
    first = np.concatenate(([True], np.diff(tally.groups[order]) > 0))[: len(order)]
    return Tally(tally.groups[order][first], tally.cells[order][first], tally.counts[order][first])


def _beyond_chance(tally: Tally, natural: _Natural, requests: int, rows: int, rate: float) -> NDArray[np.float64]:
    """(cells,) the share of the requests beyond that of the reference's rows, 0 where chance explains it."""
    there = natural.of(tally.cells)
    # P(at least `count` of the requests and rows in a cell are requests), if there are as many per request as per row.
    tail = special.betainc(np.maximum(tally.counts, 1), there + 1, requests / (requests + rows))
    return np.where(tail <= rate, np.maximum(tally.counts / requests - there / rows, 0.0), 0.0)


def _met(counts: NDArray[np.int64], total: int, drawn: int) -> NDArray[np.float64]:
    """Probability that at least one of `counts` things is among so many drawn from the total without replacement.

    ``1 - prod (1 - drawn / (total - i))`` over i < counts, with all factors as the middle one: exact for 1, and where that is off the
    product is next to nothing.
    """
    with np.errstate(divide="ignore"):
        missed = counts * np.log1p(-np.minimum(drawn / (total - (counts - 1) / 2), 1.0))
    return -np.expm1(missed)


def _packed(tally: Tally) -> _PackedTally:
    return _PackedTally(np.bincount(tally.groups).tolist(), tally.cells.tobytes(), tally.counts.tolist())


def _unpacked(packed: _PackedTally, groups: int) -> Tally:
    """Read back; raises ValueError when it is not whole."""
    cells = np.frombuffer(packed.cells, np.uint64)
    if not sum(packed.sizes) == len(cells) == len(packed.counts) or len(packed.sizes) > groups:
        msg = f"it has {len(packed.counts)} counts of {len(cells)} cells in {len(packed.sizes)} of {groups} groups"
        raise ValueError(msg)
    return Tally(np.repeat(np.arange(len(packed.sizes)), packed.sizes), cells, np.array(packed.counts, np.int64))
