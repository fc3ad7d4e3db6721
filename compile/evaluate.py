"""Outputs of an ONNX model, computed exactly as its graph is written."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from compile.graph import MultiExitGraph
from edge.bundle import tensors
from edge.errors import CheckpointError
from edge.training.data import BATCH_BYTES

MAX_BATCH_SIZE = 100


@contextmanager
def _onnxruntime_errors(action: str) -> Iterator[None]:
    """Turn ONNX Runtime's exceptions into a CheckpointError with its reason in one line."""
    try:
        yield
    except Exception as error:  # ONNX Runtime's own classes have no common base but Exception
        raise CheckpointError(
            f"ONNX Runtime {onnxruntime.__version__} cannot {action} this network ({' '.join(str(error).split())}); "
            "compile another precision, or train another backbone"
        ) from error


class Evaluator:
    """A model in ONNX Runtime without graph optimisations, for any batch size."""

    def __init__(self, model: ModelProto) -> None:
        """Create a session.

        Raises:
            CheckpointError: ONNX Runtime cannot load the model.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # An optimiser may fuse nodes on both sides of a cut, and then round differently than the segments do.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        with _onnxruntime_errors("load"):
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]

    def __call__(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name; `values` must contain all inputs and may contain more.

        Raises:
            CheckpointError: ONNX Runtime cannot compute them.
        """
        with _onnxruntime_errors("run"):
            outputs = self._session.run(self._outputs, {name: values[name] for name in self._inputs})
        return dict(zip(self._outputs, outputs, strict=True))


def compute_logits(graph: MultiExitGraph, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits of every exit, shape (exits, samples, classes), computed in batches.

    Args:
        graph: A graph without decisions.
        images: Network input, shape (samples, channels, height, width).
    """
    evaluate, batch_size = Evaluator(graph.model), max(1, min(MAX_BATCH_SIZE, BATCH_BYTES // images[0].nbytes))
    batches = []
    for start in range(0, len(images), batch_size):
        outputs = evaluate({tensors.IMAGE: images[start : start + batch_size]})
        batches.append(np.stack([outputs[tensors.logits(k)] for k in range(graph.exits)]))
    return np.concatenate(batches, axis=1)
