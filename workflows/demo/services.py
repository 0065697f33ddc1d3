"""The processes of the demo: each with a log of its own, none of which outlives the demo."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from streaming.guard import guarded
from workflows.errors import WorkflowError

_TAIL = 15


class ServiceFailed(WorkflowError):
    """A process of the demo ended, or did not begin to answer; the text ends with the tail of its log."""


class Service:
    """One Python process.

    It runs under a guard: Ctrl-C in the terminal reaches the demo alone, which stops its services in order, and when the
    demo is killed, they go too.

    Parameters
    ----------
    name
        For messages, and its log's name.
    arguments
        Of the Python interpreter that runs the demo.
    logs
        Directory of the log.
    grace
        How long it may take to stop.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        logs: Path,
        *,
        environment: Mapping[str, str] | None = None,
        grace: timedelta = timedelta(seconds=15),
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._grace = grace
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                guarded([sys.executable, *arguments], grace),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            )

    def check(self) -> None:
        """Raise ServiceFailed when it has ended."""
        if (code := self._process.poll()) is not None:
            raise ServiceFailed(f"the {self.name} ended with exit code {code}{self._ending()}")

    def wait(self, ready: Callable[[], bool], patience: timedelta) -> None:
        """Return when `ready` says so.

        Raises
        ------
        ServiceFailed
            It ended, or it is not ready in time.
        """
        deadline = time.monotonic() + patience.total_seconds()
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ServiceFailed(f"the {self.name} is not ready after {patience}{self._ending()}")
            time.sleep(0.1)

    def ask_to_stop(self) -> None:
        """Send SIGTERM, without waiting for it to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> int:
        """Stop it and wait until it is gone; its exit code."""
        self.ask_to_stop()
        try:
            return self._process.wait((self._grace + timedelta(seconds=5)).total_seconds())
        except subprocess.TimeoutExpired:
            self._process.kill()  # the guard takes its command with it
            return self._process.wait()

    def _ending(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL:]
        return f"; {self.log} ends:\n" + "\n".join(f"  {line}" for line in lines)


def answers(url: str) -> bool:
    """Whether a GET of the URL is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own addresses
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    """A port on this machine that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
