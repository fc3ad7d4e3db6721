"""Reconnection: cameras and streams that are absent, die, freeze or return changed."""

import logging
import threading
from collections.abc import Callable
from time import monotonic

from edge.errors import AddressError, EdgeError, SourceLostError, UnavailableError, described
from edge.frames.base import Frame, FrameSource
from edge.frames.guarded import START_LIMIT_S, STOP_POLL_S, GuardedSource, StalledError
from edge.live.backoff import Backoff
from edge.live.freeze import FreezeDetector
from edge.live.messages import SourceStatus

STALL_S = 5.0
"""Seconds without a frame after which a live source counts as stalled."""
MIN_DELAY_S, MAX_DELAY_S = 0.1, 1.0
"""Seconds between two attempts: the first, and the most in the first minute of an outage."""
PATIENCE_S, MAX_LATE_DELAY_S = 60.0, 30.0
"""Seconds after which an outage is a long one, and the most between two of its attempts."""
STABLE_S = 10.0
"""Seconds for which a connection gives frames until it ends an outage; of a camera that flaps, none does."""
FROZEN_S = 30.0
"""Seconds with the same pixels until a picture counts as frozen. A still scene has noise; a video encoder may repeat
the picture of one without noise up to the next key frame, which comes every few seconds."""
MAX_HANGING = 4
"""Connections that may hang in a library at the same time; further attempts wait for these to end."""

OnChange = Callable[[SourceStatus, str, int], None]
"""Receives the new status of a source, the reason, and the number of its reconnects."""

log = logging.getLogger(__name__)


def ignore_change(status: SourceStatus, reason: str, reconnects: int) -> None:
    """Do nothing about a change."""


def ignore_attempt() -> None:
    """Do nothing about an attempt."""


class ReconnectingSource:
    """A live source that is opened again whenever it fails or stalls.

    It learns from the connection that gives the first frame if the source is live at all: one that is not is read
    through, and its end and its errors are final.
    """

    frames: int | None

    def __init__(
        self,
        open_source: Callable[[], FrameSource],
        name: str,
        *,
        stop: threading.Event,
        stall_s: float = STALL_S,
        give_up_s: float | None = None,
        on_change: OnChange = ignore_change,
        on_attempt: Callable[[], None] = ignore_attempt,
    ) -> None:
        """Prepare; `connect` or the first read opens the source.

        Args:
            open_source: Opens the source.
            name: The source in messages and in the log, without secrets.
            stop: Ends a read that waits, within 50 ms; the source then has no more frames.
            stall_s: Seconds without a frame after which it counts as stalled.
            give_up_s: Seconds without a frame after which it is lost for good; None waits forever.
            on_change: Called when the status or its reason changes, by the thread that reads.
            on_attempt: Called after each attempt to open it that failed, by the same thread.
        """
        self.is_live, self.frames = True, None
        self.reconnects = 0
        """Connections that gave frames, without the first."""
        self._open_source, self._name, self._stop = open_source, name, stop
        self._on_change, self._on_attempt = on_change, on_attempt
        self._give_up_s = float("inf") if give_up_s is None else give_up_s
        self._stall_s, self._start_s = min(stall_s, self._give_up_s), min(START_LIMIT_S, self._give_up_s)
        self._source: GuardedSource | None = None
        self._left_behind: list[GuardedSource] = []
        self._backoff, self._freeze = Backoff(MIN_DELAY_S), FreezeDetector(FROZEN_S)
        self._is_over = self._has_worked = False
        self._change: tuple[SourceStatus | None, str] = (None, "")
        self._works_since, self._is_stable, self._unstable_since = float("inf"), False, monotonic()
        self._damaged_before = 0

    @property
    def damaged(self) -> int:
        """Damaged frames left out so far, of all connections."""
        return self._damaged_before + (self._source.damaged if self._source else 0)

    def connect(self, wait_s: float) -> None:
        """Begin to open the source, and wait so long for the outcome of the first attempt.

        Raises:
            AddressError: it can never work as it is addressed.
            UnavailableError: a library or a permission is missing.
            SourceLostError: it is given up.
        """
        source = self._connect(monotonic())
        try:
            source.open(wait_s)
        except Exception as error:
            self._lose(source, error, monotonic())
        self.is_live, self.frames = source.is_live, source.frames

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame, however long it takes; None once the source is stopped, closed or at its end.

        Raises:
            SourceLostError: it has given no frame for too long.
            SourceError: it can never work as it is addressed, or a finite source failed.
        """
        started = monotonic()
        while not (self._is_over or self._stop.is_set()):
            source = self._source or self._connect(started)
            frame = self._read_once(source, out, started)
            if frame is not None:
                self._note(source, frame, started)
                return frame
        self.close()
        return None

    def close(self) -> None:
        """End a read that waits, and close the source. Idempotent."""
        self._is_over = True
        if self._source is not None:
            self._source.close()

    def _connect(self, started: float) -> GuardedSource:
        """Begin to open the source, once so few connections hang that another one is safe.

        This wait is no attempt, and keeps no run alive: to restart the process may be all that frees the connections.

        Raises:
            SourceLostError: the source is given up.
        """
        while len(self._left_behind) >= MAX_HANGING and not (self._is_over or self._stop.is_set()):
            self._give_up_after(started, f"{MAX_HANGING} connections hang")
            self._wait(STOP_POLL_S)
            self._left_behind = [source for source in self._left_behind if source.hangs]
        self._works_since, self._is_stable = float("inf"), False
        self._source = GuardedSource(
            self._open_source, self._name, self._stall_s, start_s=self._start_s, stop=self._stop
        )
        return self._source

    def _read_once(self, source: GuardedSource, out: Frame | None, started: float) -> Frame | None:
        """Read from the connection; None after a failure, and at the end."""
        try:
            frame = source.read(out)
        except Exception as error:
            self._lose(source, error, started)
            return None
        if frame is None and not (self._is_over or self._stop.is_set()):
            self._is_over = True
        return frame

    def _note(self, source: GuardedSource, frame: Frame, started: float) -> None:
        """Report a source that gives frames, or the same frame again and again."""
        now = monotonic()
        if self._change[0] not in ("connected", "frozen"):
            if not self._has_worked:
                self.is_live, self.frames = source.is_live, source.frames
            else:
                self.reconnects += 1
                log.warning("%s is back after %.1f s (reconnect %d)", self._name, now - started, self.reconnects)
            self._has_worked, self._works_since, self._freeze = True, now, FreezeDetector(FROZEN_S)
            self._report("connected", "")
        self._is_stable = now - self._works_since >= STABLE_S
        if self.is_live and self._freeze.is_frozen(frame, now):
            self._report("frozen", f"the same picture for {FROZEN_S:g} s")
        else:
            self._report("connected", "")

    def _lose(self, source: GuardedSource, error: Exception, started: float) -> None:
        """Leave a failed connection behind, and wait until another attempt is due.

        Raises:
            Exception: the error itself, where no attempt can succeed.
            SourceLostError: the source is given up.
        """
        self._source = None
        self._damaged_before += source.damaged
        source.close()
        self._left_behind = [*(earlier for earlier in self._left_behind if earlier.hangs), source]
        can_recover = isinstance(error, EdgeError) and not isinstance(error, AddressError | UnavailableError)
        if not source.is_live or not (can_recover or self._has_worked):
            self._is_over = True
            raise error
        reason = str(error) if isinstance(error, EdgeError) else described(error)
        reason = reason.removeprefix(self._name).strip()
        self._report("stalled" if isinstance(error, StalledError) else "lost", reason)
        self._on_attempt()
        self._give_up_after(started, reason)
        self._wait(min(self._delay_s(), started + self._give_up_s - monotonic()))

    def _delay_s(self) -> float:
        """Return the delay until the next attempt, which grows until a connection is stable."""
        now = monotonic()
        if self._is_stable:
            self._unstable_since = now
            self._backoff.reset()
        is_late = now - self._unstable_since >= PATIENCE_S
        return self._backoff.delay_s(MAX_LATE_DELAY_S if is_late else MAX_DELAY_S)

    def _give_up_after(self, started: float, reason: str) -> None:
        """Give the source up if it has given no frame for too long.

        Raises:
            SourceLostError: it is given up.
        """
        outage_s = monotonic() - started
        if outage_s >= self._give_up_s:
            self._is_over = True
            raise SourceLostError(f"{self._name} gave no frame for {outage_s:.0f} s and is given up: {reason}")

    def _report(self, status: SourceStatus, reason: str) -> None:
        """Log a change, and tell the listener."""
        if (status, reason) == self._change:
            return
        self._change = status, reason
        if reason:
            log.warning("%s is %s: %s", self._name, status, reason)
        self._on_change(status, reason, self.reconnects)

    def _wait(self, delay_s: float) -> None:
        """Wait, unless the source is stopped or closed."""
        until = monotonic() + delay_s
        while not self._is_over and (left_s := until - monotonic()) > 0:
            if self._stop.wait(min(left_s, STOP_POLL_S)):
                return
