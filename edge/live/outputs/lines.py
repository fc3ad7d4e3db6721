"""Outputs of JSON lines: one object per message, in a file or on standard output."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from edge.errors import utf8
from edge.live.messages import Message, record
from edge.live.outputs.base import Output
from edge.live.outputs.lines_file import LinesFile, Rotation


class Lines(Output):
    """An output of JSON lines at the end of a file or pipe."""

    def __init__(self, path: Path, *, overwrite: bool = False, rotation: Rotation | None = None) -> None:
        """Prepare the file; `overwrite` empties it when it is opened."""
        self.name = utf8(f"lines {path}")
        self._file = LinesFile(path, overwrite=overwrite, rotation=rotation)

    def open(self) -> None:
        """Open the file.

        Raises:
            OSError: it cannot be opened.
        """
        self._file.open()

    def write(self, messages: Sequence[Message]) -> None:
        """Append messages."""
        self._file.write([json_line(message).encode() for message in messages])

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()


class StdoutLines(Output):
    """An output of JSON lines on standard output. Readers see every block at once."""

    name = "stdout"

    def write(self, messages: Sequence[Message]) -> None:
        """Write messages."""
        sys.stdout.write("".join(map(json_line, messages)))
        sys.stdout.flush()


def json_line(message: Message) -> str:
    """Return a message as a line of JSON."""
    return json.dumps(record(message)) + "\n"
