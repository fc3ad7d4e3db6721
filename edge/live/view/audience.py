"""Viewers, and the pictures that they have requested."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from starlette.exceptions import HTTPException

from edge.live.view.pictures import SIZES, Picture
from edge.live.view.requests import PictureRequest

MAX_VIEWERS = 100
MAX_WAITING = 256
"""Messages that wait for a viewer; one whose connection takes none for so long is left behind."""

Item = Picture | str
"""A picture, or a message in JSON."""


class Viewer:
    """A receiver of pictures, which come on request only, and of messages."""

    def __init__(self) -> None:
        """Start with nothing to receive."""
        self._items: asyncio.Queue[Item | None] = asyncio.Queue()

    async def next(self) -> Item | None:
        """Wait for the next item; None where the viewer took items so late that it was left behind."""
        return await self._items.get()

    def put(self, item: Item) -> None:
        """Hand an item over, or give the viewer up if too many wait already."""
        waiting = self._items.qsize()
        if waiting < MAX_WAITING:
            self._items.put_nowait(item)
        elif waiting == MAX_WAITING:
            self._items.put_nowait(None)


class Audience:
    """All viewers. It lives in the server's event loop; other threads only look at the requests."""

    def __init__(self) -> None:
        """Start without viewers."""
        self.sources: list[str] = []
        """Sources in the order in which they appeared; messages name them by their index."""
        self._viewers: set[Viewer] = set()
        self._requests: dict[tuple[str, int], set[Viewer]] = {}
        self._attention: dict[str, set[Viewer]] = {}

    def check_room(self) -> None:
        """Check that another viewer may come.

        Raises:
            HTTPException: there are as many as the server admits.
        """
        if len(self._viewers) >= MAX_VIEWERS:
            raise HTTPException(503, f"{MAX_VIEWERS} viewers are connected, which is the limit; close a page")

    @contextmanager
    def viewer(self) -> Iterator[Viewer]:
        """Admit a viewer for the time of the block.

        Raises:
            HTTPException: there are as many as the server admits.
        """
        self.check_room()
        viewer = Viewer()
        self._viewers.add(viewer)
        try:
            yield viewer
        finally:
            self._viewers.remove(viewer)
            _forget(viewer, self._requests)
            _forget(viewer, self._attention)

    def request(self, viewer: Viewer, wanted: PictureRequest) -> None:
        """Send the next picture of a source to a viewer. Idempotent."""
        source = self.sources[wanted.source_index]
        self._requests.setdefault((source, wanted.size), set()).add(viewer)
        if wanted.attention:
            self._attention.setdefault(source, set()).add(viewer)

    def requested_sizes(self, source: str) -> tuple[int, ...]:
        """Return the sizes in which pictures of a source are requested. Called by any thread, for every frame."""
        return tuple(size for size in SIZES if (source, size) in self._requests) if self._requests else ()

    @property
    def wants_attention(self) -> bool:
        """True where attention maps are requested. Called by any thread."""
        return bool(self._attention)

    def deliver(self, source: str, pictures: Mapping[int, Picture]) -> None:
        """Hand pictures of a source over, by size, to those who requested them."""
        self._attention.pop(source, None)
        for size, picture in pictures.items():
            for viewer in self._requests.pop((source, size), ()):
                viewer.put(picture)

    def announce(self, message: str) -> None:
        """Hand a message over to everybody."""
        for viewer in self._viewers:
            viewer.put(message)


def _forget(viewer: Viewer, requests: dict[Any, set[Viewer]]) -> None:
    for key, viewers in list(requests.items()):
        viewers.discard(viewer)
        if not viewers:
            del requests[key]
