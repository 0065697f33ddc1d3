"""What the logger counts."""

from bisect import bisect_left
from collections import Counter

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """A few counters, written by one thread and without locks."""

    def __init__(self) -> None:
        self.answers: Counter[int] = Counter()
        """HTTP status -> answers to posts."""
        self.acknowledged = 0
        self.refused = 0
        self.bytes = 0
        self._seconds = 0.0
        self._buckets = [0] * (len(_BUCKETS_S) + 1)

    def took(self, seconds: float) -> None:
        """Count one post that Kafka acknowledged, from its last byte to the answer."""
        self._seconds += seconds
        self._buckets[bisect_left(_BUCKETS_S, seconds)] += 1

    def text(self, waiting: int) -> str:
        """All of them in the Prometheus text format."""
        name = "driftline_logger"
        lines = [
            f"# HELP {name}_answers_total Answers to posts, by HTTP status.",
            f"# TYPE {name}_answers_total counter",
        ]
        lines += [f'{name}_answers_total{{code="{code}"}} {n}' for code, n in sorted(self.answers.items())]
        for key, kind, value, words in (
            ("events_acknowledged_total", "counter", self.acknowledged, "Events that Kafka has."),
            ("events_unacknowledged_total", "counter", self.refused, "Events that Kafka did not take, or not in time."),
            ("payload_bytes_total", "counter", self.bytes, "Payload of the events that Kafka has."),
            ("events_waiting", "gauge", waiting, "Events that Kafka has not answered yet."),
        ):
            lines += [f"# HELP {name}_{key} {words}", f"# TYPE {name}_{key} {kind}", f"{name}_{key} {value}"]
        lines += [
            f"# HELP {name}_acknowledge_seconds From a post to Kafka's acknowledgement.",
            f"# TYPE {name}_acknowledge_seconds histogram",
        ]
        total = 0
        for bound, n in zip((*map(str, _BUCKETS_S), "+Inf"), self._buckets, strict=True):
            total += n
            lines.append(f'{name}_acknowledge_seconds_bucket{{le="{bound}"}} {total}')
        lines += [f"{name}_acknowledge_seconds_sum {self._seconds}", f"{name}_acknowledge_seconds_count {total}"]
        return "\n".join(lines) + "\n"
