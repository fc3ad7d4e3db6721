"""Datasets are what their files say, unusable ones are refused before any training, and splits never share a sample."""

import dataclasses
import gzip
import itertools
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.errors import DataError
from edge.frames.preprocess import resize
from edge.training.data import measured_input, preprocessed
from edge.training.datasets import dataset_names, fashion_mnist, load_dataset
from edge.training.datasets.base import LabelledImages
from edge.training.datasets.indian_pines import Patches
from edge.training.splits import draw_splits, split_specs

PURPOSES = {"train", "validation", "calibration", "thresholds", "test"}
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


# What there is


def test_an_unknown_dataset_is_refused_with_the_names_of_those_there_are() -> None:
    names = (
        "digits", "cluttered-digits", "fashion-mnist", "fashion-mnist-small", "indian-pines", "indian-pines-disjoint",
        "folder",
    )  # fmt: skip
    with pytest.raises(DataError, match=f"'mnist'.*{', '.join(names)}"):
        load_dataset("mnist")
    assert dataset_names() == names


# Digits


@pytest.mark.parametrize(("asked", "size"), [(None, 32), (16, 16)])
def test_digits_are_gray_squares_of_the_size_asked_for(asked: int | None, size: int) -> None:
    digits = load_dataset("digits", image_size=asked)
    assert len(digits.frames) == len(digits.labels) == len(digits.digests) == 1797
    assert digits.size == (1, size, size)
    assert digits.frames[0].shape == (size, size)
    assert digits.frames[0].dtype == np.uint8
    assert sorted(set(digits.labels)) == list(range(10))


def test_digits_use_the_whole_range_of_gray_and_a_mirrored_digit_is_no_digit() -> None:
    digits = load_dataset("digits", image_size=8)
    frames = np.stack([digits.frames[i] for i in range(100)])
    assert (frames.min(), frames.max()) == (0, 255)
    assert not digits.mirror


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


def test_fashion_mnist_is_found_where_torchvision_put_it_below_the_folder(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path / "FashionMNIST/raw")
    assert len(load_dataset("fashion-mnist", tmp_path).frames) == 250


def test_fashion_mnist_is_found_where_debian_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fashion_mnist(tmp_path, compressed=True)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path)
    assert len(load_dataset("fashion-mnist").frames) == 250


def test_a_missing_fashion_mnist_is_told_how_to_bring(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}.*apt-get install dataset-fashion-mnist"):
        load_dataset("fashion-mnist", tmp_path)


def test_fashion_mnist_in_another_size_is_refused(tmp_path: Path) -> None:
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
    ids=["cut off", "cut in its header", "too long", "images with the mark of labels", "empty", "labels marked images"],
)
def test_a_damaged_file_of_fashion_mnist_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    write_fashion_mnist(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} is not a whole idx file"):
        load_dataset("fashion-mnist", tmp_path)


def test_a_compressed_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, compressed=True)
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{TRAIN_IMAGES} cannot be read"):
        load_dataset("fashion-mnist", tmp_path)


def test_a_missing_file_of_fashion_mnist_is_named(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte cannot be read"):
        load_dataset("fashion-mnist", tmp_path)


def test_more_images_than_labels_are_refused(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    (tmp_path / TRAIN_LABELS).write_bytes(idx_labels(clothes(199, 0)[1]))
    with pytest.raises(DataError, match=r"train images \(200, 28, 28\) and labels \(199,\)"):
        load_dataset("fashion-mnist", tmp_path)


# A small part of Fashion-MNIST


@pytest.fixture(scope="module")
def plenty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with more clothes of every class than the small dataset takes."""
    folder = tmp_path_factory.mktemp("clothes")
    write_fashion_mnist(folder, train=2400, test=1700)
    return folder


def test_the_small_fashion_mnist_has_nine_classes_and_as_many_images_to_train_as_to_test(plenty: Path) -> None:
    images = load_dataset("fashion-mnist-small", plenty)
    assert images.name == "fashion-mnist-small"
    assert images.classes == fashion_mnist.CLASSES[:9]
    assert np.bincount(images.labels).tolist() == [216 + 152] * 9
    assert len(images.frames) == len(images.digests) == len(images.labels)
    sizes = {purpose: len(indices) for purpose, indices in draw_splits(images, seed=0).items()}
    assert sum(sizes.values()) == len(images.labels)
    assert sizes["test"] == 9 * 152 == 1368
    assert sizes["train"] == pytest.approx(1360, rel=0.02)
    assert min(sizes.values()) >= 100


def test_the_small_fashion_mnist_is_the_first_images_of_each_class_of_the_whole(plenty: Path) -> None:
    whole, small = load_dataset("fashion-mnist", plenty), load_dataset("fashion-mnist-small", plenty)
    is_test = np.zeros(len(small.labels), dtype=bool)
    is_test[small.fixed_splits["test"]] = True
    was_test = np.arange(len(whole.labels)) >= 2400
    for label in range(9):
        for mine, theirs, count in ((~is_test, ~was_test, 216), (is_test, was_test, 152)):
            chosen = np.flatnonzero(mine & (small.labels == label))
            first = np.flatnonzero(theirs & (whole.labels == label))[:count]
            np.testing.assert_array_equal(np.asarray(small.frames)[chosen], np.asarray(whole.frames)[first])
            assert contents_of(small, chosen) == contents_of(whole, first)


@pytest.mark.parametrize("seed", range(2))
def test_the_small_fashion_mnist_tests_on_images_of_the_official_test_only(plenty: Path, seed: int) -> None:
    images = load_dataset("fashion-mnist-small", plenty)
    official = {frame.tobytes() for frame in clothes(1700, 1)[0]}
    for purpose, indices in draw_splits(images, seed).items():
        assert all((images.frames[int(i)].tobytes() in official) == (purpose == "test") for i in indices)
        assert set(images.labels[indices]) == set(range(9))


def test_the_small_fashion_mnist_takes_what_there_is(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    images = load_dataset("fashion-mnist-small", tmp_path)
    assert np.bincount(images.labels).tolist() == [20 + 5] * 9
    assert len(images.fixed_splits["test"]) == 9 * 5


def test_a_missing_small_fashion_mnist_is_told_how_to_bring(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"apt-get install dataset-fashion-mnist"):
        load_dataset("fashion-mnist-small", tmp_path)


# Indian Pines


@pytest.fixture(scope="module")
def indian_pines() -> LabelledImages:
    return load_dataset("indian-pines")


def write_scene(
    folder: Path, truth: dict[tuple[int, int], int], height: int = 14, width: int = 12
) -> NDArray[np.float32]:
    """Write a small scene with a few labelled pixels, and return what its 40 channels should be."""
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
    assert indian_pines.classes[8] == "Oats"  # the famously small class
    assert len(indian_pines.frames) == len(indian_pines.digests) == 10_249
    assert (indian_pines.kind, indian_pines.colour, indian_pines.size) == ("array", None, (40, 9, 9))
    assert indian_pines.frames[0].shape == (40, 9, 9)
    assert indian_pines.frames[0].dtype == np.float32


def test_even_the_smallest_class_of_indian_pines_is_in_every_split(indian_pines: LabelledImages) -> None:
    splits = draw_splits(indian_pines, seed=0)
    assert set(splits) == PURPOSES
    assert all(set(indian_pines.labels[indices]) == set(range(16)) for indices in splits.values())


def test_all_patches_share_one_scene_in_memory_that_cannot_be_changed(indian_pines: LabelledImages) -> None:
    first, second = indian_pines.frames[0], indian_pines.frames[1]
    assert np.shares_memory(first, second)
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0] = 0


def test_a_patch_is_the_averaged_scene_around_its_pixel(tmp_path: Path) -> None:
    averaged = write_scene(tmp_path, {(3, 7): 5, (6, 4): 2})
    scene = load_dataset("indian-pines", tmp_path, 5)
    assert scene.labels.tolist() == [4, 1]
    assert scene.size == (40, 5, 5)
    np.testing.assert_array_equal(scene.frames[0][:, 2, 2], averaged[:, 3, 7])
    np.testing.assert_array_equal(scene.frames[0], averaged[:, 1:6, 5:10])
    np.testing.assert_array_equal(scene.frames[1], averaged[:, 4:9, 2:7])


@pytest.mark.parametrize("corner", [(0, 0), (0, 11), (13, 0), (13, 11)])
def test_beyond_the_edge_a_patch_shows_the_scene_mirrored(tmp_path: Path, corner: tuple[int, int]) -> None:
    averaged = write_scene(tmp_path, {corner: 1})
    patch = load_dataset("indian-pines", tmp_path).frames[0]
    np.testing.assert_array_equal(patch[:, 4, 4], averaged[:, corner[0], corner[1]])
    np.testing.assert_array_equal(patch, patch[:, ::-1, :])
    np.testing.assert_array_equal(patch, patch[:, :, ::-1])


@pytest.mark.parametrize("size", [8, 0, -3, 13])
def test_a_patch_without_a_middle_or_larger_than_the_scene_is_refused(tmp_path: Path, size: int) -> None:
    write_scene(tmp_path, {(5, 5): 1})
    with pytest.raises(DataError, match=f"patches of {size}x{size} pixels.*odd size.*up to 12"):
        load_dataset("indian-pines", tmp_path, size)


def test_a_missing_scene_is_refused_with_the_files_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Indian_pines_corrected\.npy cannot be read.*Indian_pines_gt\.npy"):
        load_dataset("indian-pines", tmp_path)


def test_a_scene_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    write_scene(tmp_path, {(5, 5): 1})
    path = tmp_path / "Indian_pines_corrected.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"Indian_pines_corrected\.npy cannot be read"):
        load_dataset("indian-pines", tmp_path)


@pytest.mark.parametrize(
    "cube", [np.ones((14, 12, 220), np.float32), np.full((14, 12, 200), np.nan)], ids=["with water bands", "NaN"]
)
def test_a_scene_of_another_kind_is_refused(tmp_path: Path, cube: NDArray[np.float64]) -> None:
    write_scene(tmp_path, {(5, 5): 1})
    np.save(tmp_path / "Indian_pines_corrected.npy", cube)
    with pytest.raises(DataError, match=r"must be finite numbers of shape \(height, width, 200\)"):
        load_dataset("indian-pines", tmp_path)


@pytest.mark.parametrize(
    ("truth", "complaint"),
    [
        (np.ones((12, 14), np.uint8), r"shape \(12, 14\).*must be whole numbers of shape \(14, 12\)"),
        (np.ones((14, 12)), "type float64"),
        (np.full((14, 12), 17, np.uint8), "holds the labels 17"),
        (np.zeros((14, 12), np.uint8), "holds the labels 0"),
    ],
    ids=["turned", "no whole numbers", "a class too many", "nothing labelled"],
)
def test_labels_that_do_not_fit_the_scene_are_refused(tmp_path: Path, truth: NDArray[np.uint8], complaint: str) -> None:
    write_scene(tmp_path, {(5, 5): 1})
    np.save(tmp_path / "Indian_pines_gt.npy", truth)
    with pytest.raises(DataError, match=complaint):
        load_dataset("indian-pines", tmp_path)


# Indian Pines with splits that share no pixel


@pytest.fixture(scope="module")
def disjoint() -> LabelledImages:
    return load_dataset("indian-pines-disjoint")


def patches_of(images: LabelledImages) -> Patches:
    assert isinstance(images.frames, Patches)
    return images.frames


def pixels_of(images: LabelledImages, indices: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which pixels of the scene are in any of the patches, mirrored edges and all, shape (pixels,)."""
    numbers = np.arange(145 * 145, dtype=np.float32).reshape(1, 145, 145)  # a scene whose values say where they are
    patches = Patches(numbers, patches_of(images).centres, images.size[1])
    seen = np.zeros(145 * 145, dtype=bool)
    for index in indices:
        seen[patches[int(index)].astype(np.intp).ravel()] = True
    return seen


def test_patches_of_splits_drawn_at_random_share_most_pixels(indian_pines: LabelledImages) -> None:
    """Which is what the other splits are for, and shows that shared pixels would be noticed."""
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
def test_every_class_of_disjoint_splits_has_samples_to_learn_and_to_be_judged_by(
    disjoint: LabelledImages, seed: int
) -> None:
    splits = draw_splits(disjoint, seed)
    assert len(disjoint.classes) == 12
    counts = {purpose: np.bincount(disjoint.labels[indices], minlength=12) for purpose, indices in splits.items()}
    assert counts["test"].min() >= 20
    assert counts["train"].min() >= 20
    assert counts["calibration"].min() >= 1
    assert min(counts["thresholds"].sum(), counts["validation"].sum()) >= 200


@pytest.mark.parametrize("seed", range(3))
def test_disjoint_splits_are_the_same_whatever_the_seed(disjoint: LabelledImages, seed: int) -> None:
    splits = draw_splits(disjoint, seed)
    for purpose in ("validation", "thresholds", "test"):
        np.testing.assert_array_equal(splits[purpose], disjoint.fixed_splits[purpose])
    shared_out = np.sort(np.concatenate([splits["train"], splits["calibration"]]))
    taken = np.concatenate([*disjoint.fixed_splits.values()])
    np.testing.assert_array_equal(shared_out, np.setdiff1d(np.arange(len(disjoint.labels)), taken))


def test_a_disjoint_patch_is_that_of_the_whole_scene_with_the_class_of_its_middle(disjoint: LabelledImages) -> None:
    whole = load_dataset("indian-pines", image_size=5)
    assert (disjoint.size, disjoint.name) == ((40, 5, 5), "indian-pines-disjoint")
    where = {tuple(centre): index for index, centre in enumerate(patches_of(whole).centres.tolist())}
    centres = patches_of(disjoint).centres.tolist()
    assert len(centres) == len(disjoint.frames) == len(disjoint.labels) == len(disjoint.digests)
    assert len(set(map(tuple, centres))) == len(centres)
    for index, centre in enumerate(centres):
        same = where[tuple(centre)]
        assert disjoint.classes[disjoint.labels[index]] == whole.classes[whole.labels[same]]
        assert disjoint.digests[index] == whole.digests[same]
    for index in (0, 700, len(centres) - 1):
        np.testing.assert_array_equal(disjoint.frames[index], whole.frames[where[tuple(centres[index])]])


def test_larger_patches_share_no_pixel_either(disjoint: LabelledImages) -> None:
    larger = load_dataset("indian-pines-disjoint", image_size=7)
    assert larger.size == (40, 7, 7)
    assert len(larger.labels) < len(disjoint.labels)  # a wider strip between the parts is left out
    splits = draw_splits(larger, seed=0)
    pixels = {purpose: pixels_of(larger, indices) for purpose, indices in splits.items()}
    assert not any((pixels["test"] & pixels[purpose]).any() for purpose in PURPOSES - {"test"})


# A folder of one's own


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Return a folder with 14 pictures of cats, one of them in a folder below, and 12 of dogs."""
    generator = np.random.default_rng(0)
    for name, count in {"dog": 12, "cat": 14}.items():
        (tmp_path / name / "more").mkdir(parents=True)
        for index in range(count):
            place = tmp_path / name / ("more" if (name, index) == ("cat", 13) else "")
            write_picture(place / f"{index:02}.png", generator.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    return tmp_path


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    assert cv2.imwrite(str(path), picture)


def test_subfolders_are_classes_in_the_order_of_their_names(pets: Path) -> None:
    images = load_dataset("folder", pets)
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0] * 14 + [1] * 12
    assert images.size == (3, 64, 64)
    np.testing.assert_array_equal(images.frames[15], cv2.imread(str(pets / "dog/01.png")))


def test_a_folder_goes_all_the_way_to_network_input(pets: Path) -> None:
    images = load_dataset("folder", pets, 16)
    splits = draw_splits(images, seed=0)
    spec = measured_input(images, splits["train"])
    tensors = preprocessed(images, splits["test"], spec)
    assert tensors.shape == (len(splits["test"]), 3, 16, 16)
    assert set(images.labels[splits["test"]]) == {0, 1}
    assert resize(images.frames[0], spec).shape == (16, 16, 3)


def test_copies_of_a_file_are_known_by_their_content(pets: Path) -> None:
    (pets / "cat/copy.png").write_bytes((pets / "cat/00.png").read_bytes())
    images = load_dataset("folder", pets)
    assert len(images.digests) == 27
    assert len(set(images.digests)) == 26


def test_what_is_hidden_and_what_is_no_image_is_left_out(pets: Path) -> None:
    (pets / ".cache").mkdir()
    (pets / "cat/.thumbnails").mkdir()
    for name in (".cache/x.png", "cat/.thumbnails/x.png", "cat/._00.png", "cat/notes.txt", "cat/array.npy", "list.csv"):
        (pets / name).write_bytes(b"no image")
    assert len(load_dataset("folder", pets).frames) == 26


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "cut off"])
def test_an_unreadable_image_is_named_before_any_training(pets: Path, content: bytes | None) -> None:
    path = pets / "dog/07.png"
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    with pytest.raises(DataError, match=r"dog/07\.png cannot be read as an image; remove or replace it"):
        load_dataset("folder", pets)


def test_an_image_too_large_to_decode_is_named(pets: Path) -> None:
    path = pets / "dog/07.png"
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">2I", 60_000, 60_000)  # width and height in the header ...
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))  # ... and its checksum
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"dog/07\.png cannot be read"):
        load_dataset("folder", pets)


def test_a_class_without_images_is_refused(pets: Path) -> None:
    (pets / "bird").mkdir()
    (pets / "bird/list.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"bird has no images.*add some, or remove the folder"):
        load_dataset("folder", pets)


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="only one class, 'cat'"):
        load_dataset("folder", tmp_path)


def test_images_without_subfolders_are_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "cat.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=f"{tmp_path} has no subfolders; give --data"):
        load_dataset("folder", tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*photos; give --data"):
        load_dataset("folder", tmp_path / "photos")


def test_a_folder_that_nobody_named_is_asked_for() -> None:
    with pytest.raises(DataError, match="give --data"):
        load_dataset("folder")


def test_an_image_size_that_is_none_is_refused(pets: Path) -> None:
    with pytest.raises(DataError, match="size of 0 pixels"):
        load_dataset("folder", pets, 0)


# Splits


def labelled(
    labels: Sequence[int], contents: Sequence[int] | None = None, official_test: Sequence[int] | None = None
) -> LabelledImages:
    """Return images of one pixel; those of equal content have equal digests."""
    return LabelledImages(
        name="pixels",
        frames=np.zeros((len(labels), 1, 1), dtype=np.uint8),
        labels=np.array(labels, dtype=np.int64),
        classes=tuple(f"class {label}" for label in range(max(labels) + 1)),
        kind="image",
        colour="gray",
        size=(1, 1, 1),
        digests=[f"{content:06}" for content in (range(len(labels)) if contents is None else contents)],
        fixed_splits={} if official_test is None else {"test": np.array(official_test, dtype=np.intp)},
    )


def contents_of(images: LabelledImages, indices: NDArray[np.intp]) -> list[str]:
    return [images.digests[i] for i in indices]


@pytest.mark.parametrize("seed", range(5))
def test_every_image_is_in_one_split_and_every_split_has_all_classes(seed: int) -> None:
    images = labelled([0] * 10 + [1] * 37 + [2] * 200)
    splits = draw_splits(images, seed)
    assert set(splits) == PURPOSES
    assert sorted(np.concatenate(list(splits.values()))) == list(range(247))
    assert all(set(images.labels[indices]) == {0, 1, 2} for indices in splits.values())


def test_splits_have_their_share_of_every_class() -> None:
    images = labelled([0] * 200 + [1] * 400)
    counts = {
        purpose: np.bincount(images.labels[indices]).tolist() for purpose, indices in draw_splits(images, 0).items()
    }
    assert counts == {
        "test": [40, 80], "thresholds": [30, 60], "calibration": [16, 32], "validation": [14, 28], "train": [100, 200],
    }  # fmt: skip


def test_a_large_dataset_gives_calibration_no_more_than_it_needs() -> None:
    splits = draw_splits(labelled([0, 1] * 10_000), seed=0)
    assert len(splits["calibration"]) == 512


@pytest.mark.parametrize("seed", range(5))
def test_an_image_that_occurs_twice_is_used_once(seed: int) -> None:
    contents = [i // 2 for i in range(120)]
    images = labelled([content % 3 for content in contents], contents)
    splits = draw_splits(images, seed)
    used = [content for indices in splits.values() for content in contents_of(images, indices)]
    assert sorted(used) == sorted(set(images.digests))


def test_copies_do_not_count_towards_what_a_class_needs() -> None:
    with pytest.raises(DataError, match=r"class 'class 1' of pixels has 9 distinct images.*at least 10"):
        draw_splits(labelled([0] * 20 + [1] * 18, [*range(20), *(100 + i // 2 for i in range(18))]), seed=0)


def test_images_of_the_official_test_do_not_count_towards_what_a_class_needs() -> None:
    with pytest.raises(DataError, match=r"class 'class 1' of pixels has 2 distinct images.*at least 10"):
        draw_splits(labelled([0] * 30 + [1] * 30, official_test=[*range(20, 30), *range(32, 60)]), seed=0)


def test_a_class_the_official_test_does_not_have_is_refused() -> None:
    with pytest.raises(DataError, match="class 'class 1' of pixels is not in its test split"):
        draw_splits(labelled([0] * 30 + [1] * 30, official_test=range(20, 30)), seed=0)


def test_a_class_nobody_has_seen_is_refused() -> None:
    with pytest.raises(DataError, match="class 'class 1' of pixels has 0 distinct images"):
        draw_splits(labelled([0] * 20 + [2] * 20), seed=0)


def test_the_same_seed_draws_the_same_splits_and_another_one_others() -> None:
    images = labelled([0, 1] * 50)
    assert split_specs(images, draw_splits(images, 7)) == split_specs(images, draw_splits(images, 7))
    first, other = split_specs(images, draw_splits(images, 7)), split_specs(images, draw_splits(images, 8))
    assert all(first[purpose].fingerprint != other[purpose].fingerprint for purpose in PURPOSES)
    assert {purpose: spec.samples for purpose, spec in first.items()} == {
        purpose: spec.samples for purpose, spec in other.items()
    }


def test_fingerprints_tell_what_is_in_a_split_whatever_its_order() -> None:
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
def test_an_official_test_split_stays_as_its_authors_made_it(seed: int) -> None:
    images = labelled([0, 1] * 100, official_test=range(150, 200))
    splits = draw_splits(images, seed)
    np.testing.assert_array_equal(splits["test"], range(150, 200))
    assert sorted(np.concatenate(list(splits.values()))) == list(range(200))


@pytest.mark.parametrize("seed", range(3))
def test_splits_a_dataset_fixes_stay_as_they_are_and_the_others_are_drawn_from_the_rest(seed: int) -> None:
    fixed = {"thresholds": np.arange(40, 70), "validation": np.arange(10), "test": np.arange(150, 200)}
    images = dataclasses.replace(labelled([0, 1] * 100), fixed_splits=fixed)
    splits = draw_splits(images, seed)
    for purpose, indices in fixed.items():
        np.testing.assert_array_equal(splits[purpose], indices)
    rest = [*range(10, 40), *range(70, 150)]
    assert sorted([*splits["train"], *splits["calibration"]]) == rest
    assert len(splits["calibration"]) == pytest.approx(0.08 * len(rest), abs=1)


@pytest.mark.parametrize("seed", range(3))
def test_of_copies_in_two_fixed_splits_the_one_in_the_test_split_stays(seed: int) -> None:
    contents = [*range(150), *range(10), *range(200, 240)]  # ten of the test images are validation images, too
    fixed = {"validation": np.arange(20), "test": np.arange(150, 200)}
    images = dataclasses.replace(labelled([0, 1] * 100, contents), fixed_splits=fixed)
    splits = draw_splits(images, seed)
    np.testing.assert_array_equal(splits["test"], range(150, 200))
    np.testing.assert_array_equal(splits["validation"], range(10, 20))


@pytest.mark.parametrize("seed", range(3))
def test_training_images_that_are_also_in_the_official_test_are_dropped(seed: int) -> None:
    contents = [*range(150), *range(20), *range(200, 230)]  # the first twenty test images are training images
    images = labelled([0, 1] * 100, contents, official_test=range(150, 200))
    splits = draw_splits(images, seed)
    np.testing.assert_array_equal(splits["test"], range(150, 200))
    others = np.concatenate([indices for purpose, indices in splits.items() if purpose != "test"])
    assert sorted(others) == list(range(20, 150))


def test_real_clothes_keep_their_official_test(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    images = load_dataset("fashion-mnist", tmp_path)
    splits = draw_splits(images, seed=0)
    np.testing.assert_array_equal(splits["test"], range(200, 250))
    assert all(set(images.labels[indices]) == set(range(10)) for indices in splits.values())
