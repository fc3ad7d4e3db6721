"""Early exits as user code writes them: a loop over stages in torch or ONNX Runtime, and the library earlyon."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.bundle import tensors
from edge.bundle.bundle import Bundle
from edge.bundle.manifest import InputSpec
from edge.frames.base import Frame
from edge.frames.preprocess import preprocess_for
from edge.training.network import MultiExitNetwork

Predict = Callable[[Frame], int]
"""Returns the label of a frame, preprocessing included."""


class StageWithHead(nn.Module):
    """A stage and its head, from one tensor to features and logits."""

    def __init__(self, stage: nn.Module, head: nn.Module) -> None:
        """Join them."""
        super().__init__()
        self.trunk, self.head = stage, head

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return features for the next stage, and logits."""
        features = self.trunk(features)
        return features, self.head(features)[0]


def torch_stages(network: MultiExitNetwork) -> list[nn.Module]:
    """Return the stages of a network whose stages are consecutive modules, each with its head."""
    stages: Any = network.backbone.stages
    return [StageWithHead(*pair).eval() for pair in zip(stages, network.heads, strict=True)]


@torch.inference_mode()
def compiled_stages(stages: Sequence[nn.Module], spec: InputSpec) -> list[Callable[[Tensor], Any]]:
    """Return stages compiled by `torch.compile`, which does so when each is first called."""
    compiled: list[Callable[[Tensor], Any]] = [torch.compile(stage) for stage in stages]
    features = torch.zeros(1, *spec.shape)
    for stage in compiled:
        features, _ = stage(features)
    return compiled


def torch_loop(stages: Sequence[Callable[[Tensor], Any]], thresholds: Sequence[float], spec: InputSpec) -> Predict:
    """Return a loop in torch that checks each confidence on the host."""
    image = _image_of(spec)

    @torch.inference_mode()
    def predict(frame: Frame) -> int:
        features = torch.from_numpy(image(frame))
        for stage, threshold in zip(stages, [*thresholds, 0.0], strict=True):
            features, logits = stage(features)
            confidence, label = logits.softmax(dim=-1).max(dim=-1)
            if confidence.item() >= threshold:
                break
        return int(label.item())

    return predict


def session_loop(bundle: Bundle, precision: str) -> Predict:
    """Return a loop that calls `session.run` for each segment of a bundle."""
    spec = bundle.precision(precision)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    paths = [str(bundle.path / segment.file) for segment in spec.segments]
    sessions = [onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in paths]
    steps = list(zip(spec.segments, sessions, strict=True))
    image = _image_of(bundle.manifest.input)
    known = {
        tensors.threshold(k): np.array([value], dtype=np.float32) for k, value in enumerate(spec.thresholds.values)
    }

    def predict(frame: Frame) -> int:
        values: dict[str, Any] = {tensors.IMAGE: image(frame), **known}
        for segment, session in steps:
            names = [output.name for output in segment.outputs]
            outputs = session.run(names, {tensor.name: values[tensor.name] for tensor in segment.inputs})
            values |= zip(names, outputs, strict=True)
            if values.get(tensors.exit_flag(segment.exit_index), [True])[0]:
                break
        return int(values[tensors.label(segment.exit_index)][0])

    return predict


def earlyon_staged(network: MultiExitNetwork, thresholds: Sequence[float], bundle: Bundle) -> Predict:
    """Return the staged runtime of earlyon."""
    from earlyon import EarlyExitConfig, ExitPoint
    from earlyon.staged import StagedModel, StageSpec

    names = [f"exit_{k}" for k in range(len(thresholds))]
    config = EarlyExitConfig(
        backbone="resnet18",  # unused: the stages are given
        num_classes=len(bundle.manifest.labels),
        exit_points=[ExitPoint(name, name, 1) for name in names],
        loss_weights=[1.0] * (len(names) + 1),
        confidence_thresholds=list(thresholds),
        entropy_thresholds=[0.0] * len(names),
        enabled_exits=[True] * len(names),
    )
    specs = [StageSpec(index, name, ()) for index, name in enumerate([*names, "final"])]
    model = StagedModel(torch_stages(network), specs, config, dict.fromkeys(names, 0.0)).eval()
    image = _image_of(bundle.manifest.input)
    return lambda frame: int(model.infer(torch.from_numpy(image(frame))).prediction.argmax())


def _image_of(spec: InputSpec) -> Callable[[Frame], NDArray[np.float32]]:
    """Return the preprocessing of a frame into a buffer of shape (1, channels, height, width)."""
    preprocess, buffer = preprocess_for(spec), np.empty((1, *spec.shape), dtype=np.float32)

    def image(frame: Frame) -> NDArray[np.float32]:
        preprocess(frame, buffer[0])
        return buffer

    return image
