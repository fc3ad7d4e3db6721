"""The shape every early-exit network has: stages, an exit head after each, and what one pass yields."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ExitOutputs(NamedTuple):
    """What the network yields at one exit.

    Attributes:
        logits: Class scores, shape (batch, classes).
        attention: The spatial map the head weighed its features with, shape (batch, 1, height, width), in [0, 1].
        cut: The tensors the next stage reads. Empty at the last exit.
    """

    logits: Tensor
    attention: Tensor
    cut: tuple[Tensor, ...]


class AttentionHead(nn.Module):
    """An exit: features, weighed by an attention map, pooled and classified.

    Explanation-Guided Training (arXiv 2601.08891) asks for an attention module at every exit. This one is the
    smallest that serves: `A = sigmoid(conv1x1(F))`, `logits = linear(pool(F * A))`.
    """

    def __init__(self, channels: int, classes: int, refine: nn.Module | None = None, grid: int = 1) -> None:
        """Make a head.

        Args:
            channels: Channels of the features that are weighed and pooled.
            classes: How many classes to tell apart.
            refine: From the stage's first output tensor to those features. Early exits need it: what their stages
                see is still local.
            grid: Features are averaged over this many windows a side. Early exits see small parts of an image
                only; where those parts lie then still counts.
        """
        super().__init__()
        self.refine = refine or nn.Identity()
        self.attend = nn.Conv2d(channels, 1, kernel_size=1)
        self.grid = grid
        self.classify = nn.Linear(channels * grid * grid, classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and the attention map (batch, 1, height, width)."""
        refined = self.refine(features)
        attention = torch.sigmoid(self.attend(refined))
        return self.classify(pool_to_grid(refined * attention, self.grid)), attention


def pool_to_grid(features: Tensor, grid: int) -> Tensor:
    """Average over `grid` x `grid` windows, which overlap where the size is no multiple; return (batch, values)."""
    if grid == 1:
        return features.mean(dim=(2, 3))
    stride = [size // grid for size in features.shape[-2:]]
    window = [size - (grid - 1) * step for size, step in zip(features.shape[-2:], stride, strict=True)]
    return F.avg_pool2d(features, window, stride).flatten(1)


class MultiExitNetwork(nn.Module):
    """A backbone in consecutive stages with an exit head after each.

    Stage k takes the tensors stage k-1 returned (stage 0: the image) and returns one tensor or a tuple of them;
    these tensors are cut k. Head k reads the first of them.
    """

    def __init__(self, stages: Sequence[nn.Module], heads: Sequence[nn.Module]) -> None:
        """Join built stages with built heads, one head a stage."""
        super().__init__()
        if len(stages) != len(heads) or not stages:
            raise ValueError(f"a network needs one head a stage, got {len(stages)} stages and {len(heads)} heads")
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)

    def forward(self, image: Tensor) -> list[ExitOutputs]:
        """Run every exit; `image` has shape (batch, channels, height, width)."""
        outputs = []
        tensors: tuple[Tensor, ...] = (image,)
        for index, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            produced = stage(*tensors)
            tensors = produced if isinstance(produced, tuple) else (produced,)
            logits, attention = head(tensors[0])
            is_last = index == len(self.stages) - 1
            outputs.append(ExitOutputs(logits, attention, () if is_last else tensors))
        return outputs

    def truncated(self, exit_index: int) -> "MultiExitNetwork":
        """Return the network that ends at this exit and has no other: what a user without early exits would train."""
        stages = StageChain(list(self.stages)[: exit_index + 1])
        return MultiExitNetwork([stages], [self.heads[exit_index]])


class StageChain(nn.Module):
    """Several stages run as one."""

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        """Chain stages, each taking what the one before it returned."""
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the stages in order."""
        for stage in self.stages:
            produced = stage(*tensors)
            tensors = produced if isinstance(produced, tuple) else (produced,)
        return tensors


def conv_bn_relu(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
