"""examples/flights_refresh: two real months and a broken one between them."""

import json
import runpy
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from reference.store import Store

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("sklearn")

# Evidently divides by what may be zero and asks numpy for what it is about to drop.
pytestmark = pytest.mark.filterwarnings("default")


def test_the_broken_month_is_rejected_and_the_year_goes_on(tmp_path: Path):
    script = runpy.run_path(str(ROOT / "examples/flights_refresh/refresh.py"))
    assert script["main"](["--out", str(tmp_path), "--months", "6-7"]) == 0
    june, broken, july = json.loads((tmp_path / "refreshes.json").read_text())
    assert [one["outcome"] for one in (june, broken, july)] == ["promoted", "rejected", "promoted"]
    assert [one["exitCode"] for one in (june, broken, july)] == [0, 4, 0]
    assert broken["columns"] == ["dep_delay"]
    moves = Store(str(tmp_path / "baselines")).history("flights")
    assert len(moves) == 2  # the broken one never was the current one
    drawn = ET.parse(tmp_path / "refreshes.svg").getroot()
    titles = [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert "Jul (s): rejected (reject)" in titles
