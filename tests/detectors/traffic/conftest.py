"""Requests as blocks: natural ones from the flights, and those of attackers who know the range of the features."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from detectors.statistics.block import Block, Codes
from detectors.statistics.sample import RowSample

NUMERIC = ("month", "day", "dep_time", "dep_delay", "arr_delay", "air_time", "distance", "hour", "minute")
CATEGORICAL = ("carrier", "origin", "dest")
REFERENCE_ROWS = 10_000


def batch_of(numeric, *categorical, keys=0):
    """A batch; `keys` seeds where its rows come from."""
    numeric = np.asfortranarray(np.asarray(numeric, float))
    codes = []
    for column in categorical:
        values = tuple(sorted({value for value in column if value is not None}))
        place = {value: i for i, value in enumerate(values)}
        codes.append(Codes(np.array([place.get(value, -1) for value in column], np.int32), values))
    drawn = np.random.default_rng(keys).integers(0, 2**64, len(numeric), dtype=np.uint64)
    return Block(numeric, np.isnan(numeric), tuple(codes), drawn)


def senders(names):
    """Who sent each row."""
    values = tuple(dict.fromkeys(name for name in names if name is not None))
    place = {value: i for i, value in enumerate(values)}
    return Codes(np.array([place.get(name, -1) for name in names], np.int32), values)


def joined(*blocks):
    """One batch of several."""
    columns = [
        [
            None if code < 0 else column.values[code]
            for part in blocks
            for column in (part.categorical[j],)
            for code in column.codes
        ]
        for j in range(len(blocks[0].categorical))
    ]
    made = batch_of(np.concatenate([part.numeric for part in blocks]), *columns)
    return Block(made.numeric, made.missing, made.categorical, np.concatenate([part.keys for part in blocks]))


@dataclass(frozen=True)
class Flights:
    """Requests that ask about flights. The first rows are the reference, natural clients draw from the others."""

    numbers: np.ndarray
    texts: np.ndarray

    @classmethod
    def of(cls, table: pd.DataFrame) -> "Flights":
        return cls(table[list(NUMERIC)].to_numpy(float), table[list(CATEGORICAL)].to_numpy(object))

    def block(self, rows, seed=0):
        return batch_of(self.numbers[rows], *self.texts[rows].T, keys=seed)

    def reference(self, rows=REFERENCE_ROWS):
        return RowSample.of(self.block(np.arange(rows)), rows)

    def natural(self, count, seed):
        return self.block(self.rows(count, seed), seed)

    def rows(self, count, seed):
        some = np.random.default_rng(seed).choice(len(self.numbers) - REFERENCE_ROWS, count, replace=False)
        return some + REFERENCE_ROWS

    columns = (NUMERIC, CATEGORICAL)

    @property
    def box(self):
        seen = self.numbers[:REFERENCE_ROWS]
        return np.nanmin(seen, axis=0), np.nanmax(seen, axis=0)

    # Attacks: (count, seed) -> block.

    def probing(self, count, seed):
        """Noise, uniform in the box of the features; categories as they come."""
        low, high = self.box
        noise = np.random.default_rng(seed).uniform(low, high, (count, len(low)))
        return batch_of(noise, *self.texts[self.rows(count, seed)].T, keys=seed)

    def sweep(self, count, seed):
        """One feature from one end to the other, all others as in one row."""
        low, high = self.box
        column = np.random.default_rng(seed).integers(len(low))
        swept = np.repeat(self.complete(1, seed), count, axis=0)
        swept[:, column] = np.linspace(low[column], high[column], count)
        return batch_of(swept, *self._same(count, seed), keys=seed)

    def line(self, count, seed):
        """From one row to another, which a search for a decision boundary does."""
        a, b = self.complete(2, seed)
        at = np.linspace(0, 1, count)[:, None]
        return batch_of(a * (1 - at) + b * at, *self._same(count, seed), keys=seed)

    def grid(self, count, seed):
        """Two features crossed."""
        low, high = self.box
        first, second = np.random.default_rng(seed).choice(len(low), 2, replace=False)
        side = int(np.ceil(np.sqrt(count)))
        crossed = np.repeat(self.complete(1, seed), side**2, axis=0)
        crossed[:, first] = np.repeat(np.linspace(low[first], high[first], side), side)
        crossed[:, second] = np.tile(np.linspace(low[second], high[second], side), side)
        return batch_of(crossed, *self._same(side**2, seed), keys=seed)

    def augmentation(self, count, seed, seeds=20, step=0.1):
        """Jacobian-based augmentation: every row of a growing set gets a copy, a step away in the direction of a sign vector."""
        random = np.random.default_rng(seed)
        numbers, texts = self.complete(seeds, seed), self.texts[self.rows(seeds, seed)]
        spread = np.nanstd(self.numbers[:REFERENCE_ROWS], axis=0)
        while len(numbers) < count:
            numbers = np.vstack((numbers, numbers + step * spread * random.choice([-1, 1], numbers.shape)))
            texts = np.vstack((texts, texts))
        return batch_of(numbers[:count], *texts[:count].T, keys=seed)

    def replay(self, count, seed, distinct=1):
        """The same few rows again and again."""
        rows = self.rows(distinct, seed)[np.random.default_rng(seed).integers(0, distinct, count)]
        return self.block(rows, seed)

    def complete(self, count, seed):
        """Rows without a missing number."""
        some = self.numbers[self.rows(50 * count, seed)]
        return some[np.isfinite(some).all(axis=1)][:count].copy()

    def _same(self, count, seed):
        return np.repeat(self.texts[self.rows(1, seed)], count, axis=0).T

    made = staticmethod(batch_of)
    senders = staticmethod(senders)
    joined = staticmethod(joined)


@pytest.fixture(scope="session")
def requests(flights) -> Flights:
    return Flights.of(flights)
