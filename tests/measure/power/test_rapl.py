"""RAPL: domains by name, wraps of the counters, and missing permission."""

import os
from pathlib import Path
from time import sleep
from unittest import mock

import pytest

from edge.errors import UnavailableError
from edge.measure.power.base import Meter, Total, Unavailable
from edge.measure.power.find import find_meters
from edge.measure.power.rapl import find_rapl
from edge.measure.power.sampler import Sampler
from edge.measure.power.trace import Trace
from tests.support.boards import write_board, write_files, write_rapl


def meter_of(root: Path) -> Meter:
    meter = find_rapl(root)
    assert not isinstance(meter, Unavailable), meter
    return meter


def count(zone: Path, energy_uj: int) -> None:
    write_files(zone, {"energy_uj": str(energy_uj)})


def test_subdomains_are_named_by_their_package_and_the_total_counts_each_part_once(tmp_path: Path) -> None:
    names = {
        "intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1", "intel-rapl:2": "psys",
    }  # fmt: skip
    for zone, name in names.items():
        write_rapl(tmp_path, zone, name, 1000)
    write_rapl(tmp_path, "intel-rapl-mmio:0", "package-0", 1000)  # the same package by another interface
    meter = meter_of(tmp_path)
    assert set(meter.rails) == {"package-0", "package-0/core", "package-0/dram", "package-1", "psys"}
    assert isinstance(meter.total, Total)
    assert meter.total.rails == ("package-0", "package-1", "package-0/dram")


def test_a_counter_goes_on_rising_when_it_wraps(tmp_path: Path) -> None:
    zone = write_rapl(tmp_path, "intel-rapl:0", "package-0", 900_000, range_uj=1_000_000)
    meter = meter_of(tmp_path)
    start_mj = meter.read().values["package-0"]
    energies_mj = []
    for energy_uj in (999_000, 4_000, 400_000, 800_000, 100_000):
        count(zone, energy_uj)
        energies_mj.append(meter.read().values["package-0"] - start_mj)
    assert energies_mj == [99.0, 104.0, 500.0, 900.0, 1200.0]


def test_a_counter_that_was_reset_has_no_value_instead_of_a_wrap(tmp_path: Path) -> None:
    zone = write_rapl(tmp_path, "intel-rapl:0", "package-0", 300_000, range_uj=1_000_000)
    meter = meter_of(tmp_path)
    for energy_uj in (5, 400_000):
        count(zone, energy_uj)
        sample = meter.read()
        assert not sample.values
        assert sample.errors["package-0"] == "the counter went from 300000 to 5 uJ, which is not a wrap: it was reset"


def test_a_series_of_readings_counts_from_its_start_after_a_pause_of_any_length(tmp_path: Path) -> None:
    zone = write_rapl(tmp_path, "intel-rapl:0", "package-0", 300_000, range_uj=1_000_000)
    meter = meter_of(tmp_path)
    count(zone, 950_000)  # more than half the range later
    with Sampler([meter], 0.001) as sampler:
        sleep(0.05)
        count(zone, 10_000)
        sleep(0.05)
    [(_, readings)] = sampler.readings()
    trace = readings["package-0"]
    assert isinstance(trace, Trace)
    assert trace.values[-1] - trace.values[0] == 60.0


def test_missing_permission_is_a_reason_with_a_remedy(tmp_path: Path) -> None:
    zone = write_rapl(tmp_path, "intel-rapl:0", "package-0", 1000)
    read_text = Path.read_text

    def refuse(path: Path, *args: object, **kwargs: object) -> str:
        if path == zone / "energy_uj":  # chmod does not stop tests that run as root
            raise PermissionError(13, os.strerror(13), str(path))
        return read_text(path)

    with mock.patch.object(Path, "read_text", refuse):
        meter = find_rapl(tmp_path)
    assert isinstance(meter, Unavailable)
    assert meter.reason == f"permission denied: {zone / 'energy_uj'}; run as root, or let root make it readable for you"


@pytest.mark.parametrize("text", ["", "many"])
def test_a_damaged_range_makes_the_meter_unavailable(text: str, tmp_path: Path) -> None:
    zone = write_rapl(tmp_path, "intel-rapl:0", "package-0", 1000)
    write_files(zone, {"max_energy_range_uj": text})
    assert isinstance(find_rapl(tmp_path), Unavailable)


def test_a_machine_with_a_meter_names_the_others_that_it_lacks(tmp_path: Path) -> None:
    write_board(tmp_path, "Orin NX 16 GB")
    meters = find_meters(tmp_path)
    assert "ina" in {meter.name for meter in meters.readable}
    assert "rapl" in {meter.name for meter in meters.unavailable}


def test_a_machine_without_any_meter_has_a_reason_for_each_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.measure.power.find.find_nvml", lambda: Unavailable("nvml", "the driver lists no GPU"))
    with pytest.raises(UnavailableError) as caught:
        find_meters(tmp_path)
    assert caught.value.exit_code == 4
    for reason in ("ina: no INA3221", "nvml: the driver lists no GPU", "rapl: no domain"):
        assert reason in str(caught.value)
