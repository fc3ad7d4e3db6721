"""`python -m compile`: checkpoint to bundle."""

import argparse
import dataclasses
from pathlib import Path

from calibration.arguments import add_promise_arguments, promise_of
from compile.recipe import PRECISIONS, compile_bundle
from edge.console import PASSED, print_json, run_main
from edge.report import print_bundle
from edge.training.checkpoint import read_checkpoint


def main() -> int:
    """Compile as the command line says."""
    arguments = parser().parse_args()
    bundle = compile_bundle(
        read_checkpoint(arguments.checkpoint),
        arguments.output,
        precisions=arguments.precision or PRECISIONS,
        promise=promise_of(arguments),
        data=arguments.data,
    )
    if arguments.json:
        print_json({"bundle": str(bundle.path), **dataclasses.asdict(bundle.manifest)})
        return PASSED
    print_bundle(bundle)
    print(f"wrote {bundle.path}; copy it to the device, then: edge build {bundle.path}")
    return PASSED


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    new = argparse.ArgumentParser(
        prog="python -m compile",
        description="Turn a checkpoint into a bundle: ONNX segments, fitted thresholds and reference samples.",
    )
    new.add_argument("checkpoint", type=Path, help="checkpoint.pt of `python -m edge.training`")
    new.add_argument("--output", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle")
    new.add_argument(
        "--precision", action="append", choices=PRECISIONS, help="precision to include; repeatable (default: all)"
    )
    add_promise_arguments(new)
    new.add_argument(
        "--data", type=Path, metavar="DIR", help="where the dataset's files are, if they moved since training"
    )
    new.add_argument("--json", action="store_true", help="print the result as JSON")
    return new


if __name__ == "__main__":
    run_main(main)
