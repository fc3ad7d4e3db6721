"""int8 that keeps the predictions: the most sensitive convolutions stay fp32, if int8 alone would change too many."""

import math
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from compile.evaluate import compute_logits
from compile.graph import MultiExitGraph
from compile.layer_sensitivity import measure_sensitivity
from compile.quantise import METHODS, quantise_int8
from edge.console import status
from edge.parity.compare import TOLERANCES

MAX_CHANGED = (1 - TOLERANCES["int8"].top1_agreement) / 2
"""Largest share of changed predictions at an exit: half of the tolerance, because other images may differ more."""
FP32_COUNTS = (1, 4, 8, 16)
"""Numbers of convolutions in fp32 to try."""
RANKING_SAMPLES = 64


def quantise_keeping_predictions(
    graph: MultiExitGraph, calibration: NDArray[np.float32], compared: NDArray[np.float32], method: str = METHODS[0]
) -> tuple[MultiExitGraph, dict[str, str]]:
    """Return the graph in int8, and the reason for each sensitive convolution in fp32, by name of the node.

    The convolutions are those that, quantised alone, change the logits most. At most 16 stay fp32, and never all. If
    int8 still changes too many predictions, the attempt that changes the fewest is returned: `edge verify` reports it.

    Args:
        graph: The multi-exit graph in fp32.
        calibration: Network input for ranges and biases, shape (samples, channels, height, width).
        compared: Network input on which predictions are compared with fp32, of the same shape.
        method: One of `compile.quantise.METHODS`.
    """
    expected = compute_logits(graph, compared)
    allowed = math.ceil(MAX_CHANGED * len(compared))

    def quantise(exclude: Collection[str]) -> tuple[MultiExitGraph, int]:
        """Return the int8 graph and the largest number of predictions that it changes at an exit."""
        sensitive = f"; sensitive convolutions in fp32: {len(exclude)}" if exclude else ""
        with status(f"int8: measuring ranges and biases on {len(calibration)} images{sensitive}"):
            int8 = quantise_int8(graph, calibration, method=method, exclude=exclude)
        changed = compute_logits(int8, compared).argmax(axis=-1) != expected.argmax(axis=-1)
        return int8, int(changed.sum(axis=1).max())

    reasons: dict[str, str] = {}
    best = first = quantise(reasons)
    if first[1] > allowed:
        reason = f"it is sensitive: int8 in all convolutions changes {first[1]} of {len(compared)} predictions"
        layers = measure_sensitivity(graph, first[0], compared[:: math.ceil(len(compared) / RANKING_SAMPLES)])
        for count in [count for count in FP32_COUNTS if count < len(layers)]:
            excluded = dict.fromkeys([layer.node for layer in layers[:count]], reason)
            attempt = quantise(excluded)
            if attempt[1] < best[1]:
                best, reasons = attempt, excluded
            if attempt[1] <= allowed:
                break
    return best[0], reasons
