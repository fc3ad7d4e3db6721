"""Clocks, temperatures, power mode and throttling, read from trees like those of a Jetson and of an x86 machine.

The Jetson's files are written from NVIDIA's documentation and the kernel's sources, not captured from a board.
"""

import subprocess
from pathlib import Path

import pytest

from edge.machine_state import Clock, MachineState, machine_state, nvidia_gpus, power_mode, throttling
from edge.system import conditions, git_revision, with_end
from tests.support.jetsons import ALERTS, write_tree

ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    "var/lib/dpkg/status": "Package: nvidia-jetpack-dev\nVersion: 1\n\n"
    "Package: nvidia-jetpack\nArchitecture: arm64\nVersion: 6.2+b77\n\nPackage: zlib1g\nVersion: 2\n",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MODE_30W >\n",
    **{
        f"sys/devices/system/cpu/cpufreq/policy{cpu}/scaling_{name}": value
        for cpu, khz in ((0, "1728000"), (4, "729600"))
        for name, value in (
            ("cur_freq", khz), ("min_freq", "729600"), ("max_freq", "1728000"), ("governor", "schedutil"),
        )
    },
    "sys/class/devfreq/17000000.gpu/cur_freq": "624750000",
    "sys/class/devfreq/17000000.gpu/min_freq": "624750000",
    "sys/class/devfreq/17000000.gpu/max_freq": "624750000",
    "sys/class/devfreq/17000000.gpu/governor": "nvhost_podgov",
    "sys/class/devfreq/15340000.vic/cur_freq": "115200000",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "48375",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal",  # suspended: has no temperature
    "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0",
    "sys/class/thermal/cooling_device0/cur_state": "0",
    "sys/class/thermal/cooling_device9/type": "pwm-fan",
    "sys/class/thermal/cooling_device9/cur_state": "3",
    **ALERTS,
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "7",
    "proc/loadavg": "0.52 0.58 0.59 1/467 21035\n",
}  # fmt: skip


def test_state_of_a_jetson(tmp_path: Path) -> None:
    assert machine_state(write_tree(tmp_path, ORIN)) == MachineState(
        power_mode="MODE_30W (mode 2)",
        clocks={
            "cpu0": Clock((1728 + 729.6) / 2, 729.6, 1728, "schedutil"),
            "17000000.gpu": Clock(624.75, 624.75, 624.75, "nvhost_podgov"),
        },
        temperatures_c={"cpu-thermal": 48.375},
        throttle_events={"oc1": 0, "oc3": 7},
        limited_by=[],
        load_average=0.52,
    )


def test_conditions_of_a_jetson_name_board_release_and_jetpack(tmp_path: Path) -> None:
    recorded = conditions(write_tree(tmp_path, ORIN))
    assert recorded["board"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert recorded["l4t"].startswith("# R36 (release), REVISION: 4.3")
    assert recorded["jetpack"] == "6.2+b77"
    assert recorded["temperatures_c"] == {"cpu-thermal": 48.375}


def test_a_machine_without_sensors_has_an_empty_state(tmp_path: Path) -> None:
    assert machine_state(tmp_path) == MachineState(None, {}, {}, {}, [], None)


def test_cpus_with_other_limits_are_clocks_of_their_own(tmp_path: Path) -> None:
    for cpu, khz in enumerate(("5000000", "4000000", "3000000")):
        folder = f"sys/devices/system/cpu/cpufreq/policy{cpu}/scaling_"
        highest = "5200000" if cpu < 2 else "3800000"
        files = {"cur_freq": khz, "max_freq": highest, "governor": "performance"}
        write_tree(tmp_path, {folder + name: value for name, value in files.items()})
    assert machine_state(tmp_path).clocks == {
        "cpu0": Clock(4500, None, 5200, "performance"),
        "cpu2": Clock(3000, None, 3800, "performance"),
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"var/lib/nvpmodel/status": "pmode:0012", "etc/nvpmodel.conf": "< POWER_MODEL ID=1 NAME=X >"}, "mode 12"),
        ({"var/lib/nvpmodel/status": "", "sys/firmware/acpi/platform_profile": "balanced\n"}, "balanced"),
        ({}, None),
    ],
)
def test_power_mode(files: dict[str, str], expected: str | None, tmp_path: Path) -> None:
    assert power_mode(write_tree(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"sys/class/hwmon/hwmon3/oc3_event_cnt": "9"}, ["oc3 rose by 2"]),
        ({"sys/class/thermal/cooling_device0/cur_state": "4"}, ["cpufreq-cpu0 limits clocks"]),
        ({"sys/class/thermal/cooling_device9/cur_state": "4"}, []),  # a faster fan limits nothing
        ({"sys/class/thermal/cooling_device10/cur_state": "2"}, []),  # nor does the alert of a hot surface
        ({"sys/class/thermal/cooling_device11/cur_state": "1"}, ["cpu-throttle-alert limits clocks"]),
        ({"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "5"}, []),  # unknown before
    ],
)
def test_throttling_between_two_states(changes: dict[str, str], expected: list[str], tmp_path: Path) -> None:
    before = conditions(write_tree(tmp_path, ORIN))
    recorded = with_end(before, write_tree(tmp_path, changes))
    assert recorded["throttling"] == expected
    assert {name: recorded[name] for name in before} == before
    assert set(recorded["after"]) <= set(before)


def test_throttling_that_stopped_before_the_end_counts(tmp_path: Path) -> None:
    limited = write_tree(tmp_path, {**ORIN, "sys/class/thermal/cooling_device0/cur_state": "1"})
    before = machine_state(limited)
    after = machine_state(write_tree(tmp_path, {"sys/class/thermal/cooling_device0/cur_state": "0"}))
    assert throttling(before, after) == ["cpufreq-cpu0 limits clocks"]


def test_the_revision_is_that_of_the_checkout_itself(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "a")
    revision = git_revision(tmp_path)
    assert revision is not None
    assert len(revision) == 40
    (tmp_path / "file").write_text("2")
    assert git_revision(tmp_path) == f"{revision}-dirty"
    (tmp_path / "site-packages").mkdir()
    assert git_revision(tmp_path / "site-packages") is None


def test_discrete_gpus_are_read_from_nvidia_smi(tmp_path: Path) -> None:
    command = tmp_path / "nvidia-smi"
    rows = (
        "0, 61, 1410, 1980, 0x0000000000000001",
        "1, 84, 990, 1980, 0x0000000000000020",
        "2, [N/A], [N/A], [N/A], 0x0",
    )
    command.write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows))
    command.chmod(0o755)
    first, second = nvidia_gpus(str(command))
    assert (first.temperature_c, first.clock, first.is_throttled) == (61, Clock(1410, None, 1980, None), False)
    assert second.is_throttled
    assert nvidia_gpus(str(tmp_path / "missing")) == []
