"""Builds in a subprocess: if the library crashes or runs out of memory, the caller gets an exception.

Builds inside `shared_process` share one subprocess: starting it and importing the library takes longer than most builds
of ONNX Runtime.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from multiprocessing.connection import Connection
from typing import Protocol

from edge.child_process import start_child
from edge.engines.base import BuildOrder, OnPhase
from edge.errors import EngineError

OUT_OF_MEMORY = "most likely for lack of memory; close other programs, add swap, or build one precision at a time"
TRIAL_LIMIT_S = 60
"""Time limit for the first run of a built engine, on an image of zeros."""


class Build(Protocol):
    """A build order for one library. Picklable, for the subprocess."""

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
        """Return the error for an exception of the library."""


@contextmanager
def shared_process() -> Iterator[None]:
    """Share one subprocess between the builds in this block on this thread; the first build starts it.

    Nested blocks use the process of the outer block.
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
    """Build a segment's engine in a subprocess and forward its phases.

    Raises:
        EngineError: the library refuses the segment, or the subprocess died.
    """
    process = _shared.get() or BuildProcess()
    try:
        process.build(build, on_phase)
    finally:
        if process is not _shared.get():
            process.close()


class BuildProcess:
    """A subprocess that builds the orders sent to it. It ends when this process ends, killed or not."""

    def __init__(self) -> None:
        """Start no process yet; the first build starts it."""
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
        """End the subprocess. Idempotent."""
        if self._child is not None:
            self._child.kill()
            self._wait()

    def _start(self) -> Connection:
        if self._connection is not None:
            return self._connection
        self._child, self._connection = start_child(run_child)
        return self._connection

    def _wait(self) -> int:
        """Wait for the end of the subprocess and return its exit code; the next build starts another."""
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
        except (EOFError, ConnectionError):  # the parent has exited
            sys.exit(0)


def _result(build: Build, on_phase: OnPhase) -> EngineError | None:
    """Build, and return the error, if any."""
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
    """Send a build and forward its phases. Return False if the subprocess died, else True, and the error, if any."""
    with suppress(ConnectionError):  # the child died, and its stream ends
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
    path = error.filename or build.order.engine.parent
    return f"building {build.description} with {build.library} failed: {error.strerror or error}: {path}"


def _exit_message(build: Build, exit_code: int) -> str:
    task = f"building {build.description} with {build.library}"
    if exit_code == -signal.SIGKILL:
        return f"{task} was killed by SIGKILL, {OUT_OF_MEMORY}"
    if exit_code == -signal.SIGALRM:
        return f"{task} was stopped: the engine did not finish one run in time; compile the bundle again"
    if exit_code < 0:
        names = {number.value: number.name for number in signal.Signals}
        name = names.get(-exit_code, f"signal {-exit_code}")
        return f"{task} was killed by {name}, since the library crashed; report it, and attach this segment"
    return f"{task} ended with exit code {exit_code} and without an engine; report it, and attach this segment"
