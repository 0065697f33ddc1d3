"""Events: what happens to the monitoring itself, told in a topic of each model and in the log.

Windows tell what the model does. Events tell of the model's silence, and of what the monitor makes of its files and baselines.
They are written by the driver, so that they come even when no batch does.
"""

import hashlib
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec

from streaming.pane import rfc3339
from streaming.reports import Event, EventReason

if TYPE_CHECKING:
    from confluent_kafka import Producer

    from streaming.spec import ModelMonitor

_FLUSH_S = 10.0
_ALARMS = frozenset({"monitorRefused", "baselineRefused", "topicRecreated", "noTraffic"})


class Events:
    """Writes events; a broker that is away costs the event, not the monitor, and the log has it."""

    def __init__(self) -> None:
        self._producer: Producer | None = None

    def tell(
        self, model: str, reason: EventReason, text: str, monitor: "ModelMonitor | None" = None, at: str = ""
    ) -> None:
        """Log an event, and write it to the model's topic where its ModelMonitor is known.

        Parameters
        ----------
        at
            What the event is about, when the same text may be told twice: part of its id.
        """
        say(f"{model}: {reason}: {text}")
        if monitor is None:
            return
        digest = hashlib.sha256(f"{text}\n{at}".encode()).hexdigest()[:12]
        event = Event(
            id=f"{model}/-/event/{reason}/{digest}",
            model=model,
            model_version=monitor.spec.model.version,
            detected_at=rfc3339(time.time_ns() // 1_000_000),
            reason=reason,
            message=text,
            alarm=reason in _ALARMS,
        )
        try:
            producer = self._connected(monitor)
            producer.produce(monitor.topics.events, msgspec.json.encode(event), model.encode())
            left = producer.flush(_FLUSH_S)
        except Exception as error:  # noqa: BLE001 - whatever a client may raise: the log has the event
            say(f"{model}: the event could not be written: {error}")
        else:
            if left:
                say(f"{model}: the event is not written yet: Kafka does not answer")

    def _connected(self, monitor: "ModelMonitor") -> "Producer":
        from confluent_kafka import Producer

        if self._producer is None:
            options: dict[str, Any] = {
                **monitor.spec.kafka.for_confluent(),
                "enable.idempotence": True,
                "message.timeout.ms": 60_000,
                "log_level": 0,
            }
            self._producer = Producer(options)
        return self._producer


def say(text: str) -> None:
    """A line for whoever watches or reads the log."""
    print(f"driftline: {text}", file=sys.stderr, flush=True)  # noqa: T201
