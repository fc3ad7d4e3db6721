"""`python -m benchmarks cuda-chain`: the command line of `benchmarks.gpu.chain`, imported only with a GPU."""

import argparse

from benchmarks.results import add_output
from edge.console import PASSED
from edge.cuda import get_runtime


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    add_output(parser, "runs/cuda_chain.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Write the report.

    Raises:
        EngineError: there is no GPU, or a library for it is missing.
    """
    get_runtime()
    from benchmarks.gpu.chain import run_chain

    run_chain(arguments.output)
    return PASSED
