"""What is done to the instances of a replay on purpose, so that a monitor has something to find.

An injection is one text, ``KIND:COLUMN=VALUE:SHARE@BEGIN..END``; share and interval may be left out. Seven kinds:

    shift:dep_delay=+30         30 more; `+2sd` is two standard deviations of the table's column
    scale:distance=1.5          times 1.5
    missing:temp=0.3            null in 30 % of the instances
    unseen:carrier=XX:0.1       the category XX in 10 %
    swap:temp,humid             each has the other's values
    stuck:temp                  the value that it had at the beginning; `stuck:temp=70` names it
    outlier:dep_delay=10sd:0.01 in 1 %: the table's mean plus or minus ten standard deviations

The interval counts from the first request, by when a request is due. Which instances are chosen depends on the seed, on the
position of the injection among all, and on the number of the instance; not on how rows are cut into blocks.
"""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from detectors.settings import format_duration, parse_duration
from reference.schema import Model
from streaming.errors import StreamingError

Kind = Literal["shift", "scale", "missing", "unseen", "swap", "stuck", "outlier"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_EXAMPLES: Mapping[Kind, str] = {
    "shift": "shift:dep_delay=+30@1m..2m",
    "scale": "scale:distance=1.5",
    "missing": "missing:temp=0.3",
    "unseen": "unseen:carrier=XX:0.1",
    "swap": "swap:temp,humid",
    "stuck": "stuck:temp",
    "outlier": "outlier:dep_delay=10sd:0.01",
}
_NUMERIC: frozenset[Kind] = frozenset({"shift", "scale", "outlier"})
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")

Values = NDArray[np.float64] | NDArray[np.object_]
"""(instances,) of one column: numbers, NaN where missing, or categories, None where missing."""


class UnusableInjection(StreamingError):
    """An injection that cannot be read, or does not fit the model; the text names the part."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Amount:
    """A number in the column's own unit, or in its standard deviations."""

    number: float
    in_sd: bool = False

    def __str__(self) -> str:
        return f"{self.number!r}{'sd' * self.in_sd}"


@dataclass(frozen=True, slots=True)
class Injection:
    """One change of some columns, of a share of the instances, for some time."""

    kind: Kind
    columns: tuple[str, ...]
    """Two of a swap, else one."""
    value: Amount | str | None = None
    """Of shift, scale and outlier an amount; of unseen a category; of stuck what it is stuck at, if said."""
    share: float = 1.0
    """Of the instances of the interval, above 0 and at most 1."""
    begin: timedelta = timedelta()
    """Since the first request was due."""
    end: timedelta | None = None
    """Before this; None: to the end."""

    def __str__(self) -> str:
        """The text that `parse` reads back."""
        text = f"{self.kind}:{','.join(self.columns)}"
        if self.kind == "missing":
            text += f"={self.share!r}"
        elif self.value is not None:
            text += f"={self.value}"
        if self.kind not in ("missing", "stuck") and (self.share != 1 or ":" in text.partition(":")[2]):
            text += f":{self.share!r}"
        if self.begin or self.end is not None or "@" in text:
            text += f"@{format_duration(self.begin)}..{'' if self.end is None else format_duration(self.end)}"
        return text


def parse(text: str) -> Injection:
    """Read an injection.

    >>> str(parse("shift:dep_delay=+30@1m..2m"))
    'shift:dep_delay=30.0@1m..2m'

    Raises
    ------
    UnusableInjection
        Naming the part that is wrong, and what would do.
    """
    kind, colon, rest = text.partition(":")
    if kind not in KINDS or not colon:
        near = difflib.get_close_matches(kind, KINDS, 1)
        meant = f" (did you mean {near[0]!r}?)" if near and near[0] != kind else ""
        raise UnusableInjection(f"--inject {text!r}: kind {kind!r}{meant}: write KIND:COLUMN..., of {', '.join(KINDS)}")
    rest, begin, end = _interval(text, rest)
    share = 1.0
    if kind not in ("missing", "stuck"):
        before, colon, said = rest.rpartition(":")
        if colon and _NUMBER.fullmatch(said):
            rest, share = before, _share(text, said)
        elif colon and kind in _NUMERIC and "=" in before:
            _refuse(text, kind, "share", said, "a number above 0 and at most 1")
    name, equals, value = rest.partition("=")
    columns = tuple(name.split(",")) if kind == "swap" else (name,)
    if kind == "swap" and (len(columns) != 2 or columns[0] == columns[1] or equals):
        _refuse(text, kind, "columns", rest, "two different ones")
    if not all(columns):
        _refuse(text, kind, "column", name, "the name of a feature")
    if not equals and kind not in ("swap", "stuck"):
        _refuse(text, kind, "value", "", "one behind '='")
    match kind:
        case "shift" | "outlier":
            return Injection(kind, columns, _amount(text, kind, value), share, begin, end)
        case "scale":
            return Injection(kind, columns, Amount(_number(text, kind, value)), share, begin, end)
        case "missing":
            return Injection(kind, columns, None, _share(text, value), begin, end)
        case "unseen" | "stuck":
            if equals and not value:
                _refuse(text, kind, "value", "", "one behind '='")
            return Injection(kind, columns, value if equals else None, share, begin, end)
        case _:
            return Injection("swap", columns, None, share, begin, end)


def _refuse(text: str, kind: str, part: str, said: str, wanted: str) -> NoReturn:
    example = _EXAMPLES[kind]  # type: ignore[index] # it is one of KINDS where this is called
    raise UnusableInjection(f"--inject {text!r}: {part} {said!r}: write {wanted}, as in {example!r}")


def _interval(text: str, rest: str) -> tuple[str, timedelta, timedelta | None]:
    before, at, said = rest.rpartition("@")
    if not at or ".." not in said:
        return rest, timedelta(), None
    first, _, last = said.partition("..")
    try:
        begin = parse_duration(first) if first else timedelta()
        end = parse_duration(last) if last else None
    except (ValueError, OverflowError) as error:
        raise UnusableInjection(f"--inject {text!r}: interval {said!r}: {error}") from None
    if end is not None and end <= begin:
        raise UnusableInjection(f"--inject {text!r}: interval {said!r}: its end must be after its beginning")
    return before, begin, end


def _number(text: str, kind: str, said: str) -> float:
    if not _NUMBER.fullmatch(said) or not math.isfinite(float(said)):
        _refuse(text, kind, "value", said, "a number")
    return float(said)


def _amount(text: str, kind: str, said: str) -> Amount:
    if said.endswith("sd"):
        return Amount(_number(text, kind, said.removesuffix("sd")), in_sd=True)
    return Amount(_number(text, kind, said))


def _share(text: str, said: str) -> float:
    if not _NUMBER.fullmatch(said) or not 0 < float(said) <= 1:
        hint = (
            "a share is above 0 and at most 1; a category with a colon needs one behind it, as in 'unseen:hour=12:30:1'"
        )
        raise UnusableInjection(f"--inject {text!r}: share {said!r}: {hint}")
    return float(said)


def check(injections: Sequence[Injection], model: Model) -> None:
    """See that every injection fits the features of the model.

    Raises
    ------
    UnusableInjection
        Naming the column.
    """
    types = {column.name: column.type for column in model.features}
    for injection in injections:
        for name in injection.columns:
            if name not in types:
                near = difflib.get_close_matches(name, types, 1)
                meant = f" (did you mean {near[0]!r}?)" if near else ""
                raise UnusableInjection(
                    f"--inject {str(injection)!r}: column {name!r} is no feature of the model{meant}: known are {', '.join(types)}"
                )
            wanted = "numeric" if injection.kind in _NUMERIC else "categorical" if injection.kind == "unseen" else None
            if wanted is not None and types[name] != wanted:
                raise UnusableInjection(
                    f"--inject {str(injection)!r}: column {name!r} is {types[name]}, and {injection.kind} is for {wanted} ones"
                )
        if injection.kind == "swap" and len({types[name] for name in injection.columns}) > 1:
            first, second = injection.columns
            raise UnusableInjection(
                f"--inject {str(injection)!r}: {first!r} is {types[first]} and {second!r} is {types[second]}: "
                "swap two columns of one type"
            )
        if injection.kind == "stuck" and isinstance(injection.value, str) and types[injection.columns[0]] == "numeric":
            _number(str(injection), "stuck", injection.value)


@dataclass(frozen=True, slots=True)
class Spread:
    """Of a column of the table, as it is without injections."""

    mean: float
    sd: float
    """Of the sample, in the column's own unit."""


def needs_spread(injections: Sequence[Injection]) -> tuple[str, ...]:
    """The columns whose mean and standard deviation must be known."""
    asked = [
        injection.columns[0]
        for injection in injections
        if injection.kind == "outlier" or (isinstance(injection.value, Amount) and injection.value.in_sd)
    ]
    return tuple(dict.fromkeys(asked))


class Injector:
    """Applies injections to instances, in the order in which they were given; blocks come in the order of the instances.

    Parameters
    ----------
    seed
        Of the choice of instances.
    spreads
        Of the columns that `needs_spread` names.
    readers
        Categorical column -> what makes one of its values out of a text, where values are not texts.
    """

    def __init__(
        self,
        injections: Sequence[Injection],
        seed: int,
        spreads: Mapping[str, Spread],
        readers: Mapping[str, Any] | None = None,
    ) -> None:
        self._injections = tuple(injections)
        self._seed = seed
        self._spreads = spreads
        self._readers = readers or {}
        self._stuck: dict[int, Any] = {}
        self.touched = [0] * len(self._injections)
        """Instances that each injection has changed."""

    def inject(self, columns: dict[str, Values], first: int, due: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
        """Change the columns of a block in place.

        Parameters
        ----------
        first
            Number of the block's first instance.
        due
            (instances,) seconds after the first request.

        Returns
        -------
        list
            Of each injection (instances,) whether it has changed the instance; what was so already is not changed.
        """
        marks = []
        for position, injection in enumerate(self._injections):
            within = due >= injection.begin.total_seconds()
            if injection.end is not None:
                within &= due < injection.end.total_seconds()
            if not within.any():
                marks.append(within)
                continue
            # One draw an instance: the generator is put where it stands after all instances before the block.
            bits = np.random.PCG64(np.random.SeedSequence([self._seed, position])).advance(first)
            draw = np.random.Generator(bits).random(len(due))
            chosen = within & (draw < injection.share)
            changed = self._apply(position, injection, columns, within, chosen, draw)
            self.touched[position] += int(changed.sum())
            marks.append(changed)
        return marks

    def _apply(
        self,
        position: int,
        injection: Injection,
        columns: dict[str, Values],
        within: NDArray[np.bool_],
        chosen: NDArray[np.bool_],
        draw: NDArray[np.float64],
    ) -> NDArray[np.bool_]:
        name = injection.columns[0]
        before = columns[name]
        if injection.kind == "swap":
            other = injection.columns[1]
            columns[name] = np.where(chosen, columns[other], before)
            columns[other] = np.where(chosen, before, columns[other])
            return _different(before, columns[name])
        after: Any
        if injection.kind == "missing":
            after = np.nan if before.dtype != object else None
        elif injection.kind == "unseen":
            after = self._read(name, injection)
        elif injection.kind == "stuck":
            after = self._stuck_at(position, injection, before, within)
        else:
            assert isinstance(injection.value, Amount)
            after = self._moved(injection, injection.value, before, draw)
        columns[name] = np.where(chosen, after, before)
        return _different(before, columns[name])

    def _moved(
        self, injection: Injection, amount: Amount, before: Values, draw: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        name = injection.columns[0]
        number = amount.number * (self._spreads[name].sd if amount.in_sd else 1.0)
        with np.errstate(over="ignore"):  # what becomes infinite is sent as null
            if injection.kind == "shift":
                return np.asarray(before + number, np.float64)
            if injection.kind == "scale":
                return np.asarray(before * number, np.float64)
            # The half of the draws decides the side; a chosen one is below the share.
            side = np.where(draw < injection.share / 2, -1.0, 1.0)
            return np.asarray(self._spreads[name].mean + side * number, np.float64)

    def _stuck_at(self, position: int, injection: Injection, before: Values, within: NDArray[np.bool_]) -> Any:
        if position not in self._stuck:
            said = injection.value is not None
            self._stuck[position] = (
                self._read(injection.columns[0], injection) if said else before[int(within.argmax())]
            )
        held = self._stuck[position]
        return float(held) if before.dtype != object else held

    def _read(self, name: str, injection: Injection) -> Any:
        text = injection.value
        try:
            return self._readers[name](text) if name in self._readers else text
        except ValueError:
            raise UnusableInjection(
                f"--inject {str(injection)!r}: value {text!r} is not of the type that column {name!r} has in the table"
            ) from None


def _different(before: Values, after: Values) -> NDArray[np.bool_]:
    if before.dtype == object:
        return np.asarray([b is not a and b != a for b, a in zip(before, after, strict=True)], np.bool_)
    return np.asarray((before != after) & ~(np.isnan(before) & np.isnan(after)), np.bool_)
