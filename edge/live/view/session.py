"""The WebSocket of a page: messages as they come, pictures as the page requests them."""

import asyncio
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect

from edge.errors import described
from edge.live.limits import RateLimit
from edge.live.view.audience import Audience, Viewer
from edge.live.view.requests import parse_picture_request

REQUESTS_PER_S, REQUEST_BURST = 200, 400
"""A page of many cameras requests ten pictures a second of each."""
POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013
"""Codes of WebSocket's closing handshake (RFC 6455)."""
MAX_REASON_BYTES = 120

log = logging.getLogger(__name__)


class Session:
    """The connection of a page, from its acceptance to its end."""

    def __init__(self, socket: WebSocket, viewer: Viewer, audience: Audience) -> None:
        """Serve a viewer."""
        self._socket, self._viewer, self._audience = socket, viewer, audience
        self._limit = RateLimit(REQUESTS_PER_S, REQUEST_BURST)

    async def run(self, opening: str) -> None:
        """Send an opening message, then serve until the page leaves, sends a malformed request, or stops reading."""
        await self._socket.accept()
        tasks = [asyncio.create_task(self._send(opening)), asyncio.create_task(self._receive())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for error in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(error, Exception) and not isinstance(error, WebSocketDisconnect):
                    log.warning("a page's connection ended (%s)", described(error))

    async def _send(self, opening: str) -> None:
        await self._socket.send_text(opening)
        while (item := await self._viewer.next()) is not None:
            if isinstance(item, str):
                await self._socket.send_text(item)
            else:
                await self._socket.send_bytes(item.message)
        await self._socket.close(TRY_AGAIN_LATER, "messages were not taken")

    async def _receive(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                self._take(message.get("text"))
            except ValueError as error:
                reason = str(error).encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore")
                await self._socket.close(POLICY_VIOLATION, reason)
                return

    def _take(self, text: str | None) -> None:
        """Take a request.

        Raises:
            ValueError: it is malformed, or comes too soon.
        """
        if not self._limit.takes():
            raise ValueError(f"more than {REQUESTS_PER_S} requests a second")
        if text is None:
            raise ValueError("not text")
        self._audience.request(self._viewer, parse_picture_request(text, len(self._audience.sources)))
