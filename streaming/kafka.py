"""How Kafka is reached, and that its topics are there.

The settings are read in every room, so this module imports no Kafka client; the functions that need one import it.
"""

import base64
import re
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import field_validator, model_validator

from detectors.settings import Settings
from reference.secret import MissingSecret, Secret, text_of
from streaming.errors import KafkaError

if TYPE_CHECKING:
    from confluent_kafka import KafkaError as ClientError
    from confluent_kafka.admin import AdminClient

_LOGIN_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}

_SECRET_OPTIONS = frozenset(
    {"sasl.password", "sasl.username", "sasl.jaas.config", "ssl.key.password", "ssl.keystore.key", "ssl.key.pem"},
)


_WHAT = "a Kafka secret"
_PBES2 = bytes.fromhex("2a864886f70d01050d")
"""The object identifier 1.2.840.113549.1.5.13 as it stands in a key."""


class KafkaOptions(dict[str, str]):
    """Options of a Kafka client; a dict whose secrets print as ``***``."""

    def __repr__(self) -> str:
        shown = {key: "***" if key.removeprefix("kafka.") in _SECRET_OPTIONS else value for key, value in self.items()}
        return repr(shown)

    __str__ = __repr__


class KafkaConnection(Settings):
    """Address of a Kafka cluster, and how it knows us."""

    bootstrap_servers: str = "localhost:9092"
    """`host:port`, several separated by commas."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """As the listener speaks: encrypted (SSL), with a password (SASL), both or neither."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """How the password is checked; SASL protocols only."""
    username: Secret | None = None
    """Where the user name is; SASL protocols only."""
    password: Secret | None = None
    """Where the password is; SASL protocols only."""
    ca_file: Path | None = None
    """PEM file of the authorities to trust; SSL protocols only. Default: those that the machine trusts."""
    certificate_file: Path | None = None
    """PEM file of our own certificate and its chain, where the cluster asks for one; SSL protocols only."""
    key_file: Path | None = None
    """PEM file (PKCS #8) of the key of our certificate."""
    key_password: Secret | None = None
    """Where the password of the key is, when it has one."""
    verify_hostname: bool = True
    """Whether the broker's certificate must be for the host that we connect to; SSL protocols only."""

    @field_validator("bootstrap_servers")
    @classmethod
    def _are_hosts_and_ports(cls, value: str) -> str:
        servers = [server.strip() for server in value.split(",")]
        for server in servers:
            host, _, port = server.rpartition(":")
            if not host.strip("[]") or not port.isdecimal() or not 0 < int(port) < 65536:
                msg = f"{server!r} is not host:port, as in 'kafka-0.example:9092,kafka-1.example:9092'"
                raise ValueError(msg)
        return ",".join(servers)

    @model_validator(mode="after")
    def _fits_its_protocol(self) -> Self:
        protocol = self.security_protocol
        sasl = {"saslMechanism": self.sasl_mechanism, "username": self.username, "password": self.password}
        ssl = {
            "caFile": self.ca_file,
            "certificateFile": self.certificate_file,
            "keyFile": self.key_file,
            "keyPassword": self.key_password,
        }
        if "SASL" in protocol and (absent := [name for name, value in sasl.items() if value is None]):
            msg = f"securityProtocol {protocol} needs {', '.join(absent)}"
            raise ValueError(msg)
        superfluous = [name for name, value in sasl.items() if value is not None and "SASL" not in protocol]
        superfluous += [name for name, value in ssl.items() if value is not None and "SSL" not in protocol]
        if superfluous:
            # Said aloud: who gives a password believes that it is used, and who gives an authority, that it is checked.
            msg = f"securityProtocol {protocol} does not use {', '.join(superfluous)}: leave them out, or change the protocol"
            raise ValueError(msg)
        if (self.certificate_file is None) != (self.key_file is None):
            msg = "certificateFile and keyFile belong together: give both or neither"
            raise ValueError(msg)
        return self

    def for_confluent(self) -> KafkaOptions:
        """Options of a confluent-kafka (librdkafka) client.

        Raises
        ------
        MissingSecret
            A secret is not where the settings say.
        """
        options = KafkaOptions(
            {"bootstrap.servers": self.bootstrap_servers, "security.protocol": self.security_protocol}
        )
        if self.sasl_mechanism is not None:
            assert self.username is not None
            assert self.password is not None
            options["sasl.mechanism"] = self.sasl_mechanism
            options["sasl.username"] = self.username.read(_WHAT)
            options["sasl.password"] = self.password.read(_WHAT)
        if "SSL" in self.security_protocol:
            options["ssl.endpoint.identification.algorithm"] = "https" if self.verify_hostname else "none"
            if self.ca_file is not None:
                options["ssl.ca.location"] = str(self.ca_file)
            if self.certificate_file is not None:
                options["ssl.certificate.location"] = str(self.certificate_file)
                options["ssl.key.location"] = str(self.key_file)
            if self.key_password is not None:
                options["ssl.key.password"] = self.key_password.read(_WHAT)
        return options

    def for_spark(self) -> KafkaOptions:
        """Options of Spark's Kafka source and sink: those of the Java client, each under ``kafka.``.

        Certificates and keys go as text, not as paths, so executors need no mounted files.

        Raises
        ------
        MissingSecret
            A secret, certificate or key is not where the settings say, or Java cannot read it.
        """
        options = {"bootstrap.servers": self.bootstrap_servers, "security.protocol": self.security_protocol}
        if self.sasl_mechanism is not None:
            assert self.username is not None
            assert self.password is not None
            options["sasl.mechanism"] = self.sasl_mechanism
            options["sasl.jaas.config"] = (
                f"{_LOGIN_MODULES[self.sasl_mechanism]} required "
                f"username={_jaas(self.username.read(_WHAT))} password={_jaas(self.password.read(_WHAT))};"
            )
        if "SSL" in self.security_protocol:
            options["ssl.endpoint.identification.algorithm"] = "https" if self.verify_hostname else ""
            if self.ca_file is not None:
                options["ssl.truststore.type"] = "PEM"
                options["ssl.truststore.certificates"] = text_of(self.ca_file, "caFile")
            if self.certificate_file is not None and self.key_file is not None:
                key = _java_key(self.key_file)
                options["ssl.keystore.type"] = "PEM"
                options["ssl.keystore.certificate.chain"] = text_of(self.certificate_file, "certificateFile")
                options["ssl.keystore.key"] = key
            if self.key_password is not None:
                options["ssl.key.password"] = self.key_password.read(_WHAT)
        return KafkaOptions({f"kafka.{name}": value for name, value in options.items()})


def ensure_topics(
    connection: KafkaConnection,
    topics: Iterable[str],
    *,
    partitions: int = 1,
    replication: int = 1,
    configs: Mapping[str, str] | None = None,
    timeout: timedelta = timedelta(seconds=60),
    create: bool = True,
) -> dict[str, int]:
    """Create the topics that are missing, and wait until every partition of all of them has a leader.

    A topic that exists stays as it is, whatever its partitions and settings: other people's data may be in it.

    Parameters
    ----------
    partitions, replication, configs
        Of the topics that are created; `configs` as Kafka names them, for example ``{"cleanup.policy": "compact"}``.
    timeout
        For everything together.
    create
        False only waits: for clusters where others make the topics.

    Returns
    -------
    dict
        Topic to its number of partitions.

    Raises
    ------
    KafkaError
        The cluster cannot be reached, refuses to create a topic, or a topic is not ready in time.
    """
    from confluent_kafka.admin import AdminClient

    wanted = list(dict.fromkeys(topics))
    deadline = time.monotonic() + timeout.total_seconds()
    complaints: list[ClientError] = []
    options: dict[str, Any] = {**connection.for_confluent(), "error_cb": complaints.append, "log_level": 0}
    client = AdminClient(options)
    asked = False
    while True:
        states = _states(client, wanted)
        if states is not None:
            unready = {topic: state for topic, state in states.items() if isinstance(state, str)}
            if not unready:
                return {topic: state for topic, state in states.items() if isinstance(state, int)}
            missing = [topic for topic, state in unready.items() if state == _MISSING]
            if create and missing and not asked:
                _create(client, missing, partitions, replication, configs or {}, timeout)
                asked = True
        where = f"Kafka at {connection.bootstrap_servers} ({connection.security_protocol})"
        if refused := next((c for c in complaints if c.name() in {"_AUTHENTICATION", "_SSL"}), None):
            raise KafkaError(f"{where} refuses us: {refused.str()}")
        if time.monotonic() >= deadline:
            if states is None:
                why = f": {complaints[-1].str()}" if complaints else ""
                raise KafkaError(f"{where} cannot be reached within {timeout}{why}")
            listed = ", ".join(f"{topic} ({state})" for topic, state in unready.items())
            raise KafkaError(f"{where} does not have every topic ready after {timeout}: {listed}")
        time.sleep(0.05)


_MISSING = "does not exist"


def _states(client: "AdminClient", topics: list[str]) -> dict[str, int | str] | None:
    """Of each topic its number of partitions, or why it is not ready; None when no broker answers."""
    from confluent_kafka import KafkaException

    try:
        known = client.list_topics(timeout=2).topics
    except KafkaException:
        client.poll(0)  # calls error_cb, which knows the reason better than the time-out does
        return None
    states: dict[str, int | str] = {}
    for topic in topics:
        if topic not in known:
            states[topic] = _MISSING
        elif (error := known[topic].error) is not None:
            states[topic] = error.str()
        else:
            found = known[topic].partitions
            led = sum(partition.leader >= 0 for partition in found.values())
            states[topic] = (
                len(found) if found and led == len(found) else f"{led} of {len(found)} partitions have a leader"
            )
    return states


def _create(
    client: "AdminClient",
    topics: list[str],
    partitions: int,
    replication: int,
    configs: Mapping[str, str],
    timeout: timedelta,
) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined] # it is documented to be there

    wanted = [NewTopic(topic, partitions, replication, config=dict(configs)) for topic in topics]
    for topic, created in client.create_topics(wanted, request_timeout=max(timeout.total_seconds(), 1)).items():
        try:
            created.result()
        except KafkaException as error:
            reason: ClientError = error.args[0]
            if reason.name() != "TOPIC_ALREADY_EXISTS":  # somebody was faster: as good as ours
                raise KafkaError(
                    f"Kafka refuses to create topic {topic!r} with {partitions} partitions, replication {replication} "
                    f"and configs {dict(configs)}: {reason.str()}",
                ) from error


def _jaas(value: str) -> str:
    """A quoted string as Java's login configuration reads it, which knows the escapes of C."""
    for letter, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        value = value.replace(letter, escape)
    return f'"{value}"'


def _java_key(path: Path) -> str:
    """The text of a PEM key, when it is one that Kafka's Java client reads."""
    text = text_of(path, "keyFile")
    pem = re.search(r"-----BEGIN (?:ENCRYPTED )?PRIVATE KEY-----([^-]+)-----END", text)
    if pem is None:
        raise MissingSecret(
            f"keyFile {path} is not PKCS #8, the only form of key that Java reads: convert it with `openssl pkcs8 -topk8`",
        )
    if _PBES2 in base64.b64decode(pem[1]):
        raise MissingSecret(
            f"keyFile {path} is encrypted by PBES2, which Kafka's Java client cannot undo on Java 17: convert it with "
            "`openssl pkcs8 -topk8 -v1 PBE-SHA1-3DES`, or mount it unencrypted",
        )
    return text
