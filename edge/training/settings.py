"""What the user chooses for a training run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A training run in full: the same settings on the same images give the same network."""

    dataset: str
    data: str | None = None
    """Folder of the dataset's files, where the user named one."""
    image_size: int | None = None
    """Height and width of the network's input; None for the dataset's own."""
    backbone: str = "cnn"
    truncated_at: int | None = None
    """The only exit of a network that ends there; None for the whole network with all its exits."""
    pretrained: str | None = None
    """File of weights to start from."""
    regime: str = "joint"
    attention_weight: float = 0.3
    """Weight of the attention consistency loss (EGT's alpha); 0 leaves it out."""
    attention_loss: str = "cosine"
    distillation_weight: float = 0.0
    """Weight of what early exits learn from the last one's answers; 0 leaves it out."""
    epochs: int = 12
    batch_size: int = 64
    """Images a step, over all processes together."""
    learning_rate: float = 2e-3
    mixed_precision: bool = False
    """Whether most arithmetic is done in bfloat16."""
    seed: int = 0
