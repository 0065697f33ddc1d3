"""How well the model did on the training table, which may have its predictions and labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detectors.performance.estimate import learn
from detectors.performance.plan import PerformancePlan
from detectors.performance.settings import Performance
from detectors.statistics.block import Block
from reference.errors import UnusableData
from reference.schema import Column, Model, Schema
from reference.table import blocks


def label_of(performance: Performance, model: Model) -> Column | None:
    """The column of labels in the training table, numeric when the prediction is a number; None when none is named."""
    if performance.label is None:
        return None
    task = performance.task([(column.name, column.type) for column in model.predictions])
    return Column(name=performance.label, type="numeric" if task == "regression" else "categorical")


@dataclass(frozen=True)
class Labelled:
    """The rows of a training table as predictions and labels."""

    plan: PerformancePlan
    predictions: NDArray[np.float64]
    """(rows, 1 + probabilities) of the plan."""
    labels: NDArray[np.float64]
    """(rows,) of the plan."""

    @classmethod
    def of(
        cls, performance: Performance, model: Model, table: pa.Table, predictions: Schema, outputs: Sequence[Block]
    ) -> "Labelled | None":
        """Of a table; None when the ModelMonitor names no label.

        Parameters
        ----------
        predictions, outputs
            The model's predictions that the table has, and their blocks.

        Raises
        ------
        UnusableData
            When the table lacks the label, or a prediction that it is compared with.
        """
        label = label_of(performance, model)
        if label is None:
            return None
        see_to([label.name], table.column_names)
        truth = list(blocks(table, Schema((label,))))
        described = [(column.name, column.type) for column in model.predictions]
        plan = PerformancePlan.of(performance, described, _classes(truth) if label.type == "categorical" else ())
        see_to([plan.prediction, *plan.columns], table.column_names)
        numeric = [column.name for column in predictions.numeric]
        categorical = [column.name for column in predictions.categorical]
        encoded = [plan.encode(part, numeric, categorical) for part in outputs]
        labels = [plan.indices(part.categorical[0]) if part.categorical else part.numeric[:, 0] for part in truth]
        return cls(plan, np.concatenate(encoded), np.concatenate(labels))

    def learnt(self, rows: NDArray[np.int64] | slice = slice(None)) -> bytes:
        """The performance on some of the rows, as `ReferencePerformance` writes it.

        Raises
        ------
        NotApplicable
            When too few of them have a prediction and a label.
        """
        return learn(self.plan, self.predictions[rows], self.labels[rows]).to_bytes()


def see_to(names: Sequence[str], there: Sequence[str]) -> None:
    """Raise UnusableData when performance asks for columns that the training data has not."""
    absent = [name for name in names if name not in there]
    if absent:
        msg = (
            f"performance.label asks for the performance on the training table, which lacks {absent}: it has {list(there)}; "
            "add what is missing, or leave performance.label out"
        )
        raise UnusableData(msg)


def _classes(truth: Sequence[Block]) -> list[str]:
    """Those of the labels, the most frequent first, equally frequent ones by text."""
    counts: Counter[str] = Counter()
    for part in truth:
        (column,) = part.categorical
        tally = np.bincount(column.codes + 1, minlength=len(column.values) + 1)[1:].tolist()
        counts.update(dict(zip(column.values, tally, strict=True)))
    return sorted(counts, key=lambda text: (-counts[text], text))
