"""The one objective: classification weighed by the regime, attention consistency, distillation."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edge.training.attention import ATTENTION_LOSSES
from edge.training.network import ExitOutputs
from edge.training.regimes import Phase
from edge.training.settings import Settings

TEMPERATURE = 3.0
"""Of distillation: answers are softened by it, so that what the last exit deems possible counts beside what it says."""


class Loss(NamedTuple):
    """The training loss of a batch, and its parts before their weights."""

    total: Tensor
    classification: Tensor
    attention: Tensor
    distillation: Tensor
    exit_weights: Tensor
    """Mean over the batch of each exit's weight, shape (exits,): how much the regime lets it learn."""


def objective(
    outputs: Sequence[ExitOutputs], labels: Tensor, settings: Settings, phase: Phase, progress: float
) -> Loss:
    """Return the loss of a batch; `progress` runs from 0 to 1 through the phase."""
    logits = torch.stack([exit_outputs.logits.float() for exit_outputs in outputs])
    maps = [exit_outputs.attention.float() for exit_outputs in outputs]
    weights = phase.weigh(logits.detach(), labels, progress)
    classification = classification_loss(logits, labels, weights)
    attention = ATTENTION_LOSSES[settings.attention_loss](maps)
    distillation = distillation_loss(logits)
    total = classification
    if phase.learners != "last":
        total = total + settings.attention_weight * attention + settings.distillation_weight * distillation
    return Loss(total, classification, attention, distillation, weights.mean(dim=1))


def classification_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return `mean_i sum_e weight_e(i) * cross_entropy(logits_e(i), y_i)`."""
    exits, samples, classes = logits.shape
    losses = F.cross_entropy(logits.reshape(-1, classes), labels.repeat(exits), reduction="none")
    return (weights * losses.reshape(exits, samples)).sum(dim=0).mean()


def distillation_loss(logits: Tensor) -> Tensor:
    """Return how far early exits' answers are from the last one's, which they do not move (Hinton et al. 2015).

    `mean_{k<K} T^2 KL(softmax(stopgrad(z_K) / T) || softmax(z_k / T))`.
    """
    target = (logits[-1].detach() / TEMPERATURE).log_softmax(dim=-1)
    losses = [
        F.kl_div((early / TEMPERATURE).log_softmax(dim=-1), target, reduction="batchmean", log_target=True)
        for early in logits[:-1]
    ]
    return TEMPERATURE**2 * sum(losses, start=logits.new_zeros(())) / max(len(losses), 1)
