"""What a network can be compiled to."""

from typing import NamedTuple

from onnx import ModelProto

from calibration.samples import stratified
from compile.auto import SelectionData, fastest_per_segment
from compile.graph import Graph
from compile.half import float_layers, to_fp16
from compile.quantise import float_convolutions, quantise_int8
from compile.trained_model import TrainedModel
from edge.console import status

PRECISIONS = ("fp32", "fp16", "int8", "auto")
"""`auto` chooses for each segment."""
DEFAULT_PRECISIONS = PRECISIONS[:3]
JUDGES = 1000


class Converted(NamedTuple):
    """The multi-exit graph in one precision, and what there is to say of it."""

    model: ModelProto
    notes: tuple[str, ...]


def convert(precision: str, whole: ModelProto, trained: TrainedModel, method: str) -> Converted:
    """Return the graph in one of `PRECISIONS`.

    Args:
        precision: Which.
        whole: The multi-exit graph in fp32.
        material: Its calibration split shows what numbers there are to hold, its validation split judges `auto`.
        method: How int8 ranges are chosen: see `compile.quantise`.

    Raises:
        CheckpointError: a number is too large for fp16, or there is no such method.
        DataError: there are too few calibration images.
    """
    if precision == "fp32":
        return Converted(whole, ())
    split, seed = trained.splits["calibration"], trained.checkpoint.settings.seed
    if precision == "fp16":
        with status(f"fp16: looking for overflow on {len(split)} images"):
            notes = tuple(f"{name} stays fp32: it sums squares over a whole map" for name in float_layers(whole))
            return Converted(to_fp16(whole, trained.inputs(split)), notes)
    samples = trained.inputs(stratified(split, trained.images.labels, count=len(split), seed=seed))
    with status(f"{precision}: measuring ranges on {len(samples)} images"):
        if precision == "int8":
            int8 = quantise_int8(whole, samples, method=method)
            return Converted(int8, _float_notes(whole, int8))
        chosen = trained.some("validation", JUDGES)
        selection = SelectionData(trained.inputs(chosen), trained.images.labels[chosen], samples, method)
        return Converted(*fastest_per_segment(whole, selection))


def _float_notes(whole: ModelProto, int8: ModelProto) -> tuple[str, ...]:
    """Say of each convolution that was not quantised why not."""
    graph, reasons = Graph(int8), float_convolutions(whole)
    kept = [node.name for node in graph.nodes if node.op_type == "Conv" and not graph.is_int8(node)]
    narrow = "is left by ModelOpt, most often for having fewer than 16 channels"
    return tuple(f"{name} stays float: it {reasons.get(name, narrow)}" for name in kept)
