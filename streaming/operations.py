"""How a running monitor is watched, and how large its batches may be: settings, and one pure function."""

import statistics
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydantic import Field

from detectors.settings import Duration, Settings

FLOOR = 1_000
"""Messages of a batch, at least: with fewer, the work that every batch costs is all there is."""
_GROWTH = 2.0
"""A bound at most doubles or halves at a time: what was measured says little about sizes far from it."""
_ENOUGH = 3
"""Batches that must agree."""


class Metrics(Settings):
    """Where the monitor answers `GET /healthz`, `/readyz` and `/metrics`; not at all when `port` is not given."""

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` is every one. Whoever reaches it can read the metrics."""
    port: int | None = Field(default=None, ge=0, le=65535)
    """0 chooses a free one, which is printed."""
    stalled_after: Duration = timedelta(minutes=5)
    """The monitor is not healthy when no batch has ended for so long while there was work, or Kafka did not answer. Longer than
    the longest batch: whoever restarts an unhealthy monitor would else interrupt a batch that is merely large, again and again."""


def batch_bound(
    progress: Sequence[Mapping[str, Any]],
    target: timedelta,
    current: int,
    ceiling: int,
    floor: int = FLOOR,
) -> int:
    """The `maxOffsetsPerTrigger` with which a batch takes about `target`.

    Only batches that say something about large batches count: those of at least half the present bound, and those that took
    longer than the target. The median of their throughputs, times the target, is what is proposed, at most doubled or halved.
    With a time of ``a + b * messages`` the fixed point is where that equals the target. Small batches that are quick say
    nothing (most of their time is the same for any size), so a quiet day does not make the next catching-up slow.

    Parameters
    ----------
    progress
        Of recent batches, as `StreamingQueryProgress` says it. The first batch of each run is left out: it warms up.
    current
        The bound that they ran under, in messages.
    ceiling
        Never more than this, in messages: what memory allows.
    floor
        Never less than this, in messages.
    """
    runs: set[Any] = set()
    throughputs: list[float] = []
    for batch in progress:
        first, seconds = batch["runId"] not in runs, batch["durationMs"].get("triggerExecution", 0) / 1000
        runs.add(batch["runId"])
        rows = int(batch["numInputRows"])
        if not first and rows > 0 and seconds > 0 and (2 * rows >= current or seconds > target.total_seconds()):
            throughputs.append(rows / seconds)
    if len(throughputs) < _ENOUGH:
        wanted = float(current)
    else:
        wanted = statistics.median(throughputs) * target.total_seconds()
        wanted = min(max(wanted, current / _GROWTH), current * _GROWTH)
    return max(min(round(wanted), ceiling), min(floor, ceiling))
