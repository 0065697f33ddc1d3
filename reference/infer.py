"""A draft of a model's features from its training data, for a person to review.

What can be seen in the data is written down: types, natural bounds, categories, how much is missing. What cannot be known is asked in a
comment, by rules that are simple enough to be checked at a glance:

- Numbers are numeric, text and booleans are categorical. Integers with at most 20 values may be codes: they stay numeric, with a remark.
- Text or integers of which 99 % occur once (of 100 rows at least) name the row: an id, left out.
- A bound is one only where the data suggests it by its nature: 0 for what is never negative, 1 besides for fractions. The observed range
  is a remark, for as a bound it would call every new record an outlier.
- Categories are listed while they are at most 50.
- Times, nested values and columns without any value are left out; so are constant ones, which cannot drift but by becoming something else.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from reference.errors import UnusableData
from reference.executor import Executor, Threads
from reference.look import Categories, Looker
from reference.schema import Column, Schema
from reference.source import Source

FEW_INTEGERS = 20
MOST_CATEGORIES = 50
_SAMPLED = 20_000
_FEWEST_ROWS = 100
_UNIQUE = 0.99
_THREADS = Threads()


@dataclass(frozen=True)
class Inferred:
    """What is seen of one column."""

    name: str
    kind: str
    """Arrow's name of its type."""
    column: Column | None
    """The proposed feature; None: it is left out."""
    missing: float
    """Share of the rows."""
    distinct: int | None
    """Exact below 65,536; None where it was not counted."""
    low: float | None
    high: float | None
    remarks: tuple[str, ...] = ()
    """What a person should decide or know."""


@dataclass(frozen=True)
class Draft:
    """A draft of `model.features`."""

    rows: int
    columns: tuple[Inferred, ...] = field(default=())

    def to_json(self) -> list[dict[str, Any]]:
        """One object a column, for tables and other programs."""
        return [
            {
                "column": one.name,
                "type": None if one.column is None else one.column.type,
                "arrowType": one.kind,
                "missing": one.missing,
                "distinct": one.distinct,
                "min": one.low,
                "max": one.high,
                "categories": None if one.column is None or one.column.categories is None else [*one.column.categories],
                "remarks": [*one.remarks],
            }
            for one in self.columns
        ]

    def to_yaml(self) -> str:
        """The section of a ModelMonitor, with remarks as comments; what is left out is commented out.

        Examples
        --------
        >>> from reference.source import source_of_table
        >>> table = pa.table({"age": [1.5, 2.5, None], "city": ["Oslo", "Rome", "Oslo"]})
        >>> print(infer(source_of_table(table)).to_yaml(), end="")
        # Drafted from 3 rows. Review the types, bounds and categories.
        model:
          features:
          - {name: "age", type: numeric, min: 0}  # from 1.5 to 2.5; 33.3 % missing
          - {name: "city", type: categorical, categories: ["Oslo", "Rome"]}
        """
        lines = [
            f"# Drafted from {self.rows:,} rows. Review the types, bounds and categories.",
            "model:",
            "  features:",
        ]
        lines += [_line(one) for one in self.columns]
        if not any(one.column for one in self.columns):
            lines.append("  []  # no column can be a feature")
        return "\n".join(lines) + "\n"


def infer(source: Source, progress: Callable[[float], None] = lambda _: None, executor: Executor = _THREADS) -> Draft:
    """The draft of a model's features, from one pass over its training data.

    Parameters
    ----------
    source
        All its columns are looked at; take out labels, predictions and weights afterwards.
    progress
        Told the share that is done, 0 to 1.

    Raises
    ------
    UnusableData
        When there are no rows.
    """
    wanted = []
    for one in source.schema:
        if _is_number(one.type):
            wanted.append(Column(name=one.name, type="numeric"))
        if _is_text(one.type) or pa.types.is_integer(one.type):
            wanted.append(Column(name=one.name, type="categorical"))
    schema = Schema(tuple(wanted))
    if not len(schema):
        msg = f"no column of the data can be a feature: it has {[f'{one.name} ({one.type})' for one in source.schema]}"
        raise UnusableData(msg)
    looker = Looker(schema, _SAMPLED)

    def told() -> Any:
        for done, look in enumerate(executor.run(looker, source.fragments), 1):
            yield look
            progress(done / len(source.fragments))

    look = looker.sum_of(told())
    if not look.rows:
        msg = "the data has no rows: a draft needs some"
        raise UnusableData(msg)
    numeric = [column.name for column in schema.numeric]
    counted = dict(zip((column.name for column in schema.categorical), look.categories, strict=True))
    found = []
    for one in source.schema:
        if _is_number(one.type):
            j = numeric.index(one.name)
            span = (float(look.low[j]), float(look.high[j]))
            sample = look.sample.table[one.name].combine_chunks()
            seen = counted.get(one.name)
            found.append(_number(one, span, int(look.missing[j]), look.rows, seen, sample))
        elif one.name in counted:
            found.append(_text(one, counted[one.name], look.rows))
        else:
            said = (
                "a time, not a feature: `reference.data.time` may name it"
                if pa.types.is_temporal(one.type)
                else "it is nested"
            )
            found.append(Inferred(one.name, str(one.type), None, 0.0, None, None, None, (said,)))
    return Draft(look.rows, tuple(found))


def _number(
    one: pa.Field, span: tuple[float, float], missing: int, rows: int, seen: Categories | None, sample: pa.Array
) -> Inferred:
    low, high = span
    empty = low > high
    share = missing / rows
    distinct = None if seen is None else seen.distinct
    if distinct is None:
        values = np.unique(sample.drop_null().to_numpy(zero_copy_only=False).astype(np.float64))
        values = values[np.isfinite(values)]
        distinct = len(values) if len(values) < len(sample) // 2 or rows <= len(sample) else None
    remarks = [] if empty else [f"from {low:.6g} to {high:.6g}"]
    column: Column | None = None
    if empty:
        remarks.append("no value is a finite number")
    elif low == high:
        remarks = [f"always {low:.6g}"]
    elif seen is not None and _is_id(seen, rows):
        remarks.append("an id: nearly every row has its own")
    else:
        least = 0.0 if low >= 0 else None
        fraction = not pa.types.is_integer(one.type) and low >= 0 and 0 < high <= 1
        column = Column(name=one.name, type="numeric", min=least, max=1.0 if fraction else None)
        if seen is not None and distinct is not None and distinct <= FEW_INTEGERS:
            remarks.append(f"only {distinct} values: make it categorical if they are codes")
    return Inferred(
        one.name,
        str(one.type),
        column,
        share,
        distinct,
        None if empty else low,
        None if empty else high,
        tuple(remarks),
    )


def _text(one: pa.Field, seen: Categories, rows: int) -> Inferred:
    remarks: list[str] = []
    column: Column | None = None
    texts = seen.values.to_pylist()
    if not seen.total:
        remarks.append("every value is missing")
    elif seen.distinct == 1 and seen.exact:
        remarks.append(f"always {texts[0]!r}")
    elif _is_id(seen, rows):
        remarks.append("an id: nearly every row has its own")
    else:
        listed = tuple(sorted(texts)) if seen.exact and len(texts) <= MOST_CATEGORIES else None
        column = Column(name=one.name, type="categorical", categories=listed)
        if listed is None:
            remarks.append(f"{seen.distinct:,} categories")
        if not pa.types.is_boolean(one.type) and texts and all(map(_reads_as_number, texts)):
            remarks.append("every text is a number: make it numeric if it measures something")
    return Inferred(one.name, str(one.type), column, seen.missing / rows, seen.distinct, None, None, tuple(remarks))


def _is_id(seen: Categories, rows: int) -> bool:
    return rows >= _FEWEST_ROWS and seen.total > 0 and seen.distinct >= _UNIQUE * seen.total


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts: tuple[Callable[[pa.DataType], bool], ...] = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_boolean,
    )
    return any(is_one(kind) for is_one in texts)


def _line(one: Inferred) -> str:
    entry = f"name: {_quoted(one.name)}"
    if one.column is not None:
        entry += f", type: {one.column.type}"
        for key, bound in (("min", one.column.min), ("max", one.column.max)):
            entry += "" if bound is None else f", {key}: {bound:g}"
        if one.column.categories is not None:
            entry += f", categories: [{', '.join(map(_quoted, one.column.categories))}]"
    remarks = list(one.remarks)
    if one.missing:
        remarks.append(f"{100 * one.missing:.3g} % missing")
    said = " ".join("; ".join(remarks).split())
    if one.column is None:
        return f"  # left out: {_quoted(one.name)} ({one.kind}): {said}"
    return f"  - {{{entry}}}" + (f"  # {said}" if said else "")


def _quoted(text: str) -> str:
    """As YAML reads it back, whatever it holds; on one line."""
    plain = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in plain)
