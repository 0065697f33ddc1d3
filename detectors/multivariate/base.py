"""The vocabulary of multivariate drift: the numeric columns of a table, looked at together."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from detectors.base import Direction, Verdict
from detectors.settings import Settings
from detectors.statistics.comoments import CoMoments
from detectors.statistics.embedding import Embedding, EmbeddingSum
from detectors.statistics.sample import RowSample


@dataclass(frozen=True, slots=True)
class Joint:
    """What is known of the numeric columns of a reference or of a window together.

    Only complete rows count: those in which every numeric column is finite.
    """

    columns: tuple[str, ...]
    comoments: CoMoments
    sample: RowSample | None = None
    """Some of the rows, incomplete ones among them; None when no sample was kept."""
    embedded: EmbeddingSum | None = None
    """Sum of the random features of all complete rows; None when the detector has no embedding."""


class FittedMultivariate(Protocol):
    """A multivariate detector that knows the reference; pure and picklable."""

    @property
    def name(self) -> str:
        """The detector's name in the catalogue."""
        ...

    def compare(self, window: Joint) -> Verdict:
        """Score the columns of a window together and decide; the explanation names columns. Never raises on data.

        With too few complete rows to say anything the score is NaN, and that is no drift.
        """
        ...


class MultivariateDetector(Settings):
    """The settings of one multivariate drift detector; `learn` makes it know the reference."""

    direction: ClassVar[Direction]
    strict: ClassVar[bool] = False
    needs_sample: ClassVar[bool] = False
    """Whether it wants a sample of the window's rows."""

    name: str
    threshold: float

    def embedding(self, reference: Joint) -> Embedding | None:  # noqa: ARG002 - most need none
        """The random features that the window must sum up for this detector; None when it needs none."""
        return None

    def learn(self, reference: Joint) -> FittedMultivariate:
        """Everything that depends on the reference alone, computed once.

        Raises
        ------
        NotApplicable
            When the reference has too few complete rows or columns, or no row sample where one is needed.
        """
        raise NotImplementedError
