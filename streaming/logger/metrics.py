"""What the logger counts."""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streaming.logger.kafka_log import KafkaLog
    from streaming.logger.spooled_log import SpooledLog

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """A few counters, written by one thread and without locks."""

    def __init__(self) -> None:
        self.answers: Counter[int] = Counter()
        """HTTP status -> answers to posts."""
        self.acknowledged = 0
        self.spooled = 0
        self.refused = 0
        self.bytes = 0
        self._seconds = 0.0
        self._buckets = [0] * (len(_BUCKETS_S) + 1)

    def took(self, seconds: float) -> None:
        """Count one post that was answered with 200, from its last byte to the answer."""
        self._seconds += seconds
        self._buckets[bisect_left(_BUCKETS_S, seconds)] += 1

    def text(self, destination: "KafkaLog | SpooledLog") -> str:
        """All of them in the Prometheus text format."""
        name = "driftline_logger"
        lines = [
            f"# HELP {name}_answers_total Answers to posts, by HTTP status.",
            f"# TYPE {name}_answers_total counter",
        ]
        lines += [f'{name}_answers_total{{code="{code}"}} {n}' for code, n in sorted(self.answers.items())]
        for key, kind, value, words in (
            (
                "events_acknowledged_total",
                "counter",
                self.acknowledged,
                "Events that Kafka had when they were answered.",
            ),
            ("events_unacknowledged_total", "counter", self.refused, "Events that were refused, or not taken in time."),
            ("payload_bytes_total", "counter", self.bytes, "Payload of the events that were answered with 200."),
            ("events_waiting", "gauge", destination.waiting, "Events that Kafka has not answered yet."),
            *_of_spool(destination, self.spooled),
        ):
            lines += [f"# HELP {name}_{key} {words}", f"# TYPE {name}_{key} {kind}", f"{name}_{key} {value}"]
        lines += [
            f"# HELP {name}_acknowledge_seconds From a post to its answer, where that is 200.",
            f"# TYPE {name}_acknowledge_seconds histogram",
        ]
        total = 0
        for bound, n in zip((*map(str, _BUCKETS_S), "+Inf"), self._buckets, strict=True):
            total += n
            lines.append(f'{name}_acknowledge_seconds_bucket{{le="{bound}"}} {total}')
        lines += [f"{name}_acknowledge_seconds_sum {self._seconds}", f"{name}_acknowledge_seconds_count {total}"]
        return "\n".join(lines) + "\n"


def _of_spool(destination: "KafkaLog | SpooledLog", spooled: int) -> Iterator[tuple[str, str, float, str]]:
    if destination.spool is None:
        return
    log, spool = destination, destination.spool
    oldest = spool.oldest
    age = 0.0 if oldest is None else max(time.time() - oldest, 0.0)
    yield "events_spooled_total", "counter", spooled, "Events that only the spool had when they were answered."
    yield "kafka_away", "gauge", int(log.away), "1 while Kafka does not take events in time."
    yield "spool_bytes", "gauge", spool.used, "Of the spool, on disk."
    yield "spool_max_bytes", "gauge", spool.max_bytes, "That it may have."
    yield "spool_events", "gauge", spool.events, "Events in it that Kafka is not known to have."
    yield "spool_oldest_seconds", "gauge", age, "Age of the oldest segment: no event that waits is older."
    yield "spool_written_total", "counter", log.spooled, "Events written to it."
    yield "spool_replayed_total", "counter", log.replayed, "Events read from it that Kafka took."
    yield "spool_refused_total", "counter", log.full, "Events that it did not take: full, or the disk failed."
    yield (
        "spool_failing",
        "gauge",
        int(spool.problem() is not None),
        "1 while it takes nothing: full, or the disk fails.",
    )
    yield (
        "spool_torn_total",
        "counter",
        spool.torn,
        "Ends of segments that were cut off: written while the process was killed.",
    )
    yield "spool_corrupt_total", "counter", spool.corrupt, "Stretches of it that could not be read, set aside."
    yield (
        "spool_set_aside_total",
        "counter",
        spool.refused,
        "Events that Kafka never takes (too large for the topic), set aside.",
    )
