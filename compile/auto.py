"""Each segment in the fastest precision that keeps the answers: int8 where it can, else fp16, else fp32."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from compile.check import Evaluator
from compile.cut import cut_segments
from compile.decision_ops import add_decisions
from compile.graph import exit_count
from compile.half import to_fp16
from compile.quantise import quantise_int8
from edge.errors import CheckpointError

TOP1_AGREEMENT, ACCURACY_LOSS = 0.993, 0.003
"""What int8 must keep at every exit on the validation images, against fp32."""
BATCH = 100


@dataclass(frozen=True, slots=True)
class Judges:
    """Images that decide whether a precision will do."""

    images: NDArray[np.float32]
    """As network input, shape (samples, channels, height, width)."""
    labels: NDArray[np.int64]
    samples: NDArray[np.float32]
    """Calibration images, in the same form: ranges are measured on them."""
    method: str = "entropy"
    """How int8 ranges are chosen."""


def fastest_per_segment(whole: ModelProto, judges: Judges) -> tuple[ModelProto, tuple[str, ...]]:
    """Return the graph with each segment in its precision, and a sentence about each choice.

    All segments start in int8. While an exit loses more than it may, the segment up to it that hurts this exit most
    when it alone is in int8 is taken out.
    """
    nodes = segment_nodes(whole)
    expected = logits(whole, judges.images)
    choices, reasons = ["int8"] * len(nodes), ["int8 keeps every exit's answers"] * len(nodes)
    while True:
        model = mixed(whole, nodes, choices, judges)
        failing = first_failing(logits(model, judges.images), expected, judges.labels)
        candidates = [
            k for k, choice in enumerate(choices) if choice == "int8" and failing is not None and k <= failing
        ]
        if failing is None or not candidates:
            return model, tuple(f"segment {k}: {c}, {r}" for k, (c, r) in enumerate(zip(choices, reasons, strict=True)))
        harm = {k: _harm_alone(whole, nodes, k, failing, expected, judges) for k in candidates}
        worst = max(harm, key=lambda k: harm[k])
        choices[worst], reasons[worst] = _next_best(whole, nodes, choices, worst, judges)
        reasons[worst] += f"; int8 in it alone changes {harm[worst]:.2%} of the answers at exit {failing}"


def segment_nodes(whole: ModelProto) -> list[set[str]]:
    """Return the names of each segment's nodes."""
    segments = cut_segments(add_decisions(whole))
    return [{node.name for node in segment.model.graph.node} for segment in segments]


def mixed(whole: ModelProto, nodes: Sequence[set[str]], choices: Sequence[str], judges: Judges) -> ModelProto:
    """Return the graph with each segment's nodes in the precision chosen for it."""
    parts = {precision: {n for k, c in enumerate(choices) if c == precision for n in nodes[k]} for precision in choices}
    model = whole
    if "int8" in parts:
        left_out = set().union(*nodes) - parts["int8"]
        model = quantise_int8(whole, judges.samples, method=judges.method, left_out=left_out)
    if "fp16" in parts:
        model = to_fp16(model, judges.samples, parts["fp16"])
    return model


def logits(model: ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what every exit says of images, shape (exits, samples, classes)."""
    evaluate, exits = Evaluator(model), range(exit_count(model))
    parts = []
    for start in range(0, len(images), BATCH):
        found = evaluate({"image": images[start : start + BATCH]})
        parts.append(np.stack([found[f"logits_{k}"] for k in exits]))
    return np.concatenate(parts, axis=1)


def first_failing(found: NDArray[np.float32], expected: NDArray[np.float32], labels: NDArray[np.int64]) -> int | None:
    """Return the first exit whose answers are not kept."""
    answer, wanted = found.argmax(axis=-1), expected.argmax(axis=-1)
    for k in range(len(found)):
        loss = (wanted[k] == labels).mean() - (answer[k] == labels).mean()
        if not np.isfinite(found[k]).all() or (answer[k] == wanted[k]).mean() < TOP1_AGREEMENT or loss > ACCURACY_LOSS:
            return k
    return None


def _harm_alone(
    whole: ModelProto, nodes: Sequence[set[str]], k: int, exit_index: int, expected: NDArray[np.float32], judges: Judges
) -> float:
    """Return the share of answers at an exit that change where only segment k is in int8."""
    alone = ["int8" if index == k else "fp32" for index in range(len(nodes))]
    found = logits(mixed(whole, nodes, alone, judges), judges.images)
    return float((found[exit_index].argmax(axis=-1) != expected[exit_index].argmax(axis=-1)).mean())


def _next_best(
    whole: ModelProto, nodes: Sequence[set[str]], choices: Sequence[str], k: int, judges: Judges
) -> tuple[str, str]:
    """Return what a segment runs in that is not to be int8, and why."""
    try:
        mixed(whole, nodes, [*choices[:k], "fp16", *choices[k + 1 :]], judges)
    except CheckpointError as error:
        return "fp32", f"fp16 does not hold its numbers ({error})"
    return "fp16", "the fastest that keeps the answers"
