"""`python -m compile.sensitivity`: the effect of int8 on each convolution, quantised alone in an fp32 network."""

from edge.entry import start_process

start_process(__name__, imports_torch=True)  # before the imports below, which take a second

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from compile.export import export_onnx
from compile.layer_sensitivity import LayerSensitivity, measure_sensitivity
from compile.precisions import calibration_inputs, int8_notes
from compile.quantise import METHODS, quantise_int8
from compile.trained_model import load_trained_model
from edge.cli.parser import CommandParser
from edge.console import PASSED, print_json, print_table, run_main
from edge.training.checkpoint import read_checkpoint

MAX_SAMPLES = 500


def main() -> int:
    """Measure a checkpoint's sensitivity to int8 and print it."""
    arguments = argument_parser().parse_args()
    checkpoint = read_checkpoint(arguments.checkpoint)
    trained = load_trained_model(checkpoint, arguments.data)
    graph = export_onnx(checkpoint.network(), checkpoint.input)
    int8 = quantise_int8(graph, calibration_inputs(trained), method=arguments.ranges)
    images = trained.inputs(trained.sample_indices("validation", MAX_SAMPLES))
    layers = measure_sensitivity(graph, int8, images)
    if arguments.json:
        print_json([dataclasses.asdict(layer) for layer in layers])
        return PASSED
    print_layers(layers)
    for note in int8_notes(graph, int8):
        print(note)
    return PASSED


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="python -m compile.sensitivity",
        description="Measure how much each convolution changes the predictions if it alone runs in int8.",
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of `python -m edge.training`")
    parser.add_argument(
        "--ranges", choices=METHODS, default=METHODS[0], help="calibration method of the ranges (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the dataset's files, if they moved")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def print_layers(layers: Sequence[LayerSensitivity]) -> None:
    """Print a row per convolution."""
    rows = [
        (
            layer.layer,
            f"{layer.macs_share:.1%}",
            " / ".join(f"{share:.2%}" for share in layer.changed_predictions),
            f"{layer.logit_change:.3g}",
        )
        for layer in layers
    ]
    columns = ("convolution", "MACs", "changed predictions per exit", "mean logit change")
    print_table("effect of int8 in a single convolution, on validation images", columns, rows)


if __name__ == "__main__":
    run_main(main)
