"""Backbones of timm, such as `timm:mobilenetv3_small_100`, with exits after chosen feature stages.

`timm:NAME` has exits after the model's last three feature stages, `timm:NAME:1,3,4` after stages 1, 3 and 4. timm and
the torchvision it needs are installed with the extra `timm`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edge.errors import CheckpointError
from edge.training.network import AttentionHead, Backbone, MultiExitNetwork

PREFIX = "timm:"


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
    name = backbone.removeprefix(PREFIX).partition(":")[0]
    if not backbone.startswith(PREFIX):
        raise CheckpointError(
            f"timm publishes no weights for {backbone!r}; give --pretrained a file, or choose a {PREFIX}NAME backbone"
        )
    timm = _import_timm()
    try:
        weights: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
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


def _import_timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise CheckpointError(
            f"timm cannot be used here ({error}); install it with a torchvision that fits this torch: "
            "pip install timm torchvision"
        ) from error
    except RuntimeError as error:  # a torchvision of another build than torch
        build = torch.__version__.partition("+")[2] or "cpu"
        raise CheckpointError(
            f"timm cannot be used here ({error}); install a torchvision that fits this torch {torch.__version__}: "
            f"pip install --force-reinstall --no-deps torchvision --index-url https://download.pytorch.org/whl/{build}"
        ) from error
    return timm


def _create_model(name: str, channels: int, stages: Sequence[int] | None) -> nn.Module:
    timm = _import_timm()
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
