"""The instances of a batch in columns, and how they come together."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.statistics.block import Block, Codes
from reference.schema import Schema
from streaming.bodies import Wrong
from streaming.skeletons import Matched
from streaming.tokens import Bools, Floats, Ints, Vocabulary


@dataclass(frozen=True, slots=True)
class Rows:
    """The instances of a batch, in columns; messages ascend, and instances within a message."""

    message: Ints
    """(instances,) index of the message in the batch."""
    instance: Ints
    """(instances,) index of the instance in its message."""
    block: Block
    wrong: dict[tuple[int, int], str] = field(default_factory=dict)
    """(row, column of the block) -> what was sent there, where the column cannot hold it."""

    def take(self, rows: Ints) -> "Rows":
        """Some of the rows, in ascending order."""
        wrong = self.wrong
        if wrong:
            places = {row: place for place, row in enumerate(rows.tolist())}
            wrong = {(places[row], column): text for (row, column), text in wrong.items() if row in places}
        return Rows(self.message[rows], self.instance[rows], self.block.take(rows), wrong)


@dataclass(slots=True)
class Pieces:
    """The rows of one kind, as they come in from skeletons and from the slow way."""

    schema: Schema
    words: list[Vocabulary] = field(default_factory=list)
    message: list[Ints] = field(default_factory=list)
    instance: list[Ints] = field(default_factory=list)
    numeric: list[Floats] = field(default_factory=list)
    missing: list[Bools] = field(default_factory=list)
    codes: list[tuple[NDArray[np.int32], ...]] = field(default_factory=list)
    slow: list[tuple[int, int, list[Any]]] = field(default_factory=list)
    """(message, instance, values) of what was read one by one."""
    wrong: dict[tuple[int, int, int], str] = field(default_factory=dict)
    """(message, instance, column of the block) -> what was sent there, where the column cannot hold it."""

    def __post_init__(self) -> None:
        self.words = [Vocabulary() for _ in self.schema.categorical]

    def add(self, matched: Matched, messages: Ints) -> None:
        """Rows of a skeleton; `messages` says where its messages are in the batch."""
        self.message.append(messages[matched.row_message])
        self.instance.append(matched.row_instance)
        self.numeric.append(matched.numeric)
        self.missing.append(matched.missing)
        self.codes.append(matched.codes)

    def rows(self) -> Rows:
        """Everything, in the order of messages."""
        self._gather_slow()
        width = len(self.schema.numeric)
        if not self.message:
            nothing = np.empty((0, width))
            none = np.empty(0, np.int64)
            columns = tuple(Codes(np.empty(0, np.int32), ()) for _ in self.words)
            return Rows(none, none, Block(nothing, np.empty((0, width), np.bool_), columns))
        message = _concatenated(self.message)
        instance = _concatenated(self.instance)
        numeric = _concatenated(self.numeric)
        missing = _concatenated(self.missing)
        codes = [_concatenated([piece[i] for piece in self.codes]) for i in range(len(self.words))]
        if len(self.message) > 1 and bool((message[1:] < message[:-1]).any()):
            order = np.argsort(message, kind="stable")
            message, instance, numeric, missing = message[order], instance[order], numeric[order], missing[order]
            codes = [column[order] for column in codes]
        columns = tuple(Codes(column, tuple(word.codes)) for column, word in zip(codes, self.words, strict=True))
        if not self.wrong:
            return Rows(message, instance, Block(numeric, missing, columns))
        row_of = {place: row for row, place in enumerate(zip(message.tolist(), instance.tolist(), strict=True))}
        wrong = {(row_of[message, instance], column): text for (message, instance, column), text in self.wrong.items()}
        mask = np.zeros((len(message), len(self.schema)), np.bool_)
        mask[tuple(np.array(list(wrong)).T)] = True
        return Rows(message, instance, Block(numeric, missing, columns, wrong=mask), wrong)

    def _gather_slow(self) -> None:
        if not self.slow:
            return
        self.slow.sort(key=lambda one: one[:2])
        schema = self.schema
        numeric_places = [i for i, column in enumerate(schema.columns) if column.type == "numeric"]
        other_places = [i for i, column in enumerate(schema.columns) if column.type == "categorical"]
        places = [*numeric_places, *other_places]
        for message, instance, row in self.slow:
            for place, i in enumerate(places):
                if isinstance(row[i], Wrong):
                    self.wrong[message, instance, place] = row[i].shown
                    row[i] = None
        cells = [[row[i] for i in numeric_places] for _, _, row in self.slow]
        shape = (len(cells), len(numeric_places))
        self.message.append(np.array([message for message, _, _ in self.slow], np.int64))
        self.instance.append(np.array([instance for _, instance, _ in self.slow], np.int64))
        self.missing.append(np.array([[cell is None for cell in row] for row in cells], np.bool_).reshape(shape))
        self.numeric.append(np.array(cells, np.float64).reshape(shape))  # None becomes NaN
        self.codes.append(
            tuple(
                np.array([word.code(row[i]) for _, _, row in self.slow], np.int32)
                for i, word in zip(other_places, self.words, strict=True)
            )
        )


def _concatenated(arrays: list[Any]) -> Any:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
