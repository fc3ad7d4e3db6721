"""Structure of every early-exit network: backbone stages with an exit head after each."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION_SCALE = 2.0
"""Standard deviation of attention scores over an image's positions."""


class ExitOutputs(NamedTuple):
    """Raw tensors of one exit.

    Attributes:
        logits: Class scores, shape (batch, classes).
        attention: Spatial map that the head weighted its features with, shape (batch, 1, height, width), in [0, 1].
        cut: Input tensors of the next stage. Empty at the last exit.
    """

    logits: Tensor
    attention: Tensor
    cut: tuple[Tensor, ...]


class AttentionHead(nn.Module):
    """An exit head: features are weighted by an attention map, pooled and classified.

    Explanation-Guided Training (arXiv 2601.08891) needs an attention module at every exit. This is a minimal one:
    `A = sigmoid(2 * standardise(conv1x1(F)))`, `logits = linear(pool(F * A))`. Standardising the scores over the
    positions of an image (mean 0, variance 1) guarantees contrast; a plain `sigmoid(conv1x1(F))` saturates everywhere
    (cosines of any two such maps are above 0.99) and explains nothing.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        neck: nn.Module | None = None,
        grid: int = 1,
        *,
        broadcast_1x1: bool = False,
    ) -> None:
        """Create a head.

        Args:
            channels: Channels of the features that are weighted and pooled.
            classes: Number of classes.
            neck: Module from the stage's first output tensor to those features. Early exits need one, because the
                receptive field of their stages is still small.
            grid: Features are average-pooled to `grid` x `grid` cells. More than one cell keeps coarse positions,
                which helps early exits.
            broadcast_1x1: Copy the features of a 1x1 map to every cell, for very small inputs.
        """
        super().__init__()
        self.neck = neck or nn.Identity()
        self.attention = nn.Conv2d(channels, 1, kernel_size=1, bias=False)  # standardising would remove a bias
        self.grid, self.broadcast_1x1 = grid, broadcast_1x1
        self.classify = nn.Linear(channels * grid * grid, classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and the attention map (batch, 1, height, width)."""
        features = self.neck(features)
        score = self.attention(features)
        attention = torch.sigmoid(ATTENTION_SCALE * F.layer_norm(score, score.shape[1:]))
        weighted = features * attention
        if self.broadcast_1x1 and weighted.shape[-2:] == (1, 1):
            weighted = weighted.expand(-1, -1, self.grid, self.grid)
        return self.classify(pool_to_grid(weighted, self.grid)), attention


def pool_to_grid(features: Tensor, grid: int) -> Tensor:
    """Average over `grid` x `grid` windows and return (batch, values).

    Windows overlap where the size is not a multiple of `grid`.
    """
    if grid == 1:
        return features.mean(dim=(2, 3))
    stride = [size // grid for size in features.shape[-2:]]
    window = [size - (grid - 1) * step for size, step in zip(features.shape[-2:], stride, strict=True)]
    return F.avg_pool2d(features, window, stride).flatten(1)


class Backbone(nn.Module):
    """The feature extractor: computes the output tensors of each of its stages.

    Stages may share parts of their computation: the network is cut as a graph, not as modules.
    """

    def forward(self, image: Tensor) -> list[tuple[Tensor, ...]]:
        """Return the outputs of each stage for images of shape (batch, channels, height, width)."""
        raise NotImplementedError

    def truncated(self, stage: int) -> "Backbone":
        """Return the backbone that ends after this stage and returns the outputs of this stage only."""
        raise NotImplementedError


class Stages(Backbone):
    """A backbone of consecutive modules: stage k reads the outputs of stage k-1, stage 0 the image."""

    def __init__(self, stages: Sequence[nn.Module], *, only_last: bool = False) -> None:
        """Chain stages.

        Args:
            stages: Modules that return a tensor or a tuple of tensors.
            only_last: Return the outputs of the last stage only.
        """
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self._only_last = only_last

    def forward(self, image: Tensor) -> list[tuple[Tensor, ...]]:
        """Run the stages in order."""
        outputs = []
        tensors: tuple[Tensor, ...] = (image,)
        for stage in self.stages:
            produced = stage(*tensors)
            tensors = produced if isinstance(produced, tuple) else (produced,)
            outputs.append(tensors)
        return outputs[-1:] if self._only_last else outputs

    def truncated(self, stage: int) -> "Stages":
        """Return the stages up to this one, as a backbone with a single output."""
        return Stages(list(self.stages)[: stage + 1], only_last=True)


class MultiExitNetwork(nn.Module):
    """A backbone with an exit head after each stage; a head reads the first output tensor of its stage."""

    def __init__(self, backbone: Backbone, heads: Sequence[nn.Module]) -> None:
        """Join a backbone with one head per stage."""
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)

    def forward(self, image: Tensor) -> list[ExitOutputs]:
        """Compute every exit for images of shape (batch, channels, height, width)."""
        outputs: list[ExitOutputs] = []
        for tensors, head in zip(self.backbone(image), self.heads, strict=True):
            logits, attention = head(tensors[0])
            is_last = len(outputs) == len(self.heads) - 1
            outputs.append(ExitOutputs(logits, attention, () if is_last else tensors))
        return outputs

    def truncated(self, exit_index: int) -> "MultiExitNetwork":
        """Return the single-exit network that ends at this exit: the alternative to early exits."""
        return MultiExitNetwork(self.backbone.truncated(exit_index), [self.heads[exit_index]])


def conv_bn_relu(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
