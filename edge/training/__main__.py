"""`python -m edge.training`: images to checkpoint, metrics and training curves."""

from edge.entry import start_process

start_process(__name__, imports_torch=True)  # before the imports below, which take a second

import argparse
import dataclasses
import json
import os
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

from edge.bundle.manifest import InputSpec
from edge.cli.parser import CommandParser
from edge.console import PASSED, above_zero, at_least, log, print_json, print_table, run_main, status, zero_or_more
from edge.training.attention import ATTENTION_LOSSES
from edge.training.augment import TRANSFORMS
from edge.training.backbones import BACKBONES
from edge.training.checkpoint import Checkpoint
from edge.training.datasets import dataset_names
from edge.training.loop import BATCH_SIZE
from edge.training.network import MultiExitNetwork
from edge.training.pretrained import PACKAGED, PUBLISHED
from edge.training.regimes import REGIMES
from edge.training.settings import Settings
from edge.training.splits import FOLDS
from edge.training.summary import class_rows, majority_warning
from edge.training.train import CHECKPOINT, METRICS, is_first_process, prepare, train

SHOWN_EPOCHS = 5


def main() -> int:
    """Train with the settings of the command line, or check that it is possible."""
    arguments = parser().parse_args()
    if arguments.augment is not None:
        arguments.augment = tuple(arguments.augment)
    settings = Settings(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Settings)})
    if arguments.check:
        prepared = prepare(settings)
        check_compiles(prepared.network, prepared.spec)
        return PASSED
    checkpoint = train(
        settings,
        arguments.output,
        workers=arguments.workers,
        # tests hold that the project's own backbones compile
        before_training=None if settings.backbone in BACKBONES else check_compiles,
    )
    if is_first_process():
        _print_result(checkpoint, arguments.output / CHECKPOINT, as_json=arguments.json)
    return PASSED


def check_compiles(network: MultiExitNetwork, spec: InputSpec) -> None:
    """Compile the untrained network and print the result on stderr.

    Raises:
        CheckpointError: the network cannot be compiled in any precision.
    """
    try:
        # by name: compile is built on training, and an installation for training may lack it
        dry_run = import_module("compile.dry_run").dry_run
    except ModuleNotFoundError as error:
        log(f"cannot check that this network compiles ({error}); install the extra `compile` to check it")
        return
    with status("compiling the untrained network"):
        result = dry_run(network, spec)
    macs = ", ".join(f"{value / 1e6:.1f}" for value in result.macs)
    log(f"the network compiles: {len(result.macs)} segments of {macs} million MACs; checked in {result.seconds:.0f} s")
    for precision in ("fp16", "int8"):
        if precision in result.problems:
            log(f"warning: it does not compile in {precision}: {result.problems[precision]}")
    if result.int8_shares:
        shares = ", ".join(f"{share:.0%}" for share in result.int8_shares)
        log(f"share of convolution MACs in int8, for each segment: {shares}")


def _print_result(checkpoint: Checkpoint, path: Path, *, as_json: bool) -> None:
    """Print the last epochs, each class and the next command, or all epochs as JSON."""
    history = checkpoint.metrics["history"]
    validation = _read_validation(path.with_name(METRICS))
    if as_json:
        print_json({"checkpoint": str(path), "history": history, "validation": validation})
        return
    rows = [
        (row["epoch"], f"{row['loss']:.3f}", *(f"{accuracy:.2%}" for accuracy in row["validation_accuracy"]))
        for row in history[-SHOWN_EPOCHS:]
    ]
    exits = [f"exit {k}" for k in range(len(history[-1]["validation_accuracy"]) if history else 0)]
    print_table("validation accuracy", ("epoch", "loss", *exits), rows)
    if validation:
        columns = ("class", "images", *exits, "most often mistaken for")
        print_table("validation accuracy of each class, lowest first", columns, class_rows(validation))
        if warning := majority_warning(validation, balance=checkpoint.settings.balance):
            log(warning)
    if checkpoint.metrics["kept_epoch"] < len(history) - 1:
        print(f"the weights are those of epoch {checkpoint.metrics['kept_epoch']}, the best on the validation split")
    print(f"wrote {path}; next: {_next_command(checkpoint, path)}")


def _next_command(checkpoint: Checkpoint, path: Path) -> str:
    """Return the command that compiles a checkpoint, with options that the number of its images allows."""
    feasible = import_module("compile.feasible")  # by name: compile is built on training
    options = feasible.feasible_options(checkpoint.splits, has_early_exits=checkpoint.settings.truncated_at is None)
    return " ".join(["python -m compile", shlex.quote(str(path)), "--output BUNDLE", *options])


def _read_validation(path: Path) -> dict[str, Any] | None:
    """Return the report on each class; None if the file is gone."""
    try:
        return dict(json.loads(path.read_text())["validation"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = CommandParser(
        prog="python -m edge.training",
        description="Train an early-exit network on labelled images. If you run the same command again after an "
        "interruption, it resumes after the last complete epoch.",
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--output", type=Path, help="folder for checkpoint.pt, metrics.json and TensorBoard's curves")
    task.add_argument(
        "--check",
        action="store_true",
        help="check in seconds that the images can be read and the network can be trained and compiled; train nothing",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    images = parser.add_argument_group("images")
    _add_data(images)
    _add_selection(images)
    _add_network(parser.add_argument_group("network"))
    _add_objective(parser.add_argument_group("objective"))
    _add_schedule(parser.add_argument_group("schedule"))
    parser.set_defaults(**dataclasses.asdict(Settings(dataset="digits")))
    return parser


def _add_data(group: argparse._ArgumentGroup) -> None:
    """Add the options that select the images."""
    group.add_argument(
        "--dataset",
        choices=dataset_names(),
        help="labelled images; `folder` reads your own (default: %(default)s)",
    )
    group.add_argument(
        "--data",
        type=os.path.abspath,
        metavar="DIR",
        help="folder of the dataset's files; for `folder`: your images, in one subfolder per class, or in train, val "
        "and test with one subfolder per class each",
    )
    group.add_argument(
        "--skip-bad", action="store_true", help="leave out images that cannot be read, and report their number"
    )
    group.add_argument(
        "--workers",
        type=at_least(0),
        metavar="N",
        help="processes that decode images (default: one per core, fewer if /dev/shm is small)",
    )
    group.add_argument(
        "--image-size",
        type=at_least(1),
        metavar="PIXELS",
        help="height and width of the network's input (default: the dataset's)",
    )


def _add_selection(group: argparse._ArgumentGroup) -> None:
    """Add the options of the splits and of the images' augmentation."""
    group.add_argument(
        "--fold",
        type=int,
        choices=range(FOLDS),
        help="test on this fifth of all images; five runs with the same seed test every image once",
    )
    group.add_argument(
        "--augment",
        nargs="*",
        choices=tuple(TRANSFORMS),
        metavar="NAME",
        help=f"random transforms of training images: {', '.join(TRANSFORMS)} (default: those that suit the dataset)",
    )


def _add_network(group: argparse._ArgumentGroup) -> None:
    """Add the options that select the network."""
    group.add_argument(
        "--backbone",
        metavar="NAME",
        help=f"network to train: {', '.join(BACKBONES)}, cnn:WIDTH for another width than 32, "
        "timm:NAME for a timm model with exits after its last three feature stages, or "
        "timm:NAME:STAGES with exits after the stages you list (default: %(default)s)",
    )
    group.add_argument(
        "--pretrained",
        nargs="?",
        const=PUBLISHED,
        type=lambda text: text if text in (PUBLISHED, PACKAGED) else os.path.abspath(text),
        metavar="FILE",
        help="initial weights: a checkpoint of the same backbone, a timm model's .safetensors or .pth, or "
        f"`{PACKAGED}` for those of an installed package; without FILE, download the weights that timm publishes for "
        "the backbone",
    )
    group.add_argument("--freeze", action="store_true", help="train the heads only and keep the pretrained backbone")
    group.add_argument(
        "--truncated-at",
        type=at_least(0),
        metavar="EXIT",
        help="train the network truncated at this exit, without other exits",
    )


def _add_objective(group: argparse._ArgumentGroup) -> None:
    """Add the options of the training loss."""
    group.add_argument(
        "--regime",
        choices=tuple(REGIMES),
        help="how the losses of the exits are weighted (default: %(default)s)",
    )
    group.add_argument(
        "--balance",
        action="store_true",
        help="weight the losses so that all classes count the same, however many images they have",
    )
    group.add_argument(
        "--attention-weight",
        type=zero_or_more,
        metavar="ALPHA",
        help="weight of Explanation-Guided Training, in which early exits learn to attend where the last exit attends; "
        "0 disables it (default: %(default)s)",
    )
    group.add_argument(
        "--attention-loss",
        choices=tuple(ATTENTION_LOSSES),
        help="distance between attention maps; `guarded-cosine` also penalises maps without contrast "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--distillation-weight",
        type=zero_or_more,
        metavar="WEIGHT",
        help="weight of distillation from the last exit to early exits; 0 disables it (default: %(default)s)",
    )


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    """Add the options of the optimisation."""
    group.add_argument(
        "--epochs",
        type=at_least(1),
        metavar="N",
        help="passes over the training images (default: %(default)s)",
    )
    group.add_argument(
        "--patience",
        type=at_least(1),
        metavar="N",
        help="stop after N epochs without a higher validation accuracy, and keep the best epoch",
    )
    group.add_argument(
        "--batch-size",
        type=at_least(2),
        metavar="N",
        help=f"images per step, over all processes (default: {BATCH_SIZE}, fewer for few images)",
    )
    group.add_argument(
        "--learning-rate",
        type=above_zero,
        metavar="RATE",
        help="maximum learning rate of the one-cycle schedule (default: %(default)s)",
    )
    group.add_argument(
        "--mixed-precision", action="store_true", help="compute in bfloat16, which is faster on devices that support it"
    )
    group.add_argument(
        "--seed",
        type=at_least(0),
        metavar="N",
        help="seed of splits, initial weights and sample order (default: %(default)s)",
    )


if __name__ == "__main__":
    run_main(main)
