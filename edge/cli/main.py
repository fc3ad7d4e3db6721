"""`edge`: a bundle on this machine."""

import argparse
import importlib
import sys
from collections.abc import Callable
from typing import Protocol, cast

from edge.console import run_main

SUBCOMMANDS = {
    "info": "show a bundle's exits, cost, precisions and thresholds",
    "build": "build every segment's engine into this user's cache",
    "run": "classify a camera, video or folder",
    "verify": "compare engines with the trained network, exit by exit; exit code 1 if they differ",
    "record": "write every exit's scores for labelled images, to refit thresholds from",
    "bench": "measure the latency of each exit, the real mix, and the whole network as one engine",
    "doctor": "report this machine's capabilities",
}


class Subcommand(Protocol):
    """A module of this package."""

    add_arguments: Callable[[argparse.ArgumentParser], None]
    main: Callable[[argparse.Namespace], int]


def main() -> int:
    """Run the subcommand of the command line."""
    name = next((word for word in sys.argv[1:] if word in SUBCOMMANDS), None)
    subcommand = None if name is None else cast(Subcommand, importlib.import_module(f"edge.cli.{name}"))
    arguments = parser(name, subcommand).parse_args()
    assert subcommand is not None, "argparse accepts no other name"  # noqa: S101 - for mypy
    return subcommand.main(arguments)


def parser(name: str | None, subcommand: Subcommand | None) -> argparse.ArgumentParser:
    """Return the command line; only the named subcommand, whose module was imported, has its arguments."""
    new = argparse.ArgumentParser(
        prog="edge", description="Run an early-exit bundle on this machine. Make one with `python -m compile`."
    )
    subparsers = new.add_subparsers(required=True, metavar="SUBCOMMAND")
    for other, summary in SUBCOMMANDS.items():
        sub = subparsers.add_parser(other, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if subcommand is not None and other == name:
            sub.add_argument("--json", action="store_true", help="print the result as JSON")
            subcommand.add_arguments(sub)
    return new


def command() -> None:
    """Entry point of the installed command."""
    run_main(main)
