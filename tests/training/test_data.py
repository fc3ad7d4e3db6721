"""Training data: preprocessing as on the device, and batches divided among processes."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from edge.bundle.manifest import InputSpec
from edge.frames.base import frame_from_array
from edge.frames.preprocess import preprocess_for
from edge.training.data import batches, measured_input, training_batches
from edge.training.datasets.base import LabelledImages
from edge.training.loading import Batch, PreprocessedImages, preprocessed

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


both_kinds = pytest.mark.parametrize("make", [pictures, arrays])


@both_kinds
def test_training_uses_the_preprocessing_of_the_device(make: Callable[[], LabelledImages]) -> None:
    images = make()
    spec = measured_input(images, EVERY)
    selected = [5, 0, 17]
    expected = np.empty((3, *spec.shape), dtype=np.float32)
    for out, index in zip(expected, selected, strict=True):
        preprocess_for(spec)(frame_from_array(images.frames[index], spec.kind), out)
    np.testing.assert_array_equal(preprocessed(images, selected, spec), expected)
    dataset = PreprocessedImages(images, np.array(selected), spec)
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


def test_samples_outside_the_training_split_do_not_change_the_measured_input() -> None:
    images = arrays()
    frames = np.stack([images.frames[index] for index in range(SAMPLES)])
    frames[16:] *= 50
    changed = dataclasses.replace(images, frames=frames)
    assert measured_input(images, EVERY[:16]) == measured_input(changed, EVERY[:16])
    assert measured_input(images, EVERY) != measured_input(changed, EVERY)


def test_a_constant_channel_gives_finite_input() -> None:
    images = labelled(np.full((SAMPLES, 1, 4, 4), 7, dtype=np.float32), "array", None, (1, 4, 4))
    values = preprocessed(images, EVERY, measured_input(images, EVERY))
    np.testing.assert_array_equal(values, 0)


@pytest.mark.parametrize(
    ("kind", "values", "change", "limit"),
    [
        ("image", 0, 1, 0.25),  # a step of 8 bits in a channel that was always black
        ("image", 200, -1, 0.25),
        ("array", 5000, 5, 1.01),  # a thousandth of the values
    ],
)
def test_a_small_change_of_a_constant_channel_is_small_input_and_the_channel_is_named(
    kind: Literal["image", "array"], values: int, change: int, limit: float, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = (1, 4, 4) if kind == "array" else (4, 4)
    dtype = np.float32 if kind == "array" else np.uint8
    frames = np.full((SAMPLES, *shape), values, dtype=dtype)
    images = labelled(frames, kind, "gray" if kind == "image" else None, (1, 4, 4))
    spec = measured_input(images, EVERY)
    assert "hardly change over the training images" in capsys.readouterr().err
    changed = dataclasses.replace(images, frames=frames + dtype(change) if change > 0 else frames - dtype(-change))
    assert np.abs(preprocessed(changed, EVERY, spec)).max() <= limit


def test_channels_are_rgb_in_the_network_and_bgr_in_a_frame() -> None:
    spec = measured_input(pictures(), EVERY)
    assert spec.mean[0] > spec.mean[1] > spec.mean[2]


# Samples


@both_kinds
@pytest.mark.parametrize("from_files", [False, True], ids=["in memory", "from files"])
def test_several_samples_at_once_equal_single_samples_stacked(
    make: Callable[[], LabelledImages], from_files: bool
) -> None:
    images = dataclasses.replace(make(), from_files=from_files)
    selected = np.array([7, 2, 21, 4])
    dataset = PreprocessedImages(images, selected, measured_input(images, EVERY))
    assert len(dataset) == 4
    positions = [3, 0, 0, 2]
    tensors, labels = dataset.__getitems__(positions)
    assert tensors.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.equal(tensors, torch.stack([dataset[position][0] for position in positions]))
    assert torch.equal(labels, torch.stack([dataset[position][1] for position in positions]))
    np.testing.assert_array_equal(labels, images.labels[selected[positions]])


def test_frames_in_memory_are_preprocessed_once_and_frames_in_files_at_every_access() -> None:
    reads: list[int] = []
    frames = np.array(pictures().frames)

    class Counting:
        def __len__(self) -> int:
            return SAMPLES

        def __getitem__(self, index: int) -> NDArray[np.uint8]:
            reads.append(index)
            return frames[index]

    for from_files, expected in ((False, [5, 3]), (True, [5, 5, 3])):
        images = dataclasses.replace(pictures(), frames=Counting(), from_files=from_files)
        dataset = PreprocessedImages(images, np.array([5, 3]), scaled_only(images))
        dataset.__getitems__([0])
        dataset.__getitems__([0, 1])
        assert reads == expected
        reads.clear()


@both_kinds
def test_changing_a_batch_in_place_changes_neither_the_samples_nor_the_frames(
    make: Callable[[], LabelledImages],
) -> None:
    images = make()
    before = np.array(images.frames)
    dataset = PreprocessedImages(images, EVERY, scaled_only(images))
    for position in (0, 1):
        images_before, labels_before = (tensor.clone() for tensor in dataset.__getitems__([position]))
        batch, labels = dataset.__getitems__([position])
        batch.zero_()
        labels.fill_(9)
        images_after, labels_after = dataset.__getitems__([position])
        assert torch.equal(images_after, images_before)
        assert torch.equal(labels_after, labels_before)
    np.testing.assert_array_equal(images.frames, before)


# Batches


@pytest.mark.parametrize("from_files", [False, True], ids=["in this process", "in worker processes"])
def test_batches_contain_each_sample_once_in_order(from_files: bool) -> None:
    images = dataclasses.replace(pictures(), from_files=from_files)
    spec = scaled_only(images)
    loaded = list(batches(PreprocessedImages(images, EVERY, spec), 10))
    assert [len(labels) for _, labels in loaded] == [10, 10, 4]
    np.testing.assert_array_equal(torch.cat([labels for _, labels in loaded]), images.labels)
    np.testing.assert_array_equal(torch.cat([tensors for tensors, _ in loaded]), preprocessed(images, EVERY, spec))


def numbered(samples: int = SAMPLES) -> PreprocessedImages:
    """Return samples of a single pixel; pixel and label are the index of the sample."""
    frames = np.arange(samples, dtype=np.float32).reshape(samples, 1, 1, 1)
    images = labelled(frames, "array", None, (1, 1, 1))
    images = dataclasses.replace(images, labels=np.arange(samples), classes=tuple(map(str, range(samples))))
    return PreprocessedImages(images, np.arange(samples), scaled_only(images))


def epoch_of(loader: DataLoader[Batch], epoch: int) -> list[list[int]]:
    """Return the indices of the samples in each batch."""
    loader.sampler.set_epoch(epoch)
    indices = []
    for tensors, labels in loader:
        assert tensors.flatten().tolist() == labels.tolist(), "a label belongs to another sample"
        indices.append(labels.tolist())
    assert len(indices) == len(loader)
    return indices


@pytest.mark.parametrize(("samples", "batch_size"), [(24, 8), (24, 10), (25, 8), (25, 24), (31, 2)])
@pytest.mark.parametrize("processes", [1, 2])
def test_an_epoch_contains_each_sample_once_except_an_incomplete_last_batch(
    samples: int, batch_size: int, processes: int
) -> None:
    parts = [
        epoch_of(training_batches(numbered(samples), batch_size, 5, process, processes), 0)
        for process in range(processes)
    ]
    for part in parts:
        assert [len(batch) for batch in part] == [batch_size // processes] * (samples // batch_size)
    loaded = [index for part in parts for batch in part for index in batch]
    assert len(set(loaded)) == len(loaded)


@pytest.mark.parametrize(
    ("samples", "batch_size", "processes"), [(24, 8, 2), (24, 10, 2), (25, 8, 2), (27, 6, 3), (31, 12, 3), (31, 4, 4)]
)
def test_processes_together_load_the_batches_of_a_single_process(samples: int, batch_size: int, processes: int) -> None:
    for epoch in range(3):
        single = epoch_of(training_batches(numbered(samples), batch_size, 5), epoch)
        shares = [
            epoch_of(training_batches(numbered(samples), batch_size, 5, process, processes), epoch)
            for process in range(processes)
        ]
        together = [sorted(index for part in parts for index in part) for parts in zip(*shares, strict=True)]
        assert together == [sorted(batch) for batch in single]


def test_the_sample_order_depends_on_epoch_and_seed_only() -> None:
    loader = training_batches(numbered(), 8, seed=5)
    first, second = epoch_of(loader, 0), epoch_of(loader, 1)
    assert first != second
    assert first != sorted(first)
    assert epoch_of(training_batches(numbered(), 8, seed=5), 1) == second
    assert epoch_of(training_batches(numbered(), 8, seed=6), 0) != first


@pytest.mark.parametrize("from_files", [False, True], ids=["in this process", "in worker processes"])
def test_shuffled_batches_keep_each_label_with_its_sample(from_files: bool) -> None:
    images = dataclasses.replace(pictures(), from_files=from_files)
    spec = scaled_only(images)
    loaded = list(training_batches(PreprocessedImages(images, EVERY, spec), 8, seed=0))
    order = {tensor.tobytes(): index for index, tensor in enumerate(preprocessed(images, EVERY, spec))}
    seen = [
        (order[tensor.numpy().tobytes()], int(label)) for batch in loaded for tensor, label in zip(*batch, strict=True)
    ]
    assert sorted(index for index, _ in seen) == EVERY.tolist()
    assert [index for index, _ in seen] != EVERY.tolist()
    assert all(label == images.labels[index] for index, label in seen)
