"""The jars that PySpark does not ship: Spark's Kafka connector, and Kafka itself.

`jars.lock` beside this file names every one of them (group, artifact, version, SHA-256). They are fetched by that list,
without looking at what they say they depend on, by the Ivy that PySpark ships, verified, and kept in a cache of the
project's own. What is cached and whole is never fetched again, and then no Java is started either.

    DRIFTLINE_CACHE          where the cache is; default: driftline in $XDG_CACHE_HOME, or in ~/.cache
    DRIFTLINE_IVY_SETTINGS   an Ivy settings file, for machines that reach jars through a mirror only

``python -m streaming.jars [SET ...]`` fetches, ``python -m streaming.jars lock`` resolves the lock file anew.
"""

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from streaming.errors import JarError, StreamingError
from streaming.java import java

LOCK = Path(__file__).with_name("jars.lock")

_PATTERN = "[organisation]/[artifact]-[revision].[ext]"
"""Where Ivy puts a jar; `Jar.path` says the same."""


@dataclass(frozen=True, slots=True, order=True)
class Jar:
    """One artifact of a Maven repository, and the only bytes that are taken for it."""

    group: str
    artifact: str
    version: str
    sha256: str = ""

    @property
    def path(self) -> str:
        """Where it lies, relative to the cache."""
        return f"{self.group}/{self.artifact}-{self.version}.jar"

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"


def jars(set_name: str, *, announce: bool = False) -> list[Path]:
    """Paths of the jars of one set of the lock file, fetched first where they are not in the cache.

    Parameters
    ----------
    set_name
        ``spark-kafka`` (what `spark.jars` needs) or ``kafka-broker`` (the class path of a broker).
    announce
        Show progress even when everything is cached already.

    Raises
    ------
    JarError
        The set is not in the lock file, a jar cannot be fetched, or its bytes are not those that were locked.
    JavaError
        Something has to be fetched, and there is no Java to do it.
    """
    sets = locked()
    if set_name not in sets:
        raise JarError(f"there is no set of jars {set_name!r} in {LOCK.name}: it has {', '.join(sorted(sets))}")
    directory = cache_directory() / "jars"
    wanted = sets[set_name]
    missing = [jar for jar in wanted if _sha256(directory / jar.path) != jar.sha256]
    if missing:
        _fetch(set_name, missing, directory)
    elif announce:
        Console(stderr=True).print(f"{set_name}: {len(wanted)} jars, verified, in {directory}", soft_wrap=True)
    return [directory / jar.path for jar in wanted]


def locked(lock: Path | None = None) -> dict[str, list[Jar]]:
    """The sets of the lock file, by name."""
    document = tomllib.loads((lock or LOCK).read_text())
    return {name: [Jar(**jar) for jar in section["jars"]] for name, section in document.items()}


def cache_directory() -> Path:
    """Where Driftline keeps what it has fetched; it may be deleted at any time."""
    own = os.environ.get("DRIFTLINE_CACHE")
    # The specification of XDG_CACHE_HOME: unset and empty are the same.
    return (
        Path(own).expanduser()
        if own
        else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "driftline"
    )


def lock(path: Path = LOCK) -> None:
    """Resolve every set from its roots anew and write the hashes of what was found: trust is given here, once.

    A set with ``transitive = true`` takes what its roots need at run time, the others their roots alone.

    Raises
    ------
    JarError
        Something cannot be fetched.
    """
    text = path.read_text()
    comment = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    sections = [comment.rstrip("\n")]
    for name, section in tomllib.loads(text).items():
        roots = [Jar(*root.split(":")) for root in section["roots"]]
        transitive = section["transitive"]
        with _workshop() as workshop:
            _ivy(workshop, roots, transitive=transitive)
            found = sorted(_found(workshop / "out"))
        sections.append(
            f"[{name}]\n"
            f"transitive = {str(transitive).lower()}\n"
            "roots = [\n" + "".join(f'  "{root}",\n' for root in roots) + "]\n"
            "jars = [\n"
            + "".join(
                f'  {{ group = "{jar.group}", artifact = "{jar.artifact}", version = "{jar.version}",'
                f' sha256 = "{jar.sha256}" }},\n'
                for jar in found
            )
            + "]",
        )
    path.write_text("\n\n".join(sections) + "\n")


def _found(directory: Path) -> Iterable[Jar]:
    for path in directory.glob("*/*.jar"):
        # A version begins with a digit, and so may a part of the artifact's name (spark-sql-kafka-0-10_2.13-4.2.0):
        # the last dash followed by a digit and a dot is the one, save for qualifiers, which keep their own dash.
        name = re.fullmatch(r"(.+?)-(\d+(?:\.\d+)+(?:-[0-9A-Za-z.]+)?)\.jar", path.name)
        if name is None:
            raise JarError(f"cannot tell artifact and version of {path.name} apart")
        yield Jar(path.parent.name, name[1], name[2], _sha256(path))


def _fetch(set_name: str, missing: list[Jar], directory: Path) -> None:
    """Put `missing` into `directory`: all verified before the first is moved there, each move atomic."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with _workshop() as workshop, progress:
        task = progress.add_task(f"fetching jars of {set_name}", total=len(missing))
        fetched = 0

        def report(jar: str) -> None:
            nonlocal fetched
            fetched += 1
            progress.advance(task)
            if not console.is_terminal:  # a log has lines, not bars
                console.print(f"fetching jars of {set_name}: {fetched}/{len(missing)} {jar}", soft_wrap=True)

        _ivy(workshop, missing, transitive=False, on_jar=report)
        for jar in missing:
            actual = _sha256(workshop / "out" / jar.path)
            if actual != jar.sha256:
                raise JarError(
                    f"{jar} is not what was locked: its SHA-256 is {actual or 'missing'}, {LOCK.name} has {jar.sha256}; "
                    "nothing was kept. If the repository can be trusted and the lock cannot: make lock-jars",
                )
        for jar in missing:
            target = directory / jar.path
            target.parent.mkdir(parents=True, exist_ok=True)
            (workshop / "out" / jar.path).replace(target)


def _workshop() -> "_Workshop":
    """A directory for one run of Ivy, on the file system of the cache so that a jar moves in one step.

    It is Ivy's home too. A lasting one, or the user's ~/.m2, may hold half an artifact from an earlier run, and Ivy then
    fails where it would not have to.
    """
    cache = cache_directory()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return _Workshop(prefix="fetching-", dir=cache)
    except OSError as error:
        raise JarError(f"cannot write to the cache {cache}: {error.strerror}; DRIFTLINE_CACHE names another") from error


class _Workshop(tempfile.TemporaryDirectory[str]):
    def __enter__(self) -> Path:  # type: ignore[override]
        return Path(super().__enter__())


def _ivy(
    workshop: Path, wanted: list[Jar], *, transitive: bool, on_jar: Callable[[str], None] = lambda _: None
) -> None:
    """Have Ivy put `wanted` into ``workshop/out``, calling `on_jar` with the name of each one it has."""
    own = os.environ.get("DRIFTLINE_IVY_SETTINGS")
    settings = Path(own) if own else workshop / "settings.xml"
    if own and not settings.is_file():
        raise JarError(f"DRIFTLINE_IVY_SETTINGS names {own}, which is not a file")
    if not own:
        # Ivy's own default repository. Without POMs, an exact list takes one request a jar instead of dozens.
        settings.write_text(
            '<ivysettings><settings defaultResolver="default"/><resolvers>'
            f'<ibiblio name="default" m2compatible="true" usepoms="{str(transitive).lower()}"/>'
            "</resolvers></ivysettings>",
        )
    dependencies = "".join(
        f"<dependency org={quoteattr(jar.group)} name={quoteattr(jar.artifact)} rev={quoteattr(jar.version)}"
        f' conf="default->default" transitive="{str(transitive).lower()}"/>'
        for jar in wanted
    )
    module = workshop / "ivy.xml"
    module.write_text(
        '<ivy-module version="2.0"><info organisation="driftline" module="jars"/>'
        f'<configurations><conf name="default"/></configurations><dependencies>{dependencies}</dependencies></ivy-module>',
    )
    command = [
        str(java()),
        f"-Divy.default.ivy.user.dir={workshop / 'home'}",
        "-cp",
        str(_ivy_jar()),
        "org.apache.ivy.Main",
    ]
    command += ["-settings", str(settings), "-cache", str(workshop / "cache"), "-ivy", str(module)]
    command += ["-types", "jar", "bundle", "-retrieve", str(workshop / "out" / _PATTERN)]
    # Twice, because a line that drops once is common; what the first run has is in the workshop's cache.
    for attempt in (1, 2):
        said = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ivy:
            assert ivy.stdout is not None
            for line in ivy.stdout:
                said.append(line.strip())
                if done := re.search(r"\[SUCCESSFUL \] \S+?#([^;]+);([^!]+)!", line):
                    on_jar(f"{done[1]}-{done[2]}.jar")
        if ivy.returncode == 0:
            return
        lost = dict.fromkeys(
            f"{found[1]}:{found[2]}:{found[3]}"
            for line in said
            if (
                found := re.search(
                    r"(?:module not found: |\[(?:FAILED|NOT FOUND) *\] )([\w.-]+)#([\w.-]+);([\w.-]+)", line
                )
            )
        )
        if attempt == 2:
            break
    reasons = [line for line in said if re.search(r"exception|error|refused|timed out", line, re.IGNORECASE)]
    raise JarError(
        f"Ivy could not fetch {', '.join(lost) or 'the jars'}"
        + (f" ({reasons[0]})" if reasons else "")
        + ": is the network there? Behind a mirror, name an Ivy settings file in DRIFTLINE_IVY_SETTINGS",
    )


def _ivy_jar() -> Path:
    """Ivy, as PySpark ships it; PySpark itself is not imported, which would take a second."""
    pyspark = importlib.util.find_spec("pyspark")
    if pyspark is None or not pyspark.submodule_search_locations:
        raise JarError("fetching jars takes the Ivy that PySpark ships: pip install 'driftline[streaming]'")
    found = sorted(Path(pyspark.submodule_search_locations[0]).glob("jars/ivy-*.jar"))
    if not found:
        raise JarError(f"no jars/ivy-*.jar in {pyspark.submodule_search_locations[0]}: is PySpark installed whole?")
    return found[-1]


def _sha256(path: Path) -> str:
    """Hexadecimal digest of a file; empty when there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def main(arguments: list[str]) -> int:
    """``python -m streaming.jars [lock | SET ...]``; the exit code."""
    try:
        if arguments == ["lock"]:
            lock()
        else:
            for name in arguments or locked():
                jars(name, announce=True)
    except StreamingError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
