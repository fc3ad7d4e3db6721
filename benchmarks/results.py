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
    """Write a result as JSON; a list of the result has one item per line."""
    members = (f"{json.dumps(key)}: {_indented(value)}" for key, value in result.items())
    write_file(path, "{\n" + ",\n".join(members) + "\n}\n")


def _indented(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]"
    return json.dumps(value, indent=2)


def add_output(parser: argparse.ArgumentParser, default: str, metavar: str) -> None:
    """Add `--output` for a file or folder."""
    parser.add_argument("--output", type=Path, default=Path(default), metavar=metavar, help="default: %(default)s")
