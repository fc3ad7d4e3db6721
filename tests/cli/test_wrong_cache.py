"""Engine caches that cannot be used: no room, not writable, or of another user."""

import os
from pathlib import Path

import pytest

from edge.bundle.bundle import MANIFEST
from edge.cli.main import main as edge
from tests.support.commands import call, contents, error_line, full_disk, only_error_line


def test_a_disk_that_fills_up_while_an_engine_is_built_leaves_no_engine(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    words = ("build", bundle, "--precision", "fp32")
    with full_disk(1000):
        result = call(edge, *words)
    error_line(result)
    assert not (tmp_path / "cache").exists() or not os.listdir(tmp_path / "cache")
    assert call(edge, *words).code == 0


@pytest.mark.parametrize("place", ["a file", "below a file", "/proc"])
def test_a_cache_that_cannot_be_written_is_an_error(
    place: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bundle / MANIFEST
    root = {"a file": file, "below a file": file / "cache", "/proc": Path("/proc/cache")}[place]
    monkeypatch.setenv("EDGE_CACHE", str(root))
    before = contents(tmp_path)
    message = only_error_line(call(edge, "build", bundle, "--precision", "fp32"))
    assert f"engine cache {root} cannot be created (" in message
    assert message.endswith("; set EDGE_CACHE to a folder of your own")
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_cache_of_another_user_is_not_used(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 12345, 12345)
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    message = only_error_line(call(edge, "build", bundle, "--precision", "fp32"))
    assert "belongs to another user; set EDGE_CACHE to a folder of your own" in message
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_cache_that_others_may_write_to_is_not_used(
    mode: int, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    root.chmod(mode)
    monkeypatch.setenv("EDGE_CACHE", str(root))
    message = only_error_line(call(edge, "build", bundle, "--precision", "fp32"))
    assert f"engine cache {root} may be written by other users (mode {mode:04o}); set EDGE_CACHE to a folder" in message
    assert os.listdir(root) == []
