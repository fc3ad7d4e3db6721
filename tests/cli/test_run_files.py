"""`edge run --output` and its siblings: lines are appended, and neither inputs nor other files are destroyed."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch

from compile.__main__ import main as compile_main
from edge.cli.main import main
from tests.support.commands import (
    Result,
    call,
    contents,
    error_line,
    full_disk,
    json_lines,
    only_error_line,
    random_frames,
    run_command,
)
from tests.support.damage import truncate

LINE = json.dumps({"frame": 0, "label": "yesterday"}) + "\n"


def run(bundle: Path, source: Path, output: Path, *more: object) -> Result:
    return call(main, "run", bundle, "--source", source, "--precision", "fp32", "--output", output, *more)


@pytest.mark.parametrize(
    ("before", "words", "kept"),
    [
        (None, (), ""),
        ("", (), ""),
        (LINE, (), LINE),
        (LINE + '{"frame": 1, "la', (), LINE + '{"frame": 1, "la\n'),
        (LINE, ("--overwrite",), ""),
        ("notes\n", ("--overwrite",), ""),
    ],
    ids=["new", "empty", "yesterday's", "cut off", "overwrite", "overwrite notes"],
)
def test_lines_are_appended(
    before: str | None, words: tuple[str, ...], kept: str, bundle: Path, video: Path, tmp_path: Path
) -> None:
    output = tmp_path / "lines.jsonl"
    if before is not None:
        output.write_text(before)
    for runs in (1, 2):
        result = run(bundle, video, output, *words)
        assert (result.code, result.stderr) == (0, "")
        text = output.read_text()
        assert text.startswith(kept)
        assert len(json_lines(text.removeprefix(kept))) == (12 if words else 12 * runs)


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda folder: folder / "video.avi", "is the same file as"),
        (lambda folder: link(folder / "link.jsonl", folder / "video.avi"), "is the same file as"),
        (lambda folder: hard_link(folder / "hard.jsonl", folder / "video.avi"), "is the same file as"),
        (lambda folder: folder / "bundle" / "manifest.json", "is inside the bundle"),
        (lambda folder: folder / "bundle" / "new.jsonl", "is inside the bundle"),
        (lambda folder: folder / "bundle" / ".." / "bundle" / "fp32" / "segment_0.onnx", "is inside the bundle"),
        (lambda folder: hard_link(folder / "hard.jsonl", folder / "bundle" / "manifest.json"), "which is read"),
        (lambda folder: folder / "bundle" / "fp32", "is inside the bundle"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: Path("/dev/full"), "is a device"),
        (lambda folder: Path("/dev/zero"), "is a device"),
    ],
)
def test_inputs_and_devices_are_never_written(
    place: Callable[[Path], Path], message: str, overwrite: tuple[str, ...], bundle: Path, video: Path, tmp_path: Path
) -> None:
    output = place(tmp_path)
    before = contents(tmp_path)
    assert message in only_error_line(run(bundle, video, output, *overwrite))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", ["notes\n", '{\n  "version": 3\n}\n', "[1, 2]\n", '{"version": 3}', "\0\0" + LINE])
def test_another_file_is_not_appended_to(content: str, bundle: Path, video: Path, tmp_path: Path) -> None:
    output = tmp_path / "file"
    output.write_text(content)
    assert "exists and holds no JSON lines; give another file, or add --overwrite" in only_error_line(
        run(bundle, video, output)
    )
    assert output.read_text() == content


def test_a_video_is_recorded_beside_that_of_yesterday(bundle: Path, video: Path, tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_text("from yesterday")
    assert run(bundle, video, tmp_path / "out.mp4", "--output", tmp_path / "lines.jsonl").code == 0
    assert (tmp_path / "out.mp4").read_text() == "from yesterday"
    assert (tmp_path / "out-2.mp4").read_bytes()[4:8] == b"ftyp"
    assert len(json_lines((tmp_path / "lines.jsonl").read_text())) == 12
    assert "is inside the bundle" in only_error_line(run(bundle, video, bundle / "out.mp4"))
    assert "--overwrite was given without a file" in only_error_line(
        run(bundle, video, tmp_path / "out.mp4", "--overwrite")
    )


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def hard_link(path: Path, target: Path) -> Path:
    os.link(target, path)
    return path


def folder_of_images(folder: Path, count: int = 6) -> Path:
    folder.mkdir()
    for index, frame in enumerate(random_frames(count)):
        cv2.imwrite(str(folder / f"{index}.png"), frame)
    return folder


def test_an_image_of_the_source_is_not_overwritten(bundle: Path, tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images")
    before = contents(images)
    assert "is inside" in only_error_line(run(bundle, images, images / "0.png", "--overwrite"))
    assert contents(images) == before
    assert run(bundle, images, images / "lines.jsonl").code == 0  # beside the images, as a file of its own


def test_devices_and_pipes_take_lines(bundle: Path, video: Path, tmp_path: Path) -> None:
    assert run(bundle, video, Path("/dev/null")).code == 0
    stdout = run_command("edge", "run", bundle, "--source", video, "--output", "/dev/stdout").stdout
    assert len(json_lines(stdout)) == 12
    os.mkfifo(tmp_path / "pipe")
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert run(bundle, video, tmp_path / "pipe").code == 0
    reader.join()
    assert len(json_lines(received[0])) == 12


def test_a_full_disk_leaves_whole_lines(bundle: Path, video: Path, tmp_path: Path) -> None:
    output = tmp_path / "lines.jsonl"
    run(bundle, video, Path("/dev/null"))  # engines are in the cache
    with full_disk(1000):
        message = only_error_line(run(bundle, video, output))
    assert message == f"File too large: {output}"
    assert 0 < len(json_lines(output.read_text())) < 12


def test_overwrite_needs_a_file(bundle: Path, video: Path) -> None:
    result = call(main, "run", bundle, "--source", video, "--overwrite")
    assert "--overwrite was given without a file" in only_error_line(result)


@pytest.mark.parametrize(
    "words", [("record", "{bundle}", "--images", "{images}", "--output"), ("verify", "{bundle}", "--report")]
)
def test_other_outputs_destroy_nothing_either(words: tuple[str, ...], bundle: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    folder_of_images(images)
    (tmp_path / "notes").write_text("notes")
    command = [word.format(bundle=bundle, images=images) for word in words]
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    torch.save({}, tmp_path / "checkpoint.pt")
    (tmp_path / "README.md").write_text("# Notes: engines match\n")
    shutil.copy(bundle / "reference.npz", tmp_path / "array.npz")
    before = contents(tmp_path)
    files = [tmp_path / name for name in ("notes", "checkpoint.pt", "README.md", "array.npz")]
    in_bundles = [folder / name for folder in (bundle, other) for name in ("manifest.json", "new", "fp32/scores.npz")]
    for output in (*in_bundles, *files, tmp_path):
        assert str(output) in only_error_line(call(main, *command, output))
    if words[0] == "record":
        assert "is inside" in only_error_line(call(main, *command, images / "0.png"))
    assert contents(tmp_path) == before


def test_a_previous_output_is_replaced(bundle: Path, tmp_path: Path) -> None:
    images, scores, report = tmp_path / "images", tmp_path / "scores.npz", tmp_path / "report.md"
    images.mkdir()
    folder_of_images(images / "3")
    for _ in range(2):
        assert call(main, "verify", bundle, "--precision", "fp32", "--report", report).code == 0
        assert call(main, "record", bundle, "--images", images, "--precision", "fp32", "--output", scores).code == 0


def test_compile_does_not_write_references_over_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    words = (checkpoint, "--output", tmp_path / "new", "--references", checkpoint)
    assert "is the same file as" in only_error_line(call(compile_main, *words))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["bundle", "bundle/references.npz", "bundle/fp32/references.npz", "link/references.npz"]
)
def test_compile_does_not_write_references_into_the_bundle_that_it_replaces(
    name: str, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("bundle")
    words = (checkpoint, "--output", tmp_path / "bundle", "--references", tmp_path / name)
    error = only_error_line(call(compile_main, *words))
    assert f"{tmp_path / name} is inside {tmp_path / 'bundle'}, which is replaced as a whole" in error
    assert not (tmp_path / "bundle").exists()


def test_compile_does_not_replace_the_folder_of_its_checkpoint(checkpoint: Path, bundle: Path) -> None:
    inside = Path(shutil.copy(checkpoint, bundle))
    before = contents(bundle)
    assert "is replaced as a whole" in only_error_line(call(compile_main, inside, "--output", bundle))
    assert contents(bundle) == before


# Files that cannot be read


def test_skip_bad_skips_and_counts(bundle: Path, tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images")
    whole = json_lines(call(main, "run", bundle, "--source", images, "--json").stdout)
    truncate(images / "1.png")
    (images / "4.png").write_text("no image")
    result = call(main, "run", bundle, "--source", images, "--json", "--skip-bad")
    assert result.code == 0
    assert result.stderr.count("left out: ") == 2
    assert "1.png" in result.stderr
    lines = json_lines(result.stdout)
    assert [line["file"] for line in lines] == ["0.png", "2.png", "3.png", "5.png"]
    assert (lines[-1]["damaged"], lines[-1]["skipped"]) == (2, 0)
    labels = [line["label"] for line in lines]
    assert labels == [line["label"] for index, line in enumerate(whole) if index not in (1, 4)]


def test_a_folder_without_a_readable_image_is_an_error(bundle: Path, tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images", 2)
    for path in images.iterdir():
        path.write_text("no image")
    result = call(main, "run", bundle, "--source", images, "--skip-bad")
    assert f"none of the 2 files of {images} can be read" in error_line(result)
