"""The web server: its start, its tick, and connections of clients that misbehave."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from edge.errors import OutputError
from edge.live import connections, web
from edge.live.view import requests as requests_module
from edge.live.view.requests import read_body
from edge.live.web import WebServer
from tests.support.commands import TIMEOUT_S, wait_until


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TICK_S", 0.02)
    monkeypatch.setattr(connections, "IDLE_S", 0.3)


async def echo(request: Request) -> Response:
    return PlainTextResponse(await read_body(request))


@contextmanager
def serving(tick: Callable[[], None] = lambda: None) -> Iterator[WebServer]:
    server = WebServer(
        "127.0.0.1", 0, [Route("/", echo, methods=["PUT"])], guard=lambda application: application, tick=tick
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


def client_of(server: WebServer) -> Any:
    host, port = server.url.removeprefix("http://").split(":")
    return closing(socket.create_connection((host, int(port)), timeout=TIMEOUT_S))


def put(server: WebServer, body: str) -> bytes:
    with closing(HTTPConnection(server.url.removeprefix("http://"), timeout=TIMEOUT_S)) as connection:
        connection.request("PUT", "/", body, {"connection": "close"})
        return connection.getresponse().read()


def is_cut_off(client: socket.socket) -> bool:
    """Read until the server ends the connection; a test fails by its timeout if it does not."""
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


HEAD = b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: ", HEAD + b"ok", HEAD + b"okPUT"])
def test_a_connection_without_a_request_is_cut_off(sent: bytes) -> None:
    with serving() as server, client_of(server) as client:
        client.sendall(sent)
        assert is_cut_off(client)
        assert put(server, "ok") == b"ok"


def test_a_body_that_does_not_come_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests_module, "BODY_S", 0.1)
    with serving() as server, client_of(server) as client:
        client.sendall(HEAD + b"o")
        assert client.recv(65536).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("limit", ["MAX_CONNECTIONS", "MAX_CLIENT_CONNECTIONS"])
def test_connections_above_the_limit_are_cut_off_at_once(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(connections, limit, 3)
    monkeypatch.setattr(connections, "IDLE_S", 1000)
    monkeypatch.setattr(connections, "is_loopback", lambda host: False)
    with serving() as server, ExitStack() as stack:
        clients = [stack.enter_context(client_of(server)) for _ in range(4)]
        assert is_cut_off(clients[-1])
        clients[0].close()
        clients[1].sendall(HEAD + b"ok")
        assert clients[1].recv(65536).startswith(b"HTTP/1.1 200")


def test_a_failing_tick_is_called_again_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def tick() -> None:
        calls.append(len(calls))
        raise ValueError("no meter" if len(calls) < 5 else "no meter any more")

    with caplog.at_level(logging.WARNING), serving(tick):
        wait_until(lambda: len(calls) > 8, "ticks")
    reasons = [record.getMessage() for record in caplog.records]
    assert [text.partition("(")[2] for text in reasons] == [
        "ValueError: no meter); it continues",
        "ValueError: no meter any more); it continues",
    ]


@pytest.mark.parametrize("error", [RuntimeError("no loop"), SystemExit(3)])
def test_a_server_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(config: uvicorn.Config) -> None:
        raise error

    monkeypatch.setattr(uvicorn.Config, "load", fail)
    with pytest.raises(OutputError, match=f"cannot be served .{type(error).__name__}: {error}"), serving():
        pass


def test_a_server_that_ends_early_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    is_ending = threading.Event()

    async def end(server: uvicorn.Server) -> None:
        while not is_ending.is_set():
            await asyncio.sleep(0.01)
        raise RuntimeError("the clock stopped")

    monkeypatch.setattr(uvicorn.Server, "main_loop", end)
    with caplog.at_level(logging.ERROR), serving():
        is_ending.set()
        wait_until(lambda: "the clock stopped" in caplog.text, "the error")
