"""A web server in a thread of its own."""

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import uvicorn
import websockets  # noqa: F401 - by uvicorn, but only in the server's thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from edge.errors import OutputError, one_line

DISCONNECT_S, STOP_S = 0.01, 0.4
"""Times at the end for each step of closing connections, and at most for all of it."""
MAX_CONNECTIONS = 500
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
        middleware: Sequence[Middleware],
        background: Callable[[], Awaitable[None]],
    ) -> None:
        """Prepare the application.

        Args:
            host: Address to listen on.
            port: Port; 0 takes a free one.
            routes: Routes of requests and WebSockets.
            middleware: Middleware around all routes, the outermost first.
            background: Work of the server's event loop from start to stop.
        """
        self._host, self._port, self._background = host, port, background
        self._application = Starlette(
            routes=list(routes), middleware=list(middleware), exception_handlers={Exception: _internal_error}
        )
        self._thread: threading.Thread | None = None
        self._started = threading.Event()

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    def start(self) -> None:
        """Listen, and answer from now on.

        Raises:
            OutputError: the address cannot be listened on.
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
        with listener:
            asyncio.run(self._serve(listener))

    async def _serve(self, listener: socket.socket) -> None:
        """Answer until `stop`. The server's own end waits for clients and for its clock."""
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        config = uvicorn.Config(
            self._application, loop="asyncio", http="h11", ws="websockets-sansio", lifespan="off", log_config=None,
            log_level="critical", access_log=False, server_header=False, limit_concurrency=MAX_CONNECTIONS,
            ws_max_size=MAX_MESSAGE_BYTES, ws_per_message_deflate=False,
        )  # fmt: skip
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        background = asyncio.create_task(self._run_background())
        self._started.set()
        await self._stopping.wait()
        serving.cancel()
        background.cancel()
        for listening in getattr(server, "servers", ()):  # none if it has not started yet
            listening.close()
        await _disconnect(server)

    async def _run_background(self) -> None:
        try:
            await self._background()
        except Exception:
            log.exception("the work of %s beside requests ended", self.url)


async def _disconnect(server: uvicorn.Server) -> None:
    """Close all connections; those whose client does not read the rest are cut off."""
    connections = server.server_state.connections
    await asyncio.sleep(DISCONNECT_S)  # clients that were just accepted
    for connection in list(connections):
        connection.transport.close()
    await asyncio.sleep(DISCONNECT_S)
    for connection in list(connections):
        connection.transport.abort()
    await asyncio.sleep(DISCONNECT_S)


async def _internal_error(request: Request, error: Exception) -> Response:
    log.warning("%s cannot be answered (%s: %s)", request.url.path, type(error).__name__, one_line(str(error)))
    return PlainTextResponse("internal error", status_code=500)
