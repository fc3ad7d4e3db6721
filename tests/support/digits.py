"""A small network on real digits, for tests of bundles: mostly right, and seldom sure."""

from pathlib import Path

from calibration.thresholds import RiskGuarantee
from compile.recipe import compile_bundle
from edge.bundle.bundle import Bundle
from edge.training.checkpoint import Checkpoint
from edge.training.settings import Settings
from edge.training.train import train


def train_digits(folder: Path) -> Checkpoint:
    """Train the three-exit CNN for two epochs on small digits."""
    settings = Settings(
        dataset="digits", image_size=16, attention_weight=0.1, epochs=2, batch_size=32, learning_rate=3e-3
    )
    return train(settings, folder)


def compile_digits(checkpoint: Checkpoint, output: Path) -> Bundle:
    """Compile it in fp32 and int8."""
    guarantee = RiskGuarantee(limit=0.01, method="none")
    return compile_bundle(checkpoint, output, precisions=("fp32", "int8"), guarantee=guarantee)
