"""A uniform sample of rows that adds: the rows whose keys are smallest."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.statistics.block import Block, Codes

MISSING = -1


@dataclass(frozen=True, slots=True)
class RowSample:
    """At most `size` rows, those with the smallest keys (bottom-k): a uniform sample without replacement.

    Keys are hashes of where a row comes from, so that the sample is the same however the rows were partitioned and
    in whatever order they came, and again after a crash. While there are at most `size` rows it is all of them.

    References
    ----------
    Cohen & Kaplan (2007), Summarizing data using bottom-k sketches, PODC.
    """

    size: int
    keys: NDArray[np.uint64]
    """(k,) ascending."""
    numeric: NDArray[np.float64]
    """(k, numeric columns), C order. NaN where missing; NaN or infinite where the value itself was."""
    categorical: tuple[tuple[str | None, ...], ...] = ()
    """For each categorical column its k values; None where missing."""

    @classmethod
    def empty(cls, size: int, numeric: int, categorical: int) -> "RowSample":
        """Of no rows: the neutral element of `+`."""
        return cls(size, np.empty(0, np.uint64), np.empty((0, numeric)), ((),) * categorical)

    @classmethod
    def of(cls, block: Block, size: int) -> "RowSample":
        """Of one batch, by its keys."""
        keys = block.keys if block.keys is not None else content_keys(block)
        if len(keys) > size:
            rows = np.argpartition(keys, size - 1)[:size] if size else np.empty(0, np.int64)
            rows = rows[np.argsort(keys[rows], kind="stable")]
        else:
            rows = np.argsort(keys, kind="stable")
        return cls(
            size,
            keys[rows],
            np.ascontiguousarray(block.numeric[rows]),
            tuple(_texts(column, rows) for column in block.categorical),
        )

    @property
    def rows(self) -> int:
        """How many rows the sample holds."""
        return len(self.keys)

    def __add__(self, other: "RowSample") -> "RowSample":
        size = min(self.size, other.size)
        keys = np.concatenate((self.keys, other.keys))
        rows = np.argsort(keys, kind="stable")[:size]
        return RowSample(
            size,
            keys[rows],
            np.concatenate((self.numeric, other.numeric))[rows],
            tuple(
                tuple(map((*a, *b).__getitem__, rows.tolist()))
                for a, b in zip(self.categorical, other.categorical, strict=True)
            ),
        )

    def values(self, column: int) -> NDArray[np.float64]:
        """(m <= k,) the finite values of a numeric column, sorted ascending."""
        values = self.numeric[:, column]
        return np.sort(values[np.isfinite(values)])

    def packed(self) -> tuple[bytes, bytes, list[list[str | None]]]:
        """Keys, numbers and texts as MessagePack takes them."""
        return self.keys.tobytes(), self.numeric.tobytes(), [list(column) for column in self.categorical]

    @classmethod
    def unpacked(
        cls, size: int, columns: int, keys: bytes, numeric: bytes, categorical: list[list[str | None]]
    ) -> "RowSample":
        """What `packed` gave; raises ValueError when the parts do not fit one another."""
        of_rows = np.frombuffer(keys, np.uint64)
        return cls(size, of_rows, np.frombuffer(numeric).reshape(len(of_rows), columns), tuple(map(tuple, categorical)))


def _texts(column: Codes, rows: NDArray[np.int64]) -> tuple[str | None, ...]:
    return tuple(None if code == MISSING else column.values[code] for code in column.codes[rows].tolist())


def mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash of each of some whole numbers; neighbours get unrelated ones.

    References
    ----------
    Steele, Lea & Flood (2014), Fast splittable pseudorandom number generators, OOPSLA: the finaliser of SplitMix64.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    # In place: fresh arrays would take twice as long as the arithmetic.
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(x, np.uint64(27), out=shifted)
    x ^= shifted
    x *= np.uint64(0x94D049BB133111EB)
    np.right_shift(x, np.uint64(31), out=shifted)
    x ^= shifted
    return x


def content_keys(block: Block) -> NDArray[np.uint64]:
    """(rows,) keys of rows that have no place of their own: hashes of what they hold, so equal rows have equal keys."""
    keys = np.zeros(block.rows, np.uint64)
    for j in range(block.numeric.shape[1]):
        # Adding zero makes one of the two zeros.
        keys = mixed(keys ^ mixed(np.ascontiguousarray(block.numeric[:, j] + 0.0).view(np.uint64)))
    for column in block.categorical:
        of_value = np.array(
            [*map(hash_of, column.values), 0], np.uint64
        )  # the last for the missing, which have code -1
        keys = mixed(keys ^ of_value[column.codes])
    return keys


def hash_of(text: str) -> int:
    """64 bits of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
