"""Learning a skeleton (`streaming.skeletons`) from one message that the reference reading has understood."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from reference.schema import Schema
from streaming.bodies import Layout
from streaming.positions import Span
from streaming.protocol import Kind
from streaming.skeletons import Hole, Role, Shape, Skeleton

_MOST_HOLES = 300
_STRUCTURAL = frozenset(
    "type specversion payload data data_base64 inferenceservicename name shape datatype".split()  # noqa: SIM905
)


def skeleton(sample: bytes, parsed: Any, found: "Found", kind: Kind, schema: Schema) -> Skeleton | None:
    """The skeleton of a message, or None where it has none that would be sound or worth it.

    `parsed` is what `positions` made of the sample, and `found` what `streaming.protocol` found in it.
    """
    holes: list[tuple[Span, Hole]] = []
    outer: list[tuple[Any, Role]] = [(found.id, "id"), (found.time, found.time_role)]
    for value, role in outer:
        if value is None:
            continue
        span = getattr(value, "span", None)
        if span is None:
            return None
        holes.append((span, Hole(role)))
    cells: list[tuple[Span, tuple[int, int]]] = []
    for instance, row in enumerate(found.rows):
        for column, value in enumerate(row):
            if value is None:
                continue  # an absent key
            span = getattr(value, "token", None)
            if span is None:
                return None
            cells.append((span, (instance, column)))
    run = _run(sample, cells, found, len(schema))
    if run is not None:
        holes.append((run[0], Hole("rows")))
    else:
        holes += [(span, Hole("cell", cell)) for span, cell in cells]
    taken = {span for span, _ in cells} | {span for span, _ in holes}
    holes += [(span, Hole(role)) for span, role in _ignored(parsed, None, lists=not cells) if span not in taken]
    holes.sort(key=lambda one: one[0])
    if not holes or len(holes) > _MOST_HOLES or any(a[0][1] >= b[0][0] for a, b in pairwise(holes)):
        return None
    cuts = [0, *(edge for span, _ in holes for edge in span), len(sample)]
    literals = tuple(sample[a:b] for a, b in zip(cuts[::2], cuts[1::2], strict=True))
    free = run is not None and found.layout != "fixed"
    instances = 0 if free else len(found.rows)
    return Skeleton(
        Shape(kind, literals, tuple(hole for _, hole in holes), instances, run is not None and run[1]), schema
    )


@dataclass(frozen=True, slots=True)
class Found:
    """What the reference reading found in a sample whose values know their positions."""

    id: Any
    """None where the id is not in the value."""
    time: Any
    """None where the time is not in the value."""
    time_role: Role
    rows: list[Sequence[Any]]
    layout: Layout


def _run(
    sample: bytes, cells: list[tuple[Span, tuple[int, int]]], found: Found, width: int
) -> tuple[Span, bool] | None:
    """The stretch that holds all cells row by row, and whether rows are in brackets; None where there is none."""
    if not cells or len(cells) != len(found.rows) * width:
        return None
    between = {(b[1][1] == 0, sample[a[0][1] : b[0][0]].replace(b", ", b",")) for a, b in pairwise(cells)}
    begin, end = cells[0][0][0], cells[-1][0][1]
    nested = found.layout == "rows" or (found.layout == "fixed" and (True, b"],[") in between)
    if nested:
        fits = between <= {(False, b","), (True, b"],[")}
        fits = fits and sample[begin - 1 : begin] == b"[" and sample[end : end + 1] == b"]"
        return ((begin - 1, end + 1), True) if fits else None
    if found.layout == "fixed" and len(cells) == 1:
        return None
    return ((begin, end), False) if between <= {(False, b","), (True, b",")} else None


def _ignored(value: Any, key: str | None, *, lists: bool) -> Iterator[tuple[Span, Role]]:
    """Scalars under keys that nobody asks for (and in `lists`), which may differ from message to message."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _ignored(inner, name, lists=lists)
    elif isinstance(value, list):
        for inner in value:
            if lists or isinstance(inner, dict | list):
                yield from _ignored(inner, "", lists=lists)
    elif key is not None and key not in _STRUCTURAL and getattr(value, "span", None) is not None:
        yield value.span, "text" if isinstance(value, str) else "number"
