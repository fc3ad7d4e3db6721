"""A small training for a single process or, under `torch.distributed.run`, several.

`python distributed_run.py FOLDER` trains with each of `REGIMES` and writes weights and history to `REGIME.pt`. Each
epoch but the first is trained by a new run that resumes the previous one.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edge.errors import DataError
from edge.training.augment import Augmentation
from edge.training.data import measured_input
from edge.training.datasets.base import LabelledImages
from edge.training.loading import PreprocessedImages
from edge.training.loop import TrainingRun
from edge.training.network import AttentionHead, MultiExitNetwork, Stages
from edge.training.regimes import phases_of
from edge.training.settings import Settings
from edge.training.state import StateFile

SAMPLES, EPOCHS = 53, 4
REGIMES = ("joint", "disjoint", "soft-cgt")


class WithUnusedLayer(nn.Sequential):
    """Layers beside one that no exit depends on, as in models of timm."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.unused = nn.Linear(3, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        for layer in list(self)[:-1]:
            features = layer(features)
        return features


def small_network() -> MultiExitNetwork:
    """Return a network without batch normalisation, whose statistics would differ between processes."""
    torch.manual_seed(0)
    first = WithUnusedLayer(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU())
    return MultiExitNetwork(Stages([first, second]), [AttentionHead(4, 3), AttentionHead(8, 3)])


def samples() -> PreprocessedImages:
    """Return images of three classes that differ in brightness."""
    every, labels = np.arange(SAMPLES), np.arange(SAMPLES) % 3
    frames = np.random.default_rng(0).integers(0, 60, (SAMPLES, 8, 8)) + 60 * labels[:, None, None]
    images = LabelledImages(
        "made",
        frames.astype(np.uint8),
        labels,
        ("a", "b", "c"),
        "image",
        "gray",
        (1, 8, 8),
        [str(index) for index in every],
    )
    return PreprocessedImages(images, every, measured_input(images, every))


def new_run(state: Path, regime: str, batch_size: int = 16) -> TrainingRun:
    """Return the run, which is the same in each process."""
    settings = Settings(
        dataset="made", regime=regime, epochs=EPOCHS, batch_size=batch_size, distillation_weight=0.5, seed=3
    )
    return TrainingRun(
        small_network(),
        settings,
        phases_of(settings),
        samples(),
        Augmentation(()),
        StateFile(state, settings, {}),
    )


def train(folder: Path, regime: str, *, epochs_at_once: int) -> None:
    """Train all epochs, with a new run after every `epochs_at_once` epochs."""
    history: list[dict[str, Any]] = []
    while len(history) < EPOCHS:
        run = new_run(folder / f"{regime}.state", regime)
        history = run.resume()
        for epoch in range(len(history), min(len(history) + epochs_at_once, EPOCHS)):
            history.append(run.epoch(epoch, on_step=lambda: None))
            run.save(history)
        run.fabric.barrier()
    if run.fabric.is_global_zero:
        torch.save({"weights": run.network.state_dict(), "history": history}, folder / f"{regime}.pt")


def main(folder: Path, epochs_at_once: int = 1) -> None:
    """Train with every regime, and try a batch size that cannot be divided among two processes."""
    for regime in REGIMES:
        train(folder, regime, epochs_at_once=epochs_at_once)
    try:
        new_run(folder / "none", "joint", batch_size=17)
    except DataError as error:
        (folder / "refusal.txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
