"""Routes of the page's data: the WebSocket, pictures, and the JSON API."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from edge.errors import ThresholdError
from edge.live.view.audience import Audience, Viewer
from edge.live.view.pictures import Picture
from edge.live.view.requests import PictureRequest, query_picture_request, read_index
from edge.live.view.session import Session
from edge.live.view.state import ViewState

SNAPSHOT_S = 5.0
"""Longest wait for the next classified frame."""
MJPEG = "multipart/x-mixed-replace; boundary=frame"
NO_DEPLOYMENT = "this run has no deployment to show; start it with `edge run`, or give View a deployment"

log = logging.getLogger(__name__)


class Routes:
    """Endpoints that read a state and serve an audience. Only one of them changes anything: the candidate in force."""

    def __init__(self, state: ViewState, audience: Audience) -> None:
        """Serve these."""
        self._state, self._audience = state, audience

    def all(self) -> list[BaseRoute]:
        """Return all routes."""
        return [
            WebSocketRoute("/ws", self._session),
            Route("/snapshot.jpg", self._snapshot),
            Route("/stream.mjpg", self._stream),
            Route("/api/deployment", self._deployment),
            Route("/api/status", self._status),
            Route("/api/events", self._events),
            Route("/api/candidate", self._choose, methods=["PUT"]),
        ]

    async def _session(self, socket: WebSocket) -> None:
        try:
            with self._audience.viewer() as viewer:
                opening = self._state.to_json() | {"sources": self._audience.sources}
                await Session(socket, viewer, self._audience).run(json.dumps(opening))
        except HTTPException as error:
            await socket.send_denial_response(PlainTextResponse(f"{error.detail}\n", error.status_code))

    async def _snapshot(self, request: Request) -> Response:
        wanted = self._wanted(request)
        with self._audience.viewer() as viewer:
            waiting = asyncio.create_task(self._next_picture(viewer, wanted))
            leaving = asyncio.create_task(_disconnection(request))
            await asyncio.wait((waiting, leaving), timeout=SNAPSHOT_S, return_when=asyncio.FIRST_COMPLETED)
            picture = waiting.result() if waiting.done() else None
            for task in (waiting, leaving):
                task.cancel()
        if picture is None:
            raise HTTPException(503, f"no frame was classified in {SNAPSHOT_S:.0f} s")
        return Response(picture.jpeg, media_type="image/jpeg")

    async def _stream(self, request: Request) -> Response:
        wanted = self._wanted(request)
        if request.method == "HEAD":
            return StreamingResponse(iter(()), media_type=MJPEG)
        self._audience.check_room()  # here, since an error among the parts would come after the headers
        return StreamingResponse(self._parts(wanted), media_type=MJPEG)

    async def _parts(self, wanted: PictureRequest) -> AsyncIterator[bytes]:
        """Yield pictures as MJPEG. The next is requested when the server has sent the one before."""
        with self._audience.viewer() as viewer:
            while (picture := await self._next_picture(viewer, wanted)) is not None:
                length = len(picture.jpeg)
                yield b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % length
                yield picture.jpeg + b"\r\n"

    def _wanted(self, request: Request) -> PictureRequest:
        return query_picture_request(request, len(self._audience.sources))

    async def _next_picture(self, viewer: Viewer, wanted: PictureRequest) -> Picture | None:
        self._audience.request(viewer, wanted)
        while isinstance(item := await viewer.next(), str):
            pass  # messages are for pages
        return item

    async def _deployment(self, request: Request) -> Response:
        if self._state.deployment is None:
            raise HTTPException(404, NO_DEPLOYMENT)
        return JSONResponse(self._state.deployment.to_json())

    async def _status(self, request: Request) -> Response:
        return JSONResponse(self._state.status())

    async def _events(self, request: Request) -> Response:
        return JSONResponse(self._state.events())

    async def _choose(self, request: Request) -> Response:
        """Put a candidate into force, and tell all pages."""
        index = await read_index(request)
        if self._state.deployment is None:
            raise HTTPException(404, NO_DEPLOYMENT)
        try:
            self._state.deployment.choose(index)
        except ThresholdError as error:
            raise HTTPException(400, str(error)) from error
        log.info("thresholds of candidate %d were chosen on the page", index)
        status = self._state.status()
        self._audience.announce(json.dumps({"status": status}))
        return JSONResponse(status)


async def _disconnection(request: Request) -> None:
    """Wait for the client to leave."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
