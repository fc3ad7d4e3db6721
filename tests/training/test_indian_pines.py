"""Indian Pines: patches of the scene with the class of their central pixel, in random and in disjoint splits."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.errors import DataError
from edge.training.datasets import load_dataset
from edge.training.datasets.base import LabelledImages
from edge.training.datasets.indian_pines import Patches
from edge.training.splits import draw_splits

PURPOSES = {"train", "validation", "calibration", "thresholds", "test"}


# The scene


@pytest.fixture(scope="module")
def indian_pines() -> LabelledImages:
    return load_dataset("indian-pines")


def write_scene(
    folder: Path, truth: dict[tuple[int, int], int], height: int = 14, width: int = 12
) -> NDArray[np.float32]:
    """Write a small scene with a few labelled pixels, and return its 40 expected channels."""
    cube = np.random.default_rng(0).integers(1000, 9000, (height, width, 200), dtype=np.uint16)
    labels = np.zeros((height, width), dtype=np.uint8)
    for (row, column), label in truth.items():
        labels[row, column] = label
    np.save(folder / "Indian_pines_corrected.npy", cube)
    np.save(folder / "Indian_pines_gt.npy", labels)
    channels = [cube[:, :, 5 * k : 5 * k + 5].astype(np.float64).sum(axis=2) / 5 for k in range(40)]
    return np.stack(channels).astype(np.float32)


def test_indian_pines_has_a_patch_for_every_labelled_pixel(indian_pines: LabelledImages) -> None:
    counts = [46, 1428, 830, 237, 483, 730, 28, 478, 20, 972, 2455, 593, 205, 1265, 386, 93]
    assert np.bincount(indian_pines.labels).tolist() == counts
    assert len(indian_pines.classes) == 16
    assert indian_pines.classes[8] == "Oats"  # the smallest class
    assert len(indian_pines.frames) == len(indian_pines.digests) == 10_249
    assert (indian_pines.kind, indian_pines.colour, indian_pines.size) == ("array", None, (40, 9, 9))
    assert indian_pines.frames[0].shape == (40, 9, 9)
    assert indian_pines.frames[0].dtype == np.float32


def test_even_the_smallest_class_of_indian_pines_is_in_every_split(indian_pines: LabelledImages) -> None:
    splits = draw_splits(indian_pines, seed=0)
    assert set(splits) == PURPOSES
    assert all(set(indian_pines.labels[indices]) == set(range(16)) for indices in splits.values())


def test_all_patches_share_one_read_only_scene(indian_pines: LabelledImages) -> None:
    first, second = indian_pines.frames[0], indian_pines.frames[1]
    assert np.shares_memory(first, second)
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0] = 0


def test_a_patch_is_the_band_averaged_scene_around_its_pixel(tmp_path: Path) -> None:
    averaged = write_scene(tmp_path, {(3, 7): 5, (6, 4): 2})
    scene = load_dataset("indian-pines", tmp_path, 5)
    assert scene.labels.tolist() == [4, 1]
    assert scene.size == (40, 5, 5)
    np.testing.assert_array_equal(scene.frames[0][:, 2, 2], averaged[:, 3, 7])
    np.testing.assert_array_equal(scene.frames[0], averaged[:, 1:6, 5:10])
    np.testing.assert_array_equal(scene.frames[1], averaged[:, 4:9, 2:7])


@pytest.mark.parametrize("corner", [(0, 0), (0, 11), (13, 0), (13, 11)])
def test_a_patch_beyond_the_edge_mirrors_the_scene(tmp_path: Path, corner: tuple[int, int]) -> None:
    averaged = write_scene(tmp_path, {corner: 1})
    patch = load_dataset("indian-pines", tmp_path).frames[0]
    np.testing.assert_array_equal(patch[:, 4, 4], averaged[:, corner[0], corner[1]])
    np.testing.assert_array_equal(patch, patch[:, ::-1, :])
    np.testing.assert_array_equal(patch, patch[:, :, ::-1])


@pytest.mark.parametrize("size", [8, 0, -3, 13])
def test_an_even_patch_size_or_one_larger_than_the_scene_is_refused(tmp_path: Path, size: int) -> None:
    write_scene(tmp_path, {(5, 5): 1})
    with pytest.raises(DataError, match=f"patches of {size}x{size} pixels.*odd size up to 12"):
        load_dataset("indian-pines", tmp_path, size)


def test_a_missing_scene_is_reported_with_the_required_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Indian_pines_corrected\.npy cannot be read.*Indian_pines_gt\.npy"):
        load_dataset("indian-pines", tmp_path)


def test_a_truncated_scene_file_is_refused(tmp_path: Path) -> None:
    write_scene(tmp_path, {(5, 5): 1})
    path = tmp_path / "Indian_pines_corrected.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"Indian_pines_corrected\.npy cannot be read"):
        load_dataset("indian-pines", tmp_path)


@pytest.mark.parametrize(
    "cube", [np.ones((14, 12, 220), np.float32), np.full((14, 12, 200), np.nan)], ids=["with water bands", "NaN"]
)
def test_a_scene_of_another_shape_or_with_nan_is_refused(tmp_path: Path, cube: NDArray[np.float64]) -> None:
    write_scene(tmp_path, {(5, 5): 1})
    np.save(tmp_path / "Indian_pines_corrected.npy", cube)
    with pytest.raises(DataError, match=r"must be finite numbers of shape \(height, width, 200\)"):
        load_dataset("indian-pines", tmp_path)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (np.ones((12, 14), np.uint8), r"shape \(12, 14\).*must be integers of shape \(14, 12\)"),
        (np.ones((14, 12)), "type float64"),
        (np.full((14, 12), 17, np.uint8), "holds the labels 17"),
        (np.zeros((14, 12), np.uint8), "holds the labels 0"),
    ],
    ids=["transposed", "not integers", "a class too many", "no labels"],
)
def test_labels_that_do_not_fit_the_scene_are_refused(tmp_path: Path, truth: NDArray[np.uint8], message: str) -> None:
    write_scene(tmp_path, {(5, 5): 1})
    np.save(tmp_path / "Indian_pines_gt.npy", truth)
    with pytest.raises(DataError, match=message):
        load_dataset("indian-pines", tmp_path)


# Disjoint splits


@pytest.fixture(scope="module")
def disjoint() -> LabelledImages:
    return load_dataset("indian-pines-disjoint")


def patches_of(images: LabelledImages) -> Patches:
    assert isinstance(images.frames, Patches)
    return images.frames


def pixels_of(images: LabelledImages, indices: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return a mask of the scene's pixels that are in any of the patches, including mirrored edges."""
    numbers = np.arange(145 * 145, dtype=np.float32).reshape(1, 145, 145)  # the value of each pixel is its index
    patches = Patches(numbers, patches_of(images).centres, images.size[1])
    covered = np.zeros(145 * 145, dtype=bool)
    for index in indices:
        covered[patches[int(index)].astype(np.intp).ravel()] = True
    return covered


def test_randomly_drawn_splits_share_most_pixels(indian_pines: LabelledImages) -> None:
    """The reason for disjoint splits, and a check that `pixels_of` detects shared pixels."""
    splits = draw_splits(indian_pines, seed=0)
    train, test = (pixels_of(indian_pines, splits[purpose]) for purpose in ("train", "test"))
    assert (train & test).sum() > 0.9 * test.sum()


@pytest.mark.parametrize("seed", [0, 1])
def test_no_pixel_of_a_test_patch_is_in_a_patch_of_any_other_split(disjoint: LabelledImages, seed: int) -> None:
    splits = draw_splits(disjoint, seed)
    pixels = {purpose: pixels_of(disjoint, indices) for purpose, indices in splits.items()}
    assert set(pixels) == PURPOSES
    for purpose in PURPOSES - {"test"}:
        assert not (pixels["test"] & pixels[purpose]).any()
    for fitting, training in itertools.product(("validation", "thresholds"), ("train", "calibration")):
        assert not (pixels[fitting] & pixels[training]).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_every_class_of_disjoint_splits_has_training_and_test_samples(disjoint: LabelledImages, seed: int) -> None:
    splits = draw_splits(disjoint, seed)
    assert len(disjoint.classes) == 12
    counts = {purpose: np.bincount(disjoint.labels[indices], minlength=12) for purpose, indices in splits.items()}
    assert counts["test"].min() >= 20
    assert counts["train"].min() >= 20
    assert counts["calibration"].min() >= 1
    assert min(counts["thresholds"].sum(), counts["validation"].sum()) >= 200


@pytest.mark.parametrize("seed", range(3))
def test_disjoint_splits_do_not_depend_on_the_seed(disjoint: LabelledImages, seed: int) -> None:
    splits = draw_splits(disjoint, seed)
    for purpose in ("validation", "thresholds", "test"):
        np.testing.assert_array_equal(splits[purpose], disjoint.fixed_splits[purpose])
    drawn = np.sort(np.concatenate([splits["train"], splits["calibration"]]))
    fixed = np.concatenate([*disjoint.fixed_splits.values()])
    np.testing.assert_array_equal(drawn, np.setdiff1d(np.arange(len(disjoint.labels)), fixed))


def test_a_disjoint_patch_equals_the_scenes_patch_with_the_same_class(disjoint: LabelledImages) -> None:
    whole = load_dataset("indian-pines", image_size=5)
    assert (disjoint.size, disjoint.name) == ((40, 5, 5), "indian-pines-disjoint")
    index_of = {tuple(centre): index for index, centre in enumerate(patches_of(whole).centres.tolist())}
    centres = patches_of(disjoint).centres.tolist()
    assert len(centres) == len(disjoint.frames) == len(disjoint.labels) == len(disjoint.digests)
    assert len(set(map(tuple, centres))) == len(centres)
    for index, centre in enumerate(centres):
        same = index_of[tuple(centre)]
        assert disjoint.classes[disjoint.labels[index]] == whole.classes[whole.labels[same]]
        assert disjoint.digests[index] == whole.digests[same]
    for index in (0, 700, len(centres) - 1):
        np.testing.assert_array_equal(disjoint.frames[index], whole.frames[index_of[tuple(centres[index])]])


def test_larger_patches_share_no_pixel_between_splits(disjoint: LabelledImages) -> None:
    larger = load_dataset("indian-pines-disjoint", image_size=7)
    assert larger.size == (40, 7, 7)
    assert len(larger.labels) < len(disjoint.labels)  # more patches overlap an earlier part
    splits = draw_splits(larger, seed=0)
    pixels = {purpose: pixels_of(larger, indices) for purpose, indices in splits.items()}
    assert not any((pixels["test"] & pixels[purpose]).any() for purpose in PURPOSES - {"test"})
