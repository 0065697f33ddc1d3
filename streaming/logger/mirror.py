"""A copy of every event for another logger, which may be slow, dead or gone: nobody here ever waits for it."""

import asyncio
import logging
import re
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from streaming.cloudevents import Event
from streaming.logger.settings_events import Mirror

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger("driftline.logger")

_QUEUE_BYTES = 64 << 20
"""Of the payload of events that wait; a body of the largest size would fill memory long before there are a thousand."""
_WORKERS = 8
"""Events on their way at a time: a little more than the five of KServe's agent, so that a logger that kept up with those keeps up with us."""
_ATTEMPTS = 3
_PAUSE_S = 0.1
"""Before the second attempt; twice that before the third."""
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same event may be taken a moment later."""
_NAME = re.compile("[A-Za-z0-9_-]{1,100}")
_PRINTABLE = re.compile("[!-~]([ -~]*[!-~])?")
MIRRORED = "driftline-mirrored"
"""The HTTP header of a copy; a copy is not copied again, or two loggers that are each other's mirror would never end."""
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""What the HTTP binding of CloudEvents leaves as it is in a header."""


@dataclass(slots=True)
class MirrorCounts:
    """What became of the copies."""

    copied: int = 0
    """The other logger took them."""
    dropped: int = 0
    """There was no room for them to wait."""
    failed: int = 0
    """The other logger did not take them, after the last attempt."""


class MirrorQueue:
    """Posts copies to one URL, in binary mode, over connections that it keeps.

    Belongs to the event loop that it was made in. `add` never waits and never raises.
    """

    def __init__(self, settings: Mirror) -> None:
        self.settings = settings
        self.counts = MirrorCounts()
        self._waiting: deque[Event] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._abandoned = False
        self._on_the_way = 0
        self._failing_since: float | None = None
        self._tasks = [asyncio.create_task(self._work()) for _ in range(_WORKERS)]
        self._session: aiohttp.ClientSession | None = None

    @property
    def waiting(self) -> int:
        """Copies that are neither taken nor given up."""
        return len(self._waiting) + self._on_the_way

    def add(self, event: Event) -> None:
        """Hand over a copy; without room for it, it is dropped and counted."""
        size = len(event.data)
        if self._closing or len(self._waiting) >= self.settings.queue or self._bytes + size > _QUEUE_BYTES:
            self.counts.dropped += 1
            return
        self._waiting.append(event)
        self._bytes += size
        self._wake.set()

    async def close(self) -> int:
        """Send what waits, as long as one event may take; how many were left, which are counted as dropped."""
        self._closing = True
        self._wake.set()
        _, late = await asyncio.wait(self._tasks, timeout=self.settings.timeout.total_seconds())
        left, done = self.waiting, self.counts.copied + self.counts.failed
        self._abandoned = True  # a time-out in the same moment would swallow the cancellation
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        left -= self.counts.copied + self.counts.failed - done
        if self._session is not None:
            await self._session.close()
        self.counts.dropped += left
        self._waiting.clear()
        return left

    async def _work(self) -> None:
        while not self._abandoned:
            while not self._waiting:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
            event = self._waiting.popleft()
            self._bytes -= len(event.data)
            self._on_the_way += 1
            try:
                await self._deliver(event)
            except Exception:  # whatever it is, the next event is another one
                self.counts.failed += 1
                log.exception("a copy could not be sent to the mirror %s", self.settings.url)
            finally:
                self._on_the_way -= 1

    async def _deliver(self, event: Event) -> None:
        import aiohttp

        why = ""
        headers = binary_headers(event)
        for attempt in range(_ATTEMPTS):
            if attempt:
                if self._abandoned:
                    break
                await asyncio.sleep(_PAUSE_S * attempt)
            try:
                # Redirects would let the other side choose where our events go.
                async with self._client().post(
                    self.settings.url, data=event.data, headers=headers, allow_redirects=False
                ) as answer:
                    status = answer.status
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                why = type(error).__name__ if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
                continue
            if 200 <= status < 300:
                self.counts.copied += 1
                if self._failing_since is not None:
                    took = time.monotonic() - self._failing_since
                    log.warning("the mirror %s takes events again after %.1f s", self.settings.url, took)
                    self._failing_since = None
                return
            why = f"it answers {status}"
            if status not in _AGAIN:
                break
        self.counts.failed += 1
        if self._failing_since is None:  # one line an outage, not one an event
            self._failing_since = time.monotonic()
            log.warning(
                "the mirror %s does not take events (%s); they are counted until it does", self.settings.url, why
            )

    def _client(self) -> "aiohttp.ClientSession":
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self.settings.timeout.total_seconds()),
                connector=aiohttp.TCPConnector(limit=_WORKERS),
                cookie_jar=aiohttp.DummyCookieJar(),  # what one event's answer sets is nothing to the next
                trust_env=False,  # a proxy in the environment is not the URL that was configured
                auto_decompress=False,
                skip_auto_headers=["User-Agent", "Accept-Encoding"],
            )
        return self._session


def binary_headers(event: Event) -> dict[str, str]:
    """The HTTP headers of an event in binary mode; `streaming.cloudevents.events` reads them back equal.

    What HTTP cannot say is left out: attributes whose names are no names of headers, and content types that are not printable.
    """
    headers = {
        f"ce-{name}": quote(text, safe=_SAFE) for name, text in event.attributes.items() if _NAME.fullmatch(name)
    }
    content_type = event.content_type or ""
    headers["content-type"] = content_type if _PRINTABLE.fullmatch(content_type) else "application/octet-stream"
    headers[MIRRORED] = "1"
    return headers
