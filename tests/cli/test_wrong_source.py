"""`edge run` on wrong input: sources without frames, invalid options, and outputs that cannot be written."""

import argparse
import dataclasses
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from calibration.__main__ import main as calibration
from edge.bundle.bundle import Bundle
from edge.cli.main import main as edge
from edge.cli.run import _sources
from edge.console import SOURCE_LOST, TERMINATED
from edge.errors import SourceError
from edge.frames.address import parse_address
from tests.support.commands import (
    TIMEOUT_S,
    Result,
    call,
    contents,
    error_line,
    json_lines,
    only_error_line,
    random_frames,
    run_command,
    start_command,
)
from tests.support.damage import truncate


def run(bundle: Path, source: object, *more: object) -> Result:
    return call(edge, "run", bundle, "--source", source, "--precision", "fp32", *more)


def predictions(stdout: str) -> list[dict[str, Any]]:
    """Return the predictions of all frames without times; frames are complete and in order."""
    lines = json_lines(stdout)
    assert [line["frame"] for line in lines] == list(range(len(lines)))
    return [{name: value for name, value in line.items() if not name.endswith(("_ms", "time"))} for line in lines]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_a_truncated_video_is_classified_up_to_its_damage(share: float, bundle: Path, video: Path) -> None:
    whole = predictions(run(bundle, video, "--json").stdout)
    assert len(whole) == 12
    truncate(video, share)
    result = run(bundle, video, "--json")
    message = only_error_line(result)
    complete = predictions(result.stdout)
    assert complete == whole[: len(complete)]
    if share > 0.1:
        assert 0 < len(complete) < 12
        assert f"was cut off after {len(complete)} frames; " in message
    else:
        assert "cannot be opened" in message


def test_a_folder_is_classified_up_to_a_damaged_image(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index, frame in enumerate(random_frames(6)):
        cv2.imwrite(str(folder / f"{index}.png"), frame)
    whole = predictions(run(bundle, folder, "--json").stdout)
    truncate(folder / "4.png")
    result = run(bundle, folder, "--json", "--output", tmp_path / "lines")
    assert "4.png cannot be read as an image: it is damaged, or of a format" in error_line(result)
    assert predictions(result.stdout) == whole[:4]
    assert predictions((tmp_path / "lines").read_text()) == whole[:4]


def test_a_truncated_photo_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.jpg"), random_frames(1, 64, 64)[0])
    truncate(tmp_path / "images" / "0.jpg")
    assert "0.jpg" in error_line(run(bundle, tmp_path / "images", "--json"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "holds no images"),
        (lambda path: path.mkdir() or (path / "notes.txt").write_text("x"), "holds no images"),
        (lambda path: path.write_text("not a video\n" * 1000), "found when processing input; give a video"),
        (lambda path: path.write_bytes(b""), "found when processing input; give a video"),
        (lambda path: None, "there is no video or folder"),
        (
            lambda path: path.mkdir() or np.save(path / "0.npy", np.zeros((1, 32, 32))),
            "this bundle reads 8-bit images",
        ),
    ],
    ids=["empty folder", "folder of text files", "text", "empty file", "nothing", "arrays for an image bundle"],
)
def test_a_source_without_frames_for_this_bundle_is_refused(
    make: Callable[[Path], object], message: str, bundle: Path, tmp_path: Path
) -> None:
    make(tmp_path / "source")
    result = run(bundle, tmp_path / "source", "--json")
    assert message in only_error_line(result)
    assert result.stdout == ""


def test_a_crop_applies_to_a_file_whose_name_has_a_question_mark(bundle: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "picture.png"), random_frames(1)[0])
    (tmp_path / "picture.png").rename(tmp_path / "what?.png")
    result = run(bundle, tmp_path / "what?.png", "--crop", "0,0,999,999")
    assert "crop=0,0,999,999 reaches to 999x999; choose a region inside" in only_error_line(result)


def test_a_missing_camera_is_given_up_by_its_number(bundle: Path) -> None:
    done = run_command("edge", "run", bundle, "--source", "99", "--give-up", 1)
    expected = "99 gave no frame for 1 s and is given up: camera 99 cannot be opened: /dev/video99: No such file"
    assert error_line(done, SOURCE_LOST).startswith(expected)


def test_a_source_is_named_without_its_password_where_a_bundle_reads_arrays(digits_bundle: Bundle) -> None:
    manifest, secret = digits_bundle.manifest, "hunter" + "2"
    array = dataclasses.replace(manifest.input, kind="array", colour=None)
    bundle = Bundle(digits_bundle.path, dataclasses.replace(manifest, input=array))
    arguments = argparse.Namespace(source=[parse_address(f"rtsp://admin:{secret}@camera/live")], crop=None)
    with pytest.raises(SourceError, match=r"^rtsp://camera/live is not a folder, and this bundle reads arrays"):
        _sources(arguments, bundle)


@pytest.fixture
def closed_port() -> int:
    """Return a port of this machine that is not open."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_stream_without_a_server_is_given_up_in_time(bundle: Path, closed_port: int) -> None:
    address = f"rtsp://127.0.0.1:{closed_port}/stream"
    started = time.monotonic()
    done = run_command("edge", "run", bundle, "--source", address, "--give-up", 1)
    assert time.monotonic() - started < TIMEOUT_S / 3
    message = error_line(done, SOURCE_LOST)
    assert address in message
    assert "Connection refused" in message
    assert "give a video" not in message


def test_a_source_that_is_absent_is_waited_for(bundle: Path, closed_port: int) -> None:
    address = f"rtsp://127.0.0.1:{closed_port}/stream"
    with start_command("edge", "run", bundle, "--source", address, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert "is lost: cannot be opened: Connection refused" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == TERMINATED


# Options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["-0.1", "0.5"], "threshold 0 is -0.1"),
        (["0.5", "nan"], "threshold 1 is nan"),
        (["inf", "0.5"], "threshold 0 is inf"),
        (["-inf", "0.5"], "threshold 0 is -inf"),
        (["0.5"], "got 1 thresholds for 3 exits; give 2"),
        (["0.5", "0.5", "0.5"], "got 3 thresholds for 3 exits; give 2"),
        (["1e39", "0.5"], "threshold 0 is inf"),
    ],
)
def test_invalid_thresholds_are_refused_by_position(
    values: list[str], message: str, bundle: Path, video: Path, tmp_path: Path
) -> None:
    words = [f"--threshold={value}" for value in values]
    assert message in only_error_line(run(bundle, video, "--output", tmp_path / "lines", *words))
    assert not (tmp_path / "lines").exists()


@pytest.mark.parametrize(
    "words", [["--threshold=high"], ["--backend=coral"], ["--policy=some"], ["--frames=few"], ["--threads=many"]]
)
def test_invalid_option_values_are_refused(words: list[str], bundle: Path, video: Path) -> None:
    result = run(bundle, video, *words)
    assert result.code == 2
    assert words[0].split("=")[0] in result.stderr.splitlines()[-1]
    assert result.stdout == ""


@pytest.mark.parametrize("words", [["--frames=0"], ["--frames=-3"], ["--threads=-2"]])
def test_numbers_out_of_range_are_refused(words: list[str], bundle: Path, video: Path) -> None:
    assert run(bundle, video, *words).code == 2


@pytest.mark.parametrize(
    ("main", "words"),
    [(edge, ("run", "--source", "x")), (edge, ("build",)), (edge, ("verify",)), (edge, ("bench",)), (calibration, ())],
    ids=["run", "build", "verify", "bench", "calibration"],
)
def test_an_unknown_precision_is_refused_with_the_available_ones(
    main: Callable[[], int], words: tuple[str, ...], bundle: Path
) -> None:
    before = contents(bundle)
    message = only_error_line(call(main, *words[:1], bundle, *words[1:], "--precision", "fp4"))
    assert "no precision 'fp4'; choose one of fp32, int8" in message
    assert contents(bundle) == before


# Outputs


@pytest.mark.parametrize("place", ["missing folder", "below a file", "/proc", "a folder", "full disk"])
def test_an_output_that_cannot_be_written_is_refused_by_name(
    place: str, bundle: Path, video: Path, tmp_path: Path
) -> None:
    output = {
        "missing folder": tmp_path / "missing" / "lines",
        "below a file": video / "lines",
        "/proc": Path("/proc/lines"),
        "a folder": bundle,
        "full disk": Path("/dev/full"),
    }[place]
    before = contents(tmp_path)
    message = only_error_line(run(bundle, video, "--output", output, "--json"))
    assert str(output) in message or place == "full disk"
    assert contents(tmp_path) == before


def test_a_full_disk_is_reported_with_the_file_that_did_not_fit(bundle: Path, video: Path) -> None:
    assert "/dev/full" in only_error_line(run(bundle, video, "--output", "/dev/full", "--json"))


BUFFERED = {"PYTHONUNBUFFERED": ""}
"""Output is buffered as usual, even where a test machine sets otherwise."""


@pytest.mark.parametrize(
    "words",
    [("info", "{bundle}"), ("info", "{bundle}", "--json"), ("run", "{bundle}", "--source", "{video}", "--json")],
)
def test_a_result_that_cannot_be_printed_is_an_error(words: tuple[str, ...], bundle: Path, video: Path) -> None:
    command = ["edge", *(word.format(bundle=bundle, video=video) for word in words)]
    with (
        Path("/dev/full").open("w") as full,
        start_command(*command, env=BUFFERED, stdout=full, stderr=subprocess.PIPE) as process,
    ):
        stderr = process.communicate()[1]
    error_line(subprocess.CompletedProcess(command, process.returncode, "", stderr))


@pytest.mark.parametrize(
    "words",
    [
        ("info", "{bundle}"),
        ("info", "{bundle}", "--json"),
        ("run", "{bundle}", "--source", "{video}", "--json"),
    ],
)
def test_a_closed_pipe_is_no_error(words: tuple[str, ...], bundle: Path, video: Path) -> None:
    command = ["edge", *(word.format(bundle=bundle, video=video) for word in words)]
    read_end, write_end = os.pipe()
    os.close(read_end)
    with (
        os.fdopen(write_end, "w") as closed_pipe,
        start_command(*command, env=BUFFERED, stdout=closed_pipe, stderr=subprocess.PIPE) as process,
    ):
        stderr = process.communicate()[1]
    assert process.returncode == 0
    assert all(line.startswith("advice: ") for line in stderr.splitlines())
