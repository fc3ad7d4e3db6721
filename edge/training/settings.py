"""Settings of a training run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a training run: the same settings on the same images give the same network."""

    dataset: str
    data: str | None = None
    """Folder of the dataset's files; None for its default locations."""
    image_size: int | None = None
    """Height and width of the network's input; None for the dataset's default."""
    backbone: str = "cnn"
    truncated_at: int | None = None
    """Train the single-exit network that ends at this exit; None for the whole network."""
    pretrained: str | None = None
    """File of initial weights, or `timm` for those that timm publishes."""
    skip_bad: bool = False
    """Leave out images that cannot be read."""
    balance: bool = False
    """Weight each sample's loss so that all classes count the same."""
    regime: str = "joint"
    attention_weight: float = 0.3
    """Weight of the attention consistency loss (EGT's alpha); 0 disables it."""
    attention_loss: str = "cosine"
    distillation_weight: float = 0.0
    """Weight of distillation from the last exit to early exits; 0 disables it."""
    epochs: int = 12
    batch_size: int = 64
    """Images per step, over all processes."""
    learning_rate: float = 2e-3
    mixed_precision: bool = False
    """Compute in bfloat16 where torch's autocast does."""
    seed: int = 0
