"""The ``reference.data`` section of a ModelMonitor: which rows a baseline is built from."""

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from detectors.settings import Duration, Settings
from reference.secret import Secret

Format = Literal["parquet", "csv", "jsonl", "delta", "iceberg", "jdbc", "traffic"]
FORMATS: tuple[Format, ...] = get_args(Format)

_SUFFIXES: dict[str, Format] = {
    "parquet": "parquet",
    "pq": "parquet",
    "csv": "csv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
}
_COMPRESSED = re.compile(r"\.(gz|zst|zstd|bz2|lz4)$", re.IGNORECASE)
_SECRET = re.compile(r"passw|secret|token|credential|private|account.?key|connection.?string|^key$|^sas", re.IGNORECASE)
"""Names of options whose values are nobody's business."""


def parse_moment(value: Any) -> datetime:
    """A point of time: RFC 3339, or a date, which is its first moment; without a zone it is UTC.

    >>> parse_moment("2013-05-01").isoformat()
    '2013-05-01T00:00:00+00:00'

    Raises
    ------
    ValueError
        For anything else.
    """
    found = None
    if isinstance(value, datetime):
        found = value
    elif isinstance(value, date):
        found = datetime(value.year, value.month, value.day, tzinfo=UTC)
    elif isinstance(value, str):
        try:
            found = datetime.fromisoformat(value.strip())
        except ValueError:
            found = None
    if found is None:
        msg = f"{value!r} is no point of time: write a date or RFC 3339, for example '2013-05-01' or '2013-05-01T12:00:00Z'"
        raise ValueError(msg)
    try:
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except OverflowError:
        msg = f"{value!r} is in UTC not in the years 1 to 9999: write another time"
        raise ValueError(msg) from None


def format_moment(moment: datetime) -> str:
    """RFC 3339 in UTC; `parse_moment` reads it back.

    >>> format_moment(parse_moment("2013-05-01 12:00:00+02:00"))
    '2013-05-01T10:00:00Z'
    """
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


Moment = Annotated[
    datetime,
    BeforeValidator(parse_moment),
    PlainSerializer(format_moment, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["2013-05-01", "2013-05-01T12:00:00Z"]}),
]
"""A point of time, written as a date or in RFC 3339."""


class Data(Settings):
    """Which rows a baseline is built from, and where they are."""

    url: str | None = Field(default=None, min_length=1)
    """A file, a directory, a pattern (`data/2013-*.parquet`), or any URL that fsspec knows (`s3://bucket/flights/`).
    A Delta table: `delta://` and its place, or a directory with a `_delta_log`. An Iceberg table: `iceberg://catalog/namespace.table`. A
    database: `jdbc:postgresql://host/database`. Nothing for the traffic that was served."""
    format: Format | None = None
    """Default: what the URL says by its scheme or its ending. `jsonl` has one JSON object a line. `traffic` is the model's own inference
    topic; `since` and `until` are Kafka's timestamps there."""
    columns: dict[str, str] = {}
    """Feature, prediction or label -> column of the table, where the names differ."""
    time: str | None = Field(default=None, min_length=1)
    """Column of the table with the event time: timestamps, dates, RFC 3339, or numbers, whose unit `timeUnit` says. Without a zone it is
    UTC."""
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    """What numbers in the column `time` count since 1970. There is no default, because a guess would be wrong by a factor of a thousand."""
    since: Moment | None = None
    """Only rows from then on."""
    until: Moment | None = None
    """Only rows before then."""
    last: Duration | None = None
    """Only rows of this span, instead of `since`: before `until`, or without it before what `lastFrom` says."""
    last_from: Literal["now", "data"] = "now"
    """Where `last` ends: now, or just behind the newest row that is not in the future. With `data` the same table gives the same baseline
    on any day; with `now` a table that nobody fills any more is an error instead of an old reference."""
    weight: str | None = Field(default=None, min_length=1)
    """Column of the table with the rows' sample weights."""
    snapshot: int | None = Field(default=None, ge=0)
    """Version of a Delta table, or snapshot of an Iceberg table. Default: the newest; which one it was stands in the manifest."""
    options: dict[str, str] = {}
    """As the reader names them: of fsspec for files (and `delimiter` for CSV), of delta-rs, of PyIceberg's catalog, of Spark's JDBC source
    (`dbtable` or `query`, `user`, `partitionColumn`, `lowerBound`, `upperBound`, `numPartitions`)."""
    secrets: dict[str, Secret] = {}
    """Options that are secret -> where they are: `password: {env: PGPASSWORD}`."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        kind = self.format or (None if self.url is None else format_of(self.url))
        if self.url is None and kind != "traffic":
            msg = "url says where the rows are: give one, or `format: traffic` for the requests that were served"
            raise ValueError(msg)
        if self.url is not None and kind == "traffic":
            msg = f"format traffic reads the model's own inference topic: remove url {self.url!r}"
            raise ValueError(msg)
        if kind == "traffic":
            said = {"columns": self.columns, "time": self.time, "weight": self.weight, "options": self.options}
            useless = [name for name, value in said.items() if value]
            if useless:
                msg = f"format traffic has the model's own columns and Kafka's times: remove {', '.join(useless)}"
                raise ValueError(msg)
        if self.filtered and self.time is None and kind != "traffic":
            msg = "since, until and last choose rows by the event time: name its column in `time`"
            raise ValueError(msg)
        if self.last is not None and self.since is not None:
            msg = "since and last both say where the rows begin: remove one of them"
            raise ValueError(msg)
        if self.last is not None and self.last.total_seconds() <= 0:
            msg = "last is no time at all: it must be longer than 0s"
            raise ValueError(msg)
        if self.last is not None and self.last_from == "data" and kind == "traffic":
            msg = "lastFrom data asks for the newest row of a table: of traffic, `last` ends now or at `until`"
            raise ValueError(msg)
        if self.since is not None and self.until is not None and self.since >= self.until:
            msg = (
                f"since {format_moment(self.since)} is not before until {format_moment(self.until)}, "
                "so no row can be in between: swap them"
            )
            raise ValueError(msg)
        if self.snapshot is not None and kind not in ("delta", "iceberg", None):
            msg = f"snapshot is for Delta and Iceberg tables, not for {kind}: remove it"
            raise ValueError(msg)
        self._keeps_secrets()
        return self

    def _keeps_secrets(self) -> None:
        for name in self.options:
            if _SECRET.search(name):
                msg = (
                    f"options.{name} looks like a secret, and documents are read by many: "
                    f"write `secrets: {{{name}: {{env: VARIABLE}}}}`"
                )
                raise ValueError(msg)
        both = sorted(self.options.keys() & self.secrets.keys())
        if both:
            msg = f"options and secrets both have {both}: remove one of them"
            raise ValueError(msg)
        address = urlsplit((self.url or "").removeprefix("jdbc:"))
        if address.password is not None or re.search(
            r"[?&;]\w*(passw|secret|token)\w*=", self.url or "", re.IGNORECASE
        ):
            msg = "url holds a password, and documents are read by many: write `secrets: {password: {env: VARIABLE}}`"
            raise ValueError(msg)

    @property
    def filtered(self) -> bool:
        """Whether rows are chosen by their event time."""
        return self.since is not None or self.until is not None or self.last is not None

    def all_options(self) -> "Options":
        """The options and the secrets, read.

        Raises
        ------
        MissingSecret
            A secret is not where the settings say.
        """
        read = {name: secret.read(f"reference.data.secrets.{name}") for name, secret in self.secrets.items()}
        return Options({**self.options, **read}, frozenset(read))


class Options(dict[str, str]):
    """Options of a reader; a dict whose secrets print as ``***``."""

    def __init__(self, said: dict[str, str], secret: frozenset[str] = frozenset()) -> None:
        super().__init__(said)
        self.secret = secret

    def __reduce__(self) -> Any:
        return Options, (dict(self), self.secret)

    def __repr__(self) -> str:
        return repr({name: "***" if name in self.secret else value for name, value in self.items()})

    __str__ = __repr__


def format_of(url: str) -> Format | None:
    """What a URL says of itself, by its scheme or its ending; None where it says nothing.

    >>> format_of("s3://bucket/flights/2013-01.csv.gz"), format_of("delta:///lake/flights"), format_of("flights/")
    ('csv', 'delta', None)
    """
    scheme = re.match(r"(delta|iceberg|jdbc)\b", url)
    if scheme is not None and url[scheme.end() :].startswith(("://", ":", "+")):
        return "delta" if scheme[1] == "delta" else "iceberg" if scheme[1] == "iceberg" else "jdbc"
    name = _COMPRESSED.sub("", url.rpartition("/")[2])
    return _SUFFIXES.get(name.rpartition(".")[2].lower()) if "." in name else None
