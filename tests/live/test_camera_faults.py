"""Real servers that die, freeze, restart, change and lie: the source always comes back, and no password is shown."""

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import psutil
import pytest

import edge
from edge.bundle.bundle import Bundle
from edge.errors import SourceLostError
from edge.frames.address import parse_address
from edge.frames.base import Frame, FrameSource
from edge.frames.jetson import stream_text
from edge.live import reconnect
from edge.live.messages import SourceStatus
from edge.live.sources import open_live
from tests.frames.test_gstreamer import read_all
from tests.support.commands import ROOT, wait_until
from tests.support.servers import CameraServer, MjpegServer, RtspServer
from tests.support.videos import http_server, jpegs, pictures, send_mjpeg, zeros_inside
from tests.support.watchers import Watcher

pytestmark = pytest.mark.services

SECRET = "hunter" + "2"


class Watched:
    """A live source that a thread reads, as the pipeline does: the newest frame, and all changes."""

    def __init__(self, address: str, **settings: float) -> None:
        self.stop = threading.Event()
        self.changes: list[tuple[SourceStatus, str]] = []
        self.reconnects = self.frames_read = 0
        self.size = (0, 0)
        self.error: Exception | None = None
        self.source = self._opened(address, **settings)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def statuses(self) -> list[SourceStatus]:
        """The statuses, without changes of a reason."""
        return [status for status, _ in groupby(status for status, _ in self.changes)]

    def wait_for_frames(self, count: int = 5) -> None:
        """Wait until so many more frames have been read."""
        target = self.frames_read + count
        wait_until(lambda: self.frames_read >= target, f"{count} frames")

    def wait_for(self, status: SourceStatus) -> None:
        wait_until(lambda: self.changes and self.changes[-1][0] == status, status)

    def close(self) -> None:
        self.stop.set()
        self._thread.join(5)
        assert not self._thread.is_alive()
        self.source.close()

    def _opened(self, address: str, give_up_s: float | None = None) -> FrameSource:
        return open_live(address, self.stop, Watcher(self._note), None, give_up_s=give_up_s, skip_bad=False)

    def _note(self, status: SourceStatus, reason: str, reconnects: int) -> None:
        self.reconnects = reconnects  # before the change that a test waits for
        self.changes.append((status, reason))

    def _read(self) -> None:
        slots: list[Frame | None] = [None] * 4
        try:
            while (frame := self.source.read(slots[self.frames_read % 4])) is not None:
                slots[self.frames_read % 4] = frame
                self.size = frame.size
                self.frames_read += 1
        except SourceLostError as error:
            self.error = error


Watch = Callable[..., Watched]


@pytest.fixture
def watch() -> Iterator[Watch]:
    watched: list[Watched] = []

    def start(address: str, **settings: float) -> Watched:
        watched.append(Watched(address, **settings))
        return watched[-1]

    yield start
    for camera in watched:
        camera.close()


@pytest.fixture(params=[RtspServer, MjpegServer], ids=["rtsp", "mjpeg"])
def server(request: pytest.FixtureRequest) -> Iterator[CameraServer]:
    server: CameraServer = request.param()
    yield server
    server.kill()


def test_a_camera_that_dies_comes_back(server: CameraServer, watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    server.start()
    camera = watch(f"{server.address.replace('://', f'://admin:{SECRET}@')}?timeout=3")
    for reconnects in (1, 2):
        camera.wait_for_frames()
        server.kill()
        camera.wait_for("lost")
        server.start()
        camera.wait_for("connected")
        assert camera.reconnects == reconnects
    camera.wait_for_frames()
    assert camera.statuses == ["connected", "lost", "connected", "lost", "connected"]
    assert "(reconnect 2)" in caplog.text
    assert SECRET not in caplog.text + str(camera.changes)


def test_a_camera_may_be_absent_at_start(server: CameraServer, watch: Watch) -> None:
    camera = watch(server.address)
    camera.wait_for("lost")
    server.start()
    camera.wait_for_frames()
    assert camera.statuses == ["lost", "connected"]
    assert camera.reconnects == 0


def test_a_camera_that_freezes_is_opened_again_when_it_thaws(server: CameraServer, watch: Watch) -> None:
    server.start()
    camera = watch(f"{server.address}?timeout=2")
    camera.wait_for_frames()
    server.freeze()
    camera.wait_for("stalled")
    server.thaw()
    camera.wait_for("connected")
    camera.wait_for_frames()
    assert camera.reconnects == 1


def test_a_camera_may_return_at_another_size_and_rate(server: CameraServer, watch: Watch) -> None:
    server.start((320, 240), 30)
    camera = watch(f"{server.address}?timeout=3&rotate=90")
    camera.wait_for_frames()
    assert camera.size == (320, 240)
    server.kill()
    camera.wait_for("lost")
    server.start((640, 352), 10)
    camera.wait_for("connected")
    camera.wait_for_frames()
    assert camera.size == (640, 352)


def test_a_slow_camera_is_not_taken_for_a_stalled_one(server: CameraServer, watch: Watch) -> None:
    server.start((320, 240), 2)
    camera = watch(f"{server.address}?timeout=5")
    camera.wait_for_frames(6)
    assert camera.statuses == ["connected"]


def test_a_camera_that_never_comes_is_given_up_with_its_exit_code(server: CameraServer, watch: Watch) -> None:
    server.start()
    camera = watch(server.address, give_up_s=2)
    camera.wait_for_frames()
    server.kill()
    wait_until(lambda: camera.error, "end of the source")
    assert camera.error is not None
    assert "is given up" in str(camera.error)
    assert isinstance(camera.error, SourceLostError)
    assert camera.error.exit_code == 3


@pytest.mark.parametrize("name", ["carphone_pristine", "bikes"])
def test_a_real_clip_that_is_sent_live_is_read_and_starts_again(name: str, watch: Watch) -> None:
    server = RtspServer()
    try:
        server.start_clip(name)
        camera = watch(f"{server.address}?timeout=3")
        wait_until(lambda: camera.reconnects == 1, "another pass of the clip")
        assert camera.size == {"carphone_pristine": (144, 176), "bikes": (272, 640)}[name]
        assert camera.frames_read > 60
    finally:
        camera.close()
        server.kill()


def test_hundreds_of_outages_leave_no_thread_no_descriptor_and_no_memory(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect, "MAX_DELAY_S", 0.005)
    with http_server(lambda request: send_mjpeg(request, jpegs(pictures(3, 480, 640)))) as host:
        camera = watch(f"http://{host}/live")
        earlier = [resources_after(camera, reconnects) for reconnects in range(40, 80, 4)]
        later = [resources_after(camera, reconnects) for reconnects in range(240, 280, 4)]
        camera.close()
    allowed = Resources(threads=0, descriptors=0, memory_mb=5)
    for before, after, growth in zip(zip(*earlier, strict=True), zip(*later, strict=True), allowed, strict=True):
        assert min(after) <= max(before) + growth  # each varies from one moment to the next


class Resources(NamedTuple):
    threads: int
    descriptors: int
    memory_mb: float


def resources_after(camera: Watched, reconnects: int) -> Resources:
    wait_until(lambda: camera.reconnects >= reconnects, f"{reconnects} reconnects")
    gc.collect()
    memory = psutil.Process().memory_info().rss / 1e6
    return Resources(threading.active_count(), len(os.listdir("/proc/self/fd")), memory)


def huge_jpeg() -> bytes:
    """Return a JPEG of 16,384 x 16,384 pixels."""
    return bytes(cv2.imencode(".jpg", np.zeros((1 << 14, 1 << 14), dtype=np.uint8))[1])


HOSTILE = {
    "1x1": lambda: bytes(cv2.imencode(".jpg", np.zeros((1, 1, 3), dtype=np.uint8))[1]),
    "16k x 16k": huge_jpeg,
    "announces 65500 x 65500": lambda: huge_jpeg().replace(b"\x40\x00\x40\x00", b"\xff\xdc\xff\xdc", 1),
    "zero length": lambda: b"",
    "malformed": lambda: zeros_inside(jpegs(pictures(1))[0]),
    "cut": lambda: jpegs(pictures(1))[0][:200],
    "text": lambda: b"<html>503 Service Unavailable</html>" * 20,
    "PNG": lambda: bytes(cv2.imencode(".png", pictures(1)[0])[1]),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_frames_never_end_the_pipeline(
    kind: str, digits_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    frames = jpegs(pictures(40))
    content = HOSTILE[kind]()

    def stream(request: BaseHTTPRequestHandler) -> None:
        hostile = [frame for pair in ((content, frame) for frame in frames) for frame in pair]
        send_mjpeg(request, [*frames, *hostile[:12], *frames])

    stop, labels, sizes = threading.Event(), [], set()
    with http_server(stream) as host, edge.load(digits_bundle.path, backend="onnxruntime") as classifier:
        source = open_live(f"http://{host}/live", stop, Watcher(), None, give_up_s=20, skip_bad=False)
        with closing(classifier.stream(source, policy="all")) as results:
            for result in results:
                labels.append(result.label)
                sizes.add(result.copy_frame().size)
                if len(labels) == 200:
                    break
    assert len(labels) == 200
    assert sizes <= {(96, 128), (1, 1)}


CLOCK = """
import sys, threading, time
from edge.live.sources import open_live
from tests.support.watchers import Watcher

changes, jumps, last = [], 0, time.time()
stop = threading.Event()
source = open_live("test://?size=64x48&rate=50", stop, Watcher(lambda *change: changes.append(change)), None,
                   give_up_s=3, skip_bad=False)
for index in range(150):
    if index in (50, 100):
        with open(sys.argv[1], "w") as file:
            file.write("+400d" if index == 50 else "-400d")
    assert source.read(None) is not None
    jumps, last = jumps + (abs(time.time() - last) > 86400), time.time()
print(jumps, changes)
"""


def test_jumps_of_the_wall_clock_are_not_noticed(tmp_path: Path) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    (tmp_path / "offset").write_text("+0")
    environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(tmp_path / "offset"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CLOCK, tmp_path / "offset"], env=os.environ | environment, cwd=ROOT, text=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.split(" ", 1) == ["2", "[('connected', '', 0)]\n"], done.stderr


@pytest.mark.parametrize("rotate", [0, 90])
def test_the_pipeline_for_a_jetson_reads_a_real_stream_with_other_decoders(rotate: int) -> None:
    """Run the pipeline's text with the elements of this machine in the place of those of a Jetson."""
    server = RtspServer()
    try:
        server.start_frames(200, (640, 352))
        text = stream_text(parse_address(f"{server.address}?rotate={rotate}"), "h264")
        assert "nvv4l2decoder" in text
        for element, other in {
            "nvv4l2decoder": "avdec_h264",
            "nvvidconv flip-method=3": "videoconvert ! videoflip video-direction=90r ! videoconvert",
            "nvvidconv": "videoconvert",
        }.items():
            text = text.replace(element, other)
        report = read_all(text)
    finally:
        server.kill()
    height, width = (352, 640) if rotate == 0 else (640, 352)
    assert len(report["frames"]) > 10
    assert {tuple(shape) for _, shape in report["frames"]} == {(height * 3 // 2, width)}
    assert report["is_live"]
    assert report["code"] == 3
