"""The precisions that a network can be compiled to."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from calibration.samples import stratified
from compile.auto import SelectionData, fastest_per_segment
from compile.fp16 import fp32_nodes, to_fp16
from compile.graph import CONVOLUTIONS, IndexedGraph, MultiExitGraph
from compile.quantise import fp32_convolutions
from compile.sensitive_layers import quantise_keeping_predictions
from compile.trained_model import TrainedModel
from edge.console import status

PRECISIONS = ("fp32", "fp16", "int8", "auto")
"""`auto` chooses one of the others for each segment."""
DEFAULT_PRECISIONS = PRECISIONS[:3]
SELECTION_SAMPLES = {"int8": 500, "auto": 1000}
"""Images on which predictions are compared with fp32."""
NOT_QUANTISED = "ModelOpt does not quantise it, most often because it has fewer than 16 channels"


@dataclass(frozen=True, slots=True)
class Converted:
    """The multi-exit graph in one precision."""

    graph: MultiExitGraph
    notes: tuple[str, ...]
    """Sentences about nodes that stay fp32, or about the precision of each segment, with the reasons."""


def convert(precision: str, graph: MultiExitGraph, trained: TrainedModel, method: str) -> Converted:
    """Convert a graph to one of `PRECISIONS`.

    Args:
        precision: The target.
        graph: The multi-exit graph in fp32.
        trained: Its calibration split provides activation ranges. Predictions of int8 and `auto` are compared with
            fp32 on its validation split, and those of int8 on the calibration split if that is small.
        method: ModelOpt's calibration method, one of `compile.quantise.METHODS`.

    Raises:
        CheckpointError: a value is too large for fp16, or the method is unknown.
        DataError: there are too few calibration images.
    """
    if precision == "fp32":
        return Converted(graph, ())
    if precision == "fp16":
        split = trained.splits["calibration"]
        with status(f"fp16: checking {len(split)} images for overflow"):
            return Converted(to_fp16(graph, trained.each_input(split)), _fp16_notes(graph))
    calibration = calibration_inputs(trained)
    indices = trained.sample_indices("validation", SELECTION_SAMPLES[precision])
    images = trained.inputs(indices)
    if precision == "int8":
        compared = np.concatenate([images, calibration[: SELECTION_SAMPLES[precision] - len(images)]])
        int8, sensitive = quantise_keeping_predictions(graph, calibration, compared, method)
        return Converted(int8, int8_notes(graph, int8, sensitive))
    selection = SelectionData(images, trained.images.labels[indices], calibration, method)
    with status(f"auto: comparing precisions on {len(images)} images"):
        return Converted(*fastest_per_segment(graph, selection))


def calibration_inputs(trained: TrainedModel) -> NDArray[np.float32]:
    """Return the calibration split as network input, classes in turn, shape (samples, channels, height, width).

    Raises:
        DataError: there are too few calibration images.
    """
    split, labels = trained.splits["calibration"], trained.images.labels
    return trained.inputs(stratified(split, labels, count=len(split), seed=trained.checkpoint.settings.seed))


def _fp16_notes(graph: MultiExitGraph) -> tuple[str, ...]:
    count = len(fp32_nodes(graph.model))
    return (f"LayerNormalization stays fp32 ({count}): its sum of squares can overflow fp16",) if count else ()


def int8_notes(
    graph: MultiExitGraph, int8: MultiExitGraph, sensitive: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """Return a sentence for each kind of convolution that is not quantised, with the names of their modules.

    Args:
        graph: The graph in fp32.
        int8: The quantised graph.
        sensitive: The reason for each convolution that changes predictions, by name of the node.
    """
    indexed, reasons = IndexedGraph(int8.model), {**fp32_convolutions(graph), **sensitive}
    modules = {node.name: node.input[1] for node in graph.model.graph.node if node.op_type in CONVOLUTIONS}
    names: dict[str, list[str]] = {}
    for node in indexed.nodes:
        if node.op_type in CONVOLUTIONS and not indexed.is_int8(node):
            name = modules[node.name].removeprefix("network.").removesuffix(".weight")
            names.setdefault(reasons.get(node.name, NOT_QUANTISED), []).append(name)
    return tuple(f"convolution stays fp32 ({', '.join(modules)}): {reason}" for reason, modules in names.items())
