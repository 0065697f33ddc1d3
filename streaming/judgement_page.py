"""A judgement for people: one HTML page without network or script, and a run that a stock Evidently shows.

The page says the decision, the reasons, then every check that is not fine, every column with its old and new distribution, and all numbers. The
run has the ids that Evidently computes, as those of windows have (`streaming.snapshots`); importing that takes seconds, so it happens inside.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.distribution import distribution
from detectors.errors import NotApplicable
from detectors.statistics.column import ColumnSummary
from reference.baseline import SOURCES, Baseline, Source
from reference.describe import describe
from reference.gate import Level
from reference.judge import Check, Comparison, Judgement
from streaming.markup import Child, Markup, el, wire
from streaming.page_parts import card, figure, name_of, percent, plural, svg, table, when
from streaming.reports import Alarm, ColumnDrift, ColumnStatistics, Counts, Drift, HistogramBins, Statistics, Window

_BINS = 24
_TOP = 8
"""Categories that are drawn."""
_ROWS = 40
"""Columns that are drawn, the worst ones; the table of numbers has all."""
_REASONS = 8
"""Said at the top; the table below has all."""
_RANK: dict[Level, int] = {"reject": 0, "warn": 1, "accept": 2}
_SAID: dict[Level, tuple[str, str]] = {
    "accept": ("good", "Accepted"),
    "warn": ("warn", "Accepted with warnings"),
    "reject": ("bad", "Rejected"),
}


def report(judgement: Judgement, new: Baseline, current: Baseline | None) -> dict[str, bytes]:
    """The files that are kept beside a version: `report.html` and, where Evidently is installed, `snapshot.json`."""
    files = {"report.html": page(judgement, new, current).encode()}
    try:
        files["snapshot.json"] = evidently_run(judgement, new).encode()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "evidently":
            raise
    return files


# --- The run of Evidently ---------------------------------------------------------------------------------------------


def evidently_run(judgement: Judgement, new: Baseline) -> str:
    """The JSON of a stock Evidently snapshot: what Evidently would compute of the new training table against the current baseline."""
    from streaming.snapshots import snapshot

    drift = None if judgement.previous_rows is None else drift_record(judgement)
    run = json.loads(snapshot(drift, statistics_record(judgement, new)).dumps())
    run["name"] = f"{judgement.model}: baseline {judgement.version}"
    run["tags"] += ["judgement", f"decision: {judgement.decision}"]
    run["metadata"] |= {
        "decision": judgement.decision,
        "baseline": judgement.version,
        "reasons": "\n".join(judgement.reasons),
    }
    return json.dumps(run)


def drift_record(judgement: Judgement) -> Drift:
    """The comparisons as a window's record has them."""
    drifted = judgement.drifted_columns / judgement.judged_columns if judgement.judged_columns else 0.0
    over = drifted >= judgement.share_threshold
    return Drift(
        **_shared(judgement, "drift"),
        rows=judgement.rows,
        reference_rows=judgement.previous_rows or 0,
        columns=[_column(one) for one in judgement.comparisons],
        drifted_columns=judgement.drifted_columns,
        judged_columns=judgement.judged_columns,
        share=drifted,
        share_threshold=judgement.share_threshold,
        drifted=over,
        explanation={},
        multivariate=[],
        sequential=[],
        traffic=[],
        alarm=Alarm(raised=over, windows=int(over), min_windows=1),
    )


def statistics_record(judgement: Judgement, new: Baseline) -> Statistics:
    """The new baseline as a window's record has it."""
    columns = []
    for row in describe(new):
        column = new.columns(row["source"])[row["column"]]
        names = ("min", "max", "mean", "stddev", "p25", "p50", "p75")
        values = {name: row[name] for name in names} if column.type == "numeric" else {}
        columns.append(
            ColumnStatistics(
                name=column.name,
                source=row["source"],
                type=column.type,
                count=column.count,
                missing=column.missing,
                nonfinite=column.nonfinite,
                values=values,
                distribution=_histogram(column),
                categories=_counted(column),
            )
        )
    counts = Counts(
        requests=new.rows,
        responses=new.rows if new.response else 0,
        missing=sum(column.missing for column in columns),
        nonfinite=sum(column.nonfinite for column in columns),
        late=0,
        dead=0,
        outliers=0,
    )
    exact = all(c.values is not None for s in SOURCES for c in new.columns(s).values() if c.type == "numeric")
    return Statistics(**_shared(judgement, "statistics"), counts=counts, exact=exact, columns=columns)


def _shared(judgement: Judgement, kind: str) -> dict[str, Any]:
    return {
        "id": f"{judgement.model}/judgement/{judgement.version}/{judgement.previous or '-'}/{kind}",
        "model": judgement.model,
        "model_version": judgement.model_version,
        "detected_at": judgement.judged_at,
        "segment": "",
        "baseline": judgement.previous or judgement.version,
        "window": Window(judgement.judged_at, judgement.judged_at),
        "status": "final",
        "revision": 1,
    }


def _column(one: Comparison) -> ColumnDrift:
    return ColumnDrift(
        name=one.name,
        source=one.source,
        type=one.type,
        method=one.method,
        direction=one.direction,
        score=one.score,
        threshold=one.threshold,
        drifted=one.drifted,
        exact=one.exact,
        explanation=one.explanation,
        error=one.error,
        auto=one.auto,
    )


def _histogram(column: ColumnSummary) -> HistogramBins | None:
    if column.type != "numeric" or not column.count:
        return None
    edges = _edges([column])
    try:
        under = _under(column, edges)
    except NotApplicable:
        return None
    return HistogramBins(edges.tolist(), np.diff(under).tolist(), float(under[0]), float(column.count - under[-1]))


def _counted(column: ColumnSummary) -> dict[str, int] | None:
    """Every category, or none of them: the stock metric counts all."""
    if column.type != "categorical" or column.counts is None or column.unlisted:
        return None
    return {str(key): n for key, n in sorted(column.counts.items(), key=lambda item: (-item[1], str(item[0])))}


# --- The page ---------------------------------------------------------------------------------------------------------


def page(judgement: Judgement, new: Baseline, current: Baseline | None) -> str:
    """The page as a string."""
    words, said = _SAID[judgement.decision]
    compared = "there was no baseline to compare with"
    if judgement.previous_rows is not None:
        compared = f"compared with baseline {judgement.previous} of {judgement.previous_rows:,} rows"
    elif judgement.previous is not None:
        compared = f"baseline {judgement.previous} is current and cannot be read, so there was nothing to compare with"
    verdict = el(
        "div",
        el("p", said, class_="words"),
        el("p", _summary(judgement), class_="muted"),
        el("ul", [el("li", wire(reason, 400)) for reason in judgement.reasons[:_REASONS]])
        if judgement.reasons
        else None,
        class_=f"verdict {words}",
    )
    beyond = [check for check in judgement.checks if check.level != "accept"]
    body = el(
        "body",
        el(
            "header",
            el("h1", wire(judgement.model)),
            el(
                "p",
                "baseline ",
                el("code", judgement.version),
                f" of {judgement.rows:,} rows, model version ",
                wire(judgement.model_version),
                f", {compared}, judged {when(judgement.judged_at)} UTC",
                class_="muted",
            ),
        ),
        el(
            "main",
            verdict,
            card("Beyond a limit", "What made the decision.", _checks(beyond), wide=True) if beyond else None,
            _pictures(judgement, new, current),
            card("All checks", None, el("details", el("summary", plural(len(judgement.checks), "check")), _checks(judgement.checks)), wide=True),
        ),
    )  # fmt: skip
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="generator", content="driftline"),
        el("meta", name="color-scheme", content="light dark"),
        # Nothing is fetched, whatever stands in the training table.
        el(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'",
        ),
        el("title", f"{said}: baseline {judgement.version} of {judgement.model}"),
        el("style", Markup(_STYLE)),
    )
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


def _summary(judgement: Judgement) -> str:
    what = {
        "accept": "It may become the current baseline.",
        "warn": "It may become the current baseline; somebody should look.",
        "reject": "It does not become the current baseline unless somebody says why.",
    }[judgement.decision]
    if judgement.judged_columns:
        what += f" {judgement.drifted_columns} of {plural(judgement.judged_columns, 'column')} drifted."
    return what


def _checks(checks: Sequence[Check]) -> Markup:
    rows: list[list[Child]] = [
        [
            el("span", check.level, class_=f"tag {check.level}"),
            check.check,
            "" if check.column is None else wire(name_of(check.source or "request", check.column), 40),
            figure(check.value),
            figure(check.limit),
            wire(check.text, 300),
        ]
        for check in checks
    ]
    heads = ["level", "check", "column", "value", "limit", "what it says"]
    return table("Worst first", heads, rows, frozenset({3, 4}))


@dataclass(frozen=True)
class _Drawn:
    """One column of the page."""

    source: Source
    new: ColumnSummary
    old: ColumnSummary | None
    level: Level
    drift: Comparison | None


def _pictures(judgement: Judgement, new: Baseline, current: Baseline | None) -> Markup:
    levels: dict[tuple[Source | None, str | None], Level] = {}
    for check in reversed(judgement.checks):  # the worst comes last and stays
        levels[check.source, check.column] = check.level
    scored = {(one.source, one.name): one for one in reversed(judgement.comparisons)}
    drawn = [
        _Drawn(
            source,
            column,
            None if current is None else current.columns(source).get(name),
            levels.get((source, name), "accept"),
            scored.get((source, name)),
        )
        for source in SOURCES
        for name, column in new.columns(source).items()
    ]
    drawn.sort(key=lambda one: _RANK[one.level])
    note = "The new baseline is filled, the current one is the line." if current is not None else "Of the new baseline."
    if len(drawn) > _ROWS:
        note += f" The {_ROWS} worst of {len(drawn)}; all numbers are in the table below."
    return card("Columns", note, el("div", [_picture(one) for one in drawn[:_ROWS]], class_="multiples"))


def _picture(one: _Drawn) -> Markup:
    score = "" if one.drift is None or one.drift.score is None else f"{one.drift.method} {figure(one.drift.score)}"
    old = one.old if one.old is not None and one.old.type == one.new.type else None
    draw = _curves if one.new.type == "numeric" else _categories
    return el(
        "figure",
        el(
            "figcaption",
            el("b", wire(name_of(one.source, one.new.name), 30)),
            el("span", score, class_="now bad" if one.drift is not None and one.drift.drifted else "now"),
        ),
        draw(one.new, old),
        el("p", _numbers(one.new, old), class_="muted small"),
        class_=one.level,
    )


def _numbers(new: ColumnSummary, old: ColumnSummary | None) -> str:
    parts = []
    facts: list[tuple[str, Callable[[ColumnSummary], str]]] = [("missing", _missing)]
    if new.type == "numeric":
        facts = [("mean", lambda column: figure(column.mean)), *facts]
    for name, read in facts:
        now, before = read(new), None if old is None else read(old)
        parts.append(f"{name} {now}" if before is None or before == now else f"{name} {before} \u2192 {now}")
    return ", ".join(parts)


def _missing(column: ColumnSummary) -> str:
    return percent((column.missing + column.nonfinite) / max(column.count + column.missing + column.nonfinite, 1))


_W, _H = 300.0, 92.0


def _edges(columns: Sequence[ColumnSummary]) -> NDArray[np.float64]:
    """Bins over what all columns have between their 0.5th and 99.5th percentiles."""
    lows, highs = [], []
    for column in columns:
        known = distribution(column)
        corners, upto = known.corners, known.upto(known.corners) / known.total
        lows.append(corners[min(int(np.searchsorted(upto, 0.005)), len(corners) - 1)])
        highs.append(corners[min(int(np.searchsorted(upto, 0.995)), len(corners) - 1)])
    low, high = float(min(lows)), float(max(highs))
    if not low < high:
        low, high = low - 0.5, high + 0.5
    return np.unique(np.linspace(low, high, _BINS + 1))


def _under(column: ColumnSummary, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    known = distribution(column)
    under = known.below(edges)
    under[-1] = known.upto(edges[-1:])[0]
    return under


def _curves(new: ColumnSummary, old: ColumnSummary | None) -> Markup:
    columns = [column for column in (new, old) if column is not None and column.count]
    if not new.count:
        return el("p", "no values", class_="muted")
    try:
        edges = _edges(columns)
        shares = [np.diff(_under(column, edges)) / column.count for column in columns]
    except NotApplicable:
        return el("p", "its distribution was not kept", class_="muted")
    most = max(*(float(share.max()) for share in shares), 1e-9)
    x = np.linspace(0, _W, len(edges))
    base = _H - 16

    def steps(share: NDArray[np.float64]) -> Iterator[tuple[float, float]]:
        for (left, right), height in zip(pairwise(x.tolist()), share.tolist(), strict=True):
            y = base - (base - 4) * height / most
            yield left, y
            yield right, y

    filled = " ".join(f"{a:.1f},{b:.1f}" for a, b in [(0, base), *steps(shares[0]), (_W, base)])
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in steps(shares[1])) if len(shares) > 1 else None
    return svg(
        _H,
        f"Distribution of {new.name} from {figure(float(edges[0]))} to {figure(float(edges[-1]))}",
        el("polygon", points=filled, class_="area"),
        el("polyline", points=line, class_="line") if line else None,
        el("text", figure(float(edges[0])), x=0, y=_H - 3),
        el("text", figure(float(edges[-1])), x=_W, y=_H - 3, text_anchor="end"),
        width=_W,
        class_="multiple",
    )


def _categories(new: ColumnSummary, old: ColumnSummary | None) -> Markup:
    p = {str(key): n / max(new.count, 1) for key, n in (new.counts or {}).items()}
    q = {} if old is None else {str(key): n / max(old.count, 1) for key, n in (old.counts or {}).items()}
    # Those that changed most come first, then the most frequent ones.
    keys = sorted({**p, **q}, key=lambda key: (-abs(p.get(key, 0) - q.get(key, 0)), -p.get(key, 0), key))[:_TOP]
    keys.sort(key=lambda key: (-max(p.get(key, 0), q.get(key, 0)), key))
    most, step, left = max([*p.values(), *q.values(), 1e-9]), 13.0, 110.0
    marks: list[Markup] = []
    for line, key in enumerate(keys):
        y, scale = line * step, (_W - left) / most
        words = f"{key}: {percent(p.get(key, 0))}" + ("" if old is None else f", before {percent(q.get(key, 0))}")
        marks.append(el("text", key[:16] + ("…" if len(key) > 16 else ""), x=left - 6, y=y + 10, text_anchor="end"))
        marks.append(
            el("rect", el("title", words), x=left, y=y + 2, width=p.get(key, 0) * scale, height=9, class_="bar")
        )
        if old is not None:
            at = left + q.get(key, 0) * scale
            marks.append(el("line", x1=at, x2=at, y1=y, y2=y + 13, class_="line"))
    return svg(max(len(keys) * step, step) + 2, f"Categories of {new.name}", marks, width=_W, class_="multiple")


_STYLE = """
:root { --paper: #f5f6f8; --card: #fff; --ink: #17202a; --muted: #56616d; --line: #dfe4ea; --accent: #2f6fab; --fill: #b7cfe5;
  --good: #1d7a46; --warn: #8a5a00; --bad: #b3261e; --good-paper: #e6f4ea; --warn-paper: #fdf1d8; --bad-paper: #fce8e6; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #11151a; --card: #191f26; --ink: #e7ecf1; --muted: #9aa6b2; --line: #2c353f; --accent: #6ea8da; --fill: #2a4f70;
    --good: #6fcf97; --warn: #f2c46d; --bad: #ff8a7a; --good-paper: #14291d; --warn-paper: #2e2411; --bad-paper: #34191a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 1.2rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 0 0 .2rem; } p { margin: 0 0 .4rem; }
.muted { color: var(--muted); font-size: .88rem; } .small { font-size: .8rem; } header { margin-bottom: 1rem; }
.card, .verdict { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.1rem; margin: 0 0 1rem; }
.verdict { border-left: 6px solid var(--muted); } .verdict .words { font-size: 1.35rem; font-weight: 650; margin: 0; } .verdict ul { margin: .3rem 0 0; }
.verdict.good { border-left-color: var(--good); background: var(--good-paper); } .verdict.good .words { color: var(--good); }
.verdict.warn { border-left-color: var(--warn); background: var(--warn-paper); } .verdict.warn .words { color: var(--warn); }
.verdict.bad { border-left-color: var(--bad); background: var(--bad-paper); } .verdict.bad .words { color: var(--bad); }
.scroll { overflow-x: auto; } svg { display: block; width: 100%; height: auto; } svg text { fill: var(--muted); font-size: 11px; }
.area { fill: var(--fill); } .bar { fill: var(--fill); } .line { fill: none; stroke: var(--accent); stroke-width: 1.6; }
.multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(245px, 1fr)); gap: .8rem; align-items: start; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: .5rem .6rem .2rem; }
figure.reject { border-color: var(--bad); } figure.warn { border-color: var(--warn); }
figcaption { display: flex; gap: .4rem; align-items: baseline; font-size: .88rem; white-space: nowrap; }
figcaption b { overflow: hidden; text-overflow: ellipsis; } .now { margin-left: auto; font-variant-numeric: tabular-nums; color: var(--muted); }
.tag { font-weight: 650; } .now.bad, .tag.reject { color: var(--bad); } .tag.warn { color: var(--warn); } .tag.accept { color: var(--good); }
table { border-collapse: collapse; width: 100%; font-size: .88rem; } caption { text-align: left; color: var(--muted); padding: .3rem 0; }
th, td { text-align: left; padding: .32rem .6rem .32rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--muted); font-weight: 500; white-space: nowrap; } summary { cursor: pointer; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
@media print { body { max-width: none; background: #fff; } .card, .verdict, figure { break-inside: avoid; } }
"""
