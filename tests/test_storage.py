"""Atomic writes: after an error or a kill, the old content is complete and no temporary files are left."""

import hashlib
import os
import stat
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pytest

from edge.storage import atomic_dir, atomic_file, sha256_of, write_file
from tests.support.commands import contents, full_disk

OLD, NEW = b"old content", b"new content, longer"


class AtomicWrite(Protocol):
    def __call__(self, path: Path) -> AbstractContextManager[Path]: ...


def fill(partial: Path, content: bytes) -> None:
    """Write the content to a file, or to a file in a folder."""
    (partial / "file" if partial.is_dir() else partial).write_bytes(content)


def read(path: Path) -> bytes:
    return (path / "file" if path.is_dir() else path).read_bytes()


def put(path: Path, write: AtomicWrite, content: bytes) -> None:
    with write(path) as partial:
        fill(partial, content)


@pytest.fixture(params=[atomic_file, atomic_dir], ids=["file", "folder"])
def write(request: pytest.FixtureRequest) -> AtomicWrite:
    atomic_write: AtomicWrite = request.param
    return atomic_write


@pytest.fixture
def dead_process() -> int:
    """Process id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("was_there", [False, True])
def test_new_content_replaces_old_content(write: AtomicWrite, was_there: bool, tmp_path: Path) -> None:
    target = tmp_path / "new" / "folders" / "target"
    if was_there:
        put(target, write, OLD)
    put(target, write, NEW)
    assert read(target) == NEW
    assert os.listdir(target.parent) == ["target"]


def test_a_folder_keeps_no_files_of_the_replaced_folder(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with atomic_dir(target) as partial:
        (partial / "obsolete").write_bytes(OLD)
    put(target, atomic_dir, NEW)
    assert contents(tmp_path) == {"target": None, "target/file": NEW}


def test_the_old_content_stays_until_the_block_ends(write: AtomicWrite, tmp_path: Path) -> None:
    target = tmp_path / "target"
    put(target, write, OLD)
    with write(target) as partial:
        fill(partial, NEW)
        assert read(target) == OLD
    assert read(target) == NEW


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), SystemExit()])
@pytest.mark.parametrize("was_there", [False, True])
def test_an_exception_in_the_block_changes_nothing(
    write: AtomicWrite, was_there: bool, error: BaseException, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    if was_there:
        put(target, write, OLD)
    before = contents(tmp_path)

    def fail() -> None:
        with write(target) as partial:
            fill(partial, NEW)
            raise error

    with pytest.raises(type(error)):
        fail()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("free", [0, 10, 4096])
def test_a_full_disk_changes_nothing(write: AtomicWrite, free: int, tmp_path: Path) -> None:
    target = tmp_path / "target"
    put(target, write, OLD)
    before = contents(tmp_path)
    with pytest.raises(OSError, match="File too large"), full_disk(free):
        put(target, write, NEW * 1000)
    assert contents(tmp_path) == before


def test_a_path_below_a_file_is_refused_and_the_file_unchanged(write: AtomicWrite, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(OSError, match="file"):
        put(tmp_path / "file" / "target", write, NEW)
    assert contents(tmp_path) == {"file": OLD}


@pytest.mark.parametrize("content", ["tëxt\n", b"\0bytes\xff"])
def test_text_and_bytes_are_written_unchanged(content: str | bytes, tmp_path: Path) -> None:
    write_file(tmp_path / "target", content)
    assert (tmp_path / "target").read_bytes() == (content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_follow_the_umask(write: AtomicWrite, mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        put(tmp_path / "target", write, NEW)
    finally:
        os.umask(before)
    default = 0o777 if write is atomic_dir else 0o666
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == default & ~mask


def test_leftovers_of_killed_writers_are_removed(write: AtomicWrite, dead_process: int, tmp_path: Path) -> None:
    partial = tmp_path / f".target.{dead_process}.abcdefgh.partial"
    partial.mkdir()
    (partial / "half").write_bytes(OLD)
    (tmp_path / f".target.{dead_process}.ijklmnop.partial").write_bytes(OLD)
    put(tmp_path / "target", write, NEW)
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("name", ["target", "target.2"])
def test_partial_files_of_running_processes_are_kept(
    name: str, write: AtomicWrite, dead_process: int, tmp_path: Path
) -> None:
    name = name.replace("2", str(dead_process))
    partial = tmp_path / f".{name}.{os.getppid()}.abcdefgh.partial"
    partial.mkdir()
    (partial / "half").write_bytes(OLD)
    put(tmp_path / "target", write, NEW)
    assert sorted(os.listdir(tmp_path)) == [partial.name, "target"]
    assert read(partial / "half") == OLD


@pytest.mark.parametrize("name", [".target.notes", ".target.notes.partial", ".targets.1.abcdefgh.partial", "target.1"])
def test_files_with_similar_names_are_kept(name: str, write: AtomicWrite, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(OLD)
    put(tmp_path / "target", write, NEW)
    assert (tmp_path / name).read_bytes() == OLD


def test_leftovers_of_a_name_with_brackets_are_removed(write: AtomicWrite, dead_process: int, tmp_path: Path) -> None:
    (tmp_path / f".net[1].{dead_process}.abcdefgh.partial").write_bytes(OLD)
    put(tmp_path / "net[1]", write, NEW)
    assert os.listdir(tmp_path) == ["net[1]"]


def test_a_folder_retired_by_a_killed_writer_is_restored(dead_process: int, tmp_path: Path) -> None:
    retired = tmp_path / f".target.{dead_process}.abcdefgh.retired"
    retired.mkdir()
    (retired / "file").write_bytes(OLD)
    with pytest.raises(RuntimeError), atomic_dir(tmp_path / "target"):
        raise RuntimeError
    assert contents(tmp_path) == {"target": None, "target/file": OLD}


def test_a_retired_folder_is_removed_if_the_new_one_is_in_place(dead_process: int, tmp_path: Path) -> None:
    put(tmp_path / "target", atomic_dir, NEW)
    retired = tmp_path / f".target.{dead_process}.abcdefgh.retired"
    retired.mkdir()
    (retired / "file").write_bytes(OLD)
    put(tmp_path / "target", atomic_dir, NEW)
    assert contents(tmp_path) == {"target": None, "target/file": NEW}


def test_the_old_folder_is_restored_if_the_new_one_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    put(target, atomic_dir, OLD)
    before = contents(tmp_path)
    replace = os.replace

    def refuse_partial(source: Path, destination: Path) -> None:
        if source.suffix == ".partial":
            raise PermissionError(f"{destination} may not be written")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", refuse_partial)
    with pytest.raises(PermissionError):
        put(target, atomic_dir, NEW)
    assert contents(tmp_path) == before


def test_a_link_to_a_folder_is_replaced_without_leftovers(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", atomic_dir, OLD)
    (tmp_path / "target").symlink_to(tmp_path / "elsewhere")
    put(tmp_path / "target", atomic_dir, NEW)
    assert read(tmp_path / "target") == NEW
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "target"]


def test_a_link_retired_by_a_killed_writer_is_removed(dead_process: int, tmp_path: Path) -> None:
    put(tmp_path / "target", atomic_dir, OLD)
    (tmp_path / f".target.{dead_process}.abcdefgh.retired").symlink_to(tmp_path / "target")
    put(tmp_path / "target", atomic_dir, NEW)
    assert contents(tmp_path) == {"target": None, "target/file": NEW}


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # stands for /dev/null and /dev/stdout, which root could replace
    with pytest.raises(OSError, match="pipe"):
        put(tmp_path / "pipe", atomic_file, NEW)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_the_sha256_covers_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one chunk
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
