"""The training loop: resumable after any epoch, on one device or several."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edge.console import log
from edge.errors import DataError
from edge.training.augment import Augmentation
from edge.training.data import PreprocessedImages, training_batches
from edge.training.network import MultiExitNetwork
from edge.training.objective import Loss, objective
from edge.training.regimes import Phase, phase_ends
from edge.training.settings import Settings
from edge.training.state import StateFile

LOSS_NAMES = ("loss", "classification_loss", "attention_loss", "distillation_loss")


class TrainingRun:
    """A network with its optimiser. A resumed run ends with the same weights as an uninterrupted one."""

    def __init__(
        self,
        network: MultiExitNetwork,
        settings: Settings,
        phases: Sequence[Phase],
        samples: PreprocessedImages,
        augmentation: Augmentation,
        state: StateFile,
    ) -> None:
        """Set up devices and batches.

        Raises:
            DataError: the batch size does not fit the samples or the number of processes, or there are fewer epochs
                than phases.
        """
        self.fabric = fabric_for(settings)
        processes = self.fabric.world_size
        _check_batch_size(settings.batch_size, len(samples), processes)
        self.settings = settings
        if processes > 1 and self.fabric.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own stub
        self._phases, self._phase_ends = phases, phase_ends(phases, settings)
        self._augmentation = augmentation
        self._batches = training_batches(
            samples, settings.batch_size, settings.seed, self.fabric.global_rank, processes
        )
        self._phase_index = -1  # no phase has started
        self._state = state

    @property
    def steps(self) -> int:
        """Number of batches per epoch."""
        return len(self._batches)

    def resume(self) -> list[dict[str, Any]]:
        """Restore the saved state of an unfinished run, if there is one, and return its history.

        Raises:
            CheckpointError: the state is damaged, or belongs to other settings or images.
        """
        state = self._state.read()
        if state is None:
            return []
        history: list[dict[str, Any]] = state["history"]
        self.network.load_state_dict(state["network"])
        self._start_phase(self._phase_of(len(history) - 1))
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        log(f"resuming after epoch {len(history)} of an unfinished run")
        return history

    def save(self, history: list[dict[str, Any]]) -> None:
        """Save the state after an epoch, in the first process only."""
        if not self.fabric.is_global_zero:
            return
        state = {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "history": history,
        }
        self._state.write(state)

    def epoch(self, epoch: int, on_step: Callable[[], None]) -> dict[str, Any]:
        """Train for one epoch and return its mean losses and exit weights.

        Args:
            epoch: Index of the epoch, from 0.
            on_step: Called after each batch.

        Raises:
            DataError: the loss is NaN or infinite.
        """
        self._start_phase(self._phase_of(epoch))
        first, end = self._phase_epochs()
        torch.manual_seed((self.settings.seed * 100_003 + epoch) * self.fabric.world_size + self.fabric.global_rank)
        self._batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # a DistributedSampler
        self.network.train()
        for module in self._frozen_modules():
            module.eval()  # keeps the statistics of batch normalisation, too
        losses: list[Tensor] = []
        for step, (images, labels) in enumerate(self._batches):
            progress = (epoch - first + step / self.steps) / (end - first)
            loss = self._step(images.to(self.fabric.device), labels.to(self.fabric.device), progress)
            if not math.isfinite(loss.total.item()):
                raise DataError(
                    f"the loss became {loss.total.item()} in batch {step} of epoch {epoch}; lower --learning-rate"
                )
            losses.append(torch.cat([torch.stack(loss[: len(LOSS_NAMES)]).detach(), loss.exit_weights]))
            on_step()
        return self._mean_losses(losses)

    def _mean_losses(self, losses: list[Tensor]) -> dict[str, Any]:
        """Return the means over all batches and processes, by name."""
        means = cast(Tensor, self.fabric.all_reduce(torch.stack(losses).mean(dim=0), reduce_op="mean")).tolist()
        named = dict(zip(LOSS_NAMES, means, strict=False))
        return named | {"exit_weights": means[len(LOSS_NAMES) :]}

    def _step(self, images: Tensor, labels: Tensor, progress: float) -> Loss:
        inputs = self._augmentation(images).contiguous(memory_format=torch.channels_last)
        loss = objective(self._module(inputs), labels, self.settings, self._phase, progress)
        self._optimizer.zero_grad()
        self.fabric.backward(loss.total)
        self._optimizer.step()
        self._schedule.step()
        return loss

    @property
    def _phase(self) -> Phase:
        return self._phases[self._phase_index]

    def _phase_of(self, epoch: int) -> int:
        return next(index for index, end in enumerate(self._phase_ends) if epoch < end)

    def _phase_epochs(self) -> tuple[int, int]:
        """Return the current phase's first epoch, and the one after its last."""
        return (0, *self._phase_ends)[self._phase_index], self._phase_ends[self._phase_index]

    def _start_phase(self, index: int) -> None:
        """Freeze modules and create optimiser and schedule, unless the phase has already started.

        AdamW with one cycle of the learning rate per phase.
        """
        if index == self._phase_index:
            return
        self._phase_index = index
        self.network.requires_grad_(True)
        for module in self._frozen_modules():
            module.requires_grad_(False)
        trainable = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        rate = self.settings.learning_rate
        optimizer = torch.optim.AdamW(trainable, lr=rate, weight_decay=0.05)
        first, end = self._phase_epochs()
        total_steps = max(1, (end - first) * self.steps)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=total_steps)
        self._module, self._optimizer = self.fabric.setup(self.network, optimizer)

    def _frozen_modules(self) -> Sequence[nn.Module]:
        """Return the modules that the current phase does not train."""
        *early_heads, last_head = self.network.heads
        frozen: dict[str, Sequence[nn.Module]] = {
            "all": (),
            "early": (self.network.backbone, last_head),
            "last": early_heads,
        }
        return frozen[self._phase.trainable]


def fabric_for(settings: Settings) -> Fabric:
    """Return the devices to train on: one GPU or the CPU, or under `torchrun` one per process."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator="auto",
        devices=local_processes,
        num_nodes=processes // local_processes,
        strategy="ddp" if processes > 1 else "auto",
        precision="bf16-mixed" if settings.mixed_precision else "32-true",
    )
    fabric.launch()
    return fabric


def _check_batch_size(batch_size: int, samples: int, processes: int) -> None:
    if batch_size > samples:
        raise DataError(f"batch size {batch_size} is more than the {samples} training images; lower it")
    if batch_size % processes or batch_size < 2 * processes:
        raise DataError(
            f"batch size {batch_size} cannot be divided among {processes} processes; "
            "choose a multiple of their number, with at least two images per process"
        )
