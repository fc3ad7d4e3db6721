"""Slots between frames: free ones, and those of a classifier that another one has replaced.

    free ──take──▶ in flight ──give back──▶ free; retired, if its classifier was replaced meanwhile

A frame is answered by the classifier in force when its read ends. While a new classifier is on trial, one slot of the
classifier before stays in reserve: it answers the frames at which the new one fails.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.frames.base import Frame
from edge.inference.base import Slot

MIN_SLOTS = 4
"""Slots for capture, for inference, and for frames that wait between them."""


class SlotGroup(NamedTuple):
    """The slots of a classifier."""

    slots: Sequence[Slot]
    """At least `MIN_SLOTS`."""
    thresholds: Callable[[], NDArray[np.float32]]
    """Returns the thresholds for the next frame."""
    bundle: str = ""
    """Name of the classifier's bundle in results."""


class InFlightFrame:
    """A slot with the frame in it, and the frame's times."""

    def __init__(self, slot: Slot, group: SlotGroup) -> None:
        """Use a slot without a frame."""
        self.slot, self.group = slot, group
        self.frame: Frame | None = None
        self.frame_index = -1
        self.is_started = False
        """True if the frame is preprocessed."""
        self.has_copy = False
        """True if the frame was moved here from another slot."""
        self.thresholds: NDArray[np.float32] = np.empty(0, dtype=np.float32)
        self.capture_ns = self.captured_ns = self.load_ns = 0
        self.captured_at_s = 0.0
        """Seconds since 1970."""

    def start(self) -> None:
        """Preprocess the frame with the thresholds of this moment, and on a GPU start its inference."""
        assert self.frame is not None, "captured without a frame"  # noqa: S101 - for mypy
        self.thresholds = self.group.thresholds()
        self.slot.start(self.frame, self.thresholds)
        self.is_started = True

    def move_to(self, other: "InFlightFrame") -> None:
        """Hand the frame over to an idle slot; a copy, since it may be in memory of this slot."""
        assert self.frame is not None, "captured without a frame"  # noqa: S101 - for mypy
        other.frame, other.has_copy = Frame(self.frame.pixels.copy(), self.frame.format, self.frame.position), True
        other.frame_index, other.is_started = self.frame_index, False
        other.capture_ns, other.captured_ns, other.captured_at_s = self.capture_ns, self.captured_ns, self.captured_at_s
        self.frame_index = -1

    def close(self) -> None:
        """Close the slot, and forget it: a result that is kept must not keep the engines."""
        self.slot.close()
        del self.slot, self.group


class SlotPool:
    """The free slots of a pipeline. One thread takes slots, another gives them back, a third may replace all.

    Attributes:
        failure: The first exception of the classifier on trial; None if it has answered every frame.
    """

    def __init__(self, group: SlotGroup) -> None:
        """Begin with the slots of the first classifier; from now on they are the pool's.

        Raises:
            ValueError: there are too few slots.
        """
        self.failure: Exception | None = None
        self._free: SimpleQueue[InFlightFrame | None] = SimpleQueue()
        self._lock = Lock()
        self._open: list[InFlightFrame] = []
        self._retired: list[InFlightFrame] = []
        self._memory: list[Frame] = []
        """Frames of retired slots: sources that lent their memory get it back with later slots."""
        self._reserve: InFlightFrame | None = None
        self._is_reserve_in_flight = self._is_trial = False
        self._like: Frame | None = None
        """A copy of the first frame; slots are prepared for frames like it."""
        self._install(group)

    @property
    def is_empty(self) -> bool:
        """True if capture would have to wait for a slot."""
        return self._free.empty()

    def take(self) -> InFlightFrame | None:
        """Wait for a free slot of the classifier in force; return None at the end."""
        in_flight = self._take()
        if in_flight is not None and in_flight.frame is None and self._memory:
            in_flight.frame = self._memory.pop()
        return in_flight

    def is_current(self, in_flight: InFlightFrame) -> bool:
        """Check that a slot is of the classifier in force."""
        return in_flight.group is self._group

    def renew(self, replaced: InFlightFrame) -> InFlightFrame | None:
        """Return a slot of the classifier in force with the frame of one that was replaced; None at the end."""
        in_flight = self._take()
        if in_flight is not None:
            replaced.move_to(in_flight)
            self._retire(replaced)
        return in_flight

    def give_back(self, in_flight: InFlightFrame) -> None:
        """Return a slot whose frame is answered or dropped."""
        in_flight.frame_index = -1
        if in_flight.has_copy:  # else sources would not get back the memory that they lent
            in_flight.frame, in_flight.has_copy = None, False
        if in_flight.group is self._group:
            self._free.put(in_flight)
        else:
            self._retire(in_flight)

    def end(self) -> None:
        """Let `take` return None."""
        self._free.put(None)

    def prepare(self, frame: Frame) -> None:
        """Prepare the slots for frames like the first one."""
        self._like = Frame(frame.pixels.copy(), frame.format)
        _prepare(self._group, frame)

    def replace(self, group: SlotGroup) -> None:
        """Let another classifier answer the frames captured from now on, on trial until `confirm`.

        Raises:
            EngineError: its slots cannot be prepared, and are closed; the classifier before stays.
        """
        if self._like is not None:
            try:
                _prepare(group, self._like)
            except BaseException:
                for slot in group.slots:
                    slot.close()
                raise
        self.failure = None
        with self._lock:
            self._is_trial = True
        self._install(group)
        self._retire_free()

    def rescue(self, failed: InFlightFrame) -> InFlightFrame | None:
        """Return the reserve with the frame at which the classifier on trial failed; None if there is no reserve."""
        with self._lock:
            reserve = self._reserve
            if reserve is None or reserve.group is failed.group:
                return None
            failed.move_to(reserve)
            self._is_reserve_in_flight = True
        self.give_back(failed)
        return reserve

    def note_failure(self, group: SlotGroup, error: Exception) -> None:
        """Note the first exception of the classifier on trial; one that was replaced meanwhile has no trial."""
        if group is self._group:
            self.failure = self.failure or error

    def confirm(self) -> None:
        """End the trial: the reserve is retired, unless frames of a classifier that failed its trial still need it."""
        with self._lock:
            self._is_trial, self.failure = self._has_failed_in_flight(), None
            if self._reserve is not None and not (self._is_trial or self._is_reserve_in_flight):
                self._set_aside(self._reserve)
                self._reserve = None

    def close_retired(self) -> None:
        """Close the slots of replaced classifiers that are no longer in flight."""
        with self._lock:
            retired, self._retired = self._retired, []
            self._open = [in_flight for in_flight in self._open if in_flight not in retired]
        for in_flight in retired:
            in_flight.close()

    def close(self) -> None:
        """Close all slots. Idempotent."""
        for in_flight in self._open:
            in_flight.slot.close()

    def _install(self, group: SlotGroup) -> None:
        """Put a group into force."""
        if len(group.slots) < MIN_SLOTS:
            raise ValueError(f"a pipeline needs {MIN_SLOTS} slots, got {len(group.slots)}")
        in_flight = [InFlightFrame(slot, group) for slot in group.slots]
        with self._lock:
            self._group = group
            self._open += in_flight
        for each in in_flight:
            self._free.put(each)

    def _take(self) -> InFlightFrame | None:
        """Wait for a free slot, without memory for its frame."""
        while (in_flight := self._free.get()) is not None and in_flight.group is not self._group:
            self._retire(in_flight)
        return in_flight

    def _retire_free(self) -> None:
        """Retire free slots of the classifier before: a silent source takes none for a long time."""
        for _ in range(self._free.qsize()):
            with suppress(Empty):
                in_flight = self._free.get_nowait()
                if in_flight is None or in_flight.group is self._group:
                    self._free.put(in_flight)
                else:
                    self._retire(in_flight)

    def _has_failed_in_flight(self) -> bool:
        """Check for frames in flight of a classifier that is neither in force nor the reserve's; the lock is held."""
        if self._reserve is None:
            return False
        safe = (self._group, self._reserve.group)
        return any(each.frame_index >= 0 and each.group not in safe for each in self._open)

    def _retire(self, in_flight: InFlightFrame) -> None:
        """Set a slot of a replaced classifier aside; the first is the reserve, as long as there is a trial."""
        with self._lock:
            if in_flight is self._reserve:
                self._is_reserve_in_flight = False
            if self._is_trial and self._reserve in (None, in_flight):
                self._reserve = in_flight
                self._reuse_memory(in_flight)
                return
            if in_flight is self._reserve:
                self._reserve = None
            self._set_aside(in_flight)

    def _set_aside(self, in_flight: InFlightFrame) -> None:
        """Let a slot be closed, and its frame's memory be used again; the lock is held."""
        self._reuse_memory(in_flight)
        self._retired.append(in_flight)

    def _reuse_memory(self, in_flight: InFlightFrame) -> None:
        """Let the memory of an idle slot's frame be used again; the lock is held."""
        if in_flight.frame is not None and in_flight.slot.buffer is None:  # else it is the slot's own memory
            self._memory.append(in_flight.frame)
        in_flight.frame = None


def _prepare(group: SlotGroup, frame: Frame) -> None:
    for slot in group.slots:
        slot.prepare(frame)
