"""Builds in a subprocess: a library that crashes or runs out of memory becomes an error message."""

import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

from edge.engines.base import OnPhase
from edge.engines.tensorrt.builder import TensorRtBuild, build_engine, build_error
from edge.errors import EngineError

OUT_OF_MEMORY = "most likely for lack of memory; close other programs, add swap, or build one precision at a time"


def build_in_subprocess(build: TensorRtBuild, on_phase: OnPhase) -> None:
    """Build a segment's engine in a new process and forward its phases.

    Raises:
        EngineError: the library refuses the segment, or the process died.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    resource_tracker.ensure_running()  # if the child started it, the child would inherit Ctrl-C again
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_child, args=(build, sender), daemon=True)
    with _sigint_blocked():
        child.start()
    sender.close()  # the child then holds the only sending end, and its death ends the stream
    try:
        error = _forward_phases(receiver, on_phase)
        child.join()
    finally:  # an interrupted build must not continue in the background
        child.kill()
        child.join()
    if error:
        raise EngineError(error)
    if child.exitcode or not build.order.engine.exists():
        raise EngineError(_exit_message(build, child.exitcode or 0))


def _forward_phases(receiver: Connection, on_phase: OnPhase) -> str:
    """Forward the child's phases until it ends; return its error message, or an empty string."""
    error = ""
    while True:
        try:
            is_error, text = receiver.recv()
        except EOFError:
            return error
        if is_error:
            error = text
        else:
            on_phase(text)


def _run_child(build: TensorRtBuild, sender: Connection) -> None:
    try:
        build_engine(build, lambda text: sender.send((False, text)))
    except BrokenPipeError:  # the parent is gone
        sys.exit(1)
    except (EngineError, OSError) as error:
        sender.send((True, str(error)))
    except Exception as error:  # the library's exceptions share no narrower base
        sender.send((True, str(build_error(build, f"cannot build {build.description}", str(error)))))


def _exit_message(build: TensorRtBuild, exit_code: int) -> str:
    task = f"building {build.description} with {build.library}"
    if exit_code == -signal.SIGKILL:
        return f"{task} was ended by SIGKILL, {OUT_OF_MEMORY}"
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
