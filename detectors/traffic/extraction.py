"""Queries that look made up in order to copy a model, by how far each is from its nearest neighbour."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import stats
from typing_extensions import override

from detectors.base import Direction
from detectors.errors import NotApplicable
from detectors.statistics.block import Block, Codes
from detectors.statistics.sample import RowSample, content_keys, mixed
from detectors.traffic.base import Packed, TrafficDetector, TrafficVerdict, from_bytes, same_plan, to_bytes
from detectors.traffic.clients import Clients, PackedClients
from detectors.traffic.encoding import Units, block_of, hashes

_MAGIC = b"DLX1"
_LEAST = 32
"""Fewer distinct requests than this are not judged."""
_PER_ROW = 16
"""The reference must have so many distinct rows for each one of a subsample, else the subsamples resemble each other."""
_REACH = 1e3
"""Values so many spreads out are all equally far."""
_GRAIN = 2.0**20
"""Distances are whole multiples of a spread divided by this: equal ones are equal, whatever their last bits."""
_NEAR = 8
"""A twin of a request is drawn from so many reference rows nearest to it."""
_CHUNK = 100
_ENOUGH = 10
"""So many twins as extreme as the client settle that there is nothing to report."""
_SEED = 2019
_SHOWN = 5


class Extraction(TrafficDetector):
    """Whether a client's requests are as far from each other as natural ones: queries made up to copy a model are not (after PRADA).

    From a uniform sample of the client's requests in the window (see `rows`), duplicates left out, take the distance of each to
    its nearest neighbour in the sample. The statistic is Anderson and Darling's distance between these distances and those in
    equally large subsamples of the reference; the same statistic of each of `resamples` subsamples gives the p-value. Nothing is
    assumed of the shape of the reference, unlike in PRADA, which asks whether the distances are normal. Sizes of 32, 45,
    64, 91, … up to `rows` are learnt; of a sample in between, the requests beyond the next smaller size are left out.

    A client that is natural but narrow (one shop, one route) has near neighbours too. So there is an alarm only when the requests are
    as extreme among their twins: samples of reference rows, each row drawn from the 8 nearest to one request. The score is the
    larger of both p-values. The first one alone keeps the rate of false alarms among clients that are like the reference at `threshold`.

    The distance of two requests is the root of a sum of squares over the columns. A numeric column adds the difference in units of its
    spread in the reference (values lie at most 1000 of them from the median); a categorical one 0 or 1; a missing value counts
    as the reference's median, with 1 more for being missing.

    Facts: ``requests`` compared, their median ``distance``, the ``expected`` one (of the reference; of the twins once they were
    drawn), ``anderson_darling``, and PRADA's ``shapiro_wilk``. Explanation: columns by their share of the squared distances.

    Costs: a client's state has 4 bytes for each number, 8 for each category and 8 more for each of its `rows`. Learning takes about a
    second. A verdict takes a millisecond, one that needs twins up to 0.2 s (64 rows, 10,000 reference rows).

    Parameters
    ----------
    threshold
        An alarm is raised at or below it. A probability for each client and window; at least 1 / (resamples + 1), the smallest p-value
        there is.
    rows
        Requests kept of each client and window. More see smaller shares of made-up requests, and more clients that are merely narrow.
    resamples
        Subsamples of the reference from which the p-value is read.
    clients
        See `TrafficDetector`.

    Notes
    -----
    Measured on flights with 64 rows and threshold 0.001: uniform noise in the box of the features, sweeps of one feature, lines
    between two rows, grids over two features, and perturbed seeds (Jacobian-based augmentation with steps of 0.1 standard deviations) are
    caught in nearly every window; hidden among natural requests, from a share of about a half on. Clients that are one
    origin, month or hour raise no alarms. Those that are one carrier or destination often do, when the reference has fewer rows of
    it than the twins need.

    Misleads on clients whose natural requests lie where the reference hardly has rows, and when the traffic as a whole drifts: look
    at the drift detectors first. Misses an attacker who queries natural rows, who sends fewer than 32 distinct requests in a
    window, or who shares them out among many clients (the verdict on all requests together may see that). Steps as long as natural
    distances look natural, which with few columns they soon are. Of many small families of queries a sample may hold one member
    each; a larger `rows` helps. Nearest neighbours: `near_duplicates`, for queries that repeat; drift of the scores of an outlier model, for
    queries unlike any natural one.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> def block(rows):
    ...     return Block(rows, np.isnan(rows))
    >>> reference = RowSample.of(block(rng.normal(size=(2000, 3))), 2000)
    >>> fitted = Extraction(resamples=999).learn(reference, ["a", "b", "c"], [])
    >>> sweep = np.zeros((100, 3))
    >>> sweep[:, 1] = np.linspace(-3, 3, 100)
    >>> natural, swept = (
    ...     fitted.compare(fitted.observe(block(rows), None))[0] for rows in (rng.normal(size=(100, 3)), sweep)
    ... )
    >>> natural.drifted, swept.drifted, swept.explanation
    (False, True, {'b': 1.0})

    References
    ----------
    Juuti, Szyller, Marchal & Asokan (2019), PRADA: protecting against DNN model stealing attacks, EuroS&P; Anderson & Darling (1952),
    Ann. Math. Statist. 23(2); Davison & Hinkley (1997), Bootstrap methods and their application, chapter 4; Besag & Clifford
    (1991), Biometrika 78(2) (sequential Monte Carlo p-values); Gower (1971), Biometrics 27(4) (mixed columns).
    """

    direction: ClassVar[Direction] = "p-value"
    quick: ClassVar[bool] = False
    unit: ClassVar[str] = "probability"

    name: Literal["extraction"] = "extraction"
    threshold: float = Field(0.001, gt=0, lt=1)
    clients: int = Field(50, ge=1, le=200)
    """As in `TrafficDetector`, but at most 200: under attack each of them may take a tenth of a second."""
    rows: int = Field(64, ge=_LEAST, le=1024)
    resamples: int = Field(1999, ge=99, le=100_000)

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.threshold * (self.resamples + 1) < 1:
            msg = f"threshold {self.threshold} needs at least {math.ceil(1 / self.threshold) - 1} resamples, there are {self.resamples}"
            raise ValueError(msg)
        return self

    @override
    def learn(self, reference: RowSample, numeric: Sequence[str], categorical: Sequence[str]) -> "FittedExtraction":
        units = Units.of(reference)
        rows = _Points.of(block_of(reference), slice(None), units)
        points = rows.take(rows.distinct())
        most = min(self.rows, len(points.ids) // _PER_ROW)
        if most < _LEAST or not (numeric or categorical):
            msg = (
                f"{self.name!r} needs a reference of at least {_LEAST * _PER_ROW} distinct rows and a column, this one has "
                f"{len(points.ids)} and {len(numeric) + len(categorical)}: keep more rows in the baseline"
            )
            raise NotApplicable(msg)
        return FittedExtraction(self, (*numeric, *categorical), units, points, _nulls(rows, most, self.resamples))


@dataclass(frozen=True, slots=True)
class _Points:
    """Requests in the space in which distances are taken."""

    z: NDArray[np.float32]
    """(n, numeric columns) standardised; NaN where missing."""
    texts: NDArray[np.uint64]
    """(n, categorical columns) hashes."""
    ids: NDArray[np.uint64]
    """(n,) equal for equal rows."""

    @classmethod
    def of(cls, block: Block, rows: NDArray[np.int64] | slice, units: Units) -> "_Points":
        z = units.standardised(block.numeric[rows], _REACH).astype(np.float32) + np.float32(0)  # one of the two zeros
        texts = [hashes(column, rows) for column in block.categorical]
        return cls.made(z, np.stack(texts, axis=1) if texts else np.empty((len(z), 0), np.uint64))

    @classmethod
    def made(cls, z: NDArray[np.float32], texts: NDArray[np.uint64]) -> "_Points":
        ids = np.zeros(len(z), np.uint64)
        for j in range(z.shape[1]):
            column = np.where(np.isnan(z[:, j]), np.float32(np.nan), z[:, j])  # one of the many
            ids = mixed(ids ^ column.view(np.uint32))
        for j in range(texts.shape[1]):
            ids = mixed(ids ^ texts[:, j])
        return cls(z, texts, ids)

    def __add__(self, other: "_Points") -> "_Points":
        return _Points(
            np.concatenate((self.z, other.z)),
            np.concatenate((self.texts, other.texts)),
            np.concatenate((self.ids, other.ids)),
        )

    def take(self, rows: NDArray[np.int64] | slice) -> "_Points":
        return _Points(self.z[rows], self.texts[rows], self.ids[rows])

    def distinct(self) -> NDArray[np.int64]:
        """The first of all equal rows, in their order."""
        return np.sort(np.unique(self.ids, return_index=True)[1])

    def vectors(self) -> NDArray[np.float64]:
        """(n, 2 numeric columns) the numbers with 0 where missing, then 1 where missing."""
        missing = np.isnan(self.z)
        return np.hstack((np.where(missing, np.float32(0), self.z), missing)).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Queries:
    """A uniform sample of each client's requests: those with the smallest keys (see `RowSample`).

    Parallel arrays, ascending by group, then key.
    """

    plan: bytes
    """Which settings and which reference it was made with."""
    size: int
    """So many requests of a client at most."""
    clients: Clients
    groups: NDArray[np.int64]
    keys: NDArray[np.uint64]
    points: _Points

    def __add__(self, other: "Queries") -> "Queries":
        same_plan(self.plan, other.plan)
        if not (self.clients.requests.any() and other.clients.requests.any()):
            return self if self.clients.requests.any() else other
        clients, mine, theirs = self.clients.joined(other.clients)
        groups = np.concatenate((mine[self.groups], theirs[other.groups]))
        keys = np.concatenate((self.keys, other.keys))
        rows = _smallest(groups, keys, self.size)
        points = (self.points + other.points).take(rows)
        return Queries(self.plan, self.size, clients, groups[rows], keys[rows], points)

    def to_bytes(self) -> bytes:
        """The binary form: magic and version, then MessagePack of little-endian arrays."""
        body = _Packed(
            self.plan,
            self.clients.packed(),
            np.bincount(self.groups).tolist(),
            self.keys.tobytes(),
            self.points.z.tobytes(),
            self.points.texts.tobytes(),
        )
        return to_bytes(_MAGIC, body)


class _Packed(Packed, array_like=True):
    clients: PackedClients
    sizes: list[int]
    """Requests in each group."""
    keys: bytes
    z: bytes
    texts: bytes


@dataclass(frozen=True, slots=True)
class _Null:
    """What is natural of samples of one size."""

    pool: NDArray[np.float64]
    """Nearest-neighbour distances of all subsamples, ascending."""
    statistics: NDArray[np.float64]
    """(subsamples,) Anderson-Darling distance of each to the pool, ascending."""

    def p_value(self, statistic: float) -> float:
        above = len(self.statistics) - np.searchsorted(self.statistics, statistic, side="left")
        return float(above + 1) / (len(self.statistics) + 1)


@dataclass(frozen=True)
class FittedExtraction:
    """The distances that are natural, for samples of several sizes."""

    settings: Extraction
    columns: tuple[str, ...]
    units: Units
    reference: _Points
    """Its distinct rows."""
    nulls: dict[int, _Null]
    """Size of a sample -> what is natural of it."""
    name: str = "extraction"

    @cached_property
    def plan(self) -> bytes:
        """8 bytes that differ when two states do not add."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(
            repr((self.columns, self.reference.texts.shape[1], self.settings.rows, self.settings.clients)).encode()
        )
        digest.update(self.units.centre.tobytes() + self.units.spread.tobytes())
        return digest.digest()

    @cached_property
    def _vectors(self) -> NDArray[np.float64]:
        return self.reference.vectors()

    def empty(self) -> Queries:
        """Of no requests."""
        nothing = np.empty(0, np.int64)
        points = _Points(self.reference.z[:0], self.reference.texts[:0], self.reference.ids[:0])
        return Queries(
            self.plan,
            self.settings.rows,
            Clients.empty(self.settings.clients),
            nothing,
            nothing.astype(np.uint64),
            points,
        )

    def observe(self, block: Block, clients: Codes | None) -> Queries:
        """A sample of each client's requests in one batch."""
        size = self.settings.rows
        tracked, groups = Clients.of(clients, block.rows, self.settings.clients)
        keys = content_keys(block) if block.keys is None else block.keys
        if not tracked.names and block.rows > size:
            rows = np.argpartition(keys, size - 1)[:size]
            rows = rows[np.argsort(keys[rows], kind="stable")]
        else:
            rows = _smallest(groups, keys, size)
        return Queries(self.plan, size, tracked, groups[rows], keys[rows], _Points.of(block, rows, self.units))

    def read(self, data: bytes) -> Queries:
        """Read the binary form of a state back."""
        return from_bytes(data, _MAGIC, self.plan, _Packed, self._unpacked)

    def _unpacked(self, body: _Packed) -> Queries:
        clients = Clients.unpacked(body.clients, self.settings.clients)
        keys = np.frombuffer(body.keys, np.uint64)
        if sum(body.sizes) != len(keys) or len(body.sizes) > len(clients.requests):
            msg = (
                f"it has {len(keys)} requests, {sum(body.sizes)} in {len(body.sizes)} of {len(clients.requests)} groups"
            )
            raise ValueError(msg)
        groups = np.repeat(np.arange(len(body.sizes)), body.sizes)
        z = np.frombuffer(body.z, np.float32).reshape(len(keys), self.reference.z.shape[1])
        texts = np.frombuffer(body.texts, np.uint64).reshape(len(keys), self.reference.texts.shape[1])
        return Queries(body.plan, self.settings.rows, clients, groups, keys, _Points.made(z, texts))

    def compare(self, state: Queries) -> list[TrafficVerdict]:
        """Judge all requests, and each client's."""
        together = _smallest(np.zeros_like(state.groups), state.keys, state.size)
        everyone = self._verdict(None, int(state.clients.requests.sum()), state.points.take(together))
        verdicts = [everyone]
        for client, group in state.clients.groups():
            requests = int(state.clients.requests[group])
            if requests == everyone.requests:
                verdicts.append(replace(everyone, client=client))
            else:
                mine = slice(*np.searchsorted(state.groups, [group, group + 1]))
                verdicts.append(self._verdict(client, requests, state.points.take(mine)))
        return verdicts

    def _verdict(self, client: str | None, requests: int, points: _Points) -> TrafficVerdict:
        threshold = self.settings.threshold
        first = points.distinct()
        size = max((size for size in self.nulls if size <= len(first)), default=0)
        if size == 0:
            return TrafficVerdict(client, math.nan, threshold, drifted=False, requests=requests)
        points = points.take(first[:size])
        vectors = points.vectors()
        squared = _squared(vectors[None], points.texts[None])[0]
        nearest = np.argmin(squared, axis=1)
        distances = _distances(squared)
        null = self.nulls[size]
        statistic = float(_anderson_darling(distances, null.pool))
        score, expected = null.p_value(statistic), float(np.median(null.pool))
        if score <= threshold:
            twin_score, statistic, expected = self._among_twins(vectors, points.texts, distances)
            score = max(score, twin_score)
        facts = {
            "requests": float(size),
            "distance": float(np.median(distances)),
            "expected": expected,
            "anderson_darling": statistic,
        }
        if distances[0] < distances[-1]:
            facts["shapiro_wilk"] = float(stats.shapiro(distances).statistic)
        shares = self._shares(vectors, points.texts, nearest)
        return TrafficVerdict(client, score, threshold, score <= threshold, requests, shares, facts)

    def _shares(
        self, vectors: NDArray[np.float64], texts: NDArray[np.uint64], nearest: NDArray[np.int64]
    ) -> dict[str, float]:
        """The columns' parts of the squared distances to the nearest neighbours."""
        numbers = np.sum((vectors - vectors[nearest]) ** 2, axis=0).reshape(2, -1).sum(axis=0)
        parts = np.concatenate((numbers, np.sum(texts != texts[nearest], axis=0)))
        if not parts.any():
            return {}
        largest = np.argsort(-parts, kind="stable")[:_SHOWN]
        return {self.columns[j]: float(parts[j] / parts.sum()) for j in largest.tolist() if parts[j]}

    def _among_twins(
        self, vectors: NDArray[np.float64], texts: NDArray[np.uint64], distances: NDArray[np.float64]
    ) -> tuple[float, float, float]:
        """p-value and statistic of the distances among those of natural samples from the same places, and the median of theirs.

        A sample of twins is made of distinct reference rows, each drawn from those nearest to one request. The first ones
        are what is expected, the others tell how far from that is natural. Drawing ends when enough are as far off as the client
        (Besag and Clifford's sequential test), or when the threshold can be reached.
        """
        near, drawn = self._neighbours(vectors, texts), np.random.default_rng(_SEED)
        pool = np.sort(self._twins(near, _CHUNK, drawn), axis=None)
        statistic = float(_anderson_darling(distances, pool))
        needed = min(self.settings.resamples, math.ceil(1 / self.settings.threshold) - 1)
        above = total = 0
        while total < needed and above < _ENOUGH:
            count = min(_CHUNK, needed - total)
            above += int(np.sum(_anderson_darling(self._twins(near, count, drawn), pool) >= statistic))
            total += count
        return (above + 1) / (total + 1), statistic, float(np.median(pool))

    def _neighbours(self, vectors: NDArray[np.float64], texts: NDArray[np.uint64]) -> NDArray[np.int64]:
        """(requests, k) the reference rows nearest to each request, nearest first."""
        most = min(_NEAR + len(vectors), len(self._vectors))
        squared = _squared(vectors[None], texts[None], self._vectors[None], self.reference.texts[None])[0]
        near = np.argpartition(squared, most - 1, axis=1)[:, :most]
        order = np.argsort(np.take_along_axis(squared, near, axis=1), axis=1, kind="stable")
        return np.take_along_axis(near, order, axis=1)

    def _twins(self, near: NDArray[np.int64], count: int, random: np.random.Generator) -> NDArray[np.float64]:
        """(count, requests) distances, ascending, in so many samples of twins."""
        size = len(near)
        candidates, where = np.unique(near, return_inverse=True)
        where = where.reshape(near.shape)
        free = np.ones((count, len(candidates)), np.bool_)
        chosen = np.empty((count, size), np.int64)
        each = np.arange(count)
        for i in random.permutation(size).tolist():
            pick = random.integers(1, _NEAR + 1, size=count)
            place = np.argmax(np.cumsum(free[:, where[i]], axis=1) == pick[:, None], axis=1)
            chosen[:, i] = where[i, place]
            free[each, chosen[:, i]] = False
        rows = candidates[chosen]
        parts = np.array_split(rows, math.ceil(count / _at_a_time(size)))
        return np.concatenate([_distances(_squared(self._vectors[part], self.reference.texts[part])) for part in parts])


def _smallest(groups: NDArray[np.int64], keys: NDArray[np.uint64], size: int) -> NDArray[np.int64]:
    """The rows with the smallest keys of each group, ascending by group, then key."""
    order = np.lexsort((keys, groups))
    ordered = groups[order]
    return order[np.arange(len(order)) - np.searchsorted(ordered, ordered) < size]


def _squared(
    a: NDArray[np.float64],
    of_a: NDArray[np.uint64],
    b: NDArray[np.float64] | None = None,
    of_b: NDArray[np.uint64] | None = None,
) -> NDArray[np.float64]:
    """(c, n, m) squared distances between (c, n, .) and (c, m, .) requests; within one sample, infinite of a request to itself."""
    within = b is None or of_b is None
    if b is None or of_b is None:
        b, of_b = a, of_a
    squared = -2 * (a @ b.swapaxes(1, 2))
    squared += np.sum(a * a, axis=2)[:, :, None]
    squared += np.sum(b * b, axis=2)[:, None, :]
    for j in range(of_a.shape[2]):
        squared += of_a[:, :, None, j] != of_b[:, None, :, j]
    if within:
        itself = np.arange(a.shape[1])
        squared[:, itself, itself] = np.inf
    return squared


def _distances(squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """(…, n) distance of each request to its nearest neighbour, ascending, from (…, n, n) squared ones."""
    nearest = np.sqrt(np.maximum(np.min(squared, axis=-1), 0.0))
    return np.sort(np.rint(nearest * _GRAIN) / _GRAIN, axis=-1)


def _anderson_darling(distances: NDArray[np.float64], pool: NDArray[np.float64]) -> NDArray[np.float64]:
    """A^2 of (…, n) ascending values against the distribution of a much larger ascending pool; equal values count half."""
    n, most = distances.shape[-1], len(pool)
    rank = (np.searchsorted(pool, distances, side="left") + np.searchsorted(pool, distances, side="right")) / 2
    u = np.clip(rank, 0.5, most - 0.5) / most
    weights = (2 * np.arange(n) + 1) / n
    total: NDArray[np.float64] = np.sum(weights * (np.log(u) + np.log1p(-u[..., ::-1])), axis=-1)
    statistic: NDArray[np.float64] = -n - total
    return statistic


def _at_a_time(size: int) -> int:
    """So many samples of a size have their distances taken at once, in a few megabytes."""
    return max((1 << 17) // size**2, 1)


def _nulls(rows: _Points, most: int, resamples: int) -> dict[int, _Null]:
    """What is natural: the distances in many subsamples of the reference. The smaller sizes are the first rows of the largest."""
    sizes = [size for j in range(12) if (size := round(_LEAST * 2 ** (j / 2))) <= most]
    random = np.random.default_rng(_SEED)
    vectors = rows.vectors()
    found: dict[int, list[NDArray[np.float64]]] = {size: [] for size in sizes}
    at_a_time = _at_a_time(sizes[-1])
    for start in range(0, resamples, at_a_time):
        count = min(at_a_time, resamples - start)
        picked = np.stack([_subsample(rows.ids, sizes[-1], random) for _ in range(count)])
        squared = _squared(vectors[picked], rows.texts[picked])
        for size in sizes:
            found[size].append(_distances(squared[:, :size, :size]))
    nulls = {}
    for size, parts in found.items():
        distances = np.concatenate(parts)
        pool = np.sort(distances, axis=None)
        nulls[size] = _Null(pool, np.sort(_anderson_darling(distances, pool)))
    return nulls


def _subsample(ids: NDArray[np.uint64], size: int, random: np.random.Generator) -> NDArray[np.int64]:
    """So many distinct rows: the first ones of the reference in a random order."""
    for drawn in (min(4 * size, len(ids)), len(ids)):
        rows = random.choice(len(ids), drawn, replace=False)
        first = np.sort(np.unique(ids[rows], return_index=True)[1])
        if len(first) >= size:
            break
    return rows[first[:size]]
