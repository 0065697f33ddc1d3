"""Copies for another logger: they arrive whole, and nobody waits for them."""

import asyncio
import contextlib
import logging
import time
from datetime import timedelta

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from streaming.cloudevents import Event, InvalidEvent, events
from streaming.errors import InvalidMonitor
from streaming.logger import mirror as module
from streaming.logger.mirror import MIRRORED, MirrorQueue, binary_headers
from streaming.logger.settings_events import Mirror
from streaming.spec import parse


def event(number: int = 1, data: bytes = b"{}", **more: str) -> Event:
    return Event(
        {"specversion": "1.0", "id": str(number), "source": "/", "type": "t", **more}, "application/json", data
    )


class Other:
    """Another logger, which answers as it is told."""

    def __init__(self) -> None:
        self.taken: list[Event] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[object] = set()
        self.statuses: list[int] = []
        self.pause = 0.0

    async def take(self, request: web.Request) -> web.Response:
        self.connections.add(request.transport)
        body = await request.read()
        await asyncio.sleep(self.pause)
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.headers.append(dict(request.headers))
            raw = [(name.lower(), value) for name, value in request.raw_headers]
            self.taken += events(raw, body)
        location = {"location": "http://127.0.0.1:1/"} if status == 302 else {}
        return web.Response(status=status, headers=location)

    @contextlib.asynccontextmanager
    async def listening(self):
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/copies", self.take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/copies"
        finally:
            await runner.cleanup()


def settings_of(url: str, **more) -> Mirror:
    return Mirror(url=url, **more)


async def until(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_copies_arrive_as_they_were_over_few_connections():
    async def run() -> None:
        other = Other()
        async with other.listening() as url:
            mirror = MirrorQueue(settings_of(url, timeout=timedelta(seconds=20)))
            sent = [event(i, b'{ "x": 1.50 }\n\xff\x00' * i, metadata='{"a b": "é"}') for i in range(100)]
            for one in sent:
                mirror.add(one)
            assert await mirror.close() == 0
            assert sorted(other.taken, key=lambda one: int(one.id)) == sent
            assert mirror.counts.copied == 100
            assert len(other.connections) <= 8
            assert {headers[MIRRORED] for headers in other.headers} == {"1"}

    asyncio.run(run())


def test_a_failure_that_may_pass_is_tried_again_and_others_are_not():
    async def run() -> None:
        other = Other()
        async with other.listening() as url:
            mirror = MirrorQueue(settings_of(url, timeout=timedelta(seconds=20)))
            for statuses, copied, failed in (
                ([503, 429], 1, 0),
                ([503, 503, 503], 1, 1),
                ([400], 1, 2),
                ([302], 1, 3),
                ([], 2, 3),
            ):
                other.statuses = list(statuses)
                mirror.add(event())
                await until(lambda: not mirror.waiting)
                assert (mirror.counts.copied, mirror.counts.failed, other.statuses) == (copied, failed, [])
            await mirror.close()

    asyncio.run(run())


@pytest.mark.parametrize("how", ["dead", "slow"])
def test_a_mirror_that_does_not_answer_costs_nothing_but_its_copies(how, caplog, monkeypatch):
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)

    async def run() -> None:
        other = Other()
        other.pause = 3600
        async with other.listening() as url:
            where = url if how == "slow" else "http://127.0.0.1:1/"
            mirror = MirrorQueue(settings_of(where, queue=10, timeout=timedelta(milliseconds=300)))
            start = time.perf_counter()
            for i in range(5000):
                mirror.add(event(i))
            assert time.perf_counter() - start < 2  # nothing was waited for; 0.01 s where nobody else works
            assert mirror.waiting == 10
            assert mirror.counts.dropped == 4990
            await until(lambda: mirror.counts.failed >= 10)
            for i in range(5):
                mirror.add(event(i))
            before = time.perf_counter()
            left = await mirror.close()
            assert time.perf_counter() - before < 15
            counts = mirror.counts
            assert counts.copied == 0
            assert counts.failed + counts.dropped == 5005
            assert left == counts.dropped - 4990
            mirror.add(event())  # after the end, too
            assert counts.dropped + counts.failed == 5006

    with caplog.at_level(logging.WARNING, "driftline.logger"):
        asyncio.run(run())
    assert len([one for one in caplog.records if "does not take events" in one.getMessage()]) == 1  # one line an outage


def test_large_events_have_a_bound_of_their_own(monkeypatch):
    monkeypatch.setattr(module, "_QUEUE_BYTES", 1000)

    async def run() -> None:
        other = Other()
        other.pause = 0.05
        async with other.listening() as url:
            mirror = MirrorQueue(settings_of(url, timeout=timedelta(seconds=20)))
            for i in range(10):
                mirror.add(event(i, b"x" * 300))
            assert (mirror.waiting, mirror.counts.dropped) == (3, 7)
            await until(lambda: not mirror.waiting)
            mirror.add(event(99, b"x" * 1000))  # room again
            await mirror.close()
            assert mirror.counts.copied == 4

    asyncio.run(run())


def test_no_proxy_of_the_environment_is_asked(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async def run() -> None:
        other = Other()
        async with other.listening() as url:
            mirror = MirrorQueue(settings_of(url, timeout=timedelta(seconds=20)))
            mirror.add(event())
            await mirror.close()
            assert len(other.taken) == 1

    asyncio.run(run())


names = st.one_of(st.sampled_from(["a", "metadata", "a b", "x\r\ny: z", "é", ""]), st.text(max_size=5))
texts = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.dictionaries(names, texts), st.one_of(st.none(), texts, st.just("a/b\r\nx: y")), st.binary(max_size=20))
def test_headers_say_what_the_event_says_and_nothing_else(attributes, content_type, data):
    sent = Event({**attributes, "specversion": "1.0", "id": "7", "source": "/", "type": "t"}, content_type, data)
    headers = binary_headers(sent)
    raw = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
    for name, value in raw:
        assert not set(name + value) & {0, 10, 13}  # no second header, no end of headers
    try:
        (read,) = events(raw, data)
    except InvalidEvent:  # a content type that makes it another kind of request
        assert (content_type or "").startswith("application/cloudevents")
        return
    assert read.data == data
    for name, text in read.attributes.items():
        assert text in {value.strip() for key, value in sent.attributes.items() if key.lower() == name} | {
            sent.attributes.get(name)
        }


@pytest.mark.parametrize(
    "url", ["", "other", "ftp://a/", "file:///etc/passwd", "http://", "http://a:0/", "http://[::1", "unix:/x"]
)
def test_only_urls_of_http(url):
    with pytest.raises(InvalidMonitor, match="is no URL of a logger"):
        parse(DOCUMENT % url, "m.yaml")


def test_no_password_in_a_document_and_none_in_the_message():
    with pytest.raises(InvalidMonitor, match="does not belong in a document") as found:
        parse(DOCUMENT % "http://me:hunter2@other/", "m.yaml")
    assert "hunter2" not in str(found.value)


DOCUMENT = """
apiVersion: driftline.io/v1
kind: ModelMonitor
metadata: {name: m}
spec:
  model: {features: [{name: x, type: numeric}]}
  logger: {mirror: {url: %r}}
"""
