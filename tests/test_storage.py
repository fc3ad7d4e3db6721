"""Atomic writes: after an error or a kill, the old content is complete and no temporary files are left."""

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pytest

from edge.bundle.bundle import Bundle
from edge.errors import BundleError
from edge.storage import atomic_dir, atomic_file, exchange, find_retired, locked_dir, read_file, sha256_of, write_file
from tests.support.commands import ROOT, TIMEOUT_S, contents, full_disk

OLD, NEW = b"old content", b"new content, longer"


class AtomicWrite(Protocol):
    __name__: str

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


@pytest.fixture(params=["exchange", "three renames"])
def renames(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace folders as on file systems with and without the exchange of two names."""
    if request.param == "three renames":
        monkeypatch.setattr(exchange, "_renameat2", lambda partial, path: errno.EINVAL)


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


PARTIAL = ".target.0123abcd.partial"


def put_aside(folder: Path, name: str) -> Path:
    """Write a folder as a killed writer leaves it."""
    (folder / name).mkdir()
    (folder / name / "file").write_bytes(OLD)
    return folder / name


def test_leftovers_of_killed_writers_are_removed(write: AtomicWrite, tmp_path: Path) -> None:
    put_aside(tmp_path, PARTIAL)
    (tmp_path / ".target.4567abcd.partial").write_bytes(OLD)
    (tmp_path / ".target.89abcdef.partial").symlink_to(tmp_path)  # of a link that was replaced
    put(tmp_path / "target", write, NEW)
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("in_namespace", [False, True])
def test_partial_files_of_running_processes_are_kept(write: AtomicWrite, in_namespace: bool, tmp_path: Path) -> None:
    """A process id says nothing: in a container the writer's is 1 for ever, or another's elsewhere."""
    namespace = ["unshare", "--pid", "--fork", "--mount-proc"] if in_namespace else []
    if namespace and subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("not allowed to make a PID namespace")
    target, script = tmp_path / "target", WAITING_WRITER.format(write=write.__name__)
    command = [*namespace, sys.executable, "-c", script, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as writer:
        assert writer.stdin
        assert writer.stdout
        assert writer.stdout.readline() == b"ready\n"
        put(target, write, OLD)
        assert len(os.listdir(tmp_path)) == 2
        writer.stdin.close()
    assert read(target) == NEW
    assert os.listdir(tmp_path) == ["target"]


WAITING_WRITER = """
import sys
from pathlib import Path
from edge.storage import atomic_dir, atomic_file

with {write}(Path(sys.argv[1])) as partial:
    (partial / "file" if partial.is_dir() else partial).write_bytes(b"new content, longer")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    "name", [".target.notes", ".target.notes.partial", ".targets.0123abcd.partial", ".target.2.0123abcd.partial"]
)
def test_files_with_similar_names_are_kept(name: str, write: AtomicWrite, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(OLD)
    put(tmp_path / "target", write, NEW)
    assert (tmp_path / name).read_bytes() == OLD


def test_a_pipe_with_the_name_of_a_leftover_does_not_hang(write: AtomicWrite, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / PARTIAL)
    put(tmp_path / "target", write, NEW)
    assert read(tmp_path / "target") == NEW


def test_leftovers_of_a_name_with_brackets_are_removed(write: AtomicWrite, tmp_path: Path) -> None:
    (tmp_path / ".net[1].0123abcd.partial").write_bytes(OLD)
    put(tmp_path / "net[1]", write, NEW)
    assert os.listdir(tmp_path) == ["net[1]"]


def test_a_planted_folder_never_becomes_the_target(tmp_path: Path) -> None:
    planted = [put_aside(tmp_path, name) for name in (".target.0123abcd.retired", ".target.999999.0123abcd.retired")]
    with pytest.raises(RuntimeError), atomic_dir(tmp_path / "target"):
        raise RuntimeError
    assert not (tmp_path / "target").exists()
    assert all(folder.exists() for folder in planted), "it may be the only copy"


def test_a_retired_folder_is_removed_if_the_new_one_is_in_place(tmp_path: Path) -> None:
    put(tmp_path / "target", atomic_dir, NEW)
    put_aside(tmp_path, ".target.0123abcd.retired")
    put(tmp_path / "target", atomic_dir, NEW)
    assert contents(tmp_path) == {"target": None, "target/file": NEW}


@pytest.mark.usefixtures("renames")
def test_a_folder_replaces_a_folder_without_leftovers(tmp_path: Path) -> None:
    for content in (OLD, NEW, OLD):
        put(tmp_path / "target", atomic_dir, content)
        assert contents(tmp_path) == {"target": None, "target/file": content}


@pytest.mark.usefixtures("renames")
def test_the_old_folder_stays_if_the_new_one_cannot_be_renamed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    put(target, atomic_dir, OLD)

    def lose_partial() -> None:
        with atomic_dir(target) as partial:
            fill(partial, NEW)
            partial.rename(tmp_path / "elsewhere")

    with pytest.raises(FileNotFoundError):
        lose_partial()
    assert read(target) == OLD
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "target"]


KILLED_AT = """
import errno, os, signal, sys
from pathlib import Path
from edge.storage import atomic_dir, exchange

def killed(*names):
    os.kill(os.getpid(), signal.SIGKILL)

if "{moment}" == "before the exchange":
    exchange._renameat2 = killed
if "{moment}" == "after the exchange":
    exchange.fsync = lambda path: killed() if path == Path(sys.argv[1]).parent else None
if "{moment}" == "between renames":  # where the file system has no exchange
    exchange._renameat2, rename = lambda *names: errno.EINVAL, os.rename
    exchange.os.rename = lambda *names: killed() if Path(names[1]) == Path(sys.argv[1]) else rename(*names)
with atomic_dir(Path(sys.argv[1])) as partial:
    (partial / "file").write_bytes(b"new content, longer")
"""


@pytest.mark.parametrize(
    ("moment", "content"), [("before the exchange", OLD), ("after the exchange", NEW)], ids=["before", "after"]
)
def test_a_writer_killed_around_the_rename_leaves_one_whole_folder(moment: str, content: bytes, tmp_path: Path) -> None:
    target = tmp_path / "target"
    put(target, atomic_dir, OLD)
    kill_writer(target, moment)
    assert read(target) == content
    put(target, atomic_dir, NEW)
    assert contents(tmp_path) == {"target": None, "target/file": NEW}


def test_a_bundle_whose_writer_was_killed_between_renames_is_found_by_its_name(tmp_path: Path) -> None:
    target = tmp_path / "target"
    put(target, atomic_dir, OLD)
    kill_writer(target, "between renames")
    former = find_retired(target)
    assert former is not None
    assert read(former) == OLD
    with pytest.raises(BundleError, match=f"there is no bundle at {target}: .* rename {former} to {target}, or make"):
        Bundle.open(target)
    former.rename(target)
    put(target, atomic_dir, NEW)
    assert contents(tmp_path) == {"target": None, "target/file": NEW}


def kill_writer(target: Path, moment: str) -> None:
    """Replace a folder in a process that is killed at a moment."""
    done = subprocess.run([sys.executable, "-c", KILLED_AT.format(moment=moment), str(target)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("renames")
def test_of_several_writers_at_once_all_end_well_and_one_wins(write: AtomicWrite, tmp_path: Path) -> None:
    target = tmp_path / "target"

    def write_often(content: bytes) -> None:
        for _ in range(25):
            put(target, write, content)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write_often, [OLD, NEW, OLD * 2, NEW * 2]))
    assert read(target) in (OLD, NEW, OLD * 2, NEW * 2)
    put(target, write, NEW)
    assert os.listdir(tmp_path) == ["target"]


def test_a_locked_folder_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "target"
    put(target, atomic_dir, OLD)
    with ThreadPoolExecutor() as threads:
        with locked_dir(target):
            writer = threads.submit(put, target, atomic_dir, NEW)
            with pytest.raises(futures.TimeoutError):  # another class than `TimeoutError` on Python 3.10
                writer.result(timeout=0.3)
            assert read(target) == OLD
        writer.result(timeout=TIMEOUT_S)
    assert read(target) == NEW


def test_a_lock_that_is_not_released_is_an_error_with_its_folder(tmp_path: Path) -> None:
    with (
        locked_dir(tmp_path),
        pytest.raises(TimeoutError, match=f"kept its lock for 0.1 s: '{tmp_path}'"),
        locked_dir(tmp_path, limit_s=0.1),
    ):
        pass


def test_a_link_to_a_folder_is_replaced_without_leftovers(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", atomic_dir, OLD)
    (tmp_path / "target").symlink_to(tmp_path / "elsewhere")
    put(tmp_path / "target", atomic_dir, NEW)
    assert read(tmp_path / "target") == NEW
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "target"]


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # stands for /dev/null and /dev/stdout, which root could replace
    with pytest.raises(OSError, match="pipe"):
        put(tmp_path / "pipe", atomic_file, NEW)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_the_sha256_covers_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one chunk
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "too large"])
def test_only_regular_files_of_a_bounded_size_are_read(kind: str, tmp_path: Path) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "too large":
        path.write_bytes(bytes(101))
    with pytest.raises(OSError, match=r"is not a regular file|is larger than"):
        read_file(path, max_bytes=100)
