"""The store under several processes at once, and under processes that are killed; on local files and on a real S3 server."""

import os
import random
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from publisher import Child, baseline, publish, race, sound

from reference.errors import BaselineError, BaselineNotFound, CorruptBaseline, PromotionConflict, StoreError
from reference.store import Store

BASELINES = [baseline(seed) for seed in range(10, 18)]
VERSIONS = [each.version for each in BASELINES]
BYTES = [each.to_bytes() for each in BASELINES]


@pytest.fixture(params=["file", "s3"])
def url(request, tmp_path):
    if request.param == "file":
        return str(tmp_path)
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}"


def rounds(url, count):
    """Two publish at once, each compared with the same current version: one wins, the other is told."""
    store = Store(url)
    store.publish(BASELINES[6])
    # Each has four versions of its own and comes back to them: publishing again is a race as well.
    children = [Child(race, url, (BYTES[first::2] * count)[:count]) for first in (0, 1)]
    for _ in range(count):
        before = store.current("m")
        for each in children:
            each.tell(before)
        said = sorted(next(each.said()).split() for each in children)
        assert [word for word, _ in said] == ["lost", "won"], said
        current = said[1][1]
        assert store.current("m") == current == store.load("m").version
        newest = store.history("m")[0]
        assert (newest.version, newest.replaced) == (current, before)
    for each in children:
        each.done()


def test_of_two_that_publish_at_once_one_wins_and_the_other_is_told(url):
    rounds(url, 12)


@pytest.mark.slow
def test_of_two_that_publish_at_once_one_wins_in_every_round(url):
    rounds(url, 200)


def at_once(*calls):
    """Run them in threads that begin together; what they raised."""
    begin, raised = threading.Barrier(len(calls)), []

    def run(call):
        begin.wait()
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            raised.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_all_that_promote_at_once_get_their_turn(url):
    """Without an expectation each tries again: no record is lost, none is written twice, the last one stands."""
    store = Store(url)
    for each in BASELINES:
        store.publish(each, promote=False)
    assert not at_once(*[lambda version=version: Store(url).promote("m", version) for version in VERSIONS])
    history = store.history("m")
    assert sorted(each.version for each in history) == sorted(VERSIONS)
    assert store.current("m") == history[0].version


def test_the_same_content_published_at_once_is_one_whole_version(url):
    assert not at_once(*[lambda: Store(url).publish(BASELINES[0])] * 4)
    assert sound(Store(url), {VERSIONS[0]}) == VERSIONS[0]
    assert len(Store(url).history("m")) == 1


def test_what_is_published_again_while_gc_would_remove_it_is_whole_or_refused(tmp_path):
    """Old versions come back just as `gc` is about to remove them."""
    store, removed, refused = Store(str(tmp_path)), 0, 0
    for number in range(12):
        for each in BASELINES:
            store.publish(each, promote=False)
        for path in (path for path in tmp_path.rglob("*") if path.is_file()):
            os.utime(path, (1e9, 1e9))
        gone = []

        def clean(gone=gone):
            gone.extend(Store(str(tmp_path)).gc("m", keep=0, grace=timedelta(seconds=60)))

        def come_back(number=number):
            time.sleep(0.0005 * number)
            for each in BASELINES:
                Store(str(tmp_path)).publish(each, promote=False)

        raised = at_once(clean, come_back)
        assert all(isinstance(error, PromotionConflict) for error in raised), raised
        if not raised:
            assert {each["version"] for each in store.versions("m")} == set(VERSIONS)
        sound(store, set(VERSIONS))
        removed += len(gone)
        refused += len(raised)
    assert removed > 0


def kills(url, count):
    """Killed again and again at random moments: the old or a new one is current, all that is shown is whole, a rerun completes."""
    store, chance = Store(url), random.Random(7)
    whole = Child(publish, url, BYTES[:4], True)
    began = time.monotonic()
    whole.tell()
    current = whole.done()[-1]
    longest = time.monotonic() - began
    steps = 0
    for number in range(count):
        places = [(number + step) % len(BYTES) for step in range(4)]
        child = Child(publish, url, [BYTES[place] for place in places], number % 3 > 0)
        steps += len(child.killed(chance.uniform(0.0, longest)))
        before, current = current, sound(store, set(VERSIONS))
        assert current in {before, *(VERSIONS[place] for place in places)}
    again = Child(publish, url, BYTES)
    again.tell()
    last = again.done()[-1]
    assert sound(store, set(VERSIONS)) == last
    assert 0 < steps < 4 * count


def test_a_killed_publisher_leaves_the_old_or_the_new(url):
    kills(url, 10)


@pytest.mark.slow
def test_a_publisher_killed_two_hundred_times(url):
    kills(url, 200)


def test_readers_see_whole_baselines_while_others_publish_and_remove(url):
    store = Store(url)
    store.publish(BASELINES[0])
    child = Child(publish, url, BYTES * 2, True)
    child.tell()
    seen = set()
    while child.process.is_alive():
        version = store.current("m")
        try:
            assert store.load("m", version).version == version
        except BaselineNotFound:  # without any grace, what was current a moment ago can be gone
            continue
        seen.add(version)
    child.done()
    assert len(seen) > 1


def test_the_store_on_s3(s3, tmp_path):
    store = Store(f"{s3}/{tmp_path.name}")
    with pytest.raises(BaselineNotFound):
        store.current("m")
    store.publish(BASELINES[0], beside={"report.html": b"<p>"}, decision="accept")
    store.publish(BASELINES[1], expected=VERSIONS[0])
    assert store.load("m").version == VERSIONS[1]
    assert store.read_beside("m", VERSIONS[0], "report.html") == b"<p>"
    assert {each["version"] for each in store.versions("m")} == set(VERSIONS[:2])
    assert store.rollback("m").version == VERSIONS[0] == store.current("m")
    store.publish(BASELINES[2])
    assert [each.version for each in store.gc("m", keep=1, grace=timedelta(0))] == [VERSIONS[1]]
    fs, root = store._place
    fs.pipe_file(f"{root}/m/{VERSIONS[0]}/baseline.bin", b"other")
    with pytest.raises(CorruptBaseline, match=VERSIONS[0]):
        store.load("m", VERSIONS[0])


def test_a_bucket_that_is_not_there_is_named(s3):
    with pytest.raises(StoreError, match=r"s3://nosuchbucket/baselines: .*bucket does not exist"):
        Store("s3://nosuchbucket/baselines").publish(BASELINES[0])


def test_a_store_that_refuses_the_key_is_named(s3, monkeypatch):
    from s3fs import S3FileSystem

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=f"the store {s3}/x: PermissionError"):
        Store(f"{s3}/x").current("m")
    S3FileSystem.clear_instance_cache()


def test_a_full_or_closed_disk_is_named(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    store.publish(BASELINES[0])

    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(BaselineError, match="No space left on device"):
        store.publish(BASELINES[1])
    monkeypatch.undo()
    assert store.current("m") == VERSIONS[0]
    assert sound(store, set(VERSIONS[:2])) == VERSIONS[0]
