"""What can go wrong in the room of references; also the base that the command line knows.

DriftlineError              has the exit code of the command that it ends
└── BaselineError
    ├── UnusableData        a training table that does not fit the model; exit code 2
    ├── BaselineNotFound    no such model or version in the store; exit code 2
    ├── CorruptBaseline     a file that is not what its manifest says; exit code 1
    ├── PromotionConflict   another was faster: what is current is not what was expected; exit code 1
    └── StoreError          the store cannot be reached, or cannot do what a store must; exit code 1
"""

from typing import ClassVar


class DriftlineError(Exception):
    """An error whose text is all that a user needs: the name, the value and what would do."""

    exit_code: ClassVar[int] = 1


class BaselineError(DriftlineError):
    """Base of this room's errors."""


class UnusableData(BaselineError):
    """A training table that does not fit the model."""

    exit_code = 2


class BaselineNotFound(BaselineError):
    """No such model or version in the store."""

    exit_code = 2


class CorruptBaseline(BaselineError):
    """A stored file that is not what its manifest says."""


class PromotionConflict(BaselineError):
    """Another was faster: the current baseline is not the one that was expected, or the version is being removed."""


class StoreError(BaselineError):
    """The store cannot be reached, or cannot do what a store must."""
