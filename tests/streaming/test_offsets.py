"""What is known of a topic survives a crash at any step of bringing the offsets in line."""

import json

import msgspec
import pytest

from streaming import offsets
from streaming.offsets import reconcile
from streaming.plan import Plan, Topic


class Crash(Exception):
    """The process dies here."""


class Disk:
    """The log of offsets and the plan, as a crash leaves them; dies at the write of a given number."""

    def __init__(self, where: dict[str, dict[str, int]], plan: Plan) -> None:
        self.offsets, self.plan = {4: "\n".join(["v1", "{}", json.dumps(where)])}, msgspec.json.encode(plan)
        self.lives = -1

    def write(self) -> None:
        if self.lives == 0:
            raise Crash
        self.lives -= 1

    def run(self, wanted: list[str], ids: dict[str, str]) -> None:
        """One process: it reads the plan, brings the offsets in line, and writes the plan."""
        plan = msgspec.json.decode(self.plan, type=Plan)
        reconcile(None, "", plan, dict.fromkeys(wanted), ids, lambda: self.save(plan))
        self.save(plan)

    def save(self, plan: Plan) -> None:
        self.write()
        self.plan = msgspec.json.encode(plan)

    @property
    def read_from(self) -> dict[str, dict[str, int]]:
        return json.loads(self.offsets[4].splitlines()[2])


@pytest.fixture
def disk(monkeypatch):
    plan = Plan(topics={"stays": Topic("a"), "goes": Topic("b"), "anew": Topic("c")})
    disk = Disk({"stays": {"0": 7}, "goes": {"0": 5, "1": 6}, "anew": {"0": 9}}, plan)

    class Log:
        def __init__(self, spark, checkpoint, name):
            self.files = disk.offsets if name == "offsets" else {4: ""}

        def numbers(self):
            return sorted(self.files)

        def read(self, number):
            return self.files[number]

        def write(self, number, text):
            disk.write()
            self.files[number] = text

    monkeypatch.setattr(offsets, "Log", Log)
    # As where nothing else is known: from the beginning, or where reading stopped.
    monkeypatch.setattr(offsets, "_beginning", lambda name, kafka, topic, again: topic.left or {0: 0})
    return disk


@pytest.mark.parametrize("crash", range(4))
def test_a_crash_at_any_write_loses_neither_where_a_topic_was_left_nor_that_one_was_created_again(disk, crash):
    disk.lives = crash
    try:
        disk.run(["stays", "anew"], {"stays": "a", "anew": "c2"})
    except Crash:
        disk.lives = -1
        disk.run(["stays", "anew"], {"stays": "a", "anew": "c2"})
    assert disk.read_from == {"stays": {"0": 7}, "anew": {"0": 0}}
    disk.lives = -1
    disk.run(["stays", "anew", "goes"], {"stays": "a", "anew": "c2", "goes": "b"})
    assert disk.read_from == {"stays": {"0": 7}, "anew": {"0": 0}, "goes": {"0": 5, "1": 6}}
    topics = msgspec.json.decode(disk.plan, type=Plan).topics
    assert topics["anew"] == Topic("c2", lives=2)
    assert topics["goes"].left == {}
