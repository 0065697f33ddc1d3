"""docs/honesty.md: its tables are written from benchmarks/results/honesty.json, between marks; its sentences are written by hand."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _results import FOLDER

PAGE = Path(__file__).parents[1] / "docs" / "honesty.md"
_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Row = dict[str, Any]
Tables = Mapping[str, Sequence[Row]]


def write() -> None:
    """Write the tables of the page anew."""
    PAGE.write_text(page(PAGE.read_text(), json.loads((FOLDER / "honesty.json").read_text())["tables"]))


def page(text: str, tables: Tables) -> str:
    """The page with these tables between its marks; what was not measured stays as it is."""

    def written(found: re.Match[str]) -> str:
        if found[2] != "findings" and found[2] not in tables:
            return found[0]
        return found[1] + "\n" + "\n".join(TABLES[found[2]](tables)) + "\n\n" + found[3]

    return _MARKED.sub(written, text)


def _table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def _rates(rows: Sequence[Row]) -> Iterator[str]:
    """A table for each kind of data, a line for each method."""
    for data, group in itertools.groupby(rows, key=lambda row: str(row["data"])):
        of_data = list(group)
        levels = list(dict.fromkeys(row["nominal"] for row in of_data))
        yield from ("", f"{data[0].upper()}{data[1:]}:", "")
        lines = []
        for method, its in itertools.groupby(of_data, key=lambda row: str(row["method"])):
            both = list(its)
            why = both[0]["why"]
            lines.append([f"`{method}`", f"{both[0]['trials']:,}", *map(_count, both), why or "yes"])
        yield from _table(
            ["method", "trials", *(f"{level * 100:g} %: alarms (chance allows), rate" for level in levels), "promised"],
            lines,
        )


def _count(row: Row) -> str:
    low, high = row["allowed"]
    off = "" if row["verdict"] == "within" else f", **{row['verdict']}**"
    single = "; single references " + " to ".join(map(_percent, row["of_references"])) if "of_references" in row else ""
    return f"{row['alarms']:,} ({low:,} to {high:,}), {_percent(row['rate'])}{off}{single}"


def _reference(tables: Tables) -> Iterator[str]:
    yield from _table(
        [
            *("rows of the reference", "rows of a window", "references x windows", "lowest rate", "highest", "mean"),
            *("standard deviation", "that of chance alone"),
        ],
        [
            [
                f"{row['reference_rows']:,}",
                str(row["window_rows"]),
                f"{row['references']} x {row['windows_each']}",
                *(_percent(row[key]) for key in ("lowest", "highest", "mean", "std", "std_by_chance_alone")),
            ]
            for row in tables["reference"]
        ],
    )


def _corrected(tables: Tables) -> Iterator[str]:
    yield from _table(
        ["columns", "windows", "promised at most", "false share of calls", "interval", "", "found of those that moved"],
        [
            [
                row["data"],
                f"{row['windows']:,}",
                _percent(row["promised_at_most"]),
                _percent(row["false_share"]),
                " to ".join(_percent(end) for end in row["interval"]),
                row["verdict"],
                "" if row["found_of_moved"] is None else _percent(row["found_of_moved"]),
            ]
            for row in tables["corrected"]
        ],
    )


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _sequential_false_alarms(tables: Tables) -> Iterator[str]:
    yield from _table(
        ["detector", "series", "false alarms per 10,000", "interval", "river's", "same places", "its docstring says"],
        [
            [
                f"`{row['detector']}`",
                row["data"],
                f"{row['per_10000']:.3g}",
                " to ".join(f"{end:.3g}" for end in row["interval_per_10000"]),
                _number(
                    None if not row.get("river_series") else row["river_alarms"] / row["river_series"],
                ),
                _same(row),
                ""
                if "within" not in row
                else f"{row['docstring_per_10000']:.3g}{'' if row['within'] else ', **not so**'}",
            ]
            for row in tables["sequential_false_alarms"]
        ],
    )


def _same(row: Row) -> str:
    same = row.get("same_alarms")
    return "" if same is None else "yes" if same else "no, other draws" if row["detector"] == "kswin" else "**no**"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _sequential_delays(tables: Tables) -> Iterator[str]:
    yield from _table(
        [
            "stream",
            "detector",
            "found",
            "median delay",
            "largest",
            "false per 10,000",
            "river: median delay",
            "same places",
        ],
        [
            [
                row["stream"],
                f"`{row['detector']}`",
                f"{row['found']} of {row['changes']}",
                _number(row["median_delay"]),
                _number(row["largest_delay"]),
                _number(row["false_per_10000"]),
                _number((row["river"] or {}).get("median_delay")),
                _same(row),
            ]
            for row in tables["sequential_delays"]
        ],
    )


def _windows(tables: Tables) -> Iterator[str]:
    yield from _table(
        [
            "stream",
            "method",
            "first verdict",
            "missed",
            "of changed windows",
            "of clean windows",
            "Evidently",
            "alibi-detect",
        ],
        [
            [
                row["stream"],
                f"`{row['method']}`",
                _number(row["median_windows"]),
                f"{row['missed']} of {row['changes']}",
                _share(row, "changed"),
                _share(row, "clean"),
                _beside(row, "evidently"),
                _beside(row, "alibi"),
            ]
            for row in tables["windows"]
        ],
    )


def _share(row: Row, which: str) -> str:
    windows = row[f"{which}_windows"]
    return _percent(row[f"{which}_called"] / windows) if windows else ""


def _beside(row: Row, who: str) -> str:
    theirs = row.get(who)
    if theirs is None:
        return ""
    other = row[f"{who}_other_verdicts"]
    if not other:
        return "the same verdicts"
    asked = f"{_number(theirs['median_windows'])}; {_share(theirs, 'changed')}; {_share(theirs, 'clean')}"
    return f"{other} other verdicts: {asked}"


def _tables(tables: Tables) -> Iterator[str]:
    yield from _table(
        ["stream", "method", "first verdict", "missed", "of changed windows", "of clean windows", "alibi-detect"],
        [
            [
                row["stream"],
                row["method"],
                _number(row["median_windows"]),
                f"{row['missed']} of {row['changes']}",
                _share(row, "changed"),
                _share(row, "clean"),
                _beside_table(row),
            ]
            for row in tables["tables"]
        ],
    )


def _beside_table(row: Row) -> str:
    theirs = row.get("alibi")
    if theirs is None:
        return ""
    said = "the same verdicts"
    if row.get("alibi_other_verdicts") != 0:
        said = f"{_number(theirs['median_windows'])}; {_share(theirs, 'changed')}; {_share(theirs, 'clean')}"
    return f"{row['alibi_as']}: {said}"


def findings(tables: Tables) -> list[str]:
    """What the tables come to, in sentences."""
    every = [row for key in RATES for row in tables.get(key, ())]
    rates = [row for row in every if row["promised"]]
    counts = Counter(row["verdict"] for row in rates)
    text = (
        f"{len(rates)} counts of alarms at a promised rate: {counts['within']} are within what chance allows, "
        f"{counts['below']} below, {counts['above']} above."
    )
    for verdict in ("above", "below"):
        those = (f"`{row['method']}` at {row['nominal'] * 100:g} %" for row in rates if row["verdict"] == verdict)
        if counts[verdict]:
            text += f" {verdict.capitalize()}: {', '.join(dict.fromkeys(those))}."
    lines = [text]
    # A promise that is taken back when it is broken was none: these belong beside the count.
    highest: dict[tuple[str, float], float] = {}
    for row in every:
        if not row["promised"] and row["verdict"] == "above":
            key = row["method"], row["nominal"]
            highest[key] = max(row["rate"], highest.get(key, 0.0))
    if highest:
        those = (f"`{name}` {_percent(rate)} for {_percent(level)}" for (name, level), rate in highest.items())
        lines.append(
            f"Not among them, since their tables say why they cannot keep the rate, and above it: {', '.join(those)}."
        )
    series = [row for key in ("sequential_false_alarms", "sequential_delays") for row in tables.get(key, ())]
    beside = [row for row in series if row.get("river_series") and row["detector"] != "kswin"]
    if beside:
        number = sum(row["river_series"] for row in beside)
        same = sum(row["river_series"] for row in beside if row["same_alarms"])
        lines.append(
            f"River's detectors alarm at the same places in {same} of {number} pairs of a detector and a series."
        )
    asked = [row for row in tables.get("windows", ()) if row.get("evidently")]
    if asked:
        other = sum(row["evidently_other_verdicts"] for row in asked)
        judged = sum(row["changed_windows"] + row["clean_windows"] for row in asked)
        far = max(row["evidently_largest_difference"] for row in asked)
        lines.append(
            f"Evidently's verdict is another one in {other} of {judged:,} judged windows; its scores differ by {far:.1g} at most."
        )
    return lines


def _findings(tables: Tables) -> Iterator[str]:
    yield from (f"- {line}" for line in findings(tables))
    packages = {row["package"]: row["version"] for row in tables["versions"]}
    yield (
        "- Versions: "
        + ", ".join(f"{name} {number}" for name, number in packages.items())
        + "; "
        + (
            "in the other environment "
            + ", ".join(f"{row['package']} {row['version']}" for row in tables["alibi"])
            + "."
            if tables.get("alibi")
            else "alibi-detect was not to be had."
        )
    )


RATES = ("values", "summaries", "multivariate", "outliers")
"""Tables of alarms at nominal rates."""
TABLES: dict[str, Callable[[Tables], Iterator[str]]] = {
    "findings": _findings,
    **{key: (lambda tables, key=key: _rates(tables[key])) for key in (*RATES, "warned")},  # type: ignore[misc]
    "reference": _reference,
    "corrected": _corrected,
    "sequential_false_alarms": _sequential_false_alarms,
    "sequential_delays": _sequential_delays,
    "windows": _windows,
    "tables": _tables,
}
