"""The store of baselines: what is published is read back, what was changed is refused by name."""

import json
import os
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem

from reference import promotions
from reference.build import build
from reference.errors import BaselineNotFound, CorruptBaseline, PromotionConflict, StoreError
from reference.promotions import Promotions
from reference.schema import Column, Model
from reference.settings import Reference
from reference.store import Store

MODEL = Model(name="m", features=(Column(name="x", type="numeric"),))
NOW = timedelta(0)


def baseline(seed: int):
    return build(pa.table({"x": [float(seed), 1.0, 2.0]}), MODEL, Reference())


BASELINES = [baseline(seed) for seed in range(10, 16)]
VERSIONS = [each.version for each in BASELINES]
A, B, C = VERSIONS[:3]


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "store") if request.param == "file" else f"memory://{tmp_path.name}")


def filled(store, count):
    for each in BASELINES[:count]:
        store.publish(each)
    return store


def test_what_is_published_is_read_back(store):
    assert store.publish(BASELINES[0]) == A == store.current("m")
    read = store.load("m")
    assert (read.version, read.created) == (A, BASELINES[0].created)
    assert store.load("m", A).version == A
    store.publish(BASELINES[1], promote=False)
    assert store.current("m") == A
    assert [each["version"] for each in store.versions("m")] == [A, B]


def test_the_manifest_tells_where_the_rows_came_from(store):
    store.publish(
        BASELINES[0], origin={"kind": "parquet", "rows": 3}, effective_rows=2.5, by="ada", decision="warn", beside={}
    )
    manifest = store.manifest("m")
    assert manifest["origin"] == {"kind": "parquet", "rows": 3}
    assert (manifest["effectiveRows"], manifest["publishedBy"], manifest["rows"]) == (2.5, "ada", 3)
    assert store.versions("m")[0]["decision"] == "warn"


def test_the_same_content_is_one_version_with_the_manifest_of_the_first_time(store):
    store.publish(BASELINES[0], by="ada")
    store.publish(replace(BASELINES[0], created="2031-01-01T00:00:00.000Z"), by="bob")
    assert [each["publishedBy"] for each in store.versions("m")] == ["ada"]
    assert len(store.history("m")) == 1


def test_what_there_is_not_is_told_with_what_there_is(store):
    for call in (store.current, store.load, store.manifest, store.rollback):
        with pytest.raises(BaselineNotFound, match="'m'"):
            call("m")
    filled(store, 1)
    for call in (store.load, store.promote, store.rollback, store.manifest):
        with pytest.raises(BaselineNotFound, match=rf"'abcdef' of model 'm'.*it has \['{A}'\]"):
            call("m", "abcdef")
    with pytest.raises(BaselineNotFound, match="nothing to go back to"):
        store.rollback("m")


def test_a_promotion_against_another_than_expected_is_refused(store):
    filled(store, 2)
    store.publish(BASELINES[2], promote=False)
    with pytest.raises(PromotionConflict, match=f"{B} is current, {A} was expected"):
        store.promote("m", C, expected=A)
    assert store.current("m") == B
    assert store.promote("m", C, expected=B).replaced == B
    assert store.promote("m", C, expected=A).version == C  # it is current: that is what was wanted
    empty = Store(f"{store.url}-2")
    with pytest.raises(PromotionConflict, match=f"none is current, {A} was expected"):
        empty.publish(BASELINES[0], expected=A)
    assert empty.publish(BASELINES[0], expected="") == empty.current("m")


def test_rollback_goes_back_step_by_step(store):
    filled(store, 4)
    assert store.rollback("m", by="ada", why="too early").version == C
    assert store.rollback("m").version == B
    assert store.publish(BASELINES[4]) == VERSIONS[4]
    assert [store.rollback("m").version for _ in range(2)] == [B, A]
    with pytest.raises(BaselineNotFound, match="nothing to go back to"):
        store.rollback("m")
    assert store.rollback("m", VERSIONS[3]).version == VERSIONS[3] == store.current("m")
    first = store.history("m")[-5]
    assert (first.kind, first.by, first.why, first.replaced) == ("rollback", "ada", "too early", VERSIONS[3])


def test_the_history_says_who_why_and_against_which_judgement(store):
    store.publish(BASELINES[0], by="ada", why="first")
    store.publish(BASELINES[1], promote=False, beside={"judgement.json": b"{}"}, decision="reject")
    store.promote("m", B, by="bob", why="the season", forced=True)
    newest, first = store.history("m")
    assert (newest.by, newest.why, newest.forced, newest.replaced) == ("bob", "the season", True, A)
    assert newest.judgement == store.beside("m", B).id
    assert (first.number, first.by, first.why, first.forced, first.judgement) == (1, "ada", "first", False, "")


def test_files_beside_a_version(store):
    filled(store, 1)
    assert store.beside("m", A) is None
    store.file("m", A, {"judgement.json": b"{1}", "report.html": b"<p>"}, decision="reject")
    store.file("m", A, {"judgement.json": b"{2}"}, decision="accept")
    newest = store.beside("m", A)
    assert (newest.decision, set(newest.files)) == ("accept", {"judgement.json"})
    assert store.read_beside("m", A, "judgement.json") == b"{2}"
    with pytest.raises(BaselineNotFound, match=r"no file 'report.html'.*\['judgement.json'\]"):
        store.read_beside("m", A, "report.html")
    with pytest.raises(ValueError, match="cannot be called"):
        store.file("m", A, {"../x": b""})


def test_a_long_history_is_read_in_parts_and_as_far_as_asked(store, monkeypatch):
    filled(store, 2)
    for number in range(70):
        store.promote("m", VERSIONS[number % 2], by=str(number))
    assert [each.number for each in store.history("m")] == list(range(72, 0, -1))
    assert [each.by for each in store.history("m", limit=3)] == ["69", "68", "67"]


def files_of(root: Path):
    return [path for path in sorted(root.rglob("*")) if path.is_file()]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def changed(data: bytes) -> bytes:
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("damage", [cut, changed, lambda _: b""], ids=["cut", "changed", "empty"])
@pytest.mark.parametrize("name", ["baseline.bin", "manifest.json", "current"])
def test_a_damaged_file_is_refused_by_name_and_mended_by_publishing(tmp_path, damage, name):
    store = filled(Store(str(tmp_path)), 2)
    path = tmp_path / "m" / name if name == "current" else tmp_path / "m" / B / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptBaseline, match="m/current" if name == "current" else f"{B} of model 'm'"):
        store.load("m")
    if name != "current":
        with pytest.raises(CorruptBaseline, match=B):
            store.promote("m", B)
        assert store.rollback("m").version == A  # the way out that needs no data
        assert store.load("m").version == VERSIONS[0]
    store.publish(BASELINES[1])
    assert store.load("m").version == VERSIONS[1]
    assert store.versions("m")[-1]["version"] == B


def resealed(path: Path, **changes: object) -> None:
    """Change a document and its own hash with it, as somebody would who knows how."""
    from reference.promotions import sealed

    document = json.loads(path.read_text())
    del document["digest"]
    path.write_bytes(sealed(document | changes))


def test_a_manifest_that_was_changed_with_its_own_hash_is_not_the_one_that_was_promoted(tmp_path):
    store = filled(Store(str(tmp_path)), 1)
    resealed(tmp_path / "m" / A / "manifest.json", rows=10**9)
    for call in (store.load, store.manifest):
        with pytest.raises(
            CorruptBaseline, match=f"manifest of baseline {A} of model 'm' .* not the one that was promoted"
        ):
            call("m")
    store.publish(BASELINES[0])
    assert store.manifest("m")["rows"] == 3


def test_a_baseline_of_another_version_in_its_place_is_refused(tmp_path):
    store = filled(Store(str(tmp_path)), 2)
    for name in ("baseline.bin", "manifest.json"):
        (tmp_path / "m" / B / name).write_bytes((tmp_path / "m" / A / name).read_bytes())
    with pytest.raises(CorruptBaseline, match=f"{B} .* is that of another one: {A}"):
        store.load("m", B)


def test_a_record_that_was_changed_is_noticed_by_the_history(tmp_path):
    store = filled(Store(str(tmp_path)), 3)
    record = tmp_path / "m" / "promotions" / "00000002.json"
    resealed(record, by="nobody")
    with pytest.raises(CorruptBaseline, match=r"00000002.json is not the one that the next record names"):
        store.history("m")
    assert store.current("m") == C
    record.unlink()
    with pytest.raises(CorruptBaseline, match=r"00000002.json is missing"):
        store.history("m")


def test_a_pointer_that_was_changed_with_its_own_hash_moves_no_further(tmp_path):
    store = filled(Store(str(tmp_path)), 3)
    resealed(tmp_path / "m" / "current", version=A)
    with pytest.raises(CorruptBaseline, match=r"current is a copy of .*00000003.json, and that is another one"):
        store.promote("m", B)
    (tmp_path / "m" / "current").unlink()
    store.promote("m", C)
    assert store.current("m") == C


def test_a_file_beside_that_was_changed_is_refused(tmp_path):
    store = filled(Store(str(tmp_path)), 1)
    filing = store.file("m", A, {"report.html": b"<p>"}, decision="accept")
    folder = tmp_path / "m" / A / "beside" / filing.id
    (folder / "report.html").write_bytes(b"<b>")
    with pytest.raises(CorruptBaseline, match=r"report.html beside baseline"):
        store.read_beside("m", A, "report.html")
    (folder / "manifest.json").write_bytes(b"{}")
    with pytest.raises(CorruptBaseline, match=f"filed as {filing.id}"):
        store.beside("m", A)
    assert "not what was written" in store.versions("m")[0]["damaged"]


def test_gc_keeps_what_is_current_was_current_is_new_or_is_named(store):
    filled(store, 6)
    store.rollback("m", C)
    stays = {VERSIONS[5], VERSIONS[4], C}
    assert store.gc("m", keep=6, grace=NOW) == []
    assert store.gc("m", keep=0) == []  # all are younger than the grace period
    dry = store.gc("m", keep=3, grace=NOW, named=[A], dry_run=True)
    assert {each["version"] for each in store.versions("m")} == set(VERSIONS)
    removed = store.gc("m", keep=3, grace=NOW, named=[A])
    assert removed == dry
    left = {each["version"] for each in store.versions("m")}
    assert left == {*stays, A, B}  # B: a rollback leads there
    assert {each.version for each in removed} == set(VERSIONS) - left
    assert all(each.bytes > 0 and each.what == "version" for each in removed)
    assert store.current("m") == C
    assert store.gc("m", keep=3, grace=NOW, named=[A]) == []
    for version in left:
        store.load("m", version)


def test_what_gc_removed_can_be_published_again_at_once(store):
    filled(store, 4)
    assert A in {each.version for each in store.gc("m", keep=1, grace=NOW)}
    assert store.publish(BASELINES[0]) == A == store.current("m")
    assert store.load("m").version == VERSIONS[0]


def test_gc_removes_what_killed_publishers_left(tmp_path):
    store = filled(Store(str(tmp_path)), 1)
    folder = tmp_path / "m"
    for path in (
        folder / "0123456789ab" / "baseline.bin",
        folder / "0123456789ab" / "manifest.json.12345678.part",
        folder / A / "baseline.bin.12345678.part",
        folder / A / "beside" / "0123456789ab" / "report.html",
        folder / "promotions" / "00000002.json.12345678.part",
        folder / "current.12345678.part",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert store.gc("m", keep=1) == []  # it may be being written
    assert {each.what for each in store.gc("m", keep=1, grace=NOW)} == {"debris"}
    assert not [path for path in files_of(folder) if "part" in path.name or "0123456789ab" in str(path)]
    assert not (folder / "0123456789ab").exists()
    assert store.load("m").version == VERSIONS[0]


def test_a_version_that_is_being_removed_does_not_become_current(store, monkeypatch):
    filled(store, 4)
    monkeypatch.setattr(Store, "_remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.gc("m", keep=1, grace=NOW)  # it dies after it said what it removes
    monkeypatch.undo()
    for call in (lambda: store.promote("m", A), lambda: store.publish(BASELINES[0])):
        with pytest.raises(PromotionConflict, match=f"{A} .* is being removed, until"):
            call()
    assert store.publish(BASELINES[5]) == store.current("m")
    with pytest.raises(PromotionConflict, match="being removed"):  # another promotion does not hide it
        store.promote("m", A)
    assert {A, B} <= {each.version for each in store.gc("m", keep=1, grace=NOW)}
    assert store.publish(BASELINES[0]) == A


def test_a_record_whose_copy_was_never_written_takes_effect_with_the_next_command(store, monkeypatch):
    filled(store, 1)
    store.publish(BASELINES[1], promote=False)
    with monkeypatch.context() as killed:
        killed.setattr(Promotions, "show", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.promote("m", B)
    assert store.current("m") == A
    assert [each.version for each in store.history("m")] == [B, A]
    store.promote("m", B)
    assert store.current("m") == B
    assert len(store.history("m")) == 2


def test_a_copy_that_comes_late_is_put_right_by_its_own_writer(store, monkeypatch):
    """A writer stands still after it made its record; another promotes; the first goes on."""
    filled(store, 1)
    for each in BASELINES[1:3]:
        store.publish(each, promote=False)
    show = Promotions.show

    def late(self, newest):
        monkeypatch.setattr(Promotions, "show", show)
        store.promote("m", C)
        show(self, newest)

    monkeypatch.setattr(Promotions, "show", late)
    store.promote("m", B)
    assert store.current("m") == C


def test_a_copy_that_was_already_on_its_way_is_put_right_by_its_own_writer(store, monkeypatch):
    """Another promotes after the first writer looked and before its copy arrives."""
    filled(store, 1)
    for each in BASELINES[1:3]:
        store.publish(each, promote=False)
    write = promotions.write_whole

    def late(fs, path, data):
        monkeypatch.setattr(promotions, "write_whole", write)
        store.promote("m", C)
        assert store.current("m") == C
        write(fs, path, data)
        assert store.current("m") == B

    monkeypatch.setattr(promotions, "write_whole", late)
    store.promote("m", B)
    assert store.current("m") == C


def aged(folder: Path) -> None:
    """Make all files older than any grace period."""
    for path in files_of(folder):
        os.utime(path, (1e9, 1e9))


def test_gc_keeps_what_was_published_again_just_before_it_said_what_it_removes(tmp_path, monkeypatch):
    store = filled(Store(str(tmp_path)), 2)
    store.publish(BASELINES[2], promote=False)
    aged(tmp_path)
    claim = Promotions.claim

    def publish_first(self, after, wanted):
        if wanted.kind == "removal" and wanted.removing:
            monkeypatch.setattr(Promotions, "claim", claim)
            store.publish(BASELINES[2], promote=False)
        return claim(self, after, wanted)

    monkeypatch.setattr(Promotions, "claim", publish_first)
    assert store.gc("m", keep=0) == []
    assert store.load("m", C).version == C


@pytest.mark.parametrize("over", [False, True], ids=["goes on", "is over"])
def test_a_publisher_notices_a_removal_that_began_after_it(tmp_path, monkeypatch, over):
    """`gc` looks at a version, its publisher puts its stamp, `gc` removes the version, the publisher has written nothing: it was there."""
    store = filled(Store(str(tmp_path)), 2)
    store.publish(BASELINES[2], promote=False)
    aged(tmp_path)
    removing, go_on = threading.Event(), threading.Event()
    remove, write, sound = Store._remove, Store._write, Store._sound_manifest
    cleaner = threading.Thread(target=lambda: Store(str(tmp_path)).gc("m", keep=0))

    def slowly(self, model, version):
        removing.set()
        assert go_on.wait(60)
        remove(self, model, version)

    def stamp(self, data, *parts):
        if parts[-1] == "used" and not removing.is_set():
            cleaner.start()
            assert removing.wait(60)
        write(self, data, *parts)

    def look(self, *rest):
        found = sound(self, *rest)
        if over and not go_on.is_set():
            go_on.set()
            cleaner.join(60)
        return found

    monkeypatch.setattr(Store, "_remove", slowly)
    monkeypatch.setattr(Store, "_write", stamp)
    monkeypatch.setattr(Store, "_sound_manifest", look)
    if over:
        assert store.publish(BASELINES[2], promote=False, beside={"x": b"y"}) == C
        assert (store.load("m", C).version, store.read_beside("m", C, "x")) == (C, b"y")
    else:
        with pytest.raises(PromotionConflict, match="is being removed"):
            store.publish(BASELINES[2], promote=False)
        go_on.set()
        cleaner.join(60)


def test_a_removal_that_was_cut_short_leaves_no_version_that_looks_whole(tmp_path, monkeypatch):
    store = filled(Store(str(tmp_path)), 4)
    rm_file, calls = LocalFileSystem.rm_file, []

    def killed(self, path):
        if calls:
            raise KeyboardInterrupt
        calls.append(path)
        rm_file(self, path)

    with monkeypatch.context() as patched:
        patched.setattr(LocalFileSystem, "rm_file", killed)
        with pytest.raises(KeyboardInterrupt):
            store.gc("m", keep=1, grace=NOW)
    left = {each["version"] for each in store.versions("m")}
    assert len(left) == 3
    for version in left:
        assert store.load("m", version).version == version
    assert {each.what for each in store.gc("m", keep=1, grace=NOW)} == {"version", "debris"}


def test_a_store_that_ignores_the_condition_of_a_put_is_refused(tmp_path, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    put = MemoryFileSystem.pipe_file
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", lambda self, path, value, **_: put(self, path, value))
    with pytest.raises(StoreError, match="If-None-Match"):
        Store(f"memory://{tmp_path.name}").publish(BASELINES[0])


def test_a_place_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(StoreError, match="nosuch"):
        Store("nosuch://bucket/x").current("m")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Store(str(tmp_path / "file")).publish(BASELINES[0])


def test_a_reader_of_the_pointer_reads_one_file(store, monkeypatch):
    filled(store, 3)
    fs, _ = store._place
    read = []
    cat = type(fs).cat_file
    monkeypatch.setattr(type(fs), "cat_file", lambda self, path, **more: read.append(path) or cat(self, path, **more))
    for name in ("ls", "info", "exists", "find"):
        monkeypatch.setattr(type(fs), name, lambda *_, **__: pytest.fail("more than one read"))
    store.current("m")
    assert [path.rpartition("/")[2] for path in read] == ["current"]
