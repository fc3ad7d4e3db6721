"""Slots and batches by device."""

from collections.abc import Sequence
from typing import Any

from edge.bundle.chain import ChainSpec
from edge.engines.base import DeviceKind
from edge.inference.base import Batch, Slot
from edge.inference.host import HostBatch, HostSlot


def check_device(device: DeviceKind) -> None:
    """Check that frames can run on a device, before engines are built for it.

    Raises:
        UnavailableError: there is no GPU, or a library for it is missing.
    """
    if device == "cuda":
        from edge.cuda import get_runtime

        get_runtime()


def new_slot(device: DeviceKind, chain: ChainSpec, engines: Sequence[Any]) -> Slot:
    """Return a slot for a chain's engines: `Engine`s on the CPU, `DeviceEngine`s on a GPU.

    Raises:
        EngineError: the device has too little memory.
    """
    if device == "cpu":
        return HostSlot(chain, engines)
    from edge.cuda import get_runtime
    from edge.cuda.slot import CudaSlot

    return CudaSlot(chain, engines, get_runtime())


def new_batch(device: DeviceKind, chain: ChainSpec, engines: Sequence[Any]) -> Batch:
    """Return batched inference for a chain's engines, which were built for any batch size.

    Raises:
        EngineError: the device has too little memory.
    """
    if device == "cpu":
        return HostBatch(chain, engines)
    from edge.cuda import get_runtime
    from edge.cuda.batch import CudaBatch

    return CudaBatch(chain, engines, get_runtime())
