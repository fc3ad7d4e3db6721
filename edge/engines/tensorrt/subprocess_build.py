"""A build in a process of its own: where the library crashes or the system kills it, that is an error message."""

import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

from edge.engines.base import OnPhase
from edge.engines.tensorrt.builder import TensorRtOrder, build_engine, refused
from edge.errors import EngineError

OUT_OF_MEMORY = "most likely for lack of memory; close other programs, add swap, or build one precision at a time"


def build_in_child(order: TensorRtOrder, on_phase: OnPhase) -> None:
    """Build a segment's engine in a new process, passing on how far it is.

    Raises:
        EngineError: the library refuses the segment, or the process died.
    """
    context = multiprocessing.get_context("spawn")  # a forked process must not touch CUDA
    resource_tracker.ensure_running()  # started with the first child, it would let the child hear Ctrl-C
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(order, sending), daemon=True)
    with _interrupts_held_back():
        child.start()
    sending.close()  # so that the child's end is the last one, and its death is the end of what is received
    try:
        problem = _listen(receiving, on_phase)
        child.join()
    finally:  # where we are interrupted, it must not go on in secret
        child.kill()
        child.join()
    if problem:
        raise EngineError(problem)
    if child.exitcode or not order.build.engine.exists():
        raise EngineError(_death(order, child.exitcode or 0))


def _listen(receiving: Connection, on_phase: OnPhase) -> str:
    """Pass on what the child tells until it ends; return its problem, or nothing."""
    problem = ""
    while True:
        try:
            is_problem, text = receiving.recv()
        except EOFError:
            return problem
        if is_problem:
            problem = text
        else:
            on_phase(text)


def _child(order: TensorRtOrder, sending: Connection) -> None:
    try:
        build_engine(order, lambda text: sending.send((False, text)))
    except BrokenPipeError:  # who asked for the engine is gone
        sys.exit(1)
    except (EngineError, OSError) as error:
        sending.send((True, str(error)))
    except Exception as error:  # whatever else the library raises
        sending.send((True, str(refused(order, f"cannot build {order.what}", str(error)))))


def _death(order: TensorRtOrder, exit_code: int) -> str:
    building = f"building {order.what} with {order.library}"
    if exit_code == -signal.SIGKILL:
        return f"{building} was ended by SIGKILL, {OUT_OF_MEMORY}"
    if exit_code < 0:
        names = {one.value: one.name for one in signal.Signals}
        name = names.get(-exit_code, f"signal {-exit_code}")
        return f"{building} was ended by {name}, the library crashed; report it with this segment"
    return f"{building} ended with exit code {exit_code} and left no engine; report it with this segment"


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let a process started here inherit deafness to Ctrl-C, which a terminal sends to both: we end it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
