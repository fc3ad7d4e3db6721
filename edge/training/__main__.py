"""`python -m edge.training`: images to checkpoint, metrics and plots."""

import argparse
import dataclasses
import os
from pathlib import Path

from edge.console import PASSED, above_zero, at_least, print_json, print_table, run_main, zero_or_more
from edge.training.attention import ATTENTION_LOSSES
from edge.training.backbones import BACKBONES
from edge.training.datasets import dataset_names
from edge.training.plots import write_training_plot
from edge.training.regimes import REGIMES
from edge.training.settings import Settings
from edge.training.train import CHECKPOINT, train


def main() -> int:
    """Train as the command line says."""
    arguments = parser().parse_args()
    fields = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Settings)}
    checkpoint = train(Settings(**fields), arguments.output)
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process speaks for all
        return PASSED
    history = checkpoint.metrics["history"]
    write_training_plot(arguments.output / "training.png", history)
    if arguments.json:
        print_json({"checkpoint": str(arguments.output / CHECKPOINT), "history": history})
        return PASSED
    rows = [(row["epoch"], f"{row['loss']:.3f}", *(f"{a:.2%}" for a in row["validation_accuracy"])) for row in history]
    exits = len(history[-1]["validation_accuracy"]) if history else 0
    print_table("validation accuracy", ("epoch", "loss", *(f"exit {k}" for k in range(exits))), rows[-5:])
    written = arguments.output / CHECKPOINT
    print(f"wrote {written}; next: python -m compile {written} --output BUNDLE")
    return PASSED


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    new = argparse.ArgumentParser(
        prog="python -m edge.training",
        description="Train an early-exit network on labelled images. A killed run goes on where it stopped.",
    )
    new.add_argument(
        "--output", type=Path, required=True, help="folder for checkpoint.pt, metrics.json and training.png"
    )
    new.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_data(new.add_argument_group("images"))
    _add_network(new.add_argument_group("network"))
    _add_objective(new.add_argument_group("what is learnt"))
    _add_schedule(new.add_argument_group("how"))
    return new


def _add_data(group: argparse._ArgumentGroup) -> None:
    """Add which images to learn from."""
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
        help="where the dataset's files are; for `folder`: one subfolder per class",
    )
    group.add_argument(
        "--image-size",
        type=at_least(1),
        metavar="PIXELS",
        help="size the network reads (default: the dataset's)",
    )


def _add_network(group: argparse._ArgumentGroup) -> None:
    """Add what learns."""
    group.add_argument(
        "--backbone",
        default="cnn",
        metavar="NAME",
        help=f"network to train: {', '.join(BACKBONES)}, or timm:NAME, timm:NAME:STAGES for one of timm's with exits "
        "after its last three, or those, feature stages (default: %(default)s)",
    )
    group.add_argument(
        "--pretrained", type=os.path.abspath, metavar="FILE",
        help="weights to start from: a checkpoint of this backbone, or a timm model's .safetensors or .pth",
    )  # fmt: skip
    group.add_argument("--truncated-at", type=at_least(0), metavar="EXIT", help="train only what ends at this exit")


def _add_objective(group: argparse._ArgumentGroup) -> None:
    """Add what each exit learns from each sample."""
    group.add_argument(
        "--regime",
        choices=tuple(REGIMES),
        default="joint",
        help="how much each exit's loss counts (default: %(default)s)",
    )
    group.add_argument(
        "--attention-weight", type=zero_or_more, default=0.3, metavar="ALPHA",
        help="weight of Explanation-Guided Training, early exits look where the last one looks; 0: off "
        "(default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--attention-loss",
        choices=tuple(ATTENTION_LOSSES),
        default="cosine",
        help="what it asks of the maps (default: %(default)s)",
    )
    group.add_argument(
        "--distillation-weight", type=zero_or_more, default=0.0, metavar="WEIGHT",
        help="how much early exits learn from the last one's answers; 0: not at all (default: %(default)s)",
    )  # fmt: skip


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    """Add how long and how fast, and the seed."""
    group.add_argument(
        "--epochs", type=at_least(1), default=12, help="passes over the training images (default: %(default)s)"
    )
    group.add_argument(
        "--batch-size", type=at_least(2), default=64, help="images a step, over all processes (default: %(default)s)"
    )
    group.add_argument(
        "--learning-rate",
        type=above_zero,
        default=2e-3,
        help="highest learning rate of the cycle (default: %(default)s)",
    )
    group.add_argument(
        "--mixed-precision", action="store_true", help="most arithmetic in bfloat16: faster where the device has it"
    )
    group.add_argument(
        "--seed",
        type=at_least(0),
        default=0,
        help="of splits, weights and order (default: %(default)s)",
    )


if __name__ == "__main__":
    run_main(main)
