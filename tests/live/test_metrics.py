"""Metrics and health over HTTP."""

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import cv2
import pytest
from prometheus_client.parser import text_string_to_metric_families

import edge
from edge.errors import OutputError, SourceError
from edge.live import health as health_module
from edge.live import run
from edge.live import statistics as statistics_module
from edge.live.health import health
from edge.live.messages import Message, SourceChange
from edge.live.outputs import metrics as metrics_module
from edge.live.outputs.base import OutputQueue
from edge.live.outputs.lines import Lines
from edge.live.statistics import Statistics
from edge.live.view.output import View
from tests.support.commands import TIMEOUT_S
from tests.support.observations import observation
from tests.support.outputs import alarm, audit, bundle_change, change, event, opened
from tests.support.videos import jpegs, pictures, write_encoded


class Clock:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (health_module, statistics_module, metrics_module):
        monkeypatch.setattr(module, "monotonic", clock)
    return clock


@pytest.fixture
def metrics() -> Iterator[View]:
    with opened(View("127.0.0.1", 0, timeout_s=5)) as metrics:
        yield metrics


def get(url: str) -> tuple[int, str]:
    try:
        with urlopen(Request(url, headers={"connection": "close"}), timeout=TIMEOUT_S) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(metrics: View) -> dict[tuple[str, ...], float]:
    """Return the samples that a scrape gives, by name and values of labels."""
    _, text = get(metrics.name + "/metrics")
    families = text_string_to_metric_families(text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_counters_follow_the_messages_and_never_fall(metrics: View) -> None:
    metrics.write(
        [observation(index, exit_index=index % 3, dropped=index, skipped=7, damaged=2) for index in range(10)]
    )
    metrics.write([event("7"), event("7", "left"), event("7"), event("3", source="cam")])
    metrics.write([change("lost", "no frame", reconnects=2), observation(10, dropped=0)])
    found = samples(metrics)
    expected = {
        ("edge_frames_total", "test://"): 11,
        ("edge_frames_dropped_total", "test://"): 9,
        ("edge_frames_skipped_total", "test://"): 7,
        ("edge_frames_damaged_total", "test://"): 2,
        ("edge_reconnects_total", "test://"): 2,
        ("edge_source_connected", "test://"): 0,
        ("edge_source_connected", "cam"): 1,
    }
    assert expected.items() <= found.items()
    exits = [value for (name, *_), value in sorted(found.items()) if name == "edge_exits_total"]
    assert exits == [5, 3, 3]
    events = {frozenset(key[1:]): value for key, value in found.items() if key[0] == "edge_events_total"}
    assert events == {
        frozenset({"entered", "7", "test://"}): 2,
        frozenset({"left", "7", "test://"}): 1,
        frozenset({"entered", "3", "cam"}): 1,
    }


def test_audits_and_alarms_are_counted_by_source(metrics: View) -> None:
    metrics.write([audit(), audit(differs=True), audit(left_out=3), audit(source="cam"), alarm("latency"), alarm()])
    found = {frozenset(key[1:]): value for key, value in samples(metrics).items() if "audits" in key[0]}
    assert found == {
        frozenset({"test://", "agrees"}): 2,
        frozenset({"test://", "differs"}): 1,
        frozenset({"test://", "left_out"}): 3,
        frozenset({"cam", "agrees"}): 1,
        frozenset({"cam", "left_out"}): 0,
    }
    raised = {frozenset(key[1:]): value for key, value in samples(metrics).items() if key[0] == "edge_alarm"}
    assert raised == {frozenset({"test://", "latency"}): 1, frozenset({"test://", "disagreement"}): 1}


def test_bundles_of_a_followed_tag_are_counted_and_a_swap_lowers_alarms(metrics: View) -> None:
    metrics.write([observation(0, bundle="3bd92ffd919a"), alarm(), bundle_change("refused")])
    metrics.write([bundle_change("failing", faults=3), bundle_change(faults=3), observation(1, bundle="9f86d081884c")])
    found = {key: value for key, value in samples(metrics).items() if "bundle" in key[0] or "follow" in key[0]}
    assert {(key[0], *sorted(key[1:])): value for key, value in found.items()} == {
        ("edge_bundle", "9f86d081884c", "test://"): 1,
        ("edge_bundle_swaps_total", "test://"): 1,
        ("edge_bundles_refused_total", "test://"): 1,
        ("edge_follow_faults_total", "test://"): 3,
    }
    assert "edge_alarm" not in {key[0] for key in samples(metrics)}


def test_the_latency_histogram_counts_every_frame_once(metrics: View) -> None:
    latencies = (0.1, 0.25, 0.3, 20, 5000)
    metrics.write([observation(0, latency_ms=latency) for latency in latencies])
    found = samples(metrics)
    buckets = {key: value for key, value in found.items() if key[0] == "edge_latency_seconds_bucket"}
    bounds = {bound: value for (_, *labels), value in buckets.items() for bound in labels if bound != "test://"}
    assert (bounds["0.00025"], bounds["0.0005"], bounds["0.016"], bounds["0.033"]) == (2, 3, 3, 4)
    assert (bounds["2.0"], bounds["+Inf"]) == (4, 5)
    assert found["edge_latency_seconds_count", "test://"] == 5
    assert found["edge_latency_seconds_sum", "test://"] == pytest.approx(sum(latencies) / 1000)


def test_the_age_of_the_newest_frame_grows_while_a_camera_hangs(clock: Clock, metrics: View) -> None:
    metrics.write([observation(998.5)])
    for waited_s in (0, 60):
        clock.now_s += waited_s
        assert samples(metrics)["edge_frame_age_seconds", "test://"] == pytest.approx(1.5 + waited_s)


def test_drops_and_failures_of_all_outputs_are_counted(metrics: View) -> None:
    queues: Any = [SimpleNamespace(output=SimpleNamespace(name="video"), dropped=3, failed=1)]
    metrics.watch(queues)
    queues[0].dropped += 1
    found = samples(metrics)
    assert found["edge_output_dropped_total", "video"] == 4
    assert found["edge_output_failures_total", "video"] == 1


def test_an_address_in_use_is_refused_and_a_closed_server_frees_its_own(metrics: View) -> None:
    port = int(metrics.name.rpartition(":")[2])
    with pytest.raises(OutputError, match=f"http://127.0.0.1:{port} cannot be served .Address already in use"):
        View("127.0.0.1", port, timeout_s=5).open()
    with closing(socket.create_connection(("127.0.0.1", port))):  # a client that never asks
        metrics.close()
    with opened(View("127.0.0.1", port, timeout_s=5)) as second:
        assert get(second.name + "/metrics")[0] == 200


def test_an_error_in_a_page_is_logged_and_the_server_goes_on(
    metrics: View, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no statistics")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(metrics_module, "health", fail)
        assert get(metrics.name + "/healthz") == (500, "internal error")
    assert "/healthz cannot be answered (ValueError: no statistics)" in caplog.text
    assert get(metrics.name + "/healthz")[0] == 200


def test_names_of_files_that_are_not_utf8_are_escaped_on_every_page(
    classifier: edge.Classifier, tmp_path: Path, metrics: View
) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / os.fsdecode(b"\xfe.png")).write_bytes(jpegs(pictures(1))[0])
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"no image")
    messages: list[Message] = []
    with pytest.raises(SourceError) as caught:
        run(classifier, [folder], on_message=messages.append)
    [source] = {message.source for message in messages}
    metrics.write([*messages, change("lost", str(caught.value), source=source)])
    queue = OutputQueue(Lines(folder / "lines"))
    metrics.watch([queue])
    bodies = {}
    for path in ("/metrics", "/healthz", "/api/status", "/api/events"):
        code, bodies[path] = get(metrics.name + path)
        assert code == 200
    queue.close()
    assert json.loads(bodies["/healthz"])["sources"] == {f"{tmp_path}/\\udcff": {"healthy": True}}
    assert json.loads(bodies["/api/status"])["sources"][0]["newest"]["file"] == "\\udcfe.png"
    assert "\\udcff.png cannot be read as an image" in json.loads(bodies["/api/events"])[0]["reason"]
    assert "\\udcff/lines" in bodies["/metrics"].replace(2 * "\\", "\\")


# Health


def test_health_is_503_with_the_reason_once_a_source_gave_no_result_for_too_long(clock: Clock, metrics: View) -> None:
    metrics._state.statistics.started_s = clock.now_s
    metrics.write([observation(0), observation(0, source="cam")])
    clock.now_s += 4
    metrics.write([observation(4)])
    assert get(metrics.name + "/healthz")[0] == 200
    clock.now_s += 4
    metrics.write([change("stalled", "no frame for 5 s", source="cam")])
    code, body = get(metrics.name + "/healthz")
    assert code == 503
    assert json.loads(body) == {
        "healthy": False,
        "sources": {
            "test://": {"healthy": True},
            "cam": {"healthy": False, "reason": "no result for 8.0 s; stalled: no frame for 5 s"},
        },
    }
    metrics.write([observation(8, source="cam")])
    assert get(metrics.name + "/healthz")[0] == 200


def test_a_start_without_any_result_is_unhealthy_after_the_same_time(clock: Clock) -> None:
    statistics = Statistics()
    assert health(statistics, 5).is_healthy
    clock.now_s += 6
    assert health(statistics, 5).reasons == {"all": "no result for 6.0 s, since the start"}
    statistics.add([change("lost", "connection refused", source="cam")])
    assert health(statistics, 5).reasons == {"cam": "no result for 6.0 s; lost: connection refused"}


def health_after(classifier: edge.Classifier, sources: list[str], clock: Clock) -> dict[str, str]:
    """Return why each source is unhealthy once all of them have ended and a camera goes on for a while."""

    def watch(message: Message) -> None:
        statistics.add([message])
        if isinstance(message, SourceChange) and message.status in ("ended", "lost"):
            ended.add(message.source)
            if ended == set(sources):
                stop.set()

    statistics, ended, stop = Statistics(), set[str](), threading.Event()
    with suppress(SourceError):
        run(classifier, [*sources, "test://?size=64x48&rate=100"], on_message=watch, frames=1000, stop=stop)
    clock.now_s += 100
    reasons = health(statistics, 5).reasons
    return {source: reasons[source] for source in sources}


def test_files_that_ended_are_healthy(classifier: edge.Classifier, tmp_path: Path, clock: Clock) -> None:
    image, video = tmp_path / "folder" / "0.png", tmp_path / "video.mp4"
    image.parent.mkdir()
    cv2.imwrite(str(image), pictures(1)[0])
    write_encoded(video, pictures(3))
    sources = [str(image.parent), str(video), "test://?size=64x48&rate=200&frames=3"]
    assert health_after(classifier, sources, clock) == dict.fromkeys(sources, "")


def test_a_file_that_failed_is_unhealthy_with_the_reason(
    classifier: edge.Classifier, tmp_path: Path, clock: Clock
) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), pictures(1)[0])
    (tmp_path / "1.png").write_bytes(b"no image")
    [reason] = health_after(classifier, [str(tmp_path)], clock).values()
    assert reason.startswith("no result for 100.0 s; lost: ")
    assert "1.png cannot be read as an image" in reason
