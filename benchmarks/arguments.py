"""What `python -m benchmarks` has to be told for each of its reports: one short function each."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.arguments import add_guarantee_arguments

DEMO_DATASETS = ("cluttered-digits", "digits", "fashion-mnist")

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def demo(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `demo`."""
    one = verbs.add_parser("demo", help="the whole pipeline on real images, with a report")
    one.add_argument("--dataset", choices=DEMO_DATASETS, default=DEMO_DATASETS[0], help="images (default: %(default)s)")
    one.add_argument("--data", type=Path, metavar="DIR", help="where the dataset's files are, if not in a usual place")
    one.add_argument("--output", type=Path, metavar="DIR", help="folder for everything (default: runs/demo...)")
    return one


def demo_seeds(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `demo-seeds`."""
    parser = verbs.add_parser("demo-seeds", help="the demo's network with several seeds: do exits pay with each?")
    parser.add_argument(
        "--dataset", choices=DEMO_DATASETS, default=DEMO_DATASETS[0], help="images (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the dataset's files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 to 4")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/demo-seeds"),
        metavar="DIR",
        help="folder of the networks; finished ones in it are kept (default: %(default)s)",
    )
    _add_output(parser, "runs/demo_seeds.json", "FILE")
    return parser


def real_size(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `real-size`."""
    one = verbs.add_parser("real-size", help="ResNet-18 at 224x224, fed from a 1080p video")
    one.add_argument(
        "--output",
        type=Path,
        default=Path("runs/real-size"),
        metavar="DIR",
        help="folder for everything (default: %(default)s)",
    )
    return one


def papers(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `papers`."""
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
    return one


def quantisation(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `quantisation`."""
    one = verbs.add_parser("quantisation", help="what each precision does to trained networks")
    one.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="of `python -m edge.training`")
    _add_output(one, "runs/quantisation", "DIR")
    add_guarantee_arguments(one)
    return one


def risk(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `risk`."""
    one = verbs.add_parser("risk", help="how often the promises of fitted thresholds are broken, in a simulation")
    one.add_argument("bundle", type=Path, metavar="BUNDLE", help="its threshold-fitting split is the pool")
    one.add_argument("--precision", default="int8", help="whose scores (default: %(default)s)")
    _add_output(one, "runs/risk.json", "FILE")
    return one


def cuda_chain(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `cuda-chain`."""
    one = verbs.add_parser("cuda-chain", help="exits decided on the GPU against exits the host looks at; needs a GPU")
    _add_output(one, "runs/cuda_chain.json", "FILE")
    return one


def cuda_pipeline(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `cuda-pipeline`."""
    one = verbs.add_parser("cuda-pipeline", help="frames overlapping on the GPU against one at a time; needs a GPU")
    _add_output(one, "runs/cuda_pipeline.json", "FILE")
    return one


def _add_output(one: argparse.ArgumentParser, usual: str, kind: str) -> None:
    one.add_argument("--output", type=Path, default=Path(usual), metavar=kind, help="default: %(default)s")
