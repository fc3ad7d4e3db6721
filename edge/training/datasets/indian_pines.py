"""Indian Pines: pixel classification in a hyperspectral scene of Indiana farmland, which is part of tensorly.

The scene of the AVIRIS sensor has 145x145 pixels with 200 usable bands; 10,249 of them are labelled with one of 16
classes (Baumgardner et al., doi 10.4231/R7RX991C). A sample is a patch of the scene with the class of its central
pixel.

The splits of `load` are drawn at random, as in most papers on this scene. That overestimates accuracy: patches of
neighbouring pixels overlap, so a test patch shares pixels, and often its whole field, with training patches.
`load_disjoint` has splits in which no pixel of a test patch is in a training patch.
"""

import copy
import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.training.datasets.base import LabelledImages, content_digests

CUBE, TRUTH = "Indian_pines_corrected.npy", "Indian_pines_gt.npy"
CLASSES = (
    "Alfalfa",
    "Corn-notill",
    "Corn-mintill",
    "Corn",
    "Grass-pasture",
    "Grass-trees",
    "Grass-pasture-mowed",
    "Hay-windrowed",
    "Oats",
    "Soybean-notill",
    "Soybean-mintill",
    "Soybean-clean",
    "Wheat",
    "Woods",
    "Buildings-Grass-Trees-Drives",
    "Stone-Steel-Towers",
)
BANDS, CHANNELS = 200, 40
SIZE, DISJOINT_SIZE = 9, 5
TRAINING, FITTING, TEST, EXCLUDED = range(4)
"""Parts of the scene for disjoint splits."""
MIN_TEST_SAMPLES = 20
"""Classes with fewer test patches are dropped from the disjoint splits."""
PART_ENDS = (0.5, 0.7)
"""Ends of the training and the fitting part, as shares of the ordered pixels of a class."""


class Patches:
    """Patches around pixels, as views of one scene in memory."""

    def __init__(self, scene: NDArray[np.float32], centres: NDArray[np.intp], size: int) -> None:
        """Pad the scene by mirroring at its edges.

        Args:
            scene: Shape (channels, height, width).
            centres: Row and column of each patch's central pixel, shape (samples, 2).
            size: Height and width of a patch, an odd number.
        """
        margin = size // 2
        self._padded = np.pad(scene, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
        self._padded.flags.writeable = False  # patches overlap: a change of one would change others
        self.centres = centres
        self._size = size

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self.centres)

    def __getitem__(self, index: int, /) -> NDArray[np.float32]:
        """Return one patch, (channels, size, size)."""
        top, left = self.centres[index]  # of the patch: the padding shifts the scene by half a patch
        return self._padded[:, top : top + self._size, left : left + self._size]

    def subset(self, indices: NDArray[np.intp]) -> "Patches":
        """Return a subset of the patches, sharing the scene."""
        subset = copy.copy(self)
        subset.centres = self.centres[indices]
        return subset


def load(path: Path | None, image_size: int | None) -> LabelledImages:
    """Return a patch of 9x9 (or `image_size`) pixels around each labelled pixel.

    Each channel is the mean of five neighbouring bands, 40 channels in all. A first convolution over 200 bands would
    cost more than the rest of a small network, and neighbouring bands are highly correlated. Unlike the customary
    principal components, a mean is not fitted to data that includes test pixels.

    Args:
        path: Folder with `Indian_pines_corrected.npy` and `Indian_pines_gt.npy`; None for the copy in tensorly.
        image_size: Height and width of a patch, an odd number.

    Raises:
        DataError: the patch size is even or exceeds the scene, or the files are missing or have other contents.
    """
    cube, truth = _load_from_tensorly() if path is None else (_read(path / CUBE), _read(path / TRUTH))
    _check_scene(cube, truth)
    size = SIZE if image_size is None else image_size
    _check_size(size, truth.shape)
    centres = np.argwhere(truth > 0)
    patches = Patches(_averaged(cube), centres, size)
    return LabelledImages(
        name="indian-pines",
        frames=patches,
        labels=truth[truth > 0].astype(np.int64) - 1,
        classes=CLASSES,
        kind="array",
        colour=None,
        size=(CHANNELS, size, size),
        digests=content_digests(patches),
        augment=("mirror",),  # an aerial view has no preferred direction
    )


def load_disjoint(path: Path | None, image_size: int | None) -> LabelledImages:
    """Return patches in three parts that share no pixel: training with INT8 calibration, fitting, and test.

    Patches of one part overlap: those of training and INT8 calibration, and those of validation and threshold fitting.

    The pixels of each class are ordered by row or column, along the longer extent of the class. The first half is the
    training part, the next fifth the fitting part (a third of it for validation, the rest for thresholds), the rest
    the test part. Patches that overlap an earlier part are excluded, and so are the four classes with fewer than 20
    remaining test patches. Patches have 5x5 pixels, because too few of 9x9 would remain.

    Raises:
        DataError: the patch size is even or exceeds the scene, or the files are missing or have other contents.
    """
    whole = load(path, DISJOINT_SIZE if image_size is None else image_size)
    patches = cast(Patches, whole.frames)
    part = _parts(patches.centres, whole.labels, whole.size[1])
    has_test = np.bincount(whole.labels[part == TEST], minlength=len(CLASSES)) >= MIN_TEST_SAMPLES
    selected = np.flatnonzero(has_test[whole.labels] & (part != EXCLUDED))
    classes = np.flatnonzero(has_test)
    fitting = np.flatnonzero(part[selected] == FITTING)
    return dataclasses.replace(
        whole,
        name="indian-pines-disjoint",
        frames=patches.subset(selected),
        labels=np.searchsorted(classes, whole.labels[selected]),
        classes=tuple(CLASSES[label] for label in classes),
        digests=[whole.digests[int(index)] for index in selected],
        fixed_splits={
            "test": np.flatnonzero(part[selected] == TEST),
            "validation": fitting[::3],
            "thresholds": np.setdiff1d(fitting, fitting[::3]),
        },
    )


def _parts(centres: NDArray[np.intp], labels: NDArray[np.int64], size: int) -> NDArray[np.intp]:
    """Assign each labelled pixel to a part of the scene, so that patches of different parts share no pixel."""
    part = np.empty(len(labels), dtype=np.intp)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        extent = np.ptp(centres[members], axis=0)
        order = members[np.argsort(centres[members, int(extent[1] > extent[0])], kind="stable")]
        part[order] = np.searchsorted(PART_ENDS, (np.arange(len(order)) + 0.5) / len(order))
    for later in (FITTING, TEST):
        others = centres[part < later]
        for index in np.flatnonzero(part == later):
            if (np.abs(others - centres[index]).max(axis=1) < size).any():
                part[index] = EXCLUDED
    return part


def _load_from_tensorly() -> tuple[NDArray[Any], NDArray[Any]]:
    from tensorly.datasets import load_indian_pines

    scene = load_indian_pines()
    return np.asarray(scene.tensor), np.asarray(scene.ticks[0])


def _read(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as an array ({error}); give a folder with {CUBE} and {TRUTH}, "
            "or leave out --data to use the scene in tensorly"
        ) from error


def _check_scene(cube: NDArray[Any], truth: NDArray[Any]) -> None:
    if cube.ndim != 3 or cube.shape[2] != BANDS or cube.dtype.kind not in "iuf" or not np.isfinite(cube).all():
        raise DataError(
            f"{CUBE} has shape {cube.shape} and type {cube.dtype}; "
            f"it must be finite numbers of shape (height, width, {BANDS}); use the scene without water bands"
        )
    if truth.shape != cube.shape[:2] or truth.dtype.kind not in "iu":
        raise DataError(
            f"{TRUTH} has shape {truth.shape} and type {truth.dtype}; "
            f"it must be integers of shape {cube.shape[:2]}, one for each pixel of the scene"
        )
    values = np.unique(truth)
    if not values.any() or values[0] < 0 or values[-1] > len(CLASSES):
        raise DataError(
            f"{TRUTH} holds the labels {', '.join(map(str, values))}; "
            f"labels are 1 to {len(CLASSES)}, and 0 for unlabelled pixels; download the file again"
        )


def _check_size(size: int, scene: tuple[int, ...]) -> None:
    if size < 1 or size % 2 == 0 or size > min(scene):
        raise DataError(
            f"patches of {size}x{size} pixels are not possible; "
            f"choose an odd size up to {min(scene)}, so that the patch has a central pixel"
        )


def _averaged(cube: NDArray[Any]) -> NDArray[np.float32]:
    """Return the scene as (channels, height, width), each channel the mean of neighbouring bands."""
    groups = cube.reshape(*cube.shape[:2], CHANNELS, BANDS // CHANNELS)
    return np.ascontiguousarray(groups.mean(axis=-1).transpose(2, 0, 1), dtype=np.float32)
