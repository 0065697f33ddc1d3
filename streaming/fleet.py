"""The models that one job watches: one ModelMonitor, or every one in a directory, looked at again while the job runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reference.errors import DriftlineError
from reference.store import CURRENT, Store
from streaming.errors import InvalidMonitor, UnwantedMonitor
from streaming.plan import Wanted
from streaming.spec import Job, Kafka, ModelMonitor, absolute, load

Check = Callable[[ModelMonitor, str], None]
"""Raises DriftlineError when a baseline (version) does not serve a ModelMonitor."""
_OF_A_MODEL = {"topics", "partitions", "replication_factor", "create_topics", "topic_timeout", "max_message_bytes"}
"""What models of one job may differ in, of the section `kafka`."""


@dataclass(frozen=True)
class Refusal:
    """A file or a baseline that is not used, and why."""

    origin: str
    """The file."""
    model: str
    """As far as it is known, else the file's name."""
    error: Exception
    of_baseline: bool = False

    @property
    def why(self) -> str:
        """In words."""
        return str(self.error)


@dataclass(frozen=True)
class Reading:
    """What there is to watch now."""

    wanted: Mapping[str, Wanted]
    refused: tuple[Refusal, ...]


@dataclass
class Fleet:
    """Reads ModelMonitors and the versions of their baselines.

    A file that cannot be used, or whose baseline cannot, leaves its model as it was. Models of one job share its Kafka cluster and
    its `job` section, which are those of the first file by name; a file that says otherwise is refused.

    Parameters
    ----------
    path
        A file, or a directory of files ``*.yaml`` and ``*.yml``.
    check
        Asked once of every new pair of ModelMonitor and baseline.
    """

    path: Path
    check: Check
    _files_read: dict[Path, tuple[tuple[int, ...], ModelMonitor | InvalidMonitor]] = field(default_factory=dict)
    """File -> what it was then, and what it said."""
    _good: set[tuple[str, tuple[int, ...], str]] = field(default_factory=set)
    """Files as they were, with versions of baselines that serve them."""
    _last: dict[Path, Wanted] = field(default_factory=dict)
    """File -> what was last good of it."""

    def read(self) -> Reading:
        """Look at all files and stores; what has not changed is not read again."""
        wanted: dict[str, Wanted] = {}
        refused: list[Refusal] = []
        files: dict[str, Path] = {}
        models: dict[str, str] = {}
        there = self._files()
        for file in there:
            known = self._last.get(file)
            one: Wanted | None
            try:
                one = self._one(file, wanted, files, models, refused)
            except (DriftlineError, OSError) as error:
                name = known.monitor.name if known else file.stem
                refused.append(Refusal(str(file), name, error))
                one = known
            if one is None or one.monitor.name in wanted:
                continue
            name = one.monitor.name
            wanted[name], files[name], self._last[file] = one, file, one
            models |= dict.fromkeys(one.monitor.inputs, name)
        for gone in set(self._last) - set(there):
            del self._last[gone]
        return Reading(wanted, tuple(refused))

    def _one(
        self,
        file: Path,
        wanted: Mapping[str, Wanted],
        files: Mapping[str, Path],
        models: Mapping[str, str],
        refused: list[Refusal],
    ) -> Wanted:
        """What one file wants; raises when that cannot be."""
        monitor, state = self._loaded(file)
        if wanted:
            _fits(monitor, next(iter(wanted.values())).monitor, self.path)
        if monitor.name in files:
            raise UnwantedMonitor(
                f"model {monitor.name!r} is described by {files[monitor.name]} already: it has one file"
            )
        taken = next((topic for topic in monitor.inputs if topic in models), None)
        if taken is not None:
            raise UnwantedMonitor(
                f"the topic {taken!r} is read for model {models[taken]!r} already: name another in spec.kafka.topics"
            )
        section = monitor.spec.reference
        try:
            version = Store(section.store).current(monitor.name) if section.version == CURRENT else section.version
            self._checked(file, state, monitor, version)
        except DriftlineError as error:
            known = self._last.get(file)
            if known is None or known.monitor.name != monitor.name or known.baseline == section.version:
                raise
            self._checked(file, state, monitor, known.baseline)
            refused.append(Refusal(str(file), monitor.name, error, of_baseline=True))
            version = known.baseline
        return Wanted(monitor, version)

    def _loaded(self, file: Path) -> tuple[ModelMonitor, tuple[int, ...]]:
        status = file.stat()
        state = (status.st_mtime_ns, status.st_size, status.st_ino)
        if file not in self._files_read or self._files_read[file][0] != state:
            try:
                self._files_read[file] = state, absolute(load(file))
            except InvalidMonitor as error:
                self._files_read[file] = state, error
        said = self._files_read[file][1]
        if isinstance(said, InvalidMonitor):
            raise said
        return said, state

    def _checked(self, file: Path, state: tuple[int, ...], monitor: ModelMonitor, version: str) -> None:
        key = (str(file), state, version)
        if key not in self._good:
            self.check(monitor, version)
            self._good = {one for one in self._good if one[0] != str(file)} | {key}

    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        # Hidden files are what editors and Kubernetes' mounts keep beside the real ones.
        return sorted(
            file
            for file in self.path.iterdir()
            if file.suffix in {".yaml", ".yml"} and not file.name.startswith(".") and file.is_file()
        )


def _fits(monitor: ModelMonitor, first: ModelMonitor, folder: Path) -> None:
    """Whether a model can be watched by the job of the first one."""
    for key, mine, theirs in (
        ("kafka", _cluster(monitor.spec.kafka), _cluster(first.spec.kafka)),
        ("job", _whole(monitor.spec.job), _whole(first.spec.job)),
    ):
        different = [name for name in mine if mine[name] != theirs[name]]
        if different:
            name = different[0]
            raise UnwantedMonitor(
                f"spec.{key}.{name} is {mine[name]!r}, and {theirs[name]!r} in the file of {first.name!r}: the models of {folder} "
                "are watched by one job, so it must be the same in all of them"
            )


def _cluster(kafka: Kafka) -> dict[str, object]:
    return kafka.model_dump(mode="json", exclude=_OF_A_MODEL)


def _whole(job: Job) -> dict[str, object]:
    return job.model_dump(mode="json")
