"""Measurements repeated in processes of their own.

The layout of a process in memory changes its speed by a percent or two, however long it measures.
"""

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

from edge.child_process import start_child
from edge.errors import EdgeError

LAUNCHES = 5
"""Processes in which `edge bench` repeats its measurement."""

P = ParamSpec("P")
R = TypeVar("R")


def launch(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function of a module in a new process, and return its result; arguments and result are picklable.

    Raises:
        EdgeError: the function raised it, or the process died.
    """
    child, connection = start_child(_answer)
    try:
        with connection:
            connection.send((function, args, kwargs))
            result: R | EdgeError = connection.recv()
    except (EOFError, ConnectionError) as error:
        raise EdgeError(f"the process that measured ended with exit code {child.wait()}; its error is above") from error
    finally:
        child.kill()
        child.wait()
    if isinstance(result, EdgeError):
        raise result
    return result


def _answer(connection: Connection) -> None:
    function, args, kwargs = connection.recv()
    try:
        connection.send(function(*args, **kwargs))
    except EdgeError as error:
        connection.send(error)
