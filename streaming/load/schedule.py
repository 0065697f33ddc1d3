"""Open loop: a request is sent when it is due, whatever became of those before it.

A closed loop, whose callers wait for an answer before they send again, slows down with the server, and so measures too little of
what users of a slow one feel (Schroeder, Wierman, Harchol-Balter 2006, "Open versus closed: a cautionary tale", NSDI). Here latency
counts from the moment when a request was due, also for one that had to wait for room (Tene's "coordinated omission").
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from streaming.load.table import Ahead, Request
from streaming.load.tally import Tally

_LEAD_S = 0.2
"""From the start to when the first request is due: until then the first blocks are made."""
_TICK_S = 0.001
"""The shortest sleep: the loop's timers are no finer, and to spin instead would take a core from the server. So a message may go a
millisecond late; that counts in its latency from when it was due, and not in that from when it was sent."""
_NAP_S = 0.1
"""The longest sleep: so soon a stop is seen."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent in one piece."""

    due: float
    """Seconds after the first request."""
    data: bytes
    """As the target's `encode` made it."""
    size: int
    """Bytes of the body in it."""
    key: str = ""
    """Of the record, for Kafka."""
    headers: tuple[tuple[str, bytes], ...] = ()
    """Of the record, for Kafka."""


class Target(Protocol):
    """Who takes messages."""

    def encode(self, request: Request, start: float) -> list[Message]:
        """The messages of a request; called in another thread.

        Parameters
        ----------
        start
            When the first request is due, seconds since the epoch.
        """
        ...

    def send(self, message: Message, answered: Callable[[Message, str, str | None, float], None]) -> None:
        """Begin to send; `answered` is called, in the loop, with the message, a code, why it failed if it did, and the time of sending."""
        ...

    async def close(self, patience: timedelta) -> None:
        """Give up what is still on its way after this time, and tell so; then let go of everything."""
        ...


async def replay(
    requests: Ahead,
    target: Target,
    tally: Tally,
    *,
    start: float,
    concurrency: int,
    patience: timedelta,
    stop: asyncio.Event,
    sent: Callable[[Request], None] = lambda _: None,
) -> None:
    """Send all requests when they are due, and wait for their answers.

    Parameters
    ----------
    requests
        Gives pairs of a request and its messages, as `prepared` makes them.
    tally
        Is kept up to date while it runs.
    start
        When the first request is due, by `time.time`.
    concurrency
        Messages that may be without an answer; beyond, those that are due wait for room.
    patience
        How long a message may wait for room, and then for its answer.
    stop
        Set by anybody who wants it to end; answers to what is on its way are waited for.
    sent
        Told of each request of which a message was sent.
    """
    loop = asyncio.get_running_loop()
    zero = time.perf_counter() + (start - time.time())
    give_up = patience.total_seconds()
    room: asyncio.Future[None] | None = None

    def answered(message: Message, code: str, reason: str | None, sent_at: float) -> None:
        now = time.perf_counter()
        tally.was_answered(code, reason, now - zero - message.due, now - sent_at)
        if room is not None and not room.done():
            room.set_result(None)

    try:
        while not stop.is_set():
            block = requests.ready()
            if block is None:  # the table is slower than the plan
                block = await asyncio.to_thread(requests.ready, _NAP_S)
            if block is None:
                continue
            if not block:
                break
            for request, messages in block:
                # An event with a time limit for each request would cost more than all the rest of this loop.
                while (early := zero + request.due - time.perf_counter()) > 0 and not stop.is_set():  # noqa: ASYNC110
                    await asyncio.sleep(min(max(early, _TICK_S), _NAP_S))
                if stop.is_set():
                    break
                tally.requests += 1
                taken = False
                for message in messages:
                    while tally.in_flight >= concurrency and not stop.is_set():
                        left = zero + message.due + give_up - time.perf_counter()
                        if left <= 0:
                            break
                        room = loop.create_future()
                        await asyncio.wait([room], timeout=min(left, _NAP_S))
                        room = None
                    behind = time.perf_counter() - zero - message.due
                    if tally.in_flight >= concurrency or behind > give_up:
                        tally.unsent += 1
                        continue
                    tally.was_sent(message.size, behind)
                    taken = True
                    target.send(message, answered)
                if taken:
                    tally.instances += request.instances
                    sent(request)
                tally.seconds = max(time.perf_counter() - zero, 0.0)
    finally:
        await target.close(patience)
        tally.seconds = max(time.perf_counter() - zero, 0.0)


def prepared(requests: Iterable[Request], target: Target, start: float) -> Iterator[tuple[Request, list[Message]]]:
    """Each request with its messages, as `replay` takes them through `Ahead`."""
    for request in requests:
        yield request, target.encode(request, start)


def soon() -> float:
    """A start that leaves time to make the first requests, by `time.time`."""
    return time.time() + _LEAD_S
