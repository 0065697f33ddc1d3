"""Rows of JSON numbers, read in one compiled pass over their bytes."""

import numpy as np
from numpy.typing import NDArray

from detectors.statistics.compiled import compiled

_LEAST, _MOST = -300, 288
"""Powers of ten with which numbers of up to 19 digits stay within the normal floats."""


def _power(exponent: int) -> tuple[int, int, int]:
    """The first 128 bits of a power of ten, rounded down, in two halves, and the binary exponent of their last bit."""
    if exponent >= 0:
        whole = 10**exponent
        shift = whole.bit_length() - 128
        bits = whole >> shift if shift >= 0 else whole << -shift
    else:
        whole = 10**-exponent
        shift = -(whole.bit_length() + 127)
        bits = (1 << -shift) // whole
        if bits >> 128:
            bits, shift = bits >> 1, shift + 1
    return bits >> 64, bits & (2**64 - 1), shift


_HIGH, _LOW, _SHIFT = (
    np.array(part, kind)
    for part, kind in zip(
        zip(*map(_power, range(_LEAST, _MOST + 1)), strict=True), (np.uint64, np.uint64, np.int64), strict=True
    )
)
_EXACT = 10.0 ** np.arange(23)
"""Powers of ten that are floats."""


@compiled()
def _times(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The 128 bits of a product, in two halves."""
    half = np.uint64(0xFFFFFFFF)
    n = np.uint64(32)
    a0, a1, b0, b1 = a & half, a >> n, b & half, b >> n
    low, left, right = a0 * b0, a1 * b0, a0 * b1
    middle = (low >> n) + (left & half) + (right & half)
    return a1 * b1 + (left >> n) + (right >> n) + (middle >> n), (middle << n) | (low & half)


@compiled()
def _float(digits: np.uint64, exponent: int | np.int64) -> float:
    """The float nearest to ``digits * 10**exponent``; NaN where that is not settled here.

    The product of the digits and the first 128 bits of the power is below the true one by less than two units of its own last of 128 bits.
    So the float is settled unless that little more could reach a tie or go beyond one.

    References
    ----------
    Lemire (2021), Number parsing at a gigabyte per second, Software: Practice and Experience 51(8).
    """
    if digits <= np.uint64(1 << 53) and -22 <= exponent <= 22:
        return float(digits / _EXACT[-exponent] if exponent < 0 else digits * _EXACT[exponent])
    if digits == 0:
        return 0.0
    if not _LEAST <= exponent <= _MOST:
        return np.nan
    shift = _SHIFT[exponent - _LEAST] + 64
    while digits < np.uint64(1 << 63):
        digits <<= np.uint64(1)
        shift -= 1
    high, low = _times(digits, _HIGH[exponent - _LEAST])
    more, _ = _times(digits, _LOW[exponent - _LEAST])
    low += more
    if low < more:
        high += np.uint64(1)
    if high < np.uint64(1 << 63):
        high = (high << np.uint64(1)) | (low >> np.uint64(63))
        low <<= np.uint64(1)
        shift -= 1
    rest = high & np.uint64(0x7FF)
    if low >= np.uint64(0xFFFFFFFFFFFFFFF0) or (rest == np.uint64(0x400) and low < np.uint64(16)):
        return np.nan
    kept = high >> np.uint64(11)
    if rest >= np.uint64(0x400):
        kept += np.uint64(1)
    biased = shift + 64 + 11 + 1075
    if not 0 < biased < 2046:
        return np.nan
    return float(kept * np.ldexp(1.0, shift + 64 + 11))


@compiled()
def rows(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    wanted: int,
    brackets: bool,
    found: NDArray[np.float64],
    lengths: NDArray[np.int64],
) -> None:
    """Read rows of plain JSON numbers, ``[1,2],[3,4]`` or ``1,2,3`` without brackets, a space allowed behind a comma.

    Parameters
    ----------
    data
        Behind each message stands a byte that is no digit, and no message reaches to the end.
    starts, ends
        (messages,) where the rows of each are.
    wanted
        How many rows each must have; 0 where it may be any number but none.
    found
        (columns, rows) gets the numbers of all messages that can be read, one message behind the other.
    lengths
        (messages,) gets the number of rows of each; -1 where anything else stands there, be it right or wrong.
    """
    width, most = found.shape
    filled = 0
    for k in range(len(starts)):
        at, end = np.uint64(starts[k]), np.uint64(ends[k])
        one = np.uint64(1)
        row = filled
        good: bool | np.bool_ = True
        while good:
            if row >= most:
                good = False
                break
            if brackets:
                good = data[at] == 91
                at += one
            for column in range(width):
                if not good:
                    break
                minus = data[at] == 45
                at += np.uint64(minus)
                begin = at
                digits = np.uint64(0)
                digit = np.uint64(data[at]) - np.uint64(48)
                while digit < 10:
                    digits = digits * np.uint64(10) + digit
                    at += one
                    digit = np.uint64(data[at]) - np.uint64(48)
                count = at - begin
                good = (count > 0) & ((count == 1) | (data[begin] != 48))
                exponent: int | np.int64 = 0
                if data[at] == 46:
                    at += one
                    dot = at
                    digit = np.uint64(data[at]) - np.uint64(48)
                    while digit < 10:
                        digits = digits * np.uint64(10) + digit
                        at += one
                        digit = np.uint64(data[at]) - np.uint64(48)
                    good &= at > dot
                    count += at - dot
                    exponent = -np.int64(at - dot)
                if data[at] | np.uint8(32) == 101:
                    at += one
                    less = data[at] == 45
                    if less or data[at] == 43:
                        at += one
                    mark = at
                    power: int | np.int64 = 0
                    digit = np.uint64(data[at]) - np.uint64(48)
                    while digit < 10:
                        power = power * 10 + np.int64(digit)
                        at += one
                        digit = np.uint64(data[at]) - np.uint64(48)
                    good &= (at > mark) & (at - mark < 5)
                    exponent += -power if less else power
                if count > 19:
                    while data[begin] == 48 or data[begin] == 46:
                        count -= data[begin] == 48
                        begin += one
                    good &= count <= 19  # more than 64 bits may hold
                value = _float(digits, exponent)
                if value != value:  # noqa: PLR0124 - that is what NaN is
                    good = False
                found[column, row] = -value if minus else value
                if column < width - 1:
                    good &= data[at] == 44
                    at += one
                    at += np.uint64(data[at] == 32)
            if brackets:
                good &= data[at] == 93
                at += one
            row += 1
            if at >= end:
                break
            good &= data[at] == 44
            at += one
            at += np.uint64(data[at] == 32)
        if good and at == end and (wanted == 0 or row - filled == wanted):
            lengths[k] = row - filled
            filled = row
        else:
            lengths[k] = -1
