"""Images to checkpoint: the training loop, which can be killed and run again."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from edge.console import progress, say
from edge.errors import CheckpointError, DataError
from edge.files import write_file
from edge.manifest import InputSpec, SplitSpec
from edge.training.attention import attention_consistency_loss
from edge.training.backbones import build_network
from edge.training.checkpoint import Checkpoint, Settings, read_checkpoint, read_torch, write_checkpoint, write_torch
from edge.training.data import PreprocessedImages, batches, measured_input
from edge.training.datasets import LabelledImages, load_dataset
from edge.training.evaluate import accuracies, logits_of
from edge.training.network import ExitOutputs, MultiExitNetwork
from edge.training.regimes import REGIMES, Regime
from edge.training.splits import draw_splits, split_specs

CHECKPOINT, STATE, METRICS = "checkpoint.pt", "state.pt", "metrics.json"


def train(settings: Settings, output: Path, images: LabelledImages | None = None) -> Checkpoint:
    """Train a network, go on where a killed run of the same settings stopped, or return what a finished one left.

    `output` gets `checkpoint.pt`, `metrics.json` and, while training, `state.pt`.

    Args:
        settings: What to train on what, and how.
        output: Folder for the results.
        images: The dataset, where the caller has loaded it already.

    Raises:
        DataError: the dataset cannot be used.
        CheckpointError: `output` holds a run of other settings.
    """
    images = images or load_dataset(
        settings.dataset, Path(settings.data) if settings.data else None, settings.image_size
    )
    splits = draw_splits(images, settings.seed)
    fingerprints = split_specs(images, splits)
    if finished := _finished(output / CHECKPOINT, settings, fingerprints):
        return finished
    spec = measured_input(images, splits["train"])
    training = PreprocessedImages(images, splits["train"], spec, augment=True)
    validation = PreprocessedImages(images, splits["validation"], spec, augment=False)

    torch.manual_seed(settings.seed)
    network = build_network(settings.backbone, spec.channels, len(images.classes), settings.truncated_at)
    _check_size(network, settings, spec)
    run = TrainingRun(network, settings, fingerprints, output / STATE)
    history = run.resume()
    train_batches = batches(training, settings.batch_size, shuffle=True)
    with progress() as bar:
        steps = len(train_batches)
        task = bar.add_task("training", total=settings.epochs * steps, completed=len(history) * steps, note="")
        for epoch in range(len(history), settings.epochs):
            losses = run.epoch(train_batches, epoch, on_step=lambda: bar.advance(task))
            found = accuracies(*logits_of(network, batches(validation, 500, shuffle=False)))
            history.append({"epoch": epoch, **losses, "validation_accuracy": found})
            run.save(history)
            bar.update(task, note="validation " + " ".join(f"{a:.1%}" for a in found))

    checkpoint = Checkpoint(
        settings=settings,
        input=spec,
        classes=images.classes,
        splits=fingerprints,
        metrics={"history": history},
        weights={name: tensor.cpu() for name, tensor in network.state_dict().items()},
    )
    write_file(output / METRICS, json.dumps({"settings": dataclasses.asdict(settings), **checkpoint.metrics}, indent=2))
    write_checkpoint(output / CHECKPOINT, checkpoint)  # last: where it is, the run is finished
    (output / STATE).unlink(missing_ok=True)
    return checkpoint


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
    say(f"{path} is the finished run of these settings; delete it to train again")
    return checkpoint


def _check_size(network: MultiExitNetwork, settings: Settings, spec: InputSpec) -> None:
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(2, *spec.shape))
    except RuntimeError as error:
        raise DataError(
            f"{settings.backbone} cannot read inputs of {spec.height}x{spec.width} pixels ({error}); "
            "choose a larger --image-size"
        ) from error


class TrainingRun:
    """A network with its optimiser, and the state that lets a killed run go on as if it had not been."""

    def __init__(
        self, network: MultiExitNetwork, settings: Settings, splits: dict[str, SplitSpec], state: Path
    ) -> None:
        """Set up optimiser and schedule: AdamW, one cycle."""
        samples = splits["train"].samples
        if settings.batch_size > samples:
            raise DataError(f"batch size {settings.batch_size} is more than the {samples} training images; lower it")
        self.fabric = Fabric(accelerator="auto", devices=1)
        self.settings = settings
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own stub
        optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=0.05)
        self._module, self._optimizer = self.fabric.setup(network, optimizer)
        steps = max(1, settings.epochs * (samples // settings.batch_size))
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
        self._state = state
        self._origin = {
            "settings": dataclasses.asdict(settings),
            "splits": {k: v.fingerprint for k, v in splits.items()},
        }

    def resume(self) -> list[dict[str, Any]]:
        """Take over the state of a killed run, if there is one, and return its history.

        Raises:
            CheckpointError: the state belongs to other settings or other images.
        """
        if not self._state.exists():
            return []
        state = read_torch(self._state)
        if {name: state.get(name) for name in self._origin} != self._origin:
            raise CheckpointError(
                f"{self._state} is from an unfinished run with other settings or other images; "
                "finish that run, choose another output, or delete the file"
            )
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        history: list[dict[str, Any]] = state["history"]
        say(f"going on after epoch {len(history)} of an unfinished run")
        return history

    def save(self, history: list[dict[str, Any]]) -> None:
        """Keep the state after an epoch."""
        state = {
            **self._origin,
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "history": history,
        }
        write_torch(self._state, state)

    def epoch(self, loader: DataLoader[Any], epoch: int, on_step: Callable[[], None]) -> dict[str, float]:
        """Train for one epoch, calling `on_step` after each batch, and return its mean losses.

        Raises:
            DataError: the loss is not a number.
        """
        torch.manual_seed(self.settings.seed * 100_003 + epoch)
        self.network.train()
        sums = {"loss": 0.0, "attention_loss": 0.0}
        count = 0
        for images, labels in self.fabric.setup_dataloaders(loader):
            inputs = images.contiguous(memory_format=torch.channels_last)
            loss, attention_loss = objective(self._module(inputs), labels, self.settings)
            if not math.isfinite(loss.item()):
                raise DataError(
                    f"the loss became {loss.item()} in batch {count} of epoch {epoch}; lower --learning-rate"
                )
            self._optimizer.zero_grad()
            self.fabric.backward(loss)
            self._optimizer.step()
            self._schedule.step()
            sums["loss"] += loss.item()
            sums["attention_loss"] += attention_loss.item()
            count += 1
            on_step()
        return {name: value / count for name, value in sums.items()}


def objective(outputs: list[ExitOutputs], labels: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Return the training loss and, as a part of it before its weight, the attention consistency loss."""
    logits = torch.stack([exit_outputs.logits.float() for exit_outputs in outputs])
    attention_loss = attention_consistency_loss([exit_outputs.attention.float() for exit_outputs in outputs])
    loss = classification_loss(logits, labels, REGIMES[settings.regime])
    return loss + settings.attention_weight * attention_loss, attention_loss


def classification_loss(logits: Tensor, labels: Tensor, regime: Regime) -> Tensor:
    """Return `mean_i sum_e weight_e(i) * cross_entropy(logits_e(i), y_i)`."""
    exits, samples, classes = logits.shape
    losses = F.cross_entropy(logits.reshape(-1, classes), labels.repeat(exits), reduction="none").reshape(
        exits, samples
    )
    return (regime(logits, labels) * losses).sum(dim=0).mean()
