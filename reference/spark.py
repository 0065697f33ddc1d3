"""Fragments read by the workers of a Spark cluster: a batch job that sends the way to the rows out, and gets sums back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from reference.errors import BaselineError, UnusableData
from reference.executor import Task
from reference.source import Fragment

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_WAVE = 4
"""So many fragments for each core are given out at a time, so that the driver holds the parts of no more."""
_PARTS = pa.schema([("place", pa.int64()), ("part", pa.binary()), ("unusable", pa.string()), ("failed", pa.string())])


@dataclass(frozen=True)
class SparkWorkers:
    """The workers of a Spark session. They need this package, and see the data under the same URLs as this process."""

    spark: "SparkSession"

    remote = True

    def run(self, task: Task[Any], fragments: Sequence[Fragment]) -> Iterator[Any]:
        """The parts, in the order of the fragments.

        Raises
        ------
        UnusableData
            As the task says; of several fragments the first.
        BaselineError
            When a worker could not read a fragment.
        """
        wave = _WAVE * self.spark.sparkContext.defaultParallelism
        for start in range(0, len(fragments), wave):
            some = list(fragments[start : start + wave])
            places = self.spark.range(start, start + len(some), 1, len(some))
            found = places.mapInArrow(
                _work(task, some, start), "place long, part binary, unusable string, failed string"
            )
            for row in sorted(found.collect(), key=lambda row: row.place):
                if row.unusable is not None:
                    raise UnusableData(row.unusable)
                if row.failed is not None:
                    msg = f"a Spark worker could not read part {row.place} of the data: {row.failed}"
                    raise BaselineError(msg)
                yield task.unpack(bytes(row.part))


def _work(task: Task[Any], fragments: list[Fragment], first: int) -> Any:
    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for place in batch.column(0).to_pylist():
                row: dict[str, Any] = {"place": place, "part": None, "unusable": None, "failed": None}
                # An exception in a worker can take the whole JVM down: see docs on the stream's stages.
                try:
                    row["part"] = task.pack(task(place, fragments[place - first]))
                except UnusableData as error:
                    row["unusable"] = str(error)
                except Exception as error:  # noqa: BLE001 - whatever a file system may raise; the driver tells it
                    row["failed"] = f"{type(error).__name__}: {error}"
                yield pa.RecordBatch.from_pylist([row], schema=_PARTS)

    return work
