"""Mixed precision: each segment in the fastest precision that keeps the predictions, of int8, fp16 and fp32."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.thresholds import RiskGuarantee, fit_thresholds
from compile.cut import cut_segments
from compile.decision_ops import add_decisions
from compile.evaluate import compute_logits
from compile.fp16 import to_fp16
from compile.graph import MultiExitGraph, total_macs
from compile.quantise import METHODS, quantise_int8
from edge.decision import scores_from_logits
from edge.errors import CheckpointError
from edge.parity.compare import REFERENCE, Outputs, compare

NO_GUARANTEE = RiskGuarantee(method="none")
"""For thresholds that serve these comparisons only; the bundle's thresholds are fitted to the converted segments."""


@dataclass(frozen=True, slots=True)
class SelectionData:
    """Images on which precisions are compared."""

    images: NDArray[np.float32]
    """Network input, shape (samples, channels, height, width)."""
    labels: NDArray[np.int64]
    calibration: NDArray[np.float32]
    """Network input for measuring activation ranges, of the same shape."""
    method: str = METHODS[0]
    """ModelOpt's calibration method, one of `compile.quantise.METHODS`."""


def fastest_per_segment(graph: MultiExitGraph, selection: SelectionData) -> tuple[MultiExitGraph, tuple[str, ...]]:
    """Return the graph with each segment in its precision, and a sentence about each choice.

    All segments start in int8. While an exit exceeds the tolerances of `edge.parity`, one segment takes the next wider
    precision: the segment that, converted alone, changes this exit most.
    """
    search = _PrecisionSearch(graph, selection)
    choices = ["int8"] * graph.exits
    reasons = ["keeps the predictions of every exit"] * graph.exits
    while (failing := search.first_failing_exit(choices)) is not None:
        segment = search.most_sensitive_segment(choices, failing)
        choices[segment], reasons[segment] = search.next_wider(segment, choices[segment], failing)
    notes = (f"segment {k}: {choice}, {reasons[k]}" for k, choice in enumerate(choices))
    return search.mixed(choices), tuple(notes)


class _PrecisionSearch:
    """Conversions of a network with a precision for each segment, compared with fp32."""

    def __init__(self, graph: MultiExitGraph, selection: SelectionData) -> None:
        """Cut the graph, compute its logits in fp32 and fit thresholds to them."""
        segments = cut_segments(add_decisions(graph))
        self._graph, self._selection = graph, selection
        self._nodes = [{node.name for node in segment.model.graph.node} for segment in segments]
        self._expected = compute_logits(graph, selection.images)
        macs = [total_macs(segment.model) for segment in segments]
        scores = scores_from_logits(self._expected)
        self._thresholds = fit_thresholds(scores, selection.labels, macs, NO_GUARANTEE, split="").values
        self._logits: dict[tuple[int, str], NDArray[np.float32]] = {}
        """Logits with one segment converted, by segment and precision."""

    def mixed(self, choices: Sequence[str]) -> MultiExitGraph:
        """Return the graph with each segment's nodes in its chosen precision."""
        nodes = {
            precision: {name for k, choice in enumerate(choices) if choice == precision for name in self._nodes[k]}
            for precision in choices
        }
        graph, selection = self._graph, self._selection
        if "int8" in nodes:
            exclude = set().union(*self._nodes) - nodes["int8"]
            graph = quantise_int8(graph, selection.calibration, method=selection.method, exclude=exclude)
        if "fp16" in nodes:
            graph = to_fp16(graph, selection.calibration, nodes["fp16"])
        return graph

    def first_failing_exit(self, choices: Sequence[str]) -> int | None:
        """Return the first exit that exceeds a tolerance; None if none does."""
        logits = compute_logits(self.mixed(choices), self._selection.images)
        outputs, reference = Outputs.from_logits("onnxruntime", logits), Outputs.from_logits(REFERENCE, self._expected)
        return compare("auto", outputs, reference, self._selection.labels, self._thresholds).first_diverging

    def most_sensitive_segment(self, choices: Sequence[str], exit_index: int) -> int:
        """Return the segment that, converted alone, changes an exit most; segments in fp32 are left out."""
        candidates = [k for k in range(exit_index + 1) if choices[k] != "fp32"]
        return max(candidates, key=lambda k: self._prediction_change(k, choices[k], exit_index))

    def next_wider(self, segment: int, precision: str, exit_index: int) -> tuple[str, str]:
        """Return the next wider precision that can hold a segment's values, and the reason for it."""
        share, _ = self._prediction_change(segment, precision, exit_index)
        reason = f"{precision} in this segment alone changes {share:.2%} of the predictions at exit {exit_index}"
        if precision == "fp16":
            return "fp32", reason
        if problem := self._fp16_problem(segment):
            return "fp32", f"{reason}, and fp16 overflows: {problem}"
        return "fp16", reason

    def _prediction_change(self, segment: int, precision: str, exit_index: int) -> tuple[float, float]:
        """Return the share of predictions that change at an exit, and the mean absolute change of its logits."""
        logits = self._logits_with_one_converted(segment, precision)[exit_index]
        expected = self._expected[exit_index]
        changed = logits.argmax(axis=-1) != expected.argmax(axis=-1)
        return float(changed.mean()), float(np.abs(logits - expected).mean())

    def _fp16_problem(self, segment: int) -> str:
        """Return the reason why a segment cannot be converted to fp16; empty if it can."""
        try:
            self._logits_with_one_converted(segment, "fp16")
        except CheckpointError as error:
            return str(error).partition(";")[0]
        return ""

    def _logits_with_one_converted(self, segment: int, precision: str) -> NDArray[np.float32]:
        """Return all exits' logits with one segment in this precision and the others in fp32."""
        if (segment, precision) not in self._logits:
            choices = [precision if k == segment else "fp32" for k in range(self._graph.exits)]
            self._logits[segment, precision] = compute_logits(self.mixed(choices), self._selection.images)
        return self._logits[segment, precision]
