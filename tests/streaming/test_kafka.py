"""How Kafka is reached: settings, secrets, and that both clients and a real broker understand them."""

import datetime as dt
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from reference.secret import MissingSecret, Secret
from streaming.broker import EmbeddedKafka, _properties
from streaming.errors import KafkaError
from streaming.jars import jars
from streaming.java import java
from streaming.kafka import KafkaConnection, _jaas, ensure_topics

# What breaks a quoting that is not one: quotes, backslashes, what looks like an escape, a semicolon, letters beyond ASCII.
PASSWORD = "p\"a\\s;s=w\\n ör'd{}$"

SASL = {
    "bootstrapServers": "kafka:9093",
    "securityProtocol": "SASL_SSL",
    "saslMechanism": "SCRAM-SHA-512",
    "username": {"env": "KAFKA_USER"},
    "password": {"env": "KAFKA_PASSWORD"},
}


@pytest.fixture
def sasl(monkeypatch) -> KafkaConnection:
    monkeypatch.setenv("KAFKA_USER", "alice")
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    return KafkaConnection.model_validate(SASL)


def test_nothing_heavy_is_imported_to_read_settings():
    program = "import streaming.kafka, sys; print({'confluent_kafka', 'pyspark', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_defaults_are_a_plain_broker_on_this_machine():
    assert KafkaConnection().for_confluent() == {
        "bootstrap.servers": "localhost:9092",
        "security.protocol": "PLAINTEXT",
    }
    assert KafkaConnection().for_spark() == {
        "kafka.bootstrap.servers": "localhost:9092",
        "kafka.security.protocol": "PLAINTEXT",
    }


def test_options_with_a_password(sasl):
    assert sasl.for_confluent() == {
        "bootstrap.servers": "kafka:9093",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "alice",
        "sasl.password": PASSWORD,
        "ssl.endpoint.identification.algorithm": "https",
    }
    spark = sasl.for_spark()
    assert spark["kafka.sasl.jaas.config"] == (
        "org.apache.kafka.common.security.scram.ScramLoginModule required "
        'username="alice" password="p\\"a\\\\s;s=w\\\\n ör\'d{}$";'
    )
    assert all(option.startswith("kafka.") for option in spark)


def test_secrets_are_never_printed(sasl):
    for text in map(repr, (sasl, sasl.for_confluent(), sasl.for_spark())):
        assert PASSWORD not in text
        assert "a\\\\s;" not in text
    assert "'sasl.password': '***'" in f"{sasl.for_confluent()}"
    assert "'kafka.sasl.jaas.config': '***'" in f"{sasl.for_spark()}"
    assert PASSWORD not in sasl.model_dump_json()


def test_a_secret_comes_from_a_mounted_file(tmp_path):
    (tmp_path / "password").write_text("secret \n")
    assert Secret(file=tmp_path / "password").read("a Kafka secret") == "secret "


def test_a_secret_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("KAFKA_USER", raising=False)
    with pytest.raises(MissingSecret, match=r"the environment variable KAFKA_USER, .* is not set"):
        KafkaConnection.model_validate(SASL).for_confluent()
    with pytest.raises(MissingSecret, match="absent, which holds a Kafka secret, cannot be read: No such file"):
        Secret(file=tmp_path / "absent").read("a Kafka secret")


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        KafkaConnection().bootstrap_servers = "other:9092"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bootstrapServers": "kafka"}, "'kafka' is not host:port"),
        ({"bootstrapServers": "kafka:9092,"}, "'' is not host:port"),
        ({"bootstrapServers": "kafka:99999"}, "'kafka:99999' is not host:port"),
        ({"saslMechanism": None}, "SASL_SSL needs saslMechanism"),
        ({"saslMechanism": "GSSAPI"}, "'PLAIN', 'SCRAM-SHA-256' or 'SCRAM-SHA-512'"),
        ({"username": None, "password": None}, "SASL_SSL needs username, password"),
        ({"password": "secret"}, "password"),
        ({"password": {"env": "A", "file": "b"}}, "a secret is in one place"),
        ({"password": {}}, "a secret is in one place"),
        ({"securityProtocol": "SSL"}, "SSL does not use saslMechanism, username, password"),
        ({"securityProtocol": "SASL_PLAINTEXT", "caFile": "ca.pem"}, "SASL_PLAINTEXT does not use caFile"),
        ({"certificateFile": "own.pem"}, "certificateFile and keyFile belong together"),
        ({"passwort": "x"}, "passwort"),
    ],
)
def test_what_cannot_work_is_said(changed, said):
    with pytest.raises(ValidationError, match=said.replace("(", r"\(")):
        KafkaConnection.model_validate(SASL | changed)


def test_several_servers_and_ipv6():
    assert KafkaConnection(bootstrap_servers=" a:1 , [::1]:2").bootstrap_servers == "a:1,[::1]:2"


def test_a_key_that_java_cannot_read_is_named_before_java_sees_it(tmp_path):
    for name in ("own.pem", "key.pem"):
        (tmp_path / name).write_text("-----BEGIN RSA PRIVATE KEY-----\n")
    connection = KafkaConnection(
        security_protocol="SSL", certificate_file=tmp_path / "own.pem", key_file=tmp_path / "key.pem"
    )
    with pytest.raises(MissingSecret, match="is not PKCS #8"):
        connection.for_spark()


def test_topics_are_created_once(kafka):
    asked = ["topics-a", "topics-b", "topics-a"]
    assert ensure_topics(kafka.connection, asked, partitions=3) == {"topics-a": 3, "topics-b": 3}
    assert ensure_topics(kafka.connection, ["topics-b", "topics-c"], partitions=5) == {"topics-b": 3, "topics-c": 5}


def test_topics_get_their_configs(kafka):
    from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

    ensure_topics(kafka.connection, ["topics-compact"], configs={"cleanup.policy": "compact"})
    resource = ConfigResource(ResourceType.TOPIC, "topics-compact")
    client = AdminClient(dict(kafka.connection.for_confluent()))
    described = client.describe_configs([resource])[resource].result(10)
    assert described["cleanup.policy"].value == "compact"
    assert described["retention.ms"].value == "-1"


@pytest.mark.parametrize(
    ("topic", "settings", "said"),
    [
        ("topics-no", {"replication": 3}, "refuses to create topic 'topics-no' with 1 partitions, replication 3"),
        ("topics no", {}, "refuses to create topic 'topics no'"),
        ("topics-no", {"configs": {"no.such": "x"}}, "'no.such': 'x'"),
        ("topics-no", {"create": False, "timeout": timedelta(seconds=1)}, r"ready after 0:00:01: topics-no \(does not"),
    ],
)
def test_what_kafka_refuses_is_said(kafka, topic, settings, said):
    with pytest.raises(KafkaError, match=said):
        ensure_topics(kafka.connection, [topic], **settings)


def test_a_cluster_that_is_not_there_is_named(capfd):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(KafkaError, match=f"Kafka at 127.0.0.1:{port} .PLAINTEXT. cannot be reached within 0:00:01"):
        ensure_topics(KafkaConnection(bootstrap_servers=f"127.0.0.1:{port}"), ["x"], timeout=timedelta(seconds=1))
    assert capfd.readouterr().err == ""  # the client's own complaints are in the error, not beside it


def _certificates(directory: Path) -> None:
    """An authority, and one certificate by it for 127.0.0.1, for server and client."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def certificate(name, key, issuer, issuer_key, *extensions):
        now = dt.datetime.now(dt.UTC)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder(issuer or subject, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(issuer_key, hashes.SHA256())

    import ipaddress

    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = certificate(
        "authority", authority_key, None, authority_key, x509.BasicConstraints(ca=True, path_length=0)
    )
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    own = certificate("here", key, authority.subject, authority_key, here)
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(authority.public_bytes(pem))
    (directory / "own.pem").write_bytes(own.public_bytes(pem))
    pkcs8 = serialization.PrivateFormat.PKCS8
    (directory / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    locked = serialization.BestAvailableEncryption(b"key password")
    (directory / "locked.pem").write_bytes(key.private_bytes(pem, pkcs8, locked))


@pytest.fixture(scope="module")
def guarded_kafka(tmp_path_factory):
    """A broker that asks for everything: TLS, our certificate, and a password that is hard to quote."""
    directory = tmp_path_factory.mktemp("guarded")
    _certificates(directory)
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    settings = {
        "listener.security.protocol.map": "CLIENT:SASL_SSL,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": (
            f'{plain} username="broker" password="b" user_broker="b" user_alice={_jaas(PASSWORD)};'
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.certificate.chain": (directory / "own.pem").read_text(),
        "ssl.keystore.key": (directory / "key.pem").read_text(),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": (directory / "ca.pem").read_text(),
        "listener.name.client.ssl.client.auth": "required",
    }
    with EmbeddedKafka(directory / "kafka", settings=settings) as broker:
        yield broker, directory


@pytest.fixture
def authorised(guarded_kafka, monkeypatch) -> KafkaConnection:
    broker, directory = guarded_kafka
    monkeypatch.setenv("KAFKA_USER", "alice")
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    monkeypatch.setenv("KEY_PASSWORD", "key password")
    return KafkaConnection(
        bootstrap_servers=broker.bootstrap_servers,
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        username=Secret(env="KAFKA_USER"),
        password=Secret(env="KAFKA_PASSWORD"),
        ca_file=directory / "ca.pem",
        certificate_file=directory / "own.pem",
        key_file=directory / "locked.pem",
        key_password=Secret(env="KEY_PASSWORD"),
    )


@pytest.mark.kafka
def test_librdkafka_is_let_in(authorised):
    assert ensure_topics(authorised, ["guarded"]) == {"guarded": 1}


def test_an_encryption_that_java_cannot_undo_is_named_before_java_sees_it(tmp_path, monkeypatch):
    _certificates(tmp_path)
    monkeypatch.setenv("KEY_PASSWORD", "key password")
    connection = KafkaConnection(
        security_protocol="SSL",
        certificate_file=tmp_path / "own.pem",
        key_file=tmp_path / "locked.pem",
        key_password=Secret(env="KEY_PASSWORD"),
    )
    with pytest.raises(MissingSecret, match="is encrypted by PBES2"):
        connection.for_spark()


@pytest.mark.kafka
def test_java_is_let_in_by_the_options_for_spark(authorised, tmp_path):
    """The options that Spark passes on to the Java client, in the hands of the Java client of the lock file."""
    ensure_topics(authorised, ["guarded"])
    key = authorised.key_file.with_name("key.pem")
    authorised = authorised.model_copy(update={"key_file": key, "key_password": None})
    options = {name.removeprefix("kafka."): value for name, value in authorised.for_spark().items()}
    (tmp_path / "client.properties").write_text(_properties(options))
    command = [str(java()), "-cp", os.pathsep.join(map(str, jars("kafka-broker"))), "kafka.admin.ConfigCommand"]
    command += ["--bootstrap-server", authorised.bootstrap_servers]
    command += ["--command-config", str(tmp_path / "client.properties")]
    command += ["--describe", "--all", "--entity-type", "topics", "--entity-name", "guarded"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "retention.ms=-1" in done.stdout, done.stdout + done.stderr


@pytest.mark.kafka
def test_a_wrong_password_is_told_from_an_absent_cluster(authorised, monkeypatch):
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong")
    with pytest.raises(KafkaError, match=r"refuses us: .*[Aa]uthentication") as error:
        ensure_topics(authorised, ["guarded"], timeout=timedelta(seconds=20))
    assert "wrong" not in str(error.value)


@pytest.mark.kafka
def test_an_authority_that_did_not_sign_is_said(authorised, tmp_path):
    _certificates(tmp_path)
    stranger = authorised.model_copy(update={"ca_file": tmp_path / "ca.pem"})
    with pytest.raises(KafkaError, match=r"refuses us: .*certificate"):
        ensure_topics(stranger, ["guarded"], timeout=timedelta(seconds=20))
