"""Training runs: images to checkpoint."""

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from edge.bundle.manifest import InputSpec, SplitSpec
from edge.console import ProgressDisplay, log
from edge.errors import CheckpointError, DataError
from edge.progress import Progress
from edge.storage import write_file
from edge.training.augment import augmentation_for
from edge.training.backbones import build_network
from edge.training.backbones.timm import native_size
from edge.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from edge.training.curves import Curves
from edge.training.data import batches, measured_input
from edge.training.datasets import load_dataset
from edge.training.datasets.base import LabelledImages
from edge.training.evaluate import accuracies, logits_of
from edge.training.loading import Loader, PreprocessedImages
from edge.training.loop import TrainingRun
from edge.training.memory import report_exhausted_memory
from edge.training.network import MultiExitNetwork
from edge.training.origins import Run, check_earlier_runs, earlier_runs
from edge.training.pretrained import load_pretrained
from edge.training.regimes import Phase, phases_of
from edge.training.settings import Settings
from edge.training.splits import Splits, draw_splits, split_specs
from edge.training.state import StateFile
from edge.training.summary import class_report, describe_images
from edge.training.threads import fitting_threads, macs_per_image

CHECKPOINT, STATE, METRICS, CURVES = "checkpoint.pt", "state.pt", "metrics.json", "tensorboard"
VALIDATION_BATCH = 500


class Prepared(NamedTuple):
    """Inputs of a training run."""

    images: LabelledImages
    splits: Splits
    specs: dict[str, SplitSpec]
    spec: InputSpec
    network: MultiExitNetwork
    """With its initial weights."""
    earlier_runs: list[Run]
    """Those that the initial weights come from."""


@report_exhausted_memory()
def prepare(settings: Settings, images: LabelledImages | None = None) -> Prepared:
    """Load and split the images, compute their mean and standard deviation, and build the network.

    Raises:
        DataError: the dataset cannot be used with these settings, or the initial weights may know its test images.
        UnavailableError: memory runs out.
        CheckpointError: the backbone or its weights cannot be loaded.
    """
    images, splits, specs = _load(settings, images)
    return _prepared(settings, images, splits, specs)


@report_exhausted_memory()
def train(
    settings: Settings,
    output: Path,
    images: LabelledImages | None = None,
    phases: Sequence[Phase] | None = None,
    *,
    workers: int | None = None,
    before_training: Callable[[MultiExitNetwork, InputSpec], None] | None = None,
) -> Checkpoint:
    """Train a network, resume an unfinished run of the same settings, or return the checkpoint of a finished one.

    Writes `checkpoint.pt`, `metrics.json`, curves for TensorBoard and, while training, `state.pt` into `output`. Under
    `torchrun`, every process calls this function, only the first one writes, and all of them must see `output`.

    Args:
        settings: Settings of the run.
        output: Folder for the results.
        images: The dataset, if it is loaded already.
        phases: Phases of `settings.regime`, if it is not in `REGIMES`.
        workers: Processes that decode files; None for as many as cores and shared memory allow.
        before_training: Called with the initial network in the first process; an error stops the run.

    Raises:
        DataError: the dataset cannot be used with these settings, the initial weights may know its test images, or
            `output` lies among its images.
        UnavailableError: memory runs out.
        CheckpointError: `output` holds a run of other settings, images, labels or version, or the backbone or its
            weights cannot be loaded.
    """
    _check_output(output, settings)
    images, splits, specs = _load(settings, images)
    if finished := _finished_run(output / CHECKPOINT, settings, specs):
        return finished
    prepared = _prepared(settings, images, splits, specs)
    spec, network = prepared.spec, prepared.network
    if before_training is not None and is_first_process():
        before_training(network, spec)
    augment = images.augment if settings.augment is None else settings.augment
    run = TrainingRun(
        network,
        settings,
        phases or phases_of(settings),
        PreprocessedImages(images, splits["train"], spec),
        augmentation_for(augment, spec),
        StateFile(output / STATE, settings, specs),
        workers,
    )
    validation = batches(PreprocessedImages(images, splits["validation"], spec), VALIDATION_BATCH, workers)
    with fitting_threads(run.batch_size * macs_per_image(network, spec)):
        history = _fit(run, validation, output)
        kept = len(history) - 1 if settings.patience is None else best_epoch(history, run.last_phase_start)
        metrics = {
            "history": history, "kept_epoch": kept, "batch_size": run.batch_size, "augment": list(augment),
            "earlier_runs": prepared.earlier_runs,
        }  # fmt: skip
        checkpoint = Checkpoint(settings, spec, images.classes, specs, metrics, run.result())
        if run.fabric.is_global_zero:
            run.average.load_state_dict(checkpoint.weights)  # those of the kept epoch, on the device
            _write_results(output, checkpoint, class_report(*logits_of(run.average, validation), images.classes))
    run.fabric.barrier()
    return checkpoint


def is_first_process() -> bool:
    """Return True in a single process, and in the first of those that `torchrun` starts."""
    return os.environ.get("RANK", "0") == "0"


def _check_output(output: Path, settings: Settings) -> None:
    """Refuse to write among images, where the next run would take the results for classes."""
    if settings.dataset == "folder" and settings.data is not None:
        written = Path(os.path.realpath(output))
        if Path(os.path.realpath(settings.data)) in (written, *written.parents):
            raise DataError(f"{output} lies in {settings.data}, whose folders are classes; choose another --output")


def _load(settings: Settings, images: LabelledImages | None) -> tuple[LabelledImages, Splits, dict[str, SplitSpec]]:
    folder = Path(settings.data) if settings.data else None
    images = images or load_dataset(settings.dataset, folder, settings.image_size, skip_bad=settings.skip_bad)
    splits = draw_splits(images, settings.seed, settings.fold)
    return images, splits, split_specs(images, splits)


def _prepared(settings: Settings, images: LabelledImages, splits: Splits, specs: dict[str, SplitSpec]) -> Prepared:
    if is_first_process():
        for line in describe_images(images, splits, balance=settings.balance):
            log(line)
    earlier = earlier_runs(settings.pretrained)
    check_earlier_runs(earlier, settings, specs)
    spec = measured_input(images, splits["train"])
    return Prepared(images, splits, specs, spec, _initial_network(settings, spec, len(images.classes)), earlier)


def _fit(run: TrainingRun, validation: Loader, output: Path) -> list[dict[str, Any]]:
    """Train the remaining epochs and return the metrics of all epochs."""
    history = run.resume()
    epochs = run.settings.epochs
    steps = itertools.count(len(history) * run.steps + 1)
    with ProgressDisplay() as display, Curves(output / CURVES, len(history), run.fabric.is_global_zero) as curves:

        def show_step() -> None:
            display(Progress("training", next(steps), epochs * run.steps, _validation_note(history)))

        for epoch in range(len(history), epochs):
            if has_stopped(history, run.last_phase_start, run.settings.patience):
                if run.fabric.is_global_zero:
                    log(f"stopped after {len(history)} epochs, without a higher validation accuracy in the last ones")
                break
            metrics = run.epoch(epoch, on_step=show_step)
            metrics["validation_accuracy"] = _validation_accuracy(run, validation)
            curves.add(epoch, metrics)
            history.append({"epoch": epoch, **metrics})
            may_stop = run.settings.patience is not None and epoch >= run.last_phase_start
            if may_stop and best_epoch(history, run.last_phase_start) == epoch:
                run.keep()
            run.save(history)
    return history


def _validation_accuracy(run: TrainingRun, validation: Loader) -> list[float]:
    """Return each exit's accuracy on the validation split, computed by the first process."""
    accuracy: list[float] = []
    if run.fabric.is_global_zero:
        accuracy = accuracies(*logits_of(run.average, validation))
    return run.fabric.broadcast(accuracy)


def best_epoch(history: Sequence[dict[str, Any]], first: int) -> int:
    """Return the epoch from `first` on with the highest validation accuracy, averaged over exits; the later of equals.

    Before `first`, return the last epoch.
    """
    if len(history) <= first:
        return len(history) - 1
    accuracy = _summed_accuracy(history[first:])
    return len(history) - 1 - accuracy[::-1].index(max(accuracy))


def has_stopped(history: Sequence[dict[str, Any]], first: int, patience: int | None) -> bool:
    """Return True if the validation accuracy has not risen in the last `patience` epochs, counted from epoch `first`.

    An epoch that only equals the highest accuracy is no improvement.
    """
    if patience is None or len(history) <= first:
        return False
    accuracy = _summed_accuracy(history[first:])
    return len(accuracy) - 1 - accuracy.index(max(accuracy)) >= patience


def _summed_accuracy(history: Sequence[dict[str, Any]]) -> list[float]:
    """Return the validation accuracy of each epoch, summed over exits."""
    return [sum(row["validation_accuracy"]) for row in history]


def _validation_note(history: list[dict[str, Any]]) -> str:
    if not history:
        return ""
    return "validation " + " ".join(f"{accuracy:.1%}" for accuracy in history[-1]["validation_accuracy"])


def _write_results(output: Path, checkpoint: Checkpoint, validation: dict[str, Any]) -> None:
    """Write metrics and checkpoint, and delete the state of the run."""
    metrics = {
        "settings": dataclasses.asdict(checkpoint.settings), **checkpoint.metrics, "validation": validation,
    }  # fmt: skip
    write_file(output / METRICS, json.dumps(metrics, indent=2))
    write_checkpoint(output / CHECKPOINT, checkpoint)  # last: its presence means that the run is finished
    (output / STATE).unlink(missing_ok=True)


def _initial_network(settings: Settings, spec: InputSpec, classes: int) -> MultiExitNetwork:
    """Return the network before training.

    Raises:
        CheckpointError: the backbone does not exist, or the pretrained weights do not fit.
        DataError: the network cannot read images of this size, or a random backbone would be frozen.
    """
    if settings.freeze and not settings.pretrained:
        raise DataError("freezing needs a pretrained backbone; give --pretrained as well, or leave out --freeze")
    torch.manual_seed(settings.seed)
    network = build_network(settings.backbone, spec.channels, classes, settings.truncated_at)
    if settings.pretrained:
        log(load_pretrained(network, settings.pretrained, settings.backbone))
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(2, *spec.shape))
    except (AssertionError, RuntimeError, MemoryError) as error:  # timm asserts sizes
        raise DataError(
            f"{settings.backbone} cannot read inputs of {spec.height}x{spec.width} pixels "
            f"({error or type(error).__name__}); {_size_remedy(spec.height, native_size(network), str(error))}"
        ) from error
    return network


def _size_remedy(size: int, native: int | None, reason: str) -> str:
    """Return the advice for an image size that a network cannot read."""
    if "memory" in reason or "allocate" in reason:
        return "choose a smaller --image-size"
    if native is None:
        return "choose a larger --image-size"
    if size < native:
        return f"choose a larger --image-size, such as {native}, the model's native size"
    return f"choose --image-size {native}, the model's native size"


def _finished_run(path: Path, settings: Settings, splits: dict[str, SplitSpec]) -> Checkpoint | None:
    """Return the checkpoint of a finished run, or None if there is none.

    Raises:
        CheckpointError: the checkpoint has other settings, images or labels, cannot be read, or is of another version.
    """
    if not path.is_file():
        return None
    try:
        checkpoint = read_checkpoint(path)
        checkpoint.network()  # its weights fit
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used again ({error}); delete it, or choose another --output") from None
    if checkpoint.settings != settings or checkpoint.splits != splits:
        raise CheckpointError(
            f"{path} is a finished run with other settings, images or labels; choose another --output, or delete it"
        )
    log(f"{path} is a finished run with these settings; delete it to train again")
    return checkpoint
