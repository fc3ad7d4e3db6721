"""ELPV: 2,624 electroluminescence photographs of solar cells, 300x300, gray (Deitsch et al. 2019, 2021).

Experts judged each cell: functional or defective, and whether they were sure. The photographs may be used for
non-commercial purposes only; install them with the extra `elpv`.
"""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.system import pip_install
from edge.training.datasets.base import LabelledImages, content_digests

SIZE, PHOTOGRAPH_SIZE = 128, 300
LABELS = "labels.csv"
CLASSES = ("functional", "defective")
GRADES = ("functional", "possibly functional", "possibly defective", "defective")
"""Classes by defect probability: 0, 1/3, 2/3, 1."""
REMEDY = f"{pip_install('elpv')}, or give --data a folder with the data set's {LABELS} and images"
NOTES = (
    "ELPV data set, https://github.com/zae-bayern/elpv-dataset, licence CC-BY-NC-SA-4.0: not for commercial use",
    "the data set does not say which cells come from the same module: cells of one module may be in several splits",
)


def load(path: Path | None, image_size: int | None) -> LabelledImages:
    """Return two classes: cells with a defect probability of at least 1/2 are defective.

    Args:
        path: Folder with `labels.csv` and the images it lists; None for the package `elpv-dataset`.
        image_size: Height and width of the network's input; None for 128.

    Raises:
        DataError: the data set is missing or damaged.
    """
    grades = load_grades(path, image_size)
    return dataclasses.replace(
        grades, name="elpv", labels=(grades.labels >= len(GRADES) // 2).astype(np.int64), classes=CLASSES
    )


def load_grades(path: Path | None, image_size: int | None) -> LabelledImages:
    """Return four classes: the defect probabilities 0, 1/3, 2/3 and 1.

    Raises:
        DataError: the data set is missing or damaged.
    """
    names, probabilities = _read_labels(path or _package_folder())
    frames = np.stack([_read_image(name) for name in names])
    size = SIZE if image_size is None else image_size
    return LabelledImages(
        name="elpv-4",
        frames=frames,
        labels=np.rint(probabilities * (len(GRADES) - 1)).astype(np.int64),
        classes=GRADES,
        kind="image",
        colour="gray",
        size=(1, size, size),
        digests=content_digests(frames),
        augment=("crop", "mirror", "flip", "colour"),  # the camera's framing and exposure vary; cells have no upside
        notes=NOTES,
    )


def _package_folder() -> Path:
    try:
        import elpv_dataset
    except ImportError as error:
        raise DataError(f"the package elpv-dataset is not installed; {REMEDY}") from error
    return Path(elpv_dataset.__file__).parent / "data"


def _read_labels(folder: Path) -> tuple[list[Path], NDArray[np.float64]]:
    """Return the image files and defect probabilities that the list of labels names."""
    path = folder / LABELS
    try:
        rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
        files, probabilities = [folder / row[0] for row in rows], np.array([float(row[1]) for row in rows])
    except (OSError, ValueError, IndexError) as error:
        raise DataError(
            f"{path} cannot be read as a list of images and defect probabilities ({error}); {REMEDY}"
        ) from error
    steps = probabilities * (len(GRADES) - 1)
    if not len(steps) or not (np.abs(steps - np.clip(np.rint(steps), 0, len(GRADES) - 1)) < 0.01).all():
        raise DataError(f"{path} has defect probabilities other than 0, 1/3, 2/3 and 1, or none; {REMEDY}")
    return files, probabilities


def _read_image(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None or image.shape != (PHOTOGRAPH_SIZE, PHOTOGRAPH_SIZE):
        found = "cannot be read" if image is None else f"has {image.shape[1]}x{image.shape[0]} pixels"
        raise DataError(f"{path} {found}, and must be a photograph of 300x300 pixels; {REMEDY}")
    return np.asarray(image, dtype=np.uint8)
