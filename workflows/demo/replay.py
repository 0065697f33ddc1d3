"""The client of the demo: replays flights as requests at a given rate, whatever the server's answers take (open loop)."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec

from workflows.demo.flights import CATEGORICAL, FEATURES, Request, Requests
from workflows.demo.server import EVENT_TIME, SERVICE

_V2_EVERY = 4
"""One request in so many speaks the Open Inference Protocol, so that both are on the way."""
_IN_FLIGHT = 32
"""Calls that may be without an answer; beyond, the client waits and falls behind its plan."""
_TIMEOUT_S = 30


@dataclass
class Replayed:
    """What became of the requests."""

    requests: int = 0
    """Answered with 200."""
    instances: int = 0
    """In those."""
    failed: int = 0
    reasons: list[str] = field(default_factory=list)
    """Of the first few failures."""
    event_time: int = 0
    """Of the newest request that was sent, milliseconds since the epoch."""
    behind_s: float = 0.0
    """How far the client is behind its plan, seconds."""
    seconds: float = 0.0


async def replay(
    server: str,
    requests: Requests,
    *,
    rate: float,
    stop: threading.Event,
    progress: Callable[[Replayed], None] = lambda _: None,
) -> Replayed:
    """Send all requests in the order of their event times.

    Parameters
    ----------
    server
        Base URL of the model server.
    rate
        Requests per second.
    stop
        Set by anybody who wants it to end; what is on its way is waited for.
    progress
        Told how it stands after each answer.
    """
    done = Replayed()
    room = asyncio.Semaphore(_IN_FLIGHT)
    start = time.perf_counter()

    async def call(session: aiohttp.ClientSession, number: int, request: Request) -> None:
        path, body = _v2(request) if number % _V2_EVERY == _V2_EVERY - 1 and _complete(request) else _v1(request)
        headers = {"Content-Type": "application/json", "Ce-Id": request.id, EVENT_TIME: rfc3339(request.time)}
        try:
            async with session.post(server + path, data=body, headers=headers) as answer:
                text = await answer.read()
                if answer.status == 200:
                    done.requests += 1
                    done.instances += len(request.instances)
                else:
                    _failed(done, f"{answer.status} {text[:200].decode(errors='replace')}")
        except (aiohttp.ClientError, TimeoutError) as error:
            _failed(done, repr(error))
        finally:
            room.release()
        done.event_time = max(done.event_time, request.time)
        done.seconds = time.perf_counter() - start
        progress(done)

    connector = aiohttp.TCPConnector(limit=_IN_FLIGHT)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as calls:
        for number, request in enumerate(requests):
            early = start + number / rate - time.perf_counter()
            done.behind_s = max(-early, 0.0)
            if early > 0:
                await asyncio.sleep(early)
            await room.acquire()
            if stop.is_set():
                room.release()
                break
            calls.create_task(call(session, number, request))
    done.seconds = time.perf_counter() - start
    return done


def rfc3339(time_ms: int) -> str:
    """As KServe's agent writes it: nanoseconds and Z."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time_ms % 1000:03d}000000Z"


def _failed(done: Replayed, reason: str) -> None:
    done.failed += 1
    if len(done.reasons) < 5:
        done.reasons.append(reason)


def _v1(request: Request) -> tuple[str, bytes]:
    return f"/v1/models/{SERVICE}:predict", msgspec.json.encode({"instances": request.instances})


def _v2(request: Request) -> tuple[str, bytes]:
    return f"/v2/models/{SERVICE}/infer", msgspec.json.encode({"id": request.id, "inputs": list(_tensors(request))})


def _tensors(request: Request) -> Iterator[dict[str, Any]]:
    shape = [len(request.instances)]
    for name in FEATURES:
        data = [instance[name] for instance in request.instances]
        datatype = "BYTES" if name in CATEGORICAL else "FP64"
        yield {"name": name, "shape": shape, "datatype": datatype, "data": data}


def _complete(request: Request) -> bool:
    """Whether nothing is missing: the Open Inference Protocol has no null."""
    return all(value is not None for instance in request.instances for value in instance.values())
