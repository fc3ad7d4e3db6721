"""Memory for the GPU: an allocation on either side, shared out to named tensors, made once and let go of once."""

from collections.abc import Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Any

import numpy as np
import pycuda.driver as driver
from numpy.typing import NDArray

ALIGNMENT = 256
"""What TensorRT asks of addresses, in bytes."""
NON_BLOCKING = 1
"""Flag of streams that do not wait for the process's default stream: what others do there would spoil a capture."""


class DeviceMemory:
    """Memory of the GPU.

    Attributes:
        addresses: Where each tensor is.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """Allocate so many bytes for each tensor."""
        places, total = _shared_out(sizes)
        self._allocation = driver.mem_alloc(total)
        self.addresses = {name: int(self._allocation) + place for name, place in places.items()}

    def close(self) -> None:
        """Free the memory; may be called twice."""
        if self._allocation is not None:
            self._allocation.free()
            self._allocation = None
            self.addresses = {}


class PinnedMemory:
    """Memory of the host that does not move, which the GPU can read and write.

    It is freed when it is closed and nobody holds one of its arrays any more, which must be while the GPU's context is
    current.

    Attributes:
        whole: All of it as the host sees it.
        addresses: Where the GPU sees each tensor.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """Allocate so many bytes for each tensor."""
        places, total = _shared_out(sizes)
        whole: NDArray[np.uint8] = driver.pagelocked_empty(total, np.uint8, mem_flags=driver.host_alloc_flags.DEVICEMAP)
        whole[:] = 0
        base = int(whole.base.get_device_pointer())  # type: ignore[union-attr]  # pycuda's allocation
        self.whole = whole
        self.addresses = {name: base + place for name, place in places.items()}
        self._slices = {name: slice(place, place + sizes[name]) for name, place in places.items()}

    def view(self, name: str, dtype: Any, shape: tuple[int, ...] = (-1,)) -> NDArray[Any]:
        """Return one tensor as an array."""
        found: NDArray[Any] = self.whole[self._slices[name]].view(dtype).reshape(shape)
        return found

    def close(self) -> None:
        """Let go of the memory; may be called twice."""
        self.whole = np.empty(0, dtype=np.uint8)
        self.addresses, self._slices = {}, {}


class Buffers:
    """What the host sends with every frame, what it says once, what stays on the GPU, and what the host is told.

    Where both share their memory, frames are not copied; what is said once is, since the GPU reads it again and again.

    Attributes:
        addresses: Where the GPU sees each tensor; nothing once it is closed.
    """

    def __init__(
        self,
        *,
        sent: Mapping[str, int],
        constant: Mapping[str, int],
        stays: Mapping[str, int],
        told: Mapping[str, int],
        uploads: bool,
    ) -> None:
        """Allocate so many bytes for each tensor; `uploads` says whether the GPU has memory of its own."""
        self._host = PinnedMemory({**sent, **constant, **told})
        self._device = DeviceMemory({**(sent if uploads else {}), **constant, **stays})
        self._uploads = uploads
        self.addresses = {**self._host.addresses, **self._device.addresses}
        (_, sent_bytes), (_, constant_bytes) = _shared_out(sent), _shared_out(constant)
        self._sent_at, self._constant_at = (self.addresses[next(iter(names))] for names in (sent, constant))
        self._sent = self._host.whole[:sent_bytes]
        self._constant = self._host.whole[sent_bytes : sent_bytes + constant_bytes]

    def view(self, name: str, dtype: Any, shape: tuple[int, ...] = (-1,)) -> NDArray[Any]:
        """Return what is sent, constant or told as an array."""
        return self._host.view(name, dtype, shape)

    def send_constants(self, stream: driver.Stream) -> None:
        """Enqueue the copy of what is said once."""
        driver.memcpy_htod_async(self._constant_at, self._constant, stream)

    def send(self, stream: driver.Stream, *, unused_bytes: int = 0) -> None:
        """Enqueue the copy of what is sent with a frame, but for bytes at its end."""
        if self._uploads:
            driver.memcpy_htod_async(self._sent_at, self._sent[: self._sent.size - unused_bytes], stream)

    def fetched(self, name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Return a copy of a tensor, when the stream is done."""
        found = np.empty(shape, dtype=dtype)
        driver.memcpy_dtoh(found, self.addresses[name])
        return found

    def close(self) -> None:
        """Let go of the memory, while the GPU's context is current; may be called twice."""
        self._device.close()
        self._host.close()
        self.addresses, self._sent, self._constant = {}, self._host.whole, self._host.whole


def waited_for(stream: driver.Stream) -> None:
    """Wait for what is on a stream before its memory is let go of; where the GPU failed, that was said before."""
    with suppress(driver.Error):
        stream.synchronize()


def _shared_out(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Return each tensor's place, aligned, and the bytes of all."""
    aligned = [-(-max(1, size) // ALIGNMENT) * ALIGNMENT for size in sizes.values()]
    ends = list(accumulate(aligned, initial=0))
    return dict(zip(sizes, ends[:-1], strict=True)), ends[-1]
