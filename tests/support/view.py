"""Servers of the page, runs that they show, and clients without a browser."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray
from websockets.sync.client import ClientConnection, connect

from edge.bundle.bundle import Bundle
from edge.bundle.manifest import Candidate
from edge.live import run
from edge.live.deployment import Deployment
from edge.live.view.output import View
from edge.live.view.pictures import HEADER_LENGTH
from tests.support.commands import TIMEOUT_S, wait_until

CANDIDATES = (
    Candidate((2.0, 2.0), 0.01, 0.002, 1.0),
    Candidate((0.9, 0.8), 0.01, 0.02, 0.6),
    Candidate((0.0, 0.0), 0.01, 0.03, 0.1),
)
"""Candidates of three exits: the first never leaves early, the last always at once."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def ask(view: View, path: str, method: str = "GET", body: str | bytes | None = None, **headers: str) -> Answer:
    """Send a request; underscores in the names of headers are hyphens. Redirections are not followed."""
    connection = HTTPConnection(urlsplit(view.name).netloc, timeout=TIMEOUT_S)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"connection": "close", **named})
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class Page:
    """A client of the WebSocket, which keeps no message."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def request(self, index: int = 0, size: int = 320, *, attention: bool = False) -> None:
        self.socket.send(json.dumps({"next": index, "size": size, "attention": attention}))

    def message(self, key: str) -> Any:
        """Return the value of the next message with a key."""
        deadline = monotonic() + TIMEOUT_S
        while True:
            assert monotonic() < deadline, f"no message with {key!r}"
            message = self.socket.recv(TIMEOUT_S)
            if isinstance(message, str) and key in (fields := json.loads(message)):
                return fields[key]

    def sources(self) -> list[str]:
        """Wait for the first sources."""
        while not (sources := self.message("sources")):
            pass
        return sources  # type: ignore[no-any-return]

    def picture(self) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        """Return the header and the pixels of the next picture."""
        while True:
            message = self.socket.recv(TIMEOUT_S)
            if isinstance(message, bytes):
                return split_picture(message)


def split_picture(message: bytes) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    (length,) = HEADER_LENGTH.unpack_from(message)
    end = HEADER_LENGTH.size + length
    pixels = cv2.imdecode(np.frombuffer(message[end:], np.uint8), cv2.IMREAD_COLOR)
    return json.loads(message[HEADER_LENGTH.size : end]), np.asarray(pixels, dtype=np.uint8)


@contextmanager
def page(view: View, origin: Any = None, **headers: str) -> Iterator[Page]:
    """Open the WebSocket."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = view.name.replace("http://", "ws://") + "/ws"
    with connect(
        url, origin=origin, additional_headers=named, compression=None, max_size=None, proxy=None, close_timeout=1
    ) as socket:
        yield Page(socket)


@contextmanager
def running(deployment: Deployment, *sources: Any, port: int = 0) -> Iterator[View]:
    """Run with a page until the end of the block; the run must not end before, and without an error."""
    view = View("127.0.0.1", port, timeout_s=5, deployment=deployment)
    stop, errors = threading.Event(), []

    def work() -> None:
        try:
            run(deployment.classifier, sources, [view], stop=stop)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(lambda: view._audience.sources or not thread.is_alive(), "the first frame")
        yield view
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join(TIMEOUT_S)
        assert not errors


def with_candidates(bundle: Bundle, candidates: tuple[Candidate, ...] = CANDIDATES) -> Bundle:
    """Return a bundle whose fp32 precision has these candidates."""
    spec = bundle.precision("fp32")
    thresholds = replace(spec.thresholds, values=candidates[-1].values, candidates=candidates)
    precisions = bundle.manifest.precisions | {"fp32": replace(spec, thresholds=thresholds)}
    return replace(bundle, manifest=replace(bundle.manifest, precisions=precisions))
