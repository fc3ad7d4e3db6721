"""The JSON API, snapshots and streams, and requests that are no requests."""

import json
import socket
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from edge.frames.base import Frame, PixelFormat
from edge.live.deployment import Deployment
from edge.live.view import routes as routes_module
from edge.live.view.output import View
from tests.support.commands import TIMEOUT_S, wait_until
from tests.support.observations import observation
from tests.support.outputs import alarm, audit, change, event, opened
from tests.support.view import CANDIDATES, ask, page, running

SOURCE = "test://?size=64x48&rate=30"


def test_the_status_counts_each_source(view: View) -> None:
    view.write([observation(index, exit_index=index % 2, dropped=index) for index in range(5)])
    view.write([change("lost", "no frame for 5 s", source="cam", reconnects=3)])
    first, second = json.loads(ask(view, "/api/status").body)["sources"]
    assert (first["name"], first["frames"], first["exits"], first["dropped"]) == ("test://", 5, [3, 2], 4)
    assert (first["newest"]["label"], first["newest"]["exit_index"]) == ("7", 0)
    assert (second["status"], second["reason"], second["reconnects"]) == ("lost", "no frame for 5 s", 3)
    assert second["newest"] is None


def test_events_are_the_last_two_hundred(view: View) -> None:
    view.write([event(str(index % 10)) for index in range(250)])
    events = json.loads(ask(view, "/api/events").body)
    assert [each["id"] for each in events] == list(range(50, 250))
    assert events[-1]["text"] == "entered 9"


def test_audits_are_counted_and_an_alarm_is_an_event_that_stays(view: View) -> None:
    view.write([observation(0), *[audit(differs=index == 0) for index in range(9)], alarm()])
    [source] = json.loads(ask(view, "/api/status").body)["sources"]
    assert source["audits"] == {"agrees": 8, "differs": 1, "left_out": 0}
    assert [each["alarm"] for each in source["alarms"]] == ["disagreement"]
    [row] = json.loads(ask(view, "/api/events").body)
    assert (row["alarm"], row["text"]) == ("disagreement", "alarm: disagreement: 9.0% differ")


def test_the_deployment_is_described(view: View, deployment: Deployment) -> None:
    described = json.loads(ask(view, "/api/deployment").body)
    assert described["bundle"]["name"] == deployment.bundle.manifest.name
    assert [each["mean_macs"] for each in described["candidates"]] == [each.mean_macs for each in CANDIDATES]
    assert described["device"]["cpu"]


def test_only_certified_candidates_come_into_force(view: View, deployment: Deployment) -> None:
    for index, candidate in enumerate(CANDIDATES):
        answer = ask(view, "/api/candidate", "PUT", json.dumps({"index": index}))
        assert (answer.status, json.loads(answer.body)["candidate"]) == (200, index)
        assert deployment.classifier.thresholds == pytest.approx(candidate.values)
    before = deployment.classifier.thresholds
    for body in ("", "{}", "2", '{"index": 3}', '{"index": -1}', '{"index": 1.0}', '{"index": true}', '{"index": "1"}',
                 '{"index": 1, "thresholds": [0.5, 0.5]}', '{"thresholds": [0.5, 0.5]}', '{"source": "rtsp://evil"}',
                 "\xff", "[" * 1000, "9" * 1000):  # fmt: skip
        assert ask(view, "/api/candidate", "PUT", body.encode("latin-1")).status == 400, body
    assert ask(view, "/api/candidate", "PUT", " " * 2000).status == 413
    assert deployment.classifier.thresholds == before


def test_there_is_nothing_to_choose_without_candidates(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Deployment, "candidates", ())
    answer = ask(view, "/api/candidate", "PUT", '{"index": 0}')
    assert (answer.status, b"no certified thresholds" in answer.body) == (400, True)


def test_thresholds_of_the_command_line_are_no_candidate(view: View, deployment: Deployment) -> None:
    deployment.classifier.thresholds = (0.123, 0.456)
    status = json.loads(ask(view, "/api/status").body)
    assert status["candidate"] is None
    assert status["thresholds"] == pytest.approx([0.123, 0.456])


def test_a_page_without_a_deployment_has_pictures_and_no_choice(deployment: Deployment) -> None:
    with opened(View("127.0.0.1", 0, timeout_s=5)) as view, page(view) as opened_page:
        view.write([observation(0)])
        assert opened_page.sources() == ["test://"]
        assert ask(view, "/api/deployment").status == 404
        assert ask(view, "/api/candidate", "PUT", '{"index": 0}').status == 404
        assert "candidate" not in json.loads(ask(view, "/api/status").body)


def test_a_snapshot_is_the_next_frame(deployment: Deployment) -> None:
    with running(deployment, SOURCE) as view:
        answer = ask(view, "/snapshot.jpg?size=320")
        assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
        pixels = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        assert pixels.shape == (48, 64, 3)


def test_a_snapshot_of_a_source_that_hangs_is_refused(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_module, "SNAPSHOT_S", 0.1)
    view.write([observation(0)])
    with page(view) as opened_page:
        opened_page.sources()
        assert ask(view, "/snapshot.jpg").status == 503


def test_a_snapshot_gives_its_place_free_when_its_client_leaves(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_module, "SNAPSHOT_S", 1000)
    view.write([observation(0)])
    connection = HTTPConnection(urlsplit(view.name).netloc, timeout=TIMEOUT_S)
    with closing(connection):
        connection.request("GET", "/snapshot.jpg")
        wait_until(lambda: view._audience._viewers, "the viewer")
    wait_until(lambda: not view._audience._viewers, "the viewer to leave")


def test_the_head_of_a_stream_ends(view: View) -> None:
    view.write([observation(0)])
    with page(view) as opened_page:
        opened_page.sources()
        answer = ask(view, "/stream.mjpg", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"


@pytest.mark.parametrize(
    ("query", "status"),
    [("source=1", 404), ("source=-1", 400), ("source=x", 400), ("size=641", 400), ("source=rtsp://evil", 400),
     ("url=rtsp://evil", 400), ("source=9" + "9" * 5000, 400)],
)  # fmt: skip
def test_pictures_come_from_the_sources_of_the_run_only(view: View, query: str, status: int) -> None:
    view.write([observation(0)])
    with page(view) as opened_page:
        opened_page.sources()
        for path in ("/snapshot.jpg", "/stream.mjpg"):
            assert ask(view, f"{path}?{query}").status == status


def test_a_stream_has_a_part_for_each_picture(deployment: Deployment) -> None:
    with running(deployment, SOURCE) as view, ExitStack() as stack:
        connection = stack.enter_context(closing(HTTPConnection(urlsplit(view.name).netloc, timeout=TIMEOUT_S)))
        connection.request("GET", "/stream.mjpg")
        response = connection.getresponse()
        assert response.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
        pictures = []
        for _ in range(3):
            assert response.readline() == b"--frame\r\n"
            assert response.readline() == b"Content-Type: image/jpeg\r\n"
            length = int(response.readline().removeprefix(b"Content-Length: "))
            assert response.readline() == b"\r\n"
            pictures.append(response.read(length))
            assert response.readline() == b"\r\n"
        assert len(set(pictures)) == 3
        assert all(picture.startswith(b"\xff\xd8") for picture in pictures)


def test_arrays_have_no_pictures(view: View) -> None:
    view.write([observation(0)])
    with page(view) as opened_page:
        opened_page.sources()
        opened_page.request()
        view.write([observation(1, frame=Frame(np.zeros((3, 4, 4), np.float32), PixelFormat.ARRAY))])
        assert opened_page.message("tick")["sources"][0]["frames"] == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_else_can_be_changed(view: View, method: str) -> None:
    for path in ("/", "/ws", "/api/status", "/api/deployment", "/api/sources", "/metrics", "/snapshot.jpg"):
        assert ask(view, path, method, '{"source": "rtsp://evil"}').status in (404, 405), path


def test_requests_that_are_no_http_leave_the_server_as_it_was(view: View) -> None:
    generator = np.random.default_rng(0)
    junk = [b"", b"\r\n\r\n", b"GET", b"GET / HTTP/9.9\r\n\r\n", b"GET /%00%ff\xff HTTP/1.1\r\n\r\n", b"A" * 100_000,
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"PUT /api/candidate HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
            *(generator.bytes(200) for _ in range(20))]  # fmt: skip
    address = urlsplit(view.name)
    for data in junk:
        with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=TIMEOUT_S) as client:
            client.sendall(data)
    assert ask(view, "/api/status").status == 200
    assert ask(view, "/../view.js").status == 404
    assert ask(view, "/view.js").headers["content-type"].startswith("text/javascript")
