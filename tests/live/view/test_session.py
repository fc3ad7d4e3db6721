"""The WebSocket: pictures on request, messages, and clients that misbehave."""

import json
import socket
from contextlib import closing
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from starlette.exceptions import HTTPException
from websockets.exceptions import ConnectionClosed, InvalidStatus

from edge.frames.base import Frame, PixelFormat
from edge.live import connections as connections_module
from edge.live.deployment import Deployment
from edge.live.view import access as access_module
from edge.live.view import audience as audience_module
from edge.live.view.audience import MAX_WAITING, Audience
from edge.live.view.output import View
from edge.live.view.requests import PictureRequest, parse_picture_request
from tests.support.commands import TIMEOUT_S, wait_until
from tests.support.observations import observation
from tests.support.outputs import change, event
from tests.support.view import CANDIDATES, Page, ask, page, running

FRAME = Frame(np.full((48, 64), 128, np.uint8), PixelFormat.GRAY)


def requests(view: View, source: str = "test://") -> tuple[int, ...]:
    return view._audience.requested_sizes(source)


def show(view: View, captured_s: float, **changes: Any) -> bool:
    """Offer a frame as the pipeline does; return whether it was taken."""
    seen = observation(captured_s, **changes)
    is_taken = view.chooses(seen)
    view.write([observation(captured_s, **changes, frame=FRAME if is_taken else None)])
    return is_taken


def request(view: View, opened: Page, size: int = 320) -> None:
    opened.request(0, size)
    wait_until(lambda: size in requests(view), "the request")


def test_no_frame_is_copied_until_a_page_requests_one_and_none_comes_before_the_next_request(view: View) -> None:
    assert not show(view, 0)
    with page(view) as opened:
        assert not show(view, 1)
        request(view, opened)
        assert show(view, 2, frame_index=2)
        assert opened.picture()[0]["frame"] == 2
        assert not show(view, 3)
        request(view, opened)
        assert show(view, 4, frame_index=4)
        assert opened.picture()[0]["frame"] == 4


def test_a_source_shows_ten_pictures_a_second_at_most(view: View) -> None:
    view.write([observation(0)])
    with page(view) as opened:
        taken = 0
        for index in range(60):
            if not requests(view):
                request(view, opened)
            taken += show(view, 100 + index / 30)
        assert taken == 20


def test_a_frame_is_encoded_once_for_all_viewers_of_a_size(view: View) -> None:
    view.write([observation(0)])
    with page(view) as first, page(view) as second, page(view) as third:
        for opened, size in ((first, 320), (second, 320), (third, 640)):
            opened.request(0, size)
        wait_until(lambda: sum(map(len, view._audience._requests.values())) == 3, "the requests")
        with mock.patch.object(cv2, "imencode", wraps=cv2.imencode) as encode:
            big = Frame(np.zeros((480, 640), np.uint8), PixelFormat.GRAY)
            view.write([observation(1, frame=big)])
            shapes = [opened.picture()[1].shape[:2] for opened in (first, second, third)]
        assert shapes == [(240, 320), (240, 320), (480, 640)]
        assert encode.call_count == 2


def test_a_page_gets_history_events_ticks_and_choices(view: View, deployment: Deployment) -> None:
    view.write([event("7"), observation(0, exit_index=1, latency_ms=3.0)])
    with page(view) as opened:
        assert opened.message("events")[0]["text"] == "entered 7"
        view.write([change("lost", "no frame", source="cam")])
        assert opened.message("sources") == ["test://", "cam"]
        assert opened.message("event")["text"] == "lost: no frame"
        tick = opened.message("tick")
        point = tick["points"]["test://"]
        assert (point["frames"], point["exits"], point["dropped"], point["reconnects"]) == (1, [0, 1], 0, 0)
        assert (point["latency_p50_ms"], point["latency_p95_ms"]) == (3.0, 3.0)
        assert [source["status"] for source in tick["sources"]] == ["connected", "lost"]
        ask(view, "/api/candidate", "PUT", '{"index": 1}')
        assert opened.message("status")["candidate"] == 1
    assert deployment.classifier.thresholds == pytest.approx(CANDIDATES[1].values)


def test_the_attention_map_is_that_of_the_exit_that_answered(deployment: Deployment) -> None:
    with running(deployment, "test://?size=48x48&rate=30") as view, page(view) as opened:
        for index in (0, 2):
            deployment.choose(index)
            opened.request()
            assert "attention" not in opened.picture()[0]
            opened.request(attention=True)
            header, _ = opened.picture()
            assert header["exit_index"] == (2 if index == 0 else 0)
            shape = deployment.bundle.manifest.exits[header["exit_index"]].attention
            assert (header["attention"]["height"], header["attention"]["width"]) == shape


MALFORMED = [
    "", "null", "[]", "{}", "0", '{"next": 1}', '{"next": -1}', '{"next": "0"}', '{"next": true}', '{"next": 0.0}',
    '{"next": 0, "size": 641}', '{"next": 0, "size": "640"}', '{"next": 0, "attention": 1}',
    '{"next": 0, "source": "rtsp://evil"}', '{"next": NaN}', '{"next": 1e999}', "[" * 900, '{"next": 0', "\x00",
]  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_requests_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_picture_request(text, sources=1)


def test_malformed_messages_end_their_connection_and_nothing_else(view: View) -> None:
    view.write([observation(0)])
    generator = np.random.default_rng(0)
    fuzzed: list[str | bytes] = [generator.bytes(int(size)) for size in generator.integers(0, 200, 30)]
    fuzzed += [bytes(message).decode("latin-1") for message in fuzzed[:10]]  # type: ignore[arg-type]
    with page(view) as patient:
        for message in [*MALFORMED, *fuzzed]:
            with page(view) as opened:
                opened.socket.send(message)
                with pytest.raises(ConnectionClosed) as caught:
                    opened.message("never")
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == 1008
        request(view, patient)
        assert show(view, 1, frame_index=1)
        assert patient.picture()[0]["frame"] == 1


@pytest.mark.parametrize("raw", [b"x" * 5000, b"\x85\x00", b"\x81\x05hello", b"\xff" * 64, b"\x81\xff" + b"\xff" * 8])
def test_broken_frames_of_the_protocol_end_their_connection(view: View, raw: bytes) -> None:
    with page(view) as opened:
        opened.socket.socket.sendall(raw)
        with pytest.raises(ConnectionClosed):
            opened.message("never")
    assert ask(view, "/api/status").status == 200


def test_requests_without_end_are_limited(view: View) -> None:
    view.write([observation(0)])

    def flood(opened: Page) -> None:
        for _ in range(100_000):
            opened.request()

    with page(view) as opened, pytest.raises(ConnectionClosed) as caught:
        flood(opened)
    assert caught.value.rcvd is None or caught.value.rcvd.code == 1008
    wait_until(lambda: not requests(view), "the requests to be forgotten")


def test_requests_of_a_page_that_left_are_forgotten(view: View) -> None:
    view.write([observation(0)])
    with page(view) as opened:
        request(view, opened)
    wait_until(lambda: not requests(view), "the request to be forgotten")
    assert not view.chooses(observation(5))


def test_a_viewer_that_takes_nothing_is_left_behind() -> None:
    audience = Audience()
    with audience.viewer() as viewer:
        for index in range(10 * MAX_WAITING):
            audience.announce(json.dumps(index))
        assert viewer._items.qsize() == MAX_WAITING + 1


def test_a_connection_that_takes_nothing_is_ended(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_module, "SEND_LIMIT_S", 0.2)
    with page(view):
        for _ in range(40):
            view._server.call(view._audience.announce, "x" * 1_000_000)
        wait_until(lambda: not view._audience._viewers, "the viewer to be given up")
    assert ask(view, "/api/status").status == 200


def test_viewers_beyond_the_limit_are_refused(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    view.write([observation(0)])
    monkeypatch.setattr(audience_module, "MAX_VIEWERS", 1)
    with page(view):
        with pytest.raises(InvalidStatus, match="503"), page(view):
            pass
        assert ask(view, "/snapshot.jpg").status == 503
    wait_until(lambda: not view._audience._viewers, "the page to leave")
    with page(view):
        pass


def test_a_viewer_beyond_the_limit_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audience_module, "MAX_VIEWERS", 1)
    audience = Audience()
    with audience.viewer(), pytest.raises(HTTPException, match="1 viewers are connected"), audience.viewer():
        pass
    with audience.viewer():
        pass


def test_the_attention_that_only_a_viewer_that_left_wanted_is_not_computed() -> None:
    audience = Audience()
    audience.sources.append("cam")
    with audience.viewer() as staying:
        with audience.viewer() as leaving:
            audience.request(staying, PictureRequest(0, 320, attention=False))
            audience.request(leaving, PictureRequest(0, 320, attention=True))
            assert audience.wants_attention
        assert not audience.wants_attention
        assert audience.requested_sizes("cam") == (320,)


def test_a_client_that_pings_and_never_reads_is_cut_off(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "MAX_UNSENT_BYTES", 100_000)
    monkeypatch.setattr(connections_module, "IDLE_S", 1000)
    monkeypatch.setattr(access_module, "SEND_LIMIT_S", 1000)
    address = urlsplit(view.name)
    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(TIMEOUT_S)
        client.connect((address.hostname, address.port))
        client.sendall(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        ping = b"\x89\xfd\0\0\0\0" + bytes(125)
        with pytest.raises(ConnectionError):  # noqa: PT012 - a block at a time
            for _ in range(500):
                client.sendall(1000 * ping)
    wait_until(lambda: not view._audience._viewers, "the viewer to be given up")
