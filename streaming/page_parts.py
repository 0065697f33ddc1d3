"""What the page is put together from: words, numbers, cards, tables and the frame of a picture."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from streaming.board import Key
from streaming.markup import Child, Markup, el
from streaming.reports import ColumnDrift

WIDTH = 1000.0
NOTHING = "\u2013"


def figure(value: float | None) -> str:
    """A number as people read it: four digits that matter."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.3g}" if abs(value) < 1e-3 or abs(value) >= 1e6 else f"{value:.4g}"


def moment(time: str) -> datetime | None:
    """A time in UTC; None where it is none."""
    try:
        read = datetime.fromisoformat(time)
        return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def when(time: str) -> str:
    """``2013-02-03 07:30``, seconds where there are any."""
    if (read := moment(time)) is None:
        return time[:40]
    seconds = ":%S" if read.second else ""
    return f"{read:{f'%Y-%m-%d %H:%M{seconds}'}}"


def period(key: Key) -> str:
    """A window from start to end; the day once where it is one. A counted window has its number, and seconds."""
    start, end = moment(key.start), moment(key.end)
    if key.number and start is not None and end is not None:
        day = "" if start.date() == end.date() else "%Y-%m-%d "
        place = key.number.lstrip("0") or "0"
        return f"no. {place}, {start:%Y-%m-%d %H:%M:%S} \u2013 {end:{day}%H:%M:%S}"
    if start is not None and end is not None and start.date() == end.date():
        return f"{when(key.start)} \u2013 {when(key.end)[11:]}"
    return f"{when(key.start)} \u2013 {when(key.end)}"


def percent(share: float) -> str:
    """A share in whole percent."""
    return f"{share:.0%}".replace("%", "\u202f%")


def plural(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{figure(number)} {noun}{'' if number == 1 else 's'}"


def name_of(source: str, name: str) -> str:
    """A column as people call it."""
    return {"request": name, "response": f"{name} (answer)", "score": f"{name} (outlier score)"}[source]


def ratio_of(column: ColumnDrift) -> float | None:
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


def severity(column: ColumnDrift) -> tuple[bool, float]:
    """By which columns are sorted: drifted ones first, then by their way to the threshold."""
    ratio = ratio_of(column)
    return column.drifted, -1.0 if ratio is None else ratio


def card(title: str, note: Child, *children: Child, wide: bool = False) -> Markup:
    """A box with a heading; `wide` ones scroll sideways."""
    content = el("div", children, class_="scroll") if wide else children
    return el("div", el("h2", title), el("p", note, class_="muted") if note else None, content, class_="card")


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[Child]], numbers: frozenset[int]) -> Markup:
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


def svg(height: float, label: str, *children: Child, width: float = WIDTH, class_: str = "chart") -> Markup:
    """The frame of a picture, with words for those who do not see it."""
    return el(
        "svg",
        el("title", label),
        children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        class_=class_,
    )
