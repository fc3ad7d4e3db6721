"""`python -m benchmarks`: comparisons and reports."""

import argparse
from pathlib import Path

from calibration.arguments import add_promise_arguments, promise_of
from edge.console import PASSED, run_main
from edge.errors import DataError


def demo(arguments: argparse.Namespace) -> int:
    """Run the whole pipeline on real images."""
    from benchmarks.demo import run_demo

    name = "demo" if arguments.dataset == "digits" else f"demo-{arguments.dataset}"
    run_demo(arguments.dataset, arguments.data, arguments.output or Path("runs") / name)
    return PASSED


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

    run_quantisation(arguments.checkpoints, arguments.output, promise_of(arguments))
    return PASSED


def risk(arguments: argparse.Namespace) -> int:
    """Fit thresholds hundreds of times and count broken promises."""
    from benchmarks.risk import run_risk

    run_risk(arguments.bundle, arguments.precision, arguments.output)
    return PASSED


def cuda_chain(arguments: argparse.Namespace) -> int:
    """Measure what deciding on the GPU saves."""
    from benchmarks.gpu.chain import run_chain

    run_chain(arguments.output)
    return PASSED


def cuda_pipeline(arguments: argparse.Namespace) -> int:
    """Measure what overlapping frames on the GPU gains."""
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


def parser() -> argparse.ArgumentParser:
    """Return the command line of all reports."""
    new = argparse.ArgumentParser(prog="python -m benchmarks", description="Comparisons and reports.")
    verbs = new.add_subparsers(required=True, metavar="REPORT")
    one = verbs.add_parser("demo", help="the whole pipeline on real images, with a report")
    one.add_argument(
        "--dataset", choices=("digits", "fashion-mnist"), default="digits", help="images (default: %(default)s)"
    )
    one.add_argument("--data", type=Path, metavar="DIR", help="where the dataset's files are, if not in a usual place")
    one.add_argument("--output", type=Path, metavar="DIR", help="folder for everything (default: runs/demo...)")
    one.set_defaults(verb=demo)
    one = verbs.add_parser("real-size", help="ResNet-18 at 224x224, fed from a 1080p video")
    one.add_argument(
        "--output",
        type=Path,
        default=Path("runs/real-size"),
        metavar="DIR",
        help="folder for everything (default: %(default)s)",
    )
    one.set_defaults(verb=real_size)
    one = verbs.add_parser(
        "papers", help="Confidence-Gated and Explanation-Guided Training against their rivals, claim by claim"
    )
    one.add_argument("--quick", action="store_true", help="few epochs and one seed: minutes instead of hours")
    one.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for everything; finished networks in it are kept (default: runs/papers...)",
    )
    one.set_defaults(verb=papers)
    one = verbs.add_parser("quantisation", help="what each precision does to trained networks")
    one.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="of `python -m edge.training`")
    one.add_argument(
        "--output", type=Path, default=Path("runs/quantisation"), metavar="DIR", help="default: %(default)s"
    )
    add_promise_arguments(one)
    one.set_defaults(verb=quantisation)
    one = verbs.add_parser("risk", help="how often the promises of fitted thresholds are broken, in a simulation")
    one.add_argument("bundle", type=Path, metavar="BUNDLE", help="its threshold-fitting split is the pool")
    one.add_argument("--precision", default="int8", help="whose scores (default: %(default)s)")
    one.add_argument("--output", type=Path, default=Path("runs/risk.json"), metavar="FILE", help="default: %(default)s")
    one.set_defaults(verb=risk)
    for name, verb, summary in (
        ("cuda-chain", cuda_chain, "exits decided on the GPU against exits the host looks at"),
        ("cuda-pipeline", cuda_pipeline, "frames overlapping on the GPU against one at a time"),
    ):
        one = verbs.add_parser(name, help=f"{summary}; needs a GPU")
        usual = Path("runs") / f"{name.replace('-', '_')}.json"
        one.add_argument("--output", type=Path, default=usual, metavar="FILE", help="default: %(default)s")
        one.set_defaults(verb=verb)
    return new


if __name__ == "__main__":
    run_main(main)
