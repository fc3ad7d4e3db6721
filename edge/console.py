"""Input and output of command lines: progress and errors on stderr, tables or JSON on stdout, exit codes."""

import argparse
import errno
import json
import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBars
from rich.table import Table
from rich.text import Text

from edge.entry import STDOUT, Terminated, exit_at_signals, raise_signals, signal_exit_code
from edge.errors import EdgeError, is_out_of_memory, one_line
from edge.progress import Progress
from edge.progress import track as track_progress
from edge.system import BLOCKING_CALL, import_remedy

T = TypeVar("T")

PASSED, FAILED, WRONG_INPUT, SOURCE_LOST, UNAVAILABLE, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143
"""Exit codes of every command; each error class has its own."""

WIDTH_WITHOUT_TERMINAL = 150
LINE_INTERVAL_S = 30.0
"""Time between lines of progress without a terminal."""
MAX_WHOLE_NUMBER = 2**31 - 1
"""Libraries count in 32 bits."""
REMEDIES = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "check the path"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "check its permissions, or choose another path"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or choose another path"),
    **dict.fromkeys((errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY), "choose another path"),
}
"""Remedies for errors of the system."""

is_terminal = sys.stdout is not None and sys.stdout.isatty()
stdout = Console(highlight=False, emoji=False, width=None if is_terminal else WIDTH_WITHOUT_TERMINAL)
stderr = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


class _LogHandler(logging.Handler):
    """Prints the library's log records on stderr, above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record's message."""
        log(record.getMessage())


LOG_HANDLER = _LogHandler()


def run_main(main: Callable[[], int]) -> NoReturn:
    """Run a command's main function and exit with its code; user-correctable errors become one line on stderr."""
    logging.getLogger("edge").addHandler(LOG_HANDLER)
    raise_signals()
    code, flushed = _exit_code(main), _exit_code(_flush_stdout)
    exit_at_signals()
    if code in (INTERRUPTED, TERMINATED) and any(thread.name == BLOCKING_CALL for thread in threading.enumerate()):
        sys.stderr.flush()
        os._exit(code)  # a library that still waits in a thread would crash at the end of the interpreter
    sys.exit(code or flushed)


def _exit_code(main: Callable[[], int]) -> int:
    """Return the exit code of a function; print its error."""
    try:
        return main()
    except SystemExit as leaving:  # argparse printed its help or error
        return leaving.code if isinstance(leaving.code, int) else PASSED
    except KeyboardInterrupt as interruption:
        return _print_interruption(TERMINATED if isinstance(interruption, Terminated) else INTERRUPTED)
    except Exception as error:
        if code := signal_exit_code():  # a library converted the interruption to an exception
            return _print_interruption(code)
        return _print_error(error)


def _print_interruption(code: int) -> int:
    stderr.print(f"{'terminated' if code == TERMINATED else 'interrupted'}; no partial file was left behind")
    return code


def _print_error(error: Exception) -> int:
    """Print a user-correctable error and return its exit code; raise any other."""
    code = WRONG_INPUT
    if isinstance(error, EdgeError):
        message, code = str(error), error.exit_code
    elif isinstance(error, ImportError):
        message, code = f"{error}; {import_remedy(error)}", UNAVAILABLE
    elif is_out_of_memory(error):
        message, code = "out of memory; close other programs, or use smaller inputs or batches", UNAVAILABLE
    elif isinstance(error, OSError):
        message = _reason(error)
    else:
        raise error
    sys.stderr.write(f"error: {one_line(message)}\n")
    return code


def _flush_stdout() -> int:
    """Write buffered output.

    Raises:
        OSError: output could not be written. A closed pipe is not an error.
    """
    sys.stdout.flush()
    if STDOUT.error is not None:
        raise OSError(STDOUT.error.errno, STDOUT.error.strerror, STDOUT.name)
    return PASSED


def _reason(error: OSError) -> str:
    """Return the system's reason, the file and the remedy; the error of a deleted working directory names no file."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        remedy = REMEDIES.get(error.errno or 0)
        return f"{reason}: {error.filename}" + (f"; {remedy}" if remedy else "")
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the working directory was deleted; change to another one"
    return reason


class ProgressDisplay:
    """Progress of tasks on stderr: a bar for each on a terminal, else lines at intervals.

    Used as a context manager. The display itself is an `edge.progress.OnProgress`.
    """

    def __init__(self) -> None:
        """Create the bars' columns."""
        description, note = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[note]}"))
        columns = (description, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note)
        self._bars = ProgressBars(
            *columns,
            console=stderr,
            transient=True,
            disable=not stderr.is_terminal,
            redirect_stdout=stdout.is_terminal,  # results for a file or pipe must not go to the terminal
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._lines = None if stderr.is_terminal else ProgressLines()

    def __call__(self, progress: Progress) -> None:
        """Draw the state of a task; a completed task disappears."""
        if self._lines is not None:
            self._lines.update(progress)
            return
        with self._lock:
            if progress.task not in self._tasks:
                self._tasks[progress.task] = self._bars.add_task(progress.task, total=progress.total, note="")
            task = self._tasks[progress.task]
            self._bars.update(task, completed=progress.done, total=progress.total, note=progress.note)
            if progress.done == progress.total:
                self._bars.remove_task(self._tasks.pop(progress.task))

    def __enter__(self) -> "ProgressDisplay":
        self._bars.start()
        if self._lines is not None:
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lines is not None:
            self._lines.stop()
        self._bars.stop()


class ProgressLines:
    """Lines on stderr with the state of the running tasks, every half minute; endless tasks print none."""

    def __init__(self) -> None:
        """Start without tasks."""
        self._tasks: dict[str, tuple[float, Progress]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._print_at_intervals, daemon=True)

    def start(self) -> None:
        """Start printing."""
        self._thread.start()

    def stop(self) -> None:
        """Stop printing."""
        self._stopped.set()
        self._thread.join()

    def update(self, progress: Progress) -> None:
        """Store the state of a task; a task that is done is removed."""
        is_endless = progress.total is None and progress.done > 0
        if progress.done == progress.total or is_endless:
            self._tasks.pop(progress.task, None)
        else:
            started, _ = self._tasks.get(progress.task, (monotonic(), progress))
            self._tasks[progress.task] = started, progress

    def _print_at_intervals(self) -> None:
        while not self._stopped.wait(LINE_INTERVAL_S):
            for started, (task, done, total, note) in list(self._tasks.values()):
                parts = [task, "" if total is None else f"{done} of {total}", note, f"{monotonic() - started:.0f} s"]
                log(", ".join(part for part in parts if part))


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


def at_least(minimum: int, maximum: int = MAX_WHOLE_NUMBER) -> Callable[[str], int]:
    """Return an argparse type for whole numbers between `minimum` and `maximum`."""

    def whole_number(text: str) -> int:
        value = int(text)
        if not minimum <= value <= maximum:
            comparison = f"less than {minimum}" if value < minimum else f"more than {maximum}"
            raise argparse.ArgumentTypeError(f"{value} is {comparison}")
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
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return float(text)


def log(text: str) -> None:
    """Print a message on stderr; stdout is for results."""
    stderr.print(text, markup=False)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a title on a line of its own and a table on stdout."""
    stdout.print(Text(one_line(title), style="bold"), soft_wrap=True)
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(str(cell))) for cell in row))
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
