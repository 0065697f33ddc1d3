"""What sequential detectors watch: one number of every window, or one of every instance, in the order of event time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec
import numpy as np
from pydantic import model_validator

from detectors.errors import IncompatibleSummaries, SummaryFormatError
from detectors.sequential import SequentialMethod
from detectors.sequential.base import State
from detectors.settings import Settings
from detectors.statistics.metrics import METRICS, SHARES
from streaming.observations import Observations
from streaming.pane import rfc3339
from streaming.reports import Counts, SequentialChange, SequentialDrift

if TYPE_CHECKING:
    from streaming.reports import Drift, Statistics

    Metric = str
    Count = str
else:
    Metric = Literal[(*METRICS, *SHARES, "median", "mad", "iqr", "distinct")]
    Count = Literal[tuple(Counts.__struct_fields__)]
MOST_CHANGES = 100
"""So many changes of one series are listed in a record; all are counted."""


class Series(Settings):
    """One series of numbers, and the detector that watches it."""

    column: str | None = None
    """A feature, a prediction, or a learnt outlier detector, whose scores are meant. Alone: its value in every instance."""
    statistic: Metric | None = None
    """Of the column: this statistic of every window."""
    score: str | None = None
    """Of the column: the score of this drift method in every window; the method must be among `drift.methods` or `auto`."""
    count: Count | None = None
    """This count of every window."""
    share: Count | None = None
    """This count of every window, divided by its requests. Flagged answers count, too, so that `outliers` may come to more than 1."""
    outliers: str | None = None
    """1 for every instance that this outlier detector flags, 0 for every other one: what `ddm` and its like want."""
    detector: SequentialMethod
    """Which sequential detector, by name or with settings."""

    @model_validator(mode="after")
    def _one_series(self) -> Self:
        of_column = sum(value is not None for value in (self.statistic, self.score))
        alone = sum(value is not None for value in (self.count, self.share, self.outliers))
        if alone + (self.column is not None) != 1 or of_column > (self.column is not None):
            msg = (
                "names no series, or more than one: give `column` (with `statistic` or `score` for one number a window), "
                "or one of `count`, `share`, `outliers`"
            )
            raise ValueError(msg)
        return self

    @property
    def of_instances(self) -> bool:
        """Whether it has a number for every instance, not one for every window."""
        return self.outliers is not None or (self.column is not None and self.statistic is None and self.score is None)

    @property
    def label(self) -> str:
        """For people: ``mean of age``, ``outliers / requests``."""
        if self.column is not None:
            return f"{self.statistic or self.score} of {self.column}" if self.statistic or self.score else self.column
        if self.share is not None:
            return f"{self.share} / requests"
        return self.count if self.count is not None else f"flagged by {self.outliers}"

    @property
    def key(self) -> str:
        """Names its state: with other settings a series begins anew."""
        return self.model_dump_json()

    def of_window(self, drift: "Drift", statistics: "Statistics") -> float:
        """Its number of one window; NaN where there is none."""
        counts = msgspec.structs.asdict(statistics.counts)
        if self.count is not None:
            return float(counts[self.count])
        if self.share is not None:
            return counts[self.share] / counts["requests"] if counts["requests"] else np.nan
        if self.score is not None:
            scores = [c.score for c in drift.columns if c.name == self.column and c.method == self.score]
        else:
            scores = [c.values.get(self.statistic or "") for c in statistics.columns if c.name == self.column]
        return next((score for score in scores if score is not None), np.nan)


def watched(
    series: Sequence[Series],
    states: dict[str, bytes],
    of_windows: Sequence[float],
    of_instances: Sequence[Observations],
    window: int,
) -> list[SequentialDrift]:
    """Show every detector the numbers of one closed window, and say what it found; `states` is brought up to date.

    Parameters
    ----------
    states
        `Series.key` -> state in bytes. Those of series that are watched no more are dropped.
    of_windows
        For each series its number of the window; ignored for those of instances.
    of_instances
        For each series of instances, in order, its numbers of the pane that is now complete.
    window
        Start of the window, ms: the time of a change in a series of windows.
    """
    found = []
    instances = iter(of_instances)
    known = dict(states)
    states.clear()
    for one, number in zip(series, of_windows, strict=True):
        state = _state(one, known.get(one.key))
        if one.of_instances:
            numbers = next(instances).in_order()
            values, times = numbers.values, numbers.times
        else:
            values, times = np.array([number]), np.array([window])
        first = state.seen
        changes = state.update(values)
        states[one.key] = state.to_bytes()
        found.append(
            SequentialDrift(
                series=one.label,
                detector=one.detector.name,
                observations=state.seen,
                skipped=state.skipped,
                changes=[
                    SequentialChange(
                        change=change.kind,
                        index=change.index,
                        event_time=rfc3339(int(times[change.index - first])),
                        statistic=change.statistic,
                        threshold=change.threshold,
                        direction=change.direction,
                    )
                    for change in changes[:MOST_CHANGES]
                ],
                changed=len(changes),
                drifted=any(change.kind == "drift" for change in changes),
            )
        )
    return found


def _state(series: Series, data: bytes | None) -> State[Any]:
    """Where the detector stands; begun anew where its bytes are another version's."""
    if data is not None:
        try:
            return State.from_bytes(data, series.detector)
        except (SummaryFormatError, IncompatibleSummaries):
            pass
    return series.detector.start()
