"""The one page that shows everything: one HTML file, no network, no script needed, light or dark as the reader's system.

Pictures are inline SVG. Everything that has to do with time shares one horizontal scale, so a column of the heat map
stands under its window in the timeline. When there are more windows than columns, a column is the worst of its windows.
Up is always drift: distances are drawn as they are, p-values on a logarithmic scale upside down.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from streaming.board import SEGMENTS, Board, Entry, Key
from streaming.markup import Child, Markup, el, wire
from streaming.page_parts import (
    NOTHING,
    card,
    figure,
    name_of,
    percent,
    period,
    plural,
    ratio_of,
    severity,
    svg,
    when,
)
from streaming.page_performance import beyond, judged, labels_of, performance, worded
from streaming.page_tables import (
    dead_letters,
    events,
    latest_window,
    newest,
    outliers,
    segments,
    series,
    together,
    traffic,
)
from streaming.page_time import LEFT, Column, arranged, label, new_baselines, step_of, ticks
from streaming.reports import ColumnDrift, Performance, Statistics

_ROWS = 40
"""Features in the heat map, the worst ones."""
_MULTIPLES = 24
"""Small charts, of the worst features."""
_OF_SEGMENT = 6
"""Small charts of each segment."""
_FLOOR = 1e-12
"""Smaller p-values are drawn as this."""


def page(board: Board, *, version: str, sliding: bool, live: bool, now: datetime) -> str:
    """The page as a string.

    Parameters
    ----------
    version
        Of the model.
    sliding
        Whether windows overlap, so that their rows cannot be added up.
    live
        Whether somebody keeps rewriting the page: it then offers to reload itself.
    now
        When it was written.
    """
    shown = board.shown()
    overview = segments(board, list(shown)) if len(board.windows) > 1 else None
    sections = [
        _segment(segment, windows, overview if not number else None, sliding=sliding, anchor=f"segment-{number}")
        for number, (segment, windows) in enumerate(shown.items())
    ]
    if not sections:
        waiting = "No window has been reported yet. The page fills as soon as the monitor writes its first one."
        sections = [el("section", el("p", waiting, class_="empty"), class_="card")]
    hidden = len(board.windows) - len(shown)
    body = el(
        "body",
        el(
            "header",
            el("div", el("h1", wire(board.model)), el("p", *_subtitle(board, version), class_="muted")),
            el(
                "div",
                el("p", f"written {now.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC", class_="muted"),
                el("label", el("input", type="checkbox", id="follow", checked="checked"), " reload every 5 s")
                if live
                else None,
                class_="right",
            ),
        ),
        el(
            "main",
            _silence(board),
            sections,
            el(
                "p",
                f"{hidden} more segments are in the table above and in the Evidently workspace; the page shows {SEGMENTS} in detail.",
                class_="muted",
            )
            if hidden
            else None,
            events(board),
            outliers(board),
            dead_letters(board),
            _legend(),
        ),
        el("script", Markup(_SCRIPT)) if live else None,
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="generator", content="driftline"),
        el("meta", name="color-scheme", content="light dark"),
        # Nothing is fetched, whatever came over the wire.
        el(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
        ),
        el("title", f"{_headline(board, shown)}{board.model}"),
        el("style", Markup(_STYLE)),
    )
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


# --- Words and numbers -----------------------------------------------------------------------------------------------


def _class(column: ColumnDrift) -> str:
    """Colour of a cell: four cool ones below the threshold, four warm ones of drift."""
    ratio = ratio_of(column)
    if ratio is None:
        return "none"
    if column.drifted:
        # Drift below the threshold is drift out of the reference's range: as bad as it gets.
        return "h3" if ratio < 1 else f"h{sum(ratio >= limit for limit in (1.5, 2.5, 5))}"
    return f"c{sum(ratio >= limit for limit in (0.25, 0.5, 0.75))}"


def _scored(column: ColumnDrift) -> str:
    sign = "p" if column.direction == "p-value" else "distance"
    return f"{column.method}: {sign} {figure(column.score)}, threshold {figure(column.threshold)}"


def _headline(board: Board, shown: dict[str, dict[Key, Entry]]) -> str:
    """What a browser's tab says: the worst first."""
    if board.silent() is not None:
        return "▲ no traffic · "
    latest = {segment: found[1] for segment, windows in shown.items() if (found := newest(windows)) is not None}
    said = []
    if (whole := next(iter(latest.values()), None)) is not None and whole.drifted:
        said.append("drift")
    elif drifted := sum(drift.drifted for drift in latest.values()):
        said.append(f"drift in {plural(drifted, 'segment')}")
    alarms = [segment for segment, windows in shown.items() if any(one.alarm.raised for _, one in judged(windows))]
    if alarms:
        said.append("performance" if "" in alarms else f"performance in {plural(len(alarms), 'segment')}")
    if said:
        return f"▲ {', '.join(said)} · "
    return "no drift · " if latest else ""


def _silence(board: Board) -> Markup | None:
    if (event := board.silent()) is None:
        return None
    return el(
        "div",
        el("p", el("span", "▲", class_="mark", aria_hidden="true"), " No traffic", class_="words"),
        el("p", wire(event.message, 200), f" · told at {when(event.detected_at)} UTC", class_="muted"),
        class_="verdict bad",
    )


def _subtitle(board: Board, version: str) -> Iterator[Child]:
    yield "model version "
    yield wire(version)
    baselines = list(dict.fromkeys(key.baseline for windows in board.windows.values() for key in windows))
    if baselines:
        yield " · baseline "
        yield wire(baselines[-1])
        if len(baselines) > 1:
            yield f" (the last of {len(baselines)})"


# --- One segment -----------------------------------------------------------------------------------------------------


def _segment(segment: str, windows: dict[Key, Entry], overview: Markup | None, *, sliding: bool, anchor: str) -> Markup:
    columns = arranged(windows)
    features = _ranking(columns)
    parts = [
        _verdict(segment, windows),
        _tiles(windows, sliding=sliding),
        overview,
        card(
            "Drift over time",
            "Share of the features that drifted, window by window; drifted windows carry a mark.",
            _timeline(columns),
            _bars(columns, "Requests in the window", "volume", lambda s: s.counts.requests, max),
            _bars(columns, "Flagged instances (outliers)", "outlier", lambda s: s.counts.outliers, sum),
            wide=True,
        ),
        performance(windows, columns),
        *(_features(columns, features) if features else ()),
        latest_window(windows),
        together(windows),
        series(windows),
        traffic(windows),
    ]
    name = f"segment {segment}" if segment else "all requests"
    return el("section", parts, id=anchor, class_="segment", aria_label=name)


def _features(columns: Sequence[Column], features: Sequence[tuple[str, str]]) -> Iterator[Markup]:
    yield card(
        "Features and windows",
        "Each cell is a score beside its threshold: blue below it, orange to red at it and beyond."
        + (f" The {_ROWS} worst of {len(features)} features." if len(features) > _ROWS else ""),
        _heat_map(columns, features[:_ROWS]),
        wide=True,
    )
    yield card(
        "Scores and thresholds",
        "Up is drift; the dashed line is the threshold; p-values are drawn on a logarithmic scale.",
        el("div", list(_multiples(columns, features)), class_="multiples"),
    )


def _verdict(segment: str, windows: dict[Key, Entry]) -> Markup:
    name = el("h2", "Segment ", wire(segment), class_="name") if segment else None
    quality = _quality(windows)
    latest = newest(windows)
    if latest is None:
        nothing = el("p", "Statistics only: no drift method is configured.") if quality is None else None
        return el("div", name, nothing, quality, class_="verdict bad" if quality else "verdict")
    key, drift = latest
    total = drift.judged_columns
    if drift.unjudged is not None:
        mark, words, kind = "○", "Not compared with the reference", ""
    elif drift.drifted:
        mark, words, kind = "▲", f"Drift: {drift.drifted_columns} of {plural(total, 'feature')}", "bad"
    elif drift.drifted_columns:
        mark, words, kind = (
            "◆",
            f"{drift.drifted_columns} of {plural(total, 'feature')} drifted, below the alarm",
            "warn",
        )
    elif total:
        mark, words, kind = "●", f"No drift in any of {plural(total, 'feature')}", "good"
    else:
        mark, words, kind = "○", "No feature is compared", ""
    worst = sorted((c for c in drift.columns if c.drifted), key=severity, reverse=True)
    names = list(dict.fromkeys(name_of(c.source, c.name) for c in worst))
    rows = plural(drift.rows, "row")
    return el(
        "div",
        name,
        el("p", el("span", mark, class_="mark", aria_hidden="true"), f" {words}", class_="words"),
        el("p", wire(drift.unjudged, 300)) if drift.unjudged else None,
        quality,
        el(
            "p",
            f"{'window' if drift.status == 'final' else 'window in progress'} {period(key)} UTC, ",
            rows if drift.unjudged else f"{rows} against {figure(drift.reference_rows)} of the reference",
            class_="muted",
        ),
        el("p", [el("span", wire(name, 40), class_="chip") for name in names[:12]]) if names else None,
        class_=f"verdict {'bad' if quality else kind}".rstrip(),
    )


def _quality(windows: dict[Key, Entry]) -> Markup | None:
    """What is beyond a limit of performance in the newest windows that can be judged."""
    lines = [
        el(
            "p",
            el("span", "▲", class_="mark", aria_hidden="true"),
            f" Performance: {beyond(record)} ",
            el("span", f"window {period(key)} UTC, {_by(record)}", class_="muted"),
            class_="beyond",
        )
        for key, record in judged(windows)
        if record.alarm.raised
    ]
    return el("div", lines) if lines else None


def _by(record: Performance) -> str:
    return f"{labels_of(record)} labels" if record.alarm.judged_by == "labels" else "estimated, labels are missing"


def _tiles(windows: dict[Key, Entry], *, sliding: bool) -> Markup:
    drifts = [entry.drift for entry in windows.values() if entry.drift is not None and entry.drift.status == "final"]
    counts = [entry.statistics.counts for entry in windows.values() if entry.statistics is not None]
    last = counts[-1:]
    considered = last if sliding else counts
    where = "newest window" if sliding else "on this page"
    drifted = Counter(
        name_of(source, name)
        for drift in drifts
        for source, name in {(c.source, c.name) for c in drift.columns if c.drifted}
    )
    (favourite, times), *_ = drifted.most_common(1) or [("", 0)]
    closed = sum(entry.final for entry in windows.values())
    alarms = sum(drift.alarm.raised for drift in drifts)
    open_ = len(windows) - closed
    tiles: list[tuple[str, Child, str]] = [
        ("Windows", figure(closed), f"{open_} in progress" if open_ else "all closed"),
        ("Drift alarms", figure(alarms), percent(alarms / closed) + " of the windows" if closed else ""),
        (
            "Drifts most often",
            wire(favourite, 24) if times else NOTHING,
            f"in {plural(times, 'window')}" if times else "",
        ),
        ("Requests", figure(sum(c.requests for c in considered)), where),
        ("Outliers", figure(sum(c.outliers for c in considered)), where),
        *_performance_tile(windows),
        ("Late, dead", f"{figure(sum(c.late for c in counts))}, {figure(sum(c.dead for c in counts))}", "messages"),
    ]
    return el(
        "dl",
        [
            el("div", el("dt", name), el("dd", value), el("dd", note, class_="muted"), class_="tile")
            for name, value, note in tiles
        ],
        class_="tiles",
    )


def _performance_tile(windows: dict[Key, Entry]) -> Iterator[tuple[str, Child, str]]:
    """The first metric of the newest windows that can be judged."""
    found = [record for _, record in judged(windows) if record.metrics]
    if found:
        record, metric = found[0], next(iter(found[0].metrics))
        note = f", then {worded(found[1], metric)}" if len(found) > 1 else ""
        yield metric, worded(record, metric), f"{_by(record)}{note}"


def _ranking(columns: Sequence[Column]) -> list[tuple[str, str]]:
    """Features, the one that drifted most often first."""
    scores: dict[tuple[str, str], list[float]] = {}
    for column in columns:
        for feature, (_, drift) in column.cells.items():
            drifted, ratio = severity(drift)
            score = scores.setdefault(feature, [0.0, 0.0])
            score[0] += drifted
            score[1] = max(score[1], ratio)
    return sorted(scores, key=lambda feature: [-value for value in scores[feature]])


# --- Pictures --------------------------------------------------------------------------------------------------------


def _timeline(columns: Sequence[Column]) -> Markup:
    top, height = 16.0, 110.0
    bottom, step = top + height, step_of(columns)
    right = LEFT + step * len(columns)
    marks: list[Markup] = []
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * height
        marks.append(el("line", x1=LEFT, x2=right, y1=y, y2=y, class_="grid"))
        marks.append(label(LEFT - 8, y + 4, percent(share)))
    threshold = None
    for number, column in enumerate(columns):
        if column.worst is None:
            continue
        key, drift = column.worst
        threshold = drift.share_threshold
        x, size = LEFT + number * step, max(drift.share * height, 2.0)
        words = f"{period(key)} UTC: {drift.drifted_columns} of {plural(drift.judged_columns, 'feature')} drifted"
        if drift.unjudged is not None:
            words = f"{period(key)} UTC: not compared; {drift.unjudged[:300]}"
        if len(column.windows) > 1:
            words += f" (the worst of {len(column.windows)} windows)"
        if column.open:
            words += ", in progress"
        what = "bad" if drift.drifted else "unjudged" if drift.unjudged is not None else "ok"
        kind = f"bar {what}{' open' if column.open else ''}"
        marks.append(
            el("rect", el("title", words), x=x, y=bottom - size, width=step * 0.86, height=size, class_=kind),
        )
        if drift.drifted:
            middle, y = x + step * 0.43, bottom - size - 3
            half = min(step * 0.4, 5.0)
            points = f"{middle - half:.1f},{y:.1f} {middle + half:.1f},{y:.1f} {middle:.1f},{y - 2 * half:.1f}"
            marks.append(el("polygon", el("title", words), points=points, class_="alarm"))
    if threshold is not None:
        y = bottom - threshold * height
        title = el("title", f"alarm from {percent(threshold)} of the features on")
        marks.append(el("line", title, x1=LEFT, x2=right, y1=y, y2=y, class_="threshold"))
    marks.append(label(10, top + 4, "drifted features", "start"))
    marks.extend(new_baselines(columns, bottom))
    marks.extend(ticks(columns, bottom))
    return svg(bottom + 22, "Share of drifted features by window", marks)


def _bars(
    columns: Sequence[Column],
    title: str,
    kind: str,
    value: Callable[[Statistics], int],
    together: Callable[[list[int]], int],
) -> Markup | None:
    values = [[value(statistics) for _, statistics in column.statistics] for column in columns]
    heights = [together(numbers) if numbers else 0 for numbers in values]
    if not any(values):
        return None
    top, height = 8.0, 44.0
    bottom, step = top + height, step_of(columns)
    most = max(*heights, 1)
    marks = [
        el("line", x1=LEFT, x2=LEFT + step * len(columns), y1=bottom, y2=bottom, class_="grid"),
        label(LEFT - 8, top + 8, figure(most)),
        label(LEFT - 8, bottom + 2, "0"),
        label(10, top + 8, title.partition(" ")[0].lower(), "start"),
    ]
    for number, (column, size) in enumerate(zip(columns, heights, strict=True)):
        if size:
            words = f"{column.span} UTC: {figure(size)}"
            y = size / most * height
            marks.append(
                el(
                    "rect",
                    el("title", words),
                    x=LEFT + number * step,
                    y=bottom - y,
                    width=step * 0.86,
                    height=y,
                    class_=f"bar {kind}{' open' if column.open else ''}",
                ),
            )
    return svg(bottom + 8, f"{title} by window", marks)


def _heat_map(columns: Sequence[Column], features: Sequence[tuple[str, str]]) -> Markup:
    row, step = 19.0, step_of(columns)
    marks: list[Markup] = []
    for line, feature in enumerate(features):
        y = line * row
        marks.append(label(LEFT - 8, y + 13, name_of(*feature)))
        for number, column in enumerate(columns):
            found = column.cells.get(feature)
            if found is None:
                continue
            key, drift = found
            words = f"{name_of(*feature)}, {period(key)} UTC\n{_scored(drift)}{', DRIFT' if drift.drifted else ''}"
            marks.append(
                el(
                    "rect",
                    el("title", words),
                    x=LEFT + number * step,
                    y=y,
                    width=max(step - 1, 0.8 * step),
                    height=row - 1.5,
                    class_=_class(drift),
                ),
            )
    bottom = row * len(features)
    marks.extend(new_baselines(columns, bottom))
    marks.extend(ticks(columns, bottom))
    return svg(bottom + 22, "Drift score of every feature in every window", marks, class_="chart heat")


def _multiples(columns: Sequence[Column], features: Sequence[tuple[str, str]]) -> Iterator[Markup]:
    """A small chart for each method of each feature, the worst features first."""
    most = left = _OF_SEGMENT if columns[0].windows[0][0].segment else _MULTIPLES
    for feature in features:
        series: dict[str, list[tuple[int, Key, ColumnDrift]]] = {}
        for number, column in enumerate(columns):
            worst: dict[str, tuple[Key, ColumnDrift]] = {}
            for key, drift in column.drifts:
                for score in drift.columns:
                    if (score.source, score.name) == feature and score.score is not None:
                        known = worst.get(score.method)
                        if known is None or severity(score) > severity(known[1]):
                            worst[score.method] = key, score
            for method, (key, score) in worst.items():
                series.setdefault(method, []).append((number, key, score))
        for method, points in series.items():
            if left:
                left -= 1
                yield _multiple(feature, method, points, len(columns))
    if not left:
        yield el("p", f"The {most} worst; the heat map and the workspace have the others.", class_="muted")


def _multiple(
    feature: tuple[str, str],
    method: str,
    points: Sequence[tuple[int, Key, ColumnDrift]],
    total: int,
) -> Markup:
    width, top, height = 300.0, 8.0, 76.0
    left, right = 4.0, width - 40
    logarithmic = points[-1][2].direction == "p-value"

    def up(value: float) -> float:
        return -math.log10(min(max(value, _FLOOR), 1.0)) if logarithmic else max(value, 0.0)

    heights = [up(score.score or 0.0) for _, _, score in points]
    threshold = points[-1][2].threshold
    most = max(*heights, up(threshold) * 1.3, 1e-9)
    scale = height / most

    def place(number: int, value: float) -> tuple[float, float]:
        return left + (right - left) * number / max(total - 1, 1), top + height - value * scale

    line = [place(number, value) for (number, _, _), value in zip(points, heights, strict=True)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
    base = top + height
    area = f"{line[0][0]:.1f},{base:.1f} {path} {line[-1][0]:.1f},{base:.1f}"
    y = top + height - up(threshold) * scale
    dots = []
    for (x, v), (_, key, score) in zip(line, points, strict=True):
        words = f"{period(key)} UTC\n{_scored(score)}{', DRIFT' if score.drifted else ''}"
        dots.append(
            el("circle", el("title", words), cx=x, cy=v, r=2.6, class_="dot bad" if score.drifted else "dot"),
        )
    drifted = sum(score.drifted for _, _, score in points)
    last = points[-1][2]
    sign = "p" if logarithmic else ""
    return el(
        "figure",
        el(
            "figcaption",
            el("b", wire(name_of(*feature), 30)),
            el("span", f" {method}", class_="muted"),
            el(
                "span",
                f"{sign + ' ' if sign else ''}{figure(last.score)}",
                class_="now bad" if last.drifted else "now",
            ),
        ),
        svg(
            base + 4,
            f"{name_of(*feature)}, {method}: drifted in {drifted} of {len(points)}, now {figure(last.score)}, "
            f"threshold {figure(threshold)}",
            el("line", x1=left, x2=right, y1=base, y2=base, class_="grid"),
            el("polygon", points=area, class_="area"),
            el("line", x1=left, x2=right, y1=y, y2=y, class_="threshold"),
            el("text", figure(threshold), x=right + 5, y=y + 4),
            el("polyline", points=path, class_="line"),
            dots,
            width=width,
            class_="multiple",
        ),
        class_="alarming" if drifted else None,
    )


def _legend() -> Markup:
    scale = [
        ("c0", "far below its threshold"),
        ("c1", ""),
        ("c2", ""),
        ("c3", "just below"),
        ("h0", "drift: at the threshold"),
        ("h1", "1.5 times"),
        ("h2", "2.5 times"),
        ("h3", "5 times and beyond, or outside the reference's range"),
    ]
    return card(
        "How to read this page",
        None,
        el(
            "ul",
            [el("li", el("span", class_=f"swatch {kind}"), f" {words}", class_=kind) for kind, words in scale],
            class_="legend",
        ),
        el(
            "p",
            "Distances are compared with their thresholds by ratio, p-values by the ratio of their logarithms. A window is "
            "an alarm when the share of its drifted features reaches the dotted line. Pale bars are windows in progress. "
            "Point at anything to see its numbers. Every closed window is also a run in the Evidently workspace.",
            class_="muted",
        ),
    )


_SCRIPT = """
(function () {
  var box = document.getElementById("follow"), key = "driftline-follow";
  try { box.checked = sessionStorage.getItem(key) !== "no"; } catch (e) { }
  box.addEventListener("change", function () {
    try { sessionStorage.setItem(key, box.checked ? "yes" : "no"); } catch (e) { }
  });
  setInterval(function () { if (box.checked) { location.reload(); } }, 5000);
})();
"""

_STYLE = """
:root { --paper: #f5f6f8; --card: #fff; --ink: #17202a; --muted: #56616d; --line: #dfe4ea; --accent: #2f6fab;
  --good: #1d7a46; --warn: #8a5a00; --bad: #b3261e; --good-paper: #e6f4ea; --warn-paper: #fdf1d8; --bad-paper: #fce8e6;
  --c0: #edf2f7; --c1: #d7e4f0; --c2: #b7cfe5; --c3: #8bb2d6; --h0: #f7b267; --h1: #ee8434; --h2: #d6491c; --h3: #9c1c0c; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #11151a; --card: #191f26; --ink: #e7ecf1; --muted: #9aa6b2; --line: #2c353f; --accent: #6ea8da;
    --good: #6fcf97; --warn: #f2c46d; --bad: #ff8a7a; --good-paper: #14291d; --warn-paper: #2e2411; --bad-paper: #34191a;
    --c0: #1f2831; --c1: #233a4e; --c2: #2a4f70; --c3: #356892; --h0: #a9682a; --h1: #d9762c; --h2: #f25f2e; --h3: #ff3b30; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 1.2rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
header { display: flex; justify-content: space-between; gap: 1rem; align-items: end; flex-wrap: wrap; margin-bottom: 1rem; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 0 0 .2rem; } p { margin: 0 0 .4rem; }
.muted { color: var(--muted); font-size: .88rem; } .right { text-align: right; font-size: .88rem; } .empty { color: var(--muted); }
.card, .verdict { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.1rem; margin: 0 0 1rem; }
.verdict { border-left: 6px solid var(--muted); } .verdict .words { font-size: 1.35rem; font-weight: 650; margin: 0; }
.verdict .beyond { color: var(--bad); font-weight: 650; margin: .2rem 0; } .beyond .muted { font-weight: 400; }
.verdict.good { border-left-color: var(--good); background: var(--good-paper); } .verdict.good .words { color: var(--good); }
.verdict.warn { border-left-color: var(--warn); background: var(--warn-paper); } .verdict.warn .words { color: var(--warn); }
.verdict.bad { border-left-color: var(--bad); background: var(--bad-paper); } .verdict.bad .words { color: var(--bad); }
.chip { display: inline-block; border: 1px solid var(--bad); color: var(--bad); border-radius: 99px; padding: 0 .6rem; margin: .15rem .3rem 0 0; font-size: .85rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem; margin: 0 0 1rem; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .7rem .9rem; }
.tile dt { color: var(--muted); font-size: .82rem; } .tile dd { margin: 0; } .tile dt + dd { font-size: 1.45rem; font-weight: 600; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
a { color: var(--accent); } .scroll { overflow-x: auto; } svg { display: block; } svg text { fill: var(--muted); font-size: 11.5px; }
.chart { width: 100%; min-width: 720px; height: auto; } .grid { stroke: var(--line); } .axis { stroke: var(--muted); }
.threshold { stroke: var(--bad); stroke-dasharray: 4 3; stroke-width: 1.3; } .baseline { stroke: var(--ink); stroke-dasharray: 1 3; stroke-width: 1.5; }
.bar.ok { fill: var(--c3); } .bar.bad { fill: var(--h2); } .bar.volume { fill: var(--c3); } .bar.outlier { fill: var(--h0); } .alarm { fill: var(--h2); }
.bar.unjudged { fill: var(--muted); } .open { opacity: .45; }
.band { fill: var(--accent); opacity: .22; } .band.bad { fill: var(--h1); opacity: .3; } .estimate { stroke: var(--accent); stroke-width: 2; } .estimate.bad { stroke: var(--h2); }
.reference { stroke: var(--good); stroke-width: 1.3; } .point { fill: var(--accent); stroke: var(--accent); } .point.bad { fill: var(--h2); stroke: var(--h2); }
.point.waiting { fill: var(--card); stroke-width: 1.5; } .hit { fill: transparent; } .hit:hover { fill: var(--ink); opacity: .08; }
.c0 { fill: var(--c0); } .c1 { fill: var(--c1); } .c2 { fill: var(--c2); } .c3 { fill: var(--c3); } .none { fill: transparent; stroke: var(--line); }
.h0 { fill: var(--h0); } .h1 { fill: var(--h1); } .h2 { fill: var(--h2); } .h3 { fill: var(--h3); }
.heat rect:hover, .bar:hover { stroke: var(--ink); stroke-width: 1.5; }
.multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(245px, 1fr)); gap: .8rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: .5rem .6rem .2rem; } figure.alarming { border-color: var(--h1); }
figcaption { display: flex; gap: .4rem; align-items: baseline; font-size: .88rem; white-space: nowrap; }
figcaption b { overflow: hidden; text-overflow: ellipsis; } abbr { text-decoration: none; } figcaption .now { margin-left: auto; font-variant-numeric: tabular-nums; }
.now.bad, .tag.bad { color: var(--bad); font-weight: 650; } .multiple { width: 100%; height: auto; } .tag { white-space: nowrap; }
.line { fill: none; stroke: var(--accent); stroke-width: 1.5; stroke-linejoin: round; } .area { fill: var(--accent); opacity: .12; }
.dot { fill: transparent; } .dot.bad { fill: var(--h2); } .dot:hover { fill: var(--ink); }
table { border-collapse: collapse; width: 100%; font-size: .88rem; } caption { text-align: left; color: var(--muted); padding: .3rem 0; }
th, td { text-align: left; padding: .32rem .6rem .32rem 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
thead th { color: var(--muted); font-weight: 500; white-space: nowrap; } tbody th { font-weight: 600; }
.number + td:not(.number) { padding-left: .6rem; } time { white-space: nowrap; font-weight: 500; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; } .reason { margin-right: .8rem; }
.spark { width: 110px; height: 26px; fill: var(--c3); } .spark rect:hover { fill: var(--accent); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 0 2rem; margin-bottom: .6rem; } .ranked th { width: 38%; font-weight: 500; }
.meter { width: 50%; } .meter span { display: block; height: .7rem; border-radius: 3px; background: var(--c3); min-width: 2px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem .9rem; padding: 0; margin: 0 0 .5rem; font-size: .88rem; }
.swatch { display: inline-block; width: 1.1rem; height: .8rem; border-radius: 2px; vertical-align: -1px; }
.swatch.c0 { background: var(--c0); } .swatch.c1 { background: var(--c1); } .swatch.c2 { background: var(--c2); } .swatch.c3 { background: var(--c3); }
.swatch.measured { height: 0; border-top: 2px solid var(--accent); vertical-align: 4px; } .swatch.estimated { background: var(--accent); opacity: .35; }
.swatch.reference { height: 0; border-top: 2px solid var(--good); vertical-align: 4px; } .swatch.limit { height: 0; border-top: 2px dashed var(--bad); vertical-align: 4px; }
.swatch.h0 { background: var(--h0); } .swatch.h1 { background: var(--h1); } .swatch.h2 { background: var(--h2); } .swatch.h3 { background: var(--h3); }
@media print { body { max-width: none; background: #fff; } .card, .verdict, .tile { break-inside: avoid; } label { display: none; } }
"""
