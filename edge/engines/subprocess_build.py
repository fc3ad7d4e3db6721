"""Builds in a process of their own: a library that crashes or runs out of memory becomes an error message.

The process is started with a short program, not forked, for CUDA does not survive a fork; nor by `multiprocessing`,
which would run the user's script again where that has no `if __name__ == "__main__"`. Builds inside `shared_process`
take turns in one process: starting it and importing the library take longer than most builds of ONNX Runtime.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
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


@contextmanager
def shared_process() -> Iterator[None]:
    """Let the builds in this block, on this thread, share a process, which the first of them starts.

    A block inside another one uses the outer block's process.
    """
    if _shared.get() is not None:
        yield
        return
    process = BuildProcess()
    token = _shared.set(process)
    try:
        yield
    finally:
        _shared.reset(token)
        process.close()


def build_in_subprocess(build: Build, on_phase: OnPhase) -> None:
    """Build a segment's engine in another process and forward its phases.

    Raises:
        EngineError: the library refuses the segment, or the process died.
    """
    process = _shared.get() or BuildProcess()
    try:
        process.build(build, on_phase)
    finally:
        if process is not _shared.get():
            process.close()


class BuildProcess:
    """A process that builds the orders sent to it. It ends with this one, killed or not."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def build(self, build: Build, on_phase: OnPhase) -> None:
        """Build an engine; see `build_in_subprocess`."""
        try:
            is_finished, error = _talk(self._start(), build, on_phase)
            exit_code = 0 if is_finished else self._wait()
        except BaseException:  # an interrupted build must not continue in the background
            self.close()
            raise
        if error:
            raise error
        if not is_finished or not build.order.engine.exists():
            raise EngineError(_exit_message(build, exit_code))

    def close(self) -> None:
        """End the process. Idempotent."""
        if self._child is not None:
            self._child.kill()
            self._wait()

    def _start(self) -> Connection:
        if self._connection is not None:
            return self._connection
        ours, theirs = Pipe()
        command = [sys.executable, "-I", "-c", PROGRAM, str(theirs.fileno())]
        with theirs, _sigint_blocked():  # theirs is then the child's only, and its death ends the stream
            self._child = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        self._connection = ours
        with suppress(ConnectionError):  # it died already, which the build will see
            ours.send(sys.path)
        return ours

    def _wait(self) -> int:
        """Wait for the end of the process and return its exit code; the next build starts another one."""
        child, connection, self._child, self._connection = self._child, self._connection, None, None
        if connection is not None:
            connection.close()
        return child.wait() if child is not None else 0


_shared: ContextVar[BuildProcess | None] = ContextVar("_shared", default=None)


def run_child(connection: Connection) -> None:
    """Build the orders that the parent sends until it closes the connection."""
    while True:
        try:
            build: Build = connection.recv()
            connection.send(_result(build, connection.send))
        except (EOFError, ConnectionError):  # the parent is gone
            sys.exit(0)


def _result(build: Build, on_phase: OnPhase) -> EngineError | None:
    """Build, and return the error where there is one."""
    try:
        build.run(on_phase)
    except ConnectionError:
        raise
    except EngineError as error:
        return error
    except OSError as error:
        return EngineError(_os_message(build, error))
    except Exception as error:  # the library's exceptions share no narrower base
        return build.failure(" ".join(str(error).split()) or type(error).__name__)
    return None


def _talk(connection: Connection, build: Build, on_phase: OnPhase) -> tuple[bool, EngineError | None]:
    """Send a build and forward its phases. Return whether it finished or its process died, and its error."""
    with suppress(ConnectionError):  # the process died, as the end of its stream will show
        connection.send(build)
    while True:
        try:
            message = connection.recv()
        except (EOFError, ConnectionError):
            return False, None
        if not isinstance(message, str):
            return True, message
        on_phase(message)


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
