"""Bundled datasets have the documented contents, and missing or damaged files are reported."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.errors import DataError
from edge.training.datasets import dataset_names, fashion_mnist, load_dataset
from edge.training.splits import draw_splits

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


# Names


def test_an_unknown_dataset_is_refused_with_the_names_of_all_datasets() -> None:
    names = (
        "digits", "cluttered-digits", "fashion-mnist", "fashion-mnist-small", "indian-pines", "indian-pines-disjoint",
        "elpv", "elpv-4", "folder",
    )  # fmt: skip
    with pytest.raises(DataError, match=f"'mnist'.*{', '.join(names)}"):
        load_dataset("mnist")
    assert dataset_names() == names


# Digits


@pytest.mark.parametrize(("requested", "size"), [(None, 32), (16, 16)])
def test_digits_are_gray_squares_of_the_requested_size(requested: int | None, size: int) -> None:
    digits = load_dataset("digits", image_size=requested)
    assert len(digits.frames) == len(digits.labels) == len(digits.digests) == 1797
    assert digits.size == (1, size, size)
    assert digits.frames[0].shape == (size, size)
    assert digits.frames[0].dtype == np.uint8
    assert sorted(set(digits.labels)) == list(range(10))


def test_digits_use_the_full_range_of_gray_and_must_not_be_mirrored() -> None:
    digits = load_dataset("digits", image_size=8)
    frames = np.stack([digits.frames[i] for i in range(100)])
    assert (frames.min(), frames.max()) == (0, 255)
    assert digits.augment == ("shift",)


# Fashion-MNIST


def idx_images(frames: NDArray[np.uint8], magic: int = 2051) -> bytes:
    return struct.pack(">4i", magic, *frames.shape) + frames.tobytes()


def idx_labels(labels: NDArray[np.uint8], magic: int = 2049) -> bytes:
    return struct.pack(">2i", magic, len(labels)) + labels.tobytes()


def clothes(samples: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (samples, 28, 28), dtype=np.uint8), np.arange(samples, dtype=np.uint8) % 10


def write_fashion_mnist(folder: Path, *, compressed: bool = False, train: int = 200, test: int = 50) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, (frames, labels) in {"train": clothes(train, 0), "t10k": clothes(test, 1)}.items():
        for name, content in (("images-idx3", idx_images(frames)), ("labels-idx1", idx_labels(labels))):
            path = folder / f"{part}-{name}-ubyte{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(content) if compressed else content)


@pytest.mark.parametrize("compressed", [False, True])
def test_fashion_mnist_is_read_from_its_four_files(tmp_path: Path, compressed: bool) -> None:
    write_fashion_mnist(tmp_path, compressed=compressed)
    images = load_dataset("fashion-mnist", tmp_path)
    (train, train_labels), (test, test_labels) = clothes(200, 0), clothes(50, 1)
    np.testing.assert_array_equal([images.frames[i] for i in range(250)], [*train, *test])
    np.testing.assert_array_equal(images.labels, [*train_labels, *test_labels])
    np.testing.assert_array_equal(images.fixed_splits["test"], range(200, 250))


def test_fashion_mnist_is_found_in_torchvisions_subfolder(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path / "FashionMNIST/raw")
    assert len(load_dataset("fashion-mnist", tmp_path).frames) == 250


def test_fashion_mnist_is_found_in_debians_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fashion_mnist(tmp_path, compressed=True)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path)
    assert len(load_dataset("fashion-mnist").frames) == 250


def test_a_missing_fashion_mnist_is_reported_with_the_install_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}.*apt-get install dataset-fashion-mnist"):
        load_dataset("fashion-mnist", tmp_path)


def test_fashion_mnist_refuses_another_image_size(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="28 pixels, not 32"):
        load_dataset("fashion-mnist", tmp_path, 32)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (TRAIN_IMAGES, idx_images(clothes(200, 0)[0])[:-1]),
        (TRAIN_IMAGES, idx_images(clothes(200, 0)[0])[:8]),
        (TRAIN_IMAGES, idx_images(clothes(200, 0)[0]) + b"\0"),
        (TRAIN_IMAGES, idx_images(clothes(200, 0)[0], magic=2049)),
        (TRAIN_IMAGES, b""),
        (TRAIN_LABELS, idx_labels(clothes(200, 0)[1], magic=2051)),
    ],
    ids=[
        "truncated",
        "truncated header",
        "too long",
        "images with magic of labels",
        "empty",
        "labels with magic of images",
    ],
)
def test_a_damaged_file_of_fashion_mnist_is_reported(tmp_path: Path, name: str, content: bytes) -> None:
    write_fashion_mnist(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} is not a complete idx file"):
        load_dataset("fashion-mnist", tmp_path)


def test_a_truncated_compressed_file_is_reported(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, compressed=True)
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{TRAIN_IMAGES} cannot be read"):
        load_dataset("fashion-mnist", tmp_path)


def test_a_missing_file_of_fashion_mnist_is_reported(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte cannot be read"):
        load_dataset("fashion-mnist", tmp_path)


def test_more_images_than_labels_are_refused(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    (tmp_path / TRAIN_LABELS).write_bytes(idx_labels(clothes(199, 0)[1]))
    with pytest.raises(DataError, match=r"train images \(200, 28, 28\) and labels \(199,\)"):
        load_dataset("fashion-mnist", tmp_path)


def test_fashion_mnist_keeps_its_official_test_split(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    images = load_dataset("fashion-mnist", tmp_path)
    splits = draw_splits(images, seed=0)
    np.testing.assert_array_equal(splits["test"], range(200, 250))
    assert all(set(images.labels[indices]) == set(range(10)) for indices in splits.values())


# Fashion-MNIST, small


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with more images of every class than the small dataset uses."""
    folder = tmp_path_factory.mktemp("clothes")
    write_fashion_mnist(folder, train=2400, test=1700)
    return folder


def test_the_small_fashion_mnist_has_nine_classes_and_equal_training_and_test_splits(large: Path) -> None:
    images = load_dataset("fashion-mnist-small", large)
    assert images.name == "fashion-mnist-small"
    assert images.classes == fashion_mnist.CLASSES[:9]
    assert np.bincount(images.labels).tolist() == [216 + 152] * 9
    assert len(images.frames) == len(images.digests) == len(images.labels)
    sizes = {purpose: len(indices) for purpose, indices in draw_splits(images, seed=0).items()}
    assert sum(sizes.values()) == len(images.labels)
    assert sizes["test"] == 9 * 152 == 1368
    assert sizes["train"] == pytest.approx(1360, rel=0.02)
    assert min(sizes.values()) >= 100


def test_the_small_fashion_mnist_contains_the_first_images_of_each_class(large: Path) -> None:
    whole, small = load_dataset("fashion-mnist", large), load_dataset("fashion-mnist-small", large)
    is_test = np.zeros(len(small.labels), dtype=bool)
    is_test[small.fixed_splits["test"]] = True
    was_test = np.arange(len(whole.labels)) >= 2400
    for label in range(9):
        for in_small, in_whole, count in ((~is_test, ~was_test, 216), (is_test, was_test, 152)):
            selected = np.flatnonzero(in_small & (small.labels == label))
            first = np.flatnonzero(in_whole & (whole.labels == label))[:count]
            np.testing.assert_array_equal(np.asarray(small.frames)[selected], np.asarray(whole.frames)[first])
            assert [small.digests[i] for i in selected] == [whole.digests[i] for i in first]


@pytest.mark.parametrize("seed", range(2))
def test_the_small_fashion_mnist_tests_only_on_images_of_the_official_test_split(large: Path, seed: int) -> None:
    images = load_dataset("fashion-mnist-small", large)
    official = {frame.tobytes() for frame in clothes(1700, 1)[0]}
    for purpose, indices in draw_splits(images, seed).items():
        assert all((images.frames[int(i)].tobytes() in official) == (purpose == "test") for i in indices)
        assert set(images.labels[indices]) == set(range(9))


def test_the_small_fashion_mnist_uses_all_images_of_a_smaller_dataset(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    images = load_dataset("fashion-mnist-small", tmp_path)
    assert np.bincount(images.labels).tolist() == [20 + 5] * 9
    assert len(images.fixed_splits["test"]) == 9 * 5


def test_a_missing_small_fashion_mnist_is_reported_with_the_install_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"apt-get install dataset-fashion-mnist"):
        load_dataset("fashion-mnist-small", tmp_path)
