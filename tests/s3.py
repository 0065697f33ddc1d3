"""A real S3-compatible server for tests: S3Proxy on a directory of this machine, started and stopped by the test.

It decides a conditional put (`If-None-Match: *`) by a hard link, so two that race cannot both win; servers that look first and write then
would let them.
"""

import os
import secrets
import socket
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from streaming.guard import guarded
from streaming.jars import jars
from streaming.java import java

BUCKET = "driftline"


class S3Server:
    """An S3 server with one bucket, for as long as the context lasts; gone when its owner is.

    Parameters
    ----------
    directory
        Buckets are folders in here, objects files.

    Examples
    --------
    >>> with S3Server(Path("s3")) as server:  # doctest: +SKIP
    ...     os.environ.update(server.environment)
    ...     Store(f"s3://{BUCKET}/baselines")
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._key, self._secret = secrets.token_hex(8), secrets.token_hex(16)
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client has in its environment to reach the server, as it would for any other."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": self._key,
            "AWS_SECRET_ACCESS_KEY": self._secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> Self:
        (self.directory / "buckets" / BUCKET).mkdir(parents=True, exist_ok=True)
        settings = self.directory / "s3proxy.properties"
        settings.touch(mode=0o600)
        settings.write_text(
            f"s3proxy.endpoint=http://127.0.0.1:{self.port}\n"
            "s3proxy.authorization=aws-v2-or-v4\n"
            f"s3proxy.identity={self._key}\n"
            f"s3proxy.credential={self._secret}\n"
            "jclouds.provider=filesystem\n"
            f"jclouds.filesystem.basedir={self.directory / 'buckets'}\n"
        )
        log = self.directory / "s3proxy.log"
        command = [str(java()), "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command += [f"-Dorg.slf4j.simpleLogger.logFile={log}"]  # it sends stderr to its log, so that may not be stderr
        command += ["-cp", os.pathsep.join(map(str, jars("s3-server")))]
        command += ["org.gaul.s3proxy.Main", "--properties", str(settings)]
        with (self.directory / "out.log").open("wb") as out:
            self._guard = subprocess.Popen(
                guarded(command, timedelta(seconds=5)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self._guard.poll() is None, (self.directory / "out.log").read_text()
                assert time.monotonic() < deadline, "S3Proxy did not come up"
                time.sleep(0.1)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._guard is not None
        self._guard.terminate()
        self._guard.wait(30)
