"""Events straight into Kafka, as the logger would write them."""

import asyncio
import threading
import time
from collections import deque
from datetime import timedelta
from typing import Any

from confluent_kafka import KafkaException, Producer

from streaming.kafka import KafkaConnection
from streaming.load.client import Answered, attributes
from streaming.load.schedule import Message
from streaming.load.table import Request, event_time

_CODE = "acknowledged"


class Kafka:
    """Takes messages for a topic; made in the event loop that it runs in.

    CloudEvents of the Kafka binding in binary mode, keyed by the request id, with the partitioner of the logger.

    Parameters
    ----------
    max_bytes
        Of one message.
    patience
        How long the acknowledgement of all in-sync replicas may take.

    Raises
    ------
    MissingSecret
        A secret is not where the settings say.
    """

    def __init__(
        self, connection: KafkaConnection, topic: str, *, patience: timedelta, service: str, max_bytes: int
    ) -> None:
        options: dict[str, Any] = {
            **connection.for_confluent(),
            "client.id": "driftline-traffic",
            "acks": "all",
            "enable.idempotence": True,
            "max.in.flight.requests.per.connection": 1,  # see KafkaLog: with more, messages were lost here
            "partitioner": "murmur2_random",
            "linger.ms": 0.5,
            "compression.type": "lz4",
            "message.timeout.ms": round(patience.total_seconds() * 1000),
            "message.max.bytes": max_bytes,
            "queue.buffering.max.messages": 1_000_000,
            "error_cb": lambda _: None,  # each message says it, too
            "log_level": 0,
        }
        self._topic, self._service = topic, service
        self._loop = asyncio.get_running_loop()
        self._producer = Producer(options)
        self._answers: deque[tuple[Answered, Message, str, str | None, float]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="kafka", daemon=True)
        self._thread.start()

    def encode(self, request: Request, start: float) -> list[Message]:
        """The request, and the response where the table has one."""
        at = event_time(request, start).encode()
        return [
            Message(request.due, body, len(body), request.id, self._headers(kind, request.id, at))
            for kind, body in (("request", request.body), ("response", request.answer))
            if body is not None
        ]

    def _headers(self, kind: str, id_: str, at: bytes) -> tuple[tuple[str, bytes], ...]:
        said = {name: text.encode() for name, text in attributes(self._service, kind).items()}
        headers = [(f"ce_{name}", text) for name, text in {"id": id_.encode(), "time": at, **said}.items()]
        return (*headers, ("content-type", b"application/json"))

    def send(self, message: Message, answered: Answered) -> None:
        """Hand it to the client library."""
        sent_at = time.perf_counter()

        def delivered(error: Any, _: Any) -> None:
            code, reason = (_CODE, None) if error is None else (error.name(), error.str())
            self._answers.append((answered, message, code, reason, sent_at))

        try:
            self._producer.produce(
                self._topic, message.data, message.key, headers=list(message.headers), on_delivery=delivered
            )
        except BufferError:
            answered(message, "full", "too many messages wait for Kafka", sent_at)
        except KafkaException as exception:
            answered(message, exception.args[0].name(), exception.args[0].str(), sent_at)

    async def close(self, patience: timedelta) -> None:
        """Wait for Kafka's acknowledgements, and give up what has none."""
        try:
            await asyncio.to_thread(self._producer.flush, patience.total_seconds() + 1)
        finally:
            self._producer.purge()
            await asyncio.to_thread(self._producer.flush, 1)
            self._stop.set()
            await asyncio.to_thread(self._thread.join)
            self._settle()

    def _listen(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(0.1)
            if self._answers:
                self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        while self._answers:
            answered, message, code, reason, sent_at = self._answers.popleft()
            answered(message, code, reason, sent_at)
