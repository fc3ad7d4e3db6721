"""`edge doctor`: capabilities of this machine."""

import argparse
import dataclasses

from edge.console import FAILED, PASSED, print_json, print_table
from edge.doctor.checks import check_machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def main(arguments: argparse.Namespace) -> int:
    """Print every check; the exit code is 1 where something needed is missing."""
    checks = check_machine()
    if arguments.json:
        print_json([dataclasses.asdict(check) for check in checks])
    else:
        rows = [
            ("ok" if check.ok else "LACKS", check.name, check.value, "" if check.ok else check.remedy)
            for check in checks
        ]
        print_table("this machine", ("", "capability", "value", "remedy"), rows)
    return PASSED if all(check.ok for check in checks) else FAILED
