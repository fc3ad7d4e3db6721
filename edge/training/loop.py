"""The training loop, which can be killed and run again, on one device or many."""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edge.bundle.manifest import SplitSpec
from edge.console import log
from edge.errors import CheckpointError, DataError
from edge.training.augment import Augmentation
from edge.training.checkpoint import read_torch, write_torch
from edge.training.data import PreprocessedImages, training_batches
from edge.training.network import MultiExitNetwork
from edge.training.objective import Loss, objective
from edge.training.regimes import REGIMES, Phase
from edge.training.settings import Settings


class TrainingRun:
    """A network with its optimiser, and the state that lets a killed run go on as if it had not been."""

    def __init__(
        self,
        network: MultiExitNetwork,
        settings: Settings,
        samples: PreprocessedImages,
        augmentation: Augmentation,
        splits: dict[str, SplitSpec],
        state: Path,
    ) -> None:
        """Set up devices and batches.

        Raises:
            DataError: the batch size does not fit the samples or the number of processes, or the epochs the regime.
        """
        self.fabric = fabric_for(settings)
        processes = self.fabric.world_size
        if settings.batch_size > len(samples):
            raise DataError(
                f"batch size {settings.batch_size} is more than the {len(samples)} training images; lower it"
            )
        if settings.batch_size % processes or settings.batch_size < 2 * processes:
            raise DataError(
                f"batch size {settings.batch_size} cannot be shared out to {processes} processes; "
                "choose a multiple of their number that leaves each two images or more"
            )
        self.settings = settings
        if processes > 1 and self.fabric.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own stub
        self._phases = REGIMES[settings.regime if len(network.heads) > 1 else "joint"]
        self.phase_ends = phase_ends(self._phases, settings)
        self._augment = augmentation
        self._batches = training_batches(
            samples, settings.batch_size, settings.seed, self.fabric.global_rank, processes
        )
        self._index = -1  # of the phase; none is begun
        self._state = state
        self._origin = {
            "settings": dataclasses.asdict(settings),
            "splits": {name: spec.fingerprint for name, spec in splits.items()},
        }

    @property
    def steps(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self._batches)

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
        history: list[dict[str, Any]] = state["history"]
        self.network.load_state_dict(state["network"])
        self._enter(self._phase_of(len(history) - 1))
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        log(f"going on after epoch {len(history)} of an unfinished run")
        return history

    def save(self, history: list[dict[str, Any]]) -> None:
        """Keep the state after an epoch."""
        if not self.fabric.is_global_zero:
            return
        state = {
            **self._origin,
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "history": history,
        }
        write_torch(self._state, state)

    def epoch(self, epoch: int, on_step: Callable[[], None]) -> dict[str, Any]:
        """Train for one epoch, calling `on_step` after each batch, and return its mean losses and exit weights.

        Raises:
            DataError: the loss is not a number.
        """
        index = self._phase_of(epoch)
        self._enter(index)
        first, end = (0, *self.phase_ends)[index], self.phase_ends[index]
        torch.manual_seed((self.settings.seed * 100_003 + epoch) * self.fabric.world_size + self.fabric.global_rank)
        self._batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # a DistributedSampler
        self.network.train()
        for module in self._resting():
            module.eval()  # its normalisations keep their statistics, too
        parts: list[Tensor] = []
        for step, (images, labels) in enumerate(self._batches):
            progress = (epoch - first + step / self.steps) / (end - first)
            loss = self._step(images.to(self.fabric.device), labels.to(self.fabric.device), progress)
            if not math.isfinite(loss.total.item()):
                raise DataError(
                    f"the loss became {loss.total.item()} in batch {step} of epoch {epoch}; lower --learning-rate"
                )
            parts.append(torch.cat([torch.stack(loss[:4]).detach(), loss.exit_weights]))
            on_step()
        means = cast(Tensor, self.fabric.all_reduce(torch.stack(parts).mean(dim=0), reduce_op="mean")).tolist()
        names = ("loss", "classification_loss", "attention_loss", "distillation_loss")
        return dict(zip(names, means[:4], strict=True)) | {"exit_weights": means[4:]}

    def _step(self, images: Tensor, labels: Tensor, progress: float) -> Loss:
        inputs = self._augment(images).contiguous(memory_format=torch.channels_last)
        loss = objective(self._module(inputs), labels, self.settings, self._phases[self._index], progress)
        self._optimizer.zero_grad()
        self.fabric.backward(loss.total)
        self._optimizer.step()
        self._schedule.step()
        return loss

    def _phase_of(self, epoch: int) -> int:
        return next(index for index, end in enumerate(self.phase_ends) if epoch < end)

    def _enter(self, index: int) -> None:
        """Begin a phase, if it is not begun already: choose what learns, with a fresh optimiser and a cycle of its own.

        AdamW, one cycle of the learning rate.
        """
        if index == self._index:
            return
        self._index = index
        self.network.requires_grad_(True)
        for module in self._resting():
            module.requires_grad_(False)
        learning = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        rate = self.settings.learning_rate
        optimizer = torch.optim.AdamW(learning, lr=rate, weight_decay=0.05)
        epochs = self.phase_ends[index] - (0, *self.phase_ends)[index]
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(1, epochs * self.steps))
        self._module, self._optimizer = self.fabric.setup(self.network, optimizer)

    def _resting(self) -> Sequence[nn.Module]:
        """Return the parts of the network that stay as they are in this phase."""
        *early, last = self.network.heads
        resting: dict[str, list[nn.Module]] = {"all": [], "early": [self.network.backbone, last], "last": early}
        return resting[self._phases[self._index].learners]


def fabric_for(settings: Settings) -> Fabric:
    """Return the devices to train on: one GPU or this CPU, or under `torchrun` what it started processes for."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator="auto",
        devices=here,
        num_nodes=processes // here,
        strategy="ddp" if processes > 1 else "auto",
        precision="bf16-mixed" if settings.mixed_precision else "32-true",
    )
    fabric.launch()
    return fabric


def phase_ends(phases: Sequence[Phase], settings: Settings) -> tuple[int, ...]:
    """Return the epoch after each phase's last.

    Raises:
        DataError: there are fewer epochs than the regime has phases.
    """
    if settings.epochs < len(phases):
        raise DataError(
            f"the regime {settings.regime!r} has {len(phases)} phases and needs an epoch for each; "
            f"{settings.epochs} are too few"
        )
    shares = [sum(phase.share for phase in phases[: index + 1]) for index in range(len(phases))]
    return tuple(max(index + 1, round(share * settings.epochs)) for index, share in enumerate(shares))
