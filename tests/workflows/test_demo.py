"""The parts of `driftline demo`, and the whole of it."""

import asyncio
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from streaming.reports import Alarm, ColumnDrift, Counts, Drift, Statistics, Window
from streaming.spec import load
from workflows.demo.flights import FEATURES, Lateness, Requests, flights, in_months, training_table
from workflows.demo.replay import replay, rfc3339
from workflows.demo.run import PlaceTaken, _claimed
from workflows.demo.server import Agent
from workflows.demo.services import Service, ServiceFailed
from workflows.demo.watch import Board, strength

ROOT = Path(__file__).parents[2]
WEEK = 7 * 86_400_000


@pytest.fixture(scope="module")
def year():
    return flights()


@pytest.fixture(scope="module")
def days(year):
    """The first three thousand flights of the year: three and a half days."""
    return year.slice(0, 3000)


@pytest.fixture(scope="module")
def model(days):
    return Lateness.trained(days)


def test_every_departure_of_the_year_is_there_once_and_in_order(year):
    assert year.num_rows == 336_776
    assert in_months(year, [1]).num_rows == 27_004
    assert year["dep_delay"].null_count == 8255  # cancelled
    assert year["late"].null_count == 9430  # cancelled or diverted
    times = year["time"].to_numpy()
    assert (np.diff(times) >= 0).all()
    assert rfc3339(int(times[0])) == "2013-01-01T10:15:00.000000000Z"  # 05:15 in New York


def test_the_document_of_the_demo_fits_its_data(days, model):
    """The same document is the example of `examples/flights`."""
    monitor = load(ROOT / "examples/flights/monitor.yaml")
    assert tuple(column.name for column in monitor.spec.model.features) == FEATURES
    table = training_table(model, days)
    assert table.column_names == [*FEATURES, *(column.name for column in monitor.spec.model.predictions)]
    assert set(table["arrival"].to_pylist()) == {"late", "on time"}


def test_the_model_is_the_same_each_time_and_takes_what_is_missing_or_new(days, model):
    rows = days.to_pylist()[:50]
    assert (Lateness.trained(days).probability(rows) == model.probability(rows)).all()
    odd = [dict.fromkeys(FEATURES), {**rows[0], "dest": "XXX", "dep_delay": None}, {}]
    assert ((model.probability(odd) > 0) & (model.probability(odd) < 1)).all()
    assert model.probability([]).tolist() == []


def test_requests_hold_every_flight_once(days):
    requests = Requests(days, 20)
    made = list(requests)
    assert len(made) == len(requests) == 150
    assert [instance for request in made for instance in request.instances] == days.select(FEATURES).to_pylist()
    assert len({request.id for request in made}) == len(made)
    windows = requests.windows(WEEK)
    third = 1_357_171_200_000  # 3 January, a Thursday like 1 January 1970, on which all weeks begin that are counted from it
    assert list(windows) == [third - WEEK, third]
    assert sum(windows.values()) == 3000
    assert windows[third] == sum(len(request.instances) for request in made if request.time >= third)


class Recorder(http.server.BaseHTTPRequestHandler):
    """A logger that keeps what it is sent and refuses every tenth event."""

    protocol_version = "HTTP/1.1"
    events: list[tuple[dict[str, str], bytes]]

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.events.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(503 if len(self.events) % 10 == 0 else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_args):
        pass


@pytest.fixture
def recorder() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    events: list[tuple[dict[str, str], bytes]] = []
    handler = type("Recording", (Recorder,), {"events": events})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", events
        server.shutdown()
        thread.join()


def test_payloads_are_posted_as_kserve_posts_them(recorder):
    url, events = recorder

    async def app(scope, receive, send):
        message = await receive()
        status = 200 if message["body"] != b"bad" else 400
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"<" + message["body"], "more_body": True})
        await send({"type": "http.response.body", "body": b">"})

    async def call(agent, body, *headers, path="/v1/models/flights:predict", method="POST"):
        parts = [body[:1], body[1:]]
        answer = b""

        async def receive():
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message):
            nonlocal answer
            answer += message.get("body", b"")

        await agent({"type": "http", "method": method, "path": path, "headers": list(headers)}, receive, send)
        return answer

    async def calls() -> dict[str, int]:
        agent = Agent(app, url)
        headers = (b"ce-id", b"7"), (b"x-event-time", b"2013-02-01T00:00:00.000000000Z")
        assert await call(agent, b"ask", *headers, (b"content-type", b"application/json")) == b"<ask>"
        assert await call(agent, b"bad") == b"<bad>"
        for _ in range(20):
            await call(agent, b"more")
        counts = json.loads(await call(agent, b"-", path="/payloads", method="GET"))
        for worker in agent._workers:
            worker.cancel()
        await asyncio.gather(*agent._workers, return_exceptions=True)
        return counts

    counts = asyncio.run(calls())
    assert counts == {"posted": 39, "failed": 4}  # two of the first call, one of a bad one, forty of the rest
    asked, answered = (next(e for e in events if e[1] == body) for body in (b"ask", b"<ask>"))
    common = {
        "ce-id": "7",
        "ce-time": "2013-02-01T00:00:00.000000000Z",
        "ce-specversion": "1.0",
        "ce-source": "http://localhost:9081/",
        "ce-inferenceservicename": "flights",
        "ce-namespace": "default",
        "ce-component": "predictor",
        "ce-endpoint": "default",
        "content-type": "application/json",
    }
    request = {**common, "ce-type": "org.kubeflow.serving.inference.request", "ce-metadata": "{}"}
    response = {**common, "ce-type": "org.kubeflow.serving.inference.response", "ce-metadata": "null"}
    assert request.items() <= asked[0].items()
    assert response.items() <= answered[0].items()
    refused = next(headers for headers, body in events if body == b"bad")
    assert len(refused["ce-id"]) == 36  # an answer that is no 200 is not logged, and neither has it an id given
    assert not any(body == b"<bad>" for _, body in events)


def test_a_replay_counts_what_was_answered(days):
    seen: list[tuple[str, dict[str, str], dict]] = []

    async def served(request: web.Request) -> web.Response:
        body = await request.json()
        seen.append((request.path, dict(request.headers), body))
        return web.json_response({}, status=500 if len(seen) == 5 else 200)

    async def replayed():
        app = web.Application()
        app.router.add_post("/{tail:.*}", served)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            requests = Requests(days.slice(0, 400), 20)
            return await replay(f"http://127.0.0.1:{port}", requests, rate=200.0, stop=threading.Event())
        finally:
            await runner.cleanup()

    done = asyncio.run(replayed())
    assert (done.requests, done.instances, done.failed) == (19, 380, 1)
    assert done.reasons == ["500 {}"]
    assert done.seconds > 0.09
    paths = {path for path, _, _ in seen}
    assert paths == {"/v1/models/flights:predict", "/v2/models/flights/infer"}
    first = min(seen, key=lambda one: one[1]["Ce-Id"])
    assert first[1]["x-event-time"] == "2013-01-01T10:15:00.000000000Z"
    assert first[2]["instances"] == days.slice(0, 20).select(FEATURES).to_pylist()
    tensors = next(body for path, _, body in seen if path.endswith("/infer"))["inputs"]
    assert [tensor["name"] for tensor in tensors] == list(FEATURES)
    assert {tuple(tensor["shape"]) for tensor in tensors} == {(20,)}


def test_a_service_that_dies_is_reported_with_its_log(tmp_path):
    service = Service("model server", ["-c", "print('no such file'); raise SystemExit(3)"], tmp_path)
    with pytest.raises(
        ServiceFailed, match=r"(?s)model server ended with exit code 3; .*model server\.log ends:\n  no such file"
    ):
        service.wait(lambda: False, timedelta(seconds=20))
    assert service.stop() == 3


def test_a_service_that_is_never_ready_is_reported_and_can_be_stopped(tmp_path):
    service = Service("logger", ["-c", "import time; time.sleep(60)"], tmp_path)
    with pytest.raises(ServiceFailed, match=r"the logger is not ready after 0:00:00\.2"):
        service.wait(lambda: False, timedelta(seconds=0.2))
    assert service.stop() == 128 + signal.SIGTERM


def test_only_an_earlier_demo_is_overwritten(tmp_path):
    place = tmp_path / "new"
    with _claimed(place):
        (place / "kafka").mkdir()
        (place / "report.html").touch()
        with pytest.raises(PlaceTaken, match="a demo is running in"), _claimed(place):
            pass
    with _claimed(place):
        assert [path.name for path in place.iterdir()] == [".driftline-demo"]

    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(PlaceTaken, match="not empty, and not from an earlier demo"), _claimed(other):
        pass
    with pytest.raises(PlaceTaken, match="is a file"), _claimed(other / "thesis.tex"):
        pass
    assert (other / "thesis.tex").exists()


def column(name: str, score: float | None, threshold: float = 0.1, direction: str = "distance") -> ColumnDrift:
    drifted = score is not None and (score >= threshold if direction == "distance" else score < threshold)
    return ColumnDrift(
        name=name,
        source="request",
        type="numeric",
        method="m",
        direction=direction,
        score=score,
        threshold=threshold,
        drifted=drifted,
        exact=True,
        explanation={},
    )


def reports(status: str, revision: int, *columns: ColumnDrift) -> tuple[Statistics, Drift]:
    common = {
        "id": "i",
        "model": "flights",
        "model_version": "1",
        "detected_at": "2026-01-01T00:00:00.000Z",
        "segment": "",
        "baseline": "b",
        "window": Window("2013-01-31T00:00:00.000Z", "2013-02-07T00:00:00.000Z"),
        "status": status,
        "revision": revision,
    }
    counts = Counts(requests=10, responses=10, missing=0, nonfinite=0, late=0, dead=0, outliers=1)
    statistics = Statistics(**common, counts=counts, exact=True, columns=[])
    drift = Drift(
        **common,
        rows=10,
        reference_rows=100,
        columns=list(columns),
        drifted_columns=sum(one.drifted for one in columns),
        judged_columns=len({one.name for one in columns}),
        share=0.5,
        share_threshold=0.5,
        drifted=True,
        explanation={},
        multivariate=[],
        sequential=[],
        traffic=[],
        alarm=Alarm(raised=True, windows=1, min_windows=1),
    )
    return statistics, drift


def test_the_board_keeps_the_newest_report_and_tells_once_of_the_final_one():
    board = Board()
    old, new = reports("provisional", 1), reports("final", 2, column("a", 0.2), column("b", 0.05), column("a", 0.3))
    assert [board.add(report) for report in (*old, new[0])] == [None] * 3
    window = board.add(new[1])
    assert window is not None
    assert board.final == [window]
    assert [(one.name, one.score) for one in window.drifting] == [("a", 0.3)]
    assert [board.add(report) for report in (*old, *new)] == [None] * 4  # they come twice after a crash
    assert window.final


def test_strength_compares_distances_and_p_values():
    assert strength(column("a", 0.2)) == pytest.approx(2)
    assert strength(column("a", 0.01, 0.05, "p-value")) == pytest.approx(5)
    assert strength(column("a", 0.0, 0.05, "p-value")) > 1e6
    assert strength(column("a", None)) == 0


def start_demo(place: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "workflows.cli", "demo", "--fast", "--keep", str(place)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_of(place: Path) -> list[str]:
    """Command lines that name the directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(place) in line:
            found.append(line)
    return found


@pytest.mark.spark
@pytest.mark.kafka
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nothing_running(tmp_path, how, code):
    place = tmp_path / "demo"
    demo = start_demo(place)
    said = []
    try:
        for line in demo.stdout:
            said.append(line)
            if line.startswith("replaying"):
                break
        assert len(processes_of(place)) > 4, said
        time.sleep(1)
        os.kill(demo.pid, how)
        rest, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
        demo.wait()
        demo.stdout.close()
    assert demo.returncode == code, (said, rest)
    assert "Traceback" not in rest
    assert processes_of(place) == []


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.kafka
def test_the_demo_ends_with_what_has_drifted(tmp_path):
    place = tmp_path / "demo"
    demo = start_demo(place)
    with demo.stdout:
        said = demo.stdout.read()
    assert demo.wait() == 0, said
    assert "54,376 flights were sent, 54,376 requests and 54,376 answers are in final windows, 0 late, 0 dead" in said
    summary = said.partition("What has drifted since January")[2].splitlines()
    (temperature,) = (line.split() for line in summary if line.startswith("temp "))
    assert temperature[1:4] == ["11", "of", "11"]
    assert "wasserstein" in temperature
    records = [json.loads(line) for line in (place / "topics/flights-drift.jsonl").read_text().splitlines()]
    final = [record for record in records if record["status"] == "final"]
    assert len({record["id"] for record in final}) == len(final) == 11
    outliers = (place / "topics/flights-outliers.jsonl").read_text().splitlines()
    assert {"unseen_category", "k_sigma"} <= {json.loads(line)["detector"] for line in outliers}
    assert "temp" in (place / "report.html").read_text()
    assert any((place / "workspace").iterdir())
    assert processes_of(place) == []
