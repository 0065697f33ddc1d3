"""Several maps of a key in one map of Spark's."""

from typing import Any

KEYS = "drawer int, a long, b long, c long"
"""Schema of the keys of Spark's map; its values are one binary column."""
_WIDTH = 3


class Drawer:
    """One of several maps that share one of Spark's map states.

    Each map state is opened anew in every partition of every micro-batch, and the JVM takes 15 to 20 ms for that: four of them were a quarter of
    a batch at 1,000 requests/s. Nobody asks which keys there are; whoever keeps something here notes that in the key's head.

    Parameters
    ----------
    state
        Spark's map state, with keys of schema `KEYS`.
    number
        Of this drawer; each has another.
    """

    def __init__(self, state: Any, number: int) -> None:
        self._state, self._number = state, number

    def containsKey(self, key: tuple[int, ...]) -> bool:  # noqa: N802 - Spark's name
        """Whether there is something; `key` is up to three whole numbers, always as many."""
        return bool(self._state.containsKey(self._key(key)))

    def getValue(self, key: tuple[int, ...]) -> tuple[bytes]:  # noqa: N802
        """What was put there."""
        value: tuple[bytes] = self._state.getValue(self._key(key))
        return value

    def updateValue(self, key: tuple[int, ...], value: tuple[bytes]) -> None:  # noqa: N802
        """Put something there, in place of what was."""
        self._state.updateValue(self._key(key), value)

    def removeKey(self, key: tuple[int, ...]) -> None:  # noqa: N802
        """Nothing is there from now on."""
        self._state.removeKey(self._key(key))

    def _key(self, key: tuple[int, ...]) -> tuple[int, ...]:
        return (self._number, *key, *(0,) * (_WIDTH - len(key)))


class Slot:
    """One value in a drawer of its own, asked as Spark's value state is."""

    def __init__(self, drawer: Drawer) -> None:
        self._drawer = drawer

    def get(self) -> tuple[bytes] | None:
        """What was put there."""
        return self._drawer.getValue(()) if self._drawer.containsKey(()) else None

    def update(self, value: tuple[bytes]) -> None:
        """Put something there, in place of what was."""
        self._drawer.updateValue((), value)

    def clear(self) -> None:
        """Nothing is there from now on."""
        self._drawer.removeKey(())
