"""The section `performance` of a ModelMonitor: which metrics, of which prediction, and how long labels are waited for."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from detectors.base import ColumnType
from detectors.settings import Duration, Settings, format_duration

Best = Literal["high", "low", "zero"]
Task = Literal["regression", "classification"]

REGRESSION: Final[dict[str, Best]] = {
    "mae": "low",
    "rmse": "low",
    "mape": "low",
    "r2": "high",
    "meanError": "zero",
    "maxError": "low",
}
"""Metrics of a prediction that is a number, and which value is best."""
CLASSIFICATION: Final[dict[str, Best]] = {
    "accuracy": "high",
    "balancedAccuracy": "high",
    "precision": "high",
    "recall": "high",
    "f1": "high",
    "tpr": "high",
    "tnr": "high",
    "fpr": "low",
    "fnr": "low",
    "rocAuc": "high",
    "logLoss": "low",
    "brier": "low",
    "calibrationError": "low",
}
"""Metrics of a prediction that is a class, and which value is best."""
METRICS: Final[dict[str, Best]] = {**CLASSIFICATION, **REGRESSION}
RATES: Final = ("tpr", "tnr", "fpr", "fnr")
"""Those that ask which class is the positive one."""
OF_PROBABILITIES: Final = ("rocAuc", "logLoss", "brier", "calibrationError")
"""Those that ask for probabilities."""
MAX_CLASSES: Final = 100
"""Classes that are told apart; all further ones are counted together."""
MAX_RANKED: Final = 20
"""Classes of which rocAuc is averaged."""

if TYPE_CHECKING:
    Metric = str
else:
    Metric = Literal[tuple(METRICS)]


class Performance(Settings):
    """Quality of the predictions once labels come, and an estimate of it before."""

    metrics: tuple[Metric, ...] = ()
    """What is reported of each window; empty: nothing, and labels are not read. Numbers are scikit-learn's, so `mape` is a share, not
    percent. `meanError` is prediction less label, `calibrationError` the mean distance of score and frequency over ten bins."""
    prediction: str | None = None
    """The prediction that labels are compared with. Default: the first of `model.predictions`. A categorical one is a class, a numeric
    one a number, or with `threshold` the probability of a class."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """The prediction is the probability of the class `positive`, which is predicted from this probability on."""
    probabilities: dict[str, str] = Field(default={}, max_length=MAX_CLASSES)
    """Class -> the numeric prediction that is its probability. Of two classes, the positive one is enough."""
    positive: str | None = None
    """The class that `precision`, `recall`, `f1` and the rates are about, written as in the labels (`true` for JSON's true, `1` for 1.0).
    Default: their unweighted mean over all classes."""
    label: str | None = None
    """Column of the training table that holds the truth. With the prediction's own column there it gives a reference performance, and the
    estimate before labels come."""
    limits: dict[Metric, float] = {}
    """Metric -> the value from which on it is still good: beyond it is an alarm. Below, for those that are best high; above, for those that
    are best low; further from zero, for `meanError`."""
    label_retention: Duration = timedelta(days=7)
    """How long a prediction waits for its label."""
    label_wait: Duration = timedelta(minutes=10)
    """How long a label waits for its prediction; then it goes to the dead-letter topic."""
    match_every: Duration = timedelta(seconds=10)
    """Labels are joined with predictions in rounds, at most this often; 0s: in every micro-batch."""

    @field_validator("metrics")
    @classmethod
    def _each_is_named_once(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for place, name in enumerate(metrics) if name in metrics[:place]]
        if twice:
            msg = f"{twice[0]!r} is named twice: remove one"
            raise ValueError(msg)
        return metrics

    @model_validator(mode="after")
    def _it_makes_sense(self) -> Self:
        if not self.metrics:
            for name in ("prediction", "threshold", "probabilities", "positive", "label", "limits"):
                if getattr(self, name) not in (None, {}):
                    msg = f"{name} is given, but metrics is empty, so nothing is measured: name some metrics, or remove {name}"
                    raise ValueError(msg)
        for name, limit in self.limits.items():
            if name not in self.metrics:
                msg = f"limits has {name!r}, which is not among metrics ({', '.join(self.metrics)}): add it there"
                raise ValueError(msg)
            if METRICS[name] == "zero" and limit < 0:
                msg = f"limits has {name} {limit:g}: either side of zero is meant, so give it without a sign"
                raise ValueError(msg)
        zero = timedelta()
        for name, value in (("labelRetention", self.label_retention), ("labelWait", self.label_wait)):
            if value <= zero:
                msg = f"{name} {format_duration(value)} is no time at all: it must be longer than 0s"
                raise ValueError(msg)
        if self.match_every < zero:
            msg = f"matchEvery {self.match_every} is less than no time: 0s joins in every micro-batch"
            raise ValueError(msg)
        numbers = [name for name in self.metrics if name in REGRESSION]
        classes = [name for name in self.metrics if name in CLASSIFICATION]
        if numbers and classes:
            msg = f"metrics has {numbers[0]!r}, which is for numbers, and {classes[0]!r}, which is for classes: a prediction is one of the two"
            raise ValueError(msg)
        if self.threshold is not None and self.probabilities:
            msg = (
                "threshold and probabilities are both given: with threshold the prediction itself is the probability, "
                "so remove one of them"
            )
            raise ValueError(msg)
        if self.threshold is not None and self.positive is None:
            msg = f"threshold {self.threshold} needs positive: name the class whose probability the prediction is, for example positive: '1'"
            raise ValueError(msg)
        columns = list(self.probabilities.values())
        twice = [name for place, name in enumerate(columns) if name in columns[:place]]
        if twice:
            msg = f"probabilities has {twice[0]!r} for two classes: each class has a probability of its own"
            raise ValueError(msg)
        if self.probabilities and self.positive is not None and self.positive not in self.probabilities:
            msg = f"positive {self.positive!r} has no probability: probabilities has {', '.join(map(repr, self.probabilities))}; add it there"
            raise ValueError(msg)
        return self

    def column(self, predictions: Sequence[tuple[str, ColumnType]]) -> tuple[str, ColumnType] | None:
        """Name and type of the prediction that labels are compared with; None when the model has none of that name.

        Parameters
        ----------
        predictions
            Name and type of each prediction of the model.
        """
        if self.prediction is None:
            return predictions[0] if predictions else None
        return next((known for known in predictions if known[0] == self.prediction), None)

    def task(self, predictions: Sequence[tuple[str, ColumnType]]) -> Task:
        """Whether the prediction is a number or a class; `predictions` as in `column`."""
        found = self.column(predictions)
        numeric = found is not None and found[1] == "numeric"
        return "regression" if numeric and self.threshold is None else "classification"

    def problems(self, predictions: Sequence[tuple[str, ColumnType]]) -> list[tuple[tuple[str | int, ...], str]]:
        """What does not fit the model: where it stands, seen from this section, and what would do.

        Parameters
        ----------
        predictions
            Name and type of each prediction of the model.
        """
        if not self.metrics:
            return []
        names = ", ".join(name for name, _ in predictions) or "none"
        found = self.column(predictions)
        if found is None and self.prediction is None:
            return [
                (
                    ("metrics",),
                    "there is no prediction to measure: model.predictions is empty, describe what the model answers there",
                )
            ]
        if found is None:
            return [(("prediction",), f"{self.prediction!r} is no prediction of the model: those are: {names}")]
        return [*self._of_columns(found, dict(predictions), names), *self._of_metrics(found)]

    def _of_columns(
        self, found: tuple[str, ColumnType], types: Mapping[str, ColumnType], names: str
    ) -> Iterable[tuple[tuple[str | int, ...], str]]:
        name, kind = found
        if self.threshold is not None and kind == "categorical":
            yield (
                ("threshold",),
                f"{name!r} is categorical, so it is no probability: remove threshold, or choose a numeric prediction",
            )
        for category, column in self.probabilities.items():
            place = ("probabilities", category)
            if column not in types:
                yield place, f"{column!r} is no prediction of the model: those are: {names}"
            elif types[column] == "categorical":
                yield place, f"{column!r} is categorical, so it is no probability: name a numeric prediction"
        if kind == "numeric" and self.threshold is None:
            of_classes = (("probabilities", self.probabilities), ("positive", self.positive is not None))
            for key, given in of_classes:
                if given:
                    yield (key,), f"{name!r} is numeric, so it has no classes: {_IF_A_CLASS}"

    def _of_metrics(self, found: tuple[str, ColumnType]) -> Iterable[tuple[tuple[str | int, ...], str]]:
        name, kind = found
        task = "regression" if kind == "numeric" and self.threshold is None else "classification"
        fitting = REGRESSION if task == "regression" else CLASSIFICATION
        for i, metric in enumerate(self.metrics):
            place = ("metrics", i)
            if metric not in fitting:
                if kind == "numeric" and task == "regression":
                    because = f"{name!r} is numeric; those that fit are {', '.join(fitting)}; {_IF_A_CLASS}"
                else:
                    because = f"{name!r} is a class; those that fit are {', '.join(fitting)}"
                yield place, f"{metric!r} is not for this prediction: {because}"
            elif metric in RATES and self.positive is None:
                yield place, f"{metric!r} needs positive: name the class that it is about"
            elif metric in OF_PROBABILITIES and not self.probabilities and self.threshold is None:
                yield place, f"{metric!r} needs probabilities: name the numeric prediction of each class there"
            elif metric == "calibrationError" and self.positive is None and len(self.probabilities) > 1:
                yield place, f"{metric!r} needs positive: name the class whose probability is looked at"
            elif metric == "rocAuc" and self.positive is None and len(self.probabilities) > MAX_RANKED:
                given = f"at most {MAX_RANKED} classes, probabilities has {len(self.probabilities)}"
                yield (
                    place,
                    f"{metric!r} is averaged over {given}: name one of them as positive, or leave the metric out",
                )

    def alarms(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """The metrics that are beyond their limit, in the order of `limits`; one that is NaN or absent is not.

        >>> section = Performance(metrics=("rmse", "r2", "meanError"), limits={"rmse": 2, "r2": 0.9, "meanError": 1})
        >>> section.alarms({"rmse": 2.0, "r2": 0.85, "meanError": -1.5})
        ('r2', 'meanError')
        """
        return tuple(
            name for name, limit in self.limits.items() if name in values and _beyond(name, values[name], limit)
        )


_IF_A_CLASS = "if it is a class's number make it categorical, if it is a probability give threshold and positive"


def _beyond(name: str, value: float, limit: float) -> bool:
    best = METRICS[name]
    if best == "high":
        return value < limit
    return (abs(value) if best == "zero" else value) > limit
