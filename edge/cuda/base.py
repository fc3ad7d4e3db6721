"""Interface to implement for an engine whose tensors are in GPU memory."""

from collections.abc import Callable, Mapping
from threading import RLock
from typing import Any, Literal, Protocol

from edge.bundle import tensors

Sync = Literal["spin", "block"]
"""How threads wait for the GPU: `spin` takes a core, `block` takes longer."""
MAX_BATCH = 32
"""Largest batch of an engine built without a pinned batch."""
ACTIVATIONS = "activations"
"""Name of the memory for an engine's intermediate tensors. Segments of a slot run in sequence and share it."""

PREPARING = RLock()
"""Held while memory, graphs and engines are made or freed: that may synchronise the whole GPU, which spoils another
thread's capture."""


RETIRED: list[Any] = []
"""Handles of engines that are not used any more, freed when no other thread prepares."""


def retire(*handles: Any) -> None:
    """Free handles as soon as no other thread prepares; never wait, since garbage collection may call this."""
    RETIRED.append(handles)
    if PREPARING.acquire(blocking=False):
        try:
            RETIRED.clear()
        finally:
            PREPARING.release()


class DeviceEngine(Protocol):
    """A segment made runnable on a GPU.

    It needs no decision tensors: a kernel takes the exit decision from the logits.
    """

    activation_bytes: int
    """Bytes that each binding needs at the address of `ACTIVATIONS`, valid while it runs."""

    @property
    def sync(self) -> Sync | None:
        """How threads wait for the chain that it begins; None for the better one, by timing."""

    def bind(self, addresses: Mapping[str, int]) -> Callable[[int], None]:
        """Bind device addresses to the segment's tensors and `ACTIVATIONS` by name, once; other names are ignored.

        Calling the result with a stream's handle enqueues the segment there. It neither waits nor allocates. Bindings
        may run at the same time, each on one stream only and with its own activations.

        Raises:
            EngineError: the library refuses an address.
        """

    def bind_batch(self, addresses: Mapping[str, int]) -> Callable[[int, int], None]:
        """Bind an engine built without a pinned batch.

        The result is called with a stream's handle and the number of samples at the addresses.
        """


def decision_tensors(exit_index: int) -> tuple[str, ...]:
    """Return the names of the tensors of the decision, and of the attention map, which an engine on a GPU may lack."""
    names = (tensors.threshold, tensors.confidence, tensors.label, tensors.exit_flag, tensors.attention)
    return tuple(name(exit_index) for name in names)
