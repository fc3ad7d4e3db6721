"""`edge doctor`: capabilities of this machine."""

import argparse
import dataclasses

from edge.cli.arguments import add_json
from edge.console import FAILED, PASSED, log, print_json, print_table
from edge.doctor.checks import check_machine
from edge.doctor.gpu import gpu_steps, run_step
from edge.errors import UnavailableError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge doctor`."""
    parser.add_argument("--gpu", action="store_true", help="run kernels and graphs on the GPU, each in its own process")
    add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print every check; the exit code is 1 if one has a problem."""
    if arguments.gpu:
        return try_gpu(as_json=arguments.json)
    checks = check_machine()
    if arguments.json:
        print_json([dataclasses.asdict(check) for check in checks])
    else:
        rows = [(check.state, check.name, check.value, check.remedy) for check in checks]
        print_table("this machine", ("state", "capability", "value", "remedy"), rows)
    return FAILED if any(check.state == "problem" for check in checks) else PASSED


def try_gpu(*, as_json: bool) -> int:
    """Run the steps on the GPU and print their outcomes; the exit code is 1 if one fails.

    Raises:
        UnavailableError: there is no GPU, or a library for it is missing.
    """
    results = []
    for step in gpu_steps():
        results.append(run_step(step))
        log(f"{results[-1].name}: {results[-1].state}")
        if results[-1].state == "not run":
            raise UnavailableError(results[-1].detail)
    if as_json:
        print_json([dataclasses.asdict(result) for result in results])
    else:
        rows = [(result.state, result.name, f"{result.seconds:.1f}", result.detail) for result in results]
        print_table("this GPU", ("state", "step", "seconds", "detail"), rows)
    return PASSED if all(result.state == "passed" for result in results) else FAILED
