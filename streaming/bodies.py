"""What one body means: V1 and V2 of KServe's protocols, and the values in them; the other half of `streaming.protocol`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reference.category import category
from reference.schema import Schema
from streaming.protocol import Kind, Reason, Refused, shown

Layout = Literal["rows", "scalars", "fixed"]

_BODY_KEYS: Mapping[Kind, tuple[str, str]] = {
    "request": ("instances", "inputs"),
    "response": ("predictions", "outputs"),
}
_DATATYPES = frozenset(
    "BOOL BYTES UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BF16".split()  # noqa: SIM905
)


def arranged(body: Any, kind: Kind, schema: Schema, protocol: str) -> tuple[list[Sequence[Any]], Layout]:
    """The JSON values of a body as rows in the order of the schema, and how the rows lay in it.

    The layout is `rows` for a list of lists and `scalars` for a list of values, which can be of any length without
    anything else in the body changing, else `fixed`.

    Raises
    ------
    Refused
        For a body without instances, or with some of another size.
    """
    v1, v2 = _BODY_KEYS[kind]
    rows: list[Sequence[Any]]
    layout: Layout
    if isinstance(body, dict) and protocol != "v2" and v1 in body:
        rows, layout = _arranged_v1(body[v1], v1, schema)
    elif isinstance(body, dict) and protocol != "v1" and v2 in body:
        rows, layout = _arranged_v2(body[v2], v2, schema), "fixed"
    else:
        wanted = {"v1": f"`{v1}`", "v2": f"`{v2}`"}.get(protocol, f"`{v1}` or `{v2}`")
        raise Refused(Reason.NO_INSTANCES, f"the body is no object with {wanted}, as a {kind} of this model has")
    if not rows:
        raise Refused(Reason.NO_INSTANCES, f"the body of the {kind} has an empty list of instances")
    return rows, layout


def _arranged_v1(instances: Any, key: str, schema: Schema) -> tuple[list[Sequence[Any]], Layout]:
    if not isinstance(instances, list):
        raise Refused(Reason.NO_INSTANCES, f"`{key}` is {shown(instances)}, not a list")
    width, lists, scalars = len(schema), 0, 0
    rows: list[Sequence[Any]] = []
    for index, instance in enumerate(instances):
        if isinstance(instance, list):
            if len(instance) != width:
                raise Refused(
                    Reason.WRONG_ARITY, f"instance {index} has {len(instance)} values, the model has {width} columns"
                )
            rows.append(instance)
            lists += 1
        elif isinstance(instance, dict):
            rows.append([instance.get(name) for name in schema.names])
        elif width == 1:
            rows.append([instance])
            scalars += 1
        else:
            raise Refused(
                Reason.WRONG_ARITY, f"instance {index} is {shown(instance)}, the model has {width} columns: send a list"
            )
    return rows, "rows" if lists == len(rows) else "scalars" if scalars == len(rows) else "fixed"


def _arranged_v2(tensors: Any, key: str, schema: Schema) -> list[Sequence[Any]]:
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise Refused(Reason.NO_INSTANCES, f"`{key}` is not a list of tensors")
    if not tensors:
        return []
    width = len(schema)
    known = {tensor.get("name"): tensor for tensor in tensors if tensor.get("name") in schema.names}
    if len(tensors) == 1 and (not known or width > 1):
        tensor = tensors[0]
        shape = _shape(tensor)
        if len(shape) == 2 and shape[1] == width:
            data = _flat(tensor, shape)
            return [data[start : start + width] for start in range(0, len(data), width)]
        if width == 1:
            known = {schema.names[0]: tensor}
    if not known:
        raise Refused(
            Reason.WRONG_ARITY,
            f"`{key}` has neither a tensor named like a column nor one of shape [n, {width}], for {width} columns",
        )
    columns: dict[Any, list[Any]] = {}
    rows = -1
    for name, tensor in known.items():
        shape = _shape(tensor)
        if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) or rows not in (-1, shape[0]):
            raise Refused(
                Reason.WRONG_ARITY,
                f"tensor {shown(name)} has shape {list(shape)}: a column has [n] or [n, 1], the same n in all",
            )
        rows = shape[0]
        columns[name] = _flat(tensor, shape)
    absent: list[Any] = [None] * rows
    return list(zip(*(columns.get(name, absent) for name in schema.names), strict=True))


def _shape(tensor: dict[str, Any]) -> tuple[int, ...]:
    shape = tensor.get("shape")
    name = shown(tensor.get("name"))
    if not isinstance(shape, list) or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape):
        raise Refused(Reason.WRONG_ARITY, f"tensor {name} has shape {shown(shape)}: send a list of sizes")
    if not isinstance(tensor.get("datatype"), str) or tensor["datatype"] not in _DATATYPES:
        raise Refused(Reason.WRONG_TYPE, f"tensor {name} has datatype {shown(tensor.get('datatype'))}, which is none")
    return tuple(shape)


def _flat(tensor: dict[str, Any], shape: tuple[int, ...]) -> list[Any]:
    """The data of a tensor, flat and row-major, whether it was nested or not."""
    data = tensor.get("data")
    name = shown(tensor.get("name"))
    if not isinstance(data, list):
        raise Refused(Reason.NO_INSTANCES, f"tensor {name} has neither a list of data nor binary_data_size")
    if len(shape) == 2 and len(data) == shape[0] and all(isinstance(row, list) for row in data):
        if any(len(row) != shape[1] for row in data):
            raise Refused(Reason.WRONG_ARITY, f"tensor {name} has rows that are not {shape[1]} long, as its shape says")
        data = [value for row in data for value in row]
    if len(data) != math.prod(shape):
        raise Refused(
            Reason.WRONG_ARITY, f"tensor {name} has {len(data)} values, its shape {list(shape)} says otherwise"
        )
    return data


# Values ---------------------------------------------------------------------------------------------------------------


def number(value: Any) -> float:
    """A value of a numeric column; the caller sees to None, which is missing.

    Raises
    ------
    TypeError
        For what is no number and no boolean.
    """
    if not isinstance(value, int | float):
        raise TypeError
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


@dataclass(frozen=True, slots=True)
class Wrong:
    """A value that its column cannot hold, kept as such."""

    shown: str
    """What was sent, shortened."""


def values(rows: list[Sequence[Any]], schema: Schema, *, keep_wrong: bool = False) -> list[list[Any]]:
    """The rows with every value as its column holds it: a float, a text, or None where missing.

    Parameters
    ----------
    keep_wrong
        Whether a value that does not fit stays as a `Wrong`.

    Raises
    ------
    Refused
        Naming the first instance and column whose value does not fit.
    """
    readers = [number if column.type == "numeric" else category for column in schema.columns]
    as_they_are = {float, type(None)} if not schema.categorical else set[type]()
    read = []
    for index, row in enumerate(rows):
        if as_they_are.issuperset(map(type, row)):
            read.append(list(row))
            continue
        try:
            read.append([None if cell is None else reader(cell) for reader, cell in zip(readers, row, strict=True)])
        except TypeError:
            if not keep_wrong:
                raise _wrong_type(index, row, schema) from None
            read.append([_or_wrong(reader, cell) for reader, cell in zip(readers, row, strict=True)])
    return read


def _or_wrong(reader: Callable[[Any], Any], cell: Any) -> Any:
    try:
        return None if cell is None else reader(cell)
    except TypeError:
        return Wrong(shown(cell))


def _wrong_type(index: int, row: Sequence[Any], schema: Schema) -> Refused:
    for column, cell in zip(schema.columns, row, strict=True):
        try:
            _ = None if cell is None else number(cell) if column.type == "numeric" else category(cell)
        except TypeError:
            what = "a number" if column.type == "numeric" else "a category"
            text = f"instance {index}: {shown(column.name)} is {shown(cell)}, not {what}"
            return Refused(Reason.WRONG_TYPE, text)
    raise AssertionError(index)
