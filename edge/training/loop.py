"""The training loop: resumable after any epoch, on one device or several."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edge.console import log
from edge.errors import CheckpointError, DataError
from edge.training.augment import Augmentation
from edge.training.data import training_batches
from edge.training.loading import PreprocessedImages
from edge.training.network import MultiExitNetwork
from edge.training.objective import Loss, objective
from edge.training.optimiser import average_of, make_optimizer, make_schedule
from edge.training.regimes import Phase, phase_ends
from edge.training.settings import Settings
from edge.training.state import StateFile

BATCH_SIZE, MIN_STEPS = 64, 10
"""Default images per step, if an epoch then has at least so many steps."""
LOSS_NAMES = ("loss", "classification_loss", "attention_loss", "distillation_loss")


class TrainingRun:
    """A network with its optimiser. A resumed run ends with the same weights as an uninterrupted one.

    The result is the exponential moving average of the weights, which starts anew with each phase.

    Attributes:
        batch_size: Images per step, over all processes.
    """

    def __init__(
        self,
        network: MultiExitNetwork,
        settings: Settings,
        phases: Sequence[Phase],
        samples: PreprocessedImages,
        augmentation: Augmentation,
        state: StateFile,
        workers: int | None = None,
    ) -> None:
        """Set up devices and batches.

        Raises:
            DataError: the batch size does not fit the number of processes, or there are fewer epochs than phases.
        """
        self.fabric = fabric_for(settings)
        processes = self.fabric.world_size
        batch_size = fitting_batch_size(settings.batch_size, len(samples), processes)
        if settings.batch_size and batch_size < settings.batch_size and self.fabric.is_global_zero:
            log(
                f"batch size {settings.batch_size} is lowered to {batch_size}: there are {len(samples)} training images"
            )
        self.settings, self.batch_size = settings, batch_size
        self._unused = unused_parameters(network, samples[0][0].unsqueeze(0)) if processes > 1 else ()
        if processes > 1 and self.fabric.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own stub
        self._phases, self._phase_ends = phases, phase_ends(phases, settings)
        self._augmentation = augmentation
        self._batches = training_batches(
            samples, batch_size, settings.seed, self.fabric.global_rank, processes, workers
        )
        self._class_weights = self._weights_of_classes(samples) if settings.balance else None
        self._phase_index = -1  # no phase has started
        self._best: dict[str, Tensor] | None = None
        self._state = state

    @property
    def steps(self) -> int:
        """Number of batches per epoch."""
        return len(self._batches)

    def result(self) -> dict[str, Tensor]:
        """Return copies on the CPU of the averaged weights, of the epoch that was kept last if any was."""
        if self._best is not None:
            return self._best
        return {name: tensor.cpu().clone() for name, tensor in self.average.state_dict().items()}

    def keep(self) -> None:
        """Keep the averaged weights of the present epoch as the result."""
        self._best = None
        self._best = self.result()

    def resume(self) -> list[dict[str, Any]]:
        """Restore the saved state of an unfinished run, if there is one, and return its history.

        Raises:
            CheckpointError: the state is damaged, or belongs to other settings, images or batches.
        """
        state = self._state.read()
        if state is None:
            return []
        if state["batch_size"] != self.batch_size:
            raise CheckpointError(
                f"the unfinished run has {state['batch_size']} images per step, with this number of processes there "
                f"are {self.batch_size}; start as many processes as before, or choose another --output"
            )
        history: list[dict[str, Any]] = state["history"]
        self.network.load_state_dict(state["network"])
        self._start_phase(self._phase_of(len(history) - 1))
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._averaged.load_state_dict(state["average"])
        self._best = state["best"]
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
            "average": self._averaged.state_dict(),
            "best": self._best,
            "batch_size": self.batch_size,
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
            module.eval()  # batch normalisation keeps its statistics, too
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
        loss = objective(self._module(inputs), labels, self.settings, self._phase, progress, self._class_weights)
        self._optimizer.zero_grad()
        self.fabric.backward(loss.total)
        self._optimizer.step()
        self._schedule.step()
        self._averaged.update_parameters(self.network)
        return loss

    @property
    def average(self) -> MultiExitNetwork:
        """The network with the running average of its weights since the start of the phase."""
        return cast(MultiExitNetwork, self._averaged.module)

    @property
    def last_phase_start(self) -> int:
        """First epoch of the last phase."""
        return (0, *self._phase_ends)[-2]

    @property
    def _phase(self) -> Phase:
        return self._phases[self._phase_index]

    def _phase_of(self, epoch: int) -> int:
        return next(index for index, end in enumerate(self._phase_ends) if epoch < end)

    def _phase_epochs(self) -> tuple[int, int]:
        """Return the first epoch of the current phase, and of the phase after it."""
        return (0, *self._phase_ends)[self._phase_index], self._phase_ends[self._phase_index]

    def _start_phase(self, index: int) -> None:
        """Freeze modules and create optimiser, schedule and average, unless the phase has already started."""
        if index == self._phase_index:
            return
        self._phase_index = index
        self.network.requires_grad_(True)
        for module in self._frozen_modules():
            module.requires_grad_(False)
        for parameter in self._unused:
            parameter.requires_grad_(False)
        optimizer = make_optimizer(self.network, self.settings)
        first, end = self._phase_epochs()
        self._schedule = make_schedule(optimizer, max(1, (end - first) * self.steps))
        self._module, self._optimizer = self.fabric.setup(self.network, optimizer)
        self._averaged = average_of(self.network)

    def _weights_of_classes(self, samples: PreprocessedImages) -> Tensor:
        """Return weights with which all classes contribute equally; their mean over the samples is 1."""
        classes = self.network.heads[-1].classify.out_features
        counts = np.bincount(samples.labels, minlength=int(classes))
        weights = len(samples.labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return torch.tensor(weights, dtype=torch.float32, device=self.fabric.device)

    def _frozen_modules(self) -> Sequence[nn.Module]:
        """Return the modules that the current phase does not train."""
        *early_heads, last_head = self.network.heads
        frozen: dict[str, Sequence[nn.Module]] = {
            "all": (),
            "early": (self.network.backbone, last_head),
            "last": early_heads,
        }
        backbone = (self.network.backbone,) if self.settings.freeze else ()
        return (*backbone, *frozen[self._phase.trainable])


def fabric_for(settings: Settings) -> Fabric:
    """Return a Fabric for one GPU or the CPU, or under `torchrun` for one device per process."""
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


def unused_parameters(network: MultiExitNetwork, image: Tensor) -> list[nn.Parameter]:
    """Return the parameters that no exit depends on, such as layers after the last feature stage of a timm model.

    With several processes, DDP would wait for their gradients forever.
    """
    parameters = list(network.parameters())
    outputs = network.eval()(image)
    total = torch.stack([output.logits.sum() + output.attention.sum() for output in outputs]).sum()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return [parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is None]


def fitting_batch_size(batch_size: int | None, samples: int, processes: int) -> int:
    """Return the batch size, or the largest one that the samples fill.

    Without a batch size: 64, or fewer so that an epoch has ten steps.

    Raises:
        DataError: the batch size or the number of samples does not fit the number of processes.
    """
    if batch_size is None:
        share = min(BATCH_SIZE, samples // MIN_STEPS) // processes
        batch_size = max(2, share) * processes
    if batch_size % processes or batch_size < 2 * processes:
        raise DataError(
            f"batch size {batch_size} cannot be divided among {processes} processes; "
            "choose a multiple of their number, at least two images per process"
        )
    fitting = min(batch_size, samples - samples % processes)
    if fitting < 2 * processes:
        raise DataError(f"{samples} training images are too few for {processes} processes; start fewer, or add images")
    return fitting
