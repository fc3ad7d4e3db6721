"""Training methods of the comparison: each is a change of the settings that all methods share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.papers.equilibrium import equalise_gradients
from benchmarks.papers.gates import budget_gated, calibrated_residual, steep_residual
from edge.bundle.manifest import InputSpec
from edge.training.network import MultiExitNetwork
from edge.training.regimes import Phase, confidence_gated, residual, unsolved

ALPHA, GUIDANCE = 1.0, "guarded-cosine"
"""Weight and loss of Explanation-Guided Training. Its paper recommends 0.3, which leaves about half of the gap."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to train a network. All methods train the same epochs and average their weights."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Differences from the settings of the task."""
    phases: Sequence[Phase] | None = None
    """Phases of a regime that is not part of the product; its name is the method's."""
    before_training: Callable[[MultiExitNetwork, InputSpec], None] | None = None


JOINT, DEFAULT, GUIDED, FORMER = "joint", "default", "egt", "joint-former"
CGT = {
    "hard-cgt": Method({"regime": "hard-cgt"}),
    "soft-cgt": Method({"regime": "soft-cgt"}),
    "hard-cgt-plain": Method(phases=(Phase(confidence_gated(unsolved)),)),
    "soft-cgt-plain": Method(phases=(Phase(confidence_gated(residual)),)),
    "soft-cgt-steep": Method(phases=(Phase(confidence_gated(steep_residual, warm_up=0.25, leak=0.1)),)),
    "cgt-calibrated": Method(phases=(Phase(confidence_gated(calibrated_residual, warm_up=0.25, leak=0.5)),)),
    "cgt-budget": Method(phases=(Phase(budget_gated(kept=0.5, leak=0.5)),)),
    "cgt-budget-strict": Method(phases=(Phase(budget_gated(kept=0.3, leak=0.1)),)),
}
"""Forms of Confidence-Gated Training: as in the product, as published (`-plain`), with the gate of its authors' code
(`-steep`), on calibrated confidence, and by rank."""
RIVALS = {
    "disjoint": Method({"regime": "disjoint"}),
    "mixed": Method({"regime": "mixed"}),
    "sdn": Method({"regime": "sdn"}),
    "distilled": Method({"distillation_weight": 1.0}),
    "equilibrium": Method(before_training=equalise_gradients),
}
WHOLE_ALONE = "plain-12"
PLAIN = {
    name: Method({"backbone": name.replace("plain-", "cnn:"), "truncated_at": 2})
    for name in ("plain-4", "plain-5", "plain-6", "plain-7", WHOLE_ALONE)
}
"""The same CNN without early exits, at widths that cost about as much as each budget, and at full width."""
METHODS = {
    JOINT: Method(),
    DEFAULT: Method({"attention_weight": 0.3, "attention_loss": "cosine"}),
    FORMER: Method({"learning_rate": 2e-3}),
    GUIDED: Method({"attention_weight": ALPHA, "attention_loss": GUIDANCE}),
    **CGT,
    **RIVALS,
    **PLAIN,
}
"""Methods by name. `default` is the recipe of `python -m edge.training`, `joint-former` has its former rate."""
