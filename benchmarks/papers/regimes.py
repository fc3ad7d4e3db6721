"""Regimes for the comparison only: variants of Confidence-Gated Training."""

import torch
from torch import Tensor

from edge.training.regimes import Phase, confidence_gated, residual, true_class_confidence, unsolved


def steep_residual(logits: Tensor, labels: Tensor, threshold: float = 0.9, steepness: float = 20.0) -> Tensor:
    """Gate of SoftCGT in its authors' code: `1 - sigmoid(steepness * (p(y) - threshold))`.

    Their steepness of 1 hardly gates: the weight factor is 0.71 at `p(y)` = 0 and 0.48 at `p(y)` = 1. With 20, the
    factors are 1.00 and 0.12.
    """
    return 1 - torch.sigmoid(steepness * (true_class_confidence(logits, labels) - threshold))


PAPER_REGIMES: dict[str, tuple[Phase, ...]] = {
    "hard-cgt-plain": (Phase(confidence_gated(unsolved)),),
    "soft-cgt-plain": (Phase(confidence_gated(residual)),),
    "soft-cgt-steep": (Phase(confidence_gated(steep_residual, warm_up=0.25, leak=0.1)),),
}
"""The formulas of the paper (`-plain`), and SoftCGT with the gate of its authors' code and a leak (`-steep`)."""
