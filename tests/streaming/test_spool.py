"""The spool alone: whatever is cut off, goes bad or fails, what was on disk is there, in order, and nothing else."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streaming.logger import spool as module
from streaming.logger.spool import START, Record, Ref, Spool, SpoolUnusable, encoded, framed_size

ROOM = 1 << 20


def record(number: int, size: int = 10, topic: str = "t") -> Record:
    return Record(1_700_000_000_000 + number, topic, str(number), [("ce_id", b"%d" % number), ("x", None)], b"v" * size)


def everything(spool: Spool) -> list[tuple[Ref, Record]]:
    found, place = [], START
    while True:
        records, place = spool.read(place, 100)
        if not records:
            return found
        found += records


def numbers(spool: Spool) -> list[int]:
    return [int(one.key) for _, one in everything(spool)]


def crash(spool: Spool) -> None:
    """What the kernel does when a process is killed: files are closed, and nothing else happens."""
    for descriptor in (spool._file, spool._reading[1], *(one.sent_file for one in spool._segments.values())):
        if descriptor >= 0:
            os.close(descriptor)
    os.close(spool._lock)


class Machine(RuleBasedStateMachine):
    """Against a list: appended, acknowledged, killed at any byte, gone bad at any byte."""

    @initialize(segment=st.sampled_from([1, 300, 1000]))
    def begin(self, segment: int) -> None:
        self.before = module._SMALLEST_SEGMENT
        module._SMALLEST_SEGMENT = segment
        self.folder = Path(tempfile.mkdtemp())
        self.spool = Spool(self.folder, 16)
        self.next = 0
        self.waiting: dict[int, Ref] = {}
        """Number to place, of what Kafka does not have, in order."""

    def teardown(self) -> None:
        self.spool.close()
        module._SMALLEST_SEGMENT = self.before
        shutil.rmtree(self.folder)

    def payloads(self, sizes: list[int]) -> list[bytes]:
        """Some hold the frames of an earlier segment: they must not be taken for events of their own."""
        files = sorted(self.folder.glob("*.events"))
        inner = files[0].read_bytes()[:500] if files else b""
        made = [record(self.next + i, size) for i, size in enumerate(sizes)]
        return [encoded(Record(one.time, one.topic, one.key, one.headers, one.value + inner)) for one in made]

    @rule(sizes=st.lists(st.integers(0, 400), min_size=1, max_size=5))
    def append(self, sizes: list[int]) -> None:
        for ref in self.spool.append(self.payloads(sizes)):
            self.waiting[self.next] = ref
            self.next += 1

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        if self.waiting:
            chosen = data.draw(st.lists(st.sampled_from(sorted(self.waiting)), unique=True, max_size=8))
            self.spool.acknowledge([self.waiting.pop(number) for number in chosen])

    @rule()
    def acknowledge_all(self) -> None:
        self.spool.acknowledge(self.waiting.values())
        self.waiting.clear()
        assert not list(self.folder.glob("0*"))
        assert self.spool.oldest is None

    @rule()
    def stop_and_start(self) -> None:
        self.spool.close()
        self.spool = Spool(self.folder, 16)

    @rule(sizes=st.lists(st.integers(0, 400), min_size=1, max_size=4), cut=st.floats(0, 1))
    def killed_while_it_writes(self, sizes: list[int], cut: float) -> None:
        payloads = self.payloads(sizes)
        refs = self.spool.append(payloads)
        ends = [ref.offset + framed_size(payload) for ref, payload in zip(refs, payloads, strict=True)]
        crash(self.spool)
        at = refs[0].offset + round(cut * (ends[-1] - refs[0].offset))
        os.truncate(self.folder / f"{refs[0].segment:012}.events", at)
        self.spool = Spool(self.folder, 16)
        for place, ref in enumerate(refs):
            if ends[place] <= at:
                self.waiting[self.next + place] = ref
        self.next += len(sizes)
        assert self.spool.torn == (at not in (refs[0].offset, *ends))

    @rule(data=st.data())
    def killed_while_it_notes(self, data: st.DataObject) -> None:
        """What Kafka has is not all on disk: it may come again, and nothing else does."""
        had = set(range(self.next)) - set(self.waiting)
        crash(self.spool)
        for path in self.folder.glob("*.sent"):
            os.truncate(path, data.draw(st.integers(0, path.stat().st_size)))
        self.spool = Spool(self.folder, 16)
        there = {int(one.key): ref for ref, one in everything(self.spool)}
        assert set(self.waiting) <= set(there) <= set(self.waiting) | had
        self.waiting = there

    @rule(data=st.data(), reopened=st.booleans())
    def a_byte_goes_bad(self, data: st.DataObject, reopened: bool) -> None:
        if not self.waiting:
            return
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        ref = self.waiting.pop(number)
        path = self.folder / f"{ref.segment:012}.events"
        length = int.from_bytes(path.read_bytes()[ref.offset + 4 : ref.offset + 8], "little")
        place = ref.offset + data.draw(st.integers(0, 15 + length))
        with path.open("r+b") as file:
            file.seek(place)
            bad = file.read(1)[0] ^ data.draw(st.integers(1, 255))
            file.seek(place)
            file.write(bytes([bad]))
        before = self.spool.corrupt + self.spool.torn
        if reopened:
            before = 0
            crash(self.spool)
            self.spool = Spool(self.folder, 16)
        assert numbers(self.spool) == sorted(self.waiting)
        assert self.spool.corrupt + self.spool.torn == before + 1

    @invariant()
    def everything_is_there_in_order(self) -> None:
        if hasattr(self, "spool"):
            assert {int(one.key): ref for ref, one in everything(self.spool)} == self.waiting
            assert numbers(self.spool) == sorted(self.waiting)
            assert self.spool.events == len(self.waiting)
            files = [*self.folder.glob("0*.events"), *(self.folder / "aside").iterdir()]
            assert self.spool.used == sum(path.stat().st_size for path in files)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_a_record_comes_back_as_it_was(tmp_path):
    one = Record(
        7, "ä-inference", "k", [("ce_id", "ü".encode()), ("bytes", b"\xff\x00"), ("none", None)], bytes(range(256))
    )
    with Spool(tmp_path, ROOM) as spool:
        spool.append([encoded(one)])
    with Spool(tmp_path, ROOM) as spool:
        assert [found for _, found in everything(spool)] == [one]
        assert spool.oldest == 0.007


def test_a_frame_larger_than_a_reading(tmp_path):
    with Spool(tmp_path, 8 * ROOM) as spool:
        spool.append([encoded(record(i, 300_000 if i == 1 else 5)) for i in range(3)])
        assert numbers(spool) == [0, 1, 2]


def test_what_kafka_never_takes_is_kept_aside(tmp_path):
    with Spool(tmp_path, ROOM) as spool:
        first, second = spool.append([encoded(record(0)), encoded(record(1))])
        spool.set_aside(first, encoded(record(0)), "refused")
        assert (numbers(spool), spool.refused) == ([1], 1)
        spool.acknowledge([second])
        (kept,) = (tmp_path / "aside").iterdir()
        assert kept.read_bytes() == encoded(record(0))
        assert spool.used == kept.stat().st_size
    with Spool(tmp_path, ROOM) as spool:
        assert spool.append([encoded(record(2))])[0].segment > first.segment


def test_two_loggers_on_one_spool(tmp_path):
    hold = "import sys; from pathlib import Path; from streaming.logger.spool import Spool; s = Spool(Path(sys.argv[1]), 1 << 20); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SpoolUnusable, match=f"in use by process {other.pid} on .*of its own") as refused:
            Spool(tmp_path, ROOM)
        assert refused.value.exit_code == 2
        other.kill()
    Spool(tmp_path, ROOM).close()


def test_a_directory_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolUnusable, match=r"spec\.logger\.spool\.directory"):
        Spool(tmp_path / "file", ROOM)


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("pwrite", errno.ENOSPC, "No space left"),
        ("fdatasync", errno.EIO, "Input/output"),
        ("open", errno.EROFS, "Read-only"),
    ],
)
def test_a_disk_that_fails_and_recovers(tmp_path, monkeypatch, call, code, words):
    """Nothing of a group that failed is there afterwards; what was before it is; and it goes on by itself."""
    real = getattr(os, call)
    failing = False

    def fake(*arguments, **more):
        if not failing:
            return real(*arguments, **more)
        if call == "pwrite":
            real(arguments[0], bytes(arguments[1])[:7], arguments[2])  # part of it was written
        raise OSError(code, os.strerror(code))

    with Spool(tmp_path, ROOM) as spool:
        spool.append([encoded(record(0))])
        if call == "open":
            spool._close_active()  # the next one needs a new segment
        monkeypatch.setattr(os, call, fake)
        failing = True
        with pytest.raises(OSError, match=words):
            spool.append([encoded(record(1))])
        assert spool.rests
        assert words in spool.problem()
        failing = False
        assert numbers(spool) == [0]
        spool.append([encoded(record(2))])
        assert spool.problem() is None
        assert numbers(spool) == [0, 2]
        crash(spool)
        monkeypatch.undo()
        with Spool(tmp_path, ROOM) as again:
            assert (numbers(again), again.torn, again.corrupt) == ([0, 2], 0, 0)
        spool._lock = -1  # it is closed


WRITER = """
import sys
from pathlib import Path
from streaming.logger.spool import Record, Spool, encoded
spool = Spool(Path(sys.argv[1]), 1 << 30)
number = int(sys.argv[2])
last = []
while True:
    group = [encoded(Record(0, "t", str(number + i), [], b"x" * (number * 37 % 900))) for i in range(1 + number % 7)]
    refs = spool.append(group)
    print(number + len(group), flush=True)
    number += len(group)
    spool.acknowledge(last[: len(last) // 2])
    last = refs
"""


def test_a_writer_that_is_killed_at_any_moment(tmp_path):
    """Every number that it told us is there, or was acknowledged by itself, and nothing is there that it did not write."""
    told = 0
    for round_ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(told)], stdout=subprocess.PIPE
        ) as writer:
            told = int(writer.stdout.readline())
            time.sleep(0.02 * (1 + round_))
            writer.send_signal(signal.SIGKILL)
            lines = [line for line in writer.stdout.read().split(b"\n") if line]
            told = max(told, int(lines[-2]) if len(lines) > 1 else told)
        with Spool(tmp_path, 1 << 30) as spool:
            found = numbers(spool)
            assert found == sorted(set(found))
            assert spool.corrupt == 0
            before = found[-1] + 1
            assert before >= told  # the last that was told is never acknowledged
            told = before
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
