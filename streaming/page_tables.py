"""The tables of the page: segments, the latest window column by column and as a whole, events, flagged instances, dead letters."""

from collections.abc import Sequence
from itertools import pairwise

from streaming.board import Board, Entry, Key, drifted_recently
from streaming.markup import Child, Markup, el, wire
from streaming.page_parts import NOTHING, card, figure, name_of, percent, period, plural, severity, svg, table, when
from streaming.page_performance import judged, worded
from streaming.reports import ColumnStatistics, Drift, Outlier, SequentialChange, SequentialDrift

_LATEST = 20
"""Flagged instances, or events, in the table."""
_SEGMENTS = 200
"""In the table."""


def segments(board: Board, detailed: Sequence[str]) -> Markup:
    """All segments, one a row; those that the page shows in detail are linked."""
    ranked = board.ranked()
    rows = []
    for segment in ranked[:_SEGMENTS]:
        windows = board.windows[segment]
        name: Child = wire(segment, 60) if segment else "all requests"
        if segment in detailed:
            name = el("a", name, href=f"#segment-{detailed.index(segment)}")
        rows.append([name, *_drift_of(windows), *_performance_of(windows)])
    heads = [
        "Segment",
        "Verdict",
        "Rows",
        "Drifted windows",
        "Worst column",
        "Score",
        "Threshold",
        "Performance",
        "Beyond its limit",
    ]
    more = f"The first {_SEGMENTS} of {len(ranked)}. " if len(ranked) > _SEGMENTS else ""
    return card(
        "Segments",
        f"{more}Those that drifted most come first. Verdict, rows and worst column are of the newest closed window.",
        table(plural(len(ranked) - ("" in board.windows), "segment"), heads, rows, frozenset({2, 3, 5, 6, 7})),
    )


def _drift_of(windows: dict[Key, Entry]) -> list[Child]:
    if (found := newest(windows)) is None:
        return [""] * 6
    drift = found[1]
    drifted, of = drifted_recently(windows)
    often = f"{drifted} of {of}"
    if drift.unjudged is not None:
        return [
            el("span", "not compared", class_="tag", title=drift.unjudged[:500]),
            figure(drift.rows),
            "",
            "",
            "",
            "",
        ]
    worst = max(drift.columns, key=severity, default=None)
    verdict = _said(drifted=drift.drifted)
    if worst is None or worst.score is None:
        return [verdict, figure(drift.rows), often, "", "", ""]
    score = el("span", figure(worst.score), class_="now bad" if worst.drifted else None)
    return [
        verdict,
        figure(drift.rows),
        often,
        wire(name_of(worst.source, worst.name), 40),
        score,
        figure(worst.threshold),
    ]


def _performance_of(windows: dict[Key, Entry]) -> list[Child]:
    found = [record for _, record in judged(windows)]
    metric = next((name for record in found for name in record.metrics), None)
    if metric is None:
        return ["", ""]
    alarms = dict.fromkeys(name for record in found for name in record.alarm.metrics)
    said = ", then ".join(worded(record, metric) for record in found)
    return [f"{metric} {said}", _said(drifted=bool(alarms), word=f"▲ {', '.join(alarms)}")]


def events(board: Board) -> Markup | None:
    """What happened to the monitoring, the newest first; None when nothing has."""
    if not board.events:
        return None
    newest_first = sorted(board.events.values(), key=lambda event: (event.detected_at, event.id), reverse=True)
    rows: list[list[Child]] = [
        [
            el("time", when(event.detected_at)),
            el("span", f"▲ {event.reason}", class_="tag bad")
            if event.alarm
            else el("span", event.reason, class_="tag"),
            wire(event.message, 240),
        ]
        for event in newest_first[:_LATEST]
    ]
    return card(
        "Events",
        "What happened to the monitoring of this model; somebody should look at those with a mark.",
        table(f"The latest of {figure(len(newest_first))}", ["Time (UTC)", "Event", "Message"], rows, frozenset()),
    )


def latest_window(windows: dict[Key, Entry]) -> Markup | None:
    """Every feature of the newest closed window."""
    closed = [(key, entry) for key, entry in windows.items() if entry.reported] or list(windows.items())
    key, entry = closed[-1]
    known = {(c.source, c.name): c for c in entry.statistics.columns} if entry.statistics is not None else {}
    rows: list[list[Child]] = []
    listed = set()
    for column in sorted(entry.drift.columns, key=severity, reverse=True) if entry.drift is not None else ():
        feature = column.source, column.name
        listed.add(feature)
        why = [f"{name} {percent(share)}" for name, share in list(column.explanation.items())[:2]]
        verdict = el("span", "▲ drift", class_="tag bad") if column.drifted else el("span", NOTHING, class_="tag")
        method: Child = [
            column.method,
            "" if column.exact else el("abbr", " ≈", title="within the method's stated bound"),
        ]
        if column.error:
            verdict = el("span", "failed", class_="tag bad", title=column.error[:500])
        rows.append(
            [
                wire(name_of(*feature), 40),
                verdict,
                method,
                figure(column.score),
                figure(column.threshold),
                *_described(known.get(feature)),
                wire(", ".join(why), 60) if why else "",
            ],
        )
    rows.extend(
        [wire(name_of(*feature), 40), "", "", "", "", *_described(column), ""]
        for feature, column in known.items()
        if feature not in listed
    )
    if not rows:
        return None
    heads = ["Feature", "Verdict", "Method", "Score", "Threshold", "Values", "Missing", "Mean", "Std. dev.", "Median"]
    state = "closed" if entry.final else "in progress"
    return card(
        "The latest window",
        None,
        table(
            f"{period(key)} UTC, {state}",
            [*heads, "Distribution", "What drives it"],
            rows,
            frozenset({3, 4, 5, 6, 7, 8, 9}),
        ),
    )


_YES = "▲ drift"
_TRAFFIC = 20
"""Clients in the table, the worst ones."""


def _said(*, drifted: bool, word: str = _YES, error: str | None = None) -> Markup:
    if error:
        return el("span", "failed", class_="tag bad", title=error[:500])
    return el("span", word, class_="tag bad") if drifted else el("span", NOTHING, class_="tag")


def _shares(explanation: dict[str, float], most: int = 3) -> Child:
    return wire(", ".join(f"{name} {percent(share)}" for name, share in list(explanation.items())[:most]), 80)


def newest(windows: dict[Key, Entry]) -> tuple[Key, Drift] | None:
    """The newest closed window that has a drift record, else the newest one."""
    all_ = [(key, entry.drift) for key, entry in reversed(windows.items()) if entry.drift is not None]
    return next((item for item in all_ if item[1].status == "final"), all_[0] if all_ else None)


def together(windows: dict[Key, Entry]) -> Markup | None:
    """What multivariate methods say of the latest window; None when there are none."""
    if (found := newest(windows)) is None or not found[1].multivariate:
        return None
    rows: list[list[Child]] = [
        [
            answer.method,
            _said(drifted=answer.drifted, error=answer.error),
            figure(answer.score),
            figure(answer.threshold),
            answer.direction,
            _shares(answer.explanation),
        ]
        for answer in found[1].multivariate
    ]
    heads = ["Method", "Verdict", "Score", "Threshold", "Score is a", "What drives it"]
    return card(
        "All numeric features together",
        "A change in how features go together, which none of them may show alone.",
        table(f"{period(found[0])} UTC", heads, rows, frozenset({2, 3})),
    )


def series(windows: dict[Key, Entry]) -> Markup | None:
    """What sequential detectors found in all windows of the page; None when there are none."""
    known: dict[tuple[str, str], SequentialDrift] = {}
    changes: dict[tuple[str, str], list[SequentialChange]] = {}
    for entry in windows.values():
        for one in entry.drift.sequential if entry.drift is not None else ():
            place = one.series, one.detector
            known[place] = one
            changes.setdefault(place, []).extend(change for change in one.changes if change.change == "drift")
    if not known:
        return None
    rows: list[list[Child]] = [
        [
            wire(one.series, 60),
            one.detector,
            _said(drifted=bool(changes[place]), word="▲ changed"),
            figure(one.observations),
            figure(len(changes[place])),
            *_last(changes[place]),
        ]
        for place, one in known.items()
    ]
    heads = [
        "Series",
        "Detector",
        "Verdict",
        "Observations",
        "Changes",
        "Latest change (UTC)",
        "Statistic",
        "Threshold",
    ]
    return card(
        "Series",
        "Watched number by number, across windows.",
        table("Changes in the windows of this page", heads, rows, frozenset({3, 4, 6, 7})),
    )


def _last(changes: Sequence[SequentialChange]) -> list[Child]:
    if not changes:
        return ["", "", ""]
    last = changes[-1]
    way = {"up": " ↑", "down": " ↓", None: ""}[last.direction]
    return [f"{when(last.event_time)}{way}", figure(last.statistic), figure(last.threshold)]


def _cell(value: float | str | None) -> str:
    return value if isinstance(value, str) else figure(value)


def traffic(windows: dict[Key, Entry]) -> Markup | None:
    """What traffic detectors say of the latest window; None when there are none."""
    if (found := newest(windows)) is None or not found[1].traffic:
        return None
    answers = sorted(found[1].traffic, key=lambda one: (not one.drifted, one.client is not None))
    rows: list[list[Child]] = [
        [
            "all requests" if one.client is None else wire(one.client, 40),
            one.detector,
            _said(drifted=one.drifted, word="▲ alarm"),
            figure(one.score),
            figure(one.threshold),
            figure(one.requests),
            _shares(one.explanation),
            wire(", ".join(f"{name} {_cell(value)}" for name, value in one.example.items()), 80),
        ]
        for one in answers[:_TRAFFIC]
    ]
    heads = ["Client", "Detector", "Verdict", "Score", "Threshold", "Requests", "What drives it", "For example"]
    note = f"The {_TRAFFIC} worst of {len(answers)}." if len(answers) > _TRAFFIC else None
    return card("Traffic", note, table(f"{period(found[0])} UTC", heads, rows, frozenset({3, 4, 5})))


def _described(column: ColumnStatistics | None) -> list[Child]:
    if column is None:
        return [""] * 6
    values = column.values
    if column.type == "categorical":
        middle: list[Child] = ["", "", ""]
    else:
        mean = values.get("mean", values.get("avg"))
        middle = [figure(mean), figure(values.get("stddev")), figure(values.get("p50", values.get("median")))]
    return [figure(column.count), figure(column.missing + column.nonfinite), *middle, _histogram(column)]


def _histogram(column: ColumnStatistics) -> Markup | None:
    """The values' distribution as small bars: bins of a numeric column, the most frequent of a categorical one."""
    if column.distribution is not None:
        edges, counts = column.distribution.edges, column.distribution.counts
        bars = [(f"{figure(a)} to {figure(b)}", n) for (a, b), n in zip(pairwise(edges), counts, strict=False)]
        bars = [
            (f"below {figure(edges[0])}", column.distribution.below),
            *bars,
            (f"above {figure(edges[-1])}", column.distribution.above),
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
            el("title", f"{name}: {figure(count)}"),
            x=number * step,
            y=height - max(count / most * height, 0.6),
            width=max(step - 0.8, step * 0.7),
            height=max(count / most * height, 0.6),
        )
        for number, (name, count) in enumerate(bars)
    ]
    return svg(height, f"Distribution of {name_of(column.source, column.name)}", marks, width=width, class_="spark")


def outliers(board: Board) -> Markup:
    """The newest flagged instances, and how many there were by detector and by feature."""
    detectors, features = board.tally("detector"), board.tally("feature")
    if not board.outliers:
        return card("Flagged instances", None, el("p", "No instance has been flagged.", class_="empty"))
    rows: list[list[Child]] = [
        [
            el("time", when(outlier.event_time)),
            [wire(outlier.request_id, 32), f" #{outlier.instance}"],
            outlier.detector,
            figure(outlier.score),
            figure(outlier.threshold),
            _reasons(outlier),
        ]
        for outlier in sorted(board.outliers.values(), key=lambda o: (o.event_time, o.id), reverse=True)[:_LATEST]
    ]
    return card(
        "Flagged instances",
        None,
        el("div", _ranked("By detector", detectors), _ranked("By feature", features[:10]), class_="pair"),
        table(
            f"The latest of {plural(sum(count for _, count in detectors), 'outlier report')}",
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
            else figure(feature.value)
        )
        bounds = ""
        if feature.low is not None or feature.high is not None:
            bounds = f" (allowed {figure(feature.low)} to {figure(feature.high)})"
        reasons.append(el("span", el("b", wire(feature.name, 40)), " = ", value, bounds, class_="reason"))
    more = len(outlier.features) - len(reasons)
    return [*reasons, f" and {more} more" if more > 0 else None]


def dead_letters(board: Board) -> Markup | None:
    """How many messages could not be monitored, by reason; None when there are none."""
    reasons, unreadable = board.tally("reason"), board.tally("unreadable")
    if not reasons and not unreadable:
        return card("Dead letters", None, el("p", "Every message could be monitored.", class_="empty"))
    rows: list[list[Child]] = [
        [
            el("time", when(letter.timestamp)),
            letter.reason,
            wire(letter.message, 120),
            [wire(letter.topic, 40), f" {letter.partition}:{letter.offset}"],
        ]
        for letter in sorted(board.letters.values(), key=lambda letter: (letter.timestamp, letter.id), reverse=True)
    ]
    return card(
        "Dead letters",
        "Messages that could not be monitored; they are whole in the dead-letter topic.",
        _ranked("By reason", reasons) if reasons else None,
        _ranked("Reports that this reporter could not read, by topic", unreadable) if unreadable else None,
        table("The latest", ["Time (UTC)", "Reason", "Message", "Where"], rows, frozenset()) if rows else None,
    )


def _ranked(title: str, counts: Sequence[tuple[str, int]]) -> Markup:
    """Names with bars as long as their counts."""
    most = max((count for _, count in counts), default=1)
    rows = [
        el(
            "tr",
            el("th", wire(name, 40), scope="row"),
            el("td", el("span", style=f"width:{100 * count / most:.1f}%"), class_="meter"),
            el("td", figure(count), class_="number"),
        )
        for name, count in counts
    ]
    return el("table", el("caption", title), el("tbody", rows), class_="ranked")
