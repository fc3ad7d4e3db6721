"""The command `edge`."""

from edge.entry import start_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from edge.cli.parser import CommandParser

SUBCOMMANDS = {
    "info": "show a bundle's exits, cost, precisions and thresholds",
    "build": "build the engines of all segments into this user's cache",
    "run": "classify the frames of a camera, stream, video or folder",
    "verify": "compare engines with the trained network, exit by exit; exit code 1 if a tolerance is exceeded",
    "record": "record every exit's scores on labelled images, to refit thresholds",
    "score": "classify a large set of images, on all cores of this machine or of a Ray cluster",
    "bench": "measure latency and energy of each exit, of early exiting and of the whole network",
    "keygen": "make a pair of keys to sign bundles with",
    "sign": "sign a bundle, for `--require-signature` of the other subcommands",
    "push": "copy a bundle to a registry",
    "pull": "copy a bundle from a registry, verified before it is in place",
    "doctor": "report which jobs this machine is ready for, and the remedy for the rest",
}
"""Summaries by name; each name is a module of this package."""


def command() -> "NoReturn":
    """Entry point of the installed command. Signals are set up before the slow imports."""
    start_process("__main__")
    from edge.console import run_main

    run_main(main)


def main() -> int:
    """Run the subcommand of the command line."""
    from edge.cli.parser import SubcommandSpec, run_subcommand

    subcommands = {name: SubcommandSpec(summary, f"edge.cli.{name}") for name, summary in SUBCOMMANDS.items()}
    return run_subcommand(parser(), subcommands)


def parser() -> "CommandParser":
    """Return the command line without its subcommands."""
    from edge.cli.parser import CommandParser

    return CommandParser(
        prog="edge", description="Run an early-exit bundle on this machine. Make one with `python -m compile`."
    )
