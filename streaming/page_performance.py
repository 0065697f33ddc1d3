"""How good the predictions are, on the page: a time line of each metric, and the latest windows in numbers."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from detectors.performance.settings import METRICS
from streaming.board import Entry, Key
from streaming.markup import Child, Markup, el, wire
from streaming.page_parts import NOTHING, card, figure, percent, period, svg, table
from streaming.page_time import LEFT, Column, label, new_baselines, step_of, ticks
from streaming.reports import Estimated, Performance

_CHARTS = 6
"""Metrics that are drawn, the first ones that the ModelMonitor names."""
_IN_TABLE = 8
_LATEST = 12
"""Windows in the table."""
_LARGEST = 1e300
"""Beyond it numbers are drawn as this, so that their differences are numbers too."""
_Scale = Callable[[float], float]
"""A value -> its height in the picture."""


def judged(windows: dict[Key, Entry]) -> list[tuple[Key, Performance]]:
    """The newest window that is judged by its labels, and if there is a newer one that is judged by the estimate, the newest of those."""
    found: list[tuple[Key, Performance]] = []
    for key, entry in reversed(windows.items()):
        record = entry.performance
        if record is None or record.alarm.judged_by is None or (found and record.alarm.judged_by == "estimate"):
            continue
        found.append((key, record))
        if record.alarm.judged_by == "labels":
            break
    return found[::-1]


def worded(record: Performance, metric: str) -> str:
    """What a metric is judged by: its value, or the estimate."""
    estimated = _estimate(record, metric)
    if record.alarm.judged_by == "estimate" and estimated is not None:
        return f"≈ {figure(estimated.value)}"
    return figure(record.metrics.get(metric))


def labels_of(record: Performance) -> str:
    """``812 of 1 000``."""
    return f"{figure(record.counts.labelled)} of {figure(record.counts.predictions)}"


def beyond(record: Performance) -> str:
    """The metrics beyond their limits, in words."""
    limits = record.limits
    return ", ".join(
        f"{name} {worded(record, name)} (limit {figure(limits.get(name))})" for name in record.alarm.metrics
    )


def performance(windows: dict[Key, Entry], columns: Sequence[Column]) -> Markup | None:
    """The card of a segment; None when nobody asks for performance."""
    records = [(key, entry.performance) for key, entry in windows.items() if entry.performance is not None]
    if not records:
        return None
    last = records[-1][1]
    names = list(last.metrics)
    hidden = f" The first {_CHARTS} of {len(names)} metrics are drawn." if len(names) > _CHARTS else ""
    return card(
        "Performance",
        [
            "What is predicted is ",
            wire(last.prediction, 40),
            ".",
            *_reservations(last),
            hidden,
        ],
        el("div", [_chart(columns, name) for name in names[:_CHARTS]], class_="scroll"),
        _key(last),
        _table(records, names[:_IN_TABLE]),
    )


def _reservations(record: Performance) -> Iterator[Child]:
    if record.unestimated:
        yield [" No estimate: ", wire(record.unestimated, 200), "."]
        return
    yield " While labels are missing, the band is what they will probably show, "
    yield "if labels of equal predictions are distributed as in the reference."
    if record.covered is not None and record.covered < 1:
        yield f" The newest estimate is of {percent(record.covered)} of the predictions: the reference never saw the others predicted."


def _key(record: Performance) -> Markup:
    lines = [("measured", "measured with labels; hollow while more may come")]
    if record.reference is not None:
        lines += [("estimated", "estimated"), ("reference", "reference")]
    if record.limits:
        lines.append(("limit", "limit"))
    return el(
        "ul",
        [el("li", el("span", class_=f"swatch {kind}"), f" {words}") for kind, words in lines],
        class_="legend",
    )


# --- The time line of one metric ---------------------------------------------------------------------------------------


def _badness(metric: str, value: float) -> float:
    best = METRICS.get(metric, "low")
    return -value if best == "high" else abs(value) if best == "zero" else value


def _worst(column: Column, metric: str) -> tuple[Key, Performance] | None:
    """The window that a column shows."""

    def rank(item: tuple[Key, Performance]) -> tuple[bool, float]:
        record = item[1]
        value = record.metrics.get(metric)
        if value is None and (found := _estimate(record, metric)) is not None:
            value = found.value
        return metric in record.alarm.metrics, -math.inf if value is None else _badness(metric, value)

    return max(column.performances, key=rank, default=None)


def _estimate(record: Performance, metric: str) -> Estimated | None:
    return (record.estimated or {}).get(metric)


def _limits(record: Performance, metric: str) -> tuple[float, ...]:
    limit = record.limits.get(metric)
    if limit is None:
        return ()
    return (-limit, limit) if METRICS.get(metric) == "zero" else (limit,)


def _chart(columns: Sequence[Column], metric: str) -> Markup:
    shown = [_worst(column, metric) for column in columns]
    records = [found[1] for found in shown if found is not None]
    low, high = _range(records, metric)
    top, height, step = 16.0, 84.0, step_of(columns)
    bottom, right = top + height, LEFT + step_of(columns) * len(columns)

    def y(value: float) -> float:
        share = (max(min(value, _LARGEST), -_LARGEST) - low) / (high - low)
        return bottom - min(max(share, 0.0), 1.0) * height

    marks: list[Markup] = []
    for value in _round_numbers(low, high):
        marks.append(el("line", x1=LEFT, x2=right, y1=y(value), y2=y(value), class_="grid"))
        marks.append(label(LEFT - 8, y(value) + 4, figure(value)))
    bands, points, hits = [], [], []
    for number, found in enumerate(shown):
        if found is None:
            continue
        key, record = found
        x, alarm = LEFT + number * step, metric in record.alarm.metrics
        if (estimated := _estimate(record, metric)) is not None:
            bad = " bad" if alarm and record.alarm.judged_by == "estimate" else ""
            if estimated.low is not None and estimated.high is not None:
                above, below = y(estimated.high), y(estimated.low)
                bands.append(el("rect", x=x, y=above, width=step, height=max(below - above, 1), class_=f"band{bad}"))
            at = y(estimated.value)
            bands.append(el("line", x1=x + step * 0.1, x2=x + step * 0.9, y1=at, y2=at, class_=f"estimate{bad}"))
        if (measured := record.metrics.get(metric)) is not None:
            bad = " bad" if alarm and record.alarm.judged_by == "labels" else ""
            waiting = " waiting" if record.counts.waiting else ""
            radius = min(max(step * 0.35, 1.5), 3.5)
            points.append(
                el("circle", cx=x + step / 2, cy=y(measured), r=radius, class_=f"point{bad}{waiting}"),
            )
        if alarm:
            half = min(step * 0.4, 5.0)
            middle = x + step / 2
            corners = f"{middle - half:.1f},{top - 4:.1f} {middle + half:.1f},{top - 4:.1f} {middle:.1f},{top - 4 + 1.6 * half:.1f}"
            points.append(el("polygon", points=corners, class_="alarm"))
        words = f"{period(key)} UTC\n{_said(record, metric)}"
        if len(columns[number].performances) > 1:
            words += f"\nthe worst of {len(columns[number].performances)} windows"
        hits.append(el("rect", el("title", words), x=x, y=top, width=step, height=height, class_="hit"))
    references = [None if f is None else (f[1].reference or {}).get(metric) for f in shown]
    marks.extend(bands)
    marks.extend(_steps([() if value is None else (value,) for value in references], step, y, "reference"))
    marks.extend(_steps([() if f is None else _limits(f[1], metric) for f in shown], step, y, "threshold"))
    marks.extend(_line([None if f is None else f[1].metrics.get(metric) for f in shown], step, y))
    marks.extend([*points, *hits])
    marks.append(label(10, top + 4, metric, "start"))
    marks.extend(new_baselines(columns, bottom))
    marks.extend(ticks(columns, bottom))
    alarms = sum(metric in record.alarm.metrics for record in records)
    return svg(bottom + 22, f"{metric} by window: beyond its limit in {alarms} of {len(records)}", marks)


def _said(record: Performance, metric: str) -> str:
    said = f"{metric} {figure(record.metrics.get(metric))} from {labels_of(record)} labels"
    if (found := _estimate(record, metric)) is not None:
        said += f"\nestimated {_interval(found)}"
    if record.reference is not None:
        said += f"\nreference {figure(record.reference.get(metric))}"
    if metric in record.limits:
        said += f"\nlimit {figure(record.limits[metric])}"
    return said + (", BEYOND IT" if metric in record.alarm.metrics else "")


def _interval(found: Estimated) -> str:
    if found.low is None or found.high is None:
        return figure(found.value)
    return f"{figure(found.value)} ({figure(found.low)} to {figure(found.high)})"


def _range(records: Sequence[Performance], metric: str) -> tuple[float, float]:
    """What is drawn of a metric: every value, and of the bands at most as much again above and below."""
    values, ends = [], []
    for record in records:
        found = _estimate(record, metric)
        mine = [record.metrics.get(metric), (record.reference or {}).get(metric), *_limits(record, metric)]
        values += [value for value in [*mine, found.value if found else None] if value is not None]
        ends += [end for end in ((found.low, found.high) if found else ()) if end is not None]
    clipped = [max(min(value, _LARGEST), -_LARGEST) for value in values] or [0.0]
    low, high = min(clipped), max(clipped)
    room = high - low
    low, high = max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
    largest = max(abs(low), abs(high))
    if high - low <= largest * 1e-9 or high - low < 1 / _LARGEST:
        pad = largest * 0.1 if largest > 1 / _LARGEST else 1.0
        return low - pad, high + pad
    return low - (high - low) * 0.06, high + (high - low) * 0.06


def _round_numbers(low: float, high: float) -> Iterator[float]:
    """Two to five of them."""
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    for number in range(first, math.floor(high / step) + 1):
        yield number * step


def _steps(values: Sequence[tuple[float, ...]], step: float, y: _Scale, kind: str) -> Iterator[Markup]:
    """A level line for as long as a value stays the same."""
    at = 0
    for lines, group in groupby(values):
        width = len(list(group))
        for value in lines:
            x, level = LEFT + at * step, y(value)
            yield el("line", x1=x, x2=x + width * step, y1=level, y2=level, class_=kind)
        at += width


def _line(values: Sequence[float | None], step: float, y: _Scale) -> Iterator[Markup]:
    """What was measured, window after window; broken where nothing was."""
    for there, group in groupby(enumerate(values), key=lambda item: item[1] is not None):
        places = [f"{LEFT + (n + 0.5) * step:.1f},{y(value):.1f}" for n, value in group if value is not None]
        if there and len(places) > 1:
            yield el("polyline", points=" ".join(places), class_="line")


# --- The latest windows in numbers -------------------------------------------------------------------------------------


def _table(records: Sequence[tuple[Key, Performance]], names: Sequence[str]) -> Markup:
    last = records[-1][1]
    rows: list[list[Child]] = [
        [el("time", period(key)), _labels(record), *(_cell(record, name) for name in names), _verdict(record)]
        for key, record in reversed(records[-_LATEST:])
    ]
    if last.limits:
        rows.insert(0, [el("i", "limit"), "", *(figure(last.limits.get(name)) for name in names), ""])
    if last.reference is not None:
        rows.insert(0, [el("i", "reference"), "", *(figure(last.reference.get(name)) for name in names), ""])
    return table(
        f"The latest of {figure(len(records))} windows",
        ["Window (UTC)", "Labels", *names, "Beyond its limit"],
        rows,
        frozenset(range(1, len(names) + 2)),
    )


def _labels(record: Performance) -> Child:
    counts = record.counts
    notes = [(counts.waiting, "may still come"), (counts.expired, "never came"), (counts.unusable, "unusable")]
    said = ", ".join(f"{figure(number)} {words}" for number, words in notes if number)
    return [labels_of(record), el("div", said, class_="muted") if said else None]


def _cell(record: Performance, metric: str) -> Child:
    found = _estimate(record, metric)
    return [figure(record.metrics.get(metric)), el("div", f"≈ {_interval(found)}", class_="muted") if found else None]


def _verdict(record: Performance) -> Child:
    if record.alarm.judged_by is None:
        return el("span", "not judged yet", class_="tag")
    if not record.alarm.raised:
        return el("span", NOTHING, class_="tag")
    return el("span", f"▲ {', '.join(record.alarm.metrics)}, by {record.alarm.judged_by}", class_="tag bad")
