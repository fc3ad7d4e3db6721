"""Sources behind a thread: time limits, stopping, memory that is recycled, and calls that hang."""

import gc
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from edge.errors import SourceError
from edge.frames.base import Frame, PixelFormat
from edge.frames.guarded import GuardedSource, StalledError

TIMEOUT_S = 20.0


class Camera:
    """A camera that fills the memory it is given with the frame's number, and hangs while its gate is closed."""

    frames = None

    def __init__(self, count: int | None = None, *, is_live: bool = True) -> None:
        self.is_live, self.damaged = is_live, 0
        self.gate = threading.Event()
        self.gate.set()
        self.is_closed = threading.Event()
        self.index = 0
        self.allocated: list[int] = []
        self.error: Exception | None = None
        self._count = count

    def read(self, out: Frame | None) -> Frame | None:
        assert not self.is_closed.is_set()
        assert self.gate.wait(TIMEOUT_S)
        if self.error is not None:
            raise self.error
        if self.index == self._count:
            return None
        self.index += 1
        if out is None:
            out = Frame(np.empty((4, 6, 3), dtype=np.uint8), PixelFormat.BGR)
            self.allocated.append(self.index)
        out.pixels[...] = self.index
        return Frame(out.pixels, PixelFormat.BGR)

    def close(self) -> None:
        self.is_closed.set()


def guarded(camera: Camera, stall_s: float = TIMEOUT_S, **settings: object) -> GuardedSource:
    source = GuardedSource(lambda: camera, "camera", stall_s, **settings)  # type: ignore[arg-type]
    source.open()
    return source


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """No test leaves a thread behind."""
    before = threading.active_count()
    yield
    until = time.monotonic() + TIMEOUT_S
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_frames_arrive_in_order_up_to_the_end() -> None:
    camera = Camera(5, is_live=False)
    source = guarded(camera)
    frames = list(iter(lambda: source.read(None), None))
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [1, 2, 3, 4, 5]
    assert not source.is_live
    assert source.read(None) is None
    assert camera.is_closed.wait(TIMEOUT_S)


def test_memory_of_earlier_frames_is_filled_again() -> None:
    camera = Camera()
    source = guarded(camera)
    slots: list[Frame | None] = [None, None, None]
    for index in range(30):
        slots[index % 3] = source.read(slots[index % 3])
        kept = sorted(int(frame.pixels[0, 0, 0]) for frame in slots if frame)
        assert kept == list(range(max(1, index - 1), index + 2))  # no frame is overwritten before it comes back
    assert camera.allocated == [1, 2, 3]
    source.close()


def test_other_memory_is_filled_but_never_handed_to_the_thread() -> None:
    camera = Camera()
    source = guarded(camera)
    mapped = Frame(np.zeros((4, 6, 3), dtype=np.uint8), PixelFormat.BGR)
    for index in range(1, 4):
        frame = source.read(mapped)
        assert frame is not None
        assert frame.pixels is mapped.pixels
        assert (mapped.pixels == index).all()
    assert camera.allocated == [1]
    other = source.read(Frame(np.zeros((1, 1, 3), dtype=np.uint8), PixelFormat.BGR))
    assert other is not None
    assert other.pixels.shape == (4, 6, 3)
    source.close()


def test_a_read_that_hangs_ends_in_an_error_and_its_thread_closes_the_source_later() -> None:
    camera = Camera()
    source = guarded(camera, 0.1)
    frame = source.read(None)
    assert frame is not None
    camera.gate.clear()
    with pytest.raises(StalledError, match=r"camera gave no frame within 0\.1 s; check the camera and the network"):
        source.read(frame)
    assert source.read(None) is None
    assert source.hangs
    assert not camera.is_closed.is_set()
    camera.gate.set()
    assert camera.is_closed.wait(TIMEOUT_S)


def test_memory_that_a_hanging_thread_may_still_fill_is_never_used_again() -> None:
    camera, other = Camera(), Camera()
    source = guarded(camera, 0.1)
    frame = source.read(None)
    assert frame is not None
    camera.gate.clear()
    with pytest.raises(StalledError):
        source.read(frame)
    second = guarded(other)
    later = second.read(frame)
    assert later is not None
    assert later.pixels is not frame.pixels
    camera.gate.set()
    assert camera.is_closed.wait(TIMEOUT_S)
    assert (frame.pixels == 2).all()
    assert (later.pixels == 1).all()
    second.close()


def test_the_first_frame_may_take_longer() -> None:
    camera = Camera()
    camera.gate.clear()
    source = guarded(camera, 0.05)
    threading.Timer(0.3, camera.gate.set).start()
    assert source.read(None) is not None
    source.close()


def test_opening_is_limited_and_what_opens_too_late_is_closed() -> None:
    camera, may_open = Camera(), threading.Event()

    def open_late() -> Camera:
        assert may_open.wait(TIMEOUT_S)
        return camera

    source = GuardedSource(open_late, "camera", 1.0, start_s=0.1)
    with pytest.raises(StalledError, match=r"camera has not opened within 0\.1 s"):
        source.open()
    may_open.set()
    assert camera.is_closed.wait(TIMEOUT_S)


def test_errors_of_the_source_are_raised_by_the_read() -> None:
    camera = Camera()
    source = guarded(camera)
    camera.error = SourceError("no more")
    with pytest.raises(SourceError, match="no more"):
        source.read(None)
    assert camera.is_closed.wait(TIMEOUT_S)
    assert source.read(None) is None

    def refuse() -> Camera:
        raise SourceError("not there")

    with pytest.raises(SourceError, match="not there"):
        GuardedSource(refuse, "camera", 1.0).open()


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_read_that_waits_ends_at_once_when_the_source_is_stopped_or_closed(how: str) -> None:
    camera, stop = Camera(), threading.Event()
    source = guarded(camera, stop=stop)
    camera.gate.clear()
    threading.Timer(0.05, stop.set if how == "stop" else source.close).start()
    started = time.monotonic()
    assert source.read(None) is None
    assert time.monotonic() - started < TIMEOUT_S / 2
    camera.gate.set()
    assert camera.is_closed.wait(TIMEOUT_S)


def test_a_slow_file_is_not_limited() -> None:
    camera = Camera(1, is_live=False)
    camera.gate.clear()
    source = guarded(camera, 0.05, start_s=0.05)
    threading.Timer(0.3, camera.gate.set).start()
    assert source.read(None) is not None
    source.close()


def test_memory_is_not_kept_once_nobody_holds_a_frame() -> None:
    source, before = guarded(Camera()), len(GuardedSource._lent)
    for _ in range(100):
        source.read(None)
    gc.collect()
    assert len(GuardedSource._lent) <= before + 2
    source.close()
