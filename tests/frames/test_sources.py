"""Frames from images, arrays, folders and videos: complete, in order, and exactly as stored."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.frames.base import Frame, FrameSource, PixelFormat
from edge.frames.files import files_in, read_frame
from edge.frames.open import open_source
from tests.support.commands import ROOT, TIMEOUT_S, random_frames, write_video


def read_all(source: FrameSource) -> list[NDArray[Any]]:
    """Read to the end as the pipeline does, each frame into the memory of the one before; return copies."""
    pixels: list[NDArray[Any]] = []
    frame: Frame | None = None
    while (frame := source.read(frame)) is not None:
        pixels.append(frame.pixels.copy())
    source.close()
    source.close()  # idempotent
    return pixels


def write_image(path: Path, frame: NDArray[Any]) -> NDArray[Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), frame)
    return frame


def test_a_folder_gives_its_images_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ["b.png", "a/z.png", "a/b/c.BMP", "C.png", "a.webp", "10.png", "9.tif"]
    frames = random_frames(len(names))
    for name, frame in zip(names, frames, strict=True):
        write_image(tmp_path / "images" / name, frame)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    source = open_source(str(tmp_path / "images"))
    assert not source.is_live
    assert source.frames == len(names)
    order = sorted(names, key=lambda name: name.split("/"))
    assert order[0] == "10.png"
    lossless = [name for name in order if not name.endswith(".webp")]
    pixels = dict(zip(order, read_all(source), strict=True))
    for name in lossless:
        assert (pixels[name] == frames[names.index(name)]).all(), name


def test_a_gray_image_is_read_as_bgr(tmp_path: Path) -> None:
    gray = write_image(tmp_path / "gray.png", random_frames(1)[0, :, :, 0])
    frame = read_frame(tmp_path / "gray.png")
    assert frame.format is PixelFormat.BGR
    assert frame.pixels.shape == (32, 32, 3)
    assert (frame.pixels == gray[:, :, None]).all()


def test_a_folder_of_arrays_gives_them_as_float32(tmp_path: Path) -> None:
    arrays = [np.random.default_rng(seed).normal(size=(5, 3, 3)) for seed in range(3)]
    for index, array in enumerate(arrays):
        np.save(tmp_path / f"{index}.npy", array)
    for pixels, array in zip(read_all(open_source(str(tmp_path))), arrays, strict=True):
        assert pixels.dtype == np.float32
        assert (pixels == array.astype(np.float32)).all()
    assert read_frame(tmp_path / "0.npy").format is PixelFormat.ARRAY


def test_images_and_arrays_in_subfolders_are_listed_and_other_files_are_not(tmp_path: Path) -> None:
    write_image(tmp_path / "deep" / "er" / "a.jpg", random_frames(1)[0])
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "b.NPY").write_bytes(b"")
    assert files_in(tmp_path) == [tmp_path / "b.NPY", tmp_path / "deep" / "er" / "a.jpg"]


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_video_gives_every_frame_exactly(suffix: str, tmp_path: Path) -> None:
    frames = random_frames(20, 48, 64)
    source = open_source(str(write_video(tmp_path / f"video{suffix}", frames)))
    assert not source.is_live
    assert source.frames == 20
    assert (np.stack(read_all(source)) == frames).all()


def test_a_video_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "video.mjpeg"
    path.write_bytes(b"".join(cv2.imencode(".jpg", frame)[1].tobytes() for frame in random_frames(5)))
    source = open_source(str(path))
    assert source.frames is None
    assert len([source.read(None) for _ in range(5)]) == 5


def test_the_end_of_a_video_of_unknown_length_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "video.mjpeg"
    path.write_bytes(b"".join(cv2.imencode(".jpg", frame)[1].tobytes() for frame in random_frames(5)))
    assert len(read_all(open_source(str(path)))) == 5


def test_a_single_image_is_a_source_of_one_frame(tmp_path: Path) -> None:
    frame = write_image(tmp_path / "picture.png", random_frames(1)[0])
    source = open_source(tmp_path / "picture.png")
    assert source.frames == 1
    [pixels] = read_all(source)
    assert (pixels == frame).all()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_video_gives_its_complete_frames_and_then_an_error(share: float, tmp_path: Path) -> None:
    frames = random_frames(20, 48, 64)
    path = write_video(tmp_path / "video.avi", frames)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    complete: list[NDArray[Any]] = []
    source = open_source(str(path))

    def read_to_the_end() -> None:
        while (frame := source.read(None)) is not None:
            complete.append(frame.pixels)

    with pytest.raises(SourceError, match=r"is damaged or was cut off after \d+ frames; repair it"):
        read_to_the_end()
    assert 0 < len(complete) < 20
    assert (np.stack(complete) == frames[: len(complete)]).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "there is no video or folder"),
        ("nowhere/nothing.mp4", "there is no video or folder"),
        ("-1", "there is no video or folder -1"),
        ("empty", "holds no images"),
        ("text.avi", "text.avi cannot be opened"),
        ("empty.avi", "empty.avi cannot be opened"),
        ("99", "camera 99 cannot be opened"),
        ("/dev/video99", "/dev/video99 cannot be opened"),
        pytest.param("", "give a file, a folder, a camera index, a stream", id="no name"),
        ("²", "there is no video or folder"),
        ("9" * 20, "cannot be opened"),
        (99, "camera 99 cannot be opened"),
        (Path("nowhere.avi"), "there is no video or folder nowhere.avi"),
    ],
)
def test_a_missing_source_is_refused_by_name(
    name: str | int | Path, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "image.png", random_frames(1)[0])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.avi").write_text("not a video\n" * 100)
    (tmp_path / "empty.avi").write_bytes(b"")
    with pytest.raises(SourceError, match=message):
        open_source(name)


def array_file(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        np.save(path, np.zeros((2, 3, 3), dtype=np.float32))
        path.write_bytes(edit(path.read_bytes()))

    return write


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(array_file(lambda content: content[:20]), id="truncated header"),
        pytest.param(array_file(lambda content: content[:-5]), id="truncated numbers"),
        pytest.param(array_file(lambda content: b"text" + content), id="no array"),
        pytest.param(array_file(lambda content: b""), id="empty"),
        pytest.param(lambda path: np.save(path, np.array(["a", "b"])), id="strings"),
        pytest.param(lambda path: np.save(path, np.array([{}]), allow_pickle=True), id="objects"),
        pytest.param(lambda path: np.save(path, np.zeros((2, 3, 3), dtype=complex)), id="complex"),
        pytest.param(lambda path: path.mkdir(), id="folder"),
    ],
)
def test_a_file_without_an_array_of_numbers_is_refused_by_name(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    write(path)
    with pytest.raises(SourceError, match=r"array\.npy is not an array of numbers .*; remove or replace it"):
        read_frame(path)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_an_archive_named_like_an_array_is_refused(share: float, tmp_path: Path) -> None:
    """Run in a process of its own: NumPy does not close such a file where it is damaged."""
    path = tmp_path / "archive.npy"
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    script = "import sys, pathlib, edge.frames.files; edge.frames.files.read_frame(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, path], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.stderr.splitlines()[-1].startswith(f"edge.errors.SourceError: {path} is not an array of numbers")
