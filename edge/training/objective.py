"""The training loss: classification weighted by the regime, attention consistency and distillation."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edge.training.attention import ATTENTION_LOSSES
from edge.training.network import ExitOutputs
from edge.training.regimes import Phase
from edge.training.settings import Settings

DISTILLATION_TEMPERATURE = 3.0
"""Softens both distributions, so that the teacher's small probabilities count, too."""


class Loss(NamedTuple):
    """The training loss of a batch, and its terms before they are weighted."""

    total: Tensor
    classification: Tensor
    attention: Tensor
    distillation: Tensor
    exit_weights: Tensor
    """Loss weight of each exit as a mean over the batch, shape (exits,)."""


def objective(
    outputs: Sequence[ExitOutputs],
    labels: Tensor,
    settings: Settings,
    phase: Phase,
    progress: float,
    class_weights: Tensor | None = None,
) -> Loss:
    """Return the loss of a batch.

    Args:
        outputs: Outputs of every exit.
        labels: True classes, shape (batch,).
        settings: Weights of the terms.
        phase: Weights of the exits.
        progress: Progress through the phase, from 0 to 1.
        class_weights: Weight of each class in the classification loss, shape (classes,); None for equal weights.
    """
    logits = torch.stack([output.logits.float() for output in outputs])
    maps = [output.attention.float() for output in outputs]
    weights = phase.loss_weights(logits.detach(), labels, progress)
    sample_weights = weights if class_weights is None else weights * class_weights[labels]
    classification = classification_loss(logits, labels, sample_weights)
    attention = ATTENTION_LOSSES[settings.attention_loss](maps)
    distillation = distillation_loss(logits)
    total = classification
    if phase.trainable != "last":
        total = total + settings.attention_weight * attention + settings.distillation_weight * distillation
    return Loss(total, classification, attention, distillation, weights.mean(dim=1))


def classification_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return `mean_i sum_e weight_e(i) * cross_entropy(logits_e(i), y_i)`."""
    exits, samples, classes = logits.shape
    losses = F.cross_entropy(logits.reshape(-1, classes), labels.repeat(exits), reduction="none")
    return (weights * losses.reshape(exits, samples)).sum(dim=0).mean()


def distillation_loss(logits: Tensor) -> Tensor:
    """Return the distillation loss of early exits with the last exit as teacher (Hinton et al. 2015).

    `mean_{k<K} T^2 KL(softmax(stopgrad(z_K) / T) || softmax(z_k / T))`.
    """
    teacher = (logits[-1].detach() / DISTILLATION_TEMPERATURE).log_softmax(dim=-1)
    losses = [
        F.kl_div((early / DISTILLATION_TEMPERATURE).log_softmax(-1), teacher, reduction="batchmean", log_target=True)
        for early in logits[:-1]
    ]
    return DISTILLATION_TEMPERATURE**2 * sum(losses, start=logits.new_zeros(())) / max(len(losses), 1)
