"""The binary tensor extension of V2: a JSON object, and behind it the bytes of its tensors, one after the other.

HTTP says in the header `inference-header-content-length` where the JSON ends. KServe's logger does not pass that header
on, except inside `ce-metadata` when it is told to, and then the response carries the request's; so it is not asked. The body says
it itself: the sizes of its tensors are in the JSON, and they must come out even.
"""

import json
import math
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from streaming.protocol import Reason, Refused, parse_json, shown

SIZE = "binary_data_size"
"""The parameter of a tensor that says how many bytes of the rest are its own."""
_LISTS = ("inputs", "outputs")
_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("u1"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
}
_MOST_DIMENSIONS = 32
# Only where the JSON ends is asked of it, so numbers need not be made.
_scanner = json.JSONDecoder(parse_int=lambda _: 0, parse_float=lambda _: 0)


def split(value: bytes) -> tuple[bytes, bytes]:
    """The JSON of a body, and what follows it; nothing follows in a body without binary tensors.

    Raises
    ------
    Refused
        As malformed: the body does not begin with a JSON object.
    """
    # Brackets, quotes and escapes are ASCII, so they stand in the same places when every byte is taken for a letter.
    start = len(value) - len(value.lstrip(b" \t\r\n"))
    try:
        _, end = _scanner.raw_decode(value[start:].decode("latin-1"))
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
        raise Refused(Reason.MALFORMED_JSON, f"not JSON: {why}") from None
    return value[: start + end], value[start + end :]


def parse_body(value: bytes) -> Any:
    """The JSON value of a body; tensors that are binary in it have their `data` as a flat list, as if they had come in JSON.

    Raises
    ------
    Refused
        As malformed when it is no JSON, else by what is wrong with a tensor.
    """
    if b'"' + SIZE.encode() + b'"' not in value:
        return parse_json(value)
    head, rest = split(value)
    body = parse_json(head)
    found = pieces(body, rest)
    if not found:
        return parse_json(value)
    for tensor, data in found:
        tensor["data"] = decoded(tensor, data)
    return body


def pieces(body: Any, rest: bytes) -> list[tuple[dict[str, Any], memoryview]]:
    """Each binary tensor of a body with its bytes; `rest` is what follows the JSON.

    Raises
    ------
    Refused
        The sizes of the tensors do not come out even.
    """
    found = list(tensors(body))
    if not found:
        return []
    sizes = [_size(tensor) for tensor in found]
    gap = len(rest) - sum(sizes)
    if gap < 0 or rest[:gap].strip(b" \t\r\n"):
        raise Refused(
            Reason.WRONG_ARITY,
            f"the binary tensors have {shown(sum(sizes))} bytes by their {SIZE}, and {len(rest)} bytes follow the JSON",
        )
    view = memoryview(rest)[gap:]
    ends = list(accumulate(sizes, initial=0))
    return [(tensor, view[start:end]) for tensor, (start, end) in zip(found, pairwise(ends), strict=True)]


def tensors(body: Any) -> Iterator[dict[str, Any]]:
    """The binary tensors of a body, in the order of their bytes."""
    if not isinstance(body, dict):
        return
    for key in _LISTS:
        listed = body.get(key)
        for tensor in listed if isinstance(listed, list) else ():
            if isinstance(tensor, dict) and isinstance(tensor.get("parameters"), dict) and SIZE in tensor["parameters"]:
                yield tensor


def _size(tensor: dict[str, Any]) -> int:
    size = tensor["parameters"][SIZE]
    name = shown(tensor.get("name"))
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Refused(Reason.WRONG_ARITY, f"tensor {name} has {SIZE} {shown(size)}: send a number of bytes")
    if tensor.get("data") is not None:
        raise Refused(Reason.WRONG_ARITY, f"tensor {name} has both data and {SIZE}: send one of them")
    return size


def decoded(tensor: dict[str, Any], data: memoryview) -> list[Any]:
    """The elements of a binary tensor, flat and row-major: numbers, booleans, or texts of a BYTES tensor.

    Raises
    ------
    Refused
        Its shape, datatype or bytes make no sense.
    """
    name, shape, datatype = shown(tensor.get("name")), tensor.get("shape"), tensor.get("datatype")
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_DIMENSIONS
        or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)
    ):
        raise Refused(
            Reason.WRONG_ARITY,
            f"tensor {name} has shape {shown(shape)}: send a list of at most {_MOST_DIMENSIONS} sizes",
        )
    count = math.prod(shape)
    if datatype == "BYTES":
        return _texts(name, data, count, shape)
    dtype = _DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise Refused(Reason.WRONG_TYPE, f"tensor {name} has datatype {shown(datatype)}, which is none")
    if len(data) != count * dtype.itemsize:
        raise Refused(
            Reason.WRONG_ARITY,
            f"tensor {name} has {len(data)} bytes, its shape {shown(shape)} of {datatype} has {shown(count * dtype.itemsize)}",
        )
    array = np.frombuffer(data, dtype)
    if datatype == "BOOL":
        if array.size and array.max() > 1:
            raise Refused(Reason.WRONG_TYPE, f"tensor {name} is BOOL and has a byte {array.max()}: send 0 or 1")
        array = array.astype(np.bool_)
    elif datatype == "BF16":  # the upper half of a float of 32 bits
        array = (array.astype(np.uint32) << 16).view(np.float32)
    values: list[Any] = array.tolist()
    return values


def _texts(name: str, data: memoryview, count: int, shape: list[int]) -> list[Any]:
    """The elements of a BYTES tensor: each its length in four bytes, then itself."""
    texts: list[Any] = []
    at, end = 0, len(data)
    while at + 4 <= end and len(texts) < count:
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        if at > end:
            break
        try:
            texts.append(str(data[start:at], "utf-8"))
        except UnicodeDecodeError:
            raise Refused(
                Reason.WRONG_TYPE, f"tensor {name}: element {len(texts)} is no text in UTF-8, as a category is"
            ) from None
    if at != end or len(texts) != count:
        raise Refused(
            Reason.WRONG_ARITY,
            f"tensor {name} has {len(texts)} whole elements in its {end} bytes, its shape {shown(shape)} says otherwise",
        )
    return texts
