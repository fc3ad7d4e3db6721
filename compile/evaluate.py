"""Outputs of an ONNX model, computed exactly as its graph is written."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from compile.graph import MultiExitGraph
from edge.bundle import tensors

BATCH_SIZE = 100


class Evaluator:
    """A model in ONNX Runtime without graph optimisations, for any batch size."""

    def __init__(self, model: ModelProto) -> None:
        """Create a session."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # An optimiser may fuse nodes on both sides of a cut, and then round differently than the segments do.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]

    def __call__(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name; `values` must contain all inputs and may contain more."""
        outputs = self._session.run(self._outputs, {name: values[name] for name in self._inputs})
        return dict(zip(self._outputs, outputs, strict=True))


def compute_logits(graph: MultiExitGraph, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits of every exit, shape (exits, samples, classes).

    Args:
        graph: A graph without decisions.
        images: Network input, shape (samples, channels, height, width).
    """
    evaluate = Evaluator(graph.model)
    batches = []
    for start in range(0, len(images), BATCH_SIZE):
        outputs = evaluate({tensors.IMAGE: images[start : start + BATCH_SIZE]})
        batches.append(np.stack([outputs[tensors.logits(k)] for k in range(graph.exits)]))
    return np.concatenate(batches, axis=1)
