"""Training curves for TensorBoard, written during training: `tensorboard --logdir OUTPUT`."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Curves:
    """Writer of per-epoch metrics: one curve per loss, and one per exit for metrics with a value for each exit."""

    def __init__(self, folder: Path, first_epoch: int, enabled: bool) -> None:
        """Continue at `first_epoch`; events that a killed run wrote for it or later epochs are hidden.

        Args:
            folder: Folder of the event files.
            first_epoch: First epoch that will be added.
            enabled: True in the process that writes; in the others, calls do nothing.
        """
        self._folder, self._first_epoch, self._enabled = folder, first_epoch, enabled
        self._writer: SummaryWriter | None = None

    def add(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Add the metrics of an epoch: numbers, or lists of one number per exit."""
        if not self._enabled:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            self._writer = SummaryWriter(str(self._folder), purge_step=self._first_epoch)
        for name, value in metrics.items():
            if isinstance(value, list):
                for exit_index, exit_value in enumerate(value):
                    self._writer.add_scalar(f"{name}/exit {exit_index}", exit_value, epoch)
            else:
                self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def __enter__(self) -> "Curves":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
