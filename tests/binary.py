"""V2 bodies in the binary tensor extension, written by hand."""

import json
import struct

import numpy as np

DTYPES = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


def packed(datatype: str, values: list) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in values)
    return np.array(values, DTYPES[datatype]).tobytes()


def body(tensors: list[dict], key: str = "inputs", *, gap: bytes = b"", **more) -> bytes:
    """A body whose tensors with `values` are binary."""
    listed, rest = [], b""
    for tensor in tensors:
        tensor = dict(tensor)  # noqa: PLW2901
        if "values" in tensor:
            data = packed(tensor["datatype"], tensor.pop("values"))
            tensor["parameters"] = {"binary_data_size": len(data), **tensor.get("parameters", {})}
            rest += data
        listed.append(tensor)
    return json.dumps({key: listed, **more}).encode() + gap + rest


def tensor(name: str, datatype: str, shape: list[int], values: list) -> dict:
    return {"name": name, "datatype": datatype, "shape": shape, "values": values}
