"""Whole numbers in few bytes, and bytes that are read with care."""

from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.errors import SummaryFormatError

_WIDTHS = (1, 2, 4, 8)


def packed(counts: NDArray[np.int64]) -> tuple[int, bytes, bytes]:
    """Whole numbers that are not negative, in as few bytes each as the largest needs, and only those that are not 0 when that is shorter.

    Bytes of one number; positions (16 bits each; empty: all numbers follow); the numbers.
    """
    at = np.flatnonzero(counts)
    most = int(counts.max(initial=0))
    width = next(width for width in _WIDTHS if most < 1 << 8 * width)
    if len(counts) <= 1 << 16 and 0 < len(at) * (width + 2) < len(counts) * width:
        return width, at.astype("<u2").tobytes(), counts[at].astype(f"<u{width}").tobytes()
    return width, b"", counts.astype(f"<u{width}").tobytes()


def unpacked(data: tuple[int, bytes, bytes], size: int) -> NDArray[np.int64]:
    """(size,) what `packed` gave; raises SummaryFormatError when it is something else."""
    width, at, numbers = data
    try:
        found = np.frombuffer(numbers, f"<u{width}").astype(np.int64)
        if at:
            found, filled = np.zeros(size, np.int64), found
            found[np.frombuffer(at, "<u2")] = filled
    except (TypeError, ValueError, IndexError) as error:
        msg = f"these are no counts: {error}"
        raise SummaryFormatError(msg) from None
    if len(found) != size or found.min(initial=0) < 0:
        msg = f"these are {len(found)} counts, not {size} that are not negative"
        raise SummaryFormatError(msg)
    return found


P = TypeVar("P", bound=msgspec.Struct)


def decoded(data: bytes, magic: bytes, kind: type[P], what: str) -> P:
    """The body of a binary form; raises SummaryFormatError when it is none of this version."""
    if data[: len(magic)] != magic:
        msg = f"these bytes begin with {data[: len(magic)]!r}, {what} of this version begin with {magic!r}"
        raise SummaryFormatError(msg)
    try:
        return msgspec.msgpack.decode(memoryview(data)[len(magic) :], type=kind)
    except msgspec.MsgspecError as error:
        msg = f"these {len(data)} bytes are not {what}: {error}"
        raise SummaryFormatError(msg) from None
