"""`python -m benchmarks cuda-torch`: the command line of `benchmarks.gpu.networks`, imported only with a GPU."""

import argparse

from benchmarks.gpu import torch_unavailable_reason
from benchmarks.results import add_output
from edge.console import PASSED
from edge.cuda import get_runtime
from edge.errors import UnavailableError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    add_output(parser, "runs/cuda_torch.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Write the report.

    Raises:
        EngineError: there is no GPU, or a library for it is missing.
    """
    get_runtime()
    if reason := torch_unavailable_reason():
        raise UnavailableError(f"torch cannot use this GPU: {reason}; install a torch for its driver's CUDA version")
    from benchmarks.gpu.networks import run_torch

    run_torch(arguments.output)
    return PASSED
