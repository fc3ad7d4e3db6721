"""Network streams from real servers on this machine: liveness, loss, reasons, time limits, and no passwords shown."""

import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from edge.errors import SourceError, SourceLostError
from edge.frames import video
from edge.frames.address import public_address
from edge.frames.open import open_source
from tests.support.commands import ROOT
from tests.support.videos import http_server, jpegs, pictures, send, send_mjpeg, write_encoded, zeros_inside

FRAMES = pictures(20)
SECRET = "hunter" + "2"
"""A password that no line of source has."""


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://camera/stream", "rtsp://camera/stream"),
        ("rtsp://admin:hunter2@10.0.0.1:554/live", "rtsp://10.0.0.1:554/live"),
        ("rtsp://admin@camera/live", "rtsp://camera/live"),
        ("rtsp://admin:hunter2%40@camera/live", "rtsp://camera/live"),
        ("rtsp://admin:hun@ter2@camera/live", "rtsp://camera/live"),
        ("rtsp://admin:hun/te@r2@camera/live", "rtsp://camera/live"),
        ("rtsp://admin:hun?ter2@camera/live", "rtsp://camera/live"),
        ("rtsp://admin:hun#ter2@camera/live", "rtsp://camera/live"),
        ("http://camera/video?user=admin&password=hunter2", "http://camera/video…"),
        ("http://camera/video?p=hunter2", "http://camera/video…"),
        ("http://camera/video#token=hunter2", "http://camera/video…"),
        ("rtsp://camera:554/user=admin_password=hunter2_channel=1", "rtsp://camera:554/user…"),
        ("http://camera/a@b.mp4", "http://camera/a@b.mp4"),
        ("http://[::1]:80/video.mp4", "http://[::1]:80/video.mp4"),
        ("admin:hunter2@camera/live", "…@camera/live"),
        ("//admin:hunter2@camera/live", "…@camera/live"),
        ("rtsp:/admin:hunter2@camera/live", "…@camera/live"),
        ("camera/video?user=admin&password=hunter2", "camera/video…"),
        ("camera:554/user=admin_password=hunter2", "camera:554/user…"),
        ("folder/a@b:c.mp4", "folder/a@b:c.mp4"),
        ('rtspsrc location=rtsp://a:b@c/x user-pw="hunter2" ! decodebin ! appsink', "GStreamer pipeline"),
        ("video.mp4", "video.mp4"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_secrets(address: str, shown: str) -> None:
    assert public_address(address) == shown


def test_the_path_of_an_existing_file_is_shown_whole(tmp_path: Path) -> None:
    path = tmp_path / "day=3" / "a:b@c?.mp4"
    path.parent.mkdir()
    assert public_address(str(path)) != str(path)
    path.touch()
    assert public_address(str(path)) == str(path)


def server(path: str, request: BaseHTTPRequestHandler, folder: Path) -> None:
    if path in ("401", "403", "404", "500"):
        request.send_error(int(path))
    elif path.startswith("live"):
        pictures = jpegs(FRAMES)
        if path == "live-damaged":
            pictures[5] = zeros_inside(pictures[5])
        send_mjpeg(request, pictures)
    elif path.startswith("cut-"):
        content = (folder / path[4:]).read_bytes()
        send(request, content[: len(content) // 2], announced=len(content))
    else:
        send(request, (folder / path).read_bytes())


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with videos, live streams, and errors; yields its host and port."""
    folder = tmp_path_factory.mktemp("served")
    for suffix in (".mp4", ".mkv", ".ts"):
        write_encoded(
            folder / f"video{suffix}", FRAMES, container={"movflags": "faststart"} if suffix == ".mp4" else {}
        )
    (folder / "video.mjpeg").write_bytes(b"".join(jpegs(FRAMES)))
    with http_server(lambda request: server(request.path.strip("/").split("?")[0], request, folder)) as host:
        yield host


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv", "video.ts", "video.mjpeg"])
def test_a_video_over_http_is_finite_and_complete(name: str, host: str) -> None:
    source = open_source(f"http://{host}/{name}")
    assert not source.is_live
    assert len(list(iter(lambda: source.read(None), None))) == 20
    source.close()


@pytest.mark.parametrize(("name", "damaged"), [("live", 0), ("live-damaged", 1)])
def test_a_live_stream_that_ends_is_lost_and_leaves_damaged_frames_out(name: str, damaged: int, host: str) -> None:
    source = open_source(f"http://{host}/{name}")
    assert (source.is_live, source.frames) == (True, None)
    frames = [source.read(None) for _ in range(20 - damaged)]
    assert {frame.position for frame in frames if frame} == {None}
    assert source.damaged == damaged
    with pytest.raises(SourceLostError, match=rf"live\S* stopped after {20 - damaged} frames .*; check the camera"):
        source.read(None)
    source.close()


def test_a_finite_stream_that_breaks_off_is_lost(host: str) -> None:
    source = open_source(f"http://{host}/cut-video.ts")
    assert not source.is_live
    with pytest.raises(SourceLostError, match=r"stopped after \d+ frames \(Input/output error\); check the camera"):
        list(iter(lambda: source.read(None), None))
    source.close()


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://{host}/401", "Server returned 401 Unauthorized .*; check user name and password"),
        ("http://{host}/403", "Server returned 403 Forbidden .*; check user name and password"),
        ("http://{host}/404", "Server returned 404 Not Found; check the address"),
        ("http://{host}/500", "Server returned 5XX .*; check the address"),
        ("http://{closed}/x", "Connection refused; check the address, and that the server is sending"),
        ("rtsp://{closed}/x", "Connection refused; check the address, and that the server is sending"),
        ("nosuch://{closed}/x", "Protocol not found"),
    ],
)
def test_the_reason_is_the_system_s_and_the_password_is_not_shown(
    address: str, message: str, host: str, closed_port: int
) -> None:
    place = address.format(host=host, closed=f"127.0.0.1:{closed_port}").replace("://", f"://admin:{SECRET}@")
    with pytest.raises(SourceError, match=message) as caught:
        open_source(f"{place}?key={SECRET}")
    assert "127.0.0.1" in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_the_password_of_a_stream_that_stops_is_not_shown(host: str) -> None:
    source = open_source(f"http://admin:{SECRET}@{host}/live?key={SECRET}")
    with pytest.raises(SourceLostError) as caught:
        list(iter(lambda: source.read(None), None))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=8) as listener:
        yield int(listener.getsockname()[1])


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_opening_a_silent_server_ends(scheme: str, silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "TIMEOUT_S", 1.0)
    started = time.monotonic()
    with pytest.raises(SourceError, match="cannot be opened: no reply within 1 s; check the address"):
        open_source(f"{scheme}://127.0.0.1:{silent_port}/x")
    assert time.monotonic() - started < 5


def test_a_stream_that_goes_silent_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "TIMEOUT_S", 1.0)

    def pause(request: BaseHTTPRequestHandler) -> None:
        def parts() -> Iterator[bytes]:
            yield from jpegs(FRAMES)
            time.sleep(5)

        send_mjpeg(request, parts())

    with http_server(pause) as host:
        source = open_source(f"http://{host}/live")
        with pytest.raises(SourceLostError, match=r"stopped after 20 frames \(nothing for 1 s\)"):
            list(iter(lambda: source.read(None), None))
        source.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_signal_ends_the_wait_for_a_silent_server(scheme: str, number: int, silent_port: int) -> None:
    script = (
        "import signal, sys; from edge.frames.open import open_source; import av\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print('ready', flush=True); open_source(sys.argv[1])"
    )
    command = [sys.executable, "-c", script, f"{scheme}://127.0.0.1:{silent_port}/x"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) in (1, 130, 143, -number)
        assert time.monotonic() - started < 2


WITHOUT_PYAV = """
import sys
sys.modules["av"] = None
from edge.errors import UnavailableError
from edge.frames.open import open_source
try:
    open_source("rtsp://127.0.0.1:1/x")
except UnavailableError as error:
    print(error)
"""


def test_a_missing_pyav_is_named_with_its_remedy() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_PYAV], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "pip install 'av>=14'" in done.stdout
    assert done.stderr == ""
