"""What a network can be compiled to."""

from typing import NamedTuple

from onnx import ModelProto

from calibration.samples import stratified
from compile.auto import Judges, fastest_per_segment
from compile.graph import Graph
from compile.half import float_layers, to_fp16
from compile.material import Material
from compile.quantise import float_convolutions, quantise_int8
from edge.console import busy

PRECISIONS = ("fp32", "fp16", "int8", "auto")
"""`auto` chooses for each segment."""
USUAL = PRECISIONS[:3]
JUDGES = 1000


class Converted(NamedTuple):
    """The multi-exit graph in one precision, and what there is to say of it."""

    model: ModelProto
    notes: tuple[str, ...]


def in_precision(precision: str, whole: ModelProto, material: Material, method: str) -> Converted:
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
    split, seed = material.splits["calibration"], material.checkpoint.settings.seed
    if precision == "fp16":
        with busy(f"fp16: looking for overflow on {len(split)} images"):
            notes = tuple(f"{name} stays fp32: it sums squares over a whole map" for name in float_layers(whole))
            return Converted(to_fp16(whole, material.inputs(split)), notes)
    samples = material.inputs(stratified(split, material.images.labels, count=len(split), seed=seed))
    with busy(f"{precision}: measuring ranges on {len(samples)} images"):
        if precision == "int8":
            int8 = quantise_int8(whole, samples, method=method)
            return Converted(int8, _float_notes(whole, int8))
        chosen = material.some("validation", JUDGES)
        judges = Judges(material.inputs(chosen), material.images.labels[chosen], samples, method)
        return Converted(*fastest_per_segment(whole, judges))


def _float_notes(whole: ModelProto, int8: ModelProto) -> tuple[str, ...]:
    """Say of each convolution that was not quantised why not."""
    graph, reasons = Graph(int8), float_convolutions(whole)
    kept = [node.name for node in graph.nodes if node.op_type == "Conv" and not graph.is_int8(node)]
    narrow = "is left by ModelOpt, most often for having fewer than 16 channels"
    return tuple(f"{name} stays float: it {reasons.get(name, narrow)}" for name in kept)
