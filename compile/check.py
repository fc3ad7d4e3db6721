"""The proof, at every compile, that slicing changed no number."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from compile.cut import Segment
from edge.errors import CheckpointError

HALF_ROUNDING = 0.02
"""Of the largest logit: some ten roundings of 1 / 2048 on the way, each of which may move an int8 value by a step."""


class Evaluator:
    """A model in ONNX Runtime as it is written, for any batch size."""

    def __init__(self, model: ModelProto) -> None:
        """Open a session."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # As the graph is written: an optimiser may fuse across what is a border between segments, and round elsewhere.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]

    def __call__(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name; `tensors` may hold more than the inputs."""
        values = self._session.run(self._outputs, {name: tensors[name] for name in self._inputs})
        return dict(zip(self._outputs, values, strict=True))


def assert_chain_equals_whole(whole: ModelProto, segments: Sequence[Segment], images: NDArray[np.float32]) -> None:
    """Check that the segments in a row compute, bit for bit, what the multi-exit graph computes.

    In fp16 they may differ by rounding: ONNX Runtime computes it in fp32 on a CPU, and only what crosses a border
    between segments is rounded to fp16 for certain.

    Args:
        whole: The graph that was cut.
        segments: What it was cut into.
        images: Samples as network input, shape (samples, channels, height, width).

    Raises:
        CheckpointError: an output differs.
    """
    thresholds = {f"threshold_{k}": np.array([0.5], dtype=np.float32) for k in range(len(segments) - 1)}
    evaluate_whole = Evaluator(whole)
    evaluate = [Evaluator(segment.model) for segment in segments]
    is_half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in whole.graph.initializer)
    within = HALF_ROUNDING if is_half else 0.0
    compared = ("logits_",) if is_half else ("logits_", "attention_", "confidence_", "label_", "exit_")
    for image in images:
        tensors: dict[str, NDArray[Any]] = {"image": image[None], **thresholds}
        expected = evaluate_whole(tensors)
        for index, segment in enumerate(segments):
            tensors |= evaluate[index](tensors)
            for name in segment.outputs:
                if name.startswith(compared) and not _alike(tensors[name], expected[name], within):
                    raise CheckpointError(
                        f"segment {index} computes another {name} than the whole network; this bundle was not written"
                    )


def _alike(found: NDArray[Any], expected: NDArray[Any], within: float) -> bool:
    if within:
        largest = np.abs(expected, where=np.isfinite(expected), out=np.ones_like(expected)).max()
        return np.allclose(found, expected, rtol=0, atol=within * max(1.0, float(largest)), equal_nan=True)
    return np.array_equal(found, expected, equal_nan=True)
