"""Commands in odd environments: closed, slow and full streams, ASCII, no home, no working directory, odd files."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edge import system
from edge.bundle.bundle import MANIFEST, Bundle, file_hashes, write_reference
from edge.bundle.manifest import manifest_to_json
from edge.cli.main import main
from edge.console import UNAVAILABLE
from edge.doctor.jobs import examine
from edge.errors import MAX_MESSAGE, EdgeError, SourceError, SourceLostError, UnavailableError, described
from tests.support.commands import ROOT, TIMEOUT_S, call, json_lines, random_frames, write_video

PROGRESS = re.compile(r"(measuring|verifying) .*, \d+ of \d+, \d+ s")


def shell(script: str, folder: Path, **env: str) -> Any:
    """Run a shell script in which `python -m` is `PY` and the folder of this project is on the path."""
    script = script.replace("PY ", f"{shlex.quote(sys.executable)} -m ")
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "", **env},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def errors_of(done: Any) -> list[str]:
    """Return the lines of stderr other than those of progress, which a slow machine shows."""
    return [line for line in done.stderr.splitlines() if not PROGRESS.fullmatch(line)]


@pytest.fixture
def folder(bundle: Path, tmp_path: Path) -> Path:
    """Return a folder with a good `bundle`, a `bad` one whose verdict is FAILED, and a video."""
    shutil.copytree(bundle, tmp_path / "bad")
    spoil(tmp_path / "bad")
    write_video(tmp_path / "video.avi", random_frames(12))
    return tmp_path


def spoil(path: Path) -> None:
    """Change the reference logits of a bundle, and keep its hashes right."""
    bundle = Bundle.open(path)
    reference = bundle.reference()
    write_reference(path / bundle.manifest.reference, reference._replace(logits=-reference.logits))
    manifest = dataclasses.replace(bundle.manifest, files=file_hashes(path))
    (path / MANIFEST).write_text(manifest_to_json(manifest))


@pytest.mark.parametrize(
    ("script", "code", "errors"),
    [
        ("PY edge info bundle >&-", 0, 0),
        ("PY edge info bundle 2>&-", 0, 0),
        ("PY edge info bundle >&- 2>&- <&-", 0, 0),
        ("PY edge info nothing 2>&-", 2, 0),
        ("PY edge info nothing >&-", 2, 1),
        ("PY edge run bundle --source video.avi --json >&-", 0, 0),
        ("PY edge --help >&-", 0, 0),
        ("PY edge verify bad >&-", 1, 0),
        ("PY edge verify bad 2>&-", 1, 0),
        ("PY edge verify bad > /dev/full", 1, 1),
        ("PY edge verify bad --json > /dev/full", 1, 1),
        ("PY edge verify bundle > /dev/full", 2, 1),
        ("PY edge run bundle --source video.avi --json > /dev/full", 2, 1),
        ("PY edge --help > /dev/full", 2, 1),
        ("PY edge info bundle 2> /dev/full", 0, 0),
        ("PY edge info nothing 2> /dev/full", 2, 0),
        ("PY edge verify bad | true; exit ${PIPESTATUS[0]}", 1, 0),
        ("PY edge verify bad | head -1; exit ${PIPESTATUS[0]}", 1, 0),
        ("PY edge verify bad --json | head -1; exit ${PIPESTATUS[0]}", 1, 0),
        ("PY edge verify bundle | true; exit ${PIPESTATUS[0]}", 0, 0),
        ("PY edge run bundle --source video.avi --json | head -1; exit ${PIPESTATUS[0]}", 0, 0),
        ("export PYTHONUNBUFFERED=1; PY edge verify bad | true; exit ${PIPESTATUS[0]}", 1, 0),
        ("PY edge run bundle --source video.avi --threads 99999999999", 2, None),
        ("PY edge run bundle --source video.avi --frames 99999999999", 2, None),
        ("PY edge.training --output x --seed 99999999999999999999", 2, None),
    ],
)
def test_the_exit_code_does_not_depend_on_the_streams(script: str, code: int, errors: int | None, folder: Path) -> None:
    done = shell(script, folder)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert errors is None or len(errors_of(done)) == errors, done.stderr


@pytest.mark.parametrize(
    ("words", "library"),
    [
        ("edge.training", "torch"),
        ("compile", "onnx"),
        ("compile.sensitivity", "onnx"),
        ("compile.torch_tensorrt", "torch"),
        ("calibration", "numpy"),
        ("edge", "numpy"),
    ],
)
def test_a_missing_library_is_one_line_with_a_remedy(words: str, library: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{library!r}] = None")
    done = shell(f"PY {words} info nothing", tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == UNAVAILABLE, done.stderr
    assert done.stderr.startswith("error: ")
    assert "; pip install " in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", ["edge bench bundle --precision fp32", "edge doctor", "edge verify bundle"])
def test_an_ascii_terminal_gets_ascii(words: str, folder: Path) -> None:
    done = shell(f"PY {words}", folder, PYTHONIOENCODING="ascii")
    assert (done.returncode, errors_of(done)) == (0, [])
    assert (done.stdout + done.stderr).isascii()


def test_no_line_is_lost_on_a_stream_that_does_not_block(digits_bundle: Bundle, tmp_path: Path) -> None:
    frames = random_frames(20)
    video = write_video(tmp_path / "video.avi", [frames[index % 20] for index in range(600)])  # 150 kB of lines
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    words = ["edge", "run", str(digits_bundle.path), "--source", str(video), "--json"]
    with subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, stdout=write_end) as process:
        os.close(write_end)
        time.sleep(2)  # the pipe is full
        with os.fdopen(read_end) as reader:
            lines = json_lines(reader.read())
        assert process.wait() == 0
    assert [line["frame"] for line in lines] == list(range(600))


# No home, no working directory


def can_map_users() -> bool:
    command = ["unshare", "-U", "--map-user=12345", "true"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_map_users(), reason="another user needs a user namespace")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("edge info bundle", 0),
        ("edge doctor", 1),
        ("edge run bundle --source video.avi", UNAVAILABLE),
        ("edge.training --dataset fashion-mnist --data nothing --output out", 2),
        ("calibration nothing", 2),
    ],
)
def test_a_user_without_home_and_entry_in_the_list_of_users(words: str, code: int, folder: Path) -> None:
    done = shell(f"unshare -U --map-user=12345 env -u HOME -u EDGE_CACHE -u XDG_CACHE_HOME PY {words}", folder)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "set EDGE_CACHE to a folder" in done.stdout + done.stderr or code not in (1, UNAVAILABLE)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("edge info {0}/bundle", 0),
        ("edge run {0}/bundle --source {0}/video.avi", 0),
        ("edge info bundle", 2),
        ("edge run {0}/bundle --source {0}/video.avi --output lines", 2),
        ("edge.training --output out", 2),
        ("compile checkpoint.pt --output out", 2),
        ("calibration bundle", 2),
    ],
)
def test_a_deleted_working_directory(words: str, code: int, folder: Path) -> None:
    done = shell(f"mkdir gone && cd gone && rmdir ../gone && PY {words.format(folder)}", folder)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == (1 if code else 0), done.stderr


@pytest.mark.parametrize(
    ("content", "release"),
    [
        (b"# R36 (release), REVISION: 4.0\n", "# R36 (release), REVISION: 4.0"),
        (b"", None),
        (b"\n", None),
        (b"\0", None),
        (b"\xff\xfe R36\n", "\ufffd\ufffd R36"),
        (None, None),
    ],
)
def test_odd_files_of_the_system_are_no_error(content: bytes | None, release: str | None, tmp_path: Path) -> None:
    for name in ("etc/nv_tegra_release", "proc/device-tree/model", "proc/loadavg", "proc/cpuinfo"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content) if content is not None else file.mkdir()
    assert system.l4t_release(tmp_path) == release
    assert system.board_model(tmp_path) == release
    json.dumps(system.with_end(system.conditions(tmp_path), tmp_path))
    assert all(check.value for check in examine(root=tmp_path).checks())


# Errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EdgeError("wrong"), 2),
        (SourceError("wrong"), 2),
        (SourceLostError("wrong"), 3),
        (UnavailableError("wrong"), 4),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), 4),
        (ImportError("libGL.so.1: cannot open shared object file", name="cv2"), 4),
        (MemoryError(), 4),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory\n  frame #0"), 4),
        (PermissionError(13, "Permission denied", "file"), 2),
    ],
)
def test_errors_have_their_exit_code_and_one_line(error: Exception, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("edge.cli.doctor.examine", fail)
    result = call(main, "doctor")
    assert (result.code, result.stdout) == (code, "")
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_message_longer_than_a_screen_keeps_its_start_and_its_remedy() -> None:
    message = str(EdgeError(f"manifest.json: unknown field {'a' * 10**6}; compile the bundle again"))
    assert len(message) == MAX_MESSAGE
    assert message.startswith("manifest.json: unknown field a")
    assert message.endswith("a; compile the bundle again")


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("one\ntwo\r\n  three", "one two three"),
        ("\x1b[1;31mred\x1b[0m and \x1b]0;title\x07plain", "red and plain"),
        ("a\tb\x00c\x08\u2028d", "a b c d"),
        ("label 'Größe'", "label 'Größe'"),
    ],
)
def test_messages_of_libraries_are_quoted_in_one_plain_line(message: str, shown: str) -> None:
    assert str(EdgeError(message)) == shown
    assert described(ValueError(message)) == f"ValueError: {shown}"


def test_a_missing_library_is_named_with_an_extra_of_this_checkout() -> None:
    assert system.pip_install("cuda13") == f"pip install '{ROOT}[cuda13]'"
    missing = ModuleNotFoundError("No module named 'timm.models'", name="timm.models")
    assert system.import_remedy(missing) == f"pip install '{ROOT}[timm]'"


def test_no_text_names_the_package_on_an_index() -> None:
    files = [path for folder in ("edge", "calibration", "compile", "benchmarks", "docs", "jetson", "README.md")
             for path in ([ROOT / folder] if folder.endswith(".md") else (ROOT / folder).rglob("*"))
             if path.suffix in (".py", ".md")]  # fmt: skip
    assert [path for path in files if "install 'early-exit" in path.read_text()] == []
    assert [path for path in files if "install early-exit" in path.read_text()] == []
