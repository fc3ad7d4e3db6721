"""How every command talks: progress on stderr, tables or JSON on stdout, errors as one line and an exit code."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from edge.errors import EdgeError

T = TypeVar("T")

PASSED, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes of every command."""

WIDTH_WITHOUT_TERMINAL = 150

stdout = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def run_main(main: Callable[[], int]) -> NoReturn:
    """Run a command's main function and leave with its exit code; what the user can mend is said in one line."""
    try:
        code = main()
    except EdgeError as error:
        code = _complain(str(error))
    except KeyboardInterrupt:
        stderr.print("interrupted; nothing half-written is left behind")
        code = INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        code = PASSED
    except OSError as error:
        code = _complain(f"{error.strerror or error}: {error.filename or 'no file named'}")
    sys.exit(code)


def progress() -> Progress:
    """Return a progress bar on stderr; it shows only where a person is looking."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(
        *columns, TextColumn("{task.fields[note]}"), console=stderr, transient=True, disable=not stderr.is_terminal
    )


def tracked(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Pass items on with a progress bar."""
    with progress() as bar:
        known = total if total is not None else len(items) if isinstance(items, Sequence) else None
        task = bar.add_task(description, total=known, note="")
        for item in items:
            yield item
            bar.advance(task)


@contextmanager
def busy(description: str) -> Iterator[None]:
    """Show that something is going on whose length nobody knows."""
    with progress() as bar:
        bar.add_task(description, total=None, note="")
        yield


def at_least(lowest: int) -> Callable[[str], int]:
    """Return a type for argparse: whole numbers from `lowest` on."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise argparse.ArgumentTypeError(f"{value} is less than {lowest}")
        return value

    return whole_number


def say(text: str) -> None:
    """Tell a person what happened; stderr, so that stdout stays clean for results."""
    stderr.print(text, markup=False)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on stdout."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    stdout.print(table)


def print_json(data: Any) -> None:
    """Print data for machines on stdout."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def _complain(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return WRONG_INPUT
