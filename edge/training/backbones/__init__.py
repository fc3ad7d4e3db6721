"""Backbones by name; one file per family."""

import re
from collections.abc import Callable

from edge.errors import CheckpointError
from edge.training.backbones.cnn import build_cnn, build_deep_cnn, build_small_cnn
from edge.training.backbones.mobilenet import build_mobilenet
from edge.training.backbones.resnet import build_resnet18, build_resnet18_cifar
from edge.training.backbones.timm import PREFIX, build_timm
from edge.training.network import MultiExitNetwork

BACKBONES: dict[str, Callable[[int, int], MultiExitNetwork]] = {
    "cnn": build_cnn,
    "cnn-small": build_small_cnn,
    "cnn-deep": build_deep_cnn,
    "resnet18": build_resnet18,
    "resnet18-cifar": build_resnet18_cifar,
    "mobilenet": build_mobilenet,
}
"""Builders by name; each takes the numbers of input channels and classes."""
CNN_OF_WIDTH = re.compile(r"cnn:([2-9]|[1-9]\d{1,2})")
"""Name of `build_cnn` with another width, from 2 to 999."""


def build_network(backbone: str, channels: int, classes: int, truncated_at: int | None = None) -> MultiExitNetwork:
    """Build a network with random weights.

    Args:
        backbone: A name in `BACKBONES`, `cnn:WIDTH`, `timm:NAME` or `timm:NAME:STAGES`.
        channels: Channels of the input.
        classes: Number of classes.
        truncated_at: Build the single-exit network that ends at this exit.

    Raises:
        CheckpointError: the backbone or exit does not exist.
    """
    if backbone.startswith(PREFIX):
        network = build_timm(backbone, channels, classes)
    elif match := CNN_OF_WIDTH.fullmatch(backbone):
        network = build_cnn(channels, classes, int(match[1]))
    elif backbone in BACKBONES:
        network = BACKBONES[backbone](channels, classes)
    else:
        raise CheckpointError(
            f"unknown backbone {backbone!r}; the backbones are {', '.join(BACKBONES)}, cnn:WIDTH and timm:NAME"
        )
    if truncated_at is None:
        return network
    if not 0 <= truncated_at < len(network.heads):
        raise CheckpointError(f"{backbone} has no exit {truncated_at}; its exits are 0 to {len(network.heads) - 1}")
    return network.truncated(truncated_at)
