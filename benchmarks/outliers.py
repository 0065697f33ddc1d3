"""Outlier detectors alone, on one core: rows per second.

    OMP_NUM_THREADS=1 make bench-outliers

A batch is what Spark hands over (10,000 rows), as the decoder makes it: 30 numeric columns, each contiguous, and two categorical ones.
The features are normal and hang together; one row in a thousand has a number some ten standard deviations out. A figure is of
the best times of several passes over all batches: `univariate` is all detectors that judge one value at a time, called one after the other.
"""

import argparse
import os
import time
from collections.abc import Sequence

# One core, as a Spark worker has it: BLAS reads this when numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from _results import Results
from numpy.typing import NDArray

from detectors.base import FittedOutlierDetector, FittingColumn, LearnedOutlierDetector
from detectors.outliers import LEARNED, OUTLIERS
from detectors.statistics.block import Block, Codes
from detectors.statistics.column import ColumnSummary

BATCH = 10_000
COLUMNS = 30
REFERENCE = 50_000
WORDS = tuple(f"carrier {i}" for i in range(16))


def features(rows: int, rng: np.random.Generator) -> NDArray[np.float64]:
    behind = np.random.default_rng(0).normal(size=(8, COLUMNS))
    return np.asfortranarray(rng.normal(size=(rows, 8)) @ behind + rng.normal(size=(rows, COLUMNS)))


def batches(rows: int, rng: np.random.Generator) -> list[Block]:
    made = []
    for _ in range(rows // BATCH):
        x = features(BATCH, rng)
        strange = rng.integers(0, BATCH, BATCH // 1000)
        x[strange, rng.integers(0, COLUMNS, len(strange))] += 40.0
        codes = tuple(Codes(rng.integers(0, len(WORDS), BATCH, np.int32), WORDS) for _ in range(2))
        made.append(Block(x, np.zeros(x.shape, np.bool_, order="F"), codes))
    return made


def columns(reference: NDArray[np.float64]) -> list[FittingColumn]:
    numeric = [
        ColumnSummary(
            f"f{j}", "numeric", len(x), low=x.min(), high=x.max(), mean=x.mean(), m2=x.var() * len(x), values=np.sort(x)
        )
        for j, x in enumerate(reference.T)
    ]
    categorical = [ColumnSummary(f"c{j}", "categorical", 16, counts=dict.fromkeys(WORDS, 1)) for j in range(2)]
    return [FittingColumn(column) for column in (*numeric, *categorical)]


def rate(detectors: Sequence[FittedOutlierDetector], blocks: Sequence[Block], passes: int) -> float:
    """Rows per second when every detector sees every batch.

    Each batch counts with the best of its times, one in each pass over all of them: a neighbour on the machine disturbs a few
    milliseconds less than a whole pass, and the batch has long left the caches when its turn comes again.
    """
    times = np.empty((passes, len(blocks)))
    for one_pass in times:
        for i, block in enumerate(blocks):
            started = time.perf_counter()
            for detector in detectors:
                detector.flag(block)
            one_pass[i] = time.perf_counter() - started
    return sum(block.rows for block in blocks) / float(times.min(axis=0).sum())


def figures(rows: int = 1_000_000, passes: int = 5) -> dict[str, float]:
    """Rows per second of the univariate detectors together, of each alone, and of each that learns."""
    rng = np.random.default_rng(3)
    reference = features(REFERENCE, rng)
    known, blocks = columns(reference), batches(rows, rng)
    univariate = {name: detector().fit(known) for name, detector in OUTLIERS.items() if name not in LEARNED}
    found = {"univariate_rows_per_s": rate(list(univariate.values()), blocks, passes)}
    for name in LEARNED:
        detector = OUTLIERS[name]()
        assert isinstance(detector, LearnedOutlierDetector)
        fitted = detector.fitted(known, detector.learn(reference))
        slow = name in ("isolation_forest", "autoencoder")
        found[f"{name}_rows_per_s"] = rate([fitted], blocks[: len(blocks) // 10] if slow else blocks, passes)
    for name, one in univariate.items():
        found[f"{name}_rows_per_s"] = rate([one], blocks[: len(blocks) // 10], passes)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--passes", type=int, default=5)
    chosen = parser.parse_args()
    results = Results("outliers")
    for key, value in figures(chosen.rows, chosen.passes).items():
        results.figure(key, value)
    results.write()
    results.show()


if __name__ == "__main__":
    main()
