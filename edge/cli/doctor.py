"""`edge doctor`: the jobs that this machine is ready for, and remedies for the others."""

import argparse
import dataclasses
from typing import Any

from edge.cli.arguments import add_json
from edge.console import FAILED, PASSED, UNAVAILABLE, log, print_json, print_table
from edge.doctor.check import Check
from edge.doctor.gpu import gpu_steps, run_step
from edge.doctor.jobs import JOBS, Diagnosis, Job, examine
from edge.errors import UnavailableError

COLUMNS = ("state", "capability", "value", "remedy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge doctor`."""
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--for", dest="job", choices=JOBS, help="report one job; exit code 4 if this machine is not ready for it"
    )
    chosen.add_argument("--gpu", action="store_true", help="run kernels and graphs on the GPU, each in its own process")
    add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print every check by job. The exit code is 1 if one has a problem; with `--for`, 4 if the job lacks something."""
    if arguments.gpu:
        return try_gpu(as_json=arguments.json)
    diagnosis = examine() if arguments.job is None else examine([arguments.job])
    if arguments.json:
        print_json(_as_json(diagnosis))
    else:
        print_diagnosis(diagnosis)
    if arguments.job is not None:
        return PASSED if diagnosis.jobs[0].is_ready else UNAVAILABLE
    return FAILED if any(check.state == "problem" for check in diagnosis.checks()) else PASSED


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print a table of the machine and one for each job; a check that is in order is printed once."""
    print_table("this machine", COLUMNS, map(_row, diagnosis.machine))
    printed = set(diagnosis.machine)
    for job in diagnosis.jobs:
        checks = [check for check in (*job.needs, *job.profits) if check not in printed or not check.ok]
        printed.update(checks)
        print_table(f"{job.description}: {readiness(job)}", COLUMNS, map(_row, checks))
    for job in diagnosis.jobs:
        missing = f" ({', '.join(check.name for check in job.missing)})" if job.missing else ""
        print(f"{job.description}: {readiness(job)}{missing}")


def readiness(job: Job) -> str:
    """Return whether a job can be done, in words."""
    count = len(job.missing)
    return f"{count} thing{'s' * (count > 1)} missing" if count else "ready"


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


def _as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "machine": [dataclasses.asdict(check) for check in diagnosis.machine],
        "jobs": {
            job.name: {
                "is_ready": job.is_ready,
                "missing": [check.name for check in job.missing],
                "needs": [dataclasses.asdict(check) for check in job.needs],
                "profits": [dataclasses.asdict(check) for check in job.profits],
            }
            for job in diagnosis.jobs
        },
    }


def _row(check: Check) -> tuple[str, str, str, str]:
    return check.state, check.name, check.value, check.remedy
