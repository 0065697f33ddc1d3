"""The reporter: what the board keeps, what the page says, and both from a real Kafka."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from made import BEGIN, counted, dead_letter, drift, encoded, event, outlier, performance, scored, statistics

from streaming import board as boards
from streaming.board import Board
from streaming.errors import KafkaError, StreamingError
from streaming.markup import el, wire
from streaming.page import page
from streaming.reports import Estimated, MultivariateDrift, SequentialChange, SequentialDrift, TrafficDrift
from streaming.spec import parse

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # importing Evidently

_HARMLESS = frozenset(
    "html head meta title style body header main section div h1 h2 p span b i bdi abbr dl dt dd ul li table caption thead "  # noqa: SIM905
    "tbody tr th td a figure figcaption svg text line rect polygon polyline circle time".split(),
)
NASTY = '<img src=x onerror="alert(1)"> & </script><script>\u202ealert(2)\x00'


@pytest.fixture
def board(tmp_path):
    with Board(tmp_path / "page.sqlite", "toy") as made:
        yield made


def reopened(board):
    board.close()
    return Board(board.path, board.model, windows=board.limit)


# --- The board -------------------------------------------------------------------------------------------------------


def test_the_final_record_counts_however_often_and_in_whatever_order(board):
    final = drift(0, rows=30)
    for record in (drift(0, status="provisional", revision=1, rows=10), final):
        board.add(record)
    for record in (drift(0, status="provisional", revision=9, rows=20), drift(0, rows=99)):
        board.add(record)
    ((_, entry),) = board.windows[""].items()
    assert entry.final
    assert entry.drift == final


def test_provisional_records_replace_each_other_by_revision(board):
    for revision in (1, 3, 2):
        board.add(drift(0, status="provisional", revision=revision, rows=revision))
    (entry,) = board.windows[""].values()
    assert not entry.final
    assert entry.drift.rows == 3
    assert list(board.finished()) == []


def test_what_was_saved_is_there_again(board):
    for number in range(5):
        board.add(drift(number))
        board.add(statistics(number))
        board.add(performance(number))
        board.add(outlier(number))
        board.add(dead_letter(number))
        board.add(event(number))
    board.positions["toy-drift", 0] = 5
    before = (board.windows, board.tallies, board.positions, board.outliers, board.letters, board.events)
    board.save()
    again = reopened(board)
    assert (again.windows, again.tallies, again.positions, again.outliers, again.letters, again.events) == before
    again.close()


def test_what_was_not_saved_is_as_if_it_had_not_been_read(board):
    board.add(outlier(0))
    board.positions["toy-outliers", 0] = 1
    board.save()
    board.add(outlier(1))
    board.positions["toy-outliers", 0] = 2
    again = reopened(board)
    assert again.positions == {("toy-outliers", 0): 1}
    assert again.tally("detector") == [("k_sigma", 1)]
    again.close()


def test_a_record_that_comes_twice_is_counted_once_also_after_a_restart(board):
    for record in (outlier(0), outlier(0), dead_letter(0), dead_letter(0)):
        board.add(record)
    board.save()
    again = reopened(board)
    again.add(outlier(0))
    again.add(dead_letter(0))
    assert (again.tally("detector"), again.tally("reason")) == ([("k_sigma", 1)], [("malformed", 1)])
    again.close()


def test_the_board_is_bounded_in_memory_and_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(boards, "_SEEN", 30)
    with Board(tmp_path / "page.sqlite", "toy", windows=10) as board:
        for number in range(100):
            board.add(drift(number))
            board.add(statistics(number))
            board.add(outlier(number))
            board.add(dead_letter(number))
            board.add(event(number))
            board.save()
        assert len(board.windows[""]) == 10
        assert len(board.events) == boards.EVENTS
        assert event(99).id in board.events
        assert max(board.windows[""]).start == statistics(99).window.start
        assert len(board.outliers) == boards.OUTLIERS
        assert len(board.letters) == boards.LETTERS
        assert len(board._seen) == 30
    with sqlite3.connect(tmp_path / "page.sqlite") as db:
        counts = {t: db.execute(f"select count(*) from {t}").fetchone()[0] for t in ("windows", "seen", "latest")}
    db.close()
    assert counts == {"windows": 10, "seen": 30, "latest": boards.OUTLIERS + boards.LETTERS + boards.EVENTS}


def test_one_topic_read_long_before_the_other_loses_nothing(tmp_path):
    with Board(tmp_path / "page.sqlite", "toy", windows=10) as board:
        for number in range(100):
            board.add(drift(number))
        board.save()
        for number in range(100):
            board.add(statistics(number))
        pairs = [(entry.drift, entry.statistics) for entry in board.finished()]
        assert pairs == [(drift(number), statistics(number)) for number in range(100)]


def test_only_the_latest_windows_are_kept_in_detail_in_memory_but_all_on_disk(board):
    for number in range(6):
        board.add(drift(number))
        board.add(statistics(number))
    detailed = [bool(entry.statistics.columns) for entry in board.windows[""].values()]
    assert detailed == [False] * 4 + [True] * 2
    board.save()
    board.add(statistics(0))
    assert board._stored(next(iter(board.windows[""]))).statistics == statistics(0)


def test_windows_that_come_late_are_put_in_their_place(board):
    for number in (3, 1, 2, 0):
        board.add(drift(number))
    starts = [key.start for key in board.windows[""]]
    assert starts == sorted(starts)


def test_labels_that_come_for_a_window_that_is_gone_do_not_bring_it_back(tmp_path):
    with Board(tmp_path / "page.sqlite", "toy", windows=10) as board:
        for number in range(30):
            for record in (drift(number), statistics(number)):
                board.add(record)
            board.save()
        for number in range(30):
            board.add(performance(number, revision=2))
            board.save()
        assert [entry.performance is None for entry in board.windows[""].values()] == [False] * 10
        assert board._db.execute("select count(*) from windows").fetchone() == (10,)
        assert list(board.finished()) == []


def test_the_newest_revision_of_performance_counts(board):
    for revision, value in ((1, 0.5), (3, 0.7), (2, 0.6)):
        board.add(performance(0, value, revision=revision))
    (entry,) = board.windows[""].values()
    assert entry.performance.metrics == {"accuracy": 0.7}
    assert entry.final
    board.add(performance(0, 0.8, status="final", revision=3))
    board.add(performance(0, 0.9, revision=9))
    assert entry.performance.metrics == {"accuracy": 0.8}


def test_a_counted_window_is_known_by_its_number_while_its_span_grows(board):
    at = partial(timedelta, seconds=1)
    place = partial(counted, number=3, start=BEGIN)
    for revision in (1, 2):
        end = BEGIN + revision * at()
        board.add(place(drift(0, status="provisional", revision=revision), end=end))
        board.add(place(statistics(0, status="provisional", revision=revision), end=end))
        board.save()
    board.add(place(drift(0, rows=7), end=BEGIN + 5 * at()))
    board.add(place(statistics(0), end=BEGIN + 5 * at()))
    board.add(place(performance(0), end=BEGIN + 4 * at()))  # it spans the times of predictions only
    for known in (board, board.save() or reopened(board)):
        ((key, entry),) = known.windows[""].items()
        assert (key.start, key.end, key.number) == ("2026-03-01T00:00:00.000Z", "2026-03-01T00:00:05.000Z", "000000003")
        assert (entry.drift.rows, entry.statistics.status, entry.performance is None) == (7, "final", False)
    known.close()


def test_counted_windows_follow_each_other_by_number(board):
    """The one that closed later may hold an older instance; windows of time before and after keep their places."""
    board.add(drift(0))
    for number, start in ((0, 600), (1, 700), (2, 650), (3, 800)):
        begin = BEGIN + timedelta(seconds=start)
        board.add(counted(drift(0), number, begin, begin + timedelta(seconds=90)))
    board.add(drift(4))
    assert [key.number[-1:] for key in board.windows[""]] == ["", "0", "1", "2", "3", ""]
    board.save()
    again = reopened(board)
    again.add(drift(3))
    again.add(counted(drift(0), 4, BEGIN + timedelta(seconds=820), BEGIN + timedelta(seconds=830)))
    assert [key.number[-1:] for key in again.windows[""]] == ["", "0", "1", "2", "3", "4", "", ""]
    again.close()


def test_segments_keep_fewer_windows(board, monkeypatch):
    monkeypatch.setattr(boards, "OF_SEGMENT", 3)
    for number in range(5):
        for segment in ("", "carrier=AA"):
            board.add(drift(number, segment=segment))
            board.add(statistics(number, segment=segment))
        board.save()
    assert {segment: len(windows) for segment, windows in board.windows.items()} == {"": 5, "carrier=AA": 3}
    assert board._db.execute("select count(*) from windows").fetchone() == (8,)


def test_it_is_silent_from_the_event_on_until_traffic_comes_again(board):
    board.add(drift(0))
    assert board.silent() is None
    board.add(event(10, "noTraffic"))
    board.add(event(11, "monitorChanged"))
    board.add(drift(1))  # closed by the clock: nothing new came
    assert board.silent() == event(10, "noTraffic")
    board.add(event(12, "trafficResumed"))
    assert board.silent() is None
    board.add(event(20, "noTraffic"))
    assert board.silent() == event(20, "noTraffic")
    # A monitor that was started anew does not say that traffic is back.
    board.add(drift(5, status="provisional", revision=1))
    assert board.silent() is None
    board.add(event(40, "noTraffic"))
    board.add(drift(9))
    assert board.silent() is None


def test_other_models_on_the_same_topics_are_not_ours(board):
    for record in (
        drift(model="other"),
        outlier(model="other"),
        dead_letter(model="other"),
        event(model="other"),
        performance(model="other"),
    ):
        board.add(record)
    assert not board.windows
    assert not board.tallies


def test_one_reporter_a_page(board):
    with pytest.raises(StreamingError, match="in use by another reporter"):
        Board(board.path, "toy")


def test_a_page_of_another_model_is_not_overwritten(board):
    board.close()
    with pytest.raises(StreamingError, match="belongs to model 'toy', not to 'other'"):
        Board(board.path, "other")


def test_a_file_that_is_no_board_is_said_to_be_none(tmp_path):
    (tmp_path / "page.sqlite").write_text("something else entirely, and long enough to be looked at\n" * 40)
    with pytest.raises(StreamingError, match="not the state of a report page"):
        Board(tmp_path / "page.sqlite", "toy")


# --- The page --------------------------------------------------------------------------------------------------------


def shown(board, **changes):
    """The page, parsed; an element by what it says."""
    settings = {"version": "7", "sliding": False, "live": False, "now": datetime(2026, 3, 2, tzinfo=UTC), **changes}
    html = page(board, **settings)
    doctype, document = html.split("\n", 1)
    assert doctype == "<!DOCTYPE html>"
    return html, ET.fromstring(document)


def words(element):
    return " ".join(" ".join(element.itertext()).split())


def of_class(root, name):
    return [element for element in root.iter() if name in element.get("class", "").split()]


def test_an_empty_board_is_a_page_too(board):
    _, root = shown(board)
    assert "No window has been reported yet" in words(root)


def test_the_page_says_what_the_records_say(board):
    shares = [(0.02, 0.02), (0.02, 0.3), (0.3, 0.3)]
    for number, (x, y) in enumerate(shares):
        board.add(drift(number, scored("x", x), scored("y", y), scored("z", 0.01), rows=100 + number))
        board.add(statistics(number, rows=100 + number, outliers=number))
    board.add(drift(3, scored("x", 0.3), scored("y", 0.3), status="provisional"))
    _, root = shown(board)
    tiles = {words(t.find("dt")): [words(d) for d in t.findall("dd")] for t in of_class(root, "tile")}
    assert tiles["Windows"] == ["3", "1 in progress"]
    assert tiles["Drift alarms"] == ["1", "33 % of the windows"]
    assert tiles["Drifts most often"] == ["y", "in 2 windows"]
    assert tiles["Requests"][0] == "303"
    assert tiles["Outliers"][0] == "3"
    (verdict,) = of_class(root, "verdict")
    assert "bad" in verdict.get("class")
    assert "Drift: 2 of 3 features" in words(verdict)
    assert "2026-03-01 00:10 \u2013 00:15 UTC, 102 rows against 5 000 of the reference" in words(verdict)
    assert sorted(words(chip) for chip in of_class(verdict, "chip")) == ["x", "y"]
    bars = [bar.get("class") for bar in of_class(root, "bar") if set(bar.get("class").split()) & {"ok", "bad"}]
    assert bars == ["bar ok", "bar ok", "bar bad", "bar bad open"]
    cells = of_class(root, "heat")[0].findall("rect")
    assert len(cells) == 3 * 3 + 2
    assert sum("DRIFT" in words(cell) for cell in cells) == 5
    assert {cell.get("class") for cell in cells if "DRIFT" in words(cell)} == {"h2"}  # three times the threshold
    latest = next(table for table in root.iter("table") if "closed" in words(table.find("caption")))
    row = next(tr for tr in latest.iter("tr") if words(tr[0]) == "x")
    assert [words(td) for td in row[:10]] == ["x", "▲ drift", "wasserstein", "0.3", "0.1", "101", "1", "3.25", "2", "3"]
    assert "[0, 1) 75 %" in words(row)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (scored(score=0.0), "c0"),
        (scored(score=0.03), "c1"),
        (scored(score=0.099), "c3"),
        (scored(score=0.1), "h0"),
        (scored(score=0.9), "h3"),
        (scored(score=0.01, drifted=True), "h3"),  # every value out of the reference's range
        (scored(score=None), "none"),
        (scored(score=1.0, threshold=0.05, direction="p-value", method="ks"), "c0"),
        (scored(score=0.06, threshold=0.05, direction="p-value", method="ks"), "c3"),
        (scored(score=0.05, threshold=0.05, direction="p-value", method="ks"), "h0"),
        (scored(score=0.0, threshold=0.05, direction="p-value", method="ks"), "h3"),
        (scored(score=5.0, threshold=0.0), "h3"),
    ],
)
def test_a_cells_colour_is_its_score_beside_its_threshold(board, column, kind):
    board.add(drift(0, column))
    _, root = shown(board)
    (cell,) = of_class(root, "heat")[0].findall("rect")
    assert cell.get("class") == kind


def test_what_came_over_the_wire_stays_text(board):
    names = [scored(NASTY, 0.3, method=NASTY, explanation={NASTY: 0.5}, error=NASTY), scored("ok", 0.3)]
    board.add(drift(0, *names, segment=NASTY, baseline=NASTY))
    counted = statistics(0, segment=NASTY, baseline=NASTY)
    counted.columns[0].name = NASTY
    counted.columns[1].categories = {NASTY: 3}
    board.add(counted)
    flagged = outlier(0, detector=NASTY, value=NASTY)
    flagged.features[0].name = flagged.request_id = flagged.event_time = NASTY
    board.add(flagged)
    board.add(dead_letter(0, reason=NASTY, message=NASTY))
    board.add(event(0, "noTraffic", message=NASTY))
    good = performance(0, 0.5, Estimated(value=0.5, low=0.4, high=0.6), metric=NASTY, segment=NASTY, baseline=NASTY)
    board.add(msgspec.structs.replace(good, prediction=NASTY, unestimated=NASTY))
    board.add(msgspec.structs.replace(drift(0, segment="other"), unjudged=NASTY))
    board.count("unreadable", NASTY)
    html, root = shown(board)
    assert {element.tag for element in root.iter()} <= _HARMLESS
    assert not [name for element in root.iter() for name in element.keys() if name.startswith("on")]  # noqa: SIM118
    assert "alert(1)" in words(root)
    assert "\x00" not in html
    starts: list[str] = []

    class Browser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            starts.append(tag)

    Browser().feed(html)  # reads as browsers do, where a <script> ends at the first </script>
    assert "script" not in starts
    assert "img" not in starts


def as_a_whole(name: str) -> dict:
    """What a drift record says of its window as a whole, all of it alarming and in these words."""
    change = SequentialChange(change="drift", index=7, event_time=name, statistic=9.5, threshold=4.0, direction="up")
    return {
        "multivariate": [
            MultivariateDrift(
                method=name, direction="distance", score=0.7, threshold=0.1, drifted=True, exact=True, explanation={name: 1.0}
            )
        ],
        "sequential": [
            SequentialDrift(
                series=name, detector="adwin", observations=8, skipped=0, changes=[change], changed=1, drifted=True
            )
        ],
        "traffic": [
            TrafficDrift(
                detector="near_duplicates", client=name, direction="distance", score=0.4, threshold=0.05, drifted=True,
                requests=90, explanation={name: 1.0}, facts={}, example={"n": 8.394326128034248, name: name},
            )
        ],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["plain", NASTY], ids=["plain", "nasty"])
def test_what_is_said_of_a_window_as_a_whole_is_shown(board, name):
    board.add(msgspec.structs.replace(drift(0), **as_a_whole(name)))
    html, root = shown(board)
    assert {element.tag for element in root.iter()} <= _HARMLESS
    said = words(root)
    for expected in ("All numeric features together", "Series", "Traffic", "▲ changed", "▲ alarm", "8.394"):
        assert expected in said
    assert "8.3943261" not in html


def test_the_page_needs_no_network(board):
    for number in range(3):
        board.add(drift(number))
    html, root = shown(board, live=True)
    assert "http" not in html.replace("http-equiv", "")
    assert not [e for e in root.iter() if e.get("src") or e.get("href", "#").partition("#")[0]]
    (policy,) = [meta for meta in root.iter("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.get("content").startswith("default-src 'none';")


def test_every_picture_has_a_title_and_every_id_is_unique(board):
    for number in range(3):
        for segment in ("", "carrier=AA"):
            board.add(drift(number, segment=segment))
            board.add(statistics(number, segment=segment))
            board.add(performance(number, segment=segment))
    _, root = shown(board, live=True)
    pictures = list(root.iter("svg"))
    assert pictures
    assert all(picture.get("aria-label") and words(picture[0]) for picture in pictures)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    links = [element.get("href").removeprefix("#") for element in root.iter("a")]
    assert len(links) == 2
    assert set(links) <= set(ids)


def test_many_windows_and_features_make_a_page_of_bounded_size(tmp_path):
    columns = [scored(f"feature {number}", number / 300) for number in range(60)]
    with Board(tmp_path / "page.sqlite", "toy") as board:
        for number in range(700):
            board.add(drift(number, *columns))
        html, root = shown(board)
    assert len(of_class(root, "heat")[0].findall("rect")) == 40 * 100  # five windows a column
    assert len(html) < 2_500_000
    assert "The 40 worst of 60 features" in words(root)


def test_a_column_of_several_windows_is_its_worst(tmp_path):
    with Board(tmp_path / "page.sqlite", "toy") as board:
        for number in range(240):
            board.add(drift(number, scored("x", 0.3 if number == 100 else 0.02)))
        _, root = shown(board)
    bars = [bar for bar in of_class(root, "bar") if "bad" in bar.get("class").split()]
    assert [words(bar) for bar in bars] == [
        "2026-03-01 08:20 \u2013 08:25 UTC: 1 of 1 feature drifted (the worst of 2 windows)",
    ]


def test_a_new_baseline_is_marked(board):
    for number in range(4):
        board.add(drift(number, baseline="b1" if number < 2 else "b2"))
    _, root = shown(board)
    assert "before with b1" in words(of_class(root, "baseline")[0])
    assert "baseline b2 (the last of 2)" in words(root.find("body/header"))


def test_segments_have_sections_and_the_rest_is_told(board):
    for number in range(15):
        board.add(drift(number, segment=f"s{number}"))
    board.add(drift(0))
    _, root = shown(board)
    names = [section.get("aria-label") for section in of_class(root, "segment")]
    assert names == ["all requests", *(f"segment s{number}" for number in range(14, 3, -1))]
    assert "4 more segments" in words(root)


def card(root, title):
    return next(e for e in of_class(root, "card") if e.findtext("h2") == title)


def plain(element):
    return words(element).replace("\u2013", "-")


def rows(element, place=0):
    return [[plain(cell) for cell in tr] for tr in list(element.iter("tbody"))[place].iter("tr")]


def test_events_are_told_newest_first_and_alarms_marked(board):
    board.add(event(0, "modelAdded", message="toy is watched from now on"))
    board.add(event(5, "monitorRefused", message="line 3: no such thing"))
    _, root = shown(board)
    assert rows(card(root, "Events")) == [
        ["2026-03-01 00:05", "▲ monitorRefused", "line 3: no such thing"],
        ["2026-03-01 00:00", "modelAdded", "toy is watched from now on"],
    ]
    assert not [verdict for verdict in of_class(root, "verdict") if "No traffic" in words(verdict)]


def test_a_model_without_traffic_is_the_first_thing_that_is_said(board):
    board.add(drift(0, scored("x", 0.3)))
    board.add(event(9, "noTraffic", message="no message since midnight"))
    _, root = shown(board)
    assert root.find("head/title").text == "▲ no traffic · toy"
    first, second = of_class(root, "verdict")
    assert "No traffic" in words(first)
    assert "no message since midnight" in words(first)
    assert "Drift: 1 of 1 feature" in words(second)


def test_performance_is_measured_then_estimated(board):
    foreseen = Estimated(value=0.91, low=0.88, high=0.94)
    for number, record in enumerate(
        [
            performance(0, 0.92, status="final", labelled=90),
            performance(1, 0.80, foreseen, labelled=50),
            performance(2, 0.10, foreseen, labelled=3),
            performance(3, None, foreseen, labelled=0, predictions=1234),
        ]
    ):
        board.add(drift(number, scored("x", 0.02)))
        board.add(record)
    _, root = shown(board)
    assert root.find("head/title").text == "▲ performance · toy"
    (verdict,) = of_class(root, "verdict")
    assert "bad" in verdict.get("class")
    assert "No drift in any of 1 feature" in words(verdict)
    assert "Performance: accuracy 0.8 (limit 0.85) window 2026-03-01 00:05 - 00:10 UTC, 50 of 100 labels" in plain(
        verdict
    )
    tile = next(t for t in of_class(root, "tile") if words(t.find("dt")) == "accuracy")
    assert [words(d) for d in tile.findall("dd")] == ["0.8", "50 of 100 labels, then ≈ 0.91"]
    assert rows(card(root, "Performance")) == [
        ["reference", "", "0.93", ""],
        ["limit", "", "0.85", ""],
        [
            "2026-03-01 00:15 - 00:20",
            "0 of 1 234 1 234 may still come",
            "- ≈ 0.91 (0.88 to 0.94)",
            "-",
        ],
        ["2026-03-01 00:10 - 00:15", "3 of 100 97 may still come", "0.1 ≈ 0.91 (0.88 to 0.94)", "-"],
        [
            "2026-03-01 00:05 - 00:10",
            "50 of 100 50 may still come",
            "0.8 ≈ 0.91 (0.88 to 0.94)",
            "▲ accuracy, by labels",
        ],
        ["2026-03-01 00:00 - 00:05", "90 of 100 10 never came", "0.92", "-"],
    ]
    (chart,) = card(root, "Performance").iter("svg")
    assert [point.get("class") for point in of_class(chart, "point")] == ["point", "point bad waiting", "point waiting"]
    assert len(of_class(chart, "band")) == 3
    assert len(of_class(chart, "alarm")) == 1
    hit = words(of_class(chart, "hit")[1])
    assert (
        "accuracy 0.8 from 50 of 100 labels estimated 0.91 (0.88 to 0.94) reference 0.93 limit 0.85, BEYOND IT" in hit
    )


def test_heights_in_a_picture_of_performance_are_the_values(board):
    board.add(performance(0, 0.9, reference=0.8, limit=0.5))
    board.add(performance(1, 0.7, Estimated(value=0.6, low=0.55, high=0.65), labelled=50, reference=0.8, limit=0.5))
    _, root = shown(board)
    (chart,) = card(root, "Performance").iter("svg")
    first, second = (float(point.get("cy")) for point in of_class(chart, "point"))
    scale = (second - first) / 0.2
    (band,), (reference,), (limit,) = (of_class(chart, name) for name in ("band", "reference", "threshold"))
    assert scale > 0
    assert float(reference.get("y1")) == pytest.approx(first + 0.1 * scale, abs=0.02)
    assert float(limit.get("y1")) == pytest.approx(first + 0.4 * scale, abs=0.02)
    assert float(band.get("y")) == pytest.approx(first + 0.25 * scale, abs=0.02)
    assert float(band.get("height")) == pytest.approx(0.1 * scale, abs=0.02)


@pytest.mark.parametrize("value", [0.0, -1e308, 1e308, 5e-324, 1.0])
@pytest.mark.parametrize(
    "estimate", [None, Estimated(value=-1e308, low=None, high=None), Estimated(value=0.5, low=-1e308, high=1e308)]
)
@pytest.mark.parametrize(("reference", "limit"), [(None, None), (1e308, -1.0)])
@pytest.mark.parametrize("metric", ["meanError", "of_tomorrow"])
def test_no_number_breaks_the_picture(board, value, estimate, reference, limit, metric):
    board.add(performance(0, value, estimate, metric=metric, reference=reference, limit=limit))
    board.add(performance(1, None, None, metric=metric, labelled=0, reference=None, limit=None))
    html, root = shown(board)
    numbers = [float(n) for e in root.iter() for n in (e.get("y"), e.get("cy"), e.get("y1"), e.get("height")) if n]
    assert numbers
    assert all(-20 <= number <= 1000 for number in numbers)
    assert "nan" not in html.partition("<body>")[2].replace("nance", "")


def test_segments_stand_beside_each_other_the_worst_first(board):
    for number in range(3):
        board.add(drift(number, scored("x", 0.02)))
        for segment, score in (("carrier=AA", 0.05), ("carrier=WN", 0.4 if number else 0.02)):
            board.add(drift(number, scored("x", score), scored("y", 0.01), segment=segment, rows=40 + number))
        board.add(
            msgspec.structs.replace(
                drift(number, segment="carrier=(other)"), columns=[], drifted=False, unjudged="too few rows"
            )
        )
    board.add(performance(2, 0.7, segment="carrier=AA"))
    _, root = shown(board)
    assert root.find("head/title").text == "▲ drift in 1 segment, performance in 1 segment · toy"
    assert rows(card(root, "Segments")) == [
        ["all requests", "-", "100", "0 of 3", "x", "0.02", "0.1", "", ""],
        ["carrier=WN", "▲ drift", "42", "2 of 3", "x", "0.4", "0.1", "", ""],
        ["carrier=AA", "-", "42", "0 of 3", "x", "0.05", "0.1", "accuracy 0.7", "▲ accuracy"],
        ["carrier=(other)", "not compared", "100", "", "", "", "", "", ""],
    ]
    other = next(v for v in of_class(root, "verdict") if "carrier=(other)" in words(v))
    assert "Not compared with the reference too few rows window 2026-03-01 00:10 - 00:15 UTC, 100 rows" in plain(other)
    assert other.get("class") == "verdict"
    section = next(s for s in of_class(root, "segment") if s.get("aria-label") == "segment carrier=(other)")
    assert not of_class(section, "heat")
    assert {bar.get("class") for bar in of_class(section, "bar")} == {"bar unjudged"}


def test_the_segments_in_detail_are_those_that_drifted_most(board):
    for number in range(30):
        board.add(drift(0, scored("x", 0.3 if number % 7 == 3 else 0.02), segment=f"s{number:02}"))
    board.add(drift(0, scored("x", 0.02)))
    names = list(board.shown())
    assert len(names) == boards.SEGMENTS
    assert names[0] == ""
    assert set(names[1:5]) == {"s03", "s10", "s17", "s24"}


def test_counted_windows_have_spans_of_their_own(board):
    for number, (start, end) in enumerate([(0, 0.001), (0.2, 65), (40, 40.5)]):
        at = (BEGIN + timedelta(seconds=start), BEGIN + timedelta(seconds=end))
        for record in (drift(0, scored("x", 0.02)), statistics(0), performance(0)):
            board.add(counted(record, number, *at))
    _, root = shown(board)
    spans = [plain(bar).partition(" UTC")[0] for bar in of_class(root, "ok")]
    assert spans == [
        "no. 0, 2026-03-01 00:00:00 - 00:00:00",
        "no. 1, 2026-03-01 00:00:00 - 00:01:05",
        "no. 2, 2026-03-01 00:00:40 - 00:00:40",
    ]
    edges = [(float(bar.get("x")), float(bar.get("width"))) for bar in of_class(root, "ok")]
    assert all(a + width <= b for (a, width), (b, _) in pairwise(edges))


def test_overlapping_windows_are_not_added_up(board):
    for number in range(3):
        board.add(statistics(number, rows=100))
    _, root = shown(board, sliding=True)
    tile = next(t for t in of_class(root, "tile") if words(t.find("dt")) == "Requests")
    assert [words(d) for d in tile.findall("dd")] == ["100", "newest window"]


def test_markup_escapes_text_and_attributes():
    assert el("p", "<b>", title='"&') == '<p title="&quot;&amp;">&lt;b&gt;</p>'
    assert el("td") == "<td></td>"
    assert el("br") == "<br/>"
    assert el("p", "\ud800\x00\x1b[31m") == "<p>\ufffd\ufffd\ufffd[31m</p>"
    assert wire("a" * 100, 10) == f'<bdi title="{"a" * 100}">{"a" * 9}…</bdi>'


# --- The whole, with a real Kafka ------------------------------------------------------------------------------------


def monitor_of(tmp_path, kafka, name, performance="{}"):
    return parse(
        f"""
        apiVersion: driftline.io/v1
        kind: ModelMonitor
        metadata: {{name: {name}}}
        spec:
          model: {{version: "7", features: [{{name: x, type: numeric}}], predictions: [{{name: late, type: categorical}}]}}
          performance: {performance}
          kafka: {{bootstrapServers: "{kafka.bootstrap_servers}", topicTimeout: 10s}}
          reports: {{workspace: {tmp_path / "workspace"}, html: {tmp_path / "out" / "report.html"}}}
        """,
        "test.yaml",
    )


class Topics:
    """The report topics of one model, and somebody who writes to them."""

    def __init__(self, kafka, monitor):
        from confluent_kafka import Producer

        from streaming.kafka import ensure_topics

        self.kafka, self.names = kafka, monitor.topics
        names = [self.names.outliers, self.names.statistics, self.names.drift, self.names.deadletter, self.names.events]
        if monitor.spec.performance.metrics:
            names.append(self.names.performance)
        ensure_topics(kafka.connection, names, partitions=2)
        self._producer = Producer({**kafka.connection.for_confluent(), "log_level": 0})

    def write(self, *records):
        for record in records:
            kind = type(record).__name__.lower()
            topic = getattr(self.names, {"outlier": "outliers", "event": "events"}.get(kind, kind))
            self._producer.produce(topic, encoded(record), key=f"{record.id}")
        assert self._producer.flush(10) == 0

    def raw(self, topic, value):
        self._producer.produce(topic, value)
        assert self._producer.flush(10) == 0

    def committed(self, group):
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({**self.kafka.connection.for_confluent(), "group.id": group})
        places = [TopicPartition(topic, p) for topic in (self.names.drift, self.names.outliers) for p in (0, 1)]
        found = {(c.topic, c.partition): c.offset for c in consumer.committed(places, timeout=10)}
        consumer.close()
        return found


def runs(tmp_path):
    return sorted(path.name for path in (tmp_path / "workspace").glob("*/snapshots/*"))


def report(tmp_path):
    return ET.fromstring((tmp_path / "out" / "report.html").read_text().split("\n", 1)[1])


@pytest.fixture
def topics(tmp_path, kafka, request):
    name = re.sub("[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:50].strip("-")
    monitor = monitor_of(tmp_path, kafka, name)
    made = Topics(kafka, monitor)
    made.monitor = monitor
    return made


def test_once_reports_everything_and_again_changes_nothing(tmp_path, topics):
    from streaming.reporter import run

    model = topics.monitor.name
    for number in range(4):
        topics.write(drift(number, model=model), statistics(number, model=model), outlier(number, model=model))
    topics.write(drift(4, status="provisional", model=model), dead_letter(0, model=model))
    assert run(topics.monitor, once=True) == 0
    before, first = runs(tmp_path), words(report(tmp_path))
    assert len(before) == 4
    assert "Windows 4 1 in progress" in first
    assert "The latest of 4 outlier reports" in first
    assert "malformed" in first
    assert sum(topics.committed(f"driftline-report-{model}").values()) == 5 + 4

    # The monitor's sink is at least once: the same records again, under the same ids.
    topics.write(
        *(drift(number, model=model) for number in range(4)), outlier(3, model=model), dead_letter(0, model=model)
    )
    assert run(topics.monitor, once=True) == 0
    assert runs(tmp_path) == before
    again = words(report(tmp_path))
    assert re.sub("written [^U]+UTC", "", again) == re.sub("written [^U]+UTC", "", first)

    # A page that is gone comes back from the board; a board that is gone comes back from the topics.
    (tmp_path / "out" / "report.html").unlink()
    assert run(topics.monitor, once=True) == 0
    assert re.sub("written [^U]+UTC", "", words(report(tmp_path))) == re.sub("written [^U]+UTC", "", first)
    (tmp_path / "out" / "report.sqlite").unlink()
    assert run(topics.monitor, once=True) == 0
    assert runs(tmp_path) == before
    assert "Windows 4 1 in progress" in words(report(tmp_path))


def test_performance_is_read_where_it_is_asked_for(tmp_path, kafka):
    from streaming.reporter import run

    monitor = monitor_of(tmp_path, kafka, "with-performance", "{metrics: [accuracy]}")
    model, topics = monitor.name, Topics(kafka, monitor)
    topics.write(drift(0, model=model), statistics(0, model=model), event(0, model=model))
    topics.write(*(performance(0, 0.5 + revision / 10, revision=revision, model=model) for revision in (1, 2, 3)))
    assert run(monitor, once=True) == 0
    text = words(report(tmp_path))
    assert "accuracy 0.8 100 of 100 labels" in text
    assert "baselineAdopted" in text
    assert len(runs(tmp_path)) == 1


def test_what_is_no_report_is_counted_and_does_not_stop_the_others(tmp_path, topics):
    from streaming.reporter import run

    model = topics.monitor.name
    for value in (b"", b"{", b"[]", b'{"kind": "drift"}', b"\xff" * 100, None):
        topics.raw(topics.names.drift, value)
    topics.write(drift(0, model=model))
    assert run(topics.monitor, once=True) == 0
    text = words(report(tmp_path))
    assert "Windows 1 all closed" in text
    assert re.search(r"could not read, by topic what-is-no-report\S+ 6", text)


def test_it_follows_the_topics_and_stops_when_told(tmp_path, topics):
    from streaming.reporter import Reporter

    model, stop = topics.monitor.name, threading.Event()
    finished: list[int] = []

    def follow():
        with Reporter(topics.monitor) as reporter:
            reporter.run(stop)
            finished.append(0)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        seen = []
        for number in range(2):
            topics.write(drift(number, model=model))
            deadline = time.monotonic() + 30
            while len(seen) <= number:
                assert time.monotonic() < deadline
                path = tmp_path / "out" / "report.html"
                if path.exists() and f"Windows {number + 1} all closed" in words(report(tmp_path)):
                    seen.append(path.stat().st_mtime)
                time.sleep(0.02)
        assert 'id="follow"' in path.read_text()
        for number in range(2, 60):
            topics.write(drift(number, model=model))
    finally:
        stop.set()
        thread.join(30)
    assert finished == [0]
    assert 'id="follow"' not in path.read_text()  # nobody rewrites it now
    assert all(b - a >= 0.9 for a, b in pairwise(seen))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_end_it_and_the_next_goes_on(tmp_path, topics, number):
    model = topics.monitor.name
    topics.write(*(drift(n, model=model) for n in range(3)), *(outlier(n, model=model) for n in range(3)))
    (tmp_path / "monitor.json").write_text(topics.monitor.model_dump_json(by_alias=True, exclude_defaults=True))
    script = (
        "import sys; from pathlib import Path; from streaming.spec import load; from streaming.reporter import run; "
    )
    script += "sys.exit(run(load(Path(sys.argv[1]))))"
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "monitor.json")],
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        deadline = time.monotonic() + 60
        while len(runs(tmp_path)) < 3 or not (tmp_path / "out" / "report.html").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(20) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    finally:
        process.kill()
        process.wait()

    from streaming.reporter import run

    topics.write(*(drift(n, model=model) for n in range(5)), *(outlier(n, model=model) for n in range(5)))
    assert run(topics.monitor, once=True) == 0
    assert len(runs(tmp_path)) == 5
    assert "The latest of 5 outlier reports" in words(report(tmp_path))


def test_topics_that_are_not_there_are_named(tmp_path, kafka):
    from streaming.reporter import run

    monitor = monitor_of(tmp_path, kafka, "nobody-made-these")
    hasty = monitor.spec.kafka.model_copy(update={"topic_timeout": timedelta(seconds=1)})
    monitor = monitor.model_copy(update={"spec": monitor.spec.model_copy(update={"kafka": hasty})})
    with pytest.raises(KafkaError, match="nobody-made-these-drift"):
        run(monitor, once=True)


def test_it_can_be_stopped_while_it_waits_for_topics(tmp_path, kafka):
    from streaming.reporter import Reporter

    stop = threading.Event()
    stop.set()
    with Reporter(monitor_of(tmp_path, kafka, "nobody-made-these-either")) as reporter:
        reporter.run(stop)
