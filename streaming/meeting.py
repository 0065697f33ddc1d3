"""Requests and responses of one key of the operator, which came in different batches; see `streaming.pairing`.

A response brings no features. What segment it is of its request tells, mostly in the same batch, where the fold joins them. What it cannot join
crosses the shuffle: an unanswered request to the segments that it is in, a lonely response to all segments of an entry, of which one, at
most, knows its request. Both wait for `window.joinWait`. A response whose request does not come in that time is in no segment.
"""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.statistics.block import Block
from streaming.pairing import Pending, Requests, Responses, packed, unpacked

_decode_requests = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode
_decode_responses = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes, bytes]).decode


def packed_requests(keys: NDArray[np.uint64], times: NDArray[np.int64]) -> bytes:
    """The body of a folded row of requests without responses; keys are `identity.instance_keys`, times ms."""
    return msgspec.msgpack.encode((keys.tobytes(), times.tobytes()))


def packed_responses(
    keys: NDArray[np.uint64], times: NDArray[np.int64], panes: NDArray[np.int64], block: Block
) -> bytes:
    """The body of a folded row of responses without requests."""
    return msgspec.msgpack.encode((keys.tobytes(), times.tobytes(), panes.tobytes(), packed(block)))


class Meeting:
    """What waits at one key for the length of one call.

    Parameters
    ----------
    state
        One value, see `Pending`; read only when something comes, or has waited long enough.
    due
        When that is, as of the call before, ms.
    wait, now
        Processing time, ms.
    """

    def __init__(self, state: Any, due: int | None, wait: int, now: int) -> None:
        self._state, self.due, self._wait, self._now = state, due, wait, now
        self._requests: Requests | None = None
        self._responses: Responses | None = None

    def asked(self, body: bytes) -> None:
        """Requests of this segment."""
        keys, times = _decode_requests(body)
        n = len(keys) // 8
        some = Requests(
            np.frombuffer(keys, np.uint64),
            np.frombuffer(times, np.int64),
            np.full(n, self._now),
            np.empty((n, 0), np.int32),
        )
        self._requests = some if self._requests is None else self._requests + some

    def answered(self, body: bytes) -> None:
        """Responses, of this segment or of others."""
        keys, times, panes, block = _decode_responses(body)
        n = len(keys) // 8
        some = Responses(
            np.frombuffer(keys, np.uint64),
            np.frombuffer(times, np.int64),
            np.full(n, self._now),
            np.frombuffer(panes, np.int64),
            unpacked(block),
        )
        # Of two editions with other columns, the later one's wait.
        before = self._responses
        self._responses = some if before is None or before.shape != some.shape else before + some

    def meet(self) -> Responses | None:
        """Those that have found their request just now."""
        nothing = self._requests is None and self._responses is None
        if nothing and (self.due is None or self._now < self.due):
            return None
        stored = None if self.due is None else self._state.get()
        pending = Pending() if stored is None else Pending.unpacked(bytes(stored[0]))
        pending, met = pending.meet(self._requests, self._responses, now=self._now, wait=self._wait)
        self._requests = self._responses = None
        self.due = pending.due(self._wait)
        if pending:
            self._state.update((pending.packed(),))
        elif stored is not None:
            self._state.clear()
        return met.responses
