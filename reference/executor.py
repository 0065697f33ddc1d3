"""Who reads the fragments: threads of this process, or (see `reference.spark`) the workers of a Spark cluster."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from reference.source import Fragment

T = TypeVar("T")


class Task(Protocol[T]):
    """What is done with each fragment alone; it can be pickled, and what it gives can be written as bytes."""

    def __call__(self, place: int, fragment: Fragment) -> T:
        """The part that the fragment with this number in the source has in the whole."""
        ...

    def pack(self, part: T, /) -> bytes:
        """The binary form of a part; never pickle."""
        ...

    def unpack(self, data: bytes, /) -> T:
        """What `pack` gave, the same to the bit."""
        ...


class Executor(Protocol):
    """Runs a task on all fragments."""

    @property
    def remote(self) -> bool:
        """Whether parts travel, so that it pays to count the rows first and to send only the sampled ones."""
        ...

    def run(self, task: Task[Any], fragments: Sequence[Fragment]) -> Iterator[Any]:
        """The parts, in the order of the fragments."""
        ...


@dataclass(frozen=True)
class Threads:
    """The threads of this process. Decoding, hashing and counting happen outside of Python's lock, so they do run at once."""

    threads: int | None = None
    """None: one for each processor that this process may use, at most 8."""

    remote = False

    def run(self, task: Task[Any], fragments: Sequence[Fragment]) -> Iterator[Any]:
        """The parts, in the order of the fragments; few fragments are in memory at a time."""
        threads = self.threads or min(len(os.sched_getaffinity(0)), 8)
        if threads == 1 or len(fragments) <= 1:
            for place, fragment in enumerate(fragments):
                yield task(place, fragment)
            return
        pool = ThreadPoolExecutor(threads, thread_name_prefix="reference")
        try:
            waiting: deque[Future[Any]] = deque()
            for place, fragment in enumerate(fragments):
                waiting.append(pool.submit(task, place, fragment))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class RowCounter:
    """Counts the rows of a fragment; a columnar file answers without reading any."""

    columns: tuple[str, ...] = ()

    def __call__(self, place: int, fragment: Fragment) -> int:
        """How many rows it has."""
        del place
        return sum(batch.num_rows for batch in fragment.batches(self.columns))

    def pack(self, part: int) -> bytes:
        """Eight bytes."""
        return part.to_bytes(8, "little")

    def unpack(self, data: bytes) -> int:
        """What `pack` gave."""
        return int.from_bytes(data, "little")
