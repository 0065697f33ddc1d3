"""Rows of mixed types as numbers that can be compared: in units of the reference, texts as hashes."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from detectors.statistics.block import Block, Codes
from detectors.statistics.sample import RowSample, hash_of

NO_TEXT = 0
"""Stands for a missing category."""
_NORMAL_IQR = 1.349
"""Interquartile range of a normal distribution of standard deviation 1."""
_SMALLEST = 1e-300
_hash = lru_cache(maxsize=1 << 16)(hash_of)


@dataclass(frozen=True)
class Units:
    """Where each numeric column has its middle and how wide it is in the reference."""

    centre: NDArray[np.float64]
    """(columns,) the (lower) median, so a value that does occur."""
    spread: NDArray[np.float64]
    """(columns,) the smaller of standard deviation and interquartile range / 1.349 where that is not 0, so that a few far-out
    values do not widen it; 1 where both are 0."""

    @classmethod
    def of(cls, reference: RowSample) -> "Units":
        """Of the rows of a reference."""
        pairs = [_middle(reference.values(j)) for j in range(reference.numeric.shape[1])]
        return cls(np.array([centre for centre, _ in pairs]), np.array([spread for _, spread in pairs]))

    def standardised(self, numeric: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
        """(rows, columns) in spreads from the centre, within +-limit; NaN where missing or not a number."""
        with np.errstate(over="ignore"):
            z: NDArray[np.float64] = np.clip((numeric - self.centre) / self.spread, -limit, limit)
        return z


def _middle(ordered: NDArray[np.float64]) -> tuple[float, float]:
    if len(ordered) == 0:
        return 0.0, 1.0
    last = len(ordered) - 1
    low, middle, high = ordered[[last // 4, last // 2, (3 * last + 3) // 4]]
    with np.errstate(over="ignore", invalid="ignore"):
        spreads = np.array([np.std(ordered), (high - low) / _NORMAL_IQR])
    usable = spreads[np.isfinite(spreads) & (spreads > 0)]
    return float(middle), max(float(np.min(usable, initial=np.inf)), _SMALLEST) if len(usable) else 1.0


def hashes(column: Codes, rows: NDArray[np.int64] | slice) -> NDArray[np.uint64]:
    """The hashed categories of some rows."""
    codes = column.codes[rows]
    if isinstance(rows, slice) and len(column.values) <= len(codes):  # a pane may use few of a batch's categories
        of_value = [_hash(value) for value in column.values]
        return np.array([*of_value, NO_TEXT], np.uint64)[codes]
    used, where = np.unique(codes, return_inverse=True)
    of_value = [NO_TEXT if code < 0 else _hash(column.values[code]) for code in used.tolist()]
    return np.array(of_value, np.uint64)[where]


def block_of(sample: RowSample) -> Block:
    """The rows of a sample as a batch."""
    columns = []
    for texts in sample.categorical:
        values = tuple(sorted({text for text in texts if text is not None}))
        place: dict[str | None, int] = {text: i for i, text in enumerate(values)}
        columns.append(Codes(np.array([place.get(text, -1) for text in texts], np.int32), values))
    return Block(sample.numeric, np.isnan(sample.numeric), tuple(columns), sample.keys)
