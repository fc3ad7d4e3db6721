"""Augmentation transforms each sample at random, repeats with the seed, and uses the transforms that were asked for."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.bundle.manifest import InputSpec
from edge.errors import DataError
from edge.training.augment import (
    MIN_CROP,
    TRANSFORMS,
    Augmentation,
    augmentation_for,
    random_colour,
    random_crop,
    random_flip,
    random_mirror,
    random_shift,
)
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


def test_flipping_turns_about_half_of_the_images_upside_down() -> None:
    torch.manual_seed(0)
    images = repeated_image(60)
    flipped = [torch.equal(result, image.flip(-2)) for result, image in zip(random_flip(images), images, strict=True)]
    unchanged = [torch.equal(result, image) for result, image in zip(random_flip(images), images, strict=True)]
    assert 15 < sum(flipped) < 45
    assert 15 < sum(unchanged) < 45


def test_a_crop_shows_most_of_the_image_enlarged() -> None:
    """On a ramp, the columns of a crop are evenly spaced, cover at least 0.8 of the width and stay inside."""
    torch.manual_seed(0)
    width = 50
    ramp = torch.arange(float(width)).expand(200, 1, 40, width)
    columns = random_crop(ramp)[:, 0, 20, 1:-1]  # the outermost are interpolated with the border
    steps = columns.diff(dim=1)
    assert float(columns.min()) >= 0
    assert float(columns.max()) <= width - 1
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-3, rtol=0)
    assert MIN_CROP <= float(steps.min()) < MIN_CROP + 0.02
    assert 0.98 < float(steps.max()) <= 1.0001


def test_crops_of_rows_and_columns_are_independent() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(32.0).expand(50, 1, 32, 32)
    both = torch.cat([ramp, ramp.transpose(2, 3)], dim=1)
    cropped = random_crop(both)
    scales = cropped[:, 0, 16, 20] - cropped[:, 0, 16, 10], cropped[:, 1, 20, 16] - cropped[:, 1, 10, 16]
    assert abs(float(torch.corrcoef(torch.stack(scales))[0, 1])) < 0.4


def test_colour_changes_contrast_and_each_channels_brightness_alone() -> None:
    torch.manual_seed(0)
    images = torch.randn(1, 3, 6, 6).expand(40, 3, 6, 6)
    changed = random_colour(images)
    for channel in range(3):
        contrast = (changed[:, channel].amax((1, 2)) - changed[:, channel].amin((1, 2))) / (
            images[0, channel].max() - images[0, channel].min()
        )
        brightness = changed[:, channel] - contrast[:, None, None] * images[:, channel]
        assert float(contrast.min()) >= 0.79
        assert float(contrast.max()) <= 1.21
        assert float(contrast.std()) > 0.05
        assert float(brightness.std(dim=(1, 2)).max()) < 1e-5  # the same for all pixels
        assert float(brightness.abs().max()) <= 0.21


def spec_of(channels: int, kind: Literal["image", "array"] = "image") -> InputSpec:
    colour = {1: "gray", 3: "rgb"}[channels] if kind == "image" else None
    return InputSpec(kind, colour, channels, 24, 24, (0.4,) * channels, (0.2,) * channels)  # type: ignore[arg-type]


def pixels(channels: int, samples: int = 8) -> Tensor:
    """Return normalised 8-bit images of a bright square."""
    levels = torch.full((samples, channels, 24, 24), 60.0)
    levels[:, :, 6:14, 8:20] = 200.0
    return (levels / 255 - 0.4) / 0.2


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_returns_normalised_images_that_repeat_with_the_seed(channels: int) -> None:
    augment, images = augmentation_for(["randaugment"], spec_of(channels)), pixels(channels)
    torch.manual_seed(1)
    first, then = augment(images), augment(images)
    torch.manual_seed(1)
    assert torch.equal(augment(images), first)
    assert not torch.equal(first, then)
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    assert float(first.min()) >= -2.01
    assert float(first.max()) <= 3.01
    assert sum(torch.allclose(result, image, atol=1e-5) for result, image in zip(first, images, strict=True)) < 8


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name != "randaugment"])
def test_a_transform_leaves_its_input_and_repeats_with_the_seed(name: str) -> None:
    images, augment = torch.randn(8, 1, 24, 24), augmentation_for([name], spec_of(1))
    before = images.clone()
    torch.manual_seed(3)
    first, then = augment(images), augment(images)
    torch.manual_seed(3)
    assert torch.equal(augment(images), first)
    assert not torch.equal(first, then)
    assert first.shape == images.shape
    assert torch.equal(images, before)


def test_disabled_augmentation_leaves_images_bit_for_bit() -> None:
    images = torch.randn(5, 3, 8, 8)
    assert torch.equal(Augmentation(())(images), images)


def test_an_unknown_transform_and_one_that_moves_the_centre_of_an_array_are_refused() -> None:
    with pytest.raises(DataError, match=r"unknown augmentation 'rotate'; the augmentations are shift, crop"):
        augmentation_for(["rotate"], spec_of(1))
    with pytest.raises(DataError, match=r"'crop' is for images.*arrays, which allow flip and mirror"):
        augmentation_for(["mirror", "crop"], spec_of(3, "array"))


# Augmentation in training


def made_images(kind: Literal["image", "array"], *augment: str) -> LabelledImages:
    """Return noise in two classes; images are gray, arrays have two channels."""
    generator = np.random.default_rng(0)
    frames: NDArray[Any] = generator.normal(size=(40, 2, 12, 12)).astype(np.float32)
    if kind == "image":
        frames = generator.integers(0, 256, (40, 12, 12), dtype=np.uint8)
    colour, channels = ("gray", 1) if kind == "image" else (None, 2)
    labels, digests = np.arange(40) % 2, content_digests(frames)
    return LabelledImages(
        "made", frames, labels, ("a", "b"), kind, colour, (channels, 12, 12), digests, augment=augment
    )


def trained_on(
    images: LabelledImages, output: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
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
    settings = Settings(dataset="made", backbone="recorded", epochs=4, batch_size=8, **changes)
    checkpoint = train(settings, output, images)
    originals = preprocessed(images, draw_splits(images, settings.seed)["train"], checkpoint.input)
    return originals, np.concatenate(shown)


@pytest.mark.parametrize("augment", [(), ("shift",), ("mirror",), ("shift", "mirror")])
def test_training_uses_the_transforms_of_the_dataset(
    augment: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals, shown = trained_on(made_images("image", *augment), tmp_path, monkeypatch)
    unmirrored = np.concatenate([shifts(image, reach=1) for image in originals])
    unchanged_count, unmirrored_count, mirrored_count = (
        sum(is_among(image, candidates) for image in shown)
        for candidates in (originals, unmirrored, unmirrored[..., ::-1])
    )
    assert unmirrored_count + mirrored_count == len(shown) == 4 * (len(originals) // 8 * 8)
    assert (mirrored_count > 0) == ("mirror" in augment)
    assert (unchanged_count < unmirrored_count) == ("shift" in augment)


def test_the_settings_replace_the_transforms_of_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    originals, shown = trained_on(made_images("image", "shift"), tmp_path, monkeypatch, augment=())
    assert all(is_among(image, originals) for image in shown)


def test_augmentation_differs_between_epochs_and_repeats_with_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = made_images("image", "shift", "mirror")
    _, first = trained_on(images, tmp_path / "first", monkeypatch)
    _, second = trained_on(images, tmp_path / "second", monkeypatch)
    np.testing.assert_array_equal(first, second)
    epochs = [{image.tobytes() for image in epoch} for epoch in np.split(first, 4)]
    assert all(len(first & second) < len(first) / 2 for first, second in itertools.combinations(epochs, 2))


def test_every_epoch_has_another_sample_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, shown = trained_on(made_images("array"), tmp_path, monkeypatch)
    epochs = [[image.tobytes() for image in epoch] for epoch in np.split(shown, 4)]
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    assert all(first != second for first, second in itertools.combinations(epochs, 2))
