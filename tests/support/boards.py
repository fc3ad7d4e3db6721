"""Trees like the sysfs of machines with power sensors, in a folder of a test.

Rails and powers of the captured boards are from lines that `tegrastats` printed on idle boards, from the project
jetsontools (https://github.com/justincdavis/jetsontools, data/logs): Copyright (c) 2024 Justin Davis, MIT License.
`tegrastats` prints only powers; how they divide into voltage and current is made up here. No capture of a Thor exists:
its tree is written from the documentation of its rails.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

VOLTAGE_MV = 1000
TEGRASTATS = {
    "AGX Orin 32 GB": "VDD_GPU_SOC 4368mW/4368mW VDD_CPU_CV 1588mW/1588mW VIN_SYS_5V0 4233mW/4233mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 403mW/403mW NC 0mW/0mW",
    "AGX Orin 64 GB": "VDD_GPU_SOC 5191mW/5191mW VDD_CPU_CV 1997mW/1997mW VIN_SYS_5V0 4320mW/4320mW "
    "VDDQ_VDD2_1V8AO 401mW/401mW",
    "Orin NX 16 GB": "VDD_IN 5469mW/5469mW VDD_CPU_GPU_CV 970mW/970mW VDD_SOC 1579mW/1579mW",
    "AGX Xavier 16 GB": "GPU 463/463 CPU 1236/1236 SOC 2318/2318 CV 0/0 VDDRQ 154/154 SYS5V 2934/2934",
    "Xavier NX 8 GB": "VDD_IN 5480mW/5480mW VDD_CPU_GPU_CV 899mW/899mW VDD_SOC 1347mW/1347mW",
}
"""Captured lines by board, from the first rail on."""
THOR_MW = {"VDD_GPU": 0, "VDD_CPU_SOC_MSS": 6200, "VIN_SYS_5V0": 5100}
"""Rails of Thor's INA3221, from documentation; the GPU's reads 0 while it is gated."""
THOR_INPUT_MW = 31250


def captured_rails(board: str) -> list[tuple[str, int]]:
    """Return the rails of a captured board, with their power in milliwatts."""
    return [(name, int(power)) for name, power in re.findall(r"(\w+) (\d+)(?:mW)?/", TEGRASTATS[board])]


def write_board(root: Path, board: str) -> None:
    """Write the INA3221 chips of a captured board: three channels each."""
    rails = captured_rails(board)
    for chip in range(0, len(rails), 3):
        write_ina3221(root, chip // 3, rails[chip : chip + 3])


def write_thor(root: Path) -> None:
    """Write the chips of a Thor."""
    write_ina3221(root, 0, list(THOR_MW.items()))
    write_files(root / "sys/class/hwmon/hwmon1", {"name": "ucsi_source_psy_USBC000:001", "curr1_input": "3000"})
    write_ina238(root, 2, "VIN", THOR_INPUT_MW)


def write_ina3221(root: Path, index: int, rails: Sequence[tuple[str, int]]) -> Path:
    """Write a chip, also with its sum of shunt voltages, which is not a rail."""
    chip = root / f"sys/class/hwmon/hwmon{index}"
    files = {"name": "ina3221", "in7_label": "sum of shunt voltages", "in7_input": "120", "curr4_input": "9999"}
    for channel, (label, power_mw) in enumerate(rails, start=1):
        files |= {
            f"in{channel}_label": label,
            f"in{channel}_input": f"{VOLTAGE_MV}",
            f"curr{channel}_input": f"{power_mw}",
        }
    return write_files(chip, files)


def write_ina238(root: Path, index: int, label: str, power_mw: int) -> Path:
    """Write a chip with one rail, in microwatts."""
    chip = root / f"sys/class/hwmon/hwmon{index}"
    return write_files(chip, {"name": "ina238", "in1_label": label, "power1_input": f"{power_mw * 1000}"})


def write_rapl(root: Path, zone: str, name: str, energy_uj: int, range_uj: int = 262_143_328_850) -> Path:
    """Write a domain of RAPL, such as zone `intel-rapl:0:1`; the range is that of a desktop processor."""
    files = {"name": name, "energy_uj": f"{energy_uj}", "max_energy_range_uj": f"{range_uj}"}
    return write_files(root / f"sys/class/powercap/{zone}", files)


def write_files(folder: Path, files: Mapping[str, str]) -> Path:
    """Write files as sysfs has them, each with a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")
    return folder
