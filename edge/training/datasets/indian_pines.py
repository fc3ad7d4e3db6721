"""Indian Pines: a hyperspectral scene of Indiana farmland, classified pixel by pixel; it ships inside tensorly.

The AVIRIS sensor saw 145x145 pixels in 200 usable bands; 10,249 of them are labelled with one of 16 classes
(Baumgardner et al., doi 10.4231/R7RX991C). A sample is a patch of the scene, and its class that of the pixel in the
middle.

`load` has its splits drawn at random, as most papers on this scene draw them, and that flatters: patches of
neighbouring pixels overlap, so a test patch shares pixels, and often its whole field, with training patches.
`load_disjoint` tells what is left where no pixel of a test patch has been trained on.
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
TRAINING, FITTING, TEST, LEFT_OUT = range(4)
FEWEST_TESTED = 20
PART_ENDS = (0.5, 0.7)
"""Where, in the order of a class's pixels, training ends and fitting ends."""


class Patches:
    """The patches around chosen pixels, each a view of the one scene in memory."""

    def __init__(self, scene: NDArray[np.float32], centres: NDArray[np.intp], size: int) -> None:
        """Take a scene (channels, height, width), mirrored beyond its edges, and the centre pixels (samples, 2)."""
        reach = size // 2
        self._padded = np.pad(scene, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
        self._padded.flags.writeable = False  # a patch changed in place would change its neighbours
        self.centres = centres
        self._size = size

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self.centres)

    def __getitem__(self, index: int, /) -> NDArray[np.float32]:
        """Return one patch, (channels, size, size)."""
        top, left = self.centres[index]  # the padding moves a centre by what lies between a patch's centre and corner
        return self._padded[:, top : top + self._size, left : left + self._size]

    def some(self, indices: NDArray[np.intp]) -> "Patches":
        """Return some of the patches, sharing the scene."""
        fewer = copy.copy(self)
        fewer.centres = self.centres[indices]
        return fewer


def load(path: Path | None, image_size: int | None) -> LabelledImages:
    """Return a patch of 9x9 (or `image_size`) pixels around each labelled pixel.

    Five neighbouring bands are averaged into one channel each, 40 in all. A first convolution over 200 bands would
    cost more than the rest of a small network, neighbouring bands say nearly the same, and unlike the customary
    principal components an average is not fitted to anything, test pixels included.

    Args:
        path: Folder with `Indian_pines_corrected.npy` and `Indian_pines_gt.npy`; tensorly's own, where None.
        image_size: Height and width of a patch, an odd number.

    Raises:
        DataError: the patch size has no middle or exceeds the scene, or the files are missing or of another kind.
    """
    cube, truth = _packaged() if path is None else (_read(path / CUBE), _read(path / TRUTH))
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
        mirror=True,  # seen from above, a field has no left and right
    )


def load_disjoint(path: Path | None, image_size: int | None) -> LabelledImages:
    """Return patches whose splits share no pixel: those of train and INT8 calibration, of fitting, and of test.

    The pixels of each class, in rows or columns, whichever it spreads over more, go to training (the first half),
    fitting (a fifth: a third of it for validation, the rest for thresholds) and test. Where a patch overlaps one
    of an earlier part it is left out, and so are the four classes of which next to no test patch remains. Patches
    are 5x5: of 9x9 ones too few would remain.

    Raises:
        DataError: as `load` does.
    """
    whole = load(path, DISJOINT_SIZE if image_size is None else image_size)
    patches = cast(Patches, whole.frames)
    part = _parts(patches.centres, whole.labels, whole.size[1])
    tested = np.bincount(whole.labels[part == TEST], minlength=len(CLASSES)) >= FEWEST_TESTED
    chosen = np.flatnonzero(tested[whole.labels] & (part != LEFT_OUT))
    classes = np.flatnonzero(tested)
    fitting = np.flatnonzero(part[chosen] == FITTING)
    return dataclasses.replace(
        whole,
        name="indian-pines-disjoint",
        frames=patches.some(chosen),
        labels=np.searchsorted(classes, whole.labels[chosen]),
        classes=tuple(CLASSES[label] for label in classes),
        digests=[whole.digests[int(index)] for index in chosen],
        fixed_splits={
            "test": np.flatnonzero(part[chosen] == TEST),
            "validation": fitting[::3],
            "thresholds": np.setdiff1d(fitting, fitting[::3]),
        },
    )


def _parts(centres: NDArray[np.intp], labels: NDArray[np.int64], size: int) -> NDArray[np.intp]:
    """Return the part of the scene each pixel belongs to, such that patches of different parts share no pixel."""
    part = np.empty(len(labels), dtype=np.intp)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        spread = np.ptp(centres[members], axis=0)
        order = members[np.argsort(centres[members, int(spread[1] > spread[0])], kind="stable")]
        part[order] = np.searchsorted(PART_ENDS, (np.arange(len(order)) + 0.5) / len(order))
    for later in (FITTING, TEST):
        others = centres[part < later]
        for index in np.flatnonzero(part == later):
            if (np.abs(others - centres[index]).max(axis=1) < size).any():
                part[index] = LEFT_OUT
    return part


def _packaged() -> tuple[NDArray[Any], NDArray[Any]]:
    from tensorly.datasets import load_indian_pines

    scene = load_indian_pines()
    return np.asarray(scene.tensor), np.asarray(scene.ticks[0])


def _read(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as an array ({error}); name a folder with {CUBE} and {TRUTH}, "
            "or none to use the scene that comes with tensorly"
        ) from error


def _check_scene(cube: NDArray[Any], truth: NDArray[Any]) -> None:
    if cube.ndim != 3 or cube.shape[2] != BANDS or cube.dtype.kind not in "iuf" or not np.isfinite(cube).all():
        raise DataError(
            f"{CUBE} has shape {cube.shape} and type {cube.dtype}; "
            f"it must be finite numbers of shape (height, width, {BANDS}); bring the scene without its water bands"
        )
    if truth.shape != cube.shape[:2] or truth.dtype.kind not in "iu":
        raise DataError(
            f"{TRUTH} has shape {truth.shape} and type {truth.dtype}; "
            f"it must be whole numbers of shape {cube.shape[:2]}, one for each pixel of the scene"
        )
    values = np.unique(truth)
    if not values.any() or values[0] < 0 or values[-1] > len(CLASSES):
        raise DataError(
            f"{TRUTH} holds the labels {', '.join(map(str, values))}; "
            f"it must label pixels from 1 to {len(CLASSES)}, and with 0 where there is no label: bring it again"
        )


def _check_size(size: int, scene: tuple[int, ...]) -> None:
    if size < 1 or size % 2 == 0 or size > min(scene):
        raise DataError(
            f"patches of {size}x{size} pixels are not possible; "
            f"choose an odd size, so that a pixel lies in the middle, up to {min(scene)}"
        )


def _averaged(cube: NDArray[Any]) -> NDArray[np.float32]:
    """Return the scene as (channels, height, width), each channel the mean of neighbouring bands."""
    groups = cube.reshape(*cube.shape[:2], CHANNELS, BANDS // CHANNELS)
    return np.ascontiguousarray(groups.mean(axis=-1).transpose(2, 0, 1), dtype=np.float32)
