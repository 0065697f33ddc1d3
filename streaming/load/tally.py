"""What became of the requests of a replay: counts, and latencies in a histogram that never grows."""

from collections import Counter
from dataclasses import dataclass, field

_BITS = 7
"""A bucket is 1/128 as wide as the values in it, or a microsecond: percentiles are that exact."""
_LARGEST = 2**36
"""Microseconds, 19 hours; longer ones count as this."""
_LATE_S = 0.1
_REASONS = 5


class Histogram:
    """Counts of durations in buckets of one relative width, as in HdrHistogram (Tene, 2012).

    >>> histogram = Histogram()
    >>> for milliseconds in range(1, 1001):
    ...     histogram.add(milliseconds / 1000)
    >>> [round(seconds, 3) for seconds in histogram.percentiles(50, 99)]
    [0.502, 0.993]
    """

    def __init__(self) -> None:
        self._counts = [0] * (_bucket(_LARGEST) + 1)
        self.count = 0
        self.sum = 0.0
        self.max = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration; below nothing is nothing."""
        self._counts[_bucket(min(max(int(seconds * 1e6), 0), _LARGEST))] += 1
        self.count += 1
        self.sum += seconds
        self.max = max(self.max, seconds)

    @property
    def mean(self) -> float:
        """Seconds; 0 when there is nothing."""
        return self.sum / self.count if self.count else 0.0

    def percentiles(self, *asked: float) -> list[float]:
        """Seconds under which so many percent are, each at the upper end of its bucket; asked in rising order."""
        found: list[float] = []
        seen = 0
        for bucket, count in enumerate(self._counts):
            if not count:
                continue
            seen += count
            while len(found) < len(asked) and seen >= asked[len(found)] / 100 * self.count:
                found.append(min(_upper(bucket) / 1e6, self.max))
            if len(found) == len(asked):
                return found
        return found + [self.max] * (len(asked) - len(found))


def _bucket(micros: int) -> int:
    shift = max(micros.bit_length() - _BITS - 1, 0)
    return (shift << _BITS) + (micros >> shift)


def _upper(bucket: int) -> int:
    shift = max((bucket >> _BITS) - 1, 0)
    return ((bucket - (shift << _BITS)) + 1) << shift


@dataclass
class Tally:
    """How a replay stands; every request that was due is in `unsent`, in `answered`, in `failed` or on its way."""

    requests: int = 0
    """Of the model that were due; to a logger or to Kafka the response of one is a message of its own."""
    instances: int = 0
    """In the requests that were sent."""
    sent: int = 0
    """Messages."""
    bytes: int = 0
    """Of their bodies."""
    late: int = 0
    """Messages that were sent more than 100 ms after they were due: there was no room for more on their way."""
    unsent: int = 0
    """Messages that were due and never sent: no room came in time, or the replay was stopped."""
    answered: int = 0
    """Messages that were taken: with a 2xx, or by Kafka."""
    failed: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    """HTTP status, or what happened instead of an answer -> messages."""
    reasons: list[str] = field(default_factory=list)
    """Of the first few different failures."""
    latency: Histogram = field(default_factory=Histogram)
    """From when a message was due to its answer: a server that stalls is not forgiven for those that had to wait."""
    service: Histogram = field(default_factory=Histogram)
    """From when it was sent."""
    recent: Histogram = field(default_factory=Histogram)
    """As `latency`, since somebody last put a new one here."""
    seconds: float = 0.0
    """Since the first was due."""

    @property
    def in_flight(self) -> int:
        """Messages without an answer."""
        return self.sent - self.answered - self.failed

    def was_sent(self, size: int, behind: float) -> None:
        """Count a message.

        Parameters
        ----------
        size
            Bytes of its body.
        behind
            Seconds since it was due.
        """
        self.sent += 1
        self.bytes += size
        self.late += behind > _LATE_S

    def was_answered(self, code: str, reason: str | None, latency: float, service: float) -> None:
        """Count an answer, or what came instead; without a reason it is a good one."""
        self.codes[code] += 1
        if reason is None:
            self.answered += 1
            self.latency.add(latency)
            self.service.add(service)
            self.recent.add(latency)
            return
        self.failed += 1
        if len(self.reasons) < _REASONS and reason not in self.reasons:
            self.reasons.append(reason)
