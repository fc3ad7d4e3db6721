"""Backbones of timm, such as `timm:mobilenetv3_small_100`, with exits after chosen feature stages.

`timm:NAME` has exits after the model's last three feature stages, `timm:NAME:1,3,4` after stages 1, 3 and 4. timm and
the torchvision it needs are installed with the extra `timm`.
"""

import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from edge.errors import CheckpointError
from edge.training.network import AttentionHead, Backbone, MultiExitNetwork

PREFIX = "timm:"
TORCHVISION_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""Operators that torchvision describes to torch when it is imported, and timm does not use."""


class Features(Backbone):
    """A timm model as a backbone: each selected feature stage has one output tensor."""

    def __init__(self, name: str, channels: int, stages: Sequence[int], *, only_last: bool = False) -> None:
        """Create the model with random weights, up to the last of the stages.

        Raises:
            CheckpointError: timm is not installed, does not have the model, or the model does not have the stages.
        """
        super().__init__()
        self._name, self._channels, self._stages, self._only_last = name, channels, stages, only_last
        self.model = _create_model(name, channels, stages)
        self.widths: list[int] = _feature_info(self.model).channels()

    def forward(self, image: Tensor) -> list[tuple[Tensor, ...]]:
        """Return each stage's features."""
        features: list[tuple[Tensor, ...]] = [(tensor,) for tensor in self.model(image)]
        return features[-1:] if self._only_last else features

    def truncated(self, stage: int) -> "Features":
        """Return the model up to this stage, with a copy of its weights."""
        truncated = Features(self._name, self._channels, self._stages[: stage + 1], only_last=True)
        truncated.model.load_state_dict(self.model.state_dict(), strict=False)
        return truncated.train(self.training)


def build_timm(backbone: str, channels: int, classes: int) -> MultiExitNetwork:
    """Build the network `timm:NAME` or `timm:NAME:STAGES`.

    Raises:
        CheckpointError: the stages are invalid, timm is not installed, or does not have the model.
    """
    name, _, stage_list = backbone.removeprefix(PREFIX).partition(":")
    stages = _parse_stages(backbone, stage_list) if stage_list else _last_three(name, channels)
    features = Features(name, channels, stages)
    heads = [AttentionHead(width, classes, grid=2) for width in features.widths[:-1]]
    return MultiExitNetwork(features, [*heads, AttentionHead(features.widths[-1], classes)])


def _parse_stages(backbone: str, stage_list: str) -> list[int]:
    numbers = stage_list.split(",")
    stages = [int(number) for number in numbers if number.isdecimal()]
    if len(stages) != len(numbers) or stages != sorted(set(stages)) or len(stages) < 2:
        raise CheckpointError(
            f"invalid feature stages in {backbone!r}; list two or more stages in ascending order, "
            "as in timm:resnet18:1,2,4"
        )
    return stages


def _last_three(name: str, channels: int) -> list[int]:
    count = len(_feature_info(_create_model(name, channels, None)))
    return list(range(count))[-3:]


def published_weights(backbone: str) -> dict[str, Tensor]:
    """Return the weights that timm publishes for a model, downloaded once and kept in its cache.

    Raises:
        CheckpointError: the backbone is not timm's, timm publishes none, or they cannot be downloaded.
    """
    name = model_name(backbone)
    if not backbone.startswith(PREFIX):
        raise CheckpointError(
            f"timm publishes no weights for {backbone!r}; give --pretrained a file, or choose a {PREFIX}NAME backbone"
        )
    try:
        weights: dict[str, Tensor] = create_model(name, pretrained=True).state_dict()
    except Exception as error:  # from huggingface_hub, its HTTP library, the file system, or timm
        raise CheckpointError(
            f"timm's weights of {name!r} cannot be loaded ({type(error).__name__}: {error}); they are downloaded from "
            "huggingface.co: check the network, or give --pretrained a file that you copied here"
        ) from error
    return weights


def native_size(network: MultiExitNetwork) -> int | None:
    """Return a timm model's native image size; None for other backbones."""
    model = getattr(network.backbone, "model", None)
    configuration = getattr(getattr(model, "model", model), "pretrained_cfg", None) or {}
    size = configuration.get("input_size")
    return int(size[-1]) if size else None


def model_name(backbone: str) -> str:
    """Return timm's name of the model in `timm:NAME` or `timm:NAME:STAGES`."""
    return backbone.removeprefix(PREFIX).partition(":")[0]


def create_model(name: str, **options: Any) -> Any:
    """Return one of timm's whole models.

    Raises:
        CheckpointError: timm is not installed.
    """
    return import_timm().create_model(name, **options)


def import_timm() -> Any:
    """Import timm, also where torchvision is of another build than torch.

    Such a torchvision, as for CUDA beside a torch for the CPU, has no operators and cannot be imported. timm imports
    it, but uses none of its operators: they are declared here.

    Raises:
        CheckpointError: timm is not installed, or cannot be imported.
    """
    try:
        try:
            return import_module("timm")
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            declare_operators()
            return import_module("timm")
    except (ImportError, RuntimeError) as error:
        raise CheckpointError(
            f"timm cannot be used here ({error}); install it with a torchvision that fits this torch "
            f"{torch.__version__}: pip install timm torchvision"
        ) from error


@cache  # the declarations end with the library object
def declare_operators() -> torch.library.Library:
    """Declare torchvision's operators, and forget the modules that were imported without them."""
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in TORCHVISION_OPERATORS:
        library.define(schema)  # type: ignore[no-untyped-call]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]
    return library


def _create_model(name: str, channels: int, stages: Sequence[int] | None) -> nn.Module:
    timm = import_timm()
    if not timm.is_model(name):
        similar = ", ".join(timm.list_models(f"*{name[:8]}*")[:5]) or "see timm.list_models()"
        raise CheckpointError(f"timm {timm.__version__} has no model {name!r}; similar names: {similar}")
    try:
        model: nn.Module = timm.create_model(
            name, features_only=True, feature_cls="getter", in_chans=channels, out_indices=stages
        )
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"timm's {name} does not have the feature stages {stages}: {error or type(error).__name__}; "
            f"`timm.create_model({name!r}, features_only=True).feature_info` lists its stages"
        ) from error
    return model


def _feature_info(model: nn.Module) -> Any:
    return model.feature_info
