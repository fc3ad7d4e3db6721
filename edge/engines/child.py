"""A build in a process of its own: where the library crashes or the system kills it, that is an error message."""

import multiprocessing
import signal
from multiprocessing.connection import Connection

from edge.engines.tensorrt_builder import Tell, TensorRtOrder, build_engine
from edge.errors import EngineError

OUT_OF_MEMORY = "most likely for lack of memory; close other programs, add swap, or build one precision at a time"


def build_in_child(order: TensorRtOrder, tell: Tell) -> None:
    """Build a segment's engine in a new process, passing on how far it is.

    Raises:
        EngineError: the library refuses the segment, or the process died.
    """
    context = multiprocessing.get_context("spawn")  # a forked process must not touch CUDA
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(order, sending), daemon=True)
    child.start()
    sending.close()  # so that the child's end is the last one, and its death is the end of what is received
    problem = ""
    while True:
        try:
            is_problem, text = receiving.recv()
        except EOFError:
            break
        if is_problem:
            problem = text
        else:
            tell(text)
    child.join()
    if problem:
        raise EngineError(problem)
    if child.exitcode:
        raise EngineError(_death(order, child.exitcode))


def _child(order: TensorRtOrder, sending: Connection) -> None:
    try:
        build_engine(order, lambda text: sending.send((False, text)))
    except (EngineError, OSError) as error:
        sending.send((True, str(error)))


def _death(order: TensorRtOrder, exit_code: int) -> str:
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        why = OUT_OF_MEMORY if name == "SIGKILL" else "the library crashed; report it with this segment"
        return f"building {order.what} with {order.library} was ended by {name}, {why}"
    return f"building {order.what} with {order.library} ended with exit code {exit_code}; its message is above"
