"""Readiness for jobs on machines of several kinds, read from trees like theirs."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.doctor.board import check_board, check_clocks
from edge.doctor.cameras import check_argus, check_cameras
from edge.doctor.check import Check, State
from edge.doctor.jetpack import jetpack_release
from edge.doctor.jobs import Diagnosis, Job, check_meters, examine
from edge.doctor.nvidia import check_driver, check_toolkit
from edge.system import EXTRAS
from tests.support.commands import ROOT
from tests.support.jetsons import ORIN_NX, THOR, argus, write_agx_thor, write_orin_nx, write_tree


def by_name(checks: object) -> dict[str, Check]:
    assert isinstance(checks, list | tuple)
    return {check.name: check for check in checks}


def job(diagnosis: Diagnosis, name: str) -> Job:
    return next(job for job in diagnosis.jobs if job.name == name)


@pytest.mark.parametrize(
    ("l4t", "version"),
    [
        ("R35 (release), REVISION: 4.1", "5"),
        ("R36 (release), REVISION: 3.0", "6.0"),
        ("R36 (release), REVISION: 4.0", "6.1"),
        ("R36 (release), REVISION: 4.3", "6.2"),
        ("R36 (release), REVISION: 4.7", "6.2.1"),
        ("R36 (release), REVISION: 5.2", "6.2.3"),
        ("R38 (release), REVISION: 2.0", "7.0"),
        ("R39 (release), REVISION: 2.0", "7.2"),
        ("R39 (release), REVISION: 2.1", "7.2.1"),
        ("R40 (release), REVISION: 1.0", None),
        ("no release", None),
    ],
)
def test_linux_for_tegra_tells_the_jetpack(l4t: str, version: str | None, tmp_path: Path) -> None:
    release = jetpack_release(write_tree(tmp_path, {"etc/nv_tegra_release": f"# {l4t}, GCID: 1\n"}))
    assert (release and release.version) == version


@pytest.mark.parametrize(
    ("release", "state"), [("36 (release), REVISION: 3.0", "problem"), ("41 (release), REVISION: 0.0", "warning")]
)
def test_a_jetpack_that_is_too_old_or_unknown_is_named(release: str, state: State, tmp_path: Path) -> None:
    root = write_tree(tmp_path, ORIN_NX | {"etc/nv_tegra_release": f"# R{release}\n"})
    assert by_name(check_board(root))["JetPack"].state == state


def test_a_board_is_described_with_its_jetpack_power_mode_memory_and_clocks(tmp_path: Path) -> None:
    root = write_orin_nx(tmp_path)
    checks = by_name(check_board(root))
    assert checks["machine"].value.startswith("NVIDIA Jetson Orin NX Engineering Reference Developer Kit, ")
    assert checks["JetPack"].value == "6.2 (L4T 36.4.3): Python 3.10, CUDA 12.6, TensorRT 10.3"
    assert checks["power mode"].value == "MAXN (mode 0)"
    assert checks["memory"].value == "11.4 of 15.3 GiB free, 7.6 GiB of swap"
    (clocks,) = check_clocks(root)
    assert (clocks.state, clocks.value) == ("warning", "17000000.gpu 918 MHz; 17000000.gpu vary")
    assert clocks.remedy.startswith("sudo jetson_clocks")
    write_tree(root, {"sys/class/devfreq/17000000.gpu/min_freq": "918000000"})
    assert check_clocks(root)[0].ok


def test_a_python_that_is_not_jetpacks_does_not_see_its_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.12.3")
    assert by_name(check_board(write_agx_thor(tmp_path)))["Python"].ok
    check = by_name(check_board(write_orin_nx(tmp_path)))["Python"]
    assert check.state == "problem"
    assert check.value == "3.12.3; TensorRT and OpenCV of JetPack 6.2 are for Python 3.10"


def test_little_memory_without_swap_is_a_warning_with_the_command_that_adds_swap(tmp_path: Path) -> None:
    meminfo = "MemTotal: 4000000 kB\nMemAvailable: 1000000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
    check = by_name(check_board(write_tree(tmp_path, ORIN_NX | {"proc/meminfo": meminfo})))["memory"]
    assert check.state == "warning"
    assert "swapon" in check.remedy


def test_a_toolkit_of_another_jetpack_is_named(tmp_path: Path) -> None:
    root = write_orin_nx(tmp_path)
    assert check_toolkit(root) == Check("CUDA toolkit", "ok", "12.6.11")
    write_tree(root, {"usr/local/cuda/version.json": THOR["usr/local/cuda/version.json"]})
    assert check_toolkit(root).value == "13.0.48; JetPack 6.2 comes with 12.6"
    for damaged in ("", "[]", '{"cuda": 1}'):
        write_tree(root, {"usr/local/cuda/version.json": damaged})
        assert check_toolkit(root).state == "absent"


def test_a_gpu_or_camera_without_permission_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_orin_nx(tmp_path)
    assert check_driver(root).ok
    assert check_cameras(root).ok
    monkeypatch.setattr(os, "access", lambda path, mode: path.name not in ("nvmap", "video1"))  # root may do all
    assert check_driver(root).value == f"no permission for {root / 'dev/nvmap'}"
    assert check_driver(root).remedy == "sudo usermod -aG video,render $USER, and log in again"
    assert check_cameras(root).value == f"no permission for {root / 'dev/video1'}"


def test_cameras_are_listed_by_name_without_their_metadata(tmp_path: Path) -> None:
    root = write_orin_nx(tmp_path)
    csi, webcam = f"{root}/dev/video0 (vi-output, imx219 10-0010)", f"{root}/dev/video1 (HD Pro Webcam C920)"
    assert check_cameras(root).value == f"{csi}, {webcam}"
    assert check_cameras(tmp_path / "nothing").state == "absent"


def test_csi_cameras_need_the_plugin_and_the_daemon(tmp_path: Path) -> None:
    root = write_orin_nx(tmp_path)
    (check,) = check_argus(root)
    assert (check.state, check.remedy.startswith("sudo systemctl restart nvargus-daemon")) == ("problem", True)
    with argus(root):
        assert check_argus(root)[0].ok
    (root / "usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstnvarguscamerasrc.so").unlink()
    assert "nvidia-l4t-gstreamer" in check_argus(root)[0].remedy
    assert check_argus(tmp_path / "no jetson") == []


def test_only_a_board_with_a_csi_camera_needs_argus(tmp_path: Path) -> None:
    with_csi = job(examine(["camera"], write_orin_nx(tmp_path / "a")), "camera")
    assert {"GStreamer", "argus"} <= set(by_name(with_csi.needs))
    only_webcam = {name: text for name, text in ORIN_NX.items() if "video0" not in name}
    without = job(examine(["camera"], write_tree(tmp_path / "b", only_webcam)), "camera")
    assert {"GStreamer", "argus"} <= set(by_name(without.profits))
    assert without.is_ready


def test_the_rails_of_a_board_are_listed_with_their_total(tmp_path: Path) -> None:
    assert check_meters(write_orin_nx(tmp_path)).value.startswith(
        "ina (VDD_IN, VDD_CPU_GPU_CV, VDD_SOC; total: the module's input)"
    )
    assert check_meters(tmp_path / "nothing").state == "absent"


@pytest.mark.parametrize(
    ("make", "state", "value"),
    [
        (lambda path: path.mkdir(), "ok", "{path}, "),
        (lambda path: None, "ok", "{path}, "),
        (lambda path: path.write_text(""), "problem", "{path}: {path} is not a folder"),
        (lambda path: path.symlink_to("nowhere"), "problem", "{path}: {path} is not a folder"),
    ],
    ids=["folder", "to be made", "file", "dangling link"],
)
def test_the_engine_cache_must_be_a_folder(
    make: Callable[[Path], object], state: State, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache"
    make(path)
    monkeypatch.setenv("EDGE_CACHE", str(path))
    check = by_name(check_board())["engine cache"]
    assert check.state == state
    assert check.value.startswith(value.format(path=path))


def test_an_engine_cache_without_permission_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root has every permission
    assert by_name(check_board())["engine cache"].state == "problem"


def test_a_job_is_ready_when_all_it_needs_is_usable() -> None:
    fine, improvable = Check("a", "ok", "1"), Check("b", "warning", "2", "do that")
    absent, broken = Check("c", "absent", "3", "install it"), Check("d", "problem", "4", "mend it")
    assert Job("cpu", (fine, improvable), (absent, broken)).is_ready
    assert Job("cpu", (fine, absent, broken), ()).missing == [absent, broken]


def test_whatever_is_not_in_order_has_a_remedy(tmp_path: Path) -> None:
    for root in (Path("/"), write_orin_nx(tmp_path / "orin"), write_agx_thor(tmp_path / "thor"), tmp_path / "nothing"):
        for check in examine(root=root).checks():
            assert bool(check.remedy) != check.ok
            assert not (check.ok and any(word in check.value for word in ("missing", "not ", "none")))


def test_doctor_works_with_the_runtime_extra_alone() -> None:
    others = [module for module, extra in EXTRAS.items() if extra != "runtime"] + ["onnx", "modelopt", "pynvml"]
    script = (
        f"import sys; sys.modules |= dict.fromkeys({others!r})\n"
        "from edge.doctor.jobs import examine\n"
        "print(*(job.name for job in examine().jobs if job.is_ready))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "cpu" in done.stdout, done.stderr
    assert not {"gpu", "compile"} & set(done.stdout.split())
