"""`python -m benchmarks`: comparisons and reports."""

import argparse
from pathlib import Path

from benchmarks import arguments as arguments_of
from calibration.arguments import guarantee_from_arguments
from edge.console import FAILED, PASSED, run_main
from edge.cuda import get_runtime
from edge.errors import DataError


def demo(arguments: argparse.Namespace) -> int:
    """Run the whole pipeline on real images."""
    from benchmarks.demo import run_demo

    name = "demo" if arguments.dataset == arguments_of.DEMO_DATASETS[0] else f"demo-{arguments.dataset}"
    run_demo(arguments.dataset, arguments.data, arguments.output or Path("runs") / name)
    return PASSED


def demo_seeds(arguments: argparse.Namespace) -> int:
    """Train the demo's network with several seeds and check that early exits pay."""
    from benchmarks.demo_seeds import run_demo_seeds

    passed = run_demo_seeds(arguments.dataset, arguments.data, arguments.seeds, arguments.folder, arguments.output)
    return PASSED if passed else FAILED


def real_size(arguments: argparse.Namespace) -> int:
    """Run a ResNet-18 at 224x224 on a 1080p video."""
    from benchmarks.real_size import run_real_size

    run_real_size(arguments.output)
    return PASSED


def papers(arguments: argparse.Namespace) -> int:
    """Measure the claims of the two training papers again."""
    from benchmarks.papers import run_papers

    folder = Path("runs/papers-quick" if arguments.quick else "runs/papers")
    run_papers(arguments.output or folder, quick=arguments.quick)
    return PASSED


def quantisation(arguments: argparse.Namespace) -> int:
    """Compile trained networks in every precision and compare."""
    from benchmarks.quantisation import run_quantisation

    run_quantisation(arguments.checkpoints, arguments.output, guarantee_from_arguments(arguments))
    return PASSED


def risk(arguments: argparse.Namespace) -> int:
    """Fit thresholds hundreds of times and count broken promises."""
    from benchmarks.risk import run_risk

    run_risk(arguments.bundle, arguments.precision, arguments.output)
    return PASSED


def cuda_chain(arguments: argparse.Namespace) -> int:
    """Measure what deciding on the GPU saves."""
    get_runtime()
    from benchmarks.gpu.chain import run_chain

    run_chain(arguments.output)
    return PASSED


def cuda_pipeline(arguments: argparse.Namespace) -> int:
    """Measure what overlapping frames on the GPU gains."""
    get_runtime()
    from benchmarks.gpu.pipeline import run_pipeline

    run_pipeline(arguments.output)
    return PASSED


def main() -> int:
    """Do what the command line says."""
    arguments = parser().parse_args()
    if getattr(arguments, "data", None) and not arguments.data.is_dir():
        raise DataError(f"there is no folder {arguments.data}; name the one that holds the dataset's files")
    code: int = arguments.verb(arguments)
    return code


VERBS = {
    demo: arguments_of.demo,
    demo_seeds: arguments_of.demo_seeds,
    real_size: arguments_of.real_size,
    papers: arguments_of.papers,
    quantisation: arguments_of.quantisation,
    risk: arguments_of.risk,
    cuda_chain: arguments_of.cuda_chain,
    cuda_pipeline: arguments_of.cuda_pipeline,
}
"""The reports, and what each has to be told."""


def parser() -> argparse.ArgumentParser:
    """Return the command line of all reports."""
    new = argparse.ArgumentParser(prog="python -m benchmarks", description="Comparisons and reports.")
    verbs = new.add_subparsers(required=True, metavar="REPORT")
    for verb, add in VERBS.items():
        add(verbs).set_defaults(verb=verb)
    return new


if __name__ == "__main__":
    run_main(main)
