"""`edge doctor`: capabilities of this machine."""

import argparse
import dataclasses

from edge.cli.arguments import add_json
from edge.console import FAILED, PASSED, print_json, print_table
from edge.doctor.checks import check_machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge doctor`."""
    add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print every check; the exit code is 1 if one has a problem."""
    checks = check_machine()
    if arguments.json:
        print_json([dataclasses.asdict(check) for check in checks])
    else:
        rows = [(check.state, check.name, check.value, check.remedy) for check in checks]
        print_table("this machine", ("state", "capability", "value", "remedy"), rows)
    return FAILED if any(check.state == "problem" for check in checks) else PASSED
