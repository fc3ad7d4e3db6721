"""Time from a camera's return to the first answer, after outages of a camera that sends JPEGs over HTTP."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic, sleep
from typing import Any

import cv2

from edge.errors import EdgeError
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.live import run
from edge.live.messages import Message, Observation

RATE, OUTAGE_S, OUTAGES = 30.0, 5.0, 5
PATIENCE_S = 30.0
"""Longest wait for an answer."""


class MjpegServer:
    """A camera that sends JPEGs over HTTP, and can go away."""

    def __init__(self, pictures: Sequence[Frame], port: int = 0) -> None:
        """Encode the pictures, and listen; port 0 takes a free one."""
        self._jpegs = [cv2.imencode(".jpg", picture.pixels)[1].tobytes() for picture in pictures]
        self._is_up = False
        self.port = port
        self.start()

    def start(self) -> None:
        """Listen, and send from now on."""
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with suppress(OSError):
                    for index in range(10**9):
                        if not camera._is_up:
                            break
                        jpeg = camera._jpegs[index % len(camera._jpegs)]
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        self.wfile.write(head.encode() + jpeg + b"\r\n")
                        sleep(1 / RATE)

            def log_message(self, *words: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._is_up = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Close all connections, and listen no more."""
        self._is_up = False
        self._server.shutdown()
        self._server.server_close()


def recovery(classifier: Classifier, pictures: Sequence[Frame]) -> dict[str, Any]:
    """Return the seconds from each return of the camera to the first answer to a frame captured after it.

    Every JPEG is a key frame, so that the key-frame interval is a frame time.

    Raises:
        EdgeError: there is no answer.
    """
    server, stop, answers = MjpegServer(pictures), threading.Event(), Answers()
    address = f"http://127.0.0.1:{server.port}/stream"
    work = threading.Thread(
        target=run, args=(classifier, [address]), kwargs={"stop": stop, "on_message": answers.add}, daemon=True
    )
    work.start()
    times = []
    try:
        answers.wait_after(monotonic())
        for _ in range(OUTAGES):
            server.stop()
            sleep(OUTAGE_S)
            returned = monotonic()
            server.start()
            times.append(answers.wait_after(returned) - returned)
            sleep(1.0)
    finally:
        stop.set()
        server.stop()
        work.join()
    return {"rate": RATE, "outage_s": OUTAGE_S, "outages": OUTAGES, "recovery_s": max(times), "recoveries_s": times}


class Answers:
    """The newest answers of a run."""

    def __init__(self) -> None:
        """Start without any."""
        self._changed, self._captured_s, self._answered_s = threading.Condition(), 0.0, 0.0

    def add(self, message: Message) -> None:
        """Note an observation."""
        if isinstance(message, Observation):
            with self._changed:
                self._captured_s, self._answered_s = message.result.captured_s, monotonic()
                self._changed.notify_all()

    def wait_after(self, moment_s: float) -> float:
        """Wait for an answer to a frame captured after a moment, and return its own moment.

        Raises:
            EdgeError: there is none in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._captured_s > moment_s, PATIENCE_S):
                raise EdgeError(f"no answer within {PATIENCE_S:.0f} s after the camera returned")
            return self._answered_s
