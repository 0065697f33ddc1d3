"""The store as a state machine: whatever is done to it in whatever order, it shows what a simple model of it says."""

from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from publisher import baseline

from reference.errors import BaselineNotFound, CorruptBaseline, PromotionConflict
from reference.store import Store

BASELINES = {each.version: each for each in map(baseline, range(10, 15))}
VERSIONS = sorted(BASELINES)
versions = st.sampled_from(VERSIONS)


class StoreMachine(RuleBasedStateMachine):
    """A model of the store is which versions there are, which are damaged, and the line of those that were current."""

    @initialize()
    def empty(self):
        self.store = Store("memory://machine")
        self.fs, self.root = self.store._place
        if self.fs.exists(self.root):
            self.fs.rm(self.root, recursive=True)
        self.there: set[str] = set()
        self.damaged: set[str] = set()
        self.line: list[str] = []
        """Current at the end; before it where rollbacks lead."""
        self.moves = 0

    @property
    def current(self) -> str:
        return self.line[-1] if self.line else ""

    def moved_to(self, version: str) -> None:
        if version != self.current:
            self.line.append(version)
            self.moves += 1

    @rule(version=versions, promote=st.booleans())
    def publish(self, version, promote):
        """What is damaged is mended by it."""
        assert self.store.publish(BASELINES[version], promote=promote) == version
        self.there.add(version)
        self.damaged.discard(version)
        if promote:
            self.moved_to(version)

    @rule(version=versions, expected=st.none() | st.just("") | versions)
    def promote(self, version, expected):
        if version not in self.there:
            with pytest.raises(BaselineNotFound):
                self.store.promote("m", version, expected=expected)
        elif version in self.damaged:
            with pytest.raises(CorruptBaseline):
                self.store.promote("m", version, expected=expected)
        elif expected not in {None, self.current} and version != self.current:
            with pytest.raises(PromotionConflict):
                self.store.promote("m", version, expected=expected)
        else:
            assert self.store.promote("m", version, expected=expected, by="ada").version == version
            self.moved_to(version)

    @rule()
    def rollback(self):
        wanted = self.line[-2] if len(self.line) > 1 else None
        if wanted is None or wanted not in self.there:
            with pytest.raises(BaselineNotFound):
                self.store.rollback("m")
        elif wanted in self.damaged:
            with pytest.raises(CorruptBaseline):
                self.store.rollback("m")
        else:
            assert self.store.rollback("m").replaced == self.line.pop()
            self.moves += 1

    @rule(keep=st.integers(0, 4), named=st.sets(versions, max_size=2))
    def gc(self, keep, named):
        before = set(self.there)
        gone = {each.version for each in self.store.gc("m", keep=keep, grace=timedelta(0), named=named)}
        left = {each["version"] for each in self.store.versions("m")}
        assert left == before - gone
        assert left >= before & {*named, *self.line[-2:]}
        assert len(left) >= min(keep, len(before))
        self.there = left
        self.damaged &= left

    @precondition(lambda self: self.there)
    @rule(data=st.data(), name=st.sampled_from(["baseline.bin", "manifest.json"]))
    def tamper(self, data, name):
        version = data.draw(st.sampled_from(sorted(self.there)))
        path = f"{self.root}/m/{version}/{name}"
        old = self.fs.cat_file(path)
        place = data.draw(st.integers(0, len(old) - 1))
        self.fs.pipe_file(path, old[:place] + bytes([old[place] ^ data.draw(st.integers(1, 255))]) + old[place + 1 :])
        if self.fs.cat_file(path) != old:
            self.damaged.add(version)

    @invariant()
    def what_is_current_is_told(self):
        if not self.current:
            with pytest.raises(BaselineNotFound):
                self.store.current("m")
        else:
            assert self.store.current("m") == self.current

    @invariant()
    def each_version_is_read_back_or_refused(self):
        for version in VERSIONS:
            if version not in self.there:
                with pytest.raises(BaselineNotFound):
                    self.store.load("m", version)
            elif version in self.damaged:
                with pytest.raises(CorruptBaseline, match=version):
                    self.store.load("m", version)
            else:
                assert self.store.load("m", version).version == version

    @invariant()
    def the_history_is_whole(self):
        history = self.store.history("m")
        assert [each.number for each in history] == list(range(len(history), 0, -1))
        moves = [each for each in history if each.kind != "removal" and each.version != each.replaced]
        assert len(moves) == self.moves


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestStore = StoreMachine.TestCase
