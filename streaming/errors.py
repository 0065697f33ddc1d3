"""What can go wrong in the room of streams.

    StreamingError
    ├── JavaError           no Java, or one that Spark or Kafka cannot run on
    ├── JarError            a jar that is missing, or is not the one that was locked
    ├── BrokerError         the embedded Kafka does not come up, or does not stop
    └── KafkaError          a broker that cannot be reached, or refuses what was asked
        └── SecretError     a user name, password or key that is not where the settings say
"""


class StreamingError(Exception):
    """Base of every error of this room; its text names the thing, the value and what would do."""


class JavaError(StreamingError):
    """There is no Java, or one that Spark or Kafka cannot run on."""


class JarError(StreamingError):
    """A jar is missing, or is not the one that was locked."""


class BrokerError(StreamingError):
    """The embedded Kafka broker did not come up."""


class KafkaError(StreamingError):
    """A Kafka cluster cannot be reached, or refuses what it was asked."""


class SecretError(KafkaError):
    """A user name, password or key is not where the settings say."""
