"""A stand-in for the part of pycuda that identifies a GPU."""

import sys
from enum import IntEnum
from types import ModuleType
from typing import Any

import pytest

from edge.cuda import identity


class Attribute(IntEnum):
    """Device attributes with CUDA's numbers."""

    MULTIPROCESSOR_COUNT = 16


def install_gpu(
    monkeypatch: pytest.MonkeyPatch, *, board: str | None = None, l4t: str | None = None, **gpu: int
) -> None:
    """Let this machine have a GPU, on a board if it is named; `gpu` holds arguments of `cuda_driver`."""
    driver, package = cuda_driver(**gpu), ModuleType("pycuda")
    package.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr(identity, "board_model", lambda: board)
    monkeypatch.setattr(identity, "l4t_release", lambda: l4t)


def cuda_driver(*, sms: int = 16, memory: int = 64 << 30, version: int = 12060, devices: int = 1) -> ModuleType:
    """Return a stand-in for `pycuda.driver` with an Orin. It must be initialised first."""
    cuda: Any = ModuleType("pycuda.driver")
    cuda.Error = type("Error", (Exception,), {})
    cuda.LogicError, cuda.RuntimeError = (type(name, (cuda.Error,), {}) for name in ("LogicError", "RuntimeError"))
    cuda.is_initialised = False

    def init() -> None:
        if devices == 0:
            raise cuda.RuntimeError("cuInit failed: no CUDA-capable device is detected")
        cuda.is_initialised = True

    class Device:
        def __init__(self, index: int) -> None:
            if not cuda.is_initialised:
                raise cuda.LogicError("cuDeviceGet failed: initialization error")
            if index >= devices:
                raise cuda.LogicError("cuDeviceGet failed: invalid device ordinal")

        def name(self) -> str:
            return "Orin"

        def compute_capability(self) -> tuple[int, int]:
            return 8, 7

        def total_memory(self) -> int:
            return memory

        def get_attribute(self, attribute: Attribute) -> int:
            return {Attribute.MULTIPROCESSOR_COUNT: sms}[attribute]

    cuda.init, cuda.Device, cuda.device_attribute, cuda.get_driver_version = init, Device, Attribute, lambda: version
    return cuda
