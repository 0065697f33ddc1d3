"""Which segment each row of a batch is in."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detectors.statistics.block import Block
from reference.schema import Schema
from reference.segments import Division
from streaming.headers import header_column


class Segmentation:
    """Puts the rows of batches into segments; the same rows into the same ones in every worker and run.

    Parameters
    ----------
    divisions
        What `Segments.divisions` makes of the ModelMonitor and the baseline's features.
    features
        The columns of the blocks, when they are requests; None for responses, which headers only tell apart.
    """

    def __init__(self, divisions: Sequence[Division], features: Schema | None) -> None:
        names = [] if features is None else [column.name for column in features.categorical]
        self._divisions = [
            (division, None if division.by.feature is None else names.index(division.by.feature))
            for division in divisions
            if division.by.feature is None or division.by.feature in names
        ]

    def names(self) -> list[str]:
        """Of all segments there can be, entry by entry."""
        return [name for division, _ in self._divisions for name in division.names]

    def of(
        self, block: Block, headers: pa.ListArray | None, message: NDArray[np.int64]
    ) -> list[tuple[NDArray[np.int32], tuple[str, ...]]]:
        """For each entry the (rows,) place of every row's segment among the entry's names, and those names.

        Parameters
        ----------
        headers
            Of the messages of the batch; None where no message has any.
        message
            (rows,) which message of the batch each row came in.
        """
        found = []
        for division, column in self._divisions:
            if column is not None:
                places = division.places(block.categorical[column], block.rows)
            else:
                said = header_column(headers, division.by.header or "", division.by.member)
                places = division.places(None if said is None else said.take(message), block.rows)
            found.append((places, division.names))
        return found

    def of_answers(
        self,
        headers: pa.ListArray | None,
        message: NDArray[np.int64],
        request: NDArray[np.int64],
        asked: list[tuple[NDArray[np.int32], tuple[str, ...]]],
    ) -> list[tuple[NDArray[np.int32], tuple[str, ...]]]:
        """The same for responses, which have no features: each is where its request is, or where its own header says.

        The place is -1 while the request is not known.

        Parameters
        ----------
        headers, message
            As in `of`.
        request
            (rows,) which row of the requests each answers; -1 where it is not among them.
        asked
            What `of` says of the requests.
        """
        found = []
        for (division, column), (of_requests, names) in zip(self._divisions, asked, strict=True):
            places = np.append(of_requests, np.int32(-1))[request]
            said = None if column is not None else header_column(headers, division.by.header or "", division.by.member)
            if said is not None:
                own = said.take(message)
                places = np.where(own.codes >= 0, division.places(own, len(message)), places)
            found.append((places, names))
        return found
