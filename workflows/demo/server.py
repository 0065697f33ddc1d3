"""The model behind the `kserve` Python server, with what KServe's agent does beside it in a cluster: payload logging.

    python -m workflows.demo.server --http_port 8080 --logger-url http://127.0.0.1:8085

The model is trained when the server starts (a second): nothing is unpickled.
"""

import argparse
import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import kserve
from kserve import model_server

from streaming.pane import rfc3339
from workflows.demo.flights import LateModel, training_flights

NAME = "flights"
EVENT_TIME = "x-event-time"
"""Header in which the demo's client says when a request was made, ms since the epoch."""
REQUEST = "org.kubeflow.serving.inference.request"
RESPONSE = "org.kubeflow.serving.inference.response"
_WORKERS = 5
_QUEUE = 100

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]


class FlightsModel(kserve.Model):
    """`LateModel` as KServe serves it."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._model = LateModel(training_flights())
        self.ready = True

    def predict(self, payload: Any, headers: dict[str, str] | None = None, response_headers: Any = None) -> Any:  # noqa: ARG002 - kserve's signature
        """Answer a V1 request."""
        return {"predictions": self._model.answers(payload["instances"])}


class PayloadLogger:
    """ASGI middleware that posts each prediction's request and response as KServe's agent does.

    HTTP binary mode, one id for both, from five workers behind a queue of a hundred, each event once. Other than the
    agent it waits when the queue is full (a demo should not lose events to its own haste), and takes the event time
    from the request, because the demo replays a year.
    """

    def __init__(self, app: Any, url: str) -> None:
        self._app, self._url = app, url
        self._queue: asyncio.Queue[tuple[dict[str, str], bytes]] | None = None
        self._workers: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith(":predict"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        body, answer, status = bytearray(), bytearray(), 0

        async def received() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            answer.extend(message.get("body", b""))
            await send(message)

        await self._app(scope, received, sent)
        if status == 200:
            event = {
                "Ce-Specversion": "1.0",
                "Ce-Id": headers.get("x-request-id") or str(uuid.uuid4()),
                "Ce-Time": f"{rfc3339(int(headers[EVENT_TIME]))[:-1]}000000Z",
                "Ce-Source": "http://localhost:9081/",
                "Ce-Inferenceservicename": NAME,
                "Ce-Namespace": "default",
                "Ce-Component": "predictor",
                "Ce-Endpoint": "default",
                "Content-Type": "application/json",
            }
            await self._post({**event, "Ce-Type": REQUEST, "Ce-Metadata": "{}"}, bytes(body))
            await self._post({**event, "Ce-Type": RESPONSE, "Ce-Metadata": "null"}, bytes(answer))

    async def _post(self, headers: dict[str, str], body: bytes) -> None:
        if self._queue is None:
            self._queue = asyncio.Queue(_QUEUE)
            self._workers = [asyncio.create_task(self._work(self._queue)) for _ in range(_WORKERS)]
        await self._queue.put((headers, body))

    async def _work(self, queue: "asyncio.Queue[tuple[dict[str, str], bytes]]") -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                headers, body = await queue.get()
                try:
                    async with session.post(self._url, data=body, headers=headers) as answer:
                        if answer.status != 200:
                            print(f"the logger answers {answer.status}: {await answer.text()}", file=sys.stderr)  # noqa: T201
                except aiohttp.ClientError as error:
                    print(f"the logger cannot be reached: {error}", file=sys.stderr)  # noqa: T201


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(parents=[model_server.parser], conflict_handler="resolve")
    parser.add_argument("--logger-url", required=True, help="where the inference logger listens")
    arguments = parser.parse_args()
    model_server.app.add_middleware(PayloadLogger, url=arguments.logger_url)
    server = kserve.ModelServer(
        http_port=arguments.http_port, enable_grpc=False, enable_docs_url=False, access_log_format="", workers=1
    )
    server.start([FlightsModel()])


if __name__ == "__main__":
    main()
