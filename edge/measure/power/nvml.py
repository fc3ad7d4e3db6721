"""NVML energy counters of discrete NVIDIA GPUs: millijoules since the driver was loaded, from Volta onwards."""

from functools import partial
from typing import Any

from edge.measure.power.base import Meter, RailMeter, Total, Unavailable, readable
from edge.system import pip_install

NAME = "nvml"


def find_nvml() -> Meter | Unavailable:
    """Return a meter of all GPUs. On a Jetson, NVML starts but has no energy counter."""
    try:
        import pynvml
    except ImportError:
        return Unavailable(NAME, f"nvidia-ml-py is not installed; {pip_install('energy')}")
    try:
        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(k) for k in range(pynvml.nvmlDeviceGetCount())]
        names = [f"GPU {k} {pynvml.nvmlDeviceGetName(gpu)}" for k, gpu in enumerate(gpus)]
    except pynvml.NVMLError as error:
        return Unavailable(NAME, str(error))
    if not gpus:
        return Unavailable(NAME, "the driver lists no GPU")
    readers = {name: partial(_energy_mj, pynvml, gpu) for name, gpu in zip(names, gpus, strict=True)}
    return readable(RailMeter(NAME, "energy_mj", readers, _total(names)))


def _total(names: list[str]) -> Total | Unavailable:
    if len(names) == 1:
        return Total((names[0],), "the graphics board; processor and memory of the host are not measured")
    return Unavailable("total", f"{len(names)} GPUs have a counter each; see that of the GPU in use")


def _energy_mj(pynvml: Any, gpu: Any) -> float:
    """Return a GPU's counter.

    Raises:
        OSError: NVML does not return it.
    """
    try:
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu))
    except pynvml.NVMLError as error:
        raise OSError(f"no energy counter: {error}") from error
