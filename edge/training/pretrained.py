"""Pretrained weights: from local files, or those that timm publishes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edge.errors import CheckpointError
from edge.training.backbones.efficientnet_lite import packaged_weights
from edge.training.backbones.timm import PREFIX, published_weights
from edge.training.network import MultiExitNetwork

PUBLISHED, PACKAGED = "timm", "efficientnet-lite"
"""Names of the weights that timm publishes for the backbone, and of those in installed packages."""
MIN_SHARE = 0.5
"""Smallest share of the backbone's parameters that a file must hold; below it, it belongs to another network."""
TIMM_PREFIX = "backbone.model.model."
"""Prefix that a timm model's parameters have in our networks, and not in timm's files."""
WRAPPERS = (
    "weights", "state_dict_ema", "state_dict", "model_state_dict", "model_ema", "model", "net", "ema", "module",
)  # fmt: skip
"""Keys under which training programs store weights in a file; averaged weights come first."""
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""Prefixes that wrappers around a network give to all of its weights."""


def load_pretrained(network: MultiExitNetwork, source: str | Path, backbone: str = "") -> str:
    """Load the tensors that match the network's by name and shape; return a summary of them.

    Heads for other classes keep their initial weights. The first convolution is adapted to the number of channels: its
    weights are summed for one channel, and repeated for several.

    Args:
        network: The network before training.
        source: `PUBLISHED`, `PACKAGED`, or the path of a checkpoint of this project or of weights saved by timm or
            others.
        backbone: Name of the network's backbone, for sources that are no files.

    Raises:
        CheckpointError: the weights are missing, cannot be read, have NaN or infinity, or belong to another network.
    """
    weights = _weights(source, backbone)
    expected = network.state_dict()
    stem = _stem(network)
    matching, adapted = {}, ""
    for name, tensor in expected.items():
        candidate = weights.get(name, weights.get(name.removeprefix(TIMM_PREFIX)))
        if candidate is None:
            continue
        if name == stem and _differs_in_channels(candidate, tensor):
            adapted = f"; {name} was made for {candidate.shape[1]} channels and is adapted to {tensor.shape[1]}"
            candidate = _with_channels(candidate, tensor.shape[1])
        if candidate.shape == tensor.shape:
            matching[name] = candidate
    parameters = [name for name, _ in network.named_parameters() if name.startswith("backbone.")]
    share = sum(name in matching for name in parameters) / len(parameters)
    if share < MIN_SHARE:
        raise CheckpointError(
            f"{source} holds {share:.0%} of the backbone's parameters by name and shape; "
            "choose a file with weights of this backbone"
        )
    _check_finite(matching, source)
    network.load_state_dict(matching, strict=False)
    return (
        f"loaded {source}: {share:.0%} of the backbone's parameters and {len(matching)} of {len(expected)} tensors "
        f"in all{adapted}{_missing(parameters, matching)}"
    )


def _weights(source: str | Path, backbone: str) -> dict[str, Tensor]:
    """Return a source's tensors by name."""
    if source == PUBLISHED:
        return published_weights(backbone)
    return packaged_weights(backbone) if source == PACKAGED else _read(Path(source))


def _missing(parameters: list[str], matching: Mapping[str, Tensor]) -> str:
    """Describe the backbone's parameters that the file lacks."""
    missing = [name for name in parameters if name not in matching]
    if not missing:
        return ""
    others = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"; these keep their initial values: {', '.join(missing[:3])}{others}"


def _stem(network: MultiExitNetwork) -> str:
    """Return the name of the first convolution's weight, which reads the image."""
    convolutions = (name for name, weight in network.named_parameters() if weight.ndim == 4)
    return next(convolutions, "")


def _differs_in_channels(candidate: Tensor, tensor: Tensor) -> bool:
    is_convolution = candidate.ndim == tensor.ndim == 4
    return (
        is_convolution
        and candidate.shape[1] not in (0, tensor.shape[1])
        and (candidate.shape[0] == tensor.shape[0] and candidate.shape[2:] == tensor.shape[2:])
    )


def _with_channels(weight: Tensor, channels: int) -> Tensor:
    """Return a convolution's weight for another number of input channels, as timm does.

    Its response to an image whose channels are all equal stays about the same.
    """
    if channels == 1:
        return weight.float().sum(dim=1, keepdim=True)
    repeated = weight.float().repeat(1, math.ceil(channels / weight.shape[1]), 1, 1)[:, :channels]
    return repeated * (weight.shape[1] / channels)


def _check_finite(weights: Mapping[str, Tensor], source: str | Path) -> None:
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{source} has NaN or infinity in {name}: the training it comes from diverged; choose other weights"
            )


def _read(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors by name, without the wrappers of the program that saved it.

    Raises:
        CheckpointError: the file is missing or cannot be read.
    """
    if not path.is_file():
        raise CheckpointError(
            f"there is no file of weights at {path}; choose a local .pt, .pth or .safetensors file, or give "
            f"--pretrained without a file to download what timm publishes for a {PREFIX}NAME backbone"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return _without_prefix(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # zip, pickle, header and runtime errors, depending on the format and the damage
        raise CheckpointError(
            f"{path} cannot be read as weights ({type(error).__name__}: {error}); "
            "choose a .pt, .pth or .safetensors file"
        ) from error
    return _without_prefix(_unwrapped(content))


def _unwrapped(content: Any) -> dict[str, Tensor]:
    """Return the tensors by name from nested dictionaries."""
    while isinstance(content, dict):
        key = next((key for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if key is None:
            return {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
        content = content[key]
    return {}


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that all names share."""
    while weights and (prefix := next((p for p in WRAPPER_PREFIXES if all(n.startswith(p) for n in weights)), "")):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights
