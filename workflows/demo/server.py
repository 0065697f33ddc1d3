"""The model server of the demo: the `kserve` Python server, and the part of KServe's agent that logs payloads.

In a cluster the agent is a proxy beside the server, written in Go. Here `Agent` is a thin layer around the server that
posts the same events: each request and each answer to the logger, five at a time, behind a queue of a hundred.

    python -m workflows.demo.server PORT LOGGER_URL TRAINING_TABLE

It trains the model, which takes less time than loading the flights, writes the training table (Parquet) with the
model's own predictions for the baseline, and serves. The trained model is nowhere but in this process.
"""

import asyncio
import json
import logging
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from workflows.demo.flights import Lateness, answers, flights, in_months, training_table

SERVICE = "flights"
NAMESPACE = "default"
EVENT_TIME = "x-event-time"
"""Request header: when the request would have been made, RFC 3339; life is replayed faster than it was."""
TRAINING_MONTHS = (1,)

_WORKERS = 5
_QUEUE = 100
_SOURCE = "http://localhost:9081/"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Agent:
    """ASGI middleware that posts payloads to the logger, as KServe's agent does; GET /payloads tells how many.

    Unlike the agent it waits when the queue is full: a demo has nobody to disappoint. Like the agent it sends each
    event once, and what the logger does not answer with 200 is lost, and counted.
    """

    def __init__(self, app: App, url: str) -> None:
        self.app = app
        self.url = url
        self.posted = 0
        self.failed = 0
        self._queue: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue(_QUEUE)
        self._turn = asyncio.Lock()
        self._workers: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and post it and its answer."""
        if scope["type"] == "http" and scope["path"] == "/payloads":
            await self._report(send)
            return
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith((":predict", "/infer")):
            await self.app(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        event = {
            "Ce-Id": headers.get("ce-id") or str(uuid.uuid4()),
            "Ce-Time": headers.get(EVENT_TIME) or _now(),
            "Content-Type": headers.get("content-type", "application/json"),
        }
        await self._post("request", event, body)
        status, parts = 0, []
        unread = [body]

        async def given() -> Message:
            return {"type": "http.request", "body": unread.pop(), "more_body": False} if unread else await receive()

        async def listen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))
            await send(message)

        await self.app(scope, given, listen)
        if status == 200:
            await self._post("response", event, b"".join(parts))

    async def _post(self, kind: str, event: dict[str, str], body: bytes) -> None:
        if not self._workers:
            self._workers = [asyncio.create_task(self._work()) for _ in range(_WORKERS)]
        headers = {
            **event,
            "Ce-Specversion": "1.0",
            "Ce-Type": f"org.kubeflow.serving.inference.{kind}",
            "Ce-Source": _SOURCE,
            "Ce-Inferenceservicename": SERVICE,
            "Ce-Namespace": NAMESPACE,
            "Ce-Component": "predictor",
            "Ce-Endpoint": "default",
            "Ce-Metadata": "{}" if kind == "request" else "null",
        }
        # A full asyncio.Queue does not serve those who wait in their order: some would wait for seconds, which are weeks here.
        async with self._turn:
            await self._queue.put((headers, body))

    async def _work(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            while True:
                headers, body = await self._queue.get()
                try:
                    async with session.post(self.url, data=body, headers=headers) as answer:
                        if answer.status == 200:
                            self.posted += 1
                        else:
                            self._lost(f"{answer.status} {await answer.text()}")
                except (aiohttp.ClientError, TimeoutError) as error:
                    self._lost(repr(error))
                finally:
                    self._queue.task_done()

    def _lost(self, reason: str) -> None:
        self.failed += 1
        print(f"the logger did not take an event: {reason}", file=sys.stderr, flush=True)  # noqa: T201

    async def _report(self, send: Send) -> None:
        await self._queue.join()
        body = json.dumps({"posted": self.posted, "failed": self.failed}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _now() -> str:
    """As Go writes it: nanoseconds and Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def serve(port: int, logger: str, training: Path) -> None:
    """Train, write the training table, serve until SIGTERM."""
    # KServe's server parses the arguments of whatever process imports it.
    sys.argv[1:] = []
    import kserve
    import kserve.logging
    import kserve.model_server
    from kserve.protocol.rest.server import RESTServer

    january = in_months(flights(), TRAINING_MONTHS)
    lateness = Lateness.trained(january)
    _write(training, training_table(lateness, january))

    class Flights(kserve.Model):  # type: ignore[misc] # kserve has no types
        """The classifier behind both protocols."""

        def predict(self, payload: Any, headers: dict[str, str] | None = None) -> Any:  # noqa: ARG002
            if isinstance(payload, kserve.InferRequest):
                columns = {tensor.name: tensor.data for tensor in payload.inputs}
                rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
                said = answers(lateness.probability(rows))
                arrival = kserve.InferOutput("arrival", [len(said)], "BYTES", [one["arrival"] for one in said])
                probability = [one["probability"] for one in said]
                outputs = [arrival, kserve.InferOutput("probability", [len(said)], "FP64", probability)]
                return kserve.InferResponse(payload.id or str(uuid.uuid4()), self.name, outputs)
            return {"predictions": answers(lateness.probability(payload["instances"]))}

    model = Flights(SERVICE)
    model.load()
    server = kserve.model_server.ModelServer(http_port=port, enable_grpc=False)
    server.register_model(model)
    kserve.model_server.app.add_middleware(Agent, url=logger)
    rest = RESTServer("kserve.model_server:app", server.dataplane, server.model_repository_extension, port)
    rest.config.host = "127.0.0.1"  # KServe's own choice is every address
    # A line for every request would be most of what this process does.
    for name in ("uvicorn.access", "kserve.trace"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = False
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn takes the signal, stops in peace, and then sends it again to whoever was there before.
        signal.signal(number, lambda *_: None)
    asyncio.run(rest.start())


def _write(path: Path, table: Any) -> None:
    """A Parquet file that is there whole, or not at all."""
    import pyarrow.parquet

    part = path.with_suffix(".part")
    pyarrow.parquet.write_table(table, part)
    part.replace(path)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
