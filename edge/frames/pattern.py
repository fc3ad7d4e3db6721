"""A test pattern: a bright square that moves over a background, identical on every machine."""

from threading import Event
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.frames.base import Frame, PixelFormat, pixels_for
from edge.frames.options import SourceOptions

DEFAULT_SIZE = (640, 480)
DEFAULT_RATE = 30.0


class PatternSource:
    """A moving pattern, paced like a camera: frames that are not read in time are lost. A rate of 0 is not paced."""

    frames: int | None

    def __init__(self, options: SourceOptions) -> None:
        """Draw the background."""
        width, height = options.size or DEFAULT_SIZE
        self._rate = DEFAULT_RATE if options.rate is None else options.rate
        self.is_live = self._rate > 0
        self.frames = options.frames
        self._background = _background(width, height)
        self._square = max(1, min(width, height) // 4)
        self._frames_read, self._index, self._started = 0, -1, monotonic()
        self._closed = Event()

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame, BGR; None after the last, or when the source is closed meanwhile."""
        if self._frames_read == self.frames or self._closed.is_set():
            return None
        self._index += 1
        if self.is_live and not self._pace():
            return None
        self._frames_read += 1
        pixels = pixels_for(out, PixelFormat.BGR, self._background.shape)
        self._draw(pixels)
        return Frame(pixels, PixelFormat.BGR)

    def close(self) -> None:
        """End a read that waits for the next frame. Idempotent."""
        self._closed.set()

    def _pace(self) -> bool:
        """Wait for the time of the next frame; return False if the source is closed meanwhile."""
        passed = int((monotonic() - self._started) * self._rate)
        self._index = max(self._index, passed)
        return not self._closed.wait(self._index / self._rate - (monotonic() - self._started))

    def _draw(self, pixels: NDArray[Any]) -> None:
        np.copyto(pixels, self._background)
        height, width = pixels.shape[:2]
        left, top = _bounce(3 * self._index, width - self._square), _bounce(2 * self._index, height - self._square)
        pixels[top : top + self._square, left : left + self._square] = (32, 128 + self._index % 128, 255)


def _background(width: int, height: int) -> NDArray[Any]:
    """Return an image with a horizontal gradient in blue and a vertical gradient in green."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, :, 0] = np.linspace(0, 191, width).astype(np.uint8)
    pixels[:, :, 1] = np.linspace(0, 127, height).astype(np.uint8)[:, None]
    return pixels


def _bounce(distance: int, width: int) -> int:
    """Return the position after a distance travelled to and fro between 0 and `width`."""
    position = distance % (2 * width) if width else 0
    return min(position, 2 * width - position)
