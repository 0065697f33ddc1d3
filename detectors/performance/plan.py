"""How predictions and labels become numbers, and what is counted of them."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from detectors.base import ColumnType
from detectors.errors import NotApplicable, SummaryFormatError
from detectors.performance.binary import decoded
from detectors.performance.settings import MAX_CLASSES, MAX_RANKED, Performance, Task
from detectors.statistics.block import Block, Codes
from detectors.statistics.sample import hash_of

OTHER: Final = "(other)"
"""The class of all values that are none of the plan's."""
MOMENTS: Final = 7
"""Of one joined prediction of a regression: 1, error, its size, its share of the label, its square, the label, its square."""
CALIBRATED: Final = 10
"""Bins in which score and frequency are compared."""
_MAGIC = b"DLQ1"
_QUANTILES = 400
_PERCENT = 100
_QUANTILES_OF_MANY = 100
_PERCENT_OF_MANY = 20
_LONGEST_ODDS = 12.0
"""Marks without a reference reach from odds of exp(-12) to exp(12)."""
_NEARLY = 1e-6
"""A probability may leave [0, 1] by so much (float32 does) and is taken for 0 or 1."""
_SINGLE = 2.0**-23
"""Relative precision of float32, in which many models answer."""
_UNKNOWN = 44
"""Bits of its hash by which a class that is not the plan's is recognised."""
_JSON = frozenset({str, int, float, bool, type(None)})


@dataclass(frozen=True)
class PerformancePlan:
    """What is counted; sums of one plan add.

    A prediction is a row of float64: column 0 the number, or the index of the class, then the probabilities. A label is one float64: the
    number, or the index of the class. NaN is unusable. A class that is none of the plan's has an index from ``len(classes)`` on, below
    ``len(classes) + 1``: its fraction is a hash of its text (44 bits), so that whether prediction and label agree is still known, although
    all such classes share a row of the confusion matrix.
    """

    task: Task
    prediction: str
    """The column that labels are compared with."""
    columns: tuple[str, ...] = ()
    """The columns of probabilities."""
    classes: tuple[str, ...] = ()
    """At most 100; those that have a probability come first, in the order of `columns`."""
    positive: int | None = None
    """Index of the class that binary metrics are about."""
    threshold: float | None = None
    """The prediction's column is the probability of the class 0, which is predicted from here on; everything else is one class."""
    ranked: bool = False
    """Whether scores are counted, for rocAuc."""
    marks: tuple[float, ...] = field(default=(), repr=False)
    """Ascending: scores are counted from mark to mark; empty unless `ranked`."""
    centre: float = 0.0
    """Near the labels' mean: from where labels are measured in standard errors."""

    @classmethod
    def of(
        cls,
        settings: Performance,
        predictions: Sequence[tuple[str, ColumnType]],
        classes: Iterable[str] = (),
    ) -> "PerformancePlan":
        """The plan that a ModelMonitor asks for, without knowledge of the reference's numbers.

        Parameters
        ----------
        predictions
            Name and type of each prediction of the model.
        classes
            The classes that are known, for instance of the reference's labels: the most frequent first, for only 100 are told apart.

        Raises
        ------
        NotApplicable
            When settings and model do not fit: `Performance.problems` says this better, before.
        """
        found, wrong = settings.column(predictions), settings.problems(predictions)
        if found is None or wrong:
            msg = "; ".join(text for _, text in wrong) or "there are no predictions"
            raise NotApplicable(msg)
        if settings.task(predictions) == "regression":
            return cls("regression", found[0])
        ranked = "rocAuc" in settings.metrics
        if settings.threshold is not None and settings.positive is not None:
            plan = cls("classification", found[0], (found[0],), (settings.positive,), 0, settings.threshold, ranked)
        else:
            first = (*settings.probabilities, *(() if settings.positive is None else (settings.positive,)))
            known = tuple(dict.fromkeys((*first, *classes)))[:MAX_CLASSES]
            positive = None if settings.positive is None else known.index(settings.positive)
            columns = tuple(settings.probabilities.values())
            plan = cls("classification", found[0], columns, known, positive, None, ranked)
        return replace(plan, marks=_marks(plan, np.empty(0))) if ranked else plan

    def fitted(self, predictions: NDArray[np.float64], labels: NDArray[np.float64]) -> "PerformancePlan":
        """The same with marks where the reference's scores are, and the centre where its labels are."""
        if self.task == "regression":
            usable = labels[np.isfinite(labels)]
            with np.errstate(over="ignore"):
                centre = float(usable.mean()) if len(usable) else 0.0
            return replace(self, centre=centre if np.isfinite(centre) else 0.0)
        return replace(self, marks=_marks(self, predictions[:, 1:][:, self.scored])) if self.ranked else self

    def made_by(self, settings: Performance, predictions: Sequence[tuple[str, ColumnType]]) -> bool:
        """Whether these settings would still make this plan: else what was learnt by it is about something else."""
        asked = PerformancePlan.of(settings, predictions, self.classes)
        return replace(asked, marks=self.marks, centre=self.centre) == self

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that differ when two plans do not count the same."""
        digest = hashlib.blake2b(repr(self).encode(errors="backslashreplace"), digest_size=8)
        digest.update(self.ascending.tobytes())
        return digest.digest()

    @cached_property
    def scored(self) -> NDArray[np.int64]:
        """Positions, among the columns of probabilities, of those whose ranking is looked at: the positive class's, else all."""
        if self.positive is not None and self.positive < len(self.columns):
            return np.array([self.positive], np.int64)
        return np.arange(len(self.columns))

    @property
    def incomplete(self) -> bool:
        """Whether there are classes without a probability of their own: what is left of 1 is theirs."""
        return len(self.columns) == 1 or len(self.classes) > len(self.columns)

    @cached_property
    def ascending(self) -> NDArray[np.float64]:
        """The marks as an array, each a little higher, so that 1 - 0.29, or 0.71 that was a float32, is on the mark 0.71."""
        return np.array(self.marks, np.float64) * (1 + _SINGLE)

    def to_bytes(self) -> bytes:
        """The binary form: magic and version, then MessagePack. Who keeps sums for long keeps their plan, too."""
        body = _Packed(
            self.task,
            self.prediction,
            self.columns,
            self.classes,
            self.positive,
            self.threshold,
            self.ranked,
            np.array(self.marks, np.float64).tobytes(),
            self.centre,
        )
        return _MAGIC + msgspec.msgpack.encode(body)

    @classmethod
    def from_bytes(cls, data: bytes) -> "PerformancePlan":
        """Read the binary form back.

        Raises
        ------
        SummaryFormatError
            When these are not the bytes of a plan of this version.
        """
        body = decoded(data, _MAGIC, _Packed, "a plan of performance")
        if len(body.marks) % 8:
            msg = f"these {len(data)} bytes are not a whole plan: the marks are cut"
            raise SummaryFormatError(msg)
        options = (body.positive, body.threshold, body.ranked, tuple(np.frombuffer(body.marks).tolist()), body.centre)
        return cls(body.task, body.prediction, body.columns, body.classes, *options)

    # The layout of the whole numbers: joined, unusable, scored, calibration, cells of the confusion matrix, scores.

    @property
    def calibrated(self) -> int:
        """Calibration bins: ten when there is one score, else none."""
        return CALIBRATED if len(self.scored) == 1 else 0

    @property
    def cells_at(self) -> slice:
        """Where the cells of the confusion matrix are, row by row; a row is a label, the last one `OTHER`.

        The last cell of the last row has those whose prediction and label are both unknown and differ; one more cell follows for those that agree.
        """
        begin = 3 + 2 * self.calibrated
        size = (len(self.classes) + 1) ** 2 + 1 if self.task == "classification" else 0
        return slice(begin, begin + size)

    @property
    def counts(self) -> int:
        """How many whole numbers are counted."""
        stop: int = self.cells_at.stop
        return stop + (2 * len(self.scored) * (len(self.marks) + 1) if self.marks else 0)

    @property
    def sums(self) -> int:
        """How many sums of floats there are: the products of any two moments, or of losses and scores."""
        return MOMENTS**2 if self.task == "regression" else 4 + self.calibrated

    def encode(self, block: Block, numeric: Sequence[str], categorical: Sequence[str]) -> NDArray[np.float64]:
        """(rows, 1 + probabilities) the predictions of a block as numbers.

        Parameters
        ----------
        numeric, categorical
            Names of the block's columns.
        """
        if self.task == "regression" or self.threshold is not None:
            first = block.numeric[:, list(numeric).index(self.prediction)]
        else:
            first = self.indices(block.categorical[list(categorical).index(self.prediction)])
        scores = block.numeric[:, [list(numeric).index(name) for name in self.columns]]
        return self.rows(first, scores)

    def rows(self, first: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """(rows, 1 + probabilities) predictions of what is in the prediction's column and in those of probabilities.

        Parameters
        ----------
        first
            (rows,) a number, or the index of a class (see `indices`); with a threshold it is not looked at.
        scores
            (rows, probabilities)
        """
        found = np.empty((len(first), 1 + len(self.columns)))
        found[:, 0] = first
        likely = (scores >= -_NEARLY) & (scores <= 1 + _NEARLY)
        found[:, 1:] = np.where(likely, np.clip(scores, 0.0, 1.0), np.nan)
        if self.threshold is not None:
            found[:, 0] = np.where(likely[:, 0], found[:, 1] < self.threshold, np.nan)
        return found

    def indices(self, column: Codes) -> NDArray[np.float64]:
        """(rows,) class indices of a categorical column, predictions or labels; NaN where missing."""
        return np.array([*map(self._index, column.values), np.nan])[column.codes]

    def labels(self, values: Sequence[Any], category: Callable[[Any], str | None]) -> NDArray[np.float64]:
        """(n,) labels as they were read from JSON, as numbers; NaN for one that is missing or is no label.

        Parameters
        ----------
        category
            The canonical text of a value, as `reference.category.category`; a TypeError says that it has none.
        """
        types = list(map(type, values))
        if not _JSON.issuperset(types):
            values = [value if kind in _JSON else None for value, kind in zip(values, types, strict=True)]
            types = list(map(type, values))
        if self.task == "regression":
            if set(types) == {float}:
                return np.array(values, np.float64)
            return np.array([_number(value) for value in values], np.float64)
        # The type belongs to the key: True and 1 are equal, but not the same class.
        keys = list(zip(types, values, strict=True))
        index = {key: self._label(key[1], category) for key in set(keys)}
        return np.fromiter(map(index.__getitem__, keys), np.float64, len(keys))

    @cached_property
    def _known(self) -> dict[str, int]:
        return {text: index for index, text in enumerate(self.classes)}

    def _index(self, text: str) -> float:
        known = self._known.get(text)
        if known is not None:
            return known
        unknown = len(self.classes)
        return unknown if self.threshold is not None else unknown + (hash_of(text) >> (64 - _UNKNOWN)) / 2.0**_UNKNOWN

    def _label(self, value: Any, category: Callable[[Any], str | None]) -> float:
        try:
            text = category(value)
        except TypeError:
            return np.nan
        return np.nan if text is None else self._index(text)


class _Packed(msgspec.Struct, array_like=True):
    """The binary form."""

    task: Task
    prediction: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    positive: int | None
    threshold: float | None
    ranked: bool
    marks: bytes
    centre: float


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.nan


def _marks(plan: PerformancePlan, scores: NDArray[np.float64]) -> tuple[float, ...]:
    """Even marks, and besides each of the reference's scores, or its quantiles when they are many; steps of even odds without a reference."""
    many = len(plan.scored) > 2
    quantiles, percent = (_QUANTILES_OF_MANY, _PERCENT_OF_MANY) if many else (_QUANTILES, _PERCENT)
    known = np.unique(scores[np.isfinite(scores)])
    if len(known) > quantiles:
        known = np.quantile(scores[np.isfinite(scores)], np.linspace(0, 1, quantiles), method="lower")
    elif len(known) == 0:
        known = expit(np.linspace(-_LONGEST_ODDS, _LONGEST_ODDS, quantiles))
    return tuple(np.unique(np.concatenate((known, np.arange(percent + 1) / percent))).tolist())


assert MAX_RANKED * 2 * (_QUANTILES_OF_MANY + _PERCENT_OF_MANY + 2) < 2**16  # positions are written in 16 bits
