"""Images to checkpoint."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from edge.bundle.manifest import InputSpec, SplitSpec
from edge.console import ProgressDisplay, log
from edge.errors import CheckpointError, DataError
from edge.progress import Progress
from edge.storage import write_file
from edge.training.augment import Augmentation
from edge.training.backbones import build_network
from edge.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from edge.training.curves import Curves
from edge.training.data import PreprocessedImages, batches, measured_input
from edge.training.datasets import load_dataset
from edge.training.datasets.base import LabelledImages
from edge.training.evaluate import accuracies, logits_of
from edge.training.loop import TrainingRun
from edge.training.network import MultiExitNetwork
from edge.training.pretrained import load_pretrained
from edge.training.settings import Settings
from edge.training.splits import draw_splits, split_specs

CHECKPOINT, STATE, METRICS, CURVES = "checkpoint.pt", "state.pt", "metrics.json", "tensorboard"
VALIDATION_BATCH = 500


def train(settings: Settings, output: Path, images: LabelledImages | None = None) -> Checkpoint:
    """Train a network, go on where a killed run of the same settings stopped, or return what a finished one left.

    `output` gets `checkpoint.pt`, `metrics.json`, curves for TensorBoard and, while training, `state.pt`. Under
    `torchrun`, every process calls this, the first one writes, and all of them must see `output`.

    Args:
        settings: What to train on what, and how.
        output: Folder for the results.
        images: The dataset, where the caller has loaded it already.

    Raises:
        DataError: the dataset cannot be used as the settings say.
        CheckpointError: `output` holds a run of other settings, or the backbone or its weights cannot be had.
    """
    images = images or load_dataset(
        settings.dataset, Path(settings.data) if settings.data else None, settings.image_size
    )
    splits = draw_splits(images, settings.seed)
    specs = split_specs(images, splits)
    if finished := _finished(output / CHECKPOINT, settings, specs):
        return finished
    spec = measured_input(images, splits["train"])
    run = TrainingRun(
        _fresh_network(settings, spec, len(images.classes)),
        settings,
        PreprocessedImages(images, splits["train"], spec),
        # an array's label may belong to its very centre, which a shift would move away
        Augmentation(shift=images.kind == "image", mirror=images.mirror),
        specs,
        output / STATE,
    )
    history = _trained(run, PreprocessedImages(images, splits["validation"], spec), output)
    weights = {name: tensor.cpu() for name, tensor in run.network.state_dict().items()}
    checkpoint = Checkpoint(settings, spec, images.classes, specs, {"history": history}, weights)
    if run.fabric.is_global_zero:
        metrics = {"settings": dataclasses.asdict(settings), **checkpoint.metrics}
        write_file(output / METRICS, json.dumps(metrics, indent=2))
        write_checkpoint(output / CHECKPOINT, checkpoint)  # last: where it is, the run is finished
        (output / STATE).unlink(missing_ok=True)
    run.fabric.barrier()
    return checkpoint


def _trained(run: TrainingRun, validation: PreprocessedImages, output: Path) -> list[dict[str, Any]]:
    """Train for all epochs and return what each came to."""
    history = run.resume()
    epochs = run.settings.epochs
    done, note = len(history) * run.steps, ""
    with ProgressDisplay() as display, Curves(output / CURVES, len(history), run.fabric.is_global_zero) as curves:

        def on_step() -> None:
            nonlocal done
            done += 1
            display(Progress("training", done, epochs * run.steps, note))

        for epoch in range(len(history), epochs):
            found = run.epoch(epoch, on_step=on_step)
            if run.fabric.is_global_zero:
                found["validation_accuracy"] = accuracies(
                    *logits_of(run.network, batches(validation, VALIDATION_BATCH))
                )
            found = run.fabric.broadcast(found)
            curves.add(epoch, found)
            note = "validation " + " ".join(f"{one:.1%}" for one in found["validation_accuracy"])
            history.append({"epoch": epoch, **found})
            run.save(history)
    return history


def _fresh_network(settings: Settings, spec: InputSpec, classes: int) -> MultiExitNetwork:
    """Return the network before training.

    Raises:
        CheckpointError: there is no such backbone, or its weights do not fit.
        DataError: it cannot read images of this size.
    """
    torch.manual_seed(settings.seed)
    network = build_network(settings.backbone, spec.channels, classes, settings.truncated_at)
    if settings.pretrained:
        log(load_pretrained(network, Path(settings.pretrained)))
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(2, *spec.shape))
    except (AssertionError, RuntimeError) as error:  # timm asserts sizes
        raise DataError(
            f"{settings.backbone} cannot read inputs of {spec.height}x{spec.width} pixels ({error}); "
            "choose a larger --image-size"
        ) from error
    return network


def _finished(path: Path, settings: Settings, splits: dict[str, SplitSpec]) -> Checkpoint | None:
    """Return the checkpoint of a finished run, if there is one that can be read.

    Raises:
        CheckpointError: it is of other settings or other data.
    """
    try:
        checkpoint = read_checkpoint(path)
        checkpoint.network()
    except CheckpointError:
        return None
    if checkpoint.settings != settings or checkpoint.splits != splits:
        raise CheckpointError(
            f"{path} is a finished run of other settings or other images; choose another --output, or delete it"
        )
    log(f"{path} is the finished run of these settings; delete it to train again")
    return checkpoint
