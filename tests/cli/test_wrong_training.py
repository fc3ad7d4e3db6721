"""`python -m edge.training` on wrong input: refused with exit code 2 before anything is written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from tests.support.commands import Result, call, class_folder, error_line, full_disk, random_frames
from tests.support.damage import truncate


def train(output: Path, *words: object) -> Result:
    from edge.training.__main__ import main

    return call(main, "--output", output, "--epochs", 1, *words)


def training_error(tmp_path: Path, *words: object) -> str:
    message = error_line(train(tmp_path / "training", *words))
    assert not (tmp_path / "training").exists()
    return message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: truncate(folder / "cat" / "7.png"), "cat/7.png cannot be read as an image"),
        (lambda folder: (folder / "cat" / "7.png").write_text("x"), "cat/7.png cannot be read as an image"),
        (lambda folder: (folder / "cow").mkdir(), "cow has no images"),
        (lambda folder: shutil.rmtree(folder / "cat"), "only one class, 'dog'"),
        (lambda folder: [shutil.rmtree(folder / name) for name in ("cat", "dog")], "has no subfolders"),
        (shutil.rmtree, "there is no folder"),
        (lambda folder: [path.unlink() for path in folder.glob("cat/1*.png")], "class 'cat' of folder has 9 distinct"),
        (
            lambda folder: [shutil.copy(folder / "cat" / "0.png", path) for path in folder.glob("cat/1*.png")],
            "class 'cat' of folder has 9 distinct",
        ),
    ],
    ids=[
        "truncated",
        "not an image",
        "empty class",
        "one class",
        "no classes",
        "missing",
        "too few",
        "too many copies",
    ],
)
def test_class_folders_that_cannot_be_trained_on_are_refused_by_name(
    change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = class_folder(tmp_path / "images", ("cat", "dog"), each=12)
    change(folder)
    message = training_error(tmp_path, "--dataset", "folder", "--data", folder)
    assert message in message
    assert str(folder) in message or "distinct" in message


def test_a_truncated_photo_is_not_trained_on(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "images", ("cat", "dog"), each=12)
    cv2.imwrite(str(folder / "cat" / "photo.jpg"), random_frames(1, 64, 64)[0])
    truncate(folder / "cat" / "photo.jpg")
    assert "photo.jpg" in training_error(tmp_path, "--dataset", "folder", "--data", folder, "--batch-size", 4)


@pytest.mark.parametrize(
    "words",
    [
        ("--batch-size", "0"),
        ("--batch-size", "-4"),
        ("--truncated-at", "3"),
        ("--truncated-at", "-1"),
        ("--epochs", "-1"),
        ("--image-size", "-5"),
        ("--image-size", "0"),
        ("--image-size", "1"),
        ("--seed", "-1"),
        ("--learning-rate", "1e30"),
        ("--learning-rate", "nan"),
        ("--learning-rate", "-0.1"),
        ("--attention-weight", "nan"),
    ],
    ids=" ".join,
)
def test_settings_out_of_range_are_refused(words: tuple[str, str], tmp_path: Path) -> None:
    result = train(tmp_path / "training", "--dataset", "digits", *words)
    assert result.code == 2
    assert "error: " in result.stderr.splitlines()[-1]
    assert not (tmp_path / "training").exists()


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_leaves_none(tmp_path: Path) -> None:
    with full_disk(100_000):
        result = train(tmp_path / "training", "--dataset", "digits", "--image-size", 16, "--batch-size", 256)
    assert "File too large" in error_line(result)
    assert [path.name for path in (tmp_path / "training").iterdir()] == ["tensorboard"]
