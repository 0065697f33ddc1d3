"""Numbers of single instances with their times: what a series of instances is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Observations:
    """The numbers of one series in one pane: sixteen bytes an instance, and eight to put equal times in order."""

    times: NDArray[np.int64]
    """(n,) event time, ms."""
    keys: NDArray[np.uint64]
    """(n,) hash of where the instance comes from."""
    values: NDArray[np.float64]
    """(n,)"""

    @classmethod
    def none(cls) -> "Observations":
        """Of no instances: the neutral element of `+`."""
        return cls(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0))

    def __add__(self, other: "Observations") -> "Observations":
        if len(self.times) == 0 or len(other.times) == 0:
            return other if len(self.times) == 0 else self
        return Observations(
            np.concatenate((self.times, other.times)),
            np.concatenate((self.keys, other.keys)),
            np.concatenate((self.values, other.values)),
        )

    @classmethod
    def joined(cls, parts: Sequence["Observations"]) -> "Observations":
        """The sum of at least one."""
        return cls(
            np.concatenate([part.times for part in parts]),
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.values for part in parts]),
        )

    def in_order(self) -> "Observations":
        """By event time; the order of equal times is arbitrary but always the same."""
        order = np.lexsort((self.keys, self.times))
        return Observations(self.times[order], self.keys[order], self.values[order])

    def packed(self) -> tuple[bytes, bytes, bytes]:
        """As MessagePack takes it."""
        return self.times.tobytes(), self.keys.tobytes(), self.values.tobytes()

    @classmethod
    def unpacked(cls, times: bytes, keys: bytes, values: bytes) -> "Observations":
        """What `packed` gave."""
        return cls(np.frombuffer(times, np.int64), np.frombuffer(keys, np.uint64), np.frombuffer(values))
