"""The precisions that a network can be compiled to."""

from dataclasses import dataclass

from calibration.samples import stratified
from compile.auto import SelectionData, fastest_per_segment
from compile.fp16 import fp32_nodes, to_fp16
from compile.graph import IndexedGraph, MultiExitGraph
from compile.quantise import fp32_convolutions, quantise_int8
from compile.trained_model import TrainedModel
from edge.console import status

PRECISIONS = ("fp32", "fp16", "int8", "auto")
"""`auto` chooses one of the others for each segment."""
DEFAULT_PRECISIONS = PRECISIONS[:3]
SELECTION_SAMPLES = 1000
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
        trained: Its calibration split provides activation ranges, its validation split is used to compare the
            precisions of `auto`.
        method: ModelOpt's calibration method, one of `compile.quantise.METHODS`.

    Raises:
        CheckpointError: a value is too large for fp16, or the method is unknown.
        DataError: there are too few calibration images.
    """
    if precision == "fp32":
        return Converted(graph, ())
    split, seed = trained.splits["calibration"], trained.checkpoint.settings.seed
    if precision == "fp16":
        with status(f"fp16: checking {len(split)} images for overflow"):
            return Converted(to_fp16(graph, trained.inputs(split)), _fp16_notes(graph))
    calibration = trained.inputs(stratified(split, trained.images.labels, count=len(split), seed=seed))
    with status(f"{precision}: measuring activation ranges on {len(calibration)} images"):
        if precision == "int8":
            int8 = quantise_int8(graph, calibration, method=method)
            return Converted(int8, _int8_notes(graph, int8))
        indices = trained.sample_indices("validation", SELECTION_SAMPLES)
        images, labels = trained.inputs(indices), trained.images.labels[indices]
        return Converted(*fastest_per_segment(graph, SelectionData(images, labels, calibration, method)))


def _fp16_notes(graph: MultiExitGraph) -> tuple[str, ...]:
    count = len(fp32_nodes(graph.model))
    return (f"LayerNormalization stays fp32 ({count}): its sum of squares can overflow fp16",) if count else ()


def _int8_notes(graph: MultiExitGraph, int8: MultiExitGraph) -> tuple[str, ...]:
    """Return a sentence for each kind of convolution that was not quantised, with the names of their modules."""
    indexed, reasons = IndexedGraph(int8.model), fp32_convolutions(graph)
    modules = {node.name: node.input[1] for node in graph.model.graph.node if node.op_type == "Conv"}
    names: dict[str, list[str]] = {}
    for node in indexed.nodes:
        if node.op_type == "Conv" and not indexed.is_int8(node):
            name = modules[node.name].removeprefix("network.").removesuffix(".weight")
            names.setdefault(reasons.get(node.name, NOT_QUANTISED), []).append(name)
    return tuple(f"convolution stays fp32 ({', '.join(modules)}): {reason}" for reason, modules in names.items())
