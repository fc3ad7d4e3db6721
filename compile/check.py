"""Check that the segments compute the outputs of the whole graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from compile.cut import Segment
from compile.evaluate import Evaluator
from compile.graph import MultiExitGraph
from edge.bundle import tensors
from edge.errors import CheckpointError

FP16_ROUNDING = 0.02
"""Tolerance relative to the largest logit: about ten roundings of 1 / 2048, which may each change an int8 value."""


def assert_chain_equals_whole(graph: MultiExitGraph, segments: Sequence[Segment], images: NDArray[np.float32]) -> None:
    """Check that the chain of segments computes, bit for bit, the outputs of the whole graph.

    In fp16 only the logits are compared, and they may differ by rounding: ONNX Runtime computes fp16 in fp32 on a CPU,
    and only the tensors between segments are certain to be rounded to fp16.

    Args:
        graph: The graph with decisions that was cut.
        segments: All of its segments.
        images: Samples as network input, shape (samples, channels, height, width).

    Raises:
        CheckpointError: an output differs.
    """
    has_fp16 = _has_fp16(graph.model)
    compared = [(tensors.logits(k),) if has_fp16 else graph.exit_outputs(k) for k in range(graph.exits)]
    tolerance = FP16_ROUNDING if has_fp16 else 0.0
    thresholds = {tensors.threshold(k): np.array([0.5], dtype=np.float32) for k in range(graph.exits - 1)}
    evaluate_graph = Evaluator(graph.model)
    evaluate_segments = [Evaluator(segment.model) for segment in segments]
    for image in images:
        values: dict[str, NDArray[Any]] = {tensors.IMAGE: image[None], **thresholds}
        expected = evaluate_graph(values)
        for k, evaluate in enumerate(evaluate_segments):
            values |= evaluate(values)
            for name in compared[k]:
                if not _equal(values[name], expected[name], tolerance):
                    raise CheckpointError(
                        f"{name} of segment {k} differs from {name} of the whole graph; "
                        "the bundle was not written: report this with the checkpoint"
                    )


def _has_fp16(model: ModelProto) -> bool:
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)


def _equal(values: NDArray[Any], expected: NDArray[Any], tolerance: float) -> bool:
    """Compare arrays; the tolerance is relative to the largest finite value, and NaN equals NaN."""
    if not tolerance:
        return np.array_equal(values, expected, equal_nan=True)
    largest = np.abs(expected, where=np.isfinite(expected), out=np.ones_like(expected)).max()
    return np.allclose(values, expected, rtol=0, atol=tolerance * max(1.0, float(largest)), equal_nan=True)
