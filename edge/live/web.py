"""A web server in a thread of its own."""

import logging
import socket
import threading
from collections.abc import Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from edge.errors import OutputError, one_line

STOP_S = 0.4
"""Longest wait for the server's thread at the end."""

log = logging.getLogger(__name__)


class WebServer:
    """An HTTP server that answers on an address from `start` to `stop`."""

    def __init__(self, host: str, port: int, routes: Sequence[BaseRoute]) -> None:
        """Prepare the application; port 0 takes a free one."""
        self._host, self._port = host, port
        self._application = Starlette(routes=list(routes), exception_handlers={Exception: _internal_error})
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

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
        config = uvicorn.Config(
            self._application, loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None,
            log_level="critical", access_log=False, timeout_graceful_shutdown=0,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="web server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the connections and end the thread. Idempotent."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(STOP_S)


async def _internal_error(request: Request, error: Exception) -> Response:
    log.warning("%s cannot be answered (%s: %s)", request.url.path, type(error).__name__, one_line(str(error)))
    return PlainTextResponse("internal error", status_code=500)
