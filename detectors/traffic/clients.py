"""The most active clients of a stream, in bounded memory."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.statistics.block import Codes
from detectors.traffic.base import OTHER


@dataclass(frozen=True, slots=True)
class Clients:
    """At most `most` clients by name, each with its own group of requests; all others share group 0.

    Group ``i + 1`` is that of ``names[i]``. What a state keeps for each client it keeps by group; when two `Clients` add, each
    tells where its groups went (`joined`).

    Who stays is decided by the mergeable Misra-Gries reduction: a client that sent more than ``total / (most + 1)`` requests
    is there at the end, however the stream was cut and ordered, and at most `error` of its requests were counted with the others
    before it came in. While there are no more than `most` clients, everything is exact. Places that the reduction
    leaves free are given to those who lost least, by name where they are equal.

    References
    ----------
    Misra & Gries (1982), Sci. Comput. Program. 2; Agarwal et al. (2013), Mergeable summaries, ACM TODS 38(4).
    """

    most: int
    names: tuple[str, ...]
    """Ascending."""
    requests: NDArray[np.int64]
    """(1 + names,) requests in each group."""
    weights: NDArray[np.int64]
    """(names,) the counters that decide who stays."""
    error: int = 0
    """The most by which a weight is below the true number of requests."""

    @classmethod
    def empty(cls, most: int) -> "Clients":
        """Of no requests."""
        return cls(most, (), np.zeros(1, np.int64), np.zeros(0, np.int64))

    @classmethod
    def of(cls, clients: Codes | None, rows: int, most: int) -> "tuple[Clients, NDArray[np.int64]]":
        """Of one batch, and the group of each of its rows."""
        if clients is None:
            return cls(most, (), np.array([rows], np.int64), np.zeros(0, np.int64)), np.zeros(rows, np.int64)
        tally = np.bincount(clients.codes + 1, minlength=len(clients.values) + 1)[1:]
        # Who calls himself as the rest is called belongs to it.
        present = np.array([i for i in np.flatnonzero(tally).tolist() if clients.values[i] != OTHER], np.int64)
        kept, weights, error = _heaviest(tally[present], tally[present], present, clients.values, most)
        chosen = sorted(zip((clients.values[i] for i in present[kept].tolist()), kept.tolist(), strict=True))
        order = np.array([k for _, k in chosen], np.int64)
        group_of = np.zeros(len(clients.values) + 1, np.int64)  # the last for code -1
        group_of[present[order]] = np.arange(1, len(order) + 1)
        groups = group_of[clients.codes]
        requests = np.bincount(groups, minlength=len(order) + 1).astype(np.int64)
        return cls(most, tuple(name for name, _ in chosen), requests, weights[order], error), groups

    def joined(self, other: "Clients") -> "tuple[Clients, NDArray[np.int64], NDArray[np.int64]]":
        """Of both; and the group in it of each group of this one and of the other one."""
        names = tuple(sorted({*self.names, *other.names}))
        place = {name: i for i, name in enumerate(names)}
        requests, weights = np.zeros(len(names) + 1, np.int64), np.zeros(len(names), np.int64)
        maps = []
        for one in (self, other):
            into = np.array([place[name] for name in one.names], np.int64)
            weights[into] += one.weights
            maps.append(np.concatenate(([0], into + 1)))
            requests[maps[-1]] += one.requests
        most = min(self.most, other.most)
        kept, weights, cut = _heaviest(weights, requests[1:], np.arange(len(names)), names, most)
        kept = np.sort(kept)
        group_of = np.zeros(len(names) + 1, np.int64)
        group_of[kept + 1] = np.arange(1, len(kept) + 1)
        both = Clients(
            most,
            tuple(names[i] for i in kept.tolist()),
            added(requests, group_of, len(kept) + 1),
            weights[kept],
            self.error + other.error + cut,
        )
        return both, group_of[maps[0]], group_of[maps[1]]

    def packed(self) -> "PackedClients":
        """The form in which it is written."""
        return PackedClients(self.names, self.requests.tolist(), self.weights.tolist(), self.error)

    @classmethod
    def unpacked(cls, packed: "PackedClients", most: int) -> "Clients":
        """Read back; raises ValueError when it is not whole."""
        names = packed.names
        if not len(packed.requests) - 1 == len(packed.weights) == len(names) <= most or list(names) != sorted({*names}):
            msg = f"it has {len(names)} clients, {len(packed.requests)} groups and {len(packed.weights)} weights, of {most}"
            raise ValueError(msg)
        return cls(most, names, np.array(packed.requests, np.int64), np.array(packed.weights, np.int64), packed.error)

    def groups(self) -> Iterator[tuple[str, int]]:
        """Name and number of each group, the others last and only if there are any."""
        yield from ((name, i) for i, name in enumerate(self.names, start=1))
        if self.requests[0]:
            yield OTHER, 0


class PackedClients(msgspec.Struct, array_like=True):
    """`Clients` as they are written."""

    names: tuple[str, ...]
    requests: list[int]
    weights: list[int]
    error: int


def added(values: NDArray[np.int64], groups: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """(most,) the sum of the values that go into each group."""
    total = np.zeros(most, np.int64)
    np.add.at(total, groups, values)
    return total


def _heaviest(
    weights: NDArray[np.int64],
    requests: NDArray[np.int64],
    at: NDArray[np.int64],
    names: tuple[str, ...],
    most: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Which stay, everyone's weight after the reduction, and by how much it is less; ``names[at[i]]`` is the name of the i-th."""
    if len(weights) <= most:
        return np.arange(len(weights)), weights, 0
    cut = int(np.partition(weights, -(most + 1))[-(most + 1)])
    left = np.maximum(weights - cut, 0)
    kept = np.flatnonzero(left)
    spare = np.flatnonzero(left == 0)
    # The more it has sent, the more would be lost of it.
    few = heapq.nsmallest(most - len(kept), spare.tolist(), key=lambda i: (-requests[i], names[at[i]]))
    return np.concatenate((kept, np.array(few, np.int64))), left, cut
