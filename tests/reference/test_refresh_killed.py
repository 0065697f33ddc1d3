"""A refresh that is killed at any moment leaves the store whole, and the next one ends what it began."""

import random
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from publisher import Child, refresh, sound

from reference.store import Store

ROWS = 60_000


@pytest.fixture(scope="module")
def months(tmp_path_factory):
    """Training tables of which each may follow the other."""
    folder = tmp_path_factory.mktemp("months")
    for month in range(2):
        rng = np.random.default_rng(month)
        table = pa.table({"x": rng.normal(size=ROWS), "c": rng.choice(["a", "b", "c"], ROWS)})
        pq.write_table(table, folder / f"{month}.parquet", row_group_size=10_000)
    return [str(folder / f"{month}.parquet") for month in range(2)]


def done(store, month):
    """A refresh that nobody disturbs: what it came to and how long it took."""
    child = Child(refresh, store, month)
    begin = time.monotonic()
    child.tell()
    (line,) = child.done()
    return *line.split(), time.monotonic() - begin


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments(kills, months, tmp_path):
    first = [done(str(tmp_path / "calm"), month) for month in months]
    assert [outcome for outcome, *_ in first] == ["promoted", "promoted"]
    versions, took = [version for _, version, _ in first], max(seconds for *_, seconds in first)
    assert len(set(versions)) == 2

    url, chance = str(tmp_path / "hurt"), random.Random(7)
    store, current = Store(url), ""
    done(url, months[0])
    for turn in range(kills):
        month = (turn + 1) % 2
        # Some of them end before they are killed: so the current one changes now and then.
        said = Child(refresh, url, months[month]).killed(chance.uniform(0, 1.2 * took))
        before, current = current or versions[0], sound(store, set(versions))
        assert current in {before, versions[month]}
        if said:
            assert current == versions[month]
    outcome, version, _ = done(url, months[kills % 2])
    assert outcome in {"promoted", "unchanged"}
    assert version == sound(store, set(versions)) == versions[kills % 2]
