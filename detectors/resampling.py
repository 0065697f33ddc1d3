"""Draws at random that come out the same on every worker: each is seeded by the data that it is about."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.errors import NotApplicable
from detectors.frequencies import Frequencies
from detectors.statistics.column import ColumnSummary

DRAWS = 1000
"""How many random tables or divisions a permutation test looks at; its p-value has a standard error of at most 0.016."""
MOST_COUNTED = 499_999_999
"""Values of one sample that a table of counts is made of at most: numpy deals out fewer than 1e9 at a time."""


def generator(*data: NDArray[Any]) -> np.random.Generator:
    """A generator whose seed is the content of some arrays."""
    digest = hashlib.blake2b(digest_size=16)
    for array in data:
        # Adding zero makes one of the two zeros.
        digest.update(str((array.dtype, array.shape)).encode() + (array + 0).tobytes())
    return np.random.default_rng(int.from_bytes(digest.digest(), "little"))


def dealt(reference: NDArray[np.int64], window: NDArray[np.int64]) -> NDArray[np.int64]:
    """The window's counts if chance alone had dealt all values out to reference and window.

    Multivariate hypergeometric: just what permuting the rows gives, without the rows.

    Parameters
    ----------
    reference, window
        (k,) counts of the same categories, at most `MOST_COUNTED` each.

    Returns
    -------
    counts
        (DRAWS, k)
    """
    return generator(reference, window).multivariate_hypergeometric(
        reference + window, int(window.sum()), size=DRAWS, method="marginals"
    )


def countable(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Counts as whole numbers, at most `MOST_COUNTED` together: more are all made smaller in proportion."""
    total = counts.sum()
    return np.floor(counts * (MOST_COUNTED / total) if total > MOST_COUNTED else counts).astype(np.int64)


def tables(both: Frequencies) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Counts of reference and window as whole numbers, and whether they are all of them."""
    old, new = countable(both.reference), countable(both.window)
    return old, new, both.exact and bool(old.sum() == both.reference.sum() and new.sum() == both.window.sum())


def some_values(column: ColumnSummary, most: int) -> tuple[NDArray[np.float64], bool]:
    """At most so many values of a numeric column, drawn at random without replacement.

    Returns
    -------
    values
        Sorted ascending; none where every row of the sample lacks this column.
    whole
        Whether these are all values of the column.

    Raises
    ------
    NotApplicable
        When the column has neither its values nor a sample of them.
    """
    known = column.sample if column.values is None else column.values
    if known is None:
        msg = f"column {column.name!r} has neither its values nor a sample of them: keep a sample of the window's rows"
        raise NotApplicable(msg)
    if len(known) > most:
        known = np.sort(generator(known).choice(known, most, replace=False, shuffle=False))
    return known, len(known) == column.count
