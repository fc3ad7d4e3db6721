"""A web server in a thread of its own."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import uvicorn
import websockets  # noqa: F401 - fails here where it is missing, not later in the thread of the server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from edge.errors import OutputError, described
from edge.live.connections import ConnectionWatch, LimitedProtocol

TICK_S = 1.0
START_S = 0.005
"""Time between two checks that the server has started."""
DISCONNECT_S, STOP_S = 0.01, 0.4
"""Duration of each step of closing connections, and longest duration of `stop`."""
MAX_MESSAGE_BYTES = 1024
"""Size of a client's message over a WebSocket."""

log = logging.getLogger(__name__)


class WebServer:
    """An HTTP server that answers on an address from `start` to `stop`."""

    def __init__(
        self,
        host: str,
        port: int,
        routes: Sequence[BaseRoute],
        *,
        guard: Callable[[ASGIApp], ASGIApp],
        tick: Callable[[], None],
    ) -> None:
        """Prepare the application.

        Args:
            host: Address to listen on.
            port: Port; 0 takes a free one.
            routes: Routes of requests and WebSockets.
            guard: Wraps the finished application, and so sees every response, that to an internal error too.
            tick: Called every second in the server's event loop; an error does not end the calls.
        """
        self._host, self._port, self._tick = host, port, tick
        self._application = guard(Starlette(routes=list(routes), exception_handlers={Exception: _internal_error}))
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._error: BaseException | None = None

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    def start(self) -> None:
        """Listen, and answer from now on.

        Raises:
            OutputError: the address cannot be listened on, or the server does not start.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            listener = socket.create_server((self._host, self._port), family=family)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"{self.url} cannot be served ({reason}); give another address or port") from error
        self._port = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(listener,), name="web server", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            self._thread = None
            reason = described(self._error)
            raise OutputError(f"{self.url} cannot be served ({reason}); check the installed uvicorn") from self._error

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the server's event loop, soon; never after the end."""
        with suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(function, *arguments)

    def stop(self) -> None:
        """Close the connections and end the thread. Idempotent."""
        if self._thread is not None:
            self.call(self._stopping.set)
            self._thread.join(STOP_S)

    def _run(self, listener: socket.socket) -> None:
        try:
            with listener:
                asyncio.run(self._serve(listener))
        except BaseException as error:  # uvicorn also exits
            if self._started.is_set():
                log.exception("the server of %s ended", self.url)
            else:
                self._error = error
        finally:
            self._started.set()

    async def _serve(self, listener: socket.socket) -> None:
        """Answer until `stop`. The server's own end waits for clients and for its clock."""
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        config = uvicorn.Config(
            self._application, loop="asyncio", http=LimitedProtocol, ws="websockets-sansio", lifespan="off",
            log_config=None, log_level="critical", access_log=False, server_header=False, proxy_headers=False,
            ws_max_size=MAX_MESSAGE_BYTES, ws_per_message_deflate=False,
        )  # fmt: skip
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(START_S)
        if not serving.done():
            self._started.set()
        tasks = [serving, asyncio.create_task(self._tick_forever(server)), asyncio.create_task(self._stopping.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        is_stopped = self._stopping.is_set()
        for task in tasks:
            task.cancel()
        for listening in getattr(server, "servers", ()):  # none if it did not start
            listening.close()
        await _disconnect(server)
        if not is_stopped:
            serving.result()
            raise RuntimeError("it was not stopped")

    async def _tick_forever(self, server: uvicorn.Server) -> None:
        """Call the tick; an error is logged where it differs from the last."""
        watch, last_reason = ConnectionWatch(), ""
        while True:
            await asyncio.sleep(TICK_S)
            try:
                watch.cut_off(server.server_state.connections)
                self._tick()
            except Exception as error:
                reason = described(error)
                if reason != last_reason:
                    log.warning("the tick of %s failed (%s); it continues", self.url, reason)
                last_reason = reason


async def _disconnect(server: uvicorn.Server) -> None:
    """Close all connections; those whose client does not read the rest are cut off."""
    connections = server.server_state.connections
    await asyncio.sleep(DISCONNECT_S)  # clients that were just accepted
    for connection in list(connections):
        connection.transport.close()
    await asyncio.sleep(DISCONNECT_S)
    while connections:  # until each has lost its transport, which must not outlive the loop
        for connection in list(connections):
            connection.transport.abort()
        await asyncio.sleep(DISCONNECT_S)


async def _internal_error(request: Request, error: Exception) -> Response:
    log.warning("%s cannot be answered (%s)", request.url.path, described(error))
    return PlainTextResponse("internal error", status_code=500)
