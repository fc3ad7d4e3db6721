"""Memory of a slot or batch: one pinned block and one allocation on the GPU, each divided into named tensors."""

from collections.abc import Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import numpy as np
import pycuda.driver as driver
from numpy.typing import NDArray

from edge.cuda.operations import Upload

ALIGNMENT = 256
"""Alignment in bytes that TensorRT requires of addresses."""
NOTHING: Mapping[str, int] = MappingProxyType({})


class Memory:
    """Tensors in pinned memory, which is mapped into the GPU's address space, and tensors on the GPU.

    A tensor in both is uploaded; its address is on the GPU. Pinned memory is freed once it is closed and no array of it
    is referenced; the GPU's context must be current then.

    Attributes:
        addresses: Address of each tensor for the GPU; empty when closed.
    """

    def __init__(self, pinned: Mapping[str, int], on_gpu: Mapping[str, int] = NOTHING) -> None:
        """Allocate tensors of these sizes in bytes; pinned tensors are zero."""
        self._sizes, (self._offsets, total) = dict(pinned), _layout(pinned)
        self._host = driver.pagelocked_empty(total, np.uint8, mem_flags=driver.host_alloc_flags.DEVICEMAP)
        self._host[:] = 0
        self._allocation: Any = None
        try:
            base = int(self._host.base.get_device_pointer())
            self.addresses = {name: base + offset for name, offset in self._offsets.items()}
            if on_gpu:
                offsets, total = _layout(on_gpu)
                self._allocation = driver.mem_alloc(total)
                self.addresses |= {name: int(self._allocation) + offset for name, offset in offsets.items()}
        except BaseException:
            self.close()  # now, while the context is current: the error's traceback keeps this object
            raise

    def view(self, name: str, dtype: Any, shape: tuple[int, ...] = (-1,)) -> NDArray[Any]:
        """Return a pinned tensor as an array."""
        start = self._offsets[name]
        array: NDArray[Any] = self._host[start : start + self._sizes[name]].view(dtype).reshape(shape)
        return array

    def upload(self, name: str) -> Upload:
        """Return the upload of a tensor."""
        return Upload(self.addresses[name], self.view(name, np.uint8))

    def download(self, name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Return a copy of a tensor; the stream must be synchronised."""
        array = np.empty(shape, dtype=dtype)
        driver.memcpy_dtoh(array, self.addresses[name])
        return array

    def close(self) -> None:
        """Release the memory while the GPU's context is current. Idempotent."""
        if self._allocation is not None:
            self._allocation.free()
        self._allocation, self._host = None, np.empty(0, dtype=np.uint8)
        self.addresses, self._offsets = {}, {}


def _layout(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Return each tensor's aligned offset and the total bytes."""
    aligned = [-(-max(1, size) // ALIGNMENT) * ALIGNMENT for size in sizes.values()]
    ends = list(accumulate(aligned, initial=0))
    return dict(zip(sizes, ends[:-1], strict=True)), ends[-1]
