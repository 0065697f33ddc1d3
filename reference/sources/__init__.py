"""Where rows come from: files, table formats, databases, data frames; one module a kind."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reference.errors import UnusableData

if TYPE_CHECKING:
    from reference.data import Data
    from reference.schema import Column, Model
    from reference.source import Source


def open_source(
    data: "Data",
    model: "Model | None" = None,
    *,
    label: "Column | None" = None,
    now: datetime | None = None,
    spark: Any = None,
    staging: str | None = None,
) -> "Source":
    """The rows that the section ``reference.data`` asks for, their columns named as the model's.

    What is read is fixed here: the files and their sizes, the version of a table, the window of time. A file that changes afterwards is an
    error when it is read. With a filter, the time column is read once, here.

    Parameters
    ----------
    model
        Whose features (all of them must be there) and predictions (as far as they are there) are read. None: every column of the table, for
        `infer`.
    label
        Column of the labels, where performance is asked for.
    now
        End of `last`. Default: now.
    spark
        A SparkSession, for `jdbc`; its `spark.jars` must hold the driver (`streaming.jars`, set ``jdbc-postgresql``).
    staging
        An empty directory or URL that both Spark and this process reach, for `jdbc`. The caller removes it when the baseline is built.

    Raises
    ------
    UnusableData
        When there is nothing there, it cannot be read, or it lacks columns or rows.
    MissingSecret
        When a secret is not where the settings say.

    Examples
    --------
    How the command line calls it::

        with tempfile.TemporaryDirectory() as staging:
            if data.format == "traffic":
                source = streaming.traffic_source.open_traffic(monitor, data, staging)
            else:
                source = open_source(data, spec.model, label=..., spark=session, staging=staging)
            baseline = build(source, ...)
    """
    from reference.data import format_of
    from reference.sources.chosen import Wanted, chosen
    from reference.sources.window import needs_newest, window_of

    at = datetime.now(UTC) if now is None else now
    wanted = Wanted.of(data, model, label)
    window = window_of(data, at) if data.filtered and not needs_newest(data) else None
    assert data.url is not None or data.format == "traffic"  # the settings ask for one
    kind = data.format or format_of(data.url or "")
    if kind == "traffic":
        raise UnusableData("format traffic is read by streaming.traffic_source.open_traffic, not from a table")
    if kind is None and _is_delta(data):
        kind = "delta"
    if kind == "delta":
        from reference.sources.delta import open_delta

        raw = open_delta(data, window)
    elif kind == "iceberg":
        from reference.sources.iceberg import open_iceberg

        raw = open_iceberg(data, window)
    elif kind == "jdbc":
        from reference.sources.sql import open_jdbc

        raw = open_jdbc(data, wanted, window, spark, staging)
    else:
        raw = open_files(data, wanted, window)
    return chosen(raw, data, wanted, window, at)


def open_files(data: "Data", wanted: Any, window: Any = None) -> "Source":
    """The files of a URL, their columns under their own names; ``wanted`` is a `chosen.Wanted`."""
    from reference.sources.files import listing

    options = data.all_options()
    delimiter = options.pop("delimiter", ",")
    assert data.url is not None  # the settings ask for one
    files = listing(data.url, options, data.format)
    columns = None
    if wanted.names is not None:
        columns = list(dict.fromkeys([*wanted.names.values(), *([data.time] if data.time else [])]))
    if files.format == "parquet":
        from reference.sources.parquet import open_parquet

        return open_parquet(files, columns, data, window)
    if wanted.twofold:
        raise UnusableData(
            f"{data.url}: the columns {list(wanted.twofold)} are asked for as numbers and as categories, and {files.format} has no types "
            "that would say which is which: use Parquet, or write the column twice"
        )
    if files.format == "csv":
        from reference.sources.csv import open_csv

        return open_csv(files, columns, wanted.text, delimiter)
    from reference.sources.jsonl import open_jsonl

    time = data.time if wanted.names is None or data.time in wanted.text else None
    return open_jsonl(files, columns, wanted.text, time)


def _is_delta(data: "Data") -> bool:
    """Whether a directory is that of a Delta table."""
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(data.url, **data.all_options())
        return bool(fs.exists(f"{root.rstrip('/')}/_delta_log"))
    except Exception:  # noqa: BLE001 - what is wrong with the URL is said by who opens it
        return False
