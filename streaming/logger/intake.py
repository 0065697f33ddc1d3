"""From an HTTP request to what Kafka is to have: unpacked, read, routed, sampled, redacted, copied."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from reference.errors import DriftlineError
from streaming.cloudevents import Event, events
from streaming.errors import StreamingError
from streaming.logger.encoding import content_encoding, gunzipped
from streaming.logger.mirror import MIRRORED, MirrorQueue
from streaming.logger.redaction import Withheld
from streaming.logger.routes import Models, Refusal, Route, UnknownModel

if TYPE_CHECKING:
    from streaming.logger.settings_events import Mirror

log = logging.getLogger("driftline.logger")

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Taken:
    """What one request came to."""

    kept: list[tuple[str, Event]] = field(default_factory=list)
    """Topic and event, for Kafka."""
    passed: int = 0
    """Events that are not kept because of the sampling: their sender did nothing wrong."""
    problems: list[StreamingError] = field(default_factory=list)
    """One for each event that is not kept because of what it is: UnknownModel or Withheld."""


class Intake:
    """The models of a logger, and what happens to their events before Kafka.

    Belongs to an event loop as soon as there is a mirror.

    Parameters
    ----------
    max_bytes
        Of a body, unpacked.

    Raises
    ------
    InvalidMonitor, MissingSecret, UnwantedMonitor
        No file can be used; of several, the first that cannot says why.
    """

    def __init__(self, models: Models, max_bytes: int | None = None) -> None:
        self.models = models
        self.routes, refused = models.read()
        if models.first is None or not self.routes.routes:
            if not refused:
                raise NoModels(f"{models.path} holds no ModelMonitor: files *.yaml and *.yml are looked for")
            for one in refused[1:]:
                log.error("%s", one.error)
            raise refused[0].error
        self.first = models.first
        self.max_bytes = max_bytes or self.first.spec.logger.max_body_bytes
        self.sampled_out: Counter[str] = Counter()
        """Model -> events that were not kept because of the sampling."""
        self.withheld: Counter[str] = Counter()
        """Model -> events that could not be redacted, and were not kept."""
        self.unknown = 0
        """Events and paths of no model."""
        self._refused: list[Refusal] = []
        self._mirrors: dict[Mirror, MirrorQueue] = {}
        self._closing: set[asyncio.Task[int]] = set()
        self._tell(refused)

    # One request ------------------------------------------------------------------------------------------------------

    def route_of(self, path: str) -> Route | None:
        """The model that a path names; None for ``/``, where each event does.

        Raises
        ------
        UnknownModel
            It names none.
        """
        try:
            return self.routes.of_path(path)
        except UnknownModel:
            self.unknown += 1
            raise

    def take(self, route: Route | None, headers: Headers, body: bytes) -> Taken:
        """What a request holds.

        Raises
        ------
        TooLong
            More than a body may have, when it is unpacked.
        UnsupportedEvent
            It is in an encoding or a format that is not read here.
        InvalidEvent
            It is no event.
        """
        if content_encoding(headers):
            body = gunzipped(body, self.max_bytes)
            headers = [(name, value) for name, value in headers if name != b"content-encoding"]
        a_copy = any(name == MIRRORED.encode() for name, _ in headers)
        taken = Taken()
        for event in events(headers, body):
            try:
                self._take(event, self.routes.of_event(event) if route is None else route, taken, a_copy=a_copy)
            except UnknownModel as problem:
                self.unknown += 1
                taken.problems.append(problem)
        return taken

    def _take(self, event: Event, route: Route, taken: Taken, *, a_copy: bool) -> None:
        kept = route.keeps(event)
        copied = route.mirror is not None and not a_copy
        if kept or copied:
            if route.redactor is not None:
                try:
                    event = route.redactor.redacted(event)
                except Withheld as problem:
                    self.withheld[route.name] += 1
                    taken.problems.append(problem)
                    return
            if copied and route.mirror is not None:
                self._mirror(route.mirror).add(event)
        if not kept:
            self.sampled_out[route.name] += 1
            taken.passed += 1
            return
        notes = route.notes
        taken.kept.append((route.topic, replace(event, notes=notes) if notes else event))

    def _mirror(self, settings: "Mirror") -> MirrorQueue:
        found = self._mirrors.get(settings)
        if found is None:
            found = self._mirrors[settings] = MirrorQueue(settings)
        return found

    # While it runs ----------------------------------------------------------------------------------------------------

    async def watch(self, prepare: Callable[[Route], Awaitable[None]]) -> None:
        """Follow the files, until cancelled; `prepare` is called for every model that is new or changed, and may take its time."""
        preparing: dict[str, tuple[Route, asyncio.Task[None]]] = {}
        try:
            while True:
                routes = self.routes.routes
                for name, (route, task) in list(preparing.items()):
                    if routes.get(name) is not route:
                        task.cancel()
                        del preparing[name]
                for name, route in routes.items():
                    if name not in preparing:
                        preparing[name] = route, asyncio.create_task(_prepared(prepare, route))
                await asyncio.sleep(self.first.spec.job.refresh_interval.total_seconds())
                try:
                    await self.refresh()
                except Exception:  # the models that there are go on, and the next look may be a better one
                    log.exception("the files could not be looked at")
        finally:
            for _, task in preparing.values():
                task.cancel()

    async def refresh(self) -> None:
        """Read the files again, where they have changed."""
        try:
            routes, refused = await asyncio.to_thread(self.models.read)
        except OSError as error:  # of the directory itself, while somebody exchanges it
            self._tell([Refusal(str(self.models.path), error)])
            return
        before, self.routes = self.routes.routes, routes
        self._tell(refused)
        for name, route in routes.routes.items():
            if name not in before:
                log.warning("model %s is served from now on: topic %s", name, route.topic)
            elif route is not before[name]:
                log.warning("model %s has changed: topic %s", name, route.topic)
        for name in before.keys() - routes.routes.keys():
            log.warning("model %s is no longer served: its file has gone", name)
        wanted = {route.mirror for route in routes.routes.values()}
        for settings in self._mirrors.keys() - wanted:
            task = asyncio.create_task(self._mirrors.pop(settings).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _tell(self, refused: list[Refusal]) -> None:
        """Say what is new; what was said once is true until it changes."""
        said = {str(one) for one in self._refused}
        for one in refused:
            if str(one) not in said:
                log.error("%s: %s", one.file, one.error)
        self._refused = refused

    async def close(self) -> int:
        """Send the copies that wait, as long as one may take; how many could not be."""
        mirrors, self._mirrors = list(self._mirrors.values()), {}
        left = await asyncio.gather(*(mirror.close() for mirror in mirrors), *self._closing)
        return sum(left)

    # What is counted --------------------------------------------------------------------------------------------------

    def metrics(self) -> str:
        """In the Prometheus text format."""
        return "".join(
            f"# HELP driftline_logger_{name} {words}\n# TYPE driftline_logger_{name} {kind}\n"
            + "".join(f"driftline_logger_{name}{labels} {value}\n" for labels, value in samples.items())
            for name, kind, words, samples in self._metrics()
        )

    def _metrics(self) -> Iterator[tuple[str, str, str, Mapping[str, int]]]:
        models = dict.fromkeys([*self.routes.routes, *self.sampled_out, *self.withheld])
        yield "models", "gauge", "Models that are served.", {"": len(self.routes.routes)}
        yield "files_refused", "gauge", "Files that cannot be used as they are.", {"": len(self._refused)}
        yield "events_unknown_total", "counter", "Events and paths of no model that is served.", {"": self.unknown}
        for name, words, counts in (
            ("events_sampled_out_total", "Events that are not kept, as spec.logger.sample says.", self.sampled_out),
            ("events_withheld_total", "Events that are not kept because they could not be redacted.", self.withheld),
        ):
            yield name, "counter", words, {f'{{model="{model}"}}': counts[model] for model in models}
        for name, kind, words in (
            ("copied_total", "counter", "Copies that the mirror took."),
            ("failed_total", "counter", "Copies that the mirror did not take, after the last attempt."),
            ("dropped_total", "counter", "Copies for which there was no room."),
            ("waiting", "gauge", "Copies that the mirror has not answered yet."),
        ):
            samples: Counter[str] = Counter()
            for settings, mirror in self._mirrors.items():
                value = mirror.waiting if kind == "gauge" else getattr(mirror.counts, name.removesuffix("_total"))
                samples[f'{{url="{_shown(settings.url)}"}}'] += value
            if samples:
                yield f"mirror_{name}", kind, words, samples


class NoModels(StreamingError):
    """There is nothing to serve."""

    exit_code = 2


async def _prepared(prepare: Callable[[Route], Awaitable[None]], route: Route) -> None:
    with contextlib.suppress(DriftlineError):  # it has said so
        await prepare(route)


def _shown(url: str) -> str:
    """A URL as a label: without a query, which may hold a token."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}".replace("\\", "\\\\").replace('"', '\\"').replace("\n", "")
