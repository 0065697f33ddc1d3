"""One monitor per checkpoint, with real processes that are killed."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest

from streaming.lease import CheckpointInUse, Holder, Lease, Pace

BRISK = Pace(renewal=0.1, stale=0.8, pause=0.1)
PATIENT = Pace(renewal=1.0, stale=30.0, pause=1.0)
"""Where six begin at once: on a busy machine a write takes longer than a brisk pause, and then more than one wins by rule."""
HOLD = """
import sys, time
from streaming.errors import StreamingError
from streaming.lease import Lease
try:
    with Lease(sys.argv[1]) as lease:
        {inside}
        print("held", flush=True)
        sys.stdin.read()
    print("left", flush=True)
except StreamingError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator:
    """``holder()`` starts a process that takes the lease of `tmp_path` and keeps it until its stdin ends."""
    with ExitStack() as stack:

        def start(inside: str = "pass") -> subprocess.Popen:
            process = subprocess.Popen(
                [sys.executable, "-c", HOLD.format(inside=inside), str(tmp_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)  # waits, and closes the pipes
            stack.callback(process.kill)
            return process

        yield start


def said(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


def test_a_second_monitor_is_refused_and_told_by_whom(holder):
    first = holder()
    assert said(first) == "held"
    second = holder()
    told = said(second)
    assert f"process {first.pid} on {os.uname().nodename}, since 20" in told
    assert "spec.job.checkpoint of its own" in told
    assert second.wait(10) == 2
    first.stdin.close()
    assert said(first) == "left"
    assert said(holder()) == "held", "a lease that was given back is free at once"


def test_a_killed_monitor_can_be_started_again_at_once(holder, tmp_path):
    first = holder()
    assert said(first) == "held"
    first.kill()
    first.wait()
    with Lease(str(tmp_path)) as lease:
        assert lease.lost is None


def test_of_many_that_start_together_exactly_one_wins(holder):
    told = [said(process) for process in [holder() for _ in range(6)]]
    assert told.count("held") == 1
    assert sum("another monitor runs" in text for text in told) == 5


def test_a_lock_whose_file_was_removed_is_lost(tmp_path):
    with Lease(str(tmp_path), pace=BRISK) as lease:
        time.sleep(3 * BRISK.renewal)
        assert lease.lost is None
        (tmp_path / "driftline" / "lease").unlink()
        with Lease(str(tmp_path), pace=BRISK) as other:
            time.sleep(3 * BRISK.renewal)
            assert "was replaced" in lease.lost
            assert other.lost is None


def test_the_lock_says_when_it_was_renewed(tmp_path):
    with Lease(str(tmp_path), pace=BRISK):
        read = (tmp_path / "driftline" / "lease").read_bytes
        first = Holder.of_json(read())
        time.sleep(3 * BRISK.renewal)
        last = Holder.of_json(read())
    assert (first.owner, first.pid, first.since) == (last.owner, os.getpid(), last.since)
    assert last.renewed > first.renewed


@pytest.fixture
def url() -> str:
    """A place without locks."""
    return f"memory://{uuid.uuid4()}"


def test_a_renewed_file_is_respected_and_a_stale_one_taken_over(url):
    told: list[str] = []
    fs, root = fsspec.core.url_to_fs(url)
    with Lease(url, pace=BRISK) as lease:
        began = time.monotonic()
        with (
            pytest.raises(CheckpointInUse, match=f"process {os.getpid()} on "),
            Lease(url, pace=BRISK, say=told.append),
        ):
            pass
        assert time.monotonic() - began < BRISK.stale, "a renewal is enough to know"
        assert len(told) == 1
        file = fs.cat_file(f"{root}/driftline/lease.json")
        assert lease.lost is None
    assert not fs.exists(f"{root}/driftline/lease.json"), "given back"
    fs.pipe_file(f"{root}/driftline/lease.json", file)  # as one leaves it that was killed
    began = time.monotonic()
    with Lease(url, pace=BRISK) as lease:
        assert 2 * BRISK.renewal < time.monotonic() - began < 3 * BRISK.stale
        assert lease.lost is None


def test_a_file_that_is_none_of_ours_is_waited_for_and_taken_over(url):
    fs, root = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{root}/driftline/lease.json", b"\x00 not JSON")
    began = time.monotonic()
    with Lease(url, pace=BRISK):
        assert time.monotonic() - began >= BRISK.stale


def test_a_holder_whose_file_was_taken_over_notices(url):
    fs, root = fsspec.core.url_to_fs(url)
    with Lease(url, pace=BRISK) as lease:
        fs.pipe_file(f"{root}/driftline/lease.json", Holder("other", "elsewhere", 7, 0.0, 0.0).to_json())
        time.sleep(3 * BRISK.renewal)
        assert "was taken: by process 7 on elsewhere, since 1970" in lease.lost
    assert Holder.of_json(fs.cat_file(f"{root}/driftline/lease.json")).owner == "other", "what is another's stays"


def test_a_holder_that_cannot_renew_gives_up_before_another_may_take_over(url, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("the store does not answer")

    with Lease(url, pace=BRISK) as lease:
        began = time.monotonic()
        monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", unreachable)
        while lease.lost is None:
            assert time.monotonic() - began < BRISK.stale
            time.sleep(0.01)
        assert "could not be renewed" in lease.lost
        assert "the store does not answer" in lease.lost
        monkeypatch.undo()


@pytest.fixture
def no_locks(monkeypatch) -> None:
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.parametrize("place", ["memory", "mount"])
def test_of_many_that_find_no_file_exactly_one_wins(place, url, tmp_path, no_locks):
    where = url if place == "memory" else str(tmp_path)
    gate, told = threading.Barrier(6), threading.Event()
    results: list[str] = []

    def one() -> None:
        gate.wait()
        try:
            with Lease(where, pace=PATIENT):
                results.append("held")
                told.wait(10)
        except CheckpointInUse as error:
            results.append(str(error))
        if len(results) == 6:
            told.set()

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("held") == 1


def test_a_mount_without_locks_falls_back_to_a_file(tmp_path, no_locks):
    with Lease(str(tmp_path), pace=BRISK):
        assert Holder.of_json((tmp_path / "driftline" / "lease.json").read_bytes()).pid == os.getpid()
        with pytest.raises(CheckpointInUse), Lease(str(tmp_path), pace=BRISK):
            pass


@pytest.mark.spark
def test_the_jvm_of_a_killed_driver_is_waited_for(holder, tmp_path):
    """The driver alone is killed, and its JVM stands still: it may still write, so nobody else begins."""
    spark = (
        "from types import SimpleNamespace; from pyspark.java_gateway import launch_gateway; gateway = launch_gateway(); "
        "lease.bind(SimpleNamespace(_jvm=gateway.jvm), patience=1.0); print(gateway.proc.pid, flush=True)"
    )
    first = holder(spark)
    jvm = int(said(first))
    try:
        assert said(first) == "held"
        os.kill(jvm, signal.SIGSTOP)
        first.kill()
        first.wait()
        second = holder(spark)
        assert "the JVM of an earlier monitor still works on the checkpoint" in said(second)
        assert second.wait(30) == 2
    finally:
        os.kill(jvm, signal.SIGKILL)
    third = holder(spark)
    assert int(said(third)) != jvm
    assert said(third) == "held"
    third.stdin.close()
    assert said(third) == "left"
