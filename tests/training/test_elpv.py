"""The photographs of solar cells are read from a folder or the package, with their licence, and damage is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import DataError
from edge.training.datasets import load_dataset
from edge.training.splits import draw_splits
from edge.training.summary import describe_images

PROBABILITIES = ("0.0", "0.3333333333333333", "0.6666666666666666", "1.0")


def write_cells(folder: Path, per_grade: int = 3) -> Path:
    """Write a data set with the layout of the package's; the gray of a cell is its number."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for number, probability in enumerate(PROBABILITIES * per_grade):
        name = f"images/cell{number:04}.png"
        cv2.imwrite(str(folder / name), np.full((300, 300), number, dtype=np.uint8))
        lines.append(f"{name}  {probability}   mono")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_cells_are_defective_from_a_probability_of_one_half(tmp_path: Path) -> None:
    images = load_dataset("elpv", write_cells(tmp_path))
    assert images.classes == ("functional", "defective")
    assert images.labels.tolist() == [0, 0, 1, 1] * 3
    assert images.size == (1, 128, 128)
    assert [int(images.frames[index][0, 0]) for index in range(12)] == list(range(12))


def test_four_classes_are_the_four_probabilities(tmp_path: Path) -> None:
    images = load_dataset("elpv-4", write_cells(tmp_path), image_size=64)
    assert len(images.classes) == 4
    assert images.labels.tolist() == [0, 1, 2, 3] * 3
    assert images.size == (1, 64, 64)


def test_licence_and_limits_are_printed_before_training(tmp_path: Path) -> None:
    images = load_dataset("elpv", write_cells(tmp_path, per_grade=10))
    summary = "\n".join(describe_images(images, draw_splits(images, seed=0), balance=False))
    assert "CC-BY-NC-SA-4.0" in summary
    assert "cells of one module may be in several splits" in summary


def test_a_missing_package_or_folder_is_reported_with_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"labels\.csv cannot be read .*pip install .*\[elpv\]"):
        load_dataset("elpv", tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "elpv_dataset", None)
    with pytest.raises(DataError, match=r"elpv-dataset is not installed; pip install .*\[elpv\]"):
        load_dataset("elpv")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "or none"),
        ("images/cell0000.png 0.5 mono", "other than 0, 1/3, 2/3 and 1"),
        ("images/cell0000.png 1.3333333 mono", "other than 0, 1/3, 2/3 and 1"),
        ("images/cell0000.png nan mono", "other than 0, 1/3, 2/3 and 1"),
        ("images/cell0000.png defective mono", "cannot be read as a list"),
        ("images/cell0000.png", "cannot be read as a list"),
        ("images/missing.png 1.0 mono", r"missing\.png cannot be read"),
    ],
)
def test_damaged_labels_are_refused(labels: str, message: str, tmp_path: Path) -> None:
    (write_cells(tmp_path) / "labels.csv").write_text(labels)
    with pytest.raises(DataError, match=message):
        load_dataset("elpv", tmp_path)


def test_a_truncated_or_resized_photograph_is_refused(tmp_path: Path) -> None:
    path = write_cells(tmp_path) / "images/cell0003.png"
    cv2.imwrite(str(path), np.zeros((200, 300), dtype=np.uint8))
    with pytest.raises(DataError, match=r"cell0003\.png has 300x200 pixels"):
        load_dataset("elpv", tmp_path)
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cell0003\.png cannot be read"):
        load_dataset("elpv", tmp_path)


@pytest.mark.services  # the extra `elpv`, which .ci/run installs
def test_the_package_has_2624_photographs() -> None:
    images = load_dataset("elpv-4")
    assert np.bincount(images.labels).tolist() == [1508, 295, 106, 715]
    assert len(set(images.digests)) == len(images.labels) == 2624
    assert np.bincount(load_dataset("elpv").labels).tolist() == [1803, 821]
