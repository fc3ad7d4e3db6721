"""Recorded results: JSON with the command and the conditions of the measurement."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from edge.storage import write_file


def command_line() -> str:
    """Return the command line that is running, as a user types it."""
    return shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON."""
    write_file(path, json.dumps(result, indent=2) + "\n")


def add_output(parser: argparse.ArgumentParser, default: str, metavar: str) -> None:
    """Add `--output` for a file or folder."""
    parser.add_argument("--output", type=Path, default=Path(default), metavar=metavar, help="default: %(default)s")
