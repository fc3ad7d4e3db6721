"""Device and pinned memory: one allocation each, divided into named tensors."""

from collections.abc import Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Any

import numpy as np
import pycuda.driver as driver
from numpy.typing import NDArray

ALIGNMENT = 256
"""Alignment in bytes that TensorRT requires of addresses."""
NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream does not synchronise with the default stream, which would break a capture."""


class DeviceMemory:
    """Memory on the GPU.

    Attributes:
        addresses: Address of each tensor.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """Allocate `sizes`, in bytes per tensor."""
        offsets, total = _layout(sizes)
        self._allocation = driver.mem_alloc(total)
        self.addresses = {name: int(self._allocation) + offset for name, offset in offsets.items()}

    def close(self) -> None:
        """Free the memory. Idempotent."""
        if self._allocation is not None:
            self._allocation.free()
            self._allocation = None
            self.addresses = {}


class PinnedMemory:
    """Page-locked host memory, mapped into the GPU's address space.

    It is freed once it is closed and no array of it is referenced; the GPU's context must be current then.

    Attributes:
        host: The whole allocation as an array.
        addresses: Address of each tensor on the GPU.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """Allocate `sizes`, in bytes per tensor."""
        offsets, total = _layout(sizes)
        host: NDArray[np.uint8] = driver.pagelocked_empty(total, np.uint8, mem_flags=driver.host_alloc_flags.DEVICEMAP)
        host[:] = 0
        base = int(host.base.get_device_pointer())  # type: ignore[union-attr]  # pycuda's allocation
        self.host = host
        self.addresses = {name: base + offset for name, offset in offsets.items()}
        self._slices = {name: slice(offset, offset + sizes[name]) for name, offset in offsets.items()}

    def view(self, name: str, dtype: Any, shape: tuple[int, ...] = (-1,)) -> NDArray[Any]:
        """Return a tensor as an array."""
        array: NDArray[Any] = self.host[self._slices[name]].view(dtype).reshape(shape)
        return array

    def close(self) -> None:
        """Release the memory. Idempotent."""
        self.host = np.empty(0, dtype=np.uint8)
        self.addresses, self._slices = {}, {}


class Buffers:
    """Per-frame inputs, constants, device-only workspace and host-visible outputs.

    On integrated GPUs, inputs are not copied; constants are, since the GPU reads them for every frame.

    Attributes:
        addresses: Address of each tensor on the GPU; empty when closed.
    """

    def __init__(
        self,
        *,
        inputs: Mapping[str, int],
        constants: Mapping[str, int],
        workspace: Mapping[str, int],
        outputs: Mapping[str, int],
        uploads: bool,
    ) -> None:
        """Allocate tensors of these sizes in bytes.

        Args:
            inputs: Written by the host for every frame.
            constants: Written by the host once.
            workspace: Used on the GPU only.
            outputs: Written by the GPU, read by the host.
            uploads: True if the GPU has its own memory, to which inputs are copied.
        """
        self._host = PinnedMemory({**inputs, **constants, **outputs})
        self._device = DeviceMemory({**(inputs if uploads else {}), **constants, **workspace})
        self._uploads = uploads
        self.addresses = {**self._host.addresses, **self._device.addresses}
        (_, inputs_bytes), (_, constants_bytes) = _layout(inputs), _layout(constants)
        self._inputs_address, self._constants_address = (
            self.addresses[next(iter(names))] for names in (inputs, constants)
        )
        self._inputs = self._host.host[:inputs_bytes]
        self._constants = self._host.host[inputs_bytes : inputs_bytes + constants_bytes]

    def view(self, name: str, dtype: Any, shape: tuple[int, ...] = (-1,)) -> NDArray[Any]:
        """Return an input, constant or output as an array of host memory."""
        return self._host.view(name, dtype, shape)

    def upload_constants(self, stream: driver.Stream) -> None:
        """Enqueue the upload of the constants."""
        driver.memcpy_htod_async(self._constants_address, self._constants, stream)

    def upload_inputs(self, stream: driver.Stream, *, unused_bytes: int = 0) -> None:
        """Enqueue the upload of the inputs without `unused_bytes` at their end."""
        if self._uploads:
            driver.memcpy_htod_async(self._inputs_address, self._inputs[: self._inputs.size - unused_bytes], stream)

    def download(self, name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Return a copy of a tensor; the stream must be synchronised."""
        array = np.empty(shape, dtype=dtype)
        driver.memcpy_dtoh(array, self.addresses[name])
        return array

    def close(self) -> None:
        """Release the memory while the GPU's context is current. Idempotent."""
        self._device.close()
        self._host.close()
        self.addresses, self._inputs, self._constants = {}, self._host.host, self._host.host


def synchronize_before_free(stream: driver.Stream) -> None:
    """Wait for a stream's work before its memory is freed; its errors have already been raised."""
    with suppress(driver.Error):
        stream.synchronize()


def _layout(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Return each tensor's aligned offset and the total bytes."""
    aligned = [-(-max(1, size) // ALIGNMENT) * ALIGNMENT for size in sizes.values()]
    ends = list(accumulate(aligned, initial=0))
    return dict(zip(sizes, ends[:-1], strict=True)), ends[-1]
