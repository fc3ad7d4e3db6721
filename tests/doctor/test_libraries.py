"""Checks of libraries: one that is absent is no problem, one that is there and does not load is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.doctor import nvidia
from edge.doctor.check import Check, State
from edge.doctor.libraries import MODULES, check_library, check_modules
from edge.system import pip_uninstall
from tests.support.jetsons import write_agx_thor, write_orin_nx, write_tree

BROKEN = {
    "not_there": ("absent", "not installed", "pip install it"),
    "needs_another": ("problem", "installed, but it needs something_else", "pip install something_else"),
    "system_library": (
        "problem",
        "installed, but cannot be loaded: libGL.so.1: cannot open shared object file",
        "reinstall: pip install it",
    ),
    "old_numpy": (
        "problem",
        "installed, but cannot be loaded: module was compiled against NumPy 1.x",
        "pip install 'numpy<2'",
    ),
}
SOURCES = {
    "needs_another": "import something_else",
    "system_library": "raise ImportError('libGL.so.1: cannot open\\nshared object file')",
    "old_numpy": "raise RuntimeError('module was compiled against NumPy 1.x')",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_library_is_absent_only_where_it_is_not_installed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in SOURCES:
        (tmp_path / f"{name}.py").write_text(SOURCES[name])
    monkeypatch.syspath_prepend(tmp_path)
    check = check_library(name, "pip install it")
    assert (check.state, check.value, check.remedy) == BROKEN[name]


def test_a_submodule_of_a_missing_library_is_not_installed() -> None:
    assert check_library("not_there.core", "pip install it").value == "not installed"


def test_a_library_of_the_system_that_the_environment_hides_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/python3.10/dist-packages/not_there"
    folder.mkdir(parents=True)
    check = check_library("not_there", "flash JetPack", tmp_path)
    assert (check.state, check.value) == ("problem", f"in {folder}, which this environment does not see")
    assert "--system-site-packages" in check.remedy


def test_modules_of_an_extra_are_looked_for_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "mixed", ("numpy", "not_there", "cv2"))
    check = check_modules("mixed")
    assert (check.state, check.value) == ("absent", "not installed: not_there")


@pytest.mark.parametrize(
    ("version", "state", "value"),
    [
        ("10.3.0", "ok", "10.3.0"),
        ("10.30.0", "warning", "10.30.0; JetPack 6.2 comes with 10.3"),
        ("11.1.0", "warning", "11.1.0; JetPack 6.2 comes with 10.3"),
        ("8.6.2", "problem", "8.6.2; bundles need 10.3 or later"),
    ],
)
def test_a_tensorrt_that_does_not_belong_to_this_jetpack_is_named(
    version: str, state: State, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_tensorrt(version, tmp_path, monkeypatch)
    check = nvidia.check_tensorrt(write_orin_nx(tmp_path))
    assert (check.state, check.value) == (state, value)


def test_the_distributions_that_have_another_tensorrt_are_to_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in {"tensorrt": "", "tensorrt_cu13": "tensorrt", "tensorrt_cu13_libs": "tensorrt_libs"}.items():
        facts = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 11.1.0\n", "top_level.txt": f"{module}\n"}
        write_tree(tmp_path / f"{name}-11.1.0.dist-info", facts)
    monkeypatch.syspath_prepend(tmp_path)
    install_tensorrt("11.1.0", tmp_path, monkeypatch)
    check = nvidia.check_tensorrt(write_orin_nx(tmp_path / "board"))
    assert check.remedy == "pip uninstall -y tensorrt tensorrt_cu13, to see JetPack's own"


def test_a_module_of_no_distribution_is_removed_with_the_ones_named() -> None:
    assert pip_uninstall("not_there", "others") == "pip uninstall -y others"


@pytest.mark.parametrize(
    ("version", "board", "is_named"),
    [("10.16.2.10", "Jetson AGX Orin", True), ("10.16.2.10", "a desktop", False), ("10.13.0", "Jetson Orin", False)],
)
def test_a_tensorrt_that_may_refuse_int8_on_orin_is_named(
    version: str, board: str, is_named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_tensorrt(version, tmp_path, monkeypatch)
    check = nvidia.check_tensorrt(write_tree(tmp_path, {"proc/device-tree/model": board}))
    assert ("TensorRT#4832" in check.value, check.state == "warning") == (is_named, is_named)
    assert check.is_usable


@pytest.mark.parametrize("write", [write_orin_nx, write_agx_thor])
def test_tensorrt_for_rtx_is_of_no_use_where_it_has_no_target(write: Callable[[Path], Path], tmp_path: Path) -> None:
    check = nvidia.check_tensorrt_rtx(write(tmp_path))
    assert not check.is_usable
    assert check.remedy == "use --backend tensorrt"


def install_tensorrt(version: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `import tensorrt` find a module with this version only."""
    check = Check("tensorrt", "ok", version)
    monkeypatch.setattr(nvidia, "check_library", lambda name, remedy, root: check)
