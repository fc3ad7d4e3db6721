"""Small videos of every container that the tests need, made with PyAV, and a server that sends them."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np

RATE = 30
PIXEL_FORMATS = {"mjpeg": "yuvj420p", "ffv1": "bgr0"}
"""Pixel formats of codecs; yuv420p of all others."""


def pictures(count: int, height: int = 96, width: int = 128) -> list[np.ndarray]:
    """Return pictures of noise in large cells, each of its own."""
    generator = np.random.default_rng(0)
    cells = generator.integers(0, 256, (count, height // 16, width // 16, 3), dtype=np.uint8)
    return [cell.repeat(16, axis=0).repeat(16, axis=1) for cell in cells]


def write_encoded(
    path: Path,
    frames: Iterable[np.ndarray],
    codec: str = "libx264",
    times: Iterable[float] | None = None,
    key_every: int = 12,
    container: dict[str, str] | None = None,
) -> Path:
    """Encode frames, at the times in seconds if there are any; the format follows from the path's suffix."""
    frames = list(frames)
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = PIXEL_FORMATS.get(codec, "yuv420p")
        stream.gop_size = key_every
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, pixels in zip(times or (index / RATE for index in range(len(frames))), frames, strict=False):
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def jpegs(frames: Iterable[np.ndarray]) -> list[bytes]:
    return [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]


def zeros_inside(jpeg: bytes) -> bytes:
    """Replace the last third of a JPEG by zeros, its end marker aside."""
    third = len(jpeg) // 3
    return jpeg[: len(jpeg) - third] + bytes(third - 2) + jpeg[-2:]


@contextmanager
def http_server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Serve GET requests on this machine with a function of the request; yields host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(ConnectionError):  # the client went away
                answer(self)

        def log_message(self, *words: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(request: BaseHTTPRequestHandler, content: bytes, *, announced: int | None = None) -> None:
    """Send a file, of which more may be announced than is sent."""
    request.send_response(200)
    request.send_header("Content-Length", str(len(content) if announced is None else announced))
    request.end_headers()
    request.wfile.write(content)


def send_mjpeg(request: BaseHTTPRequestHandler, pictures: Iterable[bytes]) -> None:
    """Send JPEGs as cameras stream them over HTTP."""
    request.send_response(200)
    request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
    request.end_headers()
    for picture in pictures:
        header = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)
        request.wfile.write(header + picture + b"\r\n")
