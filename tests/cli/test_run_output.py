"""Output of `edge run`: JSON lines, a summary, and progress that stays apart from both."""

import os
import pty
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import edge
from edge.cli.main import main
from edge.cli.parser import CommandParser
from edge.cli.run import add_arguments
from edge.frames.open import open_source
from tests.support.commands import TIMEOUT_S, call, json_lines, random_frames, start_command, write_video

KEYS = {
    "time", "source",
    "frame", "label", "label_index", "confidence", "probability", "exit_index", "age_ms", "latency_ms", "capture_ms",
    "load_ms", "infer_ms", "dropped", "skipped", "damaged",
}  # fmt: skip


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Return a video that takes long enough for progress to be drawn."""
    return write_video(tmp_path / "video.avi", random_frames(200))


class Terminal:
    """A pseudo-terminal to run commands on, and all that was written to it."""

    def __init__(self) -> None:
        self._main_end, self.end = pty.openpty()
        self._chunks: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def text(self) -> str:
        """Return all that was written, after every process has closed its end."""
        os.close(self.end)
        self._reader.join(TIMEOUT_S)
        os.close(self._main_end)
        return b"".join(self._chunks).decode()

    def _read(self) -> None:
        try:
            while chunk := os.read(self._main_end, 4096):
                self._chunks.append(chunk)
        except OSError:
            return  # the other end was closed


def run_on_terminal(*words: object, stdout: Any) -> tuple[str, str]:
    """Run `edge run` with stderr on a terminal; return its stdout, if it is a pipe, and the terminal's text."""
    terminal = Terminal()
    env = {"TERM": "xterm", "COLUMNS": "150"}
    stdout = terminal.end if stdout == "terminal" else stdout
    with start_command("edge", "run", *words, env=env, stdout=stdout, stderr=terminal.end) as process:
        printed = process.communicate(timeout=TIMEOUT_S)[0]
        assert process.returncode == 0
    return printed or "", terminal.text()


def test_json_lines_are_the_predictions_of_the_python_interface(bundle: Path, video: Path, tmp_path: Path) -> None:
    words = ("--precision", "fp32", "--json", "--output", tmp_path / "lines")
    before = datetime.now(timezone.utc) - timedelta(milliseconds=1)
    result = call(main, "run", bundle, "--source", video, *words)
    assert (result.code, result.stderr) == (0, "")
    lines = json_lines(result.stdout)
    assert json_lines((tmp_path / "lines").read_text()) == lines
    with edge.load(bundle, precision="fp32") as classifier:
        for index, (line, frame) in enumerate(zip(lines, frames_of(video), strict=True)):
            prediction = classifier.predict(frame)
            assert set(line) - {"file", "position_s"} == KEYS
            assert (line["frame"], line["dropped"], line["source"]) == (index, 0, str(video))
            assert before <= datetime.fromisoformat(line["time"].replace("Z", "+00:00")) <= datetime.now(timezone.utc)
            assert (line["label"], line["label_index"]) == (prediction.label, prediction.label_index)
            assert line["exit_index"] == prediction.exit_index
            assert line["probability"] == pytest.approx(prediction.probability, abs=1e-6)
            assert line["confidence"] == pytest.approx(prediction.confidence, abs=1e-6)


def frames_of(video: Path) -> Iterator[edge.Frame]:
    source = open_source(video)
    while (frame := source.read(None)) is not None:
        yield frame
    source.close()


@pytest.mark.parametrize(("thresholds", "exit_index"), [((0, 0), 0), ((2, 0), 1), ((2, 2), 2)])
def test_thresholds_select_the_exit(thresholds: tuple[int, int], exit_index: int, bundle: Path, video: Path) -> None:
    words = [f"--threshold={threshold}" for threshold in thresholds]
    result = call(main, "run", bundle, "--source", video, "--json", "--frames", 7, *words)
    assert [line["exit_index"] for line in json_lines(result.stdout)] == [exit_index] * 7


def test_the_backend_is_chosen_for_the_machine_by_default(
    bundle: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = CommandParser()
    add_arguments(parser)
    assert parser.parse_args(["bundle", "--source", "0"]).backend == "auto"
    monkeypatch.setattr("edge.engines.has_nvidia_gpu", lambda: False)
    printed = call(main, "run", bundle, "--source", video).stdout
    assert "fp32 on onnxruntime: 200 frames" in " ".join(printed.split())


def test_a_run_without_json_prints_exit_shares_and_the_times_of_each_stage(bundle: Path, video: Path) -> None:
    result = call(main, "run", bundle, "--source", video, "--frames", 50, "--threshold=2", "--threshold=0")
    assert (result.code, result.stderr) == (0, "")
    printed = " ".join(result.stdout.split())
    assert "50 frames, " in printed
    assert "0 dropped; exit 0 0.0%, exit 1 100.0%, exit 2 0.0%" in printed
    assert all(stage in printed for stage in ("capture", "load", "infer", "latency"))


@pytest.mark.parametrize("words", [("--json",), ()], ids=["json", "summary"])
def test_results_go_to_stdout_while_progress_is_drawn_on_a_terminal(
    words: tuple[str, ...], bundle: Path, video: Path
) -> None:
    printed, drawn = run_on_terminal(bundle, "--source", video, *words, stdout=subprocess.PIPE)
    assert "int8 on" in drawn or "fp32 on" in drawn
    if words:
        assert len(json_lines(printed)) == 200
    else:
        assert "200 frames, " in printed
        assert "latency" in printed
    assert "latency" not in drawn


def test_the_summary_on_a_terminal_follows_the_progress(bundle: Path, video: Path) -> None:
    _, drawn = run_on_terminal(bundle, "--source", video, stdout="terminal")
    summary = drawn.rindex("200 frames, ")
    assert "\x1b[" not in drawn[summary:].replace("\x1b[1m", "").replace("\x1b[0m", ""), "bars are drawn over it"
