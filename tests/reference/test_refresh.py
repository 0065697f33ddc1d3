"""From a built baseline to the current one: what is promoted, what is not, and what happens when others are at it."""

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from detectors.performance.settings import Performance
from reference.build import build
from reference.errors import PromotionConflict
from reference.judge import Judgement
from reference.refresh import JUDGEMENT, Force, Rules, labelled_rows, settle, tidied
from reference.registry import MLflow
from reference.schema import Column, Model
from reference.settings import Reference
from reference.source import Source, TableFragment
from reference.store import Store

MODEL = Model(name="toy", features=(Column(name="x", type="numeric"), Column(name="y", type="numeric")))


def made(seed=1, shift=0.0, model=MODEL, rows=1500):
    rng = np.random.default_rng(seed)
    table = pa.table({"x": rng.normal(shift, 1, rows), "y": rng.gamma(2, size=rows)})
    return build(table, model, Reference())


FIRST, SECOND, SHIFTED = made(1), made(2), made(3, shift=20.0)


@pytest.fixture
def rules(tmp_path):
    return Rules(MODEL, Reference(store=str(tmp_path / "store")))


@pytest.fixture
def store(rules):
    return Store(rules.settings.store)


def files_of(store):
    return {
        str(path): path.read_bytes() for path in Path(store.url).rglob("*") if path.is_file() and path.name != "used"
    }


def test_the_same_data_again_change_nothing(rules, store):
    first = settle(FIRST, rules).refreshed
    assert (first.outcome, first.decision, first.previous, first.current) == ("promoted", "accept", None, FIRST.version)
    before = files_of(store)
    again = settle(made(1), rules).refreshed
    assert (again.outcome, again.decision, again.previous, again.exit_code) == ("unchanged", "accept", FIRST.version, 0)
    assert files_of(store) == before


def test_a_shifted_table_is_rejected_with_its_columns_and_the_old_baseline_stays(rules, store):
    settle(FIRST, rules)
    done = settle(
        SHIFTED, rules, render=lambda judgement, new, old: {"report.html": judgement.decision.encode()}
    ).refreshed
    assert (done.outcome, done.decision, done.exit_code) == ("rejected", "reject", 4)
    assert done.columns == ["x"]
    assert any("'x'" in reason for reason in done.reasons)
    assert store.current("toy") == done.current == FIRST.version
    assert store.read_beside("toy", SHIFTED.version, "report.html") == b"reject"
    kept = Judgement.from_json(store.read_beside("toy", SHIFTED.version, JUDGEMENT))
    assert (kept.decision, kept.previous, kept.columns) == ("reject", FIRST.version, ["x"])
    before = files_of(store)
    assert settle(SHIFTED, rules).refreshed == done
    assert files_of(store) == before


def test_who_forces_says_why_and_both_are_kept(rules, store):
    settle(FIRST, rules)
    done = settle(SHIFTED, rules, force=Force("ada", "the sensor was replaced")).refreshed
    assert (done.outcome, done.decision, done.forced, done.exit_code) == ("promoted", "reject", True, 0)
    newest = store.history("toy")[0]
    assert (newest.version, newest.by, newest.why, newest.forced) == (
        SHIFTED.version,
        "ada",
        "the sensor was replaced",
        True,
    )
    assert store.rollback("toy").version == FIRST.version


def test_what_was_rolled_back_from_stays_away_until_a_person_wants_it(rules, store):
    settle(FIRST, rules)
    settle(SECOND, rules)
    store.rollback("toy", why="complaints")
    done = settle(SECOND, rules, scheduled=True).refreshed
    assert (done.outcome, done.exit_code, store.current("toy")) == ("held", 4, FIRST.version)
    other = made(4)
    assert settle(other, rules, scheduled=True).refreshed.outcome == "promoted"
    store.rollback("toy")
    assert settle(SECOND, rules, scheduled=True).refreshed.outcome == "promoted"
    store.rollback("toy")
    assert settle(SECOND, rules).refreshed.outcome == "promoted"


def test_when_another_was_faster_it_is_judged_again(rules, store):
    settle(FIRST, rules)
    against = []

    def interrupted(judgement, new, old):
        against.append(old.version)
        if len(against) == 1:
            store.publish(made(5))
        return {}

    done = settle(SECOND, rules, render=interrupted).refreshed
    assert against == [FIRST.version, made(5).version]
    assert (done.outcome, done.previous) == ("promoted", made(5).version)
    assert [one.version for one in store.history("toy")] == [SECOND.version, made(5).version, FIRST.version]


def test_what_was_fine_beside_the_old_one_may_be_rejected_beside_the_faster_one(rules, store):
    settle(FIRST, rules)

    def interrupted(judgement, new, old):
        store.promote("toy", SHIFTED.version)
        return {}

    store.publish(SHIFTED, promote=False)
    done = settle(SECOND, rules, render=interrupted).refreshed
    assert (done.outcome, store.current("toy")) == ("rejected", SHIFTED.version)


def test_it_gives_up_when_others_are_always_faster(rules, store):
    seeds = iter(range(10, 100))

    def interrupted(judgement, new, old):
        store.publish(made(next(seeds), rows=200))
        return {}

    with pytest.raises(PromotionConflict, match="another was faster"):
        settle(FIRST, rules, render=interrupted)


def test_a_damaged_current_baseline_keeps_no_sound_one_away(rules, store):
    settle(FIRST, rules)
    (Path(store.url) / "toy" / FIRST.version / "baseline.bin").write_bytes(b"cut o")
    done = settle(SECOND, rules).refreshed
    assert (done.outcome, done.decision, done.previous) == ("promoted", "warn", FIRST.version)
    assert "is not the file that was published" in done.reasons[0]
    assert store.load("toy").version == SECOND.version


@pytest.mark.parametrize("damaged", ["baseline.bin", "manifest.json"])
def test_the_same_data_mend_the_current_baseline(rules, store, damaged):
    settle(FIRST, rules)
    (Path(store.url) / "toy" / FIRST.version / damaged).write_bytes(b"cut o")
    done = settle(FIRST, rules, scheduled=True).refreshed
    assert (done.outcome, done.decision) == ("unchanged", "accept")
    assert store.load("toy").version == FIRST.version


@pytest.mark.parametrize("pointer", ["damaged", "missing", "late"])
def test_a_pointer_that_is_not_the_newest_record_stops_no_refresh(rules, store, pointer):
    settle(FIRST, rules)
    current = Path(store.url) / "toy" / "current"
    before = current.read_bytes()
    if pointer == "late":  # whoever made the second record was killed before it wrote the copy
        settle(SECOND, rules)
    current.write_bytes(before if pointer == "late" else b"cut o")
    if pointer == "missing":
        current.unlink()
    done = settle(made(4), rules, scheduled=True).refreshed
    previous = SECOND if pointer == "late" else FIRST
    assert (done.outcome, done.previous, store.current("toy")) == ("promoted", previous.version, made(4).version)


def test_what_was_rolled_back_from_stays_away_when_it_was_removed_or_old_records_are_damaged(rules, store):
    settle(FIRST, rules)
    settle(made(4), rules)
    settle(SECOND, rules)
    store.rollback("toy")
    assert [each.version for each in store.gc("toy", keep=1, grace=timedelta(0))] == [SECOND.version]
    (Path(store.url) / "toy" / "promotions" / "00000001.json").write_bytes(b"cut o")
    assert settle(SECOND, rules, scheduled=True).refreshed.outcome == "held"
    assert settle(made(6), rules, scheduled=True).refreshed.outcome == "promoted"


def test_it_can_only_be_published(rules, store):
    settle(FIRST, rules)
    done = settle(SECOND, rules, promote=False).refreshed
    assert (done.outcome, done.exit_code, store.current("toy")) == ("published", 0, FIRST.version)
    assert store.load("toy", SECOND.version).version == SECOND.version


def test_a_registry_that_is_away_stops_nothing(rules, store):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    away = MLflow(tracking_uri=f"http://127.0.0.1:{port}", timeout="1s")
    settings = rules.settings.model_copy(update={"mlflow": away})
    settled = tidied(settle(FIRST, rules), settings)
    assert (settled.refreshed.outcome, settled.refreshed.registry) == ("promoted", "pending")
    assert settled.refreshed.removed == []
    assert store.current("toy") == FIRST.version


ONE_OF_MANY = """
import sys
sys.path.insert(0, {here!r})
from test_refresh import *
done = settle(made(int(sys.argv[2])), Rules(MODEL, Reference(store=sys.argv[1])), scheduled=True).refreshed
print(done.outcome, done.version)
"""


def test_several_at_once_are_as_one_after_the_other(rules, store):
    script = ONE_OF_MANY.format(here=str(Path(__file__).parent))
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), str(root / "tests")])
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script, store.url, str(seed)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": path},
        )
        for seed in (1, 1, 2)
    ]
    said = [process.communicate(timeout=120)[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert {outcome for outcome, _ in said} <= {"promoted", "unchanged"}
    assert {version for _, version in said} == {FIRST.version, SECOND.version}
    moves = store.history("toy")
    assert [one.replaced for one in moves] == [one.version for one in moves[1:]] + [""]
    assert moves[0].version == store.current("toy")


# --- Rows with labels --------------------------------------------------------------------------------------------------
def test_rows_with_labels_are_from_all_over_the_data_and_always_the_same():
    fragments = tuple(
        TableFragment(pa.table({"x": np.full(3000, float(place)), "late": np.arange(3000.0)})) for place in range(40)
    )
    source = Source(fragments[0].rows.schema, fragments)
    model = Model(
        name="toy",
        features=(Column(name="x", type="numeric"),),
        predictions=(Column(name="p", type="numeric"),),
    )
    asked = Performance(metrics=("mae",), label="late")
    rows = labelled_rows(source, model, asked)
    assert rows.num_rows == 10_000
    assert len(set(rows["x"].to_pylist())) == 16
    assert {0.0, 39.0} <= set(rows["x"].to_pylist())
    assert rows["x"].to_pylist()[:50] != sorted(rows["x"].to_pylist()[:50])
    assert labelled_rows(source, model, asked).equals(rows)
    assert labelled_rows(source, model, Performance()) is None
    assert labelled_rows(source, model, Performance(metrics=("mae",), label="gone")) is None
