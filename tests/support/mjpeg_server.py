"""A camera that streams MJPEG over HTTP: `mjpeg_server.py PORT WIDTH HEIGHT RATE`. Prints `ready` when it listens."""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import cv2
import numpy as np


def picture(index: int, width: int, height: int) -> bytes:
    """Return a JPEG with a bar that moves."""
    pixels = np.full((height, width, 3), 40, dtype=np.uint8)
    left = 4 * index % width
    pixels[:, left : left + 16] = (0, 255, index % 256)
    return bytes(cv2.imencode(".jpg", pixels)[1])


def main() -> None:
    port, width, height = (int(word) for word in sys.argv[1:4])
    rate = float(sys.argv[4])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            started = time.monotonic()
            for index in count():
                jpeg = picture(index, width, height)
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
                self.wfile.write(jpeg + b"\r\n")
                time.sleep(max(0.0, started + (index + 1) / rate - time.monotonic()))

        def log_message(self, *words: object) -> None:
            """Print nothing."""

    ThreadingHTTPServer.allow_reuse_address = True
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
