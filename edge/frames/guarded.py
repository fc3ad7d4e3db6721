"""A source that is opened, read and closed in its own thread, so that a hanging read can be abandoned."""

import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, ClassVar, cast
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceLostError
from edge.frames.base import Frame, FrameSource
from edge.system import BLOCKING_CALL

START_LIMIT_S = 20.0
"""Seconds to open a source, and again to receive its first frame: a stream may have to wait for a key frame."""
STOP_POLL_S = 0.025
"""Seconds between checks of the stop event during a wait."""


class StalledError(SourceLostError):
    """No frame arrived in time, and the source reported no error."""


class _Signal(Enum):
    CLOSE = "request to close the source"
    NO_REPLY = "no reply in time"


class GuardedSource:
    """A source that its own thread reads.

    Frames are returned in memory that the thread reuses if a later read passes it as `out`. Other memory, such as that
    of a slot, is never passed to the thread, which may hang and write to it later; frames are copied there.
    """

    _lent: ClassVar[WeakValueDictionary[int, NDArray[Any]]] = WeakValueDictionary()
    """Pixels of returned frames, by identity: memory that threads may fill again when it is passed as `out`."""
    _lost: ClassVar[WeakValueDictionary[int, NDArray[Any]]] = WeakValueDictionary()
    """Pixels that an abandoned thread may still write to, so that they cannot be used again."""

    def __init__(
        self,
        open_source: Callable[[], FrameSource],
        name: str,
        stall_s: float,
        *,
        start_s: float = START_LIMIT_S,
        stop: threading.Event | None = None,
    ) -> None:
        """Prepare a source; `open` or the first read opens it.

        Args:
            open_source: Opens the source.
            name: The source, for messages.
            stall_s: Longest wait for a frame.
            start_s: Longest wait for the source to open, and for its first frame.
            stop: Ends every wait; the source then has no more frames.
        """
        self.is_live, self.frames = True, cast("int | None", None)
        self._name, self._stall_s, self._start_s = name, stall_s, start_s
        self._stop = stop or threading.Event()
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._replies: SimpleQueue[Any] = SimpleQueue()
        self._source: FrameSource | None = None
        self._ended = False
        self._frames_read = 0
        self._spare: Frame | None = None
        self._requested: Frame | None = None
        self._thread = threading.Thread(target=self._work, args=(open_source,), name=BLOCKING_CALL, daemon=True)
        self._thread.start()
        self._started_at = monotonic()

    @property
    def damaged(self) -> int:
        """Damaged frames left out so far."""
        return int(getattr(self._source, "damaged", 0))

    @property
    def hangs(self) -> bool:
        """True while the thread of a closed source still runs."""
        return self._ended and self._thread.is_alive()

    def open(self, wait_s: float = float("inf")) -> None:
        """Wait until the source is open or stopped, for `wait_s` seconds at most; it is then still being opened.

        Raises:
            StalledError: the source was not opened in time.
            EdgeError: the source cannot be opened.
        """
        left_s = self._started_at + self._start_s - monotonic()
        reply = self._reply(min(left_s, wait_s))
        if reply is _Signal.NO_REPLY:
            if left_s <= wait_s:
                raise self._stalled(f"has not opened within {self._start_s:g} s")
        elif reply is not None:
            self._source = reply
            self.is_live, self.frames = reply.is_live, reply.frames

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame; None at the end, or once the source is stopped or closed.

        Raises:
            StalledError: no frame arrived in time.
            SourceError: the source failed.
        """
        if self._source is None:
            self.open()
        if self._ended or self._stop.is_set():
            return None
        recycled, out = self._recycled(out)
        self._requested, self._spare = recycled or self._spare, None
        self._requests.put(self._requested)
        limit_s = self._stall_s if self._frames_read else max(self._stall_s, self._start_s)
        frame = self._reply(limit_s if self.is_live else float("inf"))
        if frame is _Signal.NO_REPLY:
            raise self._stalled(f"gave no frame within {limit_s:g} s")
        if frame is None:
            return None
        self._requested = None
        self._frames_read += 1
        return self._in_memory(frame, out)

    def close(self) -> None:
        """Request the thread to close the source, which a hanging thread does when its call returns. Idempotent."""
        if not self._ended:
            self._ended = True
            if self._requested is not None:
                self._lost[id(self._requested.pixels)] = self._requested.pixels
            self._requests.put(_Signal.CLOSE)

    def _recycled(self, out: Frame | None) -> tuple[Frame | None, Frame | None]:
        """Return `out` as memory that the thread may fill, or as memory of the caller."""
        if out is None or self._lost.get(id(out.pixels)) is out.pixels:
            return None, None
        if self._lent.get(id(out.pixels)) is not out.pixels:
            return None, out
        del self._lent[id(out.pixels)]
        return out, None

    def _in_memory(self, frame: Frame, out: Frame | None) -> Frame:
        """Return a frame in the caller's memory if it fits, else in the thread's memory."""
        if out is not None and (out.format, out.pixels.shape) == (frame.format, frame.pixels.shape):
            np.copyto(out.pixels, frame.pixels)
            self._spare = frame
            return Frame(out.pixels, frame.format, frame.position)
        self._lent[id(frame.pixels)] = frame.pixels
        return frame

    def _reply(self, limit_s: float) -> Any:
        """Return the thread's reply; None at the end, or once the source is stopped or closed."""
        until = monotonic() + limit_s
        while not (self._ended or self._stop.is_set()):
            try:
                reply = self._replies.get(timeout=max(0.0, min(STOP_POLL_S, until - monotonic())))
            except Empty:
                if monotonic() >= until:
                    return _Signal.NO_REPLY
                continue
            self._ended = reply is None or isinstance(reply, BaseException)
            if isinstance(reply, BaseException):
                raise reply
            return reply
        self.close()
        return None

    def _stalled(self, event: str) -> StalledError:
        self.close()
        return StalledError(f"{self._name} {event}; check the camera and the network")

    def _work(self, open_source: Callable[[], FrameSource]) -> None:
        try:
            source = open_source()
        except BaseException as error:
            self._replies.put(error)
            return
        self._replies.put(source)
        try:
            while (request := self._requests.get()) is not _Signal.CLOSE:
                frame = source.read(request)
                self._replies.put(frame)
                if frame is None:
                    return
        except BaseException as error:
            self._replies.put(error)
        finally:
            with suppress(Exception):
                source.close()
