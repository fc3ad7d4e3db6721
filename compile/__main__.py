"""`python -m compile`: checkpoint to bundle."""

from edge.entry import start_process

start_process(__name__, imports_torch=True)  # before the imports below, which take a second

import argparse
import dataclasses
from pathlib import Path

from calibration.arguments import (
    add_guarantee_arguments,
    guarantee_from_arguments,
    reject_guarantee_from_arguments,
)
from compile.precisions import DEFAULT_PRECISIONS, PRECISIONS
from compile.quantise import METHODS
from compile.recipe import compile_bundle
from edge.bundle.reference import holds_references
from edge.cli.info import print_advice, print_bundle
from edge.cli.output import check_replaceable, check_replaced_folder
from edge.cli.parser import CommandParser
from edge.console import PASSED, log, print_json, run_main
from edge.training.checkpoint import read_checkpoint


def main() -> int:
    """Compile a checkpoint and print the bundle; the steps are those of `compile_bundle`."""
    arguments = argument_parser().parse_args()
    check_replaced_folder(arguments.output, [arguments.checkpoint, arguments.references, arguments.data])
    if arguments.references is not None:
        kind = "file of reference samples"
        check_replaceable(arguments.references, [arguments.checkpoint], is_kind=holds_references, kind=kind)
    bundle = compile_bundle(
        read_checkpoint(arguments.checkpoint),
        arguments.output,
        precisions=arguments.precision or DEFAULT_PRECISIONS,
        guarantee=guarantee_from_arguments(arguments),
        reject=reject_guarantee_from_arguments(arguments),
        method=arguments.ranges,
        references=arguments.references,
        data=arguments.data,
    )
    if arguments.json:
        print_json({"bundle": str(bundle.path), **dataclasses.asdict(bundle.manifest)})
        print_advice(bundle, emit=log)
        return PASSED
    print_bundle(bundle)
    print_advice(bundle)
    print(f"wrote {bundle.path}; copy it to the device, then: edge build {bundle.path}")
    return PASSED


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="python -m compile",
        description="Compile a checkpoint to a bundle: ONNX segments, fitted thresholds and reference samples.",
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of `python -m edge.training`")
    parser.add_argument("--output", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument(
        "--precision",
        action="append",
        choices=PRECISIONS,
        help="precisions to include, one or more; auto selects for each segment the fastest precision that keeps the "
        "predictions (default: " + ", ".join(DEFAULT_PRECISIONS) + ")",
    )
    parser.add_argument(
        "--ranges", choices=METHODS, default=METHODS[0], help="calibration method of int8 ranges (default: %(default)s)"
    )
    add_guarantee_arguments(parser)
    parser.add_argument(
        "--references", type=Path, metavar="FILE", help="also write 2,000 reference samples to FILE, for `edge verify`"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of the dataset's files, if they moved since training"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


if __name__ == "__main__":
    run_main(main)
