"""The shape every early-exit network has: stages, an exit head after each, and what one pass yields."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTRAST = 2.0
"""Standard deviation of attention scores over an image's positions."""


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
    smallest that serves: `A = sigmoid(2 * standardised(conv1x1(F)))`, `logits = linear(pool(F * A))`. Standardised
    over the image's positions to a mean of 0 and a variance of 1, a map always has contrast; a plain
    `sigmoid(conv1x1(F))` opens everywhere (cosines of any two such maps are above 0.99) and explains nothing.
    """

    def __init__(
        self, channels: int, classes: int, refine: nn.Module | None = None, grid: int = 1, *, spread: bool = False
    ) -> None:
        """Make a head.

        Args:
            channels: Channels of the features that are weighed and pooled.
            classes: How many classes to tell apart.
            refine: From the stage's first output tensor to those features. Early exits need it: what their stages
                see is still local.
            grid: Features are averaged over this many windows a side. Early exits see small parts of an image
                only; where those parts lie then still counts.
            spread: Whether every window sees all there is where refining leaves one pixel, as of tiny patches;
                otherwise such an input is too small.
        """
        super().__init__()
        self.refine = refine or nn.Identity()
        self.attend = nn.Conv2d(channels, 1, kernel_size=1, bias=False)  # which standardising would take away
        self.grid, self.spread = grid, spread
        self.classify = nn.Linear(channels * grid * grid, classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and the attention map (batch, 1, height, width)."""
        refined = self.refine(features)
        score = self.attend(refined)
        attention = torch.sigmoid(CONTRAST * F.layer_norm(score, score.shape[1:]))
        weighed = refined * attention
        if self.spread and weighed.shape[-2:] == (1, 1):
            weighed = weighed.expand(-1, -1, self.grid, self.grid)
        return self.classify(pool_to_grid(weighed, self.grid)), attention


def pool_to_grid(features: Tensor, grid: int) -> Tensor:
    """Average over `grid` x `grid` windows, which overlap where the size is no multiple; return (batch, values)."""
    if grid == 1:
        return features.mean(dim=(2, 3))
    stride = [size // grid for size in features.shape[-2:]]
    window = [size - (grid - 1) * step for size, step in zip(features.shape[-2:], stride, strict=True)]
    return F.avg_pool2d(features, window, stride).flatten(1)


class Backbone(nn.Module):
    """The feature extractor: from an image to the tensors each of its stages hands on.

    Any part of a stage may be shared with the one before: the network is cut as a graph, not as modules.
    """

    def forward(self, image: Tensor) -> list[tuple[Tensor, ...]]:
        """Return what each stage hands on, for an image of shape (batch, channels, height, width)."""
        raise NotImplementedError

    def truncated(self, stage: int) -> "Backbone":
        """Return the backbone that ends with this stage and returns what that one hands on only."""
        raise NotImplementedError


class Stages(Backbone):
    """A backbone of consecutive modules: stage k takes the tensors stage k-1 returned (stage 0: the image)."""

    def __init__(self, stages: Sequence[nn.Module], *, only_last: bool = False) -> None:
        """Chain stages, each returning one tensor or a tuple of them; `only_last` hands on what the last returns."""
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self._only_last = only_last

    def forward(self, image: Tensor) -> list[tuple[Tensor, ...]]:
        """Run the stages in order."""
        handed_on = []
        tensors: tuple[Tensor, ...] = (image,)
        for stage in self.stages:
            produced = stage(*tensors)
            tensors = produced if isinstance(produced, tuple) else (produced,)
            handed_on.append(tensors)
        return handed_on[-1:] if self._only_last else handed_on

    def truncated(self, stage: int) -> "Stages":
        """Return the stages up to this one, seen as one."""
        return Stages(list(self.stages)[: stage + 1], only_last=True)


class MultiExitNetwork(nn.Module):
    """A backbone with an exit head after each stage, which reads the first tensor that stage hands on."""

    def __init__(self, backbone: Backbone, heads: Sequence[nn.Module]) -> None:
        """Join a backbone with one head a stage."""
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)

    def forward(self, image: Tensor) -> list[ExitOutputs]:
        """Run every exit; `image` has shape (batch, channels, height, width)."""
        outputs: list[ExitOutputs] = []
        for tensors, head in zip(self.backbone(image), self.heads, strict=True):
            logits, attention = head(tensors[0])
            is_last = len(outputs) == len(self.heads) - 1
            outputs.append(ExitOutputs(logits, attention, () if is_last else tensors))
        return outputs

    def truncated(self, exit_index: int) -> "MultiExitNetwork":
        """Return the network that ends at this exit and has no other: what a user without early exits would train."""
        return MultiExitNetwork(self.backbone.truncated(exit_index), [self.heads[exit_index]])


def conv_bn_relu(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
