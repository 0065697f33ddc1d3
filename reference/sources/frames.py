"""Rows that a program has already: a pandas or Spark DataFrame, or an Arrow table."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pyarrow as pa

from reference.category import category
from reference.data import Data
from reference.errors import UnusableData
from reference.schema import Column, Model
from reference.source import Source, source_of_table
from reference.sources.chosen import Wanted, chosen
from reference.sources.window import needs_newest, window_of

_NOWHERE: Mapping[str, str] = {}


def source_of_frame(
    frame: Any,
    model: Model | None = None,
    *,
    label: Column | None = None,
    columns: Mapping[str, str] = _NOWHERE,
    time: str | None = None,
    time_unit: Literal["s", "ms", "us", "ns"] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    last: timedelta | None = None,
    last_from: Literal["now", "data"] = "now",
    weight: str | None = None,
    now: datetime | None = None,
    staging: str | None = None,
) -> Source:
    """The rows of a data frame; each setting is that of ``reference.data``.

    Parameters
    ----------
    frame
        A pandas DataFrame, whose index is left out, an Arrow table, or a Spark DataFrame.
    staging
        For a Spark DataFrame, an empty directory or URL that its workers and this process reach: it is computed once, and written there. The
        caller removes it. The same partitions in the same order give the same baseline.

    Raises
    ------
    UnusableData
        When columns or rows are missing, or hold what no column can.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"Amount": [1.0, 2.0, 4.0]})
    >>> model = Model(features=(Column(name="amount", type="numeric"),))
    >>> source_of_frame(frame, model, columns={"amount": "Amount"}).table().to_pydict()
    {'amount': [1.0, 2.0, 4.0]}
    """
    data = Data(
        url="the data frame",
        columns=dict(columns),
        time=time,
        time_unit=time_unit,
        since=since,
        until=until,
        last=last,
        last_from=last_from,
        weight=weight,
    )
    at = datetime.now(UTC) if now is None else now
    wanted = Wanted.of(data, model, label)
    window = window_of(data, at) if data.filtered and not needs_newest(data) else None
    if isinstance(frame, pa.Table):
        raw = source_of_table(frame, {"kind": "table", "url": data.url, "rows": frame.num_rows})
    elif hasattr(frame, "sparkSession"):
        raw = _of_spark(frame, data, wanted, staging)
    else:
        raw = _of_pandas(frame, data, wanted)
    return chosen(raw, data, wanted, window, at)


def _of_pandas(frame: Any, data: Data, wanted: Wanted) -> Source:
    names = [str(name) for name in frame.columns]
    read = set(wanted.resolved(names, str(data.url)).values()) | {data.time}
    arrays = {
        name: _array(frame.iloc[:, place], name, text=name in wanted.text)
        for place, name in enumerate(names)
        if name in read
    }
    return source_of_table(pa.table(arrays), {"kind": "pandas", "url": data.url, "rows": len(frame)})


def _array(series: Any, name: str, *, text: bool) -> pa.Array:
    try:
        return pa.Array.from_pandas(series)
    except pa.ArrowException as error:
        if text:  # values of several types, as messages may have them
            try:
                return pa.array([category(value) for value in series.tolist()], pa.string())
            except TypeError:
                pass
        raise UnusableData(f"column {name!r} of the data frame cannot be read: {error}") from None


def _of_spark(frame: Any, data: Data, wanted: Wanted, staging: str | None) -> Source:
    from reference.sources.sql import quoted, stage

    if staging is None:
        raise UnusableData("a Spark DataFrame is written once before it is read: say where with `staging`")
    names = wanted.resolved(frame.columns, str(data.url))
    times = [data.time] if data.time is not None and data.time in frame.columns else []
    read = list(dict.fromkeys([*names.values(), *times]))
    staged = stage(frame.select([quoted(name) for name in read]), staging, in_order=True)
    return Source(staged.schema, staged.fragments, {"kind": "spark", "url": data.url})
