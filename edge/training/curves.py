"""Training curves to look at while they grow: `tensorboard --logdir OUTPUT`."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Curves:
    """What each epoch came to, for TensorBoard: one curve an exit, and the losses."""

    def __init__(self, folder: Path, first_epoch: int, writes: bool) -> None:
        """Go on at `first_epoch`; what a killed run wrote of it and later ones is not shown.

        Args:
            folder: Where to write.
            first_epoch: The epoch to begin with.
            writes: Whether this process is the one that writes.
        """
        self._folder, self._first_epoch, self._writes = folder, first_epoch, writes
        self._writer: SummaryWriter | None = None

    def add(self, epoch: int, found: dict[str, Any]) -> None:
        """Add an epoch: single numbers as they are, lists as one number an exit."""
        if not self._writes:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            self._writer = SummaryWriter(str(self._folder), purge_step=self._first_epoch)
        for name, value in found.items():
            for exit_index, one in enumerate(value if isinstance(value, list) else [value]):
                tag = f"{name}/exit {exit_index}" if isinstance(value, list) else name
                self._writer.add_scalar(tag, one, epoch)
        self._writer.flush()

    def __enter__(self) -> "Curves":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
