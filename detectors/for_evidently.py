"""The one door to Evidently's convention: whatever Evidently takes as a stat test is a drift method here."""

import importlib
import inspect
import math
import re
import reprlib
import sys
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator
from typing_extensions import override

from detectors.base import ColumnType, Direction, DriftDetector, Verdict
from detectors.catalogue import Shorthand
from detectors.errors import NoAnswer, NotApplicable
from detectors.frequencies import by_category, differences
from detectors.resampling import countable, generator, some_values
from detectors.statistics.column import ColumnSummary

MOST_ROWS = 100_000
"""Rows of one sample that a function is given at most."""
UNRESOLVED = {"callables": "unresolved"}
"""Validation context of who reads a ModelMonitor but computes no drift: what it names is then not imported."""

_FORM = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
SHORTHAND = Shorthand(mark=":", name="callable", field="function", pattern=f"^{_FORM}$")


class StatTestFunction(DriftDetector):
    """A function of your own, called as Evidently calls its stat tests.

    ``function(reference, current, feature_type, threshold)`` gets two pandas Series without missing and non-finite values and Evidently's
    ``ColumnType.Numerical`` or ``ColumnType.Categorical`` (the texts ``num`` and ``cat`` where Evidently is not installed). It returns
    ``(score, drifted)``; what it says is the verdict, and `direction` only tells how its score is to be read. A ``StatTest`` object of
    Evidently's will do, too. The bare text ``mypackage.tests:my_stattest`` is short for this method with that function.

    A numeric column is given whole while its values are kept, else as the sample of the window's rows; a categorical one is made up from
    its counts. Beyond 100,000 rows it is that many, drawn at random. The verdict is exact when all rows were given. Rows come in an order
    that is drawn at random, the same one for the same rows: a function that looks at the first thousand only is not misled.

    What the ModelMonitor names here is imported when it is validated and by the monitor's workers, and nothing else ever is: who may
    write that document may run any code in these processes. Commands that compute no drift import nothing. A function that
    raises, or returns anything else, gives no score but an error in the report of that column.

    Cost: that of the function; up to 40 ms for 100,000 rows besides, and 5 s once in each process when Evidently is installed, to import it.

    Parameters
    ----------
    function
        Where it is: ``module:name``. The module must be importable wherever the monitor runs.
    threshold
        What the function is told; in the unit of its score. Evidently's default for a function is 0.05, too.
    direction
        How its score is read. ``p-value``: small means drift, and it is in [0, 1]. ``distance``: large means drift.

    Notes
    -----
    Misleads when the function depends on the order of rows, or draws at random without a seed: the same window may then score differently
    after a restart. On samples a p-value has the power of the sample only. Nearest neighbours: the methods of this catalogue that have
    Evidently's names, which need no rows.

    Examples
    --------
    >>> from detectors.statistics.column import ColumnSummary
    >>> old = ColumnSummary("c", "categorical", 10, counts={"a": 9, "b": 1})
    >>> new = ColumnSummary("c", "categorical", 10, counts={"a": 1, "b": 9})
    >>> psi = StatTestFunction(
    ...     function="evidently.legacy.calculations.stattests.psi:_psi", threshold=0.25, direction="distance"
    ... )
    >>> verdict = psi.compare(old, new)
    >>> round(verdict.score, 4), verdict.drifted
    (3.5156, True)

    References
    ----------
    Evidently's documentation, "Add a custom drift method".
    """

    direction: Direction = "p-value"  # type: ignore[misc] # of each function its own
    unit: ClassVar[str] = "the function's own"
    applies_to: ClassVar[frozenset[ColumnType]] = frozenset({"numeric", "categorical"})
    needs_values: ClassVar[bool] = True

    name: Literal["callable"] = "callable"
    function: str = Field(json_schema_extra={"pattern": SHORTHAND.pattern})
    threshold: float = 0.05

    @field_validator("function")
    @classmethod
    def _is_there(cls, function: str, info: ValidationInfo) -> str:
        if re.fullmatch(_FORM, function) is None:
            msg = f"{function!r} is not of the form module:function, for example 'mypackage.tests:my_stattest'"
            raise ValueError(msg)
        if info.context != UNRESOLVED:
            resolved(function)
        return function

    @property
    @override
    def label(self) -> str:
        return self.function

    @override
    def compare(self, reference: ColumnSummary, window: ColumnSummary) -> Verdict:
        """What the function says about one column.

        Raises
        ------
        NoAnswer
            When it returned no score and verdict, or wanted to end the process.
        NotApplicable
            When a numeric column has neither its values nor a sample of them, or a StatTest is not made for this type of column.
        Exception
            Whatever the function raises.
        """
        if reference.count == 0 or window.count == 0:
            return Verdict(math.nan, self.threshold, drifted=False)
        old, new, whole = _rows(reference, window)
        if len(old) == 0 or len(new) == 0:
            return Verdict(math.nan, self.threshold, drifted=False, exact=False)
        import pandas as pd

        test, kind = resolved(self.function), _feature_types()[window.type]
        if kind not in (made_for := getattr(test, "allowed_feature_types", None) or [kind]):
            msg = f"{self.function} is for columns of type {' and '.join(str(each.value) for each in made_for)}: name it in drift.columns"
            raise NotApplicable(msg)
        try:
            returned = test(pd.Series(old, name=reference.name), pd.Series(new, name=window.name), kind, self.threshold)
        except SystemExit as error:  # is no Exception, and would end the worker
            msg = f"{self.function} called sys.exit({error.code!r})"
            raise NoAnswer(msg) from error
        score, drifted = self._answer(returned)
        with np.errstate(over="ignore"):
            explanation = differences(reference, window)
        return Verdict(score, self.threshold, drifted, whole, explanation)

    def _answer(self, returned: Any) -> tuple[float, bool]:
        try:
            if hasattr(returned, "drift_score"):
                score, drifted = returned.drift_score, returned.drifted
            else:
                score, drifted = returned
            number, yes = np.asarray(score), np.asarray(drifted)
        except (TypeError, ValueError, AttributeError):
            number = yes = np.empty(0)
        if number.ndim or yes.ndim or number.dtype.kind not in "fiu" or yes.dtype.kind != "b":
            msg = f"{self.function} returned {reprlib.repr(returned)}: a stat test returns (score, drifted), a number and True or False"
            raise NoAnswer(msg)
        value = float(number)
        if math.isnan(value):
            msg = f"{self.function} returned the score nan: a score is a number"
            raise NoAnswer(msg)
        if self.direction == "p-value" and not 0 <= value <= 1:
            msg = f"{self.function} returned {value:g}, which is no p-value: write 'direction: distance' when large scores mean drift"
            raise NoAnswer(msg)
        return min(max(value, -sys.float_info.max), sys.float_info.max), bool(yes)


@lru_cache(maxsize=64)
def resolved(function: str) -> Callable[..., Any]:
    """The function that ``module:name`` names.

    Raises
    ------
    ValueError
        When it is not there, or is nothing that can be called as a stat test; its text says what would do.
    """
    module, _, name = function.partition(":")
    try:
        with warnings.catch_warnings():
            # What it uses that others are about to drop is its author's concern.
            warnings.simplefilter("ignore", DeprecationWarning)
            found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            msg = f"there is no module {error.name!r}: install it where the monitor runs, or put its directory on PYTHONPATH"
        else:
            msg = f"module {module!r} needs {error.name!r}, which is not installed where the monitor runs"
        raise ValueError(msg) from error
    except (Exception, SystemExit) as error:
        msg = f"module {module!r} cannot be imported: {type(error).__name__}: {error}"
        raise ValueError(msg) from error
    for part in name.split("."):
        if not hasattr(found, part):
            here = sorted(each for each, value in vars(found).items() if callable(value) and not each.startswith("_"))
            msg = f"module {module!r} has no {name!r}; it has: {', '.join(here) or 'no functions'}"
            raise ValueError(msg)
        found = getattr(found, part)
    if not callable(found):
        msg = f"{function!r} is no function: it is of type {type(found).__name__}"
        raise ValueError(msg)  # noqa: TRY004 - pydantic takes a ValueError for what is wrong with a setting
    try:
        inspect.signature(found).bind("reference", "current", "feature type", "threshold")
    except TypeError:
        msg = f"{function!r} cannot be called with (reference, current, feature_type, threshold), as Evidently calls a stat test"
        raise ValueError(msg) from None
    except ValueError:
        pass  # one that does not say what it takes
    return found  # type: ignore[no-any-return] # callable, see above


def _rows(reference: ColumnSummary, window: ColumnSummary) -> tuple[NDArray[Any], NDArray[Any], bool]:
    """The rows of both columns, each in an order drawn at random, and whether they are all."""
    if window.type == "numeric":
        old, all_old = some_values(reference, MOST_ROWS)
        new, all_new = some_values(window, MOST_ROWS)
        return _shuffled(old), _shuffled(new), all_old and all_new
    both = by_category(reference, window)
    keys = np.array(both.keys, object)
    before, now = _codes(both.reference), _codes(both.window)
    whole = both.exact and len(before) == reference.count and len(now) == window.count
    return keys[_shuffled(before)], keys[_shuffled(now)], whole


def _codes(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """So many times each category's place; at most `MOST_ROWS` of them, drawn at random."""
    times = countable(counts)
    if times.sum() > MOST_ROWS:
        times = generator(times).multivariate_hypergeometric(times, MOST_ROWS, method="marginals")
    return np.repeat(np.arange(len(times)), times)


def _shuffled(rows: NDArray[Any]) -> NDArray[Any]:
    mixed: NDArray[Any] = generator(rows).permutation(rows)
    return mixed


@lru_cache(maxsize=1)
def _feature_types() -> dict[ColumnType, Any]:
    """What Evidently calls the types of columns: members of its enumeration, or their texts where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from evidently.legacy.core import ColumnType as Theirs
    except ImportError:
        return {"numeric": "num", "categorical": "cat"}
    return {"numeric": Theirs.Numerical, "categorical": Theirs.Categorical}
