"""Child processes that run a function of ours and talk to it through a pipe.

They are not forked, since CUDA does not survive a fork, and not started by `multiprocessing`, which would run the
user's script again if that has no `if __name__ == "__main__"`.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

PROGRAM = """
import sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
sys.path[:] = connection.recv()
connection.recv()(connection)
"""


def start_child(run: Callable[[Connection], None]) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a process that calls `run`, a function of a module, with its end of a pipe; return it and our end.

    The pipe ends when either process ends, killed or not. The caller ends the process.
    """
    ours, theirs = Pipe()
    command = [sys.executable, "-I", "-c", PROGRAM, str(theirs.fileno())]
    with theirs, _sigint_blocked():  # only the child holds `theirs`, so its death ends the stream
        child = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
    with suppress(ConnectionError):  # the child died; whoever talks to it next is told
        ours.send(sys.path)
        ours.send(run)
    return child, ours


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT; processes started in this block inherit that.

    A terminal sends Ctrl-C to parent and child, but the parent ends the child.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
