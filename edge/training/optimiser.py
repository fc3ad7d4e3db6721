"""The optimiser, its learning rates, and the exponential moving average of the weights."""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from edge.training.network import MultiExitNetwork
from edge.training.settings import Settings

WEIGHT_DECAY = 0.05
PRETRAINED_RATE = 0.1
"""Learning rate of a pretrained backbone, as a share of the heads' rate."""


def make_optimizer(network: MultiExitNetwork, settings: Settings) -> torch.optim.AdamW:
    """Return AdamW for the trainable parameters.

    Biases and normalisation parameters, which have one dimension, are not decayed. A pretrained backbone learns at a
    tenth of the heads' rate.
    """
    backbone_rate = settings.learning_rate * (PRETRAINED_RATE if settings.pretrained else 1.0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            rate = backbone_rate if name.startswith("backbone.") else settings.learning_rate
            groups[rate, WEIGHT_DECAY if parameter.ndim > 1 else 0.0].append(parameter)
    return torch.optim.AdamW(
        [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]
    )


def make_schedule(optimizer: torch.optim.AdamW, steps: int) -> torch.optim.lr_scheduler.OneCycleLR:
    """Return one cycle of each learning rate: a warm-up over 30 % of the steps, then a cosine down to zero."""
    rates = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps)


def average_of(network: MultiExitNetwork) -> AveragedModel:
    """Return a moving average of weights and batch statistics, which are those of the first step to begin with."""
    return AveragedModel(network, avg_fn=moving_average, use_buffers=True)


def moving_average(average: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
    """Return the next exponential moving average, with the decay `(1 + count) / (10 + count)`.

    The decay grows, as in TensorFlow's `ExponentialMovingAverage` with `num_updates`, so that the average suits runs of
    any length: its horizon is a tenth of the values so far.
    """
    if not average.is_floating_point():  # counters
        return value
    return torch.lerp(average, value, 9 / (torch.as_tensor(count, dtype=average.dtype, device=average.device) + 10))
