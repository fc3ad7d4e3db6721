"""Splits are disjoint, stratified and reproducible, and keep the splits that a dataset fixes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.errors import DataError
from edge.training.datasets.base import LabelledImages
from edge.training.splits import draw_splits, split_specs

PURPOSES = {"train", "validation", "calibration", "thresholds", "test"}


def labelled(
    labels: Sequence[int], contents: Sequence[int] | None = None, test_split: Sequence[int] | None = None
) -> LabelledImages:
    """Return images of a single pixel; images of equal content have equal digests."""
    return LabelledImages(
        name="pixels",
        frames=np.zeros((len(labels), 1, 1), dtype=np.uint8),
        labels=np.array(labels, dtype=np.int64),
        classes=tuple(f"class {label}" for label in range(max(labels) + 1)),
        kind="image",
        colour="gray",
        size=(1, 1, 1),
        digests=[f"{content:06}" for content in (range(len(labels)) if contents is None else contents)],
        fixed_splits={} if test_split is None else {"test": np.array(test_split, dtype=np.intp)},
    )


def digests_of(images: LabelledImages, indices: NDArray[np.intp]) -> list[str]:
    return [images.digests[i] for i in indices]


@pytest.mark.parametrize("seed", range(5))
def test_every_image_is_in_one_split_and_every_split_has_all_classes(seed: int) -> None:
    images = labelled([0] * 10 + [1] * 37 + [2] * 200)
    splits = draw_splits(images, seed)
    assert set(splits) == PURPOSES
    assert sorted(np.concatenate(list(splits.values()))) == list(range(247))
    assert all(set(images.labels[indices]) == {0, 1, 2} for indices in splits.values())


def test_splits_are_stratified() -> None:
    images = labelled([0] * 200 + [1] * 400)
    counts = {
        purpose: np.bincount(images.labels[indices]).tolist() for purpose, indices in draw_splits(images, 0).items()
    }
    assert counts == {
        "test": [40, 80], "thresholds": [30, 60], "calibration": [16, 32], "validation": [14, 28], "train": [100, 200],
    }  # fmt: skip


def test_the_calibration_split_has_a_maximum_size() -> None:
    splits = draw_splits(labelled([0, 1] * 10_000), seed=0)
    assert len(splits["calibration"]) == 512


@pytest.mark.parametrize("seed", range(5))
def test_a_duplicate_image_is_used_once(seed: int) -> None:
    contents = [i // 2 for i in range(120)]
    images = labelled([content % 3 for content in contents], contents)
    splits = draw_splits(images, seed)
    used = [digest for indices in splits.values() for digest in digests_of(images, indices)]
    assert sorted(used) == sorted(set(images.digests))


def test_duplicates_do_not_count_towards_the_minimum_of_a_class() -> None:
    with pytest.raises(DataError, match=r"class 'class 1' of pixels has 9 distinct images to split; at least 10"):
        draw_splits(labelled([0] * 20 + [1] * 18, [*range(20), *(100 + i // 2 for i in range(18))]), seed=0)


def test_fixed_test_images_do_not_count_towards_the_minimum_of_a_class() -> None:
    with pytest.raises(DataError, match=r"class 'class 1' of pixels has 2 distinct images to split; at least 10"):
        draw_splits(labelled([0] * 30 + [1] * 30, test_split=[*range(20, 30), *range(32, 60)]), seed=0)


def test_a_class_missing_in_the_fixed_test_split_is_refused() -> None:
    with pytest.raises(DataError, match="class 'class 1' of pixels has no images in the fixed test split"):
        draw_splits(labelled([0] * 30 + [1] * 30, test_split=range(20, 30)), seed=0)


def test_a_class_without_samples_is_refused() -> None:
    with pytest.raises(DataError, match="class 'class 1' of pixels has 0 distinct images"):
        draw_splits(labelled([0] * 20 + [2] * 20), seed=0)


def test_the_seed_determines_the_splits() -> None:
    images = labelled([0, 1] * 50)
    assert split_specs(images, draw_splits(images, 7)) == split_specs(images, draw_splits(images, 7))
    first, other = split_specs(images, draw_splits(images, 7)), split_specs(images, draw_splits(images, 8))
    assert all(first[purpose].fingerprint != other[purpose].fingerprint for purpose in PURPOSES)
    assert {purpose: spec.samples for purpose, spec in first.items()} == {
        purpose: spec.samples for purpose, spec in other.items()
    }


def test_fingerprints_identify_a_splits_samples_in_any_order() -> None:
    images = labelled([0, 1] * 50)
    splits = {"train": np.array([3, 1, 2]), "test": np.array([1, 2, 3]), "validation": np.array([1, 2, 4])}
    specs = split_specs(images, splits)
    assert specs["train"] == specs["test"]
    assert specs["train"].fingerprint != specs["validation"].fingerprint
    assert specs["train"].samples == 3


def test_changed_content_changes_the_fingerprint() -> None:
    before, after = labelled([0, 1] * 50), labelled([0, 1] * 50, [*range(99), 1000])
    everything = {"train": np.arange(100)}
    assert split_specs(before, everything) != split_specs(after, everything)


@pytest.mark.parametrize("seed", range(3))
def test_any_corrected_label_changes_a_fingerprint(seed: int) -> None:
    images = labelled([0] * 20 + [1] * 20)
    before = split_specs(images, draw_splits(images, seed))
    for index in range(40):
        labels = images.labels.copy()
        labels[index] = 1 - labels[index]
        corrected = dataclasses.replace(images, labels=labels)
        assert split_specs(corrected, draw_splits(corrected, seed)) != before, index


def test_renamed_and_reordered_classes_change_the_fingerprint() -> None:
    images, everything = labelled([0, 1] * 10), {"train": np.arange(20)}
    before = split_specs(images, everything)
    renamed = dataclasses.replace(images, classes=("class 0", "dog"))
    reordered = dataclasses.replace(images, classes=("class 1", "class 0"), labels=1 - images.labels)
    assert before not in (split_specs(renamed, everything), split_specs(reordered, everything))


@pytest.mark.parametrize("seed", range(3))
def test_a_fixed_test_split_is_kept(seed: int) -> None:
    images = labelled([0, 1] * 100, test_split=range(150, 200))
    splits = draw_splits(images, seed)
    np.testing.assert_array_equal(splits["test"], range(150, 200))
    assert sorted(np.concatenate(list(splits.values()))) == list(range(200))


@pytest.mark.parametrize("seed", range(3))
def test_fixed_splits_are_kept_and_the_others_drawn_from_the_remaining_samples(seed: int) -> None:
    fixed = {"thresholds": np.arange(40, 70), "validation": np.arange(10), "test": np.arange(150, 200)}
    images = dataclasses.replace(labelled([0, 1] * 100), fixed_splits=fixed)
    splits = draw_splits(images, seed)
    for purpose, indices in fixed.items():
        np.testing.assert_array_equal(splits[purpose], indices)
    rest = [*range(10, 40), *range(70, 150)]
    assert sorted([*splits["train"], *splits["calibration"]]) == rest
    assert len(splits["calibration"]) == pytest.approx(0.08 * len(rest), abs=1)


@pytest.mark.parametrize("seed", range(3))
def test_of_duplicates_in_two_fixed_splits_the_copy_in_the_test_split_is_kept(seed: int) -> None:
    contents = [*range(150), *range(10), *range(200, 240)]  # ten test images are also validation images
    fixed = {"validation": np.arange(20), "test": np.arange(150, 200)}
    images = dataclasses.replace(labelled([0, 1] * 100, contents), fixed_splits=fixed)
    splits = draw_splits(images, seed)
    np.testing.assert_array_equal(splits["test"], range(150, 200))
    np.testing.assert_array_equal(splits["validation"], range(10, 20))


@pytest.mark.parametrize("purpose", ["validation", "thresholds", "calibration"])
def test_a_fixed_split_that_is_a_copy_of_the_test_split_is_refused(purpose: str) -> None:
    contents = [*range(160), *range(120, 160)]
    fixed = {purpose: np.arange(120, 160), "test": np.arange(160, 200)}
    images = dataclasses.replace(labelled([0, 1] * 100, contents), fixed_splits=fixed)
    message = f"the fixed {purpose} split of pixels has no images of its own: all 40 are copies of images in other"
    with pytest.raises(DataError, match=f"{message}.*; replace them, or remove this split"):
        draw_splits(images, seed=0)


@pytest.mark.parametrize("purpose", ["validation", "test"])
def test_a_fixed_split_without_images_is_refused(purpose: str) -> None:
    images = dataclasses.replace(labelled([0, 1] * 100), fixed_splits={purpose: np.arange(0)})
    with pytest.raises(
        DataError, match=f"the fixed {purpose} split of pixels has no images that can be read; add some"
    ):
        draw_splits(images, seed=0)


@pytest.mark.parametrize("seed", range(3))
def test_training_images_that_are_also_in_the_fixed_test_split_are_dropped(seed: int) -> None:
    contents = [*range(150), *range(20), *range(200, 230)]  # the first twenty test images are also training images
    images = labelled([0, 1] * 100, contents, test_split=range(150, 200))
    splits = draw_splits(images, seed)
    np.testing.assert_array_equal(splits["test"], range(150, 200))
    others = np.concatenate([indices for purpose, indices in splits.items() if purpose != "test"])
    assert sorted(others) == list(range(20, 150))


# Folds


@pytest.mark.parametrize("seed", [0, 1])
def test_folds_test_every_image_once_and_are_stratified(seed: int) -> None:
    images = labelled([0] * 103 + [1] * 51)
    folds = [draw_splits(images, seed, fold) for fold in range(5)]
    assert sorted(np.concatenate([splits["test"] for splits in folds])) == list(range(154))
    for splits in folds:
        assert sorted(np.concatenate(list(splits.values()))) == list(range(154))
        counts = np.bincount(images.labels[splits["test"]])
        assert counts[0] in (20, 21)
        assert counts[1] in (10, 11)


def test_copies_of_a_test_image_are_in_no_other_split_of_a_fold() -> None:
    images = labelled([0] * 60 + [1] * 60, [index // 2 for index in range(120)])
    for fold in range(5):
        splits = draw_splits(images, 0, fold)
        digests = [set(digests_of(images, indices)) for indices in splits.values()]
        assert sum(map(len, digests)) == len(set.union(*digests))


def test_folds_are_refused_where_there_is_a_test_split_or_no_such_fold() -> None:
    with pytest.raises(DataError, match=r"has a test split of its own.*leave out --fold"):
        draw_splits(labelled([0] * 30 + [1] * 30, test_split=[0, 59]), 0, fold=1)
    with pytest.raises(DataError, match="there is no fold 5; the folds are 0 to 4"):
        draw_splits(labelled([0] * 30 + [1] * 30), 0, fold=5)


@pytest.mark.parametrize("fold", range(5))
def test_every_fold_accepts_thirteen_images_of_a_class_and_refuses_twelve(fold: int) -> None:
    for seed in range(3):
        assert len(draw_splits(labelled([0] * 13 + [1] * 40), seed, fold)["train"])
    message = "class 'class 0' of pixels has 12 distinct images to split; at least 13 of each class are needed"
    with pytest.raises(DataError, match=message):
        draw_splits(labelled([0] * 12 + [1] * 40), 0, fold)


@pytest.mark.parametrize("members", [0, 3, 9])
def test_folds_are_refused_for_a_class_with_too_few_images(members: int) -> None:
    images = labelled([0] * members + [1] * 2 * members + [2] * 40)
    with pytest.raises(DataError, match=rf"class 'class 0' of pixels has {members} distinct images"):
        draw_splits(images, 0, fold=2)
