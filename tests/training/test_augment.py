"""Augmentation shows the network nothing that is not in the image, and each sample of a batch something else."""

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
from edge.training.data import preprocessed
from edge.training.datasets.base import LabelledImages, content_digests
from edge.training.network import MultiExitNetwork
from edge.training.settings import Settings
from edge.training.splits import draw_splits
from edge.training.train import train


def same_image(times: int, channels: int = 2, height: int = 9, width: int = 9) -> Tensor:
    """Return a batch of one image, no two pixels of which are equal, so that every move of it shows."""
    image = torch.arange(float(channels * height * width)).reshape(1, channels, height, width) - 100
    return image.repeat(times, 1, 1, 1)


def shifts(image: NDArray[np.float32], reach: int) -> list[NDArray[np.float32]]:
    """Return an image moved by every number of pixels up to `reach`, its lowest value coming in at the edges."""
    moved = []
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            one = np.roll(image, (down, right), axis=(1, 2))
            rows, columns = np.indices(image.shape[1:])
            height, width = image.shape[1:]
            outside = (rows < down) | (rows >= height + down) | (columns < right) | (columns >= width + right)
            one[:, outside] = image.min()
            moved.append(one)
    return moved


def is_among(image: NDArray[np.float32], others: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> bool:
    """Return whether an image is one of these, but for rounding."""
    return bool((np.abs(np.asarray(others) - image).max(axis=(1, 2, 3)) < 1e-5).any())


@pytest.mark.parametrize(("size", "reach"), [((9, 9), 1), ((32, 32), 2), ((32, 48), 2), ((64, 64), 4)])
def test_a_shifted_image_is_the_original_moved_by_a_few_pixels(size: tuple[int, int], reach: int) -> None:
    torch.manual_seed(0)
    images = same_image(30, 2, *size)
    possible = shifts(images[0].numpy(), reach)
    seen = random_shift(images).numpy()
    assert all(is_among(one, possible) for one in seen)


def test_every_shift_within_reach_comes_up() -> None:
    torch.manual_seed(0)
    images = same_image(400)
    seen = {one.numpy().tobytes() for one in random_shift(images)}
    assert seen == {one.tobytes() for one in shifts(images[0].numpy(), reach=1)}


def test_what_comes_in_at_the_edges_is_each_images_own_darkest_value() -> None:
    torch.manual_seed(0)
    images = torch.stack([torch.full((1, 9, 9), value) for value in (-3.0, 0.0, 5.0)]).repeat(20, 1, 1, 1)
    torch.testing.assert_close(random_shift(images), images)


def test_each_sample_of_a_batch_draws_its_own_shift_and_its_own_side() -> None:
    torch.manual_seed(0)
    images = same_image(60)
    assert len({one.numpy().tobytes() for one in random_shift(images)}) == 9
    both = random_mirror(images)
    sides = [torch.equal(one, image) for one, image in zip(both, images, strict=True)]
    assert 15 < sum(sides) < 45
    for one, image, upright in zip(both, images, sides, strict=True):
        assert torch.equal(one, image if upright else image.flip(-1))


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_images_are_shifted_and_mirrored_only_as_asked_for(shift: bool, mirror: bool) -> None:
    torch.manual_seed(0)
    images = same_image(60)
    upright = shifts(images[0].numpy(), reach=1 if shift else 0)
    turned = [image[:, :, ::-1] for image in upright]
    seen = Augmentation(shift=shift, mirror=mirror)(images)
    assert seen.shape == images.shape
    assert seen.dtype == images.dtype
    among_upright = [is_among(one, upright) for one in seen.numpy()]
    among_turned = [is_among(one, turned) for one in seen.numpy()]
    assert all(one or other for one, other in zip(among_upright, among_turned, strict=True))
    assert any(among_upright)
    assert any(among_turned) == mirror
    assert len({one.numpy().tobytes() for one in seen}) == (9 if shift else 1) * (2 if mirror else 1)


def test_what_is_not_asked_for_leaves_the_images_bit_for_bit() -> None:
    images = torch.randn(5, 3, 8, 8)
    assert torch.equal(Augmentation(shift=False, mirror=False)(images), images)


def test_augmentation_does_not_write_into_the_images_it_is_given() -> None:
    images = torch.randn(5, 3, 8, 8)
    before = images.clone()
    for _ in range(5):
        Augmentation(shift=True, mirror=True)(images)
    assert torch.equal(images, before)


def test_the_same_seed_draws_the_same_changes() -> None:
    images, augment = torch.randn(8, 1, 8, 8), Augmentation(shift=True, mirror=True)
    torch.manual_seed(3)
    first, then = augment(images), augment(images)
    torch.manual_seed(3)
    assert torch.equal(augment(images), first)
    assert not torch.equal(first, then)


# What train() makes of it


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
    """Train, and return the training samples as they are, and as four epochs showed them."""
    shown: list[NDArray[np.float32]] = []

    def look(network: nn.Module, given: tuple[Tensor]) -> None:
        if network.training:
            shown.append(given[0].contiguous().cpu().numpy())

    def watched(channels: int, classes: int) -> MultiExitNetwork:
        network = build_cnn(channels, classes, width=8)
        network.register_forward_pre_hook(look)
        return network

    monkeypatch.setitem(BACKBONES, "watched", watched)
    settings = Settings(dataset="made", backbone="watched", epochs=4, batch_size=8)
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
    upright = np.concatenate([shifts(image, reach) for image in originals])
    turned = upright[..., ::-1]
    as_they_are = sum(is_among(one, originals) for one in shown)
    as_upright = sum(is_among(one, upright) for one in shown)
    as_turned = sum(is_among(one, turned) for one in shown)
    assert as_upright + as_turned == len(shown)
    assert (as_turned > 0) == mirror
    assert (as_they_are == as_upright) == (kind == "array")


def test_every_epoch_shows_other_changes_and_the_same_seed_the_same_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = made_images("image", mirror=True)
    _, first = trained_on(images, tmp_path / "first", monkeypatch)
    _, second = trained_on(images, tmp_path / "second", monkeypatch)
    np.testing.assert_array_equal(first, second)
    epochs = [{one.tobytes() for one in epoch} for epoch in np.split(first, 4)]
    assert all(len(one & other) < len(one) / 2 for one, other in itertools.combinations(epochs, 2))


def test_every_epoch_shows_the_samples_in_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, shown = trained_on(made_images("array", mirror=False), tmp_path, monkeypatch)
    epochs = [[one.tobytes() for one in epoch] for epoch in np.split(shown, 4)]
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    assert all(one != other for one, other in itertools.combinations(epochs, 2))
