"""The vocabulary of traffic detectors: who sends what, looked at over a window, all requests together and client by client."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, TypeVar

import msgspec
from pydantic import Field

from detectors.base import Direction
from detectors.errors import IncompatibleSummaries, SummaryFormatError
from detectors.settings import Settings
from detectors.statistics.block import Block, Codes
from detectors.statistics.sample import RowSample

OTHER = "(other)"
"""The client of a verdict on all requests whose client is not tracked, or not known."""


@dataclass(frozen=True, slots=True)
class TrafficVerdict:
    """One answer of a traffic detector about the requests of one client, or of all clients, in one window."""

    client: str | None
    """None: all requests. `OTHER`: those of all clients that are not tracked."""
    score: float
    """NaN when there was too little to judge, which is no alarm."""
    threshold: float
    drifted: bool
    requests: int
    """How many requests of this client were looked at: all of the window's since the client is tracked."""
    explanation: dict[str, float] = field(default_factory=dict)
    """What drove the score, largest first: column or cell -> its share."""
    facts: dict[str, float] = field(default_factory=dict)
    """Numbers beside the score that help a reader to judge it; each detector says which. Finite."""
    example: dict[str, float | str | None] = field(default_factory=dict)
    """One offending request, where the detector can show one: column -> value, None where missing."""


class TrafficState(Protocol):
    """What a detector keeps of some requests. It adds, and its size has a bound that does not grow with traffic."""

    def __add__(self, other: Self) -> Self:
        """Of both; raises IncompatibleSummaries when another detector, other settings or another reference made one of them."""
        ...

    def to_bytes(self) -> bytes:
        """The binary form: magic and version, then MessagePack of little-endian arrays."""
        ...


S = TypeVar("S", bound=TrafficState)


class FittedTraffic(Protocol[S]):
    """A traffic detector that knows the reference; pure and picklable."""

    @property
    def name(self) -> str:
        """The detector's name in the catalogue."""
        ...

    def empty(self) -> S:
        """Of no requests: the neutral element of `+`."""
        ...

    def observe(self, block: Block, clients: Codes | None) -> S:
        """What to keep of one batch. Never raises on data.

        Parameters
        ----------
        clients
            Who sent each row of the block; None when that is not known of any.
        """
        ...

    def read(self, data: bytes) -> S:
        """Read the binary form of a state back.

        Raises
        ------
        SummaryFormatError
            When these are not the bytes of a state of this version.
        IncompatibleSummaries
            When another detector, other settings or another reference made it.
        """
        ...

    def compare(self, state: S) -> list[TrafficVerdict]:
        """All requests first, then the tracked clients by name, then the others if there are any. Never raises on data."""
        ...


class TrafficDetector(Settings):
    """The settings of one traffic detector; `learn` makes it know the reference.

    A subclass has ``name: Literal["its_name"] = "its_name"`` and ``threshold: float = …`` as fields,
    and the class variables here.
    """

    direction: ClassVar[Direction]
    """``p-value``: small means an alarm. ``distance``: large means an alarm."""
    quick: ClassVar[bool] = True
    """Whether a verdict takes milliseconds, so that windows that are still open get one, too."""
    unit: ClassVar[str]
    """What score and threshold are measured in."""

    name: str
    threshold: float
    clients: int = Field(50, ge=1, le=4000)
    """So many clients at most are looked at one by one: the most active ones, the rest together.

    A client that sends more than 1/(clients + 1) of a window's requests is always among them.
    """

    def learn(self, reference: RowSample, numeric: Sequence[str], categorical: Sequence[str]) -> FittedTraffic[Any]:
        """Everything that depends on the reference alone, computed once.

        Parameters
        ----------
        reference
            Some of the reference's rows; columns as in the block.
        numeric, categorical
            Names of the columns.

        Raises
        ------
        NotApplicable
            When the reference has too few rows.
        """
        raise NotImplementedError


class Packed(msgspec.Struct, array_like=True):
    """What the binary form of any state begins with."""

    plan: bytes
    """Which detector, settings and reference it was made with: states of one plan add."""


P = TypeVar("P", bound=Packed)


def to_bytes(magic: bytes, body: Packed) -> bytes:
    """The binary form of a state."""
    return magic + msgspec.msgpack.encode(body)


def from_bytes(data: bytes, magic: bytes, plan: bytes, packed: type[P], unpacked: Callable[[P], S]) -> S:
    """Read the binary form of a state back.

    Parameters
    ----------
    unpacked
        The state of a body of this plan; raises ValueError when it is not whole.

    Raises
    ------
    SummaryFormatError
        When these are not the bytes of such a state.
    IncompatibleSummaries
        When it is of another plan.
    """
    if data[: len(magic)] != magic:
        msg = f"these bytes begin with {data[: len(magic)]!r}, such a state of this version begins with {magic!r}"
        raise SummaryFormatError(msg)
    try:
        body = msgspec.msgpack.decode(memoryview(data)[len(magic) :], type=packed)
        if body.plan == plan:
            return unpacked(body)
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        msg = f"these {len(data)} bytes are not a whole state: {error}"
        raise SummaryFormatError(msg) from None
    msg = f"this state is of plan {body.plan.hex()}, not of {plan.hex()}: make both with one baseline and the same settings"
    raise IncompatibleSummaries(msg)


def same_plan(a: bytes, b: bytes) -> None:
    """Refuse to add what does not add.

    Raises
    ------
    IncompatibleSummaries
        When the plans differ.
    """
    if a != b:
        msg = f"states of plans {a.hex()} and {b.hex()} do not add: make both with one baseline and the same settings"
        raise IncompatibleSummaries(msg)
