"""Progress of long tasks, reported by the library and drawn by command lines."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Progress(NamedTuple):
    """The state of one task."""

    task: str
    done: int = 0
    total: int | None = None
    """Total number of steps; None if it is unknown."""
    note: str = ""


OnProgress = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """Report nothing."""


def track(items: Iterable[T], task: str, on_progress: OnProgress, total: int | None = None) -> Iterator[T]:
    """Yield items, and report progress after each."""
    known = len(items) if total is None and isinstance(items, Sequence) else total
    on_progress(Progress(task, 0, known))
    for done, item in enumerate(items, start=1):
        yield item
        on_progress(Progress(task, done, known))
