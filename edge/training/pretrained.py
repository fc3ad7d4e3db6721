"""Pretrained weights from local files."""

from pathlib import Path

import torch
from torch import Tensor

from edge.errors import CheckpointError
from edge.training.network import MultiExitNetwork

MIN_SHARE = 0.5
"""Smallest share of the backbone's parameters in a file; below it, the file belongs to another network."""
TIMM_PREFIX = "backbone.model.model."
"""Prefix of the parameters of a timm backbone, which timm's own files lack."""


def load_pretrained(network: MultiExitNetwork, path: Path) -> str:
    """Load the tensors of a file that match the network's by name and shape; return a summary of them.

    The file is a checkpoint of this project, or weights as timm publishes them, `.safetensors` or `.pth`. Heads
    for other classes keep their initial weights.

    Raises:
        CheckpointError: the file is missing, cannot be read, or belongs to another network.
    """
    weights = _read(path)
    expected = network.state_dict()
    matching = {}
    for name, tensor in expected.items():
        candidate = weights.get(name, weights.get(name.removeprefix(TIMM_PREFIX)))
        if candidate is not None and candidate.shape == tensor.shape:
            matching[name] = candidate
    backbone = [name for name, _ in network.named_parameters() if name.startswith("backbone.")]
    share = sum(name in matching for name in backbone) / len(backbone)
    if share < MIN_SHARE:
        raise CheckpointError(
            f"{path} holds {share:.0%} of the backbone's parameters by name and shape; "
            "choose a file with weights of this backbone"
        )
    network.load_state_dict(matching, strict=False)
    return (
        f"loaded {path}: {share:.0%} of the backbone's parameters and {len(matching)} of {len(expected)} tensors in all"
    )


def _read(path: Path) -> dict[str, Tensor]:
    """Return the named tensors in a file.

    Raises:
        CheckpointError: the file is missing or cannot be read.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file of weights at {path}; choose a local .pt, .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # zip, pickle, header and runtime errors, depending on the format and the damage
        raise CheckpointError(f"{path} cannot be read as weights ({type(error).__name__}: {error})") from error
    for key in ("weights", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = content.items() if isinstance(content, dict) else ()
    return {name: tensor for name, tensor in tensors if isinstance(tensor, Tensor)}
