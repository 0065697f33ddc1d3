"""What can go wrong in the room of workflows.

DriftlineError (reference.errors)
└── WorkflowError
    └── UnsupportedShape    a ModelMonitor that asks for a way to run which is not built; exit code 2
"""

from reference.errors import DriftlineError


class WorkflowError(DriftlineError):
    """Base of this room's errors."""


class UnsupportedShape(WorkflowError):
    """A ModelMonitor asks for a way to run that no workflow builds."""

    exit_code = 2
