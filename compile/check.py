"""The proof, at every compile, that slicing changed no number."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from compile.cut import Segment
from edge.errors import CheckpointError


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
    for image in images:
        tensors: dict[str, NDArray[Any]] = {"image": image[None], **thresholds}
        expected = evaluate_whole(tensors)
        for index, segment in enumerate(segments):
            tensors |= evaluate[index](tensors)
            for name in segment.outputs:
                if not name.startswith("cut_") and not np.array_equal(tensors[name], expected[name], equal_nan=True):
                    raise CheckpointError(
                        f"segment {index} computes another {name} than the whole network; this bundle was not written"
                    )
