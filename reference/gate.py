"""The section ``reference.gate`` of a ModelMonitor: from which value on a new baseline is suspicious, and from which it is refused."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from detectors.settings import Settings

Level = Literal["accept", "warn", "reject"]
LEVELS: tuple[Level, ...] = ("accept", "warn", "reject")
"""From good to bad."""
LOW = frozenset({"rows", "rows_ratio"})
"""Checks whose small values are bad."""


class Limits(Settings):
    """Two limits of one number. One that is left out is never reached."""

    warn: float | None = None
    """From this value on a person should look. A baseline that is only warned of becomes the current one."""
    reject: float | None = None
    """From this value on the baseline does not become the current one."""

    def level(self, value: float, *, low: bool = False) -> Level:
        """What a value deserves. Zero and NaN are always fine where large values are bad; a limit itself is beyond it there.

        >>> limits = Limits(warn=0.0, reject=0.5)
        >>> [limits.level(value) for value in (0.0, 0.1, 0.5)]
        ['accept', 'warn', 'reject']

        Parameters
        ----------
        low
            Small values are bad; a limit itself is still good.
        """
        for level, limit in (("reject", self.reject), ("warn", self.warn)):
            if limit is not None and (value < limit if low else value > 0 and value >= limit):
                return level  # type: ignore[return-value] # both are levels
        return "accept"

    def limit(self, level: Level) -> float | None:
        """The limit that was reached; of an accepted value the nearer one."""
        if level == "reject":
            return self.reject
        return self.reject if self.warn is None else self.warn


class Finding(Settings):
    """What a finding deserves that is there or not."""

    known: Level = "warn"
    """Where it is so in the current baseline, too, or there is none."""
    new: Level = "reject"
    """Where it is not so in the current baseline."""


class ColumnGate(Settings):
    """Other limits for one column. A check that is left out has those of all columns."""

    missing: Limits | None = None
    missing_change: Limits | None = None
    nonfinite: Limits | None = None
    out_of_bounds: Limits | None = None
    constant: Finding | None = None
    duplicated: Finding | None = None
    identifier: Limits | None = None
    label_leak: Limits | None = None
    prediction_leak: Limits | None = None
    new_categories: Limits | None = None
    lost_categories: Limits | None = None
    drift: Limits | None = None
    displacement: Limits | None = None

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        _in_order(self)
        return self


class Gate(Settings):
    """What a new baseline must be like to become the current one by itself.

    Each check compares one number with two limits; the worst check decides. The defaults let a change of season pass with warnings and stop
    what a training pipeline breaks: other units, empty or constant columns, a table of something else.
    """

    rows: Limits = Limits(warn=1000, reject=100)
    """Fewer rows than this."""
    rows_ratio: Limits = Limits(warn=0.5, reject=0.1)
    """Fewer rows than this share of the current baseline's."""
    missing: Limits = Limits(warn=0.5, reject=0.95)
    """Share of a column's rows without a value."""
    missing_change: Limits = Limits(warn=0.05, reject=0.3)
    """By how much that share has become another one, up or down."""
    nonfinite: Limits = Limits(warn=0, reject=0.05)
    """Share of a column's rows that are infinite or NaN."""
    out_of_bounds: Limits = Limits(warn=0, reject=0.05)
    """Share of a column's values outside of what `model.features` declares: `min`, `max`, `categories`."""
    constant: Finding = Finding()
    """A column with one value."""
    duplicated: Finding = Finding()
    """A feature that equals an earlier one row by row."""
    identifier: Limits = Limits(warn=0.2)
    """Probability that the next row has a category that none had before (Good and Turing's estimate): near 1 the column names rows. Also
    for numeric columns of whole numbers that never come twice."""
    label_leak: Limits = Limits(warn=0.9, reject=0.98)
    """How well one feature alone tells the label: 0 not at all, 1 always. See `reference.leakage`."""
    prediction_leak: Limits = Limits(warn=0.98)
    """The same of the prediction: 1 means that the model looks at nothing else."""
    new_categories: Limits = Limits(warn=0.01, reject=0.5)
    """Share of a column's rows in categories that the current baseline has not."""
    lost_categories: Limits = Limits(warn=0.01, reject=0.5)
    """Share of the current baseline's rows in categories that are gone."""
    drift: Limits = Limits(warn=1, reject=30)
    """Drift from the current baseline by the methods of the section `drift`, in thresholds of the method; 30 are three standard deviations
    for `wasserstein`. A p-value, which is no size, only warns."""
    displacement: Limits = Limits(warn=0.5, reject=0.9)
    """Largest difference of the cumulative shares of a column here and in the current baseline (the Kolmogorov-Smirnov distance), of
    categories the total variation distance: 1 where the two have nothing in common. It is the same for every method and any number of rows."""
    drifted_share: Limits = Limits(warn=0.5, reject=0.9)
    """Share of the columns that have drifted from the current baseline."""
    schema_change: Level = "reject"
    """A column that came, went or has another type while `model.version` stayed. With another version it is a warning."""
    performance: Limits = Limits(warn=0.1, reject=0.4)
    """By which share a metric of the section `performance` is worse than in the current baseline: 1 - worse/better, so an accuracy of 0.8 after 0.9
    has lost 0.11, and an error that doubled 0.5."""
    performance_limits: Level = "reject"
    """A metric on the training table that is beyond `performance.limits`: every window would be an alarm."""
    columns: dict[str, ColumnGate] = Field(default={})
    """Column -> other limits for it: `{temp: {displacement: {warn: 0.9}}}`."""

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        _in_order(self)
        return self

    def limits(self, check: str, column: str | None = None) -> Limits:
        """Of one check by its name here, as it is for a column."""
        own = getattr(self.columns.get(column or ""), check, None)
        found: Limits = getattr(self, check) if own is None else own
        return found

    def finding(self, check: str, column: str) -> Finding:
        """Of `constant` or `duplicated`, as it is for a column."""
        own = getattr(self.columns.get(column), check, None)
        found: Finding = getattr(self, check) if own is None else own
        return found

    def misfits(self, known: Mapping[str, object]) -> list[tuple[str, str]]:
        """Names in `columns` that no column has, and what is wrong in words."""
        return [
            (name, f"{name!r} is no feature or prediction of the model: known are: {', '.join(known)}")
            for name in self.columns
            if name not in known
        ]


def worst(levels: list[Level]) -> Level:
    """The worst of some levels; nothing is acceptable.

    >>> worst(["warn", "accept"])
    'warn'
    """
    return max(levels, key=LEVELS.index, default="accept")


def _in_order(section: Settings) -> None:
    for name in type(section).model_fields:
        limits = getattr(section, name)
        if not isinstance(limits, Limits) or limits.warn is None or limits.reject is None:
            continue
        if limits.warn < limits.reject if name in LOW else limits.warn > limits.reject:
            msg = (
                f"{to_camel(name)} has warn {limits.warn:g} and reject {limits.reject:g}: "
                f"a {'small' if name in LOW else 'large'} value is bad, so swap them"
            )
            raise ValueError(msg)
