"""A source that is opened, read and closed in a thread of its own, so that a read that hangs can be left behind."""

import threading
from collections.abc import Callable
from contextlib import suppress
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
"""Seconds to open a source, and again for its first frame: a stream may have to wait for a key frame."""
STOP_POLL_S = 0.025
"""Seconds between two looks at the stop event during a wait."""


class StalledError(SourceLostError):
    """No frame came in time; the source itself reported nothing."""


class _Close:
    """Request to close the source."""


class GuardedSource:
    """A source behind a thread.

    Frames are handed over in memory that is recycled: a frame of an earlier read that comes back as `out` is filled
    again by the thread. Other memory, such as that of a slot, never reaches the thread, which may hang and write to it
    later; frames are copied there.
    """

    _lent: ClassVar[WeakValueDictionary[int, NDArray[Any]]] = WeakValueDictionary()
    """Pixels of frames that were handed over, by identity: memory that threads may fill when it comes back."""

    def __init__(
        self,
        open_source: Callable[[], FrameSource],
        name: str,
        stall_s: float,
        *,
        start_s: float = START_LIMIT_S,
        stop: threading.Event | None = None,
    ) -> None:
        """Prepare a source.

        Args:
            open_source: Opens it.
            name: The source in messages.
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
        self._thread = threading.Thread(target=self._work, args=(open_source,), name=BLOCKING_CALL, daemon=True)

    def open(self) -> None:
        """Open the source.

        Raises:
            StalledError: it has not opened in time.
            EdgeError: it cannot be opened.
        """
        self._thread.start()
        self._source = self._reply(self._start_s, "has not opened")
        if self._source is not None:
            self.is_live, self.frames = self._source.is_live, self._source.frames

    @property
    def damaged(self) -> int:
        """Damaged frames left out so far."""
        return int(getattr(self._source, "damaged", 0))

    @property
    def hangs(self) -> bool:
        """True while the thread of a closed source still runs."""
        return self._ended and self._thread.is_alive()

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame; None at the end, or once the source is stopped or closed.

        Raises:
            StalledError: none came in time.
            SourceError: the source failed.
        """
        if self._ended or self._stop.is_set():
            return None
        is_ours = out is not None and self._lent.get(id(out.pixels)) is out.pixels
        spare = out if is_ours else self._spare
        self._spare = None
        self._requests.put(spare)
        limit_s = self._stall_s if self._frames_read else max(self._stall_s, self._start_s)
        frame = self._reply(limit_s if self.is_live else None, "gave no frame")
        if frame is None:
            return None
        self._frames_read += 1
        return self._handed_over(frame, None if is_ours else out)

    def close(self) -> None:
        """Have the thread close the source; one that hangs does so when its call returns. Idempotent."""
        if not self._ended:
            self._ended = True
            self._requests.put(_Close)

    def _handed_over(self, frame: Frame, out: Frame | None) -> Frame:
        """Return a frame in the caller's memory, where it fits, else in ours."""
        if out is not None and (out.format, out.pixels.shape) == (frame.format, frame.pixels.shape):
            np.copyto(out.pixels, frame.pixels)
            self._spare = frame
            return Frame(out.pixels, frame.format, frame.position)
        self._lent[id(frame.pixels)] = frame.pixels
        return frame

    def _reply(self, limit_s: float | None, event: str) -> Any:
        """Return the thread's reply; None if the source is stopped or closed meanwhile."""
        started = monotonic()
        while not (self._ended or self._stop.is_set()):
            try:
                reply = self._replies.get(timeout=STOP_POLL_S)
            except Empty:
                if limit_s is not None and monotonic() - started >= limit_s:
                    self.close()
                    raise StalledError(
                        f"{self._name} {event} within {limit_s:g} s; check the camera and the network"
                    ) from None
                continue
            if isinstance(reply, BaseException):
                self._ended = True
                raise reply
            self._ended = reply is None
            return reply
        self.close()
        return None

    def _work(self, open_source: Callable[[], FrameSource]) -> None:
        try:
            source = open_source()
        except BaseException as error:
            self._replies.put(error)
            return
        self._replies.put(source)
        try:
            while (request := self._requests.get()) is not _Close:
                frame = source.read(request)
                self._replies.put(frame)
                if frame is None:
                    return
        except BaseException as error:
            self._replies.put(error)
        finally:
            with suppress(Exception):
                source.close()
