"""The horizontal scale that every picture of a segment shares: its windows, side by side."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from streaming.board import Entry, Key
from streaming.markup import Markup, el
from streaming.page_parts import WIDTH, moment, period, severity, when
from streaming.reports import ColumnDrift, Drift, Performance, Statistics

_COLUMNS = 120
"""Columns of the heat map and of the timelines."""
_OF_SEGMENT = 60
"""Those of a segment: the page shows many."""
LEFT, RIGHT = 150.0, 14.0


@dataclass(frozen=True)
class Column:
    """One column of the pictures: one window, or the worst of several that follow each other."""

    windows: Sequence[tuple[Key, Entry]]

    @cached_property
    def drifts(self) -> list[tuple[Key, Drift]]:
        """What is said of drift in its windows."""
        return [(key, entry.drift) for key, entry in self.windows if entry.drift is not None]

    @cached_property
    def statistics(self) -> list[tuple[Key, Statistics]]:
        """The statistics of its windows."""
        return [(key, entry.statistics) for key, entry in self.windows if entry.statistics is not None]

    @cached_property
    def performances(self) -> list[tuple[Key, Performance]]:
        """How good the predictions of its windows are."""
        return [(key, entry.performance) for key, entry in self.windows if entry.performance is not None]

    @cached_property
    def worst(self) -> tuple[Key, Drift] | None:
        """The window that drifted most."""
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
                if known is None or severity(column) > severity(known[1]):
                    cells[column.source, column.name] = key, column
        return cells

    @property
    def baseline(self) -> str:
        """With what its newest window is compared."""
        return self.windows[-1][0].baseline

    @property
    def span(self) -> str:
        """From the start of its first window to the end of its last one."""
        first, last = self.windows[0][0], self.windows[-1][0]
        return period(first) if len(self.windows) == 1 else f"{when(first.start)} \u2013 {when(last.end)}"


def arranged(windows: dict[Key, Entry]) -> list[Column]:
    """Windows in columns, as many in each."""
    items = list(windows.items())
    size = math.ceil(len(items) / (_OF_SEGMENT if items[-1][0].segment else _COLUMNS))
    # The newest column is always full, so that it does not jump between one window and many.
    first = len(items) % size or size
    starts = [0, *range(first, len(items), size)]
    return [Column(items[a:b]) for a, b in pairwise([*starts, len(items)])]


def step_of(columns: Sequence[Column]) -> float:
    """Width of a column."""
    return min((WIDTH - LEFT - RIGHT) / max(len(columns), 1), 60.0)


def label(x: float, y: float, words: str, anchor: str = "end", limit: int = 22) -> Markup:
    """A few words in a picture, whole in their tooltip."""
    short = words if len(words) <= limit else words[: limit - 1] + "…"
    return el("text", short, el("title", words) if short != words else None, x=x, y=y, text_anchor=anchor)


def ticks(columns: Sequence[Column], y: float) -> Iterator[Markup]:
    """A few times below the columns, each where its window begins."""
    moments = [moment(column.windows[0][0].start) for column in columns]
    known = [at for at in moments if at is not None]
    if not known:
        return
    form = "%H:%M:%S" if any(m.second for m in known) else "%H:%M"
    if len({m.date() for m in known}) > 1:
        form = "%b %d" if all(m.hour == m.minute == 0 for m in known) else f"%b %d {form}"
    if len({m.year for m in known}) > 1:
        form = f"%Y {form}"
    step = step_of(columns)
    every = max(math.ceil((8 * len(f"{known[0]:{form}}") + 12) / step), 1)
    for number in range(0, len(columns), every):
        if (at := moments[number]) is not None:
            x, words = LEFT + number * step, f"{at:{form}}"
            yield el("line", x1=x, x2=x, y1=y, y2=y + 4, class_="axis")
            if x + 7 * len(words) < WIDTH:
                yield label(x, y + 16, words, "start", 30)


def new_baselines(columns: Sequence[Column], height: float) -> Iterator[Markup]:
    """A line wherever the windows are compared with another baseline than those before."""
    step = step_of(columns)
    for number, (before, after) in enumerate(pairwise(columns), start=1):
        if before.baseline != after.baseline:
            x = LEFT + number * step
            words = f"from here on compared with baseline {after.baseline}, before with {before.baseline}"
            yield el("line", el("title", words), x1=x, x2=x, y1=0, y2=height, class_="baseline")
