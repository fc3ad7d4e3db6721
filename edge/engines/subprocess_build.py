"""Builds in a process of their own: a library that crashes or runs out of memory becomes an error message.

The process is started with a short program, not forked, for CUDA does not survive a fork; nor by `multiprocessing`,
which would run the user's script again where that has no `if __name__ == "__main__"`.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Protocol

from edge.engines.base import BuildOrder, OnPhase
from edge.errors import EngineError

OUT_OF_MEMORY = "most likely for lack of memory; close other programs, add swap, or build one precision at a time"
PROGRAM = """
import sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
sys.path[:] = connection.recv()
from edge.engines.subprocess_build import run_child
run_child(connection)
"""


class Build(Protocol):
    """A build order for one library. It travels to another process."""

    @property
    def library(self) -> str:
        """Name of the library, for messages."""

    @property
    def order(self) -> BuildOrder:
        """The segment to build, and the files to write."""

    @property
    def description(self) -> str:
        """The segment and the target, for messages."""

    def run(self, on_phase: OnPhase) -> None:
        """Build the engine in this process.

        Raises:
            EngineError: the library refuses the segment.
        """

    def failure(self, reason: str) -> EngineError:
        """Return the error for an exception that the library raised for this reason."""


def build_in_subprocess(build: Build, on_phase: OnPhase) -> None:
    """Build a segment's engine in a new process and forward its phases.

    Raises:
        EngineError: the library refuses the segment, or the process died.
    """
    ours, theirs = Pipe()
    command = [sys.executable, "-I", "-c", PROGRAM, str(theirs.fileno())]
    with theirs, _sigint_blocked():
        child = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
    with ours:  # the child holds the only other end, and its death ends the stream
        try:
            error = _talk(ours, build, on_phase)
            child.wait()
        finally:  # an interrupted build must not continue in the background
            child.kill()
            child.wait()
    if error:
        raise error
    if child.returncode or not build.order.engine.exists():
        raise EngineError(_exit_message(build, child.returncode))


def run_child(connection: Connection) -> None:
    """Build what the parent sends, in the process that it started."""
    build: Build = connection.recv()
    try:
        build.run(lambda phase: connection.send(phase))
    except BrokenPipeError:  # the parent is gone
        sys.exit(1)
    except EngineError as error:
        connection.send(error)
    except OSError as error:
        connection.send(EngineError(_os_message(build, error)))
    except Exception as error:  # the library's exceptions share no narrower base
        connection.send(build.failure(" ".join(str(error).split()) or type(error).__name__))


def _talk(connection: Connection, build: Build, on_phase: OnPhase) -> EngineError | None:
    """Send the build and forward its phases until the child ends; return its error, if it sent one."""
    error = None
    with suppress(EOFError, ConnectionError):  # the child is gone
        connection.send(sys.path)
        connection.send(build)
        while True:
            message = connection.recv()
            if isinstance(message, EngineError):
                error = message
            else:
                on_phase(message)
    return error


def _os_message(build: Build, error: OSError) -> str:
    place = error.filename or build.order.engine.parent
    return f"building {build.description} with {build.library} failed: {error.strerror or error}: {place}"


def _exit_message(build: Build, exit_code: int) -> str:
    task = f"building {build.description} with {build.library}"
    if exit_code == -signal.SIGKILL:
        return f"{task} was ended by SIGKILL, {OUT_OF_MEMORY}"
    if exit_code == -signal.SIGALRM:
        return f"{task} was ended: the engine did not finish one run in time; compile the bundle again"
    if exit_code < 0:
        names = {number.value: number.name for number in signal.Signals}
        name = names.get(-exit_code, f"signal {-exit_code}")
        return f"{task} was ended by {name}, the library crashed; report it with this segment"
    return f"{task} ended with exit code {exit_code} and left no engine; report it with this segment"


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT, for processes started here to inherit.

    A terminal sends Ctrl-C to parent and child; the parent ends the child itself.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
