"""Loops over single values, compiled: for what numpy can only do in many passes over memory, or by sorting.

Numba compiles them at the first call and keeps the result on disk, beside this file or, where that may not be written, in the
user's cache (``NUMBA_CACHE_DIR`` names another place). Without Numba, or without any place to keep the result, `HERE` is False
and the callers take numpy's way: slower, with the same whole numbers to the bit.

Callers import this module when they first have values to count, for it takes Numba a quarter of a second to start, and 60 MB.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])

try:
    import numba
except ImportError:
    HERE = False
else:
    HERE = True


def compiled(*, reordering: bool = False) -> Callable[[F], F]:
    """Compile a function when it is first called; where nothing can be compiled, leave it as it is. Other threads run meanwhile.

    Parameters
    ----------
    reordering
        Whether sums may be added up in any order, so that several values are added at a time.
    """

    def decorate(function: F) -> F:
        global HERE  # noqa: PLW0603 - whether there is a place is known when the first function is decorated
        if not HERE:
            return function
        allowed = {"reassoc", "nsz"} if reordering else False
        try:
            made: F = numba.njit(function, cache=True, error_model="numpy", fastmath=allowed, nogil=True)
        except RuntimeError:  # no place: compiling anew in every worker would delay its first batch by seconds
            HERE = False
            return function
        return made

    return decorate


def ascending(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values in order: as they are where they are so already, which is asked for a tenth of the time of sorting."""
    return values if bool((values[1:] >= values[:-1]).all()) else np.sort(values)


@compiled()
def tally(
    values: NDArray[np.float64],
    marks: NDArray[np.float64],
    guesses: NDArray[np.int32],
    first: float,
    scale: float,
    first_bits: int,
    shift: int,
    origin: NDArray[np.float64],
    unit: NDArray[np.float64],
    furthest: float,
    counts: NDArray[np.int64],
    places: NDArray[np.int64],
) -> None:
    """Add values to the counts and places of their bins: what `Ruler.tally` does with sorted ones.

    Parameters
    ----------
    values
        (n,) finite, in any order.
    marks
        Of the ruler, and infinity behind them.
    guesses
        (cells + 1,) how many marks lie in earlier cells. Cells are equal, the first of them at `first` and `scale` of them a unit; or, where
        `shift` is not negative, they are equal in the bits of the floats, so that they widen as heavy tails do: the first at `first_bits`,
        2^shift of the least bits in each.
    """
    # Indices are unsigned, since for signed ones each access asks whether they count from the end: three times the time of all this.
    most = float(len(guesses) - 2)
    last = np.int64(len(guesses) - 2)
    bits = values.view(np.int64)
    for i in range(len(values)):
        value = values[i]
        if shift < 0:
            cell = np.uint64(min(max((value - first) * scale, 0.0), most))
        else:  # the bits of negative floats are negative numbers
            cell = np.uint64(min((max(bits[i], first_bits) - first_bits) >> shift, last))
        at = np.uint64(guesses[cell])
        left = np.uint64(guesses[cell + np.uint64(1)]) - at
        # Added, not branched on: no processor can guess these. How often this is done depends on the cell alone, which can be guessed.
        while left > 2:
            half = left >> np.uint64(1)
            at += half * np.uint64(marks[at + half - np.uint64(1)] < value)
            left -= half
        at += np.uint64(marks[at] < value)
        at += np.uint64(marks[at] < value)
        counts[at] += 1
        places[at] += np.int64(min(max(np.rint((value - origin[at]) / unit[at]), 0.0), furthest))


@compiled()
def hashes_below(values: NDArray[np.float64], limit: np.uint64, found: NDArray[np.uint64]) -> int:
    """Put the hashes of the values that are below the limit into a hash table, each once.

    A hash is that of `sample.mixed`, and of zero for both zeros. Returns how many there are, and -1 when the table became half full
    or when one of them is zero, which marks an empty slot.

    Parameters
    ----------
    values
        (n,) finite, in any order.
    found
        (a power of two,) zeros.
    """
    count = 0
    bits = values.view(np.uint64)
    mask = np.uint64(len(found) - 1)
    for i in range(len(bits)):
        x = bits[i]
        if x == np.uint64(0x8000000000000000):
            x = np.uint64(0)
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
        if x < limit:
            slot = x & mask
            while found[slot] != 0 and found[slot] != x:
                slot = (slot + np.uint64(1)) & mask
            if found[slot] == 0:
                if x == 0 or 2 * count >= len(found):
                    return -1
                found[slot] = x
                count += 1
    return count


@compiled(reordering=True)
def powers(values: NDArray[np.float64], mean: float) -> tuple[float, float, float]:
    """The sums of the second, third and fourth powers of the values' distances to their mean."""
    m2 = m3 = m4 = 0.0
    for value in values:
        d = value - mean
        square = d * d
        m2 += square
        m3 += square * d
        m4 += square * square
    return m2, m3, m4
