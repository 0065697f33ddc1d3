"""What every benchmark leaves behind: a table on the screen and benchmarks/results/NAME.json."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent / "results"


class Results:
    """Named figures of one run and tables of them, with the commit and the machine they were measured on.

    Parameters
    ----------
    name
        Of the benchmark, and of its file.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.figures: dict[str, float] = {}
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.notes: list[str] = []
        self.load_before = os.getloadavg()[0]

    def figure(self, key: str, value: float) -> None:
        """Keep a number; its key ends with its unit."""
        self.figures[key] = float(f"{value:.4g}") if abs(value) < 1e4 else float(round(value))

    def table(self, key: str, rows: list[dict[str, Any]]) -> None:
        """Keep a table, row by row: for what one number does not say."""
        self.tables[key] = rows

    def note(self, text: str) -> None:
        """Keep a sentence for the table; it is not written to the file."""
        self.notes.append(text)

    def write(self, *, keep: bool = False) -> Path:
        """Write the file, which is committed from the last honest run.

        Parameters
        ----------
        keep
            Keep the figures of the file that this run did not measure.
        """
        FOLDER.mkdir(exist_ok=True)
        path = FOLDER / f"{self.name}.json"
        earlier = json.loads(path.read_text()) if keep and path.is_file() else {}
        machine = {
            "cores": len(os.sched_getaffinity(0)),
            "load_before": round(self.load_before, 2),
            "load_after": round(os.getloadavg()[0], 2),
        }
        figures = {**earlier.get("figures", {}), **self.figures}
        tables = {**earlier.get("tables", {}), **self.tables}
        document = {"name": self.name, "commit": commit(), "machine": machine, "figures": figures}
        if tables:
            document["tables"] = tables
        path.write_text(json.dumps(document, indent=2) + "\n")
        return path

    def show(self) -> None:
        """Print the figures and the notes."""
        table = Table(title=f"bench-{self.name}", title_justify="left")
        table.add_column("figure")
        table.add_column("value", justify="right")
        for key, value in self.figures.items():
            table.add_row(key, f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}")
        console = Console()
        console.print(table)
        for note in self.notes:
            console.print(note, highlight=False)
        console.print(f"load {self.load_before:.1f} before, {os.getloadavg()[0]:.1f} after", highlight=False)


def commit() -> str:
    """The commit that is measured, with a ``+`` when files that git knows have been changed since."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..", ":!results")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
