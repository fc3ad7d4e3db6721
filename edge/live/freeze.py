"""Detection of a frozen picture: frames arrive, and their pixels stay the same."""

from zlib import adler32

import numpy as np

from edge.frames.base import Frame

INTERVAL_S = 1.0
"""Seconds between two looks at the pixels."""
SAMPLES = 512
"""Pixels of a first look; all pixels are compared only where these are unchanged."""


class FreezeDetector:
    """Checks a source's frames, once a second, for pixels that never change."""

    def __init__(self, frozen_s: float) -> None:
        """Wait for a first frame; a picture is frozen after so many seconds."""
        self._frozen_s = frozen_s
        self._looked_at = self._changed_at = float("-inf")
        self._sample, self._digest = b"", 0

    def is_frozen(self, frame: Frame, now_s: float) -> bool:
        """Check a frame that came at a time of the monotonic clock."""
        if now_s - self._looked_at >= INTERVAL_S:
            self._looked_at = now_s
            if self._has_changed(frame):
                self._changed_at = now_s
        return now_s - self._changed_at >= self._frozen_s

    def _has_changed(self, frame: Frame) -> bool:
        pixels = np.ascontiguousarray(frame.pixels).reshape(-1)
        before = self._sample, self._digest
        self._sample = pixels[:: max(1, pixels.size // SAMPLES)].tobytes()
        if self._sample != before[0]:
            self._digest = 0
            return True
        self._digest = adler32(pixels.data)
        return self._digest != before[1]
