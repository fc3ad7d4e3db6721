"""Training sees frames through the device's own preprocessing, and augmentation shows it nothing that is not there."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.manifest import InputSpec
from edge.preprocess import preprocess_for
from edge.training.data import PreprocessedImages, _shifted, batches, measured_input, preprocessed
from edge.training.datasets import LabelledImages

SAMPLES = 24
EVERY = np.arange(SAMPLES)


def pictures() -> LabelledImages:
    """Return colour pictures, brighter in red than in blue, that must be cropped and resized."""
    generator = np.random.default_rng(0)
    frames = generator.integers((0, 40, 90), (100, 180, 256), (SAMPLES, 20, 30, 3)).astype(np.uint8)
    return labelled(frames, "image", "rgb", (3, 16, 16))


def arrays() -> LabelledImages:
    """Return arrays whose channels differ by orders of magnitude."""
    scale = np.array([1, 100, 5000])[:, None, None]
    frames = np.random.default_rng(1).normal(scale, scale / 3, (SAMPLES, 3, 9, 9)).astype(np.float32)
    return labelled(frames, "array", None, (3, 9, 9))


def labelled(
    frames: NDArray[Any], kind: Literal["image", "array"], colour: Literal["rgb"] | None, size: tuple[int, int, int]
) -> LabelledImages:
    labels = np.arange(len(frames)) % 4
    digests = [str(index) for index in range(len(frames))]
    return LabelledImages("made", frames, labels, ("a", "b", "c", "d"), kind, colour, size, digests)


def scaled_only(images: LabelledImages) -> InputSpec:
    channels = images.size[0]
    return InputSpec(images.kind, images.colour, *images.size, (0.0,) * channels, (1.0,) * channels)


def shown(images: LabelledImages, position: int, times: int) -> list[Tensor]:
    """Return what training is shown of one sample again and again."""
    torch.manual_seed(0)
    dataset = PreprocessedImages(images, EVERY, scaled_only(images), augment=True)
    return [dataset[position][0] for _ in range(times)]


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


both_kinds = pytest.mark.parametrize("make", [pictures, arrays])


@both_kinds
def test_training_reads_frames_as_the_device_does(make: Callable[[], LabelledImages]) -> None:
    images = make()
    spec = measured_input(images, EVERY)
    chosen = [5, 0, 17]
    expected = np.empty((3, *spec.shape), dtype=np.float32)
    for out, index in zip(expected, chosen, strict=True):
        preprocess_for(spec)(images.frames[index], out)
    np.testing.assert_array_equal(preprocessed(images, chosen, spec), expected)
    dataset = PreprocessedImages(images, np.array(chosen), spec, augment=False)
    np.testing.assert_array_equal([dataset[position][0] for position in range(3)], expected)


@both_kinds
def test_measured_input_standardises_each_channel_over_the_training_split(make: Callable[[], LabelledImages]) -> None:
    images, train = make(), EVERY[:16]
    spec = measured_input(images, train)
    values = preprocessed(images, train, spec)
    np.testing.assert_allclose(values.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(values.std(axis=(0, 2, 3)), 1, atol=1e-4)
    assert spec.shape == images.size
    assert (spec.kind, spec.colour) == (images.kind, images.colour)


def test_what_is_not_trained_on_does_not_change_the_input() -> None:
    images = arrays()
    frames = np.stack([images.frames[index] for index in range(SAMPLES)])
    frames[16:] *= 50
    changed = dataclasses.replace(images, frames=frames)
    assert measured_input(images, EVERY[:16]) == measured_input(changed, EVERY[:16])
    assert measured_input(images, EVERY) != measured_input(changed, EVERY)


def test_a_channel_that_never_changes_gives_finite_input() -> None:
    images = labelled(np.full((SAMPLES, 1, 4, 4), 7, dtype=np.float32), "array", None, (1, 4, 4))
    values = preprocessed(images, EVERY, measured_input(images, EVERY))
    np.testing.assert_array_equal(values, 0)


def test_red_comes_first_in_the_network_and_last_in_a_frame() -> None:
    spec = measured_input(pictures(), EVERY)
    assert spec.mean[0] > spec.mean[1] > spec.mean[2]


@both_kinds
@pytest.mark.parametrize("mirror", [False, True])
def test_augmentation_keeps_shape_and_labels(make: Callable[[], LabelledImages], mirror: bool) -> None:
    images = dataclasses.replace(make(), mirror=mirror)
    chosen = np.array([7, 2, 21, 4])
    dataset = PreprocessedImages(images, chosen, scaled_only(images), augment=True)
    for _ in range(10):
        for position, index in enumerate(chosen):
            tensor, label = dataset[position]
            assert tensor.shape == images.size
            assert tensor.dtype == torch.float32
            assert int(label) == images.labels[index]


def test_augmentation_does_not_touch_the_frames() -> None:
    images = dataclasses.replace(arrays(), mirror=True)
    before = np.array(images.frames)
    shown(images, 0, times=20)
    np.testing.assert_array_equal(images.frames, before)


@pytest.mark.parametrize("mirror", [False, True])
def test_images_are_mirrored_only_where_the_dataset_allows_it(mirror: bool) -> None:
    images = dataclasses.replace(pictures(), mirror=mirror)
    upright = shifts(preprocessed(images, [3], scaled_only(images))[0], reach=1)
    mirrored = [image[:, :, ::-1] for image in upright]
    seen = [tensor.numpy() for tensor in shown(images, 3, times=40)]
    as_is = [is_among(image, upright) for image in seen]
    turned = [is_among(image, mirrored) for image in seen]
    assert all(one or other for one, other in zip(as_is, turned, strict=True))
    assert any(as_is)
    assert any(turned) == mirror


def test_mirroring_and_shifting_need_to_be_asked_for() -> None:
    images = dataclasses.replace(pictures(), mirror=True)
    dataset = PreprocessedImages(images, EVERY, scaled_only(images), augment=False)
    assert all(torch.equal(dataset[0][0], dataset[0][0]) for _ in range(20))


@pytest.mark.parametrize(("size", "reach"), [((9, 9), 1), ((32, 32), 2), ((32, 48), 2), ((64, 64), 4)])
def test_a_shifted_image_is_the_original_moved_by_a_few_pixels(size: tuple[int, int], reach: int) -> None:
    torch.manual_seed(0)
    image = torch.arange(2.0 * size[0] * size[1]).reshape(2, *size) - 100
    possible = shifts(image.numpy(), reach)
    seen = [_shifted(image).numpy() for _ in range(30)]
    assert all(is_among(one, possible) for one in seen)
    assert len({one.tobytes() for one in seen}) > 5


def is_among(image: NDArray[np.float32], others: list[NDArray[np.float32]]) -> bool:
    return any(np.array_equal(image, other) for other in others)


@pytest.mark.parametrize("from_files", [False, True], ids=["in this process", "in others"])
def test_batches_hold_each_sample_once_and_in_order_unless_shuffled(from_files: bool) -> None:
    images = dataclasses.replace(pictures(), from_files=from_files)
    spec = scaled_only(images)
    loaded = list(batches(PreprocessedImages(images, EVERY, spec, augment=False), 10, shuffle=False))
    assert [len(labels) for _, labels in loaded] == [10, 10, 4]
    np.testing.assert_array_equal(torch.cat([labels for _, labels in loaded]), images.labels)
    np.testing.assert_array_equal(torch.cat([tensors for tensors, _ in loaded]), preprocessed(images, EVERY, spec))


def test_shuffled_batches_keep_each_label_with_its_sample() -> None:
    torch.manual_seed(0)
    images = pictures()
    spec = scaled_only(images)
    loaded = list(batches(PreprocessedImages(images, EVERY, spec, augment=False), 8, shuffle=True))
    order = {tensor.tobytes(): index for index, tensor in enumerate(preprocessed(images, EVERY, spec))}
    seen = [
        (order[tensor.numpy().tobytes()], int(label)) for batch in loaded for tensor, label in zip(*batch, strict=True)
    ]
    assert sorted(index for index, _ in seen) == EVERY.tolist()
    assert [index for index, _ in seen] != EVERY.tolist()
    assert all(label == images.labels[index] for index, label in seen)
