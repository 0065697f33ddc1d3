"""Databases, through Spark's JDBC source: read once, and written where the build reads it as often as it likes."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from reference.data import Data, Options, format_moment
from reference.errors import UnusableData
from reference.source import Source
from reference.sources.chosen import Wanted
from reference.sources.files import listing
from reference.sources.parquet import open_parquet
from reference.sources.window import Window, moment_of

_FETCH_ROWS = "10000"
"""Rows that the driver asks for at a time; some take the whole table into memory when they are not told."""
_DRIVERS = {
    "db2": "com.ibm.db2.jcc.DB2Driver",
    "mariadb": "org.mariadb.jdbc.Driver",
    "mysql": "com.mysql.cj.jdbc.Driver",
    "oracle": "oracle.jdbc.OracleDriver",
    "postgresql": "org.postgresql.Driver",
    "sqlserver": "com.microsoft.sqlserver.jdbc.SQLServerDriver",
}
"""Java finds a driver by itself only among the jars that it was started with, and not in `spark.jars`."""
_UNORDERED = ("map", "variant")
"""Types of Spark that have no order."""


def open_jdbc(data: Data, wanted: Wanted, window: Window | None, spark: Any, staging: str | None) -> Source:
    """The rows of a table or query.

    They are read once, into Parquet under `staging`: a build reads its rows twice, and a table may change in between. With
    `partitionColumn`, `lowerBound`, `upperBound` and `numPartitions` several connections read side by side, each for itself: what is
    committed meanwhile may be in one part and not in another, so name a table that is only appended to, or a snapshot. Within a part rows
    are sorted by all columns, because a database promises no order, and the same rows shall give the same baseline.

    Raises
    ------
    UnusableData
        When neither `dbtable` nor `query` is given, the database refuses us, or columns are missing.
    MissingSecret
        When the password is not where the settings say.
    """
    if spark is None or staging is None:
        raise UnusableData(f"{data.url} is read through Spark, and this command has none: build with the Spark engine")
    assert data.url is not None  # the settings ask for one
    options = data.all_options()
    name = named(data)
    text = options.pop(name)
    table = text if name == "dbtable" else f"({text}) driftline"
    driver = _DRIVERS.get(data.url.split(":")[1])
    if driver is not None:
        options.setdefault("driver", driver)
    asked = {"fetchsize": _FETCH_ROWS, "preferTimestampNTZ": "true", **options, "url": data.url, "dbtable": table}
    try:
        frame = spark.read.format("jdbc").options(**asked).load()
    except Exception as error:  # noqa: BLE001 - Java's, of any kind
        raise _refused(data.url, error, options) from None
    names = wanted.resolved(frame.columns, data.url)
    times = [data.time] if data.time is not None and data.time in frame.columns else []
    columns = list(dict.fromkeys([*names.values(), *times]))
    chosen = frame.select([quoted(column) for column in columns])
    where = (
        None if window is None or data.time is None or data.time not in columns else _where(chosen, data.time, window)
    )
    try:
        staged = stage(chosen if where is None else chosen.where(where), staging, in_order=False)
    except Exception as error:  # noqa: BLE001 - Java's, of any kind
        raise _refused(data.url, error, options) from None
    origin = {
        "kind": "jdbc",
        "url": data.url,
        name: text,
        "read": format_moment(datetime.now(UTC).replace(microsecond=0)),
    }
    return Source(staged.schema, staged.fragments, origin)


def named(data: Data) -> str:
    """Which of the options says what is read: `dbtable` or `query`.

    Raises
    ------
    UnusableData
        When neither does, or both do.
    """
    there = {*data.options, *data.secrets}
    said = [name for name in ("dbtable", "query") if name in there]
    if len(said) != 1:
        raise UnusableData(
            f"reference.data.options of {data.url} need either `dbtable` or `query`: they have {sorted(there)}"
        )
    return said[0]


def stage(frame: Any, staging: str, *, in_order: bool) -> Source:
    """A Spark DataFrame, computed once and written as Parquet.

    Parameters
    ----------
    staging
        An empty directory or URL that Spark's workers and this process reach.
    in_order
        Whether the order of rows within a partition is always the same; else they are sorted.
    """
    spark = frame.sparkSession
    url = staging if "://" in staging else f"file://{staging}"
    setting = "spark.sql.parquet.outputTimestampType"
    before = spark.conf.get(setting)
    rows = frame
    if not in_order:
        kinds = {field.name: field.dataType.typeName() for field in frame.schema}
        rows = frame.sortWithinPartitions(*(quoted(name) for name, kind in kinds.items() if kind not in _UNORDERED))
    try:
        spark.conf.set(
            setting, "TIMESTAMP_MICROS"
        )  # by the default's INT96 no row group is known to be out of a window
        rows.write.mode("overwrite").parquet(f"{url.replace('s3://', 's3a://')}/rows")
    finally:
        spark.conf.set(setting, before)
    place = f"{staging.rstrip('/')}/rows"
    files = listing(place, Options({}), "parquet")
    return open_parquet(files, None, Data(url=place), None)


def quoted(name: str) -> str:
    """A column's name as Spark's SQL takes any.

    >>> quoted("Day `of` month")
    '`Day ``of`` month`'
    """
    return "`" + name.replace("`", "``") + "`"


def _where(frame: Any, time: str, window: Window) -> str | None:
    """What the database is asked to leave out; None where the column is no timestamp, and rows are chosen here alone."""
    kind = frame.schema[time].dataType.typeName()
    if kind not in ("timestamp", "timestamp_ntz"):
        return None

    def literal(microseconds: int) -> str:
        text = format_moment(moment_of(microseconds)).removesuffix("Z").replace("T", " ")
        # Without a zone a time is UTC, as everywhere; with one the session's own zone must not matter.
        return f"timestamp_ntz'{text}'" if kind == "timestamp_ntz" else f"timestamp_ltz'{text}Z'"

    name = quoted(time)
    bounds = [] if window.since is None else [f"{name} >= {literal(window.since)}"]
    bounds += [] if window.until is None else [f"{name} < {literal(window.until)}"]
    return f"{name} IS NULL OR ({' AND '.join(bounds)})"


def _refused(url: str, error: Exception, options: Options) -> UnusableData:
    """What the database, its driver or Spark says, in a line and without secrets."""
    if isinstance(error, pa.ArrowException | UnusableData):
        return UnusableData(f"{url} cannot be read: {error}")
    java = getattr(error, "java_exception", None) or getattr(
        error, "_origin", None
    )  # what PySpark has made an exception of
    while java is not None and java.getCause() is not None:
        java = java.getCause()
    said = str(error) if java is None else java.toString()
    line = " ".join(said.split("\n")[0].split())[:500]
    for name in options.secret:
        secret = options.get(name)
        line = line.replace(secret, "***") if secret else line
    if "No suitable driver" in line or "ClassNotFoundException" in line:
        line += ". Spark needs the database's driver: that of PostgreSQL is `python -m streaming.jars jdbc-postgresql`; name others in spark.jars"
    return UnusableData(f"{url} cannot be read: {line}")
