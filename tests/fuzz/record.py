"""The record of campaigns: a row for each range of inputs and for each killed command."""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import write_result
from edge.system import conditions
from tests.fuzz.coverage import ROOT

Row = dict[str, Any]
KEYS = {"readers": ("reader", "seed", "first"), "commands": ("command", "seed")}
"""Fields that identify a row: a later run of the same range replaces it."""
LIVE = ROOT / "benchmarks" / "results" / "live.json"
"""Result of `python -m benchmarks live`, whose endurance run adds the frames."""


def add_rows(path: Path, kind: str, rows: Sequence[Row]) -> None:
    """Add rows to the file of results, and count again.

    Args:
        path: The JSON file, which need not exist.
        kind: `readers` or `commands`.
        rows: The new rows.
    """
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    run = {"commit": commit(), "run": command_line(), "conditions": conditions()}
    kept = {identity(kind, row): row for row in record.get(kind, ())}
    kept |= {identity(kind, row): row | run for row in rows}
    record[kind] = list(kept.values())
    write_result(path, totals(record) | {name: record[name] for name in KEYS if name in record})


def totals(record: dict[str, Any]) -> dict[str, int]:
    """Return the sums over all rows."""
    readers, commands = record.get("readers", []), record.get("commands", [])
    return {
        "fuzz_inputs": sum(row["inputs"] for row in readers),
        "kills": sum(row["kills"] for row in commands),
        "frames": json.loads(LIVE.read_text())["endurance"]["frames"],
        "failures": sum(row["failures"] for row in readers) + sum(len(row["failures"]) for row in commands),
    }


def identity(kind: str, row: Row) -> tuple[Any, ...]:
    """Return the range of a row."""
    return tuple(row[field] for field in KEYS[kind])


def command_line() -> str:
    """Return the command line that is running, as a user types it."""
    return shlex.join(["python", "-m", "tests.fuzz", *sys.argv[1:]])


def commit() -> str:
    """Return the commit of the checkout, marked where other files than results differ from it."""
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results")
    return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changes else "")


def git(*arguments: str) -> str:
    """Return the output of a git command in the checkout."""
    return subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
