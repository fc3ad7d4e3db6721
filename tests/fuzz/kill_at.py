"""`python -m tests.fuzz.kill_at N FOLDER MODULE ...`: run a command, killed before its Nth change below a folder.

Changes are files opened for writing, renames, removals and new folders, as Python's audit events report them. With
N = 0 the command runs to its end, and the events of its changes are written to `FOLDER.changes`, a line each.
"""

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
WRITING = os.O_WRONLY | os.O_RDWR


class Killer:
    """Counts changes below a folder and kills this process before one of them."""

    def __init__(self, number: int, folder: str) -> None:
        """Kill before change `number`; count only if it is 0."""
        self.changes: list[str] = []
        self._number, self._folder, self._owner = number, folder, os.getpid()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take an audit event."""
        if event not in CHANGES or os.getpid() != self._owner or not self._is_change(event, arguments):
            return
        self.changes.append(event)
        if len(self.changes) == self._number:
            os.kill(self._owner, signal.SIGKILL)

    def _is_change(self, event: str, arguments: tuple[Any, ...]) -> bool:
        path = arguments[0]
        if not isinstance(path, str | Path) or not str(path).startswith(self._folder):
            return False
        return event != "open" or bool(arguments[2] & WRITING)


def main() -> None:
    """Run a module as a command."""
    number, folder, module = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    killer = Killer(number, folder)
    sys.argv = [module, *sys.argv[4:]]
    sys.addaudithook(killer)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        if number == 0:
            Path(f"{folder}.changes").write_text("\n".join(killer.changes))


if __name__ == "__main__":
    main()
