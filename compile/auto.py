"""Each segment in the fastest precision that keeps the answers: int8 where it can, else fp16, else fp32."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.thresholds import RiskGuarantee, fit_thresholds
from compile.check import Evaluator
from compile.cut import cut_segments
from compile.decision_ops import add_decisions
from compile.graph import exit_count, total_macs
from compile.half import to_fp16
from compile.quantise import METHODS, quantise_int8
from edge.decision import scores_from_logits
from edge.errors import CheckpointError
from edge.parity.compare import REFERENCE, Outputs, compare

BATCH = 100
NOMINAL = RiskGuarantee(method="none")
"""Of the thresholds by which exits are judged: those of the bundle are fitted when its precisions are known."""


@dataclass(frozen=True, slots=True)
class SelectionData:
    """Images that decide whether a precision will do."""

    images: NDArray[np.float32]
    """As network input, shape (samples, channels, height, width)."""
    labels: NDArray[np.int64]
    samples: NDArray[np.float32]
    """Calibration images, in the same form: ranges are measured on them."""
    method: str = METHODS[0]
    """How int8 ranges are chosen."""


def fastest_per_segment(whole: ModelProto, selection: SelectionData) -> tuple[ModelProto, tuple[str, ...]]:
    """Return the graph with each segment in its precision, and a sentence about each choice.

    All segments start in int8. While an exit is beyond the tolerances of `edge.parity`, the segment up to it that
    hurts this exit most when it alone is in its precision takes the next wider one.
    """
    trial = _Trial(whole, selection)
    choices = ["int8"] * trial.exits
    reasons = ["keeps every exit's answers"] * trial.exits
    while (failing := trial.first_failing(choices)) is not None:
        harm = {k: trial.harm(k, choices[k], failing) for k in range(failing + 1) if choices[k] != "fp32"}
        worst = max(harm, key=lambda k: harm[k])
        reasons[worst] = f"{choices[worst]} in it alone changes {harm[worst][0]:.2%} of the answers at exit {failing}"
        choices[worst] = "fp16" if choices[worst] == "int8" else "fp32"
        if choices[worst] == "fp16" and (problem := trial.fp16_problem(worst)):
            choices[worst], reasons[worst] = "fp32", f"{reasons[worst]}, and fp16 does not hold its numbers: {problem}"
    said = (f"segment {k}: {c}, {r}" for k, (c, r) in enumerate(zip(choices, reasons, strict=True)))
    return trial.mixed(choices), tuple(said)


class _Trial:
    """A network whose segments are tried in one precision and another."""

    def __init__(self, whole: ModelProto, selection: SelectionData) -> None:
        """Note what the network says in fp32."""
        segments = cut_segments(add_decisions(whole))
        self.exits = len(segments)
        self._whole, self._judges = whole, selection
        self._nodes = [{node.name for node in segment.model.graph.node} for segment in segments]
        self._expected = logits(whole, selection.images)
        macs = [total_macs(segment.model) for segment in segments]
        scores = scores_from_logits(self._expected)
        self._thresholds = fit_thresholds(scores, selection.labels, macs, NOMINAL, split="").values
        self._alone: dict[tuple[int, str], NDArray[np.float32]] = {}

    def mixed(self, choices: Sequence[str]) -> ModelProto:
        """Return the graph with each segment's nodes in the precision chosen for it."""
        parts = {name: {n for k, c in enumerate(choices) if c == name for n in self._nodes[k]} for name in choices}
        model, selection = self._whole, self._judges
        if "int8" in parts:
            left_out = set().union(*self._nodes) - parts["int8"]
            model = quantise_int8(model, selection.samples, method=selection.method, left_out=left_out)
        if "fp16" in parts:
            model = to_fp16(model, selection.samples, parts["fp16"])
        return model

    def first_failing(self, choices: Sequence[str]) -> int | None:
        """Return the first exit that is beyond tolerance."""
        found = logits(self.mixed(choices), self._judges.images)
        sides = Outputs.from_logits("onnxruntime", found), Outputs.from_logits(REFERENCE, self._expected)
        return compare("auto", *sides, self._judges.labels, self._thresholds).first_diverging

    def harm(self, k: int, precision: str, exit_index: int) -> tuple[float, float]:
        """Return how many answers at an exit change, and how far its logits, where only segment k is so narrow."""
        found, expected = self._said_alone(k, precision)[exit_index], self._expected[exit_index]
        return float((found.argmax(axis=-1) != expected.argmax(axis=-1)).mean()), float(np.abs(found - expected).mean())

    def fp16_problem(self, k: int) -> str:
        """Return why fp16 does not hold a segment's numbers; nothing where it does."""
        try:
            self._said_alone(k, "fp16")
        except CheckpointError as error:
            return str(error).partition(";")[0]
        return ""

    def _said_alone(self, k: int, precision: str) -> NDArray[np.float32]:
        """Return what all exits say where only segment k is in this precision and the others in fp32."""
        if (k, precision) not in self._alone:
            alone = [precision if index == k else "fp32" for index in range(self.exits)]
            self._alone[k, precision] = logits(self.mixed(alone), self._judges.images)
        return self._alone[k, precision]


def logits(model: ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what every exit says of images, shape (exits, samples, classes)."""
    evaluate, exits = Evaluator(model), range(exit_count(model))
    parts = []
    for start in range(0, len(images), BATCH):
        found = evaluate({"image": images[start : start + BATCH]})
        parts.append(np.stack([found[f"logits_{k}"] for k in exits]))
    return np.concatenate(parts, axis=1)
