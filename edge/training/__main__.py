"""`python -m edge.training`: images to checkpoint, metrics and training curves."""

from edge.entry import start_process

start_process(__name__, imports_torch=True)  # before the imports below, which take a second

import argparse
import dataclasses
import os
from pathlib import Path

from edge.cli.parser import CommandParser
from edge.console import PASSED, above_zero, at_least, print_json, print_table, run_main, zero_or_more
from edge.training.attention import ATTENTION_LOSSES
from edge.training.backbones import BACKBONES
from edge.training.checkpoint import Checkpoint
from edge.training.datasets import dataset_names
from edge.training.regimes import REGIMES
from edge.training.settings import Settings
from edge.training.train import CHECKPOINT, train

SHOWN_EPOCHS = 5


def main() -> int:
    """Train with the settings of the command line."""
    arguments = parser().parse_args()
    settings = Settings(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Settings)})
    checkpoint = train(settings, arguments.output)
    if os.environ.get("RANK", "0") == "0":  # under torchrun only the first process prints
        _print_result(checkpoint, arguments.output / CHECKPOINT, as_json=arguments.json)
    return PASSED


def _print_result(checkpoint: Checkpoint, path: Path, *, as_json: bool) -> None:
    """Print the last epochs and the next command, or all epochs as JSON."""
    history = checkpoint.metrics["history"]
    if as_json:
        print_json({"checkpoint": str(path), "history": history})
        return
    rows = [
        (row["epoch"], f"{row['loss']:.3f}", *(f"{accuracy:.2%}" for accuracy in row["validation_accuracy"]))
        for row in history[-SHOWN_EPOCHS:]
    ]
    exits = len(history[-1]["validation_accuracy"]) if history else 0
    print_table("validation accuracy", ("epoch", "loss", *(f"exit {k}" for k in range(exits))), rows)
    print(f"wrote {path}; next: python -m compile {path} --output BUNDLE")


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = CommandParser(
        prog="python -m edge.training",
        description="Train an early-exit network on labelled images. If you run the same command again after an "
        "interruption, it resumes after the last complete epoch.",
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for checkpoint.pt, metrics.json and TensorBoard's curves"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_data(parser.add_argument_group("images"))
    _add_network(parser.add_argument_group("network"))
    _add_objective(parser.add_argument_group("objective"))
    _add_schedule(parser.add_argument_group("schedule"))
    return parser


def _add_data(group: argparse._ArgumentGroup) -> None:
    """Add the options that select the images."""
    group.add_argument(
        "--dataset",
        choices=dataset_names(),
        default="digits",
        help="labelled images; `folder` reads your own (default: %(default)s)",
    )
    group.add_argument(
        "--data",
        type=os.path.abspath,
        metavar="DIR",
        help="folder of the dataset's files; for `folder`: your images, in one subfolder per class",
    )
    group.add_argument(
        "--image-size",
        type=at_least(1),
        metavar="PIXELS",
        help="height and width of the network's input (default: the dataset's)",
    )


def _add_network(group: argparse._ArgumentGroup) -> None:
    """Add the options that select the network."""
    group.add_argument(
        "--backbone",
        default="cnn",
        metavar="NAME",
        help=f"network to train: {', '.join(BACKBONES)}, timm:NAME for a timm model with exits after its last three "
        "feature stages, or timm:NAME:STAGES with exits after those (default: %(default)s)",
    )
    group.add_argument(
        "--pretrained",
        type=os.path.abspath,
        metavar="FILE",
        help="initial weights: a checkpoint of the same backbone, or a timm model's .safetensors or .pth",
    )
    group.add_argument(
        "--truncated-at",
        type=at_least(0),
        metavar="EXIT",
        help="train the network that ends at this exit and has no other",
    )


def _add_objective(group: argparse._ArgumentGroup) -> None:
    """Add the options of the training loss."""
    group.add_argument(
        "--regime",
        choices=tuple(REGIMES),
        default="joint",
        help="how the losses of the exits are weighted (default: %(default)s)",
    )
    group.add_argument(
        "--attention-weight",
        type=zero_or_more,
        default=0.3,
        metavar="ALPHA",
        help="weight of Explanation-Guided Training, in which early exits learn to attend where the last one attends; "
        "0 disables it (default: %(default)s)",
    )
    group.add_argument(
        "--attention-loss",
        choices=tuple(ATTENTION_LOSSES),
        default="cosine",
        help="distance between attention maps; `guarded-cosine` also penalises maps without contrast "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--distillation-weight",
        type=zero_or_more,
        default=0.0,
        metavar="WEIGHT",
        help="weight of distillation from the last exit to early exits; 0 disables it (default: %(default)s)",
    )


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    """Add the options of the optimisation."""
    group.add_argument(
        "--epochs", type=at_least(1), default=12, help="passes over the training images (default: %(default)s)"
    )
    group.add_argument(
        "--batch-size", type=at_least(2), default=64, help="images per step, over all processes (default: %(default)s)"
    )
    group.add_argument(
        "--learning-rate",
        type=above_zero,
        default=2e-3,
        help="maximum learning rate of the one-cycle schedule (default: %(default)s)",
    )
    group.add_argument(
        "--mixed-precision", action="store_true", help="compute in bfloat16, which is faster on devices that support it"
    )
    group.add_argument(
        "--seed",
        type=at_least(0),
        default=0,
        help="seed of splits, initial weights and sample order (default: %(default)s)",
    )


if __name__ == "__main__":
    run_main(main)
