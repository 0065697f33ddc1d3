"""What a scraper gets of a monitor, read back by Prometheus' own parser."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from streaming.metrics import JobMetrics


def progress(batch: int, *, start: dict, end: dict, latest: dict, seconds: float = 0.5) -> dict:
    """As Spark 4.2 says it, shortened (tests/streaming/progress.json is a whole one)."""
    return {
        "runId": "r",
        "timestamp": "2026-11-21T13:59:22.000Z",
        "batchId": batch,
        "numInputRows": 10,
        "processedRowsPerSecond": 20.0,
        "durationMs": {"addBatch": 300, "walCommit": 60, "triggerExecution": round(seconds * 1000)},
        "stateOperators": [
            {"numRowsTotal": 3, "memoryUsedBytes": 1000, "customMetrics": {"rocksdbSstFileSize": 2022}},
        ],
        "sources": [{"startOffset": start, "endOffset": end, "latestOffset": latest}],
    }


FIRST = progress(0, start={"in": {"0": 5}}, end={"in": {"0": 8}}, latest={"in": {"0": 20}})
SECOND = progress(1, start={"in": {"0": 8}}, end={"in": {"0": 20, "1": 2}}, latest={"in": {"0": 20, "1": 9}}, seconds=4)


def samples(metrics: JobMetrics, parse=plain) -> dict:
    text, _ = metrics.exposition("application/openmetrics-text;version=1.0.0" if parse is openmetrics else "")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in parse(text.decode())
        for sample in family.samples
    }


def test_before_the_first_batch_there_is_little_and_nothing_false(tmp_path):
    metrics = JobMetrics(checkpoint=str(tmp_path))
    found = samples(metrics)
    assert found["driftline_query_active",] == 0
    assert found["driftline_batches_total",] == 0
    assert found["driftline_checkpoint_free_bytes",] > 0
    assert not any(name.startswith(("driftline_state", "driftline_last", "driftline_input_lag")) for name, *_ in found)
    assert metrics.lag is None


@pytest.mark.parametrize("parse", [plain, openmetrics])
def test_batches_add_up_and_lag_is_what_a_batch_left(parse):
    metrics = JobMetrics()
    metrics.active(active=True)
    for each in (FIRST, SECOND):
        metrics.seen(each)
    metrics.restarted("baseline")
    metrics.bounded(5000)
    found = samples(metrics, parse)
    assert found["driftline_input_messages_total", "in"] == 3 + 12 + 2
    assert (found["driftline_input_lag_messages", "0", "in"], found["driftline_input_lag_messages", "1", "in"]) == (
        0,
        7,
    )
    assert metrics.lag == 7
    assert found["driftline_batch_duration_seconds_count",] == 2
    assert found["driftline_batch_duration_seconds_sum",] == 4.5
    assert found["driftline_batch_duration_seconds_bucket", "0.5"] == 1
    assert found["driftline_batch_part_duration_seconds_total", "addBatch"] == pytest.approx(0.6)
    assert ("driftline_batch_part_duration_seconds_total", "triggerExecution") not in found, "the whole is no part"
    assert found["driftline_last_batch_timestamp_seconds",] == 1795269562 + 4
    assert found["driftline_query_restarts_total", "baseline"] == 1
    assert found["driftline_query_active",] == 1
    assert found["driftline_batch_bound_messages",] == 5000
    assert (found["driftline_state_rows",], found["driftline_state_disk_bytes",]) == (3, 2022)


def test_what_the_stages_know_of_models():
    models = {
        "iris": {"frontier": 90_000, "newest": 99_500, "open": 3, "panes": 4, "segments": 1, "late": 2, "outliers": 5,
                 "requests": 100, "dead": {"late": 2, "malformed_json": 1}, "baseline": "b1"},
        "new": {"open": 0},
        "": {"dead": {"unknown_model": 7}},
    }  # fmt: skip
    found = samples(JobMetrics(lambda: models, clock=lambda: 100.0))
    assert found["driftline_models",] == 2
    assert found["driftline_watermark_delay_seconds", "iris"] == 10
    assert ("driftline_watermark_delay_seconds", "new") not in found
    assert found["driftline_open_windows", "new"] == 0
    assert found["driftline_dead_letters_total", "iris", "malformed_json"] == 1
    assert found["driftline_dead_letters_total", "", "unknown_model"] == 7
    assert found["driftline_baseline_info", "b1", "iris"] == 1
    assert found["driftline_newest_event_timestamp_seconds", "iris"] == 99.5


def test_models_that_cannot_be_read_cost_only_their_own_metrics(caplog):
    def broken():
        raise OSError("the store does not answer")

    metrics = JobMetrics(broken)
    metrics.seen(FIRST)
    found = samples(metrics)
    assert found["driftline_model_metrics_readable",] == 0
    assert found["driftline_batches_total",] == 1
    assert "the store does not answer" in caplog.text


def test_a_whole_progress_of_spark_is_understood():
    said = json.loads(Path(__file__).with_name("progress.json").read_text())
    metrics = JobMetrics()
    metrics.seen(said)
    found = samples(metrics)
    assert found["driftline_input_messages_total", "toy-inference"] == said["numInputRows"]
    assert found["driftline_state_memory_bytes",] == 1067460
    assert found["driftline_batch_duration_seconds_sum",] == pytest.approx(5.744)


def everything() -> list:
    """Families of a monitor of which all is known."""
    model = dict.fromkeys(("frontier", "newest", "open", "panes", "segments", "late", "outliers", "requests"), 1)
    metrics = JobMetrics(lambda: {"m": {**model, "dead": {"late": 1}, "baseline": "b"}}, checkpoint="/")
    metrics.seen(FIRST)
    metrics.restarted("fleet")
    metrics.bounded(1)
    metrics.is_of(version="0")
    families = plain(metrics.exposition()[0].decode())
    return [
        family for family in families if family.name.startswith("driftline") and not family.name.endswith("_created")
    ]


def test_names_follow_the_rules_of_prometheus():
    """promtool's own rules: base units; counters and only they end in _total."""
    for family in everything():
        assert family.name.startswith("driftline_")
        assert family.documentation.endswith(".")
        assert not any(unit in family.name for unit in ("_ms", "milliseconds", "_kb", "minutes"))
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert family.type != "counter" or sample.value >= 0


def test_the_page_for_operators_tells_of_every_metric_and_of_no_other(request):
    page = (request.config.rootpath / "docs" / "operations.md").read_text()
    exported = {f"{family.name}_total" if family.type == "counter" else family.name for family in everything()}
    assert set(re.findall(r"\bdriftline_\w+", page)) == exported


@given(
    names=st.lists(st.text(max_size=20), unique=True, max_size=5),
    reason=st.text(max_size=20),
    count=st.integers(0, 2**53),
)
def test_whatever_models_are_called_the_text_can_be_read_back(names, reason, count):
    found = samples(JobMetrics(lambda: {name: {"dead": {reason: count}, "open": 1} for name in names}))
    assert sum(value for (name, *_), value in found.items() if name == "driftline_open_windows") == len(names)
    assert all(value == count for (name, *_), value in found.items() if name == "driftline_dead_letters_total")


@given(
    offsets=st.lists(
        st.tuples(st.integers(0, 2**40), st.integers(0, 2**20), st.integers(-5, 2**20)), min_size=1, max_size=8
    )
)
def test_read_and_waiting_messages_are_differences_of_offsets(offsets):
    start, end, latest = (
        {"in": {str(i): value for i, value in enumerate(values)}}
        for values in zip(*((a, a + b, a + b + c) for a, b, c in offsets), strict=True)
    )
    metrics = JobMetrics()
    metrics.seen(progress(0, start=start, end=end, latest=latest))
    assert samples(metrics)["driftline_input_messages_total", "in"] == sum(b for _, b, _ in offsets)
    assert metrics.lag == sum(max(c, 0) for *_, c in offsets)
