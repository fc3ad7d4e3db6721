"""Folders of splits and classes are read as they are meant; unreadable files are named together or skipped."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.errors import DataError
from edge.training.data import batches, measured_input
from edge.training.datasets import load_dataset
from edge.training.loading import PreprocessedImages
from edge.training.settings import Settings
from edge.training.splits import draw_splits
from edge.training.train import train
from tests.support.commands import call, class_folder, contents, error_line

CLASSES = ("cat", "cow", "dog")


def split_folders(folder: Path, names: tuple[str, ...], classes: tuple[str, ...] = CLASSES) -> Path:
    """Write a folder per split, each with its own images of every class."""
    for seed, name in enumerate(names):
        class_folder(folder / name, classes, each=16, seed=seed)
    return folder


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Train", "validation", "TEST"), ("training", "valid"), ("train", "test")]
)
def test_folders_of_splits_are_these_splits(names: tuple[str, ...], tmp_path: Path) -> None:
    images = load_dataset("folder", split_folders(tmp_path, names))
    splits = draw_splits(images, seed=0)
    assert images.classes == CLASSES
    assert len(images.labels) == len(names) * 3 * 16
    for purpose in ("test", "validation"):
        given = [name for name in names if name.lower().startswith(purpose[:3])]
        assert len(splits[purpose]) == 48 if given else purpose not in images.fixed_splits
    assert len(splits["thresholds"]) > 0
    assert sum(map(len, splits.values())) == len(images.labels)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert load_dataset("folder", class_folder(tmp_path, ("bus", "train"), each=12)).classes == ("bus", "train")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: split_folders(p, ("val", "test")), "but no folder train"),
        (lambda p: split_folders(p, ("train", "test")) and class_folder(p, ("cat",)), "look like splits .*beside cat"),
        (lambda p: class_folder(p, ("train", "test")), "hold images directly"),
        (lambda p: split_folders(p, ("val", "valid", "train")), "several folders for one split"),
        (
            lambda p: split_folders(p, ("train", "val")) and class_folder(p / "val", ("owl",)),
            "val has the classes owl, which .*train lacks",
        ),
        (lambda p: split_folders(p, ("pictures",)), "has only pictures, which has .*give --data .*/pictures"),
        (lambda p: split_folders(p, ("training_set", "test_set")), "one level deeper"),
    ],
    ids=["no train", "beside classes", "no classes", "twice", "other classes", "one level too many", "two folders"],
)
def test_another_layout_is_refused_and_not_misread(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        load_dataset("folder", tmp_path)


def test_all_unreadable_files_are_named_at_once_or_skipped_with_their_number(tmp_path: Path) -> None:
    folder = class_folder(tmp_path, CLASSES, each=16)
    for name in ("cat/3.png", "dog/5.png"):
        (folder / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2 of 48 images .*cat/3\.png.*dog/5\.png.*--skip-bad"):
        load_dataset("folder", folder)
    images = load_dataset("folder", folder, skip_bad=True)
    assert len(images.frames) == len(images.labels) == len(images.digests) == 46
    assert "2 images that cannot be read are left out" in images.notes[0]


def test_pictures_of_a_single_colour_are_named(tmp_path: Path) -> None:
    import cv2

    folder = class_folder(tmp_path, CLASSES, each=16)
    cv2.imwrite(str(folder / "cat" / "black.png"), np.zeros((16, 16, 3), np.uint8))
    [note] = load_dataset("folder", folder).notes
    assert "1 images have a single colour throughout" in note
    assert "black.png" in note


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_deleted_during_training_is_one_error_without_a_traceback(workers: int, tmp_path: Path) -> None:
    folder = class_folder(tmp_path, CLASSES, each=16)
    images = load_dataset("folder", folder, 16)
    indices = np.arange(len(images.labels))
    loader = batches(PreprocessedImages(images, indices, measured_input(images, indices)), 8, workers)
    shutil.rmtree(folder / "dog")
    with pytest.raises(DataError, match=r"dog/0\.png") as caught:
        list(loader)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("name", [b"\xff", b"a\nb", b"\x1b[31m"])
def test_a_class_whose_name_no_bundle_can_hold_is_refused_before_training(name: bytes, tmp_path: Path) -> None:
    (class_folder(tmp_path, ("a", "b")) / "a").rename(tmp_path / os.fsdecode(name))
    with pytest.raises(DataError, match=r"has the class '.*, a name with control characters or bytes that are no"):
        load_dataset("folder", tmp_path, 8)


@pytest.mark.parametrize("output", [".", "a", "new/run"])
def test_results_are_not_written_among_the_images(output: str, tmp_path: Path) -> None:
    images = class_folder(tmp_path / "images", ("a", "b"))
    before = contents(tmp_path)
    settings = Settings(dataset="folder", data=str(images), backbone="cnn-small", image_size=8, epochs=1)
    with pytest.raises(DataError, match=r"lies in .*images, whose folders are classes; choose another --output"):
        train(settings, images / output)
    assert contents(tmp_path) == before


def test_the_command_checks_without_training_and_skips_bad_files(tmp_path: Path) -> None:
    from edge.training.__main__ import main

    folder = class_folder(tmp_path / "images", CLASSES, each=30)
    (folder / "cat" / "3.png").write_bytes(b"no image")
    words = ("--dataset", "folder", "--data", folder, "--image-size", 32, "--check")
    assert "1 of 90 images cannot be read" in error_line(call(main, *words))
    result = call(main, *words, "--skip-bad")
    assert result.code == 0
    assert "3 classes, 89 images; cat: 29, cow: 30, dog: 30" in result.stderr
    assert "the network compiles: 3 segments" in result.stderr
    assert not list(tmp_path.rglob("*.pt"))
