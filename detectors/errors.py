"""What can go wrong in the room of detectors.

DetectorError
├── SummaryFormatError      bytes that are not a summary of this version
├── IncompatibleSummaries   two summaries that were not counted on the same plan
├── NotApplicable           a detector asked about a column it is not made for
└── NoAnswer                a function of the user's returned no score
"""


class DetectorError(ValueError):
    """Base of every error of this room; its text names the thing, the value and what would do."""


class SummaryFormatError(DetectorError):
    """Bytes that are no summary, or one of another format version."""


class IncompatibleSummaries(DetectorError):
    """Two summaries counted on different rulers or columns were added or compared."""


class NotApplicable(DetectorError):
    """A detector was asked about a column type, or a size, that its method is not defined for."""


class NoAnswer(DetectorError):
    """A function that a ModelMonitor names returned something that is no score and verdict."""
