"""What commands print: lines, tables and bars by rich, JSON for programs."""

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def complain(text: str) -> None:
    """Each line on stderr, red on a terminal."""
    told = console(stderr=True)
    for line in text.splitlines():
        told.print(f"driftline: {line}", style="red", markup=False, highlight=False, soft_wrap=True)


def console(*, stderr: bool = False) -> "Console":
    """A terminal has the width it has; a pipe or a file has room for whole tables."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made = Console(stderr=stderr, highlight=False, width=200)
    return made


def line(text: str, style: str | None = None) -> None:
    """One line on stdout, however long: names in it are no markup."""
    console().print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def table(*columns: str) -> "Table":
    """A plain table; a column whose head begins with '>' holds numbers."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in columns:
        name = head.removeprefix(">")
        made.add_column(name, justify="right" if name != head else "left", overflow="fold")
    return made


def progress() -> Any:
    """A bar on a terminal, nothing in a log."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    shown = console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=shown,
        transient=True,
        disable=not shown.is_terminal,
    )


def print_json(value: Any) -> None:
    """JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201
