"""Folders with files that cannot be read: skipped and counted."""

from collections.abc import Callable
from typing import Any

from edge.errors import SourceError
from edge.frames.base import Frame, FrameSource


class SkipBad:
    """A folder as a source that skips files which cannot be read."""

    def __init__(self, source: FrameSource, log: Callable[[str], None]) -> None:
        """Read from `source`, and report each skipped file to `log`."""
        self.skipped = 0
        self._source, self._log = source, log

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the source."""
        return getattr(self._source, name)

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame that can be read; None at the end.

        Raises:
            SourceError: no file can be read.
        """
        while True:
            try:
                return self._source.read(out)
            except SourceError as error:
                self.skipped += 1
                if self.skipped == self._source.frames:
                    raise
                self._log(f"skipped: {error}")
