"""Augmentation shifts and mirrors each sample at random, and adds nothing that is not in the image."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.training.augment import Augmentation, random_mirror, random_shift
from edge.training.backbones import BACKBONES
from edge.training.backbones.cnn import build_cnn
from edge.training.datasets.base import LabelledImages, content_digests
from edge.training.loading import preprocessed
from edge.training.network import MultiExitNetwork
from edge.training.settings import Settings
from edge.training.splits import draw_splits
from edge.training.train import train


def repeated_image(times: int, channels: int = 2, height: int = 9, width: int = 9) -> Tensor:
    """Return a batch of copies of an image whose pixels all differ, so that every shift is detectable."""
    image = torch.arange(float(channels * height * width)).reshape(1, channels, height, width) - 100
    return image.repeat(times, 1, 1, 1)


def shifts(image: NDArray[np.float32], reach: int) -> list[NDArray[np.float32]]:
    """Return an image shifted by every offset up to `reach`; uncovered edges get its lowest value."""
    shifted = []
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            candidate = np.roll(image, (down, right), axis=(1, 2))
            rows, columns = np.indices(image.shape[1:])
            height, width = image.shape[1:]
            outside = (rows < down) | (rows >= height + down) | (columns < right) | (columns >= width + right)
            candidate[:, outside] = image.min()
            shifted.append(candidate)
    return shifted


def is_among(image: NDArray[np.float32], others: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> bool:
    """Return whether an image equals any of these up to rounding."""
    return bool((np.abs(np.asarray(others) - image).max(axis=(1, 2, 3)) < 1e-5).any())


@pytest.mark.parametrize(("size", "reach"), [((9, 9), 1), ((32, 32), 2), ((32, 48), 2), ((64, 64), 4)])
def test_a_shifted_image_is_the_original_moved_by_a_few_pixels(size: tuple[int, int], reach: int) -> None:
    torch.manual_seed(0)
    images = repeated_image(30, 2, *size)
    possible = shifts(images[0].numpy(), reach)
    seen = random_shift(images).numpy()
    assert all(is_among(image, possible) for image in seen)


def test_every_shift_up_to_the_maximum_occurs() -> None:
    torch.manual_seed(0)
    images = repeated_image(400)
    seen = {image.numpy().tobytes() for image in random_shift(images)}
    assert seen == {image.tobytes() for image in shifts(images[0].numpy(), reach=1)}


def test_uncovered_edges_get_the_lowest_value_of_the_image() -> None:
    torch.manual_seed(0)
    images = torch.stack([torch.full((1, 9, 9), value) for value in (-3.0, 0.0, 5.0)]).repeat(20, 1, 1, 1)
    torch.testing.assert_close(random_shift(images), images)


def test_each_sample_of_a_batch_draws_its_own_shift_and_mirroring() -> None:
    torch.manual_seed(0)
    images = repeated_image(60)
    assert len({image.numpy().tobytes() for image in random_shift(images)}) == 9
    mirrored = random_mirror(images)
    unchanged = [torch.equal(result, image) for result, image in zip(mirrored, images, strict=True)]
    assert 15 < sum(unchanged) < 45
    for result, image, is_unchanged in zip(mirrored, images, unchanged, strict=True):
        assert torch.equal(result, image if is_unchanged else image.flip(-1))


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_images_are_shifted_and_mirrored_only_if_enabled(shift: bool, mirror: bool) -> None:
    torch.manual_seed(0)
    images = repeated_image(60)
    unmirrored = shifts(images[0].numpy(), reach=1 if shift else 0)
    mirrored = [image[:, :, ::-1] for image in unmirrored]
    seen = Augmentation(shift=shift, mirror=mirror)(images)
    assert seen.shape == images.shape
    assert seen.dtype == images.dtype
    among_unmirrored = [is_among(image, unmirrored) for image in seen.numpy()]
    among_mirrored = [is_among(image, mirrored) for image in seen.numpy()]
    assert all(np.logical_or(among_unmirrored, among_mirrored))
    assert any(among_unmirrored)
    assert any(among_mirrored) == mirror
    assert len({image.numpy().tobytes() for image in seen}) == (9 if shift else 1) * (2 if mirror else 1)


def test_disabled_augmentation_leaves_images_bit_for_bit() -> None:
    images = torch.randn(5, 3, 8, 8)
    assert torch.equal(Augmentation(shift=False, mirror=False)(images), images)


def test_augmentation_does_not_modify_its_input() -> None:
    images = torch.randn(5, 3, 8, 8)
    before = images.clone()
    for _ in range(5):
        Augmentation(shift=True, mirror=True)(images)
    assert torch.equal(images, before)


def test_the_same_seed_gives_the_same_augmentation() -> None:
    images, augment = torch.randn(8, 1, 8, 8), Augmentation(shift=True, mirror=True)
    torch.manual_seed(3)
    first, then = augment(images), augment(images)
    torch.manual_seed(3)
    assert torch.equal(augment(images), first)
    assert not torch.equal(first, then)


# Augmentation in training


def made_images(kind: Literal["image", "array"], mirror: bool) -> LabelledImages:
    """Return noise in two classes; images are gray, arrays have two channels."""
    generator = np.random.default_rng(0)
    frames: NDArray[Any] = generator.normal(size=(40, 2, 12, 12)).astype(np.float32)
    if kind == "image":
        frames = generator.integers(0, 256, (40, 12, 12), dtype=np.uint8)
    colour, channels = ("gray", 1) if kind == "image" else (None, 2)
    labels, digests = np.arange(40) % 2, content_digests(frames)
    return LabelledImages("made", frames, labels, ("a", "b"), kind, colour, (channels, 12, 12), digests, mirror=mirror)


def trained_on(
    images: LabelledImages, output: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Train, and return the training samples before and after augmentation, over four epochs."""
    shown: list[NDArray[np.float32]] = []

    def record(network: nn.Module, given: tuple[Tensor]) -> None:
        if network.training:
            shown.append(given[0].contiguous().cpu().numpy())

    def recorded(channels: int, classes: int) -> MultiExitNetwork:
        network = build_cnn(channels, classes, width=8)
        network.register_forward_pre_hook(record)
        return network

    monkeypatch.setitem(BACKBONES, "recorded", recorded)
    settings = Settings(dataset="made", backbone="recorded", epochs=4, batch_size=8)
    checkpoint = train(settings, output, images)
    originals = preprocessed(images, draw_splits(images, settings.seed)["train"], checkpoint.input)
    return originals, np.concatenate(shown)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("kind", ["image", "array"])
def test_training_shifts_images_but_never_arrays_and_mirrors_where_the_dataset_allows_it(
    kind: Literal["image", "array"], mirror: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals, shown = trained_on(made_images(kind, mirror), tmp_path, monkeypatch)
    assert len(shown) == 4 * (len(originals) // 8 * 8)
    reach = 1 if kind == "image" else 0
    unmirrored = np.concatenate([shifts(image, reach) for image in originals])
    mirrored = unmirrored[..., ::-1]
    unchanged_count, unmirrored_count, mirrored_count = (
        sum(is_among(image, candidates) for image in shown) for candidates in (originals, unmirrored, mirrored)
    )
    assert unmirrored_count + mirrored_count == len(shown)
    assert (mirrored_count > 0) == mirror
    assert (unchanged_count == unmirrored_count) == (kind == "array")


def test_augmentation_differs_between_epochs_and_repeats_with_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = made_images("image", mirror=True)
    _, first = trained_on(images, tmp_path / "first", monkeypatch)
    _, second = trained_on(images, tmp_path / "second", monkeypatch)
    np.testing.assert_array_equal(first, second)
    epochs = [{image.tobytes() for image in epoch} for epoch in np.split(first, 4)]
    assert all(len(first & second) < len(first) / 2 for first, second in itertools.combinations(epochs, 2))


def test_every_epoch_has_another_sample_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, shown = trained_on(made_images("array", mirror=False), tmp_path, monkeypatch)
    epochs = [[image.tobytes() for image in epoch] for epoch in np.split(shown, 4)]
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    assert all(first != second for first, second in itertools.combinations(epochs, 2))
