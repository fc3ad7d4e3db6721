"""The training runs of the comparison: each is the settings of one network."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from edge.training.settings import Settings

ALPHA = 1.0
"""Weight of Explanation-Guided Training. Its paper recommends 0.3, which closes only a third of the gap here."""
GUIDANCE = "guarded-cosine"
BACKBONE = "cnn-small"
"""Backbone of all runs except two short ones with a ResNet-18."""
RIVALS = ("joint", "disjoint", "mixed", "sdn", "hard-cgt-plain", "soft-cgt-plain", "hard-cgt", "soft-cgt-steep")
OURS = "soft-cgt"
EXITS = 3

FASHION = Settings(dataset="fashion-mnist", backbone=BACKBONE, epochs=8, batch_size=128, mixed_precision=True)
PINES = Settings(dataset="indian-pines", backbone=BACKBONE, epochs=30, batch_size=64)
DISJOINT = replace(PINES, dataset="indian-pines-disjoint")
SMALL = Settings(dataset="fashion-mnist-small", backbone=BACKBONE, epochs=30, batch_size=32)
RESNET = replace(SMALL, backbone="resnet18-cifar", epochs=6)


def full_grid(seeds: Sequence[int] = (0, 1, 2)) -> list[Settings]:
    """Return all runs: every regime on Fashion-MNIST, the papers' claims on other data, two short ResNet-18 runs."""
    runs = [
        *dataset_runs(FASHION, (*RIVALS, OURS), seeds),
        *dataset_runs(PINES, ("joint", "hard-cgt-plain", "soft-cgt-plain", "hard-cgt", OURS), seeds),
        *dataset_runs(DISJOINT, ("joint", "hard-cgt", OURS), seeds),
        *dataset_runs(SMALL, ("joint", OURS), seeds),
    ]
    short = (replace(RESNET, seed=seeds[0], regime=regime, attention_weight=0.0) for regime in ("joint", OURS))
    return [*runs, *short]


def quick_grid() -> list[Settings]:
    """Return a few runs of few epochs with one seed: the same tables in minutes, with large uncertainty."""
    short = (replace(FASHION, epochs=1), replace(PINES, epochs=12), replace(SMALL, epochs=12))
    return [
        run
        for data in short
        for run in dataset_runs(data, ("joint", OURS), (0,), truncated=data.dataset == "fashion-mnist")
    ]


def dataset_runs(
    data: Settings, regimes: Sequence[str], seeds: Sequence[int], *, truncated: bool = True
) -> list[Settings]:
    """Return the runs of one dataset: every regime unguided, two with attention guidance, and truncated networks."""
    unguided = replace(data, attention_weight=0.0)
    guided = replace(data, attention_weight=ALPHA, attention_loss=GUIDANCE)
    runs = [replace(unguided, seed=seed, regime=regime) for seed, regime in product(seeds, regimes)]
    runs += [replace(guided, seed=seed, regime=regime) for seed, regime in product(seeds, ("joint", OURS))]
    if truncated:
        runs += [replace(unguided, seed=seed, truncated_at=k) for seed, k in product(seeds, range(EXITS))]
    return runs


def name_of(run: Settings) -> str:
    """Return the relative folder of a run."""
    network = f"truncated-{run.truncated_at}" if run.truncated_at is not None else run.regime
    guidance = f"-guided-{run.attention_weight:g}" if run.attention_weight else ""
    return f"{run.dataset}/{run.backbone}/{network}{guidance}/seed-{run.seed}"
