"""A real Kafka broker, started and stopped by the project: one node, KRaft, no Docker and no cluster."""

import atexit
import base64
import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from streaming.errors import BrokerError
from streaming.guard import guarded
from streaming.jars import jars
from streaming.java import java
from streaming.kafka import KafkaConnection

_GRACE = timedelta(seconds=15)
"""How long a broker may take to stop: it usually takes one or two seconds."""

_PORTS = range(20_000, 32_000)
"""Below the ports that Linux and macOS give to outgoing connections: what was free before a restart is still free then."""

_LOG_LIMIT = 16 * 2**20
"""Bytes after which a start sets the old log aside."""

_LOGGING = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %-5p %m (%c{1})%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
"""


class EmbeddedKafka:
    """A one-node Kafka on this machine, for as long as the context lasts or until `stop`.

    What is written survives a restart on the same directory, on the same ports when they are still free. The broker
    survives Ctrl-C in the terminal, so that its owner can flush, and is gone when its owner is, however that ended.

    Topics are not made by mentioning them (`streaming.kafka.ensure_topics` makes them), are kept for ever, and take
    records of any age and up to 16 MiB.

    Parameters
    ----------
    data_dir
        Everything is in here: topics, settings and ``broker.log``. Made when it does not exist.
    port
        Where clients connect; by default the port of the last start on this directory when it is free, else a free one.
    listen_host
        Address to listen on. ``0.0.0.0`` is every one, and then `advertised_host` must be said.
    advertised_host
        The name under which clients reach this machine; they come back to it whatever they connected to first.
    settings
        Broker properties on top of the project's own.
    heap_mib
        Java heap in MiB.
    patience
        How long the broker may take to come up.

    Examples
    --------
    >>> with EmbeddedKafka(Path("kafka")) as kafka:  # doctest: +SKIP
    ...     ensure_topics(kafka.connection, ["iris-inference"], partitions=4)
    """

    def __init__(
        self,
        data_dir: Path | str,
        *,
        port: int | None = None,
        listen_host: str = "127.0.0.1",
        advertised_host: str | None = None,
        settings: Mapping[str, str] | None = None,
        heap_mib: int = 512,
        patience: timedelta = timedelta(seconds=90),
    ) -> None:
        if advertised_host is None and listen_host in {"0.0.0.0", "::"}:  # noqa: S104 - it is refused, not bound
            raise BrokerError(
                f"a broker that listens on {listen_host} has to be told under which name its clients reach it: "
                "give advertised_host, for example the address that pods see this machine at",
            )
        self.data_dir = Path(data_dir).absolute()
        self.listen_host = listen_host
        self.advertised_host = advertised_host or listen_host
        self.settings = dict(settings or {})
        self.heap_mib = heap_mib
        self.patience = patience
        self._fixed_port = port
        self._port: int | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    @property
    def port(self) -> int:
        """The port that clients connect to; known once the broker was started."""
        if self._port is None:
            raise BrokerError(f"the broker of {self.data_dir} was not started yet, so its port is not known")
        return self._port

    @property
    def bootstrap_servers(self) -> str:
        """What clients are given: ``host:port``."""
        return f"{self.advertised_host}:{self.port}"

    @property
    def connection(self) -> KafkaConnection:
        """The same as a section of a ModelMonitor."""
        return KafkaConnection(bootstrap_servers=self.bootstrap_servers)

    @property
    def log_file(self) -> Path:
        """What the broker says, this start and the ones before."""
        return self.data_dir / "broker.log"

    @property
    def running(self) -> bool:
        """Whether the broker's process is there."""
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> Self:
        """Start the broker and wait until it answers; nothing happens when it runs already.

        Raises
        ------
        BrokerError
            It does not come up, or not in time; the text ends with the tail of its log.
        JarError, JavaError
            What it runs on is missing.
        """
        if self.running:
            return self
        class_path = os.pathsep.join(map(str, jars("kafka-broker")))
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self._sole_use() as lock:
            (self.data_dir / "log4j2.properties").write_text(_LOGGING)
            self._set_log_aside()
            self._start(class_path, lock)
        return self

    def stop(self) -> None:
        """Stop the broker and wait until it is gone; nothing happens when it is not running."""
        guard, self._guard = self._guard, None
        if guard is None or os.getpid() != self._owner:  # a fork has the object, not the process
            return
        atexit.unregister(self.stop)
        with contextlib.suppress(ProcessLookupError):
            guard.terminate()
        try:
            guard.wait((_GRACE + timedelta(seconds=5)).total_seconds())
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(guard.pid, signal.SIGKILL)  # a session of its own, so its number is the group's
            guard.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<EmbeddedKafka {self.data_dir} {'on ' + self.bootstrap_servers if self.running else 'stopped'}>"

    @contextlib.contextmanager
    def _sole_use(self) -> Iterator[int]:
        """The lock of the directory. The guard inherits it, so it is held until the broker is gone, whoever started it.

        Kafka has a lock of its own, but by the time it looks the settings of the running broker have been overwritten.
        """
        lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # A broker whose owner was killed a moment ago is still stopping: that is worth waiting for.
            deadline = time.monotonic() + _GRACE.total_seconds() + 5
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    owner = os.pread(lock, 32, 0).decode()
                    if time.monotonic() > deadline or (owner.isdecimal() and _is_alive(int(owner))):
                        raise BrokerError(
                            f"{self.data_dir} is in use: process {owner} runs a broker on it. Stop that one first, "
                            "or give another directory",
                        ) from None
                    time.sleep(0.1)
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            yield lock
        finally:
            os.close(lock)

    def _start(self, class_path: str, lock: int) -> None:
        for attempt in (1, 2, 3):
            try:
                self._start_once(class_path, lock)
            except BrokerError as error:
                # Between choosing a free port and binding it, somebody else may take it: choose again, unless told which.
                if attempt == 3 or self._fixed_port is not None or "Address already in use" not in str(error):
                    raise
                (self.data_dir / "endpoint.json").unlink(missing_ok=True)
            else:
                return

    def _start_once(self, class_path: str, lock: int) -> None:
        self._port, controller_port = self._ports()
        properties = self.data_dir / "server.properties"
        # It may hold passwords (settings of SASL listeners), so it is for the owner's eyes only.
        properties.touch(mode=0o600)
        properties.write_text(_properties(self._configuration(controller_port)))
        (self.data_dir / "endpoint.json").write_text(json.dumps({"port": self._port, "controller": controller_port}))
        base = [
            str(java()),
            f"-Dlog4j2.configurationFile={(self.data_dir / 'log4j2.properties').as_uri()}",
            "-cp",
            class_path,
        ]
        with self.log_file.open("ab") as log:
            start_of_log = log.tell()
            if not (self.data_dir / "topics" / "meta.properties").exists():
                self._format([*base, "-XX:TieredStopAtLevel=1"], properties, log)
            command = [*base, f"-Xmx{self.heap_mib}m", "-Xms128m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]
            command += ["-Djava.awt.headless=true", "kafka.Kafka", str(properties)]
            self._guard = subprocess.Popen(
                guarded(command, _GRACE),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock],
            )
        self._owner = os.getpid()
        atexit.register(self.stop)
        try:
            self._wait(start_of_log)
        except BaseException:  # Ctrl-C while it comes up, too
            self.stop()
            raise

    def _format(self, base: list[str], properties: Path, log: Any) -> None:
        """Make the directory a broker's: once, and never again, or its topics would be gone."""
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
        command = [*base, "kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", str(properties)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise BrokerError(f"Kafka cannot use the directory {self.data_dir}{self._tail(0)}")

    def _wait(self, start_of_log: int) -> None:
        """Return when a client gets its metadata, which names this broker: that is after the port is open."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        assert self._guard is not None
        deadline = time.monotonic() + self.patience.total_seconds()
        host = "127.0.0.1" if self.listen_host == "0.0.0.0" else "::1" if self.listen_host == "::" else self.listen_host  # noqa: S104
        while True:
            if (code := self._guard.poll()) is not None:
                raise BrokerError(f"Kafka stopped at once, with exit code {code}{self._tail(start_of_log)}")
            if time.monotonic() > deadline:
                raise BrokerError(f"Kafka did not come up within {self.patience}{self._tail(start_of_log)}")
            with contextlib.suppress(OSError, KafkaException):
                # The client would report every refused connection on stderr, so it is not asked before there is one.
                socket.create_connection((host, self.port), timeout=1).close()
                if self.settings.keys() & {"listener.security.protocol.map"}:
                    # A client without a password can ask nothing here; the log says when the broker is done.
                    if b"Kafka Server started" in self._said(start_of_log):
                        return
                elif AdminClient({"bootstrap.servers": f"{host}:{self.port}"}).list_topics(timeout=5).brokers:
                    return
            time.sleep(0.1)

    def _ports(self) -> tuple[int, int]:
        """The client's and the controller's: those of the last start on this directory when they are free."""
        last = {}
        with contextlib.suppress(OSError, ValueError):
            last = json.loads((self.data_dir / "endpoint.json").read_text())
        port = self._fixed_port or self._free(last.get("port"), self.listen_host)
        return port, self._free(last.get("controller"), "127.0.0.1", avoid=port)

    @staticmethod
    def _free(preferred: int | None, host: str, avoid: int = 0) -> int:
        candidates = [preferred] if preferred else []
        candidates += random.sample(_PORTS, 50)
        for port in candidates:
            if port != avoid and _is_free(host, port):
                return port
        raise BrokerError(f"no free port found on {host} between {_PORTS.start} and {_PORTS.stop}")

    def _configuration(self, controller_port: int) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            # Static voters, because they are not kept in the log: the next start may be on another port.
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"CLIENT://{_bracketed(self.listen_host)}:{self.port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"CLIENT://{_bracketed(self.advertised_host)}:{self.port}",
            "inter.broker.listener.name": "CLIENT",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.data_dir / "topics"),
            # A misspelt topic is an error, not a topic.
            "auto.create.topics.enable": "false",
            # Event time is the record's own: years ago in a replay, tomorrow under a skewed clock. And nothing is deleted.
            "log.message.timestamp.type": "CreateTime",
            "log.message.timestamp.before.max.ms": str(2**63 - 1),
            "log.message.timestamp.after.max.ms": str(2**63 - 1),
            "log.retention.ms": "-1",
            "log.retention.bytes": "-1",
            # Or a segment would roll at every old timestamp beside a new one.
            "log.roll.ms": str(2**63 - 1),
            "offsets.retention.minutes": str(2**31 - 1),
            "message.max.bytes": str(16 * 2**20),
            "replica.fetch.max.bytes": str(16 * 2**20),
            # One node: nobody to replicate to, nobody to wait for.
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "default.replication.factor": "1",
            "min.insync.replicas": "1",
            "group.initial.rebalance.delay.ms": "0",
            # The defaults are for clusters: fifty partitions of offsets take seconds to make on two cores.
            "offsets.topic.num.partitions": "4",
            "offsets.topic.segment.bytes": str(16 * 2**20),
            "transaction.state.log.num.partitions": "2",
            "share.coordinator.state.topic.num.partitions": "1",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "log.cleaner.dedupe.buffer.size": str(32 * 2**20),
            # After a SIGKILL the controller takes the new broker only when the session of the old one has run out (9 s).
            "broker.heartbeat.interval.ms": "1000",
            "broker.session.timeout.ms": "6000",
            **self.settings,
        }

    def _set_log_aside(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.stat().st_size > _LOG_LIMIT:
                self.log_file.replace(self.log_file.with_suffix(".log.1"))

    def _said(self, start: int) -> bytes:
        with self.log_file.open("rb") as log:
            log.seek(start)
            return log.read()

    def _tail(self, start: int) -> str:
        """The end of the log since `start`, errors first: what a person would look for in it."""
        lines = self._said(start).decode(errors="replace").splitlines()
        errors = [line for line in lines if "ERROR" in line or "FATAL" in line or "Exception" in line][:5]
        shown = [*errors, "..."] if errors else []
        return f"; {self.log_file} ends:\n" + "\n".join(f"  {line}" for line in [*shown, *lines[-10:]])


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As Java binds: connections of the last broker that linger in TIME_WAIT are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but there
        return True
    return True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _properties(values: Mapping[str, str]) -> str:
    """A Java properties file, whose escapes (backslash, newline, UTF-16 beyond ASCII) are the ones that JSON uses."""
    return "".join(f"{key}={json.dumps(value)[1:-1]}\n" for key, value in values.items())
