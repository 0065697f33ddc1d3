"""Runs a command for as long as its owner lives: ``python guard.py OWNER_PID GRACE_SECONDS COMMAND ...``.

A broker must outlive Ctrl-C in the terminal (its owner still has something to flush) and must not outlive its owner,
not even one that was killed with SIGKILL and could stop nothing. So the command is started by this little process: in a
session of its own, where the terminal's signals do not reach it, watching whether its parent is still its parent. SIGTERM
to the guard, or the loss of its owner, is SIGTERM to the command, and SIGKILL after the grace period.

Linux can tie a child to its parent by itself (PR_SET_PDEATHSIG), but means by parent the thread that started it, and
setting it in an owner with threads is not safe. Here it ties the command to the guard, which has one thread.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from types import FrameType

WATCH_S = 0.2
"""Seconds between two looks at the owner: the longest that a command goes on without it, besides its own grace."""


def guarded(command: Sequence[str], grace: timedelta = timedelta(seconds=15)) -> list[str]:
    """`command` under a guard whose owner is this process. Start it with ``start_new_session=True``.

    Parameters
    ----------
    grace
        How long the command may take to stop after SIGTERM before it is killed.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(grace.total_seconds()), *command]


def _tie_to_parent() -> None:
    """In the child, before it becomes the command: be killed if the guard itself is killed (Linux only)."""
    if sys.platform == "linux":
        import ctypes

        set_pdeathsig = 1
        ctypes.CDLL(None).prctl(set_pdeathsig, signal.SIGKILL)


def main(owner: int, grace_s: float, command: Sequence[str]) -> int:
    """Run `command` until it ends, is asked to, or has no owner; its exit code, 128 + n when signal n ended it."""
    asked = False

    def ask(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, lambda *_: None)  # a handler, unlike SIG_IGN, is not inherited by the command
    # One thread, so that preexec_fn is safe.
    child = subprocess.Popen(command, preexec_fn=_tie_to_parent)  # noqa: PLW1509
    while child.poll() is None:
        if asked or os.getppid() != owner:
            child.terminate()
            try:
                child.wait(grace_s)
            except subprocess.TimeoutExpired:
                child.kill()
            break
        try:
            child.wait(WATCH_S)
        except subprocess.TimeoutExpired:
            continue
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
