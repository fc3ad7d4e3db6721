"""Blocking calls to a device or server, which Ctrl-C and a time limit can interrupt."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from edge.system import BLOCKING_CALL

T = TypeVar("T")


class _Call(Generic[T]):
    """A call in its own thread, with its result or error."""

    def __init__(self, work: Callable[[], T], discard: Callable[[T], object]) -> None:
        self._work, self._discard = work, discard
        self._lock, self._abandoned = threading.Lock(), False
        self.ended = threading.Event()
        self.results: list[T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            result = self._work()
        except BaseException as error:
            self.error = error
        else:
            with self._lock:
                if not self._abandoned:
                    self.results.append(result)
            if not self.results:
                self._discard(result)
        finally:
            self.ended.set()

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            results, self.results = self.results, []
        for result in results:
            self._discard(result)


def call_interruptibly(work: Callable[[], T], discard: Callable[[T], object], timeout_s: float | None = None) -> T:
    """Return the result of a call that may block outside Python; signals are handled while it waits.

    Args:
        work: The call.
        discard: Releases a result that arrives after the wait has ended.
        timeout_s: Longest wait in seconds; None waits until the call ends.

    Raises:
        TimeoutError: the call did not return in time. It continues in its thread.
    """
    call = _Call(work, discard)
    threading.Thread(target=call.run, name=BLOCKING_CALL, daemon=True).start()
    try:
        if not call.ended.wait(timeout_s):
            raise TimeoutError
    except BaseException:
        call.abandon()
        raise
    if call.error is not None:
        raise call.error
    return call.results[0]
