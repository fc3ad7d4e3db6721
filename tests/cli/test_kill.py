"""Killed commands: no partial file is ever read, and the next run resumes or starts again."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from edge.bundle.bundle import Bundle
from edge.cli.main import main as edge
from edge.console import INTERRUPTED, PASSED
from edge.engines.base import BuildOrder
from edge.engines.cache import ENGINE, ENTRY, EngineCache
from edge.frames.base import Frame, frame_from_array
from edge.storage import atomic_dir, write_file
from tests.support.commands import (
    NO_GUARANTEE,
    ROOT,
    TIMEOUT_S,
    call,
    contents,
    error_line,
    json_lines,
    random_frames,
    start_command,
    wait_until,
    write_video,
)

LONG = 8000
"""Frames of a video that is interrupted before its end."""


ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Makes sums reproducible bit for bit."""


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the process ended before it was killed"


# Training


def train_words(output: Path, *, seed: int = 3) -> list[object]:
    quick = ("--dataset", "digits", "--image-size", 16, "--batch-size", 128, "--epochs", 6, "--seed", seed)
    return ["edge.training", *quick, "--output", output]


def test_a_killed_training_resumes_and_gives_the_same_result(tmp_path: Path) -> None:
    import torch

    from edge.training.__main__ import main

    with (
        start_command(*train_words(tmp_path / "undisturbed"), env=ONE_THREAD, stdout=subprocess.DEVNULL) as undisturbed,
        start_command(*train_words(tmp_path / "killed"), env=ONE_THREAD, stdout=subprocess.DEVNULL) as first,
    ):
        state = tmp_path / "killed" / "state.pt"
        wait_until(state.exists, "the first epoch")
        kill(first)
        assert not (tmp_path / "killed" / "checkpoint.pt").exists()
        assert undisturbed.wait() == 0

    unfinished = contents(tmp_path / "killed")
    message = error_line(call(main, *train_words(tmp_path / "killed", seed=4)[1:]))
    assert str(state) in message
    assert "other settings" in message
    assert contents(tmp_path / "killed") == unfinished

    with start_command(
        *train_words(tmp_path / "killed"), env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as second:
        messages = second.communicate()[1]
    assert second.returncode == 0
    assert "after epoch" in messages, "it did not resume"
    expected, resumed = (tmp_path / name for name in ("undisturbed", "killed"))
    written = os.listdir(resumed)
    assert sorted(written) == sorted(os.listdir(expected))
    assert {"checkpoint.pt", "metrics.json", "tensorboard"} <= set(written)
    assert "state.pt" not in written
    assert json.loads((resumed / "metrics.json").read_text()) == json.loads((expected / "metrics.json").read_text())
    weights, expected_weights = (
        torch.load(path / "checkpoint.pt", weights_only=True)["weights"] for path in (resumed, expected)
    )
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[name], expected_weights[name]) for name in weights)


@pytest.mark.parametrize("damage", ["cut off", "no state", "empty"])
def test_a_damaged_training_state_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    from edge.training.__main__ import main

    state = tmp_path / "state.pt"
    state.write_bytes({"cut off": b"PK\x03\x04" + b"\0" * 1000, "no state": b"text", "empty": b""}[damage])
    before = contents(tmp_path)
    message = error_line(call(main, *train_words(tmp_path)[1:]))
    assert f"{state} is damaged" in message
    assert contents(tmp_path) == before


def test_an_interrupted_training_does_not_resume_with_changed_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.training.__main__ import main
    from edge.training.loop import TrainingRun

    images = tmp_path / "images"
    for index, frame in enumerate(random_frames(24)):
        (images / str(index % 2)).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(images / str(index % 2) / f"{index}.png"), frame)
    words = ("--dataset", "folder", "--data", images, "--batch-size", 4, "--epochs", 2, "--output", tmp_path / "run")
    epoch = TrainingRun.epoch

    def interrupted(run: TrainingRun, number: int, **others: Any) -> dict[str, Any]:
        if number == 1:
            raise KeyboardInterrupt
        return epoch(run, number, **others)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "epoch", interrupted)
        assert call(main, *words).code == INTERRUPTED
    before = contents(tmp_path / "run")
    assert {Path(name).parts[0] for name in before} == {"state.pt", "tensorboard"}
    cv2.imwrite(str(images / "0" / "0.png"), random_frames(1, seed=9)[0])
    assert "state.pt" in error_line(call(main, *words))
    assert contents(tmp_path / "run") == before


# Compiling


@pytest.fixture(scope="module")
def checkpoint_file(digits_checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edge.training.checkpoint import write_checkpoint

    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    write_checkpoint(path, digits_checkpoint)
    return path


def partial(output: Path) -> Path | None:
    return next(output.parent.glob(f".{output.name}.*.partial"), None)


def compile_words(checkpoint: Path, output: Path) -> list[object]:
    return ["compile", checkpoint, "--output", output, "--precision", "fp32", *NO_GUARANTEE]


def killed_compile(checkpoint: Path, output: Path, moment: str) -> None:
    """Start to compile, and kill it when a file, or the folder itself, appears in the partial output."""
    with start_command(*compile_words(checkpoint, output), stdout=subprocess.DEVNULL) as process:

        def is_due() -> bool:
            assert process.poll() is None, f"the process ended before {moment} was written"
            folder = partial(output)
            return folder is not None and (folder / moment).exists()

        wait_until(is_due, moment)
        kill(process)


def test_a_killed_compile_leaves_the_old_bundle_or_no_bundle(
    checkpoint_file: Path, digits_bundle: Bundle, tmp_path: Path
) -> None:
    from compile.__main__ import main

    output = tmp_path / "bundle"
    words = compile_words(checkpoint_file, output)[1:]
    killed_compile(checkpoint_file, output, "")
    assert not output.exists()
    assert partial(output) is not None
    assert call(main, *words).code == 0
    assert Bundle.open(output).manifest.labels == digits_bundle.manifest.labels
    assert os.listdir(tmp_path) == ["bundle"]

    before = contents(output)
    for moment in ("fp32/segment_0.onnx", "reference.npz"):
        killed_compile(checkpoint_file, output, moment)
        Bundle.open(output)
        assert contents(output) == before
    assert call(main, *words).code == 0
    Bundle.open(output)
    assert os.listdir(tmp_path) == ["bundle"]


# Building


SEGMENT, GOOD_ENGINE = b"segment", b"engine " * 1000


class CountingBackend:
    """A backend that always builds the same engine, and counts its builds."""

    name, device = "counting", "cpu"

    def __init__(self, **key: str) -> None:
        self.builds = 0
        self._key = {"version": "1", "cpu": "this"} | key

    def device_key(self) -> dict[str, str]:
        return dict(self._key)

    def build(self, order: BuildOrder, on_phase: Callable[[str], None]) -> None:
        assert order.segment.read_bytes() == SEGMENT
        self.builds += 1
        order.engine.write_bytes(GOOD_ENGINE)

    def load(self, engine: Path, spec: object) -> object:
        raise NotImplementedError


KILLED_BUILD = """
import resource, signal, sys, time
from pathlib import Path
from edge.engines.cache import EngineCache
from tests.cli.test_kill import CountingBackend

class Backend(CountingBackend):
    def build(self, order, on_phase):
        if {max_bytes} is None:
            print("building", flush=True)
            time.sleep(1000)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills a process that writes more than the limit
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, ({max_bytes}, {max_bytes}))
        super().build(order, on_phase)

EngineCache(Path(sys.argv[1])).get(Path(sys.argv[2]), Backend(), 1)
"""


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    path = tmp_path / "segment.onnx"
    path.write_bytes(SEGMENT)
    return path


def python(script: str, *words: object) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, text=True, stdout=subprocess.PIPE)


@pytest.mark.parametrize("max_bytes", [None, 0, 1, len(GOOD_ENGINE) - 1])
def test_an_engine_whose_build_was_killed_is_built_again(max_bytes: int | None, segment: Path, tmp_path: Path) -> None:
    """`max_bytes`: killed when it writes more bytes of the engine; None: killed before it writes any."""
    root = tmp_path / "cache"
    with python(KILLED_BUILD.format(max_bytes=max_bytes), root, segment) as process:
        if max_bytes is None:
            assert process.stdout is not None
            assert process.stdout.readline() == "building\n"
            process.kill()
    assert process.returncode == -(signal.SIGKILL if max_bytes is None else signal.SIGXFSZ)
    assert max_bytes is None or {name[0] for name in os.listdir(root)} == {"."}, "a partial entry has its final name"

    backend = CountingBackend()
    built = EngineCache(root).get(segment, backend, 1)
    assert backend.builds == 1
    assert built.path.read_bytes() == GOOD_ENGINE
    assert os.listdir(root) == [built.path.parent.name], "leftovers of the killed build are still there"


def edit_key(name: str, value: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        entry = json.loads((folder / ENTRY).read_text())
        assert entry["key"][name] != value
        entry["key"][name] = value
        (folder / ENTRY).write_text(json.dumps(entry))

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: (folder / ENGINE).write_bytes(GOOD_ENGINE[:-1]), id="engine cut off"),
        pytest.param(lambda folder: (folder / ENGINE).write_bytes(b""), id="engine empty"),
        pytest.param(lambda folder: (folder / ENGINE).write_bytes(b"E" + GOOD_ENGINE[1:]), id="engine changed"),
        pytest.param(lambda folder: (folder / ENGINE).unlink(), id="engine missing"),
        pytest.param(lambda folder: (folder / ENTRY).write_text('{"key": '), id="entry cut off"),
        pytest.param(lambda folder: (folder / ENTRY).write_bytes(b"\xff\xfe\0"), id="entry not text"),
        pytest.param(lambda folder: (folder / ENTRY).write_text("[]"), id="entry a list"),
        pytest.param(lambda folder: (folder / ENTRY).write_text("{}"), id="entry empty"),
        pytest.param(lambda folder: (folder / ENTRY).unlink(), id="entry missing"),
        pytest.param(edit_key("cpu", "another"), id="of another processor"),
        pytest.param(edit_key("version", "2"), id="of another version"),
        pytest.param(edit_key("segment", "0" * 64), id="of another segment"),
        pytest.param(edit_key("batch", "8"), id="of another batch size"),
        pytest.param(lambda folder: shutil.rmtree(folder) or folder.write_bytes(b""), id="a file in its place"),
    ],
)
def test_a_damaged_or_foreign_cache_entry_is_built_again(
    damage: Callable[[Path], object], segment: Path, tmp_path: Path
) -> None:
    cache, backend = EngineCache(tmp_path / "cache"), CountingBackend()
    first = cache.get(segment, backend, 1)
    assert not first.was_cached
    assert cache.get(segment, backend, 1).was_cached
    damage(first.path.parent)
    again = cache.get(segment, backend, 1)
    assert not again.was_cached
    assert backend.builds == 2
    assert again.path.read_bytes() == GOOD_ENGINE
    assert cache.get(segment, backend, 1).was_cached


@pytest.mark.parametrize("key", [{"version": "2"}, {"cpu": "another"}])
def test_an_engine_of_another_device_is_not_used(key: dict[str, str], segment: Path, tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "cache")
    first = cache.get(segment, CountingBackend(), 1)
    other = cache.get(segment, CountingBackend(**key), 1)
    assert not other.was_cached
    assert other.path != first.path


# Files


KILLED_WRITER = """
import sys, time
from pathlib import Path
from edge.storage import atomic_dir, atomic_file

with {write}(Path(sys.argv[1])) as partial:
    file = partial / "file" if partial.is_dir() else partial
    file.write_bytes(b"half of the new")
    print("written", flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("write", ["atomic_file", "atomic_dir"])
@pytest.mark.parametrize("was_there", [False, True])
def test_a_writer_killed_before_the_rename_leaves_the_old_content(write: str, was_there: bool, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if was_there:
        write_target(target, b"old", is_folder=write == "atomic_dir")
    before = contents(tmp_path)
    with python(KILLED_WRITER.format(write=write), target) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.kill()
    assert {name: content for name, content in contents(tmp_path).items() if ".partial" not in name} == before
    write_target(target, b"new", is_folder=write == "atomic_dir")
    assert set(contents(tmp_path).values()) <= {b"new", None}


def write_target(path: Path, content: bytes, *, is_folder: bool) -> None:
    """Write a file, or a folder with a file."""
    if not is_folder:
        write_file(path, content)
        return
    with atomic_dir(path) as folder:
        (folder / "file").write_bytes(content)


# Running


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = random_frames(20)
    return write_video(tmp_path_factory.mktemp("video") / "long.avi", [frames[index % 20] for index in range(LONG)])


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("option", ["--json", "--output"])
def test_the_lines_of_an_interrupted_run_are_complete(
    option: str, ending: signal.Signals, long_video: Path, digits_bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "lines.jsonl"
    words = ["edge", "run", digits_bundle.path, "--source", long_video, "--precision", "fp32", option]
    with path.open("w") if option == "--json" else open(os.devnull, "w") as stdout:
        words += [path] if option == "--output" else []
        with start_command(*words, env={"PYTHONUNBUFFERED": ""}, stdout=stdout, stderr=subprocess.PIPE) as process:
            wait_until(lambda: path.exists() and path.stat().st_size, "the first line")
            process.send_signal(ending)
            messages = process.communicate()[1]
    if ending == signal.SIGINT:
        assert process.returncode in (PASSED, INTERRUPTED)
        assert "Traceback" not in messages
    lines = json_lines(path.read_text())
    assert 0 < len(lines) < LONG, "the run ended before it was interrupted"
    assert [line["frame"] for line in lines] == list(range(len(lines)))


class StandingSource:
    """A source that yields some frames, then blocks until the test lets it end."""

    is_live = True
    frames = None
    damaged = 0

    def __init__(self, count: int) -> None:
        self.may_end = threading.Event()
        self._left = [frame_from_array(pixels, "image") for pixels in random_frames(count)]

    def read(self, out: Frame | None) -> Frame | None:
        if self._left:
            return self._left.pop()
        assert self.may_end.wait(TIMEOUT_S)
        return None

    def close(self) -> None:
        assert self.may_end.is_set(), "closed before the end"


def test_each_line_of_a_run_is_readable_as_soon_as_its_frame_is_classified(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = StandingSource(3)
    monkeypatch.setattr("edge.live.runner.open_live", lambda *words, **options: source)
    words = ("--source", "standing", "--precision", "fp32", "--policy", "all", "--json")
    monkeypatch.setattr(sys, "argv", ["edge", "run", str(digits_bundle.path), *words])
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reader, os.fdopen(write_end, "w") as writer:
        monkeypatch.setattr(sys, "stdout", writer)  # with the buffer that Python gives a pipe
        thread = threading.Thread(target=edge)
        thread.start()
        seen = b""
        try:
            while seen.count(b"\n") < 3:
                assert select.select([reader], [], [], 5)[0], "the lines are still in a buffer"
                seen += os.read(read_end, 1 << 16)
        finally:
            source.may_end.set()
            thread.join()
    assert [line["frame"] for line in json_lines(seen.decode())] == [0, 1, 2]
