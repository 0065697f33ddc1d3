"""What can go wrong in the streaming room.

DriftlineError (reference.errors)
└── StreamingError
    ├── InvalidMonitor      a ModelMonitor that cannot be used; exit code 2
    ├── UnwantedMonitor     a ModelMonitor that this job cannot watch beside the others; exit code 2
    ├── BaselineMismatch    a baseline that does not fit the ModelMonitor; exit code 2
    ├── IncompatibleCheckpoint  a checkpoint made under other settings; exit code 2
    ├── CorruptCheckpoint   a checkpoint that Spark would not start on (streaming.checkpoint); exit code 2
    ├── CheckpointInUse     another monitor runs on the checkpoint (streaming.lease); exit code 2
    ├── AddressTaken        the health endpoint's address (streaming.health); exit code 2
    ├── ServiceUnavailable  Kafka or a topic that is not there in time; exit code 1
    │   ├── KafkaError      a cluster that cannot be reached, or refuses what it was asked
    │   └── BrokerError     the embedded Kafka does not come up
    ├── JavaError           no Java, or one that Spark or Kafka cannot run on; exit code 1
    └── JarError            a jar that is missing, or is not the one that was locked; exit code 1
"""

from typing import TYPE_CHECKING

from reference.errors import DriftlineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streaming.document import Problem


class StreamingError(DriftlineError):
    """Base of this room's errors."""


class InvalidMonitor(StreamingError):
    """A ModelMonitor that cannot be used; the text has a line for each problem: path, value and what would do."""

    exit_code = 2

    def __init__(self, problems: "Sequence[Problem]") -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class UnwantedMonitor(StreamingError):
    """A ModelMonitor that a job cannot watch beside the others that it has."""

    exit_code = 2


class BaselineMismatch(StreamingError):
    """A baseline that does not fit the ModelMonitor."""

    exit_code = 2


class IncompatibleCheckpoint(StreamingError):
    """A checkpoint whose state was made under other settings."""

    exit_code = 2


class ServiceUnavailable(StreamingError):
    """Something outside that is not there in time: a broker, a topic."""


class KafkaError(ServiceUnavailable):
    """A Kafka cluster cannot be reached, or refuses what it was asked."""


class BrokerError(ServiceUnavailable):
    """The embedded Kafka broker does not come up."""


class JavaError(StreamingError):
    """There is no Java, or one that Spark or Kafka cannot run on."""


class JarError(StreamingError):
    """A jar is missing, or is not the one that was locked."""
