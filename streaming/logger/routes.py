"""Whose an event is: the models that a logger serves, from one file or a directory of files, looked at again while it runs."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel

from reference.errors import DriftlineError
from reference.secret import MissingSecret
from streaming.cloudevents import Event
from streaming.document import Problem
from streaming.errors import InvalidMonitor, StreamingError, UnwantedMonitor
from streaming.logger.redaction import Redactor
from streaming.logger.settings_events import Mirror
from streaming.spec import Kafka, ModelMonitor, load

_OF_A_MODEL = {"topics", "partitions", "replication_factor", "create_topics", "topic_timeout", "max_message_bytes"}
"""What models of one logger may differ in, of the section `kafka`; of `logger`, the same."""
_OF_ITS_EVENTS = {"sample", "redact", "mirror", "match", "resources", "autoscaling"}
_SHOWN = 10
SAMPLE_HEADER = "driftline-sample"
"""The Kafka header that says which share of the events is kept, where it is not all."""


class UnknownModel(StreamingError):
    """An event of a model that this logger does not serve; the text names those that it does."""


@dataclass(frozen=True)
class Route:
    """One model, as far as its events go."""

    monitor: ModelMonitor
    topic: str
    sample: float
    redactor: Redactor | None
    mirror: Mirror | None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.monitor.name

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """Kafka headers that every event of the model has besides its own."""
        return ((SAMPLE_HEADER, repr(self.sample)),) if self.sample < 1 else ()

    def keeps(self, event: Event) -> bool:
        """Whether the event is in the sample: by its id, so that a request and its response are together."""
        return self.sample >= 1 or in_sample(event.id, self.sample)


def in_sample(identity: str, rate: float) -> bool:
    """Whether an id is in a sample of this rate; what is in a sample is in every larger one.

    >>> sum(in_sample(str(number), 0.1) for number in range(10_000))
    999
    """
    digest = hashlib.blake2b(
        identity.encode("utf-8", "surrogatepass"), digest_size=8, person=b"driftline-sample"
    ).digest()
    return int.from_bytes(digest) < rate * 2.0**64


@dataclass(frozen=True)
class Routes:
    """The models of a moment.

    Parameters
    ----------
    routes
        By the model's name.
    alone
        Whether the only model takes whatever is posted to ``/``, of another inference service, too: it is then the monitor that tells.
    """

    routes: Mapping[str, Route]
    alone: bool = False

    def of_path(self, path: str) -> Route | None:
        """The model of ``/<namespace>/<name>`` or ``/models/<name>``; None for ``/``, where the events say it.

        Raises
        ------
        UnknownModel
            There is none.
        """
        parts = path.strip("/").split("/")
        if parts == [""]:
            return None
        if len(parts) == 2:
            folder, name = parts
            route = self.routes.get(name)
            if route is not None and (folder == "models" or route.monitor.metadata.namespace in (None, folder)):
                return route
        raise UnknownModel(f"{path[:200]!r} is the path of no model: {self._known()}")

    def of_event(self, event: Event) -> Route:
        """The model that an event names by its attributes, else the only one.

        Raises
        ------
        UnknownModel
            There is none.
        """
        service = _attribute(event, "inferenceservicename")
        if len(self.routes) == 1 and (self.alone or not service):
            return next(iter(self.routes.values()))
        if not service:
            raise UnknownModel(f"the event names no inference service (ce-inferenceservicename): {self._known()}")
        namespace = _attribute(event, "namespace")
        component, endpoint = _attribute(event, "component"), _attribute(event, "endpoint")
        best, found = -1, None
        for route in self.by_service.get(service, ()):
            match, own = route.monitor.spec.logger.match, route.monitor.metadata.namespace
            # A namespace that only one side says is no contradiction: not every sender knows its own.
            pairs = ((own, namespace or own), (match.component, component), (match.endpoint, endpoint))
            if all(want is None or want == got for want, got in pairs):
                points = sum(want is not None for want, _ in pairs)
                if points > best:  # the one that asks for most
                    best, found = points, route
        if found is None:
            said = {"namespace": namespace, "component": component, "endpoint": endpoint}
            more = "".join(f", {key} {value[:80]!r}" for key, value in said.items() if value)
            raise UnknownModel(f"inference service {service[:80]!r}{more} is no model of this logger: {self._known()}")
        return found

    @property
    def topics(self) -> tuple[str, ...]:
        """Of all models."""
        return tuple(route.topic for route in self.routes.values())

    @cached_property
    def by_service(self) -> Mapping[str, Sequence[Route]]:
        """Inference service -> the models behind it."""
        found: dict[str, list[Route]] = {}
        for route in self.routes.values():
            found.setdefault(_service(route.monitor), []).append(route)
        return found

    def _known(self) -> str:
        names = sorted(self.routes)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"known are: {', '.join(names[:_SHOWN]) or 'none'}{more}"


def _service(monitor: ModelMonitor) -> str:
    return monitor.spec.model.inference_service or monitor.name


def _attribute(event: Event, name: str) -> str | None:
    """An attribute, whatever letters its name was written in: JSON, unlike HTTP, tells them apart."""
    value = event.attributes.get(name)
    if value is None:
        value = next((text for key, text in event.attributes.items() if key.lower() == name), None)
    return value


@dataclass(frozen=True)
class Refusal:
    """A file that is not used as it is, and why."""

    file: str
    error: Exception


@dataclass
class Models:
    """Reads the ModelMonitors of a file or a directory, as often as it is asked; what has not changed is not read again.

    A file that cannot be used leaves its model as it was. The Kafka cluster, and how the logger itself runs, are those of the first
    file that could be used when the logger started; a file that says otherwise is refused.

    Parameters
    ----------
    path
        A file, or a directory of files ``*.yaml`` and ``*.yml``; None: only `first` is served, as it is.
    """

    path: Path | None
    first: ModelMonitor | None = None
    """The model whose cluster and settings are those of all; as it was when it was first read."""
    _read: dict[Path, tuple[tuple[int, ...], Route | DriftlineError]] = field(default_factory=dict)
    """File -> what it was then, and what it said."""
    _last: dict[Path, Route] = field(default_factory=dict)
    """File -> what was last good of it."""

    def read(self) -> tuple[Routes, list[Refusal]]:
        """The models that there are now, and the files that cannot be used."""
        if self.path is None:
            return self._only, []
        routes: dict[str, Route] = {}
        refused: list[Refusal] = []
        files: dict[str, Path] = {}
        there = _files(self.path) if self._is_folder else [self.path]
        for file in there:
            route: Route | None
            try:
                route = self._route(file)
                _fits_beside(route, routes.values(), files)
            except DriftlineError as error:
                refused.append(Refusal(str(file), error))
                route = self._last.get(file)
                if route is None:
                    continue
                try:  # what was good may no longer be so beside the others
                    _fits_beside(route, routes.values(), files)
                except UnwantedMonitor:
                    continue
            routes[route.name], files[route.name], self._last[file] = route, file, route
        for gone in set(self._last) - set(there):
            del self._last[gone]
        for gone in set(self._read) - set(there):
            del self._read[gone]
        return Routes(routes, alone=not self._is_folder), refused

    @cached_property
    def _is_folder(self) -> bool:
        """Asked once: a directory that is away for a moment is no file."""
        return self.path is not None and self.path.is_dir()

    @cached_property
    def _only(self) -> Routes:
        assert self.first is not None
        return Routes({self.first.name: route_of(self.first)}, alone=True)

    def _route(self, file: Path) -> Route:
        try:
            status = file.stat()
        except OSError as error:
            raise InvalidMonitor([Problem(str(file), None, "", f"cannot be read: {error.strerror}")]) from None
        state = (status.st_mtime_ns, status.st_size, status.st_ino)
        if file not in self._read or self._read[file][0] != state:
            try:
                self._read[file] = state, self._made(file)
            except MissingSecret:
                raise  # it may come without the file changing: asked for again the next time
            except DriftlineError as error:
                self._read[file] = state, error
        said = self._read[file][1]
        if isinstance(said, DriftlineError):
            raise said
        return said

    def _made(self, file: Path) -> Route:
        monitor = load(file, importing=False)
        if self.first is None:
            route = route_of(monitor)
            self.first = monitor
            return route
        _fits(monitor, self.first)
        return route_of(monitor)


def _files(path: Path) -> list[Path]:
    # Hidden files are what editors and Kubernetes' mounts keep beside the real ones.
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix in {".yaml", ".yml"} and not file.name.startswith(".") and file.is_file()
    )


def route_of(monitor: ModelMonitor) -> Route:
    """The route to a model.

    Raises
    ------
    MissingSecret
        The key of a hash is not where the settings say.
    """
    section = monitor.spec.logger
    redactor = Redactor(monitor.spec.model, section.redact) if section.redact else None
    return Route(monitor, monitor.topics.inference, section.sample, redactor, section.mirror)


def _fits_beside(route: Route, others: Iterable[Route], files: Mapping[str, Path]) -> None:
    """Whether a model can be served beside others; raises UnwantedMonitor."""
    if route.name in files:
        raise UnwantedMonitor(f"model {route.name!r} is described by {files[route.name]} already: it has one file")
    for other in others:
        if other.topic == route.topic:
            raise UnwantedMonitor(
                f"the topic {route.topic!r} is that of model {other.name!r} already: name another in spec.kafka.topics"
            )
        if _identity(other.monitor) == _identity(route.monitor):
            raise UnwantedMonitor(
                f"model {other.name!r} takes the events of inference service {_service(route.monitor)!r} already: tell them apart by "
                "metadata.namespace, spec.logger.match.component or spec.logger.match.endpoint"
            )


def _identity(monitor: ModelMonitor) -> tuple[object, ...]:
    match = monitor.spec.logger.match
    return _service(monitor), monitor.metadata.namespace, match.component, match.endpoint


def _fits(monitor: ModelMonitor, first: ModelMonitor) -> None:
    """Whether the logger that was started for `first` can serve a model; raises UnwantedMonitor."""
    for section, mine, theirs in (
        ("kafka", _cluster(monitor.spec.kafka), _cluster(first.spec.kafka)),
        ("logger", _process(monitor), _process(first)),
    ):
        different = [name for name in mine if mine[name] != theirs[name]]
        if different:
            name = different[0]
            raise UnwantedMonitor(
                f"spec.{section}.{to_camel(name)} is {mine[name]!r}, and {theirs[name]!r} in the running logger, which started for "
                f"{first.name!r}: make it the same, or start the logger again"
            )


def _cluster(kafka: Kafka) -> dict[str, Any]:
    return kafka.model_dump(mode="json", exclude=_OF_A_MODEL)


def _process(monitor: ModelMonitor) -> dict[str, Any]:
    return monitor.spec.logger.model_dump(mode="json", exclude=_OF_ITS_EVENTS)
