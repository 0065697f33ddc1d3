"""A baseline: what the training data looked like, on the rulers that every window is counted on."""

import hashlib
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.errors import SummaryFormatError
from detectors.statistics.column import ColumnSummary
from detectors.statistics.comoments import CoMoments
from detectors.statistics.ruler import Ruler
from detectors.statistics.sample import RowSample
from detectors.statistics.table import Plan
from reference.schema import Column, Model, Schema
from reference.segments import Segments

Source = Literal["request", "response"]
SOURCES: tuple[Source, ...] = ("request", "response")
Table = Literal["request", "response", "score"]
"""What is summed up of a window: the instances, the predictions, and the scores that outlier models give the instances."""
_MAGIC = b"DLB3"
FEW_VALUES = 20
"""A numeric column with at most so many distinct values is counted value by value, as Evidently treats it."""
FEWEST_ROWS = 100
"""A segment with fewer rows in the reference is compared with nothing: chance alone would look like drift."""


@dataclass(frozen=True)
class Part:
    """One segment of the reference: its own rows, counted on the rulers and lists of the whole."""

    rows: int
    request: dict[str, ColumnSummary]
    """Feature -> its summary."""
    response: dict[str, ColumnSummary]
    """Prediction -> its summary; only those that the training table had."""
    score: dict[str, ColumnSummary] = field(default_factory=dict)
    """Learnt outlier detector -> summary of its scores; none when fewer than 100 of the rows that it has not seen are in this segment."""
    performance: bytes | None = None
    """As that of the whole; None where too few rows have a prediction and a label."""
    apart: tuple[str, ...] | None = None
    """Of the segment of all other rows: the values that it was without. Its windows must be without the same."""

    def columns(self, source: Table) -> dict[str, ColumnSummary]:
        """Of the features, of the predictions, or of the outlier models' scores."""
        return {"request": self.request, "response": self.response, "score": self.score}[source]


@dataclass(frozen=True)
class Baseline:
    """The reference of one model: a summary of each column, on rulers of its own.

    It is immutable and named by its content: `version` is the hash of everything but the time it was made.
    """

    model: str
    model_version: str
    rows: int
    request: dict[str, ColumnSummary]
    """Feature -> its summary."""
    response: dict[str, ColumnSummary]
    """Prediction -> its summary; only those that the training table had."""
    comoments: CoMoments | None = None
    """Of the numeric features, in the order of `request`."""
    score: dict[str, ColumnSummary] = field(default_factory=dict)
    """Learnt outlier detector -> summary of its scores of rows that it has not seen."""
    models: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict, compare=False)
    """Key of a learnt outlier detector -> its model."""
    samples: dict[Source, RowSample] = field(default_factory=dict, compare=False)
    """Some rows of the features, and of the predictions."""
    segments: dict[str, Part] = field(default_factory=dict)
    """Name of a segment -> its part of the reference."""
    performance: bytes | None = None
    """How well the model did, as `detectors.performance.estimate.ReferencePerformance` writes it; None where the training table had no labels."""
    created: str = field(default="", compare=False)
    """RFC 3339; not part of the version."""
    origin: dict[str, Any] = field(default_factory=dict, compare=False)
    """Where the rows are from and how they were weighted, as JSON for the manifest; neither part of the version nor of the bytes."""

    @property
    def version(self) -> str:
        """12 hexadecimal digits of the SHA-256 of the content."""
        return hashlib.sha256(self._content()).hexdigest()[:12]

    def columns(self, source: Table) -> dict[str, ColumnSummary]:
        """Of the features, of the predictions, or of the outlier models' scores."""
        return {"request": self.request, "response": self.response, "score": self.score}[source]

    def lacking(self, schema: Schema, source: Source) -> list[str]:
        """What this baseline does not know of a schema, in words; empty when it fits."""
        known = self.columns(source)
        return [
            f"{column.name!r} is missing from it"
            if column.name not in known
            else f"{column.name!r} is {known[column.name].type} there and {column.type} in the model"
            for column in schema.columns
            if column.name not in known or known[column.name].type != column.type
        ]

    def misfits(self, model: Model) -> list[str]:
        """What keeps this baseline from serving a model, in words; a prediction may be missing, and then has no reference."""
        return [
            *self.lacking(model.request_schema, "request"),
            *(text for text in self.lacking(model.response_schema, "response") if "is missing" not in text),
        ]

    def parts(self, segments: Segments) -> dict[str, Part]:
        """The references of the segments that are compared with one."""
        without = self.without_reference(segments)
        names = [name for division in segments.divisions(self.request) for name in division.names]
        return {name: self.segments[name] for name in names if name not in without}

    def without_reference(self, segments: Segments) -> dict[str, str]:
        """The segments whose windows are compared with nothing, and why, in words."""
        reasons = {}
        for division in segments.divisions(self.request):
            label = division.by.label
            for name in division.names:
                part = self.segments.get(name)
                if division.by.header is not None:
                    reasons[name] = f"the training table has no header {label!r}, so this segment has no reference"
                elif part is None:
                    reasons[name] = "the baseline was built without this segment: build it anew"
                elif name == division.rest and frozenset(part.apart or ()) != frozenset(division.values):
                    reasons[name] = (
                        f"the baseline was built with segments of other values of {label!r}, so the rest was another one: "
                        "build it anew"
                    )
                elif part.rows < FEWEST_ROWS:
                    reasons[name] = (
                        f"this segment has {part.rows} rows in the reference, fewer than {FEWEST_ROWS}: too few to compare with"
                    )
        return reasons

    def plan(self, schema: Schema, source: Table, *, percentiles: bool = True, comoments: bool = True) -> Plan:
        """What is counted of the columns of a schema, on this baseline's rulers.

        A column that the baseline does not know (a prediction that the training table had not) is counted on a ruler
        of a single mark: its moments and percentiles are reported, its drift is not.
        """
        known = self.columns(source)
        return plan_of(known, schema, percentiles=percentiles, comoments=comoments)

    def sample_of(self, schema: Schema, source: Source) -> RowSample | None:
        """The sampled rows with the columns of a schema, in its order; this baseline may know more, and in another order."""
        sample = self.samples.get(source)
        if sample is None:
            return None
        categorical = [name for name, column in self.columns(source).items() if column.type == "categorical"]
        return replace(
            sample,
            numeric=np.ascontiguousarray(sample.numeric[:, self._numeric(schema, source)]),
            categorical=tuple(sample.categorical[categorical.index(column.name)] for column in schema.categorical),
        )

    def comoments_of(self, schema: Schema) -> CoMoments:
        """Of the numeric features of a schema, in its order; of no rows where this baseline has none."""
        if self.comoments is None:
            return CoMoments.empty(len(schema.numeric))
        places = self._numeric(schema, "request")
        return CoMoments(self.comoments.n, self.comoments.mean[places], self.comoments.c[np.ix_(places, places)])

    def _numeric(self, schema: Schema, source: Source) -> list[int]:
        """Where the numeric columns of a schema are among those of this baseline."""
        names = [name for name, column in self.columns(source).items() if column.type == "numeric"]
        return [names.index(column.name) for column in schema.numeric]

    def _content(self) -> bytes:
        body = {
            "model": self.model,
            "modelVersion": self.model_version,
            "rows": self.rows,
            "request": [_pack(column) for column in self.request.values()],
            "response": [_pack(column) for column in self.response.values()],
            "comoments": None
            if self.comoments is None
            else (self.comoments.n, self.comoments.mean.tobytes(), self.comoments.c.tobytes()),
            "score": [_pack(column) for column in self.score.values()],
            "models": {
                key: {name: (array.shape, array.tobytes()) for name, array in sorted(model.items())}
                for key, model in sorted(self.models.items())
            },
            "samples": {source: (sample.size, *sample.packed()) for source, sample in sorted(self.samples.items())},
            "segments": [(name, _pack_part(part)) for name, part in self.segments.items()],
            "performance": self.performance,
        }
        return msgspec.msgpack.encode(body)

    def to_bytes(self) -> bytes:
        """The binary form: magic and version, then MessagePack of little-endian arrays. Never pickle."""
        return _MAGIC + msgspec.msgpack.encode((self.created, self._content()))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Baseline":
        """Read the binary form back; raises SummaryFormatError when it is none."""
        if data[:4] != _MAGIC:
            msg = (
                f"these bytes begin with {data[:4]!r}, a baseline of this version begins with {_MAGIC!r}: build it anew"
            )
            raise SummaryFormatError(msg)
        try:
            created, content = msgspec.msgpack.decode(data[4:], type=tuple[str, bytes])
            body = msgspec.msgpack.decode(content)
            request = {column.name: column for column in map(_unpack, body["request"])}
            comoments = None
            if body["comoments"] is not None:
                n, mean, c = body["comoments"]
                means = np.frombuffer(mean)
                comoments = CoMoments(n, means, np.frombuffer(c).reshape(len(means), len(means)))
            samples = {source: _unpacked_sample(*packed) for source, packed in body["samples"].items()}
            response = {column.name: column for column in map(_unpack, body["response"])}
            score = {column.name: column for column in map(_unpack, body["score"])}
            whole: dict[Table, dict[str, ColumnSummary]] = {"request": request, "response": response, "score": score}
            return cls(
                model=body["model"],
                model_version=body["modelVersion"],
                rows=body["rows"],
                request=with_sample(request, samples.get("request")),
                response=with_sample(response, samples.get("response")),
                comoments=comoments,
                score=score,
                models={
                    key: {name: np.frombuffer(data).reshape(shape) for name, (shape, data) in model.items()}
                    for key, model in body["models"].items()
                },
                samples=samples,
                segments={name: _unpack_part(part, whole) for name, part in body["segments"]},
                performance=body["performance"],
                created=created,
            )
        except (msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
            msg = f"these {len(data)} bytes are not a whole baseline: {error}"
            raise SummaryFormatError(msg) from None


def plan_of(known: dict[str, ColumnSummary], schema: Schema, *, percentiles: bool, comoments: bool) -> Plan:
    """The plan that counts a schema's columns on the rulers of these summaries."""
    numeric = [known.get(column.name) for column in schema.numeric]
    return Plan(
        numeric=tuple(column.name for column in schema.numeric),
        categorical=tuple(column.name for column in schema.categorical),
        rulers=tuple(
            Ruler(np.zeros(1)) if column is None or column.ruler is None else column.ruler for column in numeric
        ),
        discrete={
            j: frozenset(column.counts)  # type: ignore[arg-type] # floats, because the column is numeric
            for j, column in enumerate(numeric)
            if column is not None and column.counts is not None
        },
        listed=tuple(_listed(column, known.get(column.name)) for column in schema.categorical),
        percentiles=percentiles,
        comoments=comoments and len(numeric) > 1,
    )


def _listed(column: Column, known: ColumnSummary | None) -> frozenset[str]:
    declared = frozenset(column.categories or ())
    seen = frozenset(known.counts) if known is not None and known.counts is not None else frozenset()
    return declared | seen  # type: ignore[operator] # strings, because the column is categorical


_ARRAYS = {"values": np.float64, "bins": np.int64, "sums": np.float64}


def _unpacked_sample(size: int, keys: bytes, numeric: bytes, categorical: list[list[str | None]]) -> RowSample:
    rows = len(keys) // np.dtype(np.uint64).itemsize
    return RowSample.unpacked(size, len(numeric) // 8 // rows if rows else 0, keys, numeric, categorical)


def with_sample(columns: dict[str, ColumnSummary], sample: RowSample | None) -> dict[str, ColumnSummary]:
    """The numeric columns that do not have every value get those of the sampled rows."""
    if sample is None:
        return columns
    numeric = [name for name, column in columns.items() if column.type == "numeric"]
    return columns | {
        name: replace(columns[name], sample=sample.values(j))
        for j, name in enumerate(numeric)
        if columns[name].values is None
    }


def _pack(column: ColumnSummary) -> dict[str, Any]:
    packed = {f.name: getattr(column, f.name) for f in fields(column) if f.name != "sample"}
    packed["ruler"] = None if column.ruler is None else column.ruler.marks.tobytes()
    for name in _ARRAYS:
        if packed[name] is not None:
            packed[name] = packed[name].tobytes()
    if packed["counts"] is not None:
        packed["counts"] = sorted(packed["counts"].items())
    return packed


def _pack_part(part: Part) -> tuple[Any, ...]:
    """Without the rulers, which are those of the whole, and without what the values tell."""
    tables: dict[str, list[dict[str, Any]]] = {"request": [], "response": [], "score": []}
    for table, columns in tables.items():
        for column in part.columns(cast("Table", table)).values():
            bare = replace(column, ruler=None)
            if column.values is not None:
                bare = replace(bare, bins=None, sums=None)
            columns.append(_pack(bare) | {"sample": None if column.sample is None else column.sample.tobytes()})
    return part.rows, tables, part.performance, part.apart


def _unpack_part(packed: Any, whole: dict[Table, dict[str, ColumnSummary]]) -> Part:
    rows, tables, performance, apart = packed
    columns: dict[str, dict[str, ColumnSummary]] = {}
    for table, of_whole in whole.items():
        columns[table] = {}
        for each in tables[table]:
            sample = each.pop("sample")
            column = replace(_unpack(each), sample=None if sample is None else np.frombuffer(sample))
            ruler = of_whole[column.name].ruler
            if ruler is not None:
                column = replace(column, ruler=ruler)
                if column.values is not None:
                    bins, places = ruler.tally(column.values)
                    column = replace(column, bins=bins, sums=ruler.sums(bins, places))
            columns[table][column.name] = column
    return Part(rows, **columns, performance=performance, apart=None if apart is None else tuple(apart))


def _unpack(packed: dict[str, Any]) -> ColumnSummary:
    if packed["ruler"] is not None:
        packed["ruler"] = Ruler(np.frombuffer(packed["ruler"]))
    for name, kind in _ARRAYS.items():
        if packed[name] is not None:
            packed[name] = np.frombuffer(packed[name], kind)
    if packed["counts"] is not None:
        packed["counts"] = dict(packed["counts"])
    return ColumnSummary(**packed)
