"""A guarded command lives as long as its owner, and not longer."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from streaming.guard import guarded

SLEEP = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(60)",
]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie answers too, until whoever adopted it looks.
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(done.stdout.strip()) and not done.stdout.strip().startswith("Z")


def gone(pid: int, within_s: float = 5) -> bool:
    deadline = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


@pytest.fixture
def start():
    started = []

    def start(command, grace=timedelta(seconds=5)):
        guard = subprocess.Popen(guarded(command, grace), stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(guard)
        return guard, int(guard.stdout.readline())

    yield start
    for guard in started:
        if guard.poll() is None:
            os.killpg(guard.pid, signal.SIGKILL)
        guard.wait()
        guard.stdout.close()


def test_passes_the_exit_code_on():
    command = guarded([sys.executable, "-c", "raise SystemExit(7)"])
    assert subprocess.run(command, check=False).returncode == 7


def test_sigterm_stops_the_command(start):
    guard, pid = start(SLEEP)
    guard.terminate()
    assert guard.wait(5) == 128 + signal.SIGTERM
    assert not alive(pid)


def test_what_ignores_sigterm_is_killed_after_its_grace(start):
    guard, pid = start(STUBBORN, grace=timedelta(seconds=0.3))
    guard.terminate()
    assert guard.wait(5) == 128 + signal.SIGKILL
    assert not alive(pid)


def test_ctrl_c_does_not_reach_the_command(start):
    guard, pid = start(SLEEP)
    os.kill(guard.pid, signal.SIGINT)
    time.sleep(0.5)
    assert guard.poll() is None
    assert alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_guard_takes_the_command_with_it(start):
    guard, pid = start(SLEEP)
    guard.kill()
    assert gone(pid)


def test_a_killed_owner_takes_the_command_with_it():
    program = (
        "import subprocess, sys, time; from streaming.guard import guarded\n"
        f"subprocess.Popen(guarded({SLEEP!r}), start_new_session=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        pid = int(owner.stdout.readline())
        owner.kill()
        owner.wait()
        assert gone(pid)


def test_a_command_started_by_a_thread_outlives_the_thread(start):
    """The trap of PR_SET_PDEATHSIG: it takes the thread that started a child for its parent."""
    import threading

    result = []
    thread = threading.Thread(target=lambda: result.append(start(SLEEP)))
    thread.start()
    thread.join()
    guard, pid = result[0]
    time.sleep(0.5)
    assert guard.poll() is None
    assert alive(pid)
