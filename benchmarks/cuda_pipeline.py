"""`python -m benchmarks cuda-pipeline`: the command line of `benchmarks.gpu.pipeline`, imported only with a GPU."""

import argparse

from benchmarks.results import add_output
from edge.console import PASSED
from edge.cuda import get_runtime


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    add_output(parser, "runs/cuda_pipeline.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Write the report.

    Raises:
        EngineError: there is no GPU, or a library for it is missing.
    """
    get_runtime()
    from benchmarks.gpu.pipeline import run_pipeline

    run_pipeline(arguments.output)
    return PASSED
