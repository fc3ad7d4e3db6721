"""Weights from elsewhere, to start a training from."""

from pathlib import Path

import torch
from torch import Tensor

from edge.errors import CheckpointError
from edge.training.network import MultiExitNetwork

FEWEST = 0.5
"""Share of the backbone's parameters a file must hold; with fewer it is a file of another network."""


def load_pretrained(network: MultiExitNetwork, path: Path) -> str:
    """Take over what a file holds of a network's weights, name and shape alike, and return how much that was.

    The file is a checkpoint of this project, or weights as timm publishes them, `.safetensors` or `.pth`. Heads
    for other classes stay fresh.

    Raises:
        CheckpointError: the file is missing, cannot be read, or belongs to another network.
    """
    found = _read(path)
    own = network.state_dict()
    taken = {}
    for name, tensor in own.items():
        candidate = found.get(name, found.get(name.removeprefix("backbone.model.model.")))
        if candidate is not None and candidate.shape == tensor.shape:
            taken[name] = candidate
    backbone = [name for name, _ in network.named_parameters() if name.startswith("backbone.")]
    share = sum(name in taken for name in backbone) / len(backbone)
    if share < FEWEST:
        raise CheckpointError(
            f"{path} holds {share:.0%} of the backbone's parameters by name and shape; "
            "name a file of weights of this very backbone"
        )
    network.load_state_dict(taken, strict=False)
    return f"{path} gave {share:.0%} of the backbone's parameters and {len(taken)} of {len(own)} tensors in all"


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"there is no file of weights at {path}")
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
