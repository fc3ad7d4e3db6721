"""Calls that wait for a device or a server, made so that Ctrl-C and a time limit end the wait."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Call(Generic[T]):
    """A call in a thread of its own, and its outcome."""

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
    """Return the result of a call that may block outside Python; signals are handled meanwhile.

    Args:
        work: The call.
        discard: Releases a result that comes after the wait has ended.
        timeout_s: Longest wait in seconds; None waits until the call ends.

    Raises:
        TimeoutError: the call has not ended in time. It goes on in its thread.
    """
    call = _Call(work, discard)
    threading.Thread(target=call.run, daemon=True).start()
    try:
        if not call.ended.wait(timeout_s):
            raise TimeoutError
    except BaseException:
        call.abandon()
        raise
    if call.error is not None:
        raise call.error
    return call.results[0]
