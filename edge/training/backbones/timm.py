"""Any backbone of timm that can hand on features, such as `timm:mobilenetv3_small_100`, with exits where you want them.

`timm:NAME` puts exits after the last three of the model's feature stages, `timm:NAME:1,3,4` after those. timm needs
torchvision; neither is installed unless you ask for it, with the extra `timm`.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from edge.errors import CheckpointError
from edge.training.network import AttentionHead, Backbone, MultiExitNetwork

PREFIX = "timm:"


class Features(Backbone):
    """A timm model as a backbone: each chosen feature stage hands on one tensor."""

    def __init__(self, name: str, channels: int, stages: Sequence[int], *, only_last: bool = False) -> None:
        """Make the model with fresh weights, without what comes after the last of the stages.

        Raises:
            CheckpointError: timm is not installed, knows no such model, or the model has no such stages.
        """
        super().__init__()
        self._name, self._channels, self._stages, self._only_last = name, channels, stages, only_last
        self.model = _created(name, channels, stages)
        self.widths: list[int] = _feature_info(self.model).channels()

    def forward(self, image: Tensor) -> list[tuple[Tensor, ...]]:
        """Return each stage's features."""
        features: list[tuple[Tensor, ...]] = [(one,) for one in self.model(image)]
        return features[-1:] if self._only_last else features

    def truncated(self, stage: int) -> "Features":
        """Return the model up to this stage, with the same weights."""
        shorter = Features(self._name, self._channels, self._stages[: stage + 1], only_last=True)
        shorter.model.load_state_dict(self.model.state_dict(), strict=False)
        return shorter.train(self.training)


def build_timm(backbone: str, channels: int, classes: int) -> MultiExitNetwork:
    """Return the network for `timm:NAME` or `timm:NAME:STAGES`.

    Raises:
        CheckpointError: the text is no such name, timm is not installed, or does not know the model.
    """
    name, _, chosen = backbone.removeprefix(PREFIX).partition(":")
    stages = _chosen_stages(backbone, chosen) if chosen else _last_three(name, channels)
    features = Features(name, channels, stages)
    heads = [AttentionHead(width, classes, grid=2) for width in features.widths[:-1]]
    return MultiExitNetwork(features, [*heads, AttentionHead(features.widths[-1], classes)])


def _chosen_stages(backbone: str, chosen: str) -> list[int]:
    numbers = chosen.split(",")
    stages = [int(number) for number in numbers if number.isdecimal()]
    if len(stages) != len(numbers) or stages != sorted(set(stages)) or len(stages) < 2:
        raise CheckpointError(
            f"{backbone!r} should end in the feature stages to put exits after, two or more in rising order, "
            "as in timm:resnet18:1,2,4"
        )
    return stages


def _last_three(name: str, channels: int) -> list[int]:
    count = len(_feature_info(_created(name, channels, None)))
    return list(range(count))[-3:]


def _created(name: str, channels: int, stages: Sequence[int] | None) -> nn.Module:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # a torchvision of another build than torch fails with the latter
        raise CheckpointError(
            f"timm cannot be used here ({error}); install it with a torchvision that fits this torch: "
            "pip install timm torchvision"
        ) from error
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:8]}*")[:5]) or "see timm.list_models()"
        raise CheckpointError(f"timm {timm.__version__} has no model {name!r}; near it: {near}")
    try:
        model: nn.Module = timm.create_model(
            name, features_only=True, feature_cls="getter", in_chans=channels, out_indices=stages
        )
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"timm's {name} cannot hand on features of stages {stages}: {error or type(error).__name__}; "
            f"`timm.create_model({name!r}, features_only=True).feature_info` says which it has"
        ) from error
    return model


def _feature_info(model: nn.Module) -> Any:
    return model.feature_info
