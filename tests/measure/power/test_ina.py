"""Rails of Jetson boards: their own names, the right total, and a reason where a sensor has no value."""

from pathlib import Path

import pytest

from edge.measure.power.base import Meter, Total, Unavailable
from edge.measure.power.ina import find_ina
from tests.support.boards import (
    TEGRASTATS,
    THOR_INPUT_MW,
    THOR_MW,
    captured_rails,
    write_board,
    write_files,
    write_ina238,
    write_ina3221,
    write_thor,
)


def meter_of(root: Path) -> Meter:
    meter = find_ina(root)
    assert not isinstance(meter, Unavailable), meter
    return meter


@pytest.mark.parametrize("board", TEGRASTATS)
def test_every_connected_rail_of_a_board_has_its_own_name_and_power(board: str, tmp_path: Path) -> None:
    write_board(tmp_path, board)
    meter = meter_of(tmp_path)
    expected = {name: power_mw for name, power_mw in captured_rails(board) if name != "NC"}
    assert meter.read().values == expected
    assert tuple(meter.rails) == tuple(expected)
    assert meter.quantity == "power_mw"


@pytest.mark.parametrize(
    ("board", "total"),
    [
        ("AGX Orin 32 GB", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),
        ("AGX Orin 64 GB", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),
        ("Orin NX 16 GB", ("VDD_IN",)),
        ("Xavier NX 8 GB", ("VDD_IN",)),
    ],
)
def test_the_total_of_a_board_neither_omits_nor_doubles_a_rail(
    board: str, total: tuple[str, ...], tmp_path: Path
) -> None:
    write_board(tmp_path, board)
    found = meter_of(tmp_path).total
    assert isinstance(found, Total)
    assert found.rails == total


def test_thor_has_its_total_from_the_ina238_and_no_rail_from_usb_c(tmp_path: Path) -> None:
    write_thor(tmp_path)
    meter = meter_of(tmp_path)
    assert meter.read().values == {**THOR_MW, "VIN": THOR_INPUT_MW}
    assert isinstance(meter.total, Total)
    assert meter.total.rails == ("VIN",)


def test_a_board_with_unknown_rails_has_no_total_and_says_so(tmp_path: Path) -> None:
    write_board(tmp_path, "AGX Xavier 16 GB")
    total = meter_of(tmp_path).total
    assert isinstance(total, Unavailable)
    assert "CPU, CV, GPU, SOC, SYS5V, VDDRQ is not known" in total.reason


def test_rails_of_the_same_name_are_told_apart_by_their_chip(tmp_path: Path) -> None:
    write_ina3221(tmp_path, 0, [("VDD_IN", 5000)])
    write_ina3221(tmp_path, 1, [("VDD_IN", 7000)])
    assert meter_of(tmp_path).read().values == {"VDD_IN (hwmon0)": 5000, "VDD_IN (hwmon1)": 7000}


def test_a_machine_without_such_a_chip_has_no_meter(tmp_path: Path) -> None:
    write_files(tmp_path / "sys/class/hwmon/hwmon0", {"name": "coretemp", "temp1_input": "40000"})
    assert str(find_ina(tmp_path)) == "ina: no INA3221 or INA238 in /sys/class/hwmon, as on a Jetson"


def test_a_rail_that_vanishes_has_a_reason_while_the_others_have_values(tmp_path: Path) -> None:
    write_board(tmp_path, "Orin NX 16 GB")
    meter = meter_of(tmp_path)
    (tmp_path / "sys/class/hwmon/hwmon0/curr2_input").unlink()
    sample = meter.read()
    assert sample.values == {"VDD_IN": 5469, "VDD_SOC": 1579}
    assert list(sample.errors) == ["VDD_CPU_GPU_CV"]
    assert "No such file" in sample.errors["VDD_CPU_GPU_CV"]


def test_a_chip_whose_registers_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    chip = write_ina238(tmp_path, 0, "VIN", 30000)
    write_files(chip, {"power1_input": ""})
    assert isinstance(find_ina(tmp_path), Unavailable)
