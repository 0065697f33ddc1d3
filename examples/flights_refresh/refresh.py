"""A year of monthly refreshes on the flights of 2013, and one broken month: what the gate decided, as JSON and as a picture.

    python examples/flights_refresh/refresh.py [--out DIR] [--months 1-12]

The model is the demo's, trained on January. Every month's flights, with the model's predictions and whether they did arrive late, are refreshed by the
command that a schedule would call. In July the table first comes with its delays in seconds instead of minutes, and then as it should be.
"""

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streaming.markup import Markup, el
from workflows.cli import main as driftline
from workflows.demo.flights import FEATURES, Lateness, answers, flights, in_months

HERE = Path(__file__).parent
BROKEN = 7
_COLOURS = {"accept": "#2e8540", "warn": "#d9730d", "reject": "#b3261e"}
_SHADES = ("#edf2f7", "#d7e4f0", "#b7cfe5", "#8bb2d6", "#5b8fc0", "#2f6fab", "#1b4a78")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def table_of(model: Lateness, part: pa.Table) -> pa.Table:
    """The features of some flights that did arrive, the model's predictions, and whether they came late."""
    part = part.filter(pc.is_valid(part["late"]))
    said = answers(model.probability(part.to_pylist()))
    return pa.table(
        {
            **{name: part[name] for name in FEATURES},
            **{name: [one[name] for one in said] for name in ("arrival", "probability")},
            "was": pc.if_else(part["late"], "late", "on time"),
            "time": part["time"],
        }
    )


def in_seconds(table: pa.Table) -> pa.Table:
    """The same with its delays in seconds: what a changed export does."""
    place = table.schema.get_field_index("dep_delay")
    return table.set_column(place, "dep_delay", pc.multiply(table["dep_delay"].cast(pa.float64()), 60))


def refreshed(folder: Path, table: pa.Table, name: str) -> dict[str, Any]:
    """What one refresh comes to, and the judgement that it kept."""
    pq.write_table(table, folder / "flights.parquet")
    text = (HERE / "monitor.yaml").read_text()
    config, summary = folder / "monitor.yaml", folder / "summary.json"
    config.write_text(
        text.replace("store: driftline-baselines", f"store: {folder / 'baselines'}").replace(
            "url: flights.parquet", f"url: {folder / 'flights.parquet'}"
        )
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = driftline(["reference", "refresh", "--config", str(config), "--summary", str(summary)])
        done: dict[str, Any] = json.loads(summary.read_text())
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            driftline(["reference", "report", "--config", str(config), "--version", done["version"], "--json"])
        driftline(
            [
                "reference",
                "report",
                "--config",
                str(config),
                "--version",
                done["version"],
                "--out",
                str(folder / "reports"),
            ]
        )
    judgement = json.loads(out.getvalue())
    moved = {
        one["column"]: one["value"]
        for one in judgement["checks"]
        if one["check"] == "displacement" and one["value"] is not None
    }
    print(
        f"{name:>10}: {done['outcome']} ({done['decision']}), exit code {code}, {done['rows']:,} rows, {len(done['reasons'])} reasons"
    )
    for reason in done["reasons"] if done["decision"] == "reject" else ():
        print(f"            {reason}")
    return {
        "name": name,
        "exitCode": code,
        "moved": moved,
        "drifted": [judgement["driftedColumns"], judgement["judgedColumns"]],
        **{key: done[key] for key in ("outcome", "decision", "rows", "reasons", "columns")},
    }


def picture(rows: list[dict[str, Any]]) -> str:
    """Refreshes from left to right: the decision above, how far each column moved below."""
    columns = list(dict.fromkeys(column for row in rows for column in row["moved"]))
    left, top, step, line = 110.0, 78.0, 62.0, 24.0
    width, height = left + step * len(rows) + 20, top + line * len(columns) + 70
    marks: list[Markup] = [el("rect", x=0, y=0, width=width, height=height, fill="#fff")]
    for place, row in enumerate(rows):
        x = left + step * place + step / 2
        colour = _COLOURS[row["decision"]]
        drifted, judged = row["drifted"]
        marks.append(el("text", row["name"], x=x, y=18, text_anchor="middle", font_weight="600"))
        shape = (
            el("path", d=f"M{x - 7:g} {30:g}l14 14m0 -14l-14 14", stroke=colour, stroke_width=4, fill="none")
            if row["decision"] == "reject"
            else el("circle", cx=x, cy=37, r=8, fill=colour)
        )
        marks.append(el("g", el("title", f"{row['name']}: {row['outcome']} ({row['decision']})"), shape))
        marks.append(
            el("text", f"{drifted} of {judged}" if judged else "first", x=x, y=64, text_anchor="middle", fill="#56616d")
        )
        for index, column in enumerate(columns):
            value = row["moved"].get(column)
            if value is None:
                continue
            y = top + line * index
            shade = min(int(value * len(_SHADES)), len(_SHADES) - 1)
            to_blame = row["decision"] == "reject" and column in row["columns"]
            marks.append(
                el(
                    "rect",
                    el("title", f"{column}, {row['name']}: {value:.1%}"),
                    x=x - step / 2 + 1,
                    y=y,
                    width=step - 2,
                    height=line - 2,
                    fill=_SHADES[shade],
                    stroke=_COLOURS["reject"] if to_blame else None,
                    stroke_width=2.5 if to_blame else None,
                )
            )
            marks.append(
                el("text", f"{value:.2f}", x=x, y=y + 15, text_anchor="middle", fill="#fff" if shade > 3 else "#17202a")
            )
    marks.extend(
        el("text", column, x=left - 10, y=top + line * index + 15, text_anchor="end")
        for index, column in enumerate(columns)
    )
    marks.append(el("text", "drifted", x=left - 10, y=64, text_anchor="end", fill="#56616d"))
    x, y = left, height - 38
    for level, words in (
        ("accept", "accepted"),
        ("warn", "accepted, with warnings"),
        ("reject", "rejected: the old baseline stays"),
    ):
        marks.append(el("circle", cx=x + 6, cy=y - 4, r=6, fill=_COLOURS[level]))
        marks.append(el("text", words, x=x + 18, y=y))
        x += 40 + 7.2 * len(words)
    marks.append(
        el(
            "text",
            "Cells: displacement from the current baseline, 0 for the same distribution, 1 for nothing in common. Framed: why it was rejected.",
            x=left,
            y=height - 14,
            fill="#56616d",
        )
    )
    label = "Twelve monthly refreshes of a baseline: decisions, and how far each column moved"
    made = el(
        "svg",
        el("title", label),
        marks,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        font_family="system-ui, sans-serif",
        font_size="12",
        fill="#17202a",
    )
    return f"{made}\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("flights-refresh"))
    parser.add_argument("--months", default="1-12")
    asked = parser.parse_args(arguments)
    first, _, last = asked.months.partition("-")
    asked.out.mkdir(parents=True, exist_ok=True)
    every = flights()
    model = Lateness.trained(in_months(every, [1]))
    rows = []
    for month in range(int(first), int(last or first) + 1):
        table = table_of(model, in_months(every, [month]))
        if month == BROKEN:
            rows.append(refreshed(asked.out, in_seconds(table), f"{MONTHS[month - 1]} (s)"))
        rows.append(refreshed(asked.out, table, MONTHS[month - 1]))
    (asked.out / "refreshes.json").write_text(json.dumps(rows, indent=2) + "\n")
    (asked.out / "refreshes.svg").write_text(picture(rows))
    print(asked.out / "refreshes.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
