"""How late changes are found on streams whose changes are known: our detectors, and others' on the same numbers."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import _rivals as rivals
import numpy as np
import streams
from _false_alarms import CONFIDENCE, Tell, block, named, rounded
from numpy.typing import NDArray
from scipy import stats

from detectors.drift import DRIFT, default_method
from detectors.multivariate import MULTIVARIATE
from detectors.multivariate.base import Joint
from detectors.sequential import SEQUENTIAL
from detectors.sequential.cusum import Cusum
from detectors.sequential.kswin import Kswin
from detectors.statistics.column import ColumnSummary
from detectors.statistics.ruler import Ruler
from detectors.statistics.table import Plan, summarise
from detectors.verdict import adjusted

GENERATORS: tuple[streams.Generator, ...] = ("sea", "hyperplane", "friedman")
WITHIN = 2_000
"""Observations after the end of a change in which an alarm counts for it."""
OF_NUMBERS = ("cusum", "page_hinkley", "adwin", "kswin")
OF_ERRORS = ("ddm", "eddm", "hddm_a", "hddm_w", "adwin", "page_hinkley")
SLOW = ("kswin",)
"""River's takes 0.6 ms an observation: it is given one series only, of clean ones and of abrupt changes."""

REFERENCE, WINDOW, LEVEL = 1_000, 200, 0.05
ROWS = 10_000
NUMERIC: tuple[str | None, ...] = (None, "ks", "cramer_von_mises", "wasserstein", "jensenshannon", "psi")
CATEGORICAL: tuple[str | None, ...] = (None, "chisquare", "fisher_exact", "jensenshannon", "psi")
REFUSED = ("fisher_exact",)
"""Evidently refuses a window that is not as large as the reference."""


def alarms(name: str, series: NDArray[np.float64]) -> list[int]:
    """The observations at which our detector of this name alarms, at its defaults."""
    return [change.index for change in SEQUENTIAL[name]().start().update(series) if change.kind == "drift"]


# --- Observation by observation -------------------------------------------------------------------------------------------------------


def false_alarms(series: int, tell: Tell) -> list[dict[str, Any]]:
    """Alarms of the sequential detectors in series of 10,000 independent observations that never change, beside river's."""
    noise = [streams.clean(seed, ROWS).values for seed in range(series)]
    errors = [streams.bernoulli(seed, [(ROWS, 0.1)]).values for seed in range(series)]
    found = []
    for data, samples, names in (("standard normal", noise, OF_NUMBERS), ("errors at 10 %", errors, OF_ERRORS)):
        for name in names:
            ours = [alarms(name, one) for one in samples]
            theirs = _river(name, samples[:1] if name in SLOW else samples)
            found.append(_rate(name, data, sum(map(len, ours)), len(samples)) | _beside_river(ours, theirs))
            tell(len(samples))
    for setting, told in (
        (Cusum(mean=0.0, std=1.0), 1 / 465),
        (Kswin(), 1 / 800),
        (Kswin(alpha=1e-4), 1 / 12_000),
    ):
        count = sum(len(setting.start().update(one)) for one in noise)
        what = "known target" if setting.name == "cusum" else f"alpha {setting.alpha:g}"
        row = _rate(f"{setting.name}, {what}", "standard normal", count, series)
        low, high = row["interval_per_10000"]
        row |= {"docstring_per_10000": rounded(told * ROWS), "within": bool(low <= told * ROWS <= high)}
        found.append(row)
        tell(series)
    return found


def _rate(name: str, data: str, count: int, series: int) -> dict[str, Any]:
    """Exact Poisson interval: alarms of clean series are rare and nearly independent."""
    tail = (1 - CONFIDENCE) / 2
    low = stats.gamma.ppf(tail, count) if count else 0.0
    high = stats.gamma.isf(tail, count + 1)
    return {
        "detector": name,
        "data": data,
        "observations": series * ROWS,
        "alarms": count,
        "per_10000": rounded(count / series),
        "interval_per_10000": [rounded(float(low) / series), rounded(float(high) / series)],
    }


def _river(name: str, samples: Sequence[NDArray[np.float64]]) -> list[list[int]]:
    if name not in rivals.RIVER:
        return []
    return [rivals.river_alarms(name, one) for one in samples]


def _beside_river(ours: list[list[int]], theirs: list[list[int]]) -> dict[str, Any]:
    if not theirs:
        return {"river_alarms": None, "river_series": 0, "same_alarms": None}
    return {
        "river_alarms": sum(map(len, theirs)),
        "river_series": len(theirs),
        "same_alarms": ours[: len(theirs)] == theirs,
    }


def sequential(series: int, tell: Tell) -> list[dict[str, Any]]:
    """Delays of the sequential detectors, beside river's on the same series."""
    makers: list[tuple[str, Sequence[str], Callable[[int], streams.Stream]]] = [
        ("abrupt", OF_NUMBERS, streams.abrupt),
        ("gradual", OF_NUMBERS, streams.gradual),
        ("incremental", OF_NUMBERS, streams.incremental),
        ("recurring", OF_NUMBERS, streams.recurring),
        ("friedman, errors", OF_NUMBERS, lambda seed: _errors("friedman", seed)),
        ("errors from 10 % to 20 %", OF_ERRORS, streams.bernoulli),
        ("sea, errors", OF_ERRORS, lambda seed: _errors("sea", seed)),
        ("hyperplane, errors", OF_ERRORS, lambda seed: _errors("hyperplane", seed)),
    ]
    found = []
    for kind, names, make in makers:
        made = [make(seed) for seed in range(series)]
        for name in names:
            ours = [alarms(name, one.values) for one in made]
            asked = made if name not in SLOW else made[:1] if kind == "abrupt" else []
            theirs = _river(name, [one.values for one in asked])
            found.append(
                {
                    "stream": kind,
                    "detector": name,
                    "series": series,
                    **_delays(ours, made),
                    "river": _delays(theirs, made[: len(theirs)]) if theirs else None,
                    **_beside_river(ours, theirs),
                }
            )
            tell(series)
    return found


def _errors(generator: streams.Generator, seed: int) -> streams.Stream:
    """Errors of a linear model that learnt from the first thousand rows and knows no more; the concept changes at 5,000."""
    table = streams.concept(generator, seed, ROWS + REFERENCE, (REFERENCE + ROWS // 2,))
    return streams.errors(table, "linear", frozen_after=REFERENCE, skip=REFERENCE)


def _delays(found: Sequence[Sequence[int]], made: Sequence[streams.Stream]) -> dict[str, Any]:
    judgements = [streams.judged(one, stream, WITHIN) for one, stream in zip(found, made, strict=True)]
    delays = [delay for judgement in judgements for delay in judgement.delays]
    there = [delay for delay in delays if delay is not None]
    false, clean = (sum(getattr(one, what) for one in judgements) for what in ("false_alarms", "clean"))
    return {
        "changes": len(delays),
        "found": len(there),
        "median_delay": float(np.median(there)) if there else None,
        "largest_delay": max(there, default=None),
        "false_alarms": false,
        "false_per_10000": rounded(false / clean * 10_000) if clean else None,
    }


# --- Window by window -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a stream, and from where to where it is another one."""

    stream: str
    table: str
    """The columns of one table belong together."""
    values: NDArray[np.float64]
    """(ROWS,) numbers; errors are 0 and 1."""
    start: int | None = None
    """First row of the change; None when it never changes."""
    whole: int = ROWS
    """First row by which it has changed wholly."""
    end: int = ROWS
    """First row that is as in the beginning again."""
    errors: bool = False

    def truth(self) -> list[bool | None]:
        """Of each window: whether it has drifted; None where that is a matter of degree."""
        if self.start is None:
            return [False] * len(windows())
        start, whole, end = self.start, self.whole, self.end
        return [
            False if at + WINDOW <= start or at >= end else True if at >= whole and at + WINDOW <= end else None
            for at in windows()
        ]


def windows() -> range:
    """The first row of each window."""
    return range(REFERENCE, ROWS, WINDOW)


def columns(series: int) -> list[Column]:
    """Every column of every stream. The first rows are the reference; changes begin at 5,000 (4,000 where they recur)."""
    half, width, shift = ROWS // 2, 2_000, 0.3
    found = []
    for seed in range(series):
        plain = (
            (streams.abrupt(seed, ROWS, (half,), shift), half, ROWS),
            (streams.gradual(seed + 100, ROWS, (half,), width, shift), half + width, ROWS),
            (streams.incremental(seed + 200, ROWS, (half,), width, shift), half + width, ROWS),
            (streams.recurring(seed + 300, ROWS, 4_000, shift), 4_000, 8_000),
        )
        found += [
            Column(one.name, f"{one.name} {seed}", one.values, one.drifts[0], whole, end) for one, whole, end in plain
        ]
        for generator in GENERATORS:
            table = streams.covariate(generator, seed, ROWS, (half,))
            for j, values in enumerate(table.features.T):
                start = half if j in table.drifting else None
                found.append(Column(table.name, f"{table.name} {seed}", values, start, half))
            errors = _errors(generator, seed)
            name = f"{generator}, errors"
            # Hyperplane turns slowly: how far is far enough is a matter of degree.
            whole = ROWS if generator == "hyperplane" else half
            classified = generator != "friedman"
            found.append(Column(name, f"{name} {seed}", errors.values, half, whole, errors=classified))
    return found


Verdicts = dict[str, list[tuple[float, bool]]]
"""Method -> score and verdict of each window."""


def ours(column: Column) -> Verdicts:
    """Our verdicts from summaries, as the monitor makes them."""
    reference, *parts = _summaries(column)
    found: Verdicts = defaultdict(list)
    for window in parts:
        for name in CATEGORICAL if column.errors else NUMERIC:
            method = DRIFT[name]() if name else default_method(reference, window)
            verdict = method.compare(reference, window)
            found[name or "default"].append((verdict.score, verdict.drifted))
    return found


def _summaries(column: Column) -> Iterator[ColumnSummary]:
    pieces = [column.values[:REFERENCE], *(column.values[at : at + WINDOW] for at in windows())]
    if column.errors:
        for values in pieces:
            wrong = int(values.sum())
            counts = {name: n for name, n in (("right", len(values) - wrong), ("wrong", wrong)) if n}
            yield ColumnSummary("x", "categorical", len(values), distinct=len(counts), counts=counts)
        return
    plan = Plan(("x",), (), (Ruler.of(np.sort(pieces[0])),), percentiles=False, comoments=False)
    for values in pieces:
        yield summarise(plan, block(values[:, None])).column("x")


def evidently(column: Column) -> Verdicts:
    """Evidently's verdicts from the raw rows."""
    rows = np.where(column.values > 0, "wrong", "right") if column.errors else column.values
    names = [name for name in (CATEGORICAL if column.errors else NUMERIC) if name not in REFUSED]
    test = rivals.evidently_tests(rows[:REFERENCE], names)
    found: Verdicts = defaultdict(list)
    for at in windows():
        for name, answer in test(rows[at : at + WINDOW]).items():
            found[name].append(answer)
    return found


def by_window(series: int, tell: Tell) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, str]]:
    """Windows until the first verdict, and how many windows are judged rightly, beside Evidently's and alibi-detect's.

    Returns
    -------
    rows
        Of single columns.
    together
        Of whole tables.
    versions
        Of alibi-detect and what it uses; none when it is not to be had.
    """
    every = columns(series)
    said = []
    for column in every:
        said.append((ours(column), evidently(column)))
        tell(1)
    alibi = _alibi(every)
    tell(len(every) / 4)
    found = []
    for stream in dict.fromkeys(column.stream for column in every):
        here = [i for i, column in enumerate(every) if column.stream == stream]
        for method in said[here[0]][0]:
            mine = [said[i][0][method] for i in here]
            row: dict[str, Any] = {
                "stream": stream,
                "method": method,
                **_right([every[i] for i in here], [[drifted for _, drifted in one] for one in mine]),
            }
            others = {
                "evidently": [said[i][1].get(method) for i in here],
                "alibi": [alibi.get((i, method)) for i in here],
            }
            for who, theirs in others.items():
                row |= _beside(who, [every[i] for i in here], mine, [one for one in theirs if one is not None])
            found.append(row)
    return found, list(_tables(every, said, alibi, tell)), alibi.get("versions", {})


def _beside(who: str, those: Sequence[Column], mine: Sequence[Any], theirs: Sequence[Any]) -> dict[str, Any]:
    """What another makes of the same windows, and whether it is the same."""
    if len(theirs) < len(mine):
        return {who: None}
    pairs = [pair for a, b in zip(mine, theirs, strict=True) for pair in zip(a, b, strict=True)]
    return {
        who: _right(those, [[drifted for _, drifted in one] for one in theirs]),
        f"{who}_other_verdicts": sum(a[1] != b[1] for a, b in pairs),
        f"{who}_largest_difference": rounded(max(abs(a[0] - b[0]) for a, b in pairs)),
    }


def _right(those: Sequence[Column], called: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Delay in windows (the first that holds a changed row is 1), and calls among changed and clean windows."""
    delays, counts = [], {True: [0, 0], False: [0, 0]}
    for column, calls in zip(those, called, strict=True):
        for truth, call in zip(column.truth(), calls, strict=True):
            if truth is not None:
                counts[truth][0] += 1
                counts[truth][1] += call
        if column.start is not None:
            first = (column.start - REFERENCE) // WINDOW
            last = (column.end - REFERENCE) // WINDOW
            delays.append(next((k for k, call in enumerate(calls[first:last], 1) if call), None))
    there = [delay for delay in delays if delay is not None]
    return {
        "changes": len(delays),
        "missed": len(delays) - len(there),
        "median_windows": float(np.median(there)) if there else None,
        "changed_windows": counts[True][0],
        "changed_called": counts[True][1],
        "clean_windows": counts[False][0],
        "clean_called": counts[False][1],
    }


_CLASSIFIED = 2
"""Tables of each kind that classifiers are trained on, which takes them long."""


def _alibi(every: Sequence[Column]) -> dict[Any, Any]:
    """(place of the column, method) -> score and verdict of each window; and what it says of tables."""
    numbers = [i for i, column in enumerate(every) if not column.errors]
    errors = [i for i, column in enumerate(every) if column.errors]
    tables = _grouped(every)
    answer = rivals.alibi_verdicts(
        {
            "numbers": np.column_stack([every[i].values for i in numbers]),
            "errors": np.column_stack([every[i].values for i in errors]).astype(np.int64),
        },
        {
            "reference": REFERENCE,
            "window": WINDOW,
            "level": LEVEL,
            "tables": {name: [numbers.index(i) for i in those] for name, those in tables.items()},
            "classified": [name for name in tables if int(name.split()[-1]) < _CLASSIFIED],
            "classifier_level": 0.001,
        },
    )
    if answer is None:
        return {}
    found: dict[Any, Any] = {"versions": answer["versions"], "fdr": answer["fdr"], "classifier": answer["classifier"]}
    for name, those in (
        ("ks", numbers),
        ("cramer_von_mises", numbers),
        ("chisquare", errors),
        ("fisher_exact", errors),
    ):
        method = DRIFT[name]()
        for j, i in enumerate(those):
            found[i, name] = [(row[j], method.is_drift(row[j])) for row in answer[name]]
    return found


def _grouped(every: Sequence[Column]) -> dict[str, list[int]]:
    """The tables of several columns: name -> places of their columns."""
    tables: dict[str, list[int]] = defaultdict(list)
    for i, column in enumerate(every):
        tables[column.table].append(i)
    return {name: those for name, those in tables.items() if len(those) > 1}


def _tables(
    every: Sequence[Column], said: Sequence[Any], alibi: dict[Any, Any], tell: Tell
) -> Iterator[dict[str, Any]]:
    """Verdicts about whole tables: p-values corrected for their number, and the multivariate methods."""
    tables = _grouped(every)
    for stream, group in itertools.groupby(sorted(tables), key=lambda name: name.rsplit(" ", 1)[0]):
        names = list(group)
        # The first column is the one that changes.
        truth = [every[tables[name][0]] for name in names]
        calls = []
        for name in names:
            p = np.array([[score for score, _ in said[i][0]["ks"]] for i in tables[name]])
            calls.append([bool((adjusted(window) <= LEVEL).any()) for window in p.T.tolist()])
        row = {"stream": stream, "method": "ks of each column, corrected", **_right(truth, calls)}
        if alibi:
            theirs = [[bool(call) for call in alibi["fdr"][name]] for name in names]
            row |= {
                "alibi": _right(truth, theirs),
                "alibi_as": "KSDrift, correction fdr",
                "alibi_other_verdicts": sum(
                    a != b for x, y in zip(calls, theirs, strict=True) for a, b in zip(x, y, strict=True)
                ),
            }
        yield row
        for method in MULTIVARIATE:
            trees = method == "domain_classifier"
            some = [name for name in names if not trees or int(name.split()[-1]) < _CLASSIFIED]
            truth = [every[tables[name][0]] for name in some]
            calls = [_multivariate(method, np.column_stack([every[i].values for i in tables[name]])) for name in some]
            row = {"stream": stream, "method": method, **_right(truth, calls)}
            if alibi and trees:
                theirs = [[bool(call) for call in alibi["classifier"][name]] for name in some]
                row |= {"alibi": _right(truth, theirs), "alibi_as": "ClassifierDrift of the same trees, at 0.001"}
            yield row
            tell(len(some))


def _multivariate(name: str, rows: NDArray[np.float64]) -> list[bool]:
    detector, names = MULTIVARIATE[name](), named(rows.shape[1])
    reference = Joint.of(names, rows[:REFERENCE])
    embedding, fitted = detector.embedding(reference), detector.learn(reference)
    return [fitted.compare(Joint.of(names, rows[at : at + WINDOW], embedding)).drifted for at in windows()]
