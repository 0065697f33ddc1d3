"""The benchmarks of a running monitor measure what they say, and notice what is lost."""

import asyncio
import contextlib
import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from streaming.spec import parse

ROOT = Path(__file__).parents[2]
WINDOW = 15_000


@pytest.fixture(scope="module")
def benchmarks():
    """Imports a file of the folder, which is no package and has a `detectors.py` of its own: so it comes last."""
    sys.path.append(str(ROOT / "benchmarks"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def shared(benchmarks) -> ModuleType:
    return benchmarks("_stream")


def windows(shared, *reports: tuple[int, str, str, int]):
    """Reports as (ms when Kafka had it, start, status, requests)."""
    found = [
        (
            at,
            shared.msgspec.convert(
                {"window": {"start": f"1970-01-01T00:00:{start}Z"}, "status": status, "counts": {"requests": n}},
                shared.Report,
            ),
        )
        for at, start, status, n in reports
    ]
    return shared.Windows.of(found, WINDOW)


def test_requests_wait_for_the_first_report_that_counts_them_and_for_the_final_one(shared):
    found = windows(
        shared, (2_000, "00.000", "provisional", 2), (5_000, "00.000", "provisional", 3), (22_000, "00.000", "final", 3)
    )
    sent = np.array([4_000, 500, 1_000, 16_000])
    first, last = found.waits(sent, sent - 100.0)
    np.testing.assert_allclose(first, [1.1, 1.6, 1.1, np.nan])
    np.testing.assert_allclose(last, [18.1, 21.6, 21.1, np.nan])


@pytest.mark.parametrize("counted", [2, 4])
def test_what_is_lost_or_counted_twice_is_noticed(shared, counted):
    sent = np.array([0, 500, 14_999, 15_000])
    assert windows(shared, (22_000, "00.000", "final", 3)).check(sent) == (1, 3)
    with pytest.raises(AssertionError, match=f"3 requests were sent, {counted} counted"):
        windows(shared, (22_000, "00.000", "final", counted)).check(sent)
    if counted == 4:  # one without an answer may be there all the same
        assert windows(shared, (22_000, "00.000", "final", 4)).check(sent, np.array([7])) == (1, 3)


def test_usual_traffic_has_no_far_ends(shared):
    rows = shared.rows_of(np.random.default_rng(0), 10_000, 2)
    assert np.abs((rows - [10.0, 11.0]) / 2.0).max() <= 2.5
    assert rows.std(axis=0) == pytest.approx(1.92, abs=0.05)


def test_the_published_experiment_has_250_000_requests(benchmarks):
    thesis = benchmarks("thesis")
    made = thesis.phases(1.0, 45.0)
    assert sum(phase.count for phase in made[2:-1]) == 250_000
    assert [phase.first for phase in made[1:]] == np.cumsum([phase.count for phase in made])[:-1].tolist()


def test_the_client_sends_each_request_once_and_in_time_over_connections_that_break(benchmarks):
    thesis = benchmarks("thesis")
    phase, got, callers = thesis.Phase(200, 4, 1000, 60), [], []

    async def serve(reader, writer):
        callers.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for turn in range(10):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
                body = await reader.readexactly(int(fields["Content-Length"]))
                got.append((int(fields["Ce-Id"][:8], 16), fields["Ce-Time"], body))
                refusal = b"HTTP/1.1 503 x\r\nContent-Length: 2\r\n\r\nno"
                writer.write(refusal if turn == 4 else b"HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def main():
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await thesis.Client(phase, port, [b"%d" % i for i in range(thesis.POOL)]).run()
            await asyncio.wait(callers, timeout=5)

    asyncio.run(main())
    assert sorted(number for number, _, _ in got) == list(range(1000, 1060))
    assert all(int(body) == number % thesis.POOL for number, _, body in got)
    assert set(phase.status.tolist()) == {200, 503}
    assert phase.taken.sum() == 60 - (phase.status == 503).sum()
    np.testing.assert_allclose(np.diff(phase.due), 5.0, atol=1e-3)
    assert (phase.sent >= phase.due - 1.0).all()
    times = {number: time for number, time, _ in got}
    assert times[1000].startswith(str(np.datetime64(int(phase.sent[0]), "ms"))[:19])


def test_growth_is_the_slope_of_the_last_two_thirds(benchmarks):
    soak = benchmarks("soak")
    seconds = np.arange(0.0, 1800.0, 10.0)
    values = np.where(seconds < 590, 0.0, 500.0 + seconds / 360)
    values[100] = np.nan
    assert soak.slope(seconds, values) == pytest.approx(10.0)


def test_reports_differ_where_they_do(benchmarks):
    scale = benchmarks("scale")
    one = {"counts": {"requests": 3}, "columns": [{"mean": 1.0, "name": "f0"}]}
    assert not list(
        scale.differences(one, {"counts": {"requests": 3}, "columns": [{"mean": 1.0 + 1e-14, "name": "f0"}]})
    )
    other = {"counts": {"requests": 4}, "columns": [{"mean": 1.0 + 1e-9, "name": "f0"}], "late": 1}
    assert [said.partition(":")[0] for said in scale.differences(one, other)] == [
        ".columns[0].mean", ".counts.requests", ".late",
    ]  # fmt: skip


def test_the_plan_follows_from_the_figures(benchmarks):
    page = benchmarks("_sizing_page")
    known = dict.fromkeys(
        (f"scale.{key}" for key in ("message_bytes_per_feature", "state_bytes_per_feature", "report_ms_per_feature",
         "merge_ms_per_feature", "prediction_us", "label_us", "prediction_bytes", "state_bytes_per_window", "report_ms_per_window",
         "merge_ms_per_summary")), 1.0,
    ) | {"scale.messages_per_s_1": 80_000.0, "scale.message_bytes": 96.0}  # fmt: skip
    text = "a\n<!-- table: plan -->\nold\n<!-- end -->\n<!-- table: costs -->\nkept\n<!-- end -->\n"
    made = page.page(text, known)
    assert page.cores(known) == 25
    assert "| 96 + 4 x 1.0 | 100 |" in made
    assert "**100 MB/s**" in made
    assert "5.0 ms + 24 x 5.00 ms | **125 ms**" in made
    assert "old" not in made
    assert "kept" in made
    yaml = made.split("```yaml\n")[1].split("```")[0]
    head = "apiVersion: driftline.io/v1\nkind: ModelMonitor\nmetadata: {name: plan}\n"
    monitor = parse(f"{head}{yaml}  model: {{features: [{{name: x, type: numeric}}]}}\n", "plan")
    assert monitor.spec.kafka.partitions == 50
    assert monitor.spec.job.executors.instances == 7


def test_the_page_shows_the_results(golden, benchmarks):
    page = benchmarks("_sizing_page")
    golden("docs/sizing.md", page.page(page.PAGE.read_text(), page.figures()))
