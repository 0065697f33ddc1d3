"""The sub-commands of `driftline reference`: build, judge, promote and look at baselines."""

import contextlib
import json
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reference.errors import BaselineNotFound, UnusableData
from workflows.terminal import complain, console, line, print_json, progress, table

if TYPE_CHECKING:
    from rich.table import Table

    from detectors.performance.settings import Performance
    from reference.baseline import Baseline
    from reference.data import Data
    from reference.refresh import Force, Refreshed, Rules, Settled
    from reference.source import Source
    from streaming.spec import ModelMonitor

reference = typer.Typer(
    help="Baselines: what the training data looked like.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
)

_REASONS = 20
"""Lines that say why; the report has all."""

Config = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The ModelMonitor of the model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text, for programs.")]
Place = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="URL",
        help="The training table, one row an instance: a file, directory, pattern, s3://, delta://, iceberg:// or jdbc: URL. "
        "Default: reference.data of the ModelMonitor.",
        show_default=False,
    ),
]
Format = Annotated[
    Literal["parquet", "csv", "jsonl", "delta", "iceberg", "jdbc", "traffic"] | None,
    typer.Option(help="Default: what the URL says. `traffic`: the requests that were served.", show_default=False),
]
Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Only rows from this time on: a date, or RFC 3339.", show_default=False),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only rows before this time.", show_default=False)]
Last = Annotated[
    str | None, typer.Option(metavar="SPAN", help="Only rows of this span, for example 30d.", show_default=False)
]
Weight = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Column of the rows' sample weights.", show_default=False)
]
Engine = Annotated[
    Literal["auto", "local", "spark"],
    typer.Option(
        help="Who reads the rows: threads of this process, or Spark. auto: Spark where job.master is a cluster."
    ),
]
Staging = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where rows of a database or of traffic wait while they are read: on a cluster a place that its workers reach, too. "
        "Default: a temporary directory.",
        show_default=False,
    ),
]
Forced = Annotated[
    bool, typer.Option("--force", help="Promote it whatever the gate says; --why says why, DRIFTLINE_USER who.")
]
Why = Annotated[str | None, typer.Option(metavar="TEXT", help="Is kept with the promotion.", show_default=False)]


# --- Build and refresh ------------------------------------------------------------------------------------------------
@reference.command("build")
def reference_build(
    config: Config,
    data: Place = None,
    *,
    format: Format = None,  # noqa: A002 - the option's name
    since: Since = None,
    until: Until = None,
    last: Last = None,
    weight: Weight = None,
    engine: Engine = "auto",
    staging: Staging = None,
    promote: Annotated[
        bool, typer.Option("--promote/--no-promote", help="Make it the current one if the gate lets it.")
    ] = True,
    force: Forced = False,
    why: Why = None,
    as_json: AsJson = False,
) -> int:
    """Build a baseline from training data, judge it, and make it the one that monitors compare with.

    Exit code 4 when the gate does not let it become current; it is in the store then, with the judgement beside it.
    """
    from reference.store import Store
    from streaming.spec import load

    monitor = load(config)
    forced = _force(force, why)
    wanted = data_section(monitor, data, format=format, since=since, until=until, last=last, weight=weight)
    settled = _built(monitor, wanted, engine, staging, promote=promote, force=forced)
    done, store = settled.refreshed, monitor.spec.reference.store
    baseline = Store(store).load(done.model, done.version)
    if as_json:
        print_json({**_as_document(baseline, store), "refresh": _as_json(done)})
        return done.exit_code
    _tell(done, config)
    for each in _baseline_tables(baseline, short=True):
        console().print(each)
    return done.exit_code


@reference.command("refresh")
def reference_refresh(
    config: Config,
    *,
    since: Since = None,
    until: Until = None,
    last: Last = None,
    engine: Engine = "auto",
    staging: Staging = None,
    summary: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what it came to as JSON, for a workflow.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Build from reference.data, judge, promote, remove old versions: what a schedule calls. Safe to run twice, also at once.

    Exit code 0 when the version is current now or has been before, 4 when the gate did not let it pass or it was rolled back from. The summary has
    `outcome`, `decision`, `version`, `previous`, `current`, `reasons`, `columns`.
    """
    from reference.refresh import tidied
    from reference.store import CURRENT
    from streaming.spec import load

    monitor = load(config)
    section = monitor.spec.reference
    if section.data is None:
        msg = f"{config}: spec.reference.data: is missing, and a refresh builds from it: add it with the `url` of the training table"
        raise UnusableData(msg)
    if section.mlflow is not None:
        import mlflow.tracking  # noqa: F401 - that it is missing is said before work starts
    if summary is not None:
        _to_write(summary.absolute().parent, "--summary")
        if summary.is_dir():
            msg = f"--summary: {summary} is a directory: name a file in it"
            raise UnusableData(msg)
    wanted = data_section(monitor, None, format=None, since=since, until=until, last=last, weight=None)
    settled = _built(monitor, wanted, engine, staging, scheduled=True)
    named = [] if section.version == CURRENT else [section.version]
    done = tidied(settled, section, named=named).refreshed
    if summary is not None:
        import fsspec

        from reference.files import write_whole

        text = json.dumps(_as_json(done), indent=2, ensure_ascii=False) + "\n"
        write_whole(fsspec.filesystem("file"), str(summary.absolute()), text.encode())
    if as_json:
        print_json(_as_json(done))
    else:
        _tell(done, config)
        for version in done.removed:
            line(f"removed {version}, which was old")
        if done.registry is not None:
            line(f"registry: {done.registry}: {done.registry_text}", "yellow" if done.registry == "pending" else None)
    return done.exit_code


def _to_write(folder: Path, option: str) -> None:
    """Make a folder, before work starts that could not be told of."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{option}: {folder} cannot be made a directory ({error.strerror}): name another place"
        raise UnusableData(msg) from None


def _force(force: bool, why: str | None) -> "Force | None":
    from reference.promotions import someone
    from reference.refresh import Force

    if not force:
        return None
    if not (why or "").strip():
        msg = "--force goes against the gate, so --why must say why: --why 'the sensor was replaced'"
        raise UnusableData(msg)
    return Force(someone(), (why or "").strip())


def data_section(monitor: "ModelMonitor", place: str | None, **options: str | None) -> "Data":
    """What the ModelMonitor says, and what the options say otherwise. Another place has nothing to do with the old one's format and window."""
    from pydantic import ValidationError

    from reference.data import Data

    section = monitor.spec.reference.data
    said: dict[str, Any] = {} if section is None else section.model_dump(exclude_unset=True)
    if place is not None or options["format"] == "traffic":
        kept = ("columns", "time", "time_unit", "weight") if options["format"] != "traffic" else ()
        said = {name: value for name, value in said.items() if name in kept}
        if place is not None:
            said["url"] = place
    given = {name: value for name, value in options.items() if value is not None}
    if {"since", "last"} & given.keys():
        said.pop("since", None)
        said.pop("last", None)
    said |= given
    if not said:
        msg = "there is no training table: give one with --data, or as spec.reference.data in the ModelMonitor"
        raise UnusableData(msg)
    try:
        return Data.model_validate(said)
    except ValidationError as error:
        texts = [
            f"{' '.join(f'--{part}' if part in options else f'reference.data.{part}' for part in one['loc']) or 'reference.data'}: "
            + one["msg"].removeprefix("Value error, ")
            for one in error.errors(include_url=False)
        ]  # fmt: skip
        raise UnusableData("\n".join(texts)) from None


def _built(
    monitor: "ModelMonitor",
    data: "Data",
    engine: str,
    staging: str | None,
    *,
    promote: bool = True,
    scheduled: bool = False,
    force: "Force | None" = None,
) -> "Settled":
    """Read, build, judge, publish, promote."""
    from reference.build import build
    from reference.refresh import labelled_rows, settle
    from streaming.judgement_page import report

    spec = monitor.spec
    performance: Performance | None = spec.performance
    if spec.performance.label is not None and data.format == "traffic":
        performance = None
        note = "note: served traffic has no labels, so this baseline has no performance to compare with"
        console(stderr=True).print(note, style="yellow", soft_wrap=True)
    with progress() as bar, _opened(monitor, data, engine, staging) as (source, workers):
        task = bar.add_task(f"reading {data.url or 'served traffic'}", total=1.0)
        baseline = build(
            source,
            spec.model,
            spec.reference,
            spec.outliers.learned,
            lambda share: bar.update(task, completed=share),
            segments=spec.segments,
            performance=performance,
            weight=data.weight,
            **({} if workers is None else {"executor": workers}),
        )
        bar.update(task, description=f"judging {baseline.rows:,} rows, publishing to {spec.reference.store}")
        rows = labelled_rows(source, spec.model, spec.performance)
        return settle(
            baseline, _rules(monitor), rows=rows, render=report, promote=promote, scheduled=scheduled, force=force
        )


@contextlib.contextmanager
def _opened(monitor: "ModelMonitor", data: "Data", engine: str, staging: str | None) -> Iterator[tuple["Source", Any]]:
    """The rows, and who reads them (None: threads of this process)."""
    from reference.data import format_of
    from reference.performance import label_of
    from reference.sources import open_source

    spec = monitor.spec
    kind = data.format or format_of(data.url or "")
    on_spark = engine == "spark" or (engine == "auto" and not spec.job.master.startswith("local"))
    label = label_of(spec.performance, spec.model)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(_staging(staging))
        if staging is None and kind in {"jdbc", "traffic"} and not spec.job.master.startswith("local"):
            msg = f"rows of {kind} wait where the workers of {spec.job.master} reach them: name such a place with --staging"
            raise UnusableData(msg)
        if kind == "jdbc":
            from reference.sources.sql import named

            named(data)  # what is missing is said before Spark starts
        spark = None
        if on_spark or kind == "jdbc":
            spark = _session(monitor, jdbc=kind == "jdbc")
            stack.callback(spark.stop)
        if kind == "traffic":
            from streaming.traffic_source import open_traffic

            source = open_traffic(monitor, data, place)
        else:
            source = open_source(data, spec.model, label=label, spark=spark, staging=place)
        workers = None
        if on_spark:
            from reference.spark import SparkWorkers

            assert spark is not None
            workers = SparkWorkers(spark)
        yield source, workers


@contextlib.contextmanager
def _staging(url: str | None) -> Iterator[str]:
    """An empty place that is gone afterwards."""
    if url is None:
        with tempfile.TemporaryDirectory(prefix="driftline-") as folder:
            yield folder
        return
    import fsspec

    place = f"{url.rstrip('/')}/driftline-{secrets.token_hex(8)}"
    try:
        fs, path = fsspec.core.url_to_fs(place)
        fs.makedirs(path, exist_ok=True)
    except (ImportError, ValueError, OSError) as error:
        msg = f"--staging: {url} is no place that can be written: {error}"
        raise UnusableData(msg) from None
    try:
        yield place
    finally:
        with contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=True)


def _session(monitor: "ModelMonitor", *, jdbc: bool) -> Any:
    """Spark as the monitor has it, for a batch job: a worker that reads a large part is silent for a while."""
    from streaming.jars import jars
    from streaming.job import session

    spec = monitor.spec
    settings = {"spark.python.worker.killOnIdleTimeout": "false", "spark.python.worker.idleTimeoutSeconds": "0"}
    settings |= spec.job.spark
    if jdbc:  # beside the drivers of other databases
        ours = [str(jar) for jar in jars("jdbc-postgresql")]
        settings["spark.jars"] = ",".join([*ours, *filter(None, [spec.job.spark.get("spark.jars")])])
    job = spec.job.model_copy(update={"spark": settings})
    return session(monitor.model_copy(update={"spec": spec.model_copy(update={"job": job})}))


def _rules(monitor: "ModelMonitor") -> "Rules":
    from reference.judge import DriftRules
    from reference.refresh import Rules

    spec = monitor.spec
    drift = DriftRules(spec.drift.methods, spec.drift.columns, spec.drift.share)
    return Rules(spec.model, spec.reference, drift, spec.performance)


def _as_json(done: "Refreshed") -> dict[str, Any]:
    import msgspec

    built: dict[str, Any] = msgspec.to_builtins(done)
    return built


def _tell(done: "Refreshed", config: Path) -> None:
    """What it came to, and why; what went wrong on stderr."""
    what = f"baseline {done.version} of {done.model}: {done.rows:,} rows, "
    look = f"driftline reference report --config {config} --version {done.version} writes the report"
    if done.outcome == "promoted":
        line(f"{what}now current in {done.store}" + (", forced" if done.forced else ""))
    elif done.outcome == "unchanged":
        line(f"{what}unchanged: it is current in {done.store} already")
    elif done.outcome == "published":
        line(f"{what}published to {done.store}; {done.current or 'none'} is current")
    elif done.outcome == "held":
        complain(
            f"{what}not promoted: it was rolled back from; {done.current} stays current in {done.store}. "
            f"driftline reference promote --config {config} {done.version} makes it current again"
        )
    else:
        complain(f"{what}rejected; {done.current or 'none'} stays current in {done.store}; {look}")
    if done.decision == "reject" and done.outcome == "rejected":
        for reason in done.reasons[:_REASONS]:
            complain(f"  {reason}")
    elif done.decision != "accept":
        for reason in done.reasons[:_REASONS]:
            line(f"  {done.decision}: {reason}", "yellow")
    if len(done.reasons) > _REASONS:
        line(f"  and {len(done.reasons) - _REASONS} more")


# --- Look -------------------------------------------------------------------------------------------------------------
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
    segments: Annotated[
        bool, typer.Option("--segments", help="Show the segments instead, and how many rows each has.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Show a baseline as a table: what the training data looked like, column by column."""
    from reference.describe import describe_segments
    from reference.store import Store
    from streaming.spec import load

    model = load(config, importing=False)
    section = model.spec.reference
    baseline = Store(section.store).load(model.name, version or section.version)
    if as_json:
        document = _as_document(baseline, section.store)
        print_json({**document, "segments": describe_segments(baseline)} if segments else document)
        return 0
    line(
        f"baseline {baseline.version} of {baseline.model} (model version {baseline.model_version}), "
        f"{baseline.rows:,} rows, built {baseline.created}, in {section.store}"
    )
    if segments:
        shown = table("segment", ">rows", ">share", "compared")
        for row in describe_segments(baseline):
            compared = "yes" if row["compared"] else "no: too few rows"
            shown.add_row(row["segment"], f"{row['rows']:,}", f"{row['share']:.1%}", compared)
        if not shown.row_count:
            line("it was built without segments")
            return 0
        console().print(shown)
        return 0
    for each in _baseline_tables(baseline, short=False):
        console().print(each)
    return 0


@reference.command("list")
def reference_list(config: Config, *, as_json: AsJson = False) -> int:
    """List the baselines of a model, oldest first."""
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
        print_json([{**manifest, "current": manifest["version"] == current} for manifest in manifests])
        return 0
    if not manifests:
        console(stderr=True).print(f"no baseline of {model.name} in {store.url} yet", style="yellow", soft_wrap=True)
        return 0
    shown = table("version", "", "built", ">rows", ">features", ">predictions", "model version", "judged", "from")
    for manifest in manifests:
        mark = "current" if manifest["version"] == current else ""
        if "damaged" in manifest:
            shown.add_row(manifest["version"], mark, "damaged", style="red")
            complain(manifest["damaged"])
            continue
        origin = manifest.get("origin") or {}
        shown.add_row(
            manifest["version"],
            mark,
            manifest["created"],
            f"{manifest['rows']:,}",
            str(len(manifest["features"])),
            str(len(manifest["predictions"])),
            manifest["modelVersion"],
            manifest.get("decision") or "",
            str(origin.get("url") or origin.get("kind") or ""),
        )
    console().print(shown)
    return 0


@reference.command("history")
def reference_history(config: Config, *, as_json: AsJson = False) -> int:
    """Show which baseline was current when, who made it so and why; newest first."""
    from dataclasses import asdict

    from reference.store import Store
    from streaming.spec import load

    model = load(config, importing=False)
    records = [record for record in Store(model.spec.reference.store).history(model.name) if record.kind != "removal"]
    if as_json:
        names = ("number", "kind", "version", "replaced", "when", "by", "why", "forced")
        print_json([{name: value for name, value in asdict(record).items() if name in names} for record in records])
        return 0
    shown = table(">no.", "when", "what", "version", "instead of", "by", "why")
    for record in records:
        what = f"{record.kind}{', forced' if record.forced else ''}"
        shown.add_row(str(record.number), record.when, what, record.version, record.replaced, record.by, record.why)
    console().print(shown)
    return 0


@reference.command("report")
def reference_report(
    config: Config,
    *,
    version: Annotated[str | None, typer.Option(help="Default: the current one.", show_default=False)] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path(),
    as_json: AsJson = False,
) -> int:
    """Write what is kept beside a version: the judgement, its HTML page and its Evidently snapshot."""
    from reference.refresh import JUDGEMENT
    from reference.store import CURRENT, Store
    from streaming.spec import load

    model = load(config, importing=False)
    store = Store(model.spec.reference.store)
    wanted = store.current(model.name) if version in {None, "", CURRENT} else version
    assert wanted is not None
    filing = store.beside(model.name, wanted)
    if filing is None:
        store.manifest(model.name, wanted)  # says which versions there are
        msg = f"baseline {wanted} of {model.name} was published without being judged: nothing is beside it"
        raise BaselineNotFound(msg)
    if as_json:
        print_json(json.loads(store.read_beside(model.name, wanted, JUDGEMENT, filing)))
        return 0
    _to_write(out, "--out")
    for name in sorted(filing.files):
        path = out / f"{wanted}-{name}"
        path.write_bytes(store.read_beside(model.name, wanted, name, filing))
        line(str(path))
    return 0


@reference.command("diff")
def reference_diff(
    config: Config,
    old: Annotated[str, typer.Argument(metavar="A", help="A version, or `current`.")],
    new: Annotated[str, typer.Argument(metavar="B", help="A version, or `current`.")],
    *,
    as_json: AsJson = False,
) -> int:
    """Compare two baselines column by column: rows, missing values, means, quantiles, categories, drift."""
    from reference.differences import differences
    from reference.judge import judge
    from reference.store import Store
    from streaming.spec import load

    monitor = load(config)
    store = Store(monitor.spec.reference.store)
    a, b = store.load(monitor.name, old), store.load(monitor.name, new)
    rules = _rules(monitor)
    judgement = judge(b, a, rules.model, rules.settings.gate, drift=rules.drift, performance=rules.performance)
    columns = differences(a, b)
    schema = [check.text for check in judgement.checks if check.check == "schemaChange"]
    scores: dict[tuple[str, str], list[Any]] = {}
    for one in judgement.comparisons:
        scores.setdefault((one.source, one.name), []).append(one)
    if as_json:
        import msgspec

        drift = msgspec.to_builtins(judgement.comparisons)
        print_json(
            {"model": a.model, "a": _brief(a), "b": _brief(b), "schema": schema, "columns": columns, "drift": drift}
        )
        return 0
    line(f"{a.version} ({a.rows:,} rows, built {a.created}) and {b.version} ({b.rows:,} rows, built {b.created})")
    for text in schema:
        line(f"  {text}", "yellow")
    shown = table("column", ">missing", ">mean", ">p25", ">p50", ">p75", "categories", ">displaced", "drift")
    for row in columns:
        found = scores.get((row["source"], row["column"]), [])
        drift = ", ".join(f"{one.method} {'-' if one.score is None else format(one.score, '.3g')}" for one in found)
        drifted = any(one.drifted for one in found)
        shown.add_row(
            row["column"] + (" (prediction)" if row["source"] == "response" else ""),
            _change(row["missing"], ".1%"),
            *(_change(row[name]) for name in ("mean", "p25", "p50", "p75")),
            ", ".join([*(f"+{key}" for key in row["gained"][:3]), *(f"-{key}" for key in row["lost"][:3])]),
            "" if row["displacement"] is None else f"{row['displacement']:.3f}",
            f"{drift}{', drifted' if drifted else ''}",
            style="yellow" if drifted else None,
        )
    console().print(shown)
    return 0


def _brief(baseline: "Baseline") -> dict[str, Any]:
    return {"version": baseline.version, "rows": baseline.rows, "created": baseline.created, "modelVersion": baseline.model_version}  # fmt: skip


def _change(pair: list[float | None], how: str = ".4g") -> str:
    old, new = ("" if value is None else format(value, how) for value in pair)
    return old if old == new else f"{old} \u2192 {new}"


@reference.command("infer")
def reference_infer(
    data: Annotated[
        str, typer.Option("--data", metavar="URL", help="A table, as `build` takes it.", show_default=False)
    ],
    *,
    format: Format = None,  # noqa: A002 - the option's name
    as_json: AsJson = False,
) -> int:
    """Draft `model.features` of a ModelMonitor from a table: types, bounds, categories, missing values. For review by a person."""
    from pydantic import ValidationError

    from reference.data import Data, format_of
    from reference.infer import infer
    from reference.sources import open_source

    kind = format or format_of(data)
    if kind in {"jdbc", "traffic"}:
        msg = (
            f"a draft is made from files and tables, not from {kind}: give --data a file, a directory or a table format"
        )
        raise UnusableData(msg)
    try:
        wanted = Data.model_validate({"url": data, "format": format})
    except ValidationError as error:
        raise UnusableData("\n".join(one["msg"].removeprefix("Value error, ") for one in error.errors())) from None
    with progress() as bar:
        task = bar.add_task(f"reading {data}", total=1.0)
        draft = infer(open_source(wanted), lambda share: bar.update(task, completed=share))
    if as_json:
        print_json({"rows": draft.rows, "columns": draft.to_json()})
    else:
        typer.echo(draft.to_yaml(), nl=False)
    return 0


# --- Promote and tidy -------------------------------------------------------------------------------------------------
@reference.command("promote")
def reference_promote(
    config: Config,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="One that is in the store.")],
    *,
    force: Forced = False,
    why: Why = None,
    as_json: AsJson = False,
) -> int:
    """Make a version that is in the store the current one, if the gate lets it. Exit code 4 when it does not."""
    from reference.refresh import promoted
    from reference.store import Store
    from streaming.spec import load

    monitor = load(config)
    store = Store(monitor.spec.reference.store)
    baseline = store.load(monitor.name, version)
    from streaming.judgement_page import report

    settled = promoted(baseline, _rules(monitor), render=report, force=_force(force, why), why=why or "")
    if as_json:
        print_json(_as_json(settled.refreshed))
    else:
        _tell(settled.refreshed, config)
    return settled.refreshed.exit_code


@reference.command("rollback")
def reference_rollback(
    config: Config,
    *,
    to: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Default: the one that was current before.", show_default=False),
    ] = None,
    why: Why = None,
    as_json: AsJson = False,
) -> int:
    """Go back to the baseline that was current before. A schedule does not bring back the one that was left; other data or `promote` do."""
    from reference.store import Store
    from streaming.spec import load

    model = load(config, importing=False)
    store = Store(model.spec.reference.store)
    before = store.latest(model.name)
    done = store.rollback(model.name, to, why=why or "")
    if as_json:
        print_json({"model": model.name, "version": done.version, "previous": before, "by": done.by, "why": done.why})
    elif done.version == before:
        line(f"baseline {done.version} of {model.name} is current in {store.url} already")
    else:
        line(f"baseline {done.version} of {model.name} is current again in {store.url}, instead of {before}")
    return 0


@reference.command("gc")
def reference_gc(
    config: Config,
    *,
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="Versions to keep. Default: reference.keep of the ModelMonitor.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
) -> int:
    """Remove old versions, and what publishers that were killed have left.

    What is current, was current or published within the last day, or is named by the ModelMonitor stays.
    """
    from dataclasses import asdict

    from reference.store import CURRENT, Store
    from streaming.spec import load

    model = load(config, importing=False)
    section = model.spec.reference
    named = [] if section.version == CURRENT else [section.version]
    removed = Store(section.store).gc(model.name, keep=keep or section.keep, named=named, dry_run=dry_run)
    if as_json:
        print_json({"model": model.name, "dryRun": dry_run, "removed": [asdict(each) for each in removed]})
        return 0
    for each in removed:
        line(f"{'would remove' if dry_run else 'removed'} {each.version} ({each.what}, {each.bytes:,} bytes)")
    if not removed:
        line("nothing to remove")
    return 0


# --- Tables -----------------------------------------------------------------------------------------------------------
def _as_document(baseline: "Baseline", store: str) -> dict[str, Any]:
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


def _baseline_tables(baseline: "Baseline", *, short: bool) -> "Iterator[Table]":
    """One table of the numeric columns and one of the categorical ones, as far as there are any."""
    from reference.describe import QUARTILES, describe

    rows = describe(baseline)
    numbers = ["mean", "stddev", "min", *QUARTILES, "max"]
    if short:
        numbers = ["mean", "stddev", "min", "max"]
    numeric = table("column", "type", ">rows", ">missing", *(f">{name}" for name in numbers), ">distinct")
    categorical = table("column", "type", ">rows", ">missing", ">distinct", "most frequent")
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
    for each in (numeric, categorical):
        if each.row_count:
            yield each
