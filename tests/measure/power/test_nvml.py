"""NVML: a counter per GPU, and the reason where a machine has none."""

import sys
import time
from types import ModuleType

import pytest

from edge.measure.power.base import Meter, Total, Unavailable
from edge.measure.power.nvml import find_nvml


class NVMLError(Exception):
    """Error of the stand-in."""


class StandInNvml(ModuleType):
    """NVML on a machine with these GPUs; refuses calls before `nvmlInit`, and handles it did not give."""

    NVMLError = NVMLError

    def __init__(self, energies_mj: dict[str, int | None], driver: bool = True) -> None:
        super().__init__("pynvml")
        self.energies_mj, self.driver, self.started = energies_mj, driver, False

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.started = True

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._check_started()
        return len(self.energies_mj)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        self._check_started()
        return list(self.energies_mj)[index]

    def nvmlDeviceGetName(self, gpu: str) -> str:  # noqa: N802
        assert gpu in self.energies_mj
        return gpu

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: str) -> int:  # noqa: N802
        energy_mj = self.energies_mj[gpu]
        if energy_mj is None:
            raise NVMLError("Not Supported")
        return energy_mj

    def _check_started(self) -> None:
        if not self.started:
            raise NVMLError("Uninitialized")


def install(nvml: StandInNvml, monkeypatch: pytest.MonkeyPatch) -> Meter | Unavailable:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return find_nvml()


def test_a_gpu_is_a_rail_with_its_counter_and_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = StandInNvml({"NVIDIA H100": 5000})
    meter = install(nvml, monkeypatch)
    assert not isinstance(meter, Unavailable)
    assert meter.quantity == "energy_mj"
    assert isinstance(meter.total, Total)
    assert meter.total.rails == ("GPU 0 NVIDIA H100",)
    nvml.energies_mj["NVIDIA H100"] = 7500
    assert meter.read().values == {"GPU 0 NVIDIA H100": 7500.0}


def test_of_two_gpus_neither_is_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = install(StandInNvml({"NVIDIA L4": 1, "NVIDIA T4": None}), monkeypatch)
    assert not isinstance(meter, Unavailable)
    assert isinstance(meter.total, Unavailable)
    sample = meter.read()
    assert sample.values == {"GPU 0 NVIDIA L4": 1.0}
    assert sample.errors == {"GPU 1 NVIDIA T4": "no energy counter: Not Supported"}


@pytest.mark.parametrize(
    ("nvml", "reason"),
    [
        (StandInNvml({"Orin (nvgpu)": None}), "no energy counter: Not Supported"),
        (StandInNvml({}, driver=False), "Driver Not Loaded"),
        (StandInNvml({}), "the driver lists no GPU"),
    ],
)
def test_a_machine_without_a_counter_has_no_meter(
    nvml: StandInNvml, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert install(nvml, monkeypatch) == Unavailable("nvml", reason)


def test_a_missing_library_has_its_command_as_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = find_nvml()
    assert isinstance(meter, Unavailable)
    assert "[energy]" in meter.reason


@pytest.mark.gpu
def test_the_counter_of_a_real_gpu_rises_as_its_power_says() -> None:
    meter = find_nvml()
    if isinstance(meter, Unavailable):
        pytest.skip(str(meter))
    import pynvml

    rail = meter.rails[0]
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    first, powers_mw = meter.read(), []
    while (last := meter.read()).time_s - first.time_s < 3:
        powers_mw.append(pynvml.nvmlDeviceGetPowerUsage(gpu))
        time.sleep(0.02)
    power_mw = (last.values[rail] - first.values[rail]) / (last.time_s - first.time_s)
    assert power_mw == pytest.approx(sum(powers_mw) / len(powers_mw), rel=0.2)
