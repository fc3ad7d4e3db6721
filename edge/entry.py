"""Start of a command's process: signals, streams, missing libraries. Imported first: libraries take a second."""

import io
import os
import select
import signal
import sys
from time import monotonic

TYPE_CHECKING = False  # importing typing would double the time of the imports above
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
REPEAT_S = 1.0
"""Seconds within which repeated signals count as one: `timeout` and terminals send several."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def start_process(module: str, *, imports_torch: bool = False) -> None:
    """Set up signals, streams and the message for missing libraries if `module`, the caller's, is the program."""
    if module != "__main__":
        return
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored in the background of a shell script
            signal.signal(number, _exit)
    _open_closed_streams()
    sys.stdout, sys.stderr = _robust(sys.stdout, STDOUT), _robust(sys.stderr, STDERR)
    sys.excepthook = _exit_without_library
    if imports_torch:
        _check_directory()


def raise_signals() -> None:
    """Raise `KeyboardInterrupt` or `Terminated` at a signal, so that the command can clean up."""
    _replace_handlers(_exit, _raise)


def exit_at_signals() -> None:
    """Exit at a signal: during imports and after the work, an exception would break libraries."""
    _replace_handlers(_raise, _exit)


def signal_exit_code() -> int:
    """Return the exit code for the signal that was received; 0 if there was none."""
    return 128 + _received if _received else 0


class StandardStream(io.RawIOBase):
    """A standard stream that waits for slow readers, and discards output after an error."""

    def __init__(self, descriptor: int, name: str) -> None:
        """Write to a descriptor; `name` is used in messages."""
        self.name = name
        self.is_lost = False
        """True if the reader closed the pipe or writing failed."""
        self.error: OSError | None = None
        """The error of a failed write; None if the reader closed the pipe."""
        self._descriptor = descriptor

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Check for a terminal."""
        return os.isatty(self._descriptor)

    def write(self, data: "Any") -> int:
        """Write all bytes; discard them if the stream is lost."""
        rest = memoryview(data)
        while rest and not self.is_lost:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except BrokenPipeError:
                self.is_lost = True
            except OSError as error:
                self.is_lost, self.error = True, error
        return len(data)


STDOUT, STDERR = StandardStream(1, "standard output"), StandardStream(2, "standard error")


def _robust(stream: "Any", raw: StandardStream) -> io.TextIOWrapper:
    """Return a text stream like `stream` on `raw`; characters that cannot be encoded are escaped."""
    unbuffered = getattr(stream, "write_through", False)
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=unbuffered,
    )


def _open_closed_streams() -> None:
    """Open closed standard streams on /dev/null; otherwise the next opened file would receive their output."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # returns the lowest free descriptor, which is this one


def _exit_without_library(kind: "type[BaseException]", error: BaseException, traceback: "TracebackType | None") -> None:
    """Print one line for a library that the command's own imports lack, as `edge.console.run_main` does."""
    if not isinstance(error, ImportError):
        sys.__excepthook__(kind, error, traceback)
        return
    from edge.errors import UnavailableError
    from edge.system import import_remedy

    sys.stderr.write(f"error: {error}; {import_remedy(error)}\n")
    sys.exit(UnavailableError.exit_code)


def _check_directory() -> None:
    """Exit in a deleted working directory, where Intel's MKL would end the process."""
    try:
        os.getcwd()
    except FileNotFoundError:
        sys.stderr.write("error: the working directory was deleted; change to another one\n")
        sys.exit(2)


def _replace_handlers(old: "Any", new: "Any") -> None:
    for number in SIGNALS:
        if signal.getsignal(number) == old:
            signal.signal(number, new)


def _raise(number: int, frame: "FrameType | None") -> None:
    """Interrupt the main thread; exit at a second signal."""
    if os.getpid() != _PROCESS:
        _leave_fork(number)
    global _received, _received_at
    now = monotonic()
    if not _received:
        _received, _received_at = number, now
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
    if now - _received_at > REPEAT_S:
        _exit(number, frame)


def _exit(number: int, frame: "FrameType | None") -> None:
    """Exit without cleaning up."""
    if os.getpid() != _PROCESS:
        _leave_fork(number)
    STDERR.write(f"{SIGNALS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


def _leave_fork(number: int) -> None:
    """End a forked process, such as a data loader's worker, as without these handlers."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


_PROCESS = os.getpid()
_received, _received_at = 0, 0.0
