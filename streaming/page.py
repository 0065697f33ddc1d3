"""The one page that shows everything: one HTML file, no network, no script needed, light or dark as the reader's system.

Pictures are inline SVG. Everything that has to do with time shares one horizontal scale, so a column of the heat map
stands under its window in the timeline. When there are more windows than columns, a column is the worst of its windows.
Up is always drift: distances are drawn as they are, p-values on a logarithmic scale upside down.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise

from streaming.board import SEGMENTS, Board, Entry, Key
from streaming.markup import Child, Markup, el, wire
from streaming.reports import ColumnDrift, ColumnStatistics, Drift, Outlier, Statistics

_COLUMNS = 120
"""Columns of the heat map and of the timelines."""
_ROWS = 40
"""Features in the heat map, the worst ones."""
_MULTIPLES = 24
"""Small charts, of the worst features."""
_LATEST = 20
"""Flagged instances in the table."""

_WIDTH, _LEFT, _RIGHT = 1000.0, 150.0, 14.0
_NOTHING = "\u2013"
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
    sections = [_segment(segment, windows, sliding=sliding) for segment, windows in shown.items()]
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
            sections,
            el(
                "p",
                f"{hidden} more segments are in the Evidently workspace; the page shows {SEGMENTS}.",
                class_="muted",
            )
            if hidden
            else None,
            _outliers(board),
            _dead_letters(board),
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
        el("title", f"{_headline(shown)}{board.model}"),
        el("style", Markup(_STYLE)),
    )
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


# --- The windows, arranged -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """One column of the pictures: one window, or the worst of several that follow each other."""

    windows: Sequence[tuple[Key, Entry]]

    @cached_property
    def drifts(self) -> list[tuple[Key, Drift]]:
        return [(key, entry.drift) for key, entry in self.windows if entry.drift is not None]

    @cached_property
    def statistics(self) -> list[tuple[Key, Statistics]]:
        return [(key, entry.statistics) for key, entry in self.windows if entry.statistics is not None]

    @cached_property
    def worst(self) -> tuple[Key, Drift] | None:
        return max(self.drifts, key=lambda item: (item[1].drifted, item[1].share), default=None)

    @cached_property
    def open(self) -> bool:
        """Whether any of its windows is not closed yet."""
        return any(not entry.final for _, entry in self.windows)

    @cached_property
    def cells(self) -> dict[tuple[str, str], tuple[Key, ColumnDrift]]:
        """(source, feature) -> its worst score and that score's window."""
        cells: dict[tuple[str, str], tuple[Key, ColumnDrift]] = {}
        for key, drift in self.drifts:
            for column in drift.columns:
                known = cells.get((column.source, column.name))
                if known is None or _severity(column) > _severity(known[1]):
                    cells[column.source, column.name] = key, column
        return cells

    @property
    def baseline(self) -> str:
        return self.windows[-1][0].baseline


def _arranged(windows: dict[Key, Entry]) -> list[_Column]:
    items = list(windows.items())
    size = math.ceil(len(items) / _COLUMNS)
    # The newest column is always full, so that it does not jump between one window and many.
    first = len(items) % size or size
    starts = [0, *range(first, len(items), size)]
    return [_Column(items[a:b]) for a, b in pairwise([*starts, len(items)])]


def _ratio(column: ColumnDrift) -> float | None:
    """How far a score is on its way to the threshold (1), comparable between methods: a p-value by its logarithm."""
    if column.score is None:
        return None
    if column.direction == "distance":
        ratio = column.score / column.threshold if column.threshold > 0 else math.inf
    elif 0 < column.threshold < 1:
        ratio = math.log(column.score) / math.log(column.threshold) if column.score > 0 else math.inf
    else:
        ratio = 1.0
    return min(max(ratio, 0.0), 99.0)


def _severity(column: ColumnDrift) -> tuple[bool, float]:
    ratio = _ratio(column)
    return column.drifted, -1.0 if ratio is None else ratio


def _class(column: ColumnDrift) -> str:
    """Colour of a cell: four cool ones below the threshold, four warm ones of drift."""
    ratio = _ratio(column)
    if ratio is None:
        return "none"
    if column.drifted:
        # Drift below the threshold is drift out of the reference's range: as bad as it gets.
        return "h3" if ratio < 1 else f"h{sum(ratio >= limit for limit in (1.5, 2.5, 5))}"
    return f"c{sum(ratio >= limit for limit in (0.25, 0.5, 0.75))}"


# --- Words and numbers -----------------------------------------------------------------------------------------------


def _figure(value: float | None) -> str:
    """A number as people read it: four digits that matter."""
    if value is None or not math.isfinite(value):
        return _NOTHING
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.3g}" if abs(value) < 1e-3 or abs(value) >= 1e6 else f"{value:.4g}"


def _moment(time: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _time(time: str) -> str:
    """``2013-02-03 07:30``, seconds where there are any."""
    if (moment := _moment(time)) is None:
        return time[:40]
    seconds = ":%S" if moment.second else ""
    return f"{moment:{f'%Y-%m-%d %H:%M{seconds}'}}"


def _span(key: Key) -> str:
    start, end = _moment(key.start), _moment(key.end)
    if start is not None and end is not None and start.date() == end.date():
        return f"{_time(key.start)} \u2013 {_time(key.end)[11:]}"
    return f"{_time(key.start)} \u2013 {_time(key.end)}"


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", "\u202f%")


def _plural(number: int, noun: str) -> str:
    return f"{_figure(number)} {noun}{'' if number == 1 else 's'}"


def _feature(source: str, name: str) -> str:
    return {"request": name, "response": f"{name} (answer)", "score": f"{name} (outlier score)"}[source]


def _scored(column: ColumnDrift) -> str:
    sign = "p" if column.direction == "p-value" else "distance"
    return f"{column.method}: {sign} {_figure(column.score)}, threshold {_figure(column.threshold)}"


def _latest_drift(windows: dict[Key, Entry]) -> tuple[Key, Drift] | None:
    """The newest closed window, else the newest."""
    found = [(key, entry.drift) for key, entry in reversed(windows.items()) if entry.drift is not None]
    return next((item for item in found if item[1].status == "final"), found[0] if found else None)


def _headline(shown: dict[str, dict[Key, Entry]]) -> str:
    for windows in shown.values():
        if (latest := _latest_drift(windows)) is not None:
            return "▲ drift · " if latest[1].drifted else "no drift · "
    return ""


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


def _segment(segment: str, windows: dict[Key, Entry], *, sliding: bool) -> Markup:
    columns = _arranged(windows)
    features = _ranking(columns)
    parts = [
        _verdict(segment, windows),
        _tiles(windows, sliding=sliding),
        _card(
            "Drift over time",
            "Share of the features that drifted, window by window; drifted windows carry a mark.",
            _timeline(columns),
            _bars(columns, "Requests in the window", "volume", lambda s: s.counts.requests, max),
            _bars(columns, "Flagged instances (outliers)", "outlier", lambda s: s.counts.outliers, sum),
            wide=True,
        ),
        _card(
            "Features and windows",
            "Each cell is a score beside its threshold: blue below it, orange to red at it and beyond."
            + (f" The {_ROWS} worst of {len(features)} features." if len(features) > _ROWS else ""),
            _heat_map(columns, features[:_ROWS]),
            wide=True,
        ),
        _card(
            "Scores and thresholds",
            "Up is drift; the dashed line is the threshold; p-values are drawn on a logarithmic scale.",
            el("div", list(_multiples(columns, features)), class_="multiples"),
        ),
        _latest(windows),
    ]
    return el("section", parts, class_="segment", aria_label=f"segment {segment}" if segment else "all requests")


def _card(title: str, note: str | None, *children: Child, wide: bool = False) -> Markup:
    content = el("div", children, class_="scroll") if wide else children
    return el("div", el("h2", title), el("p", note, class_="muted") if note else None, content, class_="card")


def _verdict(segment: str, windows: dict[Key, Entry]) -> Markup:
    name = el("h2", "Segment ", wire(segment), class_="name") if segment else None
    latest = _latest_drift(windows)
    if latest is None:
        return el("div", name, el("p", "Statistics only: no drift method is configured."), class_="verdict")
    key, drift = latest
    total = drift.judged_columns
    if drift.drifted:
        mark, words = "▲", f"Drift: {drift.drifted_columns} of {_plural(total, 'feature')}"
    elif drift.drifted_columns:
        mark, words = "◆", f"{drift.drifted_columns} of {_plural(total, 'feature')} drifted, below the alarm"
    else:
        mark, words = "●", f"No drift in any of {_plural(total, 'feature')}"
    kind = "bad" if drift.drifted else "warn" if drift.drifted_columns else "good"
    worst = sorted((c for c in drift.columns if c.drifted), key=_severity, reverse=True)
    names = list(dict.fromkeys(_feature(c.source, c.name) for c in worst))
    return el(
        "div",
        name,
        el("p", el("span", mark, class_="mark", aria_hidden="true"), f" {words}", class_="words"),
        el(
            "p",
            f"{'window' if drift.status == 'final' else 'window in progress'} {_span(key)} UTC, "
            f"{_plural(drift.rows, 'row')} against {_figure(drift.reference_rows)} of the reference",
            class_="muted",
        ),
        el("p", [el("span", wire(name, 40), class_="chip") for name in names[:12]]) if names else None,
        class_=f"verdict {kind}",
    )


def _tiles(windows: dict[Key, Entry], *, sliding: bool) -> Markup:
    drifts = [entry.drift for entry in windows.values() if entry.drift is not None and entry.drift.status == "final"]
    counts = [entry.statistics.counts for entry in windows.values() if entry.statistics is not None]
    last = counts[-1:]
    considered = last if sliding else counts
    where = "newest window" if sliding else "on this page"
    drifted = Counter(
        _feature(source, name)
        for drift in drifts
        for source, name in {(c.source, c.name) for c in drift.columns if c.drifted}
    )
    (favourite, times), *_ = drifted.most_common(1) or [("", 0)]
    closed = sum(entry.final for entry in windows.values())
    alarms = sum(drift.drifted for drift in drifts)
    open_ = len(windows) - closed
    tiles: list[tuple[str, Child, str]] = [
        ("Windows", _figure(closed), f"{open_} in progress" if open_ else "all closed"),
        ("Drift alarms", _figure(alarms), _percent(alarms / closed) + " of the windows" if closed else ""),
        (
            "Drifts most often",
            wire(favourite, 24) if times else _NOTHING,
            f"in {_plural(times, 'window')}" if times else "",
        ),
        ("Requests", _figure(sum(c.requests for c in considered)), where),
        ("Outliers", _figure(sum(c.outliers for c in considered)), where),
        ("Late, dead", f"{_figure(sum(c.late for c in counts))}, {_figure(sum(c.dead for c in counts))}", "messages"),
    ]
    return el(
        "dl",
        [
            el("div", el("dt", name), el("dd", value), el("dd", note, class_="muted"), class_="tile")
            for name, value, note in tiles
        ],
        class_="tiles",
    )


def _ranking(columns: Sequence[_Column]) -> list[tuple[str, str]]:
    """Features, the one that drifted most often first."""
    scores: dict[tuple[str, str], list[float]] = {}
    for column in columns:
        for feature, (_, drift) in column.cells.items():
            drifted, ratio = _severity(drift)
            score = scores.setdefault(feature, [0.0, 0.0])
            score[0] += drifted
            score[1] = max(score[1], ratio)
    return sorted(scores, key=lambda feature: [-value for value in scores[feature]])


# --- Pictures --------------------------------------------------------------------------------------------------------


def _step(columns: Sequence[_Column]) -> float:
    return min((_WIDTH - _LEFT - _RIGHT) / max(len(columns), 1), 60.0)


def _svg(height: float, label: str, *children: Child, width: float = _WIDTH, class_: str = "chart") -> Markup:
    return el(
        "svg",
        el("title", label),
        children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        class_=class_,
    )


def _label(x: float, y: float, words: str, anchor: str = "end", limit: int = 22) -> Markup:
    short = words if len(words) <= limit else words[: limit - 1] + "…"
    return el("text", short, el("title", words) if short != words else None, x=x, y=y, text_anchor=anchor)


def _ticks(columns: Sequence[_Column], y: float) -> Iterator[Markup]:
    """A few times below the columns, each where its window begins."""
    moments = [_moment(column.windows[0][0].start) for column in columns]
    known = [moment for moment in moments if moment is not None]
    if not known:
        return
    form = "%H:%M:%S" if any(m.second for m in known) else "%H:%M"
    if len({m.date() for m in known}) > 1:
        form = "%b %d" if all(m.hour == m.minute == 0 for m in known) else f"%b %d {form}"
    if len({m.year for m in known}) > 1:
        form = f"%Y {form}"
    step = _step(columns)
    every = max(math.ceil((8 * len(f"{known[0]:{form}}") + 12) / step), 1)
    for number in range(0, len(columns), every):
        if (moment := moments[number]) is not None:
            x, words = _LEFT + number * step, f"{moment:{form}}"
            yield el("line", x1=x, x2=x, y1=y, y2=y + 4, class_="axis")
            if x + 7 * len(words) < _WIDTH:
                yield _label(x, y + 16, words, "start", 30)


def _new_baselines(columns: Sequence[_Column], height: float) -> Iterator[Markup]:
    step = _step(columns)
    for number, (before, after) in enumerate(pairwise(columns), start=1):
        if before.baseline != after.baseline:
            x = _LEFT + number * step
            words = f"from here on compared with baseline {after.baseline}, before with {before.baseline}"
            yield el("line", el("title", words), x1=x, x2=x, y1=0, y2=height, class_="baseline")


def _timeline(columns: Sequence[_Column]) -> Markup:
    top, height = 16.0, 110.0
    bottom, step = top + height, _step(columns)
    right = _LEFT + step * len(columns)
    marks: list[Markup] = []
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * height
        marks.append(el("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid"))
        marks.append(_label(_LEFT - 8, y + 4, _percent(share)))
    threshold = None
    for number, column in enumerate(columns):
        if column.worst is None:
            continue
        key, drift = column.worst
        threshold = drift.share_threshold
        x, size = _LEFT + number * step, max(drift.share * height, 2.0)
        words = f"{_span(key)} UTC: {drift.drifted_columns} of {_plural(drift.judged_columns, 'feature')} drifted"
        if len(column.windows) > 1:
            words += f" (the worst of {len(column.windows)} windows)"
        if column.open:
            words += ", in progress"
        kind = f"bar {'bad' if drift.drifted else 'ok'}{' open' if column.open else ''}"
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
        title = el("title", f"alarm from {_percent(threshold)} of the features on")
        marks.append(el("line", title, x1=_LEFT, x2=right, y1=y, y2=y, class_="threshold"))
    marks.append(_label(10, top + 4, "drifted features", "start"))
    marks.extend(_new_baselines(columns, bottom))
    marks.extend(_ticks(columns, bottom))
    return _svg(bottom + 22, "Share of drifted features by window", marks)


def _bars(
    columns: Sequence[_Column],
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
    bottom, step = top + height, _step(columns)
    most = max(*heights, 1)
    marks = [
        el("line", x1=_LEFT, x2=_LEFT + step * len(columns), y1=bottom, y2=bottom, class_="grid"),
        _label(_LEFT - 8, top + 8, _figure(most)),
        _label(_LEFT - 8, bottom + 2, "0"),
        _label(10, top + 8, title.partition(" ")[0].lower(), "start"),
    ]
    for number, (column, size) in enumerate(zip(columns, heights, strict=True)):
        if size:
            first, last = column.windows[0][0], column.windows[-1][0]
            words = f"{_span(Key(first.start, last.end, first.segment, first.baseline))} UTC: {_figure(size)}"
            y = size / most * height
            marks.append(
                el(
                    "rect",
                    el("title", words),
                    x=_LEFT + number * step,
                    y=bottom - y,
                    width=step * 0.86,
                    height=y,
                    class_=f"bar {kind}{' open' if column.open else ''}",
                ),
            )
    return _svg(bottom + 8, f"{title} by window", marks)


def _heat_map(columns: Sequence[_Column], features: Sequence[tuple[str, str]]) -> Markup:
    row, step = 19.0, _step(columns)
    marks: list[Markup] = []
    for line, feature in enumerate(features):
        y = line * row
        marks.append(_label(_LEFT - 8, y + 13, _feature(*feature)))
        for number, column in enumerate(columns):
            found = column.cells.get(feature)
            if found is None:
                continue
            key, drift = found
            words = f"{_feature(*feature)}, {_span(key)} UTC\n{_scored(drift)}{', DRIFT' if drift.drifted else ''}"
            marks.append(
                el(
                    "rect",
                    el("title", words),
                    x=_LEFT + number * step,
                    y=y,
                    width=max(step - 1, 0.8 * step),
                    height=row - 1.5,
                    class_=_class(drift),
                ),
            )
    bottom = row * len(features)
    marks.extend(_new_baselines(columns, bottom))
    marks.extend(_ticks(columns, bottom))
    return _svg(bottom + 22, "Drift score of every feature in every window", marks, class_="chart heat")


def _multiples(columns: Sequence[_Column], features: Sequence[tuple[str, str]]) -> Iterator[Markup]:
    """A small chart for each method of each feature, the worst features first."""
    left = _MULTIPLES
    for feature in features:
        series: dict[str, list[tuple[int, Key, ColumnDrift]]] = {}
        for number, column in enumerate(columns):
            worst: dict[str, tuple[Key, ColumnDrift]] = {}
            for key, drift in column.drifts:
                for score in drift.columns:
                    if (score.source, score.name) == feature and score.score is not None:
                        known = worst.get(score.method)
                        if known is None or _severity(score) > _severity(known[1]):
                            worst[score.method] = key, score
            for method, (key, score) in worst.items():
                series.setdefault(method, []).append((number, key, score))
        for method, points in series.items():
            if left:
                left -= 1
                yield _multiple(feature, method, points, len(columns))
    if not left:
        yield el("p", f"The {_MULTIPLES} worst; the heat map and the workspace have the others.", class_="muted")


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
        words = f"{_span(key)} UTC\n{_scored(score)}{', DRIFT' if score.drifted else ''}"
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
            el("b", wire(_feature(*feature), 30)),
            el("span", f" {method}", class_="muted"),
            el(
                "span",
                f"{sign + ' ' if sign else ''}{_figure(last.score)}",
                class_="now bad" if last.drifted else "now",
            ),
        ),
        _svg(
            base + 4,
            f"{_feature(*feature)}, {method}: drifted in {drifted} of {len(points)}, now {_figure(last.score)}, "
            f"threshold {_figure(threshold)}",
            el("line", x1=left, x2=right, y1=base, y2=base, class_="grid"),
            el("polygon", points=area, class_="area"),
            el("line", x1=left, x2=right, y1=y, y2=y, class_="threshold"),
            el("text", _figure(threshold), x=right + 5, y=y + 4),
            el("polyline", points=path, class_="line"),
            dots,
            width=width,
            class_="multiple",
        ),
        class_="alarming" if drifted else None,
    )


# --- Tables ----------------------------------------------------------------------------------------------------------


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[Child]], numbers: frozenset[int]) -> Markup:
    """A table whose first column names its rows; `numbers` are the columns that align to the right."""

    def cell(index: int, value: Child) -> Markup:
        class_ = "number" if index in numbers else None
        return el("td", value, class_=class_) if index else el("th", value, scope="row", class_=class_)

    return el(
        "div",
        el(
            "table",
            el("caption", caption),
            el(
                "thead",
                el(
                    "tr",
                    [el("th", h, scope="col", class_="number" if i in numbers else None) for i, h in enumerate(heads)],
                ),
            ),
            el("tbody", [el("tr", [cell(index, value) for index, value in enumerate(row)]) for row in rows]),
        ),
        class_="scroll",
    )


def _latest(windows: dict[Key, Entry]) -> Markup | None:
    """Every feature of the newest closed window."""
    closed = [(key, entry) for key, entry in windows.items() if entry.final] or list(windows.items())
    key, entry = closed[-1]
    known = {(c.source, c.name): c for c in entry.statistics.columns} if entry.statistics is not None else {}
    rows: list[list[Child]] = []
    listed = set()
    for column in sorted(entry.drift.columns, key=_severity, reverse=True) if entry.drift is not None else ():
        feature = column.source, column.name
        listed.add(feature)
        why = [f"{name} {_percent(share)}" for name, share in list(column.explanation.items())[:2]]
        verdict = el("span", "▲ drift", class_="tag bad") if column.drifted else el("span", _NOTHING, class_="tag")
        method: Child = [
            column.method,
            "" if column.exact else el("abbr", " ≈", title="within the method's stated bound"),
        ]
        if column.error:
            verdict = el("span", "failed", class_="tag bad", title=column.error[:500])
        rows.append(
            [
                wire(_feature(*feature), 40),
                verdict,
                method,
                _figure(column.score),
                _figure(column.threshold),
                *_described(known.get(feature)),
                wire(", ".join(why), 60) if why else "",
            ],
        )
    rows.extend(
        [wire(_feature(*feature), 40), "", "", "", "", *_described(column), ""]
        for feature, column in known.items()
        if feature not in listed
    )
    if not rows:
        return None
    heads = ["Feature", "Verdict", "Method", "Score", "Threshold", "Values", "Missing", "Mean", "Std. dev.", "Median"]
    state = "closed" if entry.final else "in progress"
    return _card(
        "The latest window",
        None,
        _table(
            f"{_span(key)} UTC, {state}",
            [*heads, "Distribution", "What drives it"],
            rows,
            frozenset({3, 4, 5, 6, 7, 8, 9}),
        ),
    )


def _described(column: ColumnStatistics | None) -> list[Child]:
    if column is None:
        return [""] * 6
    values = column.values
    if column.type == "categorical":
        middle: list[Child] = ["", "", ""]
    else:
        mean = values.get("mean", values.get("avg"))
        middle = [_figure(mean), _figure(values.get("stddev")), _figure(values.get("p50", values.get("median")))]
    return [_figure(column.count), _figure(column.missing + column.nonfinite), *middle, _histogram(column)]


def _histogram(column: ColumnStatistics) -> Markup | None:
    """The values' distribution as small bars: bins of a numeric column, the most frequent of a categorical one."""
    if column.distribution is not None:
        edges, counts = column.distribution.edges, column.distribution.counts
        bars = [(f"{_figure(a)} to {_figure(b)}", n) for (a, b), n in zip(pairwise(edges), counts, strict=False)]
        bars = [
            (f"below {_figure(edges[0])}", column.distribution.below),
            *bars,
            (f"above {_figure(edges[-1])}", column.distribution.above),
        ]
        if not column.distribution.below:
            bars = bars[1:]
        if not column.distribution.above:
            bars = bars[:-1]
    elif column.categories:
        bars = [(name[:60], float(count)) for name, count in list(column.categories.items())[:24]]
    else:
        return None
    most = max((count for _, count in bars), default=0.0)
    if most <= 0:
        return None
    width, height = 110.0, 26.0
    step = width / len(bars)
    marks = [
        el(
            "rect",
            el("title", f"{name}: {_figure(count)}"),
            x=number * step,
            y=height - max(count / most * height, 0.6),
            width=max(step - 0.8, step * 0.7),
            height=max(count / most * height, 0.6),
        )
        for number, (name, count) in enumerate(bars)
    ]
    return _svg(height, f"Distribution of {_feature(column.source, column.name)}", marks, width=width, class_="spark")


def _outliers(board: Board) -> Markup:
    detectors, features = board.tally("detector"), board.tally("feature")
    if not board.outliers:
        return _card("Flagged instances", None, el("p", "No instance has been flagged.", class_="empty"))
    rows: list[list[Child]] = [
        [
            el("time", _time(outlier.event_time)),
            [wire(outlier.request_id, 32), f" #{outlier.instance}"],
            outlier.detector,
            _figure(outlier.score),
            _figure(outlier.threshold),
            _reasons(outlier),
        ]
        for outlier in sorted(board.outliers.values(), key=lambda o: (o.event_time, o.id), reverse=True)[:_LATEST]
    ]
    return _card(
        "Flagged instances",
        None,
        el("div", _ranked("By detector", detectors), _ranked("By feature", features[:10]), class_="pair"),
        _table(
            f"The latest of {_plural(sum(count for _, count in detectors), 'outlier report')}",
            ["Time (UTC)", "Request", "Detector", "Score", "Threshold", "Because of"],
            rows,
            frozenset({3, 4}),
        ),
    )


def _reasons(outlier: Outlier) -> Child:
    reasons: list[Child] = []
    for feature in sorted(outlier.features, key=lambda feature: -abs(feature.contribution))[:3]:
        value: Child = (
            el("i", "missing")
            if feature.value is None
            else wire(feature.value, 40)
            if isinstance(feature.value, str)
            else _figure(feature.value)
        )
        bounds = ""
        if feature.low is not None or feature.high is not None:
            bounds = f" (allowed {_figure(feature.low)} to {_figure(feature.high)})"
        reasons.append(el("span", el("b", wire(feature.name, 40)), " = ", value, bounds, class_="reason"))
    more = len(outlier.features) - len(reasons)
    return [*reasons, f" and {more} more" if more > 0 else None]


def _dead_letters(board: Board) -> Markup | None:
    reasons, unreadable = board.tally("reason"), board.tally("unreadable")
    if not reasons and not unreadable:
        return _card("Dead letters", None, el("p", "Every message could be monitored.", class_="empty"))
    rows: list[list[Child]] = [
        [
            el("time", _time(letter.timestamp)),
            letter.reason,
            wire(letter.message, 120),
            [wire(letter.topic, 40), f" {letter.partition}:{letter.offset}"],
        ]
        for letter in sorted(board.letters.values(), key=lambda letter: (letter.timestamp, letter.id), reverse=True)
    ]
    return _card(
        "Dead letters",
        "Messages that could not be monitored; they are whole in the dead-letter topic.",
        _ranked("By reason", reasons) if reasons else None,
        _ranked("Reports that this reporter could not read, by topic", unreadable) if unreadable else None,
        _table("The latest", ["Time (UTC)", "Reason", "Message", "Where"], rows, frozenset()) if rows else None,
    )


def _ranked(title: str, counts: Sequence[tuple[str, int]]) -> Markup:
    """Names with bars as long as their counts."""
    most = max((count for _, count in counts), default=1)
    rows = [
        el(
            "tr",
            el("th", wire(name, 40), scope="row"),
            el("td", el("span", style=f"width:{100 * count / most:.1f}%"), class_="meter"),
            el("td", _figure(count), class_="number"),
        )
        for name, count in counts
    ]
    return el("table", el("caption", title), el("tbody", rows), class_="ranked")


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
    return _card(
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
.verdict.good { border-left-color: var(--good); background: var(--good-paper); } .verdict.good .words { color: var(--good); }
.verdict.warn { border-left-color: var(--warn); background: var(--warn-paper); } .verdict.warn .words { color: var(--warn); }
.verdict.bad { border-left-color: var(--bad); background: var(--bad-paper); } .verdict.bad .words { color: var(--bad); }
.chip { display: inline-block; border: 1px solid var(--bad); color: var(--bad); border-radius: 99px; padding: 0 .6rem; margin: .15rem .3rem 0 0; font-size: .85rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem; margin: 0 0 1rem; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .7rem .9rem; }
.tile dt { color: var(--muted); font-size: .82rem; } .tile dd { margin: 0; } .tile dt + dd { font-size: 1.45rem; font-weight: 600; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.scroll { overflow-x: auto; } svg { display: block; } svg text { fill: var(--muted); font-size: 11.5px; }
.chart { width: 100%; min-width: 720px; height: auto; } .grid { stroke: var(--line); } .axis { stroke: var(--muted); }
.threshold { stroke: var(--bad); stroke-dasharray: 4 3; stroke-width: 1.3; } .baseline { stroke: var(--ink); stroke-dasharray: 1 3; stroke-width: 1.5; }
.bar.ok { fill: var(--c3); } .bar.bad { fill: var(--h2); } .bar.volume { fill: var(--c3); } .bar.outlier { fill: var(--h0); } .alarm { fill: var(--h2); }
.open { opacity: .45; }
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
.swatch.h0 { background: var(--h0); } .swatch.h1 { background: var(--h1); } .swatch.h2 { background: var(--h2); } .swatch.h3 { background: var(--h3); }
@media print { body { max-width: none; background: #fff; } .card, .verdict, .tile { break-inside: avoid; } label { display: none; } }
"""
