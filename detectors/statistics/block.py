"""A batch of instances in columns: what every statistic and every outlier detector is given."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Codes:
    """One categorical column, dictionary-encoded."""

    codes: NDArray[np.int32]
    """(rows,) index into `values`; -1 where the value is missing."""
    values: tuple[str, ...]
    """The distinct categories that `codes` points at; a value may be listed without being used."""

    def take(self, rows: NDArray[np.int64] | slice) -> "Codes":
        """The codes of some of the rows."""
        return Codes(self.codes[rows], self.values)


@dataclass(frozen=True, slots=True)
class Block:
    """``rows`` instances by columns; the order of the columns is the order of the model's schema, by type."""

    numeric: NDArray[np.float64]
    """(rows, numeric columns). NaN where missing; NaN or infinite where the value itself was."""
    missing: NDArray[np.bool_]
    """(rows, numeric columns). True where there was no value (JSON ``null``, an absent key)."""
    categorical: tuple[Codes, ...] = ()
    keys: NDArray[np.uint64] | None = None
    """(rows,) hash of where each row comes from, by which a sample is drawn; None: of what it holds."""
    wrong: NDArray[np.bool_] | None = None
    """(rows, columns, the numeric ones first) True where the value had the wrong type, for example text in a numeric column, so
    that it counts as missing; None when there is no such value."""

    @property
    def rows(self) -> int:
        """How many instances."""
        return len(self.numeric)

    def take(self, rows: NDArray[np.int64] | slice) -> "Block":
        """The block of some of the rows (a view for a slice)."""
        return Block(
            self.numeric[rows],
            self.missing[rows],
            tuple(column.take(rows) for column in self.categorical),
            None if self.keys is None else self.keys[rows],
            None if self.wrong is None else self.wrong[rows],
        )
