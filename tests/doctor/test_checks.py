"""Checks of `edge doctor`: an absent capability is no problem, a broken one is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.doctor import checks
from edge.doctor.checks import Check, State, check_machine

BROKEN = {
    "not_there": None,
    "needs_another": "import something_else",
    "system_library": "raise ImportError('libGL.so.1: cannot open\\nshared object file')",
    "old_numpy": "raise RuntimeError('module was compiled against NumPy 1.x')",
}


@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("not_there", "not installed"),
        ("needs_another", "installed, but it needs something_else"),
        ("system_library", "installed, but cannot be loaded: libGL.so.1: cannot open shared object file"),
        ("old_numpy", "installed, but cannot be loaded: module was compiled against NumPy 1.x"),
    ],
)
def test_a_library_is_absent_only_where_it_is_not_installed(
    name: str, message: str, needed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (source := BROKEN[name]) is not None:
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    check = checks._library(name, needed=needed, remedy="pip install it")
    assert check.value == message
    assert check.state == ("absent" if name == "not_there" and not needed else "problem")
    assert check.remedy


@pytest.mark.parametrize(
    ("make", "state", "value"),
    [
        (lambda path: path.mkdir(), "ok", "{path}"),
        (lambda path: None, "ok", "{path}"),
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
    check = checks._engine_cache()
    assert (check.state, check.value) == (state, value.format(path=path))


def test_a_cache_or_camera_without_permission_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "video0").touch()
    monkeypatch.setattr(checks, "Path", lambda path: tmp_path if path == "/dev" else Path(path))
    assert checks._cameras().state == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root has every permission
    assert checks._cameras() == Check(
        "cameras",
        "problem",
        f"no permission for {tmp_path / 'video0'}",
        "add this user to their group, usually with sudo usermod -aG video $USER, and log in again",
    )
    assert checks._engine_cache().state == "problem"


def test_every_check_that_is_not_ok_has_a_remedy_and_none_is_ok_and_missing() -> None:
    for check in check_machine():
        assert check.ok == (check.state == "ok")
        assert bool(check.remedy) != check.ok
        assert not (check.ok and any(word in check.value for word in ("missing", "not ", "none")))


@pytest.mark.parametrize(
    ("version", "board", "is_named"),
    [("10.16.2.10", "Jetson AGX Orin", True), ("10.16.2.10", None, False), ("10.3.0", "Jetson AGX Orin", False)],
)
def test_a_tensorrt_that_may_refuse_int8_on_orin_is_named(
    version: str, board: str | None, is_named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "board_model", lambda: board)
    monkeypatch.setattr(checks, "_library", lambda name, needed, remedy: Check(name, "ok", version))
    check = checks._tensorrt()
    assert ("TensorRT#4832" in check.value, check.remedy != "") == (is_named, is_named)
