"""What is trained to judge the papers by: each run is the settings of one network."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from edge.training.settings import Settings

ALPHA = 1.0
"""Weight of Explanation-Guided Training. Its paper found 0.3 best; on these maps 0.3 closes a third of the gap."""
GUIDANCE = "guarded-cosine"
BACKBONE = "cnn-small"
"""Of all but one short run."""
RIVALS = ("joint", "disjoint", "mixed", "sdn", "hard-cgt-plain", "soft-cgt-plain", "hard-cgt", "soft-cgt-steep")
OURS = "soft-cgt"
EXITS = 3

FASHION = Settings(dataset="fashion-mnist", backbone=BACKBONE, epochs=8, batch_size=128, mixed_precision=True)
PINES = Settings(dataset="indian-pines", backbone=BACKBONE, epochs=30, batch_size=64)
DISJOINT = replace(PINES, dataset="indian-pines-disjoint")
SMALL = Settings(dataset="fashion-mnist-small", backbone=BACKBONE, epochs=30, batch_size=32)
RESNET = replace(SMALL, backbone="resnet18-cifar", epochs=6)


def full_grid(seeds: Sequence[int] = (0, 1, 2)) -> list[Settings]:
    """Return every run: all regimes on Fashion-MNIST, the papers' claims on the other data, one short ResNet-18."""
    runs = [
        *regimes_of(FASHION, (*RIVALS, OURS), seeds),
        *regimes_of(PINES, ("joint", "hard-cgt-plain", "soft-cgt-plain", "hard-cgt", OURS), seeds),
        *regimes_of(DISJOINT, ("joint", "hard-cgt", OURS), seeds),
        *regimes_of(SMALL, ("joint", OURS), seeds),
    ]
    short = (replace(RESNET, seed=seeds[0], regime=regime, attention_weight=0.0) for regime in ("joint", OURS))
    return [*runs, *short]


def quick_grid() -> list[Settings]:
    """Return a few runs of few epochs, one seed: the same tables in minutes, with wide errors."""
    few = (replace(FASHION, epochs=1), replace(PINES, epochs=12), replace(SMALL, epochs=12))
    return [
        run
        for data in few
        for run in regimes_of(data, ("joint", OURS), (0,), truncated=data.dataset == "fashion-mnist")
    ]


def regimes_of(
    data: Settings, regimes: Sequence[str], seeds: Sequence[int], *, truncated: bool = True
) -> list[Settings]:
    """Return one dataset's runs: every regime without attention guidance, two with it, and truncated networks alone."""
    plain = replace(data, attention_weight=0.0)
    guided = replace(data, attention_weight=ALPHA, attention_loss=GUIDANCE)
    runs = [replace(plain, seed=seed, regime=regime) for seed, regime in product(seeds, regimes)]
    runs += [replace(guided, seed=seed, regime=regime) for seed, regime in product(seeds, ("joint", OURS))]
    if truncated:
        runs += [replace(plain, seed=seed, truncated_at=k) for seed, k in product(seeds, range(EXITS))]
    return runs


def name_of(run: Settings) -> str:
    """Return the folder of a run."""
    what = f"truncated-{run.truncated_at}" if run.truncated_at is not None else run.regime
    guided = f"-guided-{run.attention_weight:g}" if run.attention_weight else ""
    return f"{run.dataset}/{run.backbone}/{what}{guided}/seed-{run.seed}"
