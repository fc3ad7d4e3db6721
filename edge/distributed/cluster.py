"""Work on a Ray cluster: a task for each shard, run again elsewhere if its worker or node dies."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from edge.errors import EdgeError, EngineError, UnavailableError
from edge.system import usable_cores

OBJECT_STORE_BYTES = 100 << 20
"""Shared memory of a Ray instance on this machine: tasks return numbers only."""
CONNECT_S = 10.0
MAX_RETRIES = 3
"""Times that a shard is run again because its worker died; an image that crashes a decoder must end the work."""

T = TypeVar("T")


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine that ends with the block.

    Raises:
        UnavailableError: there is no cluster at the address, or it has another version of Ray or Python.
    """
    resources = {"num_cpus": usable_cores(), "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    local: dict[str, Any] = {} if address else resources
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # avoids a warning; it will be the default
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        _check_reachable(address)
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except (OSError, ValueError, RuntimeError) as error:
        raise UnavailableError(
            f"Ray cannot connect to {address or 'this machine'} ({error}); start a cluster with `ray start --head`, or "
            "leave out --address"
        ) from error
    signal.signal(signal.SIGTERM, on_terminate)  # Ray replaced it
    with redirect_stdout(sys.stderr):  # stdout is for results, and Ray prints there that a node died
        try:
            yield
        finally:
            ray.shutdown()


def run_tasks(function: Callable[..., T], calls: Iterable[Sequence[Any]], *, gpus: int = 0) -> Iterator[T]:
    """Call a function on the cluster, and yield results as they arrive. A worker has one core.

    Args:
        function: The function. It may run more than once for a call.
        calls: Arguments of each call.
        gpus: GPUs for each call.

    Raises:
        EdgeError: the function raised it.
        OSError: the function raised it; a copy, without the traceback of the worker.
        EngineError: a worker died again and again.
    """
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=MAX_RETRIES)(function)
    pending = [task.remote(*arguments) for arguments in calls]
    while pending:
        [finished], pending = ray.wait(pending)
        try:
            yield ray.get(finished)
        except RayTaskError as error:
            if isinstance(error.cause, EdgeError | OSError):
                raise error.cause from None
            raise
        except RayError as error:
            raise EngineError(
                f"a worker died {MAX_RETRIES + 1} times ({error}); finished shards are kept: run the command again to "
                "continue, or find the image that crashes it"
            ) from error


def _check_reachable(address: str | None) -> None:
    """Connect to an address once; Ray would try again for many minutes.

    Raises:
        OSError: nothing listens there.
        ValueError: the port is not a number.
    """
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), CONNECT_S).close()
