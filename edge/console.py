"""Terminal output of command lines: progress on stderr, tables or JSON on stdout, errors as one line and exit code."""

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from edge.errors import EdgeError
from edge.progress import Progress
from edge.progress import track as track_progress

T = TypeVar("T")

PASSED, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes of every command."""

WIDTH_WITHOUT_TERMINAL = 150


class _Console(Console):
    """A console that leaves closed pipes to `run_main`."""

    def on_broken_pipe(self) -> None:
        """Re-raise the error that rich is handling instead of ending the process."""
        raise


stdout = _Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
stderr = _Console(stderr=True, highlight=False, soft_wrap=True)


class _LogHandler(logging.Handler):
    """Prints the library's log records on stderr, above any progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record's message."""
        log(record.getMessage())


LOG_HANDLER = _LogHandler()


def run_main(main: Callable[[], int]) -> NoReturn:
    """Run a command's main function and exit with its code; user-correctable errors become one line on stderr."""
    logging.getLogger("edge").addHandler(LOG_HANDLER)
    try:
        code = main()
        sys.stdout.flush()
    except EdgeError as error:
        code = _print_error(str(error))
    except ModuleNotFoundError as error:
        code = _print_error(f"{error}; `edge doctor` lists missing libraries and how to install them")
    except KeyboardInterrupt:
        stderr.print("interrupted; nothing half-written is left behind")
        code = INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        code = PASSED
    except OSError as error:
        code = _print_error(f"{error.strerror or error}: {error.filename or 'standard output'}")
        _discard_stdout()
    sys.exit(code)


class ProgressDisplay:
    """Progress bars on stderr, one per task, shown only on a terminal.

    Used as a context manager. The display itself is an `edge.progress.OnProgress`.
    """

    def __init__(self) -> None:
        """Create the bars' columns."""
        description, note = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[note]}"))
        columns = (description, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note)
        self._bars = Bars(
            *columns,
            console=stderr,
            transient=True,
            disable=not stderr.is_terminal,
            redirect_stdout=stdout.is_terminal,  # results for a file or pipe must not go to the terminal
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = Lock()

    def __call__(self, progress: Progress) -> None:
        """Draw the state of a task; a task that is done disappears."""
        with self._lock:
            if progress.task not in self._tasks:
                self._tasks[progress.task] = self._bars.add_task(progress.task, total=progress.total, note="")
            task = self._tasks[progress.task]
            self._bars.update(task, completed=progress.done, total=progress.total, note=progress.note)
            if progress.done == progress.total:
                self._bars.remove_task(self._tasks.pop(progress.task))

    def __enter__(self) -> "ProgressDisplay":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield items under a progress bar."""
    with ProgressDisplay() as display:
        yield from track_progress(items, description, display, total)


@contextmanager
def status(description: str) -> Iterator[Callable[[str], None]]:
    """Show a task of unknown length; yields a function that sets its note."""
    with ProgressDisplay() as display:
        display(Progress(description))
        yield lambda note: display(Progress(description, note=note))


def at_least(minimum: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers of at least `minimum`."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is less than {minimum}")
        return value

    return whole_number


def zero_or_more(text: str) -> float:
    """Parse a finite number of at least 0, for argparse."""
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{value} is not a finite number of 0 or more")
    return value


def above_zero(text: str) -> float:
    """Parse a finite number above 0, for argparse."""
    if zero_or_more(text) == 0:
        raise argparse.ArgumentTypeError("it must be above 0")
    return float(text)


def log(text: str) -> None:
    """Print a message for people on stderr: stdout is for results."""
    stderr.print(text, markup=False)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on stdout."""
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    stdout.print(table)


def print_json(data: Any) -> None:
    """Print data as JSON on stdout; NaN and infinity become null."""
    sys.stdout.write(json.dumps(_finite(data), indent=2, allow_nan=False) + "\n")


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _print_error(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return WRONG_INPUT


def _discard_stdout() -> None:
    """Discard unwritten output, so that Python does not fail on it again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
