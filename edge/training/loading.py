"""Frames to training tensors, through the same preprocessing as on the device; worker processes decode files."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from edge.bundle.manifest import InputSpec
from edge.console import log
from edge.errors import DataError, EdgeError
from edge.frames.base import frame_from_array
from edge.frames.preprocess import preprocess_for
from edge.system import usable_cores
from edge.training.datasets.base import LabelledImages

Batch = tuple[Tensor, Tensor]
"""Images, float32, shape (batch, channels, height, width), and labels, shape (batch,)."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the mount through which workers pass batches, not a file
PREFETCHED = 2
"""Batches that each worker process prepares ahead."""
USABLE_SHARE = 0.8
"""Share of the free shared memory that batches may fill."""
TIMEOUT_S = 600
"""Time without a batch after which the worker processes count as dead."""


class PreprocessedImages(Dataset[Batch]):
    """Samples of a dataset as network input with labels.

    Frames in memory are preprocessed once; frames in files are preprocessed at every access.
    """

    def __init__(self, images: LabelledImages, indices: NDArray[np.intp], spec: InputSpec) -> None:
        """Select samples by their indices."""
        self.from_files = images.from_files
        self.sample_bytes = 4 * math.prod(spec.shape)
        self._images = images
        self._indices = indices
        self._spec = spec
        self.labels = images.labels[indices]
        self._labels = torch.from_numpy(images.labels[indices])
        self._inputs = None if images.from_files else torch.from_numpy(preprocessed(images, indices, spec))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._indices)

    def __getitem__(self, position: int) -> Batch:
        """Return one sample and its label."""
        images, labels = self.__getitems__([position])
        return images[0], labels[0]

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Return several samples as one batch; a worker process returns its error instead of raising it."""
        try:
            return self._batch(positions)
        except EdgeError as error:
            if get_worker_info() is None:
                raise
            return error  # type: ignore[return-value]  # raised by `Loader`, without the worker's traceback

    def _batch(self, positions: Sequence[int]) -> Batch:
        selected = torch.as_tensor(positions)
        if self._inputs is None:
            images = torch.from_numpy(preprocessed(self._images, self._indices[selected.numpy()], self._spec))
        else:
            images = self._inputs[selected]
        return images, self._labels[selected]


class Loader(DataLoader[Batch]):
    """A DataLoader of whole batches that raises this project's errors."""

    def __init__(
        self,
        dataset: PreprocessedImages,
        batch_size: int,
        *,
        workers: int | None = None,
        sampler: Sampler[Any] | None = None,
        drop_last: bool = False,
    ) -> None:
        """Configure the loader; worker processes start with the iteration.

        Args:
            dataset: The samples.
            batch_size: Samples per batch.
            workers: Processes that decode files; None for as many as cores and shared memory allow.
            sampler: Order of the samples; None for the dataset's.
            drop_last: Drop an incomplete last batch.
        """
        if workers is None:
            workers = _usable_workers(batch_size * dataset.sample_bytes) if dataset.from_files else 0
        super().__init__(
            dataset, batch_size, sampler=sampler, drop_last=drop_last, collate_fn=_identity, num_workers=workers,
            prefetch_factor=PREFETCHED if workers else None, timeout=TIMEOUT_S if workers else 0,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a DataLoader returns its own iterator
        """Yield batches.

        Raises:
            DataError: a file cannot be read, or a worker process died.
        """
        try:
            for batch in super().__iter__():
                if isinstance(batch, EdgeError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if "DataLoader" not in str(error):
                raise
            raise DataError(
                f"a process that decodes images died ({error}); use fewer --workers, or 0 for none; "
                "in a container, enlarge the shared memory (docker run --shm-size 1g)"
            ) from error


def preprocessed(
    images: LabelledImages, indices: Sequence[int] | NDArray[np.intp], spec: InputSpec
) -> NDArray[np.float32]:
    """Return samples as network input, shape (samples, channels, height, width)."""
    out = np.empty((len(indices), *spec.shape), dtype=np.float32)
    preprocess = preprocess_for(spec)
    for position, index in enumerate(indices):
        preprocess(frame_from_array(images.frames[int(index)], spec.kind), out[position])
    return out


def _identity(batch: Any) -> Any:
    """Return the batch: `PreprocessedImages` collates."""
    return batch


def _usable_workers(batch_bytes: int) -> int:
    """Return the number of worker processes whose batches fit into the shared memory."""
    cores, free = usable_cores(), _free_shared_memory()
    if free is None:
        return cores
    fitting = max(0, int((USABLE_SHARE * free / batch_bytes - 1) / PREFETCHED))
    if fitting < cores:
        log(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free, too little for {cores} processes with batches of "
            f"{batch_bytes / 2**20:.0f} MiB: using {fitting}; in a container, enlarge it with docker run --shm-size"
        )
    return min(cores, fitting)


def _free_shared_memory() -> int | None:
    """Return the free bytes of the shared memory; None if this system has no such mount."""
    try:
        mount = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):
        return None
    return mount.f_bavail * mount.f_frsize
