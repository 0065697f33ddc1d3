"""Requests and responses that belong together: by their request id, in one batch or in two.

A response carries no features, so what segment a prediction is of, only its request knows. Most pairs are in one batch; the rest meet in
the state of one key of the operator, within a bounded wait. A request meets the rows of one response: with all that come at once under
its key it is answered, and forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.statistics.block import Block, Codes

__all__ = ["Met", "Pending", "Requests", "Responses", "joined", "packed", "paired", "unpacked"]

MOST = 50_000
"""So many requests wait for their response, and so many rows of responses for their request; beyond that the oldest go."""

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def paired(request_keys: Keys, response_keys: Keys) -> Ints:
    """(responses,) which row of the requests each belongs to: the first with its key; -1 where there is none."""
    # A hash table with one place a slot: keys are hashes already. What finds its slot taken by another key is sorted.
    size = 1 << (4 * len(request_keys)).bit_length()
    slots = (request_keys & np.uint64(size - 1)).astype(np.int64)
    rows = np.arange(len(request_keys))
    table = np.full(size, -1, np.int32)
    table[slots[::-1]] = rows[::-1]  # of equal slots the last is kept, which is the first of the requests
    places = table[(response_keys & np.uint64(size - 1)).astype(np.int64)].astype(np.int64)
    wrong = np.flatnonzero(places >= 0)
    wrong = wrong[request_keys[places[wrong]] != response_keys[wrong]]
    others = np.flatnonzero(table[slots] != rows)
    places[wrong] = _sorted(request_keys[others], others, response_keys[wrong])
    return places


def _sorted(keys: Keys, rows: Ints, wanted: Keys) -> Ints:
    """`paired`, by sorting: which of the rows with these keys is the first of each that is wanted."""
    if not len(keys):
        return np.full(len(wanted), -1)
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], rows[order]
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, rows[at], -1)


@dataclass(frozen=True, slots=True)
class Requests:
    """What is remembered of requests until they are answered."""

    keys: Keys
    """(n,) `identity.message_keys`."""
    times: Ints
    """(n,) event time, ms."""
    since: Ints
    """(n,) processing time at which they came, ms."""
    codes: NDArray[np.int32]
    """(n, d) what the caller wants to know of each when it is answered, for instance its segments."""

    @property
    def shape(self) -> tuple[int, int]:
        """Only those of one shape can wait together."""
        return self.codes.shape[1], 0

    def take(self, rows: Ints) -> Self:
        """Some of them."""
        return replace(
            self, keys=self.keys[rows], times=self.times[rows], since=self.since[rows], codes=self.codes[rows]
        )

    def __add__(self, other: Self) -> Self:
        return replace(
            self,
            keys=np.concatenate((self.keys, other.keys)),
            times=np.concatenate((self.times, other.times)),
            since=np.concatenate((self.since, other.since)),
            codes=np.concatenate((self.codes, other.codes)),
        )


@dataclass(frozen=True, slots=True)
class Responses:
    """Rows of responses; those of one message come together."""

    keys: Keys
    """(rows,) `identity.message_keys` of the message of each."""
    times: Ints
    """(rows,) event time, ms."""
    since: Ints
    """(rows,) processing time at which they came, ms."""
    panes: Ints
    """(rows,) start of the pane, ms."""
    block: Block

    @property
    def shape(self) -> tuple[int, int]:
        """Only those of one shape can wait together."""
        return self.block.numeric.shape[1], len(self.block.categorical)

    def take(self, rows: Ints) -> Self:
        """Some of the rows."""
        return replace(
            self,
            keys=self.keys[rows],
            times=self.times[rows],
            since=self.since[rows],
            panes=self.panes[rows],
            block=self.block.take(rows),
        )

    def __add__(self, other: Self) -> Self:
        return replace(
            self,
            keys=np.concatenate((self.keys, other.keys)),
            times=np.concatenate((self.times, other.times)),
            since=np.concatenate((self.since, other.since)),
            panes=np.concatenate((self.panes, other.panes)),
            block=joined((self.block, other.block)),
        )


@dataclass(frozen=True, slots=True)
class Met:
    """What came of a meeting."""

    responses: Responses | None
    """Those that have found their request, in the order in which they came; None where there are none."""
    codes: NDArray[np.int32]
    """(rows, d) of their requests."""
    lonely: Responses | None
    """Those that wait no longer, in the order in which they came; None where there are none."""
    unanswered: int
    """Requests that wait no longer."""
    outdated: int
    """Requests, and rows of responses, that are forgotten: those that come now have other columns."""


class _Packed(msgspec.Struct, array_like=True):
    """A `Pending` as MessagePack takes it. Its version is the first field."""

    version: int = 1
    requests: tuple[int, bytes, bytes, bytes, bytes] | None = None
    """d, keys, times, since, codes"""
    responses: tuple[bytes, bytes, bytes, bytes, bytes] | None = None
    """keys, times, since, panes, block"""


@dataclass(frozen=True, slots=True)
class Pending:
    """Requests without response, and responses without request, at one key of the operator.

    One value in the state, read and written once a batch: 24 bytes and 4 for each code a request, 32 bytes and its part of the block
    (8 bytes a number, 4 a category, a bit for what is missing) a row of responses.
    """

    requests: Requests | None = None
    responses: Responses | None = None

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return self.requests is not None or self.responses is not None

    def due(self, wait: int) -> int | None:
        """The processing time at which something has waited long enough, ms; None where nothing waits."""
        waits = [each.since.min() for each in (self.requests, self.responses) if each is not None]
        return int(min(waits)) + wait if waits else None

    def meet(
        self, requests: Requests | None, responses: Responses | None, *, now: int, wait: int, most: int = MOST
    ) -> tuple["Pending", Met]:
        """What waits when these have come, too, and what does not wait any more.

        Parameters
        ----------
        requests, responses
            What came in this batch and did not find its other half there.
        now
            Processing time, ms.
        wait
            How long they wait, processing time in ms.
        most
            So many requests wait, and so many rows of responses; beyond that the oldest go.
        """
        asking, old_requests = _together(self.requests, requests)
        answering, old_responses = _together(self.responses, responses)
        met, codes = None, np.empty((0, 0 if asking is None else asking.codes.shape[1]), np.int32)
        if asking is not None:
            # A request that was sent again while it waits is one request.
            asking = asking.take(np.sort(np.unique(asking.keys, return_index=True)[1]))
        if asking is not None and answering is not None:
            places = paired(asking.keys, answering.keys)
            met, codes = answering.take(np.flatnonzero(places >= 0)), asking.codes[places[places >= 0]]
            answering = answering.take(np.flatnonzero(places < 0))
            asking = asking.take(np.setdiff1d(np.arange(len(asking.keys)), places))
        asking, given_up = _parted(asking, now - wait, most)
        answering, lonely = _parted(answering, now - wait, most)
        unanswered = 0 if given_up is None else len(given_up.keys)
        return Pending(asking, answering), Met(_some(met), codes, lonely, unanswered, old_requests + old_responses)

    def packed(self) -> bytes:
        """As state keeps it."""
        out, requests, responses = _Packed(), self.requests, self.responses
        if requests is not None:
            codes = np.asarray(requests.codes, np.int32)
            times = requests.times.tobytes(), requests.since.tobytes()
            out.requests = (codes.shape[1], requests.keys.tobytes(), *times, codes.tobytes())
        if responses is not None:
            times = responses.times.tobytes(), responses.since.tobytes()
            out.responses = (responses.keys.tobytes(), *times, responses.panes.tobytes(), packed(responses.block))
        return msgspec.msgpack.encode(out)

    @classmethod
    def unpacked(cls, data: bytes) -> "Pending":
        """What `packed` gave."""
        read = _decode_pending(data)
        requests = responses = None
        if read.requests is not None:
            d, keys, *times, codes = read.requests
            asked, since = (np.frombuffer(each, np.int64) for each in times)
            of_requests = np.frombuffer(keys, np.uint64)
            requests = Requests(of_requests, asked, since, np.frombuffer(codes, np.int32).reshape(len(of_requests), d))
        if read.responses is not None:
            keys, *times, block = read.responses
            answered, since, panes = (np.frombuffer(each, np.int64) for each in times)
            responses = Responses(np.frombuffer(keys, np.uint64), answered, since, panes, unpacked(block))
        return cls(requests, responses)


_decode_pending = msgspec.msgpack.Decoder(_Packed).decode
_W = TypeVar("_W", Requests, Responses)


def _together(before: _W | None, new: _W | None) -> tuple[_W | None, int]:
    """Both, or only the second where the first cannot stand beside it: then, how many are forgotten."""
    if before is None or new is None:
        return _some(new if before is None else before), 0
    if before.shape != new.shape:
        return _some(new), len(before.keys)
    return _some(before + new), 0


def _some(these: _W | None) -> _W | None:
    return these if these is not None and len(these.keys) else None


def _parted(these: _W | None, until: int, most: int) -> tuple[_W | None, _W | None]:
    """What waits on, and what came until then or is too much."""
    if these is None:
        return None, None
    waits = these.since > until
    newest = np.argsort(these.since, kind="stable")
    waits[newest[: max(len(newest) - most, 0)]] = False
    return _some(these.take(np.flatnonzero(waits))), _some(these.take(np.flatnonzero(~waits)))


# Blocks ---------------------------------------------------------------------------------------------------------------


class _Block(msgspec.Struct, array_like=True):
    """A `Block` as MessagePack takes it. Its version is the first field."""

    version: int
    rows: int
    columns: int
    numeric: bytes
    missing: bytes
    """A bit a cell."""
    categorical: list[tuple[bytes, list[str]]]
    """Codes, and the values that occur among them."""
    keys: bytes | None
    wrong: bytes | None
    """A bit a cell."""


def packed(block: Block) -> bytes:
    """The block in bytes, without the categories that do not occur in it."""
    rows, columns = block.numeric.shape
    return msgspec.msgpack.encode(
        _Block(
            version=1,
            rows=rows,
            columns=columns,
            numeric=block.numeric.tobytes(),
            missing=np.packbits(block.missing).tobytes(),
            categorical=[(each.codes.tobytes(), list(each.values)) for each in map(_lean, block.categorical)],
            keys=None if block.keys is None else block.keys.tobytes(),
            wrong=None if block.wrong is None else np.packbits(block.wrong).tobytes(),
        )
    )


def unpacked(data: bytes) -> Block:
    """What `packed` gave."""
    read = _decode_block(data)
    shape = read.rows, read.columns
    return Block(
        np.frombuffer(read.numeric).reshape(shape),
        _bits(read.missing, shape),
        tuple(Codes(np.frombuffer(codes, np.int32), tuple(values)) for codes, values in read.categorical),
        None if read.keys is None else np.frombuffer(read.keys, np.uint64),
        None if read.wrong is None else _bits(read.wrong, (read.rows, read.columns + len(read.categorical))),
    )


_decode_block = msgspec.msgpack.Decoder(_Block).decode


def joined(blocks: Sequence[Block]) -> Block:
    """The rows of at least one block, all of the same columns; keys where all have keys."""
    keys = [block.keys for block in blocks if block.keys is not None]
    wrong = None
    if any(block.wrong is not None for block in blocks):
        width = blocks[0].numeric.shape[1] + len(blocks[0].categorical)
        wrong = np.concatenate(
            [np.zeros((block.rows, width), np.bool_) if block.wrong is None else block.wrong for block in blocks]
        )
    return Block(
        np.concatenate([block.numeric for block in blocks]),
        np.concatenate([block.missing for block in blocks]),
        tuple(_joined_codes(columns) for columns in zip(*(block.categorical for block in blocks), strict=True)),
        np.concatenate(keys) if len(keys) == len(blocks) else None,
        wrong,
    )


def _joined_codes(columns: Sequence[Codes]) -> Codes:
    places: dict[str, int] = {}
    codes = []
    for column in columns:
        # The last is for the missing, which have code -1.
        new = np.array([*(places.setdefault(value, len(places)) for value in column.values), -1], np.int32)
        codes.append(new[column.codes])
    return Codes(np.concatenate(codes), tuple(places))


def _lean(column: Codes) -> Codes:
    """The same without the values that do not occur."""
    used = np.unique(column.codes[column.codes >= 0])
    new = np.full(len(column.values) + 1, -1, np.int32)
    new[used] = np.arange(len(used))
    return Codes(new[column.codes], tuple(column.values[code] for code in used.tolist()))


def _bits(data: bytes, shape: tuple[int, int]) -> Bools:
    return np.unpackbits(np.frombuffer(data, np.uint8), count=shape[0] * shape[1]).reshape(shape) > 0
